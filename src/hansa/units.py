"""Whole numbers with names, and the limits that hold everywhere.

Sizes are decimal, as the contract says: 1 GB is 1000 MB. What the wire calls an amount and a unit is
bytes inside.
"""

from __future__ import annotations

from typing import NewType

Bytes = NewType("Bytes", int)

UNIT_BYTES = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
MIB = 1 << 20

# Limits. One place, so that a reader can see what the cloud refuses.
BODY_BYTES_MAX = 1 << 20
NAME_LENGTH_MAX = 63
LABELS_MAX = 64
LABEL_KEY_LENGTH_MAX = 317
LABEL_VALUE_LENGTH_MAX = 63
SELECTOR_LENGTH_MAX = 4096
USER_DATA_BYTES_MAX = 64 << 10
AUTHORIZED_KEYS_MAX = 64
DISKS_PER_MACHINE_MAX = 16
RULES_PER_GROUP_MAX = 256
LIST_LIMIT_MAX = 5000
DISK_BYTES_MAX = 64 * 10**12
CONSOLE_BYTES_MAX = 1 << 20


def to_bytes(amount: int, unit: str) -> int:
    """Bytes of an amount in KB, MB, GB or TB (decimal). Raises KeyError for another unit."""
    return amount * UNIT_BYTES[unit]


def from_bytes(size_bytes: int) -> tuple[int, str]:
    """The largest unit that holds `size_bytes` without a remainder, else KB rounded up."""
    for unit in ("TB", "GB", "MB"):
        if size_bytes and size_bytes % UNIT_BYTES[unit] == 0:
            return size_bytes // UNIT_BYTES[unit], unit
    return -(-size_bytes // 1000), "KB"


def human_size(size_bytes: int) -> str:
    """For people: `100 GB`, `1.5 GB`, `734 MB`."""
    for unit in ("TB", "GB", "MB", "KB"):
        scale = UNIT_BYTES[unit]
        if size_bytes >= scale:
            value = size_bytes / scale
            return f"{value:.0f} {unit}" if value == int(value) or value >= 100 else f"{value:.1f} {unit}"
    return f"{size_bytes} B"
