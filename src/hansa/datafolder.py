"""The data folder as processes share it: one cloud holds it at a time. Light: the supervisor imports it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import time
from collections.abc import AsyncIterator
from pathlib import Path

from hansa.errors import HansaError

ENVIRONMENT = "hansa.env"
RELEASE_S = 5.0  # a killed cloud's processes may need a moment to be gone


class AlreadyRunning(HansaError):
    """Another `hansa up` holds this data folder."""


def lock_folder(data: Path, wait_s: float = RELEASE_S) -> int:
    """Takes the folder; the lock ends with the last process that holds the descriptor. Raises AlreadyRunning."""
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(data / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    end = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            holder = _holder(data)
            if time.monotonic() < end and not _lives(holder):
                time.sleep(0.05)
                continue
            os.close(handle)
            text = f"a cloud is running on {data} already (process {holder}); stop it first"
            raise AlreadyRunning(text) from None
    name_holder(data, os.getpid())
    return handle


def share_folder(data: Path) -> int:
    """Takes the folder together with other processes of the same cloud. Raises AlreadyRunning for `hansa up` there."""
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(data / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        text = f"`hansa up` runs on {data} (process {_holder(data)}) and has the folder for itself; stop it first"
        raise AlreadyRunning(text) from None
    return handle


@contextlib.asynccontextmanager
async def starting(data: Path) -> AsyncIterator[None]:
    """One process of a folder at a time makes what is made at a start. Raises AlreadyRunning after a minute."""
    handle = os.open(data / "start.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        for _ in range(1200):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            await _pause(0.05)
        else:
            raise AlreadyRunning(f"another process has been starting on {data} for a minute")
        yield
    finally:
        os.close(handle)


def name_holder(data: Path, pid: int) -> None:
    """Says in `DIR/pid` who holds the folder: for people."""
    spare = data / f".pid.{os.getpid()}"
    spare.write_text(f"{pid}\n")
    spare.chmod(0o600)
    spare.replace(data / "pid")


def read_environment(data_dir: Path) -> dict[str, str]:
    """The variables of `DIR/hansa.env`, empty when there is none or it cannot be read as ours."""
    try:
        lines = (data_dir / ENVIRONMENT).read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    found: dict[str, str] = {}
    for line in lines:
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue
        if len(words) == 2 and words[0] == "export" and "=" in words[1]:
            name, _, value = words[1].partition("=")
            found[name] = value
    return found


async def _pause(seconds: float) -> None:
    import asyncio  # not for the supervisor, which imports this module

    await asyncio.sleep(seconds)


def _holder(data: Path) -> str:
    try:
        return (data / "pid").read_text().strip()
    except OSError:
        return "unknown"


def _lives(pid: str) -> bool:
    try:
        state = Path(f"/proc/{int(pid)}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, ValueError, IndexError):
        return False
    return state not in ("Z", "X")
