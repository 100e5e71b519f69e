"""What of a process is counted, and when it is ready: the numbers of store, loop and door, told to one registry."""

from __future__ import annotations

import time
from collections.abc import Iterable

from starlette.types import ASGIApp

from hansa.api.operator import Check, Operator, nothing_else
from hansa.clock import Ids
from hansa.config import Settings
from hansa.control.loop import Loop
from hansa.edge.server import Server
from hansa.errors import Retry
from hansa.metrics import Metrics, Sample
from hansa.store.port import Backlog, Store
from hansa.store.store import SqlStore

SILENT_S = 20.0  # a loop that has not looked for so long does not work


def operator_of(
    api: ASGIApp, ids: Ids, settings: Settings, metrics: Metrics, store: Store, loop: Loop | None
) -> Operator:
    """The application around `api`. `loop` None: this process has none, and is ready without."""
    checks: dict[str, Check] = {"store": lambda: _store(store)}
    if loop is not None:
        checks["loop"] = lambda: _loop(loop)
    served = nothing_else if settings.role == "control" else api
    return Operator(served, ids, metrics, settings.metrics, checks)


def observe_store(metrics: Metrics, store: SqlStore) -> None:
    """Commits of this process, and the work of the whole cloud."""
    store.timed = metrics.commit_s.observe

    async def backlog() -> Backlog | None:
        try:
            return await store.backlog()
        except Retry:  # `/health/ready` tells it
            return None

    async def work() -> Iterable[Sample]:
        found = await backlog()
        return [(("due",), found.due), (("leased",), found.leased)] if found else []

    async def behind() -> Iterable[Sample]:
        found = await backlog()
        return [((), found.behind_s)] if found else []

    metrics.work.samples, metrics.behind.samples = work, behind


def observe_loop(metrics: Metrics, loop: Loop) -> None:
    loop.timed = metrics.pass_s.observe
    metrics.in_flight.one(lambda: loop.in_flight)


def observe_server(metrics: Metrics, server: Server) -> None:
    """Connections; counted once the server has a door."""
    metrics.connections.one(lambda: sum(door.inside for door in server.doors))

    def fates() -> dict[str, float]:
        tallies = [door.tally for door in server.doors]
        return {name: sum(getattr(t, name) for t in tallies) for name in ("accepted", "refused", "shown_out", "late")}

    metrics.fates.many(fates)


async def _store(store: Store) -> str:
    """Reads, and writes again where writing was the trouble."""
    await store.revision()
    return await store.trouble()


async def _loop(loop: Loop) -> str:
    silent_s = time.monotonic() - loop.beat
    if loop.beat == 0.0:
        return "the loop has not begun"
    return f"the loop has not looked for work for {silent_s:.0f} s" if silent_s > SILENT_S else ""
