"""What the gateways and the control plane may ask of the object index.

Every write is one transaction, durable when it returns. `Check` functions are pure, run inside it, see what is current
there and refuse by raising: what they tested is still true when the write happens. Several processes share one index.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from hansa.objectindex.records import (
    UNLIMITED,
    Event,
    Facts,
    Garbage,
    Held,
    Limits,
    Listing,
    NewVersion,
    Part,
    Removed,
    Upload,
    UploadListing,
    Version,
    Versioning,
    Written,
)

Check = Callable[[Version | None], None]
Change = Callable[[Version], Facts]
Tells = Callable[[Version], Sequence[str]]


def tells_nobody(version: Version) -> Sequence[str]:
    return ()


class ObjectIndex(Protocol):
    """The port. Raises `Retry` when the database does not answer, `Full` when `limits` are spent, `NotFound` for a bucket
    that is closed, and whatever a `Check` raises."""

    # -- objects ----------------------------------------------------------------------------

    async def get(self, bucket: str, key: str, id: str = "") -> Version | None:
        """One version, or the latest (which may be a marker)."""
        ...

    async def publish(
        self, new: NewVersion, versioning: Versioning, *, project: str, limits: Limits = UNLIMITED,
        check: Check | None = None, events: Sequence[str] = (),
    ) -> Written:  # fmt: skip
        """Makes a version current. Blobs of a null version that it replaces become garbage in the same commit; so do
        those of the new one from the outside's view until this commit: they are recorded nowhere before it."""
        ...

    async def lay_marker(
        self, new: NewVersion, versioning: Versioning, *, project: str, check: Check | None = None,
        events: Sequence[str] = (),
    ) -> Removed:  # fmt: skip
        """DELETE without a version id: lays a marker where versioning was ever enabled (a suspended one replaces the
        null version), else removes the null version; an absent key of a bucket without versioning changes nothing."""
        ...

    async def remove(self, bucket: str, key: str, id: str, *, project: str, check: Check | None = None) -> Removed:
        """One version for good; the one before it becomes the latest. `check` sees the version that is to go."""
        ...

    async def amend(
        self, bucket: str, key: str, id: str, change: Change, tells: Tells = tells_nobody
    ) -> Version | None:  # fmt: skip
        """New facts of one version (or of the latest, with an empty id): tags, lock, grants. None: there is none.
        `tells`: what stands in the outbox of the version as it has become, in the same commit."""
        ...

    async def list(
        self, bucket: str, *, prefix: str = "", delimiter: str = "", after: str = "", limit: int = 1000
    ) -> Listing:
        """Current versions, markers left out, in byte order of UTF-8 keys, `after` excluded (all keys below it too when
        it is a common prefix). Seeks over what a common prefix hides. Facts are those that listings show: owner, storage
        class, and the checksum without its value."""
        ...

    async def list_versions(
        self, bucket: str, *, prefix: str = "", delimiter: str = "", after: str = "", after_id: str = "",
        limit: int = 1000,
    ) -> Listing:  # fmt: skip
        """All versions and markers, by key, newest first; facts as in `list`. With `after_id` the page begins behind that
        version of `after` (or with all of `after`, when it is no longer there)."""
        ...

    # -- multipart --------------------------------------------------------------------------

    async def begin(self, upload: Upload, *, project: str) -> None: ...

    async def upload(self, bucket: str, id: str) -> Upload | None: ...

    async def uploads(
        self, bucket: str, *, prefix: str = "", delimiter: str = "", after_key: str = "", after_id: str = "",
        limit: int = 1000,
    ) -> UploadListing:  # fmt: skip
        """By key, then by start."""
        ...

    async def put_part(self, bucket: str, part: Part, *, project: str, limits: Limits = UNLIMITED) -> bool:
        """False: the upload is no longer there (the blob is then the caller's to delete). Replaces one of its number."""
        ...

    async def parts(self, upload: str, *, after: int = 0, limit: int = 1000) -> Sequence[Part]:
        """By number. Bytes that lie inline are left out."""
        ...

    async def complete(
        self, upload: str, new: NewVersion, versioning: Versioning, *, project: str, limits: Limits = UNLIMITED,
        check: Check | None = None, events: Sequence[str] = (),
    ) -> Written | None:  # fmt: skip
        """`publish` of `new` (its pieces are among the upload's parts), the upload gone in the same commit, parts that
        were not used garbage. None: the upload is no longer there. Raises Conflict when a part was replaced meanwhile.
        Its outcome is remembered for an hour."""
        ...

    async def completed(self, bucket: str, upload: str) -> Version | None:
        """What an upload became, for an hour."""
        ...

    async def abort(self, bucket: str, upload: str, *, project: str) -> bool: ...

    # -- buckets ----------------------------------------------------------------------------

    async def close_bucket(self, bucket: str) -> bool:
        """True: it holds nothing (no version, no upload) and takes nothing any more."""
        ...

    async def reopen_bucket(self, bucket: str) -> None: ...

    async def closed_at(self, bucket: str) -> float | None: ...

    async def held(self, bucket: str) -> Held: ...

    async def held_by(self, project: str) -> Held: ...

    # -- keeping house ----------------------------------------------------------------------

    async def garbage(self, *, before: float, limit: int = 500) -> Sequence[Garbage]: ...

    async def reaped(self, blobs: Sequence[str]) -> None: ...

    async def discard(self, blobs: Sequence[str]) -> None:
        """Blobs that were stored and will never be published: garbage from now on."""
        ...

    async def known(self, blobs: Sequence[str]) -> frozenset[str]:
        """Those of them that a version, a part or the garbage list points at."""
        ...

    async def blobs(self, *, after: str = "", limit: int = 1000) -> Sequence[str]:
        """Ids of all blobs in use, in order."""
        ...

    async def walk(self, *, after: tuple[str, str, int] = ("", "", 0), limit: int = 500) -> Sequence[Version]:
        """Every version of every bucket, for the duties that look at all of them (lifecycle, scrub): by bucket and key,
        newest first, behind (bucket, key, order). Bytes that lie inline are left out."""
        ...

    async def events(self, what: str, *, after: int = 0, limit: int = 100) -> Sequence[Event]:
        """Those not yet done, by number. One of a lower number may still appear: begin each round at 0."""
        ...

    async def done(self, numbers: Sequence[int]) -> None: ...

    async def lease(self, name: str, holder: str, seconds: float) -> bool:
        """One duty in one hand: True while `holder` has it."""
        ...

    async def note(self, name: str, value: str | None = None) -> str:
        """A small value that outlives processes: where a walk stands, the clock's floor. Sets it when one is given."""
        ...

    async def floor(self, now: float) -> float:
        """The latest time that this index was ever told and believed: locks do not expire before it says so. It believes
        `now`, unless that is further ahead than time can have passed."""
        ...

    async def close(self) -> None: ...
