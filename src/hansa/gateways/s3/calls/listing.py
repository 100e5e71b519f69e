"""Listings: objects in both forms, versions, uploads, parts, buckets. Each is one page of the index, written out.

What a client carries to the next page is opaque to it: the last key with a check that binds it to the bucket. Nobody is
kept from making one up, so it is no secret; rubbish is told from a token that has lost a character.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256

from hansa.gateways.s3.answers import Answer
from hansa.gateways.s3.answers import xml as xml_answer
from hansa.gateways.s3.calls.heads import STANDARD
from hansa.gateways.s3.calls.permission import allow
from hansa.gateways.s3.gateway import Call
from hansa.gateways.s3.wire import xml
from hansa.gateways.s3.wire.dates import iso_date
from hansa.gateways.s3.wire.errors import S3Error
from hansa.gateways.s3.wire.uri import encode_path
from hansa.objectindex.records import Facts, Listing, Part, Upload, Version

PAGE_MAX = 1000
TOKEN_LENGTH_MAX = 2048
CHECK_BYTES = 6


@dataclass(frozen=True, slots=True)
class Page:
    """What every listing may be asked for. `shown` writes a name: as it is, or encoded as in an address."""

    prefix: str
    delimiter: str
    limit: int
    shown: Callable[[str], str]
    encoding: str

    def common(self, *, bare: bool = False) -> bytes:
        """`bare`: the prefix is not encoded, unless XML cannot carry it: of this form, clients decode all but that."""
        prefix = self.prefix if bare and xml.carries(self.prefix) else self.shown(self.prefix)
        return xml.element("Prefix", prefix) + (
            xml.element("Delimiter", self.shown(self.delimiter)) if self.delimiter else b""
        )

    def prefixes(self, found: Iterable[str]) -> bytes:
        return b"".join(xml.element("CommonPrefixes", xml.element("Prefix", self.shown(name))) for name in found)

    @property
    def encoded(self) -> bytes:
        return xml.maybe("EncodingType", self.encoding)


def read_page(call: Call, limit_name: str) -> Page:
    encoding = call.field("encoding-type")
    if encoding not in (None, "url"):
        raise S3Error.argument("encoding-type", encoding, "must be url, or left out")
    return Page(
        prefix=call.field("prefix") or "",
        delimiter=call.field("delimiter") or "",
        limit=read_limit(call, limit_name),
        shown=_encoded if encoding else str,
        encoding=encoding or "",
    )


def read_limit(call: Call, name: str, most: int = PAGE_MAX) -> int:
    text = call.field(name)
    if text is None or text == "":
        return most
    if not text.isascii() or not text.isdigit() or len(text) > 10:
        raise S3Error.argument(name, text, f"must be a number from 0 to {2**31 - 1}")
    value = int(text)
    if value > 2**31 - 1:
        raise S3Error.argument(name, text, f"must be a number from 0 to {2**31 - 1}")
    return min(value, most)


def _encoded(text: str) -> str:
    return encode_path(text).decode()


# -- objects ------------------------------------------------------------------------------------


async def list_objects(call: Call) -> Answer:
    page = read_page(call, "max-keys")
    marker = call.field("marker") or ""
    allow(call)
    found = await _objects(call, page, marker)
    # Without a delimiter the last key of the page is the marker, which clients know; S3 says it only with one.
    following = xml.maybe("NextMarker", page.shown(found.next) if found.truncated and page.delimiter else "")
    return xml_answer(
        xml.document(
            "ListBucketResult",
            xml.element("Name", call.bucket.name),
            page.common(bare=True),
            xml.element("Marker", page.shown(marker)),
            xml.element("MaxKeys", page.limit),
            page.encoded,
            xml.flag("IsTruncated", found.truncated),
            following,
            _contents(found.versions, page, owner=True),
            page.prefixes(found.prefixes),
        )
    )


async def list_objects_v2(call: Call) -> Answer:
    page = read_page(call, "max-keys")
    token, start = call.field("continuation-token"), call.field("start-after") or ""
    allow(call)
    after = read_token(token, call.bucket.uid) if token else start
    found = await _objects(call, page, after)
    owner = call.field("fetch-owner") == "true"
    following = write_token(found.next, call.bucket.uid) if found.truncated else ""
    return xml_answer(
        xml.document(
            "ListBucketResult",
            xml.element("Name", call.bucket.name),
            page.common(),
            xml.element("MaxKeys", page.limit),
            page.encoded,
            xml.element("KeyCount", len(found.versions) + len(found.prefixes)),
            xml.flag("IsTruncated", found.truncated),
            b"" if token is None else xml.element("ContinuationToken", token),
            xml.maybe("NextContinuationToken", following),
            xml.maybe("StartAfter", page.shown(start)),
            _contents(found.versions, page, owner=owner),
            page.prefixes(found.prefixes),
        )
    )


async def _objects(call: Call, page: Page, after: str) -> Listing:
    if page.limit == 0:
        return Listing()
    return await call.gateway.index.list(
        call.bucket.uid, prefix=page.prefix, delimiter=page.delimiter, after=after, limit=page.limit
    )


def _contents(versions: Iterable[Version], page: Page, *, owner: bool) -> bytes:
    """All objects of a page. What they have in common is written once: the facts of a listing are few, and shared."""
    ends: dict[int, str] = {}
    parts: list[str] = []
    for version in versions:
        facts = version.facts
        end = ends.get(id(facts))
        if end is None:
            end = ends[id(facts)] = _end(facts, owner=owner)
        parts.append(
            f"<Contents><Key>{xml.escaped(page.shown(version.key))}</Key><LastModified>{iso_date(version.modified)}"
            f"</LastModified><ETag>&quot;{version.etag}&quot;</ETag><Size>{version.size}</Size>{end}"
        )
    return "".join(parts).encode(errors="replace")


def _end(facts: Facts, *, owner: bool) -> str:
    told = _checksum(facts) + (write_owner(facts.owner, facts.owner_name) if owner else b"")
    return f"{told.decode()}<StorageClass>{facts.storage_class or STANDARD}</StorageClass></Contents>"


def _checksum(facts: Facts) -> bytes:
    found = facts.checksum
    if found is None:
        return b""
    return f"<ChecksumAlgorithm>{found.algorithm}</ChecksumAlgorithm><ChecksumType>{found.form}</ChecksumType>".encode()


def write_owner(id: str, name: str, element: str = "Owner") -> bytes:
    return xml.element(element, xml.element("ID", id), xml.maybe("DisplayName", name))


# -- versions -----------------------------------------------------------------------------------


async def list_versions(call: Call) -> Answer:
    page = read_page(call, "max-keys")
    key, id = call.field("key-marker") or "", call.field("version-id-marker") or ""
    if id and not key:
        raise S3Error.argument("version-id-marker", id, "must come with a key-marker")
    allow(call)
    found = Listing()
    if page.limit:
        found = await call.gateway.index.list_versions(
            call.bucket.uid, prefix=page.prefix, delimiter=page.delimiter, after=key, after_id=id, limit=page.limit
        )
    return xml_answer(
        xml.document(
            "ListVersionsResult",
            xml.element("Name", call.bucket.name),
            page.common(),
            xml.element("KeyMarker", page.shown(key)),
            xml.element("VersionIdMarker", id),
            xml.element("MaxKeys", page.limit),
            page.encoded,
            xml.flag("IsTruncated", found.truncated),
            xml.maybe("NextKeyMarker", page.shown(found.next) if found.truncated else ""),
            xml.maybe("NextVersionIdMarker", found.next_id if found.truncated else ""),
            *(_version(version, page) for version in found.versions),
            page.prefixes(found.prefixes),
        )
    )


def _version(version: Version, page: Page) -> bytes:
    facts = version.facts
    shared = (
        xml.element("Key", page.shown(version.key)),
        xml.element("VersionId", version.id),
        xml.flag("IsLatest", version.latest),
        xml.moment("LastModified", version.modified),
        write_owner(facts.owner, facts.owner_name),
    )
    if version.marker:
        return xml.element("DeleteMarker", *shared)
    return xml.element(
        "Version",
        *shared,
        xml.element("ETag", f'"{version.etag}"'),
        xml.element("Size", version.size),
        _checksum(facts),
        xml.element("StorageClass", facts.storage_class or STANDARD),
    )


# -- uploads and parts --------------------------------------------------------------------------


async def list_uploads(call: Call) -> Answer:
    page = read_page(call, "max-uploads")
    key = call.field("key-marker") or ""
    id = (call.field("upload-id-marker") or "") if key else ""
    allow(call)
    found = await call.gateway.index.uploads(
        call.bucket.uid, prefix=page.prefix, delimiter=page.delimiter, after_key=key, after_id=id,
        limit=max(page.limit, 1),
    )  # fmt: skip
    return xml_answer(
        xml.document(
            "ListMultipartUploadsResult",
            xml.element("Bucket", call.bucket.name),
            xml.element("KeyMarker", page.shown(key)),
            xml.element("UploadIdMarker", id),
            xml.maybe("NextKeyMarker", page.shown(found.next_key) if found.truncated else ""),
            xml.maybe("NextUploadIdMarker", found.next_id if found.truncated else ""),
            page.common(),
            xml.element("MaxUploads", max(page.limit, 1)),
            page.encoded,
            xml.flag("IsTruncated", found.truncated),
            *(_upload(upload, page) for upload in found.uploads),
            page.prefixes(found.prefixes),
        )
    )


def _upload(upload: Upload, page: Page) -> bytes:
    facts = upload.facts
    return xml.element(
        "Upload",
        xml.element("Key", page.shown(upload.key)),
        xml.element("UploadId", upload.id),
        write_owner(facts.owner, facts.owner_name, "Initiator"),
        write_owner(facts.owner, facts.owner_name),
        xml.element("StorageClass", facts.storage_class or STANDARD),
        xml.moment("Initiated", upload.started),
        _checksum(facts),
    )


async def list_parts(call: Call) -> Answer:
    limit = read_limit(call, "max-parts")
    marker = read_limit(call, "part-number-marker", 10_000) if call.field("part-number-marker") else 0
    allow(call)
    upload = await open_upload(call)
    parts = await call.gateway.index.parts(upload.id, after=marker, limit=limit + 1)
    shown, truncated = parts[:limit], 0 < limit < len(parts)
    facts = upload.facts
    return xml_answer(
        xml.document(
            "ListPartsResult",
            xml.element("Bucket", call.bucket.name),
            xml.element("Key", call.key),
            xml.element("UploadId", upload.id),
            write_owner(facts.owner, facts.owner_name, "Initiator"),
            write_owner(facts.owner, facts.owner_name),
            xml.element("StorageClass", facts.storage_class or STANDARD),
            xml.element("PartNumberMarker", marker),
            xml.element("NextPartNumberMarker", shown[-1].piece.number if shown else 0),
            xml.element("MaxParts", limit),
            xml.flag("IsTruncated", truncated),
            _checksum(facts),
            *(_part(part, facts) for part in shown),
        )
    )


def _part(part: Part, facts: Facts) -> bytes:
    piece = part.piece
    checksum = b""
    if facts.checksum is not None:
        checksum = xml.maybe(f"Checksum{facts.checksum.algorithm}", piece.checksum)
    return xml.element(
        "Part",
        xml.element("PartNumber", piece.number),
        xml.moment("LastModified", part.modified),
        xml.element("ETag", f'"{piece.etag}"'),
        xml.element("Size", piece.size),
        checksum,
    )


async def open_upload(call: Call) -> Upload:
    """The upload that the request names, of this bucket and key. Raises NoSuchUpload."""
    id = call.field("uploadId") or ""
    upload = await call.gateway.index.upload(call.bucket.uid, id) if id else None
    if upload is None or upload.key != call.key:
        raise S3Error.of("NoSuchUpload", UploadId=id[:256])
    return upload


# -- tokens -------------------------------------------------------------------------------------


def write_token(last: str, uid: str) -> str:
    raw = last.encode()
    return base64.urlsafe_b64encode(_check(raw, uid) + raw).decode()


def read_token(token: str, uid: str) -> str:
    """The last key of the page before. Raises InvalidArgument for what is none of our tokens for this bucket."""
    if len(token) <= TOKEN_LENGTH_MAX and token.isascii():
        try:
            raw = base64.urlsafe_b64decode(token)
            if len(raw) > CHECK_BYTES and _check(raw[CHECK_BYTES:], uid) == raw[:CHECK_BYTES]:
                return raw[CHECK_BYTES:].decode()
        except ValueError:  # neither base64 nor text: refused below
            pass
    raise S3Error.argument("continuation-token", token, "is none that a listing of this bucket gave")


def _check(raw: bytes, uid: str) -> bytes:
    return sha256(uid.encode() + b"\0" + raw).digest()[:CHECK_BYTES]
