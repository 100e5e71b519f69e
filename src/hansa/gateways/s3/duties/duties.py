"""Which duties a gateway has, and how often they come round."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from hansa.engines.blobs.port import BlobEngine
from hansa.gateways.s3.duties.chores import Chores, Duty
from hansa.gateways.s3.duties.expiring import Expiring
from hansa.gateways.s3.duties.reaping import Reaping
from hansa.gateways.s3.duties.replicating import Replicating
from hansa.gateways.s3.gateway import Gateway
from hansa.gateways.s3.ports import BucketView
from hansa.gateways.s3.rules.lifecycle import DAY_S

HOUR_S = 3600.0
GARBAGE_S = 60.0
ORPHANS_S = 24 * HOUR_S
REPLICATION_S = 2.0


def chores_of(
    gateway: Gateway,
    blobs: BlobEngine,
    buckets: Callable[[], Iterable[BucketView]],
    *,
    day_s: float = DAY_S,
    touched: Callable[[str], None] = lambda uid: None,
    more: Sequence[Duty] = (),
) -> Chores:
    """`buckets`: all that there are; `touched`: told the uid of each that a duty has changed; `more`: duties of others."""
    expiring = Expiring(gateway, buckets, day_s, touched=touched)
    reaping = Reaping(gateway.index, blobs, gateway.clock)
    duties = (
        Duty("lifecycle", lifecycle_every(day_s), expiring.work),
        Duty("replication", REPLICATION_S, Replicating(gateway, touched=touched).work),
        Duty("garbage", GARBAGE_S, reaping.work),
        Duty("orphans", ORPHANS_S, reaping.find_orphans),
        *more,
    )
    return Chores(gateway.index, gateway.clock, gateway.ids, duties)


def lifecycle_every(day_s: float) -> float:
    """Each hour; oftener where days are shorter than they are."""
    return max(1.0, min(HOUR_S, day_s / 4))
