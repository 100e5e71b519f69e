"""What is done next with a machine: every pair of wish and sight has one step."""

from dataclasses import replace

import pytest

from hansa.engines.qemu.plan import SILENT, Phase, Record, Step, next_step

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


def test_a_record_survives_its_file_and_words_of_a_later_version() -> None:
    record = replace(STOPPING, disks=("a", "b"), devices=("/dev/vda",), ssh_port=1)
    document = {**record.document(), "later": 1, "disks": ["a", "b"], "devices": ["/dev/vda"]}
    assert Record.parse(document) == record
