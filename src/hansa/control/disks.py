"""Disks: where, how large, from what; and who uses them.

What a disk is made from is decided once, in the commit that claims its room of the zone's pool; only then is
the engine asked. Once made, a disk does not look at its source again: that may be gone, or be another.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hansa.control.copies import begun
from hansa.control.custom_images import upload_in, upload_of, upload_words
from hansa.control.outcome import Outcome, Trouble, conditions, waiting_for
from hansa.control.pools import held_room, pool_of, take_room
from hansa.control.quotas import over_limit
from hansa.control.world import World
from hansa.engines.ports import Upload, Volume, VolumeReport, VolumeState
from hansa.errors import Full, Retry, Unprocessable
from hansa.kinds.compute import (
    CustomDiskImage,
    Disk,
    DiskImage,
    DiskPlacement,
    DiskStatus,
    DiskUsage,
    HotswapDiskAttachment,
    Size,
    Snapshot,
    VirtualMachine,
)
from hansa.kinds.registry import full_ref
from hansa.kinds.resource import AnyResource
from hansa.store.port import Reserve, Write
from hansa.units import human_size

READY_WITHIN_S = 180.0
POLL_S = 1.0
FULL_AGAIN_S = 10.0
UNAVAILABLE_AGAIN_S = 30.0
LEAVING_AGAIN_S = 2.0


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a disk is to be, how large, and what it is made from."""

    zone: str
    size: Size  # as asked, else the source's
    family: str = ""  # image family that it boots, empty: none
    copy_of: str | None = None  # uid of a snapshot
    upload: Upload | None = None  # an image of the tenant's own


@dataclass(frozen=True, slots=True)
class Disks:
    kind = Disk

    async def reconcile(self, it: AnyResource, world: World) -> Outcome:
        assert isinstance(it, Disk)
        outcome = await (self._remove(it, world) if it.deleting else self._make(it, world))
        if outcome.status is None:
            return outcome
        return replace(outcome, status=outcome.status.model_copy(update={"disk_usage": await usage(it, world)}))

    async def _make(self, it: Disk, world: World) -> Outcome:
        origin = await origin_of(it, world)
        if isinstance(origin, Trouble):
            return self._unready(it, origin, world)
        engine = world.engines.volumes(f"{it.key.region}-{origin.zone}")
        if engine is None:
            message = f'there is no zone "{origin.zone}" in {it.key.region}: `hansa get zones` lists them'
            return self._unready(it, Trouble("ZoneInvalid", message), world)
        room = await take_room(it, origin.zone, origin.size.size_bytes, world)
        if isinstance(room, Trouble):
            return self._unready(it, room, world)
        if room or (origin.copy_of and not it.status.begun) or (origin.upload and it.status.upload is None):
            return self._begin(it, origin, room, world)
        return await self._seen(it, origin, await engine.apply(volume_of(it, origin)), world)

    def _begin(self, it: Disk, origin: Origin, room: tuple[Write, ...], world: World) -> Outcome:
        """Its room becomes its own; the next pass asks the engine."""
        reason = "Updating" if it.status.made else "Provisioning"
        status = _said(it, world, False, reason, f"{origin.size} of zone {origin.zone}").model_copy(update={
            "disk_size": origin.size if not it.status.made else it.status.disk_size,
            "placement": DiskPlacement(zone=origin.zone), "family": origin.family,
            "begun": origin.copy_of is not None,
            "upload": upload_words(origin.upload) if origin.upload else None,
            "simulated": zone_simulated(world, it.key.region or "", origin.zone),
        })  # fmt: skip
        return Outcome(status, again_in_s=0.0, also=room, expect_s=READY_WITHIN_S)

    async def _seen(self, it: Disk, origin: Origin, report: VolumeReport, world: World) -> Outcome:
        match report.state:
            case VolumeState.READY:
                made = {"disk_size": origin.size, "size_bytes": report.size_bytes, "family": origin.family}
                status = _said(it, world, True, "Available").model_copy(update=made)
                return Outcome(status, wake=status.size_bytes != it.status.size_bytes)
            case VolumeState.WAITING_FOR_IMAGE:
                trouble = Trouble("ImageBuilding", report.message or f"{report.progress:.0%} done", POLL_S)
            case VolumeState.COPYING:
                copied = f"{report.progress:.0%} of the snapshot is copied"
                trouble = Trouble("Copying", report.message if origin.upload else copied, POLL_S)
            case VolumeState.HOST_FULL:
                trouble = Trouble("HostDiskFull", report.message, FULL_AGAIN_S)
            case VolumeState.TOO_SMALL if why := await over_limit(it, report.size_bytes, world):
                trouble = Trouble("QuotaExceeded", f"the image is of {human_size(report.size_bytes)}: {why}")
            case VolumeState.TOO_SMALL:
                what = "snapshot" if origin.copy_of else "image"
                message = f"{what} needs {human_size(report.size_bytes)}, disk has {origin.size}: set spec.diskSize"
                trouble = Trouble("DiskTooSmall", message)
            case _:
                trouble = Trouble("ImageUnavailable", report.message, UNAVAILABLE_AGAIN_S)
        return self._unready(it, trouble, world)

    def _unready(self, it: Disk, trouble: Trouble, world: World) -> Outcome:
        status = _said(it, world, False, trouble.reason, trouble.message)
        if it.status.placement is None and it.spec.placement.zone:
            simulated = zone_simulated(world, it.key.region or "", it.spec.placement.zone)
            status = status.model_copy(update={"placement": it.spec.placement, "simulated": simulated})
        return Outcome(status, again_in_s=trouble.again_in_s, expect_s=READY_WITHIN_S)

    async def _remove(self, it: Disk, world: World) -> Outcome:
        """Gone once nobody uses it, no copy of it is being made, and no byte of it is left."""
        users = await users_of(it, world)
        if users:
            return self._leaving(it, f"still used by {users[0].name}", world)
        if copy := begun(it, await world.pointing(Snapshot, it.key)):
            return self._leaving(it, f"snapshot {copy} is being made from it", world)
        zone = zone_of(it)
        engine = world.engines.volumes(f"{it.key.region}-{zone}") if zone else None
        if engine is not None and not await engine.remove(it.uid):
            raise Retry("the disk's file is still there", after_s=0.5)
        return Outcome(gone=True)

    def _leaving(self, it: Disk, message: str, world: World) -> Outcome:
        return Outcome(_said(it, world, False, "Deleting", message), again_in_s=LEAVING_AGAIN_S)


async def disk_amended(old: AnyResource, new: AnyResource, world: World) -> tuple[Write, ...]:
    """Growth claims its room in the commit of the new size: none, none stored. Raises Full, Unprocessable."""
    assert isinstance(old, Disk) and isinstance(new, Disk)
    size, now, zone = new.spec.disk_size, old.status.disk_size, zone_of(old)
    held = await held_room(old, zone, world)
    if size is None or now is None or held in (0, size.size_bytes):
        return ()  # the same amount in another unit; or its reconciler has not claimed yet, and will
    if old.spec.disk_size is None and old.status.made and size.size_bytes < now.size_bytes:
        raise Unprocessable.field("spec.diskSize", f"may not shrink from {now}, which it has, to {size}")
    pool = await pool_of(new.key.region or "", zone, world)
    claim = pool.claim(size.size_bytes)
    if refusal := pool.refusal(new.uid, claim.amount):
        raise Full(claim.scope, claim.key, f"spec.diskSize: {refusal.message}")
    return (Reserve(new.uid, (claim,)),)


# -- reading ------------------------------------------------------------------------------------


async def origin_of(it: Disk, world: World) -> Origin | Trouble:
    """What it is made from: as decided before, else as the spec and its source say now."""
    source = it.spec.source
    if it.status.made:
        return _decided(it)
    if source is not None and source.snapshot_ref is not None:
        return await _from_snapshot(it, full_ref(source.snapshot_ref, ("Snapshot",), it.key.scope), world)
    zone = choose_zone(it, world)
    if source is None or source.disk_image_ref is None:
        assert it.spec.disk_size is not None  # a rule of the spec
        return Origin(zone, it.spec.disk_size)
    ref = full_ref(source.disk_image_ref, ("DiskImage",), it.key.scope)
    if it.status.upload is not None:
        return _decided(it)
    if (own := await world.follow(CustomDiskImage, ref)) is not None:
        return await _from_upload(it, own, zone, world)
    image = await world.follow(DiskImage, ref)
    if image is None or not image.status.family:
        stood = f"no image stands behind {source.disk_image_ref} here"
        message = f"{stood}: allow stand-ins (HANSA_STAND_INS=true) or use another image"
        return Trouble("ImageUnavailable", message, UNAVAILABLE_AGAIN_S)
    return Origin(zone, it.spec.disk_size or image.spec.default_size, image.status.family)


async def _from_snapshot(it: Disk, ref: str, world: World) -> Origin | Trouble:
    snapshot, name = await world.follow(Snapshot, ref), ref.rsplit("/", 1)[-1]
    if snapshot is None or snapshot.uid != it.status.source or (snapshot.deleting and not it.status.begun):
        return Trouble("ReferenceInvalid", f"snapshot {name} went before it was copied: make the disk from another one")
    if it.status.begun:
        return _decided(it)
    status, asked = snapshot.status, it.spec.disk_size
    if not status.made or status.placement is None or status.restore_size is None:
        return waiting_for(snapshot)
    zone, wanted = status.placement.zones, it.spec.placement.zone
    if wanted not in ("", zone):
        return Trouble("ReferenceInvalid", f"snapshot {name} is in zone {zone}, the disk is to be in zone {wanted}")
    if asked is not None and asked.size_bytes < status.restore_size.size_bytes:
        return Trouble("DiskTooSmall", f"snapshot holds {status.restore_size}, disk has {asked}: set spec.diskSize")
    return Origin(zone, asked or status.restore_size, status.family or "", snapshot.uid)


async def _from_upload(it: Disk, image: CustomDiskImage, zone: str, world: World) -> Origin | Trouble:
    upload = await upload_of(image, world)
    if isinstance(upload, Trouble):
        return Trouble("WaitingForReference", f"image {image.name}: {upload.message}", UNAVAILABLE_AGAIN_S)
    return Origin(zone, it.spec.disk_size or image.spec.default_disk_size, upload=upload)


def _decided(it: Disk) -> Origin:
    size, placement = it.spec.disk_size or it.status.disk_size, it.status.placement
    assert size is not None and placement is not None  # committed with its room
    upload = upload_in(it.status.upload) if it.status.upload else None
    return Origin(placement.zone, size, it.status.family or "", it.status.source, upload)


def choose_zone(it: Disk, world: World) -> str:
    """The zone as asked or as chosen before; for an empty wish the first of the region that takes disks."""
    if it.spec.placement.zone:
        return it.spec.placement.zone
    if it.status.placement is not None and it.status.placement.zone:
        return it.status.placement.zone
    for letter in "abcdefghij":
        if world.engines.volumes(f"{it.key.region}-{letter}") is not None:
            return letter
    return ""


async def users_of(it: Disk, world: World) -> list[AnyResource]:
    """Machines and attachments that point at it, those on their way out too."""
    machines = await world.pointing(VirtualMachine, it.key)
    return [*machines, *await world.pointing(HotswapDiskAttachment, it.key)]


async def usage(it: Disk, world: World) -> tuple[DiskUsage, ...]:
    """Who uses it, as its status tells."""
    machines = await world.pointing(VirtualMachine, it.key)
    attachments = await world.pointing(HotswapDiskAttachment, it.key)
    permanent = [DiskUsage(use_kind="permanent", virtual_machine_ref=vm.ref) for vm in machines]
    hot = [DiskUsage(use_kind="hotswap", attachment_ref=a.ref,
                     virtual_machine_ref=full_ref(a.spec.virtual_machine_ref, ("VirtualMachine",), it.key.scope))
           for a in attachments]  # fmt: skip
    return (*permanent, *hot)


# -- pure ---------------------------------------------------------------------------------------


def volume_of(it: Disk, origin: Origin) -> Volume:
    """A copy without a size of its own is as large as its source, to the byte."""
    own = it.spec.disk_size is None and origin.copy_of is not None
    image = None if origin.copy_of else origin.family or None
    return Volume(it.uid, it.generation, 0 if own else origin.size.size_bytes, image, origin.copy_of, origin.upload)


def zone_of(it: Disk) -> str:
    """Where it is or is to be; empty while no zone was chosen."""
    return it.status.placement.zone if it.status.placement else it.spec.placement.zone


def _said(it: Disk, world: World, ready: bool, reason: str, message: str = "") -> DiskStatus:
    said = conditions(it, world.clock.now(), ready, reason, message)
    return it.status.model_copy(update={"conditions": said})


def zone_simulated(world: World, region: str, zone: str) -> bool | None:
    """True on a simulated zone, None on a real one: the word then does not stand in the status at all."""
    engine = world.engines.volumes(f"{region}-{zone}")
    return True if getattr(engine, "simulated", False) else None
