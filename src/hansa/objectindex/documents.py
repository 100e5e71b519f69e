"""How facts of versions and pieces are written down: JSON with short names, what is empty left out. Pure.

Inline bytes are not part of it: a piece names the row that has them (`ref`), and a document is read with a mapping
from refs to bytes, or without them where nobody is going to read the object.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import orjson

from hansa.objectindex.records import AclGrant, Checksum, Encryption, Facts, Lock, Piece

NO_REF = 0
_NOTHING: Mapping[int, bytes] = {}


def piece_document(piece: Piece, ref: int = NO_REF) -> list[Any]:
    return [piece.number, piece.size, piece.stored, piece.blob, ref, piece.sealed_key, piece.etag, piece.checksum]


def piece_of(document: Sequence[Any], bodies: Mapping[int, bytes] = _NOTHING) -> Piece:
    number, size, stored, blob, ref, sealed_key, etag, checksum = document
    return Piece(size, stored, blob, bodies.get(ref, b""), sealed_key, number, etag, checksum)


def ref_of(document: Sequence[Any]) -> int:
    """The row of inline bytes, `NO_REF` for a piece that lies in a blob."""
    return int(document[4])


def blob_of(document: Sequence[Any]) -> str:
    return str(document[3])


def facts_document(facts: Facts, pieces: Sequence[list[Any]]) -> dict[str, Any]:
    """`pieces`: documents of the facts' pieces."""
    lock = facts.lock
    document: dict[str, Any] = {
        "h": dict(facts.headers),
        "m": dict(facts.metadata),
        "c": facts.checksum and [facts.checksum.algorithm, facts.checksum.value, facts.checksum.form],
        "e": facts.encryption and _encryption(facts.encryption),
        "l": [lock.mode, lock.until, lock.hold] if lock.mode or lock.hold is not None else None,
        "t": facts.tags,
        "o": facts.owner,
        "w": facts.owner_name,
        "a": [[grant.grantee, grant.permission, grant.name] for grant in facts.acl],
        "p": pieces,
        "n": facts.multipart,
        "r": facts.replication,
        "s": facts.storage_class,
    }
    return {name: value for name, value in document.items() if value}


def _encryption(one: Encryption) -> list[str]:
    return [one.mode, one.key, one.context, one.mark, one.key_md5]


def facts_of(document: Mapping[str, Any], bodies: Mapping[int, bytes] = _NOTHING) -> Facts:
    get = document.get
    checksum, encryption, lock = get("c"), get("e"), get("l")
    return Facts(
        headers=get("h", {}),
        metadata=get("m", {}),
        checksum=Checksum(*checksum) if checksum else None,
        encryption=Encryption(*encryption) if encryption else None,
        lock=Lock(*lock) if lock else _UNLOCKED,
        tags=tuple([(name, value) for name, value in get("t", ())]),
        owner=get("o", ""),
        owner_name=get("w", ""),
        acl=tuple([AclGrant(*grant) for grant in get("a", ())]),
        pieces=tuple([piece_of(piece, bodies) for piece in get("p", ())]),
        multipart=get("n", 0),
        replication=get("r", ""),
        storage_class=get("s", ""),
    )


_UNLOCKED = Lock()


def shown_document(facts: Facts) -> str:
    """What a listing shows: owner, the checksum's algorithm and form, the storage class."""
    checksum = facts.checksum
    words = [facts.owner, facts.owner_name, facts.storage_class]
    return text([*words, checksum.algorithm, checksum.form] if checksum else words)


@lru_cache(maxsize=4096)
def shown_facts(document: str) -> Facts:
    """The facts of a listing, which most objects share."""
    owner, owner_name, storage_class, *checksum = orjson.loads(document)
    algorithm, form = checksum or ("", "")
    return Facts(
        owner=owner, owner_name=owner_name, storage_class=storage_class,
        checksum=Checksum(algorithm, "", form) if algorithm else None,
    )  # fmt: skip


def text(document: Any) -> str:
    return orjson.dumps(document).decode()
