"""The pure halves of disks, snapshots, attachments and their machines."""

from __future__ import annotations

from typing import Any

import pytest

from hansa.api.admission import links, relinked
from hansa.cli.apply import ordered
from hansa.control.machine_report import judge, look_again_s
from hansa.control.pools import Pool
from hansa.control.snapshots import restore_size
from hansa.engines.ports import MachineReport, MachineState
from hansa.kinds import catalogue
from hansa.kinds.compute import Disk, Size, VirtualMachine
from hansa.kinds.resource import Key, Stored

assert catalogue.MODULES
GB = 10**9
SCOPE = "projects/p/regions/r"


def size(amount: int, unit: str = "GB") -> Size:
    return Size.model_validate({"amount": amount, "unit": unit})


def machine(running: bool = True, **status: Any) -> VirtualMachine:
    spec = {"computeProfileRef": "c", "disks": [{"diskRef": "d", "bootFrom": True}], "placement": {"zone": "a"},
            "running": running}  # fmt: skip
    return VirtualMachine(Stored(Key("VirtualMachine", SCOPE, "m"), "uid", 0.0, spec=spec, status=status))


# -- room ---------------------------------------------------------------------------------------


def test_a_pool_counts_what_others_hold() -> None:
    pool = Pool("pools/r-a", "a", 100 * GB, {"me": 60 * GB, "you": 30 * GB}, seen=True)
    assert pool.refusal("me", 70 * GB) is None
    refusal = pool.refusal("me", 71 * GB)
    assert refusal is not None and refusal.reason == "ProvisioningFailed" and refusal.again_in_s == 30
    assert "no room for 71 GB: 30 GB promised of 100 GB" in refusal.message
    assert pool.claim(5).ceiling == 100 * GB


def test_a_pool_that_nobody_looked_at_refuses_nothing_for_good() -> None:
    refusal = Pool("pools/r-a", "a", 0, {}, seen=False).refusal("me", 1)
    assert refusal is not None and refusal.reason == "Creating" and refusal.again_in_s == 1


@pytest.mark.parametrize(
    ("chosen", "seen_bytes", "wanted"),
    [(size(1), GB, "1 GB"), (size(1), 954 << 20, "1 GB"), (size(1), 2 * GB, "2 GB"), (None, 7 * GB, "7 GB")],
)
def test_a_restore_size_is_the_disks_own_unless_it_grew(chosen: Size | None, seen_bytes: int, wanted: str) -> None:
    assert str(restore_size(chosen, seen_bytes)) == wanted


# -- reports ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("running", "state", "wanted", "again_s"),
    [
        (True, MachineState.PAUSED, ("Running", False, "HostDiskFull", "why"), 5.0),
        (False, MachineState.PAUSED, ("Stopping", False, "Stopping", "why"), 0.5),
        (True, MachineState.LOST, ("Creating", False, "Starting", "why"), 0.5),
        (False, MachineState.LOST, ("Stopped", True, "Stopped", ""), None),
        (True, MachineState.RUNNING, ("Running", True, "Available", ""), None),
        (False, MachineState.RUNNING, ("Stopping", False, "Stopping", "why"), 0.5),
    ],
)
def test_what_is_said_of_a_machine(
    running: bool, state: MachineState, wanted: tuple[str, bool, str, str], again_s: float | None
) -> None:
    it, report = machine(running), MachineReport("uid", state, message="why")
    said = judge(it, report, simulated=False)
    assert said == wanted
    assert look_again_s(it, report, ready=said[1]) == again_s


def test_a_guest_that_switched_itself_off_is_not_asked_again() -> None:
    it, report = machine(), MachineReport("uid", MachineState.POWERED_OFF)
    assert judge(it, report, simulated=False)[2] == "GuestPoweredOff"
    assert look_again_s(it, report, ready=False) is None


# -- references ---------------------------------------------------------------------------------


def test_a_reference_that_stood_there_before_is_not_asked_for_again() -> None:
    def spec(amount: int, snapshot: str) -> Any:
        document = {"diskSize": {"amount": amount, "unit": "GB"}, "source": {"snapshotRef": snapshot}}
        return Disk.spec_type.model_validate(document)

    key = Key("Disk", SCOPE, "d")
    assert [link.free for link in links(Disk, key, spec(1, "s"))] == [False]
    assert [link.free for link in relinked(Disk, key, spec(1, "s"), spec(2, "s"))] == [True]
    full = f"/compute/{SCOPE}/snapshots/s"
    assert [link.free for link in relinked(Disk, key, spec(1, "s"), spec(2, full))] == [True]
    assert [link.free for link in relinked(Disk, key, spec(1, "s"), spec(2, "t"))] == [False]


def test_files_are_applied_in_the_order_in_which_things_point_at_one_another() -> None:
    def document(kind: str, name: str, **spec: Any) -> dict[str, Any]:
        return {"kind": kind, "metadata": {"id": name}, "spec": spec}

    given = [
        document("HotswapDiskAttachment", "h"), document("VirtualMachine", "m"),
        document("Disk", "r", source={"snapshotRef": "s"}), document("Snapshot", "s"), document("Disk", "d"),
    ]  # fmt: skip
    assert [d["metadata"]["id"] for d in ordered(given)] == ["d", "s", "r", "m", "h"]
