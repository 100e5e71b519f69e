"""Quotas and usage under the seeded schedule of faults: what is claimed is what is there, and every interval opens
once, closes once and covers what the engines saw. Kills cut the control process off anywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter, defaultdict
from typing import Any

import pytest

from hansa.control.quotas import charge_of
from hansa.errors import Full, HansaError
from hansa.kinds.compute import Disk, Snapshot, VirtualMachine
from hansa.kinds.iam import Project
from hansa.kinds.meters import Metering
from hansa.kinds.networking import PublicIP
from hansa.kinds.quotas import BLOCK_STORAGE
from hansa.kinds.resource import AnyResource, Key
from hansa.ledger.usage import CLOSED, OPENED, stream_of
from hansa.policy.quota import is_quota, organization_scope, project_scope

from ..postgres import wanted
from .clockwork import VirtualClock, run
from .test_convergence import ASKING, Simulation, _disk, _machine
from .test_scenarios import Scene, played

LONG = bool(os.environ.get("HANSA_LONG"))
if wanted():  # a real server answers each statement
    SEEDS = 60 if LONG else 18
else:
    SEEDS = 250 if LONG else 36
METERED: tuple[type[AnyResource], ...] = (VirtualMachine, Disk, Snapshot, PublicIP)


class Ledger(Simulation):
    """A world whose quotas are tight, and whose users change them."""

    profiles = ("c1a.s", "c1a.m", "t1.nano")

    async def user(self) -> None:
        with contextlib.suppress(HansaError):
            match self.random.randrange(10):
                case 0:
                    await self.limit(disks=self.random.choice([3, 6, 9]))
                case 1:
                    await self.limit(blockStorage=self.random.choice(["50 GB", "90 GB", "unlimited"]))
                case 2:
                    await self.limit(vCPUs=self.random.choice([2, 6, 100]))
                case 3:
                    profile = self.random.choice(self.profiles)
                    await self._patch(VirtualMachine, f"m{self.random.randrange(4)}", {"computeProfileRef": profile})
                case _:
                    await super().user()

    async def limit(self, **compute: Any) -> None:
        body = {"spec": {"quotas": {"compute": compute}}}
        await self.resources.patch(ASKING, Project, Key("Project", "", "p"), body)

    async def _create(self, kind: type[AnyResource], body: dict[str, Any]) -> None:
        try:
            await super()._create(kind, body)
        except Full as full:
            self.seen["a quota refused"] += is_quota(full)
            raise

    # -- invariants -------------------------------------------------------------------------

    async def check(self) -> None:
        await super().check()
        await self.check_claims()
        await self.check_intervals()

    async def check_claims(self) -> None:
        """The sums are those of the claims, and the claims those of what is there."""
        wanted: Counter[str] = Counter()
        for kind in METERED:
            for stored in await self._all(kind.kind):
                it = kind(stored)
                charge = dict(await charge_of(it, self.world))
                held = {h.claim.key: h.claim.amount for h in await self.store.claims_of(it.uid)
                        if h.claim.scope == project_scope("p")}  # fmt: skip
                if BLOCK_STORAGE not in held and not await self._decided(it):
                    charge.pop(BLOCK_STORAGE, None)  # its size is known since, and claimed when it is decided
                if self._unsized(it) and BLOCK_STORAGE in held:
                    charge[BLOCK_STORAGE] = held[BLOCK_STORAGE]  # its source went, or grew, since it was asked
                assert held == charge, f"{it} holds {held} of {charge}"
                wanted += Counter(charge)
        for scope in (project_scope("p"), organization_scope("org")):
            claimed: Counter[str] = Counter()
            for h in await self.store.claims(scope):
                claimed[h.claim.key] += h.claim.amount
            counts = {c.key: c.held for c in await self.store.counts(scope) if c.held}
            assert counts == dict(claimed), f"{scope}: the sums are not those of the claims"
            claimed.pop("iam.projects", None)
            assert claimed == wanted, f"{scope}: {claimed} is claimed of {wanted}"

    def _unsized(self, it: AnyResource) -> bool:
        """As large as what it is made from, and that is not decided yet."""
        match it:
            case Disk():
                return not it.spec.disk_size and not it.status.made
            case Snapshot():
                return it.status.restore_size is None
            case _:
                return False

    async def _decided(self, it: AnyResource) -> bool:
        scope = "pools/"
        return any(h.claim.scope.startswith(scope) for h in await self.store.claims_of(it.uid))

    async def check_intervals(self) -> None:
        """Open by the records is open by the statuses; nothing is there twice, and nothing overlaps."""
        project = await self.store.get(Key("Project", "", "p"))
        pairs = await self.store.pairs(stream_of(OPENED, project.uid), stream_of(CLOSED, project.uid), limit=10**6)
        spans: defaultdict[tuple[str, str], list[tuple[int, float]]] = defaultdict(list)
        open_by_record = {}
        for pair in pairs:
            body, end = pair.first.body, (pair.second or {}).get("end")
            spans[(body["uid"], body["meter"])].append((body["start"], float("inf") if end is None else end))
            if pair.second is None:
                open_by_record[body["id"]] = (body["uid"], body["meter"], body["quantity"], body["start"])
            else:
                assert pair.second["consumed"] == body["quantity"] * (pair.second["end"] - body["start"])
        open_by_status = {}
        for kind in METERED:
            for stored in await self._all(kind.kind):
                metering = kind(stored).status.metering or Metering()
                open_by_status |= {i.id: (stored.uid, i.meter, i.quantity, i.start) for i in metering.open}
                measure = kind.measure(kind(stored).status)
                drawn = {meter.name: n for meter, n in measure.levels.items() if n}
                assert drawn == {i.meter: i.quantity for i in metering.open}, f"{kind(stored)} draws {drawn}"
        assert open_by_record == open_by_status
        for (uid, meter), found in spans.items():
            found.sort()
            assert all(a[1] <= b[0] for a, b in zip(found, found[1:], strict=False)), f"{uid} {meter}: {found}"
        self.seen["an interval closed"] += len(pairs) > len(open_by_record)


async def _life(seed: int, clock: VirtualClock) -> Counter[str]:
    sim = Ledger(seed, clock)
    await sim.start()
    loop, task = sim.begin_loop()
    await sim.settle_in()
    await asyncio.sleep(sim.random.random() * 30)
    for _ in range(60):
        await sim.user()
        await asyncio.sleep(sim.random.random() * 3)
        if sim.random.random() < 0.15:
            await sim.nature()
        if sim.random.random() < 0.15:
            await sim.kill(loop, task)
            await asyncio.sleep(sim.random.random() * 70)
            loop, task = sim.begin_loop()
        await sim.check()
    sim.calm()
    await sim.limit(disks=None, blockStorage=None, vCPUs=None)
    await asyncio.sleep(900)
    await sim.check_settled()
    for kind in METERED:
        for stored in await sim._all(kind.kind):
            await sim._delete(kind, stored.key.name) if kind is VirtualMachine else None
    await asyncio.sleep(200)
    for kind in (PublicIP, Snapshot, Disk):
        for stored in await sim._all(kind.kind):
            with contextlib.suppress(HansaError):
                await sim._delete(kind, stored.key.name)
        await asyncio.sleep(200)
    await sim.check()
    assert not [s for kind in METERED for s in await sim._all(kind.kind)]
    assert [c for c in await sim.store.counts(project_scope("p")) if c.held] == []
    assert loop.counts.bugs == 0
    await loop.stop()
    await task
    await sim.store.close()
    return sim.seen


@pytest.mark.parametrize("block", range(6))
def test_whatever_fails_nothing_leaks_is_oversold_or_metered_twice(block: int) -> None:
    seen: Counter[str] = Counter()
    for seed in range(block * SEEDS // 6, (block + 1) * SEEDS // 6):
        try:
            seen += run(lambda clock, seed=seed: _life(seed, clock))
        except (AssertionError, RuntimeError) as error:
            raise AssertionError(f"seed {seed}: {error}") from error
    common = {"a quota refused", "an interval closed", "a machine runs"}
    assert set(seen) >= common, f"never seen: {common - set(seen)}"


# -- without faults: to the second ----------------------------------------------------------------


async def intervals(it: Scene, meter: str) -> list[tuple[int, int | None, int]]:
    """Start, end and quantity of the machine's intervals, from the beginning of the scene on."""
    project = await it.store.get(Key("Project", "", "p"))
    pairs = await it.store.pairs(stream_of(OPENED, project.uid), stream_of(CLOSED, project.uid), limit=1000)
    return [(p.first.body["start"], (p.second or {}).get("end"), p.first.body["quantity"])
            for p in pairs if p.first.body["meter"] == meter]  # fmt: skip


@played
async def test_a_machine_is_metered_just_while_its_guest_runs(it: Scene) -> None:
    machine = await it.machine()
    started = it.host._guests[machine.uid].started_at
    assert await intervals(it, "vcpu_seconds") == [(int(started), None, 2)]
    await asyncio.sleep(100)
    await it._patch(VirtualMachine, "m0", {"running": False})
    await asyncio.sleep(5)
    ended = (await intervals(it, "vcpu_seconds"))[0][1]
    assert ended is not None and ended - started >= 100 and ended <= it.clock.now() - 3
    await asyncio.sleep(1000)
    assert len(await intervals(it, "vcpu_seconds")) == 1, "it stands still, and costs nothing"
    await it._patch(VirtualMachine, "m0", {"computeProfileRef": "c1a.m"})
    await asyncio.sleep(5)
    await it._patch(VirtualMachine, "m0", {"running": True})
    await asyncio.sleep(50)
    again = it.host._guests[machine.uid].started_at
    assert (await intervals(it, "vcpu_seconds"))[1] == (int(again), None, 4)
    assert (await intervals(it, "memory_byte_seconds"))[1] == (int(again), None, 8 * 10**9)
    await it._delete(VirtualMachine, "m0")
    await asyncio.sleep(5)
    assert all(end is not None for _, end, _ in await intervals(it, "vcpu_seconds"))


@played
async def test_a_guest_that_its_host_holds_back_is_not_metered_meanwhile(it: Scene) -> None:
    machine = await it.machine()
    it.host.pause(machine.uid)
    await it._patch(VirtualMachine, "m0", {"loadBalancerMemberships": {}})
    await asyncio.sleep(3)
    assert (await intervals(it, "vcpu_seconds"))[-1][1] is not None
    await asyncio.sleep(100)
    it.host.resume(machine.uid)
    await asyncio.sleep(10)
    first, second = await intervals(it, "vcpu_seconds")
    assert first[1] is not None and second[0] - first[1] >= 100 and second[1] is None


@played
async def test_a_guest_that_went_with_its_host_is_metered_until_it_was_last_seen(it: Scene) -> None:
    machine = await it.machine()
    await asyncio.sleep(100)
    lost_at = int(it.clock.now())
    it.host.lose(machine.uid)
    await asyncio.sleep(60)  # it is looked at every half a minute
    first, second = await intervals(it, "vcpu_seconds")
    assert first[1] == lost_at and second == (int(it.host._guests[machine.uid].started_at), None, 2)
    assert second[0] > lost_at and (await it.machine()).ready


@played
async def test_a_disk_is_metered_from_its_making_to_its_end_at_its_size(it: Scene) -> None:
    before = len(await intervals(it, "disk_byte_seconds"))
    await it._create(Disk, _disk("f0", "a", 10))
    await asyncio.sleep(50)
    await it._patch(Disk, "f0", {"diskSize": {"amount": 20, "unit": "GB"}})
    await asyncio.sleep(50)
    await it._delete(Disk, "f0")
    await asyncio.sleep(5)
    first, second = (await intervals(it, "disk_byte_seconds"))[before:]
    assert (first[2], second[2]) == (10 * 10**9, 20 * 10**9)
    assert first[1] == second[0] and first[1] - first[0] >= 48 and second[1] is not None
    assert 96 <= second[1] - first[0] <= 104


@played
async def test_an_object_at_rest_costs_no_commit_for_its_meters(it: Scene) -> None:
    machine = await it.machine()
    await asyncio.sleep(700)
    assert (await it.machine()).stored.revision == machine.stored.revision


@played
async def test_a_pass_that_dies_before_its_commit_opened_nothing(it: Scene) -> None:
    commit, cut = it.store.commit, []

    async def dying(*writes: Any, **more: Any) -> int:
        if any(getattr(w, "stream", "").startswith(OPENED) for w in writes) and len(cut) < 3:
            cut.append(1)
            raise RuntimeError("the process died here")
        return await commit(*writes, **more)

    it.store.commit = dying  # type: ignore[method-assign]
    await it._create(Disk, _disk("d1", "a", 10))
    await it._create(VirtualMachine, _machine("m1", "d1", "a"))
    await asyncio.sleep(300)
    it.store.commit = commit  # type: ignore[method-assign]
    assert len(cut) == 3
    uid = (await it.get(VirtualMachine, "m1")).uid
    project = await it.store.get(Key("Project", "", "p"))
    pairs = await it.store.pairs(stream_of(OPENED, project.uid), stream_of(CLOSED, project.uid), about=uid)
    started = it.host._guests[uid].started_at
    assert sorted((p.first.body["meter"], p.first.body["start"]) for p in pairs) == [
        ("memory_byte_seconds", int(started)), ("vcpu_seconds", int(started))
    ]  # fmt: skip
    it.loop.counts.bugs = 0
