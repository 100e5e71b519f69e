"""The port of the object index, over a driver: which names a write takes, and which step it is.

A driver runs transactions (`write`) and reads beside them (`read`). Reads see what is committed and hold nothing.
"""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol, TypeVar

import orjson

from hansa.clock import Clock
from hansa.objectindex import documents, order, steps
from hansa.objectindex import statements as sql
from hansa.objectindex.order import Fetch, Found, Row, encoded, next_key, successor
from hansa.objectindex.port import Change, Check, Tells, tells_nobody
from hansa.objectindex.reading import Reader, bare, key_name
from hansa.objectindex.records import (
    UNLIMITED,
    Event,
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
from hansa.objectindex.steady import Steady
from hansa.objectindex.steps import Asked, Nearly
from hansa.objectindex.transaction import Transaction, bucket_owner, project_owner
from hansa.store.locks import number

T = TypeVar("T")
Names = Sequence[tuple[int, bool]]  # (name, alone), in rising order
LIST_MAX: Final = 10_000  # entries of one answer, whoever asks
NEWEST: Final = 1 << 62


class Driver(Protocol):
    alone: bool  # transactions come one after the other, and nobody needs names
    batch_min: int  # rows of a listing that one question costs little more than none

    async def read(self, statement: str, **parameters: Any) -> Sequence[Row]: ...

    def stamp(self, name: int) -> int | None:
        """As long as it is the same, nothing has changed that is written under this name alone; None: nobody can say now."""
        ...

    async def rolled(
        self, bucket: str, low: bytes, high: bytes, prefix: bytes, delimiter: bytes, limit: int
    ) -> Sequence[Row] | None:
        """Rows of `LIST` and, without an order, common prefixes, worked out by the database; None: fetch batches."""
        ...

    async def write(self, work: Callable[[Transaction], Awaitable[T]], names: Names = ()) -> T:
        """One transaction, durable when it returns. `work` may run more than once."""
        ...

    async def close(self) -> None: ...


class SqlObjectIndex:
    """`ObjectIndex`. See `open.py`."""

    def __init__(self, driver: Driver, clock: Clock, steady: Steady | None = None) -> None:
        """`steady`: how far the clock is believed; None for one that jumps by right, as in tests."""
        self._driver, self._clock, self._steady = driver, clock, steady
        self._reader = Reader(self._read, driver.stamp)
        self._new_ref = _Refs()

    # -- objects ----------------------------------------------------------------------------

    async def get(self, bucket: str, key: str, id: str = "") -> Version | None:
        return self._reader.at_hand(bucket, key, id) or await self._reader.version(bucket, key, id)

    async def publish(
        self, new: NewVersion, versioning: Versioning, *, project: str, limits: Limits = UNLIMITED,
        check: Check | None = None, events: Sequence[str] = (),
    ) -> Written:  # fmt: skip
        asked = self._asked(new.bucket, encoded(new.key), project, limits, check, events)
        return await self._counted(
            _key(new.bucket, new.key), asked, new.size, lambda tx, asked: steps.publish(tx, asked, new, versioning)
        )

    async def lay_marker(
        self, new: NewVersion, versioning: Versioning, *, project: str, check: Check | None = None,
        events: Sequence[str] = (),
    ) -> Removed:  # fmt: skip
        asked = self._asked(new.bucket, encoded(new.key), project, UNLIMITED, check, events)
        return await self._write(_key(new.bucket, new.key), lambda tx: steps.lay_marker(tx, asked, new, versioning))

    async def remove(self, bucket: str, key: str, id: str, *, project: str, check: Check | None = None) -> Removed:
        if not _may_be(id):
            return Removed()
        asked = self._asked(bucket, encoded(key), project, UNLIMITED, check)
        return await self._write(_key(bucket, key), lambda tx: steps.remove(tx, asked, id))

    async def amend(
        self, bucket: str, key: str, id: str, change: Change, tells: Tells = tells_nobody
    ) -> Version | None:  # fmt: skip
        if not _may_be(id):
            return None
        asked = self._asked(bucket, encoded(key), "")
        return await self._write(_key(bucket, key), lambda tx: steps.amend(tx, asked, id, change, tells))

    async def list(
        self, bucket: str, *, prefix: str = "", delimiter: str = "", after: str = "", limit: int = 1000
    ) -> Listing:
        async def fetch(low: bytes, behind: Row | None, count: int) -> Sequence[Row]:
            low = low if behind is None else next_key(behind[0])
            return await self._read(sql.LIST, bucket=bucket, low=low, high=high, limit=count)

        high = successor(encoded(prefix))
        low = order.first_key(encoded(after), encoded(prefix), encoded(delimiter))
        found = await self._rolled(bucket, low, high, prefix, delimiter, limit) if delimiter else None
        if found is None:
            found = await self._page(fetch, low, None, prefix, delimiter, limit)
        shown = documents.shown_facts
        versions = [
            Version(bucket, key.decode(), id, ord, True, False, size, etag, modified, shown(facts))
            for key, ord, size, etag, modified, id, facts in found.rows
        ]
        return Listing(tuple(versions), tuple(found.prefixes), found.last.decode(), "", found.truncated)

    async def _rolled(
        self, bucket: str, low: bytes, high: bytes, prefix: str, delimiter: str, limit: int
    ) -> Found | None:
        most = min(limit, LIST_MAX)
        rows = await self._driver.rolled(
            bucket, low, high, encoded(prefix), encoded(delimiter), most + 1 if most else 0
        )
        return None if rows is None else order.rolled(rows, most)

    async def list_versions(
        self, bucket: str, *, prefix: str = "", delimiter: str = "", after: str = "", after_id: str = "",
        limit: int = 1000,
    ) -> Listing:  # fmt: skip
        fetch = self._fetching(sql.VERSIONS, sql.VERSIONS_OF, ("key", "ord"), bucket, successor(encoded(prefix)))
        low, behind = order.first_key(encoded(after), encoded(prefix), encoded(delimiter)), None
        if after_id and low == next_key(encoded(after)):
            at = await self._read(sql.ORDER_OF, bucket=bucket, key=encoded(after), id=after_id)
            behind = (encoded(after), at[0][0] if at else NEWEST)
        found = await self._page(fetch, low, behind, prefix, delimiter, limit)
        shown = documents.shown_facts
        versions = [
            Version(bucket, key.decode(), id, ord, latest == 1, marker == 1, size, etag, modified, shown(facts))
            for key, ord, size, etag, modified, id, facts, latest, marker in found.rows
        ]
        last_id = found.last_row[5] if found.last_row is not None else ""
        return Listing(tuple(versions), tuple(found.prefixes), found.last.decode(), last_id, found.truncated)

    def _fetching(self, every: str, of_key: str, place: Sequence[str], bucket: str, high: bytes) -> Fetch:
        """Of a listing with several rows a key: what follows a row in its key (`of_key`, behind the row's first columns,
        named by `place`), then what follows its key."""

        async def fetch(low: bytes, behind: Row | None, count: int) -> Sequence[Row]:
            rows: list[Row] = []
            if behind is not None:
                named = dict(zip(place, behind, strict=False))
                rows += await self._read(of_key, bucket=bucket, limit=count, **named)
                low = next_key(behind[0])
            if len(rows) < count:
                rows += await self._read(every, bucket=bucket, low=low, high=high, limit=count - len(rows))
            return rows

        return fetch

    async def _page(
        self, fetch: Fetch, low: bytes, behind: Row | None, prefix: str, delimiter: str, limit: int
    ) -> Found:
        return await order.page(
            fetch, low, behind, prefix=encoded(prefix), delimiter=encoded(delimiter), limit=min(limit, LIST_MAX),
            batch_min=self._driver.batch_min,
        )  # fmt: skip

    # -- multipart --------------------------------------------------------------------------

    async def begin(self, upload: Upload, *, project: str) -> None:
        asked = self._asked(upload.bucket, encoded(upload.key), project)
        await self._write([(_bucket(upload.bucket), False)], lambda tx: steps.begin(tx, asked, upload))

    async def upload(self, bucket: str, id: str) -> Upload | None:
        rows = await self._read(sql.UPLOAD, bucket=bucket, id=id)
        return _upload_of(rows[0]) if rows else None

    async def uploads(
        self, bucket: str, *, prefix: str = "", delimiter: str = "", after_key: str = "", after_id: str = "",
        limit: int = 1000,
    ) -> UploadListing:  # fmt: skip
        fetch = self._fetching(
            sql.UPLOADS, sql.UPLOADS_OF, ("key", "started", "id"), bucket, successor(encoded(prefix))
        )  # fmt: skip
        low, behind = order.first_key(encoded(after_key), encoded(prefix), encoded(delimiter)), None
        if after_id and low == next_key(encoded(after_key)):
            at = await self._read(sql.UPLOAD, bucket=bucket, id=after_id)
            behind = (encoded(after_key), at[0][1] if at else 0.0, after_id if at else "")
        found = await self._page(fetch, low, behind, prefix, delimiter, limit)
        uploads = tuple([_upload_of(row) for row in found.rows])
        last_id = found.last_row[2] if found.last_row is not None else ""
        return UploadListing(uploads, tuple(found.prefixes), found.last.decode(), last_id, found.truncated)

    async def put_part(self, bucket: str, part: Part, *, project: str, limits: Limits = UNLIMITED) -> bool:
        if not _may_be(part.upload):
            return False
        asked = self._asked(bucket, f"{part.upload}/{part.piece.number}".encode(), project, limits)
        names = [(_upload(part.upload), False), (number("s3 part", part.upload, str(part.piece.number)), True)]
        return await self._counted(names, asked, part.piece.size, lambda tx, asked: steps.put_part(tx, asked, part))

    async def parts(self, upload: str, *, after: int = 0, limit: int = 1000) -> Sequence[Part]:
        rows = await self._read(sql.PARTS, upload=upload, after=after, limit=min(limit, LIST_MAX))
        return [Part(upload, documents.piece_of(orjson.loads(piece)), modified) for piece, modified, _ in rows]

    async def complete(
        self, upload: str, new: NewVersion, versioning: Versioning, *, project: str, limits: Limits = UNLIMITED,
        check: Check | None = None, events: Sequence[str] = (),
    ) -> Written | None:  # fmt: skip
        asked = self._asked(new.bucket, encoded(new.key), project, limits, check, events)
        if not _may_be(upload):
            return None
        names = [*_key(new.bucket, new.key), (_upload(upload), True)]
        return await self._counted(
            names, asked, new.size, lambda tx, asked: steps.complete(tx, asked, upload, new, versioning)
        )

    async def completed(self, bucket: str, upload: str) -> Version | None:
        since = self._clock.now() - steps.COMPLETED_S
        rows = await self._read(sql.COMPLETED, bucket=bucket, upload=upload, since=since)
        return await self.get(bucket, rows[0][0].decode(), rows[0][1]) if rows else None

    async def abort(self, bucket: str, upload: str, *, project: str) -> bool:
        if not _may_be(upload):
            return False
        asked = self._asked(bucket, upload.encode(), project)
        return await self._write([(_upload(upload), True)], lambda tx: steps.abort(tx, asked, upload))

    # -- buckets ----------------------------------------------------------------------------

    async def close_bucket(self, bucket: str) -> bool:
        now = self._clock.now()
        return await self._write([(_bucket(bucket), True)], lambda tx: steps.close_bucket(tx, bucket, now))

    async def reopen_bucket(self, bucket: str) -> None:
        await self._write([(_bucket(bucket), True)], lambda tx: tx.all(sql.REOPEN, bucket=bucket))

    async def closed_at(self, bucket: str) -> float | None:
        rows = await self._read(sql.CLOSED, bucket=bucket)
        return float(rows[0][0]) if rows else None

    async def held(self, bucket: str) -> Held:
        return await self._held(bucket_owner(bucket))

    async def held_by(self, project: str) -> Held:
        return await self._held(project_owner(project))

    async def _read(self, statement: str, **parameters: Any) -> Sequence[Row]:
        for value in parameters.values():
            if isinstance(value, str) and not _may_be(value):
                return []
        return await self._driver.read(statement, **parameters)

    async def _held(self, owner: str) -> Held:
        return Held(*[int(count) for count in (await self._read(sql.HELD, owner=owner))[0]])

    # -- keeping house ----------------------------------------------------------------------

    async def garbage(self, *, before: float, limit: int = 500) -> Sequence[Garbage]:
        return [Garbage(*row) for row in await self._read(sql.GARBAGE, before=before, limit=limit)]

    async def reaped(self, blobs: Sequence[str]) -> None:
        await self._write((), lambda tx: tx.many(sql.REAPED, [{"blob": blob} for blob in sorted(blobs)]))

    async def discard(self, blobs: Sequence[str]) -> None:
        rows = [{"blob": blob, "since": self._clock.now()} for blob in sorted(blobs)]
        await self._write((), lambda tx: tx.many(sql.DISCARD_BLOB, rows))

    async def known(self, blobs: Sequence[str]) -> frozenset[str]:
        rows = await self._read(sql.KNOWN, blobs=documents.text(list(blobs)))
        return frozenset([row[0] for row in rows])

    async def blobs(self, *, after: str = "", limit: int = 1000) -> Sequence[str]:
        rows = await self._read(sql.BLOBS, after=after, limit=min(limit, LIST_MAX))
        return [row[0] for row in rows]

    async def walk(self, *, after: tuple[str, str, int] = ("", "", 0), limit: int = 500) -> Sequence[Version]:
        bucket, key, ord = after
        place = {"bucket": bucket, "key": encoded(key)}
        rows: list[Row] = list(await self._read(sql.WALK_KEY, ord=ord, limit=limit, **place)) if bucket else []
        if len(rows) < limit:
            rows += await self._read(sql.WALK, limit=limit - len(rows), **place)
        return [bare(row) for row in rows]

    async def events(self, what: str, *, after: int = 0, limit: int = 100) -> Sequence[Event]:
        rows = await self._read(sql.EVENTS, what=what, after=after, limit=limit)
        return [Event(ord, bucket, key.decode(), id, what, at) for ord, bucket, key, id, what, at in rows]

    async def done(self, numbers: Sequence[int]) -> None:
        await self._write((), lambda tx: tx.many(sql.DONE, [{"number": one} for one in sorted(numbers)]))

    async def lease(self, name: str, holder: str, seconds: float) -> bool:
        now = self._clock.now()
        words = {"name": name, "holder": holder, "until": now + seconds, "now": now}
        return bool(await self._write((), lambda tx: tx.all(sql.LEASE, **words)))

    async def note(self, name: str, value: str | None = None) -> str:
        if value is not None:
            await self._write((), lambda tx: tx.all(sql.SET_NOTE, name=name, value=value))
            return value
        rows = await self._read(sql.NOTE, name=name)
        return str(rows[0][0]) if rows else ""

    async def floor(self, now: float) -> float:
        now = now if self._steady is None else self._steady.believed(now)
        rows = await self._read(sql.NOTE, name=_FLOOR)
        if rows and float(rows[0][0]) >= now:
            return float(rows[0][0])
        return await self._write([(number("s3 floor"), True)], lambda tx: _raise_floor(tx, now))

    async def close(self) -> None:
        await self._driver.close()

    def _asked(
        self, bucket: str, key: bytes, project: str, limits: Limits = UNLIMITED, check: Check | None = None,
        events: Sequence[str] = (),
    ) -> Asked:  # fmt: skip
        now, alone = self._clock.now(), self._driver.alone
        return Asked(bucket, key, project, now, self._new_ref, limits, check, events, alone)

    async def _counted(
        self, names: Names, asked: Asked, size: int, step: Callable[[Transaction, Asked], Awaitable[T]]
    ) -> T:
        """A write of `size` bytes that limits may refuse: near one of them it counts alone."""
        try:
            return await self._write([*names, *_together(asked, size)], lambda tx: step(tx, asked))
        except Nearly:
            alone = replace(asked, alone=True)
            return await self._write([*names, *_together(alone, size)], lambda tx: step(tx, alone))

    async def _write(self, names: Names, work: Callable[[Transaction], Awaitable[T]]) -> T:
        return await self._driver.write(work, sorted(names))


_FLOOR: Final = "floor"


async def _raise_floor(tx: Transaction, now: float) -> float:
    rows = await tx.all(sql.NOTE, name=_FLOOR)
    latest = max(now, float(rows[0][0]) if rows else now)
    await tx.all(sql.SET_NOTE, name=_FLOOR, value=repr(latest))
    return latest


class _Refs:
    """Numbers of rows of inline bytes, nearly in order: so new rows lie together. Microseconds, and twelve bits that
    keep processes apart; should two of them meet after all, the second write is refused, and tried again."""

    def __init__(self) -> None:
        self._count = itertools.count(secrets.randbits(12))

    def __call__(self) -> int:
        return time.time_ns() // 1000 << 12 | next(self._count) & 0xFFF


def _may_be(id: str) -> bool:
    """Whether something can have this id: all of them are ours, and not every text is one that a database takes."""
    return id.isascii() and "\0" not in id


def _key(bucket: str, key: str) -> list[tuple[int, bool]]:
    """What is written of a bucket that must stay open meanwhile, and of a key by one at a time."""
    return [(_bucket(bucket), False), (key_name(bucket, key), True)]


def _together(asked: Asked, size: int) -> Names:
    """What a limit that is shared keeps apart: its sum stays as it is, or grows by small writes only."""
    together = asked.limits.together
    return [] if together is None else [(number("s3 together", together.of), asked.counts_alone(size))]


def _bucket(bucket: str) -> int:
    return number("s3 bucket", bucket)


def _upload(upload: str) -> int:
    return number("s3 upload", upload)


def _upload_of(row: Row) -> Upload:
    key, started, id, facts, bucket = row
    return Upload(bucket, key.decode(), id, started, documents.facts_of(orjson.loads(facts)))
