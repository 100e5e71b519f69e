"""Creates through the store against bare group commits of the same rows and batch; passes of the loop."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
import time
from collections.abc import Iterator
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
from hansa.store.port import Create
from hansa.store.sqlite import open_sqlite
from hansa.wiring import FleetEngines

assert catalogue.MODULES
BATCH, ROUNDS = 64, 40
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


class _Nothing:
    kind = PlacementGroup

    async def reconcile(self, it: Any, world: World) -> Outcome:
        return Outcome(PlacementGroupStatus(conditions=conditions(it, world.clock.now(), True, "Available")))


async def _passes(path: Path) -> float:
    count = 2000
    store = await open_sqlite(path, clock=SystemClock(), ids=SystemIds())
    for start in range(0, count, 500):
        await store.commit(*(_create(n) for n in range(start, start + 500)))
    world = World(store, FleetEngines(), SystemClock(), SystemIds(), Settings())
    loop = Loop(world, {"PlacementGroup": _Nothing()}, 64)
    store.on_commit(loop.wake)
    began = time.perf_counter()
    running = asyncio.create_task(loop.run())
    while loop.counts.passes < count or loop._running:
        await asyncio.sleep(0.002)
    took = time.perf_counter() - began
    await loop.stop()
    await running
    await store.close()
    return count / took
