"""Versions, delete markers, locks and tags, one version at a time."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from .running import Running
from .test_objects import code


def test_an_unversioned_object_has_the_null_version(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"1")
    s3.put_object(Bucket=bucket, Key="k", Body=b"2")
    listed = s3.list_object_versions(Bucket=bucket)["Versions"]
    assert [(one["VersionId"], one["IsLatest"]) for one in listed] == [("null", True)]
    s3.delete_object(Bucket=bucket, Key="k", VersionId="null")
    assert "Versions" not in s3.list_object_versions(Bucket=bucket)


def test_versions_stay_until_each_is_deleted(s3: Any, versioned: str) -> None:
    ids = [s3.put_object(Bucket=versioned, Key="k", Body=body)["VersionId"] for body in (b"1", b"2", b"3")]
    assert len(set(ids)) == 3
    assert s3.get_object(Bucket=versioned, Key="k")["VersionId"] == ids[2]
    assert s3.get_object(Bucket=versioned, Key="k", VersionId=ids[0])["Body"].read() == b"1"
    listed = s3.list_object_versions(Bucket=versioned)["Versions"]
    assert [one["VersionId"] for one in listed] == ids[::-1] and [one["IsLatest"] for one in listed] == [
        True,
        False,
        False,
    ]
    s3.delete_object(Bucket=versioned, Key="k", VersionId=ids[2])
    assert s3.get_object(Bucket=versioned, Key="k")["Body"].read() == b"2"
    for wrong, wanted in ((ids[2], (404, "NoSuchVersion")), ("x" * 2000, (400, "InvalidArgument"))):
        with pytest.raises(ClientError) as caught:
            s3.get_object(Bucket=versioned, Key="k", VersionId=wrong)
        assert code(caught) == wanted


def test_what_can_be_no_version_is_told_from_one_that_is_gone(s3: Any, versioned: str) -> None:
    s3.put_object(Bucket=versioned, Key="k", Body=b"1")
    asked = (s3.get_object, s3.head_object, s3.delete_object, s3.get_object_tagging, s3.get_object_acl)
    for ask in asked:
        with pytest.raises(ClientError) as caught:
            ask(Bucket=versioned, Key="k", VersionId="my_version")
        assert code(caught) == (400, "400" if ask == s3.head_object else "InvalidArgument")
    with pytest.raises(ClientError) as caught:
        s3.copy_object(Bucket=versioned, Key="l", CopySource=f"{versioned}/k?versionId=my_version")
    assert code(caught) == (400, "InvalidArgument")
    for elsewhere in ("null", "4857393e13d944a6a6a8b4d9a1a1c5b0", "01BX5ZZKBKACTAV9WEVGEMMVRZ"):
        with pytest.raises(ClientError) as caught:
            s3.get_object(Bucket=versioned, Key="k", VersionId=elsewhere)
        assert code(caught) == (404, "NoSuchVersion")
    s3.delete_object(Bucket=versioned, Key="k", VersionId="4857393e13d944a6a6a8b4d9a1a1c5b0")
    many = [{"Key": "k", "VersionId": id} for id in ("my_version", "4857393e13d944a6a6a8b4d9a1a1c5b0")]
    said = s3.delete_objects(Bucket=versioned, Delete={"Objects": many})
    assert [(one["VersionId"], one["Code"]) for one in said["Errors"]] == [("my_version", "NoSuchVersion")]
    assert [one["VersionId"] for one in said["Deleted"]] == ["4857393e13d944a6a6a8b4d9a1a1c5b0"]


def test_a_marker_hides_and_gives_back(s3: Any, versioned: str) -> None:
    first = s3.put_object(Bucket=versioned, Key="k", Body=b"1")["VersionId"]
    said = s3.delete_object(Bucket=versioned, Key="k")
    marker = said["VersionId"]
    assert said["DeleteMarker"] is True
    with pytest.raises(ClientError) as caught:
        s3.get_object(Bucket=versioned, Key="k")
    headers = caught.value.response["ResponseMetadata"]["HTTPHeaders"]
    assert code(caught) == (404, "NoSuchKey")
    assert (headers["x-amz-delete-marker"], headers["x-amz-version-id"]) == ("true", marker)
    with pytest.raises(ClientError) as caught:
        s3.head_object(Bucket=versioned, Key="k", VersionId=marker)
    assert code(caught)[0] == 405 and caught.value.response["ResponseMetadata"]["HTTPHeaders"]["allow"] == "DELETE"
    assert [one["VersionId"] for one in s3.list_object_versions(Bucket=versioned)["DeleteMarkers"]] == [marker]
    assert "Contents" not in s3.list_objects_v2(Bucket=versioned)
    assert s3.delete_object(Bucket=versioned, Key="k", VersionId=marker)["DeleteMarker"] is True
    assert s3.get_object(Bucket=versioned, Key="k")["VersionId"] == first


def test_suspended_versioning_replaces_the_null_version_only(s3: Any, versioned: str) -> None:
    first = s3.put_object(Bucket=versioned, Key="k", Body=b"1")["VersionId"]
    s3.put_bucket_versioning(Bucket=versioned, VersioningConfiguration={"Status": "Suspended"})
    assert s3.get_bucket_versioning(Bucket=versioned)["Status"] == "Suspended"
    for body in (b"2", b"3"):
        assert "VersionId" not in s3.put_object(Bucket=versioned, Key="k", Body=body)
    assert s3.head_object(Bucket=versioned, Key="k")["VersionId"] == "null"
    assert [one["VersionId"] for one in s3.list_object_versions(Bucket=versioned)["Versions"]] == ["null", first]
    assert s3.delete_object(Bucket=versioned, Key="k")["VersionId"] == "null"
    assert [one["VersionId"] for one in s3.list_object_versions(Bucket=versioned)["Versions"]] == [first]


def test_pages_of_versions_leave_nothing_out(s3: Any, versioned: str) -> None:
    made = [s3.put_object(Bucket=versioned, Key=f"k{n % 3}", Body=b"x")["VersionId"] for n in range(8)]
    s3.delete_object(Bucket=versioned, Key="k1")
    pages = s3.get_paginator("list_object_versions").paginate(Bucket=versioned, PaginationConfig={"PageSize": 2})
    found = [(one["Key"], one["VersionId"]) for page in pages for one in page.get("Versions", [])]
    assert len(found) == 8 and {id for _, id in found} == set(made)
    assert [key for key, _ in found] == sorted(key for key, _ in found)


def test_tags_of_a_version(s3: Any, versioned: str) -> None:
    id = s3.put_object(Bucket=versioned, Key="k", Body=b"x", Tagging="a=1&b=%20")["VersionId"]
    assert s3.head_object(Bucket=versioned, Key="k")["ResponseMetadata"]["HTTPHeaders"]["x-amz-tagging-count"] == "2"
    s3.put_object(Bucket=versioned, Key="k", Body=b"y")
    tags = [{"Key": "c", "Value": "3"}]
    s3.put_object_tagging(Bucket=versioned, Key="k", VersionId=id, Tagging={"TagSet": tags})
    said = s3.get_object_tagging(Bucket=versioned, Key="k", VersionId=id)
    assert said["TagSet"] == tags and said["VersionId"] == id
    assert s3.get_object_tagging(Bucket=versioned, Key="k")["TagSet"] == []
    s3.delete_object_tagging(Bucket=versioned, Key="k", VersionId=id)
    assert s3.get_object_tagging(Bucket=versioned, Key="k", VersionId=id)["TagSet"] == []
    with pytest.raises(ClientError) as caught:
        s3.put_object_tagging(
            Bucket=versioned, Key="k", Tagging={"TagSet": [{"Key": f"k{n}", "Value": ""} for n in range(11)]}
        )
    assert code(caught) == (400, "InvalidTag")


# -- locks --------------------------------------------------------------------------------------


@pytest.fixture
def locked(s3: Any, bucket: str) -> Iterator[str]:
    name = f"{bucket}-locked"
    s3.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    yield name


def soon(seconds: int = 3600) -> datetime:
    return datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=seconds)


def test_a_legal_hold_stands_by_itself(s3: Any, locked: str) -> None:
    id = s3.put_object(Bucket=locked, Key="k", Body=b"x", ObjectLockLegalHoldStatus="ON")["VersionId"]
    assert s3.head_object(Bucket=locked, Key="k")["ObjectLockLegalHoldStatus"] == "ON"
    with pytest.raises(ClientError) as caught:
        s3.delete_object(Bucket=locked, Key="k", VersionId=id, BypassGovernanceRetention=True)
    assert code(caught) == (403, "AccessDenied")
    s3.put_object_legal_hold(Bucket=locked, Key="k", LegalHold={"Status": "OFF"})
    assert s3.get_object_legal_hold(Bucket=locked, Key="k")["LegalHold"]["Status"] == "OFF"
    s3.delete_object(Bucket=locked, Key="k", VersionId=id)


def test_a_lock_that_was_never_set_is_not_one_that_is_off(s3: Any, locked: str) -> None:
    s3.put_object(Bucket=locked, Key="k", Body=b"x")
    for read in (s3.get_object_legal_hold, s3.get_object_retention):
        with pytest.raises(ClientError) as caught:
            read(Bucket=locked, Key="k")
        assert code(caught) == (404, "NoSuchObjectLockConfiguration")
    assert "ObjectLockLegalHoldStatus" not in s3.head_object(Bucket=locked, Key="k")
    s3.put_object(Bucket=locked, Key="k", Body=b"x", ObjectLockLegalHoldStatus="OFF")
    assert s3.get_object_legal_hold(Bucket=locked, Key="k")["LegalHold"]["Status"] == "OFF"
    assert s3.head_object(Bucket=locked, Key="k")["ObjectLockLegalHoldStatus"] == "OFF"
    id = s3.create_multipart_upload(Bucket=locked, Key="u", ObjectLockLegalHoldStatus="OFF")["UploadId"]
    part = s3.upload_part(Bucket=locked, Key="u", UploadId=id, PartNumber=1, Body=b"x")
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    s3.complete_multipart_upload(Bucket=locked, Key="u", UploadId=id, MultipartUpload=parts)
    assert s3.get_object_legal_hold(Bucket=locked, Key="u")["LegalHold"]["Status"] == "OFF"


def test_governance_yields_to_a_bypass(s3: Any, locked: str) -> None:
    until = soon()
    id = s3.put_object(Bucket=locked, Key="k", Body=b"x", ObjectLockMode="GOVERNANCE", ObjectLockRetainUntilDate=until)[
        "VersionId"
    ]
    assert s3.get_object_retention(Bucket=locked, Key="k")["Retention"] == {
        "Mode": "GOVERNANCE",
        "RetainUntilDate": until,
    }
    shorter = {"Mode": "GOVERNANCE", "RetainUntilDate": soon(60)}
    for call in (
        lambda: s3.delete_object(Bucket=locked, Key="k", VersionId=id),
        lambda: s3.put_object_retention(Bucket=locked, Key="k", Retention=shorter),
    ):
        with pytest.raises(ClientError) as caught:
            call()
        assert code(caught) == (403, "AccessDenied")
    assert s3.delete_object(Bucket=locked, Key="k")["DeleteMarker"] is True
    s3.put_object_retention(Bucket=locked, Key="k", VersionId=id, Retention=shorter, BypassGovernanceRetention=True)
    said = s3.delete_objects(Bucket=locked, Delete={"Objects": [{"Key": "k", "VersionId": id}]})
    assert said["Errors"][0]["Code"] == "AccessDenied"
    s3.delete_objects(
        Bucket=locked, Delete={"Objects": [{"Key": "k", "VersionId": id}]}, BypassGovernanceRetention=True
    )
    assert "Versions" not in s3.list_object_versions(Bucket=locked)


def test_compliance_yields_to_nobody_until_its_day(closed: Running, s3: Any, bucket: str) -> None:
    name = f"{bucket}-kept"
    s3.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    rule = {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 1}}
    s3.put_object_lock_configuration(
        Bucket=name, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule}
    )
    assert s3.get_object_lock_configuration(Bucket=name)["ObjectLockConfiguration"]["Rule"] == rule
    id = s3.put_object(Bucket=name, Key="k", Body=b"x")["VersionId"]
    kept = s3.get_object_retention(Bucket=name, Key="k")["Retention"]
    assert kept["Mode"] == "COMPLIANCE"
    for call in (
        lambda: s3.delete_object(Bucket=name, Key="k", VersionId=id, BypassGovernanceRetention=True),
        lambda: s3.put_object_retention(
            Bucket=name, Key="k", Retention={"Mode": "COMPLIANCE", "RetainUntilDate": soon()},
            BypassGovernanceRetention=True,
        ),
    ):  # fmt: skip
        with pytest.raises(ClientError) as caught:
            call()
        assert code(caught) == (403, "AccessDenied")
    longer = {"Mode": "COMPLIANCE", "RetainUntilDate": kept["RetainUntilDate"] + timedelta(seconds=60)}
    s3.put_object_retention(Bucket=name, Key="k", Retention=longer)
    with pytest.raises(ClientError) as caught:
        s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Suspended"})
    assert code(caught) == (409, "InvalidBucketState")


def test_locks_need_a_bucket_for_them(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    for call in (
        lambda: s3.put_object(Bucket=bucket, Key="k", ObjectLockLegalHoldStatus="ON"),
        lambda: s3.put_object_legal_hold(Bucket=bucket, Key="k", LegalHold={"Status": "ON"}),
        lambda: s3.get_object_retention(Bucket=bucket, Key="k"),
        lambda: s3.get_object_legal_hold(Bucket=bucket, Key="k"),
    ):
        with pytest.raises(ClientError) as caught:
            call()
        assert code(caught) == (400, "InvalidRequest")
    with pytest.raises(ClientError) as caught:
        s3.get_object_lock_configuration(Bucket=bucket)
    assert code(caught) == (404, "ObjectLockConfigurationNotFoundError")
