"""One fleet file for all processes over a store: a differing one goes no further, and a dead one is in nobody's way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hansa import samefleet
from hansa.clock import SystemIds
from hansa.errors import Conflict, Retry
from hansa.fleetfile import parse_fleet
from hansa.hands import Hands
from hansa.samefleet import LIFE_S, SCOPE, SameFleet, digest_of, named_here
from hansa.store.open import open_store
from hansa.store.store import SqlStore

from ..clocks import Hands as Clock

pytestmark = pytest.mark.anyio
FILE = """\
regions:
  - {id: se-sto, name: Stockholm, country: SE, zones: [{letter: a, site: One}], hosts: [{id: h, zone: a, real: true}]}
"""


@pytest.fixture
def time() -> Clock:
    return Clock()


@pytest.fixture
async def store(tmp_path: Path, time: Clock) -> AsyncIterator[SqlStore]:
    made = await open_store(tmp_path / "x.db", clock=time, ids=SystemIds())
    yield made
    await made.close()


def process(store: SqlStore, owner: str, digest: str) -> SameFleet:
    return SameFleet(store, store.clock, owner, digest, f"process {owner}")


async def claimed(store: SqlStore) -> dict[str, str]:
    return {held.owner: held.claim.key for held in await store.claims(SCOPE)}


async def test_as_many_as_wish_start_with_the_same_file(store: SqlStore) -> None:
    for owner in "abc":
        await process(store, owner, "one").enter()
    assert await claimed(store) == dict.fromkeys("abc", "one")


async def test_one_with_another_file_is_refused_and_leaves_nothing(store: SqlStore) -> None:
    first, other = process(store, "a", "one"), process(store, "b", "two")
    await first.enter()
    with pytest.raises(Conflict, match="not the one of process a, .* stop them all, .* it counts for 60 s more"):
        await other.enter()
    assert await claimed(store) == {"a": "one"}
    await first.leave()
    await other.enter()
    assert await claimed(store) == {"b": "two"}


async def test_who_died_elsewhere_counts_until_the_claim_runs_out(store: SqlStore, time: Clock) -> None:
    await process(store, "a", "one").enter()
    time.at += LIFE_S - 1
    with pytest.raises(Conflict, match="counts for 1 s more"):
        await process(store, "b", "two").enter()
    time.at += 2
    await process(store, "b", "two").enter()


async def test_who_died_in_the_same_folder_is_buried_at_once(store: SqlStore, tmp_path: Path) -> None:
    dead = Hands.enter(tmp_path, store, "dead")
    await process(store, dead.name, "one").enter()
    alive = Hands.enter(tmp_path, store, "alive")
    await alive.look()
    assert await claimed(store) == {"dead": "one"}  # it lives yet
    dead.leave()  # and now its lock is free; the file that a killed process leaves is put there again
    (tmp_path / "hands" / "dead").touch()
    await alive.look()
    await process(store, alive.name, "two").enter()
    assert await claimed(store) == {"alive": "two"}
    alive.leave()


async def test_a_claim_is_renewed_and_a_late_process_gives_way(
    store: SqlStore, time: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samefleet, "RENEW_S", 0.01)
    first = process(store, "a", "one")
    await first.enter()
    keeping = asyncio.create_task(first.keep())
    time.at += LIFE_S - 1
    async with asyncio.timeout(10):
        while (await store.claims(SCOPE))[0].claim.until != store.clock.now() + LIFE_S:
            await asyncio.sleep(0.01)
    monkeypatch.setattr(SqlStore, "claims", away)
    await asyncio.sleep(0.1)
    assert not keeping.done()  # the store is away: it goes on
    time.at += LIFE_S + 1
    monkeypatch.undo()
    await process(store, "b", "two")._write()
    async with asyncio.timeout(60):
        with pytest.raises(Conflict, match="process b"):
            await keeping


async def away(*_: Any, **__: Any) -> Any:
    raise Retry("the database does not answer")


def test_comments_and_order_do_not_count_and_what_is_written_does() -> None:
    def digest(text: str, *, stand_ins: bool = True) -> str:
        return digest_of(parse_fleet(text.encode(), "x.yaml"), stand_ins=stand_ins)

    swapped = FILE.replace("id: se-sto, name: Stockholm", "name: Stockholm, id: se-sto")
    assert digest(FILE) == digest(f"# a note\n{FILE}") == digest(swapped)
    others = {digest(FILE.replace("Stockholm", "Solna")), digest(FILE.replace("id: h", "id: i")), digest(FILE)}
    assert len(others | {digest(FILE, stand_ins=False)}) == 4


def test_a_process_is_told_of_by_what_an_operator_can_find(tmp_path: Path) -> None:
    assert f"(folder {tmp_path}, with the shipped fleet file)" in named_here(tmp_path, None)
    assert named_here(tmp_path, Path("/srv/f.yaml")).endswith("with /srv/f.yaml)")
