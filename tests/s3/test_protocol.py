"""The protocol over a real connection: presigned addresses, bodies in chunks, forms, and what a stranger may not add."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from hansa.gateways.s3.wire import checksums
from hansa.gateways.s3.wire.canonical import EMPTY_SHA256, Scope, signature, signing_key
from hansa.gateways.s3.wire.sigv4 import STREAMING_SIGNED, STREAMING_SIGNED_TRAILER, STREAMING_UNSIGNED_TRAILER

from .running import Running

BODY = bytes(range(256)) * 400
CRC = "x-amz-checksum-crc32c"


def put(running: Running, path: str, form: str, extra: dict[str, str]) -> AWSRequest:
    """The head of a PUT in chunks, signed by botocore."""
    headers = {
        "x-amz-content-sha256": form,
        "x-amz-decoded-content-length": str(len(BODY)),
        "content-encoding": "aws-chunked,identity",
        **extra,
    }
    request = AWSRequest("PUT", f"{running.url}{path}", headers=headers, data=b"")
    request.context["payload_signing_enabled"] = True
    signer = _Word(Credentials(running.main.access_key, running.main.secret.decode()), "s3", "se-sto")
    signer.word = form
    signer.add_auth(request)
    return request


class _Word(S3SigV4Auth):  # type: ignore[misc]
    word = ""

    def payload(self, request: AWSRequest) -> str:
        return self.word


def chunks(running: Running, request: AWSRequest, *, trailer: str = "") -> bytes:
    stamp = request.context["timestamp"]
    scope = Scope(stamp[:8], "se-sto")
    key = signing_key(running.main.secret, scope)
    previous = request.headers["Authorization"].rpartition("Signature=")[2]

    def sign(what: str, *lines: str) -> str:
        return signature(key, "\n".join((f"AWS4-HMAC-SHA256-{what}", stamp, str(scope), *lines)).encode())

    out = b""
    for at in (*range(0, len(BODY), 65536), None):
        data = b"" if at is None else BODY[at : at + 65536]
        previous = sign("PAYLOAD", previous, EMPTY_SHA256, hashlib.sha256(data).hexdigest())
        out += f"{len(data):x};chunk-signature={previous}\r\n".encode() + data + (b"" if at is None else b"\r\n")
    if trailer:
        last = sign("TRAILER", previous, hashlib.sha256(f"{trailer}\n".encode()).hexdigest())
        out += f"{trailer}\r\nx-amz-trailer-signature:{last}\r\n".encode()
    return out + b"\r\n"


@pytest.mark.parametrize("form", [STREAMING_SIGNED, STREAMING_SIGNED_TRAILER, STREAMING_UNSIGNED_TRAILER])
def test_a_body_in_chunks_is_stored_as_it_was(closed: Running, s3: Any, bucket: str, form: str) -> None:
    trailer = "" if form == STREAMING_SIGNED else f"{CRC}:{checksums.of('CRC32C', BODY)}"
    request = put(closed, f"/{bucket}/k", form, {"x-amz-trailer": CRC} if trailer else {})
    if form == STREAMING_UNSIGNED_TRAILER:
        body = f"{len(BODY):x}\r\n".encode() + BODY + f"\r\n0\r\n{trailer}\r\n\r\n".encode()
    else:
        body = chunks(closed, request, trailer=trailer)
    answer = httpx2.put(request.url, headers=dict(request.headers), content=body)
    assert answer.status_code == 200, answer.text
    found = s3.get_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert found["Body"].read() == BODY and "aws-chunked" not in found.get("ContentEncoding", "")
    if trailer:
        assert found["ChecksumCRC32C"] == checksums.of("CRC32C", BODY)


def test_a_chunk_that_was_changed_on_the_way_is_never_seen(closed: Running, s3: Any, bucket: str) -> None:
    request = put(closed, f"/{bucket}/k", STREAMING_SIGNED, {})
    body = chunks(closed, request).replace(BODY[256:512], BODY[:256][::-1], 1)
    answer = httpx2.put(request.url, headers=dict(request.headers), content=body)
    assert answer.status_code == 403 and "SignatureDoesNotMatch" in answer.text
    with pytest.raises(ClientError):
        s3.head_object(Bucket=bucket, Key="k")


def test_a_trailer_that_is_wrong_is_never_seen(closed: Running, s3: Any, bucket: str) -> None:
    request = put(closed, f"/{bucket}/k", STREAMING_UNSIGNED_TRAILER, {"x-amz-trailer": CRC})
    body = f"{len(BODY):x}\r\n".encode() + BODY + f"\r\n0\r\n{CRC}:AAAAAA==\r\n\r\n".encode()
    answer = httpx2.put(request.url, headers=dict(request.headers), content=body)
    assert answer.status_code == 400 and "BadDigest" in answer.text
    with pytest.raises(ClientError):
        s3.head_object(Bucket=bucket, Key="k")


def test_a_presigned_address_serves_and_what_is_added_to_it_does_not(closed: Running, s3: Any, bucket: str) -> None:
    key = "a//b/ü +%.txt"
    s3.put_object(Bucket=bucket, Key=key, Body=b"hello")
    url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=60)
    assert httpx2.get(url).text == "hello"
    assert httpx2.get(url + "&response-content-type=text/html").status_code == 403
    assert httpx2.get(url, headers={"x-amz-meta-a": "b"}).status_code == 403
    assert httpx2.get(urlsplit(url)._replace(query="").geturl()).status_code == 403
    closed.clock.ahead += 61
    try:
        late = httpx2.get(url)
    finally:
        closed.clock.ahead -= 61
    assert late.status_code == 403 and "Request has expired" in late.text


def test_a_form_is_taken_and_headers_do_not_get_round_its_policy(closed: Running, s3: Any, bucket: str) -> None:
    made = s3.generate_presigned_post(bucket, "user/${filename}", Conditions=[["content-length-range", 1, 10]])
    files = {"file": ("a.txt", b"hello", "text/plain")}
    sly = {"x-amz-meta-sly": "1", "x-amz-tagging": "a=b", "cache-control": "public", "if-none-match": "*"}
    assert httpx2.post(made["url"], data=made["fields"], files=files, headers=sly).status_code == 204
    found = s3.get_object(Bucket=bucket, Key="user/a.txt")
    assert found["Body"].read() == b"hello" and found["Metadata"] == {} and "CacheControl" not in found
    assert s3.get_object_tagging(Bucket=bucket, Key="user/a.txt")["TagSet"] == []
    more = made["fields"] | {"x-amz-meta-sly": "1"}
    assert httpx2.post(made["url"], data=more, files=files).status_code == 403
    large = {"file": ("b.txt", b"hello world", "text/plain")}
    assert httpx2.post(made["url"], data=made["fields"], files=large).status_code == 400
    with pytest.raises(ClientError):
        s3.head_object(Bucket=bucket, Key="user/b.txt")


def test_a_body_that_is_not_what_was_signed_is_never_seen(closed: Running, s3: Any, bucket: str) -> None:
    request = put(closed, f"/{bucket}/k", hashlib.sha256(b"right").hexdigest(), {"content-encoding": "identity"})
    answer = httpx2.put(request.url, headers=dict(request.headers), content=b"wrong")
    assert answer.status_code == 400 and "XAmzContentSHA256Mismatch" in answer.text
    with pytest.raises(ClientError):
        s3.head_object(Bucket=bucket, Key="k")


def test_every_configuration_that_boto_writes_is_read_back(s3: Any, versioned: str) -> None:
    rule = {
        "ID": "r",
        "Status": "Enabled",
        "Filter": {"And": {"Prefix": "a/", "Tags": [{"Key": "k", "Value": "v"}], "ObjectSizeGreaterThan": 5}},
        "Expiration": {"Days": 3},
        "NoncurrentVersionExpiration": {"NoncurrentDays": 2, "NewerNoncurrentVersions": 1},
    }
    s3.put_bucket_lifecycle_configuration(Bucket=versioned, LifecycleConfiguration={"Rules": [rule]})
    assert s3.get_bucket_lifecycle_configuration(Bucket=versioned)["Rules"] == [rule]
    cors = {
        "AllowedOrigins": ["https://a.example"],
        "AllowedMethods": ["GET"],
        "AllowedHeaders": ["*"],
        "MaxAgeSeconds": 5,
    }
    s3.put_bucket_cors(Bucket=versioned, CORSConfiguration={"CORSRules": [cors]})
    assert s3.get_bucket_cors(Bucket=versioned)["CORSRules"] == [cors]
    tags = [{"Key": "k", "Value": "ü /v"}]
    s3.put_bucket_tagging(Bucket=versioned, Tagging={"TagSet": tags})
    assert s3.get_bucket_tagging(Bucket=versioned)["TagSet"] == tags
    s3.put_object(
        Bucket=versioned, Key="k", Body=b"x", ContentMD5=base64.b64encode(hashlib.md5(b"x").digest()).decode()
    )
    assert datetime.now(UTC) >= s3.head_object(Bucket=versioned, Key="k")["LastModified"]
