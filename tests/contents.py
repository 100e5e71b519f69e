"""What buckets hold, made up: for tests of the control plane, in which nobody serves S3."""

from __future__ import annotations

from dataclasses import dataclass, field

from hansa.objectindex.nothing import NothingStored
from hansa.objectindex.records import Held


@dataclass
class MemoryContents(NothingStored):
    by_bucket: dict[str, Held] = field(default_factory=dict)  # by uid
    closed: set[str] = field(default_factory=set)

    async def close_bucket(self, bucket: str) -> bool:
        held = await self.held(bucket)
        if held.versions or held.uploads:
            return False
        self.closed.add(bucket)
        return True

    async def reopen_bucket(self, bucket: str) -> None:
        self.closed.discard(bucket)

    async def held(self, bucket: str) -> Held:
        return self.by_bucket.get(bucket, Held())
