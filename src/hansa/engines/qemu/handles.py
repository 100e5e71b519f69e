"""Open files on their way to another process: they are ours for a moment, and closed when it has them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


async def to_its_end(work: Callable[P, R], *arguments: P.args, **options: P.kwargs) -> R:
    """`work` in a thread. A caller that is cancelled waits for it too: a number that is closed meanwhile would be
    another's file by the time the thread uses it."""
    running = asyncio.ensure_future(asyncio.to_thread(work, *arguments, **options))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


class Handles:
    """Descriptors that are closed together: `with` does it."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    def read(self, path: Path) -> int:
        return self._open(path, os.O_RDONLY)

    def write(self, path: Path) -> int:
        """Open for both: a disk is read too."""
        return self._open(path, os.O_RDWR)

    def append(self, path: Path) -> int:
        """Written at its end, wherever that is then: it may be emptied meanwhile. Made where it is missing."""
        return self._open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def listen(self, path: Path) -> int:
        """A listening socket at `path`, for whoever may enter its folder."""
        made = self._held.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        made.bind(os.fspath(path))
        path.chmod(0o600)
        made.listen(1)
        return self.lend(made.fileno())

    def lend(self, number: int) -> int:
        """A descriptor of somebody else, who closes it. -1 is none."""
        if number >= 0:
            self.numbers.append(number)
        return number

    def _open(self, path: Path, flags: int) -> int:
        number = os.open(path, flags | os.O_CLOEXEC, 0o600)
        self._held.callback(os.close, number)
        return self.lend(number)
