"""The bytes of objects on their way in and out: hashed, sealed and stored; read, opened and handed on.

What is small stays in the loop and in the index: up to 16 KiB are sealed in place and become `Piece.inline`. Larger
bodies go to the blob engine, a MiB at a time: hashing, sealing and writing of such a lot is one job of a worker thread
(all three let go of the interpreter's lock) while the next lot arrives. Reading takes what the system has in memory, and
runs one lot ahead of the client where it has to wait for the disk. So a stream takes some 4 MiB of memory, however long
it is, and mostly memory that another stream had before it.

Nothing that was written counts before the index says so: whoever does not publish a piece gives it to `drop`.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import AsyncGenerator, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any, Final, Protocol

from awscrt import checksums

from hansa.clock import Clock, SystemClock
from hansa.engines.blobs.port import BlobEngine, BlobWriter, DirectBlobs, DirectReader, DirectWriter
from hansa.gateways.s3.sealing import segments
from hansa.gateways.s3.sealing.keys import Fresh, Keyring, KeySource, Newest, as_named
from hansa.gateways.s3.sealing.rooms import Rooms
from hansa.gateways.s3.sealing.segments import HEADER, SEGMENT, TAG, WHOLE, Cipher, Damaged, Place, Run
from hansa.objectindex.port import ObjectIndex
from hansa.objectindex.records import Encryption, Piece, Version

INLINE_MAX: Final = 16 * 1024  # plain bytes that stay in the index
LOT_SEGMENTS: Final = 4
LOT: Final = LOT_SEGMENTS * SEGMENT
LOTS_AHEAD: Final = 1
THREADS: Final = (os.cpu_count() or 2) + 2  # some of them wait for a disk
ROOMS: Final = 32  # for lots on their way out
SHELF_S: Final = 30  # blobs of so many seconds lie in one folder, whose flushes they share


Plain = bytes | memoryview


class Digest(Protocol):
    """Anything of hashlib's shape: the caller keeps it and reads it after `finish`."""

    def update(self, data: bytes | memoryview, /) -> object: ...


class Content:
    def __init__(
        self, index: ObjectIndex, blobs: BlobEngine, keys: KeySource, *, clock: Clock | None = None,
        newest: Newest = as_named,
    ) -> None:  # fmt: skip
        self._index, self.blobs = index, blobs
        self._near = blobs if isinstance(blobs, DirectBlobs) else None  # asked once: asking costs more than a read
        self.keyring = Keyring(keys, newest)
        self._clock = clock or SystemClock()
        self._rooms, self._desk = Rooms(LOT, ROOMS), _Desk()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="hansa-s3-bytes")

    def writer(
        self, place: Place, *, encryption: Encryption | None = None, customer_key: bytes | None = None,
        size: int | None = None, digests: Sequence[Digest] = (), number: int = 1,
    ) -> ContentWriter:  # fmt: skip
        """For one piece. `size`: plain bytes, when they are known beforehand. `digests` see the plain bytes, in order.

        Without `encryption`, or with AES256, the project's default key wraps the data key; with aws:kms the one it
        names; `customer_key` comes first. Raises what the key's keeper raises: nothing is ever stored in the clear.
        """
        named = encryption.key if encryption is not None and encryption.mode == "aws:kms" else ""
        fresh = self.keyring.fresh(place, name=named, customer_key=customer_key)
        id = new_id(self._clock.now())
        return ContentWriter(self.blobs, self._threads, self._desk, fresh, id, size, digests, number)

    async def read(
        self, place: Place, version: Version, start: int = 0, length: int | None = None, *,
        customer_key: bytes | None = None,
    ) -> AsyncGenerator[Plain, None]:  # fmt: skip
        """Plain bytes of a version, `length` of them from `start` (all that follow, when it is None), in pieces of at
        most a MiB. Raises Damaged, Retry, NotFound when its bytes are gone, and as `Keyring.cipher`."""
        end = version.size if length is None else min(version.size, start + length)
        at = 0
        for piece in version.facts.pieces:
            begin, until = max(start, at), min(end, at + piece.size)
            if begin < until:
                cipher = self.keyring.cipher(place, piece.sealed_key, customer_key)
                run = segments.plan(piece.size, begin - at, until - begin)
                async with aclosing(self._parts(cipher, piece, run)) as parts:
                    async for part in parts:
                        yield part
            at += piece.size

    async def drop(self, pieces: Iterable[Piece]) -> None:
        """Of pieces that will never be published."""
        if blobs := [piece.blob for piece in pieces if piece.blob]:
            await self._index.discard(blobs)

    async def close(self) -> None:
        """When nothing is read or written any more. Index and engine are the caller's to close."""
        await asyncio.to_thread(self._threads.shutdown)

    # -- reading ----------------------------------------------------------------------------

    def at_hand(
        self, place: Place, version: Version, start: int, length: int, *, customer_key: bytes | None = None
    ) -> bytes | memoryview | None:
        """The same bytes at once, when they are few and need no disk; else None. Raises as `read`."""
        if len(version.facts.pieces) != 1 or not 0 < length <= SEGMENT:
            return None
        piece = version.facts.pieces[0]
        run = segments.plan(piece.size, start, length)
        if run.count > 1 or not (sealed := self._sealed_at_hand(piece, run)):
            return None
        return self.keyring.cipher(place, piece.sealed_key, customer_key).open_one(run, piece.size, sealed)

    def lot_at_hand(
        self, place: Place, version: Version, start: int, length: int, *, customer_key: bytes | None = None
    ) -> Plain | None:
        """The same of what lies in one lot of a store on this machine, while there is a room for it."""
        pieces = version.facts.pieces
        if self._near is None or len(pieces) != 1 or not pieces[0].blob or not 0 < length <= LOT:
            return None
        piece = pieces[0]
        lot = segments.plan(piece.size, start, length)
        if lot.count > LOT_SEGMENTS or (room := self._rooms.free()) is None:
            return None
        cipher = self.keyring.cipher(place, piece.sealed_key, customer_key)
        reader = self._near.open(piece.blob)
        try:
            return self._open_lot(reader, cipher, piece.size, lot, room, waits=False)
        finally:
            reader.close()

    def _sealed_at_hand(self, piece: Piece, run: Run) -> bytes | bytearray | None:
        if not piece.blob:
            return piece.inline[run.at : run.at + run.stored]
        if self._near is None:
            return None
        reader = self._near.open(piece.blob)
        try:
            return reader.at_hand(run.at, run.stored)
        finally:
            reader.close()

    def _parts(self, cipher: Cipher, piece: Piece, run: Run) -> AsyncGenerator[Plain, None]:
        if not piece.blob:
            return _inline(cipher, piece, run)
        return self._direct(self._near, cipher, piece, run) if self._near is not None else self._far(cipher, piece, run)

    async def _direct(
        self, near: DirectBlobs, cipher: Cipher, piece: Piece, run: Run
    ) -> AsyncGenerator[Plain, None]:  # fmt: skip
        """From a store on this machine: what the system has in memory is opened here and now, since a hop to a thread costs
        more than that; from the first lot on that has to come from the disk, in threads.

        While clients that take their time hold all the rooms, the others are served a segment at a time."""
        reader, size = near.open(piece.blob), piece.size
        at, end = run.begin, run.begin + run.take
        try:
            while at < end:
                room = self._rooms.free()
                lot = segments.first_of(size, at, end, LOT_SEGMENTS if room is not None else 1)
                plain = self._open_lot(reader, cipher, size, lot, room, waits=False)
                if plain is None:
                    async with aclosing(self._ahead(reader, cipher, size, at, end)) as lots:
                        async for plain in lots:
                            yield plain
                    return
                yield plain
                at += lot.take
                await asyncio.sleep(0)  # a client that takes all at once must not keep the others waiting
        finally:
            reader.close()

    async def _ahead(
        self, reader: DirectReader, cipher: Cipher, size: int, at: int, end: int
    ) -> AsyncGenerator[Plain, None]:  # fmt: skip
        """A lot is read and opened in a thread while the client takes the one before."""
        loop = asyncio.get_running_loop()
        jobs: deque[asyncio.Future[Plain]] = deque()
        try:
            while at < end or jobs:
                while at < end and len(jobs) <= LOTS_AHEAD:
                    lot = segments.first_of(size, at, end, LOT_SEGMENTS)
                    jobs.append(loop.run_in_executor(
                        self._threads, self._read_lot, reader, cipher, size, lot, self._rooms.free()
                    ))  # fmt: skip
                    at += lot.take
                yield await asyncio.shield(jobs[0])
                jobs.popleft()
        finally:
            await _ended(jobs)

    def _read_lot(self, reader: DirectReader, cipher: Cipher, size: int, lot: Run, room: bytearray | None) -> Plain:
        plain = self._open_lot(reader, cipher, size, lot, room, waits=True)
        if plain is None:
            raise Damaged(
                "stored bytes are damaged", detail=f"{lot.stored} bytes at {lot.at} are due, and are not there"
            )
        return plain

    def _open_lot(
        self, reader: DirectReader, cipher: Cipher, size: int, lot: Run, room: bytearray | None, *, waits: bool
    ) -> Plain | None:  # fmt: skip
        """Segment by segment, so that each is still in the processor's cache when it is opened. None: it is not there, or
        not without waiting."""
        view, sealed = memoryview(room or bytearray(lot.count * SEGMENT)), memoryview(self._desk.sealed)
        at, last = lot.at, segments.segments_of(size) - 1
        for n in range(lot.count):
            some = sealed[: min(WHOLE, lot.at + lot.stored - at)]
            if not reader.fill(at, some, waits=waits):
                return None
            begin, number = n * SEGMENT, lot.first + n
            cipher.open_into(number, some, view[begin : begin + len(some) - TAG], last=number == last)
            at += WHOLE
        return view[lot.skip : lot.skip + lot.take]

    async def _far(self, cipher: Cipher, piece: Piece, run: Run) -> AsyncGenerator[Plain, None]:
        """From any other store: one stream, which the engine fills while a lot of it is opened in a thread."""
        loop = asyncio.get_running_loop()
        async with aclosing(self.blobs.read(piece.blob, run.at, run.stored, piece=LOT_SEGMENTS * WHOLE)) as stream:
            for lot in segments.split(run, piece.size, LOT_SEGMENTS):
                sealed = await anext(stream, b"")
                for part in await loop.run_in_executor(self._threads, cipher.open_run, lot, piece.size, sealed):
                    yield part


class ContentWriter:
    """Takes the plain bytes of one piece. Ends with `finish` or `discard`; after an error only `discard` is left."""

    def __init__(
        self, blobs: BlobEngine, threads: ThreadPoolExecutor, desk: _Desk, fresh: Fresh, id: str, size: int | None,
        digests: Sequence[Digest], number: int,
    ) -> None:  # fmt: skip
        self._blobs, self._threads, self._fresh, self._id = blobs, threads, fresh, id
        self._expected, self._digests, self._number = size, digests, number
        self._sealing = _Sealing(fresh.cipher(bytes.fromhex(id)), digests, desk)
        self._held: list[Plain] = []
        self._held_bytes = 0
        self._blob: BlobWriter | None = None
        self._job: asyncio.Future[None] | None = None
        self.size = 0

    async def feed(self, data: Plain) -> None:
        """Waits while a lot before this one is still on its way. Raises Retry, Exhausted."""
        self._held.append(data)
        self._held_bytes += len(data)
        self.size += len(data)
        while self._held_bytes > LOT:  # the last lot is not empty: what is in it must be known to be the last
            await self._send(last=False)

    async def finish(self) -> Piece:
        """All of it is stored, and durable unless it is inline. Raises Retry, Exhausted."""
        if self._blob is None and self.size <= INLINE_MAX:
            return self._inline()
        await self._send(last=True)
        await self._sent()
        assert self._blob is not None
        stored = await self._blob.finish()
        if stored != segments.stored_size(self.size):
            raise Damaged("the store did not keep what it was given", detail=f"{stored} bytes of {self._id}")
        sealed_key = self._fresh.sealed(bytes.fromhex(self._id), self._sealing.crc)
        return Piece(self.size, stored, self._id, b"", sealed_key, self._number)

    async def discard(self) -> None:
        """Nothing is left of it, or the engine's sweep finds it. Also after an error; not after `finish`."""
        self._held.clear()
        await _ended([self._job] if self._job is not None else [])
        if self._blob is not None:
            await self._blob.discard()

    def _inline(self) -> Piece:
        plain = b"".join(self._held)
        for digest in self._digests:
            digest.update(plain)
        id = bytes.fromhex(self._id)
        sealed = segments.seal_small(self._fresh.cipher(id), plain)
        sealed_key = self._fresh.sealed(id, checksums.crc32c(sealed, 0))
        return Piece(self.size, len(sealed), "", sealed, sealed_key, self._number)

    async def _send(self, *, last: bool) -> None:
        """Hands a lot of what is held to a job, after the one before."""
        await self._sent()
        if self._blob is None:
            expected = None if self._expected is None else segments.stored_size(self._expected)
            self._blob = await self._blobs.writer(self._id, expected)
        lot, self._held = _first(self._held, LOT)
        self._held_bytes -= min(LOT, self._held_bytes)
        if isinstance(self._blob, DirectWriter):
            loop = asyncio.get_running_loop()
            self._job = loop.run_in_executor(self._threads, self._sealing.append, lot, last, self._blob)
        else:
            self._job = asyncio.create_task(self._store(self._blob, lot, last))

    async def _sent(self) -> None:
        if self._job is not None:
            await asyncio.shield(self._job)
            self._job = None

    async def _store(self, blob: BlobWriter, lot: list[Plain], last: bool) -> None:
        loop = asyncio.get_running_loop()
        await blob.write(await loop.run_in_executor(self._threads, self._sealing.copied, lot, last))


class _Desk(threading.local):
    """What a thread works with, one lot after the other."""

    def __init__(self) -> None:
        self.plain, self.sealed = bytearray(LOT), bytearray(len(HEADER) + LOT_SEGMENTS * WHOLE)


class _Sealing:
    """What runs in the threads, one job of a stream after the other: full lots, and the last one."""

    def __init__(self, cipher: Cipher, digests: Sequence[Digest], desk: _Desk) -> None:
        self._cipher, self._digests, self._desk = cipher, digests, desk
        self._number = 0
        self.crc = 0

    def append(self, lot: Sequence[Plain], last: bool, blob: DirectWriter) -> None:
        blob.append([self._sealed(lot, last)])

    def copied(self, lot: Sequence[Plain], last: bool) -> bytes:
        return bytes(self._sealed(lot, last))

    def _sealed(self, lot: Sequence[Plain], last: bool) -> memoryview:
        """On the thread's desk, until its next lot."""
        plain, room, end = self._laid(lot), memoryview(self._desk.sealed), 0
        for digest in self._digests:
            digest.update(plain)
        if not self._number:
            end = len(HEADER)
            room[:end] = HEADER
        for begin in range(0, max(1, len(plain)), SEGMENT):
            some = plain[begin : begin + SEGMENT]
            begun, end = end, end + len(some) + TAG
            ends = last and begin + SEGMENT >= len(plain)
            self._cipher.seal_into(self._number, some, room[begun:end], last=ends)
            self._number += 1
        self.crc = checksums.crc32c(room[:end], self.crc)
        return room[:end]

    def _laid(self, lot: Sequence[Plain]) -> memoryview:
        """The parts of a lot, one behind the other."""
        room, end = memoryview(self._desk.plain), 0
        for part in lot:
            begun, end = end, end + len(part)
            room[begun:end] = part
        return room[:end]


def _first(held: list[Plain], size: int) -> tuple[list[Plain], list[Plain]]:
    """The first `size` bytes, and the others."""
    left = size
    for n, data in enumerate(held):
        if left <= len(data):
            view = memoryview(data)
            return [*held[:n], view[:left]], [view[left:], *held[n + 1 :]] if left < len(data) else held[n + 1 :]
        left -= len(data)
    return held, []


def new_id(now: float) -> str:
    """Of a piece: 32 hex digits. The first four are those of a shelf of time, the others random."""
    return f"{int(now / SHELF_S) & 0xFFFF:04x}{os.urandom(14).hex()}"


async def whole(content: Content, place: Place, version: Version, *, customer_key: bytes | None = None) -> bytes:
    """All plain bytes of a small version. Raises as `Content.read`."""
    return b"".join([bytes(part) async for part in content.read(place, version, customer_key=customer_key)])


async def _inline(cipher: Cipher, piece: Piece, run: Run) -> AsyncGenerator[Plain, None]:
    for part in cipher.open_run(run, piece.size, piece.inline[run.at : run.at + run.stored]):
        yield part


async def _ended(jobs: Collection[asyncio.Future[Any]]) -> None:
    """Waits for what still runs; its error was told already, or nobody is left to hear it."""
    if jobs:
        await asyncio.wait(jobs)
    for job in jobs:
        if not job.cancelled():
            job.exception()
