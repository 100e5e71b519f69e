"""What to do next with one machine: pure, from what is wanted, recorded and seen to one step.

The record is the driver's memory of a machine, kept beside its files. Reports and steps follow from it and from the
run state that QEMU gives; nothing here reads a clock or touches a process.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

PRESS_EVERY_S = 5.0
KILL_AFTER_S = 2.0
GRACE_S = {"kvm": 30.0, "tcg": 90.0}

SILENT = "silent"  # a process is there and does not answer
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
    ssh_port: int = 0
    disks: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    failed_starts: int = 0  # in a row
    stopping_since: float = 0.0  # this and the next two in seconds since the host's boot
    pressed_at: float = 0.0
    quit_at: float = 0.0

    def document(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def parse(cls, document: dict[str, Any]) -> Record:
        """Unknown words of a later version are passed over."""
        known = {field.name for field in fields(cls)}
        words: dict[str, Any] = {name: value for name, value in document.items() if name in known}
        words |= {name: tuple(value) for name, value in words.items() if isinstance(value, list)}
        words["phase"] = Phase(words.get("phase", Phase.STOPPED))
        return cls(**words)


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


def next_step(*, running: bool, record: Record, status: str | None, now: float) -> Step:
    """One step towards `running`. `status` is QEMU's run state, SILENT, or None without a process.

    A stop that was begun is finished first: its guest may be half-way down.
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
    if status in _DOWN:
        return Step.KILL
    return Step.NOTHING if status in ("running", SILENT) else Step.CONTINUE


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
