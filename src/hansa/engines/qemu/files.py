"""Small files that must survive a crash: written aside, made durable, renamed. A reader sees old or new, never half."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in `path`, None when there is no such file."""
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found if isinstance(found, dict) else None


def write_json(path: Path, value: dict[str, Any], *, mode: int = 0o600) -> None:
    write_file(path, json.dumps(value, indent=1).encode() + b"\n", mode=mode)


def write_file(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Replace `path` at once and for good."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make names in `path` durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
