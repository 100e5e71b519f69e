"""SQLite without room, and commits that go wrong by themselves: what was promised stays, nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hansa.clock import SystemClock, SystemIds
from hansa.errors import Retry
from hansa.kinds.resource import Key
from hansa.store.port import Claim, Create, Query, Reserve
from hansa.store.sqlite import SqliteDriver, open_sqlite
from hansa.store.store import SqlStore

pytestmark = pytest.mark.anyio
BODY = {"note": "x" * 2000}


def _create(n: int) -> Create:
    return Create(Key("PlacementGroup", "projects/p/regions/r", f"g{n}"), f"u{n}", BODY, due=False)


def _pages(store: SqlStore, room: int) -> None:
    """At most so many pages more than there are."""
    driver = store._driver
    assert isinstance(driver, SqliteDriver)
    there = driver._writer.execute("pragma page_count").fetchone()[0]
    driver._writer.execute(f"pragma max_page_count={there + room}")


@pytest.fixture(params=[False, True], ids=["grouped", "inline"])
async def store(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[SqlStore]:
    made = await open_sqlite(tmp_path / "db", clock=SystemClock(), ids=SystemIds(), inline=request.param)
    yield made
    await made.close()


async def test_a_database_without_room_keeps_what_it_promised(store: SqlStore) -> None:
    await store.commit(_create(0))
    _pages(store, 20)
    done = await asyncio.gather(*(store.commit(_create(n)) for n in range(1, 100)), return_exceptions=True)
    refused = [n for n, it in enumerate(done, 1) if isinstance(it, Retry)]
    assert refused and all(isinstance(it, (int, Retry)) for it in done)
    there = {s.key.name for s in (await store.list(Query("PlacementGroup", "projects/p/regions/r"))).items}
    assert there == {f"g{n}" for n in range(100) if n not in refused}
    assert "database or disk is full" in store.unwritable and "does not take writes" in store.unwritable
    _pages(store, 10_000)
    assert await store.trouble() == ""
    await asyncio.gather(*(store.commit(_create(n)) for n in refused))
    changes = [c.key.name for c in await store.changes(0)]
    assert sorted(changes) == sorted(f"g{n}" for n in range(100)), "each once"


async def test_a_commit_that_goes_wrong_by_itself_takes_no_other_with_it(store: SqlStore) -> None:
    beyond = Reserve("u", (Claim("amounts", "a", amount=2**70, ceiling=2**80),))  # more than a column holds
    async with asyncio.timeout(5):
        done = await asyncio.gather(
            store.commit(_create(1)), store.commit(beyond), store.commit(_create(2)), return_exceptions=True
        )
        assert isinstance(done[1], OverflowError) and isinstance(done[0], int) and isinstance(done[2], int)
        await store.commit(_create(3))
    assert len((await store.list(Query("PlacementGroup", "projects/p/regions/r"))).items) == 3
