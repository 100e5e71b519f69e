"""What a new version is going to be, and the one step that makes it current: shared by PUT, copies, uploads and forms.

Everything that the request says of the object is read before a byte of its body is, so that what is wrong is refused
early. What depends on the object that is there now is looked at inside the step, where nothing can come between.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import urandom

from hansa.gateways.s3.calls.grants import new_object_acl
from hansa.gateways.s3.calls.heads import checksum_headers, kept_headers, metadata, storage_class
from hansa.gateways.s3.calls.intake import Sealing, Taken, settled
from hansa.gateways.s3.calls.permission import TAGGING, allow, allow_laid
from hansa.gateways.s3.gateway import Call
from hansa.gateways.s3.rules import acl, encryptionrules, lifecycle, locks, replication
from hansa.gateways.s3.rules.tagging import tags_in_header
from hansa.gateways.s3.wire.conditions import WriteConditions
from hansa.gateways.s3.wire.errors import S3Error
from hansa.objectindex.port import Check
from hansa.objectindex.records import (
    Checksum,
    Encryption,
    Facts,
    Lock,
    NewVersion,
    Piece,
    Upload,
    Version,
    Versioning,
    Written,
)

VERSION_ID_BYTES = 24


@dataclass(frozen=True, slots=True)
class Draft:
    """Facts without pieces and checksum, and how the bytes are to be sealed."""

    facts: Facts
    sealing: Sealing


async def drafted(call: Call, headers: Mapping[str, str] | None = None) -> Draft:
    """From the headers of the request (or those that stand in for them: the fields of a form).

    Raises what they break: MetadataTooLarge, InvalidTag, InvalidArgument, AccessControlListNotSupported and so on.
    """
    headers = call.request.headers if headers is None else headers
    _allow_laid(call, headers)
    sealing = sealing_of(call, headers)
    await _check_key(call, sealing.encryption)
    owner, grants = new_object_acl(call, headers)
    facts = Facts(
        headers=kept_headers(headers),
        metadata=metadata(headers),
        encryption=sealing.encryption,
        lock=await lock_of(call, headers),
        tags=tags_in_header(headers[TAGGING]) if headers.get(TAGGING) else (),
        owner=owner.id,
        owner_name=owner.name,
        acl=grants,
        storage_class=storage_class(headers),
    )
    return Draft(facts, sealing)


def _allow_laid(call: Call, headers: Mapping[str, str]) -> None:
    """Where ACLs do not count, nothing is laid by one. Raises AccessDenied."""
    if headers.get(TAGGING):
        allow_laid(call, "s3:PutObjectTagging")
    if acl.carries_acl(headers) and call.known.access.ownership is not acl.Ownership.ENFORCED:
        allow_laid(call, "s3:PutObjectAcl")


def sealing_of(call: Call, headers: Mapping[str, str]) -> Sealing:
    wanted = encryptionrules.wanted(headers, call.known.encryption, secure=call.request.secure)
    if not wanted.mode:
        return Sealing()
    key = wanted.customer.key if wanted.customer is not None else None
    return Sealing(wanted.record(urandom(encryptionrules.SALT_BYTES)), key)


async def _check_key(call: Call, encryption: Encryption | None) -> None:
    """The key that is named can be used, before a byte is taken. One that was made, or enabled, just now counts at once.

    Raises S3Error (KMS.…), Retry.
    """
    if encryption is None or not encryption.key:
        return
    directory, project = call.gateway.directory, call.bucket.project
    try:
        directory.key_material(project, encryption.key)
    except S3Error:
        await directory.caught_up()
        directory.key_material(project, encryption.key)


async def lock_of(call: Call, headers: Mapping[str, str]) -> Lock:
    """The lock that the headers ask for, or the bucket's default. Raises AccessDenied, InvalidRequest, InvalidArgument."""
    bucket = call.bucket
    asked = locks.MODE in headers or locks.UNTIL in headers or locks.HOLD in headers
    if not asked and not bucket.locking:
        return Lock()
    if locks.MODE in headers:
        allow(call, action="s3:PutObjectRetention")
    if locks.HOLD in headers:
        allow(call, action="s3:PutObjectLegalHold")
    now = await call.gateway.index.floor(call.now)
    return locks.lock_of_new(headers, call.known.locking, now)


# -- the one step -------------------------------------------------------------------------------


def new_version(
    call: Call, facts: Facts, pieces: Sequence[Piece], *, etag: str, checksum: Checksum | None = None, key: str = ""
) -> NewVersion:  # fmt: skip
    """`checksum`: where the facts do not say it yet."""
    gateway = call.gateway
    return NewVersion(
        bucket=call.bucket.uid,
        key=key or call.key,
        id=new_version_id(),
        modified=gateway.clock.now(),
        size=sum(piece.size for piece in pieces),
        etag=etag,
        facts=replace(facts, pieces=tuple(pieces), checksum=checksum or facts.checksum),
    )


async def publish(call: Call, new: NewVersion, conditions: WriteConditions) -> Written:
    """Makes it current. Raises PreconditionFailed, NoSuchKey, QuotaExceeded, NoSuchBucket, ServiceUnavailable."""
    new, events = replicated(call, new)
    bucket = call.bucket
    return await call.gateway.index.publish(
        new, bucket.versioning, project=bucket.project, limits=call.limits, check=checked(conditions), events=events
    )


async def publish_whole(call: Call, draft: Draft, taken: Taken, conditions: WriteConditions) -> Version:
    """An object of one piece, which goes if the index refuses it. Raises what `publish` raises."""
    piece = taken.piece
    etag = f"{taken.etag}-1" if draft.sealing.opaque else taken.etag  # no MD5, and not to be taken for one
    new = new_version(call, draft.facts, (piece,), etag=etag, checksum=taken.checksum)
    return (await settled(call, piece, publish(call, new, conditions))).version


async def complete(call: Call, upload: Upload, new: NewVersion, conditions: WriteConditions) -> Written | None:
    """The same for an upload, which ends with it. None: it is no longer there."""
    new, events = replicated(call, new)
    bucket = call.bucket
    return await call.gateway.index.complete(
        upload.id, new, bucket.versioning, project=bucket.project, limits=call.limits, check=checked(conditions),
        events=events,
    )  # fmt: skip


def checked(conditions: WriteConditions) -> Check | None:
    """What the index asks about the version that is current when it writes: a marker counts as nothing."""
    if not conditions.any:
        return None

    def check(current: Version | None) -> None:
        conditions.check(None if current is None or current.marker else current.etag)

    return check


def replicated(call: Call, new: NewVersion) -> tuple[NewVersion, tuple[str, ...]]:
    """A version that a replication rule takes is marked so, and stands in the outbox in the same commit."""
    found = call.known.replication
    if found is None or not (status := replication.status_of_new(found.rules, _foreseen(new))):
        return new, ()
    return replace(new, facts=replace(new.facts, replication=status)), (replication.EVENT,)


def _foreseen(new: NewVersion) -> Version:
    """The version that it will be, as far as rules look at it."""
    return Version(new.bucket, new.key, new.id, 0, True, new.marker, new.size, new.etag, new.modified, new.facts)


def new_version_id() -> str:
    return base64.urlsafe_b64encode(urandom(VERSION_ID_BYTES)).decode()


def written_headers(call: Call, version: Version) -> dict[str, str]:
    """What a writer is told of what was written."""
    facts = version.facts
    found = {"etag": f'"{version.etag}"'}
    if call.bucket.versioning is Versioning.ENABLED:
        found["x-amz-version-id"] = version.id
    found |= checksum_headers(facts.checksum) | encryptionrules.headers_of(facts.encryption)
    return found | expiration(call, version)


def expiration(call: Call, version: Version) -> dict[str, str]:
    rules = call.known.lifecycle
    return lifecycle.expiration_header(rules, version) if rules else {}
