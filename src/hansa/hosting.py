"""Which process drives the hosts of a data folder: the one that holds `DIR/engines.lock`, and the kernel says who that is.

Every control process over the folder works on every object; whoever has no engines calls those of the one who has them.
When that one ends, however it ends, the kernel lets go of the lock and another takes it: no election, no time to wait
out, nobody who believes to be what he is not any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from hansa.config import run_folder
from hansa.engines.counted import Engines
from hansa.engines.ports import ComputeEngine, NetworkEngine, VolumeEngine
from hansa.engines.shared import EngineServer, SharedEngines

log = structlog.get_logger("hansa")
LOOK_S = 0.25
LOCK, SOCKET = "engines.lock", "engines"

Build = Callable[[], tuple[Engines, Callable[[], None]]]


def socket_of(identity: str) -> Path:
    return run_folder(identity) / SOCKET


@dataclass(slots=True)
class Hosting:
    """Fills `Engines`: those of this process while it has them, else those of the process that does.

    `build` makes the engines and gives a way to close them; `taken` is awaited after each taking.
    """

    data: Path
    others: SharedEngines
    build: Build
    taken: Callable[[], Awaitable[None]]
    own: Engines | None = None
    _handle: int = -1
    _server: EngineServer | None = None
    _close: Callable[[], None] = field(default=lambda: None)

    def compute(self, host: str) -> ComputeEngine | None:
        return (self.own or self.others).compute(host)

    def volumes(self, zone: str) -> VolumeEngine | None:
        return (self.own or self.others).volumes(zone)

    def network(self, host: str) -> NetworkEngine | None:
        return (self.own or self.others).network(host)

    async def keep(self) -> None:
        """For ever: waits for the lock, then drives the hosts."""
        handle = os.open(self.data / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._handle = handle
        while not _locked(handle):
            await asyncio.sleep(LOOK_S)
        engines, self._close = self.build()
        self._server = EngineServer(engines, self.others.path)
        self.own = engines
        await self._server.open()
        log.info("hosts", message="this process drives the hosts", pid=os.getpid())
        await self.taken()
        await asyncio.Event().wait()

    async def close(self) -> None:
        """Lets go: no call is answered after it, and then somebody else may take the lock."""
        if self._server is not None:
            await self._server.close()
        with contextlib.suppress(OSError):
            self._close()
        if self._handle >= 0:
            os.close(self._handle)


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
