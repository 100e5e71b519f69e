"""Snapshots: full copies of disks. Once one is made its disk is never looked at again: its id may be reused."""

from __future__ import annotations

from dataclasses import dataclass

from hansa.control.copies import begun
from hansa.control.disks import zone_simulated
from hansa.control.outcome import Outcome, Trouble, conditions, waiting_for
from hansa.control.pools import take_room
from hansa.control.world import World
from hansa.dates import rfc3339
from hansa.engines.ports import Volume, VolumeReport, VolumeState
from hansa.errors import Retry
from hansa.kinds.compute import Disk, Size, Snapshot, SnapshotPlacement, SnapshotStatus
from hansa.kinds.registry import full_ref
from hansa.kinds.resource import AnyResource
from hansa.units import MIB, from_bytes

READY_WITHIN_S = 600.0
COPY_POLL_S = 1.0
FULL_AGAIN_S = 10.0
REFUSED_AGAIN_S = 30.0
LEAVING_AGAIN_S = 2.0


@dataclass(frozen=True, slots=True)
class Snapshots:
    kind = Snapshot

    async def reconcile(self, it: AnyResource, world: World) -> Outcome:
        assert isinstance(it, Snapshot)
        if it.deleting:
            return await self._remove(it, world)
        if it.status.made:
            return Outcome(_made(it, it.status.creation_time or "", world))
        disk = await world.follow(Disk, full_ref(it.spec.disk_ref, ("Disk",), it.key.scope))
        if disk is None or disk.uid != it.status.source or (disk.deleting and not it.status.begun):
            name = it.spec.disk_ref.rsplit("/", 1)[-1]
            return self._unready(it, Trouble("ReferenceInvalid", f"disk {name} went before it was copied"), world)
        return await (self._copy(it, world) if it.status.begun else self._begin(it, disk, world))

    # -- deciding ---------------------------------------------------------------------------

    async def _begin(self, it: Snapshot, disk: Disk, world: World) -> Outcome:
        """How large and where: committed with the room that it takes; the next pass copies."""
        size, placement = disk.spec.disk_size or disk.status.disk_size, disk.status.placement
        if not disk.ready or size is None or placement is None:
            return self._unready(it, waiting_for(disk), world)
        room = await take_room(it, placement.zone, size.size_bytes, world)
        if isinstance(room, Trouble):
            return self._unready(it, room, world)
        status = _said(it, world, False, "Provisioning", f"{size} of zone {placement.zone}").model_copy(update={
            "begun": True, "family": disk.status.family or "", "restore_size": size,
            "placement": SnapshotPlacement(zones=placement.zone),
            "simulated": zone_simulated(world, it.key.region or "", placement.zone),
        })  # fmt: skip
        return Outcome(status, again_in_s=0.0, also=room, expect_s=READY_WITHIN_S)

    # -- copying ----------------------------------------------------------------------------

    async def _copy(self, it: Snapshot, world: World) -> Outcome:
        zone = _zone(it)
        engine = world.engines.volumes(f"{it.key.region}-{zone}")
        if engine is None:
            return self._unready(it, Trouble("HostGone", f"zone {zone} has no host any more", REFUSED_AGAIN_S), world)
        report = await engine.apply(Volume(it.uid, it.generation, 0, copy_of=it.status.source))
        match report.state:
            case VolumeState.READY:
                return await self._ready(it, zone, report, world)
            case VolumeState.COPYING:
                trouble = Trouble("Copying", f"{report.progress:.0%} of the disk is copied", COPY_POLL_S)
            case VolumeState.HOST_FULL:
                trouble = Trouble("HostDiskFull", report.message, FULL_AGAIN_S)
            case _:
                trouble = Trouble("ProvisioningFailed", report.message or "it cannot be copied", REFUSED_AGAIN_S)
        return self._unready(it, trouble, world)

    async def _ready(self, it: Snapshot, zone: str, report: VolumeReport, world: World) -> Outcome:
        """As large as the disk was: it may have grown between its choice and the copy."""
        size = restore_size(it.status.restore_size, report.size_bytes)
        room = await take_room(it, zone, size.size_bytes, world)
        if isinstance(room, Trouble):
            return self._unready(it, room, world)
        status = _made(it, rfc3339(report.taken_at), world).model_copy(update={"restore_size": size})
        return Outcome(status, also=room, wake=True)

    def _unready(self, it: Snapshot, trouble: Trouble, world: World) -> Outcome:
        status = _said(it, world, False, trouble.reason, trouble.message)
        return Outcome(status, again_in_s=trouble.again_in_s, expect_s=READY_WITHIN_S)

    # -- going ------------------------------------------------------------------------------

    async def _remove(self, it: Snapshot, world: World) -> Outcome:
        """Gone once no disk is being made from it and no byte of it is left."""
        if copy := begun(it, await world.pointing(Disk, it.key)):
            status = _said(it, world, False, "Deleting", f"disk {copy} is being made from it")
            return Outcome(status, again_in_s=LEAVING_AGAIN_S)
        engine = world.engines.volumes(f"{it.key.region}-{_zone(it)}")
        if engine is not None and not await engine.remove(it.uid):
            raise Retry("the snapshot's file is still there", after_s=0.5)
        return Outcome(gone=True)


# -- pure ---------------------------------------------------------------------------------------


def restore_size(chosen: Size | None, seen_bytes: int) -> Size:
    """The size as chosen; as seen where that is more than rounding up to whole MiB explains."""
    if chosen is not None and seen_bytes <= -(-chosen.size_bytes // MIB) * MIB:
        return chosen
    amount, unit = from_bytes(seen_bytes)
    return Size.model_validate({"amount": amount, "unit": unit})


def _zone(it: Snapshot) -> str:
    return it.status.placement.zones if it.status.placement else ""


def _made(it: Snapshot, creation_time: str, world: World) -> SnapshotStatus:
    disk = it.spec.disk_ref.rsplit("/", 1)[-1]
    message = f"crash-consistent: what a power cut at {creation_time} would have left on disk {disk}"
    return _said(it, world, True, "Available", message).model_copy(update={"creation_time": creation_time})


def _said(it: Snapshot, world: World, ready: bool, reason: str, message: str) -> SnapshotStatus:
    said = conditions(it, world.clock.now(), ready, reason, message)
    return it.status.model_copy(update={"conditions": said})
