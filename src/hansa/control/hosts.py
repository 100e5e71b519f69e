"""Hosts: what each can do, and the fleet as placement sees it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from hansa.control.outcome import Outcome, conditions
from hansa.control.world import World
from hansa.engines.ports import ComputeEngine, HostReport, MachineState
from hansa.errors import Retry
from hansa.kinds.fleet import Capacity, Host, HostStatus, Region, Zone
from hansa.kinds.resource import AnyResource, Stored
from hansa.placement.fleet import FleetView, HostRow
from hansa.store.port import Held, Wake

SWEEP_S = 30.0
SWEEP_REAL_S = 10.0  # real guests may switch themselves off at any time
CPU, MEMORY, GPU, GROUP = "vcpus", "memory", "gpus", "group"


def capacity_scope(host: str) -> str:
    """Claims on what a host has: keys are `vcpus`, `memory`, `gpus`."""
    return f"hosts/{host}"


def group_scope(group_uid: str) -> str:
    """Claims of a spread group: one single key a host."""
    return f"groups/{group_uid}"


@dataclass(frozen=True, slots=True)
class Hosts:
    """Asks each host's engine what it is, and every half minute sweeps what it holds against the store."""

    kind = Host

    async def reconcile(self, it: AnyResource, world: World) -> Outcome:
        assert isinstance(it, Host)
        engine = world.engines.compute(it.name)
        if it.deleting:
            return Outcome(gone=True)
        now = world.clock.now()
        if engine is None:
            message = "no engine drives this host"
            return Outcome(HostStatus(conditions=conditions(it, now, False, "HostGone", message)), again_in_s=SWEEP_S)
        report = await engine.host()
        reason = "Simulated" if report.simulated else "Available"
        said = conditions(it, now, report.healthy, reason if report.healthy else "EngineNotAnswering", report.message)
        strays = await self._strays(it, world)
        return Outcome(
            HostStatus(
                conditions=said, capacity=promised(it, report, world), accelerator=report.accelerator,
                isolation=report.isolation, network=report.network, engine=report.engine, simulated=report.simulated,
                message=report.message,
            ),
            again_in_s=SWEEP_S if report.simulated else SWEEP_REAL_S,
            also=tuple(strays),
        )  # fmt: skip

    async def _strays(self, it: Host, world: World) -> list[Wake]:
        """Removes what nobody wants, wakes what lags behind: drift is found by engine, not by object."""
        compute, volumes = world.engines.compute(it.name), world.engines.volumes(f"{it.spec.region}-{it.spec.zone}")
        wakes: list[Wake] = []
        for engine in (compute, volumes):
            if engine is None:
                continue
            for held in await engine.held():
                stored = await world.store.find(held.uid)
                if stored is None:
                    await engine.remove(held.uid)
                elif engine is compute and await self._drifted(compute, stored):
                    wakes.append(Wake(stored.key))
        return wakes

    async def _drifted(self, engine: ComputeEngine, stored: Stored) -> bool:
        """Is a machine that was last seen running not running any more (or not answering)?"""
        if stored.observed != stored.generation or stored.status.get("virtualMachineStatus") != "Running":
            return False
        try:
            return (await engine.observe(stored.uid)).state is not MachineState.RUNNING
        except Retry:
            return True


def promised(host: Host, report: HostReport, world: World) -> Capacity:
    """What may be sold: measured and overcommitted on the real host, as the fleet file says on paper."""
    if report.simulated:
        return host.spec.capacity
    return Capacity.model_validate({
        "vCPUs": int(report.vcpus * world.settings.cpu_overcommit),
        "memoryBytes": int(report.memory_bytes * world.settings.memory_overcommit),
        "diskBytes": report.disk_bytes, "gpuModel": report.gpu_model, "gpus": report.gpus,
    })  # fmt: skip


async def fleet_view(world: World, region: str) -> FleetView:
    """The hosts of a region with what is free on each."""
    countries = {r.name: r.spec.country for r in await world.all(Region)}
    zones = {z.name: z.spec.country for z in await world.all(Zone)}
    used = _used(await world.store.claims("hosts", below=True))
    groups = _groups(await world.store.claims("groups", below=True))
    rows = []
    for host in await world.all(Host):
        if host.spec.region != region:
            continue
        taken, room = used[host.name], host.status.capacity
        rows.append(
            HostRow(
                name=host.name, region=host.spec.region, zone=host.spec.zone,
                territory=zones.get(f"{host.spec.region}-{host.spec.zone}", countries.get(host.spec.region, "")),
                healthy=host.status.is_ready, simulated=host.spec.simulated,
                free_vcpus=room.vcpus - taken[CPU], free_memory_bytes=room.memory_bytes - taken[MEMORY],
                gpu_model=room.gpu_model, free_gpus=room.gpus - taken[GPU], groups=frozenset(groups[host.name]),
                message=host.status.message or ("" if host.status.is_ready else f"{host.name} was not looked at yet"),
            )
        )  # fmt: skip
    return FleetView(tuple(sorted(rows, key=lambda r: r.name)))


def _used(held: Iterable[Held]) -> defaultdict[str, defaultdict[str, int]]:
    used: defaultdict[str, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    for h in held:
        used[h.claim.scope.split("/", 1)[1]][h.claim.key] += h.claim.amount
    return used


def _groups(held: Iterable[Held]) -> defaultdict[str, set[str]]:
    groups: defaultdict[str, set[str]] = defaultdict(set)
    for h in held:
        groups[h.claim.key].add(h.claim.scope.split("/", 1)[1])
    return groups
