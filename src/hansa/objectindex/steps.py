"""What each write of the index means, in statements of one transaction.

A transaction has what it writes to itself (the index takes names for it first), so what it reads of a key or an upload
stays true until it commits. Nothing here knows which database it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import orjson

from hansa.errors import Conflict, Full, NotFound, Retry
from hansa.objectindex import documents
from hansa.objectindex import statements as sql
from hansa.objectindex.order import Row
from hansa.objectindex.port import Change, Check
from hansa.objectindex.records import (
    NULL,
    UNLIMITED,
    Held,
    Limits,
    NewVersion,
    Part,
    Piece,
    Removed,
    Upload,
    Version,
    Versioning,
    Written,
)
from hansa.store.locks import number

COMPLETED_S: Final = 3600.0
# Where many write side by side, what is small counts against a limit beside others, as long as so many of them could
# not spend what is left. What is larger, and everything near the limit, counts one after the other.
SMALL: Final = 1 << 20
SIDE_BY_SIDE: Final = 512


class Transaction(Protocol):
    alone: bool  # transactions come one after the other
    slots: int  # rows over which each sum is spread, so that writers need not wait for one another

    async def all(self, statement: str, **parameters: Any) -> Sequence[Row]: ...

    async def many(self, statement: str, rows: Sequence[dict[str, Any]]) -> None: ...

    async def hold(self, name: int, *, alone: bool) -> None:
        """A name until the end of the transaction."""
        ...


@dataclass(frozen=True, slots=True)
class Asked:
    """What every write says: of which key, whose it is, when, and how much the project may hold."""

    bucket: str
    key: bytes
    project: str
    now: float
    limits: Limits = UNLIMITED
    check: Check | None = None
    events: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """What a write adds to the counts."""

    bytes: int = 0
    versions: int = 0
    current: int = 0
    upload_bytes: int = 0
    uploads: int = 0


NOTHING = Delta()


# -- versions -----------------------------------------------------------------------------------


async def publish(tx: Transaction, asked: Asked, new: NewVersion, versioning: Versioning) -> Written:
    return await _make(tx, asked, new, versioning, None, NOTHING)


async def lay_marker(tx: Transaction, asked: Asked, new: NewVersion, versioning: Versioning) -> Removed:
    if versioning is Versioning.NEVER:
        current = await _row(tx, sql.LATEST, asked)
        if current is None or current[5] == NULL:
            return await _remove(tx, asked, current)
        versioning = Versioning.ENABLED  # since this caller looked: what has versions is not removed for good
    made = await _make(tx, asked, new, versioning, None, NOTHING)
    gone = made.replaced if versioning is Versioning.SUSPENDED else None
    return Removed(made.version, gone if gone is not None and gone.id == NULL else None)


async def remove(tx: Transaction, asked: Asked, id: str) -> Removed:
    return await _remove(tx, asked, await _row(tx, sql.BY_ID, asked, id=id))


async def amend(tx: Transaction, asked: Asked, id: str, change: Change) -> Version | None:
    row = await _row(tx, sql.BY_ID if id else sql.LATEST, asked, id=id)
    if row is None:
        return None
    old = orjson.loads(row[9])
    facts = change(version_of(row, old, {}))
    refs = [documents.ref_of(piece) for piece in old.get("p", ())]
    assert len(refs) == len(facts.pieces), "bytes are not amended"
    pieces = [documents.piece_document(piece, ref) for piece, ref in zip(facts.pieces, refs, strict=True)]
    document = documents.facts_document(facts, pieces)
    text, shown = documents.text(document), documents.shown_document(facts)
    await tx.all(sql.SET_FACTS, ord=row[1], facts=text, shown=shown)
    return version_of(row, document, {})


async def _make(
    tx: Transaction, asked: Asked, new: NewVersion, versioning: Versioning, kept: list[list[Any]] | None, beside: Delta
) -> Written:
    """`kept`: documents of the pieces, when the index has them already. `beside`: what else the write counts."""
    await _check_open(tx, asked.bucket)
    current = await _row(tx, sql.LATEST, asked)
    if asked.check is not None:
        asked.check(_seen(current))
    old = None if versioning is Versioning.ENABLED else await _null_version(tx, asked, current)
    delta = Delta(
        new.size - (old[2] if old else 0) + beside.bytes,
        (0 if old else 1) + beside.versions,
        (not new.marker) - _is_shown(current) + beside.current,
        beside.upload_bytes,
        beside.uploads,
    )
    await _check_room(tx, asked, delta)
    if old is not None:
        await _delete(tx, old, asked.now)
    if current is not None and current is not old:
        await tx.all(sql.SET_LATEST, ord=current[1], latest=0)
    made = await _insert(tx, asked, new, NULL if versioning is not Versioning.ENABLED else new.id, kept)
    await _count(tx, asked, delta)
    await _tell(tx, asked, made.id)
    return Written(made, _seen(old or current))


async def _null_version(tx: Transaction, asked: Asked, current: Row | None) -> Row | None:
    if current is None or current[5] == NULL:
        return current
    return await _row(tx, sql.BY_ID, asked, id=NULL)


async def _insert(
    tx: Transaction, asked: Asked, new: NewVersion, id: str, kept: list[list[Any]] | None
) -> Version:  # fmt: skip
    facts = new.facts
    pieces = [await _store_piece(tx, piece) for piece in facts.pieces] if kept is None else kept
    rows = await tx.all(
        sql.INSERT, bucket=asked.bucket, key=asked.key, id=id, marker=int(new.marker), size=new.size, etag=new.etag,
        modified=new.modified, shown=documents.shown_document(facts),
        facts=documents.text(documents.facts_document(facts, pieces)),
        ref=(documents.ref_of(pieces[0]) or None) if len(pieces) == 1 else None,
    )  # fmt: skip
    order = int(rows[0][0])
    return Version(new.bucket, new.key, id, order, True, new.marker, new.size, new.etag, new.modified, facts)


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
    await _count(tx, asked, Delta(-row[2], -1, current))
    await _tell(tx, asked, row[5])
    return Removed(version=bare(row))


async def _delete(tx: Transaction, row: Row, now: float) -> None:
    await tx.all(sql.DELETE, ord=row[1])
    await _free(tx, orjson.loads(row[9]).get("p", ()), now)


# -- multipart ----------------------------------------------------------------------------------


async def begin(tx: Transaction, asked: Asked, upload: Upload) -> None:
    await _check_open(tx, asked.bucket)
    facts = documents.text(documents.facts_document(upload.facts, ()))
    await tx.all(
        sql.INSERT_UPLOAD, id=upload.id, bucket=asked.bucket, key=asked.key, started=upload.started, facts=facts
    )  # fmt: skip
    await _count(tx, asked, Delta(uploads=1))


async def put_part(tx: Transaction, asked: Asked, part: Part) -> bool:
    if not await tx.all(sql.UPLOAD, id=part.upload, bucket=asked.bucket):
        return False
    piece = part.piece
    old = await tx.all(sql.PART, upload=part.upload, number=piece.number)
    delta = Delta(upload_bytes=piece.size - (old[0][2] if old else 0))
    await _check_room(tx, asked, delta)
    document = documents.text(await _store_piece(tx, piece))
    await tx.all(
        sql.SET_PART, upload=part.upload, number=piece.number, size=piece.size, modified=part.modified, piece=document
    )  # fmt: skip
    await _free(tx, [orjson.loads(row[0]) for row in old], asked.now)
    await _count(tx, asked, delta)
    return True


async def complete(
    tx: Transaction, asked: Asked, upload: str, new: NewVersion, versioning: Versioning
) -> Written | None:  # fmt: skip
    if not await tx.all(sql.UPLOAD, id=upload, bucket=asked.bucket):
        return None
    rows = await tx.all(sql.ALL_PARTS, upload=upload)
    stored = {part[0]: part for part in (orjson.loads(row[0]) for row in rows)}
    kept = [_stored_part(stored.pop(piece.number, None), piece) for piece in new.facts.pieces]
    beside = Delta(upload_bytes=-sum(row[2] for row in rows), uploads=-1)
    written = await _make(tx, asked, new, versioning, kept, beside)
    await _free(tx, list(stored.values()), asked.now)
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
    await _free(tx, [orjson.loads(row[0]) for row in rows], asked.now)
    await _forget(tx, upload)
    await _count(tx, asked, Delta(upload_bytes=-sum(row[2] for row in rows), uploads=-1))
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


async def _check_open(tx: Transaction, bucket: str) -> None:
    if await tx.all(sql.CLOSED, bucket=bucket):
        raise NotFound("the bucket is being deleted")


# -- bytes and counts ---------------------------------------------------------------------------


async def _store_piece(tx: Transaction, piece: Piece) -> list[Any]:
    """Its document; its inline bytes, or its blob, are known from now on."""
    if piece.inline:
        rows = await tx.all(sql.INSERT_INLINE, body=piece.inline)
        return documents.piece_document(piece, int(rows[0][0]))
    if piece.blob:
        await tx.all(sql.USE_BLOB, blob=piece.blob)
    return documents.piece_document(piece)


async def _free(tx: Transaction, pieces: Sequence[Sequence[Any]], now: float) -> None:
    """Inline bytes go at once; blobs become garbage."""
    refs = [{"ref": ref} for piece in pieces if (ref := documents.ref_of(piece))]
    blobs = [{"blob": blob, "since": now} for piece in pieces if (blob := documents.blob_of(piece))]
    if refs:
        await tx.many(sql.DELETE_INLINE, refs)
    if blobs:
        await tx.many(sql.SET_GARBAGE, blobs)


async def _check_room(tx: Transaction, asked: Asked, delta: Delta) -> None:
    """Raises Full when a limit of the project would be passed. What makes less is always allowed."""
    more_bytes, limits = delta.bytes + delta.upload_bytes, asked.limits
    if (limits.bytes is None or more_bytes <= 0) and (limits.versions is None or delta.versions <= 0):
        return
    if not tx.alone:
        left = _left(await held(tx, project_owner(asked.project)), limits)
        aside = more_bytes <= SMALL and _is_far(left, 2)
        await tx.hold(number("s3 project", asked.project), alone=not aside)
    left = _left(await held(tx, project_owner(asked.project)), limits)
    if more_bytes > max(0, left[0]):
        raise Full(asked.project, "bytes", "the project holds as many bytes of objects as it may")
    if delta.versions > max(0, left[1]):
        raise Full(asked.project, "versions", "the project holds as many objects as it may")
    if not tx.alone and aside and not _is_far(left, 1):
        raise Retry("the project's count of objects changes too fast; try again")


def _left(there: Held, limits: Limits) -> tuple[float, float]:
    """Bytes and versions that the project may add."""
    return (
        float("inf") if limits.bytes is None else limits.bytes - there.bytes - there.upload_bytes,
        float("inf") if limits.versions is None else limits.versions - there.versions,
    )


def _is_far(left: tuple[float, float], times: int) -> bool:
    return left[0] > times * SIDE_BY_SIDE * SMALL and left[1] > times * SIDE_BY_SIDE


async def held(tx: Transaction, owner: str) -> Held:
    return Held(*(int(count) for count in (await tx.all(sql.HELD, owner=owner))[0]))


async def _count(tx: Transaction, asked: Asked, delta: Delta) -> None:
    slot = number("s3 slot", asked.bucket, asked.key.hex()) % tx.slots if tx.slots > 1 else 0
    await tx.all(
        sql.COUNT, bucket=bucket_owner(asked.bucket), project=project_owner(asked.project), slot=slot,
        bytes=delta.bytes, versions=delta.versions, current=delta.current, upload_bytes=delta.upload_bytes,
        uploads=delta.uploads,
    )  # fmt: skip


def bucket_owner(bucket: str) -> str:
    return f"b:{bucket}"


def project_owner(project: str) -> str:
    return f"p:{project}"


async def _tell(tx: Transaction, asked: Asked, id: str) -> None:
    for what in asked.events:
        await tx.all(sql.INSERT_EVENT, what=what, bucket=asked.bucket, key=asked.key, id=id, at=asked.now)


# -- reading ------------------------------------------------------------------------------------


async def version(tx: Transaction, statement: str, **key: Any) -> Version | None:
    """With the bytes that lie inline: those of a single piece come along with the row."""
    rows = await tx.all(statement, **key)
    if not rows:
        return None
    *row, body = rows[0]
    document = orjson.loads(row[9])
    pieces = document.get("p", ())
    if len(pieces) == 1:
        return version_of(row, document, {documents.ref_of(pieces[0]): body} if body is not None else {})
    refs = [ref for piece in pieces if (ref := documents.ref_of(piece))]
    return version_of(row, document, {ref: (await tx.all(sql.INLINE, ref=ref))[0][0] for ref in refs})


def _seen(row: Row | None) -> Version | None:
    return None if row is None else bare(row)


def bare(row: Row) -> Version:
    """Without the bytes that lie inline."""
    return version_of(row, orjson.loads(row[9]), {})


def version_of(row: Row, document: Mapping[str, Any], bodies: Mapping[int, bytes]) -> Version:
    key, order, size, etag, modified, id, _, latest, marker, _, bucket = row
    facts = documents.facts_of(document, bodies)
    return Version(bucket, key.decode(), id, order, latest == 1, marker == 1, size, etag, modified, facts)


async def _row(tx: Transaction, statement: str, asked: Asked, **more: Any) -> Row | None:
    rows = await tx.all(statement, bucket=asked.bucket, key=asked.key, **more)
    return rows[0] if rows else None


def _is_shown(row: Row | None) -> int:
    """1 when a plain listing shows the key whose latest version this is."""
    return int(row is not None and row[8] == 0)
