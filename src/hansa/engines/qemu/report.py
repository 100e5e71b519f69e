"""What is told of a machine: pure, from its record and from what its QEMU says."""

from __future__ import annotations

from hansa.engines.ports import MachineReport, MachineState
from hansa.engines.qemu import plan
from hansa.engines.qemu.plan import Phase, Record
from hansa.engines.qemu.seen import Sight

_STATES = {
    Phase.STOPPED: MachineState.ABSENT,
    Phase.STARTED: MachineState.RUNNING,
    Phase.STOPPING: MachineState.STOPPING,
    Phase.POWERED_OFF: MachineState.POWERED_OFF,
}
_SWITCHED_OFF = "the guest switched itself off"
_FULL = "the host's disk is full: the guest waits until there is room again"
_FAILED = "the host's disk failed a write: the guest waits while it is tried again"
_PAUSED = "the guest is paused, and goes on when it is looked at again"
_LOST = "the machine went with its host or its network, through no fault of its own"


def report(
    record: Record, sight: Sight, *, lost: bool, room: bool, said: str = "", trouble: str = "", last_seen: float = 0.0
) -> MachineReport:
    """`lost`: a process that is gone went with its host, whose guests were `last_seen` then, 0 where that is not known.
    `said`: QEMU's last words. `trouble`: with its disks."""
    state, message = _state(record, sight.status, lost=lost, room=room, said=said)
    alive = sight.status is not None
    hot = tuple(sorted({*sight.hot, *record.letting_go})) if alive else ()
    return MachineReport(
        uid=record.uid,
        state=state,
        generation=record.generation,
        message=message or trouble,
        started_at=record.started_at if alive else 0.0,
        ended_at=max(last_seen, record.started_at) if last_seen and state is MachineState.LOST else 0.0,
        devices=record.devices,
        hot_disks=hot,
        letting_go=tuple(uid for uid in record.letting_go if uid in hot),
    )


def _state(record: Record, status: str | None, *, lost: bool, room: bool, said: str) -> tuple[MachineState, str]:
    if status is None:
        return _gone(record.phase, lost=lost, said=said)
    if status == plan.SILENT or record.phase in (Phase.STOPPING, Phase.POWERED_OFF):
        return _STATES[record.phase], _SWITCHED_OFF if record.phase is Phase.POWERED_OFF else ""
    if status == "shutdown":
        return MachineState.POWERED_OFF, _SWITCHED_OFF
    if status in ("prelaunch", "inmigrate"):
        return MachineState.STARTING, ""
    if status == plan.FAILED:
        return MachineState.PAUSED, _FAILED if room else _FULL
    return (MachineState.PAUSED, _PAUSED) if status == "paused" else (MachineState.RUNNING, "")


def _gone(phase: Phase, *, lost: bool, said: str) -> tuple[MachineState, str]:
    """There is no process."""
    if phase is Phase.STARTED:
        died = f"the machine's process ended unasked {said}".strip()
        return (MachineState.LOST, _LOST) if lost else (MachineState.DIED, died)
    if phase is Phase.POWERED_OFF:
        return MachineState.POWERED_OFF, _SWITCHED_OFF
    return MachineState.ABSENT, ""
