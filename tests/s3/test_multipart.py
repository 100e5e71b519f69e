"""Uploads in parts: put together, copied into, listed, aborted, and what must not be."""

from __future__ import annotations

import base64
import hashlib
import os
import zlib
from typing import Any

import pytest
from botocore.exceptions import ClientError

from hansa.gateways.s3.wire import checksums

from .running import PART, Running
from .test_objects import code


def upload(s3: Any, bucket: str, key: str, bodies: list[bytes], **wishes: Any) -> tuple[str, list[dict[str, Any]]]:
    id = s3.create_multipart_upload(Bucket=bucket, Key=key, **wishes)["UploadId"]
    parts = []
    for number, body in enumerate(bodies, 1):
        said = s3.upload_part(Bucket=bucket, Key=key, UploadId=id, PartNumber=number, Body=body)
        sums = {name: said[name] for name in said if name.startswith("Checksum") and name != "ChecksumType"}
        parts.append({"PartNumber": number, "ETag": said["ETag"], **sums})
    return id, parts


def complete(s3: Any, bucket: str, key: str, id: str, parts: list[dict[str, Any]], **wishes: Any) -> Any:
    return s3.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=id, MultipartUpload={"Parts": parts}, **wishes)


def test_parts_are_put_together_in_order(s3: Any, bucket: str) -> None:
    bodies = [os.urandom(PART), os.urandom(PART + 7), os.urandom(10)]
    id, parts = upload(s3, bucket, "k", bodies, Metadata={"m": "1"}, ContentType="x/y")
    listed = s3.list_parts(Bucket=bucket, Key="k", UploadId=id, MaxParts=2)
    assert [part["Size"] for part in listed["Parts"]] == [PART, PART + 7] and listed["IsTruncated"]
    rest = s3.list_parts(Bucket=bucket, Key="k", UploadId=id, PartNumberMarker=listed["NextPartNumberMarker"])
    assert [part["PartNumber"] for part in rest["Parts"]] == [3]
    with pytest.raises(ClientError) as caught:
        s3.get_object(Bucket=bucket, Key="k")
    assert code(caught) == (404, "NoSuchKey")
    done = complete(s3, bucket, "k", id, parts)
    sums = b"".join(hashlib.md5(body).digest() for body in bodies)
    assert done["ETag"] == f'"{hashlib.md5(sums).hexdigest()}-3"'
    got = s3.get_object(Bucket=bucket, Key="k")
    whole = b"".join(bodies)
    assert got["Body"].read() == whole and got["Metadata"] == {"m": "1"} and got["ContentType"] == "x/y"
    across = s3.get_object(Bucket=bucket, Key="k", Range=f"bytes={PART - 3}-{PART + 3}")
    assert across["Body"].read() == whole[PART - 3 : PART + 4]
    second = s3.get_object(Bucket=bucket, Key="k", PartNumber=2)
    assert second["Body"].read() == bodies[1] and second["PartsCount"] == 3
    for wrong in (0, 10_001, 4):
        with pytest.raises(ClientError) as caught:
            s3.get_object(Bucket=bucket, Key="k", PartNumber=wrong)
        assert code(caught) == (400, "InvalidPart" if wrong == 4 else "InvalidArgument")
    again = complete(s3, bucket, "k", id, parts)
    assert again["ETag"] == done["ETag"]
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=bucket)


@pytest.mark.parametrize("algorithm", ["SHA512", "MD5", "XXHASH64", "XXHASH3", "XXHASH128"])
def test_parts_may_have_any_checksum(s3: Any, bucket: str, algorithm: str) -> None:
    name, body = f"Checksum{algorithm}", b"only"
    id = s3.create_multipart_upload(Bucket=bucket, Key="k", ChecksumAlgorithm=algorithm)["UploadId"]
    value = checksums.of(algorithm, body)
    part = s3.upload_part(Bucket=bucket, Key="k", UploadId=id, PartNumber=1, Body=body, **{name: value})
    assert s3.list_parts(Bucket=bucket, Key="k", UploadId=id)["Parts"][0][name] == part[name] == value
    done = complete(s3, bucket, "k", id, [{"PartNumber": 1, "ETag": part["ETag"], name: value}])
    of_sums = checksums.of(algorithm, base64.b64decode(value))
    assert (done[name], done["ChecksumType"]) == (f"{of_sums}-1", "COMPOSITE")


def test_a_checksum_that_a_part_does_not_have_is_not_passed_over(s3: Any, bucket: str) -> None:
    id, parts = upload(s3, bucket, "k", [b"only"], ChecksumAlgorithm="CRC32")
    parts[0]["ChecksumSHA256"] = checksums.of("SHA256", b"only")
    with pytest.raises(ClientError) as caught:
        complete(s3, bucket, "k", id, parts)
    assert code(caught) == (400, "BadDigest")
    del parts[0]["ChecksumSHA256"]
    assert complete(s3, bucket, "k", id, parts)["ChecksumCRC32"]


def test_checksums_of_the_whole(s3: Any, bucket: str) -> None:
    bodies = [os.urandom(PART), os.urandom(100)]
    id, parts = upload(s3, bucket, "full", bodies, ChecksumAlgorithm="CRC32", ChecksumType="FULL_OBJECT")
    done = complete(s3, bucket, "full", id, parts)
    crc = base64.b64encode(zlib.crc32(b"".join(bodies)).to_bytes(4, "big")).decode()
    assert (done["ChecksumCRC32"], done["ChecksumType"]) == (crc, "FULL_OBJECT")
    id, parts = upload(s3, bucket, "parts", bodies, ChecksumAlgorithm="CRC32")
    done = complete(s3, bucket, "parts", id, parts)
    sums = b"".join(zlib.crc32(body).to_bytes(4, "big") for body in bodies)
    crc = base64.b64encode(zlib.crc32(sums).to_bytes(4, "big")).decode()
    assert (done["ChecksumCRC32"], done["ChecksumType"]) == (f"{crc}-2", "COMPOSITE")
    said = s3.get_object_attributes(Bucket=bucket, Key="parts", ObjectAttributes=["ObjectParts", "Checksum"])
    assert [part["Size"] for part in said["ObjectParts"]["Parts"]] == [PART, 100]
    assert said["ObjectParts"]["TotalPartsCount"] == 2
    id, parts = upload(s3, bucket, "wrong", bodies, ChecksumAlgorithm="CRC32", ChecksumType="FULL_OBJECT")
    with pytest.raises(ClientError) as caught:
        complete(s3, bucket, "wrong", id, parts, ChecksumCRC32="AAAAAA==")
    assert code(caught) == (400, "BadDigest")


def test_what_cannot_be_put_together(s3: Any, bucket: str) -> None:
    id, parts = upload(s3, bucket, "k", [b"a" * 10, b"b" * 10])
    for listed, wanted in (
        (parts, "EntityTooSmall"),
        (parts[::-1], "InvalidPartOrder"),
        ([parts[0], parts[0]], "InvalidPartOrder"),
        ([{"PartNumber": 1, "ETag": '"0"'}], "InvalidPart"),
        ([parts[0], {"PartNumber": 9, "ETag": parts[0]["ETag"]}], "InvalidPart"),
        ([], "MalformedXML"),
    ):
        with pytest.raises(ClientError) as caught:
            complete(s3, bucket, "k", id, listed)
        assert code(caught) == (400, wanted)
    with pytest.raises(ClientError) as caught:
        complete(s3, bucket, "other", id, parts)
    assert code(caught) == (404, "NoSuchUpload")
    complete(s3, bucket, "k", id, parts[1:])
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"b" * 10


def test_an_aborted_upload_is_gone_with_its_bytes(closed: Running, s3: Any, bucket: str) -> None:
    id, parts = upload(s3, bucket, "k", [os.urandom(PART)])
    s3.abort_multipart_upload(Bucket=bucket, Key="k", UploadId=id)
    for call in (
        lambda: s3.abort_multipart_upload(Bucket=bucket, Key="k", UploadId=id),
        lambda: s3.list_parts(Bucket=bucket, Key="k", UploadId=id),
        lambda: s3.upload_part(Bucket=bucket, Key="k", UploadId=id, PartNumber=2, Body=b"x"),
        lambda: complete(s3, bucket, "k", id, parts),
    ):
        with pytest.raises(ClientError) as caught:
            call()
        assert code(caught) == (404, "NoSuchUpload")
    view = closed.directory.buckets[bucket]
    held = closed.ask(lambda: closed.gateway.index.held(view.uid))
    assert (held.uploads, held.upload_bytes) == (0, 0)


def test_uploads_are_listed_by_key_and_page(s3: Any, bucket: str) -> None:
    for key in ("b", "a", "a", "c/1"):
        s3.create_multipart_upload(Bucket=bucket, Key=key)
    first = s3.list_multipart_uploads(Bucket=bucket, MaxUploads=2)
    assert [one["Key"] for one in first["Uploads"]] == ["a", "a"] and first["IsTruncated"]
    rest = s3.list_multipart_uploads(
        Bucket=bucket, KeyMarker=first["NextKeyMarker"], UploadIdMarker=first["NextUploadIdMarker"], Delimiter="/"
    )
    assert [one["Key"] for one in rest["Uploads"]] == ["b"] and rest["CommonPrefixes"] == [{"Prefix": "c/"}]
    s3.delete_bucket(Bucket=bucket)


def test_a_part_is_copied_from_a_range(s3: Any, bucket: str) -> None:
    body = os.urandom(3 * PART)
    s3.put_object(Bucket=bucket, Key="from", Body=body)
    id = s3.create_multipart_upload(Bucket=bucket, Key="to")["UploadId"]
    source = {"Bucket": bucket, "Key": "from"}
    parts = []
    for number, span in enumerate((f"bytes={PART}-{2 * PART - 1}", None), 1):
        wish = {"CopySourceRange": span} if span else {}
        said = s3.upload_part_copy(Bucket=bucket, Key="to", UploadId=id, PartNumber=number, CopySource=source, **wish)
        parts.append({"PartNumber": number, "ETag": said["CopyPartResult"]["ETag"]})
    for wrong, wanted in (("bytes=5", 400), (f"bytes=0-{3 * PART}", 416)):
        with pytest.raises(ClientError) as caught:
            s3.upload_part_copy(
                Bucket=bucket, Key="to", UploadId=id, PartNumber=9, CopySource=source, CopySourceRange=wrong
            )
        assert code(caught)[0] == wanted
    complete(s3, bucket, "to", id, parts)
    assert s3.get_object(Bucket=bucket, Key="to")["Body"].read() == body[PART : 2 * PART] + body


def test_parts_under_a_customers_key(s3: Any, bucket: str) -> None:
    with_key = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": b"k" * 32}
    bodies = [os.urandom(PART), os.urandom(20)]
    id = s3.create_multipart_upload(Bucket=bucket, Key="k", ChecksumAlgorithm="CRC32", **with_key)["UploadId"]
    parts = []
    for number, body in enumerate(bodies, 1):
        said = s3.upload_part(Bucket=bucket, Key="k", UploadId=id, PartNumber=number, Body=body, **with_key)
        parts.append({"PartNumber": number, "ETag": said["ETag"]})
    with pytest.raises(ClientError) as caught:
        s3.upload_part(Bucket=bucket, Key="k", UploadId=id, PartNumber=3, Body=b"x")
    assert code(caught) == (400, "InvalidRequest")
    with pytest.raises(ClientError) as caught:
        complete(s3, bucket, "k", id, parts)
    assert code(caught) == (400, "InvalidRequest")
    complete(s3, bucket, "k", id, parts, **with_key)
    assert s3.get_object(Bucket=bucket, Key="k", **with_key)["Body"].read() == b"".join(bodies)


def test_a_delete_during_an_upload_takes_nothing_of_it(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"old")
    id, parts = upload(s3, bucket, "k", [b"new"])
    s3.delete_object(Bucket=bucket, Key="k")
    complete(s3, bucket, "k", id, parts)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"new"
