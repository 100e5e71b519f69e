"""Changes as they come: one line of JSON each, resumed after the last revision when the stream breaks."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from hansa.sdk.errors import Unreachable, of_answer

if TYPE_CHECKING:
    from hansa.sdk.client import Client

LINE_BYTES_MAX = 4 << 20
PAUSE_S = 1.0


@dataclass(frozen=True, slots=True)
class Event:
    """`type` is ADDED, MODIFIED or DELETED; `object` as it was after it; `revision` to go on from."""

    type: str
    object: dict[str, Any]
    revision: int


def events_of(client: Client, path: str, after: int | None, selector: str = "") -> Iterator[Event]:
    """Events of a collection after a revision, for ever; None: what is there, then events. A cloud that restarts is
    waited for.

    Raises Gone when the revision is too old (list again), and whatever else the server refuses with.
    """
    while True:
        query = {"watch": "true"} | ({} if after is None else {"after": str(after)})
        query |= {"labelSelector": selector} if selector else {}
        try:
            with client.transport.stream(f"{path}?{urlencode(query)}", client.headers()) as answer:
                if answer.status != 200:
                    raise of_answer(answer.status, _document(answer.read()), f"watch {path}")
                for event in _lines(answer):
                    after = max(after or 0, event.revision)
                    yield event
        except Unreachable:
            time.sleep(PAUSE_S)


def _lines(answer: HTTPResponse) -> Iterator[Event]:
    while line := answer.readline(LINE_BYTES_MAX):
        if line.strip():  # an empty line says that the server is still there
            said = json.loads(line)
            yield Event(said["type"], said["object"], int(said.get("revision", 0)))


def _document(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None
