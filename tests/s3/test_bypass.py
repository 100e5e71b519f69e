"""Retentions in GOVERNANCE mode that are passed by: by whom, and never without a record."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from .memory import MemoryUpstream
from .running import Running
from .test_objects import code

ABSENT = "0" * 32  # an id that no version has


@pytest.fixture
def locked(s3: Any, bucket: str) -> str:
    name = f"{bucket}-locked"
    s3.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    return name


def soon(seconds: int = 3600) -> datetime:
    return datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=seconds)


def upstream_of(closed: Running) -> MemoryUpstream:
    assert isinstance(closed.gateway.upstream, MemoryUpstream)
    return closed.gateway.upstream


def told_since(closed: Running, before: int) -> list[tuple[str, str, str, str]]:
    """Operation, key, version and outcome of the bypasses that were recorded."""
    return [(it.operation, it.key, it.version, it.becomes) for it in upstream_of(closed).bypasses[before:]]


def test_a_bypass_that_matters_is_recorded_once_and_any_other_is_not(closed: Running, s3: Any, locked: str) -> None:
    upstream, until = upstream_of(closed), soon()
    before = len(upstream.bypasses)
    ids = [
        s3.put_object(Bucket=locked, Key="k", Body=b"x", ObjectLockMode="GOVERNANCE", ObjectLockRetainUntilDate=until)[
            "VersionId"
        ]
        for _ in range(3)
    ]
    free = s3.put_object(Bucket=locked, Key="free", Body=b"x")["VersionId"]
    s3.delete_object(Bucket=locked, Key="free", VersionId=free, BypassGovernanceRetention=True)
    for later in (soon(7200), until.replace(year=until.year + 1)):
        s3.put_object_retention(
            Bucket=locked, Key="k", VersionId=ids[0], BypassGovernanceRetention=True,
            Retention={"Mode": "GOVERNANCE", "RetainUntilDate": later},
        )  # fmt: skip
    s3.put_object_legal_hold(Bucket=locked, Key="k", VersionId=ids[1], LegalHold={"Status": "ON"})
    for refused in (
        {"Key": "k", "VersionId": ids[1], "BypassGovernanceRetention": True},
        {"Key": "k", "VersionId": ids[0]},
        {"Key": "k", "VersionId": ABSENT},
    ):
        if refused["VersionId"] == ABSENT:
            s3.delete_object(Bucket=locked, **refused)
            continue
        with pytest.raises(ClientError) as caught:
            s3.delete_object(Bucket=locked, **refused)
        assert code(caught) == (403, "AccessDenied")
    with pytest.raises(ClientError) as caught:
        s3.delete_object(Bucket=locked, Key="k", VersionId=ids[0], BypassGovernanceRetention=True, IfMatch='"another"')
    assert code(caught) == (412, "PreconditionFailed")
    assert told_since(closed, before) == [], "nothing was passed by"

    s3.put_object_retention(
        Bucket=locked, Key="k", VersionId=ids[0], BypassGovernanceRetention=True,
        Retention={"Mode": "GOVERNANCE", "RetainUntilDate": until},
    )  # fmt: skip
    s3.put_object_retention(Bucket=locked, Key="k", VersionId=ids[0], BypassGovernanceRetention=True, Retention={})
    doomed = [{"Key": "k", "VersionId": id} for id in (ids[0], ids[2])]  # the first is retained no more
    s3.delete_objects(Bucket=locked, Delete={"Objects": doomed}, BypassGovernanceRetention=True)
    assert told_since(closed, before) == [
        ("PutObjectRetention", "k", ids[0], f"GOVERNANCE until {until:%Y-%m-%dT%H:%M:%S}.000Z"),
        ("PutObjectRetention", "k", ids[0], "no retention"),
        ("DeleteObjects", "k", ids[2], "deleted"),
    ]
    last = upstream.bypasses[-1]
    assert (last.caller, last.bucket.name, last.until) == (closed.main.caller, locked, until.timestamp())
    assert last.rule == "projectContributor" and last.request and last.id != upstream.bypasses[-2].id


def test_without_a_record_no_retention_is_passed_by(closed: Running, s3: Any, locked: str) -> None:
    upstream, until = upstream_of(closed), soon()
    id = s3.put_object(Bucket=locked, Key="k", Body=b"x", ObjectLockMode="GOVERNANCE", ObjectLockRetainUntilDate=until)[
        "VersionId"
    ]
    free = s3.put_object(Bucket=locked, Key="free", Body=b"x")["VersionId"]
    upstream.audits = False
    try:
        for work in (
            lambda: s3.delete_object(Bucket=locked, Key="k", VersionId=id, BypassGovernanceRetention=True),
            lambda: s3.put_object_retention(Bucket=locked, Key="k", Retention={}, BypassGovernanceRetention=True),
        ):
            with pytest.raises(ClientError) as caught:
                work()
            assert code(caught) == (503, "ServiceUnavailable")
        objects = {"Objects": [{"Key": "k", "VersionId": id}]}
        objects["Objects"].append({"Key": "free", "VersionId": free})
        with pytest.raises(ClientError) as caught:
            s3.delete_objects(Bucket=locked, Delete=objects, BypassGovernanceRetention=True)
        assert code(caught) == (503, "ServiceUnavailable")
        s3.head_object(Bucket=locked, Key="free", VersionId=free)
    finally:
        upstream.audits = True
    assert s3.get_object_retention(Bucket=locked, Key="k")["Retention"]["RetainUntilDate"] == until


def test_what_one_request_passes_by_is_recorded_in_one_go(closed: Running, s3: Any, locked: str) -> None:
    upstream, until = upstream_of(closed), soon()
    lock: dict[str, Any] = {"ObjectLockMode": "GOVERNANCE", "ObjectLockRetainUntilDate": until}
    ids = {key: s3.put_object(Bucket=locked, Key=key, Body=b"x", **lock)["VersionId"] for key in "abc"}
    held = s3.put_object(Bucket=locked, Key="held", Body=b"x", ObjectLockLegalHoldStatus="ON", **lock)["VersionId"]
    before, commits = len(upstream.bypasses), upstream.commits
    doomed = [{"Key": key, "VersionId": id} for key, id in {**ids, "held": held, "absent": ABSENT}.items()]
    doomed += [dict(doomed[0]), {"Key": "b"}]
    doomed[2]["ETag"] = '"another"'
    said = s3.delete_objects(Bucket=locked, Delete={"Objects": doomed}, BypassGovernanceRetention=True)
    assert {(one["Key"], one["Code"]) for one in said["Errors"]} == {
        ("c", "PreconditionFailed"),
        ("held", "AccessDenied"),
    }
    assert sorted(told_since(closed, before)) == [
        ("DeleteObjects", "a", ids["a"], "deleted"), ("DeleteObjects", "b", ids["b"], "deleted"),
    ]  # fmt: skip
    assert upstream.commits == commits + 1
    left = {one["Key"] for one in s3.list_object_versions(Bucket=locked)["Versions"]}
    assert left == {"c", "held"}


def test_a_policy_lets_and_forbids_to_pass_by_for_each_object(closed: Running, s3: Any, locked: str) -> None:
    until = soon()
    ids = {
        key: s3.put_object(
            Bucket=locked, Key=key, Body=b"x", ObjectLockMode="GOVERNANCE", ObjectLockRetainUntilDate=until
        )["VersionId"]
        for key in ("mine/a", "theirs/a", "theirs/b")
    }
    theirs, mine = (f"arn:aws:s3:::{locked}/{part}/*" for part in ("theirs", "mine"))
    actions = ["s3:DeleteObjectVersion", "s3:BypassGovernanceRetention"]
    statements = [
        {"Effect": "Allow", "Principal": {"CanonicalUser": closed.alt.user_id}, "Action": actions, "Resource": theirs},
        {"Effect": "Deny", "Principal": "*", "Action": actions[1], "Resource": mine},
    ]
    s3.put_bucket_policy(Bucket=locked, Policy=json.dumps({"Version": "2012-10-17", "Statement": statements}))
    alt, before = closed.client(closed.alt), len(upstream_of(closed).bypasses)
    for who, key in ((s3, "mine/a"), (alt, "mine/a")):
        with pytest.raises(ClientError) as caught:
            who.delete_object(Bucket=locked, Key=key, VersionId=ids[key], BypassGovernanceRetention=True)
        assert code(caught) == (403, "AccessDenied")
    alt.delete_object(Bucket=locked, Key="theirs/a", VersionId=ids["theirs/a"], BypassGovernanceRetention=True)
    assert told_since(closed, before) == [("DeleteObject", "theirs/a", ids["theirs/a"], "deleted")]
    everybody = [{"Effect": "Allow", "Principal": "*", "Action": actions, "Resource": theirs}]
    s3.put_public_access_block(Bucket=locked, PublicAccessBlockConfiguration={"BlockPublicPolicy": False})
    s3.put_bucket_policy(Bucket=locked, Policy=json.dumps({"Version": "2012-10-17", "Statement": everybody}))
    with pytest.raises(ClientError) as caught:
        closed.stranger().delete_object(
            Bucket=locked, Key="theirs/b", VersionId=ids["theirs/b"], BypassGovernanceRetention=True
        )
    assert code(caught) == (403, "AccessDenied"), "nobody without a name passes by"
