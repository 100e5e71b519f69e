"""uvicorn's protocols with the limits that it has not: on heads, slow bodies, pipelines, readers that do not read.

What a client does wrong is answered in the API's own form where an answer can still be understood, and the
connection ends. Nothing here waits: the door calls `late` and `stalled`.
"""

from __future__ import annotations

import asyncio
import math
from functools import partial
from typing import Any

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from hansa.edge.door import Door
from hansa.edge.guest import (
    BODY_S,
    CLOSE_S,
    HEAD_BYTES_MAX,
    HEAD_S,
    HEADERS_MAX,
    IDLE_S,
    MESSAGE_BYTES_MAX,
    PIPELINE_MAX,
    STALL_BYTES,
    STALL_S,
    Guest,
)

FAULTS = {
    400: ("Malformed", "this is no HTTP/1.1 request"),
    408: ("TooSlow", "the request did not arrive in time"),
    413: ("TooLarge", f"the request has more than {MESSAGE_BYTES_MAX} bytes"),
    429: ("TooManyRequests", f"more than {PIPELINE_MAX} requests were sent before their answers were read"),
    431: ("HeadTooLarge", f"the head has more than {HEAD_BYTES_MAX} bytes or {HEADERS_MAX} fields"),
}


class Fault(Exception):  # noqa: N818 - it never leaves this module
    """Ends a request that is being parsed."""


class GuardedHttp(HttpToolsProtocol):
    """One connection. `_unanswered`: requests whose answers are not complete; `_whole`: the last one has come."""

    message_bytes_max: float = MESSAGE_BYTES_MAX

    def __init__(self, *args: Any, guest: Guest, door: Door, **more: Any) -> None:
        super().__init__(*args, **more)
        self._guest, self._door = guest, door
        self._in_head, self._whole, self._dead = False, True, False
        self._unanswered = self._bytes = self._head_bytes = self._headers = self._fault = self._written = 0

    # -- the connection ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        guest = self._guest
        guest.end, guest.late, guest.stalled = transport.abort, self._late, self._stalled
        guest.deadline = self.loop.time() + HEAD_S

    def connection_lost(self, exc: Exception | None) -> None:
        self._dead = True
        self._door.leave(self._guest)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._dead:
            return
        self._bytes += len(data)
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._dead or self.parser is None:
            return
        if self._in_head and self._head_bytes > HEAD_BYTES_MAX:
            self._refuse(431)
        elif not self._whole and self._bytes > self.message_bytes_max:
            self._refuse(413)

    # -- the parser's words -----------------------------------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._whole = True, False
        self._bytes = self._head_bytes = self._headers = 0
        if self._unanswered > PIPELINE_MAX:
            self._raise(429)
        self._judge()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers += 1
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        before = self.cycle
        self._in_head = False
        super().on_headers_complete()
        self._unanswered += self.cycle is not before
        self._judge()

    def on_message_complete(self) -> None:
        self._whole = True
        super().on_message_complete()
        self._judge()

    def on_response_complete(self) -> None:
        self._unanswered -= 1
        super().on_response_complete()
        self._judge()

    def _count(self, size: int) -> None:
        self._head_bytes += size if not self._in_head else 0
        if size > HEAD_BYTES_MAX or self._headers > HEADERS_MAX or self._head_bytes > 2 * HEAD_BYTES_MAX:
            self._raise(431)

    def _raise(self, status: int) -> None:
        self._fault = status
        raise Fault

    # -- time -------------------------------------------------------------------------------

    def _judge(self) -> None:
        """Until when the next thing must happen, and whether this one may be shown out."""
        guest, now = self._guest, self.loop.time()
        if self._unanswered and (self._whole or self._unanswered > 1 or self._in_head):
            guest.deadline, guest.waits_since = math.inf, None
            return
        if guest.waits_since is None:
            guest.waits_since = now
        if self.transport.is_closing():
            guest.deadline = now + CLOSE_S
        elif self._in_head:
            guest.deadline = now + HEAD_S
        elif self._whole:
            guest.deadline = now + IDLE_S
        else:
            guest.deadline = now + BODY_S

    def _late(self) -> None:
        """The deadline is past: an answer if one can be read, then the end."""
        if self.transport.is_closing():
            self.transport.abort()
        elif self._in_head if self._unanswered == 0 else not self.cycle.response_started:
            self._refuse(408)
        else:
            self.transport.close()
            self._guest.deadline = self.loop.time() + CLOSE_S

    def pause_writing(self) -> None:
        super().pause_writing()
        self._written = self.transport.get_write_buffer_size()
        self._guest.stall = self.loop.time() + STALL_S

    def resume_writing(self) -> None:
        super().resume_writing()
        self._guest.stall = math.inf

    def _stalled(self) -> None:
        left = self.transport.get_write_buffer_size()
        if self._written - left < STALL_BYTES:
            self.transport.abort()
            return
        self._written = left
        self._guest.stall = self.loop.time() + STALL_S

    # -- refusing ---------------------------------------------------------------------------

    def send_400_response(self, msg: str) -> None:
        """uvicorn's way to say that the parser gave up."""
        self._refuse(self._fault or 400)

    def _refuse(self, status: int) -> None:
        """No more is read. In the middle of an answer there is nothing to be said."""
        self._dead = True
        idle = self._unanswered == 0 or (self._unanswered == 1 and not self.cycle.response_started)
        if not idle:
            self.transport.abort()
            return
        code, type, body = self._words(status)
        head = b"content-type: %b\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % (type, len(body))
        self.transport.write(STATUS_LINE[code] + head + body)
        self.transport.close()
        self._guest.deadline = self.loop.time() + CLOSE_S

    def _words(self, status: int) -> tuple[int, bytes, bytes]:
        """Status, type and body of a refusal."""
        reason, debug = FAULTS[status]
        said = {"reason": reason, "debug": debug, "help": f"/docs/reference/errors#{reason.lower()}"}
        return status, b"application/json", orjson.dumps(said)

    # -- WebSockets -------------------------------------------------------------------------

    def handle_websocket_upgrade(self) -> None:
        self.ws_protocol_class = partial(GuardedWebSocket, guest=self._guest, door=self._door)  # type: ignore[assignment]
        self._guest.deadline, self._guest.waits_since = math.inf, None
        self._guest.stall = math.inf
        super().handle_websocket_upgrade()


class GuardedWebSocket(WebSocketsSansIOProtocol):
    """A console: counted until it ends. Its pings end one that is gone."""

    def __init__(self, *args: Any, guest: Guest, door: Door, **more: Any) -> None:
        super().__init__(*args, **more)
        self._guest, self._door = guest, door

    def connection_lost(self, exc: Exception | None) -> None:
        self._door.leave(self._guest)
        super().connection_lost(exc)
