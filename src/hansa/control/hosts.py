"""Hosts: what each can do, and the fleet as placement sees it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from hansa.control.outcome import Outcome, conditions
from hansa.control.world import World
from hansa.engines.ports import ComputeEngine, HostReport, MachineState, NetworkHost
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
    """Asks each host's engine what it is and sweeps what it holds against the store, a real one's more often."""

    kind = Host

    async def reconcile(self, it: AnyResource, world: World) -> Outcome:
        assert isinstance(it, Host)
        engine = world.engines.compute(it.name)
        if it.deleting:
            return Outcome(gone=True)
        now = world.clock.now()
        if engine is None:
            message = "no engine drives this host: it is not in the fleet file any more"
            return Outcome(HostStatus(conditions=conditions(it, now, False, "HostGone", message)), again_in_s=SWEEP_S)
        report, network = await engine.host(), await _network_of(it, world)
        healthy = report.healthy and network.healthy
        message = "; ".join(filter(None, dict.fromkeys((report.message, network.message))))
        reason = ("Simulated" if report.simulated else "Available") if healthy else "EngineNotAnswering"
        strays = await self._strays(it, world)
        return Outcome(
            HostStatus(
                conditions=conditions(it, now, healthy, reason, message), capacity=promised(it, report, world),
                accelerator=report.accelerator, isolation=report.isolation, network=network.mode, uplink=network.uplink,
                limits=report.limits, disk_free_bytes=report.disk_free_bytes, engine=report.engine,
                simulated=report.simulated, message=message,
            ),
            again_in_s=SWEEP_S if report.simulated else SWEEP_REAL_S,
            also=tuple(strays),
        )  # fmt: skip

    async def _strays(self, it: Host, world: World) -> list[Wake]:
        """Removes what nobody wants, wakes what lags behind: drift is found by engine, not by object."""
        compute, volumes = world.engines.compute(it.name), world.engines.volumes(f"{it.spec.region}-{it.spec.zone}")
        wakes: list[Wake] = []
        network = world.engines.network(it.name)
        made = {held.uid for held in await network.held()} if network is not None else set()
        for uid in made:
            if network is not None and await world.store.find(uid) is None:
                await network.remove(uid)
        for engine in (compute, volumes):
            if engine is None:
                continue
            for held in await engine.held():
                stored = await world.store.find(held.uid)
                if stored is None:
                    await engine.remove(held.uid)
                elif engine is compute and await self._drifted(compute, stored):
                    wakes.append(Wake(stored.key))
                elif engine is compute and network is not None:
                    wakes += await self._unplugged(stored, made, world)
        return wakes

    async def _unplugged(self, machine: Stored, made: set[str], world: World) -> list[Wake]:
        """A machine's network that is not on its host any more, though it should be."""
        uid = machine.status.get("vpc")
        vpc = await world.store.find(uid) if uid is not None and uid not in made else None
        return [Wake(vpc.key)] if vpc is not None and vpc.status.get("hosts") else []

    async def _drifted(self, engine: ComputeEngine, stored: Stored) -> bool:
        """Does a machine that was last seen running not run any more (or not answer), or hold other hot disks?"""
        if stored.observed != stored.generation or stored.status.get("virtualMachineStatus") != "Running":
            return False
        plugged = [entry for entry in stored.status.get("hotswapDiskAttachments", ()) if entry["attached"]]
        try:
            report = await engine.observe(stored.uid)
        except Retry:
            return True
        return report.state is not MachineState.RUNNING or len(report.hot_disks) != len(plugged)


async def _network_of(it: Host, world: World) -> NetworkHost:
    """How the host makes networks. One that cannot filter takes no machine."""
    engine = world.engines.network(it.name)
    if engine is None:
        return NetworkHost("", healthy=False, message="no engine makes this host's networks")
    return await engine.host()


def promised(host: Host, report: HostReport, world: World) -> Capacity:
    """What may be sold: measured and overcommitted on the real host, as the fleet file says on paper. Disk
    is overcommitted on both: it is promised thin."""
    disk_bytes = int(report.disk_bytes * world.settings.disk_overcommit)
    if report.simulated:
        return host.spec.capacity.model_copy(update={"disk_bytes": disk_bytes})
    return Capacity.model_validate({
        "vCPUs": int(report.vcpus * world.settings.cpu_overcommit),
        "memoryBytes": int(report.memory_bytes * world.settings.memory_overcommit),
        "diskBytes": disk_bytes, "gpuModel": report.gpu_model, "gpus": report.gpus,
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
