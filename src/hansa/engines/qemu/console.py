"""The serial line of a machine, live: one connection to its QEMU, and any number of people who see the same.

QEMU serves one client of the line at a time, so a hub holds that connection and fans out. Whoever reads too slowly is
closed and the others go on: a guest must never wait for a reader, nor our memory hold what nobody fetches. The log of
the line is QEMU's own and needs none of this.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from hansa.errors import Retry

CONNECT_LIMIT_S = 2.0
WRITE_LIMIT_S = 5.0
BACKLOG_BYTES_MAX = 256 << 10  # of one subscriber
WRITE_BYTES_MAX = 64 << 10
SUBSCRIBERS_MAX = 16

_CHUNK_BYTES = 16 << 10


class Subscriber:
    """One open console. Fills `Console`."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._backlog = bytearray()
        self._closed = False
        self._news = asyncio.Event()

    async def read(self) -> bytes:
        """What came since, at once where there is something; empty once it is closed."""
        while not self._backlog and not self._closed:
            self._news.clear()
            await self._news.wait()
        found = bytes(self._backlog)
        self._backlog.clear()
        return found

    async def write(self, data: bytes) -> None:
        """Raises Retry when the machine is gone, or does not take what is typed."""
        if self._closed:
            raise Retry("the console is closed")
        await self._hub.write(data)

    async def close(self) -> None:
        self.end()
        await self._hub.leave(self)

    def take(self, data: bytes) -> bool:
        """Keep `data` for the reader. False when he has left too much behind: he is closed."""
        if len(self._backlog) + len(data) > BACKLOG_BYTES_MAX:
            self.end()
            return False
        self._backlog += data
        self._news.set()
        return True

    def end(self) -> None:
        """Nothing more comes; what is there may still be read."""
        self._closed = True
        self._news.set()


class Hub:
    """The one connection to the line of one machine."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.ended = False
        self._reader = reader
        self._writer = writer
        self._subscribers: set[Subscriber] = set()
        self._typing = asyncio.Lock()
        self._listening = asyncio.get_running_loop().create_task(self._listen())

    @classmethod
    async def open(cls, line: Path) -> Hub:
        """Raises Retry when no QEMU listens there."""
        try:
            async with asyncio.timeout(CONNECT_LIMIT_S):
                reader, writer = await asyncio.open_unix_connection(str(line))
        except (OSError, TimeoutError) as error:
            raise Retry("the machine's console cannot be reached", detail=f"{line}: {error!r}") from error
        return cls(reader, writer)

    def join(self) -> Subscriber:
        """Raises Retry when too many watch already."""
        if len(self._subscribers) >= SUBSCRIBERS_MAX:
            raise Retry(f"{SUBSCRIBERS_MAX} consoles of this machine are open: close one first")
        made = Subscriber(self)
        self._subscribers.add(made)
        return made

    async def leave(self, subscriber: Subscriber) -> None:
        self._subscribers.discard(subscriber)
        if not self._subscribers:
            await self.close()

    async def write(self, data: bytes) -> None:
        """Raises Retry when the guest takes nothing, or is gone."""
        for start in range(0, len(data), WRITE_BYTES_MAX):
            async with self._typing:
                if self.ended:
                    raise Retry("the machine is gone: its console is closed")
                self._writer.write(data[start : start + WRITE_BYTES_MAX])
                try:
                    async with asyncio.timeout(WRITE_LIMIT_S):
                        await self._writer.drain()
                except (OSError, TimeoutError) as error:
                    raise Retry("the machine does not read its console", detail=repr(error)) from error

    def end(self) -> None:
        """Hang up; every subscriber ends when this is done, a moment later."""
        self.ended = True
        self._listening.cancel()

    async def close(self) -> None:
        """End every subscriber and hang up."""
        self.end()
        with contextlib.suppress(asyncio.CancelledError):
            await self._listening

    async def _listen(self) -> None:
        try:
            while data := await self._reader.read(_CHUNK_BYTES):
                self._subscribers -= {each for each in self._subscribers if not each.take(data)}
                if not self._subscribers:
                    break
        except OSError:
            pass  # QEMU was killed: the line is as closed as by its end
        finally:
            self.ended = True
            for each in self._subscribers:
                each.end()
            self._subscribers.clear()
            self._writer.close()


class Consoles:
    """The hubs of the machines whose console somebody has open."""

    def __init__(self) -> None:
        self._hubs: dict[str, Hub] = {}
        self._opening = asyncio.Lock()

    async def open(self, uid: str, line: Path) -> Subscriber:
        """Raises Retry."""
        async with self._opening:
            self._hubs = {name: hub for name, hub in self._hubs.items() if not hub.ended}
            if uid not in self._hubs:
                self._hubs[uid] = await Hub.open(line)
            return self._hubs[uid].join()

    async def close(self, uid: str) -> None:
        if hub := self._hubs.pop(uid, None):
            await hub.close()

    def end(self) -> None:
        """Hang up everywhere."""
        for hub in self._hubs.values():
            hub.end()
        self._hubs.clear()
