"""Bucket policies: what they say, what they may not say, and to whom they open a bucket."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hansa.gateways.s3.rules.bucketpolicy import (
    COSTLY_MAX,
    POLICY_BYTES_MAX,
    BucketPolicy,
    Opinion,
    Request,
    kept_policy,
    read_policy,
)
from hansa.gateways.s3.wire.errors import S3Error

BUCKET = "arn:aws:s3:::bucket"
ADA = frozenset({"ada-id", "arn:aws:iam::acme:user/ada", "arn:aws:iam::acme:root"})


def statement(**members: Any) -> dict[str, Any]:
    found = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": f"{BUCKET}/*"} | members
    return {name: value for name, value in found.items() if value is not None}


def policy(*statements: dict[str, Any], version: str = "2012-10-17") -> BucketPolicy:
    return read_policy(json.dumps({"Version": version, "Statement": list(statements)}).encode(), "bucket")


def says(policy: BucketPolicy, action: str = "s3:GetObject", key: str = "/k", **more: Any) -> Opinion:
    return policy.opinion(Request(action, BUCKET + key, **more))[0]


def holds(condition: dict[str, Any], **values: str | tuple[str, ...]) -> bool:
    context = {k.replace("__", ":").replace("_", "-"): (v,) if isinstance(v, str) else v for k, v in values.items()}
    return says(policy(statement(Condition=condition)), context=context) is Opinion.ALLOW


# -- statements -----------------------------------------------------------------------------------


def test_a_policy_without_a_word_about_it_has_no_opinion() -> None:
    it = policy(statement())
    assert says(it) is Opinion.ALLOW
    assert says(it, "s3:PutObject") is Opinion.NO_OPINION
    assert says(it, key="") is Opinion.NO_OPINION


def test_a_deny_wins_wherever_it_stands() -> None:
    deny = statement(Effect="Deny", Sid="never")
    for it in (policy(statement(), deny), policy(deny, statement())):
        assert it.opinion(Request("s3:GetObject", f"{BUCKET}/k")) == (Opinion.EXPLICIT_DENY, "never")


def test_what_allows_is_named() -> None:
    it = policy(statement(Action="s3:PutObject"), statement())
    assert it.opinion(Request("s3:GetObject", f"{BUCKET}/k")) == (Opinion.ALLOW, "Statement[1]")


@pytest.mark.parametrize(
    ("principal", "allowed"),
    [
        ("*", True), ({"AWS": "*"}, True), ({"AWS": ["ada-id"]}, True), ({"AWS": "arn:aws:iam::acme:root"}, True),
        ({"AWS": "arn:aws:iam::acme:user/bob"}, False), ({"CanonicalUser": "ada-id"}, True), ({"CanonicalUser": "ADA-ID"}, False),
        ({"Service": "logging.s3.amazonaws.com"}, False), ({"AWS": ["bob-id", "arn:aws:iam::acme:user/ada"]}, True),
    ],
)  # fmt: skip
def test_a_principal_is_meant_by_any_of_its_names(principal: Any, allowed: bool) -> None:
    assert (says(policy(statement(Principal=principal)), names=ADA) is Opinion.ALLOW) is allowed


def test_the_anonymous_are_let_in_by_a_star_only() -> None:
    assert says(policy(statement())) is Opinion.ALLOW
    assert says(policy(statement(Principal={"AWS": "ada-id"}))) is Opinion.NO_OPINION


def test_deny_all_but_the_named() -> None:
    it = policy(statement(Effect="Deny", Principal=None, NotPrincipal={"AWS": "ada-id"}))
    assert says(it, names=ADA) is Opinion.NO_OPINION
    assert says(it, names=frozenset({"bob-id"})) is Opinion.EXPLICIT_DENY
    assert says(it) is Opinion.EXPLICIT_DENY


def test_actions_and_resources_in_their_negated_form() -> None:
    it = policy(statement(Action=None, NotAction="s3:Put*", Resource=None, NotResource=f"{BUCKET}/secret/*"))
    assert says(it) is Opinion.ALLOW
    assert says(it, "s3:PutObject") is Opinion.NO_OPINION
    assert says(it, key="/secret/k") is Opinion.NO_OPINION


def test_actions_are_read_without_regard_to_case_and_keys_with_it() -> None:
    it = policy(statement(Action="S3:get*", Resource=f"{BUCKET}/Photos/*"))
    assert says(it, key="/Photos/a/b") is Opinion.ALLOW
    assert says(it, key="/photos/a") is Opinion.NO_OPINION


def test_variables_count_in_the_newer_version_only() -> None:
    it = statement(Resource=f"{BUCKET}/home/${{aws:userid}}/*")
    mine = {"aws:userid": "ada"}
    assert says(policy(it), key="/home/ada/k", variables=mine) is Opinion.ALLOW
    assert says(policy(it), key="/home/bob/k", variables=mine) is Opinion.NO_OPINION
    assert says(policy(it, version="2008-10-17"), key="/home/ada/k", variables=mine) is Opinion.NO_OPINION


# -- conditions -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operator", "value", "given", "holding"),
    [
        ("StringEquals", "a", "a", True), ("StringEquals", "a*", "ab", False), ("StringEquals", ["x", "a"], "a", True),
        ("StringNotEquals", "a", "b", True), ("StringNotEquals", ["a", "b"], "b", False),
        ("StringEqualsIgnoreCase", "aB", "Ab", True), ("StringNotEqualsIgnoreCase", "aB", "Ab", False),
        ("StringLike", "public/*", "public/x", True), ("StringNotLike", "public/*", "public/x", False),
        ("StringEquals", "what?", "what!", False), ("StringLike", "what?", "what!", True),
    ],
)  # fmt: skip
def test_strings(operator: str, value: Any, given: str, holding: bool) -> None:
    assert holds({operator: {"s3:prefix": value}}, s3__prefix=given) is holding


@pytest.mark.parametrize(
    ("operator", "value", "given", "holding"),
    [
        ("NumericEquals", 10, "10.0", True), ("NumericNotEquals", "10", "11", True),
        ("NumericLessThan", 10, "10", False), ("NumericLessThanEquals", 10, "10", True),
        ("NumericGreaterThan", 10, "11", True), ("NumericGreaterThanEquals", 10, "9", False),
        ("NumericLessThan", 10, "few", False), ("NumericNotEquals", 10, "few", True),
    ],
)  # fmt: skip
def test_numbers(operator: str, value: Any, given: str, holding: bool) -> None:
    assert holds({operator: {"s3:max-keys": value}}, s3__max_keys=given) is holding


@pytest.mark.parametrize(
    ("operator", "value", "given", "holding"),
    [
        ("DateLessThan", "2026-01-01T00:00:00Z", "2025-12-31T23:59:59Z", True),
        ("DateLessThan", "1767225600", "2025-12-31T23:59:59Z", True),
        ("DateGreaterThan", "2026-01-01", "2026-01-01T00:00:01+00:00", True),
        ("DateGreaterThan", "2026-01-01T02:00:00+02:00", "2026-01-01T00:00:00Z", False),
        ("DateEquals", "2026-01-01", "1767225600", True), ("DateNotEquals", "2026-01-01", "soon", True),
    ],
)  # fmt: skip
def test_dates(operator: str, value: str, given: str, holding: bool) -> None:
    assert holds({operator: {"aws:CurrentTime": value}}, aws__currenttime=given) is holding


@pytest.mark.parametrize(
    ("operator", "value", "given", "holding"),
    [
        ("IpAddress", "10.0.0.0/8", "10.1.2.3", True), ("IpAddress", "10.0.0.1", "10.0.0.2", False),
        ("IpAddress", "2001:db8::/32", "2001:db8::1", True), ("IpAddress", "10.0.0.0/8", "2001:db8::1", False),
        ("NotIpAddress", "10.0.0.0/8", "10.1.2.3", False), ("NotIpAddress", "10.0.0.0/8", "no address", True),
        ("IpAddress", ["192.0.2.0/24", "10.0.0.0/8"], "10.1.2.3", True),
    ],
)  # fmt: skip
def test_addresses(operator: str, value: Any, given: str, holding: bool) -> None:
    assert holds({operator: {"aws:SourceIp": value}}, aws__sourceip=given) is holding


def test_arns_are_matched_part_by_part() -> None:
    likes = {"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::*:user/a*"}}
    assert holds(likes, aws__principalarn="arn:aws:iam::acme:user/ada")
    assert not holds(likes, aws__principalarn="arn:aws:iam::acme:extra:user/ada")
    assert not holds(likes, aws__principalarn="ada")


def test_truth() -> None:
    secure = {"Bool": {"aws:SecureTransport": True}}
    assert holds(secure, aws__securetransport="true")
    assert not holds(secure, aws__securetransport="false")
    assert not holds(secure)


def test_an_absent_key_fails_a_plain_operator_and_meets_a_negated_one() -> None:
    assert not holds({"StringEquals": {"s3:x-amz-acl": "private"}})
    assert holds({"StringNotEquals": {"s3:x-amz-acl": "private"}})
    assert holds({"StringEqualsIfExists": {"s3:x-amz-acl": "private"}})
    assert not holds({"StringEqualsIfExists": {"s3:x-amz-acl": "private"}}, s3__x_amz_acl="public-read")
    assert holds({"Null": {"s3:x-amz-acl": "true"}})
    assert not holds({"Null": {"s3:x-amz-acl": True}}, s3__x_amz_acl="private")
    assert holds({"Null": {"s3:x-amz-acl": "false"}}, s3__x_amz_acl="private")


def test_quantifiers_look_at_every_value() -> None:
    every, some = (
        {f"{q}:StringEquals": {"s3:RequestObjectTagKeys": ["a", "b"]}} for q in ("ForAllValues", "ForAnyValue")
    )
    assert holds(every, s3__requestobjecttagkeys=("a", "b"))
    assert not holds(every, s3__requestobjecttagkeys=("a", "c"))
    assert holds(every)
    assert holds(some, s3__requestobjecttagkeys=("c", "a"))
    assert not holds(some, s3__requestobjecttagkeys=("c",))
    assert not holds(some)
    assert not holds({"ForAllValues:StringNotEquals": {"aws:TagKeys": ["a"]}}, aws__tagkeys=("a", "b"))
    assert holds({"ForAnyValue:StringNotEquals": {"aws:TagKeys": ["a"]}}, aws__tagkeys=("a", "b"))


def test_every_condition_must_hold() -> None:
    both = {"StringEquals": {"s3:prefix": "a", "s3:delimiter": "/"}, "Bool": {"aws:SecureTransport": "true"}}
    assert holds(both, s3__prefix="a", s3__delimiter="/", aws__securetransport="true")
    assert not holds(both, s3__prefix="a", s3__delimiter="/", aws__securetransport="false")
    assert not holds(both, s3__prefix="a", aws__securetransport="true")


def test_the_name_of_a_tag_keeps_its_case() -> None:
    it = policy(statement(Condition={"StringEquals": {"s3:ExistingObjectTag/Security": "public"}}))
    assert says(it, context={"s3:existingobjecttag/Security": ("public",)}) is Opinion.ALLOW
    assert says(it, context={"s3:existingobjecttag/security": ("public",)}) is Opinion.NO_OPINION


# -- what may not be said -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"Effect": "Perhaps"}, "Statement[0].Effect"),
        ({"Principal": None}, "Principal"),
        ({"NotPrincipal": "*"}, "Principal"),
        ({"Principal": None, "NotPrincipal": {"AWS": "ada-id"}}, "NotPrincipal"),
        ({"Principal": {}}, "Principal"),
        ({"Principal": {"AWS": "arn:aws:iam::acme:user/*"}}, "star"),
        ({"Principal": {"Person": "ada"}}, "Person"),
        ({"Principal": {"AWS": ""}}, "Principal.AWS"),
        ({"Action": "iam:GetUser"}, "iam:GetUser"),
        ({"Action": "s3:GetObjekt"}, "s3:GetObjekt"),
        ({"Action": []}, "Action"),
        ({"NotAction": "s3:GetObject"}, "NotAction"),
        ({"Resource": "arn:aws:s3:::other/*"}, "not in bucket bucket"),
        ({"Resource": "arn:aws:s3:::bucketeer"}, "not in bucket bucket"),
        ({"Resource": "bucket/*"}, "ARN"),
        ({"Resource": 7}, "Resource"),
        ({"Condition": {"StringResembles": {"s3:prefix": "a"}}}, "StringResembles"),
        ({"Condition": {"NullIfExists": {"s3:prefix": "true"}}}, "Null"),
        ({"Condition": {"StringEquals": {"s3:weather": "fine"}}}, "s3:weather"),
        ({"Condition": {"StringEquals": {"s3:prefix": {"a": 1}}}}, "value"),
        ({"Condition": {"StringEquals": {"s3:prefix": []}}}, "value"),
        ({"Condition": {"IpAddress": {"aws:SourceIp": "10.0.0.0/33"}}}, "10.0.0.0/33"),
        ({"Condition": {"DateLessThan": {"aws:CurrentTime": "soon"}}}, "soon"),
        ({"Condition": {"NumericEquals": {"s3:max-keys": "NaN"}}}, "NaN"),
        ({"Condition": {"Bool": {"aws:SecureTransport": "perhaps"}}}, "Bool"),
        ({"Condition": {"ArnLike": {"aws:PrincipalArn": "ada"}}}, "ARN"),
        ({"Condition": {"StringEquals": "s3:prefix"}}, "StringEquals"),
        ({"Colour": "red"}, "Colour"),
        ({"Sid": 1}, "Sid"),
    ],
)  # fmt: skip
def test_a_policy_that_cannot_be_judged_is_refused_with_what_and_where(members: dict[str, Any], words: str) -> None:
    with pytest.raises(S3Error) as refused:
        policy(statement(**members))
    assert refused.value.code == "MalformedPolicy"
    assert refused.value.status == 400
    assert words in refused.value.message


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b'"text"', b"{}", b'{"Statement": []}', b'{"Version": "2020-01-01", "Statement": [{}]}',
        b'{"Statement": "x"}', b"\xff\xfe", b"[" * 20000, b'{"Statement": [], "Statement": []}', b'{"Statement": NaN}',
        b'{"Statement": [{"Effect": "Allow", "Effect": "Deny"}]}', b'{"Extra": 1, "Statement": [{}]}',
        b'{"Id": 7, "Statement": [{}]}', b'{"Statement": 1e999999999}',
    ],
)  # fmt: skip
def test_what_is_no_policy_is_refused(body: bytes) -> None:
    with pytest.raises(S3Error, check=lambda e: e.code == "MalformedPolicy"):
        read_policy(body, "bucket")


def test_a_policy_of_20_kibibytes_is_the_longest() -> None:
    body = json.dumps({"Statement": [statement()]}).encode()
    assert read_policy(body.ljust(POLICY_BYTES_MAX), "bucket").statements
    with pytest.raises(S3Error, match="20480 are allowed"):
        read_policy(body.ljust(POLICY_BYTES_MAX + 1), "bucket")


def test_no_policy_with_variables_is_slow() -> None:
    sent = {"aws:referer": ("a" * 8_000,), "aws:useragent": ("a" * 7_000,)}
    variables = {name: values[0] for name, values in sent.items()}
    plain = [f"*${{aws:useragent}}*b{n}" for n in range(400)]
    costly = [f"*${{aws:useragent}}?{n}*b" for n in range(COSTLY_MAX)]
    for patterns in (plain, costly):
        it = policy(statement(Condition={"StringLike": {"aws:referer": patterns}}))
        begun = time.process_time()
        assert says(it, context=sent, variables=variables) is Opinion.NO_OPINION
        assert time.process_time() - begun < 0.5
    for members in (
        {"Condition": {"StringNotLike": {"aws:referer": [*costly, "${aws:userid}?"]}}},
        {"Resource": [f"{BUCKET}/{pattern}" for pattern in [*costly, "${aws:userid}?"]]},
    ):
        with pytest.raises(S3Error, match="both a . and a variable"):
            policy(statement(**members))
    assert policy(statement(Condition={"StringEquals": {"aws:referer": [*costly, "${aws:userid}?"]}}))


def test_a_policy_for_all_buckets_may_be_put_on_one() -> None:
    it = policy(statement(Action="s3:ListBucket", Resource=["arn:aws:s3:::*", "arn:aws:s3:::*/*"]))
    assert says(it, "s3:ListBucket", "") is Opinion.ALLOW


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
    | st.sampled_from(["*", "Allow", "s3:*", f"{BUCKET}/*", "StringEquals", "aws:SourceIp"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["Statement", "Effect", "Principal", "AWS", "Action", "Resource", "Condition", "Bool"])
        | st.text(max_size=8), inner, max_size=6),
    max_leaves=20,
)  # fmt: skip


@given(_JSON)
def test_nothing_that_a_tenant_sends_is_anything_but_read_or_refused(document: Any) -> None:
    for body in (
        json.dumps(document),
        json.dumps({"Statement": document}),
        json.dumps({"Statement": statement(Condition=document)}),
    ):
        try:
            says(read_policy(body.encode(), "bucket"))
        except S3Error as error:
            assert error.code == "MalformedPolicy"


# -- public or not --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "public"),
    [
        ({}, True),
        ({"Principal": {"AWS": "*"}}, True),
        ({"Principal": {"AWS": "arn:aws:iam::acme:root"}}, False),
        ({"Effect": "Deny"}, False),
        ({"Condition": {"IpAddress": {"aws:SourceIp": "10.0.0.0/32"}}}, False),
        ({"Condition": {"IpAddress": {"aws:SourceIp": "0.0.0.0/1"}}}, True),
        ({"Condition": {"IpAddress": {"aws:SourceIp": ["10.0.0.0/8", "::/0"]}}}, True),
        ({"Condition": {"NotIpAddress": {"aws:SourceIp": "10.0.0.0/32"}}}, True),
        ({"Condition": {"IpAddressIfExists": {"aws:SourceIp": "10.0.0.0/32"}}}, True),
        ({"Condition": {"StringEquals": {"aws:PrincipalOrgID": "o-1"}}}, False),
        ({"Condition": {"StringLike": {"aws:PrincipalOrgID": "*"}}}, True),
        ({"Condition": {"ForAllValues:StringEquals": {"aws:PrincipalOrgID": "o-1"}}}, True),
        ({"Condition": {"StringLike": {"s3:prefix": "public"}}}, True),
        ({"Condition": {"Bool": {"aws:SecureTransport": "true"}}}, True),
    ],
)  # fmt: skip
def test_public_is_what_lets_in_people_whom_nobody_named(members: dict[str, Any], public: bool) -> None:
    assert policy(statement(**members)).is_public is public


def test_one_public_statement_makes_a_policy_public() -> None:
    assert policy(statement(Principal={"AWS": "ada-id"}), statement()).is_public


def test_a_kept_policy_that_cannot_be_judged_shuts_the_bucket() -> None:
    assert says(kept_policy(b'{"Statement": {"Effect": "Allow"}}', "bucket")) is Opinion.EXPLICIT_DENY
    assert not kept_policy(b"nonsense", "bucket").is_public
    assert says(kept_policy(json.dumps({"Statement": statement()}).encode(), "bucket")) is Opinion.ALLOW
