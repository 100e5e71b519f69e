"""A bucket that goes is emptied past whatever locks keep, a page a pass, on either database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hansa.control import draining
from hansa.control.draining import Drained, Draining
from hansa.objectindex.open import open_index
from hansa.objectindex.port import ObjectIndex
from hansa.objectindex.records import Facts, Lock, Upload, Versioning

from ..postgres import a_database
from .test_objectindex import Hand, new, small

pytestmark = pytest.mark.anyio
PASSES_MAX = 200
LOCKED = Facts(lock=Lock("GOVERNANCE", 1.9e9))
HELD = Facts(lock=Lock(hold=True))
NOW = 1_800_000_000.0


@pytest.fixture(params=["sqlite", "postgresql"])
async def index(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ObjectIndex]:
    async with a_database(request.param, tmp_path / "index.db") as place:
        opened = await open_index(place, clock=Hand())
        yield opened
        await opened.close()


@pytest.fixture(autouse=True)
def short_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draining, "DRAIN_MAX", 5)


async def put(index: ObjectIndex, key: str, facts: Facts | None = None) -> None:
    await index.publish(new(key, small(b"x"), facts=facts), Versioning.ENABLED, project="p")


async def a_round(draining: Draining, index: ObjectIndex, now: float = NOW) -> tuple[Drained, int]:
    for number in range(1, PASSES_MAX):
        drained = await draining.drain(index, "b", "p", now)
        if drained.over:
            return drained, number
    raise AssertionError("a round does not end")


async def keys(index: ObjectIndex) -> list[str]:
    return [version.key for version in (await index.list_versions("b")).versions]


async def test_what_lies_behind_more_locked_versions_than_a_page_holds_goes_too(index: ObjectIndex) -> None:
    for n in range(12):
        await put(index, f"a{n:02}", LOCKED if n % 2 else HELD)
    for n in range(7):
        await put(index, f"z{n}")
    drained, passes = await a_round(Draining(), index)
    assert drained == Drained(12, over=True) and passes == 4
    assert await keys(index) == [f"a{n:02}" for n in range(12)]


async def test_many_versions_of_one_key_are_gone_over_each_once(index: ObjectIndex) -> None:
    for n in range(30):
        await put(index, "k", LOCKED if n % 3 == 0 else None)
    drained, _ = await a_round(Draining(), index)
    assert drained == Drained(10, over=True) and await keys(index) == ["k"] * 10


async def test_the_next_round_begins_at_the_beginning_and_takes_what_is_free_by_then(index: ObjectIndex) -> None:
    rounds = Draining()
    for n in range(11):
        await put(index, f"a{n:02}", LOCKED if n < 6 else HELD)
    assert (await a_round(rounds, index))[0].locked == 11
    assert (await a_round(rounds, index, 2e9))[0].locked == 5
    assert await keys(index) == [f"a{n:02}" for n in range(6, 11)]


async def test_without_locks_all_goes_versions_and_uploads(index: ObjectIndex) -> None:
    for n in range(13):
        await put(index, f"k{n}")
    for n in range(8):
        await index.begin(Upload("b", f"u{n}", f"{n:032x}", NOW), project="p")
    drained, passes = await a_round(Draining(), index)
    assert drained == Drained(0, over=True) and passes == 3
    assert await index.close_bucket("b")


async def test_a_process_that_knows_nothing_of_the_round_begins_it_again(index: ObjectIndex) -> None:
    for n in range(12):
        await put(index, f"a{n:02}", LOCKED)
    await put(index, "z")
    first = await Draining().drain(index, "b", "p", NOW)
    assert first == Drained(5, over=False)
    assert (await a_round(Draining(), index))[0] == Drained(12, over=True)
    assert "z" not in await keys(index)


async def test_places_are_remembered_of_so_many_buckets_and_no_more(
    index: ObjectIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draining, "ROUNDS_MAX", 2)
    rounds = Draining()
    for bucket in ("b1", "b2", "b3"):
        for n in range(6):
            await index.publish(new(f"k{n}", small(b"x"), bucket=bucket, facts=LOCKED), Versioning.ENABLED, project="p")
        await rounds.drain(index, bucket, "p", NOW)
    assert list(rounds._places) == ["b2", "b3"]
