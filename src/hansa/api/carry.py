"""Bytes between a machine's console and one WebSocket, both ways, until one side ends.

What the guest writes is taken as it comes and waits here for the reader, up to a limit: a reader who falls
behind is dropped, so that it holds up neither the guest nor the others who look on. Who may open a console
stands in `api.console`; nothing here knows of tickets, machines or the store.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.types import Receive, Send

from hansa.engines.ports import Console
from hansa.errors import Retry

FRAME_BYTES_MAX = 64 << 10  # either way
BACKLOG_BYTES_MAX = 256 << 10  # what may wait for one reader
WRITE_S = 15.0  # for the guest to take one frame
DRAIN_S = 5.0  # for a reader to be given the last bytes of a machine that stopped
CLOSE_S = 30.0  # for a reader to take the closing frame
REASON_BYTES_MAX = 123  # RFC 6455, 5.5

Check = Callable[[], Awaitable["Ending | None"]]


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a connection ends: a close code of RFC 6455 and words for people. `code` 0: the other side is gone."""

    code: int
    reason: str = ""


GONE = Ending(0)
STOPPED = Ending(1001, "the machine stopped")
NOT_BINARY = Ending(1003, "a console takes binary frames only")
TOO_LARGE = Ending(1009, f"a frame has at most {FRAME_BYTES_MAX} bytes")
TOO_SLOW = Ending(1013, f"you read too slowly: more than {BACKLOG_BYTES_MAX} bytes were waiting; open it again")
CUT_OFF = Ending(1013, "the host closed this console, and the machine goes on; open it again")
NOT_TAKEN = Ending(1013, f"the guest took nothing of what was typed for {WRITE_S:.0f} s; try again later")


class Backlog:
    """What waits for one reader, in order. `put` never waits."""

    def __init__(self, limit_bytes: int = BACKLOG_BYTES_MAX) -> None:
        self._limit_bytes = limit_bytes
        self._waiting = bytearray()
        self._ended = False
        self._news = asyncio.Event()

    def put(self, data: bytes) -> bool:
        """False when there is no room: the reader is too slow."""
        if len(self._waiting) + len(data) > self._limit_bytes:
            return False
        self._waiting += data
        self._news.set()
        return True

    def end(self) -> None:
        """Nothing more comes."""
        self._ended = True
        self._news.set()

    async def take(self, most: int = FRAME_BYTES_MAX) -> bytes:
        """The next bytes, at most so many; empty after the end."""
        while not self._waiting and not self._ended:
            self._news.clear()
            await self._news.wait()
        taken = bytes(self._waiting[:most])
        del self._waiting[:most]
        return taken


async def carry(console: Console, first: bytes, receive: Receive, send: Send, check: Check, every_s: float) -> Ending:
    """Accepts, carries until one side ends, and says why. `first` goes out before all else, in its own frame.

    `check` is asked every so many seconds whether this may go on, and says why not.
    """
    backlog = Backlog()
    ways = (_from_guest(console, backlog), _to_reader(first, backlog, send), _from_reader(receive, console),
            _looked_after(check, every_s))  # fmt: skip
    tasks = [asyncio.create_task(way) for way in ways]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        ended = [task for task in tasks if task.done()]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return ended[0].result()


async def finish(send: Send, ending: Ending) -> None:
    """Sends the closing frame, unless the other side is gone or takes nothing any more."""
    if ending.code == 0:
        return
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(CLOSE_S):
            await send({"type": "websocket.close", "code": ending.code, "reason": short(ending.reason)})


def short(reason: str) -> str:
    """As much of a reason as a closing frame holds."""
    return reason.encode()[:REASON_BYTES_MAX].decode(errors="ignore")


async def _from_guest(console: Console, backlog: Backlog) -> Ending:
    while data := await console.read():
        if not backlog.put(data):
            return TOO_SLOW
        await asyncio.sleep(0)  # a guest that never pauses shares the loop with its reader
    backlog.end()
    await asyncio.sleep(DRAIN_S)  # `_to_reader` ends first, unless its reader takes nothing
    return STOPPED


async def _to_reader(first: bytes, backlog: Backlog, send: Send) -> Ending:
    try:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "bytes": first})
        while data := await backlog.take():
            await send({"type": "websocket.send", "bytes": data})
    except OSError:
        return GONE
    return STOPPED


async def _from_reader(receive: Receive, console: Console) -> Ending:
    while (message := await receive())["type"] != "websocket.disconnect":
        data = message.get("bytes")
        if data is None:
            return NOT_BINARY
        if len(data) > FRAME_BYTES_MAX:
            return TOO_LARGE
        if not data:
            continue
        try:
            async with asyncio.timeout(WRITE_S):
                await console.write(data)
        except TimeoutError:
            return NOT_TAKEN
        except Retry as refused:  # of a machine that is gone the last words are on their way, and end it first
            await asyncio.sleep(DRAIN_S)
            return Ending(1013, refused.message)
    return GONE


async def _looked_after(check: Check, every_s: float) -> Ending:
    while True:
        await asyncio.sleep(every_s)
        if (ending := await check()) is not None:
            return ending
