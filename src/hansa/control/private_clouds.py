"""VPCs: what is allocated in them, and the hosts that make them.

The only one who tells a host's network engine anything, so that no two tell it different things. Each host is
written down before it is told, and forgotten after it has taken the network down: a pass may die between.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hansa.control.host_networks import Whole, network_on, read_whole
from hansa.control.networks import V4, without
from hansa.control.outcome import Outcome, conditions
from hansa.control.world import World
from hansa.engines.ports import NetworkReport
from hansa.errors import Retry
from hansa.kinds.networking import (
    AllocatedSubnet,
    Subnet,
    Subnets,
    VirtualPrivateCloud,
    VirtualPrivateCloudStatus,
)
from hansa.kinds.resource import AnyResource, Key
from hansa.store.port import Wake


@dataclass(frozen=True, slots=True)
class _Told:
    """What telling the hosts came to: where the network is now, who reads of it what was not so before."""

    hosts: tuple[str, ...]
    waiting: tuple[Key, ...]
    changed: bool


@dataclass(frozen=True, slots=True)
class VirtualPrivateClouds:
    kind = VirtualPrivateCloud

    async def reconcile(self, it: AnyResource, world: World) -> Outcome:
        assert isinstance(it, VirtualPrivateCloud)
        if it.deleting:
            await self._take_down(it, it.status.hosts, world)
            return Outcome(gone=True)
        whole = await read_whole(it, world)
        hosts = tuple(sorted({*it.status.hosts, *whole.hosts}))
        if hosts != it.status.hosts:  # written down before it is done
            return Outcome(it.status.model_copy(update={"hosts": hosts}), again_in_s=0.0)
        told = await self._tell(it, whole, world)
        status = _status(it, whole, world, told.hosts)
        return Outcome(status, also=tuple(Wake(key) for key in told.waiting), wake=told.changed)

    async def _tell(self, it: VirtualPrivateCloud, whole: Whole, world: World) -> _Told:
        waiting: dict[Key, None] = {}
        changed = False
        for host in whole.hosts:
            engine = world.engines.network(host)
            if engine is None:
                continue
            before = await engine.observe(it.uid)
            after = await engine.apply(network_on(host, whole))
            waiting |= dict.fromkeys(_waiting(whole, host, before, after))
            changed |= before is None or _said(before) != _said(after)
        left = [host for host in it.status.hosts if host not in whole.hosts]
        await self._take_down(it, left, world)
        return _Told(whole.hosts, tuple(waiting), changed or bool(left))

    async def _take_down(self, it: VirtualPrivateCloud, hosts: Iterable[str], world: World) -> None:
        for host in hosts:
            engine = world.engines.network(host)
            if engine is not None and not await engine.remove(it.uid):
                raise Retry(f"host {host} has not taken the network down yet", after_s=0.5)


def _waiting(whole: Whole, host: str, before: NetworkReport | None, after: NetworkReport) -> list[Key]:
    """Machines and public addresses of which the host now says something new."""
    ports, publics = (before.ports, before.publics) if before is not None else ({}, {})
    found = []
    for member in whole.members:
        uid = member.machine.uid
        if member.machine.status.host == host and ports.get(uid) != after.ports.get(uid):
            found.append(member.machine.key)
        if member.public_ip is not None:
            address = member.public_ip.status.public_ipv4_address or ""
            if publics.get(address) != after.publics.get(address):
                found.append(member.public_ip.key)
    return found


def _said(report: NetworkReport) -> tuple[object, ...]:
    return report.ports, report.groups, report.publics


def _status(it: VirtualPrivateCloud, whole: Whole, world: World, hosts: tuple[str, ...]) -> VirtualPrivateCloudStatus:
    used = [V4(s.spec.ipv4_cidr_block) for s in whole.subnets if s.spec.ipv4_cidr_block]
    free = [str(b) for block in it.spec.ipv4_cidr_blocks or () for b in without(V4(block), used)]
    status = it.status.model_copy(update={
        "conditions": conditions(it, world.clock.now(), True, "Available"),
        "available_ipv4_cidr_blocks": tuple(free) if it.spec.ipv4_cidr_blocks else None,
        "subnets": Subnets(allocated_subnets=tuple(_allocated(s) for s in whole.subnets)),
        "hosts": hosts,
    })  # fmt: skip
    assert isinstance(status, VirtualPrivateCloudStatus)
    return status


def _allocated(subnet: Subnet) -> AllocatedSubnet:
    return AllocatedSubnet.model_validate({
        "subnetRef": subnet.ref, "ipv4CidrBlock": subnet.spec.ipv4_cidr_block,
        "ipv6GUABlock": subnet.status.assigned_ipv6_gua_block, "placement": {"zone": subnet.spec.placement.zone},
    })  # fmt: skip
