"""What a machine has to say when a user writes it: what is its own from the first commit on, groups, a dry run."""

from __future__ import annotations

from typing import Any

from hansa.control.machine_parts import decide_place, read_parts
from hansa.control.machine_report import shown
from hansa.control.outcome import born_waiting
from hansa.control.uses import use_claims
from hansa.control.world import World
from hansa.errors import Full
from hansa.kinds.compute import GROUP_MEMBERS_MAX, Disk, PlacementGroup, VirtualMachine
from hansa.kinds.networking import PublicIP, SecurityGroup
from hansa.kinds.registry import full_ref
from hansa.kinds.resource import AnyResource, Document
from hansa.store.port import Birth, Claim, Release, Reserve, Write


async def machine_born(it: AnyResource, world: World) -> Birth:
    """Its disks and its public address are its own from the first commit on."""
    assert isinstance(it, VirtualMachine)
    claims = await exclusive_claims(it, world)
    also: tuple[Write, ...] = (Reserve(it.uid, claims),)
    await check_group(it, world)
    return Birth(born_waiting(world.clock.now(), virtualMachineStatus="Creating"), also=also)


async def machine_amended(old: AnyResource, new: AnyResource, world: World) -> tuple[Write, ...]:
    """Takes what the new spec names and gives back what it no longer names."""
    assert isinstance(old, VirtualMachine) and isinstance(new, VirtualMachine)
    before, after = await exclusive_claims(old, world), await exclusive_claims(new, world)
    await check_group(new, world)
    gone = [c.scope for c in before if c not in after]
    writes: list[Write] = [Release(new.uid, tuple(gone))] if gone else []
    return (*writes, Reserve(new.uid, after))


async def exclusive_claims(it: VirtualMachine, world: World) -> tuple[Claim, ...]:
    """Raises InUse for a disk or an address that another machine, or an attachment, has."""
    used: list[AnyResource] = []
    for use in it.spec.disks:
        disk = await world.follow(Disk, full_ref(use.disk_ref, ("Disk",), it.key.scope))
        if disk is not None:
            used.append(disk)
    if it.spec.networking.public_ip_ref:
        ip = await world.follow(PublicIP, full_ref(it.spec.networking.public_ip_ref, ("PublicIP",), it.key.scope))
        if ip is not None:
            used.append(ip)
    return await use_claims(it, used, world)


async def check_group(it: VirtualMachine, world: World) -> None:
    ref = it.spec.placement.placement_group_ref
    group = await world.follow(PlacementGroup, full_ref(ref, ("PlacementGroup",), it.key.scope)) if ref else None
    if group is None:
        return
    members = [m for m in await world.pointing(VirtualMachine, group.key) if m.uid != it.uid]
    if len(members) >= GROUP_MEMBERS_MAX:
        raise Full(
            "groups", group.name, f"placement group {group.name} holds {GROUP_MEMBERS_MAX} machines, the most it may"
        )


async def machine_preview(it: AnyResource, world: World) -> Document:
    """Where it would go now: the same decision as the loop's."""
    assert isinstance(it, VirtualMachine)
    found = await read_parts(it, world)
    return shown(await decide_place(it, found, world)) if found else {"chosen": [], "refused": []}


def memberships(it: SecurityGroup, machines: list[VirtualMachine]) -> tuple[dict[str, Any], ...]:
    """Who is in a group: active once the machine is ready."""
    return tuple({"securityGroupMemberRef": m.ref, "status": "Active" if m.ready else "Pending"} for m in machines)
