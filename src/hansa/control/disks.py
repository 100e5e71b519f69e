"""Disks: where, how large, from what; and who uses them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hansa.control.outcome import Outcome, conditions
from hansa.control.world import World
from hansa.engines.ports import Volume, VolumeReport, VolumeState
from hansa.errors import Retry
from hansa.kinds.compute import Disk, DiskImage, DiskPlacement, DiskStatus, DiskUsage, Size, VirtualMachine
from hansa.kinds.registry import full_ref
from hansa.kinds.resource import AnyResource
from hansa.units import from_bytes, human_size

READY_WITHIN_S = 180.0
IMAGE_POLL_S = 1.0


@dataclass(frozen=True, slots=True)
class Disks:
    kind = Disk

    async def reconcile(self, it: AnyResource, world: World) -> Outcome:
        assert isinstance(it, Disk)
        zone = await choose_zone(it, world)
        engine = world.engines.volumes(f"{it.key.region}-{zone}") if zone else None
        if it.deleting:
            return await self._remove(it, world)
        if engine is None:
            return self._no_zone(it, world, zone)
        family = await self._family(it, world)
        if family == "":
            return self._unavailable(it, world, zone)
        wanted = Volume(it.uid, it.generation, it.spec.disk_size.size_bytes if it.spec.disk_size else 0, family)
        return await self._seen(it, world, zone, await engine.apply(wanted), family)

    async def _remove(self, it: Disk, world: World) -> Outcome:
        """Gone once no machine uses it and no byte of it is left anywhere in its region."""
        users = await world.pointing(VirtualMachine, it.key)
        if users:
            return Outcome(_status(it, world, False, "Deleting", f"still used by {users[0].name}"), again_in_s=2.0)
        zone = it.status.placement.zone if it.status.placement else it.spec.placement.zone
        engine = world.engines.volumes(f"{it.key.region}-{zone}") if zone else None
        if engine is not None and not await engine.remove(it.uid):
            raise Retry("the disk's file is still there", after_s=0.5)
        return Outcome(gone=True)

    def _no_zone(self, it: Disk, world: World, zone: str) -> Outcome:
        message = f'there is no zone "{zone}" in {it.key.region}: `hansa get zones` lists them'
        return Outcome(_status(it, world, False, "ZoneInvalid", message))

    def _unavailable(self, it: Disk, world: World, zone: str) -> Outcome:
        ref = it.spec.source.disk_image_ref if it.spec.source else ""
        message = f"no image stands behind {ref} here: allow stand-ins (HANSA_STAND_INS=true) or use another image"
        return Outcome(_status(it, world, False, "ImageUnavailable", message, zone=zone))

    async def _family(self, it: Disk, world: World) -> str | None:
        """The family of the image that it is made from, None for a blank disk, "" when there is none."""
        if it.status.family is not None:
            return it.status.family or None
        source = it.spec.source
        if source is None or source.disk_image_ref is None:
            return None
        image = await world.follow(DiskImage, full_ref(source.disk_image_ref, ("DiskImage",), it.key.scope))
        return image.status.family if image is not None else ""

    async def _seen(self, it: Disk, world: World, zone: str, report: VolumeReport, family: str | None) -> Outcome:
        size = _shown_size(it, report)
        more: dict[str, Any] = {"zone": zone, "size": size, "family": family}
        match report.state:
            case VolumeState.READY:
                usage = await self._usage(it, world)
                status = _status(it, world, True, "Available", usage=usage, size_bytes=report.size_bytes, **more)
                return Outcome(status, wake=status.size_bytes != it.status.size_bytes)
            case VolumeState.WAITING_FOR_IMAGE:
                message = report.message or f"{report.progress:.0%} done"
                status = _status(it, world, False, "ImageBuilding", message, zone=zone)
                return Outcome(status, again_in_s=IMAGE_POLL_S, expect_s=READY_WITHIN_S)
            case VolumeState.TOO_SMALL:
                asked = human_size(it.spec.disk_size.size_bytes) if it.spec.disk_size else "less"
                message = f"image needs {human_size(report.size_bytes)}, disk has {asked}: set spec.diskSize"
                return Outcome(_status(it, world, False, "DiskTooSmall", message, zone=zone))
            case _:
                return Outcome(
                    _status(it, world, False, "ImageUnavailable", report.message, zone=zone), again_in_s=30.0
                )

    async def _usage(self, it: Disk, world: World) -> tuple[DiskUsage, ...]:
        machines = await world.pointing(VirtualMachine, it.key)
        return tuple(DiskUsage(use_kind="permanent", virtual_machine_ref=vm.ref) for vm in machines)


async def choose_zone(it: Disk, world: World) -> str:
    """The zone as asked or as chosen before; for an empty wish the first of the region that takes disks."""
    if it.spec.placement.zone:
        return it.spec.placement.zone
    if it.status.placement is not None and it.status.placement.zone:
        return it.status.placement.zone
    for letter in "abcdefghij":
        if world.engines.volumes(f"{it.key.region}-{letter}") is not None:
            return letter
    return ""


def _shown_size(it: Disk, report: VolumeReport) -> Size | None:
    if it.spec.disk_size is not None:
        return it.spec.disk_size
    if not report.size_bytes:
        return None
    amount, unit = from_bytes(report.size_bytes)
    return Size.model_validate({"amount": amount, "unit": unit})


def _status(
    it: Disk, world: World, ready: bool, reason: str, message: str = "", *, zone: str = "", size: Size | None = None,
    usage: tuple[DiskUsage, ...] | None = None, size_bytes: int = 0, family: str | None = None,
) -> DiskStatus:  # fmt: skip
    old = it.status
    simulated = zone_simulated(world, it.key.region or "", zone) if zone else old.simulated
    return DiskStatus(
        conditions=conditions(it, world.clock.now(), ready, reason, message),
        disk_size=size or old.disk_size,
        placement=DiskPlacement(zone=zone) if zone else old.placement,
        disk_usage=usage if usage is not None else old.disk_usage,
        simulated=simulated,
        size_bytes=size_bytes or old.size_bytes,
        family=(family or "") if ready else old.family,
    )


def zone_simulated(world: World, region: str, zone: str) -> bool | None:
    """True on a simulated zone, None on a real one: the word then does not stand in the status at all."""
    engine = world.engines.volumes(f"{region}-{zone}")
    return True if getattr(engine, "simulated", False) else None
