"""Notices that the clock was set back, while the loop runs or while nothing did.

Due times and leases are dates. An hour taken from the clock would make everything that is due wait for an hour, so they
move with it: what was due in a minute is due in a minute. Where the database tells the time (PostgreSQL), nobody here
decides that it jumped.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog

from hansa.clock import Clock
from hansa.errors import Gone
from hansa.store.port import Store

log = structlog.get_logger("hansa.loop")
NOTICED_S = 5.0


@dataclass(slots=True)
class ClockWatch:
    store: Store
    clock: Clock
    _seen: tuple[float, float] | None = None  # what the clock said, and the event loop's own time, which only goes on

    async def look(self) -> None:
        """Raises Retry; what was noticed then is noticed again."""
        now, ticks = self.clock.now(), asyncio.get_running_loop().time()
        if self._seen is None:
            back_s = await self._newest() - now
        else:
            back_s = (ticks - self._seen[1]) - (now - self._seen[0])
        if back_s > NOTICED_S and self.store.alone:
            log.warning("the clock was set back", seconds=round(back_s, 1))
            await self.store.rebase(back_s)
        self._seen = (now, ticks)

    async def _newest(self) -> float:
        """When the last change was written, by the clock as it then was."""
        try:
            changes = await self.store.changes(await self.store.revision() - 1, limit=1)
        except Gone:
            return 0.0
        return changes[-1].at if changes else 0.0
