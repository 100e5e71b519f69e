"""Where clients and suites look closely: answers that Amazon documents, or gives, in a way of their own."""

from __future__ import annotations

import http.client
import time
from datetime import timedelta
from typing import Any
from xml.etree import ElementTree

import pytest
from botocore.exceptions import ClientError

from hansa.gateways.s3.wire.canonical import EMPTY_SHA256
from hansa.sdk.s3sign import Pair, path_of, presigned, query_of, signed

from .running import PART, Running
from .test_multipart import complete, upload
from .test_objects import code

Told = tuple[int, str, dict[str, str]]


def ask(
    closed: Running, method: str, bucket: str, key: str = "", headers: dict[str, str] | None = None, **query: str
) -> Told:
    """Status, code of the error and headers of a request that no SDK would send. `_` in a field's name is a hyphen."""
    pair = Pair(closed.main.access_key, closed.main.secret.decode(), "se-sto")
    path, fields = path_of(bucket, key), query_of([(name.replace("_", "-"), value) for name, value in query.items()])
    head = {**(headers or {}), "host": f"127.0.0.1:{closed.port}"}
    return told(closed, method, f"{path}?{fields}", signed(pair, method, path, fields, head, EMPTY_SHA256, time.time()))


def told(closed: Running, method: str, address: str, headers: dict[str, str]) -> Told:
    connection = http.client.HTTPConnection("127.0.0.1", closed.port, timeout=20)
    try:
        connection.request(method, address, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    error = ElementTree.fromstring(body).findtext("Code") or "" if answer.status >= 300 and body else ""
    return answer.status, error, {name.lower(): value for name, value in answer.getheaders()}


# -- addresses ----------------------------------------------------------------------------------


def test_a_bucket_s_listings_are_not_asked_of_an_object(closed: Running, s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    for name in ("uploads", "versions"):
        assert ask(closed, "GET", bucket, "k", **{name: ""})[:2] == (400, "InvalidRequest")
    assert ask(closed, "GET", bucket, "k", policy="x")[:2] == (501, "NotImplemented")
    assert ask(closed, "GET", bucket, "k", list_type="2")[:2] == (200, "")
    status, _, headers = ask(closed, "HEAD", bucket, "k", tagging="")
    assert (status, headers["allow"]) == (405, "GET, PUT, DELETE")


@pytest.mark.parametrize(
    ("expires", "wanted"),
    [
        ("0", (403, "AccessDenied")), ("-7", (403, "AccessDenied")), ("604801", (403, "AccessDenied")),
        ("9" * 40, (403, "AccessDenied")), ("soon", (400, "AuthorizationQueryParametersError")),
        ("1.5", (400, "AuthorizationQueryParametersError")), ("", (400, "AuthorizationQueryParametersError")),
        ("604800", (403, "SignatureDoesNotMatch")),
    ],
)  # fmt: skip
def test_for_how_long_an_address_may_be_signed(closed: Running, bucket: str, expires: str, wanted: Any) -> None:
    pair, host = Pair(closed.main.access_key, closed.main.secret.decode(), "se-sto"), f"127.0.0.1:{closed.port}"
    query = presigned(pair, "GET", path_of(bucket, "k"), host, 60, time.time())
    assert "X-Amz-Expires=60&" in query
    address = f"{path_of(bucket, 'k')}?{query.replace('X-Amz-Expires=60&', f'X-Amz-Expires={expires}&')}"
    assert told(closed, "GET", address, {"host": host})[:2] == wanted


def test_the_head_of_a_bucket_says_where_and_what_it_is(closed: Running, s3: Any, bucket: str) -> None:
    said = s3.head_bucket(Bucket=bucket)
    assert (said["BucketRegion"], said["AccessPointAlias"]) == ("se-sto", False)
    assert said["BucketArn"] == f"arn:aws:s3:::{bucket}"


# -- browsers -----------------------------------------------------------------------------------


def preflight(closed: Running, bucket: str, key: str = "", **asked: str) -> Told:
    headers = {"origin": "https://a.example"} | {f"access-control-request-{name}": asked[name] for name in asked}
    return told(closed, "OPTIONS", path_of(bucket, key), headers)


def test_a_preflight_tells_all_that_a_browser_keeps(closed: Running, s3: Any, bucket: str) -> None:
    assert preflight(closed, bucket, "k")[:2] == (403, "AccessForbidden"), "a bucket without rules needs no method"
    rule = {
        "AllowedMethods": ["PUT"], "AllowedOrigins": ["https://a.example"], "AllowedHeaders": ["*"],
        "ExposeHeaders": ["ETag", "x-amz-id-2"], "MaxAgeSeconds": 60,
    }  # fmt: skip
    s3.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": [rule]})
    status, _, headers = preflight(closed, bucket, "k", method="PUT", headers="X-A, x-b")
    assert status == 200
    assert {name: value for name, value in headers.items() if name.startswith("access-control") or name == "vary"} == {
        "access-control-allow-origin": "https://a.example", "access-control-allow-methods": "PUT",
        "access-control-allow-headers": "x-a, x-b", "access-control-allow-credentials": "true",
        "access-control-expose-headers": "ETag, x-amz-id-2", "access-control-max-age": "60",
        "vary": "Origin, Access-Control-Request-Headers, Access-Control-Request-Method",
    }  # fmt: skip
    assert preflight(closed, bucket, "k")[:2] == (400, "BadRequest")
    assert preflight(closed, bucket, "k", method="PUT", headers="x a")[:2] == (400, "BadRequest")
    assert preflight(closed, bucket, "k", method="GET")[:2] == (403, "AccessForbidden")


# -- listings -----------------------------------------------------------------------------------


def test_uploads_are_all_listed_where_pages_end_at_common_prefixes(s3: Any, bucket: str) -> None:
    for key in ("a/1", "a/2", "b", "c/1", "d"):
        s3.create_multipart_upload(Bucket=bucket, Key=key)
    pages: list[str] = []
    markers: dict[str, str] = {}
    while True:
        page = s3.list_multipart_uploads(Bucket=bucket, Delimiter="/", MaxUploads=1, **markers)
        (found,) = [*page.get("CommonPrefixes", ()), *page.get("Uploads", ())]
        pages.append(found.get("Prefix") or found["Key"])
        assert page["KeyMarker"] == markers.get("KeyMarker", "")
        if not page["IsTruncated"]:
            break
        assert page["NextKeyMarker"] == pages[-1] and ("Prefix" in found) is not bool(page.get("NextUploadIdMarker"))
        markers = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page.get("NextUploadIdMarker", "")}
    assert pages == ["a/", "b", "c/", "d"]


def test_a_marker_of_uploads_without_a_key_is_passed_over(s3: Any, bucket: str) -> None:
    ids = [s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"] for _ in range(2)]
    page = s3.list_multipart_uploads(Bucket=bucket, UploadIdMarker=ids[0])
    assert [one["UploadId"] for one in page["Uploads"]] == ids and page["UploadIdMarker"] == ""


def test_what_a_listing_of_objects_may_be_asked(closed: Running, s3: Any, bucket: str) -> None:
    for key in ("\x01", "a b/c", "a+b"):
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")
    page = s3.list_objects_v2(Bucket=bucket, MaxKeys=0)
    assert (page["KeyCount"], page["IsTruncated"], page["MaxKeys"]) == (0, False, 0)
    assert s3.list_objects_v2(Bucket=bucket, MaxKeys=2**31 - 1)["MaxKeys"] == 1000
    page = s3.list_objects_v2(Bucket=bucket, ContinuationToken="")
    assert page["KeyCount"] == 3 and page["ContinuationToken"] == "" and "Owner" not in page["Contents"][0]
    assert s3.list_objects_v2(Bucket=bucket, FetchOwner=True)["Contents"][0]["Owner"]["ID"]
    for wrong in (
        {"max_keys": "-1"}, {"max_keys": str(2**31)}, {"max_keys": "x"}, {"encoding_type": ""}, {"encoding_type": "x"},
        {"continuation_token": "x"},
    ):  # fmt: skip
        assert ask(closed, "GET", bucket, "", None, list_type="2", **wrong)[:2] == (400, "InvalidArgument"), wrong
    page = s3.list_objects_v2(Bucket=bucket, EncodingType="url", Prefix="a ", Delimiter=" /", StartAfter="a +")
    assert (page["Prefix"], page["Delimiter"], page["StartAfter"]) == ("a%20", "%20/", "a%20%2B")
    keys = [one["Key"] for one in s3.list_objects_v2(Bucket=bucket, EncodingType="url")["Contents"]]
    assert keys == ["%01", "a%20b/c", "a%2Bb"]


# -- uploads ------------------------------------------------------------------------------------


def test_an_upload_is_aborted_only_if_it_began_when_its_client_says(closed: Running, s3: Any, bucket: str) -> None:
    id, _ = upload(s3, bucket, "k", [b"x"])
    (listed,) = s3.list_multipart_uploads(Bucket=bucket)["Uploads"]
    began = listed["Initiated"]
    for another in (began - timedelta(seconds=1), began + timedelta(days=1)):
        with pytest.raises(ClientError) as caught:
            s3.abort_multipart_upload(Bucket=bucket, Key="k", UploadId=id, IfMatchInitiatedTime=another)
        assert code(caught) == (412, "PreconditionFailed")
    header = {"x-amz-if-match-initiated-time": "yesterday"}
    assert ask(closed, "DELETE", bucket, "k", header, uploadId=id)[:2] == (400, "InvalidArgument")
    s3.abort_multipart_upload(Bucket=bucket, Key="k", UploadId=id, IfMatchInitiatedTime=began)
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=bucket)


def test_conditions_of_a_deletion_are_held_to(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    at = s3.head_object(Bucket=bucket, Key="k")["LastModified"]
    for wish in ({"IfMatchSize": 2}, {"IfMatchLastModifiedTime": at + timedelta(days=1)}):
        with pytest.raises(ClientError) as caught:
            s3.delete_object(Bucket=bucket, Key="k", **wish)
        assert code(caught) == (412, "PreconditionFailed")
    s3.delete_object(Bucket=bucket, Key="k", IfMatchSize=1, IfMatchLastModifiedTime=at)


def test_nothing_is_appended_to_an_object(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    with pytest.raises(ClientError) as caught:
        s3.put_object(Bucket=bucket, Key="k", Body=b"y", WriteOffsetBytes=1)
    assert code(caught) == (501, "NotImplemented")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"


def test_checksums_are_named_of_each_part_or_of_none(s3: Any, bucket: str) -> None:
    bodies = [b"a" * PART, b"b"]
    id, parts = upload(s3, bucket, "k", bodies, ChecksumAlgorithm="CRC32")
    bare = [{name: part[name] for name in ("PartNumber", "ETag")} for part in parts]
    with pytest.raises(ClientError) as caught:
        complete(s3, bucket, "k", id, [bare[0], parts[1]])
    assert code(caught) == (400, "InvalidRequest")
    assert complete(s3, bucket, "k", id, bare)["ChecksumType"] == "COMPOSITE"
    id, parts = upload(s3, bucket, "whole", bodies, ChecksumAlgorithm="CRC32", ChecksumType="FULL_OBJECT")
    assert complete(s3, bucket, "whole", id, [bare[0], parts[1]])["ChecksumType"] == "FULL_OBJECT"


def test_attributes_are_asked_by_their_names_and_parts_by_the_page(closed: Running, s3: Any, bucket: str) -> None:
    id, parts = upload(s3, bucket, "k", [b"a" * PART, b"b" * PART, b"c"])
    complete(s3, bucket, "k", id, parts)
    asked: dict[str, Any] = {"Bucket": bucket, "Key": "k", "ObjectAttributes": ["ObjectParts"]}
    pages = [s3.get_object_attributes(**asked, MaxParts=2, PartNumberMarker=n)["ObjectParts"] for n in (0, 2, 9)]
    assert [[part["PartNumber"] for part in page.get("Parts", ())] for page in pages] == [[1, 2], [3], []]
    assert [page["NextPartNumberMarker"] for page in pages] == [2, 3, 0]
    assert [page["IsTruncated"] for page in pages] == [True, False, False]
    assert {page["TotalPartsCount"] for page in pages} == {3}
    for names, wanted in (("ETag,Etag", "InvalidArgument"), ("", "InvalidRequest"), (" , ", "InvalidRequest")):
        header = {"x-amz-object-attributes": names}
        assert ask(closed, "GET", bucket, "k", header, attributes="")[:2] == (400, wanted)
    header = {"x-amz-object-attributes": "ETag , ObjectSize"}
    assert ask(closed, "GET", bucket, "k", header, attributes="")[0] == 200


# -- copies -------------------------------------------------------------------------------------


def test_what_a_copy_takes_along_and_what_it_says_itself(s3: Any, bucket: str) -> None:
    said: dict[str, Any] = {"CacheControl": "no-cache", "Expires": "Thu, 01 Jan 2032 00:00:00 GMT"}
    s3.put_object(
        Bucket=bucket, Key="a", Body=b"x", ContentType="text/plain", CacheControl="private", Metadata={"m": "1"},
        WebsiteRedirectLocation="/old", Tagging="t=1",
    )  # fmt: skip

    def copied(**wishes: Any) -> tuple[dict[str, Any], list[dict[str, str]]]:
        s3.copy_object(Bucket=bucket, Key="b", CopySource={"Bucket": bucket, "Key": "a"}, **wishes)
        return s3.head_object(Bucket=bucket, Key="b"), s3.get_object_tagging(Bucket=bucket, Key="b")["TagSet"]

    head, tags = copied(Tagging="t=2", **said)
    assert (head["CacheControl"], head["ContentType"], head["Metadata"]) == ("private", "text/plain", {"m": "1"})
    assert "WebsiteRedirectLocation" not in head and "Expires" not in head and tags == [{"Key": "t", "Value": "1"}]
    head, _ = copied(WebsiteRedirectLocation="/new")
    assert (head["WebsiteRedirectLocation"], head["CacheControl"]) == ("/new", "private")
    head, tags = copied(MetadataDirective="REPLACE", TaggingDirective="REPLACE", Tagging="t=2", **said)
    assert head["CacheControl"] == "no-cache" and head["ResponseMetadata"]["HTTPHeaders"]["expires"] == said["Expires"]
    assert head["ContentType"] == "binary/octet-stream" and head["Metadata"] == {}
    assert "WebsiteRedirectLocation" not in head and tags == [{"Key": "t", "Value": "2"}]
