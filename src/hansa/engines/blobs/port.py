"""The port of a store of bytes: put once under an id of ours, read in ranges, delete. It knows no users, keys or buckets.

What is put is sealed already. A blob is there when `finish` has returned, durable, and whole; before that it is nowhere.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import ClassVar, Protocol


@dataclass(frozen=True, slots=True)
class StoredBlob:
    id: str
    size: int
    modified: float


@dataclass(frozen=True, slots=True)
class Capacity:
    """Bytes; None where the store does not say."""

    total: int | None
    free: int | None


class BlobWriter(Protocol):
    """One blob on its way. After `finish` or `discard` it takes nothing more; one of the two must be called."""

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Waits while the store is behind. Raises Retry (with `Exhausted` for a full store) and keeps nothing then."""
        ...

    async def finish(self) -> int:
        """Bytes stored; durable."""
        ...

    async def discard(self) -> None: ...


class BlobEngine(Protocol):
    """`name` is shown to operators. Errors: `Retry` (try later), `NotFound` for a blob that is not there."""

    name: ClassVar[str]

    async def writer(self, id: str, size: int | None = None) -> BlobWriter:
        """`size`: the stored size when it is known, for room to be taken beforehand."""
        ...

    def read(self, id: str, start: int = 0, length: int | None = None, *, piece: int = 1 << 20) -> AsyncIterator[bytes]:
        """Pieces of `piece` bytes, the last one shorter. A blob that is deleted meanwhile is read to its end or ends in
        `NotFound`/`Retry`, never in other bytes."""
        ...

    async def size(self, id: str) -> int | None: ...

    async def delete(self, id: str) -> None:
        """Nothing happens when it is not there."""
        ...

    def all(self, after: str = "") -> AsyncIterator[StoredBlob]:
        """Every blob in order of ids."""
        ...

    async def capacity(self) -> Capacity: ...

    async def close(self) -> None: ...
