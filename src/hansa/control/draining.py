"""How a bucket that goes with its project is emptied: a page of versions a pass, round after round, past what locks keep.

Each pass goes on behind the last version that was found locked; all before it is locked or gone. Where a round stands is
known to this process alone: one that does not know it begins the round again and loses nothing but time.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial

from hansa.control.world import Contents
from hansa.errors import Conflict
from hansa.objectindex.records import Version

DRAIN_MAX = 500  # versions that one pass looks at, and uploads that it ends
ROUNDS_MAX = 1000  # buckets whose place is remembered, the latest


@dataclass(frozen=True, slots=True)
class Drained:
    """After a pass: how many versions of this round are locked so far, and whether the round is over."""

    locked: int
    over: bool


@dataclass(frozen=True, slots=True)
class _Place:
    """Behind this version; at the beginning with an empty key."""

    key: str = ""
    id: str = ""
    locked: int = 0


class Draining:
    def __init__(self) -> None:
        self._places: OrderedDict[str, _Place] = OrderedDict()

    async def drain(self, index: Contents, bucket: str, project: str, now: float) -> Drained:
        """One pass. `bucket` is a uid, `now` the time by which locks are judged. A lock holds against everybody."""
        place = self._places.pop(bucket, _Place())
        page = await index.list_versions(bucket, after=place.key, after_id=place.id, limit=DRAIN_MAX)
        for version in page.versions:
            try:
                await index.remove(bucket, version.key, version.id, project=project, check=partial(_unlocked, now))
            except Conflict:
                place = _Place(version.key, version.id, place.locked + 1)
        uploads = await index.uploads(bucket, limit=DRAIN_MAX)
        for upload in uploads.uploads:
            await index.abort(bucket, upload.id, project=project)
        if page.truncated:
            self._remember(bucket, place)
        return Drained(place.locked, not (page.truncated or uploads.truncated))

    def _remember(self, bucket: str, place: _Place) -> None:
        self._places[bucket] = place
        if len(self._places) > ROUNDS_MAX:
            self._places.popitem(last=False)


def _unlocked(now: float, version: Version | None) -> None:
    """Raises Conflict for a version that a lock keeps at `now`."""
    if version is not None and (version.facts.lock.hold or version.facts.lock.until > now):
        raise Conflict(f"{version.key} is locked")
