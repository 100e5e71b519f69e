"""The twin of the stores of bytes, in memory: for tests and simulations, held to the same contract as the others."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import ClassVar

from hansa.clock import Clock, SystemClock
from hansa.engines.blobs.names import checked
from hansa.engines.blobs.port import Capacity, StoredBlob
from hansa.errors import Bug, Exhausted, NotFound


class MemoryBlobs:
    """`room`: bytes that it takes; None: no limit."""

    name: ClassVar[str] = "memory"

    def __init__(self, *, room: int | None = None, clock: Clock | None = None) -> None:
        self.room = room
        self.blobs: dict[str, tuple[bytes, float]] = {}
        self._owner = ""
        self._clock = clock or SystemClock()

    def used(self) -> int:
        return sum(len(data) for data, _ in self.blobs.values())

    async def writer(self, id: str, size: int | None = None) -> MemoryWriter:
        self.check_room(size or 0)
        return MemoryWriter(self, checked(id))

    def check_room(self, more: int) -> None:
        if self.room is not None and self.used() + more > self.room:
            raise Exhausted("no room is left in the store of objects")

    def keep(self, id: str, data: bytes) -> None:
        if id in self.blobs:
            raise Bug("a blob's id was used twice", detail=id)
        self.check_room(len(data))
        self.blobs[id] = (data, self._clock.now())

    async def read(
        self, id: str, start: int = 0, length: int | None = None, *, piece: int = 1 << 20
    ) -> AsyncGenerator[bytes, None]:
        data = self._data(id)
        end = len(data) if length is None else min(len(data), start + length)
        for at in range(start, end, piece):
            yield data[at : min(end, at + piece)]

    def open(self, id: str) -> MemoryReader:
        return MemoryReader(self._data(id))

    def _data(self, id: str) -> bytes:
        if checked(id) not in self.blobs:
            raise NotFound("the bytes are not there", detail=id)
        return self.blobs[id][0]

    async def size(self, id: str) -> int | None:
        return len(self.blobs[id][0]) if id in self.blobs else None

    async def delete(self, id: str) -> None:
        self.blobs.pop(checked(id), None)

    async def all(self, after: str = "") -> AsyncGenerator[StoredBlob, None]:
        for id in sorted(self.blobs):
            if id > after and id in self.blobs:
                data, modified = self.blobs[id]
                yield StoredBlob(id, len(data), modified)

    async def claim(self, owner: str) -> str:
        self._owner = self._owner or owner
        return self._owner

    async def capacity(self) -> Capacity:
        return Capacity(self.room, None if self.room is None else max(0, self.room - self.used()))

    async def close(self) -> None:
        """Nothing is held open."""


class MemoryWriter:
    def __init__(self, blobs: MemoryBlobs, id: str) -> None:
        self._blobs, self._id = blobs, id
        self._parts: list[bytes] | None = []

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        self.append([memoryview(data)])

    def append(self, parts: Sequence[bytes | memoryview]) -> None:
        self._open().extend(bytes(part) for part in parts)

    def _open(self) -> list[bytes]:
        if self._parts is None:
            raise Bug("a blob's writer was used after its end", detail=self._id)
        return self._parts

    async def finish(self) -> int:
        data = b"".join(self._open())
        self._parts = None
        self._blobs.keep(self._id, data)
        return len(data)

    async def discard(self) -> None:
        self._parts = None


class MemoryReader:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, start: int, length: int) -> bytes:
        return self._data[start : start + length]

    def at_hand(self, start: int, length: int) -> bytes | None:
        return self.read(start, length)

    def fill(self, start: int, room: memoryview, *, waits: bool) -> bool:
        found = self._data[start : start + len(room)]
        room[: len(found)] = found
        return len(found) == len(room)

    def close(self) -> None:
        """Nothing is held open."""
