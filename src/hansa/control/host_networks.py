"""A private network as one host is to make it: read from the store as a whole, translated without a decision.

Who is in a network is said by the claims on its subnets' addresses: a machine has one from its placement until
its row goes. The VPC's reconciler is the only one that tells an engine; machines, groups and public addresses
read what the engine then reports, and wake the VPC where that lags behind.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hansa.control.machine_network import group_refs
from hansa.control.machine_parts import addresses_in
from hansa.control.machine_report import mac_of
from hansa.control.networks import V4, address_scope
from hansa.control.world import World
from hansa.engines import ports
from hansa.engines.ports import Direction, HostNetwork, Range
from hansa.kinds.compute import VirtualMachine
from hansa.kinds.networking import PublicIP, SecurityGroup, SecurityRule, Subnet, VirtualPrivateCloud
from hansa.kinds.registry import full_ref, key_of
from hansa.kinds.resource import Key

NOBODY = "nobody"  # stands for a group that is not there: it has no members
_V6_INDEX_SHIFT = 80  # of a /48: what tells one VPC's block from another's


@dataclass(frozen=True, slots=True)
class Member:
    """A machine of a network, with its addresses and the public one that leads to it."""

    machine: VirtualMachine
    ipv4: str | None
    ipv6: str | None
    public_ip: PublicIP | None

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(address for address in (self.ipv4, self.ipv6) if address)


@dataclass(frozen=True, slots=True)
class Whole:
    """A VPC with all that stands in it, as it was at a revision of the store."""

    vpc: VirtualPrivateCloud
    revision: int
    subnets: tuple[Subnet, ...]
    groups: tuple[SecurityGroup, ...]
    members: tuple[Member, ...]

    @property
    def hosts(self) -> tuple[str, ...]:
        """Where machines of it stand."""
        return tuple(sorted({m.machine.status.host for m in self.members if m.machine.status.host}))


async def read_whole(vpc: VirtualPrivateCloud, world: World) -> Whole:
    """Read after the revision is: what is in it is at least as new."""
    revision = await world.store.revision()
    subnets = await world.pointing(Subnet, vpc.key)
    groups = await world.pointing(SecurityGroup, vpc.key)
    members = [member for subnet in subnets for member in await _members(subnet, world)]
    return Whole(vpc, revision, tuple(subnets), tuple(groups), tuple(members))


async def _members(subnet: Subnet, world: World) -> list[Member]:
    found = []
    for held in await world.store.claims(address_scope(subnet.uid)):
        stored = await world.store.find(held.owner)
        if stored is not None and stored.key.kind == VirtualMachine.kind:
            machine = VirtualMachine(stored)
            ipv4, ipv6 = addresses_in(subnet, int(held.claim.key), machine)
            found.append(Member(machine, ipv4, ipv6, await _public(machine, world)))
    return sorted(found, key=lambda m: m.machine.uid)


async def _public(machine: VirtualMachine, world: World) -> PublicIP | None:
    ref = machine.spec.networking.public_ip_ref
    return await world.follow(PublicIP, full_ref(ref, ("PublicIP",), machine.key.scope)) if ref else None


# -- pure ---------------------------------------------------------------------------------------


def network_on(host: str, whole: Whole) -> HostNetwork:
    """What the host is to make of it: ports for its own machines, groups with members wherever they stand."""
    vpc, v6 = whole.vpc, whole.vpc.status.assigned_ipv6_gua_block
    by_ref = {group.ref: group for group in whole.groups}
    return HostNetwork(
        uid=vpc.uid,
        revision=whole.revision,
        blocks=(*(vpc.spec.ipv4_cidr_blocks or ()), *((v6,) if v6 else ())),
        ranges=tuple(_range(subnet) for subnet in whole.subnets),
        ports=tuple(_port(m, by_ref) for m in whole.members if m.machine.status.host == host),
        groups=tuple(_group(group, whole, by_ref) for group in whole.groups),
        tunnel=tunnel_of(vpc),
    )


def tunnel_of(vpc: VirtualPrivateCloud) -> int:
    """The VXLAN network identifier: no two VPCs hold the same IPv6 block, so its number will do."""
    block = vpc.status.assigned_ipv6_gua_block
    return (int(ipaddress.IPv6Network(block).network_address) >> _V6_INDEX_SHIFT) & 0xFFFF if block else 0


def _range(subnet: Subnet) -> Range:
    v4, v6 = subnet.spec.ipv4_cidr_block, subnet.status.assigned_ipv6_gua_block
    return Range(
        v4, str(V4(v4)[1]) if v4 else None, v6, str(ipaddress.IPv6Network(v6)[1]) if v6 else None,
    )  # fmt: skip


def _port(member: Member, groups: Mapping[str, SecurityGroup]) -> ports.Port:
    machine, public = member.machine, member.public_ip
    named = [groups[ref].uid for ref in group_refs(machine) if ref in groups]
    return ports.Port(
        uid=machine.uid,
        generation=machine.generation,
        name=machine.name,
        mac=mac_of(machine.uid),
        ipv4=member.ipv4,
        ipv6=member.ipv6,
        groups=tuple(dict.fromkeys(named)),
        public_ipv4=public.status.public_ipv4_address if public is not None and member.ipv4 else None,
    )


def _group(group: SecurityGroup, whole: Whole, groups: Mapping[str, SecurityGroup]) -> ports.Group:
    members = [m for m in whole.members if group.ref in group_refs(m.machine)]
    rules = [_rule(rule, group.key, whole, groups) for rule in group.spec.rules or ()]
    addresses = [address for m in members for address in m.addresses]
    return ports.Group(group.uid, group.generation, tuple(r for r in rules if r is not None), tuple(addresses))


def _rule(rule: SecurityRule, at: Key, whole: Whole, groups: Mapping[str, SecurityGroup]) -> ports.Rule | None:
    """A rule of the contract as the engine knows it; None for one whose remote is nobody."""
    remote = rule.remote
    cidrs: tuple[str, ...] = ()
    group = ""
    if remote.address is not None:
        cidrs = (remote.address.ip_address_or_cidr,)
    elif remote.security_group_ref is not None:
        named = groups.get(full_ref(remote.security_group_ref, ("SecurityGroup",), at.scope))
        group = named.uid if named is not None else NOBODY
    elif remote.subnet_ref is not None:
        cidrs = _cidrs_of_subnet(key_of(full_ref(remote.subnet_ref, ("Subnet",), at.scope)), whole.subnets)
    elif remote.vpc_ref is not None:
        v6 = whole.vpc.status.assigned_ipv6_gua_block
        cidrs = (*(whole.vpc.spec.ipv4_cidr_blocks or ()), *((v6,) if v6 else ()))
    if not cidrs and not group and remote.is_named:
        return None
    first = rule.port or 0
    span = (first, rule.end_port or first) if first else None
    return ports.Rule(Direction(rule.direction.lower()), rule.protocol_name.lower(), span, tuple(cidrs), group)


def _cidrs_of_subnet(key: Key | None, subnets: Sequence[Subnet]) -> tuple[str, ...]:
    subnet = next((s for s in subnets if s.key == key), None)
    if subnet is None:
        return ()
    found: Iterable[str | None] = (subnet.spec.ipv4_cidr_block, subnet.status.assigned_ipv6_gua_block)
    return tuple(cidr for cidr in found if cidr)
