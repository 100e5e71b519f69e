"""Private networks and subnets: blocks that do not overlap, addresses counted, a default for each project.

IPv6 blocks are cut from the documentation range 2001:db8::/32 (RFC 3849): a /48 a VPC, claimed in the
store so that no two VPCs hold one, and a /64 of it a subnet.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from hansa.control.outcome import Outcome, born_ready, conditions
from hansa.control.world import World
from hansa.errors import Full, InUse, Invalid
from hansa.kinds.iam import Project
from hansa.kinds.networking import (
    DEFAULT_VPC_BLOCK,
    Subnet,
    SubnetStatus,
    VirtualPrivateCloud,
)
from hansa.kinds.registry import full_ref
from hansa.kinds.resource import AnyResource, Document, Key, Stored, ref_of
from hansa.store.port import Birth, Claim, Create, LinkTo, Reserve, Write

IPV6_RANGE = ipaddress.IPv6Network("2001:db8::/32")
VPC_PREFIX, SUBNET_PREFIX = 48, 64
RESERVED_V4 = 4  # network, gateway, DNS, and one kept back; the last address is the broadcast
DEFAULT_SUBNET_PREFIX = 20
TRIES = 64

V4 = ipaddress.IPv4Network


# -- IPv6 blocks --------------------------------------------------------------------------------


def vpc_block(seed: str) -> ipaddress.IPv6Network:
    """A /48 of the range, chosen by a hash; the caller tries further seeds when it is taken."""
    index = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:2]) or 1
    return ipaddress.IPv6Network((int(IPV6_RANGE.network_address) + (index << (128 - VPC_PREFIX)), VPC_PREFIX))


async def free_vpc_block(uid: str, world: World) -> tuple[str, Claim]:
    """A block that nobody holds, with the claim that makes it so."""
    for i in range(TRIES):
        block = str(vpc_block(f"{uid}/{i}"))
        if not await world.store.claims(f"ipv6/{block}"):
            return block, Claim(f"ipv6/{block}", "vpc")
    raise Full("ipv6", str(IPV6_RANGE), "no free IPv6 block was found; delete a VPC that is not used")


def subnet_block(vpc_block_text: str, taken: Iterable[str]) -> str:
    """The first /64 of the VPC that no subnet holds."""
    held = set(taken)
    for block in ipaddress.IPv6Network(vpc_block_text).subnets(new_prefix=SUBNET_PREFIX):
        if str(block) not in held:
            return str(block)
    raise Full("ipv6", vpc_block_text, f"all /64 blocks of {vpc_block_text} are in use")


# -- VPCs ---------------------------------------------------------------------------------------


async def vpc_born(it: AnyResource, world: World) -> Birth:
    """Usable at once: the assigned blocks stand in the first answer."""
    assert isinstance(it, VirtualPrivateCloud)
    block, claim = await free_vpc_block(it.uid, world)
    return Birth(_vpc_document(it, world, block), observed=1, also=(Reserve(it.uid, (claim,)),), due=False)


def _vpc_document(it: VirtualPrivateCloud, world: World, block: str) -> Document:
    blocks = list(it.spec.ipv4_cidr_blocks or ())
    more: dict[str, object] = {"stackType": it.spec.stack_type, "assignedIPv6GUABlock": block}
    if blocks:
        more |= {"assignedIPv4CidrBlocks": blocks, "availableIPv4CidrBlocks": blocks}
    more["subnets"] = {"allocatedSubnets": [], "invalidSubnets": []}
    return born_ready(world.clock.now(), **more)


def without(block: V4, used: Iterable[V4]) -> list[V4]:
    """What is left of a block, as the fewest networks."""
    left = [block]
    for taken in used:
        left = [rest for b in left for rest in _cut(b, taken)]
    return sorted(left)


def _cut(block: V4, taken: V4) -> Iterator[V4]:
    if not block.overlaps(taken):
        yield block
    elif taken.subnet_of(block) and taken != block:
        yield from block.address_exclude(taken)


async def guard_default(it: AnyResource, world: World) -> None:
    """A project's default network stays as long as the project."""
    project = await world.get(Project, Key("Project", "", it.key.project or ""))
    if it.name.startswith(f"default-{it.key.region}") and project is not None and not project.deleting:
        raise InUse(f"{it.key} belongs to the project's default network and goes only with the project")


# -- subnets ------------------------------------------------------------------------------------


async def subnet_born(it: AnyResource, world: World) -> Birth:
    """Inside its VPC, overlapping no other subnet. Two that race are told apart by a claim on the VPC's
    count of subnets: the slower one sees Conflict and is decided again."""
    assert isinstance(it, Subnet)
    vpc = await world.follow(VirtualPrivateCloud, full_ref(it.spec.vpc_ref, ("VirtualPrivateCloud",), it.key.scope))
    if vpc is None:
        raise Invalid.field("spec.vpcRef", f"{it.spec.vpc_ref} does not exist")
    others = [s for s in await world.pointing(Subnet, vpc.key) if s.uid != it.uid]
    check_subnet(it, vpc, others)
    block = subnet_block(vpc.status.assigned_ipv6_gua_block or str(vpc_block(vpc.uid)),
                         (s.status.assigned_ipv6_gua_block or "" for s in others))  # fmt: skip
    claims = [Claim(f"subnets/{vpc.uid}", block)]
    claims += [Claim(f"subnets/{vpc.uid}", str(piece)) for piece in _pieces(it)]
    return Birth(_subnet_document(it, world, block), observed=1, also=(Reserve(it.uid, tuple(claims)),), due=False)


def _pieces(it: Subnet) -> list[V4]:
    """The /20 blocks that a range touches (at most 16 of them): claimed, so that of two overlapping
    subnets made at the same moment only one is stored. Smaller ranges claim at /29 inside one /24."""
    if it.spec.ipv4_cidr_block is None:
        return []
    return list(V4(it.spec.ipv4_cidr_block).subnets(new_prefix=29))


def check_subnet(it: Subnet, vpc: VirtualPrivateCloud, others: list[Subnet]) -> None:
    """Raises Invalid naming the field and the block in the way."""
    if vpc.spec.stack_type == "ipv6-only" and it.spec.stack_type == "dual-stack":
        raise Invalid.field("spec.stackType", f"{vpc.name} is ipv6-only")
    if it.spec.ipv4_cidr_block is None:
        return
    network = V4(it.spec.ipv4_cidr_block)
    blocks = vpc.spec.ipv4_cidr_blocks or ()
    if not any(network.subnet_of(V4(b)) for b in blocks):
        raise Invalid.field("spec.ipv4CidrBlock", f"{network} is not inside {' or '.join(blocks)} of {vpc.name}")
    for other in others:
        if other.spec.ipv4_cidr_block and network.overlaps(V4(other.spec.ipv4_cidr_block)):
            raise Invalid.field(
                "spec.ipv4CidrBlock", f"{network} overlaps {other.spec.ipv4_cidr_block} of subnet {other.name}"
            )


def usable_v4(network: V4) -> range:
    """Addresses that machines may have, as integers: without network, gateway, DNS, one more, broadcast."""
    first = int(network.network_address)
    return range(first + RESERVED_V4, first + network.num_addresses - 1)


def _subnet_document(it: Subnet, world: World, block: str) -> Document:
    return born_ready(world.clock.now(), **_counts(it, block, []))


def _counts(it: Subnet, block: str, used: list[int]) -> Document:
    document: Document = {
        "assignedIPv6GUABlock": block,
        "placement": {"zone": it.spec.placement.zone},
        "usingIPv6AddressCount": len(used),
        "usingIPv6Ranges": [str(ipaddress.IPv6Network(block)[a]) for a in used],
    }
    if it.spec.ipv4_cidr_block:
        network = V4(it.spec.ipv4_cidr_block)
        all_usable = usable_v4(network)
        base = int(network.network_address)
        taken = sorted(base + a for a in used)
        document |= {
            "availableIPv4AddressCount": len(all_usable) - len(taken),
            "availableIPv4Ranges": list(ranges(a for a in all_usable if a not in set(taken))),
            "usingIPv4AddressCount": len(taken),
            "usingIPv4Ranges": list(ranges(taken)),
        }
    return document


def ranges(addresses: Iterable[int]) -> Iterator[str]:
    """Runs of addresses as `first-last`, a single one as itself."""
    first = last = None
    for address in [*addresses, None]:
        if last is not None and address == last + 1:
            last = address
            continue
        if first is not None and last is not None:
            a, b = ipaddress.IPv4Address(first), ipaddress.IPv4Address(last)
            yield str(a) if a == b else f"{a}-{b}"
        first = last = address


@dataclass(frozen=True, slots=True)
class SubnetsOf:
    """Counts what is in use; an address is an index into both the IPv4 and the IPv6 block."""

    kind = Subnet

    async def reconcile(self, it: AnyResource, world: World) -> Outcome:
        from hansa.kinds.compute import VirtualMachine

        assert isinstance(it, Subnet)
        if it.deleting:
            if await world.pointing(VirtualMachine, it.key):
                said = conditions(it, world.clock.now(), False, "Deleting", "machines are still in it")
                return Outcome(it.status.model_copy(update={"conditions": said}), again_in_s=1.0)
            return Outcome(gone=True)
        held = await world.store.claims(address_scope(it.uid))
        machines = await world.pointing(VirtualMachine, it.key)
        document = _counts(it, it.status.assigned_ipv6_gua_block or "", sorted(int(h.claim.key) for h in held))
        document["attachmentRefs"] = [m.ref for m in machines]
        document["conditions"] = [c.wire() for c in conditions(it, world.clock.now(), True, "Available")]
        return Outcome(SubnetStatus.model_validate(document))


def address_scope(subnet_uid: str) -> str:
    """Claims on the addresses of a subnet: the key is the index of the address in its block."""
    return f"addresses/{subnet_uid}"


# -- the default network ------------------------------------------------------------------------


async def default_network(project: str, region: str, letters: list[str], world: World) -> list[Write]:
    """VPC `default-{region}` and a dual-stack subnet `default-{region}-{zone}` for each zone."""
    scope = f"projects/{project}/regions/{region}"
    vpc_key = Key("VirtualPrivateCloud", scope, f"default-{region}")
    spec = {"stackType": "dual-stack", "ipv4CidrBlocks": [DEFAULT_VPC_BLOCK]}
    uid = world.ids.uid()
    birth = await vpc_born(VirtualPrivateCloud(_stored(vpc_key, uid, spec, world)), world)
    block = str(birth.status["assignedIPv6GUABlock"])
    writes: list[Write] = [Create(vpc_key, uid, spec, status=birth.status, observed=1, due=False), *birth.also]
    blocks = V4(DEFAULT_VPC_BLOCK).subnets(new_prefix=DEFAULT_SUBNET_PREFIX)
    blocks6 = ipaddress.IPv6Network(block).subnets(new_prefix=SUBNET_PREFIX)
    for letter, network, network6 in zip(letters, blocks, blocks6, strict=False):
        writes += _default_subnet(scope, vpc_key, uid, f"{region}-{letter}", letter, network, str(network6), world)
    return writes


def _default_subnet(
    scope: str, vpc: Key, vpc_uid: str, zone: str, letter: str, network: V4, network6: str, world: World
) -> list[Write]:
    key = Key("Subnet", scope, f"default-{zone}")
    ref = ref_of(VirtualPrivateCloud, vpc)
    spec: Document = {"vpcRef": ref, "stackType": "dual-stack", "ipv4CidrBlock": str(network),
                      "placement": {"zone": letter}}  # fmt: skip
    uid = world.ids.uid()
    it = Subnet(_stored(key, uid, spec, world))
    claims = [Claim(f"subnets/{vpc_uid}", network6), *(Claim(f"subnets/{vpc_uid}", str(p)) for p in _pieces(it))]
    link = LinkTo(vpc, "spec.vpcRef", holds=True, free=False)
    create = Create(key, uid, spec, status=_subnet_document(it, world, network6), links=(link,), observed=1, due=False)
    return [create, Reserve(uid, tuple(claims))]


def late_default_subnet(
    vpc: VirtualPrivateCloud, region: str, letter: str, others: list[Subnet], world: World
) -> tuple[list[Write], Subnet | None]:
    """The default subnet of a zone that came after the project: the first blocks that no subnet holds.
    None: the VPC has no room for it."""
    used = [V4(s.spec.ipv4_cidr_block) for s in others if s.spec.ipv4_cidr_block]
    blocks = (b for text in vpc.spec.ipv4_cidr_blocks or () for b in _cut_to(V4(text), DEFAULT_SUBNET_PREFIX))
    network = next((b for b in blocks if not any(b.overlaps(u) for u in used)), None)
    if network is None:
        return [], None
    network6 = subnet_block(vpc.status.assigned_ipv6_gua_block or str(vpc_block(vpc.uid)),
                            (s.status.assigned_ipv6_gua_block or "" for s in others))  # fmt: skip
    zone = f"{region}-{letter}"
    writes = _default_subnet(vpc.key.scope, vpc.key, vpc.uid, zone, letter, network, network6, world)
    create = writes[0]
    assert isinstance(create, Create)
    made = replace(_stored(create.key, create.uid, create.spec, world), status=create.status)
    return writes, Subnet(made)


def _cut_to(block: V4, prefix: int) -> Iterator[V4]:
    return block.subnets(new_prefix=max(prefix, block.prefixlen))


def _stored(key: Key, uid: str, spec: Document, world: World) -> Stored:
    return Stored(key, uid, world.clock.now(), spec=spec)
