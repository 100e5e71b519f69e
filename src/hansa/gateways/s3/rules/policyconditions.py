"""The conditions of a bucket policy: operators, the keys that there are, and what a request says about them. Pure.

An operator or a key that we do not know is refused when the policy is put: a condition that this cloud could not judge
would not mean what its author meant. A known key that a request does not carry makes a plain operator false and a
negated one true, as the policy language has it; `…IfExists` makes both true, `Null` asks for just that.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from hansa.gateways.s3.rules.globs import Glob

Context = Mapping[str, tuple[str, ...]]  # condition key in lower case (a tag's name as it is) -> its values
Network = IPv4Network | IPv6Network
Test = Callable[[str, Mapping[str, str]], bool]  # a value of the request, the variables -> does it meet the policy's?

VALUES_MAX = 400  # of one condition key
_NUMBER = re.compile(r"[+-]?\d{1,30}(\.\d{1,30})?", re.ASCII)
_TAGS = ("s3:existingobjecttag/", "s3:requestobjecttag/", "aws:principaltag/", "aws:requesttag/", "aws:resourcetag/")

# What a request here can carry, and what it never carries (there is no such thing here, or nothing tells us: it counts as
# absent).
_CARRIED = """
    aws:currenttime aws:epochtime aws:principalaccount aws:principalarn aws:principalorgid aws:principaltype aws:referer
    aws:requestedregion aws:resourceaccount aws:resourceorgid aws:securetransport aws:sourceip aws:tagkeys aws:userid
    aws:useragent aws:username
    s3:authtype s3:delimiter s3:locationconstraint s3:max-keys s3:object-lock-legal-hold s3:object-lock-mode
    s3:object-lock-remaining-retention-days s3:object-lock-retain-until-date s3:prefix s3:requestobjecttagkeys
    s3:resourceaccount s3:signatureage s3:signatureversion s3:tlsversion s3:versionid
    s3:x-amz-acl s3:x-amz-content-sha256 s3:x-amz-copy-source s3:x-amz-grant-full-control s3:x-amz-grant-read
    s3:x-amz-grant-read-acp s3:x-amz-grant-write s3:x-amz-grant-write-acp s3:x-amz-metadata-directive
    s3:x-amz-object-ownership s3:x-amz-server-side-encryption s3:x-amz-server-side-encryption-aws-kms-key-id
    s3:x-amz-server-side-encryption-customer-algorithm s3:x-amz-storage-class s3:x-amz-website-redirect-location
    s3:if-match s3:if-none-match
"""
_NEVER = """
    aws:calledvia aws:calledviafirst aws:calledvialast aws:federatedprovider aws:multifactorauthage
    aws:multifactorauthpresent aws:principalisawsservice aws:principalorgpaths aws:principalservicename
    aws:principalservicenameslist aws:resourceorgpaths aws:sourceaccount aws:sourcearn aws:sourceidentity
    aws:sourceorgid aws:sourceorgpaths aws:sourceowner aws:sourcevpc aws:sourcevpce aws:tokenissuetime aws:viaawsservice
    aws:vpcsourceip s3:accessgrantsinstancearn s3:accesspointnetworkorigin s3:dataaccesspointaccount
    s3:dataaccesspointarn s3:inventoryaccessibleoptionalfields s3:objectcreationoperation s3:objectownership
"""
_KEYS = frozenset((_CARRIED + _NEVER).split())


class Unclear(Exception):
    """A condition that cannot be read. The text says which rule it breaks; the reader of policies adds where."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One key under one operator. `quantifier`: empty, `all` or `any`."""

    operator: str
    key: str
    values: tuple[str, ...]
    tests: tuple[Test, ...]
    negated: bool = False
    if_exists: bool = False
    quantifier: str = ""

    def holds(self, context: Context, variables: Mapping[str, str]) -> bool:
        given = context.get(self.key, ())
        if self.operator == "Null":
            return (not given) is (self.values[0] == "true")
        if not given:
            return self._without()
        met = (any(test(value, variables) for test in self.tests) is not self.negated for value in given)
        if self.quantifier:
            return all(met) if self.quantifier == "all" else any(met)
        return all(met) if self.negated else any(met)

    def _without(self) -> bool:
        """The request does not carry the key."""
        if self.if_exists or self.quantifier == "all":
            return True
        return self.negated and not self.quantifier


def read_condition(operator: str, key: str, given: object) -> Condition:
    """`given`: what the policy holds, a value or a list of them. Raises Unclear."""
    quantifier, name, if_exists = _dissected(operator)
    family, negated = _OPERATORS[name]
    values = _values(given)
    if name == "Null":
        values = tuple(value.lower() for value in values)
        if if_exists or quantifier:
            raise Unclear("Null takes neither IfExists nor a quantifier")
        if len(values) != 1 or values[0] not in ("true", "false"):
            raise Unclear('Null takes "true" or "false"')
    tests = tuple(family(value) for value in values)
    return Condition(name, known_key(key), values, tests, negated, if_exists, quantifier)


def known_key(key: str) -> str:
    """As contexts have it: lower case, but for the name of a tag."""
    head, slash, tag = key.partition("/")
    folded = head.lower() + slash
    if slash and folded in _TAGS and tag:
        return folded + tag
    if not slash and folded in _KEYS:
        return folded
    raise Unclear(f"{key[:128]!r} is no condition key that this cloud knows")


def _dissected(operator: str) -> tuple[str, str, bool]:
    """Quantifier, plain name, whether IfExists."""
    head, colon, rest = operator.partition(":")
    quantifier = {"ForAllValues": "all", "ForAnyValue": "any"}.get(head, "") if colon else ""
    name = rest if quantifier else operator
    if_exists = name.endswith("IfExists")
    name = name.removesuffix("IfExists")
    if name not in _OPERATORS:
        raise Unclear(f"{operator[:128]!r} is no condition operator")
    return quantifier, name, if_exists


def _values(given: object) -> tuple[str, ...]:
    values = given if isinstance(given, list) else [given]
    if not values or len(values) > VALUES_MAX:
        raise Unclear(f"takes one value or a list of 1 to {VALUES_MAX}")
    return tuple(_text(value) for value in values)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | Decimal):
        return str(value)
    raise Unclear("a value is a string, a number or a boolean")


# -- the families: a value of the policy becomes a test of a value of the request ----------------------------------------


def _equal(wanted: str) -> Test:
    return _like_of(wanted, stars=False, folded=False)


def _equal_folded(wanted: str) -> Test:
    return _like_of(wanted, stars=False, folded=True)


def _like(wanted: str) -> Test:
    return _like_of(wanted, stars=True, folded=False)


def _like_of(wanted: str, *, stars: bool, folded: bool) -> Test:
    pattern = Glob(wanted if stars else _unstarred(wanted), variables=True, folded=folded)
    return pattern.matches


def _unstarred(text: str) -> str:
    """Stars and question marks of a plain comparison are letters; variables stay."""
    return "".join(
        piece if piece.startswith("${") else piece.replace("*", "${*}").replace("?", "${?}")
        for piece in re.split(r"(\$\{[^{}]*\})", text)
    )


def _arn(wanted: str) -> Test:
    """Part by part, so that a star never runs over a colon, but in the last."""
    parts = wanted.split(":", 5)
    if len(parts) != 6 or parts[0] not in ("arn", "*"):
        raise Unclear(f"{wanted[:128]!r} is no ARN")
    patterns = [Glob(part, variables=True) for part in parts]

    def test(value: str, variables: Mapping[str, str]) -> bool:
        given = value.split(":", 5)
        return len(given) == 6 and all(p.matches(g, variables) for p, g in zip(patterns, given, strict=True))

    return test


def _number(text: str) -> Decimal:
    if not _NUMBER.fullmatch(text):
        raise Unclear(f"{text[:64]!r} is no number")
    return Decimal(text)


def _numeric(compare: Callable[[Decimal, Decimal], bool]) -> Callable[[str], Test]:
    def family(wanted: str) -> Test:
        bound = _number(wanted)
        return lambda value, _: bool(_NUMBER.fullmatch(value)) and compare(Decimal(value), bound)

    return family


def _moment(text: str) -> Decimal:
    """Epoch seconds of an ISO 8601 date or of a number of seconds."""
    if _NUMBER.fullmatch(text):
        return Decimal(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise Unclear(f"{text[:64]!r} is no date; ISO 8601 or epoch seconds") from error
    return Decimal(str((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()))


def _date(compare: Callable[[Decimal, Decimal], bool]) -> Callable[[str], Test]:
    def family(wanted: str) -> Test:
        bound = _moment(wanted)

        def test(value: str, _: Mapping[str, str]) -> bool:
            try:
                return compare(_moment(value), bound)
            except Unclear:
                return False

        return test

    return family


def _bool(wanted: str) -> Test:
    if wanted.lower() not in ("true", "false"):
        raise Unclear('Bool takes "true" or "false"')
    return lambda value, _: value.lower() == wanted.lower()


def _address(wanted: str) -> Test:
    network = network_of(wanted)

    def test(value: str, _: Mapping[str, str]) -> bool:
        try:
            address = ip_address(value)
        except ValueError:
            return False
        return address in network

    return test


def network_of(text: str) -> Network:
    try:
        return ip_network(text, strict=False)
    except ValueError as error:
        raise Unclear(f"{text[:64]!r} is no IP address or range") from error


def _binary(wanted: str) -> Test:
    try:
        bound = base64.b64decode(wanted, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Unclear("BinaryEquals takes base64") from error
    plain = base64.b64encode(bound).decode()
    return lambda value, _: value == plain


def _nothing(_: str) -> Test:
    return lambda value, variables: True


_OPERATORS: dict[str, tuple[Callable[[str], Test], bool]] = {
    "StringEquals": (_equal, False), "StringNotEquals": (_equal, True),
    "StringEqualsIgnoreCase": (_equal_folded, False), "StringNotEqualsIgnoreCase": (_equal_folded, True),
    "StringLike": (_like, False), "StringNotLike": (_like, True),
    "ArnEquals": (_arn, False), "ArnNotEquals": (_arn, True), "ArnLike": (_arn, False), "ArnNotLike": (_arn, True),
    "NumericEquals": (_numeric(Decimal.__eq__), False), "NumericNotEquals": (_numeric(Decimal.__eq__), True),
    "NumericLessThan": (_numeric(Decimal.__lt__), False), "NumericLessThanEquals": (_numeric(Decimal.__le__), False),
    "NumericGreaterThan": (_numeric(Decimal.__gt__), False),
    "NumericGreaterThanEquals": (_numeric(Decimal.__ge__), False),
    "DateEquals": (_date(Decimal.__eq__), False), "DateNotEquals": (_date(Decimal.__eq__), True),
    "DateLessThan": (_date(Decimal.__lt__), False), "DateLessThanEquals": (_date(Decimal.__le__), False),
    "DateGreaterThan": (_date(Decimal.__gt__), False), "DateGreaterThanEquals": (_date(Decimal.__ge__), False),
    "Bool": (_bool, False), "BinaryEquals": (_binary, False),
    "IpAddress": (_address, False), "NotIpAddress": (_address, True),
    "Null": (_nothing, False),
}  # fmt: skip
