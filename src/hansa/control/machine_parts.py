"""What a machine points at and what it claims: reading, no deciding beyond the placement's pure function."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from hansa.control.hosts import CPU, GPU, MEMORY, capacity_scope, fleet_view, group_scope
from hansa.control.networks import address_scope, usable_v4
from hansa.control.world import World
from hansa.errors import Full, Refused, Retry
from hansa.kinds.compute import (
    ComputeProfile,
    Disk,
    MachineAddresses,
    PlacementGroup,
    VirtualMachine,
    VirtualMachineSpec,
)
from hansa.kinds.fleet import Host
from hansa.kinds.networking import PublicIP, Subnet, VirtualPrivateCloud
from hansa.kinds.registry import full_ref
from hansa.kinds.resource import Key
from hansa.placement.place import Decision, place
from hansa.placement.request import Request
from hansa.policy.decide import decide
from hansa.policy.verdict import PROGRAM, Act, Rules, Subject, TerritoryRule
from hansa.store.port import Claim, Reserve, Write


@dataclass(frozen=True, slots=True)
class Parts:
    """What a machine points at, read: its profile, disks in order, subnet with its network, group."""

    profile: ComputeProfile
    disks: tuple[Disk, ...]
    subnet: Subnet
    vpc: VirtualPrivateCloud
    group: PlacementGroup | None


async def read_parts(it: VirtualMachine, world: World) -> Parts | None:
    """What it points at; None when something of it is not there."""
    scope, group_ref = it.key.scope, it.spec.placement.placement_group_ref
    profile = await world.follow(ComputeProfile, full_ref(it.spec.compute_profile_ref, ("ComputeProfile",), scope))
    subnet = await world.follow(Subnet, subnet_ref(it.key, it.spec))
    found = [await world.follow(Disk, full_ref(d.disk_ref, ("Disk",), scope)) for d in it.spec.disks]
    disks = tuple(d for d in found if d is not None)
    group = await world.follow(PlacementGroup, full_ref(group_ref, ("PlacementGroup",), scope)) if group_ref else None
    if profile is None or subnet is None or len(disks) != len(found) or (group_ref and group is None):
        return None
    vpc = await world.follow(
        VirtualPrivateCloud, full_ref(subnet.spec.vpc_ref, ("VirtualPrivateCloud",), subnet.key.scope)
    )
    return Parts(profile, disks, subnet, vpc, group) if vpc is not None else None


def subnet_ref(key: Key, spec: VirtualMachineSpec) -> str:
    """The subnet as asked, else the project's default one of the zone."""
    name = spec.networking.subnet_ref or f"default-{key.region}-{spec.placement.zone}"
    return full_ref(name, ("Subnet",), key.scope)


# -- placing ------------------------------------------------------------------------------------


async def decide_place(it: VirtualMachine, parts: Parts, world: World) -> Decision:
    """Policy once a territory, then placement; the same in a dry run."""
    region, profile = it.key.region or "", parts.profile.spec
    fleet = await fleet_view(world, region)
    forbidden = await forbidden_territories(it.key, {h.territory for h in fleet.hosts}, world)
    request = Request(
        it.uid, region, it.spec.placement.zone, profile.vcpus, profile.memory.size_bytes,
        profile.gpus.model if profile.gpus else "", profile.gpus.quantity if profile.gpus else 0,
        parts.group.uid if parts.group else "", forbidden,
    )  # fmt: skip
    return place(request, fleet)


async def forbidden_territories(key: Key, territories: set[str], world: World) -> tuple[tuple[str, str], ...]:
    from hansa.kinds.iam import Project
    from hansa.kinds.sovereignty import SovereigntyPolicy

    project = await world.get(Project, Key("Project", "", key.project or ""))
    organization = project.spec.organization if project else ""
    rules: list[TerritoryRule] = []
    for scope in (f"projects/{key.project}", f"organizations/{organization}"):
        rules += [TerritoryRule(p.ref, frozenset(p.spec.territories)) for p in await world.all(SovereigntyPolicy, scope)
                  if not p.deleting]  # fmt: skip
    found = []
    for territory in sorted(territories):
        subject = Subject("VirtualMachine", key.name, key.project or "", organization, territory)
        verdict = decide(PROGRAM, Act.PLACE, subject, Rules(tuple(rules)))
        if not verdict.allowed:
            found.append((territory, verdict.why))
    return tuple(found)


# -- claiming -----------------------------------------------------------------------------------


async def claims_for(it: VirtualMachine, parts: Parts, host: str, index: int, world: World) -> tuple[Claim, ...]:
    row = await world.get(Host, Key("Host", "", host))
    if row is None:
        raise Full(capacity_scope(host), CPU, f"host {host} is not in the fleet any more")
    claims = [*room_claims(parts.profile, row), Claim(address_scope(parts.subnet.uid), str(index))]
    if parts.group is not None:
        claims.append(Claim(group_scope(parts.group.uid), host))
    return tuple(claims)


def room_claims(profile: ComputeProfile, host: Host) -> tuple[Claim, ...]:
    """What a machine of this profile takes of a host, under what the host may promise."""
    room, scope = host.status.capacity, capacity_scope(host.name)
    claims = [
        Claim(scope, CPU, profile.spec.vcpus, ceiling=room.vcpus),
        Claim(scope, MEMORY, profile.spec.memory.size_bytes, ceiling=room.memory_bytes),
    ]
    if profile.spec.gpus:
        claims.append(Claim(scope, GPU, profile.spec.gpus.quantity, ceiling=room.gpus))
    return tuple(claims)


async def resized(it: VirtualMachine, parts: Parts, host: Host | None, world: World) -> tuple[Write, ...]:
    """A profile that changed while it was stopped changes what is claimed of the host."""
    if host is None:
        return ()
    held = {h.claim.key: h.claim.amount for h in await world.store.claims_of(it.uid)
            if h.claim.scope == capacity_scope(host.name)}  # fmt: skip
    wanted = room_claims(parts.profile, host)
    return () if held == {c.key: c.amount for c in wanted} else (Reserve(it.uid, wanted),)


# -- addresses ----------------------------------------------------------------------------------


async def free_address(subnet: Subnet, uid: str, world: World) -> int:
    """The index of the first address that nobody holds (or of the one that this machine holds)."""
    held = await world.store.claims(address_scope(subnet.uid))
    if mine := next((h for h in held if h.owner == uid), None):
        return int(mine.claim.key)
    taken = {int(h.claim.key) for h in held}
    if subnet.spec.ipv4_cidr_block:
        network = ipaddress.IPv4Network(subnet.spec.ipv4_cidr_block)
        base = int(network.network_address)
        candidates: Iterable[int] = (a - base for a in usable_v4(network))
    else:
        candidates = range(4, 65_536)
    for index in candidates:
        if index not in taken:
            return index
    raise Refused("AddressesExceeded", f"subnet {subnet.name} has no free address")


async def addresses_of(it: VirtualMachine, parts: Parts, world: World) -> MachineAddresses:
    """Its addresses, from the index that it holds in its subnet. Raises Retry while it holds none."""
    held = [h for h in await world.store.claims_of(it.uid) if h.claim.scope == address_scope(parts.subnet.uid)]
    if not held:
        raise Retry("its address is not claimed", after_s=0.5)
    ipv4, ipv6 = addresses_in(parts.subnet, int(held[0].claim.key), it)
    public = None
    if it.spec.networking.public_ip_ref:
        ref = full_ref(it.spec.networking.public_ip_ref, ("PublicIP",), it.key.scope)
        ip = await world.follow(PublicIP, ref)
        public = ip.status.public_ipv4_address if ip else None
    return MachineAddresses.model_validate({
        "privateIPv4Address": ipv4, "publicIPv4Address": public, "ipv6Address": ipv6,
        "stackType": stack_of(it, parts.subnet),
    })  # fmt: skip


def stack_of(it: VirtualMachine, subnet: Subnet) -> str:
    """The families that it speaks: its own wish, else its subnet's."""
    return it.spec.networking.stack_type or subnet.spec.stack_type


def addresses_in(subnet: Subnet, index: int, it: VirtualMachine) -> tuple[str | None, str | None]:
    """IPv4 and IPv6 address of a machine from its index in the subnet; None for a family that it does not speak."""
    stack = stack_of(it, subnet)
    v4 = subnet.spec.ipv4_cidr_block if stack != "ipv6-only" else None
    v6 = subnet.status.assigned_ipv6_gua_block if stack != "ipv4-only" else None
    return str(ipaddress.IPv4Network(v4)[index]) if v4 else None, str(ipaddress.IPv6Network(v6)[index]) if v6 else None
