"""What each write of the index means, in statements of one transaction.

A transaction has what it writes to itself (the index takes names for it first), so what it reads of a key or an upload
stays true until it commits. Nothing here knows which database it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson

from hansa.errors import Conflict, Full, HansaError, NotFound
from hansa.objectindex import documents
from hansa.objectindex import statements as sql
from hansa.objectindex.order import Row
from hansa.objectindex.port import Change, Check, Tells
from hansa.objectindex.reading import bare, version_of
from hansa.objectindex.records import (
    NULL,
    UNLIMITED,
    Held,
    Limits,
    NewVersion,
    Part,
    Piece,
    Removed,
    Together,
    Upload,
    Version,
    Versioning,
    Written,
)
from hansa.objectindex.transaction import (
    Counts,
    Freed,
    Make,
    Project,
    Transaction,
    bucket_owner,
    free,
    held_together,
)

COMPLETED_S: Final = 3600.0
# Where many write side by side, what is small counts against a limit beside others, as long as so many of them could
# not spend what is left. What is larger, and everything near the limit, counts one after the other.
SMALL: Final = 1 << 20
SIDE_BY_SIDE: Final = 512
NOTHING: Final = Counts()


@dataclass(frozen=True, slots=True)
class Asked:
    """What every write says: of which key, whose it is, when, and how much the project may hold. `new_ref` numbers
    rows of inline bytes; `alone`: count against the limits alone, whatever the size."""

    bucket: str
    key: bytes
    project: str
    now: float
    new_ref: Callable[[], int]
    limits: Limits = UNLIMITED
    check: Check | None = None
    events: Sequence[str] = ()
    alone: bool = False

    def project_for(self, more_bytes: int) -> Project | None:
        """The project whose limits are to hold while so many bytes are added; None: nothing can be passed."""
        if self.limits.bytes is None and self.limits.versions is None:
            return None
        return Project(self.project, self.counts_alone(more_bytes))

    def counts_alone(self, more_bytes: int) -> bool:
        """Whether a write of so many bytes is counted against limits while no other is."""
        return self.alone or more_bytes > SMALL


class Nearly(HansaError):
    """A small write cannot count beside others, so near is the limit: it has to be done again, alone."""


# -- versions -----------------------------------------------------------------------------------


async def publish(tx: Transaction, asked: Asked, new: NewVersion, versioning: Versioning) -> Written:
    return await _make(tx, asked, new, versioning)


async def lay_marker(tx: Transaction, asked: Asked, new: NewVersion, versioning: Versioning) -> Removed:
    if versioning is Versioning.NEVER:
        current = await _row(tx, sql.LATEST, asked)
        if current is None or current[5] == NULL:
            return await _remove(tx, asked, current)
        versioning = Versioning.ENABLED  # since this caller looked: what has versions is not removed for good
    made = await _make(tx, asked, new, versioning)
    gone = made.replaced if versioning is Versioning.SUSPENDED else None
    return Removed(made.version, gone if gone is not None and gone.id == NULL else None)


async def remove(tx: Transaction, asked: Asked, id: str) -> Removed:
    return await _remove(tx, asked, await _row(tx, sql.BY_ID, asked, id=id))


async def amend(tx: Transaction, asked: Asked, id: str, change: Change, tells: Tells) -> Version | None:
    row = await _row(tx, sql.BY_ID if id else sql.LATEST, asked, id=id)
    if row is None:
        return None
    old = orjson.loads(row[9])
    facts = change(version_of(row, old))
    refs = [documents.ref_of(piece) for piece in old.get("p", ())]
    assert len(refs) == len(facts.pieces), "bytes are not amended"
    pieces = [documents.piece_document(piece, ref) for piece, ref in zip(facts.pieces, refs, strict=True)]
    document = documents.facts_document(facts, pieces)
    text, shown = documents.text(document), documents.shown_document(facts)
    await tx.all(sql.SET_FACTS, ord=row[1], facts=text, shown=shown)
    made = version_of(row, document)
    await _tell(tx, replace(asked, events=tells(made)), row[5])
    return made


async def _make(
    tx: Transaction, asked: Asked, new: NewVersion, versioning: Versioning, *,
    kept: list[list[Any]] | None = None, beside: Counts = NOTHING,
) -> Written:  # fmt: skip
    """`kept`: documents of the pieces, when the index has them already. `beside`: what else the write counts."""
    project = asked.project_for(new.size)
    looked = await tx.look(asked.bucket, asked.key, project)
    _check_open(looked.closed)
    current = looked.latest
    if asked.check is not None:
        asked.check(_seen(current))
    old = None if versioning is Versioning.ENABLED else looked.null
    counts = Counts(
        new.size - (old[2] if old else 0) + beside.bytes,
        (0 if old else 1) + beside.versions,
        (not new.marker) - _is_shown(current) + beside.current,
        beside.upload_bytes,
        beside.uploads,
    )
    await _check_limits(tx, asked, new.size, looked.held, counts)
    id = new.id if versioning is Versioning.ENABLED else NULL
    order = await tx.make(_made(asked, new, id, current, old, kept, counts))
    await _tell(tx, asked, id)
    made = Version(new.bucket, new.key, id, order, True, new.marker, new.size, new.etag, new.modified, new.facts)
    return Written(made, _seen(old or current))


def _made(
    asked: Asked, new: NewVersion, id: str, current: Row | None, old: Row | None, kept: list[list[Any]] | None,
    counts: Counts,
) -> Make:  # fmt: skip
    stored = [_stored(piece, asked.new_ref) for piece in new.facts.pieces] if kept is None else []
    pieces = [one.document for one in stored] if kept is None else kept
    return Make(
        asked.bucket, asked.key, id, new.marker, new.size, new.etag, new.modified, documents.shown_document(new.facts),
        documents.text(documents.facts_document(new.facts, pieces)),
        (documents.ref_of(pieces[0]) or None) if len(pieces) == 1 else None,
        asked.project, counts, asked.now,
        replaced=old[1] if old else None,
        demoted=current[1] if current and (not old or old[1] != current[1]) else None,
        freed=_freed(_pieces(old)) if old else Freed(),
        inline=tuple([one.inline for one in stored if one.inline]),
        used=tuple([one.blob for one in stored if one.blob]),
    )  # fmt: skip


async def _remove(tx: Transaction, asked: Asked, row: Row | None) -> Removed:
    if asked.check is not None:
        asked.check(_seen(row))
    if row is None:
        return Removed()
    await _delete(tx, row, asked.now)
    before = None
    if row[7]:
        before = await _row(tx, sql.BEFORE, asked, ord=row[1])
        if before is not None:
            await tx.all(sql.SET_LATEST, ord=before[1], latest=1)
    current = _is_shown(before) - _is_shown(row) if row[7] else 0
    await _count(tx, asked, Counts(-row[2], -1, current))
    await _tell(tx, asked, row[5])
    return Removed(version=bare(row))


async def _delete(tx: Transaction, row: Row, now: float) -> None:
    await tx.all(sql.DELETE, ord=row[1])
    await free(tx, _freed(_pieces(row)), now)


# -- multipart ----------------------------------------------------------------------------------


async def begin(tx: Transaction, asked: Asked, upload: Upload) -> None:
    _check_open(bool(await tx.all(sql.CLOSED, bucket=asked.bucket)))
    facts = documents.text(documents.facts_document(upload.facts, ()))
    await tx.all(
        sql.INSERT_UPLOAD, id=upload.id, bucket=asked.bucket, key=asked.key, started=upload.started, facts=facts
    )  # fmt: skip
    await _count(tx, asked, Counts(uploads=1))


async def put_part(tx: Transaction, asked: Asked, part: Part) -> bool:
    if not await tx.all(sql.UPLOAD, id=part.upload, bucket=asked.bucket):
        return False
    piece = part.piece
    old = await tx.all(sql.PART, upload=part.upload, number=piece.number)
    counts = Counts(upload_bytes=piece.size - (old[0][2] if old else 0))
    project = asked.project_for(piece.size)
    await _check_limits(tx, asked, piece.size, Held() if project is None else await tx.room(project), counts)
    stored = _stored(piece, asked.new_ref)
    if stored.inline:
        await tx.keep([stored.inline])
    if stored.blob:
        await tx.all(sql.USE_BLOB, blob=stored.blob)
    document = documents.text(stored.document)
    await tx.all(
        sql.SET_PART, upload=part.upload, number=piece.number, size=piece.size, modified=part.modified, piece=document
    )  # fmt: skip
    await free(tx, _freed([orjson.loads(row[0]) for row in old]), asked.now)
    await _count(tx, asked, counts)
    return True


async def complete(
    tx: Transaction, asked: Asked, upload: str, new: NewVersion, versioning: Versioning
) -> Written | None:  # fmt: skip
    if not await tx.all(sql.UPLOAD, id=upload, bucket=asked.bucket):
        return None
    rows = await tx.all(sql.ALL_PARTS, upload=upload)
    stored = {part[0]: part for part in (orjson.loads(row[0]) for row in rows)}
    kept = [_stored_part(stored.pop(piece.number, None), piece) for piece in new.facts.pieces]
    beside = Counts(upload_bytes=-sum(row[2] for row in rows), uploads=-1)
    written = await _make(tx, asked, new, versioning, kept=kept, beside=beside)
    await free(tx, _freed(stored.values()), asked.now)
    await _forget(tx, upload)
    await tx.all(sql.DROP_COMPLETED, since=asked.now - COMPLETED_S)
    await tx.all(
        sql.INSERT_COMPLETED, bucket=asked.bucket, upload=upload, key=asked.key, id=written.version.id, at=asked.now
    )  # fmt: skip
    return written


def _stored_part(stored: list[Any] | None, piece: Piece) -> list[Any]:
    if stored is None or stored[3] != piece.blob or stored[5] != piece.sealed_key:
        raise Conflict(f"part {piece.number} was replaced while the upload was being completed")
    return stored


async def abort(tx: Transaction, asked: Asked, upload: str) -> bool:
    if not await tx.all(sql.UPLOAD, id=upload, bucket=asked.bucket):
        return False
    rows = await tx.all(sql.ALL_PARTS, upload=upload)
    await free(tx, _freed([orjson.loads(row[0]) for row in rows]), asked.now)
    await _forget(tx, upload)
    await _count(tx, asked, Counts(upload_bytes=-sum(row[2] for row in rows), uploads=-1))
    return True


async def _forget(tx: Transaction, upload: str) -> None:
    await tx.all(sql.DELETE_PARTS, upload=upload)
    await tx.all(sql.DELETE_UPLOAD, id=upload)


# -- buckets ------------------------------------------------------------------------------------


async def close_bucket(tx: Transaction, bucket: str, now: float) -> bool:
    if await tx.all(sql.ANYTHING, bucket=bucket):
        return False
    await tx.all(sql.CLOSE, bucket=bucket, at=now)
    await tx.all(sql.DROP_COUNTS, owner=bucket_owner(bucket))
    return True


def _check_open(closed: bool) -> None:
    if closed:
        raise NotFound("the bucket is being deleted")


# -- bytes and counts ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Stored:
    """A piece as it is written down, and what has to be written besides."""

    document: list[Any]
    inline: tuple[int, bytes] | None = None
    blob: str = ""


def _stored(piece: Piece, new_ref: Callable[[], int]) -> _Stored:
    if piece.inline:
        ref = new_ref()
        return _Stored(documents.piece_document(piece, ref), (ref, piece.inline))
    return _Stored(documents.piece_document(piece), None, piece.blob)


def _freed(pieces: Iterable[Sequence[Any]]) -> Freed:
    every = list(pieces)
    refs = tuple([ref for piece in every if (ref := documents.ref_of(piece))])
    return Freed(refs, tuple([blob for piece in every if (blob := documents.blob_of(piece))]))


def _pieces(row: Row) -> Sequence[Sequence[Any]]:
    pieces: Sequence[Sequence[Any]] = orjson.loads(row[9]).get("p", ())
    return pieces


async def _check_limits(tx: Transaction, asked: Asked, size: int, there: Held, counts: Counts) -> None:
    """Of a write of `size` bytes: what the project may hold (`there`: what it does), and what it may with others."""
    alone, together = asked.counts_alone(size), asked.limits.together
    _check_room(asked.limits, _Holder(asked.project, "the project holds", alone), there, counts)
    if together is not None:
        everybody = _Holder(together.of, "the projects of its organisation hold together", alone)
        _check_room(together, everybody, await held_together(tx, together.projects), counts)


@dataclass(frozen=True, slots=True)
class _Holder:
    """Whose limit it is, in words too, and whether nobody else counts against it meanwhile."""

    name: str
    words: str
    alone: bool


def _check_room(limits: Limits | Together, holder: _Holder, there: Held, counts: Counts) -> None:
    """Raises Full when a limit would be passed, or Nearly. What makes less is always allowed."""
    more_bytes, more_versions = counts.bytes + counts.upload_bytes, counts.versions
    left_bytes = _INFINITE if limits.bytes is None else limits.bytes - there.bytes - there.upload_bytes
    left_versions = _INFINITE if limits.versions is None else limits.versions - there.versions
    if more_bytes > max(0, left_bytes):
        raise Full(holder.name, "bytes", f"{holder.words} as many bytes of objects as allowed")
    if more_versions > max(0, left_versions):
        raise Full(holder.name, "versions", f"{holder.words} as many objects as allowed")
    is_far = left_bytes > SIDE_BY_SIDE * SMALL and left_versions > SIDE_BY_SIDE
    if not (is_far or holder.alone) and (more_bytes > 0 or more_versions > 0):
        raise Nearly("near a limit")


_INFINITE: Final = 1 << 62


async def _count(tx: Transaction, asked: Asked, counts: Counts) -> None:
    await tx.count(asked.bucket, asked.key, asked.project, counts)


async def _tell(tx: Transaction, asked: Asked, id: str) -> None:
    for what in asked.events:
        await tx.all(sql.INSERT_EVENT, what=what, bucket=asked.bucket, key=asked.key, id=id, at=asked.now)


# -- rows --------------------------------------------------------------------------------------


def _seen(row: Row | None) -> Version | None:
    return None if row is None else bare(row)


async def _row(tx: Transaction, statement: str, asked: Asked, **more: Any) -> Row | None:
    rows = await tx.all(statement, bucket=asked.bucket, key=asked.key, **more)
    return rows[0] if rows else None


def _is_shown(row: Row | None) -> int:
    """1 when a plain listing shows the key whose latest version this is."""
    return int(row is not None and row[8] == 0)
