"""GetObjectAttributes: what is known of an object, the asked-for parts of it, without its bytes."""

from __future__ import annotations

from hansa.gateways.s3.answers import Answer
from hansa.gateways.s3.answers import xml as xml_answer
from hansa.gateways.s3.calls.heads import STANDARD, version_header
from hansa.gateways.s3.calls.lookup import seen
from hansa.gateways.s3.calls.multipart import write_checksum
from hansa.gateways.s3.gateway import Call
from hansa.gateways.s3.rules import encryptionrules
from hansa.gateways.s3.wire import xml
from hansa.gateways.s3.wire.dates import http_date
from hansa.gateways.s3.wire.errors import S3Error
from hansa.objectindex.records import Facts, Piece, Version

ASKED = "x-amz-object-attributes"
NAMES = ("ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize")
PARTS_MAX = 1000


async def get_attributes(call: Call) -> Answer:
    bucket, headers = call.bucket, call.request.headers
    wanted = _wanted(headers.get(ASKED, ""))
    version = await seen(call)
    facts = version.facts
    encryptionrules.check_reader(facts.encryption, headers, secure=call.request.secure)
    shown = (
        xml.element("ETag", version.etag) if "ETag" in wanted else b"",
        xml.element("Checksum", write_checksum(facts.checksum)) if "Checksum" in wanted and facts.checksum else b"",
        _parts(call, version) if "ObjectParts" in wanted and facts.multipart else b"",
        xml.element("StorageClass", facts.storage_class or STANDARD) if "StorageClass" in wanted else b"",
        xml.element("ObjectSize", version.size) if "ObjectSize" in wanted else b"",
    )
    answer = xml_answer(xml.document("GetObjectAttributesResponse", *shown))
    answer.add("last-modified", http_date(version.modified))
    return answer.extend(version_header(version, bucket.versioning))


def _wanted(text: str) -> list[str]:
    """Raises InvalidRequest for none, InvalidArgument for one that there is not."""
    wanted = [word.strip() for word in text.split(",") if word.strip()]
    if not wanted:
        raise S3Error.of("InvalidRequest", f"{ASKED}: must name some of {', '.join(NAMES)}.")
    for name in wanted:
        if name not in NAMES:
            raise S3Error.argument(ASKED, name, f"must be one of {', '.join(NAMES)}")
    return wanted


def _parts(call: Call, version: Version) -> bytes:
    limit = min(_number(call, "x-amz-max-parts", PARTS_MAX), PARTS_MAX)
    after = _number(call, "x-amz-part-number-marker", 0)
    facts = version.facts
    rest = [piece for piece in facts.pieces if piece.number > after]
    page, truncated = rest[:limit], 0 < limit < len(rest)
    return xml.element(
        "ObjectParts",
        xml.element("PartsCount", facts.multipart),
        xml.element("PartNumberMarker", after),
        xml.element("NextPartNumberMarker", page[-1].number if page else 0),
        xml.element("MaxParts", limit),
        xml.flag("IsTruncated", truncated),
        *(_part(piece, facts) for piece in page),
    )


def _part(piece: Piece, facts: Facts) -> bytes:
    checksum = facts.checksum
    return xml.element(
        "Part",
        xml.element("PartNumber", piece.number),
        xml.element("Size", piece.size),
        xml.maybe(f"Checksum{checksum.algorithm}", piece.checksum) if checksum is not None else b"",
    )


def _number(call: Call, name: str, default: int) -> int:
    text = call.request.headers.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise S3Error.argument(name, text, "must be a number")
    return int(text)
