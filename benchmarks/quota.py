"""Creators under a quota, 64 at once, against the same creators without one; how many get through when it is short;
and the same when a hundred times as much is held already.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hansa.api.resources import Asking, Resources
from hansa.clock import SystemClock, SystemIds
from hansa.config import Settings
from hansa.engines.simulated import SimulatedNetwork, SimulatedVolumes
from hansa.errors import Full
from hansa.fleetfile import FleetFile
from hansa.kinds.compute import Disk
from hansa.kinds.iam import Project
from hansa.kinds.resource import Key
from hansa.objectindex.nothing import NothingStored
from hansa.policy.quota import project_scope
from hansa.policy.verdict import Caller
from hansa.store.port import Claim, Release, Reserve, Write
from hansa.store.sqlite import open_sqlite
from hansa.wiring import Cloud, FleetEngines, assemble, simulated_host

CREATORS, ROUNDS, SHORT = 64, 25, 400
HELD_FEW, HELD_MANY = 1_000, 100_000
SCOPE = "projects/demo/regions/se-sto"
FLEET = FleetFile.model_validate(
    {"regions": [{"id": "se-sto", "name": "Stockholm", "country": "SE", "zones": [{"letter": "a", "site": "a"}],
                  "hosts": [{"id": "a-1", "zone": "a", "vcpus": 16, "memoryGB": 64}]}]}
)  # fmt: skip


def run() -> Iterator[dict[str, Any]]:
    yield from asyncio.run(_figures())


async def _figures() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(dir=".") as name:
        cloud = await _cloud(Path(name))
        owner = Caller("/iam/users/bench", owns=frozenset({cloud.credentials.organization}))
        with_quota = await _rate(cloud.api.resources, owner, "q")
        without = await _rate(_unlimited(cloud.api.resources), owner, "n")
        through, refused = await _short(cloud.api.resources, owner)
        few = await _commits(cloud, HELD_FEW)
        many = await _commits(cloud, HELD_MANY)
        await cloud.close()
    return [
        {"what": "creates under a quota, 64 at once", "per_s": round(with_quota), "without_quota_per_s": round(without),
         "ratio": round(with_quota / without, 2)},
        {"what": "64 creators at a quota that is short", "limit": SHORT, "through": through, "refused": refused,
         "oversold": max(0, through - SHORT)},
        {"what": "takes of one quota with 100,000 holders", "per_s": round(many), "with_1000_holders_per_s": round(few),
         "ratio": round(many / few, 2), "aim": 0.5},
    ]  # fmt: skip


async def _cloud(folder: Path) -> Cloud:
    clock, ids, engines = SystemClock(), SystemIds(), FleetEngines()
    for host in FLEET.regions[0].hosts:
        engines.by_host[host.id], engines.networks[host.id] = simulated_host(host, clock), SimulatedNetwork()
        engines.by_zone["se-sto-a"] = SimulatedVolumes()
    store = await open_sqlite(folder / "hansa.db", clock=clock, ids=ids)
    base = "http://127.0.0.1:8080"
    return await assemble(
        store, engines, Settings(data=folder), clock, ids, base, FLEET, folder, kept={}, contents=NothingStored()
    )


class _WithoutQuota:
    """The store, forgetting what is counted."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit(self, *writes: Write, **more: Any) -> int:
        kept = [w for w in writes if not (isinstance(w, Reserve) and any(c.counted for c in w.claims))]
        return int(await self._store.commit(*kept, **more))


def _unlimited(it: Resources) -> Resources:
    store: Any = _WithoutQuota(it.store)
    return Resources(store, it.admissions, it.gate, it.sealer, it.clock, it.ids, it.storage, it.quota_defaults)


async def _create(resources: Resources, owner: Caller, name: str) -> bool:
    body = {"metadata": {"id": name}, "spec": {"diskSize": {"amount": 1, "unit": "GB"}, "placement": {"zone": "a"}}}
    try:
        await resources.create(Asking(owner, "bench"), Disk, SCOPE, body)
    except Full:
        return False
    return True


async def _rate(resources: Resources, owner: Caller, prefix: str) -> float:
    began = time.perf_counter()
    for turn in range(ROUNDS):
        await asyncio.gather(*(_create(resources, owner, f"{prefix}{turn}-{n}") for n in range(CREATORS)))
    return ROUNDS * CREATORS / (time.perf_counter() - began)


async def _short(resources: Resources, owner: Caller) -> tuple[int, int]:
    held = {c.key: c.held for c in await resources.store.counts(project_scope("demo"))}["compute.disks"]
    body = {"spec": {"quotas": {"compute": {"disks": held + SHORT}}}}
    await resources.patch(Asking(owner, "bench"), Project, Key("Project", "", "demo"), body)
    through = 0
    for turn in range(10):
        through += sum(await asyncio.gather(*(_create(resources, owner, f"s{turn}-{n}") for n in range(CREATORS))))
    return through, 10 * CREATORS - through


async def _commits(cloud: Cloud, held: int) -> float:
    """Takes a second of a quota of which so many hold something."""

    def take(owner: str) -> Reserve:
        return Reserve(owner, (Claim(f"quotas/bench-{held}", "things", 1, ceiling=10**9, counted=True),))

    for start in range(0, held, 2000):
        await cloud.store.commit(*(take(f"h{held}-{n}") for n in range(start, min(held, start + 2000))))
    began = time.perf_counter()
    for turn in range(ROUNDS):
        names = [f"t{held}-{turn}-{n}" for n in range(CREATORS)]
        await asyncio.gather(*(cloud.store.commit(take(name)) for name in names))
    took = time.perf_counter() - began
    await cloud.store.commit(*(Release(f"t{held}-{turn}-{n}") for turn in range(ROUNDS) for n in range(CREATORS)))
    return ROUNDS * CREATORS / took
