"""ACLs: canned words, headers, bodies, and whose an object is."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hansa.gateways.s3.rules import acl
from hansa.gateways.s3.rules.acl import (
    ALL_USERS,
    AUTHENTICATED,
    Acl,
    Grantee,
    Ownership,
    People,
    Person,
    acl_of_body,
    acl_of_new,
    canned,
    check_allowed,
    check_ownership_change,
    grantees_in,
    owner_of_new,
    private,
)
from hansa.gateways.s3.wire.errors import S3Error
from hansa.kinds.bucketrules import Acl as AclDocument
from hansa.objectindex.records import AclGrant

MAIN, ALT = Person("main-id", "Main"), Person("alt-id", "Alt")
THERE = {person.id: person for person in (MAIN, ALT)}
PEOPLE = People(
    named=lambda id: THERE[id].name if id in THERE else None,
    at=lambda email: ALT if email == "alt@example.org" else None,
)


def refused(code: str) -> Any:
    return pytest.raises(S3Error, check=lambda error: error.code == code)


def pairs(it: Acl) -> list[tuple[str, str]]:
    return [(grant.grantee, grant.permission) for grant in it.grants]


# -- new things -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "grants"),
    [
        ("private", [("main-id", "FULL_CONTROL")]),
        ("public-read", [(ALL_USERS, "READ"), ("main-id", "FULL_CONTROL")]),
        ("public-read-write", [(ALL_USERS, "READ"), (ALL_USERS, "WRITE"), ("main-id", "FULL_CONTROL")]),
        ("authenticated-read", [(AUTHENTICATED, "READ"), ("main-id", "FULL_CONTROL")]),
        ("bucket-owner-read", [("main-id", "FULL_CONTROL"), ("alt-id", "READ")]),
        ("bucket-owner-full-control", [("main-id", "FULL_CONTROL"), ("alt-id", "FULL_CONTROL")]),
    ],
)
def test_canned_words_of_an_object(word: str, grants: list[tuple[str, str]]) -> None:
    assert pairs(canned(word, MAIN, ALT)) == grants
    assert acl_of_new({"x-amz-acl": word}, MAIN, PEOPLE, bucket_owner=ALT) == canned(word, MAIN, ALT)


def test_a_word_for_the_bucket_owner_adds_nothing_where_that_is_the_same() -> None:
    assert canned("bucket-owner-read", MAIN, MAIN) == private(MAIN)
    assert canned("bucket-owner-full-control", MAIN) == private(MAIN)


def test_without_headers_a_new_thing_is_its_owners_alone() -> None:
    assert acl_of_new({}, MAIN, PEOPLE) == private(MAIN)
    assert not private(MAIN).is_public and private(MAIN).is_private


def test_grants_come_in_headers() -> None:
    headers = {
        "x-amz-grant-read": 'id="alt-id", uri="http://acs.amazonaws.com/groups/global/AllUsers"',
        "x-amz-grant-full-control": "emailAddress=alt@example.org",
        "x-amz-grant-write-acp": "id=main-id,id=alt-id",
    }
    found = acl_of_new(headers, MAIN, PEOPLE)
    assert pairs(found) == [
        (ALL_USERS, "READ"), ("alt-id", "READ"), ("main-id", "WRITE_ACP"), ("alt-id", "WRITE_ACP"),
        ("alt-id", "FULL_CONTROL"),
    ]  # fmt: skip
    assert found.owner == MAIN and found.is_public and not found.is_private


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"x-amz-acl": "everything"}, "InvalidArgument"),
        ({"x-amz-acl": "private", "x-amz-grant-read": "id=alt-id"}, "InvalidRequest"),
        ({"x-amz-grant-read": ""}, "InvalidArgument"), ({"x-amz-grant-read": "alt-id"}, "InvalidArgument"),
        ({"x-amz-grant-read": "id=alt-id;"}, "InvalidArgument"), ({"x-amz-grant-read": "id=_foo"}, "InvalidArgument"),
        ({"x-amz-grant-read": "name=alt-id"}, "InvalidArgument"), ({"x-amz-grant-read": "id="}, "InvalidArgument"),
        ({"x-amz-grant-read": "uri=http://example.org/all"}, "InvalidArgument"),
        ({"x-amz-grant-read": ",".join(["id=alt-id"] * 101)}, "InvalidArgument"),
        ({"x-amz-grant-read": ",".join(["id=alt-id"] * 60), "x-amz-grant-write": ",".join(["id=alt-id"] * 60)},
         "MalformedACLError"),
        ({"x-amz-grant-read": 'emailAddress="nobody@example.org"'}, "UnresolvableGrantByEmailAddress"),
    ],
)  # fmt: skip
def test_headers_that_name_nobody_are_refused(headers: dict[str, str], code: str) -> None:
    with refused(code):
        acl_of_new(headers, MAIN, PEOPLE)


@pytest.mark.parametrize("blank", [" ", "\xa0"])
def test_no_header_is_slow(blank: str) -> None:
    begun = time.process_time()
    for text in (f'id={blank * 3_000}"', f'id="a"{blank * 3_000}x', f"id{blank * 3_000}:"):
        with refused("InvalidArgument"):
            grantees_in("x-amz-grant-read", text)
    assert time.process_time() - begun < 1


def test_blanks_beside_a_grantee_are_no_part_of_it() -> None:
    text = f' id = alt id , emailAddress= "alt@example.org" ,uri={ALL_USERS} '
    expected = [Grantee(id="alt id"), Grantee(email="alt@example.org"), Grantee(uri=ALL_USERS)]
    assert grantees_in("x-amz-grant-read", text) == expected


@given(st.text('id=ur",emailAdrs x', max_size=60))
def test_a_header_is_read_or_refused(text: str) -> None:
    try:
        assert grantees_in("x-amz-grant-read", text)
    except S3Error as error:
        assert error.code == "InvalidArgument"


# -- bodies ---------------------------------------------------------------------------------------


def test_a_body_replaces_the_grants_and_never_the_owner() -> None:
    found = acl_of_body(
        private(MAIN), "main-id", [(Grantee(id="alt-id"), "READ"), (Grantee(uri=ALL_USERS), "READ")], PEOPLE
    )
    assert found == Acl(MAIN, (AclGrant(ALL_USERS, "READ"), AclGrant("alt-id", "READ", "Alt")))
    assert acl_of_body(private(MAIN), "main-id", [], PEOPLE).grants == ()
    with refused("AccessDenied"):
        acl_of_body(private(MAIN), "alt-id", [], PEOPLE)


@pytest.mark.parametrize(
    ("grantee", "permission", "code"),
    [
        (Grantee(id="_foo"), "READ", "InvalidArgument"), (Grantee(id="alt-id"), "EVERYTHING", "MalformedACLError"),
        (Grantee(), "READ", "MalformedACLError"), (Grantee(id="a", uri="b"), "READ", "MalformedACLError"),
        (Grantee(email="nobody@example.org"), "READ", "UnresolvableGrantByEmailAddress"),
    ],
)  # fmt: skip
def test_bodies_that_name_nobody_are_refused(grantee: Grantee, permission: str, code: str) -> None:
    with refused(code):
        acl_of_body(private(MAIN), "main-id", [(grantee, permission)], PEOPLE)


def test_an_acl_comes_back_from_the_spec() -> None:
    for it in (private(MAIN), canned("public-read-write", MAIN), Acl(MAIN)):
        document = acl.document_of(it)
        assert acl.acl_from(document, MAIN) == it
        assert acl.acl_from(AclDocument.model_validate(document).wire(), MAIN) == it
    assert acl.acl_from(None, MAIN) == private(MAIN)
    assert acl.acl_from({"owner": {"id": "main-id"}}, MAIN) == private(MAIN)


# -- what a grant gives ---------------------------------------------------------------------------


def test_full_control_gives_everything_and_other_permissions_only_themselves() -> None:
    for permission in acl.PERMISSIONS:
        it = Acl(MAIN, (AclGrant("alt-id", permission),))
        for wanted in acl.PERMISSIONS:
            expected = permission in ("FULL_CONTROL", wanted)
            assert it.gives(wanted, frozenset({"alt-id"}), signed=True) is expected
            assert not it.gives(wanted, frozenset({"other"}), signed=True)


# -- ownership ------------------------------------------------------------------------------------

E, P, W = Ownership.ENFORCED, Ownership.PREFERRED, Ownership.WRITER


@pytest.mark.parametrize(
    ("ownership", "word", "owner"),
    [
        (E, "", MAIN), (E, "bucket-owner-full-control", MAIN), (P, "", ALT), (P, "private", ALT),
        (P, "bucket-owner-full-control", MAIN), (W, "", ALT), (W, "bucket-owner-full-control", ALT),
    ],
)  # fmt: skip
def test_whose_an_object_of_a_stranger_is(ownership: Ownership, word: str, owner: Person) -> None:
    assert owner_of_new(ownership, MAIN, ALT, word, at_home=False) == owner
    assert owner_of_new(ownership, MAIN, ALT, word, at_home=True) == MAIN


def test_an_enforced_owner_refuses_acls_that_say_something() -> None:
    for harmless in ({}, {"x-amz-acl": "bucket-owner-full-control"}):
        check_allowed(E, harmless)
    for word in ("private", "public-read", "authenticated-read"):
        with refused("AccessControlListNotSupported"):
            check_allowed(E, {"x-amz-acl": word})
        check_allowed(W, {"x-amz-acl": word})
    check_allowed(E, {"x-amz-acl": "private"}, unset=True)
    with refused("AccessControlListNotSupported"):
        check_allowed(E, {"x-amz-acl": "public-read"}, unset=True)
    with refused("AccessControlListNotSupported"):
        check_allowed(E, {"x-amz-acl": "bucket-owner-full-control", "x-amz-grant-read": "id=alt-id"})


def test_a_new_bucket_of_an_enforced_owner_is_private() -> None:
    check_allowed(E, {"x-amz-acl": "private"}, new_bucket=True)
    with refused("InvalidBucketAclWithObjectOwnership"):
        check_allowed(E, {"x-amz-acl": "public-read"}, new_bucket=True)


def test_acls_that_share_a_bucket_go_before_its_owner_is_enforced() -> None:
    check_ownership_change(E, private(MAIN))
    check_ownership_change(W, canned("public-read", MAIN))
    with refused("InvalidBucketAclWithObjectOwnership"):
        check_ownership_change(E, canned("public-read", MAIN))
    assert acl.ownership_named("ObjectWriter") is W
    with refused("MalformedXML"):
        acl.ownership_named("Nobody")
