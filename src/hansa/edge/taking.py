"""The body of one request on its way from the wire to the application: the pieces that were read, one after the other.

uvicorn gathers them in a buffer, copies that for whoever asks, and stops to read with every piece but small ones. A long body
is copied twice less here, and reading goes on while its reader keeps up.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final
from weakref import ref

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

HELD_MAX: Final = 256 << 10  # bytes that nobody has asked for yet; with more of them, nothing is read


class Taking:
    """What an application calls `receive` of. It knows its request's cycle only while that lives: they would keep one another
    and the pieces until the collector comes."""

    __slots__ = ("_cycle", "_held", "_is_told", "_pieces")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = ref(cycle)
        self._pieces: deque[bytes] = deque()
        self._held, self._is_told = 0, False  # the latter: that the body has ended

    def add(self, piece: bytes) -> None:
        cycle = self._cycle()
        if cycle is None or cycle.response_complete:
            self.drop()  # it is answered: what still comes is of no use to anybody
            return
        self._pieces.append(piece)
        self._held += len(piece)
        if self._held > HELD_MAX:
            cycle.flow.pause_reading()
        cycle.message_event.set()

    def drop(self) -> None:
        self._pieces.clear()
        self._held = 0

    async def receive(self) -> Any:
        """ASGI's: the next piece, or that the client has left or has its answer."""
        cycle = self._cycle()
        assert cycle is not None, "an application runs as a part of its cycle"
        if cycle.waiting_for_100_continue and not cycle.transport.is_closing():
            cycle.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            cycle.waiting_for_100_continue = False
        while not (cycle.disconnected or cycle.response_complete or self._has_news(cycle)):
            cycle.flow.resume_reading()
            cycle.message_event.clear()
            await cycle.message_event.wait()
        if cycle.disconnected or cycle.response_complete:
            return {"type": "http.disconnect"}
        piece = self._pieces.popleft() if self._pieces else b""
        self._held -= len(piece)
        if self._held <= HELD_MAX:
            cycle.flow.resume_reading()
        more = cycle.more_body or bool(self._pieces)
        self._is_told = not more
        return {"type": "http.request", "body": piece, "more_body": more}

    def _has_news(self, cycle: RequestResponseCycle) -> bool:
        return bool(self._pieces) or not (cycle.more_body or self._is_told)
