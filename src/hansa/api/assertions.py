"""The signed assertion by which a service account proves who it is (RFC 7523), verified as a pure function.

Contract, section 2.3: RS256 alone, the key that `kid` names among that account's, one audience, five minutes
at most, a `jti`. Whether that `jti` was seen before, and how the account stands, is for the token service.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey

from hansa.errors import Unauthenticated

SKEW_S = 30
LONGEST_S = 300
MAX_LENGTH = 8192
MAX_JTI_LENGTH = 255
_ALGORITHM = "RS256"


@dataclass(frozen=True, slots=True)
class Claimed:
    """Who an assertion says that it is from, and with which key: nothing is proven yet."""

    client_id: str
    kid: str


@dataclass(frozen=True, slots=True)
class Assertion:
    """A verified assertion. `expires_at` in epoch seconds."""

    client_id: str
    kid: str
    jti: str
    expires_at: float


def claimed(text: str) -> Claimed:
    """Reads an assertion without proof, to know whose keys to fetch. Raises Unauthenticated."""
    header, claims = _parts(text)
    if header.get("alg") != _ALGORITHM:
        raise Unauthenticated(f"the assertion must be signed with {_ALGORITHM}")
    if "crit" in header:
        raise Unauthenticated('the assertion\'s header may hold no "crit"')
    kid, subject = header.get("kid"), claims.get("sub")
    if not isinstance(kid, str) or not kid:
        raise Unauthenticated('the assertion\'s header needs "kid", the id of the key that signed it')
    if not isinstance(subject, str) or not subject or claims.get("iss") != subject:
        raise Unauthenticated('the assertion\'s "iss" and "sub" must both be the client id')
    return Claimed(subject, kid)


def verify(
    text: str, keys: Mapping[str, Mapping[str, Any]], client_id: str, *, now: float, audiences: Collection[str]
) -> Assertion:
    """Every rule that needs no memory. `keys` are the account's public JWKs by `kid`.

    Raises Unauthenticated naming the rule; before the signature is proven it tells nothing about the account.
    """
    said = claimed(text)
    key = keys.get(said.kid)
    if said.client_id != client_id or key is None or not _is_signed_by(text, key):
        raise Unauthenticated(f'no key "{said.kid}" of client "{client_id}" made this signature')
    claims = _parts(text)[1]
    expires_at = _checked_times(claims, now)
    audience = claims.get("aud")
    if not isinstance(audience, str) or audience not in audiences:
        raise Unauthenticated(f'the assertion\'s "aud" must be one string, the token URL: {sorted(audiences)[0]}')
    jti = claims.get("jti")
    if not isinstance(jti, str) or not 0 < len(jti) <= MAX_JTI_LENGTH:
        raise Unauthenticated(f'the assertion needs a "jti" of 1 to {MAX_JTI_LENGTH} characters, never used before')
    return Assertion(client_id, said.kid, jti, expires_at)


def _is_signed_by(text: str, public_jwk: Mapping[str, Any]) -> bool:
    try:
        jws.deserialize_compact(text, RSAKey.import_key(dict(public_jwk)), algorithms=[_ALGORITHM])
    except (JoseError, ValueError):
        return False
    return True


def _checked_times(claims: Mapping[str, Any], now: float) -> float:
    """The `exp` of an assertion whose times are right. Comparisons are written so that NaN fails them."""
    expires_at = _moment(claims, "exp")
    if expires_at is None:
        raise Unauthenticated('the assertion needs "exp"')
    if not expires_at > now - SKEW_S:
        raise Unauthenticated("the assertion has expired; is this machine's clock right?")
    if not expires_at <= now + LONGEST_S + SKEW_S:
        raise Unauthenticated(f'the assertion\'s "exp" is more than {LONGEST_S} s ahead')
    for name in ("nbf", "iat"):
        moment = _moment(claims, name)
        if moment is not None and not moment <= now + SKEW_S:
            raise Unauthenticated(f"the assertion's \"{name}\" is in the future; is this machine's clock right?")
    return expires_at


def _moment(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Unauthenticated(f'the assertion\'s "{name}" must be a number of seconds')
    try:
        return float(value)
    except OverflowError as error:
        raise Unauthenticated(f'the assertion\'s "{name}" is no date') from error


def _parts(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    parts = text.split(".")
    if len(text) > MAX_LENGTH or len(parts) != 3:
        raise Unauthenticated("the assertion is no JWT in compact form")
    return _decoded(parts[0]), _decoded(parts[1])


def _decoded(part: str) -> dict[str, Any]:
    try:
        value = json.loads(base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True))
    except (ValueError, binascii.Error, RecursionError) as error:
        raise Unauthenticated("the assertion is no JWT in compact form") from error
    if not isinstance(value, dict):
        raise Unauthenticated("the assertion is no JWT in compact form")
    return value
