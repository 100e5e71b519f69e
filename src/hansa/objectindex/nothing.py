"""An index in which nothing can be stored: for clouds and tests without object storage."""

from __future__ import annotations

from hansa.errors import NotFound
from hansa.objectindex.port import Check
from hansa.objectindex.records import Held, Listing, Removed, UploadListing, Version


class NothingStored:
    """What the control plane asks of the index, of buckets that are all empty."""

    async def close_bucket(self, bucket: str) -> bool:
        return True

    async def reopen_bucket(self, bucket: str) -> None:
        return

    async def get(self, bucket: str, key: str, id: str = "") -> Version | None:
        return None

    async def held(self, bucket: str) -> Held:
        return Held()

    async def held_by(self, project: str) -> Held:
        return Held()

    async def list_versions(self, bucket: str, *, after: str = "", after_id: str = "", limit: int = 1000) -> Listing:
        return Listing()

    async def remove(self, bucket: str, key: str, id: str, *, project: str, check: Check | None = None) -> Removed:
        raise NotFound(f"there is no version {id} of {key}")

    async def uploads(self, bucket: str, *, limit: int = 1000) -> UploadListing:
        return UploadListing()

    async def abort(self, bucket: str, upload: str, *, project: str) -> bool:
        return False

    async def floor(self, now: float) -> float:
        return now
