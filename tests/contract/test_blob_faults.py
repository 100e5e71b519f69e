"""The store of files under a bad disk: short writes, failed flushes, no room; and under strange hands."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hansa.engines.blobs import files
from hansa.engines.blobs.files import Calls, FileBlobs
from hansa.errors import Bug, Exhausted, NotFound, Retry

pytestmark = pytest.mark.anyio
ID = "ab" * 16


def failing(number: int, *, after: int = 0) -> Callable[..., Any]:
    """A call that raises, from its `after`-th time on."""
    times = 0

    def call(*words: Any, **more: Any) -> Any:
        nonlocal times
        times += 1
        if times > after:
            raise OSError(number, os.strerror(number))
        return os.writev(*words, **more)

    return call


@pytest.fixture
async def blobs(tmp_path: Path) -> AsyncIterator[FileBlobs]:
    engine = FileBlobs(tmp_path / "blobs", reserve=0)
    yield engine
    await engine.close()


async def put(blobs: FileBlobs, data: bytes = b"x" * 3_000_000, id: str = ID) -> int:
    writer = await blobs.writer(id, len(data))
    try:
        for at in range(0, len(data), 1_000_000):
            await writer.write(data[at : at + 1_000_000])
        return await writer.finish()
    finally:
        await writer.discard()


def files_of(blobs: FileBlobs) -> list[Path]:
    return [file for file in blobs.root.rglob("*") if file.is_file()]


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_a_short_write_is_gone_on_with(blobs: FileBlobs) -> None:
    def short(file: int, parts: Sequence[Any]) -> int:
        return os.write(file, memoryview(parts[0])[:77_777])

    blobs.calls = Calls(write=short)
    data = os.urandom(1_000_000)
    assert await put(blobs, data) == len(data)
    assert b"".join([part async for part in blobs.read(ID)]) == data


@pytest.mark.parametrize("nameless", [True, False])
@pytest.mark.parametrize("call", ["write", "flush", "flush_folder", "link", "allocate"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
async def test_whatever_fails_nothing_is_kept_and_no_file_stays_open(
    blobs: FileBlobs, call: str, number: int, nameless: bool
) -> None:
    blobs.nameless = nameless
    before = open_files()
    blobs.calls = replace(Calls(), **{call: failing(number)})
    with pytest.raises(Retry if number == errno.EIO else Exhausted):
        await put(blobs)
    assert files_of(blobs) == [] or call == "flush_folder", "a name that may be lost is the scrub's"
    assert open_files() == before
    assert await blobs.size(ID) is None or call == "flush_folder"


async def test_room_is_free_at_once_when_the_disk_is_full_half_way(blobs: FileBlobs) -> None:
    blobs.calls = Calls(write=failing(errno.ENOSPC, after=2))
    writer = await blobs.writer(ID)
    await writer.write(b"x")
    await writer.write(b"x")
    with pytest.raises(Exhausted):
        await writer.write(b"x")
    with pytest.raises(Bug):
        await writer.write(b"x")
    await writer.discard()
    assert files_of(blobs) == []


async def test_after_a_failed_flush_nothing_is_written_for_a_while(
    blobs: FileBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs.calls = Calls(flush=failing(errno.EIO))
    with pytest.raises(Retry):
        await put(blobs)
    blobs.calls = Calls()
    with pytest.raises(Retry, match="for the moment"):
        await put(blobs)
    later = time.monotonic() + files.SUSPECT_S + 1
    monkeypatch.setattr(files.time, "monotonic", lambda: later)
    assert await put(blobs) == 3_000_000


async def test_a_failed_flush_of_a_folder_fails_all_who_waited_for_it(blobs: FileBlobs) -> None:
    await put(blobs, b"x", "ab" * 2 + "0" * 28)
    blobs.calls = Calls(flush_folder=failing(errno.EIO))
    ids = [f"abab{n:028x}" for n in range(1, 9)]
    results = await asyncio.gather(*[put(blobs, b"x", id) for id in ids], return_exceptions=True)
    assert all(isinstance(result, Retry) for result in results)


async def test_flushes_of_one_folder_are_shared(blobs: FileBlobs) -> None:
    await put(blobs, b"x", "ab" * 2 + "0" * 28)
    flushes = 0

    def slow(file: int) -> None:
        nonlocal flushes
        flushes += 1
        time.sleep(0.05)

    blobs.calls = Calls(flush_folder=slow)
    await asyncio.gather(*[put(blobs, b"x", f"abab{n:028x}") for n in range(1, 41)])
    assert 1 <= flushes <= 12


async def test_a_reserve_stays_free(tmp_path: Path) -> None:
    seen = os.statvfs(tmp_path)
    free = seen.f_bavail * seen.f_frsize
    blobs = FileBlobs(tmp_path / "blobs", reserve=free - 50_000_000)
    try:
        assert await put(blobs, b"x" * 1000) == 1000
        with pytest.raises(Exhausted):
            await blobs.writer("cd" * 16, 100_000_000)
        capacity = await blobs.capacity()
        assert capacity.total is not None and capacity.free is not None and capacity.free < 100_000_000
    finally:
        await blobs.close()


async def test_a_small_disk_keeps_less_of_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fixed reserve would leave nothing of it."""
    real = os.statvfs
    blocks = (100 << 20) // 4096

    def small(place: Any) -> os.statvfs_result:
        seen = list(real(place))
        seen[:5] = [4096, 4096, blocks, blocks, blocks]
        return os.statvfs_result(seen)

    monkeypatch.setattr(os, "statvfs", small)
    blobs = FileBlobs(tmp_path / "blobs")
    try:
        assert await put(blobs, b"x" * 1000) == 1000
        assert (await blobs.capacity()).free == 95 << 20
        with pytest.raises(Exhausted):
            await blobs.writer("cd" * 16, 96 << 20)
        unannounced = await blobs.writer("ef" * 16)
        with pytest.raises(Exhausted):
            await unannounced.write(bytes(96 << 20))
        await unannounced.discard()
        assert [blob.id async for blob in blobs.all()] == ["ab" * 16]
    finally:
        await blobs.close()


async def test_an_id_is_written_once(blobs: FileBlobs) -> None:
    await put(blobs, b"first")
    with pytest.raises(Bug):
        await put(blobs, b"second")
    assert b"".join([part async for part in blobs.read(ID)]) == b"first"


async def test_links_that_somebody_laid_are_not_followed(blobs: FileBlobs, tmp_path: Path) -> None:
    await put(blobs, b"x")
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    linked = "abab" + "c" * 28
    (blobs.root / "ab" / "ab" / linked).symlink_to(secret)
    with pytest.raises(Retry):
        blobs.open(linked)
    assert [blob.id async for blob in blobs.all()] == [ID]
    with pytest.raises(Bug):
        await put(blobs, b"y", linked)
    assert secret.read_bytes() == b"secret"
    (blobs.root / "cd").symlink_to(tmp_path)
    with pytest.raises(Retry):
        await put(blobs, b"y", "cd" * 16)
    assert not (tmp_path / "cd").exists()


async def test_what_a_crash_left_unfinished_goes_at_the_next_start(tmp_path: Path) -> None:
    folder = tmp_path / "blobs" / files.TMP
    folder.mkdir(parents=True)
    old, young = folder / ("a" * 32), folder / ("b" * 32)
    for file in (old, young):
        file.write_bytes(b"half")
    os.utime(old, (time.time() - 2 * 86400,) * 2)
    blobs = FileBlobs(tmp_path / "blobs", reserve=0)
    assert not old.exists() and young.exists(), "a process beside this one may be writing it"
    assert [blob async for blob in blobs.all()] == []
    await blobs.close()


async def test_a_write_that_is_given_up_closes_its_file(blobs: FileBlobs) -> None:
    before = open_files()
    for _ in range(20):
        writer = await blobs.writer(ID)
        task = asyncio.create_task(writer.write(b"x" * 5_000_000))
        await asyncio.sleep(0)
        task.cancel()
        await writer.discard()
        with pytest.raises((asyncio.CancelledError, Bug)):
            await task
    assert open_files() == before and files_of(blobs) == []


async def test_files_are_for_their_owner_alone(blobs: FileBlobs) -> None:
    await put(blobs)
    assert {file.stat().st_mode & 0o777 for file in files_of(blobs)} == {0o600}
    assert {folder.stat().st_mode & 0o777 for folder in blobs.root.rglob("*") if folder.is_dir()} == {0o700}


async def test_a_blob_that_is_not_there_is_told_from_a_disk_that_fails(blobs: FileBlobs) -> None:
    with pytest.raises(NotFound):
        blobs.open(ID)
    assert await blobs.size(ID) is None
    await blobs.delete(ID)
