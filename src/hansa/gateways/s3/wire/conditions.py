"""The If-… headers: of reads, of a copy's source, of writes and of deletions. Pure.

A read's conditions follow RFC 9110, section 13.2.2: If-Match comes before If-Unmodified-Since, which it overrules, then
If-None-Match before If-Modified-Since. A write's must be asked in the same step that publishes; what they are asked of is
handed in by the index. HTTP dates know seconds, so a moment counts with its fraction cut off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hansa.gateways.s3.wire import dates
from hansa.gateways.s3.wire.documents import Doomed
from hansa.gateways.s3.wire.errors import S3Error
from hansa.objectindex.records import Version

Headers = Mapping[str, str]  # lower-case names
_OF_READS = frozenset(("if-match", "if-none-match", "if-modified-since", "if-unmodified-since"))
INITIATED = "x-amz-if-match-initiated-time"


def check_read(headers: Headers, etag: str, modified: float, *, told: Mapping[str, str] | None = None) -> None:
    """Of GET and HEAD. `etag` without quotes; `told`: headers that a 304 carries on.

    Raises PreconditionFailed, NotModified.
    """
    if _OF_READS.isdisjoint(headers):
        return
    failed = _first_failed(headers, "", etag, modified)
    if failed in ("If-None-Match", "If-Modified-Since"):
        kept = {name: value for name, value in (told or {}).items() if name not in _OF_A_BODY}
        raise S3Error.of("NotModified").with_headers(
            kept | {"etag": f'"{etag}"', "last-modified": dates.http_date(modified)}
        )
    if failed:
        raise S3Error.of("PreconditionFailed", Condition=failed)


def check_copy_source(headers: Headers, etag: str, modified: float) -> None:
    """Of a copy's source (x-amz-copy-source-if-…). Raises PreconditionFailed."""
    failed = _first_failed(headers, "x-amz-copy-source-", etag, modified)
    if failed:
        raise S3Error.of("PreconditionFailed", Condition=f"x-amz-copy-source-{failed}")


@dataclass(frozen=True, slots=True)
class WriteConditions:
    """Of a PUT, a completion and a copy's target. Either is None where it was not sent."""

    match: str | None = None
    none_match: str | None = None

    @classmethod
    def read(cls, headers: Headers) -> WriteConditions:
        return cls(headers.get("if-match"), headers.get("if-none-match"))

    @property
    def any(self) -> bool:
        return self.match is not None or self.none_match is not None

    def check(self, current: str | None) -> None:
        """`current`: the ETag of what is there, without quotes; None: nothing is, or a delete marker.

        Raises PreconditionFailed, NoSuchKey for an If-Match of nothing.
        """
        if self.match is not None:
            if current is None:
                raise S3Error.of("NoSuchKey")
            if not _matches(self.match, current, weak=False):
                raise S3Error.of("PreconditionFailed", Condition="If-Match")
        if self.none_match is not None and current is not None and _matches(self.none_match, current, weak=True):
            raise S3Error.of("PreconditionFailed", Condition="If-None-Match")


@dataclass(frozen=True, slots=True)
class DeleteConditions:
    """Of a deletion. What is not there any more may be deleted again; a delete marker has an empty ETag and no bytes."""

    match: str | None = None
    modified: float | None = None  # whole seconds
    size: int | None = None

    @classmethod
    def read(cls, headers: Headers) -> DeleteConditions:
        """Raises InvalidArgument."""
        size = headers.get("x-amz-if-match-size")
        if size is not None and not (size.isascii() and size.isdigit() and len(size) < 20):
            raise S3Error.argument("x-amz-if-match-size", size, "must be a number of bytes")
        return cls(
            match=headers.get("if-match"),
            modified=_moment("x-amz-if-match-last-modified-time", headers.get("x-amz-if-match-last-modified-time", "")),
            size=None if size is None else int(size),
        )

    @classmethod
    def of(cls, doomed: Doomed) -> DeleteConditions:
        """Of one object of a deletion of many. Raises InvalidArgument."""
        return cls(doomed.etag or None, _moment("LastModifiedTime", doomed.modified), doomed.size)

    def check_version(self, version: Version | None) -> None:
        """Raises PreconditionFailed."""
        if version is None:
            return
        etag, size = ("", 0) if version.marker else (version.etag, version.size)
        if self.match is not None and not _matches(self.match, etag, weak=False):
            raise S3Error.of("PreconditionFailed", Condition="If-Match")
        if self.modified is not None and int(version.modified) != int(self.modified):
            raise S3Error.of("PreconditionFailed", Condition="If-Match-Last-Modified-Time")
        if self.size is not None and size != self.size:
            raise S3Error.of("PreconditionFailed", Condition="If-Match-Size")


def check_initiated(headers: Headers, started: float) -> None:
    """Of aborting an upload: that it began in that second. Raises PreconditionFailed, InvalidArgument."""
    at = _moment(INITIATED, headers.get(INITIATED, ""))
    if at is not None and int(at) != int(started):
        raise S3Error.of("PreconditionFailed", Condition="If-Match-Initiated-Time")


_OF_A_BODY = frozenset(("content-length", "content-type", "content-encoding", "content-range"))


def _first_failed(headers: Headers, prefix: str, etag: str, modified: float) -> str:
    """The name of the condition that decides; empty where all hold. Dates that are none are passed over."""
    match, none_match = headers.get(f"{prefix}if-match"), headers.get(f"{prefix}if-none-match")
    if match is not None:
        if not _matches(match, etag, weak=False):
            return "If-Match"
    else:
        limit = _date(headers, f"{prefix}if-unmodified-since")
        if limit is not None and int(modified) > limit:
            return "If-Unmodified-Since"
    if none_match is not None:
        return "If-None-Match" if _matches(none_match, etag, weak=True) else ""
    since = _date(headers, f"{prefix}if-modified-since")
    return "If-Modified-Since" if since is not None and int(modified) <= since else ""


def _date(headers: Headers, name: str) -> float | None:
    text = headers.get(name)
    return dates.read_http_date(text) if text else None


def _matches(listed: str, etag: str, *, weak: bool) -> bool:
    """Whether an ETag is in a list, or the list is `*`. Quotes may be left out, as clients of S3 do."""
    for word in listed.split(","):
        name = word.strip()
        if name == "*":
            return True
        if name.startswith("W/"):
            if not weak:
                continue
            name = name[2:]
        if name.strip('"') == etag and name:
            return True
    return False


def _moment(name: str, text: str) -> float | None:
    if not text:
        return None
    at = dates.read_http_date(text)
    if at is None:
        at = dates.read_iso_date(text)
    if at is None:
        raise S3Error.argument(name, text, "must be a date")
    return at
