"""What is done next with a machine, and what is told of it: every pair of wish and sight has one answer."""

import json
from dataclasses import replace
from typing import Any

import pytest

from hansa.engines.ports import MachineState
from hansa.engines.qemu.plan import SILENT, Phase, Record, Step, next_step
from hansa.engines.qemu.report import report
from hansa.engines.qemu.seen import Sight

STARTED = Record("u", phase=Phase.STARTED, accelerator="tcg")
STOPPING = replace(STARTED, phase=Phase.STOPPING, stopping_since=100.0, pressed_at=100.0)


@pytest.mark.parametrize(
    ("record", "status", "step"),
    [
        (Record("u"), None, Step.START),
        (Record("u"), "running", Step.KILL),
        (STARTED, None, Step.START),
        (STARTED, "prelaunch", Step.CONTINUE),
        (STARTED, "running", Step.NOTHING),
        (STARTED, "io-error", Step.CONTINUE),
        (replace(STARTED, cut_off=True), "running", Step.KILL),
        (replace(STARTED, cut_off=True), SILENT, Step.KILL),
        (replace(STARTED, cut_off=True), None, Step.START),
        (STARTED, "paused", Step.CONTINUE),
        (STARTED, "shutdown", Step.KEEP_OFF),
        (STARTED, "internal-error", Step.KILL),
        (replace(STARTED, phase=Phase.POWERED_OFF), None, Step.NOTHING),
        (replace(STARTED, phase=Phase.POWERED_OFF), "shutdown", Step.KEEP_OFF),
        (STOPPING, "running", Step.WAIT),
        (STOPPING, None, Step.SETTLE),
    ],
)
def test_towards_running(record: Record, status: str | None, step: Step) -> None:
    assert next_step(running=True, record=record, status=status, now=101.0) is step


@pytest.mark.parametrize(
    ("record", "status", "now", "step"),
    [
        (Record("u"), None, 0.0, Step.NOTHING),
        (STARTED, None, 0.0, Step.SETTLE),
        (replace(STARTED, phase=Phase.POWERED_OFF), None, 0.0, Step.SETTLE),
        (STARTED, "running", 0.0, Step.BEGIN_STOP),
        (STARTED, SILENT, 0.0, Step.BEGIN_STOP),
        (STOPPING, "running", 101.0, Step.WAIT),
        (STOPPING, "running", 105.0, Step.PRESS),
        (STOPPING, "shutdown", 101.0, Step.QUIT),
        (STOPPING, "prelaunch", 101.0, Step.QUIT),
        (STOPPING, "running", 190.0, Step.QUIT),
        (replace(STOPPING, accelerator="kvm"), "running", 130.0, Step.QUIT),
        (STOPPING, SILENT, 190.0, Step.QUIT),
        (replace(STOPPING, quit_at=190.0), SILENT, 191.0, Step.WAIT),
        (replace(STOPPING, quit_at=190.0), SILENT, 192.0, Step.KILL),
    ],
)
def test_towards_stopped(record: Record, status: str | None, now: float, step: Step) -> None:
    assert next_step(running=False, record=record, status=status, now=now) is step


def test_without_room_a_guest_that_waits_for_it_is_left_alone() -> None:
    assert next_step(running=True, record=STARTED, status="io-error", now=0.0, room=False) is Step.NOTHING
    assert next_step(running=True, record=STARTED, status="prelaunch", now=0.0, room=False) is Step.CONTINUE
    assert next_step(running=False, record=STARTED, status="io-error", now=0.0, room=False) is Step.BEGIN_STOP


def test_a_record_survives_its_file_and_words_of_a_later_version() -> None:
    record = replace(STOPPING, disks=("a", "b"), devices=("/dev/vda",), user=7, cut_off=True, hot=("c",))
    document = {**record.document(), "later": 1, "disks": ["a", "b"], "stopping_since": 100}
    assert Record.parse(json.loads(json.dumps(document))) == record
    assert Record.parse({"uid": "u"}) == Record("u")


@pytest.mark.parametrize(
    "document",
    [None, {}, {"pid": 1}, {"uid": 7}, {"uid": "u", "phase": "flying"}, {"uid": "u", "pid": "1"},
     {"uid": "u", "disks": "a"}, {"uid": "u", "disks": [1]}, {"uid": "u", "cut_off": 1}, {"uid": "u", "pid": True}],
)  # fmt: skip
def test_what_another_version_wrote_in_another_shape_is_nothing_known(document: dict[str, Any] | None) -> None:
    assert Record.parse(document) is None


# -- what is told -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "status", "state"),
    [
        (Record("u"), None, MachineState.ABSENT),
        (STARTED, None, MachineState.DIED),
        (STARTED, "running", MachineState.RUNNING),
        (STARTED, "prelaunch", MachineState.STARTING),
        (STARTED, "io-error", MachineState.PAUSED),
        (STARTED, "paused", MachineState.PAUSED),
        (STARTED, "shutdown", MachineState.POWERED_OFF),
        (STOPPING, "running", MachineState.STOPPING),
        (STOPPING, SILENT, MachineState.STOPPING),
        (STOPPING, None, MachineState.ABSENT),
        (replace(STARTED, phase=Phase.POWERED_OFF), None, MachineState.POWERED_OFF),
    ],
)
def test_a_machine_is_told_by_its_record_and_its_qemu(record: Record, status: str | None, state: MachineState) -> None:
    assert report(record, Sight(status), lost=False, room=True).state is state


def test_a_process_that_went_with_its_host_is_lost_and_one_that_ended_alone_says_why() -> None:
    lost = report(STARTED, Sight(None), lost=True, room=True)
    assert (lost.state, lost.ended_at) == (MachineState.LOST, 0.0)
    assert report(STARTED, Sight(None), lost=True, room=True, last_seen=7.0).ended_at == max(7.0, STARTED.started_at)
    late = replace(STARTED, started_at=9.0)  # it was started after guests were last looked at
    assert report(late, Sight(None), lost=True, room=True, last_seen=7.0).ended_at == 9.0
    assert report(STARTED, Sight(None), lost=False, room=True, last_seen=7.0).ended_at == 0.0
    assert "no such thing" in report(STARTED, Sight(None), lost=False, room=True, said="no such thing").message


def test_a_guest_that_waits_says_what_for() -> None:
    assert "full" in report(STARTED, Sight("io-error"), lost=False, room=False).message
    assert "full" not in report(STARTED, Sight("io-error"), lost=False, room=True).message
    assert report(STARTED, Sight("running"), lost=False, room=True, trouble="a disk").message == "a disk"


def test_disks_on_their_way_out_are_told_until_qemu_holds_nothing_of_them() -> None:
    record = replace(STARTED, hot=("a", "b", "c"), letting_go=("b",))
    told = report(record, Sight("running", ("a",)), lost=False, room=True)
    assert (told.hot_disks, told.letting_go) == (("a", "b"), ("b",))
    assert report(record, Sight(None), lost=False, room=True).hot_disks == ()
