"""The small rules of S3: CORS, tags, encryption, public access."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hansa.gateways.s3.rules import cors, encryptionrules, publicaccess, tagging
from hansa.gateways.s3.rules.acl import Person, canned
from hansa.gateways.s3.rules.bucketpolicy import read_policy
from hansa.gateways.s3.rules.encryptionrules import SSE, Wanted, check_reader, customer_key, wanted
from hansa.gateways.s3.rules.publicaccess import CLOSED, OPEN
from hansa.gateways.s3.wire.configurations import CorsRule, EncryptionRule, PublicAccessBlock
from hansa.gateways.s3.wire.errors import S3Error
from hansa.kinds import storage
from hansa.kinds.bucketrules import Cors
from hansa.objectindex.records import Encryption

SALT = b"s" * encryptionrules.SALT_BYTES


def refused(code: str) -> Any:
    return pytest.raises(S3Error, check=lambda error: error.code == code)


# -- CORS -----------------------------------------------------------------------------------------

GETS = CorsRule(("*suffix", "start*end", "prefix*"), ("GET",))
PUTS = CorsRule(("*.put",), ("PUT",), headers=("x-amz-*", "Content-Type"), exposed=("ETag",), max_age_s=60)
RULES = (GETS, PUTS)


@pytest.mark.parametrize(
    ("origin", "method", "fitting"),
    [
        ("foo.suffix", "GET", True), ("foo.bar", "GET", False), ("foo.suffix.get", "GET", False),
        ("startend", "GET", True), ("start12end", "GET", True), ("0start12end", "GET", False), ("prefix", "GET", True),
        ("prefix.x", "GET", True), ("bla.prefix", "GET", False), ("foo.suffix", "PUT", False), ("foo.put", "PUT", True),
    ],
)  # fmt: skip
def test_an_origin_fits_with_at_most_one_star(origin: str, method: str, fitting: bool) -> None:
    found = cors.headers_for(RULES, method, {"origin": origin})
    assert found.get("access-control-allow-origin") == (origin if fitting else None)
    assert found["vary"] == cors.VARY


def test_requests_without_an_origin_are_not_of_cors() -> None:
    assert cors.headers_for(RULES, "GET", {}) == {}
    assert cors.headers_for((), "GET", {"origin": "a"}) == {}


def test_a_rule_for_everybody_answers_with_a_star_and_without_credentials() -> None:
    found = cors.headers_for((CorsRule(("*",), ("GET", "HEAD")),), "GET", {"origin": "a"})
    assert found["access-control-allow-origin"] == "*"
    assert found["access-control-allow-methods"] == "GET, HEAD"
    assert "access-control-allow-credentials" not in found
    assert cors.headers_for(RULES, "GET", {"origin": "prefix"})["access-control-allow-credentials"] == "true"


def test_a_preflight_is_told_what_may_be_sent() -> None:
    asked = {"origin": "a.put", "access-control-request-method": "PUT"}
    found = cors.preflight(RULES, asked | {"access-control-request-headers": "X-Amz-Date, content-type"})
    assert found["access-control-allow-headers"] == "x-amz-date, content-type"
    assert found["access-control-max-age"] == "60"
    assert found["access-control-expose-headers"] == "ETag"
    with refused("AccessForbidden"):
        cors.preflight(RULES, asked | {"access-control-request-headers": "x-other"})
    with refused("AccessForbidden"):
        cors.preflight((), asked)
    with refused("AccessForbidden"):  # where there are no rules, it does not matter what is asked
        cors.preflight((), {"origin": "a"})


def test_no_preflight_is_slow() -> None:
    words = tuple(f"x*y{n}" for n in range(cors.ENTRIES_MAX))
    many = (CorsRule(words[1:] + ("*",), ("GET",), words),) * cors.RULES_MAX
    cors.check_rules(many)
    asked = {"origin": "a", "access-control-request-method": "GET"}
    names = [f"x{n}y99" for n in range(cors.WANTED_MAX - 1)] + ["other"]
    begun = time.process_time()
    with refused("AccessForbidden"):
        cors.preflight(many, asked | {"access-control-request-headers": ",".join(names)})
    assert time.process_time() - begun < 1.5
    with refused("BadRequest"):
        cors.preflight(many, asked | {"access-control-request-headers": ",".join([*names, "one-more"])})


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "a"},
        {"access-control-request-method": "GET"},
        {"origin": "a", "access-control-request-method": "PATCH"},
        {"origin": "a", "access-control-request-method": "GET", "access-control-request-headers": "x a"},
        {"origin": "a", "access-control-request-method": "GET", "access-control-request-headers": "x-a,(b)"},
    ],
)
def test_a_preflight_that_says_too_little_is_a_bad_request(headers: dict[str, str]) -> None:
    with refused("BadRequest"):
        cors.preflight(RULES, headers)


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        (CorsRule((), ("GET",)), "MalformedXML"), (CorsRule(("*",), ()), "MalformedXML"),
        (CorsRule(("*.*",), ("GET",)), "InvalidRequest"), (CorsRule(("*",), ("PATCH",)), "InvalidRequest"),
        (CorsRule(("*",), ("GET",), headers=("a*b*",)), "InvalidRequest"),
        (CorsRule(("*",), ("GET",), exposed=("x-*",)), "InvalidRequest"),
        (CorsRule(("*",), ("GET",), exposed=("a\r\nset-cookie: b",)), "InvalidRequest"),
        (CorsRule(("*",), ("GET",), max_age_s=-1), "InvalidRequest"),
        (CorsRule(("*",), ("GET",), id="a" * 256), "InvalidRequest"),
    ],
)  # fmt: skip
def test_rules_that_s3_does_not_take(rule: CorsRule, code: str) -> None:
    with refused(code):
        cors.check_rules((rule,))


def test_rules_come_back_from_the_spec() -> None:
    cors.check_rules(RULES)
    document = cors.document_of(RULES)
    assert cors.rules_from(document) == RULES
    assert cors.rules_from(Cors.model_validate(document).wire()) == RULES
    assert cors.rules_from(None) == ()
    with refused("MalformedXML"):
        cors.check_rules(())
    with refused("MalformedXML"):
        cors.check_rules((GETS,) * 101)


# -- public access --------------------------------------------------------------------------------


def test_a_bucket_that_says_nothing_is_closed_or_as_its_cloud_is() -> None:
    assert publicaccess.block_from(None, CLOSED) == CLOSED
    assert publicaccess.block_from(None, OPEN) == OPEN
    assert publicaccess.block_from({"blockPublicAcls": True}, CLOSED) == PublicAccessBlock(block_acls=True)


def test_a_configuration_that_was_deleted_is_there_but_empty() -> None:
    merged = {name: value for name, value in publicaccess.removal().items() if value is not None}
    assert publicaccess.block_from(merged, CLOSED) == OPEN
    assert not publicaccess.is_configured(merged, CLOSED)
    assert publicaccess.is_configured(publicaccess.document_of(OPEN), CLOSED)
    assert publicaccess.is_configured(None, CLOSED) and not publicaccess.is_configured(None, OPEN)


def test_the_switches_are_those_of_the_kind() -> None:
    for block in (CLOSED, OPEN, PublicAccessBlock(ignore_acls=True)):
        wire = storage.PublicAccessBlock.model_validate(publicaccess.document_of(block)).wire()
        assert publicaccess.block_from(wire, CLOSED) == block


def test_what_would_open_a_bucket_is_refused() -> None:
    owner = Person("o")
    public = read_policy(json.dumps({"Statement": {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject",
                                                   "Resource": "arn:aws:s3:::b/*"}}).encode(), "b")  # fmt: skip
    for word in ("public-read", "public-read-write", "authenticated-read"):
        with refused("AccessDenied"):
            publicaccess.check_acl(CLOSED, canned(word, owner))
        publicaccess.check_acl(OPEN, canned(word, owner))
    publicaccess.check_acl(CLOSED, canned("private", owner))
    with refused("AccessDenied"):
        publicaccess.check_policy(PublicAccessBlock(block_policy=True), public)
    publicaccess.check_policy(PublicAccessBlock(restrict_buckets=True), public)


# -- tags -----------------------------------------------------------------------------------------


def test_tags_of_a_header_are_a_query() -> None:
    assert tagging.tags_in_header("foo=bar&bar") == (("bar", ""), ("foo", "bar"))
    assert tagging.tags_in_header("a=1%2B1&b=c+d") == (("a", "1+1"), ("b", "c d"))
    assert tagging.tags_in_header("") == ()


@pytest.mark.parametrize("text", ["a=%zz", "a=é", "a=" + "x" * 9000, "a=%ff"])
def test_a_header_that_is_no_query_is_refused(text: str) -> None:
    with refused("InvalidArgument"):
        tagging.tags_in_header(text)


@pytest.mark.parametrize(
    "tags",
    [
        [(str(n), "v") for n in range(11)], [("k" * 129, "v")], [("k", "v" * 257)], [("", "v")], [("a", "1"), ("a", "2")],
        [("aws:x", "v")], [("AWS:x", "v")], [("a\n", "v")], [("a", "v\x00")], [("a#", "v")], [("a", "<b>")],
    ],
)  # fmt: skip
def test_tags_that_s3_does_not_take(tags: list[tuple[str, str]]) -> None:
    with refused("InvalidTag"):
        tagging.object_tags(tags)


def test_the_limits_themselves_are_allowed() -> None:
    assert len(tagging.object_tags([("k" * 127 + str(n), "é" * 256) for n in range(10)])) == 10
    assert len(tagging.bucket_tags([(str(n), "") for n in range(50)])) == 50
    with refused("InvalidTag"):
        tagging.bucket_tags([(str(n), "") for n in range(51)])


@given(st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5)), max_size=12))
def test_tags_are_taken_or_refused_and_sorted(tags: list[tuple[str, str]]) -> None:
    try:
        assert list(tagging.object_tags(tags)) == sorted(tags)
    except S3Error as error:
        assert error.code == "InvalidTag"


# -- encryption -----------------------------------------------------------------------------------

KEY = bytes(range(32))


def key_headers(raw: bytes = KEY, *, source: bool = False, **more: str | None) -> dict[str, str]:
    prefix = "x-amz-copy-source-server-side-encryption-customer-" if source else f"{SSE}-customer-"
    values: dict[str, str | None] = {
        "algorithm": "AES256", "key": base64.b64encode(raw).decode(),
        "key_md5": base64.b64encode(hashlib.md5(raw).digest()).decode(),
    } | more  # fmt: skip
    return {prefix + name.replace("_", "-"): value for name, value in values.items() if value is not None}


def test_without_a_wish_an_object_lies_under_its_projects_key() -> None:
    assert wanted({}, None, secure=False) == Wanted()
    assert Wanted().record(SALT) is None


def test_a_buckets_default_fills_in_and_a_header_wins() -> None:
    default = EncryptionRule("aws:kms", "mine")
    assert wanted({}, default, secure=True) == Wanted("aws:kms", "mine")
    assert wanted({SSE: "AES256"}, default, secure=True) == Wanted("AES256")
    assert wanted({SSE: "aws:kms"}, default, secure=True) == Wanted("aws:kms", "mine")
    context = base64.b64encode(b'{"a": "b"}').decode()
    asked = {SSE: "aws:kms", f"{SSE}-aws-kms-key-id": "other", f"{SSE}-context": context}
    assert wanted(asked, default, secure=True) == Wanted("aws:kms", "other", context)
    assert wanted(asked, None, secure=True).record(SALT) == Encryption("aws:kms", "other", context)
    assert wanted(key_headers(), default, secure=True).mode == "SSE-C"


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({SSE: "aes:kms"}, "InvalidArgument"), ({SSE: "AES192"}, "InvalidArgument"),
        ({SSE: "aws:kms"}, "InvalidArgument"), ({SSE: "aws:kms:dsse"}, "NotImplemented"),
        ({f"{SSE}-aws-kms-key-id": "k"}, "InvalidArgument"),
        ({SSE: "AES256", f"{SSE}-aws-kms-key-id": "k"}, "InvalidArgument"),
        ({SSE: "aws:kms", f"{SSE}-aws-kms-key-id": "k" * 257}, "InvalidArgument"),
        ({SSE: "aws:kms", f"{SSE}-aws-kms-key-id": "k", f"{SSE}-context": "!"}, "InvalidArgument"),
        ({SSE: "aws:kms", f"{SSE}-aws-kms-key-id": "k", f"{SSE}-context": "WzFd"}, "InvalidArgument"),
        ({SSE: "AES256"} | key_headers(), "InvalidArgument"),
        ({SSE: "aws:kms", f"{SSE}-aws-kms-key-id": "k"} | key_headers(), "InvalidArgument"),
        (key_headers(key_md5="AAAAAAAAAAAAAAAAAAAAAA=="), "InvalidArgument"), (key_headers(key_md5=None), "InvalidArgument"),
        (key_headers(key=None), "InvalidArgument"), (key_headers(algorithm=None), "InvalidArgument"),
        (key_headers(b"short"), "InvalidArgument"), (key_headers(key="é"), "InvalidArgument"),
        (key_headers(algorithm="AES192"), "InvalidEncryptionAlgorithmError"),
    ],
)  # fmt: skip
def test_wishes_that_do_not_go_together_are_refused(headers: dict[str, str], code: str) -> None:
    with refused(code) as raised:
        wanted(headers, None, secure=True)
    assert base64.b64encode(KEY).decode() not in raised.value.message + repr(raised.value.extras)


def test_a_key_of_ones_own_travels_over_tls_only() -> None:
    with refused("InvalidRequest"):
        wanted(key_headers(), None, secure=False)


def test_a_key_is_recognised_and_never_kept() -> None:
    asked = wanted(key_headers(), None, secure=True)
    kept = asked.record(SALT)
    assert kept is not None and kept.mode == "SSE-C"
    assert asked.customer is not None and asked.customer.key == KEY
    assert base64.b64encode(KEY).decode() not in repr(kept) + repr(asked)
    assert asked.record(b"t" * 16) != kept
    assert check_reader(kept, key_headers(), secure=True) == asked.customer
    assert check_reader(kept, key_headers(source=True), secure=True, source=True) == asked.customer
    for wrong in ({}, key_headers(bytes(32))):
        with refused("InvalidRequest"):
            check_reader(kept, wrong, secure=True)


def test_readers_of_other_objects_send_no_key_and_no_wish() -> None:
    with refused("InvalidRequest"):
        check_reader(None, key_headers(), secure=True)
    with refused("InvalidArgument"):
        check_reader(Encryption("aws:kms", "k"), {SSE: "aws:kms"}, secure=True)
    assert check_reader(Encryption("aws:kms", "k"), {}, secure=False) is None
    assert customer_key(key_headers(), secure=True, source=True) is None


def test_answers_name_algorithm_and_key() -> None:
    assert encryptionrules.headers_of(None) == {}
    assert encryptionrules.headers_of(Encryption("AES256")) == {SSE: "AES256"}
    assert encryptionrules.headers_of(Encryption("aws:kms", "k")) == {SSE: "aws:kms", f"{SSE}-aws-kms-key-id": "k"}
    mine = encryptionrules.headers_of(Encryption("SSE-C", mark="m", key_md5="5"))
    assert mine == {f"{SSE}-customer-algorithm": "AES256", f"{SSE}-customer-key-md5": "5"}


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        (EncryptionRule("AES192"), "MalformedXML"), (EncryptionRule("aws:kms"), "InvalidArgument"),
        (EncryptionRule("AES256", "k"), "InvalidArgument"), (EncryptionRule("aws:kms:dsse", "k"), "NotImplemented"),
    ],
)  # fmt: skip
def test_defaults_that_s3_does_not_take(rule: EncryptionRule, code: str) -> None:
    with refused(code):
        encryptionrules.check_default(rule)


def test_a_default_comes_back_from_the_spec() -> None:
    for rule in (EncryptionRule("AES256"), EncryptionRule("aws:kms", "k", bucket_key=True)):
        encryptionrules.check_default(rule)
        document = encryptionrules.document_of(rule)
        assert encryptionrules.default_from(document) == rule
        assert encryptionrules.default_from(storage.DefaultEncryption.model_validate(document).wire()) == rule
    assert encryptionrules.default_from(None) is None
