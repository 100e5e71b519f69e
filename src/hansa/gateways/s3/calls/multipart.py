"""Uploads in parts: begun, filled, completed, aborted. A part lies by itself; completion writes a list of parts, no bytes.

The facts of the object are settled when the upload begins. Each part keeps its MD5 (or an opaque tag) and a checksum of
the upload's algorithm, from which the object's ETag and checksum follow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from hansa.gateways.s3.answers import Answer, empty
from hansa.gateways.s3.answers import xml as xml_answer
from hansa.gateways.s3.calls.intake import Sealing, Taken, read_document, settled, take
from hansa.gateways.s3.calls.listing import open_upload
from hansa.gateways.s3.calls.lookup import PARTS_MAX, part_asked
from hansa.gateways.s3.calls.permission import allow
from hansa.gateways.s3.calls.writing import complete, drafted, lock_of, new_version, new_version_id, written_headers
from hansa.gateways.s3.gateway import Call
from hansa.gateways.s3.rules import encryptionrules, lifecycle, locks
from hansa.gateways.s3.wire import checksums, documents, xml
from hansa.gateways.s3.wire.checksums import FULL_OBJECT
from hansa.gateways.s3.wire.conditions import WriteConditions, check_initiated
from hansa.gateways.s3.wire.documents import CompletedPart
from hansa.gateways.s3.wire.errors import S3Error
from hansa.objectindex.records import Checksum, Facts, Lock, Part, Piece, Upload, Version

PAGE = 1000


async def create_upload(call: Call) -> Answer:
    allow(call)
    headers = call.request.headers
    algorithm = checksums.read_wish(headers)
    form = checksums.upload_form(algorithm, headers.get("x-amz-checksum-type"))
    draft = await drafted(call)
    facts = replace(draft.facts, checksum=Checksum(algorithm, "", form) if algorithm else None)
    if not _asks_for_lock(headers):
        facts = replace(facts, lock=Lock())  # the bucket's default counts from completion
    upload = Upload(call.bucket.uid, call.key, new_version_id(), call.gateway.clock.now(), facts)
    await call.gateway.index.begin(upload, project=call.bucket.project)
    answer = xml_answer(
        xml.document(
            "InitiateMultipartUploadResult",
            xml.element("Bucket", call.bucket.name),
            xml.element("Key", call.key),
            xml.element("UploadId", upload.id),
        )
    )
    if algorithm:
        answer.add("x-amz-checksum-algorithm", algorithm).add("x-amz-checksum-type", form)
    if call.known.lifecycle:
        answer.extend(lifecycle.abort_headers(call.known.lifecycle, upload))
    return answer.extend(encryptionrules.headers_of(facts.encryption))


def _asks_for_lock(headers: Mapping[str, str]) -> bool:
    return any(name in headers for name in (locks.MODE, locks.UNTIL, locks.HOLD))


# -- parts --------------------------------------------------------------------------------------


async def upload_part(call: Call) -> Answer:
    allow(call)
    number = part_number(call)
    upload = await open_upload(call)
    sealing = part_sealing(call, upload)
    algorithm, strict = part_algorithm(upload)
    taken = await take(call, sealing, algorithm=algorithm, strict=strict, number=number)
    await keep_part(call, upload, taken)
    told = {"etag": f'"{taken.etag}"', checksums.HEADERS[taken.checksum.algorithm]: taken.checksum.value}
    return empty(200, told | encryptionrules.headers_of(upload.facts.encryption))


def part_number(call: Call) -> int:
    """The part that is sent. Raises InvalidArgument."""
    number = part_asked(call)
    if number is None:
        raise S3Error.argument("partNumber", "", f"must be 1 to {PARTS_MAX}")
    return number


def part_sealing(call: Call, upload: Upload) -> Sealing:
    """As the upload began; a key of the customer's comes anew with each part."""
    encryption = upload.facts.encryption
    key = encryptionrules.check_part(encryption, call.request.headers, secure=call.request.secure)
    return Sealing(encryption, key.key if key is not None else None)


def part_algorithm(upload: Upload) -> tuple[str, bool]:
    """The checksum that its parts keep, and whether whoever began it named it."""
    named = upload.facts.checksum
    return (named.algorithm, True) if named is not None else (checksums.DEFAULT, False)


async def keep_part(call: Call, upload: Upload, taken: Taken) -> None:
    """Raises NoSuchUpload when it ended meanwhile, QuotaExceeded."""
    index, bucket = call.gateway.index, call.bucket
    part = Part(upload.id, taken.part, call.gateway.clock.now())
    kept = await settled(
        call, taken.piece, index.put_part(bucket.uid, part, project=bucket.project, limits=call.limits)
    )
    if not kept:
        await call.gateway.content.drop([taken.piece])
        raise S3Error.of("NoSuchUpload", UploadId=upload.id)


# -- the end of an upload -----------------------------------------------------------------------


async def complete_upload(call: Call) -> Answer:
    allow(call)
    conditions = WriteConditions.read(call.request.headers)
    body = await read_document(call, most=documents.COMPLETE_BYTES_MAX, of_object=True)
    before = await _completed(call)
    if before is not None:
        return _result(call, before)
    upload = await open_upload(call)
    part_sealing(call, upload)  # who puts it together holds its key
    pieces = await _pieces(call, upload, documents.read_completion(body))
    facts = replace(upload.facts, checksum=_checksum(call, upload, pieces), multipart=len(pieces))
    if not (facts.lock.mode or facts.lock.hold):
        facts = replace(facts, lock=replace(await lock_of(call, {}), hold=facts.lock.hold))
    new = new_version(call, facts, pieces, etag=_etag(pieces))
    written = await complete(call, upload, new, conditions)
    version = written.version if written is not None else await _completed(call)
    if version is None:
        raise S3Error.of("NoSuchUpload", UploadId=upload.id)
    return _result(call, version)


async def _completed(call: Call) -> Version | None:
    """What the upload has become already: whoever did not hear the answer asks again."""
    found = await call.gateway.index.completed(call.bucket.uid, call.field("uploadId") or "")
    return found if found is not None and found.key == call.key else None


async def _pieces(call: Call, upload: Upload, listed: Sequence[CompletedPart]) -> tuple[Piece, ...]:
    """The parts that the client lists, in order. Raises InvalidPart, InvalidRequest, EntityTooSmall."""
    _check_listed(listed, upload.facts.checksum)
    there = await _parts(call, upload, listed[-1].number)
    pieces = tuple(_piece(there.get(part.number), part, upload.facts) for part in listed)
    least = call.gateway.settings.part_bytes_min
    for piece in pieces[:-1]:
        if piece.size < least:
            raise S3Error.of(
                "EntityTooSmall",
                PartNumber=piece.number,
                ProposedSize=piece.size,
                MinSizeAllowed=least,
                ETag=piece.etag,
            )
    return pieces


def _check_listed(listed: Sequence[CompletedPart], named: Checksum | None) -> None:
    """Whoever says what a part's checksum is says it of each, where the object's is made of them. Who says it of none
    leaves it to what was taken. Raises InvalidRequest."""
    if named is None or named.form == FULL_OBJECT:
        return
    bare = [part.number for part in listed if named.algorithm not in part.checksums]
    if bare and len(bare) < len(listed):
        raise S3Error.of("InvalidRequest", f"Part {bare[0]}: its {named.algorithm} is missing, others have theirs.")


async def _parts(call: Call, upload: Upload, last: int) -> dict[int, Piece]:
    found: dict[int, Piece] = {}
    after = 0
    while after < last:
        page = await call.gateway.index.parts(upload.id, after=after, limit=PAGE)
        found.update((part.piece.number, part.piece) for part in page)
        if len(page) < PAGE:
            break
        after = page[-1].piece.number
    return found


def _piece(piece: Piece | None, listed: CompletedPart, facts: Facts) -> Piece:
    if piece is None or piece.etag != listed.etag:
        raise S3Error.of("InvalidPart", PartNumber=listed.number, ETag=listed.etag)
    named = facts.checksum
    if named is not None:
        others = sorted(set(listed.checksums) - {named.algorithm})
        if others:
            raise S3Error.of("BadDigest", f"Part {listed.number} was taken with {named.algorithm}, not {others[0]}.")
        claimed = listed.checksums.get(named.algorithm)
        if claimed and claimed != piece.checksum:
            raise S3Error.of("InvalidPart", "The checksum of a part is another.", PartNumber=listed.number)
    return piece


def _etag(pieces: Sequence[Piece]) -> str:
    digest = hashlib.md5(b"".join(bytes.fromhex(piece.etag) for piece in pieces), usedforsecurity=False)
    return f"{digest.hexdigest()}-{len(pieces)}"


def _checksum(call: Call, upload: Upload, pieces: Sequence[Piece]) -> Checksum:
    """Of the whole, from the parts'. Raises BadDigest when the client says another, InvalidRequest for another size."""
    headers, named = call.request.headers, upload.facts.checksum
    algorithm, form = (named.algorithm, named.form) if named is not None else (checksums.DEFAULT, FULL_OBJECT)
    found = checksums.of_parts(algorithm, form, [(piece.checksum, piece.size) for piece in pieces])
    asked = headers.get("x-amz-checksum-type")
    if asked is not None and asked.strip().upper() != form:
        raise S3Error.of("InvalidRequest", f"The upload's checksum type is {form}.")
    claimed = headers.get(checksums.HEADERS[algorithm])
    if claimed is not None and checksums.read_of_object(algorithm, claimed) not in (
        found.value,
        found.value.partition("-")[0],
    ):
        raise S3Error.of("BadDigest", f"The {algorithm} of the parts put together is another.")
    size = headers.get("x-amz-mp-object-size")
    if size is not None and size != str(sum(piece.size for piece in pieces)):
        raise S3Error.of("InvalidRequest", "x-amz-mp-object-size is not the size of the parts put together.")
    return found


def _result(call: Call, version: Version) -> Answer:
    checksum = version.facts.checksum
    request = call.request
    scheme = "https" if request.tls else "http"
    answer = xml_answer(
        xml.document(
            "CompleteMultipartUploadResult",
            xml.element("Location", f"{scheme}://{request.host}/{call.bucket.name}/{call.key}"),
            xml.element("Bucket", call.bucket.name),
            xml.element("Key", call.key),
            xml.element("ETag", f'"{version.etag}"'),
            write_checksum(checksum),
        )
    )
    told = written_headers(call, version)
    return answer.extend({name: value for name, value in told.items() if name not in ("etag",)})


def write_checksum(checksum: Checksum | None) -> bytes:
    if checksum is None:
        return b""
    return xml.element(f"Checksum{checksum.algorithm}", checksum.value) + xml.element("ChecksumType", checksum.form)


async def abort_upload(call: Call) -> Answer:
    allow(call)
    upload = await open_upload(call)
    check_initiated(call.request.headers, upload.started)
    if not await call.gateway.index.abort(call.bucket.uid, upload.id, project=call.bucket.project):
        raise S3Error.of("NoSuchUpload", UploadId=upload.id)
    return empty(204)
