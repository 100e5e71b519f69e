"""Signs requests of version 4: for our own client, for presigned addresses, and for tests. Pure; the clock comes in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hansa.gateways.s3 import canonical, dates
from hansa.gateways.s3.canonical import ALGORITHM, UNSIGNED, Scope, signing_key
from hansa.gateways.s3.uri import Query, encode_path, write_query


@dataclass(frozen=True, slots=True)
class Signer:
    """One key pair in one region."""

    access_key: str
    secret: bytes
    region: str

    def headers(
        self,
        method: str,
        path: str,
        query: Query,
        headers: Mapping[str, str],
        *,
        payload: str,
        now: float,
    ) -> dict[str, str]:
        """The headers to send: those given (host among them) and the signature's. `path` and `query` are decoded."""
        timestamp = dates.basic_date(now)
        scope = Scope(timestamp[:8], self.region)
        sent = {name.lower(): value for name, value in headers.items()}
        sent |= {"x-amz-date": timestamp, "x-amz-content-sha256": payload}
        signed = sorted(sent)
        signature = self._sign(method, path, query, sent, signed=signed, payload=payload, timestamp=timestamp)
        sent["authorization"] = (
            f"{ALGORITHM} Credential={self.access_key}/{scope}, SignedHeaders={';'.join(signed)}, Signature={signature}"
        )
        return sent

    def presign(
        self,
        method: str,
        host: str,
        path: str,
        query: Query,
        *,
        expires_s: int,
        now: float,
        headers: Mapping[str, str] | None = None,
    ) -> str:
        """Path and query of an address that holds for `expires_s` seconds. `headers`: those that must be sent along."""
        timestamp = dates.basic_date(now)
        sent = {name.lower(): value for name, value in (headers or {}).items()} | {"host": host}
        signed = sorted(sent)
        full = (
            *query,
            ("X-Amz-Algorithm", ALGORITHM),
            ("X-Amz-Credential", f"{self.access_key}/{Scope(timestamp[:8], self.region)}"),
            ("X-Amz-Date", timestamp),
            ("X-Amz-Expires", str(expires_s)),
            ("X-Amz-SignedHeaders", ";".join(signed)),
        )
        signature = self._sign(method, path, full, sent, signed=signed, payload=UNSIGNED, timestamp=timestamp)
        return f"{encode_path(path).decode()}?{write_query(full).decode()}&X-Amz-Signature={signature}"

    def _sign(
        self,
        method: str,
        path: str,
        query: Query,
        headers: Mapping[str, str],
        *,
        signed: list[str],
        payload: str,
        timestamp: str,
    ) -> str:
        folded = canonical.fold([(name.encode(), value.encode()) for name, value in headers.items()])
        text = canonical.canonical_request(method, encode_path(path), query, folded, signed=signed, payload=payload)
        scope = Scope(timestamp[:8], self.region)
        return canonical.signature(signing_key(self.secret, scope), canonical.string_to_sign(timestamp, scope, text))
