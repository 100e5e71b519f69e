"""The whole control plane under a seeded schedule of faults: kills of the control process, engines that fail
before or after they took effect, guests that die, users who change their minds. When the faults stop, the
invariants hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections import Counter
from typing import Any

import pytest

from hansa.api.admission import Gate
from hansa.api.resources import Asking, Resources
from hansa.clock import SeededIds
from hansa.config import Settings
from hansa.control.loop import Loop
from hansa.control.reconcilers import admissions, reconcilers
from hansa.control.world import World
from hansa.engines.simulated import Faults, SimulatedCompute, SimulatedVolumes
from hansa.errors import HansaError
from hansa.fleetfile import FleetFile
from hansa.kinds.compute import Disk, VirtualMachine
from hansa.kinds.iam import Project
from hansa.kinds.networking import PublicIP
from hansa.kinds.resource import Key
from hansa.policy.verdict import Caller
from hansa.sealing import Sealer
from hansa.store.port import Create, Query
from hansa.store.sqlite import open_sqlite
from hansa.wiring import FleetEngines, simulated_host, write_places

from .clockwork import VirtualClock, run

SEEDS = 2000 if os.environ.get("HANSA_LONG") else 200
FLEET = FleetFile.model_validate(
    {"regions": [{"id": "se-sto", "name": "Stockholm", "country": "SE",
                  "zones": [{"letter": "a", "site": "one"}, {"letter": "b", "site": "two"}],
                  "hosts": [{"id": "a-1", "zone": "a", "vcpus": 8, "memoryGB": 32},
                            {"id": "b-1", "zone": "b", "vcpus": 8, "memoryGB": 32},
                            {"id": "b-2", "zone": "b", "vcpus": 8, "memoryGB": 32}]}]}
)  # fmt: skip
SCOPE = "projects/p/regions/se-sto"
OWNER = Caller("/iam/users/u", owns=frozenset({"org"}))
ASKING = Asking(OWNER, "sim")


class Simulation:
    def __init__(self, seed: int, clock: VirtualClock) -> None:
        self.random = random.Random(seed)
        self.clock, self.ids = clock, SeededIds(seed)
        self.faults = Faults(seed, before=0.1, after=0.1, delay_s=2.0)
        self.engines = FleetEngines()
        for host in FLEET.regions[0].hosts:
            self.engines.by_host[host.id] = simulated_host(host, clock, self.faults)
            self.engines.by_zone.setdefault(f"se-sto-{host.zone}", SimulatedVolumes(self.faults))

    async def start(self) -> None:
        self.store = await open_sqlite(":memory:", clock=self.clock, ids=self.ids, inline=True)
        self.world = World(self.store, self.engines, self.clock, self.ids, Settings())
        await write_places(self.store, self.ids, FLEET, stand_ins=True)
        await self.store.commit(Create(Key("Organization", "", "org"), self.ids.uid(), {"name": "o"}, due=False))
        self.resources = Resources(
            self.store, admissions(self.world), Gate(self.store), Sealer(b"0" * 32), self.clock, self.ids
        )
        await self.resources.create(ASKING, Project, "", {"metadata": {"id": "p"}, "spec": {"organization": "org"}})

    async def unseal(self, uid: str, name: str) -> bytes | None:
        return None

    def begin_loop(self) -> tuple[Loop, asyncio.Task[None]]:
        loop = Loop(self.world, reconcilers(self.unseal), 4)
        self.store.on_commit(loop.wake)
        return loop, asyncio.create_task(loop.run())

    async def kill(self, loop: Loop, task: asyncio.Task[None]) -> None:
        """The process dies: every task of it is cut off where it stands; leases are left to run out."""
        for each in (task, *loop._running):
            each.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(task, *loop._running, return_exceptions=True)

    async def user(self) -> None:
        """One thing that a user does; refusals are part of life."""
        number = self.random.randrange(6)
        zone = self.random.choice("ab")
        with contextlib.suppress(HansaError):
            match self.random.randrange(7):
                case 0 | 1:
                    await self.resources.create(ASKING, Disk, SCOPE, _disk(f"d{number}", zone))
                case 2 | 3:
                    await self.resources.create(
                        ASKING, VirtualMachine, SCOPE, _machine(f"m{number}", f"d{number}", zone)
                    )
                case 4:
                    running = self.random.random() < 0.5
                    key = Key("VirtualMachine", SCOPE, f"m{number}")
                    await self.resources.patch(ASKING, VirtualMachine, key, {"spec": {"running": running}})
                case 5:
                    kind = self.random.choice([VirtualMachine, Disk])
                    letter = "m" if kind is VirtualMachine else "d"
                    await self.resources.delete(ASKING, kind, Key(kind.kind, SCOPE, f"{letter}{number}"))
                case _:
                    await self.resources.create(ASKING, PublicIP, SCOPE, {"metadata": {"id": f"i{number}"}, "spec": {}})

    def guest_dies(self) -> None:
        engine = self.random.choice(list(self.engines.by_host.values()))
        assert isinstance(engine, SimulatedCompute)
        for uid in list(engine._guests):
            if self.random.random() < 0.3:
                engine.die(uid)

    # -- invariants -------------------------------------------------------------------------

    async def check(self) -> None:
        machines = [VirtualMachine(s) for s in await self._all("VirtualMachine")]
        disks = [Disk(s) for s in await self._all("Disk")]
        await self._no_host_is_oversold()
        placed = Counter(uid for e in self.engines.by_host.values() for uid in e._guests)  # type: ignore[attr-defined]
        assert all(count == 1 for count in placed.values()), "a machine stands on two hosts"
        assert set(placed) <= {m.uid for m in machines}, "a deleted machine is left on a host"
        held = {uid for v in self.engines.by_zone.values() for uid in v._disks}  # type: ignore[attr-defined]
        assert held <= {d.uid for d in disks}, "a deleted disk is left"
        assert {d.uid for d in disks if d.ready} <= held, "a ready disk is not there"
        owners = {s.uid for kind in ("VirtualMachine", "Disk", "PublicIP", "Subnet", "VirtualPrivateCloud")
                  for s in await self._all(kind)}  # fmt: skip
        for h in await self.store.claims("", below=False):
            assert h.owner in owners
        for scope in ("hosts", "addresses", "uses", "publicIPs"):
            for h in await self.store.claims(scope, below=True):
                assert h.owner in owners, f"a claim on {h.claim.scope} is left behind"

    async def check_settled(self) -> None:
        await self.check()
        for stored in await self._all("VirtualMachine"):
            machine = VirtualMachine(stored)
            assert not machine.deleting, f"{machine} never went"
            reason = machine.status.condition("Ready")
            assert reason is not None
            if not machine.ready:
                assert machine.status.virtual_machine_status == "ProvisioningFailed" or reason.reason in (
                    "ReferenceInvalid", "ZoneInvalid", "WaitingForReference"
                ), f"{machine} is {reason}"  # fmt: skip
                continue
            engine: Any = self.engines.by_host.get(machine.status.host or "")
            running = (
                engine is not None and machine.uid in engine._guests and engine._guests[machine.uid].started_at > 0
            )
            assert running == machine.spec.running, f"{machine} runs: {running}"
        for stored in await self._all("Disk"):
            assert Disk(stored).ready, f"{stored.key} is {stored.status}"
        addresses = [s.status["publicIPv4Address"] for s in await self._all("PublicIP")]
        assert len(set(addresses)) == len(addresses)

    async def _no_host_is_oversold(self) -> None:
        room = {h.id: {"vcpus": h.vcpus, "memory": h.memory_gb * 10**9} for h in FLEET.regions[0].hosts}
        used: Counter[tuple[str, str]] = Counter()
        for h in await self.store.claims("hosts", below=True):
            used[(h.claim.scope.split("/")[1], h.claim.key)] += h.claim.amount
        for (host, key), amount in used.items():
            assert amount <= room[host][key], f"{host} is oversold: {amount} {key}"

    async def _all(self, kind: str) -> list[Any]:
        return (await self.store.list(Query(kind, "", below=True))).items


def _disk(name: str, zone: str) -> dict[str, Any]:
    return {"metadata": {"id": name}, "spec": {"diskSize": {"amount": 10, "unit": "GB"}, "placement": {"zone": zone}}}


def _machine(name: str, disk: str, zone: str) -> dict[str, Any]:
    return {"metadata": {"id": name}, "spec": {
        "computeProfileRef": "c1a.s", "disks": [{"diskRef": disk, "bootFrom": True}], "placement": {"zone": zone},
    }}  # fmt: skip


async def _life(seed: int, clock: VirtualClock) -> None:
    sim = Simulation(seed, clock)
    await sim.start()
    loop, task = sim.begin_loop()
    for _ in range(40):
        await sim.user()
        await asyncio.sleep(sim.random.random() * 3)
        if sim.random.random() < 0.15:
            sim.guest_dies()
            for stored in await sim._all("VirtualMachine"):
                from hansa.store.port import Wake

                await sim.store.commit(Wake(stored.key))
        if sim.random.random() < 0.15:
            await sim.kill(loop, task)
            await asyncio.sleep(sim.random.random() * 70)
            loop, task = sim.begin_loop()
        await sim.check()
    sim.faults.before = sim.faults.after = 0.0
    await asyncio.sleep(1800)
    await sim.check_settled()
    assert loop.counts.bugs == 0
    await loop.stop()
    await task
    await sim.store.close()


@pytest.mark.parametrize("block", range(10))
def test_whatever_fails_the_world_converges(block: int) -> None:
    for seed in range(block * SEEDS // 10, (block + 1) * SEEDS // 10):
        try:
            run(lambda clock, seed=seed: _life(seed, clock))
        except (AssertionError, RuntimeError) as error:
            raise AssertionError(f"seed {seed}: {error}") from error
