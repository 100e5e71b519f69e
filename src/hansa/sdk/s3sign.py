"""Signature version 4 of S3's requests, as a client makes it. Pure: the time is handed in.

A path is signed as it is sent: each byte that is no letter, digit, `-`, `.`, `_`, `~` or slash is written as `%XX`, once.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import quote

ALGORITHM = "AWS4-HMAC-SHA256"
EMPTY = hashlib.sha256(b"").hexdigest()
UNSIGNED = "UNSIGNED-PAYLOAD"
EXPIRES_S_MAX = 7 * 86_400


@dataclass(frozen=True, slots=True)
class Pair:
    """An access key with its secret, and the region in which it signs."""

    access_key: str
    secret_key: str = field(repr=False)
    region: str


def path_of(bucket: str, key: str) -> str:
    """The address of a bucket or an object in path style, encoded."""
    return "/" + quote(bucket + (f"/{key}" if key else ""), safe="/-._~") if bucket else "/"


def query_of(fields: Iterable[tuple[str, str]]) -> str:
    """Fields sorted and encoded: the form that is signed, sent as it is."""
    return "&".join(f"{name}={value}" for name, value in sorted((_encoded(n), _encoded(v)) for n, v in fields))


def signed(
    pair: Pair, method: str, path: str, query: str, headers: Mapping[str, str], payload: str, now: float
) -> dict[str, str]:
    """The headers to send: those given (`host` among them, lower-case names) and what signs them.

    `payload`: hex SHA-256 of the body, or UNSIGNED. `now` in epoch seconds.
    """
    stamp = _stamp(now)
    every = {**headers, "x-amz-date": stamp, "x-amz-content-sha256": payload}
    names = ";".join(sorted(every))
    lines = "".join(f"{name}:{' '.join(every[name].split())}\n" for name in sorted(every))
    canonical = "\n".join((method, path, query, lines, names, payload))
    scope = _scope(pair, stamp)
    signature = _signature(pair, stamp, scope, canonical)
    said = f"{ALGORITHM} Credential={pair.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
    return {**every, "authorization": said}


def presigned(pair: Pair, method: str, path: str, host: str, expires_s: int, now: float) -> str:
    """The query of an address that anybody may use for `expires_s` seconds."""
    stamp = _stamp(now)
    scope = _scope(pair, stamp)
    query = query_of((
        ("X-Amz-Algorithm", ALGORITHM), ("X-Amz-Credential", f"{pair.access_key}/{scope}"), ("X-Amz-Date", stamp),
        ("X-Amz-Expires", str(expires_s)), ("X-Amz-SignedHeaders", "host"),
    ))  # fmt: skip
    canonical = "\n".join((method, path, query, f"host:{host}\n", "host", UNSIGNED))
    return f"{query}&X-Amz-Signature={_signature(pair, stamp, scope, canonical)}"


def _stamp(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")


def _scope(pair: Pair, stamp: str) -> str:
    return f"{stamp[:8]}/{pair.region}/s3/aws4_request"


def _signature(pair: Pair, stamp: str, scope: str, canonical: str) -> str:
    key = f"AWS4{pair.secret_key}".encode()
    for word in scope.split("/"):
        key = hmac.digest(key, word.encode(), "sha256")
    text = "\n".join((ALGORITHM, stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()))
    return hmac.digest(key, text.encode(), "sha256").hex()


def _encoded(text: str) -> str:
    return quote(text, safe="-._~")
