"""Creates through the store against bare group commits of the same rows and batch; passes of the loop."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hansa.clock import SystemClock, SystemIds
from hansa.config import Settings
from hansa.control.loop import Loop
from hansa.control.outcome import Outcome, conditions
from hansa.control.world import World
from hansa.kinds import catalogue
from hansa.kinds.compute import PlacementGroup, PlacementGroupStatus
from hansa.kinds.resource import Key
from hansa.objectindex.nothing import NothingStored
from hansa.sealing import Sealer
from hansa.store.port import Create
from hansa.store.sqlite import open_sqlite
from hansa.store.store import SqlStore
from hansa.wiring import FleetEngines

assert catalogue.MODULES
BATCH, ROUNDS = 64, 40
PASSES = 2000
SPEC = {"strategy": {"type": "spread"}, "placement": {"zone": "a"}, "note": "x" * 400}


def run() -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory(dir=".") as name:
        ours = asyncio.run(_ours(Path(name) / "ours.db"))
        bare = _bare(Path(name) / "bare.db")
        yield {"what": "creates through the store", "per_s": round(ours), "bare_group_commit_per_s": round(bare),
               "ratio": round(ours / bare, 2), "batch": BATCH}  # fmt: skip
        yield {"what": "passes of the loop", "per_s": round(asyncio.run(_passes(Path(name) / "loop.db")))}


async def _ours(path: Path) -> float:
    store = await open_sqlite(path, clock=SystemClock(), ids=SystemIds())
    began = time.perf_counter()
    for r in range(ROUNDS):
        await asyncio.gather(*(store.commit(_create(r * BATCH + i)) for i in range(BATCH)))
    took = time.perf_counter() - began
    await store.close()
    return ROUNDS * BATCH / took


def _create(n: int, *, due: bool = True) -> Create:
    return Create(Key("PlacementGroup", "projects/p/regions/r", f"g{n}"), f"u{n}", SPEC, status={"s": 1}, due=due)


def _bare(path: Path) -> float:
    """Three rows a create (object, change, work), one transaction a batch, flushed."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("pragma journal_mode=wal")
    connection.execute("pragma synchronous=full")
    connection.execute(
        "create table objects (kind, scope, name, uid unique, spec, status, primary key (kind, scope, name))"
    )
    connection.execute("create table changes (revision integer primary key, kind, scope, name, body)")
    connection.execute("create table work (kind, scope, name, due, primary key (kind, scope, name))")
    text = str(SPEC)
    began = time.perf_counter()
    for r in range(ROUNDS):
        connection.execute("begin immediate")
        for i in range(BATCH):
            key = ("PlacementGroup", "projects/p/regions/r", f"g{r * BATCH + i}")
            connection.execute("insert into changes (kind, scope, name, body) values (?, ?, ?, ?)", (*key, text))
            connection.execute("insert into objects values (?, ?, ?, ?, ?, ?)", (*key, f"u{r * BATCH + i}", text, "{}"))
            connection.execute("insert into work values (?, ?, ?, ?)", (*key, 0.0))
        connection.execute("commit")
    took = time.perf_counter() - began
    connection.close()
    return ROUNDS * BATCH / took


class Nothing:
    """Reconciles a group at once: what a pass costs besides its work."""

    kind = PlacementGroup

    async def reconcile(self, it: Any, world: World) -> Outcome:
        return Outcome(PlacementGroupStatus(conditions=conditions(it, world.clock.now(), True, "Available")))


async def _passes(path: Path) -> float:
    store = await open_sqlite(path, clock=SystemClock(), ids=SystemIds())
    for start in range(0, PASSES, 500):
        await store.commit(*(_create(n) for n in range(start, start + 500)))
    rate = await looped([store], PASSES)
    await store.close()
    return rate


async def looped(stores: Sequence[SqlStore], count: int) -> float:
    """Passes a second of control loops, one a store, over so many due groups."""
    loops = []
    for store in stores:
        world = World(store, FleetEngines(), SystemClock(), SystemIds(), Settings(), NothingStored(), Sealer(bytes(32)))
        loops.append(Loop(world, {"PlacementGroup": Nothing()}, 64))
        store.on_commit(loops[-1].wake)
    began = time.perf_counter()
    running = [asyncio.create_task(loop.run()) for loop in loops]
    while sum(loop.counts.passes for loop in loops) < count or any(loop.in_flight for loop in loops):
        await asyncio.sleep(0.002)
    took = time.perf_counter() - began
    for loop in loops:
        await loop.stop()
    await asyncio.gather(*running)
    return count / took
