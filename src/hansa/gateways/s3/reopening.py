"""A bucket that was closed in the index for a deletion which never came: it is opened again by who meets it.

The API closes a bucket in the index and then marks its resource, and may die in between; and a control store that was
restored knows buckets again whose deletion was after the backup. In both cases the resource lives, and it is the truth.
"""

from __future__ import annotations

import structlog

from hansa.gateways.s3.gateway import Gateway
from hansa.gateways.s3.ports import BucketView

FORGOTTEN_S = 60.0  # longer than a deletion takes from the one step to the other

log = structlog.get_logger("hansa.s3")


async def reopened(gateway: Gateway, bucket: BucketView) -> bool:
    """True: it was closed for long, its resource lives, and now it takes objects again. Raises Retry."""
    closed_at = await gateway.index.closed_at(bucket.uid)
    if closed_at is None or gateway.clock.now() - closed_at < FORGOTTEN_S:
        return False
    await gateway.directory.caught_up()
    now = gateway.directory.bucket_by_uid(bucket.uid)
    if now is None or now.going:
        return False
    await gateway.index.reopen_bucket(bucket.uid)
    log.warning("a bucket was opened again: its deletion was begun and never made", bucket=bucket.name, uid=bucket.uid)
    return True
