"""Nothing that was acknowledged is lost, and nothing half-written is seen, however the process or the power ends.

Writers are killed at random moments and at named points, one or two of them on the same folder. In half of the turns
the power goes too: names in folders that were not flushed yet vanish, and bytes that were not. Then the folder is opened
again, and all that it says is compared with what the writers told before they died.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest

from hansa.engines.blobs.files import FileBlobs
from hansa.gateways.s3.sealing.content import Content, whole
from hansa.objectindex.open import open_index
from hansa.objectindex.port import ObjectIndex
from hansa.objectindex.records import NULL, Held, Version

from ..postgres import server
from .crash_child import PLAIN, POINTS, PROJECT, VERSIONED, Keys, body_of, place_of

TURNS = 1000 if os.environ.get("HANSA_LONG") else 50
WRITERS = 4  # threads of deeds in a process
DEADLINE_S = 30.0  # for a writer's life

State = tuple[tuple[str, bool, int, int], ...]  # versions of a key, oldest first: (id, marker, deed's number, size)


@dataclass
class History:
    """What each key may be by now: one state, or two where nobody knows whether the last deed was done."""

    states: dict[tuple[str, str], set[State]] = field(default_factory=dict)
    open: dict[int, dict[str, Any]] = field(default_factory=dict)
    acknowledged: int = 0

    def take(self, line: dict[str, Any]) -> None:
        if "begin" in line:
            self.open[line["begin"]] = line
        elif "done" in line:
            deed = self.open.pop(line["done"])
            self.acknowledged += 1
            self.states[_key(deed)] = {_after(state, deed) for state in self.of(_key(deed))}

    def of(self, key: tuple[str, str]) -> set[State]:
        return self.states.get(key, {()})

    def end(self) -> None:
        """All writers are dead: what was begun may have been done or not."""
        for deed in self.open.values():
            states = self.of(_key(deed))
            self.states[_key(deed)] = states | {_after(state, deed) for state in states}
        self.open.clear()


def _key(deed: dict[str, Any]) -> tuple[str, str]:
    return deed["bucket"], deed["key"]


def _after(state: State, deed: dict[str, Any]) -> State:
    plain, number = deed["bucket"] == PLAIN, deed.get("begin", 0)
    id = NULL if plain else f"v{number}"
    match deed["what"]:
        case "put":
            return (*(() if plain else state), (id, False, number, deed["size"]))
        case "delete":
            return () if plain else (*state, (id, True, number, 0))
        case _:
            return tuple(version for version in state if version[0] != deed["id"])


class Disk:
    """What a loss of power would take: names whose folder was not flushed since, and bytes that were not flushed."""

    def __init__(self) -> None:
        self._names: dict[str, tuple[Path, bool]] = {}  # name -> (file, is its folder being flushed)
        self._flushed: set[int] = set()

    def take(self, line: dict[str, Any], root: Path) -> None:
        match line["disk"]:
            case "flushed":
                self._flushed.add(line["inode"])
            case "linked":
                self._names[line["path"]] = (root / line["path"], False)
                assert line["inode"] in self._flushed, "a name is given to bytes that were not flushed"
            case "folder begin":
                for name, (file, _) in self._names.items():
                    if str(file.parent) == line["folder"]:
                        self._names[name] = (file, True)
            case _:
                folder = line["folder"]
                self._names = {
                    name: (file, flushing)
                    for name, (file, flushing) in self._names.items()
                    if not (flushing and str(file.parent) == folder)
                }

    def lose(self) -> int:
        for file, _ in self._names.values():
            file.unlink(missing_ok=True)
        return len(self._names)


class Mould:
    """The program that forks writers, one at a time."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.contract.crash_child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2], env=environment,
        )  # fmt: skip

    def turn(self, deeds: int, **order: Any) -> list[dict[str, Any]]:
        """All that a writer says until it is dead, which is after so many deeds, or at its point."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(orjson.dumps(order) + b"\n")
        self._process.stdin.flush()
        lines: list[dict[str, Any]] = []
        while raw := self._process.stdout.readline():
            line = orjson.loads(raw)
            lines.append(line)
            if "ended" in line:
                assert line["ended"] == -signal.SIGKILL, "a writer ended by itself"
                return lines
            deeds -= "done" in line
            if deeds == 0:
                with contextlib.suppress(ProcessLookupError):  # it has met its point meanwhile
                    os.kill(next(line["process"] for line in lines if "process" in line), signal.SIGKILL)
        raise AssertionError("the mould is gone")

    def end(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


@pytest.fixture
def moulds() -> Iterator[tuple[Mould, Mould]]:
    both = Mould(dict(os.environ)), Mould(dict(os.environ))
    yield both
    for mould in both:
        mould.end()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield str(tmp_path / "index.db")
        return
    url = asyncio.run(server().empty())
    yield url
    asyncio.run(server().drop(url))


def test_nothing_acknowledged_is_lost_and_nothing_half_written_is_seen(
    moulds: tuple[Mould, Mould], database: str, tmp_path: Path
) -> None:
    seed = int(os.environ.get("HANSA_SEED", "1"))
    chance, history = random.Random(seed), History()
    turns = TURNS if database.endswith(".db") else TURNS // 5
    for turn in range(turns):
        disks = [Disk(), Disk()]
        with ThreadPoolExecutor(2) as threads:
            running = [
                threads.submit(mould.turn, chance.randint(1, 40), **_order(tmp_path, database, turn, n, chance))
                for n, mould in enumerate(moulds[: chance.choice([1, 1, 2])])
            ]
            told = [future.result(DEADLINE_S) for future in running]
        for lines, disk in zip(told, disks, strict=False):
            for line in lines:
                if "disk" in line:
                    disk.take(line, (tmp_path / "blobs").resolve())
                else:
                    history.take(line)
        history.end()
        if turn % 2:
            for disk in disks:
                disk.lose()
        asyncio.run(_look(tmp_path, database, history))
    assert history.acknowledged > 5 * turns


def _order(folder: Path, database: str, turn: int, n: int, chance: random.Random) -> dict[str, Any]:
    """Half of the writers die at a point of their own, the others when they have done so much."""
    name = chance.choice(POINTS) if chance.random() < 0.5 else ""
    point = {
        "name": name,
        "times": chance.randint(1, 200 if name == "statement" else 15),
        "after": chance.random() < 0.5,
    }
    return {
        "folder": str(folder), "database": database, "name": "ab"[n], "base": (turn * 2 + n + 1) * 100_000,
        "seed": chance.randrange(1 << 30), "writers": WRITERS, "point": point,
    }  # fmt: skip


async def _look(folder: Path, database: str, history: History) -> None:
    index, blobs = await open_index(database), FileBlobs(folder / "blobs", reserve=0)
    content = Content(index, blobs, Keys())
    try:
        for bucket in (PLAIN, VERSIONED):
            await _look_at_bucket(index, content, bucket, history)
        for blob in await index.blobs(limit=10_000):
            assert await blobs.size(blob) is not None, "the index knows a blob that is not there"
        await _clear(index, blobs)
    finally:
        await content.close()
        await blobs.close()
        await index.close()


async def _look_at_bucket(index: ObjectIndex, content: Content, bucket: str, history: History) -> None:
    versions = (await index.list_versions(bucket, limit=10_000)).versions
    found: dict[tuple[str, str], list[Version]] = {}
    for version in versions:
        found.setdefault((bucket, version.key), []).insert(0, version)
    keys = {key for key in history.states if key[0] == bucket} | set(found)
    for key in keys:
        state = tuple([(v.id, v.marker, int(v.etag.removeprefix("etag")), v.size) for v in found.get(key, [])])
        assert state in history.of(key), f"{key}: {state} is none of {history.of(key)}"
        history.states[key] = {state}
        assert [v.latest for v in found.get(key, [])] == [False] * (len(state) - 1) + [True] * bool(state)
    for version in versions:
        await _look_at_bytes(index, content, version)
    current = [v.key for v in versions if v.latest and not v.marker]
    assert [v.key for v in (await index.list(bucket, limit=10_000)).versions] == current
    uploads = (await index.uploads(bucket, limit=10_000)).uploads
    parts = [part for upload in uploads for part in await index.parts(upload.id)]
    held = Held(
        sum(v.size for v in versions), len(versions), len(current), sum(p.piece.size for p in parts), len(uploads)
    )  # fmt: skip
    assert await index.held(bucket) == held
    for upload in uploads:
        assert await index.abort(bucket, upload.id, project=PROJECT)


async def _look_at_bytes(index: ObjectIndex, content: Content, listed: Version) -> None:
    version = await index.get(listed.bucket, listed.key, listed.id)
    assert version is not None
    if not version.marker:
        body = body_of(int(version.facts.metadata["number"]), version.size)
        assert await whole(content, place_of(version.bucket), version) == body


async def _clear(index: ObjectIndex, blobs: FileBlobs) -> None:
    """Garbage is deleted as ever; what is left are orphans, which are all that a crash may leave."""
    garbage = [one.blob for one in await index.garbage(before=1e12, limit=10_000)]
    for blob in garbage:
        await blobs.delete(blob)
    await index.reaped(garbage)
    there = [blob.id async for blob in blobs.all()]
    for orphan in set(there) - await index.known(there):
        await blobs.delete(orphan)
