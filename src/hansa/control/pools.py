"""The disk space of a zone: its disks and snapshots claim their size, under what its hosts may promise.

Thin disks promise more than there is; how much more, the operator says (`disk_overcommit`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hansa.control.outcome import Trouble
from hansa.control.quotas import take_storage
from hansa.control.world import World
from hansa.kinds.fleet import Host
from hansa.kinds.resource import AnyResource
from hansa.store.port import Claim, Reserve, Write
from hansa.units import human_size

BYTES = "bytes"
NO_ROOM_AGAIN_S = 30.0
UNSEEN_AGAIN_S = 1.0


def pool_scope(region: str, zone: str) -> str:
    """Claims on the disk space of a zone: one key, `bytes`."""
    return f"pools/{region}-{zone}"


@dataclass(frozen=True, slots=True)
class Pool:
    """The disk space of one zone. `seen`: every host of it has said what it has. Amounts in bytes."""

    scope: str
    zone: str
    ceiling: int
    promised: Mapping[str, int]  # by owner
    seen: bool

    def refusal(self, owner: str, amount: int) -> Trouble | None:
        """Why `owner` cannot hold `amount` bytes here, None when it can."""
        if not self.seen:
            return Trouble("Creating", f"the hosts of zone {self.zone} were not looked at yet", UNSEEN_AGAIN_S)
        others = sum(held for uid, held in self.promised.items() if uid != owner)
        if others + amount <= self.ceiling:
            return None
        message = (
            f"zone {self.zone} has no room for {human_size(amount)}: {human_size(others)} promised of "
            f"{human_size(self.ceiling)}; delete disks or raise HANSA_DISK_OVERCOMMIT"
        )
        return Trouble("ProvisioningFailed", message, NO_ROOM_AGAIN_S)

    def claim(self, amount: int) -> Claim:
        return Claim(self.scope, BYTES, amount, ceiling=self.ceiling)


async def pool_of(region: str, zone: str, world: World) -> Pool:
    hosts = [h for h in await world.all(Host) if (h.spec.region, h.spec.zone) == (region, zone)]
    scope = pool_scope(region, zone)
    return Pool(
        scope, zone, sum(h.status.capacity.disk_bytes for h in hosts),
        {h.owner: h.claim.amount for h in await world.store.claims(scope)},
        seen=all(h.status.conditions for h in hosts),
    )  # fmt: skip


async def held_room(it: AnyResource, zone: str, world: World) -> int:
    """Bytes that an object holds of a zone's pool, 0: it has claimed nothing."""
    scope = pool_scope(it.key.region or "", zone)
    return sum(h.claim.amount for h in await world.store.claims_of(it.uid) if h.claim.scope == scope)


async def take_room(it: AnyResource, zone: str, amount: int, world: World) -> tuple[Write, ...] | Trouble:
    """The writes that make `amount` bytes of a zone, and of its quotas, an object's own; none where it holds these."""
    storage = await take_storage(it, amount, world)
    if isinstance(storage, Trouble) or await held_room(it, zone, world) == amount:
        return storage
    pool = await pool_of(it.key.region or "", zone, world)
    return pool.refusal(it.uid, amount) or (Reserve(it.uid, (pool.claim(amount),)), *storage)
