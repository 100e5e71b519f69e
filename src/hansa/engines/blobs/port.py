"""The port of a store of bytes: put once under an id of ours, read in ranges, delete. It knows no users, keys or buckets.

What is put is sealed already. A blob is there when `finish` has returned, durable, and whole; before that it is nowhere.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable


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
        """Waits while the store is behind. Raises Retry, or Exhausted for a full store, and keeps nothing then."""
        ...

    async def finish(self) -> int:
        """Bytes stored; durable."""
        ...

    async def discard(self) -> None: ...


class BlobEngine(Protocol):
    """`name` is shown to operators. Ids are 32 hex digits, lower case. Errors: `Retry` (try later), `Exhausted` (no room
    is left), `NotFound` for a blob that is not there."""

    name: ClassVar[str]

    async def writer(self, id: str, size: int | None = None) -> BlobWriter:
        """`size`: the stored size when it is known, for room to be taken beforehand."""
        ...

    def read(
        self, id: str, start: int = 0, length: int | None = None, *, piece: int = 1 << 20
    ) -> AsyncGenerator[bytes, None]:
        """Pieces of `piece` bytes, the last one shorter. A blob that is deleted meanwhile is read to its end or ends in
        `NotFound`/`Retry`, never in other bytes."""
        ...

    async def size(self, id: str) -> int | None: ...

    async def delete(self, id: str) -> None:
        """Nothing happens when it is not there."""
        ...

    def all(self, after: str = "") -> AsyncGenerator[StoredBlob, None]:
        """Every blob in order of ids."""
        ...

    async def claim(self, owner: str) -> str:
        """Whose store it is, for good: `owner`, unless somebody claimed it before."""
        ...

    async def capacity(self) -> Capacity: ...

    async def close(self) -> None: ...


# -- what a store on this machine offers besides: calls that a worker thread makes in the middle of other work -----


@runtime_checkable
class DirectWriter(Protocol):
    """A `BlobWriter` that a thread may write to while it hashes and seals: one thread at a time."""

    def append(self, parts: Sequence[bytes | memoryview]) -> None:
        """As `BlobWriter.write`. Afterwards the memory of the parts is the caller's again."""
        ...


class DirectReader(Protocol):
    """One blob, open: it is read to its end whatever becomes of it meanwhile. From any thread."""

    def read(self, start: int, length: int) -> bytes:
        """Shorter only at the blob's end. Raises Retry."""
        ...

    def at_hand(self, start: int, length: int) -> bytes | bytearray | None:
        """The same without waiting for a disk; None when that cannot be."""
        ...

    def fill(self, start: int, room: memoryview, *, waits: bool) -> bool:
        """All of `room`, from `start` on. False when the blob ends before that, or when it would have to wait for a disk
        and may not. Raises Retry."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class DirectBlobs(Protocol):
    """A `BlobEngine` whose writers are `DirectWriter`s."""

    def open(self, id: str) -> DirectReader:
        """Raises NotFound, Retry."""
        ...
