"""Which processes of a data folder live: whoever is gone gives back at once what he had in his hand.

Each holds the lock of a file of its own in `DIR/hands`; its leases and its claims carry the file's name. A lock that can
be taken is a dead process's: the kernel says so, no clock does. Processes elsewhere wait until lease and claim run out.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

import structlog

from hansa.errors import Retry
from hansa.store.port import Release
from hansa.store.store import SqlStore

log = structlog.get_logger("hansa")
FOLDER, LOOK_S = "hands", 1.0


@dataclass(slots=True)
class Hands:
    """This process's hand, and an eye on those of the others."""

    folder: Path
    store: SqlStore
    _own: Path | None = None
    _handle: int = -1

    @classmethod
    def enter(cls, data: Path, store: SqlStore, name: str) -> Hands:
        """Takes a hand of this name; from now on the leases of `store` carry it."""
        made = cls(data / FOLDER, store)
        made.folder.mkdir(mode=0o700, exist_ok=True)
        file, spare = made.folder / name, made.folder / f".{name}"
        made._handle = os.open(spare, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(made._handle, fcntl.LOCK_EX)
        spare.replace(file)  # seen by others only once it is locked
        made._own = file
        store.hand = f"{name}."
        return made

    async def watch(self) -> None:
        """For ever: gives back what the dead have."""
        while True:
            try:
                await self.look()
            except Retry as retry:  # the store is away: later
                log.warning("hands", message=retry.message)
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Once. Raises Retry when the store is away."""
        for file in [f for f in self.folder.iterdir() if f != self._own and not f.name.startswith(".")]:
            await self._bury(file)

    async def _bury(self, file: Path) -> None:
        try:
            handle = os.open(file, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            count = await self.store.release(f"{file.name}.")
            await self.store.commit(Release(file.name), by="/hansa/hands")
            file.unlink(missing_ok=True)
            log.info("hands", message="took up what a dead process had in hand", keys=count)
        except BlockingIOError:
            pass  # it lives
        finally:
            os.close(handle)

    @property
    def name(self) -> str:
        return self._own.name if self._own is not None else ""

    def leave(self) -> None:
        if self._own is not None:
            with contextlib.suppress(OSError):
                self._own.unlink()
            os.close(self._handle)
            self._own = None
