"""Versions that are kept: believed while nothing was committed, by whichever process, and asked for again else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hansa.objectindex import reading
from hansa.objectindex import statements as sql
from hansa.objectindex.changes import SLOTS, Changes
from hansa.objectindex.index import SqlObjectIndex
from hansa.objectindex.open import open_index
from hansa.objectindex.reading import key_name
from hansa.objectindex.records import Facts, NewVersion, Piece, Versioning

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def two(folder: Path) -> AsyncIterator[tuple[SqlObjectIndex, SqlObjectIndex, list[str]]]:
    """Two indexes of one database, and what the first is asked."""
    first, second = await open_index(folder / "index.db"), await open_index(folder / "index.db")
    asked: list[str] = []
    ask = first._reader._ask

    async def noted(statement: str, **more: Any) -> Sequence[Any]:
        asked.append(statement)
        return await ask(statement, **more)

    first._reader._ask = noted
    try:
        yield first, second, asked
    finally:
        await first.close()
        await second.close()


def object_of(text: bytes, key: str = "k") -> NewVersion:
    piece = Piece(len(text), len(text), inline=text, sealed_key=text.hex())
    return NewVersion("b", key, "v", 1.0, len(text), "e", Facts(pieces=(piece,)))


async def put(index: SqlObjectIndex, text: bytes, key: str = "k") -> None:
    await index.publish(object_of(text, key), Versioning.NEVER, project="p")


async def read(index: SqlObjectIndex, key: str = "k") -> bytes | None:
    version = await index.get("b", key)
    return None if version is None else version.facts.pieces[0].inline


async def test_what_is_read_again_is_not_asked_for_until_somebody_commits(tmp_path: Path) -> None:
    async with two(tmp_path) as (first, second, asked):
        await put(first, b"one")
        assert [await read(first) for _ in range(3)] == [b"one"] * 3 and asked == [sql.READ_LATEST]
        await put(second, b"another", "elsewhere")
        assert await read(first) == b"one" and len(asked) == 1
        await second.amend("b", "k", "", lambda version: version.facts)
        assert await read(first) == b"one" and len(asked) == 2  # the row says the same
        assert await read(first) == b"one" and len(asked) == 2
        await put(second, b"two")
        assert await read(first) == b"two"
        await second.remove("b", "k", "null", project="p")
        assert await read(first) is None and await read(first) is None
        assert first._reader._bytes == 0


async def test_facts_that_change_are_seen_by_all(tmp_path: Path) -> None:
    async with two(tmp_path) as (first, second, _):
        await put(first, b"one")
        assert await read(first) == b"one"
        await second.amend("b", "k", "", lambda version: replace(version.facts, tags=(("a", "b"),)))
        seen = await first.get("b", "k")
        assert seen is not None and seen.facts.tags == (("a", "b"),) and seen.facts.pieces[0].inline == b"one"


async def test_nothing_is_believed_while_a_commit_is_under_way_or_was_left_in_the_middle(tmp_path: Path) -> None:
    async with two(tmp_path) as (first, second, asked):
        await put(first, b"one")
        await read(first)
        left = Changes(tmp_path / "index.db.changes")
        left.begin([key_name("b", "k")])  # and its process is gone
        assert left.stamp(key_name("b", "k")) is None
        assert [await read(first), await read(first)] == [b"one", b"one"] and len(asked) == 3
        await put(second, b"two")
        assert [await read(first), await read(first)] == [b"two", b"two"] and len(asked) == 4
        left.close()


async def test_no_more_is_kept_than_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "KEPT", 3)
    async with two(tmp_path) as (first, _, asked):
        for key in "abcde":
            await put(first, key.encode() * 100, key)
        for key in "abcdea":
            assert await read(first, key) == key.encode() * 100
        assert len(asked) == 6 and set(first._reader._kept) == {("b", key, "") for key in "dea"}
        monkeypatch.setattr(reading, "KEPT_BYTES", 1)
        await read(first, "b")
        assert set(first._reader._kept) == {("b", "b", "")}


def test_each_commit_has_a_stamp_of_its_own(tmp_path: Path) -> None:
    mine, other = Changes(tmp_path / "c"), Changes(tmp_path / "c")
    elsewhere, seen = mine.stamp(8), {mine.stamp(-7)}
    for _ in range(3):
        other.begin([-7, -7 + SLOTS])
        assert mine.stamp(-7) is None
        other.end([-7, -7 + SLOTS])
        assert mine.stamp(-7) == other.stamp(-7) not in seen
        seen.add(mine.stamp(-7))
    other.begin([-7])
    other.begin([-7])  # after one that never ended
    other.end([-7])
    assert mine.stamp(-7) not in seen and mine.stamp(8) == elsewhere
