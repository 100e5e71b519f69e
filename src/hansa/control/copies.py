"""What is copied from what: nothing goes while a copy of it is being made.

A copy knows its source by uid from its birth on: another object that takes the name later is not its source,
so nothing ever waits in a circle. It says that it has *begun* before an engine is asked, and needs its source
no more once it is made. Admission refuses to delete a source; should both happen at the same moment, the
source's reconciler waits for copies that have begun, and those that have not give up.
"""

from __future__ import annotations

from collections.abc import Sequence

from hansa.control.outcome import born_waiting
from hansa.control.world import World
from hansa.errors import InUse
from hansa.kinds.compute import Disk, Snapshot
from hansa.kinds.reasons import is_terminal
from hansa.kinds.registry import full_ref
from hansa.kinds.resource import AnyResource
from hansa.store.port import Birth


async def disk_born(it: AnyResource, world: World) -> Birth:
    assert isinstance(it, Disk)
    ref = it.spec.source.snapshot_ref if it.spec.source else None
    return await _born(ref, Snapshot, it, world)


async def snapshot_born(it: AnyResource, world: World) -> Birth:
    assert isinstance(it, Snapshot)
    return await _born(it.spec.disk_ref, Disk, it, world)


async def _born(ref: str | None, kind: type[Disk] | type[Snapshot], it: AnyResource, world: World) -> Birth:
    source = await world.follow(kind, full_ref(ref, (kind.kind,), it.key.scope)) if ref else None
    known = {"source": source.uid} if source is not None else {}
    return Birth(born_waiting(world.clock.now(), **known))


async def disk_guard(it: AnyResource, world: World) -> None:
    """A disk stays while a snapshot of it is being made."""
    refuse_source(it, await world.pointing(Snapshot, it.key))


async def snapshot_guard(it: AnyResource, world: World) -> None:
    """A snapshot stays while a disk is being made from it."""
    refuse_source(it, await world.pointing(Disk, it.key))


def refuse_source(it: AnyResource, copies: Sequence[Disk] | Sequence[Snapshot]) -> None:
    """Raises InUse naming the copy that is being made, or waits to be. One that has failed does not count."""
    for copy in copies:
        ready, status = copy.status.condition("Ready"), copy.status
        over = status.made or copy.deleting or (ready is not None and is_terminal(ready.reason))
        if status.source == it.uid and not over:
            made = f"{copy.kind} {copy.name}"
            raise InUse(f"InUse: {made} is being made from {it.key}: wait until it is Ready, or delete it first")


def begun(it: AnyResource, copies: Sequence[Disk] | Sequence[Snapshot]) -> str:
    """The name of a copy that an engine may be making from `it` now, empty: there is none."""
    return next((c.name for c in copies if c.status.begun and c.status.source == it.uid and not c.status.made), "")
