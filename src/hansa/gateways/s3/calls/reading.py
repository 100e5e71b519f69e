"""Objects on their way out: which bytes of which version, under which headers.

HEAD and GET are one: they differ in what is sent. Conditions come before ranges, as HTTP has it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

import structlog

from hansa.errors import NotFound
from hansa.gateways.s3.answers import Answer
from hansa.gateways.s3.calls.heads import checksum_headers, object_headers, overrides
from hansa.gateways.s3.calls.lookup import part_asked, seen
from hansa.gateways.s3.calls.writing import expiration
from hansa.gateways.s3.gateway import Call
from hansa.gateways.s3.rules import encryptionrules
from hansa.gateways.s3.wire.conditions import check_read
from hansa.gateways.s3.wire.errors import S3Error
from hansa.gateways.s3.wire.ranges import Span, read_range
from hansa.objectindex.records import Facts, Version

log = structlog.get_logger("hansa.s3")


async def get_object(call: Call) -> Answer:
    asked = overrides(call.request.fields, signed=call.signed is not None)
    number = part_asked(call)
    version = await seen(call)
    facts, request = version.facts, call.request
    part = _part(call, version, number) if number is not None else None
    key = encryptionrules.check_reader(facts.encryption, request.headers, secure=request.secure)
    answer = Answer(200)
    found = object_headers(version, call.bucket.versioning)
    if facts.encryption is not None:
        found |= encryptionrules.headers_of(facts.encryption)
    if call.known.lifecycle:
        found |= expiration(call, version)
    check_read(request.headers, version.etag, version.modified, told=found)
    span = part if part is not None else _range(request.headers.get("range"), version.size)
    if span is None or not span.length:
        span = Span(0, version.size)
    else:
        answer.status = 206
        found["content-range"] = span.content_range(version.size)
        if part is not None and facts.multipart:
            found["x-amz-mp-parts-count"] = str(facts.multipart)
    if request.headers.get("x-amz-checksum-mode", "").upper() == "ENABLED":
        found |= _checksums(facts, number, whole=answer.status == 200)
    answer.extend(found | asked)
    answer.length = span.length
    if request.method == "GET" and span.length:
        _fill(answer, call, version, span, key.key if key else None)
    return answer


def _fill(answer: Answer, call: Call, version: Version, span: Span, key: bytes | None) -> None:
    content, place = call.gateway.content, call.known.place
    try:
        body = content.at_hand(place, version, span.start, span.length, customer_key=key)
        if body is None:
            body = content.lot_at_hand(place, version, span.start, span.length, customer_key=key)
    except NotFound as error:
        raise _lost(error) from error
    if body is not None:
        answer.body = body
    else:
        answer.stream = there(content.read(place, version, span.start, span.length, customer_key=key))


async def there(stream: AsyncGenerator[bytes | memoryview, None]) -> AsyncGenerator[bytes | memoryview, None]:
    """The stream; that its bytes are not there is not said as if the bucket were not."""
    async with aclosing(stream) as pieces:
        try:
            async for piece in pieces:
                yield piece
        except NotFound as error:
            raise _lost(error) from error


def _lost(error: NotFound) -> S3Error:
    """Bytes that the index knows and the store does not: the object is there, and cannot be read."""
    log.error("bytes of an object are gone", error=error.message, detail=error.detail)
    return S3Error("InternalError", detail=error.message)


def _range(wish: str | None, size: int) -> Span | None:
    """The bytes that are asked for; None: all of them. Raises InvalidRange."""
    return read_range(wish, size) if wish is not None else None


def _part(call: Call, version: Version, number: int) -> Span:
    """The bytes of a part. An object that was put whole has one, the first.

    Raises InvalidPart, InvalidRequest for a part and a range.
    """
    if "range" in call.request.headers:
        raise S3Error.of("InvalidRequest", "Range and partNumber cannot be asked for together.")
    facts = version.facts
    if not facts.multipart and number == 1:
        return Span(0, version.size)
    at = 0
    for piece in facts.pieces if facts.multipart else ():
        if piece.number == number:
            return Span(at, piece.size)
        at += piece.size
    raise S3Error.of("InvalidPart", f"The object has no part {number}.")


def _checksums(facts: Facts, number: int | None, *, whole: bool) -> dict[str, str]:
    """That of the object with the whole of it, that of a part with a part; none with a range."""
    checksum = facts.checksum
    if checksum is None or (whole and number is None):
        return checksum_headers(checksum)
    if number is None:
        return {}
    piece = next((piece for piece in facts.pieces if piece.number == number), None)
    value = piece.checksum if piece is not None and facts.multipart else checksum.value
    return checksum_headers(replace(checksum, value=value))
