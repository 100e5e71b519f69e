"""Bytes that nothing points at any more: deleted from the store once no reader can still be at them.

What the index calls garbage waits so long that a download which began before has ended. Blobs that the index never
heard of are left by writers that died between the store and the index; they wait longer than any write lasts, and are
then garbage like other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from hansa.clock import Clock
from hansa.engines.blobs.port import BlobEngine
from hansa.gateways.s3.duties.chores import Pace
from hansa.objectindex.port import ObjectIndex

PAGE = 500
AT_ONCE = 16
GRACE_S = 900.0  # that readers of what was deleted have
PRESSED_S = 30.0  # the same where room runs out: space that was freed is needed more than a slow download
PRESSED_SHARE = 20  # it runs out when less than one part in so many is left
ORPHAN_S = 2 * 86_400.0  # longer than one PUT or one part can take

log = structlog.get_logger("hansa.s3.garbage")


@dataclass(slots=True)
class Reaping:
    """Two duties: `work` deletes garbage, `find_orphans` finds what nobody ever published."""

    index: ObjectIndex
    blobs: BlobEngine
    clock: Clock
    grace_s: float = GRACE_S
    orphan_s: float = ORPHAN_S
    pace: Pace = field(default_factory=Pace)

    async def work(self) -> None:
        total, grace_s = 0, await self._grace_s()
        while True:
            found = await self.index.garbage(before=self.clock.now() - grace_s, limit=PAGE)
            total += await self._delete([garbage.blob for garbage in found])
            if len(found) < PAGE:
                break
            await self.pace.spend(len(found))
        if total:
            log.info("garbage removed", blobs=total)

    async def _grace_s(self) -> float:
        room = await self.blobs.capacity()
        pressed = room.total is not None and room.free is not None and room.free * PRESSED_SHARE < room.total
        return min(self.grace_s, PRESSED_S) if pressed else self.grace_s

    async def _delete(self, ids: Sequence[str]) -> int:
        """How many are gone. Raises what the store raises, once those that it did delete are crossed out."""
        for start in range(0, len(ids), AT_ONCE):
            some = ids[start : start + AT_ONCE]
            outcomes = await asyncio.gather(*(self.blobs.delete(id) for id in some), return_exceptions=True)
            await self.index.reaped([id for id, error in zip(some, outcomes, strict=True) if error is None])
            for error in outcomes:
                if error is not None:
                    raise error
        return len(ids)

    async def find_orphans(self) -> None:
        batch: list[str] = []
        old = self.clock.now() - self.orphan_s
        async for blob in self.blobs.all():
            if blob.modified <= old:
                batch.append(blob.id)
            if len(batch) >= PAGE:
                await self._discard(batch)
                batch = []
        await self._discard(batch)

    async def _discard(self, batch: Sequence[str]) -> None:
        if not batch:
            return
        known = await self.index.known(batch)
        orphans = [id for id in batch if id not in known]
        if orphans:
            log.warning("blobs without an object", blobs=len(orphans), first=orphans[0])
            await self.index.discard(orphans)
        await self.pace.spend(len(batch))
