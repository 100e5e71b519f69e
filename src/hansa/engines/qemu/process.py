"""Processes that outlive us: started detached, found again by proof, ended by a handle that cannot mean another.

A QEMU is ours when its command line has the machine's `-uuid` and `guest=CLOUD.UID` and, where we recorded one,
the start time agrees; a pid alone proves nothing. A pidfd is opened before the proof is read, so what was proved is
what is signalled. A process gets the descriptors that it is given and no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from hansa.engines.qemu.plan import Record

_PROC = Path("/proc")
_KERNEL = 2  # parent of the kernel's own threads, which have no words
_EXEC_LIMIT_S = 0.1


def spawn(command: Sequence[str], stderr: Path, handles: Sequence[int] = ()) -> int:
    """Start `command` in a session of its own with nothing but `stderr` and `handles`. Returns its pid.

    The handles keep their numbers. When this returns the new command line stands in /proc, or the process has ended.
    The environment carries no secret of ours. Blocks for some milliseconds.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    pid = os.posix_spawnp(
        command[0],
        list(command),
        _environment(),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, os.fspath(stderr), flags, 0o600),
            *((os.POSIX_SPAWN_DUP2, handle, handle) for handle in handles),  # onto itself: it is inherited
            *((os.POSIX_SPAWN_CLOSE, handle) for handle in _inherited() if handle not in handles),
        ],
        setsid=True,
        setsigmask=(),
        setsigdef=(signal.SIGPIPE, signal.SIGINT, signal.SIGHUP),
    )
    _command_line(pid)  # the parent goes on a moment before the kernel has set them
    return pid


def reap(pid: int) -> bool:
    """Whether child `pid` has ended; takes its remains away. True as well when it is no child of ours."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


@dataclass(frozen=True, slots=True)
class Stat:
    """What /proc/PID/stat says that matters here. `start_ticks` is field 22, in clock ticks since boot."""

    state: str
    parent: int
    start_ticks: int


class Process:
    """One live process, held by its pidfd: to be closed, `with` does it."""

    def __init__(self, pid: int, handle: int, start_ticks: int) -> None:
        self.pid = pid
        self.start_ticks = start_ticks
        self._handle = handle

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def duplicate(self) -> Process:
        """Another handle of the same process."""
        return Process(self.pid, os.dup(self._handle), self.start_ticks)

    def fileno(self) -> int:
        """The pidfd: readable once the process has ended."""
        return self._handle

    def alive(self) -> bool:
        poller = select.poll()
        poller.register(self._handle, select.POLLIN)
        ended = bool(poller.poll(0))
        if ended:
            reap(self.pid)
        return not ended

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle, signal.SIGKILL)

    async def ended(self, limit_s: float) -> bool:
        """Wait for the end, at most `limit_s`. True once there is no process any more."""
        loop = asyncio.get_running_loop()
        done = asyncio.Event()
        loop.add_reader(self._handle, done.set)
        try:
            async with asyncio.timeout(limit_s):
                await done.wait()
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(self._handle)
        return not self.alive()


def adopt(pid: int, cloud: str, uid: str, start_ticks: int | None) -> Process | None:
    """The process `pid` when it is provably the QEMU of machine `uid` of `cloud`, else None.

    `start_ticks` None: not recorded, the command line suffices.
    """
    if pid <= 0:
        return None
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return None
    found = stat(pid)
    proved = found is not None and start_ticks in (None, found.start_ticks) and guest_of(pid) == (cloud, uid)
    if found is None or not proved:
        os.close(handle)
        return None
    process = Process(pid, handle, found.start_ticks)
    if found.state == "Z" or not process.alive():
        process.close()
        return None
    return process


def recorded_ticks(record: Record) -> int:
    """Start time of the recorded process; 0 when none was recorded during this boot of the host."""
    return record.start_ticks if record.pid and record.boot_id == boot_id() else 0


def of_record(record: Record, cloud: str) -> Process | None:
    """The process that the record tells of, None when it is gone or none was recorded."""
    ticks = recorded_ticks(record)
    return adopt(record.pid, cloud, record.uid, ticks) if ticks else None


def scan(cloud: str) -> dict[str, list[int]]:
    """Every live QEMU of `cloud`: pids by machine uid. Reads all of /proc, so not on every pass."""
    found: dict[str, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (guest := guest_of(int(entry.name))) and guest[0] == cloud:
            found.setdefault(guest[1], []).append(int(entry.name))
    return found


def stat(pid: int) -> Stat | None:
    """None when there is no such process."""
    text = _read(_PROC / str(pid) / "stat")
    fields = text.rpartition(")")[2].split()
    return Stat(fields[0], int(fields[1]), int(fields[19])) if len(fields) > 19 else None


def guest_of(pid: int) -> tuple[str, str] | None:
    """Cloud and machine uid that the command line of `pid` names in `-name` and confirms in `-uuid`."""
    words = _command_line(pid)
    named = dict(zip(words, words[1:], strict=False))
    name, _, _ = named.get("-name", "").partition(",")
    cloud, _, uid = name.removeprefix("guest=").partition(".")
    if not name.startswith("guest=") or not uid or named.get("-uuid") != uid:
        return None
    return cloud, uid


def boot_id() -> str:
    """Names this boot of the host: start times of two boots do not compare."""
    return _read(_PROC / "sys/kernel/random/boot_id").strip()


def prefer_as_victim(pid: int) -> None:
    """Under memory pressure a guest goes before the cloud. Best effort: a process that ended needs none."""
    with contextlib.suppress(OSError):
        (_PROC / str(pid) / "oom_score_adj").write_text("500")


def _inherited() -> list[int]:
    """Descriptors that whoever started us left open for every child."""
    found: list[int] = []
    for entry in (_PROC / "self/fd").iterdir():
        try:
            if int(entry.name) > 2 and os.get_inheritable(int(entry.name)):
                found.append(int(entry.name))
        except OSError:  # closed meanwhile
            continue
    return found


def _command_line(pid: int) -> list[str]:
    """The words of a process. They are missing for a moment while it becomes another program, as in our chains."""
    end = time.monotonic() + _EXEC_LIMIT_S
    while not (text := _read(_PROC / str(pid) / "cmdline")):
        found = stat(pid)
        if found is None or found.state in "ZX" or _KERNEL in (pid, found.parent) or time.monotonic() > end:
            return []
        time.sleep(0.0005)
    return text.split("\0")


def _read(path: Path) -> str:
    """Text of a file in /proc; empty for a process that is gone, ended, or not ours to read."""
    try:
        return path.read_bytes().decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ""


def _environment() -> dict[str, str]:
    keep = ("PATH", "HOME", "TMPDIR", "XDG_CACHE_HOME", "PYTHONPATH", "http_proxy", "https_proxy", "no_proxy")
    return {name: os.environ[name] for name in keep if name in os.environ} | {"LC_ALL": "C.UTF-8"}
