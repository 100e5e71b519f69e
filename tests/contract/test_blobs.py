"""What every store of bytes promises: files, another S3 store (here obstore's own, in memory), and the twin."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from hansa.engines.blobs.files import FileBlobs
from hansa.engines.blobs.memory import MemoryBlobs
from hansa.engines.blobs.objectstore import ObjectStoreBlobs
from hansa.engines.blobs.port import BlobEngine, DirectBlobs, DirectWriter
from hansa.errors import Bug, NotFound

pytestmark = pytest.mark.anyio
numbers = itertools.count(1)
ABSENT = "f" * 32


def new_id() -> str:
    return f"{next(numbers):04x}{os.urandom(14).hex()}"


@pytest.fixture(params=["files", "named files", "memory", "objectstore", "objectstore with a prefix"])
async def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[BlobEngine]:
    match request.param:
        case "files" | "named files":
            engine: BlobEngine = FileBlobs(tmp_path / "blobs", reserve=0)
            engine.nameless = request.param == "files"  # type: ignore[attr-defined]
        case "memory":
            engine = MemoryBlobs()
        case _:
            engine = ObjectStoreBlobs(MemoryStore(), prefix="pre/fix/" if "prefix" in request.param else "")
    yield engine
    await engine.close()


async def stored(blobs: BlobEngine, data: bytes, id: str | None = None) -> str:
    id = new_id() if id is None else id
    writer = await blobs.writer(id, len(data))
    for at in range(0, len(data), 700_000):
        await writer.write(data[at : at + 700_000])
    assert await writer.finish() == len(data)
    return id


async def read(blobs: BlobEngine, id: str, start: int = 0, length: int | None = None, piece: int = 1 << 20) -> bytes:
    pieces = [part async for part in blobs.read(id, start, length, piece=piece)]
    assert all(len(part) == piece for part in pieces[:-1])
    return b"".join(pieces)


@pytest.mark.parametrize("size", [0, 1, 4096, 1 << 20, (1 << 20) + 1, 13_000_000])
async def test_what_was_put_comes_back(blobs: BlobEngine, size: int) -> None:
    data = os.urandom(size)
    id = await stored(blobs, data)
    assert await read(blobs, id) == data and await blobs.size(id) == size
    for start, length in ((0, 10), (size // 2, 3), (max(0, size - 2), 2), (size // 3, None)):
        if start + (length or 0) <= size and start < size:
            assert await read(blobs, id, start, length, piece=100_000) == data[start:][:length]


async def test_before_its_end_a_blob_is_nowhere(blobs: BlobEngine) -> None:
    kept, dropped = new_id(), new_id()
    one, two = await blobs.writer(kept), await blobs.writer(dropped)
    for writer in (one, two):
        for _ in range(3):
            await writer.write(b"x" * 2_500_000)
    for id in (kept, dropped):
        assert await blobs.size(id) is None and [b async for b in blobs.all()] == []
        with pytest.raises(NotFound):
            await read(blobs, id)
    await one.finish()
    await two.discard()
    assert [b.id async for b in blobs.all()] == [kept] and await blobs.size(dropped) is None


async def test_a_writer_takes_nothing_after_its_end(blobs: BlobEngine) -> None:
    writer = await blobs.writer(new_id())
    await writer.write(b"x")
    await writer.finish()
    await writer.discard()
    with pytest.raises(Bug):
        await writer.write(b"y")
    with pytest.raises(Bug):
        await writer.finish()


async def test_less_may_come_than_was_announced(blobs: BlobEngine) -> None:
    id = new_id()
    writer = await blobs.writer(id, 5_000_000)
    await writer.write(b"x" * 1000)
    assert await writer.finish() == 1000 and await blobs.size(id) == 1000


async def test_what_is_deleted_is_gone_and_may_be_deleted_again(blobs: BlobEngine) -> None:
    id = await stored(blobs, b"x" * 10)
    await blobs.delete(id)
    await blobs.delete(id)
    assert await blobs.size(id) is None
    with pytest.raises(NotFound):
        await read(blobs, id)


async def test_all_are_told_in_order(blobs: BlobEngine) -> None:
    ids = sorted([await stored(blobs, b"x" * n) for n in range(30)])
    found = [blob async for blob in blobs.all()]
    assert [blob.id for blob in found] == ids and sorted(blob.size for blob in found) == list(range(30))
    assert [blob.id async for blob in blobs.all(after=ids[10])] == ids[11:]
    assert all(blob.modified > 1.7e9 for blob in found)


async def test_many_write_at_the_same_time(blobs: BlobEngine) -> None:
    bodies = [os.urandom(100_000 + n) for n in range(40)]
    shelf = new_id()[:4]
    ids = [shelf + os.urandom(14).hex() for _ in bodies]
    await asyncio.gather(*[stored(blobs, body, id) for body, id in zip(bodies, ids, strict=True)])
    assert await asyncio.gather(*[read(blobs, id) for id in ids]) == bodies


@pytest.mark.parametrize("id", ["", "x" * 32, "A" * 32, "../../../../etc/passwd", "a" * 31, "a" * 33, "a" * 32 + "\n"])
async def test_only_ids_of_ours_are_names(blobs: BlobEngine, id: str) -> None:
    with pytest.raises(Bug):
        await stored(blobs, b"x", id)
    with pytest.raises(Bug):
        await read(blobs, id)
    with pytest.raises(Bug):
        await blobs.delete(id)


async def test_a_store_belongs_to_who_claimed_it_first(blobs: BlobEngine) -> None:
    assert await blobs.claim("one") == "one" and await blobs.claim("two") == "one" and await blobs.claim("one") == "one"
    assert [blob async for blob in blobs.all()] == []


async def test_a_reader_that_is_given_up_leaves_nothing_behind(blobs: BlobEngine) -> None:
    id = await stored(blobs, os.urandom(5_000_000))
    stream = blobs.read(id, piece=1000)
    assert len(await anext(stream)) == 1000
    await stream.aclose()
    await blobs.delete(id)


async def test_what_is_offered_to_threads_is_the_same(blobs: BlobEngine) -> None:
    if not isinstance(blobs, DirectBlobs):
        assert not isinstance(await blobs.writer(new_id()), DirectWriter)
        return
    id, data = new_id(), os.urandom(3_000_000)
    writer = await blobs.writer(id, len(data))
    assert isinstance(writer, DirectWriter)
    lot = bytearray(data[:1_000_000])
    await asyncio.to_thread(writer.append, [memoryview(lot), b""])
    lot[:] = bytes(len(lot))  # the caller's again
    await asyncio.to_thread(writer.append, [data[1_000_000:]])
    assert await writer.finish() == len(data) and await read(blobs, id) == data
    reader = blobs.open(id)
    await blobs.delete(id)
    assert reader.read(5, 2_000_000) == data[5:2_000_005] and reader.read(2_999_990, 100) == data[-10:]
    assert reader.at_hand(10, 100) == data[10:110] and reader.at_hand(2_999_990, 100) in {None, data[-10:]}
    room = memoryview(bytearray(1_000_000))
    assert reader.fill(7, room, waits=True) and room == data[7:1_000_007]
    assert reader.fill(2_000_000, room, waits=False) and room == data[2_000_000:]
    assert not reader.fill(2_000_001, room, waits=True) and not reader.fill(3_000_000, room, waits=False)
    reader.close()
    with pytest.raises(NotFound):
        blobs.open(ABSENT)
