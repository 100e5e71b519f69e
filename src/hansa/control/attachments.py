"""Attachments: a disk that a machine takes and gives back while it runs.

The machine's reconciler owns the engine; this one waits for what the machine's status says. An attachment on
its way out is forgotten, and its claim on the disk given back, only once its uid stands in the machine's
`released` or the machine is gone: no pass of the machine can then plug the disk in again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hansa.control.disks import zone_of
from hansa.control.outcome import Outcome, born_waiting, conditions, waiting_for
from hansa.control.uses import use_claims
from hansa.control.world import World
from hansa.errors import Full
from hansa.kinds.compute import (
    ATTACHMENTS_PER_MACHINE_MAX,
    DISK_LABEL,
    Disk,
    HotswapDiskAttachment,
    VirtualMachine,
)
from hansa.kinds.registry import full_ref
from hansa.kinds.resource import AnyResource
from hansa.store.port import Birth, Reserve

READY_WITHIN_S = 120.0
LETTING_GO_S = 30.0  # so long a guest may take to let go of a disk before it is said
AGAIN_S = 5.0
SERIAL_LENGTH = 20  # a guest's by-id names show no more


async def attachment_born(it: AnyResource, world: World) -> Birth:
    """Serial and label stand in the first answer; the disk is its own from the first commit on."""
    assert isinstance(it, HotswapDiskAttachment)
    disk_ref = full_ref(it.spec.disk_ref, ("Disk",), it.key.scope)
    machine = await its_machine(it, world)
    if machine is not None:
        others = await world.pointing(HotswapDiskAttachment, machine.key)
        if len(others) >= ATTACHMENTS_PER_MACHINE_MAX:
            most = f"machine {machine.name} has {ATTACHMENTS_PER_MACHINE_MAX} attachments, the most it may"
            raise Full("attachments", machine.name, most)
    disk = await world.follow(Disk, disk_ref)
    claims = await use_claims(it, [disk] if disk is not None else [], world)
    status = born_waiting(world.clock.now(), serial=world.ids.token()[:SERIAL_LENGTH])
    label = {DISK_LABEL: disk_ref.rsplit("/", 1)[-1]}
    return Birth(status, also=(Reserve(it.uid, claims),), system_labels=label)


@dataclass(frozen=True, slots=True)
class Attachments:
    kind = HotswapDiskAttachment

    async def reconcile(self, it: AnyResource, world: World) -> Outcome:
        assert isinstance(it, HotswapDiskAttachment)
        machine = await its_machine(it, world)
        if it.deleting:
            return self._detached(it, machine, world)
        disk = await world.follow(Disk, full_ref(it.spec.disk_ref, ("Disk",), it.key.scope))
        if machine is None or disk is None:
            missing = it.spec.virtual_machine_ref if machine is None else it.spec.disk_ref
            return self._said(it, world, False, "ReferenceInvalid", f"{missing} is gone: delete this attachment")
        ready, reason, message, again_in_s = judge(it, machine, disk)
        outcome = self._said(it, world, ready, reason, message, again_in_s)
        status = (outcome.status or it.status).model_copy(update={"simulated": disk.status.simulated})
        return replace(outcome, status=status)

    def _detached(self, it: HotswapDiskAttachment, machine: VirtualMachine | None, world: World) -> Outcome:
        if machine is None or it.uid in machine.status.released:
            return Outcome(gone=True)
        left_s = (it.stored.deleted_at or 0.0) + LETTING_GO_S - world.clock.now()
        if left_s > 0:
            return self._said(it, world, False, "Deleting", f"{machine.name} is asked for the disk", left_s)
        return self._said(it, world, False, "DetachPending", holds_on(machine), AGAIN_S)

    def _said(
        self, it: HotswapDiskAttachment, world: World, ready: bool, reason: str, message: str,
        again_in_s: float | None = None,
    ) -> Outcome:  # fmt: skip
        """A changed reason wakes the machine: it may be its turn."""
        before = it.status.condition("Ready")
        said = conditions(it, world.clock.now(), ready, reason, message)
        status = it.status.model_copy(update={"conditions": said})
        changed = before is None or before.reason != reason
        expect_s = None if it.deleting else READY_WITHIN_S
        return Outcome(status, again_in_s=again_in_s, expect_s=expect_s, wake=changed)


async def its_machine(it: HotswapDiskAttachment, world: World) -> VirtualMachine | None:
    return await world.follow(VirtualMachine, full_ref(it.spec.virtual_machine_ref, ("VirtualMachine",), it.key.scope))


# -- pure ---------------------------------------------------------------------------------------


def judge(it: HotswapDiskAttachment, machine: VirtualMachine, disk: Disk) -> tuple[bool, str, str, float | None]:
    """Ready or not, reason, message, and when to look again: None, when machine or disk change."""
    if machine.deleting:
        going = f"machine {machine.name} is being deleted, and this goes with it"
        return False, "WaitingForReference", going, None
    if trouble := misplaced(machine, disk):
        return False, "ReferenceInvalid", trouble, None
    if not disk.status.made:
        late = waiting_for(disk)
        return False, late.reason, late.message, late.again_in_s
    if is_attached(it, machine):
        return True, "Available", "", None
    if stands_still(machine):
        return True, "Available", f"the disk will be there when {machine.name} starts", None
    return False, "Provisioning", f"{machine.name} does not have the disk yet", AGAIN_S


def misplaced(machine: VirtualMachine, disk: Disk) -> str:
    """What is wrong with the disk's zone for the machine; empty: nothing, or no zone was chosen yet."""
    zone, wanted = zone_of(disk), machine.spec.placement.zone
    return f"disk {disk.name} is in zone {zone}, the machine in zone {wanted}" if zone not in ("", wanted) else ""


def is_attached(it: HotswapDiskAttachment, machine: VirtualMachine) -> bool:
    """As the machine's engine last saw it. The serial tells this attachment from an earlier one of its name."""
    return any(e.attached and e.serial == it.status.serial for e in machine.status.hotswap_disk_attachments)


def holds_on(machine: VirtualMachine) -> str:
    """Why a disk is not back for so long: the guest's doing, unless something is wrong with the machine."""
    ready = machine.status.condition("Ready")
    if ready is not None and ready.status == "False":
        return f"machine {machine.name} has not given the disk back: {ready.reason} ({ready.message})"
    return f"the guest of {machine.name} does not let go of the disk: unmount it there, or stop the machine"


def stands_still(machine: VirtualMachine) -> bool:
    """Stopped, never started, or without a host: nothing is plugged in before it starts."""
    if not machine.spec.running:
        return True
    seen = machine.stored.observed == machine.generation
    return seen and machine.status.virtual_machine_status in ("Stopped", "ProvisioningFailed")
