"""The head of a qcow2 file: how large the disk is, and what lies below it.

Reading it here needs no other program and no lock, so a disk in use can be asked too. Only for files that we made.
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
    backing: str  # path of the file below, empty: none


def head(path: Path) -> Head | None:
    """None when there is no such file, or it is no qcow2."""
    try:
        with path.open("rb") as file:
            magic, _, offset, length, _, size_bytes = _HEAD.unpack(file.read(_HEAD.size))
            if magic != b"QFI\xfb":
                return None
            file.seek(offset)
            return Head(size_bytes, file.read(length).decode() if offset else "")
    except (FileNotFoundError, struct.error):
        return None
