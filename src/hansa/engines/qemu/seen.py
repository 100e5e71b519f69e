"""One call's view of one machine: its record, its process, and what its QEMU says of itself."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

from hansa.engines.qemu import blocks, process
from hansa.engines.qemu.folder import MachineFolder
from hansa.engines.qemu.monitor import Session
from hansa.engines.qemu.plan import Phase, Record
from hansa.engines.qemu.process import Process
from hansa.engines.qemu.site import Site
from hansa.errors import Retry

_DYING_S = 0.1  # a process lets go of its sockets a moment before it is gone


@dataclass(frozen=True, slots=True)
class Sight:
    """What QEMU says. `status` is its run state, None without a process; `hot` the disks that come and go."""

    status: str | None
    hot: tuple[str, ...] = ()


@dataclass(slots=True)
class Seen:
    """`record` and `process` change as steps are done."""

    site: Site
    folder: MachineFolder
    record: Record
    process: Process | None

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.alive()

    async def remember(self, **changes: Any) -> None:
        """Change the record, on disk before anything follows from it."""
        self.record = replace(self.record, **changes)
        await asyncio.to_thread(self.folder.write, self.record)

    async def take_over(self, found: Process) -> None:
        """Record whose process it is."""
        self.process = found
        await self.remember(
            pid=found.pid,
            start_ticks=found.start_ticks,
            boot_id=process.boot_id(),
            started_at=self.record.started_at or time.time(),
        )

    async def look(self) -> Sight:
        """Raises Retry when a process is there and says nothing."""
        if not self.alive:
            return Sight(None)
        try:
            async with self.session() as session:
                if await session.uid() != self.folder.uid:
                    raise Retry("another machine's QEMU answers on this socket")
                return Sight(await session.status(), blocks.disks_of(await session.devices()))
        except Retry:
            if self.process is None or await self.process.ended(_DYING_S):
                return Sight(None)
            raise

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        async with self.site.monitor(self.folder.run).session() as session:
            yield session


@contextlib.asynccontextmanager
async def seen(site: Site, uid: str, *, adopt: bool = False) -> AsyncIterator[Seen]:
    """What is there of machine `uid`. With `adopt` a process that nobody recorded is recorded."""
    folder = site.folders.of(uid)
    record = await asyncio.to_thread(folder.read) or Record(uid)
    view = Seen(site, folder, record, await _find(site, record))
    try:
        if adopt and view.process is not None and view.process.pid != record.pid:
            await view.take_over(view.process)
        yield view
    finally:
        if view.process is not None:
            view.process.close()


async def _find(site: Site, record: Record) -> Process | None:
    """The process of the record; one that was started and never recorded by its command line."""
    if process.recorded_ticks(record):
        return process.of_record(record, site.cloud)
    if record.phase not in (Phase.STARTED, Phase.STOPPING) or record.pid:
        return None
    adopted = (process.adopt(pid, site.cloud, record.uid, None) for pid in (await site.guests()).get(record.uid, []))
    return next((one for one in adopted if one is not None), None)
