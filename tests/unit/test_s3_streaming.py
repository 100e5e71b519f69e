"""Bodies in chunks: the published examples, every way of cutting them, and every way of getting them wrong."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator

import pytest
from botocore.httpchecksum import AwsChunkedWrapper, CrtCrc32cChecksum
from hypothesis import given
from hypothesis import strategies as st

from hansa.gateways.s3.wire import checksums
from hansa.gateways.s3.wire.canonical import EMPTY_SHA256, Scope, signature, signing_key
from hansa.gateways.s3.wire.errors import S3Error
from hansa.gateways.s3.wire.sigv4 import (
    STREAMING_SIGNED,
    STREAMING_SIGNED_TRAILER,
    STREAMING_UNSIGNED_TRAILER,
    Request,
    read_claim,
    verify,
)
from hansa.gateways.s3.wire.streaming import (
    BLANK_LINES_MAX,
    LINE_BYTES_MAX,
    SMALL_CHUNKS_MAX,
    ChunkedBody,
    Seed,
    decoded_length,
    stored_encoding,
)

SCOPE = Scope("20130524", "us-east-1")
KEY = signing_key(b"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", SCOPE)
WHEN = "20130524T000000Z"
CRC = "x-amz-checksum-crc32c"


def seed(first: str) -> Seed:
    return Seed(KEY, WHEN, str(SCOPE), first)


def chunk(data: bytes, signed: str) -> bytes:
    return f"{len(data):x};chunk-signature={signed}\r\n".encode() + data + b"\r\n"


def decoded(body: ChunkedBody, *parts: bytes) -> tuple[bytes, dict[str, str]]:
    payload = b"".join(bytes(piece) for part in parts for piece in body.feed(part))
    return payload, body.finish()


PAYLOAD = b"a" * 65536 + b"a" * 1024
SIGNED_SEED = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"
SIGNED = (
    chunk(PAYLOAD[:65536], "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648")
    + chunk(PAYLOAD[65536:], "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497")
    + chunk(b"", "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9")
)
TRAILER_SEED = "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e"


def test_the_published_signed_body_is_decoded_however_it_is_cut() -> None:
    assert len(SIGNED) == 66824
    for step in (1 << 20, 65536, 1000, 7):
        parts = [SIGNED[at : at + step] for at in range(0, len(SIGNED), step)]
        body = ChunkedBody(STREAMING_SIGNED, len(PAYLOAD), seed=seed(SIGNED_SEED))
        assert decoded(body, *parts) == (PAYLOAD, {})


def test_the_published_request_seeds_its_chunks() -> None:
    names = "content-encoding;content-length;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;x-amz-storage-class"
    headers = {
        "host": "s3.amazonaws.com",
        "x-amz-date": WHEN,
        "x-amz-storage-class": "REDUCED_REDUNDANCY",
        "authorization": f"AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/{SCOPE},SignedHeaders={names},Signature={SIGNED_SEED}",
        "x-amz-content-sha256": STREAMING_SIGNED,
        "content-encoding": "aws-chunked",
        "x-amz-decoded-content-length": "66560",
        "content-length": "66824",
    }
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    request = Request("PUT", "/examplebucket/chunkObject.txt", b"", raw, {})
    claim = read_claim(request, now=1369353600.0)
    assert claim is not None and claim.streaming and claim.body_sha256 is None
    verify(claim, request, KEY)
    body = ChunkedBody(claim.payload, decoded_length(headers), seed=Seed.of(claim, KEY))
    assert decoded(body, SIGNED)[0] == PAYLOAD


def signed_body(form: str, first: str, pieces: list[bytes], trailers: dict[str, str]) -> bytes:
    """A signer of chunks, written from the description: no code of the decoder's."""

    def sign(what: str, *lines: str) -> str:
        return signature(KEY, "\n".join((what, WHEN, str(SCOPE), *lines)).encode())

    previous, out = first, b""
    for piece in (*pieces, b""):
        previous = sign("AWS4-HMAC-SHA256-PAYLOAD", previous, EMPTY_SHA256, hashlib.sha256(piece).hexdigest())
        heading = f"{len(piece):x};chunk-signature={previous}\r\n".encode()
        out += heading + (piece + b"\r\n" if piece else b"")
    if form == STREAMING_SIGNED:
        return out + b"\r\n"
    text = "".join(f"{name}:{value}\n" for name, value in trailers.items())
    last = sign("AWS4-HMAC-SHA256-TRAILER", previous, hashlib.sha256(text.encode()).hexdigest())
    lines = "".join(f"{name}:{value}\r\n" for name, value in trailers.items())
    return out + f"{lines}x-amz-trailer-signature:{last}\r\n\r\n".encode()


def unsigned_body(pieces: list[bytes], trailers: dict[str, str]) -> bytes:
    out = b"".join(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in pieces)
    return out + b"0\r\n" + "".join(f"{name}:{value}\r\n" for name, value in trailers.items()).encode() + b"\r\n"


def test_the_published_chunk_signatures_with_a_trailer_are_ours() -> None:
    body = signed_body(
        STREAMING_SIGNED_TRAILER,
        TRAILER_SEED,
        [PAYLOAD[:65536], PAYLOAD[65536:]],
        {CRC: checksums.of("CRC32C", PAYLOAD)},
    )
    for known in (
        "b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2",
        "1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7",
        "2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992",
    ):
        assert known.encode() in body
    assert b"x-amz-checksum-crc32c:sOO8/Q==\r\n" in body


@st.composite
def bodies(draw: st.DrawFn) -> tuple[str, list[bytes], bytes, str]:
    form = draw(st.sampled_from([STREAMING_SIGNED, STREAMING_SIGNED_TRAILER, STREAMING_UNSIGNED_TRAILER]))
    large = draw(st.lists(st.integers(8192, 9000), max_size=3))
    sizes = [*large, *draw(st.lists(st.integers(1, 100), max_size=1))]
    pieces = [draw(st.binary(min_size=1, max_size=1)) * size for size in sizes]
    trailers = {} if form == STREAMING_SIGNED else {CRC: checksums.of("CRC32C", b"".join(pieces))}
    if form == STREAMING_UNSIGNED_TRAILER:
        return form, pieces, unsigned_body(pieces, trailers), CRC
    return form, pieces, signed_body(form, SIGNED_SEED, pieces, trailers), CRC if trailers else ""


def decoder(form: str, length: int, trailer: str) -> ChunkedBody:
    first = None if form == STREAMING_UNSIGNED_TRAILER else seed(SIGNED_SEED)
    return ChunkedBody(form, length, seed=first, trailer=trailer)


def cut(data: bytes, step: int) -> Iterator[bytes]:
    return (data[at : at + step] for at in range(0, len(data), step))


@given(bodies(), st.integers(1, 300) | st.integers(1, 30_000))
def test_every_body_comes_out_whole_however_it_is_cut(sent: tuple[str, list[bytes], bytes, str], step: int) -> None:
    form, pieces, raw, trailer = sent
    payload = b"".join(pieces)
    body = decoder(form, len(payload), trailer)
    got, trailers = decoded(body, *cut(raw, step))
    assert got == payload
    assert trailers == ({CRC: checksums.of("CRC32C", payload)} if trailer else {})


@given(bodies(), st.data())
def test_a_body_that_is_cut_short_is_never_whole(
    sent: tuple[str, list[bytes], bytes, str], data: st.DataObject
) -> None:
    form, pieces, raw, trailer = sent
    short = raw[: data.draw(st.integers(0, len(raw) - 1))]
    with pytest.raises(S3Error) as caught:
        decoded(decoder(form, sum(map(len, pieces)), trailer), short)
    assert caught.value.code == "IncompleteBody"


@given(bodies(), st.data())
def test_a_changed_byte_never_gives_another_payload_in_a_signed_body(
    sent: tuple[str, list[bytes], bytes, str], data: st.DataObject
) -> None:
    form, pieces, raw, trailer = sent
    at = data.draw(st.integers(0, len(raw) - 1))
    other = raw[:at] + bytes((raw[at] ^ data.draw(st.integers(1, 255)),)) + raw[at + 1 :]
    payload = b"".join(pieces)
    try:
        got, trailers = decoded(decoder(form, len(payload), trailer), other)
    except S3Error as error:
        assert 400 <= error.status < 500
        return
    claimed = trailers.get(CRC)
    if form != STREAMING_UNSIGNED_TRAILER:
        assert got == payload  # what changed was the case of a digit, or a line's end
    elif got != payload:
        assert claimed != checksums.of("CRC32C", got)  # the checksum is for whoever stores it to compare


@given(
    st.sampled_from([STREAMING_SIGNED, STREAMING_SIGNED_TRAILER, STREAMING_UNSIGNED_TRAILER]),
    st.lists(st.binary(max_size=80), max_size=5),
)
def test_no_rubbish_raises_anything_but_a_refusal(form: str, parts: list[bytes]) -> None:
    for prefix in (b"", b"5\r\nhello\r\n", b"0\r\n"):
        with pytest.raises(S3Error):
            decoded(decoder(form, 5, CRC), prefix, *parts, b"\x00")


def refused(form: str, raw: bytes, length: int, trailer: str = CRC) -> str:
    with pytest.raises(S3Error) as caught:
        decoded(decoder(form, length, trailer), raw)
    return caught.value.code


def test_what_is_wrong_with_a_body_is_said() -> None:
    plain, good = STREAMING_UNSIGNED_TRAILER, f"{CRC}:AAAAAA==\r\n\r\n".encode()
    assert decoded(decoder(plain, 5, CRC), b"5\r\nhello\r\n0\r\n" + good) == (b"hello", {CRC: "AAAAAA=="})
    assert refused(plain, b"5\r\nhello\r\n0\r\n" + good, 6) == "IncompleteBody"
    assert refused(plain, b"5\r\nhello\r\n0\r\n" + good, 4) == "IncompleteBody"
    assert refused(plain, b"4\r\nhello\r\n0\r\n" + good, 5) == "InvalidRequest"
    assert refused(plain, b"5\nhello\r\n0\r\n" + good, 5) == "InvalidRequest"
    assert refused(plain, b"-5\r\nhello\r\n0\r\n" + good, 5) == "InvalidRequest"
    assert refused(plain, b"5" * (LINE_BYTES_MAX + 2), 5) == "InvalidRequest"
    assert refused(plain, b"5\r\nhello\r\n0\r\n\r\n", 5) == "MalformedTrailerError"
    assert refused(plain, b"5\r\nhello\r\n0\r\nx-amz-meta-a:b\r\n" + good, 5) == "MalformedTrailerError"
    assert refused(plain, b"5\r\nhello\r\n0\r\nrubbish\r\n\r\n", 5) == "MalformedTrailerError"
    assert refused(plain, b"5\r\nhello\r\n0\r\n" + good + b"more\r\n", 5) == "InvalidRequest"
    assert refused(plain, b"1\r\na\r\n" * (SMALL_CHUNKS_MAX + 1), 10_000) == "InvalidChunkSizeError"
    signed = STREAMING_SIGNED
    assert refused(signed, b"5\r\nhello\r\n0\r\n\r\n", 5, "") == "InvalidRequest"
    assert (
        refused(signed, SIGNED.replace(b";chunk-signature=0055", b";chunk-signature=0056"), 66560, "")
        == "SignatureDoesNotMatch"
    )
    small = signed_body(signed, SIGNED_SEED, [b"a" * 10, b"a" * 8192], {})
    assert refused(signed, small, 8202, "") == "InvalidChunkSizeError"
    unsigned_trailer = signed_body(STREAMING_SIGNED, SIGNED_SEED, [], {})[:-2] + good
    assert refused(STREAMING_SIGNED_TRAILER, unsigned_trailer, 0) in ("MalformedTrailerError", "IncompleteBody")


def test_empty_lines_after_the_last_chunk_come_to_an_end() -> None:
    unsigned = unsigned_body([b"hello"], {CRC: "AAAAAA=="})
    signed = signed_body(STREAMING_SIGNED, SIGNED_SEED, [b"hello"], {})
    for form, raw, trailer in ((STREAMING_UNSIGNED_TRAILER, unsigned, CRC), (STREAMING_SIGNED, signed, "")):
        more = b"\r\n" * (BLANK_LINES_MAX - 1)
        assert decoded(decoder(form, 5, trailer), raw + more)[0] == b"hello"
        assert refused(form, raw + more + b"\r\n", 5, trailer) == "InvalidRequest"


def test_a_signature_of_a_trailer_that_is_no_signature_is_refused() -> None:
    raw = signed_body(STREAMING_SIGNED_TRAILER, SIGNED_SEED, [b"hello"], {CRC: "AAAAAA=="})
    head, mark, _ = raw.rpartition(b"x-amz-trailer-signature:")
    for sign in (b"0" * 64, b"", b"\xe9" * 64):
        assert refused(STREAMING_SIGNED_TRAILER, head + mark + sign + b"\r\n\r\n", 5) == "SignatureDoesNotMatch"


def test_a_trailer_that_ends_with_a_line_feed_of_its_own_is_read() -> None:
    raw = signed_body(STREAMING_SIGNED_TRAILER, SIGNED_SEED, [b"hello"], {CRC: "AAAAAA=="})
    raw = raw.replace(b"AAAAAA==\r\n", b"AAAAAA==\n\r\n")
    assert decoded(decoder(STREAMING_SIGNED_TRAILER, 5, CRC), raw) == (b"hello", {CRC: "AAAAAA=="})


@given(st.binary(max_size=5000), st.integers(8192, 20_000))
def test_what_boto_frames_is_decoded(data: bytes, chunk_size: int) -> None:
    payload = data * 9
    frames = AwsChunkedWrapper(
        io.BytesIO(payload), checksum_cls=CrtCrc32cChecksum, checksum_name=CRC, chunk_size=chunk_size
    )
    body = ChunkedBody(STREAMING_UNSIGNED_TRAILER, len(payload), trailer=CRC)
    assert decoded(body, *frames) == (payload, {CRC: checksums.of("CRC32C", payload)})


def test_a_payload_is_never_copied() -> None:
    raw = unsigned_body([b"x" * 65536], {})
    (piece,) = ChunkedBody(STREAMING_UNSIGNED_TRAILER, 65536).feed(raw)
    assert isinstance(piece, memoryview) and piece.obj is raw


@pytest.mark.parametrize(
    ("text", "code"),
    [(None, "MissingContentLength"), ("x", "InvalidArgument"), ("-1", "InvalidArgument"), ("9" * 15, "EntityTooLarge")],
)
def test_the_length_must_be_told(text: str | None, code: str) -> None:
    with pytest.raises(S3Error) as caught:
        decoded_length({} if text is None else {"x-amz-decoded-content-length": text})
    assert caught.value.code == code


def test_the_way_is_no_encoding_of_the_object() -> None:
    assert stored_encoding("aws-chunked") == ""
    assert stored_encoding("aws-chunked, gzip") == stored_encoding("gzip,AWS-chunked") == "gzip"
    assert stored_encoding("deflate,gzip") == "deflate,gzip"
