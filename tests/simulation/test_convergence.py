"""The whole control plane under a seeded schedule of faults: kills of the control process, engines that fail
before or after they took effect, guests that die or do not let go of a disk, hosts that run full, users who
change their minds. The invariants hold all the time; when the faults stop, everything settles.
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
from hansa.api.storage import Storage
from hansa.clock import SeededIds
from hansa.config import Settings
from hansa.control.attachments import misplaced, stands_still
from hansa.control.loop import Loop
from hansa.control.reconcilers import admissions, reconcilers
from hansa.control.world import World
from hansa.engines.ports import MachineState
from hansa.engines.simulated import Faults, SimulatedCompute, SimulatedNetwork, SimulatedVolumes
from hansa.errors import HansaError
from hansa.fleetfile import FleetFile
from hansa.kinds.compute import Disk, HotswapDiskAttachment, Snapshot, VirtualMachine
from hansa.kinds.iam import Project
from hansa.kinds.networking import PublicIP
from hansa.kinds.registry import full_ref
from hansa.kinds.resource import AnyResource, Key
from hansa.objectindex.nothing import NothingStored
from hansa.policy.verdict import Caller
from hansa.sealing import Sealer
from hansa.store.port import Create, Query, Wake
from hansa.store.store import SqlStore
from hansa.wiring import FleetEngines, simulated_host, write_places

from ..postgres import wanted
from .clockwork import VirtualClock, run
from .sides import Jumpy, sides

SEEDS = 2000 if os.environ.get("HANSA_LONG") else 200
if wanted():
    SEEDS //= 20  # a real server answers each statement
FLEET = FleetFile.model_validate(
    {"regions": [{"id": "se-sto", "name": "Stockholm", "country": "SE",
                  "zones": [{"letter": "a", "site": "one"}, {"letter": "b", "site": "two"}],
                  "hosts": [{"id": "a-1", "zone": "a", "vcpus": 8, "memoryGB": 32},
                            {"id": "b-1", "zone": "b", "vcpus": 8, "memoryGB": 32},
                            {"id": "b-2", "zone": "b", "vcpus": 8, "memoryGB": 32}]}]}
)  # fmt: skip
SCOPE = "projects/p/regions/se-sto"
ROOM = {"pools/se-sto-a": 100 * 10**9, "pools/se-sto-b": 200 * 10**9}  # a petabyte a host, 0.01 % of it promised
OWNER = Caller("/iam/users/u", owns=frozenset({"org"}))
ASKING = Asking(OWNER, "sim")


SEALER = Sealer(b"0" * 32)


class Simulation:
    def __init__(self, seed: int, clock: VirtualClock, processes: int = 1) -> None:
        self.random, self.processes = random.Random(seed), processes
        self.clock, self.ids = clock, SeededIds(seed)
        self.faults = Faults(seed, before=0.1, after=0.1, delay_s=2.0)
        self.engines = FleetEngines()
        self.seen: Counter[str] = Counter()  # what happened at all: a run in which nothing does proves nothing
        for host in FLEET.regions[0].hosts:
            self.engines.by_host[host.id] = simulated_host(host, clock, self.faults)
            self.engines.networks[host.id] = SimulatedNetwork(self.faults)
            self.engines.by_zone.setdefault(f"se-sto-{host.zone}", SimulatedVolumes(self.faults, clock))

    async def open(self) -> list[tuple[SqlStore, Jumpy]]:
        return await sides(self.processes, self.clock, self.ids)

    async def start(self) -> None:
        made = await self.open()
        self.stores, self.clocks = [store for store, _ in made], [clock for _, clock in made]
        self.store, settings = self.stores[0], Settings(disk_overcommit=0.0001)
        self.worlds = [
            World(store, self.engines, store.clock, self.ids, settings, NothingStored(), SEALER)
            for store in self.stores
        ]
        self.world = self.worlds[0]
        await write_places(self.store, self.ids, FLEET, stand_ins=True)
        await self.store.commit(Create(Key("Organization", "", "org"), self.ids.uid(), {"name": "o"}, due=False))
        gate = Gate(self.store)
        self.resources = Resources(
            self.store, admissions(self.world), gate, SEALER, self.clock, self.ids,
            Storage(self.store, gate, SEALER, NothingStored()),
        )  # fmt: skip
        await self.resources.create(ASKING, Project, "", {"metadata": {"id": "p"}, "spec": {"organization": "org"}})

    async def unseal(self, uid: str, name: str) -> bytes | None:
        return None

    def begin_loop(self, process: int = 0) -> tuple[Loop, asyncio.Task[None]]:
        loop = Loop(self.worlds[process], reconcilers(self.unseal), 4)
        for store in self.stores:
            store.on_commit(loop.wake)
        return loop, asyncio.create_task(loop.run())

    async def kill(self, loop: Loop, task: asyncio.Task[None]) -> None:
        """The process dies: every task of it is cut off where it stands; leases are left to run out."""
        for each in (task, *loop._running):
            each.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(task, *loop._running, return_exceptions=True)

    async def settle_in(self) -> None:
        """Something is there when the trouble begins: machines, and disks that no machine has for itself."""
        for number in range(3):
            await self._create(Disk, _disk(f"d{number}", _home(number), 10))
            await self._create(VirtualMachine, _machine(f"m{number}", f"d{number}", _home(number)))
            await self._create(Disk, _disk(f"e{number}", _home(number), 10))

    async def user(self) -> None:
        """One thing that a user does; refusals are part of life."""
        number, other = self.random.randrange(4), self.random.randrange(4)
        with contextlib.suppress(HansaError):
            match self.random.randrange(24):
                case 0 | 1:
                    size = self.random.choice([10, 20, 40])
                    await self._create(Disk, _disk(f"{self.random.choice('de')}{number}", self._zone(number), size))
                case 2 | 3:
                    await self._create(VirtualMachine, _machine(f"m{number}", f"d{number}", self._zone(number)))
                case 4 | 5:
                    await self._patch(VirtualMachine, f"m{number}", {"running": self.random.random() < 0.6})
                case 6:
                    await self._create(PublicIP, {"metadata": {"id": f"i{number}"}, "spec": {}})
                case 7 | 8 | 9 | 10 | 11 | 12 | 13:
                    disk = f"e{other}" if self.random.random() < 0.5 else self._any_disk()
                    await self._create(HotswapDiskAttachment, _attachment(f"h{number}", f"m{other}", disk))
                case 14 | 15:
                    body = {"metadata": {"id": f"s{number}"}, "spec": {"diskRef": self._any_disk()}}
                    await self._create(Snapshot, body)
                case 16:
                    await self._create(Disk, _restored(f"r{number}", f"s{other}", self._zone(number)))
                case 17:
                    size = {"amount": self.random.choice([20, 50, 80]), "unit": "GB"}
                    await self._patch(Disk, self._any_disk(), {"diskSize": size})
                case 18 | 19 | 20:
                    await self._delete(HotswapDiskAttachment, f"h{number}")
                case 21:
                    await self._delete(VirtualMachine, f"m{number}")
                case 22:
                    await self._delete(Snapshot, f"s{number}")
                case _:
                    await self._delete(Disk, self._any_disk())

    def _zone(self, number: int) -> str:
        return _home(number) if self.random.random() < 0.9 else self.random.choice("ab")

    def _any_disk(self) -> str:
        return f"{self.random.choice('deeer')}{self.random.randrange(4)}"

    async def _create(self, kind: type[AnyResource], body: dict[str, Any]) -> None:
        await self.resources.create(ASKING, kind, SCOPE, body)

    async def _patch(self, kind: type[AnyResource], name: str, spec: dict[str, Any]) -> None:
        await self.resources.patch(ASKING, kind, Key(kind.kind, SCOPE, name), {"spec": spec})

    async def _delete(self, kind: type[AnyResource], name: str) -> None:
        await self.resources.delete(ASKING, kind, Key(kind.kind, SCOPE, name))

    def hosts(self) -> list[SimulatedCompute]:
        return [e for e in self.engines.by_host.values() if isinstance(e, SimulatedCompute)]

    def pools(self) -> list[SimulatedVolumes]:
        return [v for v in self.engines.by_zone.values() if isinstance(v, SimulatedVolumes)]

    async def nature(self) -> None:
        """What guests and hosts do by themselves."""
        engine = self.random.choice(self.hosts())
        for uid, guest in list(engine._guests.items()):
            if self.random.random() < 0.2:
                self.random.choice([engine.die, engine.lose, engine.pause, engine.resume])(uid)
        self.random.choice(self.pools()).full = self.random.choice(["", "", "the host's disk is full"])
        for stored in await self._all("VirtualMachine"):
            await self.store.commit(Wake(stored.key))

    def hold(self) -> None:
        """Guests take hold of a disk, or lose interest."""
        for engine in self.hosts():
            for disk in [d for guest in engine._guests.values() for d in guest.hot]:
                if self.random.random() < 0.2:
                    self.random.choice([engine.hold, engine.let_go])(disk)

    def calm(self) -> None:
        """The faults stop: guests let go, hosts have room, calls are answered."""
        self.faults.before = self.faults.after = 0.0
        for engine in self.hosts():
            for disk in list(engine._holding):
                engine.let_go(disk)
            for uid in list(engine._guests):
                engine.resume(uid)
        for volumes in self.pools():
            volumes.full = ""

    # -- invariants -------------------------------------------------------------------------

    async def check(self) -> None:
        machines = [VirtualMachine(s) for s in await self._all("VirtualMachine")]
        disks = [Disk(s) for s in await self._all("Disk")]
        snapshots = [Snapshot(s) for s in await self._all("Snapshot")]
        await self._no_host_is_oversold()
        placed = Counter(uid for e in self.hosts() for uid in e._guests)
        assert all(count == 1 for count in placed.values()), "a machine stands on two hosts"
        assert set(placed) <= {m.uid for m in machines}, "a deleted machine is left on a host"
        held = {uid for v in self.pools() for uid in v._disks}
        assert held <= {o.uid for o in (*disks, *snapshots)}, "a deleted disk or snapshot is left"
        assert {o.uid for o in (*disks, *snapshots) if o.ready} <= held, "a ready disk or snapshot is not there"
        owners = {s.uid for kind in ("VirtualMachine", "Disk", "Snapshot", "HotswapDiskAttachment", "PublicIP", "Subnet",
                                     "VirtualPrivateCloud") for s in await self._all(kind)}  # fmt: skip
        for h in await self.store.claims("", below=False):
            assert h.owner in owners
        for scope in ("hosts", "addresses", "uses", "publicIPs", "pools"):
            for h in await self.store.claims(scope, below=True):
                assert h.owner in owners, f"a claim on {h.claim.scope} is left behind"
        self.seen["a machine runs"] += any(m.ready and m.spec.running for m in machines)
        self.seen["a copy is made"] += any(disk.left for v in self.pools() for disk in v._disks.values())
        self.seen["a copy is ready"] += any(s.ready for s in snapshots)
        await self._no_pool_is_oversold(held)
        await self._every_disk_has_one_user(machines, {d.uid: d for d in disks})

    async def _no_pool_is_oversold(self, held: set[str]) -> None:
        promised: Counter[str] = Counter()
        claims = await self.store.claims("pools", below=True)
        for h in claims:
            promised[h.claim.scope] += h.claim.amount
        assert all(amount <= ROOM[scope] for scope, amount in promised.items()), f"oversold: {promised}"
        assert held <= {h.owner for h in claims}, "a disk was made before its room was claimed"

    async def _every_disk_has_one_user(self, machines: list[VirtualMachine], disks: dict[str, Disk]) -> None:
        """Claims agree with who names a disk, and engines with the claims: at any moment."""
        attachments = {s.uid: HotswapDiskAttachment(s) for s in await self._all("HotswapDiskAttachment")}
        by_key = {d.key: d for d in disks.values()}
        users = {h.claim.scope.split("/")[1]: h.owner for h in await self.store.claims("uses", below=True)}
        named = [(by_key[_key_of("Disk", use.disk_ref)].uid, m.uid) for m in machines for use in m.spec.disks]
        named += [(by_key[_key_of("Disk", a.spec.disk_ref)].uid, a.uid) for a in attachments.values()]
        assert dict(named) == {d: u for d, u in users.items() if d in disks} and len(dict(named)) == len(named)
        plugged: list[str] = []
        for engine in self.hosts():
            for uid, guest in engine._guests.items():
                plugged += [*guest.hot, *(guest.disks if guest.started_at else ())]
                for disk in guest.hot:
                    assert disk in disks, "a deleted disk is plugged in"
                    holder = attachments.get(users.get(disk, ""))
                    assert holder is not None, f"nobody holds the plugged disk {disks[disk].name}"
                    machine = next(m for m in machines if m.uid == uid)
                    assert _key_of("VirtualMachine", holder.spec.virtual_machine_ref) == machine.key
                    assert not misplaced(machine, disks[disk]), "a disk of another zone is plugged in"
            self.seen["plugged in"] += any(guest.hot for guest in engine._guests.values())
            self.seen["held by its guest"] += any(guest.letting_go for guest in engine._guests.values())
        assert len(set(plugged)) == len(plugged), "a disk is plugged into two machines"

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
        for kind in (Disk, Snapshot):
            for stored in await self._all(kind.kind):
                await self._made_or_said_why(kind(stored))
        await self._attachments_settled()
        addresses = [s.status["publicIPv4Address"] for s in await self._all("PublicIP")]
        assert len(set(addresses)) == len(addresses)

    async def _made_or_said_why(self, it: AnyResource) -> None:
        assert not it.deleting, f"{it} never went"
        ready = it.status.condition("Ready")
        assert ready is not None
        if it.ready:
            return
        message = ready.message
        if ready.reason == "ProvisioningFailed" and message.startswith("zone "):
            zone = message.split()[1]
            used = sum(h.claim.amount for h in await self.store.claims(f"pools/se-sto-{zone}"))
            asked = int(message.split(" has no room for ")[1].split(" GB")[0]) * 10**9
            assert used + asked > ROOM[f"pools/se-sto-{zone}"], f"{it} has room: {message}"
        elif ready.reason == "ProvisioningFailed":
            assert "is not ready" in message, f"{it} is {ready}"
        else:
            assert ready.reason in ("ReferenceInvalid", "DiskTooSmall"), f"{it} is {ready}"

    async def _attachments_settled(self) -> None:
        for stored in await self._all("HotswapDiskAttachment"):
            it = HotswapDiskAttachment(stored)
            assert not it.deleting, f"{it} never went"
            machine = VirtualMachine(await self.store.get(_key_of("VirtualMachine", it.spec.virtual_machine_ref)))
            disk = Disk(await self.store.get(_key_of("Disk", it.spec.disk_ref)))
            fits = disk.status.made and not misplaced(machine, disk)
            able = machine.ready or stands_still(machine)
            assert it.ready == (fits and able), f"{it} is {it.status.condition('Ready')}"
            engine: Any = self.engines.by_host.get(machine.status.host or "")
            guest = engine._guests.get(machine.uid) if engine is not None else None
            running = guest is not None and guest.state is MachineState.RUNNING
            serial = guest.hot.get(disk.uid) if running else None
            assert serial == (it.status.serial if fits and running else None)
            assert any(u.attachment_ref == it.ref for u in disk.status.disk_usage)
            assert [(e.serial, e.attached) for e in machine.status.hotswap_disk_attachments
                    if e.hotswap_disk_attachment_ref == it.ref] == [(it.status.serial, bool(serial))]  # fmt: skip

    async def _no_host_is_oversold(self) -> None:
        room = {h.id: {"vcpus": h.vcpus, "memory": h.memory_gb * 10**9} for h in FLEET.regions[0].hosts}
        used: Counter[tuple[str, str]] = Counter()
        for h in await self.store.claims("hosts", below=True):
            used[(h.claim.scope.split("/")[1], h.claim.key)] += h.claim.amount
        for (host, key), amount in used.items():
            assert amount <= room[host][key], f"{host} is oversold: {amount} {key}"

    async def _all(self, kind: str) -> list[Any]:
        return (await self.store.list(Query(kind, "", below=True))).items


def _home(number: int) -> str:
    return "aba"[number % 3]


def _key_of(kind: str, text: str) -> Key:
    return Key(kind, SCOPE, full_ref(text, (kind,), SCOPE).rsplit("/", 1)[-1])


def _disk(name: str, zone: str, gigabytes: int) -> dict[str, Any]:
    size = {"amount": gigabytes, "unit": "GB"}
    return {"metadata": {"id": name}, "spec": {"diskSize": size, "placement": {"zone": zone}}}


def _restored(name: str, snapshot: str, zone: str) -> dict[str, Any]:
    return {"metadata": {"id": name}, "spec": {"source": {"snapshotRef": snapshot}, "placement": {"zone": zone}}}


def _attachment(name: str, machine: str, disk: str) -> dict[str, Any]:
    return {"metadata": {"id": name}, "spec": {"virtualMachineRef": machine, "diskRef": disk}}


def _machine(name: str, disk: str, zone: str, **more: Any) -> dict[str, Any]:
    return {"metadata": {"id": name}, "spec": {
        "computeProfileRef": "c1a.s", "disks": [{"diskRef": disk, "bootFrom": True}], "placement": {"zone": zone}, **more,
    }}  # fmt: skip


HAPPENS = {"a machine runs", "plugged in", "held by its guest", "a copy is made", "a copy is ready"}


async def _life(seed: int, clock: VirtualClock, processes: int = 1) -> Counter[str]:
    sim = Simulation(seed, clock, processes)
    await sim.start()
    loops = [sim.begin_loop(n) for n in range(processes)]
    await sim.settle_in()
    await asyncio.sleep(sim.random.random() * 30)
    for _ in range(50):
        await sim.user()
        await asyncio.sleep(sim.random.random() * 3)
        sim.hold()
        if sim.random.random() < 0.15:
            await sim.nature()
        if sim.random.random() < 0.1:
            which = sim.random.randrange(processes)
            await sim.kill(*loops[which])
            await asyncio.sleep(sim.random.random() * 70)
            loops[which] = sim.begin_loop(which)
        if processes > 1 and sim.random.random() < 0.1:
            sim.clocks[1].off_s = sim.random.choice([0.0, 3600.0, -3600.0])
        await sim.check()
    sim.calm()
    for each in sim.clocks:
        each.off_s = 0.0
    await asyncio.sleep(900 if processes == 1 else 8200)  # a jump from an hour behind to one before puts off by two
    await sim.check_settled()
    for loop, task in loops:
        sim.seen["both worked"] += bool(loop.counts.passes) and processes > 1
        assert loop.counts.bugs == 0
        await loop.stop()
        await task
    for store in sim.stores:
        await store.close()
    return sim.seen


def _lives(seeds: range, processes: int) -> Counter[str]:
    seen: Counter[str] = Counter()
    for seed in seeds:
        try:
            seen += run(lambda clock, seed=seed: _life(seed, clock, processes))
        except (AssertionError, RuntimeError) as error:
            raise AssertionError(f"seed {seed}: {error}") from error
    return seen


@pytest.mark.parametrize("block", range(4))
def test_whatever_fails_the_world_converges(block: int) -> None:
    seen = _lives(range(block * SEEDS // 4, (block + 1) * SEEDS // 4), 1)
    missing = HAPPENS - set(seen)
    assert not missing or wanted(), f"never seen: {missing}"


def test_two_control_processes_do_nothing_twice_though_one_has_a_wrong_clock() -> None:
    """The invariants hold at every moment: no machine on two hosts, no disk with two users, nothing oversold."""
    seen = _lives(range(max(SEEDS // 10, 2)), 2)
    assert {"both worked", "a machine runs"} <= set(seen)
