"""Block nodes as QEMU is told of them: pure, from numbers of file descriptor sets to the words of `-blockdev`.

A node never names a file of ours: it reads and writes what we opened. What lies below a disk is always said, never
taken from the disk's own head, which a guest's QEMU could have written.

The throttle stands between the format and the file, so only what reaches the host's disk counts: a guest that discards
a terabyte of nothing pays nothing. One group for all disks of a guest.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hansa.units import MIB

# What one guest may ask of the host's disk: steadily, and for some seconds after a rest. Measured with a disk of 310 MB/s,
# a 4 KiB write and fsync by the host beside one that writes flat out through this node, median and 95 of 100 in ms: alone
# 0.5 and 0.6; without a limit 2.9 and 7.5; at 400 MiB/s 0.7 and 5.6; at 200 MiB/s 0.4 and 3.4; at 100 MiB/s 0.4 and
# 0.6. Small writes, each with its fsync, disturbed nobody: 0.4 and 0.7 without a limit.
WRITE_BYTES_PER_S, WRITE_BYTES_PER_S_MAX = 200 * MIB, 400 * MIB
READ_BYTES_PER_S, READ_BYTES_PER_S_MAX = 400 * MIB, 800 * MIB
OPERATIONS_PER_S, OPERATIONS_PER_S_MAX = 4000, 8000
BURST_S = 10
COPY_BYTES_PER_S = 100 * MIB  # nobody waits for a copy as for a disk

GUEST, COPY = "disks", "copies"  # throttle groups
SEED = "seed"

_HOT = "hot-"


def node_of(disk_uid: str) -> str:
    """The block node of a disk: QEMU allows 31 letters."""
    return f"d-{_letters(disk_uid)}"


def device_of(disk_uid: str) -> str:
    """The device of a disk that comes and goes: it names the disk in full."""
    return f"{_HOT}{disk_uid}"


def disks_of(devices: Iterable[str]) -> tuple[str, ...]:
    """The disks that come and go, of the devices of a guest."""
    return tuple(sorted(name.removeprefix(_HOT) for name in devices if name.startswith(_HOT)))


def hot_device(disk_uid: str, serial: str) -> dict[str, Any]:
    return {
        "driver": "scsi-hd",
        "bus": "scsi0.0",
        "id": device_of(disk_uid),
        "drive": node_of(disk_uid),
        "serial": serial,
        "werror": "stop",
    }


def target_of(disk_uid: str) -> str:
    """The block node of a disk that is being copied into."""
    return f"t-{_letters(disk_uid)}"


def job_of(disk_uid: str) -> str:
    """The block job that fills a disk."""
    return f"copy-{disk_uid}"


def disk(node: str, file: int, below: int, *, group: str = GUEST) -> dict[str, Any]:
    """A qcow2 disk that is written to. `file`, `below`: sets of descriptors; `below` -1: nothing lies below."""
    return {
        "driver": "qcow2",
        "node-name": node,
        "discard": "unmap",
        "detect-zeroes": "unmap",
        "file": {"driver": "throttle", "throttle-group": group, "file": _file(file)},
        "backing": _below(below),
    }


def source(node: str, file: int, below: int) -> dict[str, Any]:
    """A qcow2 disk that is only read."""
    return {
        "driver": "qcow2",
        "node-name": node,
        "read-only": True,
        "file": _file(file, read_only=True),
        "backing": _below(below),
    }


def seed(file: int) -> dict[str, Any]:
    return {"driver": "raw", "node-name": SEED, "read-only": True, "file": _file(file, read_only=True)}


def throttles() -> list[dict[str, Any]]:
    """The two groups, for every QEMU that has disks."""
    guest = {
        **_bounded("bps-write", WRITE_BYTES_PER_S, WRITE_BYTES_PER_S_MAX),
        **_bounded("bps-read", READ_BYTES_PER_S, READ_BYTES_PER_S_MAX),
        **_bounded("iops-write", OPERATIONS_PER_S, OPERATIONS_PER_S_MAX),
        **_bounded("iops-read", OPERATIONS_PER_S, OPERATIONS_PER_S_MAX),
    }
    return [
        {"qom-type": "throttle-group", "id": GUEST, "limits": guest},
        {"qom-type": "throttle-group", "id": COPY, "limits": {"bps-write": COPY_BYTES_PER_S}},
    ]


def _bounded(name: str, steady: int, burst: int) -> dict[str, int]:
    return {name: steady, f"{name}-max": burst, f"{name}-max-length": BURST_S}


def _below(number: int) -> dict[str, Any] | None:
    if number < 0:
        return None
    return {"driver": "qcow2", "read-only": True, "file": _file(number, read_only=True), "backing": None}


def _file(number: int, *, read_only: bool = False) -> dict[str, Any]:
    node: dict[str, Any] = {"driver": "file", "filename": f"/dev/fdset/{number}"}
    return {**node, "read-only": True} if read_only else node


def _letters(disk_uid: str) -> str:
    return disk_uid.replace("-", "")[:28]
