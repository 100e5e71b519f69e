"""A backup holds the store as it was at one moment, and becomes the same store again, on either database."""

from __future__ import annotations

import asyncio
import gzip
import itertools
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner

from hansa.cli.stores import backup_command, migrate_command, restore_command
from hansa.clock import SystemClock, SystemIds
from hansa.errors import Conflict, Invalid
from hansa.kinds import catalogue
from hansa.kinds.resource import Key
from hansa.sealing import Sealer
from hansa.store import tables
from hansa.store.backup import BrokenBackup, verify, write_backup
from hansa.store.migrate import NewerDatabase, newest
from hansa.store.open import open_store
from hansa.store.port import Append, Claim, Create, Delete, Forget, LinkTo, Query, Reserve, SetSecret, SetStatus, Update
from hansa.store.store import SqlStore
from hansa.store.tables import NotEmpty

from ..postgres import server

assert catalogue.MODULES
pytestmark = pytest.mark.anyio
SCOPE = "projects/p/regions/r"
QUIET = lambda _table, _rows: None  # noqa: E731


def key(name: str) -> Key:
    return Key("Disk", SCOPE, name)


class Places:
    """New databases of either kind, gone after the test."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.numbers, self.urls = folder, itertools.count(), list[str]()

    async def new(self, kind: str) -> str:
        if kind == "sqlite":
            return str(self.folder / f"{next(self.numbers)}.db")
        self.urls.append(await server().empty())
        return self.urls[-1]


@pytest.fixture
async def places(tmp_path: Path) -> AsyncIterator[Places]:
    made = Places(tmp_path)
    yield made
    for url in made.urls:
        await server().drop(url)


async def opened(database: str) -> SqlStore:
    return await open_store(database, clock=SystemClock(), ids=SystemIds())


async def fill(store: SqlStore) -> None:
    await store.commit(
        Create(key("a"), "u1", {"n": 1, "text": "Grüße\u0000\u2028"}, labels={"k": "v"}),
        Create(key("b"), "u2", {"n": 2.5}, links=(LinkTo(key("a"), "spec.ref", holds=True, free=False),)),
        Create(key("gone"), "u3", {}), Create(key("going"), "u4", {}, due=False),
        Reserve("u1", (Claim("addr", "4"), Claim("host", "vcpus", 3, ceiling=8), Claim("jti", "x", until=4e9, note="n"))),
        SetSecret("u1", "key", bytes(range(256))), Append("usage", "r1", "u1", {"q": 1}), by="/iam/users/me",
    )  # fmt: skip
    found = await store.get(key("a"))
    await store.commit(Update(key("a"), found.user_revision, spec={"n": 2}), SetStatus(key("b"), 1, {"s": 1}, None))
    await store.commit(Delete(key("gone")), Delete(key("going")))
    await store.commit(Forget(key("gone"), None))
    await store.claim(1, 3600)  # a lease is open


async def everything(store: SqlStore) -> dict[str, Any]:
    """All that the port tells, but for what a restore changes: leases, and the revision of the page."""
    due = [await store.due(s.key) for s in (await store.list(Query("", below=True))).items]
    return {
        "objects": (await store.list(Query("", below=True))).items,
        "changes": await store.changes(0), "oldest": await store.oldest_change(),
        "due": [replace(d, leased_until=0) for d in due if d],
        "links": await store.pointers_to(key("a")), "claims": await store.claims("addr"), "mine": await store.claims_of("u1"),
        "records": await store.records("usage"), "secret": await store.secret("u1", "key"),
    }  # fmt: skip


@pytest.mark.parametrize("target", ["sqlite", "postgresql"])
@pytest.mark.parametrize("source", ["sqlite", "postgresql"])
async def test_a_backup_becomes_the_same_store(places: Places, tmp_path: Path, source: str, target: str) -> None:
    first, second, file = await places.new(source), await places.new(target), tmp_path / "backup"
    store = await opened(first)
    await fill(store)
    told = await everything(store)
    async with tables.source(first) as now:
        await write_backup(now, file, at=5.0, program="test", told=QUIET)
    highest = await store.commit(Create(key("later"), "u9", {}))
    await store.close()
    assert file.stat().st_mode & 0o777 == 0o600
    assert verify(file, QUIET).rows["objects"] == 3
    async with tables.target(second) as put:
        await tables.load(file, put, replace=False, told=QUIET)
    again = await opened(second)
    assert await everything(again) == told
    first_claimed, *others = [lease.key.name for lease in await again.claim(10, 60)]  # all are free, and due
    assert first_claimed == "going" and set(others) == {"a", "b"}
    assert await again.commit(Create(key("later"), "u9", {})) > highest  # no number is given out twice
    await again.close()


@pytest.mark.parametrize("source", ["sqlite", "postgresql"])
async def test_a_backup_is_of_one_moment_while_others_write(places: Places, tmp_path: Path, source: str) -> None:
    database = await places.new(source)
    store = await opened(database)
    for start in range(0, 3000, 500):
        await store.commit(*(Create(key(f"d{n}"), f"u{n}", {"pair": 0}) for n in range(start, start + 500)))
    stop = asyncio.Event()

    async def write() -> int:
        """Each commit changes two objects that lie far apart, to the same."""
        turn = 0
        while not stop.is_set():
            turn += 1
            await store.commit(
                SetStatus(key("d1"), 1, {"turn": turn}, None), SetStatus(key("d2999"), 1, {"turn": turn}, None)
            )
            await asyncio.sleep(0)
        return turn

    writing = asyncio.create_task(write())
    seen = set()
    for n in range(4):
        file = tmp_path / f"backup{n}"
        async with tables.source(database) as now:
            await write_backup(_Slow(now), file, at=5.0, program="test", told=QUIET)
        statuses: dict[str, Any] = {}

        def each(table: str, row: dict[str, Any], kept: dict[str, Any] = statuses) -> None:
            if table == "objects" and row["name"] in ("d1", "d2999"):
                kept[row["name"]] = orjson.loads(row["status"])
            if table == "changes" and row["name"] == "d2999" and row["act"] == "status":
                kept["change"] = max(kept.get("change", 0), orjson.loads(row["body"])["status"]["turn"])

        verify(file, QUIET, each)
        assert statuses["d1"] == statuses["d2999"]
        assert statuses.get("change", 0) == statuses["d1"].get("turn", 0)
        seen.add(statuses["d1"].get("turn", 0))
    stop.set()
    assert await writing > 10 and len(seen) > 1  # it did write meanwhile
    await store.close()


class _Slow:
    """A source whose reader lets others run between batches."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.name = inner.name

    async def schema(self) -> int:
        return int(await self._inner.schema())

    async def columns(self) -> Any:
        return await self._inner.columns()

    async def rows(self, table: str, columns: Any) -> AsyncIterator[Any]:
        async for batch in self._inner.rows(table, columns):
            await asyncio.sleep(0.01)
            yield batch


@pytest.fixture
async def backup(places: Places, tmp_path: Path) -> Path:
    database, file = await places.new("sqlite"), tmp_path / "backup"
    store = await opened(database)
    await fill(store)
    await store.close()
    async with tables.source(database) as now:
        await write_backup(now, file, at=5.0, program="test", told=QUIET)
    return file


def changed(file: Path, change: Any) -> None:
    lines = gzip.decompress(file.read_bytes()).splitlines(keepends=True)
    file.write_bytes(gzip.compress(b"".join(change(lines))))


BREAKS: dict[str, Any] = {
    "a row less": lambda lines: lines[:3] + lines[4:],
    "a row more": lambda lines: [*lines[:3], lines[3], *lines[3:]],
    "a letter in a row": lambda lines: [*lines[:3], lines[3].replace(b"projects", b"projectz"), *lines[4:]],
    "the end is missing": lambda lines: lines[:-1],
    "cut in a row": lambda lines: [*lines[:-1], lines[-1][:10]],
    "something after the end": lambda lines: [*lines, b"[]\n"],
    "another count": lambda lines: [x.replace(b'"rows":3', b'"rows":4') for x in lines],
    "another date": lambda lines: [lines[0].replace(b'"madeAt":5.0', b'"madeAt":6.0'), *lines[1:]],
    "no JSON": lambda lines: [*lines[:3], b"{\n", *lines[4:]],
    "another file": lambda lines: [b"hello\n"],
    "an empty file": lambda lines: [],
    "another format": lambda lines: [lines[0].replace(b'"version":1', b'"version":2'), *lines[1:]],
    "no tables": lambda lines: [b'{"format":"hansa-backup","version":1,"schema":1,"madeAt":1,"tables":{}}\n'],
}


@pytest.mark.parametrize("broken", BREAKS)
async def test_a_damaged_backup_is_refused(backup: Path, broken: str) -> None:
    before = verify(backup, QUIET)
    changed(backup, BREAKS[broken])
    with pytest.raises(BrokenBackup):
        verify(backup, QUIET)
    assert before.rows["objects"] == 3


@pytest.mark.parametrize("at", [0.1, 0.5, 0.9, 0.999])
async def test_a_backup_that_was_cut_or_hit_by_a_bit_is_refused(backup: Path, at: float) -> None:
    whole = backup.read_bytes()
    place = int(len(whole) * at)
    backup.write_bytes(whole[:place])
    with pytest.raises(BrokenBackup):
        verify(backup, QUIET)
    backup.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
    with pytest.raises(BrokenBackup):
        verify(backup, QUIET)


async def test_a_newer_backup_is_refused(backup: Path) -> None:
    changed(backup, lambda lines: [lines[0].replace(f'"schema":{newest()}'.encode(), b'"schema":9999'), *lines[1:]])
    with pytest.raises(NewerDatabase, match="9999"):
        verify(backup, QUIET)


async def test_an_existing_file_is_not_written_over(backup: Path, places: Places) -> None:
    before = backup.read_bytes()
    database = await places.new("sqlite")
    await (await opened(database)).close()
    async with tables.source(database) as now:
        with pytest.raises(Invalid, match="there already"):
            await write_backup(now, backup, at=5.0, program="test", told=QUIET)
    assert backup.read_bytes() == before


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_a_restore_changes_nothing_unless_all_of_it_succeeds(backup: Path, places: Places, kind: str) -> None:
    database = await places.new(kind)
    store = await opened(database)
    await store.commit(Create(key("mine"), "m1", {}))
    await store.close()
    with pytest.raises(NotEmpty, match="--replace"):
        async with tables.target(database) as put:
            await tables.load(backup, put, replace=False, told=QUIET)
    whole = backup.read_bytes()
    changed(backup, lambda lines: lines[:-1])
    with pytest.raises(BrokenBackup):
        async with tables.target(database) as put:
            await tables.load(backup, put, replace=True, told=QUIET)
    store = await opened(database)
    assert [s.uid for s in (await store.list(Query("", below=True))).items] == ["m1"]
    if kind == "postgresql":
        with pytest.raises(Conflict, match="running"):
            async with tables.target(database):
                pass
    await store.close()
    backup.write_bytes(whole)
    async with tables.target(database) as put:
        await tables.load(backup, put, replace=True, told=QUIET)
    store = await opened(database)
    assert [s.uid for s in (await store.list(Query("", below=True))).items] == ["u1", "u2", "u4"]
    await store.close()


# -- the commands -------------------------------------------------------------------------------


def test_the_commands_say_what_they_do_and_what_is_missing(tmp_path: Path) -> None:
    """Out of a folder with its keys, into one without, then with them."""
    old, new, file = tmp_path / "old", tmp_path / "new", str(tmp_path / "b")
    old.mkdir()
    sealer = Sealer.load(old / "keys" / "sealing.key")

    async def prepare() -> None:
        store = await opened(str(old / "hansa.db"))
        await store.commit(Create(key("a"), "u1", {}), SetSecret("u1", "k", sealer.seal(b"hidden", "u1/k")))
        await store.close()

    asyncio.run(prepare())
    run = CliRunner()
    said = run.invoke(migrate_command, ["--data", str(old)], catch_exceptions=False)
    assert f"schema {newest()}" in said.output and "nothing to apply" in said.output
    said = run.invoke(backup_command, [file, "--data", str(old)], catch_exceptions=False)
    assert "1 objects" in said.output and "keys are not in it" in said.output
    assert b"hidden" not in gzip.decompress(Path(file).read_bytes())
    said = run.invoke(restore_command, [file, "--data", str(new)])
    assert "1 of 1 secrets do not open" in str(said.exception)
    assert not (new / "hansa.db").exists() and not (new / "keys").exists()
    (new / "keys").mkdir(parents=True)
    (new / "keys" / "sealing.key").write_bytes((old / "keys" / "sealing.key").read_bytes())
    said = run.invoke(restore_command, [file, "--data", str(new), "--dry-run"], catch_exceptions=False)
    assert "whole: " in said.output and not (new / "hansa.db").exists()
    said = run.invoke(migrate_command, ["--data", str(new), "--dry-run"], catch_exceptions=False)
    assert "schema 0" in said.output and "would apply 0001 init" in said.output and not (new / "hansa.db").exists()
    said = run.invoke(restore_command, [file, "--data", str(new)], catch_exceptions=False)
    assert "restored" in said.output

    async def look() -> bytes | None:
        store = await opened(str(new / "hansa.db"))
        value = await store.secret("u1", "k")
        await store.close()
        return value

    value = asyncio.run(look())
    assert value is not None and sealer.open(value, "u1/k") == b"hidden"
