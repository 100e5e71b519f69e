"""Uploads by a browser's form: what the form's signer allowed, and whether the form keeps to it. Pure.

The signer writes a policy (JSON, base64): until when, and conditions on each field. Every field must be named by a
condition but the signature's own, the file and those that begin with `x-ignore-`; so must the bucket, whether the form
names it or not. A checksum of the file needs no condition: it holds the form to what it says.

A form may be signed as of old, too (HMAC-SHA1 of the policy, with the secret itself): web pages of long ago still are,
and what such a signature covers is the same.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hansa.gateways.s3.wire import canonical, dates
from hansa.gateways.s3.wire.errors import S3Error
from hansa.gateways.s3.wire.sigv4 import Scope, read_credential

CONDITIONS_MAX = 200
SIZE_MAX = 5 << 30
_EXEMPT = frozenset(("file", "policy", "x-amz-signature", "awsaccesskeyid", "signature"))
_FREE = ("x-ignore-", "x-amz-checksum-")
_DIGITS = re.compile(r"[0-9]{1,18}")
_SIGNED_OF_OLD = ("awsaccesskeyid", "signature")
_SIGNED = ("x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-signature")


@dataclass(frozen=True, slots=True)
class FormClaim:
    """Who says to have signed the form's policy; nothing is believed before `verify_form`. `scope` None: signed as of
    old."""

    access_key: str
    scope: Scope | None
    policy: str
    signature: str


@dataclass(frozen=True, slots=True)
class Condition:
    """`operator` is eq or starts-with; `field` a lower-case name."""

    operator: str
    field: str
    value: str

    def holds(self, value: str) -> bool:
        return value.startswith(self.value) if self.operator == "starts-with" else value == self.value

    def __str__(self) -> str:
        return f'["{self.operator}", "${self.field}", "{self.value}"]'


@dataclass(frozen=True, slots=True)
class PostPolicy:
    """`until`: epoch seconds. `least` and `most`: the file's size in bytes, both allowed."""

    until: float
    conditions: tuple[Condition, ...]
    least: int = 0
    most: int = SIZE_MAX

    def check(self, fields: Mapping[str, str], *, bucket: str, now: float) -> None:
        """Whether the form keeps to it. `fields` with lower-case names, `${filename}` already filled in.

        Raises AccessDenied, naming the condition or the field that no condition names.
        """
        if now > self.until:
            raise _denied("Policy expired.")
        present = {**fields, "bucket": bucket}
        if fields.get("bucket", bucket) != bucket:
            raise _denied("the form's field bucket is not the bucket of the address.")
        for condition in self.conditions:
            if not condition.holds(present.get(condition.field, "")):
                raise _denied(f"Policy Condition failed: {condition}")
        named = {condition.field for condition in self.conditions}
        for name in present:
            if name not in named and name not in _EXEMPT and not name.startswith(_FREE):
                raise _denied(f"Extra input fields: {name[:64]}")

    def check_size(self, size: int) -> None:
        """Of the file, when it is all there; `most` can be held to before. Raises EntityTooSmall, EntityTooLarge."""
        if size < self.least:
            raise S3Error.of("EntityTooSmall", ProposedSize=size, MinSizeAllowed=self.least)
        if size > self.most:
            raise S3Error.of("EntityTooLarge", ProposedSize=size, MaxSizeAllowed=self.most)


def read_form_claim(fields: Mapping[str, str]) -> FormClaim | None:
    """`fields` with lower-case names; None for a form that nobody signed.

    Raises InvalidArgument for a field that is missing, InvalidToken.
    """
    if "x-amz-security-token" in fields:
        raise S3Error.of("InvalidToken", "There are no session tokens here; leave x-amz-security-token out.")
    policy = fields.get("policy")
    if "awsaccesskeyid" in fields or "signature" in fields:
        _require(fields, ("policy", *_SIGNED_OF_OLD))
        return FormClaim(fields["awsaccesskeyid"], None, fields["policy"], fields["signature"])
    if policy is None and not any(name in fields for name in _SIGNED):
        return None
    _require(fields, ("policy", *_SIGNED))
    if fields["x-amz-algorithm"] != canonical.ALGORITHM:
        raise S3Error.argument("x-amz-algorithm", fields["x-amz-algorithm"], f"must be {canonical.ALGORITHM}")
    access_key, scope = read_credential(fields["x-amz-credential"], "InvalidArgument")
    if dates.read_basic_date(fields["x-amz-date"]) is None or fields["x-amz-date"][:8] != scope.date:
        raise S3Error.argument("x-amz-date", fields["x-amz-date"], "must be YYYYMMDDTHHMMSSZ, on the credential's day")
    return FormClaim(access_key, scope, fields["policy"], fields["x-amz-signature"])


def _require(fields: Mapping[str, str], names: Iterable[str]) -> None:
    for name in names:
        if not fields.get(name):
            raise S3Error.argument(name, "", "a signed form must have this field")


def verify_form(claim: FormClaim, key: bytes) -> None:
    """`key`: `sigv4.signing_key` of the access key's secret and the claim's scope, the secret itself where there is no
    scope. Raises SignatureDoesNotMatch."""
    if claim.scope is None:
        computed = base64.b64encode(hmac.digest(key, claim.policy.encode(), "sha1")).decode()
    else:
        computed = canonical.signature(key, claim.policy.encode())
    if not hmac.compare_digest(computed.encode(), claim.signature.encode()):
        raise S3Error.of(
            "SignatureDoesNotMatch", AWSAccessKeyId=claim.access_key, SignatureProvided=claim.signature[:64]
        )


def read_policy(text: str) -> PostPolicy:
    """A policy as the form carries it. Raises InvalidPolicyDocument, naming the member and its rule."""
    try:
        document = json.loads(base64.b64decode("".join(text.split()).encode(), validate=True))
    except (binascii.Error, ValueError, RecursionError) as error:
        raise _bad("it must be JSON in base64") from error
    if not isinstance(document, dict):
        raise _bad("it must be an object")
    expiration, listed = document.get("expiration"), document.get("conditions")
    until = dates.read_iso_date(expiration) if isinstance(expiration, str) and "T" in expiration else None
    if until is None:
        raise _bad("expiration must be a moment in the form 2026-11-26T00:00:00Z")
    if not isinstance(listed, list) or len(listed) > CONDITIONS_MAX:
        raise _bad(f"conditions must be a list of up to {CONDITIONS_MAX}")
    conditions: list[Condition] = []
    least, most = 0, SIZE_MAX
    for one in listed:
        if isinstance(one, list) and one and _word(one[0]) == "content-length-range":
            low, high = _sizes(one)
            least, most = max(least, low), min(most, high)
        else:
            conditions.extend(_conditions(one))
    return PostPolicy(until, tuple(conditions), least, most)


def fill_filename(value: str, filename: str) -> str:
    """`${filename}` in a key, and in no other field that is signed away."""
    return value.replace("${filename}", filename)


def _conditions(one: object) -> list[Condition]:
    if isinstance(one, dict) and one:
        if not all(isinstance(value, str) for value in one.values()):
            raise _bad("the values of a condition must be text")
        return [Condition("eq", name.lower(), value) for name, value in one.items()]
    if isinstance(one, list) and len(one) == 3 and all(isinstance(word, str) for word in one):
        operator, name, value = one
        if operator.lower() in ("eq", "starts-with") and name.startswith("$") and len(name) > 1:
            return [Condition(operator.lower(), name[1:].lower(), value)]
    raise _bad('a condition is {"field": "value"}, ["eq", "$field", "value"] or ["starts-with", "$field", "value"]')


def _sizes(one: list[object]) -> tuple[int, int]:
    numbers = [int(word) if isinstance(word, str) and _DIGITS.fullmatch(word) else word for word in one[1:]]
    match numbers:
        case [int(low), int(high)] if 0 <= low <= high and not isinstance(low, bool) and not isinstance(high, bool):
            return low, high
    raise _bad('content-length-range must be ["content-length-range", least, most] in bytes')


def _word(value: object) -> str:
    return value.lower() if isinstance(value, str) else ""


def _bad(rule: str) -> S3Error:
    return S3Error.of("InvalidPolicyDocument", f"The form's policy cannot be read: {rule}.")


def _denied(why: str) -> S3Error:
    return S3Error.of("AccessDenied", f"Invalid according to Policy: {why}")
