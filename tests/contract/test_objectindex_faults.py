"""The object index when its database fails, is held by others, or is not one that this program knows."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from types import NoneType
from typing import Any

import asyncpg
import pytest

from hansa import diskroom
from hansa.errors import Conflict, Exhausted, Retry
from hansa.objectindex import sqlite
from hansa.objectindex.migrate import INDEX
from hansa.objectindex.open import open_index
from hansa.objectindex.port import ObjectIndex
from hansa.objectindex.records import Facts, Held, NewVersion, Part, Piece, Upload, Version, Versioning
from hansa.store.migrate import NewerDatabase

from ..postgres import Server, server

pytestmark = pytest.mark.anyio


def new(key: str, body: bytes = b"x" * 100) -> NewVersion:
    piece = Piece(len(body), len(body), "", body, "key")
    return NewVersion("b", key, f"v{key}", 1.0, len(body), "", Facts(pieces=(piece,)))


async def put(index: ObjectIndex, key: str, body: bytes = b"x" * 100) -> None:
    await index.publish(new(key, body), Versioning.NEVER, project="p")


# -- SQLite -------------------------------------------------------------------------------------


async def test_a_full_disk_is_told_and_costs_nothing_that_was_there(tmp_path: Path) -> None:
    index = await open_index(tmp_path / "index.db")
    driver: Any = index._driver
    await put(index, "there")
    pages = driver._writer.execute("pragma page_count").fetchone()[0]
    driver._writer.execute(f"pragma max_page_count = {pages + 5}")
    results = await asyncio.gather(*[put(index, f"k{n}", b"x" * 16_000) for n in range(8)], return_exceptions=True)
    assert all(isinstance(result, Retry) for result in results)
    assert [v.key for v in (await index.list("b")).versions] == ["there"] and await index.held("b") == Held(100, 1, 1)
    driver._writer.execute("pragma max_page_count = 1000000")
    await put(index, "again", b"x" * 16_000)
    assert await index.held("b") == Held(16_100, 2, 2)
    await index.close()


async def test_what_lies_inline_leaves_the_disk_its_reserve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, free = os.statvfs, diskroom.RESERVE + 40_000

    def nearly_full(place: Any) -> os.statvfs_result:
        seen = list(real(place))
        seen[:5] = [1, 1, 100 << 30, free, free]
        return os.statvfs_result(seen)

    monkeypatch.setattr(os, "statvfs", nearly_full)
    index = await open_index(tmp_path / "index.db")
    results = await asyncio.gather(*[put(index, f"k{n}", b"x" * 16_000) for n in range(4)], return_exceptions=True)
    assert [type(result) for result in results] == [NoneType, NoneType, Exhausted, Exhausted]
    await index.begin(Upload("b", "up", "u", 1.0), project="p")
    part = Part("u", Piece(16_000, 16_000, "", b"x" * 16_000, "key"), 1.0)
    with pytest.raises(Exhausted):
        await index.put_part("b", part, project="p")
    assert [v.key for v in (await index.list("b")).versions] == ["k0", "k1"], "the others of the group are kept"
    free = 0
    await index.lay_marker(NewVersion("b", "k0", "m", 2.0, marker=True), Versioning.NEVER, project="p")
    assert await index.held("b") == Held(16_000, 1, 1, 0, 1), "what makes room goes on"
    await index.close()


async def test_a_turn_that_never_comes_is_told_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "TURN_S", 0.3)
    index = await open_index(tmp_path / "index.db")
    await put(index, "before")
    for name in ("index.db.writing", "index.db.turn"):
        with (tmp_path / name).open("r+b") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            began = time.monotonic()
            with pytest.raises(Retry):
                await put(index, "during")
            assert time.monotonic() - began < 3 and await index.get("b", "before") is not None, "reading goes on"
        await put(index, f"after {name}")
    await index.close()


async def test_somebody_who_knows_of_no_turns_is_waited_for(tmp_path: Path) -> None:
    index = await open_index(tmp_path / "index.db")
    stranger = sqlite3.connect(tmp_path / "index.db", isolation_level=None, check_same_thread=False)
    stranger.execute("begin immediate")
    writing = asyncio.create_task(put(index, "k"))
    await asyncio.sleep(0.1)
    assert not writing.done()
    stranger.execute("rollback")
    await writing
    stranger.close()
    await index.close()


STOPPED = """
import asyncio, os, signal, sys
from hansa.objectindex.open import open_index
from hansa.objectindex.records import NewVersion, Versioning
async def main():
    index = await open_index(sys.argv[1])
    def stop(current):
        print("holds", flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)
    await index.publish(NewVersion("b", "half", "v", 1.0), Versioning.NEVER, project="p", check=stop)
asyncio.run(main())
"""


async def test_a_process_that_dies_in_the_middle_gives_its_turn_back(tmp_path: Path) -> None:
    index = await open_index(tmp_path / "index.db")
    words = [sys.executable, "-c", STOPPED, str(tmp_path / "index.db")]
    process = await asyncio.to_thread(subprocess.Popen, words, stdout=subprocess.PIPE)
    assert process.stdout is not None and await asyncio.to_thread(process.stdout.readline) == b"holds\n"
    writing = asyncio.create_task(put(index, "k"))
    await asyncio.sleep(0.2)
    assert not writing.done(), "the other process holds the turn"
    process.send_signal(signal.SIGKILL)
    await writing
    process.wait()
    process.stdout.close()
    assert [v.key for v in (await index.list("b")).versions] == ["k"] and await index.held("b") == Held(100, 1, 1)
    await index.close()


async def test_what_is_not_closed_is_not_lost_and_what_is_closed_takes_nothing(tmp_path: Path) -> None:
    index = await open_index(tmp_path / "index.db")
    writes = [asyncio.create_task(put(index, f"k{n}")) for n in range(20)]
    await asyncio.sleep(0)
    await index.close()
    await asyncio.gather(*writes)
    with pytest.raises(Retry):
        await put(index, "late")
    again = await open_index(tmp_path / "index.db")
    assert len((await again.list("b")).versions) == 20
    await again.close()


async def test_the_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    index = await open_index(tmp_path / "index.db")
    await put(index, "k")
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}
    await index.close()


async def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(Retry):
        await open_index(tmp_path / "absent" / "index.db")


class Unheard(BaseException):
    """What nobody expects."""


async def test_nobody_waits_for_ever_whatever_happens(tmp_path: Path) -> None:
    index = await open_index(tmp_path / "index.db")

    def check(current: Version | None) -> None:
        raise Unheard

    writes = [asyncio.create_task(put(index, f"k{n}")) for n in range(3)]
    bad = asyncio.create_task(index.publish(new("bad"), Versioning.NEVER, project="p", check=check))
    behind = [asyncio.create_task(put(index, f"b{n}")) for n in range(sqlite.GROUP_MAX)]
    results = await asyncio.wait_for(asyncio.gather(*writes, bad, *behind, return_exceptions=True), 5)
    assert all(isinstance(result, Retry) for result in results)
    driver: Any = index._driver
    assert isinstance(driver._flusher.exception(), Unheard)
    await put(index, "after")
    assert [v.key for v in (await index.list("b")).versions] == ["after"]
    await index.close()


# -- either -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_the_index_of_a_newer_program_is_left_alone(kind: str, tmp_path: Path) -> None:
    place = str(tmp_path / "index.db") if kind == "sqlite" else await server().empty()
    await (await open_index(place)).close()
    later = f"insert into s3_schema_version (version) values ({INDEX.newest() + 1})"
    if kind == "sqlite":
        connection = sqlite3.connect(place, isolation_level=None)
        connection.execute(later)
        connection.close()
    else:
        connection = await asyncpg.connect(place)
        await connection.execute(later)
        await connection.close()
    with pytest.raises(NewerDatabase):
        await open_index(place)
    if kind == "postgresql":
        await server().drop(place)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_many_may_make_it_at_the_same_time(kind: str, tmp_path: Path) -> None:
    place = str(tmp_path / "index.db") if kind == "sqlite" else await server().empty()
    if kind == "sqlite":
        words = [
            sys.executable,
            "-c",
            "import asyncio, sys; from hansa.objectindex.open import open_index\nasyncio.run(open_index(sys.argv[1]))",
        ]
        processes = [subprocess.Popen([*words, place], stderr=subprocess.PIPE) for _ in range(3)]
        for process in processes:
            _, error = await asyncio.to_thread(process.communicate)
            assert process.returncode == 0, error
    indexes = await asyncio.gather(*[open_index(place) for _ in range(4)])
    await asyncio.gather(*[put(index, f"k{n}") for n, index in enumerate(indexes)])
    assert await indexes[0].held("b") == Held(400, 4, 4)
    for index in indexes:
        await index.close()
    if kind == "postgresql":
        await server().drop(place)


# -- PostgreSQL ---------------------------------------------------------------------------------


async def test_a_server_that_goes_and_comes_back_is_told_and_found_again() -> None:
    own = Server()
    try:
        index = await open_index(await own.empty())
        await put(index, "before")
        await asyncio.to_thread(own.stop, signal.SIGQUIT)
        for call in (put(index, "during"), index.get("b", "before"), index.held("b")):
            with pytest.raises(Retry):
                await call
        await asyncio.to_thread(own.start)
        await put(index, "after")
        assert [v.key for v in (await index.list("b")).versions] == ["after", "before"]
        assert await index.held("b") == Held(200, 2, 2)
        await index.close()
        with pytest.raises(Retry):
            await put(index, "late")
    finally:
        await asyncio.to_thread(own.remove)


async def test_what_is_under_way_when_the_index_is_closed_ends_well() -> None:
    url = await server().empty()
    index = await open_index(url)
    await asyncio.gather(*[put(index, f"k{n}") for n in range(4)])
    driver: Any = index._driver
    held, go = asyncio.Event(), asyncio.Event()

    async def work(tx: Any) -> str:
        held.set()
        await go.wait()
        return "done"

    writing = asyncio.create_task(driver.write(work))
    await held.wait()
    closing = asyncio.create_task(index.close())
    await asyncio.sleep(0.05)
    go.set()
    assert await asyncio.wait_for(writing, 5) == "done"
    await asyncio.wait_for(closing, 5)
    await server().drop(url)


async def test_a_write_that_is_given_up_keeps_nothing_and_frees_its_key() -> None:
    url = await server().empty()
    index = await open_index(url)
    holder = await asyncpg.connect(url)
    await holder.execute("begin; lock table s3_versions in access exclusive mode")
    writing = asyncio.create_task(put(index, "k"))
    await asyncio.sleep(0.3)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    await holder.execute("rollback")
    await holder.close()
    assert await index.get("b", "k") is None

    def absent(current: Version | None) -> None:
        if current is not None:
            raise Conflict("it is there")

    await index.publish(new("k"), Versioning.NEVER, project="p", check=absent)
    await index.close()
    await server().drop(url)
