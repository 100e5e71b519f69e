"""The object index out of one database and into another: the same verbs as for the store, and the same promises."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from hansa.cli.stores import backup_command, restore_command
from hansa.clock import SystemClock, SystemIds
from hansa.errors import AlreadyExists, Conflict
from hansa.kinds.resource import Key
from hansa.objectindex.holding import OBJECTS
from hansa.objectindex.open import open_index
from hansa.objectindex.port import ObjectIndex
from hansa.objectindex.records import Facts, Part, Upload, Versioning
from hansa.store import tables
from hansa.store.backup import BrokenBackup, holding_of, verify, write_backup
from hansa.store.holding import STORE
from hansa.store.open import open_store
from hansa.store.port import Create
from hansa.store.tables import NotEmpty

from ..postgres import a_database
from ..programs import no_cloud
from .test_objectindex import FACTS, Hand, marker, new, small, stored

pytestmark = pytest.mark.anyio
ENABLED, NEVER = Versioning.ENABLED, Versioning.NEVER
DATABASES = ("sqlite", "postgresql")


def quiet(table: str, rows: int) -> None:
    """Tells nobody."""


class Places:
    """Databases of either kind, gone at the end."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self._folder, self._stack, self._count = folder, stack, 0

    async def new(self, kind: str) -> str:
        self._count += 1
        return await self._stack.enter_async_context(a_database(kind, self._folder / f"index{self._count}.db"))


@pytest.fixture
async def places(tmp_path: Path) -> AsyncIterator[Places]:
    async with AsyncExitStack() as stack:
        yield Places(tmp_path, stack)


async def fill(index: ObjectIndex) -> None:
    """A bit of all that an index holds."""
    for n in range(3):
        await index.publish(
            new("k/é\U0001f600", stored(id=None), facts=FACTS), ENABLED, project="p", events=("replicate",)
        )
        await index.publish(new(f"small/{n}", small(bytes(range(256)))), NEVER, project="p")
    await index.publish(new("bin\x00key", small(b"\x00")), NEVER, project="p")
    await index.lay_marker(marker("k/é\U0001f600"), ENABLED, project="p")
    await index.publish(new("small/0", stored()), NEVER, project="p")
    for name in ("u1", "u2"):
        await index.begin(Upload("b", "up", f"{name}".ljust(32, "0"), 7.5, Facts()), project="p")
        await index.put_part("b", Part(name.ljust(32, "0"), small(b"part", number=1), 8.0), project="p")
    await index.put_part("b", Part("u2".ljust(32, "0"), stored(number=2), 8.0), project="p")
    done = (await index.parts("u1".ljust(32, "0")))[0].piece
    whole = new("up", replace(done, inline=b""))
    assert await index.complete("u1".ljust(32, "0"), whole, NEVER, project="p") is not None
    await index.discard(["ee" * 16])
    assert await index.close_bucket("closed")
    await index.note("store", "whose it is")
    assert await index.lease("garbage", "somebody", 3600)


async def everything(index: ObjectIndex) -> dict[str, Any]:
    """All that the port tells, but for leases, which a restore frees."""
    versions = (await index.list_versions("b")).versions
    return {
        "listing": await index.list("b"), "versions": await index.list_versions("b"),
        "folders": await index.list("b", delimiter="/"),
        "whole": [await index.get("b", v.key, v.id) for v in versions], "walk": await index.walk(),
        "uploads": await index.uploads("b"), "parts": await index.parts("u2".ljust(32, "0")),
        "became": await index.completed("b", "u1".ljust(32, "0")), "closed": await index.closed_at("closed"),
        "held": (await index.held("b"), await index.held_by("p")), "events": await index.events("replicate"),
        "garbage": await index.garbage(before=1e12), "blobs": await index.blobs(), "note": await index.note("store"),
    }  # fmt: skip


async def written(database: str, file: Path) -> None:
    async with tables.source(database, OBJECTS) as now:
        await write_backup(now, file, at=5.0, program="test", told=quiet, of=OBJECTS)


async def restored(file: Path, database: str, *, replace: bool = False) -> None:
    async with tables.target(database, OBJECTS) as put:
        await tables.load(file, put, replace=replace, told=quiet)


@pytest.mark.parametrize("target", DATABASES)
@pytest.mark.parametrize("source", DATABASES)
async def test_a_backup_becomes_the_same_index(places: Places, tmp_path: Path, source: str, target: str) -> None:
    first, second, file = await places.new(source), await places.new(target), tmp_path / "backup"
    index = await open_index(first, clock=Hand())
    await fill(index)
    told = await everything(index)
    assert told["held"][0].versions == 9 and len(told["events"]) == 3 and told["garbage"] and told["became"]
    await written(first, file)
    highest = (await index.publish(new("later", small(b"x")), NEVER, project="p")).version.order
    await index.close()
    await restored(file, second)
    again = await open_index(second, clock=Hand())
    assert await everything(again) == told
    assert (await again.publish(new("later", small(b"x")), NEVER, project="p")).version.order > highest
    assert await again.lease("garbage", "another", 60), "the lease of a process that is gone is free"
    await again.remove("b", "small/1", "", project="p")  # it goes on: sums follow, whatever their slots
    await again.close()
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("kind", DATABASES)
async def test_an_index_that_holds_something_is_not_replaced_unless_told(
    places: Places, tmp_path: Path, kind: str
) -> None:
    file, source, target = tmp_path / "backup", await places.new("sqlite"), await places.new(kind)
    for place, key in ((source, "theirs"), (target, "mine")):
        index = await open_index(place, clock=Hand())
        await index.publish(new(key, small(b"x")), NEVER, project="p")
        await index.close()
    await written(source, file)
    with pytest.raises(NotEmpty, match=r"holds an object index already; --replace"):
        await restored(file, target)
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])
    with pytest.raises(BrokenBackup):
        await restored(file, target, replace=True)
    index = await open_index(target, clock=Hand())
    assert [v.key for v in (await index.list("b")).versions] == ["mine"], "all of it, or nothing"
    await index.close()
    file.write_bytes(whole)
    await restored(file, target, replace=True)
    index = await open_index(target, clock=Hand())
    assert [v.key for v in (await index.list("b")).versions] == ["theirs"]
    await index.close()


async def test_an_index_that_was_only_opened_counts_as_empty(places: Places, tmp_path: Path) -> None:
    file, source, target = tmp_path / "backup", await places.new("sqlite"), await places.new("postgresql")
    for place in (source, target):
        index = await open_index(place, clock=Hand())
        await index.note("store", f"of {place[:5]}")
        await index.close()
    await written(source, file)
    await restored(file, target)
    index = await open_index(target, clock=Hand())
    assert await index.note("store") == f"of {source[:5]}"
    await index.close()


async def test_one_holding_is_not_taken_for_the_other(places: Places, tmp_path: Path) -> None:
    file, source = tmp_path / "backup", await places.new("sqlite")
    await (await open_index(source, clock=Hand())).close()
    await written(source, file)
    assert holding_of(file, (STORE, OBJECTS)) is OBJECTS
    with pytest.raises(BrokenBackup, match="no backup of a store"):
        verify(file, quiet)


async def test_store_and_index_share_a_postgresql_and_leave_one_another_alone(places: Places, tmp_path: Path) -> None:
    file, database = tmp_path / "backup", await places.new("postgresql")
    store = await open_store(database, clock=SystemClock(), ids=SystemIds())
    await store.commit(Create(Key("Disk", "p", "a"), "u1", {}))
    await store.close()
    index = await open_index(database, clock=Hand())
    await fill(index)
    told = await everything(index)
    await index.close()
    await written(database, file)
    await restored(file, database, replace=True)
    store = await open_store(database, clock=SystemClock(), ids=SystemIds())
    assert (await store.get(Key("Disk", "p", "a"))).uid == "u1"
    with pytest.raises(AlreadyExists):
        await store.commit(Create(Key("Disk", "p", "a"), "u2", {}))
    await store.close()
    index = await open_index(database, clock=Hand())
    assert await everything(index) == told
    await index.close()


@pytest.mark.parametrize("target", DATABASES)
async def test_however_much_it_holds_memory_is_bounded(places: Places, tmp_path: Path, target: str) -> None:
    """Forty megabytes of small objects, a few of them at a time."""
    source, second, file = await places.new("sqlite"), await places.new(target), tmp_path / "backup"
    index = await open_index(source, clock=Hand())
    body = os.urandom(16_000)
    for start in range(0, 2500, 50):
        await asyncio.gather(*(index.publish(new(f"k{start + n}", small(body)), NEVER, project="p") for n in range(50)))
    await index.close()
    tracemalloc.start()
    try:
        await written(source, file)
        await restored(file, second)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 12_000_000, most
    again = await open_index(second, clock=Hand())
    assert (await again.held("b")).versions == 2500
    await again.close()


RESTORE = """
import asyncio, os, signal, sys
from pathlib import Path
from hansa.kinds.resource import Key
from hansa.objectindex.holding import OBJECTS
from hansa.store import tables

def told(table, rows):
    if table == "s3_versions" and rows >= 300:
        os.kill(os.getpid(), signal.SIGKILL)

async def work():
    async with tables.target(sys.argv[2], OBJECTS) as put:
        await tables.load(Path(sys.argv[1]), put, replace=False, told=told)

asyncio.run(work())
"""


@pytest.mark.parametrize("kind", DATABASES)
async def test_a_restore_that_is_killed_leaves_nothing_and_may_be_done_again(
    places: Places, tmp_path: Path, kind: str
) -> None:
    source, target, file = await places.new("sqlite"), await places.new(kind), tmp_path / "backup"
    index = await open_index(source, clock=Hand())
    for n in range(500):
        await index.publish(new(f"k{n}", small(b"x")), NEVER, project="p")
    await index.close()
    await written(source, file)
    words = [sys.executable, "-c", RESTORE, str(file), target]
    ended = await asyncio.to_thread(subprocess.run, words, env=no_cloud(), timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL
    end = asyncio.get_running_loop().time() + 20
    while True:  # a server may take a moment to see that the connection broke
        try:
            await restored(file, target)
            break
        except Conflict:
            assert asyncio.get_running_loop().time() < end
            await asyncio.sleep(0.1)
    again = await open_index(target, clock=Hand())
    assert (await again.held("b")).versions == 500
    await again.close()


async def test_the_commands_move_an_index_and_say_what_they_did(places: Places, tmp_path: Path) -> None:
    old, new_folder, file = tmp_path / "old", tmp_path / "new", str(tmp_path / "b")
    (old / "s3").mkdir(parents=True)
    index = await open_index(old / "s3" / "index.db", clock=Hand())
    await fill(index)
    told = await everything(index)
    await index.close()
    url = await places.new("postgresql")

    def ran(command: Any, *words: str) -> Any:
        return CliRunner().invoke(command, list(words))

    said = await asyncio.to_thread(ran, backup_command, file, "--objects", "--data", str(old))
    assert said.exit_code == 0 and "9 s3_versions" in said.output and "bytes of larger objects" in said.output
    said = await asyncio.to_thread(ran, restore_command, file, "--data", str(new_folder), "--dry-run")
    assert said.exit_code == 0 and "is an object index, whole" in said.output
    assert not (new_folder / "s3" / "index.db").exists()
    said = await asyncio.to_thread(ran, restore_command, file, "--data", str(new_folder), "--database", url)
    assert said.exit_code == 0 and "restored" in said.output
    again = await open_index(url, clock=Hand())
    assert await everything(again) == told
    await again.close()
    another = str(tmp_path / "another")  # the lock of a folder ends with the process that restored into it
    said = await asyncio.to_thread(ran, restore_command, file, "--data", another, "--database", url)
    assert "holds an object index already" in str(said.exception)
    third = tmp_path / "third"
    said = await asyncio.to_thread(ran, restore_command, file, "--data", str(third))
    assert said.exit_code == 0 and (third / "s3" / "index.db").stat().st_mode & 0o777 == 0o600
