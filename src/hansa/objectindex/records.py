"""What the object index remembers: versions, uploads, parts, and counts. Plain data, no I/O.

A version is a line of columns that listings and atomic steps need, and `Facts`: everything else that an answer may
show, kept as one JSON document. No key of a user ever becomes a path: bytes lie under blob ids that we make.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

NULL = "null"  # the id of a version that was written while versioning was not enabled


class Versioning(StrEnum):
    """A bucket's state, as at the time of one write."""

    NEVER = "never"
    ENABLED = "enabled"
    SUSPENDED = "suspended"


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of an object in one run: the whole of it, or one part of a multipart upload.

    They lie in the blob `blob`, or sealed in `inline` when they are few. `size` counts plain bytes, `stored` those that
    lie. `sealed_key`: the data key, wrapped, with all that is needed to open it (base64, see `gateways.s3.sealing.segments`);
    empty for bytes that lie as they are.
    """

    size: int
    stored: int
    blob: str = ""
    inline: bytes = b""
    sealed_key: str = ""
    number: int = 1
    etag: str = ""  # hex MD5 of the plain bytes, or opaque
    checksum: str = ""  # base64, of the upload's algorithm


@dataclass(frozen=True, slots=True)
class Checksum:
    """`algorithm` is a name that S3 has for it (CRC64NVME, SHA256); `form` is FULL_OBJECT or COMPOSITE."""

    algorithm: str
    value: str
    form: str = "FULL_OBJECT"


@dataclass(frozen=True, slots=True)
class Encryption:
    """`mode` is AES256, aws:kms or SSE-C. `key` names the key-encryption key (aws:kms). `context` is the caller's own.

    For SSE-C the key is never kept: `mark` recognises it (a salted HMAC, base64), `key_md5` is echoed.
    """

    mode: str
    key: str = ""
    context: str = ""
    mark: str = ""
    key_md5: str = ""


@dataclass(frozen=True, slots=True)
class Lock:
    """`mode` is GOVERNANCE, COMPLIANCE or empty; `until` epoch seconds; `hold` is None where nobody ever set one."""

    mode: str = ""
    until: float = 0.0
    hold: bool | None = None


@dataclass(frozen=True, slots=True)
class AclGrant:
    """`grantee` is a canonical id, or a group's URI; `permission` as S3 spells it."""

    grantee: str
    permission: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What an object is besides its bytes. `headers`: Content-Type and its like, lower-case names, as given."""

    headers: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)  # x-amz-meta-* without the prefix, lower case
    checksum: Checksum | None = None
    encryption: Encryption | None = None
    lock: Lock = Lock()
    tags: tuple[tuple[str, str], ...] = ()
    owner: str = ""  # canonical user id
    owner_name: str = ""
    acl: tuple[AclGrant, ...] = ()
    pieces: tuple[Piece, ...] = ()
    multipart: int = 0  # parts of a multipart upload, 0 for a single PUT
    replication: str = ""  # PENDING, COMPLETED, FAILED, REPLICA
    storage_class: str = ""


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a key, or a delete marker. `order` grows with each write to the index: newest is highest."""

    bucket: str  # uid of the bucket's resource
    key: str
    id: str
    order: int
    latest: bool
    marker: bool
    size: int
    etag: str  # without quotes
    modified: float  # epoch seconds
    facts: Facts = Facts()


@dataclass(frozen=True, slots=True)
class NewVersion:
    """What a write wants to make current. `id` is used where versioning is enabled, else the version is `null`."""

    bucket: str
    key: str
    id: str
    modified: float
    size: int = 0
    etag: str = ""
    facts: Facts = Facts()
    marker: bool = False


@dataclass(frozen=True, slots=True)
class Written:
    """What a write made, and what it put out of sight: the null version that it replaced, or the one that was current."""

    version: Version
    replaced: Version | None = None


@dataclass(frozen=True, slots=True)
class Removed:
    """What a deletion did: a marker laid (`marker`), a version removed for good (`version`), or nothing at all."""

    marker: Version | None = None
    version: Version | None = None


@dataclass(frozen=True, slots=True)
class Upload:
    """A multipart upload in the making. `facts` are those that the object will have, pieces and checksum's value apart."""

    bucket: str
    key: str
    id: str
    started: float
    facts: Facts = Facts()


@dataclass(frozen=True, slots=True)
class Part:
    upload: str
    piece: Piece  # `piece.number` 1 to 10,000
    modified: float


@dataclass(frozen=True, slots=True)
class Listing:
    """One page in key order. `prefixes` are common prefixes; both count against the limit. `next`: empty at the end."""

    versions: tuple[Version, ...] = ()
    prefixes: tuple[str, ...] = ()
    next: str = ""  # the last key or prefix of the page
    next_id: str = ""  # of versions: the last version's id
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class UploadListing:
    uploads: tuple[Upload, ...] = ()
    prefixes: tuple[str, ...] = ()
    next_key: str = ""
    next_id: str = ""
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Held:
    """What a bucket holds: bytes and count of all its versions (markers count as versions of 0 bytes), and of the parts
    of uploads in the making."""

    bytes: int = 0
    versions: int = 0
    current: int = 0  # keys that a plain listing shows
    upload_bytes: int = 0
    uploads: int = 0


@dataclass(frozen=True, slots=True)
class Together:
    """What some projects may hold in all; None: no limit. `of`: whose they are, the same for all who write to them."""

    of: str
    projects: tuple[str, ...]
    bytes: int | None = None
    versions: int | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What a project may hold in all of its buckets; None: no limit. `together`: what it may hold with others."""

    bytes: int | None = None
    versions: int | None = None
    together: Together | None = None


UNLIMITED = Limits()


@dataclass(frozen=True, slots=True)
class Garbage:
    """A blob that nothing points at any more."""

    blob: str
    since: float


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of the outbox: something that another place has to be told (`what`: replicate)."""

    number: int
    bucket: str
    key: str
    id: str
    what: str
    at: float
