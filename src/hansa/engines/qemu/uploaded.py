"""What a disk image says of itself, and why one is refused. Pure.

The head of a qcow2 is read here first, by a few fixed offsets, so that most of what is hostile never meets a parser;
what `qemu-img info` then says is the second opinion.
Source: QEMU, docs/interop/qcow2.txt, "Header".
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

from hansa.engines.ports import ImageFormat
from hansa.units import DISK_BYTES_MAX, human_size

HEAD_BYTES = 104
_MAGIC = b"QFI\xfb"
_SECOND = struct.Struct(">4sIQIIQIIQQIIQ")  # of version 2: up to the offset of the snapshots
_FEATURES = struct.Struct(">Q")  # of version 3, behind it: what a reader must understand
_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION, _SUBCLUSTERS = 1, 2, 4, 8, 16
_KNOWN = _DIRTY | _CORRUPT | _DATA_FILE | _COMPRESSION | _SUBCLUSTERS


def head_fault(format: ImageFormat, head: bytes) -> str:
    """Why an image is refused by its first bytes alone; empty: it is not. Only a qcow2 has a head that says much."""
    if format is not ImageFormat.QCOW2:
        return ""
    if len(head) < _SECOND.size or head[:4] != _MAGIC:
        return "it is no qcow2, though its name says so"
    _, version, backing, _, _, size_bytes, encryption, _, _, _, _, snapshots, _ = _SECOND.unpack_from(head)
    if version not in (2, 3):
        return f"it is a qcow2 of version {version}; 2 and 3 are taken"
    needs = 0
    if version == 3:
        if len(head) < _SECOND.size + _FEATURES.size:
            return "it is cut off"
        (needs,) = _FEATURES.unpack_from(head, _SECOND.size)
    if backing:
        return "it lies upon a backing file: convert it to a whole image first"
    if needs & _DATA_FILE:
        return "its data lie in another file: convert it to a whole image first"
    if encryption:
        return "it is encrypted: decrypt it first"
    if snapshots:
        return "it holds internal snapshots: remove them first"
    if needs & _CORRUPT:
        return "it says of itself that it is damaged"
    if needs & ~_KNOWN:
        return "it needs features that nobody here knows"
    return _size_fault(size_bytes)


def told_fault(told: Mapping[str, Any]) -> str:
    """Why an image is refused by what `qemu-img info` says of it; empty: it is not."""
    specific = told.get("format-specific")
    data = specific.get("data") if isinstance(specific, dict) else None
    more = data if isinstance(data, dict) else {}
    if told.get("backing-filename") or told.get("full-backing-filename"):
        return "it lies upon a backing file: convert it to a whole image first"
    if more.get("data-file") or more.get("data-file-raw"):
        return "its data lie in another file: convert it to a whole image first"
    if told.get("encrypted") or more.get("encrypt"):
        return "it is encrypted: decrypt it first"
    if told.get("snapshots"):
        return "it holds internal snapshots: remove them first"
    if more.get("corrupt"):
        return "it says of itself that it is damaged"
    size_bytes = told.get("virtual-size")
    if isinstance(size_bytes, bool) or not isinstance(size_bytes, int) or size_bytes < 0:
        return "it does not say how large it is"
    return _size_fault(size_bytes)


def read_told(output: bytes) -> Mapping[str, Any]:
    """What `qemu-img info --output=json` said. Raises ValueError."""
    try:
        told = json.loads(output)
    except RecursionError as error:
        raise ValueError("it is too deep") from error
    return told if isinstance(told, dict) else {}


def _size_fault(size_bytes: int) -> str:
    if size_bytes > DISK_BYTES_MAX:
        return f"it claims to hold {human_size(size_bytes)}; a disk has at most {human_size(DISK_BYTES_MAX)}"
    return ""


def source_options(format: ImageFormat, file: int) -> str:
    """How `qemu-img` opens an upload: by a descriptor, with the format given and anything below it cut off."""
    below: dict[str, None] = {"backing": None} if format is ImageFormat.QCOW2 else {}
    return "json:" + json.dumps({"driver": str(format), **below, "file": _file(file)})


def target_options(file: int) -> str:
    return f"driver=qcow2,file.driver=file,file.filename={_path(file)}"


def _file(file: int) -> dict[str, str]:
    return {"driver": "file", "filename": _path(file), "locking": "off"}


def _path(file: int) -> str:
    return f"/proc/self/fd/{file}"
