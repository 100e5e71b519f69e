"""What an object takes of the quotas of its project and of the organisation that owns it.

Claimed in the commit that stores the object (or its new spec), given back with its row. A size that nobody knows
yet, as that of a disk from a snapshot that is being made, is claimed in the commit that decides it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from hansa.control.outcome import Trouble
from hansa.control.world import World
from hansa.kinds.compute import ComputeProfile, CustomDiskImage, Disk, DiskImage, Size, Snapshot, VirtualMachine
from hansa.kinds.iam import Organization, Project
from hansa.kinds.networking import PublicIP, VirtualPrivateCloud
from hansa.kinds.quotas import (
    BLOCK_STORAGE,
    BUCKETS,
    DISKS,
    MACHINES,
    MEMORY,
    PROJECTS,
    PUBLIC_IPS,
    SNAPSHOTS,
    VCPUS,
    VPCS,
    Quotas,
    gpu_path,
)
from hansa.kinds.registry import full_ref
from hansa.kinds.resource import AnyResource, Key
from hansa.kinds.storage import Bucket
from hansa.policy.quota import amount_text, effective, organization_scope, owner_of, project_scope, said, short_of
from hansa.store.port import UNLIMITED, Admission, Birth, Claim, Held, Query, Reserve, SetCeilings, Write

SPENT_AGAIN_S = 30.0
COUNTED = ("marks/quotas", "counted")  # the claim that says: whatever was there before quotas is counted
PAGE = 500
Charge = Mapping[str, int]  # by quantity; an amount that is not known yet is absent


# -- what one object takes ----------------------------------------------------------------------


async def charge_of(it: AnyResource, world: World) -> Charge:
    """What it takes as its spec stands, whether it runs or not: starting it never fails for a quota."""
    match it:
        case VirtualMachine():
            return await _machine(it, world)
        case Disk():
            return _storage(DISKS, await _disk_size(it, world))
        case Snapshot():
            return _storage(SNAPSHOTS, await _snapshot_size(it, world))
        case PublicIP():
            return {PUBLIC_IPS: 1}
        case VirtualPrivateCloud():
            return {} if it.name == f"default-{it.key.region}" else {VPCS: 1}
        case Bucket():
            return {BUCKETS: 1}
        case Project():
            return {PROJECTS: 1}
        case _:
            return {}


async def _machine(it: VirtualMachine, world: World) -> Charge:
    ref = full_ref(it.spec.compute_profile_ref, ("ComputeProfile",), it.key.scope)
    profile = await world.follow(ComputeProfile, ref)
    if profile is None:
        return {MACHINES: 1}
    spec = profile.spec
    gpus = {gpu_path(spec.gpus.model): spec.gpus.quantity} if spec.gpus else {}
    return {MACHINES: 1, VCPUS: spec.vcpus, MEMORY: spec.memory.size_bytes, **gpus}


def _storage(count: str, size: Size | None) -> Charge:
    return {count: 1} if size is None else {count: 1, BLOCK_STORAGE: size.size_bytes}


async def _disk_size(it: Disk, world: World) -> Size | None:
    """As asked, else as decided, else its source's."""
    source = it.spec.source
    if it.spec.disk_size or it.status.disk_size or source is None:
        return it.spec.disk_size or it.status.disk_size
    if source.snapshot_ref is not None:
        snapshot = await world.follow(Snapshot, full_ref(source.snapshot_ref, ("Snapshot",), it.key.scope))
        return snapshot.status.restore_size if snapshot is not None else None
    ref = full_ref(source.disk_image_ref or "", ("DiskImage",), it.key.scope)
    if (own := await world.follow(CustomDiskImage, ref)) is not None:
        return own.spec.default_disk_size
    image = await world.follow(DiskImage, ref)
    return image.spec.default_size if image is not None else None


async def _snapshot_size(it: Snapshot, world: World) -> Size | None:
    if it.status.restore_size:
        return it.status.restore_size
    disk = await world.follow(Disk, full_ref(it.spec.disk_ref, ("Disk",), it.key.scope))
    return (disk.spec.disk_size or disk.status.disk_size) if disk is not None else None


# -- claims -------------------------------------------------------------------------------------


async def claims_for(it: AnyResource, charge: Charge, world: World) -> tuple[Claim, ...]:
    """The charge as claims on the project and on its organisation. A project itself is the organisation's."""
    project = it if isinstance(it, Project) else await _project_of(it, world)
    if project is None:
        return ()
    limits = world.settings.quota_limits
    scopes = [(organization_scope(project.spec.organization), limits)]
    if project is not it:
        scopes.append((project_scope(project.name), {}))
    return tuple(
        Claim(scope, path, amount, ceiling=defaults.get(path, UNLIMITED), counted=True)
        for scope, defaults in scopes
        for path, amount in charge.items()
    )


async def _project_of(it: AnyResource, world: World) -> Project | None:
    return await world.get(Project, Key("Project", "", it.key.project or ""))


async def first_taken(it: AnyResource, world: World) -> tuple[Write, ...]:
    """What a new object takes."""
    charge = await charge_of(it, world)
    claims = await claims_for(it, charge, world) if charge else ()
    return (Reserve(it.uid, claims),) if claims else ()


async def retaken(it: AnyResource, world: World, charge: Charge | None = None) -> tuple[Write, ...]:
    """What brings an object from what it holds to what it takes now; nothing where that is the same."""
    wanted = await charge_of(it, world) if charge is None else charge
    held = {h.claim.key: h.claim.amount for h in await _held(it, world)}
    changed = {path: wanted.get(path, 0) for path in {**held, **wanted} if held.get(path, 0) != wanted.get(path, 0)}
    claims = await claims_for(it, changed, world) if changed else ()
    return (Reserve(it.uid, claims),) if claims else ()


async def _held(it: AnyResource, world: World) -> list[Held]:
    """What it holds of its project's quota (its organisation's says the same)."""
    scope = project_scope(it.key.project or "")
    return [h for h in await world.store.claims_of(it.uid) if h.claim.scope == scope]


async def take_storage(it: AnyResource, amount: int, world: World) -> tuple[Write, ...] | Trouble:
    """The writes that make its block storage `amount` bytes, now that this is decided; or why it cannot be."""
    held = {h.claim.key: h.claim.amount for h in await _held(it, world)}
    if held.get(BLOCK_STORAGE, 0) == amount:
        return ()
    claims = await claims_for(it, {BLOCK_STORAGE: amount}, world)
    for claim in claims:
        found = {c.key: c for c in await world.store.counts(claim.scope)}
        count = found.get(claim.key)
        own = count.ceiling if count is not None else None
        limit = {claim.key: (claim.ceiling or 0) if own is None else own}
        used = {claim.key: count.held if count is not None else 0}
        if short := short_of({claim.key: amount}, used, limit, held).get(claim.key):
            return Trouble("QuotaExceeded", said(owner_of(claim.scope), claim.key, short), SPENT_AGAIN_S)
    return (Reserve(it.uid, claims),) if claims else ()


async def over_limit(it: AnyResource, amount: int, world: World) -> str:
    """Why block storage of `amount` bytes could never be had in its project, whatever is deleted; empty: it could."""
    for claim in await claims_for(it, {BLOCK_STORAGE: amount}, world):
        found = next((c.ceiling for c in await world.store.counts(claim.scope) if c.key == claim.key), None)
        limit = (claim.ceiling or 0) if found is None else found
        if amount > limit:
            return f"{claim.key} of {owner_of(claim.scope)} is limited to {amount_text(claim.key, limit)}"
    return ""


# -- admission ----------------------------------------------------------------------------------


def charged(admission: Admission, world: World) -> Admission:
    """An admission that takes quota in the commit of the object, and the difference in that of a changed spec."""
    born, amend = admission.born, admission.amend

    async def with_charge(it: AnyResource) -> Birth:
        birth = await born(it) if born is not None else Birth()
        return replace(birth, also=(*birth.also, *await first_taken(it, world)))

    async def with_difference(old: AnyResource, new: AnyResource) -> tuple[Write, ...]:
        writes = await amend(old, new) if amend is not None else ()
        return (*writes, *await retaken(new, world))

    return replace(admission, born=with_charge, amend=with_difference)


async def limits_amended(old: AnyResource, new: AnyResource, world: World) -> tuple[Write, ...]:
    """Changed limits hold from the commit on that stores them."""
    assert isinstance(new, Organization | Project)
    return () if old.spec.quotas == new.spec.quotas else (ceilings_of(new),)


def ceilings_of(it: Organization | Project) -> SetCeilings:
    scope = organization_scope(it.name) if isinstance(it, Organization) else project_scope(it.name)
    return SetCeilings(scope, ceilings(it.spec.quotas))


def ceilings(own: Quotas | None) -> dict[str, int]:
    """What the store keeps as limits; a size that is switched off has one that nothing reaches."""
    return {**effective(own, {}), **dict.fromkeys(own.off(), UNLIMITED)} if own is not None else {}


# -- what was there before quotas -----------------------------------------------------------------

Commit = Callable[..., Awaitable[Any]]


async def count_everything(world: World, commit: Commit) -> None:
    """Once in the life of a store: what is in it is counted, and the limits that stand in it hold."""
    if await world.store.claims(COUNTED[0]):
        return
    kinds: tuple[type[AnyResource], ...] = (Project, VirtualMachine, Disk, Snapshot, PublicIP, VirtualPrivateCloud)
    for kind in kinds:
        after = "0"
        while after:
            page = await world.store.list(Query(kind.kind, "", below=True, limit=PAGE, after=after))
            writes = [w for stored in page.items for w in await _counted(kind(stored), world)]
            if writes:
                await commit(*writes)
            after = page.next
    owners: list[Organization | Project] = [*await world.all(Organization), *await world.all(Project)]
    limited = [ceilings_of(owner) for owner in owners if owner.spec.quotas is not None]
    await commit(*limited, Reserve(COUNTED[0], (Claim(*COUNTED),)))


async def _counted(it: AnyResource, world: World) -> tuple[Write, ...]:
    """Taken without asking for room: it is there."""
    claims = await claims_for(it, await charge_of(it, world), world)
    return (Reserve(it.uid, tuple(replace(c, ceiling=UNLIMITED) for c in claims)),) if claims else ()
