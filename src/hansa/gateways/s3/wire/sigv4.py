"""Who signed a request, by AWS signature version 4: in its headers, or in its address (presigned). Pure.

Two steps, because the secret must be looked up between them:

    claim = read_claim(request, now=…)        what the request says of itself; None: nobody signed it
    verify(claim, request, signing_key(…))    believed from here on

The clock is passed in. What is refused is refused in the words that clients know; nothing here ever echoes a secret,
and a wrong signature costs the same time as a right one.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from hansa.gateways.s3.wire import canonical, dates
from hansa.gateways.s3.wire.canonical import ALGORITHM, UNSIGNED, RawHeaders, Scope, signing_key
from hansa.gateways.s3.wire.errors import S3Error
from hansa.gateways.s3.wire.uri import canonical_query, encode_path

__all__ = ["Claim", "Request", "Scope", "read_claim", "read_credential", "signing_key", "verify"]

SKEW_S = 15 * 60
EXPIRES_S_MAX = 7 * 24 * 3600
SIGNED_HEADERS_MAX = 128
STREAMING_SIGNED = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
STREAMING_SIGNED_TRAILER = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
STREAMING_UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
STREAMING = frozenset((STREAMING_SIGNED, STREAMING_SIGNED_TRAILER, STREAMING_UNSIGNED_TRAILER))

_HEX_64 = re.compile(r"[0-9a-fA-F]{64}")
_SIGNATURE = re.compile(r"[0-9a-f]{64}")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")
_ACCESS_KEY = re.compile(r"[\x21-\x7e]{1,128}")
_DATE = re.compile(r"[0-9]{8}")
_REGION = re.compile(r"[A-Za-z0-9-]{1,64}")
_IN_ADDRESS = ("X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders")
_NEEDED = (*_IN_ADDRESS, "X-Amz-Signature")
_SIGNS = frozenset(("X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Signature"))  # any of them: it is meant to be signed
_TOKEN = "There are no session tokens here; leave X-Amz-Security-Token out."  # noqa: S105 - words for a client
_REMEMBERED_MAX = 512  # characters of what many requests say alike
_SIGV2 = "Signature version 2 is not accepted; sign with AWS4-HMAC-SHA256."


@dataclass(frozen=True, slots=True)
class Request:
    """What a signature covers. `path` is decoded (`uri.decode`), `headers` raw with lower-case names. `fields` are those
    of `raw_query`, as it came."""

    method: str
    path: str
    raw_query: bytes
    headers: RawHeaders
    fields: Mapping[str, str]
    folded: Mapping[bytes, bytes] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "folded", canonical.fold(self.headers))

    def header(self, name: str) -> str | None:
        value = self.folded.get(name.encode())
        return None if value is None else value.decode("latin-1")


@dataclass(frozen=True, slots=True)
class Claim:
    """What a request says of its signer; nothing in it is believed before `verify`.

    `payload`: the word or digest in x-amz-content-sha256. `at`: epoch seconds. `presigned`: it stands in the address.
    """

    access_key: str
    scope: Scope
    signed_headers: tuple[str, ...]
    signature: str
    timestamp: str
    at: float
    payload: str
    presigned: bool

    @property
    def body_sha256(self) -> str | None:
        """The digest that the body must have (hex, lower case), where the signer gave one."""
        return self.payload.lower() if _HEX_64.fullmatch(self.payload) else None

    @property
    def streaming(self) -> bool:
        return self.payload in STREAMING


def read_claim(request: Request, *, now: float) -> Claim | None:
    """The claim of a request, all but the signature itself checked; None for an anonymous one.

    Raises AccessDenied, AuthorizationHeaderMalformed, AuthorizationQueryParametersError, InvalidArgument,
    InvalidRequest, InvalidToken, RequestTimeTooSkewed.
    """
    authorization = request.header("authorization")
    in_address = bool(request.fields) and _check_address(request.fields, is_signed=authorization is not None)
    if b"x-amz-security-token" in request.folded:
        raise S3Error.of("InvalidToken", _TOKEN)
    if authorization is not None:
        claim = _from_header(authorization, request, now)
    elif in_address:
        claim = _from_address(request, now)
    else:
        return None
    _require_signed(claim, request)
    return claim


def _check_address(asked: Mapping[str, str], *, is_signed: bool) -> bool:
    """Whether the address is signed. Raises for other signatures than ours in it, and for a second one."""
    in_address = not _SIGNS.isdisjoint(asked)
    if "Signature" in asked and "AWSAccessKeyId" in asked:
        raise S3Error.of("InvalidRequest", _SIGV2)
    if is_signed and in_address:
        raise S3Error.of("InvalidArgument", "Only one way to sign is allowed: the Authorization header or the address.")
    if "X-Amz-Security-Token" in asked:
        raise S3Error.of("InvalidToken", _TOKEN)
    return in_address


def verify(claim: Claim, request: Request, key: bytes) -> None:
    """`key`: `signing_key` of the claimed access key's secret and the claim's scope.

    Raises SignatureDoesNotMatch; the answer shows the client what we signed, so that it can compare.
    """
    text = canonical.canonical_request(
        request.method,
        encode_path(request.path),
        canonical_query(request.raw_query, without=b"X-Amz-Signature" if claim.presigned else None),
        request.folded,
        signed=claim.signed_headers,
        payload=claim.payload,
    )
    to_sign = canonical.string_to_sign(claim.timestamp, claim.scope, text)
    if not hmac.compare_digest(canonical.signature(key, to_sign), claim.signature):
        raise _mismatch(claim, text, to_sign)


def _mismatch(claim: Claim, text: bytes, to_sign: bytes) -> S3Error:
    shown = {
        "AWSAccessKeyId": claim.access_key,
        "StringToSign": to_sign.decode(),
        "SignatureProvided": claim.signature,
    }
    if b"customer-key" not in text:  # an encryption key of the client's goes nowhere, not even back to it
        shown["CanonicalRequest"] = text.decode(errors="replace")
    return S3Error("SignatureDoesNotMatch", extras=shown)


# -- in the header ------------------------------------------------------------------------------


def _from_header(authorization: str, request: Request, now: float) -> Claim:
    scheme, _, rest = authorization.strip().partition(" ")
    if not scheme:
        raise S3Error.of("AccessDenied", "The Authorization header is empty.")
    if scheme == "AWS":
        raise S3Error.of("InvalidRequest", _SIGV2)
    if scheme != ALGORITHM:
        raise S3Error.of("InvalidArgument", f"The only Authorization accepted is {ALGORITHM}.")
    fields = _fields(rest)
    access_key, scope = read_credential(fields["Credential"], "AuthorizationHeaderMalformed")
    timestamp, at = _header_time(request)
    if abs(now - at) > SKEW_S:
        raise _skewed(timestamp, now)
    if timestamp[:8] != scope.date:
        raise _malformed("the date of the credential's scope is not the date of the request")
    return Claim(
        access_key=access_key,
        scope=scope,
        signed_headers=_signed_headers(fields["SignedHeaders"], "AuthorizationHeaderMalformed"),
        signature=_signature(fields["Signature"], "AuthorizationHeaderMalformed"),
        timestamp=timestamp,
        at=at,
        payload=_header_payload(request),
        presigned=False,
    )


def _fields(text: str) -> dict[str, str]:
    """`Credential=…, SignedHeaders=…, Signature=…` in any order, with or without blanks."""
    fields: dict[str, str] = {}
    for part in text.split(",", 8):
        name, equals, value = part.strip().partition("=")
        if not equals or name in fields:
            raise _malformed("Credential, SignedHeaders and Signature are expected, each once, with commas between")
        fields[name] = value
    missing = [name for name in ("Credential", "SignedHeaders", "Signature") if not fields.get(name)]
    if missing:
        raise _malformed(f"{missing[0]} is missing")
    return fields


def _header_time(request: Request) -> tuple[str, float]:
    amz_date = request.header("x-amz-date")
    if amz_date is not None:
        at = dates.read_basic_date(amz_date)
        if at is not None:
            return amz_date, at
    date = request.header("date")
    at = None if date is None or amz_date is not None else dates.read_http_date(date)
    if at is None and date is not None and amz_date is None:
        at = dates.read_basic_date(date)
    if at is None:
        raise S3Error.of("AccessDenied", "A signed request needs a valid x-amz-date or Date header.")
    return dates.basic_date(at), at


def _header_payload(request: Request) -> str:
    payload = request.header("x-amz-content-sha256")
    if payload is None:
        raise S3Error.of("InvalidRequest", "The header x-amz-content-sha256 is missing.")
    return _payload(payload)


def _payload(word: str) -> str:
    if word == UNSIGNED or word in STREAMING or _HEX_64.fullmatch(word):
        return word
    raise S3Error.argument(
        "x-amz-content-sha256", word, f"must be {UNSIGNED}, a SHA-256 in hexadecimal, or one of {', '.join(STREAMING)}"
    )


# -- in the address -----------------------------------------------------------------------------


def _from_address(request: Request, now: float) -> Claim:
    fields = request.fields
    for name in _NEEDED:
        if not fields.get(name):
            raise _bad_query(f"{name} is missing; these are needed: {', '.join(_NEEDED)}")
    if fields["X-Amz-Algorithm"] != ALGORITHM:
        raise _bad_query(f"X-Amz-Algorithm must be {ALGORITHM}")
    access_key, scope = read_credential(fields["X-Amz-Credential"], "AuthorizationQueryParametersError")
    timestamp = fields["X-Amz-Date"]
    at = dates.read_basic_date(timestamp)
    if at is None:
        raise _bad_query("X-Amz-Date must have the form YYYYMMDDTHHMMSSZ")
    if timestamp[:8] != scope.date:
        raise _bad_query("the date of the credential's scope is not that of X-Amz-Date")
    _require_in_time(fields["X-Amz-Expires"], at, now)
    return Claim(
        access_key=access_key,
        scope=scope,
        signed_headers=_signed_headers(fields["X-Amz-SignedHeaders"], "AuthorizationQueryParametersError"),
        signature=_signature(fields["X-Amz-Signature"], "AuthorizationQueryParametersError"),
        timestamp=timestamp,
        at=at,
        payload=_address_payload(fields, request),
        presigned=True,
    )


def _require_in_time(expires: str, at: float, now: float) -> None:
    """An address that never could be valid is refused like one that is valid no more: 403."""
    if not expires.removeprefix("-").isdecimal() or not expires.isascii():
        raise _bad_query("X-Amz-Expires must be a number of seconds")
    seconds = int(expires) if len(expires) < 10 else 0
    if not 1 <= seconds <= EXPIRES_S_MAX:
        raise S3Error.of("AccessDenied", f"X-Amz-Expires must be 1 to {EXPIRES_S_MAX} seconds.")
    if at - now > SKEW_S:
        raise S3Error.of("AccessDenied", "Request is not valid yet")
    if now > at + seconds:
        until = {"X-Amz-Expires": str(seconds), "Expires": dates.iso_date(at + seconds)}
        raise S3Error("AccessDenied", "Request has expired", extras=until | {"ServerTime": dates.iso_date(now)})


def _address_payload(fields: Mapping[str, str], request: Request) -> str:
    word = fields.get("X-Amz-Content-Sha256") or request.header("x-amz-content-sha256")
    return UNSIGNED if word is None else _payload(word)


# -- both ---------------------------------------------------------------------------------------


def read_credential(text: str, code: str) -> tuple[str, Scope]:
    """The access key and the scope in a credential. Raises `code`."""
    return (_credential if len(text) <= _REMEMBERED_MAX else _credential.__wrapped__)(text, code)


@lru_cache(maxsize=4096)
def _credential(text: str, code: str) -> tuple[str, Scope]:
    parts = text.rsplit("/", 4)
    if len(parts) != 5:
        raise S3Error.of(code, "The credential must have the form KEY/YYYYMMDD/REGION/s3/aws4_request.")
    access_key, date, region, service, terminator = parts
    if service != "s3" or terminator != canonical.TERMINATOR:
        raise S3Error.of(code, "The credential's scope must end with /s3/aws4_request.")
    if not _ACCESS_KEY.fullmatch(access_key) or not _DATE.fullmatch(date) or not _REGION.fullmatch(region):
        raise S3Error.of(code, "The credential must have the form KEY/YYYYMMDD/REGION/s3/aws4_request.")
    return access_key, Scope(date, region)


def _signed_headers(text: str, code: str) -> tuple[str, ...]:
    return (_names if len(text) <= _REMEMBERED_MAX else _names.__wrapped__)(text, code)


@lru_cache(maxsize=1024)
def _names(text: str, code: str) -> tuple[str, ...]:
    names = tuple(text.split(";", SIGNED_HEADERS_MAX))
    if len(names) > SIGNED_HEADERS_MAX or len(set(names)) != len(names):
        raise S3Error.of(code, f"SignedHeaders may hold up to {SIGNED_HEADERS_MAX} names, each once.")
    if not all(_HEADER_NAME.fullmatch(name) for name in names):
        raise S3Error.of(code, "SignedHeaders must be lower-case names with semicolons between.")
    return names


def _signature(text: str, code: str) -> str:
    if not _SIGNATURE.fullmatch(text):
        raise S3Error.of(code, "The signature must be 64 hexadecimal digits in lower case.")
    return text


def _require_signed(claim: Claim, request: Request) -> None:
    """The host and every x-amz-* header must be under the signature, or somebody on the way could add one."""
    names = request.folded.keys() - canonical.encoded_names(claim.signed_headers)
    bare = [name.decode("latin-1") for name in sorted(names) if name.startswith(b"x-amz-")]
    if "host" not in claim.signed_headers:
        bare.insert(0, "host")
    if bare:
        raise S3Error.of(
            "AccessDenied",
            "There are headers in the request that are not signed.",
            HeadersNotSigned=", ".join(bare)[:1024],
        )


def _skewed(timestamp: str, now: float) -> S3Error:
    return S3Error.of(
        "RequestTimeTooSkewed",
        RequestTime=timestamp,
        ServerTime=dates.iso_date(now),
        MaxAllowedSkewMilliseconds=SKEW_S * 1000,
    )


def _malformed(rule: str) -> S3Error:
    return S3Error.of("AuthorizationHeaderMalformed", f"The Authorization header cannot be read: {rule}.")


def _bad_query(rule: str) -> S3Error:
    return S3Error.of("AuthorizationQueryParametersError", f"The signature in the address cannot be read: {rule}.")
