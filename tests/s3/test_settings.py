"""Settings of a bucket, each read before it is set, set, read back, and taken away; and what is not offered."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import replace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from .running import Running
from .test_objects import code

CORS = {
    "CORSRules": [
        {"AllowedMethods": ["GET", "PUT"], "AllowedOrigins": ["https://*.example"], "AllowedHeaders": ["x-*"],
         "ExposeHeaders": ["ETag"], "MaxAgeSeconds": 60},
    ]
}  # fmt: skip
LIFECYCLE = {
    "Rules": [
        {"ID": "logs", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 3}},
        {"ID": "parts", "Status": "Disabled", "Filter": {"Prefix": ""},
         "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1}},
    ]
}  # fmt: skip
TAGS = {"TagSet": [{"Key": "a", "Value": "1"}, {"Key": "b", "Value": ""}]}
SSE = {"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}, "BucketKeyEnabled": False}]}

# what is it called, what it says when there is none, what is set, where it is in the answer
EACH = [
    ("bucket_cors", "NoSuchCORSConfiguration", {"CORSConfiguration": CORS}, CORS),
    ("bucket_lifecycle_configuration", "NoSuchLifecycleConfiguration", {"LifecycleConfiguration": LIFECYCLE}, LIFECYCLE),
    ("bucket_tagging", "NoSuchTagSet", {"Tagging": TAGS}, TAGS),
    (
        "bucket_encryption", "ServerSideEncryptionConfigurationNotFoundError", {"ServerSideEncryptionConfiguration": SSE},
        {"ServerSideEncryptionConfiguration": SSE},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "none", "given", "wanted"), EACH, ids=[one[0] for one in EACH])
def test_a_setting_comes_back_as_it_was_given(
    s3: Any, bucket: str, name: str, none: str, given: dict[str, Any], wanted: dict[str, Any]
) -> None:
    get, put = getattr(s3, f"get_{name}"), getattr(s3, f"put_{name}")
    delete = getattr(s3, f"delete_{name.removesuffix('_configuration')}")
    for _ in range(2):
        with pytest.raises(ClientError) as caught:
            get(Bucket=bucket)
        assert code(caught) == (404, none)
        put(Bucket=bucket, **given)
        said = get(Bucket=bucket)
        assert {key: said[key] for key in wanted} == wanted
        delete(Bucket=bucket)


def test_a_new_bucket_says_what_it_is(closed: Running, s3: Any, bucket: str) -> None:
    assert s3.get_bucket_location(Bucket=bucket)["LocationConstraint"] == "se-sto"
    assert "Status" not in s3.get_bucket_versioning(Bucket=bucket)
    block = s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"]
    assert set(block.values()) == {True} and len(block) == 4
    rules = s3.get_bucket_ownership_controls(Bucket=bucket)["OwnershipControls"]["Rules"]
    assert rules == [{"ObjectOwnership": "BucketOwnerEnforced"}]
    grants = s3.get_bucket_acl(Bucket=bucket)["Grants"]
    assert [grant["Permission"] for grant in grants] == ["FULL_CONTROL"]
    assert s3.get_bucket_request_payment(Bucket=bucket)["Payer"] == "BucketOwner"
    for name in ("logging", "accelerate_configuration", "notification_configuration"):
        said = getattr(s3, f"get_bucket_{name}")(Bucket=bucket)
        assert set(said) == {"ResponseMetadata"}
    for name, wanted in (
        ("bucket_website", "NoSuchWebsiteConfiguration"), ("bucket_policy", "NoSuchBucketPolicy"),
        ("bucket_replication", "ReplicationConfigurationNotFoundError"),
    ):  # fmt: skip
        with pytest.raises(ClientError) as caught:
            getattr(s3, f"get_{name}")(Bucket=bucket)
        assert code(caught) == (404, wanted)
    assert s3.head_bucket(Bucket=bucket)["BucketRegion"] == "se-sto"
    assert bucket in [one["Name"] for one in s3.list_buckets(Prefix=bucket[:4])["Buckets"]]


def test_what_is_not_offered_is_said_not_to_be(s3: Any, bucket: str) -> None:
    for call in (
        lambda: s3.put_bucket_website(Bucket=bucket, WebsiteConfiguration={"IndexDocument": {"Suffix": "i"}}),
        lambda: s3.put_bucket_logging(Bucket=bucket, BucketLoggingStatus={}),
        lambda: s3.put_bucket_accelerate_configuration(Bucket=bucket, AccelerateConfiguration={"Status": "Enabled"}),
        lambda: s3.put_bucket_request_payment(Bucket=bucket, RequestPaymentConfiguration={"Payer": "Requester"}),
        lambda: s3.put_bucket_notification_configuration(
            Bucket=bucket,
            NotificationConfiguration={"TopicConfigurations": [{"TopicArn": "t", "Events": ["s3:ObjectCreated:*"]}]},
        ),
        lambda: s3.restore_object(Bucket=bucket, Key="k", RestoreRequest={}),
    ):
        with pytest.raises(ClientError) as caught:
            call()
        assert code(caught) == (501, "NotImplemented")
    s3.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration={})


def test_names_of_buckets(closed: Running, s3: Any, bucket: str) -> None:
    for name in ("ab", "A-b", "under_score", "a..b", "192.168.0.1", "xn--a", "a" * 64, "-a-"):
        client = closed.client(parameter_validation=False)
        client.meta.events.unregister("before-parameter-build.s3", _validator(client))
        with pytest.raises(ClientError) as caught:
            client.create_bucket(Bucket=name)
        assert code(caught) == (400, "InvalidBucketName")
    with pytest.raises(ClientError) as caught:
        s3.create_bucket(Bucket=bucket)
    assert code(caught) == (409, "BucketAlreadyOwnedByYou")
    with pytest.raises(ClientError) as caught:
        closed.client(closed.alt).create_bucket(Bucket=bucket)
    assert code(caught) == (409, "BucketAlreadyExists")
    for region, wanted in (("us-east-1", "se-sto"), ("de-fra", "de-fra")):
        name = f"{bucket}-{region}"
        s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": region})
        assert s3.get_bucket_location(Bucket=name)["LocationConstraint"] == wanted
    with pytest.raises(ClientError) as caught:
        s3.create_bucket(Bucket=f"{bucket}-x", CreateBucketConfiguration={"LocationConstraint": "mars"})
    assert code(caught) == (400, "InvalidLocationConstraint")
    with pytest.raises(ClientError) as caught:
        closed.stranger().list_buckets()
    assert code(caught) == (403, "AccessDenied")


def test_pages_of_buckets_leave_out_none_of_one_name(closed: Running, s3: Any, bucket: str) -> None:
    """A name is of one region: another may have it too."""
    there = closed.directory.buckets
    s3.create_bucket(Bucket=f"{bucket}2")
    there[f"{bucket}/"] = replace(there[bucket], uid="elsewhere", region="zz-far")
    try:
        pages = s3.get_paginator("list_buckets").paginate(Prefix=bucket, PaginationConfig={"PageSize": 1})
        found = [(one["Name"], one["BucketRegion"]) for page in pages for one in page["Buckets"]]
    finally:
        del there[f"{bucket}/"]
    assert sorted(found) == [(bucket, "se-sto"), (bucket, "zz-far"), (f"{bucket}2", "se-sto")]


def _validator(client: Any) -> Any:
    from botocore.handlers import validate_bucket_name

    return validate_bucket_name


def test_a_public_policy_takes_an_open_bucket(closed: Running, s3: Any, bucket: str) -> None:
    policy = json.dumps(
        {"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{bucket}/*"}
        ]}
    )  # fmt: skip
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    with pytest.raises(ClientError) as caught:
        s3.put_bucket_policy(Bucket=bucket, Policy=policy)
    assert code(caught) == (403, "AccessDenied")
    s3.delete_public_access_block(Bucket=bucket)
    with pytest.raises(ClientError) as caught:
        s3.get_public_access_block(Bucket=bucket)
    assert code(caught) == (404, "NoSuchPublicAccessBlockConfiguration")
    s3.put_bucket_policy(Bucket=bucket, Policy=policy)
    assert s3.get_bucket_policy(Bucket=bucket)["Policy"] == policy
    assert s3.get_bucket_policy_status(Bucket=bucket)["PolicyStatus"]["IsPublic"] is True
    stranger = closed.stranger()
    assert stranger.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"
    with pytest.raises(ClientError) as caught:
        stranger.get_object(Bucket=bucket, Key="k", ResponseContentType="text/html")
    assert code(caught) == (400, "InvalidRequest")
    s3.delete_bucket_policy(Bucket=bucket)
    with pytest.raises(ClientError) as caught:
        stranger.get_object(Bucket=bucket, Key="k")
    assert code(caught) == (403, "AccessDenied")


def test_a_deny_wins_over_the_owners_own_role(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    s3.put_bucket_policy(
        Bucket=bucket,
        Policy=json.dumps(
            {"Version": "2012-10-17", "Statement": [
                {"Effect": "Deny", "Principal": "*", "Action": "s3:DeleteObject", "Resource": f"arn:aws:s3:::{bucket}/*"}
            ]}
        ),
    )  # fmt: skip
    with pytest.raises(ClientError) as caught:
        s3.delete_object(Bucket=bucket, Key="k")
    assert code(caught) == (403, "AccessDenied")
    said = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "k"}, {"Key": "l"}]})
    assert {one["Code"] for one in said["Errors"]} == {"AccessDenied"}
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"


def test_nobody_speaks_for_another_address(closed: Running, s3: Any, bucket: str) -> None:
    statement = {
        "Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{bucket}/*",
        "Condition": {"IpAddress": {"aws:SourceIp": "203.0.113.5/32"}},
    }  # fmt: skip
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
    spoken = {"X-Forwarded-For": "203.0.113.5", "X-Forwarded-Proto": "https", "Forwarded": "for=203.0.113.5"}
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(urllib.request.Request(f"{closed.url}/{bucket}/k", headers=spoken))
    caught.value.close()
    assert caught.value.code == 403


def test_acls_are_refused_as_shipped(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", ACL="bucket-owner-full-control")
    for call in (
        lambda: s3.put_object(Bucket=bucket, Key="l", ACL="public-read"),
        lambda: s3.put_object_acl(Bucket=bucket, Key="k", ACL="public-read"),
        lambda: s3.put_bucket_acl(Bucket=bucket, ACL="public-read"),
    ):
        with pytest.raises(ClientError) as caught:
            call()
        assert code(caught) == (400, "AccessControlListNotSupported")
    with pytest.raises(ClientError) as caught:
        s3.create_bucket(Bucket=f"{bucket}-public", ACL="public-read")
    assert code(caught) == (400, "InvalidBucketAclWithObjectOwnership")


def test_browsers_are_told_what_the_rules_allow(closed: Running, s3: Any, bucket: str) -> None:
    s3.put_bucket_cors(Bucket=bucket, CORSConfiguration=CORS)
    ask = {
        "Origin": "https://a.example",
        "Access-Control-Request-Method": "PUT",
        "Access-Control-Request-Headers": "x-a",
    }
    url = f"{closed.url}/{bucket}/k"
    with urllib.request.urlopen(urllib.request.Request(url, method="OPTIONS", headers=ask)) as answer:
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
        assert (
            "PUT" in answer.headers["access-control-allow-methods"] and answer.headers["access-control-max-age"] == "60"
        )
    for wrong in ({"Origin": "https://b.test"}, {"Access-Control-Request-Method": "DELETE"}):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(urllib.request.Request(url, method="OPTIONS", headers={**ask, **wrong}))
        caught.value.close()
        assert caught.value.code == 403
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(urllib.request.Request(url, headers={"Origin": "https://a.example"}))
    caught.value.close()
    assert caught.value.code == 403 and caught.value.headers["access-control-allow-origin"] == "https://a.example"
    assert caught.value.headers["access-control-expose-headers"] == "ETag"


def test_replication_needs_versions_and_a_bucket_of_ones_own(
    closed: Running, s3: Any, versioned: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = f"{versioned}-copy"
    rule = {
        "ID": "all", "Status": "Enabled", "Priority": 1, "Filter": {"Prefix": ""},
        "DeleteMarkerReplication": {"Status": "Disabled"}, "Destination": {"Bucket": f"arn:aws:s3:::{target}"},
    }  # fmt: skip
    given = {"Role": "arn:aws:iam:::role/any", "Rules": [rule]}
    with pytest.raises(ClientError) as caught:
        s3.put_bucket_replication(Bucket=versioned, ReplicationConfiguration=given)
    assert code(caught) == (400, "InvalidRequest")
    s3.create_bucket(Bucket=target)
    s3.put_bucket_versioning(Bucket=target, VersioningConfiguration={"Status": "Enabled"})
    s3.put_bucket_replication(Bucket=versioned, ReplicationConfiguration=given)
    assert s3.get_bucket_replication(Bucket=versioned)["ReplicationConfiguration"] == given
    s3.put_object(Bucket=versioned, Key="k", Body=b"x")
    assert s3.head_object(Bucket=versioned, Key="k")["ReplicationStatus"] == "PENDING"
    view = closed.directory.buckets.pop(target)

    async def caught_up() -> None:
        closed.directory.buckets[target] = view

    monkeypatch.setattr(closed.directory, "caught_up", caught_up)  # another process made it just now
    s3.put_bucket_replication(Bucket=versioned, ReplicationConfiguration=given)


def test_documents_of_no_use_are_refused_in_their_own_words(s3: Any, bucket: str) -> None:
    idle = {"Rules": [{"ID": "idle", "Status": "Enabled", "Filter": {"Prefix": ""}}]}
    with pytest.raises(ClientError) as caught:
        s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration=idle)
    assert code(caught) == (400, "InvalidRequest")


def test_a_rule_tells_when_an_object_expires(s3: Any, bucket: str) -> None:
    s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration=LIFECYCLE)
    assert 'rule-id="logs"' in s3.put_object(Bucket=bucket, Key="logs/1", Body=b"x")["Expiration"]
    assert 'rule-id="logs"' in s3.head_object(Bucket=bucket, Key="logs/1")["Expiration"]
    s3.put_object(Bucket=bucket, Key="other", Body=b"x")
    assert "Expiration" not in s3.head_object(Bucket=bucket, Key="other")
