"""What the steps ask of an open transaction, and how one that costs nothing to ask answers: statement by statement.

The two questions of a publish, `look` and `make`, are each one round trip where a server has to be asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from hansa.objectindex import documents
from hansa.objectindex import statements as sql
from hansa.objectindex.order import Row
from hansa.objectindex.records import NULL, Held
from hansa.store.locks import number


@dataclass(frozen=True, slots=True)
class Project:
    """Whose limit is to hold until the transaction ends: beside other small writes, or `alone`."""

    uid: str
    alone: bool

    @property
    def name(self) -> int:
        return number("s3 project", self.uid)


@dataclass(frozen=True, slots=True)
class Looked:
    """What there is before a version is made: rows of the latest version and of the null version (the same, where it
    is the latest), and what the project holds when that was asked."""

    closed: bool
    latest: Row | None
    null: Row | None
    held: Held


@dataclass(frozen=True, slots=True)
class Counts:
    """What a write adds to those of a bucket and its project."""

    bytes: int = 0
    versions: int = 0
    current: int = 0
    upload_bytes: int = 0
    uploads: int = 0


@dataclass(frozen=True, slots=True)
class Freed:
    """Bytes that nothing points at any more: rows of inline bytes, and blobs."""

    refs: tuple[int, ...] = ()
    blobs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Make:
    """A version to insert, and all that goes with it. `replaced`: the order of the version it replaces for good;
    `demoted`: of the one that is no longer the latest. `inline`, `used`: bytes and blobs that are new to the index."""

    bucket: str
    key: bytes
    id: str
    marker: bool
    size: int
    etag: str
    modified: float
    shown: str
    facts: str
    ref: int | None
    project: str
    counts: Counts
    now: float
    replaced: int | None = None
    demoted: int | None = None
    freed: Freed = Freed()
    inline: tuple[tuple[int, bytes], ...] = ()
    used: tuple[str, ...] = ()


class Transaction(Protocol):
    async def all(self, statement: str, **parameters: Any) -> Sequence[Row]: ...

    async def many(self, statement: str, rows: Sequence[dict[str, Any]]) -> None: ...

    async def look(self, bucket: str, key: bytes, project: Project | None) -> Looked: ...

    async def room(self, project: Project) -> Held:
        """What a project holds, which stays so as far as `project` says."""
        ...

    async def keep(self, inline: Sequence[tuple[int, bytes]]) -> None:
        """Bytes that are to lie inline, by their numbers. Raises Exhausted where they would lie in a disk's reserve."""
        ...

    async def make(self, new: Make) -> int:
        """The order of the new version."""
        ...

    async def count(self, bucket: str, key: bytes, project: str, counts: Counts) -> None: ...


# -- statement by statement ---------------------------------------------------------------------


async def look(tx: Transaction, bucket: str, key: bytes, project: Project | None) -> Looked:
    closed = bool(await tx.all(sql.CLOSED, bucket=bucket))
    latest = _first(await tx.all(sql.LATEST, bucket=bucket, key=key))
    is_null = latest is None or latest[5] == NULL
    null = latest if is_null else _first(await tx.all(sql.BY_ID, bucket=bucket, key=key, id=NULL))
    return Looked(closed, latest, null, Held() if project is None else await tx.room(project))


async def make(tx: Transaction, new: Make) -> int:
    if new.replaced is not None:
        await tx.all(sql.DELETE, ord=new.replaced)
    if new.demoted is not None:
        await tx.all(sql.SET_LATEST, ord=new.demoted, latest=0)
    await free(tx, new.freed, new.now)
    if new.inline:
        await tx.keep(new.inline)
    if new.used:
        await tx.many(sql.USE_BLOB, [{"blob": blob} for blob in new.used])
    rows = await tx.all(
        sql.INSERT, bucket=new.bucket, key=new.key, id=new.id, marker=int(new.marker), size=new.size, etag=new.etag,
        modified=new.modified, shown=new.shown, facts=new.facts, ref=new.ref,
    )  # fmt: skip
    await tx.count(new.bucket, new.key, new.project, new.counts)
    return int(rows[0][0])


async def keep(tx: Transaction, inline: Sequence[tuple[int, bytes]]) -> None:
    await tx.many(sql.INSERT_INLINE, [{"ref": ref, "body": body} for ref, body in inline])


async def free(tx: Transaction, freed: Freed, now: float) -> None:
    """Inline bytes go at once; blobs become garbage."""
    if freed.refs:
        await tx.many(sql.DELETE_INLINE, [{"ref": ref} for ref in freed.refs])
    if freed.blobs:
        await tx.many(sql.SET_GARBAGE, [{"blob": blob, "since": now} for blob in freed.blobs])


async def held(tx: Transaction, owner: str) -> Held:
    return Held(*(int(count) for count in (await tx.all(sql.HELD, owner=owner))[0]))


async def held_together(tx: Transaction, projects: Sequence[str]) -> Held:
    """What they hold in all. It stays so as far as whoever asks has taken the name of them all (`Together.of`)."""
    owners = documents.text([project_owner(project) for project in projects])
    return Held(*(int(count) for count in (await tx.all(sql.HELD_TOGETHER, owners=owners))[0]))


async def count(tx: Transaction, bucket: str, project: str, counts: Counts, slot: int) -> None:
    await tx.all(
        sql.COUNT, bucket=bucket_owner(bucket), project=project_owner(project), slot=slot, bytes=counts.bytes,
        versions=counts.versions, current=counts.current, upload_bytes=counts.upload_bytes, uploads=counts.uploads,
    )  # fmt: skip


def bucket_owner(bucket: str) -> str:
    return f"b:{bucket}"


def project_owner(project: str) -> str:
    return f"p:{project}"


def _first(rows: Sequence[Row]) -> Row | None:
    return rows[0] if rows else None
