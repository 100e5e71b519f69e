"""The disks that come and go on a machine: which the engine is to hold, and what it was seen to hold.

One direction each: attachments say what is wanted, the machine's status what the engine confirmed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from hansa.control.attachments import LETTING_GO_S, misplaced
from hansa.control.outcome import Outcome
from hansa.control.world import World
from hansa.engines.ports import HotDisk, MachineReport, MachineState
from hansa.kinds.compute import Disk, HotswapDisk, HotswapDiskAttachment, VirtualMachine, device_of
from hansa.kinds.registry import full_ref

FIRST_AGAIN_S, LATER_AGAIN_S = 1.0, 5.0


@dataclass(frozen=True, slots=True)
class Hot:
    """One attachment that points at a machine, and its disk."""

    attachment: HotswapDiskAttachment
    disk: Disk | None

    def wanted_on(self, machine: VirtualMachine) -> bool:
        disk = self.disk
        fits = disk is not None and disk.status.made and not misplaced(machine, disk)
        return fits and not self.attachment.deleting

    def plugged(self, report: MachineReport) -> bool:
        return self.disk is not None and self.disk.uid in report.hot_disks


async def hot_of(it: VirtualMachine, world: World) -> tuple[Hot, ...]:
    """In order of creation, those on their way out too."""
    attachments = await world.pointing(HotswapDiskAttachment, it.key)
    return tuple([Hot(a, await world.follow(Disk, disk_ref(a))) for a in attachments])


def disk_ref(attachment: HotswapDiskAttachment) -> str:
    return full_ref(attachment.spec.disk_ref, ("Disk",), attachment.key.scope)


# -- pure ---------------------------------------------------------------------------------------


def hot_disks(it: VirtualMachine, hot: Iterable[Hot]) -> tuple[HotDisk, ...]:
    """What the engine shall hold."""
    return tuple(HotDisk(h.disk.uid, h.attachment.status.serial) for h in hot if h.disk and h.wanted_on(it))


def with_hot(it: VirtualMachine, hot: Sequence[Hot], report: MachineReport, outcome: Outcome, now: float) -> Outcome:
    """A pass's outcome, completed by what the engine's last report says of hot disks. Attachments and disks
    are woken when that changed."""
    entries, gone = listed(it, hot, report), released(hot, report)
    status = (outcome.status or it.status).model_copy(update={"hotswap_disk_attachments": entries, "released": gone})
    changed = (entries, gone) != (it.status.hotswap_disk_attachments, it.status.released)
    looks = [s for s in (outcome.again_in_s, look_again_s(it, hot, report, now)) if s is not None]
    return replace(outcome, status=status, wake=outcome.wake or changed, again_in_s=min(looks, default=None))


def released(hot: Iterable[Hot], report: MachineReport) -> tuple[str, ...]:
    """Attachments on their way out whose disks are not plugged in: no later pass plugs them in again."""
    return tuple(h.attachment.uid for h in hot if h.attachment.deleting and not h.plugged(report))


def listed(it: VirtualMachine, hot: Iterable[Hot], report: MachineReport) -> tuple[HotswapDisk, ...]:
    """The public list: every attachment but those that were let go of."""
    return tuple(_entry(it, h, report) for h in hot if not h.attachment.deleting or h.plugged(report))


def _entry(it: VirtualMachine, hot: Hot, report: MachineReport) -> HotswapDisk:
    serial, there = hot.attachment.status.serial, hot.plugged(report)
    invalid = misplaced(it, hot.disk) if hot.disk is not None else "its disk is gone"
    return HotswapDisk(
        hotswap_disk_attachment_ref=hot.attachment.ref,
        attached=there,
        disk_ref=disk_ref(hot.attachment),
        device=device_of(serial) if there else None,
        serial=serial,
        reason="HotswapDiskInvalid" if invalid else None,
        message=invalid or _message(hot, report) or None,
    )


def _message(hot: Hot, report: MachineReport) -> str:
    disk = hot.disk
    if disk is not None and disk.uid in report.letting_go:
        return "the guest does not let go of it yet"
    if hot.plugged(report):
        return ""
    if disk is not None and not disk.status.made:
        return f"disk {disk.name} is not made yet"
    running = report.state in (MachineState.RUNNING, MachineState.PAUSED, MachineState.STARTING)
    return "the guest does not have it yet" if running else "it is attached when the machine starts"


def look_again_s(it: VirtualMachine, hot: Iterable[Hot], report: MachineReport, now: float) -> float | None:
    """A guest that is slow to take or to give is asked often at first."""
    since = [h.attachment.stored.deleted_at or now for h in hot if h.attachment.deleting and h.plugged(report)]
    if report.state is MachineState.RUNNING:
        since += [h.attachment.stored.created_at for h in hot if h.wanted_on(it) and not h.plugged(report)]
    if not since:
        return None
    return FIRST_AGAIN_S if now - max(since) < LETTING_GO_S else LATER_AGAIN_S
