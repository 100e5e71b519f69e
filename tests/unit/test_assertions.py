"""Every rule on a service account's assertion, as a pure function: what breaks it is refused and named."""

import base64
import hashlib
import hmac
import json
from functools import cache
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import RSAKey

from hansa.api.assertions import LONGEST_S, MAX_LENGTH, SKEW_S, claimed, verify
from hansa.errors import Unauthenticated

NOW = 1_800_000_000.0
CLIENT = "robot_demo"
URL = "http://127.0.0.1:8080/realms/evroc-customer/protocol/openid-connect/token"
CLAIMS = {"iss": CLIENT, "sub": CLIENT, "aud": URL, "iat": NOW, "nbf": NOW, "exp": NOW + 300, "jti": "a" * 32}


@cache
def key(name: str = "own") -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": f"{name}.1"})


def keys(name: str = "own") -> dict[str, dict[str, Any]]:
    return {f"{name}.1": key(name).as_dict(private=False)}


def signed(claims: dict[str, Any], *, by: str = "own", **header: Any) -> str:
    said = {"alg": "RS256", "kid": f"{by}.1", **header}
    return jwt.encode(said, claims, key(by), algorithms=[said["alg"]])


def part(value: Any) -> str:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in CLAIMS.items() if name not in names}


def check(text: str, **more: Any) -> Any:
    return verify(text, more.pop("keys", keys()), CLIENT, **{"now": NOW, "audiences": {URL}, **more})


def refused(text: str, match: str, **more: Any) -> None:
    with pytest.raises(Unauthenticated, match=match):
        check(text, **more)


def test_a_good_assertion_names_client_key_and_jti() -> None:
    it = check(signed(CLAIMS))
    assert (it.client_id, it.kid, it.jti, it.expires_at) == (CLIENT, "own.1", "a" * 32, NOW + 300)


def test_times_may_be_off_by_the_skew() -> None:
    check(signed({**CLAIMS, "iat": NOW + SKEW_S, "nbf": NOW + SKEW_S, "exp": NOW + LONGEST_S + SKEW_S}))
    check(signed({**CLAIMS, "exp": NOW - SKEW_S + 1}))
    check(signed(without("iat", "nbf")))


@pytest.mark.parametrize("algorithm", ["RS384", "RS512", "PS256"])
def test_another_rsa_algorithm_is_refused(algorithm: str) -> None:
    refused(signed(CLAIMS, alg=algorithm), "RS256")


@pytest.mark.parametrize("name", ["none", "None", "NONE", ""])
def test_no_algorithm_is_refused(name: str) -> None:
    refused(f"{part({'alg': name, 'kid': 'own.1'})}.{part(CLAIMS)}.", "RS256")


def test_rs256_in_the_header_with_an_empty_signature_is_refused() -> None:
    refused(f"{part({'alg': 'RS256', 'kid': 'own.1'})}.{part(CLAIMS)}.", "signature")


def test_hs256_with_the_public_key_as_its_secret_is_refused() -> None:
    public = key().public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]
    for algorithm, match in (("HS256", "RS256"), ("RS256", "signature")):
        head = f"{part({'alg': algorithm, 'kid': 'own.1'})}.{part(CLAIMS)}"
        mac = hmac.new(public, head.encode(), hashlib.sha256).digest()
        refused(f"{head}.{part(mac)}", match)


def test_a_key_in_the_header_is_not_believed() -> None:
    header = {"alg": "RS256", "kid": "own.1", "jwk": key("other").as_dict(private=False)}
    refused(jwt.encode(header, CLAIMS, key("other"), algorithms=["RS256"]), "signature")


def test_the_key_of_another_account_is_refused() -> None:
    refused(signed(CLAIMS, by="other"), 'no key "other.1"')
    refused(signed(CLAIMS, by="other", kid="own.1"), "signature")
    refused(signed(CLAIMS, by="own", kid="other.1"), "signature", keys={**keys(), **keys("other")})


def test_an_assertion_without_kid_is_refused() -> None:
    header = {"alg": "RS256"}
    refused(jwt.encode(header, CLAIMS, key(), algorithms=["RS256"]), "kid")
    refused(f"{part({'alg': 'RS256', 'kid': 7})}.{part(CLAIMS)}.AA", "kid")


def test_critical_extensions_are_refused() -> None:
    refused(f"{part({'alg': 'RS256', 'kid': 'own.1', 'crit': ['b64'], 'b64': False})}.{part(CLAIMS)}.AA", "crit")


def test_unencoded_payloads_are_refused() -> None:
    refused(f"{part({'alg': 'RS256', 'kid': 'own.1', 'b64': False})}.{part(CLAIMS)}.AA", "signature")


def test_a_changed_claim_breaks_the_signature() -> None:
    head, _, signature = signed(CLAIMS).split(".")
    refused(f"{head}.{part({**CLAIMS, 'exp': NOW + 200})}.{signature}", "signature")


def test_a_changed_signature_is_refused() -> None:
    head, body, signature = signed(CLAIMS).split(".")
    refused(f"{head}.{body}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}", "signature")


@pytest.mark.parametrize("changed", [{"iss": "robot_other"}, {"sub": "robot_other"}, {"iss": None}, {"sub": ["x"]}])
def test_issuer_and_subject_must_both_be_the_client(changed: dict[str, Any]) -> None:
    refused(signed({**CLAIMS, **changed}), '"iss" and "sub"')


def test_an_assertion_of_another_client_is_refused() -> None:
    refused(signed({**CLAIMS, "iss": "robot_other", "sub": "robot_other"}), "signature")


@pytest.mark.parametrize("audience", [[URL, "http://other"], [URL], "http://other", URL + "/", None, 7])
def test_anything_but_one_accepted_audience_is_refused(audience: Any) -> None:
    refused(signed({**CLAIMS, "aud": audience}), '"aud"')


def test_an_assertion_without_audience_is_refused() -> None:
    refused(signed(without("aud")), '"aud"')


def test_an_expiry_too_far_ahead_is_refused() -> None:
    refused(signed({**CLAIMS, "exp": NOW + LONGEST_S + SKEW_S + 1}), "ahead")
    refused(signed({**CLAIMS, "exp": 1e308}), "ahead")


def test_an_expired_assertion_is_refused() -> None:
    refused(signed({**CLAIMS, "exp": NOW - SKEW_S}), "expired")


@pytest.mark.parametrize("name", ["nbf", "iat"])
def test_an_assertion_from_the_future_is_refused(name: str) -> None:
    refused(signed({**CLAIMS, name: NOW + SKEW_S + 1}), f'"{name}" is in the future')


@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
@pytest.mark.parametrize("value", ["soon", True, [], {}, str(NOW + 300)])
def test_a_time_that_is_no_number_is_refused(name: str, value: Any) -> None:
    refused(signed({**CLAIMS, name: value}), f'"{name}" must be a number')


@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
def test_a_time_that_is_not_a_number_in_the_other_sense_is_refused(name: str) -> None:
    refused(signed({**CLAIMS, name: float("nan")}), f'"{name}"|expired')
    refused(signed({**CLAIMS, name: 10**400}), f'"{name}"')


def test_an_assertion_without_expiry_is_refused() -> None:
    refused(signed(without("exp")), '"exp"')


@pytest.mark.parametrize("jti", ["", 7, None, "x" * 256, ["x"]])
def test_a_jti_that_is_no_name_is_refused(jti: Any) -> None:
    refused(signed({**CLAIMS, "jti": jti}), "jti")


def test_an_assertion_without_jti_is_refused() -> None:
    refused(signed(without("jti")), "jti")


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", "a.b", "a.b.c.d", "é.é.é", "e30.e30.e30", "W10.W10.AA", "x" * (MAX_LENGTH + 1), "e30=.e30=.AA=="],
)
def test_text_that_is_no_jwt_is_refused(text: str) -> None:
    with pytest.raises(Unauthenticated):
        check(text)


def test_a_deeply_nested_claim_is_refused() -> None:
    nested = part(b'{"a":' + b"[" * 5000 + b"]" * 1000 + b"}")
    refused(f"{part({'alg': 'RS256', 'kid': 'own.1'})}.{nested}.AA", "no JWT")


def test_nothing_is_told_of_the_account_before_the_signature_is_proven() -> None:
    forged = signed({**CLAIMS, "exp": NOW - 9999, "aud": "x"}, by="other", kid="own.1")
    refused(forged, "signature")


def test_what_an_assertion_claims_is_read_without_proof() -> None:
    it = claimed(signed(CLAIMS, by="other"))
    assert (it.client_id, it.kid) == (CLIENT, "other.1")


@given(st.text(alphabet="ab.e30=W10-_{}é\x00", max_size=60))
def test_no_text_raises_anything_else(text: str) -> None:
    with pytest.raises(Unauthenticated):
        check(text)


@given(st.integers(min_value=0), st.integers(min_value=0, max_value=255))
def test_no_flipped_byte_passes(at: int, byte: int) -> None:
    good = signed(CLAIMS).encode()
    at %= len(good)
    bad = good[:at] + bytes([byte]) + good[at + 1 :]
    if bad == good:
        return
    try:
        it = check(bad.decode("latin-1"))
    except Unauthenticated:
        return
    assert it.jti == CLAIMS["jti"], "the unused bits of the last character may differ, the claims may not"
