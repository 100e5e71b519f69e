"""One connection as the door sees it, and what a connection may be at most."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

HANDSHAKE_S = 10.0  # for TLS
HEAD_S = 10.0  # for the head of a request, from its first byte (of a new connection: from its opening)
BODY_S = 30.0  # for the body of a request, from the end of its head
IDLE_S = 120.0  # between two requests
STALL_S = 30.0  # in which an answer that waits for its reader must move by STALL_BYTES
CLOSE_S = 5.0  # for the last bytes of a connection that is closing
STALL_BYTES = 32 << 10
HEAD_BYTES_MAX = 64 << 10
HEADERS_MAX = 100
PIPELINE_MAX = 16  # requests sent before the answers to those before them
MESSAGE_BYTES_MAX = 16 << 20  # of one request that is answered already and still coming: then it is cut off


@dataclass(frozen=True, slots=True)
class Limits:
    """How many connections are open at a time. `each`: of one IPv4 address, or one IPv6 /64."""

    connections: int = 1000
    each: int = 256


@dataclass(slots=True, eq=False)
class Guest:
    """`waits_since`: since when it is asked nothing of us; None while it is being answered, and then nobody shows
    it out. `late` is called once `deadline` (of the event loop's clock) is past."""

    address: str
    waits_since: float | None
    deadline: float = math.inf
    stall: float = math.inf
    end: Callable[[], None] = lambda: None
    late: Callable[[], None] = lambda: None
    stalled: Callable[[], None] = lambda: None
