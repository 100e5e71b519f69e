"""The head of a qcow2 file: how large the disk is that it holds.

Reading it here needs no other program and no lock, so a disk in use can be asked too. What lies below a disk is never
read from its file: a guest's QEMU writes that file, and our notes say what it may stand upon.
Source: QEMU, docs/interop/qcow2.txt.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

_HEAD = struct.Struct(">4sIQIIQ")  # magic, version, backing offset, backing length, cluster bits, size


@dataclass(frozen=True, slots=True)
class Head:
    size_bytes: int


def head(path: Path) -> Head | None:
    """None when there is no such file, or it is no qcow2."""
    try:
        with path.open("rb") as file:
            magic, _, _, _, _, size_bytes = _HEAD.unpack(file.read(_HEAD.size))
    except (FileNotFoundError, struct.error):
        return None
    return Head(size_bytes) if magic == b"QFI\xfb" else None
