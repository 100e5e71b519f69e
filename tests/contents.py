"""What buckets hold, made up: for tests of the control plane, in which nobody serves S3."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from hansa.engines.ports import Upload
from hansa.errors import Refused
from hansa.objectindex.nothing import NothingStored
from hansa.objectindex.records import Held, Version


@dataclass
class MemoryContents(NothingStored):
    by_bucket: dict[str, Held] = field(default_factory=dict)  # by uid
    closed: set[str] = field(default_factory=set)
    objects: dict[tuple[str, str], Version] = field(default_factory=dict)  # by uid and key, the only version of each

    async def get(self, bucket: str, key: str, id: str = "") -> Version | None:
        found = self.objects.get((bucket, key))
        return found if found is not None and id in ("", found.id) else None

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


class Uploads:
    """Uploads in memory, by key, for engines under test."""

    def __init__(self, **known: bytes) -> None:
        self.known = dict(known)

    async def read(self, upload: Upload) -> AsyncGenerator[bytes, None]:
        if upload.key not in self.known:
            raise Refused("ImageUnavailable", "there is no such object")
        content = self.known[upload.key]
        for start in range(0, len(content), 1 << 18):
            yield content[start : start + (1 << 18)]
