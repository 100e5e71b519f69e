"""Replication: which rules are taken, which objects, and that no copy goes where it may not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hansa.gateways.s3.ports import BucketView
from hansa.gateways.s3.rules import replication
from hansa.gateways.s3.rules.replication import checked, headers_of, status_of_new, takers, target_of
from hansa.gateways.s3.wire.bucketrules import Filter, Replication, ReplicationRule
from hansa.gateways.s3.wire.errors import S3Error
from hansa.kinds.bucketrules import Replication as Document
from hansa.objectindex.records import Encryption, Facts, Version, Versioning
from hansa.policy.verdict import Rules, TerritoryRule

ARN = "arn:aws:s3:::copies"


def bucket(
    name: str, *, region: str = "se-sto", territory: str = "SE", project: str = "shop", **more: Any
) -> BucketView:
    return BucketView(
        uid=f"u-{name}-{region}", name=name, project=project, organization="acme", region=region, territory=territory,
        revision=1, created=0.0, owner="o", owner_name="o", **{"spec": {}, "versioning": Versioning.ENABLED, **more},
    )  # fmt: skip


SOURCE = bucket("source")
BUCKETS = [
    SOURCE, bucket("copies"), bucket("copies", region="fi-hel", territory="FI"), bucket("theirs", project="other"),
    bucket("plain", versioning=Versioning.NEVER), bucket("keyed", spec={"encryption": {"algorithm": "aws:kms", "key": "k"}}),
]  # fmt: skip


def find(name: str, region: str) -> BucketView | None:
    return next((b for b in BUCKETS if b.name == name and region in ("", b.region)), None)


def rule(id: str = "r", bucket: str = ARN, **more: Any) -> ReplicationRule:
    return ReplicationRule(**{"status": "Enabled", "id": id, "bucket": bucket, "prefix": "", **more})


def check(*rules: ReplicationRule, source: BucketView = SOURCE, written: Rules = Rules()) -> Replication:
    return checked(Replication("", rules), source, find, written)


def version(key: str = "k", *, marker: bool = False, **facts: Any) -> Version:
    return Version("b", key, "v", 1, True, marker, 1, "e", 0.0, Facts(**facts))


# -- at the door ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "code"),
    [
        ([], "MalformedXML"), ([rule(), rule()], "InvalidArgument"), ([rule("a" * 256)], "InvalidArgument"),
        ([rule("a", priority=1), rule("b", priority=1)], "InvalidArgument"), ([rule(priority=-1)], "InvalidArgument"),
        ([rule(bucket="copies")], "InvalidArgument"), ([rule(bucket="arn:aws:s3:::none")], "InvalidRequest"),
        ([rule(bucket="arn:aws:s3:::theirs")], "InvalidRequest"), ([rule(bucket="arn:aws:s3:::source")], "InvalidRequest"),
        ([rule(bucket="arn:aws:s3:::plain")], "InvalidRequest"), ([rule(bucket="arn:aws:s3:de-fra::copies")], "InvalidRequest"),
        ([rule(storage_class="GLACIER")], "InvalidStorageClass"), ([rule(existing_objects="Enabled")], "NotImplemented"),
        ([rule(replica_changes="Enabled")], "NotImplemented"), ([rule(account="other")], "InvalidRequest"),
        ([rule(key="k")], "InvalidRequest"),
        ([rule(prefix=None, filter=Filter(tags=(("a", "b"),)), delete_markers="Enabled")], "InvalidRequest"),
    ],
)  # fmt: skip
def test_rules_that_cannot_be_followed_are_refused(rules: list[ReplicationRule], code: str) -> None:
    with pytest.raises(S3Error) as refused:
        check(*rules)
    assert refused.value.code == code


def test_a_bucket_without_versions_is_not_replicated() -> None:
    with pytest.raises(S3Error, match="versioning"):
        check(rule(), source=replace(SOURCE, versioning=Versioning.SUSPENDED))


def test_rules_of_ones_own_project_are_taken() -> None:
    rules = (
        rule("a", priority=1),
        rule("b", "arn:aws:s3:fi-hel::copies", priority=2),
        rule("c", "arn:aws:s3:::keyed", key="k"),
    )
    assert check(*rules).rules == rules
    assert check(rule("")).rules[0].id


def test_no_copy_goes_where_the_written_rules_do_not_allow() -> None:
    written = Rules((TerritoryRule("/policies/se", frozenset({"SE"})),))
    assert check(rule(), written=written)
    with pytest.raises(S3Error) as refused:
        check(rule(bucket="arn:aws:s3:fi-hel::copies"), written=written)
    assert refused.value.code == "AccessDenied" and "FI" in refused.value.message
    assert not replication.allowed(BUCKETS[2], written).allowed
    assert replication.allowed(BUCKETS[2], Rules()).allowed


# -- which objects --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("it", "given", "taken"),
    [
        (rule(), version(), True), (rule(status="Disabled"), version(), False), (rule(prefix="a"), version(), False),
        (rule(), version(replication="REPLICA"), False), (rule(), version(encryption=Encryption("SSE-C")), False),
        (rule(), version(encryption=Encryption("AES256")), True), (rule(), version(encryption=Encryption("aws:kms", "k")), False),
        (rule(encrypted_objects="Enabled"), version(encryption=Encryption("aws:kms", "k")), True),
        (rule(), version(marker=True), False), (rule(delete_markers="Enabled"), version(marker=True), True),
        (rule(prefix=None, filter=Filter(tags=(("a", "b"),))), version(tags=(("a", "b"),)), True),
        (rule(prefix=None, filter=Filter(tags=(("a", "b"),))), version(), False),
    ],
)  # fmt: skip
def test_which_versions_a_rule_takes(it: ReplicationRule, given: Version, taken: bool) -> None:
    assert bool(takers([it], given)) is taken
    assert status_of_new([it], given) == ("PENDING" if taken else "")


def test_of_several_rules_for_one_target_the_highest_priority_takes() -> None:
    low, high, other = rule("low", priority=1), rule("high", priority=2), rule("other", "arn:aws:s3:::keyed")
    assert takers([low, high, other], version()) == (high, other)
    assert target_of(rule(bucket="arn:aws:s3:fi-hel::copies")) == ("copies", "fi-hel")


def test_readers_are_told_the_status() -> None:
    assert headers_of(version()) == {}
    assert headers_of(version(replication="COMPLETED")) == {"x-amz-replication-status": "COMPLETED"}


# -- in the spec ----------------------------------------------------------------------------------

_SWITCH = st.sampled_from(("", "Enabled", "Disabled"))
_FORMS = st.sampled_from([
    {}, {"prefix": ""}, {"prefix": "a/"}, {"filter": Filter()}, {"filter": Filter("a")}, {"filter": Filter(tags=(("k", "v"),))},
    {"filter": Filter("a", (("k", "v"),), joined=True)}, {"filter": Filter("a", joined=True)},
])  # fmt: skip


@given(
    st.sampled_from((ARN, "arn:aws:s3:fi-hel::copies")), st.none() | st.integers(0, 9), _FORMS, _SWITCH, _SWITCH, _SWITCH,
    st.sampled_from(("", "STANDARD")), st.sampled_from(("", "shop")), st.sampled_from(("", "role")),
)  # fmt: skip
def test_what_a_client_wrote_comes_back(
    target: str,
    priority: int | None,
    form: dict[str, Any],
    one: str,
    two: str,
    three: str,
    kind: str,
    account: str,
    role: str,
) -> None:
    it = ReplicationRule(
        status="Disabled" if one == "Disabled" else "Enabled", bucket=target, id="r", priority=priority,
        storage_class=kind, account=account, key="k" if two else "", delete_markers=one, existing_objects=two,
        encrypted_objects=three, replica_changes=two, **form,
    )  # fmt: skip
    given = Replication(role, (it,))
    document = replication.document_of(given)
    assert replication.replication_from(document) == given
    assert replication.replication_from(Document.model_validate(document).wire()) == given
    assert replication.replication_from(None) is None
