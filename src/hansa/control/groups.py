"""Placement groups, security groups, public addresses: small objects whose status says who uses them."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from hansa.control.machine_admission import memberships
from hansa.control.machine_network import LAGS_AGAIN_S, vpc_ref_of
from hansa.control.outcome import Outcome, born_ready, conditions
from hansa.control.world import World
from hansa.errors import Refused
from hansa.kinds.compute import GroupPlacement, PlacementGroup, PlacementGroupStatus, VirtualMachine
from hansa.kinds.networking import PublicIP, PublicIPStatus, SecurityGroup, SecurityGroupStatus, VirtualPrivateCloud
from hansa.kinds.resource import AnyResource
from hansa.store.port import Birth, Claim, Reserve, Wake

DOCUMENTATION = tuple(  # RFC 5737: nobody outside leads to these
    ipaddress.IPv4Network(text) for text in ("203.0.113.0/24", "198.51.100.0/24", "192.0.2.0/24")
)


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
    """Ready once every host with a member of it enforces the rules as they are now."""

    kind = SecurityGroup

    async def reconcile(self, it: AnyResource, world: World) -> Outcome:
        assert isinstance(it, SecurityGroup)
        if it.deleting:
            return Outcome(gone=True)
        machines = await world.pointing(VirtualMachine, it.key)
        vpc = await world.follow(VirtualPrivateCloud, vpc_ref_of(it))
        late, nobody = [], True
        for host in sorted({m.status.host for m in machines if m.status.host}):
            engine = world.engines.network(host)
            report = await engine.observe(vpc.uid) if engine is not None and vpc is not None else None
            nobody = nobody and not (report is not None and it.uid in report.groups)
            if report is not None and report.groups.get(it.uid, 0) < it.generation:
                late.append(host)
        members = memberships(it, machines)
        if late and vpc is not None:
            message = f"its rules are being written on {', '.join(late[:3])}"
            said = conditions(it, world.clock.now(), False, "Updating", message, _enforced(late, nobody=False))
            status = SecurityGroupStatus.model_validate({"conditions": said, "members": members})
            return Outcome(status, again_in_s=LAGS_AGAIN_S, also=(Wake(vpc.key),))
        said = conditions(it, world.clock.now(), True, "Available", "", _enforced(late, nobody=nobody))
        return Outcome(SecurityGroupStatus.model_validate({"conditions": said, "members": members}))


def _enforced(late: list[str], *, nobody: bool) -> tuple[str, bool, str, str]:
    if late:
        return "Enforced", False, "NotFiltered", f"not on {', '.join(late[:3])} yet"
    return "Enforced", True, "Filtered", "no machine is in it yet" if nobody else ""


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
        address = mine or _first_free(public_ranges(world.settings.public_ranges), {h.claim.key for h in held})
        users = await world.pointing(VirtualMachine, it.key)
        forwarded, lags = await _forwarded(address, users, world)
        said = conditions(it, world.clock.now(), True, "Available", "", forwarded)
        status = PublicIPStatus.model_validate({
            "conditions": said, "publicIPv4Address": address, "usedByRef": users[0].ref if users else None,
        })  # fmt: skip
        also = () if mine else (Reserve(it.uid, (Claim(scope, address),)),)
        changed = status.public_ipv4_address != it.status.public_ipv4_address
        return Outcome(status, again_in_s=LAGS_AGAIN_S if lags else None, also=also, wake=changed)


async def _forwarded(
    address: str, users: list[VirtualMachine], world: World
) -> tuple[tuple[str, bool, str, str], bool]:
    """Does the address lead to its machine now? And is it to be asked again, for the network lags behind."""
    if not users:
        return _not_forwarded("no machine uses it"), False
    machine = users[0]
    engine = world.engines.network(machine.status.host or "")
    if engine is not None and (await engine.host()).mode == "userspace":
        why = f"host {machine.status.host} makes networks in user space, where no public address leads to a machine"
        return _not_forwarded(why), False
    report = await engine.observe(machine.status.vpc or "") if engine is not None else None
    if report is None or report.publics.get(address) != machine.uid:
        return _not_forwarded(f"{machine.name} is not plugged in with it yet"), engine is not None
    documentation = any(ipaddress.IPv4Address(address) in network for network in DOCUMENTATION)
    where = "of a documentation range (RFC 5737): reached from machines of this cloud" if documentation else ""
    return ("Forwarded", True, "Available", where), False


def _not_forwarded(why: str) -> tuple[str, bool, str, str]:
    return "Forwarded", False, "NotForwarded", why


def public_ranges(text: str) -> list[ipaddress.IPv4Network]:
    """The ranges of a setting. Raises ValueError."""
    return [ipaddress.IPv4Network(word.strip()) for word in text.split(",") if word.strip()]


def _first_free(ranges: list[ipaddress.IPv4Network], taken: set[str]) -> str:
    for network in ranges:
        for address in network.hosts():
            if str(address) not in taken:
                return str(address)
    raise Refused("AddressesExceeded", "no public address is free in this region: delete one that is not used")
