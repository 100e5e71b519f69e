"""What a signature of version 4 is made over, byte for byte. Shared by `sigv4`, `streaming` and `postpolicy`.

S3 differs from every other service in the path: each byte is encoded once and nothing is normalised. Header values
stay the bytes that came, so that what was signed is what is checked.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

ALGORITHM = "AWS4-HMAC-SHA256"
EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
UNSIGNED = "UNSIGNED-PAYLOAD"
TERMINATOR = "aws4_request"
_BLANKS = re.compile(rb"[ \t]+")

RawHeaders = Sequence[tuple[bytes, bytes]]  # lower-case names, as a server hands them on


@dataclass(frozen=True, slots=True)
class Scope:
    """Where and when a signature holds: `date` is YYYYMMDD."""

    date: str
    region: str
    service: str = "s3"

    def __str__(self) -> str:
        return f"{self.date}/{self.region}/{self.service}/{TERMINATOR}"


def signing_key(secret: bytes, scope: Scope) -> bytes:
    """The key of one day, region and service (32 bytes). Callers may keep it for as long as they keep the secret."""
    key = b"AWS4" + secret
    for word in (scope.date, scope.region, scope.service, TERMINATOR):
        key = hmac.digest(key, word.encode(), "sha256")
    return key


def signature(key: bytes, text: bytes) -> str:
    return hmac.digest(key, text, "sha256").hex()


def canonical_request(
    method: str,
    path: bytes,
    query: bytes,
    headers: Mapping[bytes, bytes],
    *,
    signed: tuple[str, ...],
    payload: str,
) -> bytes:
    """`path` and `query` as `uri.encode_path` and `uri.canonical_query` give them; `headers` as `fold` does; `signed` in
    the order of the signature."""
    names, listed, _ = _encoded(signed)
    lines = [method.encode(), path or b"/", query]
    lines += [name + b":" + headers.get(name, b"") for name in names]
    return b"\n".join((*lines, b"", listed, payload.encode()))


def encoded_names(signed: tuple[str, ...]) -> frozenset[bytes]:
    return _encoded(signed)[2]


@lru_cache(maxsize=1024)  # of lists that a reader of claims has let in
def _encoded(signed: tuple[str, ...]) -> tuple[tuple[bytes, ...], bytes, frozenset[bytes]]:
    """The names in bytes, the list of them as it is signed, and the set of them."""
    names = tuple([name.encode() for name in signed])
    return names, b";".join(names), frozenset(names)


def string_to_sign(timestamp: str, scope: Scope, request: bytes) -> bytes:
    return f"{ALGORITHM}\n{timestamp}\n{scope}\n{hashlib.sha256(request).hexdigest()}".encode()


def fold(headers: RawHeaders) -> dict[bytes, bytes]:
    """Value by name: trimmed, runs of blanks made one, fields of the same name joined by a comma."""
    folded: dict[bytes, bytes] = {}
    for name, raw in headers:
        value = raw.strip(b" \t")
        if b"  " in value or b"\t" in value:
            value = _BLANKS.sub(b" ", value)
        folded[name] = folded[name] + b"," + value if name in folded else value
    return folded
