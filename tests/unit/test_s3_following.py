"""How the directory of a gateway is kept as the control store is, also when a look at it breaks off."""

from __future__ import annotations

import pytest

from hansa.clock import SystemClock
from hansa.errors import Gone, Retry
from hansa.gateways.s3.directory import Directory
from hansa.gateways.s3.following import Follower
from hansa.kinds.resource import Key, Stored
from hansa.kinds.storage import Bucket, BucketServiceAccount, S3Key
from hansa.policy.verdict import Caller
from hansa.store.port import Change, Page, Query

pytestmark = pytest.mark.anyio


class Forgetful:
    """A store of one bucket that no longer knows what changed before its last revision. `broken`: a kind that it does
    not tell of."""

    def __init__(self) -> None:
        self.at, self.broken, self.listed = 100, "", 0

    async def revision(self) -> int:
        return self.at

    async def list(self, query: Query) -> Page:
        self.listed += 1
        if query.kind == self.broken:
            raise Retry("it did not answer")
        films = Stored(Key(Bucket.kind, "projects/shop/regions/se-sto", "films"), "uid-films", 0.0, spec={}, status={})
        return Page([films] if query.kind == Bucket.kind else [])

    async def changes(self, after: int, *, scope: str = "", limit: int = 500) -> list[Change]:
        if after < self.at:
            raise Gone("those changes are no longer kept")
        return []


async def nobody(it: S3Key | BucketServiceAccount) -> tuple[Caller, str]:
    raise AssertionError("no key is held here")


async def test_a_reading_that_broke_off_is_begun_again() -> None:
    store = Forgetful()
    directory = Directory(SystemClock(), lambda sealed, context: sealed, region="se-sto", quotas={})
    follower = Follower(store, directory, nobody)  # type: ignore[arg-type]
    await follower.load()
    assert directory.bucket("films") is not None and follower.revision == 100
    store.at, store.broken = 200, Bucket.kind
    with pytest.raises(Retry):
        await follower.look()
    assert directory.bucket("films") is None and follower.revision == 100, "half of it is not all of it"
    store.broken = ""
    await follower.look()
    assert directory.bucket("films") is not None and follower.revision == 200
    before = store.listed
    await follower.look()
    assert store.listed == before, "what changed is known: nothing is read again"
