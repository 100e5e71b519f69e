"""The small rules: ranges, If-… headers, dates and the name of a copy's source."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hansa.gateways.s3.wire import dates
from hansa.gateways.s3.wire.conditions import DeleteConditions, WriteConditions, check_copy_source, check_read
from hansa.gateways.s3.wire.documents import Doomed
from hansa.gateways.s3.wire.errors import S3Error
from hansa.gateways.s3.wire.names import Source, read_copy_source
from hansa.gateways.s3.wire.ranges import Span, read_copy_range, read_range
from hansa.objectindex.records import Version

AT = 1_800_000_000.75
BEFORE, SAME, AFTER = (dates.http_date(AT + shift) for shift in (-60, 0, 60))


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("bytes=0-9", Span(0, 10)),
        ("bytes=5-", Span(5, 95)),
        ("bytes=-7", Span(93, 7)),
        ("bytes=-700", Span(0, 100)),
        ("bytes=90-200", Span(90, 10)),
        ("Bytes=1-2", Span(1, 2)),
        ("bytes=0-1,5-6", None),
        ("bytes=9-5", None),
        ("bytes=-", None),
        ("bytes= 1-2", None),
        ("bytes=1 -2", None),
        ("bytes=a-b", None),
        ("lines=0-1", None),
        ("bytes=٣-٤", None),
        ("", None),
    ],
)
def test_a_range_is_a_span_or_nothing(text: str, span: Span | None) -> None:
    assert read_range(text, 100) == span


def test_the_end_of_nothing_is_the_whole_of_it() -> None:
    assert read_range("bytes=-1", 0) is None


def test_no_range_is_slow() -> None:
    begun = time.process_time()
    for blank in " \f":
        assert read_range(f"bytes={blank * 15_000}x", 100) is None
        assert read_range(f"bytes=1-{blank * 15_000}x", 100) is None
    assert time.process_time() - begun < 0.2


@pytest.mark.parametrize(
    ("text", "size"), [("bytes=100-", 100), ("bytes=100-200", 100), ("bytes=-0", 100), ("bytes=0-", 0), ("bytes=-0", 0)]
)
def test_a_range_outside_is_told_the_size(text: str, size: int) -> None:
    with pytest.raises(S3Error) as caught:
        read_range(text, size)
    assert caught.value.status == 416 and caught.value.headers == {"content-range": f"bytes */{size}"}


@given(st.integers(0, 10**20), st.integers(0, 10**20), st.integers(0, 10**13), st.sampled_from(["{}-{}", "{}-", "-{}"]))
def test_no_span_leaves_its_object(first: int, last: int, size: int, form: str) -> None:
    try:
        span = read_range("bytes=" + form.format(first, last), size)
    except S3Error as error:
        assert error.code == "InvalidRange"
        return
    if span is not None:
        assert 0 <= span.start <= span.last < size and span.length > 0
        assert span.content_range(size) == f"bytes {span.start}-{span.last}/{size}"


def test_a_copys_range_must_lie_within_its_source() -> None:
    assert read_copy_range("bytes=0-99", 100) == Span(0, 100)
    for text, code in (
        ("bytes=0-", "InvalidArgument"),
        ("bytes=5-4", "InvalidArgument"),
        ("0-1", "InvalidArgument"),
        ("bytes=0-100", "InvalidRange"),
    ):
        with pytest.raises(S3Error) as caught:
            read_copy_range(text, 100)
        assert caught.value.code == code


@pytest.mark.parametrize(
    ("headers", "outcome"),
    [
        ({}, ""),
        ({"if-match": '"e"'}, ""),
        ({"if-match": "e"}, ""),
        ({"if-match": '"x", "e"'}, ""),
        ({"if-match": "*"}, ""),
        ({"if-match": '"x"'}, "PreconditionFailed"),
        ({"if-match": 'W/"e"'}, "PreconditionFailed"),
        ({"if-match": '"e"', "if-unmodified-since": BEFORE}, ""),
        ({"if-unmodified-since": BEFORE}, "PreconditionFailed"),
        ({"if-unmodified-since": SAME}, ""),
        ({"if-unmodified-since": "yesterday"}, ""),
        ({"if-none-match": '"e"'}, "NotModified"),
        ({"if-none-match": 'W/"e"'}, "NotModified"),
        ({"if-none-match": "*"}, "NotModified"),
        ({"if-none-match": '"x"'}, ""),
        ({"if-none-match": '"x"', "if-modified-since": AFTER}, ""),
        ({"if-none-match": '"e"', "if-modified-since": BEFORE}, "NotModified"),
        ({"if-modified-since": SAME}, "NotModified"),
        ({"if-modified-since": BEFORE}, ""),
        ({"if-match": '"x"', "if-none-match": '"e"'}, "PreconditionFailed"),
    ],
)
def test_reads_follow_the_order_of_http(headers: dict[str, str], outcome: str) -> None:
    told = {"x-amz-version-id": "v", "content-length": "5", "etag": '"e"'}
    copied = {f"x-amz-copy-source-{name}": value for name, value in headers.items()}
    if not outcome:
        check_read(headers, "e", AT, told=told)
        check_copy_source(copied, "e", AT)
        return
    with pytest.raises(S3Error) as caught:
        check_read(headers, "e", AT, told=told)
    assert caught.value.code == outcome
    if outcome == "NotModified":
        assert caught.value.headers == {"x-amz-version-id": "v", "etag": '"e"', "last-modified": SAME}
    with pytest.raises(S3Error) as caught:
        check_copy_source(copied, "e", AT)
    assert caught.value.code == "PreconditionFailed"


@pytest.mark.parametrize(
    ("match", "none_match", "current", "outcome"),
    [
        (None, "*", None, ""),
        (None, "*", "e", "PreconditionFailed"),
        (None, '"e"', "e", "PreconditionFailed"),
        (None, "other", "e", ""),
        ('"e"', None, "e", ""),
        ("*", None, "e", ""),
        ("other", None, "e", "PreconditionFailed"),
        ("*", None, None, "NoSuchKey"),
        ("e", None, None, "NoSuchKey"),
        (None, None, "e", ""),
    ],
)
def test_writes_keep_to_their_conditions(
    match: str | None, none_match: str | None, current: str | None, outcome: str
) -> None:
    headers = {name: value for name, value in (("if-match", match), ("if-none-match", none_match)) if value is not None}
    conditions = WriteConditions.read(headers)
    assert conditions.any == bool(headers)
    if not outcome:
        conditions.check(current)
        return
    with pytest.raises(S3Error) as caught:
        conditions.check(current)
    assert caught.value.code == outcome


def version(*, marker: bool = False) -> Version:
    return Version(
        "b", "k", "v", 1, latest=True, marker=marker, size=0 if marker else 3, etag="" if marker else "e", modified=AT
    )


@pytest.mark.parametrize(
    ("conditions", "fails"),
    [
        (DeleteConditions.read({}), False),
        (DeleteConditions.read({"if-match": '"e"'}), False),
        (DeleteConditions.read({"if-match": "x"}), True),
        (DeleteConditions.read({"x-amz-if-match-size": "3"}), False),
        (DeleteConditions.read({"x-amz-if-match-size": "4"}), True),
        (DeleteConditions.read({"x-amz-if-match-last-modified-time": SAME}), False),
        (DeleteConditions.read({"x-amz-if-match-last-modified-time": BEFORE}), True),
        (DeleteConditions.of(Doomed("k", etag="e", size=3, modified=dates.iso_date(AT))), False),
        (DeleteConditions.of(Doomed("k", modified=dates.iso_date(AT - 60))), True),
    ],
)
def test_deletions_keep_to_their_conditions_but_not_of_nothing(conditions: DeleteConditions, fails: bool) -> None:
    conditions.check_version(None)
    if not fails:
        conditions.check_version(version())
        return
    with pytest.raises(S3Error) as caught:
        conditions.check_version(version())
    assert caught.value.code == "PreconditionFailed"


def test_a_marker_is_there_and_has_no_etag() -> None:
    DeleteConditions(match="*").check_version(version(marker=True))
    with pytest.raises(S3Error):
        DeleteConditions(match="e").check_version(version(marker=True))


@pytest.mark.parametrize(
    "headers", [{"x-amz-if-match-size": "-1"}, {"x-amz-if-match-size": "٣"}, {"x-amz-if-match-last-modified-time": "x"}]
)
def test_a_malformed_condition_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(S3Error) as caught:
        DeleteConditions.read(headers)
    assert caught.value.code == "InvalidArgument"


@given(st.integers(0, 4_294_967_295_999))
def test_moments_come_back_from_every_spelling(milliseconds: int) -> None:
    at, whole = milliseconds / 1000, milliseconds // 1000
    assert dates.read_http_date(dates.http_date(at)) == whole
    assert dates.read_basic_date(dates.basic_date(at)) == whole
    assert dates.read_iso_date(dates.iso_date(at)) == at
    midnight = dates.midnight_after(at)
    assert 0 <= midnight - at < 86_400 and midnight % 86_400 == 0


@given(st.text(max_size=40))
def test_no_text_is_an_error_for_a_date(text: str) -> None:
    for read in (dates.read_http_date, dates.read_basic_date, dates.read_iso_date):
        assert read(text) is None or isinstance(read(text), float)


def test_the_old_spellings_of_http_are_read() -> None:
    for text in ("Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"):
        assert dates.read_http_date(text) == 784_111_777
    assert dates.read_iso_date("2026-11-26") == dates.read_iso_date("2026-11-26T01:00:00+01:00")
    assert dates.read_iso_date("2026-13-26") is None and dates.read_basic_date("20261340T000000Z") is None


@pytest.mark.parametrize(
    "text", ["9999-12-31T23:59:59-00:01", "9999-12-31T23:59:59.999999999Z", "0001-01-01T00:00:00+14:00"]
)
def test_what_is_read_can_be_written(text: str) -> None:
    """Or a lock until then could be laid, and no answer could tell of it."""
    assert dates.read_iso_date(text) is None
    last = dates.read_iso_date("9999-12-31T23:59:59.999Z")
    assert last is not None and dates.http_date(last) == "Fri, 31 Dec 9999 23:59:59 GMT"
    assert dates.iso_date(last).startswith("9999-12-31T23:59:59.99")
    assert dates.read_http_date("Fri, 31 Dec 9999 23:59:59 -0100") is None


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("b/k", Source("b", "k")),
        ("/b/k%2Fl/?versionId=v1", Source("b", "k/l/", "v1")),
        ("b/a%20b+c", Source("b", "a b+c")),
        ("b/%E2%82%AC", Source("b", "€")),
        ("b//k", Source("b", "/k")),
        ("b/k%3FversionId=x", Source("b", "k?versionId=x")),
        ("b/k?x", Source("b", "k?x")),
        ("b", None),
        ("b/", None),
        ("/", None),
        ("b/k?versionId=", None),
        ("b/%zz", None),
        ("b/" + "a" * 1025, None),
    ],
)
def test_a_copys_source_is_read_once_or_refused(text: str, source: Source | None) -> None:
    if source is not None:
        assert read_copy_source(text) == source
        return
    with pytest.raises(S3Error) as caught:
        read_copy_source(text)
    assert caught.value.status == 400
