"""The bytes of objects through every store: what went in comes out, under every hand-over between loop and threads."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tracemalloc
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from obstore.store import MemoryStore

from hansa.engines.blobs.files import Calls, FileBlobs, FileReader
from hansa.engines.blobs.memory import MemoryBlobs
from hansa.engines.blobs.objectstore import ObjectStoreBlobs
from hansa.engines.blobs.port import BlobEngine
from hansa.errors import Exhausted, HansaError, NotFound, Retry
from hansa.gateways.s3.sealing.content import INLINE_MAX, LOT, ROOMS, Content, whole
from hansa.gateways.s3.sealing.segments import SEGMENT, Damaged, Place, stored_size
from hansa.gateways.s3.wire.errors import S3Error
from hansa.objectindex.open import open_index
from hansa.objectindex.port import ObjectIndex
from hansa.objectindex.records import Encryption, Facts, Piece, Version

pytestmark = pytest.mark.anyio
PLACE = Place("project", "region", "bucket")
EDGES = [0, 1, INLINE_MAX, INLINE_MAX + 1, SEGMENT, SEGMENT + 1, LOT, LOT + 1, LOT + SEGMENT + 1, 3 * LOT]


class Keys:
    def __init__(self) -> None:
        self.disabled: set[str] = set()

    def key_material(self, project: str, name: str) -> bytes:
        if name in self.disabled:
            raise S3Error("KMS.DisabledException")
        return hashlib.sha256(f"{project}/{name}".encode()).digest()


@pytest.fixture(params=["files", "memory", "objectstore"])
async def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[BlobEngine]:
    engines = {"files": lambda: FileBlobs(tmp_path / "blobs", reserve=0), "memory": MemoryBlobs}
    engine = engines.get(request.param, lambda: ObjectStoreBlobs(MemoryStore()))()
    yield engine
    await engine.close()


@pytest.fixture
async def index() -> AsyncIterator[ObjectIndex]:
    opened = await open_index(":memory:")
    yield opened
    await opened.close()


@pytest.fixture
def keys() -> Keys:
    return Keys()


@pytest.fixture
async def content(index: ObjectIndex, blobs: BlobEngine, keys: Keys) -> AsyncIterator[Content]:
    made = Content(index, blobs, keys)
    yield made
    await made.close()


def version(*pieces: Piece) -> Version:
    size = sum(piece.size for piece in pieces)
    return Version("bucket", "k", "null", 1, True, False, size, "", 0.0, Facts(pieces=pieces))


async def put(content: Content, data: bytes, *, chunk: int = 65536, sized: bool = True, **more: object) -> Piece:
    writer = content.writer(PLACE, size=len(data) if sized else None, **more)  # type: ignore[arg-type]
    for at in range(0, len(data), chunk):
        await writer.feed(data[at : at + chunk])
    return await writer.finish()


@pytest.mark.parametrize("size", EDGES)
@pytest.mark.parametrize("sized", [True, False])
async def test_what_went_in_comes_out(content: Content, blobs: BlobEngine, size: int, sized: bool) -> None:
    data, digests = os.urandom(size), [hashlib.md5(), hashlib.sha256()]
    piece = await put(content, data, sized=sized, digests=digests)
    assert await whole(content, PLACE, version(piece)) == data
    assert [d.digest() for d in digests] == [hashlib.md5(data).digest(), hashlib.sha256(data).digest()]
    assert (piece.size, piece.stored) == (size, stored_size(size))
    assert bool(piece.blob) != bool(piece.inline) and bool(piece.inline) == (size <= INLINE_MAX)
    assert piece.blob == "" or await blobs.size(piece.blob) == piece.stored
    assert size < 16 or data[:64] not in piece.inline  # fewer bytes may be there by chance


@pytest.mark.parametrize("chunk", [1000, SEGMENT, LOT + 1, 4 * LOT])
async def test_it_may_come_in_pieces_of_any_size(content: Content, chunk: int) -> None:
    data = os.urandom(2 * LOT + 12345)
    assert await whole(content, PLACE, version(await put(content, data, chunk=chunk))) == data


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(
        st.sampled_from([1, 100, INLINE_MAX, 70_000, SEGMENT, SEGMENT + 1, LOT + 5]), min_size=1, max_size=4
    ),
    start=st.floats(0, 1),
    length=st.floats(0, 1),
)
def test_any_range_of_any_pieces_comes_out(sizes: list[int], start: float, length: float) -> None:
    async def check() -> None:
        content = Content(await open_index(":memory:"), MemoryBlobs(), Keys())
        bodies = [os.urandom(size) for size in sizes]
        pieces = [replace(await put(content, body), number=n) for n, body in enumerate(bodies, 1)]
        data = b"".join(bodies)
        begin, count = int(start * len(data)), int(length * len(data))
        parts = [bytes(part) async for part in content.read(PLACE, version(*pieces), begin, count)]
        assert b"".join(parts) == data[begin : begin + count] and all(0 < len(part) <= LOT for part in parts)
        at_hand = content.at_hand(PLACE, version(*pieces), begin, min(count, len(data) - begin))
        assert at_hand is None or bytes(at_hand) == data[begin : begin + count]
        await content.close()

    asyncio.run(check())


async def test_small_objects_are_at_hand(content: Content) -> None:
    piece = await put(content, b"small")
    assert bytes(content.at_hand(PLACE, version(piece), 1, 3) or b"") == b"mal"
    assert content.at_hand(PLACE, version(piece, piece), 1, 3) is None


@pytest.mark.parametrize(("start", "length"), [(0, LOT), (5, LOT - 5), (SEGMENT - 1, 2), (LOT, 7), (SEGMENT, LOT)])
async def test_a_lot_is_at_hand(content: Content, start: int, length: int) -> None:
    data = os.urandom(2 * LOT)
    piece = await put(content, data)
    found = content.lot_at_hand(PLACE, version(piece), start, length)
    assert found is None if content.blobs.name == "objectstore" else bytes(found or b"") == data[start : start + length]


async def test_what_is_no_lot_is_not_at_hand(content: Content) -> None:
    small, large = await put(content, b"small"), await put(content, b"x" * 2 * LOT)
    assert content.lot_at_hand(PLACE, version(small), 0, 5) is None
    assert content.lot_at_hand(PLACE, version(large, large), 0, LOT) is None
    assert content.lot_at_hand(PLACE, version(large), 1, LOT) is None, "it begins in one lot and ends in the next"
    assert content.lot_at_hand(PLACE, version(large), 0, LOT + 1) is None


async def test_nothing_changes_in_a_part_that_somebody_still_holds(content: Content) -> None:
    """Though memory is used again: whoever sends a part holds it until the client has taken it."""
    data = os.urandom((ROOMS + 8) * LOT)
    piece = await put(content, data)
    held = [part async for part in content.read(PLACE, version(piece))]
    again = [content.lot_at_hand(PLACE, version(piece), 0, LOT) for _ in range(2)]
    assert b"".join(held) == data and (again == [None, None] or content.blobs.name == "objectstore")
    held.clear()
    if content.blobs.name != "objectstore":
        one, two = (content.lot_at_hand(PLACE, version(piece), at * LOT, LOT) for at in range(2))
        assert (one, two) == (data[:LOT], data[LOT : 2 * LOT])


async def test_keys_that_are_disabled_or_lacking_store_and_read_nothing(content: Content, keys: Keys) -> None:
    named = await put(content, b"x" * 50_000, encryption=Encryption("aws:kms", "main"))
    default = await put(content, b"x" * 50_000, encryption=Encryption("AES256"))
    keys.disabled.add("main")
    with pytest.raises(S3Error):
        await whole(content, PLACE, version(named))
    with pytest.raises(S3Error):
        content.writer(PLACE, encryption=Encryption("aws:kms", "main"))
    assert len(await whole(content, PLACE, version(default))) == 50_000
    customers = await put(content, b"y" * 50_000, customer_key=b"c" * 32)
    assert len(await whole(content, PLACE, version(customers), customer_key=b"c" * 32)) == 50_000
    with pytest.raises(S3Error):
        await whole(content, PLACE, version(customers))


async def test_bytes_of_one_place_do_not_open_in_another(content: Content) -> None:
    for size in (100, 50_000):
        piece = await put(content, b"x" * size)
        for place in (replace(PLACE, project="other"), replace(PLACE, bucket="other"), replace(PLACE, region="other")):
            with pytest.raises(Damaged):
                await whole(content, place, version(piece))


async def test_what_is_given_up_leaves_nothing(content: Content, blobs: BlobEngine) -> None:
    for size in (0, 100, SEGMENT, 3 * LOT):
        writer = content.writer(PLACE)
        for _ in range(size // 1000):
            await writer.feed(b"x" * 1000)
        await writer.discard()
    assert [blob async for blob in blobs.all()] == []


async def test_pieces_that_are_dropped_become_garbage(content: Content, index: ObjectIndex) -> None:
    large, small = await put(content, b"x" * 50_000), await put(content, b"x")
    await content.drop([large, small])
    assert [one.blob for one in await index.garbage(before=1e12)] == [large.blob]


async def test_damage_is_told_and_never_handed_on(content: Content, blobs: BlobEngine) -> None:
    data = os.urandom(2 * LOT)
    piece = await put(content, data)
    stored = b"".join([part async for part in blobs.read(piece.blob)])
    at = len(stored) - 1000
    await blobs.delete(piece.blob)
    writer = await blobs.writer(piece.blob)
    await writer.write(stored[:at] + bytes((stored[at] ^ 1,)) + stored[at + 1 :])
    await writer.finish()
    got: list[bytes] = []
    with pytest.raises(Damaged):
        async for part in content.read(PLACE, version(piece)):
            got.append(bytes(part))
    assert data.startswith(b"".join(got)) and len(b"".join(got)) >= LOT
    await blobs.delete(piece.blob)
    with pytest.raises(NotFound):
        await whole(content, PLACE, version(piece))


async def test_a_store_that_is_full_is_told_and_discard_cleans_up(
    index: ObjectIndex, keys: Keys, tmp_path: Path
) -> None:
    small = MemoryBlobs(room=100_000)
    content = Content(index, small, keys)
    with pytest.raises(Exhausted):
        await put(content, b"x" * 200_000)
    writer = content.writer(PLACE)
    with pytest.raises(Exhausted):
        await writer.feed(b"x" * (2 * LOT))
        await writer.finish()
    await writer.discard()
    assert small.blobs == {}
    await content.close()


async def test_a_disk_that_fails_half_way_fails_the_stream(index: ObjectIndex, keys: Keys, tmp_path: Path) -> None:
    times = 0

    def failing(file: int, parts: object) -> int:
        nonlocal times
        times += 1
        if times > 2:
            raise OSError(5, "Input/output error")
        return os.writev(file, parts)  # type: ignore[arg-type]

    blobs = FileBlobs(tmp_path / "blobs", reserve=0, calls=Calls(write=failing))
    content = Content(index, blobs, keys)
    writer = content.writer(PLACE)
    with pytest.raises(Retry):
        for _ in range(10):
            await writer.feed(b"x" * LOT)
    with pytest.raises(HansaError):
        await writer.finish()
    await writer.discard()
    assert [blob async for blob in blobs.all()] == []
    await content.close()
    await blobs.close()


async def test_a_client_that_goes_away_leaves_nothing(content: Content, blobs: BlobEngine) -> None:
    """Writers and readers are cancelled wherever they stand; files are closed, and no task is left."""
    piece = await put(content, os.urandom(8 * LOT))
    files, tasks = len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks())

    async def write() -> None:
        writer = content.writer(PLACE)
        try:
            while True:
                await writer.feed(b"x" * 300_000)
        finally:
            await writer.discard()

    for n in range(12):
        task = asyncio.create_task(write() if n % 2 else whole(content, PLACE, version(piece)))  # type: ignore[arg-type]
        await asyncio.sleep(0.002 * n)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
            raise asyncio.CancelledError  # a reader that was done before
    stream = content.read(PLACE, version(piece))
    assert len(await anext(stream)) in {SEGMENT, LOT}
    await stream.aclose()
    assert [blob.id async for blob in blobs.all()] == [piece.blob]
    assert (len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks())) == (files, tasks)


async def test_a_stream_takes_little_memory_however_long_it_is(index: ObjectIndex, keys: Keys, tmp_path: Path) -> None:
    blobs = FileBlobs(tmp_path / "blobs", reserve=0)
    content = Content(index, blobs, keys)
    data = os.urandom(65536)
    await put(content, data * 40)
    tracemalloc.start()
    try:
        writer = content.writer(PLACE)
        for _ in range(1000):
            await writer.feed(data[:])
        piece = await writer.finish()
        _, written = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        size = 0
        async for part in content.read(PLACE, version(piece)):
            size += len(part)
        _, read = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size == 65_536_000 and written < 8 << 20 and read < 8 << 20
    await content.close()
    await blobs.close()


@pytest.mark.parametrize("at_hand", [0, 1, 5])
async def test_what_has_to_come_from_the_disk_follows_what_is_in_memory(
    index: ObjectIndex, keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_hand: int
) -> None:
    left = at_hand

    def forgetful(self: FileReader, start: int, room: memoryview, *, waits: bool) -> bool:
        nonlocal left
        left -= not waits
        return fill(self, start, room, waits=waits) if waits or left >= 0 else False

    engine = FileBlobs(tmp_path / "blobs", reserve=0)
    content = Content(index, engine, keys)
    data = os.urandom(3 * LOT + 1000)
    it = version(await put(content, data))
    fill = FileReader.fill
    monkeypatch.setattr(FileReader, "fill", forgetful)
    for start, length in ((0, len(data)), (SEGMENT - 7, 2 * LOT)):
        left = at_hand
        parts = [bytes(part) async for part in content.read(PLACE, it, start, length)]
        assert b"".join(parts) == data[start : start + length] and max(map(len, parts)) <= LOT and left < 0
    await content.close()
    await engine.close()
