"""What to do next with one machine: pure, from what is wanted, recorded and seen to one step.

The record is the driver's memory of a machine, kept beside its files. Reports and steps follow from it and from the
run state that QEMU gives; nothing here reads a clock or touches a process.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from hansa.engines.qemu.shape import shaped

PRESS_EVERY_S = 5.0
KILL_AFTER_S = 2.0
GRACE_S = {"kvm": 30.0, "tcg": 90.0}

SILENT = "silent"  # a process is there and does not answer
FAILED = "io-error"  # a write failed, for want of room as a rule: the guest was stopped before it could see it
_DOWN = frozenset({"shutdown", "guest-panicked", "internal-error"})


class Phase(StrEnum):
    """What was last asked of the machine, or what its guest did."""

    STOPPED = "stopped"
    STARTED = "started"
    STOPPING = "stopping"
    POWERED_OFF = "powered-off"


@dataclass(frozen=True, slots=True)
class Record:
    """What the driver remembers of one machine."""

    uid: str
    generation: int = 0
    phase: Phase = Phase.STOPPED
    pid: int = 0
    start_ticks: int = 0  # of the process, since boot; 0: not recorded
    boot_id: str = ""  # the boot of the host that `start_ticks` counts from
    started_at: float = 0.0
    accelerator: str = ""
    machine_type: str = ""
    user: int = 0  # that its QEMU runs as, 0: ours
    holder: int = 0  # the process whose network it runs in, 0: none
    holder_ticks: int = 0
    disks: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    hot: tuple[str, ...] = ()  # disks beside these that QEMU may hold: written down before they are plugged in
    letting_go: tuple[str, ...] = ()  # of them, those that are to go
    cut_off: bool = False  # its network is gone: this process is to be ended, and another started
    failed_starts: int = 0  # in a row
    stopping_since: float = 0.0  # this and the next two in seconds since the host's boot
    pressed_at: float = 0.0
    quit_at: float = 0.0

    def document(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def parse(cls, document: dict[str, Any] | None) -> Record | None:
        """None where there is none, or one of another shape: then nothing is known."""
        return shaped(document, cls("")) if document and document.get("uid") else None


class Step(StrEnum):
    NOTHING = "nothing"
    START = "start"
    CONTINUE = "continue"  # `cont`: after -S, or after the host had been full
    KEEP_OFF = "keep-off"  # the guest switched itself off: record it, then end QEMU
    BEGIN_STOP = "begin-stop"
    PRESS = "press"
    WAIT = "wait"
    QUIT = "quit"
    KILL = "kill"
    SETTLE = "settle"  # record that the machine is stopped


def next_step(*, running: bool, record: Record, status: str | None, now: float, room: bool = True) -> Step:
    """One step towards `running`. `status` is QEMU's run state, SILENT, or None without a process.

    A stop that was begun is finished first: its guest may be half-way down. Without `room` on the host's disk a guest
    that waits for it goes on waiting.
    """
    if record.phase is Phase.STOPPING or not running:
        return _towards_stopped(record, status, now)
    if record.phase is Phase.STOPPED and status is not None:
        return Step.KILL  # nobody recorded this start
    if record.phase is Phase.POWERED_OFF:
        return Step.NOTHING if status is None else Step.KEEP_OFF
    if status is None:
        return Step.START
    if status == "shutdown":
        return Step.KEEP_OFF
    if status in _DOWN or record.cut_off:
        return Step.KILL
    if status in ("running", SILENT) or (status == FAILED and not room):
        return Step.NOTHING
    return Step.CONTINUE


def grace_s(accelerator: str) -> float:
    """How long a guest may take to go down before it is ended."""
    return GRACE_S.get(accelerator, GRACE_S["tcg"])


def _towards_stopped(record: Record, status: str | None, now: float) -> Step:
    if status is None:
        return Step.SETTLE if record.phase is not Phase.STOPPED else Step.NOTHING
    if record.phase is not Phase.STOPPING:
        return Step.BEGIN_STOP
    if record.quit_at:
        return Step.KILL if now - record.quit_at >= KILL_AFTER_S else Step.WAIT
    if status in _DOWN or status == "prelaunch" or now - record.stopping_since >= grace_s(record.accelerator):
        return Step.QUIT
    return Step.PRESS if now - record.pressed_at >= PRESS_EVERY_S else Step.WAIT
