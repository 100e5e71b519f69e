"""Who gets through: the order of reasons in which a request to S3 is decided."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from hansa.gateways.s3.ports import BucketView, S3Identity
from hansa.gateways.s3.rules.access import Allowed, Ask, BucketRules, Denied, decide_laid, decide_s3, need
from hansa.gateways.s3.rules.acl import ALL_USERS, AUTHENTICATED, Acl, Ownership, Person, canned, private
from hansa.gateways.s3.rules.bucketpolicy import read_policy
from hansa.gateways.s3.rules.policyactions import ACTIONS
from hansa.gateways.s3.rules.publicaccess import CLOSED, OPEN
from hansa.gateways.s3.rules.requestcontext import Sent, context_of, names_of, with_tags
from hansa.gateways.s3.wire.configurations import PublicAccessBlock
from hansa.gateways.s3.wire.operations import OPERATIONS
from hansa.objectindex.records import AclGrant
from hansa.policy.access import OBJECTS
from hansa.policy.verdict import Act, Caller, Grant, Rules, TerritoryRule

OWNER, WRITER = Person("owner-id", "shop"), Person("stranger-id", "other")
BUCKET = BucketView(
    uid="u-1", name="bucket", project="shop", organization="acme", region="se-sto", territory="SE", revision=1,
    created=0.0, owner=OWNER.id, owner_name=OWNER.name, spec={},
)  # fmt: skip


def somebody(project: str = "shop", *, id: str = "owner-id", role: str = "", buckets: Any = None) -> S3Identity:
    """At home in a project, or (with a role) bound to one there."""
    ref = f"/iam/projects/{project}/serviceAccounts/{id}"
    grants = (Grant(f"projects/{project}", role),) if role else ()
    home = frozenset() if role else frozenset({project})
    return S3Identity(
        "AK", b"secret", Caller(ref, member_of=home, grants=grants), project, "acme" if project == "shop" else "else",
        id, id, buckets=buckets,
    )  # fmt: skip


MEMBER, STRANGER = somebody(), somebody("other", id="stranger-id")


def statement(**members: Any) -> dict[str, Any]:
    return {
        "Effect": "Allow", "Principal": "*", "Action": "s3:*",
        "Resource": ["arn:aws:s3:::bucket", "arn:aws:s3:::bucket/*"],
    } | members  # fmt: skip


def rules(
    *statements: dict[str, Any], ownership: Ownership = Ownership.ENFORCED, block: PublicAccessBlock = OPEN,
    acl: Acl | None = None,
) -> BucketRules:  # fmt: skip
    text = json.dumps({"Version": "2012-10-17", "Statement": list(statements)}).encode()
    policy = read_policy(text, "bucket") if statements else None
    return BucketRules(BUCKET, ownership, block, acl or private(OWNER), policy)


def ask(
    action: str = "s3:GetObject", identity: S3Identity | None = MEMBER, given: BucketRules | None = None, **more: Any
) -> Ask:
    return Ask(action, given or rules(), identity, **{"key": "k", **more})


def allowed(*args: Any, **more: Any) -> bool:
    return isinstance(decide_s3(ask(*args, **more)), Allowed)


# -- roles ----------------------------------------------------------------------------------------


def test_imported_users_are_strangers_in_one_anothers_buckets_of_one_project() -> None:
    named = replace(BUCKET, spec={"acl": {"owner": {"id": OWNER.id}}})
    theirs = replace(somebody(id="stranger-id"), imported=True)
    own = replace(somebody(id=OWNER.id), imported=True)

    def open_to(who: S3Identity, bucket: BucketView, acl: Acl) -> bool:
        given = BucketRules(bucket, Ownership.WRITER, OPEN, acl)
        return allowed("s3:ListBucket", who, given, key="") and allowed("s3:GetObject", who, given, object_acl=acl)

    assert open_to(own, named, private(OWNER)) and not open_to(theirs, named, private(OWNER))
    assert open_to(theirs, named, canned("public-read", OWNER, OWNER))
    assert open_to(somebody(id="third"), named, private(OWNER))  # who was made here has the project's roles
    assert open_to(theirs, BUCKET, private(OWNER))  # nobody's by name: the project's


def test_members_of_the_project_do_everything_and_strangers_nothing() -> None:
    for action in ACTIONS:
        name = next((o.action for o in OPERATIONS.values() if o.action.lower() == action), "")
        if name and name not in ("s3:ListAllMyBuckets",):
            assert allowed(name), name
            assert not allowed(name, STRANGER), name
            assert not allowed(name, None), name


@pytest.mark.parametrize(
    ("role", "action", "let_in"),
    [
        ("storageObjectViewer", "s3:GetObject", True), ("storageObjectViewer", "s3:ListBucket", True),
        ("storageObjectViewer", "s3:PutObject", False), ("storageObjectViewer", "s3:GetBucketPolicy", True),
        ("storageObjectCreator", "s3:PutObject", True), ("storageObjectCreator", "s3:GetObject", False),
        ("storageObjectCreator", "s3:DeleteObject", False), ("storageObjectOperator", "s3:DeleteObject", True),
        ("storageObjectOperator", "s3:BypassGovernanceRetention", False),
        ("storageObjectOperator", "s3:PutBucketPolicy", False), ("storageOperator", "s3:PutBucketPolicy", True),
        ("storageOperator", "s3:BypassGovernanceRetention", True), ("computeOperator", "s3:GetObject", False),
        ("cicdInfrastructureManager", "s3:PutBucketCORS", True), ("cicdInfrastructureManager", "s3:GetObject", False),
    ],
)  # fmt: skip
def test_a_role_reaches_as_far_as_its_permissions(role: str, action: str, let_in: bool) -> None:
    assert allowed(action, somebody(role=role)) is let_in


def test_every_action_needs_a_permission_that_there_is() -> None:
    assert need("s3:GetObjectVersionTagging") == (OBJECTS, Act.READ)
    assert need("s3:CreateBucket") == ("Bucket", Act.CREATE)
    assert need("s3:PutBucketCORS") == ("Bucket", Act.UPDATE)
    assert need("s3:DeleteBucketPolicy") == ("Bucket", Act.UPDATE)
    assert need("s3:DeleteBucket") == ("Bucket", Act.DELETE)
    assert need("s3:GetBucketLocation") == ("Bucket", Act.READ)


def test_a_refusal_says_why_to_those_who_see_the_bucket_and_nothing_to_others() -> None:
    inside = decide_s3(ask("s3:PutObject", somebody(role="storageObjectViewer")))
    outside = decide_s3(ask("s3:PutObject", STRANGER))
    assert isinstance(inside, Denied) and isinstance(outside, Denied)
    assert "storage.objects.create" in inside.error().message
    assert outside.error().message == "Access denied."
    assert (inside.error().code, inside.error().status) == ("AccessDenied", 403)
    assert "no role" in outside.error().detail


# -- keys that are bound --------------------------------------------------------------------------


def test_a_bound_key_touches_only_the_buckets_in_its_list() -> None:
    mine, other = somebody(buckets=frozenset({"u-1"})), somebody(buckets=frozenset({"u-2"}))
    for action in ("s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:ListBucket"):
        assert allowed(action, mine)
        assert not allowed(action, other)
    assert not allowed("s3:GetObject", other, rules(statement()))


def test_a_bound_key_changes_nothing_about_its_bucket() -> None:
    mine = somebody(buckets=frozenset({"u-1"}))
    assert allowed("s3:GetBucketLocation", mine)
    for action in (
        "s3:PutBucketPolicy",
        "s3:DeleteBucket",
        "s3:PutLifecycleConfiguration",
        "s3:BypassGovernanceRetention",
    ):
        assert not allowed(action, mine)


# -- bucket policies ------------------------------------------------------------------------------


def test_an_explicit_deny_wins_over_a_role_and_over_an_allow() -> None:
    denying = rules(statement(), statement(Effect="Deny", Action="s3:GetObject"))
    for identity in (MEMBER, STRANGER, None):
        assert not allowed("s3:GetObject", identity, denying)
    assert allowed("s3:PutObject", STRANGER, denying)


def test_a_policy_lets_in_whom_it_names() -> None:
    for name in ("stranger-id", "arn:aws:iam::other:root", "arn:aws:iam::other:user/stranger-id"):
        named = rules(statement(Principal={"AWS": name}))
        assert allowed("s3:GetObject", STRANGER, named)
        assert not allowed("s3:GetObject", None, named)
        assert not allowed("s3:GetObject", somebody("third", id="x"), named)


def test_an_owner_takes_back_a_policy_that_shuts_everybody_out() -> None:
    shut = rules(statement(Effect="Deny"))
    for action in ("s3:GetBucketPolicy", "s3:PutBucketPolicy", "s3:DeleteBucketPolicy"):
        assert allowed(action, somebody(role="projectOwner"), shut)
        assert not allowed(action, MEMBER, shut)
        assert not allowed(action, somebody(role="storageOperator"), shut)
    assert not allowed("s3:GetObject", somebody(role="projectOwner"), shut)


def test_conditions_see_the_request() -> None:
    given = rules(statement(Condition={"StringEquals": {"s3:x-amz-acl": "public-read"}}))
    sent = context_of(Sent({"x-amz-acl": "public-read"}), STRANGER, BUCKET)
    assert allowed("s3:PutObject", STRANGER, given, context=sent)
    assert not allowed("s3:PutObject", STRANGER, given, context=context_of(Sent({}), STRANGER, BUCKET))


# -- public access block --------------------------------------------------------------------------


def test_a_restricted_bucket_is_open_to_its_own_project_only() -> None:
    restricted = PublicAccessBlock(restrict_buckets=True)
    public = rules(statement(), block=restricted)
    assert allowed("s3:GetObject", MEMBER, public)
    assert allowed("s3:GetObject", somebody(role="networkingViewer"), public)
    assert not allowed("s3:GetObject", STRANGER, public)
    assert not allowed("s3:GetObject", None, public)
    named = rules(statement(Principal={"AWS": "stranger-id"}), block=restricted)
    assert allowed("s3:GetObject", STRANGER, named)


def test_ignored_public_acls_grant_nothing_and_named_ones_stay() -> None:
    shared = Acl(OWNER, (AclGrant(ALL_USERS, "READ"), AclGrant(AUTHENTICATED, "READ"), AclGrant("friend-id", "READ")))
    for block, public in ((OPEN, True), (CLOSED, False)):
        given = rules(ownership=Ownership.WRITER, acl=shared, block=block)
        assert allowed("s3:ListBucket", None, given, key="") is public
        assert allowed("s3:ListBucket", STRANGER, given, key="") is public
        assert allowed("s3:ListBucket", somebody("third", id="friend-id"), given, key="")


# -- ACLs -----------------------------------------------------------------------------------------


def acl_rules(bucket: str = "private", ownership: Ownership = Ownership.WRITER) -> BucketRules:
    return rules(ownership=ownership, acl=canned(bucket, OWNER))


@pytest.mark.parametrize(
    ("word", "identity", "reads", "writes"),
    [
        ("private", STRANGER, False, False), ("public-read", STRANGER, True, False), ("public-read", None, True, False),
        ("public-read-write", STRANGER, True, True), ("public-read-write", None, True, True),
        ("authenticated-read", STRANGER, True, False), ("authenticated-read", None, False, False),
    ],
)  # fmt: skip
def test_canned_acls_of_a_bucket(word: str, identity: S3Identity | None, reads: bool, writes: bool) -> None:
    assert allowed("s3:ListBucket", identity, acl_rules(word), key="") is reads
    assert allowed("s3:PutObject", identity, acl_rules(word)) is writes
    assert not allowed("s3:GetBucketAcl", identity, acl_rules(word), key="")
    assert not allowed("s3:GetObject", identity, acl_rules(word), object_acl=private(OWNER))


def test_acls_count_for_nothing_where_the_owner_is_enforced() -> None:
    enforced = acl_rules("public-read-write", Ownership.ENFORCED)
    assert not allowed("s3:ListBucket", None, enforced, key="")
    assert not allowed("s3:GetObject", None, enforced, object_acl=canned("public-read", OWNER))


@pytest.mark.parametrize(
    ("permission", "action", "let_in"),
    [
        ("READ", "s3:GetObject", True), ("READ", "s3:GetObjectAcl", False), ("READ_ACP", "s3:GetObjectAcl", True),
        ("WRITE_ACP", "s3:PutObjectAcl", True), ("WRITE_ACP", "s3:GetObject", False),
        ("FULL_CONTROL", "s3:GetObject", True), ("FULL_CONTROL", "s3:PutObjectAcl", True),
        ("FULL_CONTROL", "s3:DeleteObject", False), ("WRITE", "s3:PutObject", False),
    ],
)  # fmt: skip
def test_grants_on_an_object(permission: str, action: str, let_in: bool) -> None:
    granted = Acl(OWNER, (AclGrant("stranger-id", permission),))
    assert allowed(action, STRANGER, acl_rules(), object_acl=granted) is let_in


def test_what_a_stranger_put_into_a_bucket_is_theirs_but_the_bucket_owner_can_delete_it() -> None:
    given, theirs = acl_rules("public-read-write"), private(WRITER)
    assert allowed("s3:GetObject", STRANGER, given, object_acl=theirs)
    assert allowed("s3:GetObjectTagging", STRANGER, given, object_acl=theirs)
    assert not allowed("s3:GetObject", MEMBER, given, object_acl=theirs)
    assert not allowed("s3:GetObjectAcl", MEMBER, given, object_acl=theirs)
    assert allowed("s3:DeleteObject", MEMBER, given, object_acl=theirs)
    shared = canned("bucket-owner-read", WRITER, OWNER)
    assert allowed("s3:GetObject", MEMBER, given, object_acl=shared)
    assert not allowed("s3:GetObject", somebody(role="storageObjectCreator"), given, object_acl=shared)


def test_a_policy_does_not_give_away_what_belongs_to_another_tenant() -> None:
    given = rules(statement(), ownership=Ownership.WRITER)
    assert not allowed("s3:GetObject", None, given, object_acl=private(WRITER))
    assert allowed("s3:GetObject", None, given, object_acl=private(OWNER))


# -- prefixes, territory, context -----------------------------------------------------------------


def test_a_list_may_be_open_below_a_prefix() -> None:
    public = rules(statement(Action="s3:ListBucket", Condition={"StringLike": {"s3:prefix": "public/*"}}))
    for prefix, let_in in (("public/k", True), ("private/k", False)):
        assert allowed("s3:ListBucket", STRANGER, public, key="", context={"s3:prefix": (prefix,)}) is let_in
        assert allowed("s3:ListBucket", MEMBER, public, key="", context={"s3:prefix": (prefix,)})


def test_bytes_go_only_where_the_written_rules_allow_whoever_brings_them() -> None:
    elsewhere = Rules((TerritoryRule("/sovereignty/projects/shop/sovereigntyPolicies/fi", frozenset({"FI"})),))
    for identity, given in ((MEMBER, rules()), (STRANGER, rules(statement()))):
        denied = decide_s3(ask("s3:PutObject", identity, given, territories=elsewhere))
        assert isinstance(denied, Denied)
        assert "SE" in denied.reasons[0]
        assert allowed("s3:GetObject", identity, given, territories=elsewhere)


def test_the_context_names_what_was_sent_and_nothing_else() -> None:
    sent = Sent(
        {"user-agent": "x", "x-amz-copy-source": "/a/b"}, {"prefix": "", "max-keys": "7"}, now=1_790_000_000.0,
        address="192.0.2.7", secure=True, tls_version="1.3", tags=(("a", "1"), ("b", "2")),
    )  # fmt: skip
    found = context_of(sent, STRANGER, BUCKET)
    assert found["aws:sourceip"] == ("192.0.2.7",)
    assert (found["aws:securetransport"], found["s3:tlsversion"]) == (("true",), ("1.3",))
    assert "s3:tlsversion" not in context_of(replace(sent, secure=False, tls_version=""), STRANGER, BUCKET)
    assert found["s3:prefix"] == ("",)
    assert found["s3:max-keys"] == ("7",)
    assert found["s3:x-amz-copy-source"] == ("a/b",)
    assert found["s3:requestobjecttag/a"] == ("1",)
    assert found["s3:requestobjecttagkeys"] == ("a", "b")
    assert found["aws:principalaccount"] == ("other",)
    assert "aws:referer" not in found and "s3:x-amz-acl" not in found
    assert with_tags({}, "s3:existingobjecttag", (("a", "1"),)) == {"s3:existingobjecttag/a": ("1",)}


def test_a_project_is_named_by_its_arn_and_never_by_a_bare_word() -> None:
    taken = somebody("friend-id", id="thief")  # a project with the name of somebody's user id
    given = rules(statement(Principal={"AWS": "friend-id"}))
    assert not allowed("s3:GetObject", taken, given)
    assert allowed("s3:GetObject", somebody("third", id="friend-id"), given)
    assert allowed("s3:GetObject", taken, rules(statement(Principal={"AWS": "arn:aws:iam::friend-id:root"})))


def test_the_anonymous_have_no_name() -> None:
    assert names_of(None) == frozenset()
    assert "aws:userid" not in context_of(Sent({}), None, BUCKET)


# -- what is laid on a new object -------------------------------------------------------------------


@pytest.mark.parametrize("action", ["s3:PutObjectTagging", "s3:PutObjectAcl"])
def test_who_may_write_by_a_role_lays_tags_and_grants_unless_a_policy_denies_it(action: str) -> None:
    deny = statement(Effect="Deny", Action=action)
    for who in (MEMBER, somebody(role="storageObjectCreator"), somebody(buckets=frozenset({"u-1"}))):
        assert isinstance(decide_laid(ask(action, who)), Allowed)
        assert isinstance(decide_laid(ask(action, who, rules(deny))), Denied)
    for who in (STRANGER, None, somebody(role="storageObjectViewer"), somebody(buckets=frozenset({"u-2"}))):
        assert isinstance(decide_laid(ask(action, who)), Denied)


@pytest.mark.parametrize("action", ["s3:PutObjectTagging", "s3:PutObjectAcl"])
def test_whom_a_policy_lets_write_needs_its_word_for_what_they_lay(action: str) -> None:
    write = statement(Action="s3:PutObject")
    for given, may in (
        ((write,), False), ((write, statement(Action=action)), True), ((statement(Action=action),), False),
        ((write, statement(Action=action), statement(Effect="Deny", Action=action)), False),
    ):  # fmt: skip
        assert isinstance(decide_laid(ask(action, STRANGER, rules(*given))), Allowed) is may


def test_a_condition_counts_only_where_its_statement_lets_the_request_through() -> None:
    def looked(key: str, value: str, context: Any) -> bool:
        given = rules(
            statement(Action="s3:PutObject", Principal={"AWS": "arn:aws:iam::other:root"}),
            statement(Action="s3:PutObject", Condition={"StringEquals": {key: value}}),
        )
        return isinstance(decide_laid(ask("s3:PutObjectTagging", STRANGER, given, context=context)), Allowed)

    red = {"s3:requestobjecttag/team": ("red",), "s3:x-amz-acl": ("private",)}
    assert looked("s3:RequestObjectTag/team", "red", red)
    assert not looked("s3:RequestObjectTag/team", "blue", red)
    assert not looked("s3:x-amz-acl", "private", red), "which is about something else"
