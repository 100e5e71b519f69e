"""Bucket policies: a JSON document is read once, strictly, and then asked about many requests. Pure.

The stored text is the tenant's own and is answered letter for letter; what is here is the reading of it. Explicit deny
wins over allow, and a policy that says nothing leaves the decision to the others (`access.decide_s3`). Whatever cannot
be judged exactly is refused with MalformedPolicy, which names the statement and the member.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum

from hansa.gateways.s3.rules.globs import Glob
from hansa.gateways.s3.rules.policyactions import ACTIONS
from hansa.gateways.s3.rules.policyconditions import Condition, Context, Unclear, network_of, read_condition
from hansa.gateways.s3.wire.errors import S3Error

POLICY_BYTES_MAX = 20 * 1024
STATEMENTS_MAX = 200
ENTRIES_MAX = 400  # of a list of principals, actions or resources
TEXT_MAX = 2048
COSTLY_MAX = 16  # patterns of a policy that take work anew for each request
BUCKET_ARN = "arn:aws:s3:::"

_VERSIONS = ("2012-10-17", "2008-10-17")
_MEMBERS = frozenset({"Version", "Id", "Statement"})
_OF_A_STATEMENT = frozenset(
    {"Sid", "Effect", "Principal", "NotPrincipal", "Action", "NotAction", "Resource", "NotResource", "Condition"}
)
_KINDS_OF_PRINCIPAL = frozenset({"AWS", "CanonicalUser", "Service", "Federated"})
_PRINCIPAL = re.compile(r"arn:aws[a-z-]*:(iam|sts)::[\w.-]*:\S{1,512}|[\w/.@:-]{1,512}", re.ASCII)


class Opinion(Enum):
    EXPLICIT_DENY = "explicit deny"
    ALLOW = "allow"
    NO_OPINION = "no opinion"


@dataclass(frozen=True, slots=True)
class Request:
    """What a policy is asked about.

    `action`: `s3:GetObject`; `resource`: an ARN of a bucket or an object. `names`: every text by which a policy may
    name who asks, none for the anonymous. `variables`: values of `${…}`, by name in lower case.
    """

    action: str
    resource: str
    names: frozenset[str] = frozenset()
    context: Context = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Principals:
    """`everyone`: a star. `names`: of accounts, people and services."""

    everyone: bool = False
    names: frozenset[str] = frozenset()

    def include(self, names: frozenset[str]) -> bool:
        return self.everyone or not self.names.isdisjoint(names)


@dataclass(frozen=True, slots=True)
class Statement:
    """One rule. `not_…`: the member was given in its negated form."""

    allows: bool
    principals: Principals
    actions: tuple[Glob, ...]
    resources: tuple[Glob, ...]
    conditions: tuple[Condition, ...] = ()
    not_principals: bool = False
    not_actions: bool = False
    not_resources: bool = False
    sid: str = ""

    def applies(self, request: Request) -> bool:
        return (
            self.principals.include(request.names) is not self.not_principals
            and any(glob.matches(request.action) for glob in self.actions) is not self.not_actions
            and any(glob.matches(request.resource, request.variables) for glob in self.resources)
            is not self.not_resources
            and all(condition.holds(request.context, request.variables) for condition in self.conditions)
        )

    @property
    def is_public(self) -> bool:
        """Does it let in people whom nobody named? A condition on a fixed value narrows it."""
        return self.allows and self.principals.everyone and not any(narrows(c) for c in self.conditions)


@dataclass(frozen=True, slots=True)
class BucketPolicy:
    statements: tuple[Statement, ...]

    def opinion(self, request: Request) -> tuple[Opinion, str]:
        """And the Sid of the statement that says so (its number where it has none)."""
        allowed = ""
        for number, statement in enumerate(self.statements):
            if (statement.allows and allowed) or not statement.applies(request):
                continue
            name = statement.sid or f"Statement[{number}]"
            if not statement.allows:
                return Opinion.EXPLICIT_DENY, name
            allowed = name
        return (Opinion.ALLOW, allowed) if allowed else (Opinion.NO_OPINION, "")

    def looks_at(self, request: Request, keys: tuple[str, ...]) -> bool:
        """Does a statement that allows it have a condition on one of these? They are the beginnings of condition keys."""
        return any(
            statement.allows
            and any(c.key.startswith(keys) for c in statement.conditions)
            and statement.applies(request)
            for statement in self.statements
        )

    @property
    def is_public(self) -> bool:
        """What GetBucketPolicyStatus answers and BlockPublicPolicy refuses."""
        return any(statement.is_public for statement in self.statements)


SHUT = BucketPolicy((Statement(False, Principals(everyone=True), (Glob("*"),), (Glob("*"),), sid="unreadable policy"),))


# -- public or not --------------------------------------------------------------------------------

_FIXING = """
    aws:principalaccount aws:principalarn aws:principalorgid aws:sourceaccount aws:sourcearn aws:sourceip
    aws:sourceowner aws:sourcevpc aws:sourcevpce aws:userid s3:dataaccesspointaccount s3:dataaccesspointarn
"""
_NARROWING = frozenset(_FIXING.split())
_WIDEST = {4: 8, 6: 32}  # a range of addresses that is wider than this is everybody


def narrows(condition: Condition) -> bool:
    """Does it bind a statement to somebody or some place that its author named?

    Source: AWS, "Blocking public access to your S3 storage", the meaning of "public".
    """
    if condition.key not in _NARROWING or condition.negated or condition.if_exists or condition.quantifier == "all":
        return False
    if condition.operator == "IpAddress":
        ranges = [network_of(value) for value in condition.values]
        return all(network.prefixlen >= _WIDEST[network.version] for network in ranges)
    if not condition.operator.startswith(("String", "Arn")):
        return False
    return all(not set("*?$") & set(value) for value in condition.values)


# -- reading --------------------------------------------------------------------------------------


def read_policy(body: bytes, bucket: str) -> BucketPolicy:
    """The policy of `bucket` that a tenant sent. Raises MalformedPolicy."""
    if len(body) > POLICY_BYTES_MAX:
        raise _malformed("the policy", f"is {len(body)} bytes long; {POLICY_BYTES_MAX} are allowed")
    document = _object(_json(body), "the policy", _MEMBERS)
    if document.get("Version", _VERSIONS[0]) not in _VERSIONS:
        raise _malformed("Version", f"must be {_VERSIONS[0]}")
    if not isinstance(document.get("Id", ""), str):
        raise _malformed("Id", "must be a string")
    given = document.get("Statement")
    statements = given if isinstance(given, list) else [given]
    if given is None or not 1 <= len(statements) <= STATEMENTS_MAX:
        raise _malformed("Statement", f"must hold 1 to {STATEMENTS_MAX} statements")
    variables = document.get("Version", _VERSIONS[1]) == _VERSIONS[0]
    found = tuple(_statement(s, f"Statement[{n}]", bucket, variables) for n, s in enumerate(statements))
    if sum(glob.is_costly for statement in found for glob in _patterns(statement)) > COSTLY_MAX:
        raise _malformed("the policy", f"may hold at most {COSTLY_MAX} patterns with both a ? and a variable")
    return BucketPolicy(found)


def _patterns(statement: Statement) -> Iterator[Glob]:
    yield from statement.resources
    for condition in statement.conditions:
        if condition.operator.startswith("Arn") or condition.operator.endswith("Like"):
            yield from (Glob(value, variables=True) for value in condition.values)


def kept_policy(text: bytes, bucket: str) -> BucketPolicy:
    """A policy that is in a bucket's spec. One that cannot be judged denies everything, but for an owner who mends it."""
    try:
        return read_policy(text, bucket)
    except S3Error:
        return SHUT


def _json(body: bytes) -> object:
    try:
        return json.loads(
            body.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant, parse_float=Decimal
        )
    except (ValueError, RecursionError, ArithmeticError) as error:
        raise _malformed("the policy", "is no JSON, or names a member twice") from error


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member is named twice")
    return found


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


def _statement(given: object, at: str, bucket: str, variables: bool) -> Statement:
    members = _object(given, at, _OF_A_STATEMENT)
    sid = members.get("Sid", "")
    if not isinstance(sid, str) or len(sid) > 256:
        raise _malformed(f"{at}.Sid", "must be a string of at most 256 characters")
    if members.get("Effect") not in ("Allow", "Deny"):
        raise _malformed(f"{at}.Effect", "must be Allow or Deny")
    principal = _either(members, "Principal", at)
    if principal == "NotPrincipal" and members["Effect"] == "Allow":
        raise _malformed(f"{at}.NotPrincipal", "is allowed with Effect Deny only; name whom you let in")
    action, resource = _either(members, "Action", at), _either(members, "Resource", at)
    return Statement(
        allows=members["Effect"] == "Allow",
        principals=_principals(members[principal], f"{at}.{principal}"),
        actions=tuple(_action(text, f"{at}.{action}") for text in _texts(members[action], f"{at}.{action}")),
        resources=tuple(
            _resource(text, f"{at}.{resource}", bucket, variables)
            for text in _texts(members[resource], f"{at}.{resource}")
        ),
        conditions=tuple(_conditions(members.get("Condition", {}), f"{at}.Condition")),
        not_principals=principal == "NotPrincipal",
        not_actions=action == "NotAction",
        not_resources=resource == "NotResource",
        sid=sid,
    )


def _either(members: Mapping[str, object], name: str, at: str) -> str:
    """The form in which a member was given: exactly one of `Name` and `NotName`."""
    given = [form for form in (name, f"Not{name}") if form in members]
    if len(given) != 1:
        raise _malformed(at, f"takes exactly one of {name} and Not{name}")
    return given[0]


def _principals(given: object, at: str) -> Principals:
    if given == "*":
        return Principals(everyone=True)
    kinds = _object(given, at, _KINDS_OF_PRINCIPAL)
    if not kinds:
        raise _malformed(at, 'is empty; give "*" or {"AWS": …}')
    everyone, names = False, set()
    for kind, value in kinds.items():
        for text in _texts(value, f"{at}.{kind}"):
            if text == "*" and kind == "AWS":
                everyone = True
            elif _PRINCIPAL.fullmatch(text) and not set("*?") & set(text):
                names.add(text)
            else:
                raise _malformed(f"{at}.{kind}", f"{text[:128]!r} is no principal; a star stands alone")
    return Principals(everyone, frozenset(names))


def _action(text: str, at: str) -> Glob:
    glob = Glob(text, folded=True)
    if text != "*" and not text.lower().startswith("s3:"):
        raise _malformed(at, f"{text[:128]!r} is no action of S3")
    if not any(glob.matches(action) for action in ACTIONS):
        raise _malformed(at, f"{text[:128]!r} fits no action of S3")
    return glob


def _resource(text: str, at: str, bucket: str, variables: bool) -> Glob:
    """The bucket, or objects in it; `*` for both."""
    glob = Glob(text, variables=variables)
    if text != "*" and not text.startswith(BUCKET_ARN):
        raise _malformed(at, f"{text[:128]!r} is no ARN of a bucket or an object; they begin with {BUCKET_ARN}")
    if not glob.matches(BUCKET_ARN + bucket) and not glob.reaches(f"{BUCKET_ARN}{bucket}/"):
        raise _malformed(at, f"{text[:128]!r} is not in bucket {bucket}")
    return glob


def _conditions(given: object, at: str) -> list[Condition]:
    found = []
    for operator, keys in _object(given, at).items():
        for key, values in _object(keys, f"{at}.{operator}").items():
            try:
                found.append(read_condition(operator, key, values))
            except Unclear as error:
                raise _malformed(f"{at}.{operator[:128]}", str(error)) from error
    return found


def _object(given: object, at: str, members: frozenset[str] | None = None) -> dict[str, object]:
    if not isinstance(given, dict):
        raise _malformed(at, "must be an object")
    for name in given:
        if members is not None and name not in members:
            raise _malformed(at, f"knows no member {str(name)[:128]!r}")
    return given


def _texts(given: object, at: str) -> list[str]:
    entries = given if isinstance(given, list) else [given]
    if not 1 <= len(entries) <= ENTRIES_MAX:
        raise _malformed(at, f"takes a string or a list of 1 to {ENTRIES_MAX}")
    texts = [entry for entry in entries if isinstance(entry, str) and 1 <= len(entry) <= TEXT_MAX]
    if len(texts) != len(entries):
        raise _malformed(at, f"takes strings of 1 to {TEXT_MAX} characters")
    return texts


def _malformed(at: str, rule: str) -> S3Error:
    return S3Error.of("MalformedPolicy", f"{at}: {rule}")
