"""The process above the others: starts them, forwards what they say, starts them again, ends with them.

It holds what must outlive a child: the lock of the data folder and the listening sockets, so that a client who comes
while a child is started again waits instead of being refused. It knows nothing of what the children do and imports
almost nothing. A child ends when it ends: the kernel sees to that (`follow_parent` in the child).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO

PAUSE_S, PAUSE_S_MAX = 0.5, 30.0  # before a child that ended is started again, doubled each time
WELL_S = 60.0  # a child that lived so long begins again with the short pause
END_S = 50.0  # from asking the children to end to ending them
LINE_BYTES_MAX = 1 << 20
READY = b"ready "
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Child:
    """A process to keep: its name in logs, its command, descriptors and variables that it is given.

    `tells` False: that it is ready is waited for, and told to nobody.
    """

    name: str
    command: Sequence[str]
    descriptors: Sequence[int] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    tells: bool = True


@dataclass(slots=True, eq=False)
class _Kept:
    child: Child
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    due_at: float = 0.0
    pause_s: float = PAUSE_S
    was_ready: bool = False  # ever
    said: bytes = b""  # how it said so, until all are ready
    waits: dict[int, bytearray] = field(default_factory=dict)  # descriptor -> the beginning of a line


class Supervisor:
    """Runs until it is told to end, or until a child cannot begin. Standard output is for `ready`, the rest for logs."""

    def __init__(self, children: Sequence[Child]) -> None:
        self._kept = [_Kept(child) for child in children]
        self._selector = selectors.DefaultSelector()
        self._stopping_at = 0.0
        self._code = 0

    def run(self) -> int:
        """The status to end with: a child's that never became ready, else 0."""
        woken, wakes = os.pipe()
        os.set_blocking(wakes, False)
        os.set_blocking(woken, False)
        before = signal.set_wakeup_fd(wakes)
        handlers = {number: signal.signal(number, self._told) for number in (signal.SIGINT, signal.SIGTERM)}
        handlers[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, _nothing)
        self._selector.register(woken, selectors.EVENT_READ)
        try:
            while self._turn(woken):
                pass
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(before)
            for kept in self._kept:
                if kept.process is not None:
                    kept.process.kill()
                    kept.process.wait()
        return self._code

    def _told(self, number: int, _frame: object) -> None:
        self._stopping_at = self._stopping_at or time.monotonic()

    def _turn(self, woken: int) -> bool:
        """Starts what is due, waits, hears what is said, sees who ended. False when there is nothing left to do."""
        now = time.monotonic()
        if self._stopping_at:
            self._end(now)
        else:
            for kept in self._kept:
                if kept.process is None and now >= kept.due_at:
                    self._start(kept, now)
        somebody = False
        for key, _ in self._selector.select(self._wait_s(now)):
            if key.fd == woken:
                somebody = True  # ended, or we are told to
                with contextlib.suppress(BlockingIOError):
                    os.read(woken, 4096)
            else:
                self._hear(key.data, key.fd)
        for kept in self._kept if somebody or self._stopping_at else ():
            if kept.process is not None and kept.process.poll() is not None:
                self._ended(kept, time.monotonic())
        return not self._stopping_at or any(kept.process is not None for kept in self._kept)

    def _wait_s(self, now: float) -> float | None:
        if self._stopping_at:
            return 0.5
        dues = [kept.due_at for kept in self._kept if kept.process is None]
        return max(0.0, min(dues) - now) if dues else None

    # -- children ---------------------------------------------------------------------------

    def _start(self, kept: _Kept, now: float) -> None:
        child = kept.child
        kept.process = subprocess.Popen(
            child.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            pass_fds=child.descriptors, env={**os.environ, **child.environment}, bufsize=0,
        )  # fmt: skip
        kept.started_at = now
        for pipe in _pipes(kept.process):
            os.set_blocking(pipe.fileno(), False)
            kept.waits[pipe.fileno()] = bytearray()
            self._selector.register(pipe.fileno(), selectors.EVENT_READ, kept)

    def _ended(self, kept: _Kept, now: float) -> None:
        process = kept.process
        assert process is not None
        for pipe in _pipes(process):
            if pipe.fileno() in kept.waits:
                self._hear(kept, pipe.fileno(), last=True)
                self._selector.unregister(pipe.fileno())
            pipe.close()
        kept.process, kept.waits = None, {}
        if self._stopping_at:
            return
        if not kept.was_ready:  # it cannot begin: what is wrong was said, and trying again would say it again
            self._code = process.returncode if process.returncode > 0 else 1
            self._stopping_at = now
            return
        kept.pause_s = PAUSE_S if now - kept.started_at >= WELL_S else min(kept.pause_s * 2, PAUSE_S_MAX)
        kept.due_at = now + kept.pause_s
        say(kept.child.name, f"ended with {process.returncode}; started again in {kept.pause_s:g} s")

    def _end(self, now: float) -> None:
        """Asks once; after a while it does not ask."""
        for kept in self._kept:
            if kept.process is not None and kept.due_at != self._stopping_at:
                kept.due_at = self._stopping_at
                kept.process.terminate()
            elif kept.process is not None and now - self._stopping_at > END_S:
                kept.process.kill()

    # -- what they say ----------------------------------------------------------------------

    def _hear(self, kept: _Kept, descriptor: int, *, last: bool = False) -> None:
        waits = kept.waits.get(descriptor)
        if waits is None or kept.process is None or kept.process.stdout is None:
            return
        out = descriptor == kept.process.stdout.fileno()
        while True:
            try:
                piece = os.read(descriptor, 65536)
            except BlockingIOError:
                break
            if not piece:
                if not last:
                    self._selector.unregister(descriptor)
                    kept.waits.pop(descriptor)
                last = True
                break
            waits += piece
            *lines, rest = bytes(waits).split(b"\n")
            for line in lines:
                self._forward(kept, line, out)
            waits[:] = rest if len(rest) < LINE_BYTES_MAX else b""
        if last and waits:
            self._forward(kept, bytes(waits), out)
            waits.clear()

    def _forward(self, kept: _Kept, line: bytes, out: bool) -> None:
        if out:
            if line.startswith(READY):
                self._is_ready(kept, line)
            else:
                _write(sys.stdout.fileno(), line + b"\n")
            return
        _write(sys.stderr.fileno(), named(kept.child.name, line) + b"\n" if kept.was_ready else line + b"\n")

    def _is_ready(self, kept: _Kept, line: bytes) -> None:
        """The first time it is told, once every child is: who reads `ready` finds all of them."""
        if kept.was_ready:
            say(kept.child.name, "ready again")
            return
        kept.was_ready, kept.said = True, line if kept.child.tells else b""
        if all(each.was_ready for each in self._kept):
            _write(sys.stdout.fileno(), b"".join(each.said + b"\n" for each in self._kept if each.said))


def named(name: str, line: bytes) -> bytes:
    """A line of a log with the name of the process that wrote it: as a field where it is JSON. Pure."""
    if line.startswith(b'{"'):
        return b'{"process": "' + name.encode() + b'", ' + line[1:]
    return name.encode() + b": " + line


def say(name: str, message: str) -> None:
    """A line of our own in the log."""
    _write(
        sys.stderr.fileno(),
        named(name, b'{"event": "supervisor", "level": "warning", "message": "%s"}' % message.encode()) + b"\n",
    )


def follow_parent(parent: int) -> None:
    """In a child: the kernel ends it when its parent ends. Raises SystemExit when that is over already."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        raise SystemExit(1)


def _pipes(process: subprocess.Popen[bytes]) -> list[IO[bytes]]:
    return [pipe for pipe in (process.stdout, process.stderr) if pipe is not None]


def _nothing(_number: int, _frame: object) -> None:
    """The wakeup descriptor has it."""


def _write(descriptor: int, text: bytes) -> None:
    """Whole, also to a pipe; nobody there to read it is no reason to end."""
    with contextlib.suppress(BrokenPipeError):
        while text:
            text = text[os.write(descriptor, text) :]
