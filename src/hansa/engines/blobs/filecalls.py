"""Files and folders of blobs, call by call: what is asked of the system, and what its errors mean."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hansa.engines.blobs.names import is_id
from hansa.engines.blobs.port import StoredBlob
from hansa.errors import Exhausted, HansaError, NotFound, Retry

MODE: Final = 0o600
FOLDER_MODE: Final = 0o700
SWEPT_S: Final = 86400.0  # what is unfinished so long was left by a crash


@dataclass(frozen=True, slots=True)
class Calls:
    """What is asked of the system where it may fail: tests put calls here that do."""

    write: Callable[[int, Sequence[Any]], int] = os.writev
    flush: Callable[[int], None] = os.fdatasync
    flush_folder: Callable[[int], None] = os.fsync
    link: Callable[..., None] = os.link
    allocate: Callable[[int, int, int], None] = os.posix_fallocate


def path_of(id: str) -> str:
    return f"{id[:2]}/{id[2:4]}/{id}"


def told(error: OSError, words: str, *, id: str = "") -> HansaError:
    """What the system's error means."""
    detail = f"{errno.errorcode.get(error.errno or 0, '?')}: {error.strerror}"
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return Exhausted("no room is left in the store of objects")
    if error.errno == errno.ENOENT and id:
        return NotFound("the bytes are not there", detail=id)
    return Retry(words, detail=detail)


def after(parts: list[memoryview], written: int) -> list[memoryview]:
    """What is left of the parts when so many bytes of them are gone."""
    for n, part in enumerate(parts):
        if written < len(part):
            return [part[written:], *parts[n + 1 :]]
        written -= len(part)
    return []


def sweep(folder: Path) -> None:
    """Another process may be writing here: only what is old goes."""
    for left in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was finished just now
            if time.time() - left.lstat().st_mtime > SWEPT_S:
                left.unlink()


def flush_folder(calls: Calls, root: int, folder: str) -> None:
    """The names in a folder below `root` are durable. Raises OSError."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=root)
    try:
        calls.flush_folder(opened)
    finally:
        os.close(opened)


def blobs_in(folder: Path) -> Iterator[StoredBlob]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_id(entry.name) and entry.is_file(follow_symlinks=False):
                try:
                    seen = entry.stat(follow_symlinks=False)
                except FileNotFoundError:  # deleted meanwhile
                    continue
                yield StoredBlob(entry.name, seen.st_size, seen.st_mtime)


def has_nameless_files(root: Path) -> bool:
    """Not every file system makes files without a name, and links them in later."""
    try:
        file = os.open(root, os.O_TMPFILE | os.O_WRONLY, MODE)
    except OSError as error:
        if error.errno in {errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT}:
            return False
        raise told(error, "the folder of the store cannot be used") from error
    os.close(file)
    return True


def private(path: str, flags: int) -> int:
    """An opener of files for their owner alone."""
    return os.open(path, flags | os.O_NOFOLLOW, MODE)


def make_root(root: Path, inside: str) -> int:
    """The folder of a store, with one folder inside, there and durable; a descriptor of it. Raises OSError."""
    (root / inside).mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    for folder in (root, root.parent, root.parent.parent):
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
    return os.open(root, os.O_RDONLY | os.O_DIRECTORY)
