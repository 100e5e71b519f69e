"""Digests that run along with a body, and what clients say of them. Pure.

`Digests` feeds every wanted digest with each piece. `read_claimed` reads what the client said (a header, or a trailer still
to come), `Claimed.check` compares at the end. Where the client names no algorithm, CRC64NVME is computed and kept: it
costs next to nothing.

A multipart object has a checksum of one of two forms: COMPOSITE, the checksum of the parts' checksums with `-N`
behind, or FULL_OBJECT, that of all bytes, which CRCs allow to be put together from those of the parts.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from awscrt import checksums as crt

from hansa.gateways.s3.wire.errors import S3Error
from hansa.objectindex.records import Checksum

FULL_OBJECT, COMPOSITE = "FULL_OBJECT", "COMPOSITE"
DEFAULT = "CRC64NVME"
LENGTHS = {
    "CRC32": 4, "CRC32C": 4, "CRC64NVME": 8, "SHA1": 20, "SHA256": 32, "SHA512": 64, "MD5": 16,
    "XXHASH64": 8, "XXHASH3": 8, "XXHASH128": 16,
}  # fmt: skip
ALGORITHMS = tuple(LENGTHS)
HEADERS = {algorithm: f"x-amz-checksum-{algorithm.lower()}" for algorithm in ALGORITHMS}
_BY_HEADER = {header: algorithm for algorithm, header in HEADERS.items()}
_BESIDES = frozenset(("x-amz-checksum-algorithm", "x-amz-checksum-type", "x-amz-checksum-mode"))
_PARTS = re.compile(r"(.*)-([1-9][0-9]{0,4})", re.DOTALL)

Buffer = bytes | bytearray | memoryview


# -- computing ----------------------------------------------------------------------------------


class Running(Protocol):
    def update(self, data: Buffer, /) -> None: ...

    def digest(self) -> bytes: ...


class _Crc:
    """A CRC with the interface of hashlib; big-endian, as S3 writes them."""

    __slots__ = ("_compute", "_length", "_value")

    def __init__(self, compute: Callable[[Buffer, int], int], length: int) -> None:
        self._compute, self._length, self._value = compute, length, 0

    def update(self, data: Buffer, /) -> None:
        self._value = self._compute(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._length, "big")


class _XxHash:
    """An xxHash with the interface of hashlib: the library's may be asked for its value only once."""

    __slots__ = ("_hash", "_value")

    def __init__(self, found: crt.XXHash) -> None:
        self._hash, self._value = found, b""

    def update(self, data: Buffer, /) -> None:
        self._hash.update(bytes(data))  # it takes no other buffer

    def digest(self) -> bytes:
        self._value = self._value or self._hash.finalize()
        return self._value


def _md5() -> Running:
    return hashlib.md5(usedforsecurity=False)


def _sha1() -> Running:
    return hashlib.sha1(usedforsecurity=False)


_MAKERS: dict[str, Callable[[], Running]] = {
    "MD5": _md5,
    "SHA1": _sha1,
    "SHA256": hashlib.sha256,
    "SHA512": hashlib.sha512,
    "CRC32": lambda: _Crc(zlib.crc32, 4),
    "CRC32C": lambda: _Crc(crt.crc32c, 4),
    "CRC64NVME": lambda: _Crc(crt.crc64nvme, 8),
    "XXHASH64": lambda: _XxHash(crt.XXHash.new_xxhash64()),
    "XXHASH3": lambda: _XxHash(crt.XXHash.new_xxhash3_64()),
    "XXHASH128": lambda: _XxHash(crt.XXHash.new_xxhash3_128()),
}


class Digests:
    """Several digests of one body. The computing lets other threads run, so large pieces may go to a thread."""

    __slots__ = ("_running", "_updates", "size")

    def __init__(self, wanted: Iterable[str]) -> None:
        """Raises KeyError for a name that is no algorithm: a slip of ours."""
        self._running = {name: _MAKERS[name]() for name in dict.fromkeys(wanted)}
        self._updates = tuple(running.update for running in self._running.values())
        self.size = 0

    def __contains__(self, name: str) -> bool:
        return name in self._running

    def update(self, data: Buffer) -> None:
        self.size += len(data)
        for update in self._updates:
            update(data)

    def digest(self, name: str) -> bytes:
        return self._running[name].digest()

    def base64(self, name: str) -> str:
        return base64.b64encode(self.digest(name)).decode()

    def hex(self, name: str) -> str:
        return self.digest(name).hex()


def of(algorithm: str, data: Buffer) -> str:
    """The checksum of a whole body, base64."""
    digests = Digests((algorithm,))
    digests.update(data)
    return digests.base64(algorithm)


# -- what the client says -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a client says of a body. `value` (base64) is empty where it comes as the trailer `trailer`, or not at all.

    `algorithm` is what to compute and keep, the default where the client named none. `md5` and `sha256` are raw.
    """

    algorithm: str = DEFAULT
    value: str = ""
    trailer: str = ""
    md5: bytes | None = None
    sha256: bytes | None = None

    @property
    def said(self) -> bool:
        """Whether the client gave any digest of the body, so that it can be held to it."""
        return bool(self.value or self.trailer or self.md5)

    @property
    def wanted(self) -> tuple[str, ...]:
        """What has to run along to check all of it. MD5 for an ETag is for the caller to add."""
        return (
            self.algorithm,
            *(("MD5",) if self.md5 is not None else ()),
            *(("SHA256",) if self.sha256 is not None else ()),
        )

    def check(self, digests: Digests, trailers: Mapping[str, str] | None = None) -> Checksum:
        """The checksum to keep. Raises BadDigest, also for a trailer that is missing or none, XAmzContentSHA256Mismatch."""
        if self.sha256 is not None and digests.digest("SHA256") != self.sha256:
            raise S3Error.of(
                "XAmzContentSHA256Mismatch",
                ClientComputedContentSHA256=self.sha256.hex(),
                S3ComputedContentSHA256=digests.hex("SHA256"),
            )
        if self.md5 is not None and digests.digest("MD5") != self.md5:
            raise S3Error.of(
                "BadDigest",
                "The Content-MD5 is not that of the body that arrived.",
                ExpectedDigest=base64.b64encode(self.md5).decode(),
                CalculatedDigest=digests.base64("MD5"),
            )
        computed = digests.base64(self.algorithm)
        claimed = self.value
        if self.trailer:
            claimed = _value(self.algorithm, (trailers or {}).get(self.trailer, ""))
        if claimed and claimed != computed:
            raise S3Error.of("BadDigest", f"The {self.algorithm} is not that of the body that arrived.")
        return Checksum(self.algorithm, computed)


def read_claimed(headers: Mapping[str, str], *, body_sha256: str | None = None) -> Claimed:
    """`headers` with lower-case names; `body_sha256`: the hex digest under the signature, where there is one.

    Raises InvalidRequest (unknown algorithm, two values), BadDigest (a value that is none), InvalidDigest (Content-MD5).
    """
    given = [name for name in headers if name.startswith("x-amz-checksum-") and name not in _BESIDES]
    named = headers.get("x-amz-sdk-checksum-algorithm")
    trailer = headers.get("x-amz-trailer", "").strip().lower()
    if len(given) + bool(trailer) > 1:
        raise S3Error.of("InvalidRequest", "Only one x-amz-checksum- header or trailer may be sent.")
    algorithm = value = ""
    if given:
        algorithm = _of_header(given[0])
        value = _value(algorithm, headers[given[0]])
    elif trailer:
        algorithm = _of_header(trailer)
    if named is not None:
        wished = _known(named)
        if not algorithm:
            raise S3Error.of(
                "InvalidRequest", "x-amz-sdk-checksum-algorithm needs an x-amz-checksum- header or an x-amz-trailer."
            )
        if wished != algorithm:
            raise S3Error.of("InvalidRequest", f"x-amz-sdk-checksum-algorithm is {wished}, the checksum {algorithm}.")
    return Claimed(
        algorithm=algorithm or DEFAULT,
        value=value,
        trailer=trailer,
        md5=read_md5(headers.get("content-md5")),
        sha256=bytes.fromhex(body_sha256) if body_sha256 else None,
    )


def read_md5(text: str | None) -> bytes | None:
    """Content-MD5. Raises InvalidDigest."""
    if text is None:
        return None
    value = _decoded(text.strip(), LENGTHS["MD5"])
    if value is None:
        raise S3Error.of("InvalidDigest", "Content-MD5 must be 16 bytes in base64.")
    return value


def read_wish(headers: Mapping[str, str]) -> str:
    """The algorithm that an upload or a copy is to have (x-amz-checksum-algorithm); empty: none is named."""
    named = headers.get("x-amz-checksum-algorithm")
    return "" if named is None else _known(named)


def _of_header(header: str) -> str:
    algorithm = _BY_HEADER.get(header)
    if algorithm is None:
        raise S3Error.of("InvalidRequest", f"{header[:64]} is no checksum; these are: {', '.join(_BY_HEADER)}.")
    return algorithm


def _known(named: str) -> str:
    algorithm = named.strip().upper()
    if algorithm not in ALGORITHMS:
        raise S3Error.of("InvalidRequest", f"The checksum algorithm must be one of {', '.join(ALGORITHMS)}.")
    return algorithm


def _value(algorithm: str, text: str) -> str:
    """A checksum in its one spelling. Raises BadDigest: whatever was meant, it is not that of any body."""
    value = _decoded(text.strip(), LENGTHS[algorithm])
    if value is None:
        length = LENGTHS[algorithm]
        raise S3Error.of("BadDigest", f"The value of {HEADERS[algorithm]} must be {length} bytes in base64.")
    return base64.b64encode(value).decode()


def _decoded(text: str, length: int) -> bytes | None:
    try:
        value = base64.b64decode(text.encode(), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        return None
    return value if len(value) == length else None


# -- multipart ----------------------------------------------------------------------------------


def upload_form(algorithm: str, form: str | None) -> str:
    """The form of an upload's checksum: what the client asks (x-amz-checksum-type), or what the algorithm has.

    `algorithm` empty: the client named none. Raises InvalidRequest for a form that the algorithm cannot have.
    """
    if form is not None:
        form = form.strip().upper()
        if form not in (FULL_OBJECT, COMPOSITE):
            raise S3Error.of("InvalidRequest", f"x-amz-checksum-type must be {FULL_OBJECT} or {COMPOSITE}.")
        if not algorithm:
            raise S3Error.of("InvalidRequest", "x-amz-checksum-type needs an x-amz-checksum-algorithm.")
    allowed = _forms(algorithm or DEFAULT)
    if form is not None and form not in allowed:
        raise S3Error.of("InvalidRequest", f"{algorithm} cannot have the checksum type {form}.")
    return form or allowed[0]


def _forms(algorithm: str) -> tuple[str, ...]:
    """Allowed forms, the default first."""
    if algorithm == "CRC64NVME":
        return (FULL_OBJECT,)
    return (COMPOSITE, FULL_OBJECT) if algorithm.startswith("CRC") else (COMPOSITE,)


def of_parts(algorithm: str, form: str, parts: Sequence[tuple[str, int]]) -> Checksum:
    """The checksum of an object from those of its parts: each a base64 value and a size in bytes, in order."""
    if form == FULL_OBJECT:
        return Checksum(algorithm, _combined(algorithm, parts), FULL_OBJECT)
    joined = b"".join(base64.b64decode(value) for value, _ in parts)
    return Checksum(algorithm, f"{of(algorithm, joined)}-{len(parts)}", COMPOSITE)


def read_of_object(algorithm: str, text: str) -> str:
    """The value that a completion claims for the whole, with or without `-N` behind. Raises BadDigest."""
    counted = _PARTS.fullmatch(text.strip())
    if counted is None:
        return _value(algorithm, text)
    return f"{_value(algorithm, counted[1])}-{counted[2]}"


def _combined(algorithm: str, parts: Sequence[tuple[str, int]]) -> str:
    """CRCs are linear: that of `a + b` is that of `a` shifted by the length of `b`, plus that of `b`."""
    combine = {"CRC32": crt.combine_crc32, "CRC32C": crt.combine_crc32c, "CRC64NVME": crt.combine_crc64nvme}[algorithm]
    total = 0
    for value, size in parts:
        total = combine(total, int.from_bytes(base64.b64decode(value), "big"), size)
    return base64.b64encode(total.to_bytes(LENGTHS[algorithm], "big")).decode()
