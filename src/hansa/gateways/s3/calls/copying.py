"""Copies inside the cloud: an object from an object, or a part of an upload from a range of one.

The bytes are read and sealed anew, since a sealed piece opens only where it belongs. A copy that takes long is answered
before it is done, with blanks that keep the connection open and the outcome, good or bad, in the body: clients know that.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace

from hansa.errors import HansaError
from hansa.gateways.s3.answers import XML, Answer
from hansa.gateways.s3.answers import xml as xml_answer
from hansa.gateways.s3.calls.heads import REDIRECT
from hansa.gateways.s3.calls.intake import OBJECT_BYTES_MAX, Sealing, Taken, new_writer, stored, taken
from hansa.gateways.s3.calls.listing import open_upload
from hansa.gateways.s3.calls.lookup import bucket_named, check_owner, seen
from hansa.gateways.s3.calls.multipart import keep_part, part_algorithm, part_number, part_sealing
from hansa.gateways.s3.calls.permission import allow, allow_laid, allow_move
from hansa.gateways.s3.calls.reading import there
from hansa.gateways.s3.calls.writing import drafted, publish_whole, written_headers
from hansa.gateways.s3.gateway import Call
from hansa.gateways.s3.refusals import translated
from hansa.gateways.s3.rules import encryptionrules
from hansa.gateways.s3.wire import checksums, xml
from hansa.gateways.s3.wire.checksums import Digests
from hansa.gateways.s3.wire.conditions import WriteConditions, check_copy_source
from hansa.gateways.s3.wire.errors import S3Error
from hansa.gateways.s3.wire.names import read_copy_source
from hansa.gateways.s3.wire.operations import OPERATIONS
from hansa.gateways.s3.wire.ranges import Span, read_copy_range
from hansa.objectindex.records import Facts, Version, Versioning

SOURCE = "x-amz-copy-source"
SOURCE_OWNER = "x-amz-source-expected-bucket-owner"
METADATA_DIRECTIVE = "x-amz-metadata-directive"
TAGGING_DIRECTIVE = "x-amz-tagging-directive"
Copied = tuple[bytes, dict[str, str]]  # the document, and headers that go with it

PATIENCE_S = 3.0  # for how long a copy is waited for before blanks are sent
BLANK_S = 5.0
# What makes a copy of an object onto itself a change.
_CHANGES = ("x-amz-storage-class", REDIRECT, "x-amz-server-side-encryption")


@dataclass(frozen=True, slots=True)
class Source:
    """What is copied: `call` reads it as a GET of its own would. `key` is the customer's, where it is sealed with one."""

    call: Call
    version: Version
    key: bytes | None


async def copy_object(call: Call) -> Answer:
    allow(call)
    headers = call.request.headers
    conditions = WriteConditions.read(headers)
    replaces, retags = _directive(headers, METADATA_DIRECTIVE), _directive(headers, TAGGING_DIRECTIVE)
    wish = checksums.read_wish(headers)
    source = await read_source(call)
    version = source.version
    if version.size > OBJECT_BYTES_MAX:
        raise S3Error.of("InvalidRequest", "An object of more than 5 GiB is copied in parts.")
    if _onto_itself(call, source) and not replaces and not any(name in headers for name in _CHANGES):
        raise S3Error.of(
            "InvalidRequest", "A copy of an object onto itself must change its metadata or its encryption."
        )
    draft = await drafted(call)
    if not retags:
        _allow_tags(call, source)
    facts = _facts(draft.facts, version.facts, replaces=replaces, tags=retags)
    draft = replace(draft, facts=facts)
    algorithm = wish or _algorithm(version)

    async def copied() -> Copied:
        poured = await pour(call, source, Span(0, version.size), draft.sealing, algorithm)
        written = await publish_whole(call, draft, poured, conditions)
        told = written_headers(call, written)
        for name in ("etag", *checksums.HEADERS.values(), "x-amz-checksum-type"):
            told.pop(name, None)
        return _outcome("CopyObjectResult", written.etag, written.modified, poured), told

    return await _patient(call, copied, _source_header(source))


async def copy_part(call: Call) -> Answer:
    allow(call)
    number = part_number(call)
    upload = await open_upload(call)
    source = await read_source(call)
    wish = call.request.headers.get("x-amz-copy-source-range")
    size = source.version.size
    span = read_copy_range(wish, size) if wish is not None else Span(0, size)
    if span.length > OBJECT_BYTES_MAX:
        raise S3Error.of("EntityTooLarge", MaxSizeAllowed=OBJECT_BYTES_MAX)
    sealing = part_sealing(call, upload)
    algorithm, _ = part_algorithm(upload)

    async def copied() -> Copied:
        poured = await pour(call, source, span, sealing, algorithm, number=number)
        await keep_part(call, upload, poured)
        outcome = _outcome("CopyPartResult", poured.etag, call.gateway.clock.now(), poured)
        return outcome, encryptionrules.headers_of(sealing.encryption)

    return await _patient(call, copied, _source_header(source))


# -- where from ---------------------------------------------------------------------------------


async def read_source(call: Call) -> Source:
    """Raises NoSuchBucket, NoSuchKey, AccessDenied as a read would, PreconditionFailed, InvalidArgument."""
    named = read_copy_source(call.request.headers[SOURCE])
    gateway, request = call.gateway, call.request
    view = await bucket_named(call, named.bucket)
    if view is None:
        raise S3Error.of("NoSuchBucket", BucketName=named.bucket)
    fields: Mapping[str, str] = {"versionId": named.version_id} if named.version_id else {}
    asked = replace(request, method="GET", bucket=named.bucket, key=named.key, fields=fields)
    reading = Call(gateway, asked, OPERATIONS["GetObject"], call.now, call.signed, view)
    version = await seen(reading)
    check_owner(view, request.headers.get(SOURCE_OWNER))
    allow_move(call, view)
    check_copy_source(request.headers, version.etag, version.modified)
    given = encryptionrules.check_reader(version.facts.encryption, request.headers, secure=request.secure, source=True)
    return Source(reading, version, given.key if given is not None else None)


def _allow_tags(call: Call, source: Source) -> None:
    """Tags come along to who may read them there and lay them here. Raises AccessDenied."""
    reading, tags = source.call, source.version.facts.tags
    if tags:
        named = "s3:GetObjectVersionTagging" if reading.request.fields else "s3:GetObjectTagging"
        allow(reading, version=source.version, action=named)
        allow_laid(call, "s3:PutObjectTagging", tags=tags)


def _onto_itself(call: Call, source: Source) -> bool:
    """A named version is another thing than what is there now: copying it brings it back."""
    asked = source.call.request
    return source.call.bucket.uid == call.bucket.uid and asked.key == call.key and not asked.fields


def _algorithm(version: Version) -> str:
    return version.facts.checksum.algorithm if version.facts.checksum is not None else checksums.DEFAULT


def _directive(headers: Mapping[str, str], name: str) -> bool:
    """Whether it says REPLACE. Raises InvalidArgument."""
    word = headers.get(name, "COPY")
    if word not in ("COPY", "REPLACE"):
        raise S3Error.argument(name, word, "must be COPY or REPLACE")
    return word == "REPLACE"


def _facts(asked: Facts, source: Facts, *, replaces: bool, tags: bool) -> Facts:
    """Of the copy: what it says itself where it replaces, else what the source says. Locks and grants are never copied,
    nor where a page redirects to: each object says that for itself."""
    if not replaces:
        headers = {name: value for name, value in source.headers.items() if name != REDIRECT}
        headers |= {name: value for name, value in asked.headers.items() if name == REDIRECT}
        asked = replace(asked, headers=headers, metadata=source.metadata)
    return asked if tags else replace(asked, tags=source.tags)


def _source_header(source: Source) -> dict[str, str]:
    never = source.call.bucket.versioning is Versioning.NEVER
    return {} if never else {"x-amz-copy-source-version-id": source.version.id}


# -- the bytes ----------------------------------------------------------------------------------


async def pour(call: Call, source: Source, span: Span, sealing: Sealing, algorithm: str, *, number: int = 1) -> Taken:
    """The bytes of the source, sealed anew into the bucket of the call."""
    digests = Digests((algorithm, *(() if sealing.opaque else ("MD5",))))
    reading = source.call
    content = reading.gateway.content.read(
        reading.known.place, source.version, span.start, span.length, customer_key=source.key
    )
    async with aclosing(there(content)) as pieces:
        piece = await stored(pieces, new_writer(call, sealing, span.length, digests, number))
    return taken(call, sealing, piece, digests, algorithm)


def _outcome(name: str, etag: str, modified: float, poured: Taken) -> bytes:
    return xml.document(
        name,
        xml.moment("LastModified", modified),
        xml.element("ETag", f'"{etag}"'),
        xml.element(f"Checksum{poured.checksum.algorithm}", poured.checksum.value),
        xml.element("ChecksumType", poured.checksum.form),
    )


# -- long copies --------------------------------------------------------------------------------


async def _patient(call: Call, copied: Callable[[], Awaitable[Copied]], told: Mapping[str, str]) -> Answer:
    """The outcome with its own status when it is there soon, else a 200 whose body waits for it."""
    task = asyncio.ensure_future(copied())
    try:
        done, _ = await asyncio.wait((task,), timeout=PATIENCE_S)
    except asyncio.CancelledError:
        task.cancel()
        raise
    if done:
        body, headers = task.result()
        return xml_answer(body).extend(headers).extend(told)
    return Answer(200, [XML], stream=_blanks(call, task)).extend(told)


async def _blanks(call: Call, task: asyncio.Future[Copied]) -> AsyncIterator[bytes]:
    """The declaration at once, then a blank now and again, then the rest of the document."""
    try:
        yield xml.DECLARATION
        while not task.done():
            await asyncio.wait((task,), timeout=BLANK_S)
            if not task.done():
                yield b" "
        try:
            body = task.result()[0]
        except HansaError as error:
            body = xml.error_document(translated(error), resource=call.request.path, request_id=call.request.id)
        yield body.removeprefix(xml.DECLARATION)
    finally:
        task.cancel()
