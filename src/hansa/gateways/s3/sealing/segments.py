"""How the bytes of objects are sealed: AES-256-GCM in segments of 256 KiB under a data key of their own. Pure.

A sealed piece is a header of 8 bytes (which says the format) and its segments, each with a tag of 16 bytes; even an
empty piece has one. The nonce is the segment's number: a data key seals one piece, once. Each segment is bound to the
project, the bucket, the piece's id, its own number and whether it is the last: so nothing can be cut, swapped, put in
another order or brought in from elsewhere without a tag failing.

The data key lies beside the piece's facts, wrapped under a key-encryption key (the project's, a named one, or the
customer's own) and bound to project, region, bucket and piece: that wrap, and not the bytes, is renewed when one of
them changes. With it stands a CRC-32C of the stored bytes, so that they can be looked over without any key.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hansa.errors import HansaError

SEGMENT: Final = 256 * 1024  # plain bytes
TAG: Final = 16
HEADER: Final = b"HANSA3\x01\x12"  # six letters, the format's version, the segment's size as a power of two
KEY_BYTES: Final = 32
ID_BYTES: Final = 16
WHOLE: Final = SEGMENT + TAG  # a full segment as it lies

_VERSION: Final = 1
_NONCE: Final = 12
_CRC: Final = 4
_WRAPPED: Final = KEY_BYTES + TAG
_HEAD: Final = 2 + ID_BYTES + _CRC + _NONCE
_PROJECTS, _CUSTOMERS = 0, 1


class Damaged(HansaError):
    """Stored bytes are not what was sealed: changed, cut, or not where they belong. `detail` is for operators."""

    reason = "Damaged"


@dataclass(frozen=True, slots=True)
class Place:
    """Where an object belongs: sealed bytes do not open anywhere else. Uids of project and bucket; the region's id."""

    project: str
    region: str
    bucket: str


@dataclass(frozen=True, slots=True)
class Run:
    """Segments `first` to `first + count - 1`, which lie in `stored` bytes at `at`; `skip` plain bytes, then `take`."""

    first: int
    count: int
    at: int
    stored: int
    skip: int
    take: int

    @property
    def begin(self) -> int:
        """The first plain byte that is taken."""
        return self.first * SEGMENT + self.skip


def segments_of(size: int) -> int:
    """How many segments `size` plain bytes make."""
    return max(1, -(-size // SEGMENT))


def stored_size(size: int) -> int:
    """Bytes that `size` plain bytes take when sealed."""
    return len(HEADER) + size + TAG * segments_of(size)


def plan(size: int, start: int, length: int) -> Run:
    """What has to be read for plain bytes `start` to `start + length - 1` of a piece of `size`. All lie inside."""
    assert start >= 0 and length > 0 and start + length <= size
    first, last = start // SEGMENT, (start + length - 1) // SEGMENT
    at = len(HEADER) + first * WHOLE
    end = min(len(HEADER) + (last + 1) * WHOLE, stored_size(size))
    return Run(first, last - first + 1, at, end - at, start - first * SEGMENT, length)


def split(run: Run, size: int, count: int) -> Iterator[Run]:
    """The run in runs of at most `count` segments, in order."""
    for first in range(run.first, run.first + run.count, count):
        begin = max(first * SEGMENT, run.first * SEGMENT + run.skip)
        end = min((first + count) * SEGMENT, run.first * SEGMENT + run.skip + run.take)
        yield plan(size, begin, end - begin)


def first_of(size: int, start: int, end: int, count: int) -> Run:
    """Of plain bytes `start` to `end - 1`: those in the first `count` segments."""
    until = (start // SEGMENT + count) * SEGMENT
    return plan(size, start, min(end, until) - start)


class Cipher:
    """Seals and opens the segments of one piece."""

    def __init__(self, key: bytes, place: Place, id: bytes) -> None:
        self._aead = AESGCM(key)
        self._bound = b"\0".join((HEADER, place.project.encode(), place.bucket.encode(), id))

    def seal(self, number: int, plain: bytes | memoryview, *, last: bool) -> bytes:
        return self._aead.encrypt(*self._words(number, plain, last))

    def seal_into(self, number: int, plain: memoryview, room: memoryview, *, last: bool) -> None:
        """The same into memory of the caller's, of just the size."""
        nonce, data, bound = self._words(number, plain, last)
        self._aead.encrypt_into(nonce, data, bound, room)

    def open(self, number: int, sealed: bytes | bytearray | memoryview, *, last: bool) -> bytes:
        """Raises Damaged."""
        try:
            return self._aead.decrypt(*self._words(number, sealed, last))
        except InvalidTag as error:
            raise Damaged("stored bytes are damaged", detail=f"segment {number} does not open") from error

    def open_into(self, number: int, sealed: bytes | memoryview, room: memoryview, *, last: bool) -> None:
        """The same into memory of the caller's, of just the size of the plain bytes. It is worth nothing after Damaged."""
        nonce, data, bound = self._words(number, sealed, last)
        try:
            self._aead.decrypt_into(nonce, data, bound, room)
        except InvalidTag as error:
            raise Damaged("stored bytes are damaged", detail=f"segment {number} does not open") from error

    def _words(
        self, number: int, data: bytes | bytearray | memoryview, last: bool
    ) -> tuple[bytes, bytes | bytearray | memoryview, bytes]:  # fmt: skip
        nonce = number.to_bytes(_NONCE, "big")
        return nonce, data, self._bound + nonce + (b"\x01" if last else b"\x00")

    def open_one(self, run: Run, size: int, sealed: bytes | bytearray) -> bytes | memoryview:
        """The same of a run of one segment."""
        if len(sealed) != run.stored:
            raise _cut_off(run, sealed)
        plain = self.open(run.first, sealed, last=run.first == segments_of(size) - 1)
        return plain if run.take == len(plain) else memoryview(plain)[run.skip : run.skip + run.take]

    def open_run(self, run: Run, size: int, sealed: bytes | bytearray | memoryview) -> list[bytes | memoryview]:
        """The plain bytes that the run is for, a segment an entry. Raises Damaged."""
        if len(sealed) != run.stored:
            raise _cut_off(run, sealed)
        view, last = memoryview(sealed), segments_of(size) - 1
        plain: list[bytes | memoryview] = [
            self.open(run.first + n, view[n * WHOLE : (n + 1) * WHOLE], last=run.first + n == last)
            for n in range(run.count)
        ]
        end = run.skip + run.take - (run.count - 1) * SEGMENT
        if end < len(plain[-1]):
            plain[-1] = memoryview(plain[-1])[:end]
        if run.skip:
            plain[0] = memoryview(plain[0])[run.skip :]
        return plain


def _cut_off(run: Run, sealed: bytes | bytearray | memoryview) -> Damaged:
    detail = f"{run.stored} bytes at {run.at} are due, {len(sealed)} are there"
    return Damaged("stored bytes are damaged", detail=detail)


def seal_small(cipher: Cipher, plain: bytes) -> bytes:
    """All of a piece of at most one segment, header included."""
    assert len(plain) <= SEGMENT
    return HEADER + cipher.seal(0, plain, last=True)


# -- the data key beside the facts --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SealedKey:
    """A data key, wrapped. `key` names the key-encryption key of the project (empty: its default one); `customers`:
    the customer has it. `crc` is the CRC-32C of the stored bytes."""

    id: bytes
    crc: int
    nonce: bytes
    wrapped: bytes
    key: str = ""
    customers: bool = False

    def text(self) -> str:
        return base64.b64encode(self._head() + self.wrapped + self.key.encode()).decode()

    def _head(self) -> bytes:
        kind = _CUSTOMERS if self.customers else _PROJECTS
        return bytes((_VERSION, kind)) + self.id + self.crc.to_bytes(_CRC, "big") + self.nonce

    @classmethod
    def read(cls, text: str) -> SealedKey:
        """Raises Damaged."""
        try:
            raw = base64.b64decode(text, validate=True)
            version, kind, name = raw[0], raw[1], raw[_HEAD + _WRAPPED :].decode()
        except (ValueError, IndexError) as error:
            raise Damaged("an object's key cannot be read") from error
        if version != _VERSION or kind not in {_PROJECTS, _CUSTOMERS} or len(raw) < _HEAD + _WRAPPED:
            raise Damaged("an object's key cannot be read", detail=f"version {version}, {len(raw)} bytes")
        crc_at, nonce_at = 2 + ID_BYTES, 2 + ID_BYTES + _CRC
        crc = int.from_bytes(raw[crc_at:nonce_at], "big")
        return cls(
            raw[2:crc_at], crc, raw[nonce_at:_HEAD], raw[_HEAD : _HEAD + _WRAPPED], name, kind == _CUSTOMERS
        )  # fmt: skip

    def bound(self, place: Place) -> bytes:
        """What the wrap is bound to."""
        return b"\0".join(
            (self._head(), place.project.encode(), place.region.encode(), place.bucket.encode(), self.key.encode())
        )


def wrap(data_key: bytes, master: bytes, place: Place, unwrapped: SealedKey) -> SealedKey:
    """`unwrapped` is all that stands beside the data key; its nonce must be a new one each time."""
    wrapped = _wrapping(master, unwrapped.id).encrypt(unwrapped.nonce, data_key, unwrapped.bound(place))
    return SealedKey(unwrapped.id, unwrapped.crc, unwrapped.nonce, wrapped, unwrapped.key, unwrapped.customers)


def unwrap(sealed: SealedKey, master: bytes, place: Place) -> bytes:
    """The data key. Raises Damaged: it is another master key, belongs elsewhere, or was changed."""
    try:
        return _wrapping(master, sealed.id).decrypt(sealed.nonce, sealed.wrapped, sealed.bound(place))
    except InvalidTag as error:
        raise Damaged("an object's key does not open: another key, another place, or it was changed") from error


def _wrapping(master: bytes, id: bytes) -> AESGCM:
    """A key for this piece's wraps alone, so that no number of objects wears the master key's nonces out."""
    return AESGCM(hmac.digest(master, b"hansa s3 wrap 1" + id, "sha256"))
