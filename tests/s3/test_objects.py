"""Objects through boto3, as shipped: written, read, listed, deleted; conditions, ranges, checksums, keys of every kind."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import secrets
import socket
import urllib.error
import urllib.request
from typing import Any

import pytest
from botocore.exceptions import ClientError

from hansa.gateways.s3.calls import copying
from hansa.gateways.s3.wire.checksums import ALGORITHMS, of

from .running import Running


def code(caught: pytest.ExceptionInfo[ClientError]) -> tuple[int, str]:
    said = caught.value.response
    return said["ResponseMetadata"]["HTTPStatusCode"], said["Error"]["Code"]


def test_what_was_put_comes_back_with_all_that_was_said_of_it(s3: Any, bucket: str) -> None:
    put = s3.put_object(
        Bucket=bucket, Key="a/b.txt", Body=b"hello", ContentType="text/plain", CacheControl="no-cache",
        ContentDisposition="inline", ContentLanguage="sv", Metadata={"Colour": "blue"},
    )  # fmt: skip
    assert put["ETag"] == f'"{hashlib.md5(b"hello").hexdigest()}"' and put["ChecksumCRC32"]
    got = s3.get_object(Bucket=bucket, Key="a/b.txt")
    assert got["Body"].read() == b"hello" and got["ETag"] == put["ETag"]
    assert (got["ContentType"], got["CacheControl"], got["ContentLanguage"]) == ("text/plain", "no-cache", "sv")
    assert got["Metadata"] == {"colour": "blue"} and got["ContentDisposition"] == "inline"
    headers = got["ResponseMetadata"]["HTTPHeaders"]
    assert headers["server"] == "hansa" and headers["x-amz-request-id"] and headers["x-amz-id-2"] and headers["date"]
    head = s3.head_object(Bucket=bucket, Key="a/b.txt")
    assert head["ContentLength"] == 5 and head["LastModified"] == got["LastModified"] and "VersionId" not in head


@pytest.mark.parametrize("size", [0, 1, 16_384, 16_385, 262_144, 262_145, 3_000_000])
def test_every_size_comes_back_whole_and_in_part(s3: Any, bucket: str, size: int) -> None:
    body = os.urandom(size)
    s3.put_object(Bucket=bucket, Key="k", Body=body)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == body
    if size > 2:
        first, last = size // 3, size - 2
        got = s3.get_object(Bucket=bucket, Key="k", Range=f"bytes={first}-{last}")
        assert got["ResponseMetadata"]["HTTPStatusCode"] == 206
        assert got["ContentRange"] == f"bytes {first}-{last}/{size}" and got["Body"].read() == body[first : last + 1]
        assert s3.get_object(Bucket=bucket, Key="k", Range="bytes=-2")["Body"].read() == body[-2:]


def test_a_range_that_lies_outside_is_told_how_large_the_object_is(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"12345")
    with pytest.raises(ClientError) as caught:
        s3.get_object(Bucket=bucket, Key="k", Range="bytes=5-")
    assert code(caught) == (416, "InvalidRange")
    assert caught.value.response["ResponseMetadata"]["HTTPHeaders"]["content-range"] == "bytes */5"
    assert s3.get_object(Bucket=bucket, Key="k", Range="bytes=0-1,3-4")["Body"].read() == b"12345"


KEYS = [
    "a//b", "/lead", "trail/", "./x", "../x", "a/../b", ".", "..", " ", "a b", "a+b", "a%2Fb", "ü", "日本", "\U0001f4a1",
    "q?x=y&z", "#", '"', "'", "<&>", "\t", "\n", "\x7f", "\u200b", "a" * 1024, "ü" * 512, "e\u0301", "\xe9",
]  # fmt: skip


def test_any_text_of_up_to_1024_bytes_is_a_key(s3: Any, bucket: str) -> None:
    for key in KEYS:
        s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    for key in KEYS:
        assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == key.encode()
    listed = [found["Key"] for found in s3.list_objects_v2(Bucket=bucket)["Contents"]]
    assert listed == sorted(KEYS, key=str.encode)
    said = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in KEYS if key != "\x7f"]})
    assert len(said["Deleted"]) == len(KEYS) - 1 and "Errors" not in said


def test_a_key_that_is_too_long_is_refused(s3: Any, bucket: str) -> None:
    with pytest.raises(ClientError) as caught:
        s3.put_object(Bucket=bucket, Key="ü" * 513)
    assert code(caught) == (400, "KeyTooLongError")


def test_what_is_not_there_is_said_not_to_be_there(s3: Any, bucket: str) -> None:
    with pytest.raises(ClientError) as caught:
        s3.get_object(Bucket=bucket, Key="none")
    assert code(caught) == (404, "NoSuchKey") and caught.value.response["Error"]["Key"] == "none"
    with pytest.raises(ClientError) as caught:
        s3.head_object(Bucket=bucket, Key="none")
    assert code(caught)[0] == 404
    with pytest.raises(ClientError) as caught:
        s3.get_object(Bucket="no-such-bucket", Key="none")
    assert code(caught) == (404, "NoSuchBucket")
    assert s3.delete_object(Bucket=bucket, Key="none")["ResponseMetadata"]["HTTPStatusCode"] == 204


def test_conditions_of_reads(s3: Any, bucket: str) -> None:
    put = s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    at = s3.head_object(Bucket=bucket, Key="k")["LastModified"]
    for wish in ({"IfMatch": '"other"'}, {"IfUnmodifiedSince": "2020-01-01"}):
        with pytest.raises(ClientError) as caught:
            s3.get_object(Bucket=bucket, Key="k", **wish)
        assert code(caught) == (412, "PreconditionFailed")
    for wish in ({"IfNoneMatch": put["ETag"]}, {"IfModifiedSince": at}):
        with pytest.raises(ClientError) as caught:
            s3.get_object(Bucket=bucket, Key="k", **wish)
        assert code(caught)[0] == 304
        assert caught.value.response["ResponseMetadata"]["HTTPHeaders"]["etag"] == put["ETag"]
    s3.get_object(Bucket=bucket, Key="k", IfMatch=put["ETag"], IfUnmodifiedSince="2020-01-01")


def test_conditions_of_writes(s3: Any, bucket: str) -> None:
    with pytest.raises(ClientError) as caught:
        s3.put_object(Bucket=bucket, Key="k", Body=b"1", IfMatch="*")
    assert code(caught) == (404, "NoSuchKey")
    first = s3.put_object(Bucket=bucket, Key="k", Body=b"1", IfNoneMatch="*")
    with pytest.raises(ClientError) as caught:
        s3.put_object(Bucket=bucket, Key="k", Body=b"2", IfNoneMatch="*")
    assert code(caught) == (412, "PreconditionFailed")
    second = s3.put_object(Bucket=bucket, Key="k", Body=b"2", IfMatch=first["ETag"])
    with pytest.raises(ClientError) as caught:
        s3.put_object(Bucket=bucket, Key="k", Body=b"3", IfMatch=first["ETag"])
    assert code(caught) == (412, "PreconditionFailed")
    assert s3.get_object(Bucket=bucket, Key="k")["ETag"] == second["ETag"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_each_checksum_is_kept_and_shown(s3: Any, bucket: str, algorithm: str) -> None:
    name, value = f"Checksum{algorithm}", of(algorithm, b"body")
    put = s3.put_object(Bucket=bucket, Key="k", Body=b"body", **{name: value})
    assert put[name] == value and put["ChecksumType"] == "FULL_OBJECT"
    assert s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")[name] == put[name]
    said = s3.get_object_attributes(Bucket=bucket, Key="k", ObjectAttributes=["Checksum", "ObjectSize", "ETag"])
    assert said["Checksum"][name] == put[name] and said["ObjectSize"] == 4 and said["ETag"] == put["ETag"].strip('"')
    with pytest.raises(ClientError) as caught:
        s3.put_object(Bucket=bucket, Key="k", Body=b"other", **{name: put[name]})
    assert code(caught) == (400, "BadDigest")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"body"


def test_the_words_of_an_answer_can_be_chosen_in_a_signed_address(s3: Any, closed: Running, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    got = s3.get_object(
        Bucket=bucket, Key="k", ResponseContentType="text/x", ResponseContentDisposition='attachment; filename="a\nb"'
    )
    assert got["ContentType"] == "text/x" and got["ContentDisposition"] == 'attachment; filename="a b"'


def test_deleting_many_tells_of_each(s3: Any, bucket: str) -> None:
    for number in range(5):
        s3.put_object(Bucket=bucket, Key=f"k{number}")
    said = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": f"k{n}"} for n in range(7)]})
    assert {one["Key"] for one in said["Deleted"]} == {f"k{n}" for n in range(7)}
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)
    quiet = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "k1"}], "Quiet": True})
    assert "Deleted" not in quiet


def test_pages_of_a_listing_leave_nothing_out(s3: Any, bucket: str) -> None:
    keys = sorted([f"{folder}/{n}" for folder in "abc" for n in range(5)] + ["top", "a-file"])
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key)
    for name in ("list_objects", "list_objects_v2"):
        found = [
            one["Key"]
            for page in s3.get_paginator(name).paginate(Bucket=bucket, PaginationConfig={"PageSize": 3})
            for one in page["Contents"]
        ]
        assert found == keys
        pages = list(s3.get_paginator(name).paginate(Bucket=bucket, Delimiter="/", PaginationConfig={"PageSize": 2}))
        assert [one["Prefix"] for page in pages for one in page.get("CommonPrefixes", [])] == ["a/", "b/", "c/"]
        assert [one["Key"] for page in pages for one in page.get("Contents", [])] == ["a-file", "top"]
    page = s3.list_objects_v2(Bucket=bucket, Prefix="b/", StartAfter="b/2", FetchOwner=True, MaxKeys=1)
    assert page["Contents"][0]["Key"] == "b/3" and page["Contents"][0]["Owner"]["ID"] and page["IsTruncated"]
    assert s3.list_objects_v2(Bucket=bucket, MaxKeys=0)["KeyCount"] == 0


def test_a_token_that_no_listing_gave_is_refused(closed: Running, s3: Any, bucket: str) -> None:
    uid = closed.directory.buckets[bucket].uid
    no_text = base64.urlsafe_b64encode(hashlib.sha256(f"{uid}\0".encode() + b"\xff").digest()[:6] + b"\xff").decode()
    for token in ("rubbish", "ü", "AAAAAAAAAAAA", no_text):
        with pytest.raises(ClientError) as caught:
            s3.list_objects_v2(Bucket=bucket, ContinuationToken=token)
        assert code(caught) == (400, "InvalidArgument")


def test_a_copy_keeps_or_replaces_what_was_said(s3: Any, bucket: str) -> None:
    body = os.urandom(600_000)
    s3.put_object(Bucket=bucket, Key="a b", Body=body, Metadata={"x": "1"}, ContentType="text/a", Tagging="t=1")
    source = {"Bucket": bucket, "Key": "a b"}
    done = s3.copy_object(Bucket=bucket, Key="kept", CopySource=source)
    kept = s3.get_object(Bucket=bucket, Key="kept")
    assert kept["Body"].read() == body and kept["Metadata"] == {"x": "1"} and kept["ContentType"] == "text/a"
    assert kept["ETag"] == done["CopyObjectResult"]["ETag"]
    assert s3.get_object_tagging(Bucket=bucket, Key="kept")["TagSet"] == [{"Key": "t", "Value": "1"}]
    s3.copy_object(
        Bucket=bucket, Key="new", CopySource=source, MetadataDirective="REPLACE", Metadata={"y": "2"},
        TaggingDirective="REPLACE",
    )  # fmt: skip
    new = s3.head_object(Bucket=bucket, Key="new")
    assert new["Metadata"] == {"y": "2"} and new["ContentType"] == "binary/octet-stream"
    with pytest.raises(ClientError) as caught:
        s3.copy_object(Bucket=bucket, Key="a b", CopySource=source)
    assert code(caught) == (400, "InvalidRequest")
    for wish in ({"CopySourceIfMatch": "x"}, {"CopySourceIfNoneMatch": kept["ETag"]}):
        with pytest.raises(ClientError) as caught:
            s3.copy_object(Bucket=bucket, Key="c", CopySource=source, **wish)
        assert code(caught) == (412, "PreconditionFailed")


def test_a_class_that_promises_less_is_kept_as_a_name(s3: Any, bucket: str) -> None:
    reduced = "REDUCED_REDUNDANCY"
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", StorageClass=reduced)
    assert s3.head_object(Bucket=bucket, Key="k")["StorageClass"] == reduced
    assert [one["StorageClass"] for one in s3.list_objects_v2(Bucket=bucket)["Contents"]] == [reduced]
    s3.copy_object(Bucket=bucket, Key="k", CopySource=f"{bucket}/k", StorageClass="STANDARD")
    assert "StorageClass" not in s3.head_object(Bucket=bucket, Key="k")
    id = s3.create_multipart_upload(Bucket=bucket, Key="m", StorageClass=reduced)["UploadId"]
    assert s3.list_parts(Bucket=bucket, Key="m", UploadId=id)["StorageClass"] == reduced
    for kept_elsewhere in ("STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER", "DEEP_ARCHIVE", "reduced"):
        with pytest.raises(ClientError) as caught:
            s3.put_object(Bucket=bucket, Key="k", Body=b"x", StorageClass=kept_elsewhere)
        assert code(caught) == (400, "InvalidStorageClass")


def test_a_copy_may_say_whose_bucket_it_means(closed: Running, s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    source = {"Bucket": bucket, "Key": "k"}
    id = s3.create_multipart_upload(Bucket=bucket, Key="parts")["UploadId"]
    for call in (
        lambda owner: s3.copy_object(Bucket=bucket, Key="c", CopySource=source, ExpectedSourceBucketOwner=owner),
        lambda owner: s3.upload_part_copy(
            Bucket=bucket, Key="parts", UploadId=id, PartNumber=1, CopySource=source, ExpectedSourceBucketOwner=owner
        ),
        lambda owner: s3.get_object(Bucket=bucket, Key="k", ExpectedBucketOwner=owner),
    ):
        call(closed.main.user_id)
        with pytest.raises(ClientError) as caught:
            call(closed.alt.user_id)
        assert code(caught) == (403, "AccessDenied")


def test_a_copy_finds_a_bucket_that_another_process_made_just_now(
    closed: Running, s3: Any, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    other, directory = f"{bucket}-other", closed.directory
    s3.create_bucket(Bucket=other)
    view = directory.buckets.pop(bucket)

    async def caught_up() -> None:
        directory.buckets[bucket] = view

    monkeypatch.setattr(directory, "caught_up", caught_up)
    s3.copy_object(Bucket=other, Key="k", CopySource={"Bucket": bucket, "Key": "k"})
    assert s3.get_object(Bucket=other, Key="k")["Body"].read() == b"x"


def test_a_bucket_by_its_host_name(closed: Running, s3: Any, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    look_up = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *more, **words: look_up("127.0.0.1", *more, **words))
    virtual = closed.client(style="virtual", host="s3.localhost")
    virtual.put_object(Bucket=bucket, Key="a/b", Body=b"v")
    assert s3.get_object(Bucket=bucket, Key="a/b")["Body"].read() == b"v"
    assert [one["Key"] for one in virtual.list_objects_v2(Bucket=bucket)["Contents"]] == ["a/b"]


def test_presigned_addresses(closed: Running, s3: Any, bucket: str) -> None:
    put = s3.generate_presigned_url("put_object", {"Bucket": bucket, "Key": "p q"}, ExpiresIn=60)
    urllib.request.urlopen(urllib.request.Request(put, data=b"signed", method="PUT")).close()
    get = s3.generate_presigned_url("get_object", {"Bucket": bucket, "Key": "p q"}, ExpiresIn=60)
    with urllib.request.urlopen(get) as answer:
        assert answer.read() == b"signed"
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(get.replace("p%20q", "p%20r"))
    caught.value.close()
    assert caught.value.code == 403
    closed.clock.ahead = 61.0
    try:
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(get)
        caught.value.close()
    finally:
        closed.clock.ahead = 0.0
    assert caught.value.code == 403


def test_a_customers_key_is_needed_to_read(s3: Any, bucket: str) -> None:
    key, other = secrets.token_bytes(32), secrets.token_bytes(32)
    with_key = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": key}
    put = s3.put_object(Bucket=bucket, Key="k", Body=b"secret", **with_key)
    assert put["ETag"] != f'"{hashlib.md5(b"secret").hexdigest()}"' and put["SSECustomerKeyMD5"]
    assert s3.get_object(Bucket=bucket, Key="k", **with_key)["Body"].read() == b"secret"
    for wrong in ({}, {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": other}):
        with pytest.raises(ClientError) as caught:
            s3.get_object(Bucket=bucket, Key="k", **wrong)
        assert code(caught) == (400, "InvalidRequest")
    s3.copy_object(
        Bucket=bucket, Key="plain", CopySource={"Bucket": bucket, "Key": "k"},
        CopySourceSSECustomerAlgorithm="AES256", CopySourceSSECustomerKey=key,
    )  # fmt: skip
    assert s3.get_object(Bucket=bucket, Key="plain")["Body"].read() == b"secret"


def test_a_named_key_and_the_buckets_default(s3: Any, bucket: str) -> None:
    put = s3.put_object(Bucket=bucket, Key="k", Body=b"x", ServerSideEncryption="aws:kms", SSEKMSKeyId="key-1")
    assert (put["ServerSideEncryption"], put["SSEKMSKeyId"]) == ("aws:kms", "key-1")
    with pytest.raises(ClientError) as caught:
        s3.put_object(Bucket=bucket, Key="k", Body=b"x", ServerSideEncryption="aws:kms", SSEKMSKeyId="nobody")
    assert code(caught) == (400, "KMS.NotFoundException")
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": "key-1"}}
    s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration={"Rules": [rule]})
    assert s3.put_object(Bucket=bucket, Key="d", Body=b"y")["SSEKMSKeyId"] == "key-1"
    assert s3.get_object(Bucket=bucket, Key="d")["Body"].read() == b"y"


def test_strangers_are_told_nothing(closed: Running, s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    for client in (closed.client(closed.alt), closed.stranger()):
        for call in (
            lambda: client.get_object(Bucket=bucket, Key="k"),
            lambda: client.get_object(Bucket=bucket, Key="none"),
            lambda: client.list_objects_v2(Bucket=bucket),
            lambda: client.put_object(Bucket=bucket, Key="k2", Body=b"y"),
            lambda: client.delete_object(Bucket=bucket, Key="k"),
            lambda: client.get_bucket_acl(Bucket=bucket),
            lambda: client.delete_bucket(Bucket=bucket),
        ):
            with pytest.raises(ClientError) as caught:
                call()
            assert code(caught) == (403, "AccessDenied")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"


def test_a_copy_that_takes_long_is_answered_while_it_goes_on(
    closed: Running, s3: Any, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "PATIENCE_S", 0.0)
    monkeypatch.setattr(copying, "BLANK_S", 0.01)
    body = os.urandom(20_000_000)
    s3.put_object(Bucket=bucket, Key="k", Body=body)
    done = s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "k"})
    assert done["ResponseMetadata"]["HTTPHeaders"]["transfer-encoding"] == "chunked"
    got = s3.get_object(Bucket=bucket, Key="copy")
    assert got["Body"].read() == body and got["ETag"] == done["CopyObjectResult"]["ETag"]
    with pytest.raises(ClientError) as caught:
        s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "k"}, IfNoneMatch="*")
    assert caught.value.response["Error"]["Code"] == "PreconditionFailed"


def test_a_long_copy_that_nobody_waits_for_ends() -> None:
    async def left() -> bool:
        task: asyncio.Future[copying.Copied] = asyncio.get_running_loop().create_future()
        stream = copying._blanks(None, task)  # type: ignore[arg-type] # the call is for refusals
        assert (await anext(stream)).startswith(b"<?xml")
        await stream.aclose()  # type: ignore[attr-defined]
        return task.cancelled()

    assert asyncio.run(left())


@pytest.mark.parametrize("target", ["/other", "http://example.com/a", "https://example.com/"])
def test_a_redirect_is_kept(s3: Any, bucket: str, target: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", WebsiteRedirectLocation=target)
    assert s3.head_object(Bucket=bucket, Key="k")["WebsiteRedirectLocation"] == target


def test_a_redirect_to_nowhere_is_refused(s3: Any, bucket: str) -> None:
    for write in (s3.put_object, s3.create_multipart_upload):
        with pytest.raises(ClientError) as caught:
            write(Bucket=bucket, Key="k", WebsiteRedirectLocation="example.com")
        assert code(caught) == (400, "InvalidRedirectLocation")


def test_what_is_asked_wrong_is_refused_before_the_object_is_looked_for(s3: Any, bucket: str) -> None:
    source = {"Bucket": bucket, "Key": "none"}
    for asked in (
        lambda: s3.get_object(Bucket=bucket, Key="none", PartNumber=0),
        lambda: s3.get_object_attributes(Bucket=bucket, Key="none", ObjectAttributes=["Colour"]),
        lambda: s3.copy_object(Bucket=bucket, Key="k", CopySource=source, TaggingDirective="MERGE"),
    ):
        with pytest.raises(ClientError) as caught:
            asked()
        assert code(caught) == (400, "InvalidArgument")
    with pytest.raises(ClientError) as caught:
        s3.get_object_attributes(Bucket="there-is-none", Key="none", ObjectAttributes=["Colour"])
    assert code(caught) == (404, "NoSuchBucket")


def test_a_range_with_blanks_is_none(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"0123456789")
    for text, body in (("bytes= -1", b"0123456789"), ("bytes=0 - 1", b"0123456789"), ("bytes=-1", b"9")):
        assert s3.get_object(Bucket=bucket, Key="k", Range=text)["Body"].read() == body


def test_buckets_are_listed_in_pages_that_can_be_had(closed: Running, bucket: str) -> None:
    s3 = closed.client()
    assert len(s3.list_buckets(MaxBuckets=1)["Buckets"]) == 1
    s3.meta.events.register("before-sign.s3.ListBuckets", endless)
    with pytest.raises(ClientError) as caught:
        s3.list_buckets(MaxBuckets=1)
    assert code(caught) == (400, "InvalidArgument")


def endless(request: Any, **_: Any) -> None:
    """What the client itself would not let through."""
    request.url = request.url.replace("max-buckets=1", "max-buckets=10001")
