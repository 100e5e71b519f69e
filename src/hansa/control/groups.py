"""Placement groups, security groups, public addresses: small objects whose status says who uses them."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from hansa.control.machine_admission import memberships
from hansa.control.outcome import Outcome, born_ready, conditions
from hansa.control.world import World
from hansa.errors import Refused
from hansa.kinds.compute import GroupPlacement, PlacementGroup, PlacementGroupStatus, VirtualMachine
from hansa.kinds.networking import PublicIP, PublicIPStatus, SecurityGroup, SecurityGroupStatus
from hansa.kinds.resource import AnyResource
from hansa.store.port import Birth, Claim, Reserve

PUBLIC_RANGE = ipaddress.IPv4Network("203.0.113.0/24")  # RFC 5737: reachable from this machine only
PUBLIC_RANGES = (PUBLIC_RANGE, ipaddress.IPv4Network("198.51.100.0/24"), ipaddress.IPv4Network("192.0.2.0/24"))


async def group_born(it: AnyResource, world: World) -> Birth:
    """A placement group is Ready at once."""
    assert isinstance(it, PlacementGroup)
    status = born_ready(world.clock.now(), placement=it.spec.placement.wire(), virtualMachineRefs=[])
    return Birth(status, observed=1, due=False)


async def security_group_born(it: AnyResource, world: World) -> Birth:
    return Birth(born_ready(world.clock.now(), members=[]), observed=1, due=False)


@dataclass(frozen=True, slots=True)
class PlacementGroups:
    kind = PlacementGroup

    async def reconcile(self, it: AnyResource, world: World) -> Outcome:
        assert isinstance(it, PlacementGroup)
        if it.deleting:
            return Outcome(gone=True)
        machines = await world.pointing(VirtualMachine, it.key)
        return Outcome(
            PlacementGroupStatus(
                conditions=conditions(it, world.clock.now(), True, "Available"),
                placement=GroupPlacement(zone=it.spec.placement.zone),
                virtual_machine_refs=tuple(m.ref for m in machines),
            )
        )


@dataclass(frozen=True, slots=True)
class SecurityGroups:
    kind = SecurityGroup

    async def reconcile(self, it: AnyResource, world: World) -> Outcome:
        assert isinstance(it, SecurityGroup)
        if it.deleting:
            return Outcome(gone=True)
        machines = await world.pointing(VirtualMachine, it.key)
        message = "rules are stored; nothing passes between machines yet, so nothing needs to be filtered"
        said = conditions(it, world.clock.now(), True, "Available", "", ("Enforced", False, "NotFiltered", message))
        return Outcome(SecurityGroupStatus.model_validate({"conditions": said, "members": memberships(it, machines)}))


@dataclass(frozen=True, slots=True)
class PublicIPs:
    """An address of the region's range, claimed for the object's life."""

    kind = PublicIP

    async def reconcile(self, it: AnyResource, world: World) -> Outcome:
        assert isinstance(it, PublicIP)
        if it.deleting:
            return Outcome(gone=True)
        scope = f"publicIPs/{it.key.region}"
        held = await world.store.claims(scope)
        mine = next((h.claim.key for h in held if h.owner == it.uid), None)
        address = mine or _first_free({h.claim.key for h in held})
        users = await world.pointing(VirtualMachine, it.key)
        message = "an address of a documentation range: nothing is forwarded to it on this host yet"
        said = conditions(it, world.clock.now(), True, "Available", "", ("Forwarded", False, "NotFiltered", message))
        status = PublicIPStatus.model_validate({
            "conditions": said, "publicIPv4Address": address, "usedByRef": users[0].ref if users else None,
        })  # fmt: skip
        also = () if mine else (Reserve(it.uid, (Claim(scope, address),)),)
        return Outcome(status, also=also, wake=status.public_ipv4_address != it.status.public_ipv4_address)


def _first_free(taken: set[str]) -> str:
    for network in PUBLIC_RANGES:
        for address in network.hosts():
            if str(address) not in taken:
                return str(address)
    raise Refused("AddressesExceeded", "no public address is free in this region: delete one that is not used")
