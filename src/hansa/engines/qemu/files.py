"""Small files that must survive a crash: written aside, made durable, renamed. A reader sees old or new, never half."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hansa.errors import Retry


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in `path`, None when there is no such file or it holds none."""
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write_json(path: Path, value: dict[str, Any], *, mode: int = 0o600) -> None:
    write_file(path, json.dumps(value, indent=1).encode() + b"\n", mode=mode)


def write_file(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Replace `path` at once and for good."""
    part = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_native_id()}.part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Make the content of `path` durable, whoever wrote it."""
    _sync(path, os.O_RDONLY)


def sync_folder(path: Path) -> None:
    """Make names in `path` durable."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


@contextlib.contextmanager
def refusals_of_the_host() -> Iterator[None]:
    """What the host's kernel refuses, a full disk above all, leaves an engine as Retry."""
    try:
        yield
    except OSError as error:
        raise Retry(f"the host refused: {error.strerror or error}", detail=repr(error)) from error


def _sync(path: Path, flags: int) -> None:
    handle = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
