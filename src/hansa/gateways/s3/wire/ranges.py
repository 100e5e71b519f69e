"""Which bytes of an object are asked for. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hansa.gateways.s3.wire.errors import S3Error

_RANGE = re.compile(r"bytes=([0-9]{1,19})?-([0-9]{1,19})?", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True)
class Span:
    """A run of bytes, from `start` on."""

    start: int
    length: int

    @property
    def last(self) -> int:
        return self.start + self.length - 1

    def content_range(self, size: int) -> str:
        """The header's value, of a span that is not empty."""
        return f"bytes {self.start}-{self.last}/{size}"


def read_range(text: str, size: int) -> Span | None:
    """The span of a Range header within `size` bytes; None where the header says nothing that we follow (several
    ranges, another unit, bad syntax): then the whole is the answer. Raises InvalidRange for one that lies outside."""
    found = _RANGE.fullmatch(text.strip())
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:
        length = int(found[2])
        if not length:
            raise _outside(text, size)
        return Span(max(size - length, 0), min(length, size)) if size else None
    start, last = int(found[1]), int(found[2]) if found[2] else size - 1
    if found[2] and last < start:
        return None
    if start >= size:
        raise _outside(text, size)
    return Span(start, min(last, size - 1) - start + 1)


def read_copy_range(text: str, size: int) -> Span:
    """x-amz-copy-source-range, which must be whole and lie within the source. Raises InvalidArgument, InvalidRange."""
    found = _RANGE.fullmatch(text.strip())
    if found is None or not found[1] or not found[2] or int(found[2]) < int(found[1]):
        raise S3Error.argument("x-amz-copy-source-range", text, "must have the form bytes=first-last")
    start, last = int(found[1]), int(found[2])
    if last >= size:
        raise _outside(text, size)
    return Span(start, last - start + 1)


def _outside(text: str, size: int) -> S3Error:
    return S3Error.of("InvalidRange", RangeRequested=text[:64], ActualObjectSize=size).with_headers(
        {"content-range": f"bytes */{size}"}
    )
