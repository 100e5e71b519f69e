"""Disks of a cloud with real guests: of every size, from a snapshot of what is gone, held by a guest that stands still."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hansa.sdk.client import Client
from hansa.units import MIB

from .cloud import RealCloud, machine
from .tenant import begin, booted, settle, until

LONG = bool(os.environ.get("HANSA_LONG"))


def virtual_size(path: Path) -> int:
    done = subprocess.run(
        ["qemu-img", "info", "-f", "qcow2", "--output", "json", str(path)], capture_output=True, text=True, check=True
    )
    return int(json.loads(done.stdout)["virtual-size"])


def test_blank_disks_from_a_megabyte_to_a_terabyte(cloud: RealCloud) -> None:
    client = cloud.start(HANSA_DISK_OVERCOMMIT="1000")
    asked = {"one": (1, "MB", 10**6), "two": (1, "GB", 10**9), "three": (1, "TB", 10**12)}
    for name, (amount, unit, _) in asked.items():
        client.create("disk", name, {"diskSize": {"amount": amount, "unit": unit}, "placement": {"zone": "a"}})
    for name, (amount, unit, size) in asked.items():
        made = client.wait("disk", name, timeout_s=30)
        assert made["status"]["diskSize"] == {"amount": amount, "unit": unit}
        there = virtual_size(cloud.data / "disks" / f"{made['metadata']['uid']}.qcow2")
        assert there % MIB == 0 and size <= there < size + MIB
    cloud.audit()


def test_a_snapshot_of_a_running_machine_boots_after_all_that_it_was_made_of_is_gone(cloud: RealCloud) -> None:
    client = cloud.start()
    begin(client, "first")
    (shell,) = booted(client, "first")
    assert shell.succeeds("echo kept > /root/note; sync")
    client.create("snapshot", "taken", {"diskRef": "first"})
    client.wait("snapshot", "taken", timeout_s=60)
    assert shell.succeeds("echo late > /root/late; sync"), "it runs on"
    client.create(
        "disk", "second", {"placement": {"zone": "a"}, "source": {"type": "snapshot", "snapshotRef": "taken"}}
    )
    client.wait("disk", "second", timeout_s=60)
    for kind, name in (("vm", "first"), ("disk", "first"), ("snapshot", "taken")):
        client.delete(kind, name)
        client.wait(kind, name, until="deleted", timeout_s=60)
    client.create("vm", "second", machine("second"))
    (shell,) = booted(client, "second")
    assert shell.succeeds("grep -q kept /root/note && ! test -e /root/late")
    settle(cloud, client)


@pytest.mark.skipif(not LONG, reason="of the long tier: it waits half a minute")
def test_a_guest_that_stands_still_holds_its_disk_until_it_goes_on(cloud: RealCloud) -> None:
    client = cloud.start()
    begin(client, "web")
    client.create("disk", "data", {"diskSize": {"amount": 10, "unit": "MB"}, "placement": {"zone": "a"}})
    (shell,) = booted(client, "web")
    client.create("hotswap", "data", {"virtualMachineRef": "web", "diskRef": "data"})
    client.wait("hotswap", "data", timeout_s=30)
    (pid,) = cloud.guests()
    os.kill(pid, signal.SIGSTOP)
    try:
        client.delete("hotswap", "data")
        until(lambda: reason(client, "hotswap", "data")["reason"] == "DetachPending", 60)
        assert "web" in reason(client, "hotswap", "data")["message"]
    finally:
        os.kill(pid, signal.SIGCONT)
    client.wait("hotswap", "data", until="deleted", timeout_s=60)
    assert shell.succeeds("! ls /dev/disk/by-id | grep -q scsi-0QEMU"), "and it was not started anew for that"
    assert list(cloud.guests()) == [pid]
    settle(cloud, client)


def reason(client: Client, kind: str, name: str) -> dict[str, Any]:
    conditions = client.get(kind, name)["status"]["conditions"]
    return next(c for c in conditions if c["type"] == "Ready")
