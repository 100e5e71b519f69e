"""Digests that run along, what clients claim, and the checksum of an object from those of its parts."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hansa.gateways.s3.wire import checksums
from hansa.gateways.s3.wire.checksums import ALGORITHMS, COMPOSITE, FULL_OBJECT, Claimed, Digests, read_claimed
from hansa.gateways.s3.wire.errors import S3Error
from hansa.objectindex.records import Checksum

CHECK = b"123456789"  # what every catalogue of CRCs gives its check value of
KNOWN = {
    "CRC32": "cbf43926",
    "CRC32C": "e3069283",
    "CRC64NVME": "ae8b14860a799888",
    "SHA1": hashlib.sha1(CHECK).hexdigest(),
    "SHA256": hashlib.sha256(CHECK).hexdigest(),
    "SHA512": hashlib.sha512(CHECK).hexdigest(),
    "MD5": hashlib.md5(CHECK).hexdigest(),
    "XXHASH64": "8cb841db40e6ae83",
    "XXHASH3": "72dcb18b67a17dff",
    "XXHASH128": "33119477ede5dcd5e9716427681d5860",
}


def test_every_digest_has_its_known_value() -> None:
    digests = Digests(KNOWN)
    digests.update(CHECK[:4])
    digests.update(memoryview(CHECK)[4:])
    assert {name: digests.hex(name) for name in KNOWN} == KNOWN
    assert digests.size == 9 and "MD5" in digests and "CRC16" not in digests


@given(st.lists(st.binary(max_size=300), max_size=6))
def test_the_whole_is_the_same_however_it_is_fed(pieces: list[bytes]) -> None:
    digests = Digests(KNOWN)
    for piece in pieces:
        digests.update(piece)
    for name in KNOWN:
        assert digests.base64(name) == checksums.of(name, b"".join(pieces))


@given(st.sampled_from(["CRC32", "CRC32C", "CRC64NVME"]), st.lists(st.binary(max_size=300), min_size=1, max_size=6))
def test_a_crc_of_the_whole_is_put_together_from_its_parts(algorithm: str, pieces: list[bytes]) -> None:
    parts = [(checksums.of(algorithm, piece), len(piece)) for piece in pieces]
    whole = Checksum(algorithm, checksums.of(algorithm, b"".join(pieces)), FULL_OBJECT)
    assert checksums.of_parts(algorithm, FULL_OBJECT, parts) == whole


def test_a_crc_is_put_together_over_terabytes() -> None:
    zero = [(checksums.of("CRC64NVME", b"\0" * (1 << 20)), 1 << 20)] * 3
    assert checksums.of_parts("CRC64NVME", FULL_OBJECT, zero).value == checksums.of("CRC64NVME", b"\0" * (3 << 20))
    assert checksums.of_parts("CRC32", FULL_OBJECT, [("AAAAAA==", 5 << 40), ("AAAAAA==", 1)]).value


def test_a_digest_may_be_asked_for_twice() -> None:
    for name in KNOWN:
        digests = Digests((name,))
        digests.update(CHECK)
        assert digests.hex(name) == digests.hex(name) == KNOWN[name]


@given(
    st.sampled_from([name for name in ALGORITHMS if name != "CRC64NVME"]),
    st.lists(st.binary(max_size=50), min_size=1, max_size=6),
)
def test_a_composite_is_the_checksum_of_checksums(algorithm: str, pieces: list[bytes]) -> None:
    parts = [(checksums.of(algorithm, piece), len(piece)) for piece in pieces]
    raw = b"".join(base64.b64decode(value) for value, _ in parts)
    found = checksums.of_parts(algorithm, COMPOSITE, parts)
    assert found == Checksum(algorithm, f"{checksums.of(algorithm, raw)}-{len(parts)}", COMPOSITE)
    assert checksums.read_of_object(algorithm, found.value) == found.value


def sent(claimed: Claimed, body: bytes, trailers: dict[str, str] | None = None) -> Checksum:
    digests = Digests(claimed.wanted)
    digests.update(body)
    return claimed.check(digests, trailers)


@given(st.sampled_from(ALGORITHMS), st.binary(max_size=100), st.booleans(), st.booleans())
def test_what_was_claimed_right_is_kept_and_wrong_is_refused(
    algorithm: str, body: bytes, right: bool, trailed: bool
) -> None:
    header = checksums.HEADERS[algorithm]
    value = checksums.of(algorithm, body if right else body + b"x")
    headers = {"x-amz-sdk-checksum-algorithm": algorithm, **({"x-amz-trailer": header} if trailed else {header: value})}
    claimed = read_claimed(headers)
    assert claimed.said and claimed.algorithm == algorithm
    trailers = {header: value} if trailed else None
    if right:
        assert sent(claimed, body, trailers) == Checksum(algorithm, value)
        return
    with pytest.raises(S3Error) as caught:
        sent(claimed, body, trailers)
    assert caught.value.code == "BadDigest"


def test_who_claims_nothing_gets_the_default() -> None:
    claimed = read_claimed({})
    assert not claimed.said and claimed.wanted == ("CRC64NVME",)
    assert sent(claimed, CHECK) == Checksum("CRC64NVME", base64.b64encode(bytes.fromhex(KNOWN["CRC64NVME"])).decode())


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"x-amz-checksum-crc32": "AAAAAA==", "x-amz-checksum-sha1": "x"}, "InvalidRequest"),
        ({"x-amz-checksum-crc32": "AAAAAA==", "x-amz-trailer": "x-amz-checksum-crc32"}, "InvalidRequest"),
        ({"x-amz-checksum-crc32": "AAAA"}, "BadDigest"),
        ({"x-amz-checksum-crc32": "AAAAAA"}, "BadDigest"),
        ({"x-amz-checksum-crc32": "é"}, "BadDigest"),
        ({"x-amz-checksum-md4": "AAAAAA=="}, "InvalidRequest"),
        ({"x-amz-trailer": "x-amz-meta-a"}, "InvalidRequest"),
        ({"x-amz-sdk-checksum-algorithm": "MD4"}, "InvalidRequest"),
        ({"x-amz-sdk-checksum-algorithm": "CRC32"}, "InvalidRequest"),
        ({"x-amz-sdk-checksum-algorithm": "SHA1", "x-amz-checksum-crc32": "AAAAAA=="}, "InvalidRequest"),
        ({"content-md5": "AAAA"}, "InvalidDigest"),
        ({"content-md5": ""}, "InvalidDigest"),
        ({"content-md5": "é"}, "InvalidDigest"),
    ],
)
def test_a_malformed_claim_is_refused(headers: dict[str, str], code: str) -> None:
    with pytest.raises(S3Error) as caught:
        read_claimed(headers)
    assert (caught.value.code, caught.value.status) == (code, 400)


def test_a_missing_trailer_is_no_checksum() -> None:
    claimed = read_claimed({"x-amz-trailer": "x-amz-checksum-crc32"})
    with pytest.raises(S3Error) as caught:
        sent(claimed, CHECK, {})
    assert caught.value.code == "BadDigest"


def test_every_digest_that_was_sent_is_held_to() -> None:
    md5 = base64.b64encode(bytes.fromhex(KNOWN["MD5"])).decode()
    assert sent(read_claimed({"content-md5": md5}, body_sha256=KNOWN["SHA256"]), CHECK).algorithm == "CRC64NVME"
    other = base64.b64encode(bytes(16)).decode()
    for headers, sha256, code in (
        ({"content-md5": other}, None, "BadDigest"),
        ({"content-md5": md5}, "0" * 64, "XAmzContentSHA256Mismatch"),
        ({"content-md5": md5, "x-amz-checksum-crc32": "AAAAAA=="}, KNOWN["SHA256"], "BadDigest"),
    ):
        with pytest.raises(S3Error) as caught:
            sent(read_claimed(headers, body_sha256=sha256), CHECK)
        assert caught.value.code == code


@pytest.mark.parametrize(
    ("algorithm", "asked", "form"),
    [
        ("", None, FULL_OBJECT),
        ("CRC64NVME", None, FULL_OBJECT),
        ("CRC64NVME", "FULL_OBJECT", FULL_OBJECT),
        ("CRC32", None, COMPOSITE),
        ("CRC32C", "full_object", FULL_OBJECT),
        ("SHA256", None, COMPOSITE),
        ("XXHASH3", None, COMPOSITE),
        ("XXHASH64", "FULL_OBJECT", None),
        ("CRC64NVME", "COMPOSITE", None),
        ("SHA1", "FULL_OBJECT", None),
        ("CRC32", "HALF", None),
        ("", "COMPOSITE", None),
    ],
)
def test_each_algorithm_has_its_forms(algorithm: str, asked: str | None, form: str | None) -> None:
    if form is not None:
        assert checksums.upload_form(algorithm, asked) == form
        return
    with pytest.raises(S3Error) as caught:
        checksums.upload_form(algorithm, asked)
    assert caught.value.code == "InvalidRequest"


def test_a_wish_names_a_known_algorithm() -> None:
    assert checksums.read_wish({}) == "" and checksums.read_wish({"x-amz-checksum-algorithm": "crc32c"}) == "CRC32C"
    with pytest.raises(S3Error):
        checksums.read_wish({"x-amz-checksum-algorithm": "CRC16"})
