"""Machines that run, watched: the end of a process is told at once, and what it writes beside its disks stays small.

Told is a hint, the truth is observed. The rounds go on while anything is watched: a guest that floods its console may
fill no disk in between.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from hansa.engines.qemu.folder import MachineFolder
from hansa.engines.qemu.process import Process

ROUND_S = 1.0


class Watches:
    """The processes of running machines. `on_exit` is told the uid of a machine whose process ended."""

    def __init__(self, on_exit: Callable[[str], None] | None) -> None:
        self._on_exit = on_exit
        self._watched: dict[str, tuple[Process, MachineFolder]] = {}
        self._rounds: asyncio.Task[None] | None = None

    def watch(self, folder: MachineFolder, running: Process) -> None:
        """Be told of the end of this process, once. The handle of `running` stays the caller's."""
        held, _ = self._watched.get(folder.uid, (None, None))
        if held is not None and (held.pid, held.start_ticks) == (running.pid, running.start_ticks):
            return
        self.forget(folder.uid)
        mine = running.duplicate()
        self._watched[folder.uid] = (mine, folder)
        asyncio.get_running_loop().add_reader(mine.fileno(), self._ended, folder.uid)
        if self._rounds is None or self._rounds.done():
            self._rounds = asyncio.get_running_loop().create_task(self._go_round())

    def forget(self, uid: str) -> None:
        if found := self._watched.pop(uid, None):
            asyncio.get_running_loop().remove_reader(found[0].fileno())
            found[0].close()

    def close(self) -> None:
        """Let go of every process; they go on."""
        for uid in list(self._watched):
            self.forget(uid)
        if self._rounds is not None:
            self._rounds.cancel()

    def _ended(self, uid: str) -> None:
        found = self._watched.get(uid)
        if found is not None:
            found[0].alive()  # takes the remains away
            self.forget(uid)
        if self._on_exit is not None:
            self._on_exit(uid)

    async def _go_round(self) -> None:
        while self._watched:
            for _, folder in list(self._watched.values()):
                with contextlib.suppress(OSError):  # a full host: the log was emptied, only its older half is lost
                    await asyncio.to_thread(folder.trim)
            await asyncio.sleep(ROUND_S)
