"""What clients do wrong on the wire, or to each other: stalls, cuts, giants, two writers, a reader and a writer."""

from __future__ import annotations

import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import ClientError

from hansa.gateways.s3.ports import ProjectLimits, Rate
from hansa.gateways.s3.reopening import FORGOTTEN_S
from hansa.objectindex.records import Limits
from hansa.sdk.s3sign import UNSIGNED, Pair, signed

from .running import Running
from .test_objects import code


def head(it: Running, method: str, path: str, headers: dict[str, str], payload: str = UNSIGNED) -> bytes:
    """A signed head, ready to be sent."""
    pair = Pair(it.main.access_key, it.main.secret.decode(), "se-sto")
    sent = signed(pair, method, path, "", {"host": f"127.0.0.1:{it.port}", **headers}, payload, time.time()) | headers
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items()), "", ""]
    return "\r\n".join(lines).encode()


def told(connection: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    pieces = []
    while data := connection.recv(65_536):
        pieces.append(data)
    return b"".join(pieces)


def versions(it: Running, bucket: str) -> int:
    view = it.directory.buckets[bucket]
    return int(it.ask(lambda: it.gateway.index.held(view.uid)).versions)


def blobs(it: Running) -> int:
    return sum(1 for file in it.blobs.root.rglob("*") if file.is_file())


def test_a_client_that_stalls_is_told_and_leaves_nothing(closed: Running, s3: Any, bucket: str) -> None:
    before = blobs(closed)
    with closed.connection() as connection:
        connection.sendall(head(closed, "PUT", f"/{bucket}/k", {"content-length": "3000000"}))
        connection.sendall(b"x" * 2_000_000)
        answer = told(connection)
    assert answer.startswith(b"HTTP/1.1 400") and b"<Code>RequestTimeout</Code>" in answer
    assert b"connection: close" in answer.lower()
    assert versions(closed, bucket) == 0 and blobs(closed) == before


def test_a_client_that_leaves_leaves_nothing(closed: Running, s3: Any, bucket: str) -> None:
    before = blobs(closed)
    for body in (b"x" * 100, b"x" * 2_500_000):
        with closed.connection() as connection:
            connection.sendall(head(closed, "PUT", f"/{bucket}/k", {"content-length": "3000000"}) + body)
    s3.put_object(Bucket=bucket, Key="other", Body=b"y")
    end = time.monotonic() + 10
    while blobs(closed) != before:
        assert time.monotonic() < end, "bytes were left behind"
        time.sleep(0.05)
    assert versions(closed, bucket) == 1


def test_a_reader_that_leaves_holds_nobody_up(closed: Running, s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=os.urandom(20_000_000))
    with closed.connection() as connection:
        connection.sendall(head(closed, "GET", f"/{bucket}/k", {}))
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
    assert s3.get_object(Bucket=bucket, Key="k", Range="bytes=0-9")["ContentLength"] == 10


def test_a_body_is_asked_for_only_when_it_may_come(closed: Running, bucket: str) -> None:
    expect = {"content-length": "5", "expect": "100-continue"}
    with closed.connection() as connection:
        connection.sendall(head(closed, "PUT", f"/{bucket}/k", expect))
        assert connection.recv(1000).startswith(b"HTTP/1.1 100")
        connection.sendall(b"hello")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
    with closed.connection() as connection:
        connection.sendall(head(closed, "PUT", "/no-such-bucket/k", expect))
        answer = told(connection)
        assert answer.startswith(b"HTTP/1.1 404") and b"connection: close" in answer.lower()


@pytest.mark.parametrize("size", [0, 5, 100_000])
def test_a_head_comes_with_the_bytes_behind_it(closed: Running, s3: Any, bucket: str, size: int) -> None:
    body = os.urandom(size)
    s3.put_object(Bucket=bucket, Key="k", Body=body)
    with closed.connection() as connection:
        for _ in range(2):  # and the connection goes on
            connection.sendall(head(closed, "GET", f"/{bucket}/k", {}))
            first = connection.recv(1 << 20)
            lines, _, came = first.partition(b"\r\n\r\n")
            assert lines.startswith(b"HTTP/1.1 200") and bool(came) == bool(size)
            while len(came) < size:
                came += connection.recv(1 << 20)
            assert came == body
        connection.sendall(head(closed, "HEAD", f"/{bucket}/k", {}))
        assert connection.recv(1 << 20).endswith(b"\r\n\r\n")


def test_a_refused_body_that_is_short_does_not_cost_the_connection(closed: Running, bucket: str) -> None:
    with closed.connection() as connection:
        connection.sendall(head(closed, "PUT", "/no-such-bucket/k", {"content-length": "5"}) + b"hello")
        first = connection.recv(4000)
        assert first.startswith(b"HTTP/1.1 404") and b"connection: close" not in first.lower()
        connection.sendall(head(closed, "PUT", f"/{bucket}/k", {"content-length": "5"}) + b"hello")
        assert connection.recv(4000).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("headers", "body", "status", "name"),
    [
        ({"x-fill": "y" * 40_000}, b"", 400, b"RequestHeaderSectionTooLarge"),
        ({f"x-{n}": "y" for n in range(200)}, b"", 400, b"RequestHeaderSectionTooLarge"),
        ({"content-length": "6000000000"}, b"", 400, b"EntityTooLarge"),
        ({}, b"", 411, b"MissingContentLength"),
        ({"content-length": "1", "content-md5": "rubbish"}, b"x", 400, b"InvalidDigest"),
        ({"content-length": "1", "content-md5": "rL0Y20xC+Fzt72VPzMSk2A=="}, b"x", 400, b"BadDigest"),
        ({"content-length": "1", "x-amz-checksum-crc32": "AAAAAA=="}, b"x", 400, b"BadDigest"),
        ({"content-length": "1", "x-amz-storage-class": "GLACIER"}, b"x", 400, b"InvalidStorageClass"),
        ({"content-length": "1", "x-amz-meta-x": "y" * 2049}, b"x", 400, b"MetadataTooLarge"),
        ({"content-length": "1", "authorization": "AWS4-HMAC-SHA256 x"}, b"x", 400, b"AuthorizationHeaderMalformed"),
    ],
)
def test_what_is_wrong_is_named(
    closed: Running, bucket: str, headers: dict[str, str], body: bytes, status: int, name: bytes
) -> None:
    with closed.connection() as connection:
        lines = head(closed, "PUT", f"/{bucket}/k", {**headers, "connection": "close"})
        connection.sendall(lines + body)
        answer = told(connection)
    assert answer.startswith(b"HTTP/1.1 %d" % status), answer[:200]
    assert b"<Code>%s" % name in answer
    assert versions(closed, bucket) == 0


@pytest.mark.parametrize("hosts", [b"", b"Host: a\r\nHost: b\r\n"])
def test_a_request_names_its_host_once(closed: Running, bucket: str, hosts: bytes) -> None:
    with closed.connection() as connection:
        connection.sendall(b"GET /%s/k HTTP/1.1\r\n%sConnection: close\r\n\r\n" % (bucket.encode(), hosts))
        answer = told(connection)
    assert answer.startswith(b"HTTP/1.1 400") and b"<Code>BadRequest" in answer


def test_an_old_client_names_no_host(closed: Running, bucket: str) -> None:
    with closed.connection() as connection:
        connection.sendall(b"GET /%s/k HTTP/1.0\r\n\r\n" % bucket.encode())
        answer = told(connection)
    assert answer.startswith(b"HTTP/1.1 403") and b"<Code>AccessDenied" in answer


def test_a_body_that_is_not_the_signed_one_is_refused(closed: Running, bucket: str) -> None:
    with closed.connection() as connection:
        lines = head(closed, "PUT", f"/{bucket}/k", {"content-length": "1", "connection": "close"}, payload="0" * 64)
        connection.sendall(lines + b"x")
        assert b"<Code>XAmzContentSHA256Mismatch</Code>" in told(connection)
    assert versions(closed, bucket) == 0


def test_other_methods_and_addresses_are_refused_in_words(closed: Running, bucket: str) -> None:
    for line, status in (
        (b"PATCH /%s/k", 405), (b"GET /%s/%%zz", 400), (b"GET /%s/%%ff", 400), (b"GET /%s?inventory&acl", 400),
        (b"PUT /%s?website", 501), (b"POST /%s/k?select&select-type=2", 501),
    ):  # fmt: skip
        with closed.connection() as connection:
            host = f"127.0.0.1:{closed.port}".encode()
            connection.sendall(line % bucket.encode() + b" HTTP/1.1\r\nhost: %s\r\nconnection: close\r\n\r\n" % host)
            answer = told(connection)
        assert answer.startswith(b"HTTP/1.1 %d" % status) and b"<Error><Code>" in answer, answer[:300]


def test_no_answer_reveals_a_secret(closed: Running, bucket: str) -> None:
    with closed.connection() as connection:
        lines = head(closed, "GET", f"/{bucket}/k", {"connection": "close"})
        connection.sendall(lines.replace(b"Signature=", b"Signature=0"))
        answer = told(connection)
        assert answer.startswith(b"HTTP/1.1 400")
        assert closed.main.secret not in answer


# -- several at once ----------------------------------------------------------------------------


def test_of_two_writers_one_is_last_and_neither_is_mixed(closed: Running, s3: Any, bucket: str) -> None:
    bodies = [bytes([n]) * 700_000 for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda body: s3.put_object(Bucket=bucket, Key="k", Body=body), bodies))
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() in bodies
    assert versions(closed, bucket) == 1


def test_of_many_who_create_one_succeeds(closed: Running, s3: Any, bucket: str) -> None:
    def create(number: int) -> bool:
        try:
            s3.put_object(Bucket=bucket, Key="k", Body=b"%d" % number, IfNoneMatch="*")
        except ClientError as error:
            assert error.response["Error"]["Code"] in ("PreconditionFailed", "ConditionalRequestConflict")
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = [number for number, did in enumerate(pool.map(create, range(16))) if did]
    assert len(won) == 1 and s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"%d" % won[0]


def test_a_read_goes_on_while_the_object_is_overwritten_and_deleted(closed: Running, s3: Any, bucket: str) -> None:
    body = os.urandom(8_000_000)
    s3.put_object(Bucket=bucket, Key="k", Body=body)
    reading = s3.get_object(Bucket=bucket, Key="k")["Body"]
    first = reading.read(100_000)
    s3.put_object(Bucket=bucket, Key="k", Body=b"new")
    s3.delete_object(Bucket=bucket, Key="k")
    assert first + reading.read() == body


def test_a_bucket_that_was_emptied_and_deleted_takes_nothing(closed: Running, s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    with pytest.raises(ClientError) as caught:
        s3.delete_bucket(Bucket=bucket)
    assert code(caught) == (409, "BucketNotEmpty")
    s3.delete_object(Bucket=bucket, Key="k")
    done = threading.Event()

    def writes() -> None:
        while not done.is_set():
            try:
                s3.put_object(Bucket=bucket, Key="late", Body=b"x")
            except ClientError as error:
                assert error.response["Error"]["Code"] == "NoSuchBucket"
                return

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(writes)
        end = time.monotonic() + 10
        while time.monotonic() < end:
            try:
                s3.delete_object(Bucket=bucket, Key="late")
                s3.delete_bucket(Bucket=bucket)
                break
            except ClientError as error:
                assert error.response["Error"]["Code"] == "BucketNotEmpty"
        done.set()
        writing.result(10)
    with pytest.raises(ClientError) as caught:
        s3.head_bucket(Bucket=bucket)
    assert code(caught)[0] == 404


def test_a_project_that_asks_too_often_is_slowed_down(closed: Running) -> None:
    slow = closed.directory.add_user("AKSLOW", "slow-secret-of-forty-characters-or-so", "slow")
    closed.directory.limits["slow"] = ProjectLimits(rates=(Rate("project", "slow", 1),))  # slower than any machine asks
    client = closed.client(slow)
    with pytest.raises(ClientError) as caught:
        for _ in range(50):
            client.list_buckets()
    assert code(caught) == (503, "SlowDown")
    assert caught.value.response["ResponseMetadata"]["HTTPHeaders"]["retry-after"] == "1"


def test_a_project_that_is_full_is_told_so(closed: Running) -> None:
    full = closed.directory.add_user("AKFULL", "full-secret-of-forty-characters-or-so", "full")
    closed.directory.limits["full"] = ProjectLimits(Limits(bytes=1000))
    client = closed.client(full)
    client.create_bucket(Bucket="a-full-one")
    client.put_object(Bucket="a-full-one", Key="k", Body=b"x" * 900)
    with pytest.raises(ClientError) as caught:
        client.put_object(Bucket="a-full-one", Key="l", Body=b"x" * 200)
    assert code(caught) == (403, "QuotaExceeded")
    client.delete_object(Bucket="a-full-one", Key="k")
    client.put_object(Bucket="a-full-one", Key="l", Body=b"x" * 200)


def test_what_goes_wrong_at_the_first_byte_is_an_error_and_no_broken_answer(closed: Running, bucket: str) -> None:
    s3 = closed.client()
    s3.put_object(Bucket=bucket, Key="k", Body=b"x" * 100_000, ServerSideEncryption="aws:kms", SSEKMSKeyId="key-1")
    material = closed.directory.materials.pop(("main", "key-1"))
    try:
        with pytest.raises(ClientError) as refused:
            s3.get_object(Bucket=bucket, Key="k")
    finally:
        closed.directory.materials["main", "key-1"] = material
    assert refused.value.response["Error"]["Code"] == "KMS.NotFoundException"
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x" * 100_000


def test_bytes_that_are_gone_are_no_missing_bucket(closed: Running, s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=os.urandom(100_000))
    view = closed.directory.buckets[bucket]
    version = closed.ask(lambda: closed.gateway.index.get(view.uid, "k"))
    closed.ask(lambda: closed.blobs.delete(version.facts.pieces[0].blob))
    with pytest.raises(ClientError) as caught:
        s3.get_object(Bucket=bucket, Key="k")
    assert code(caught) == (500, "InternalError")
    with pytest.raises(ClientError) as caught:
        s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "k"})
    assert code(caught) == (500, "InternalError")
    s3.put_object(Bucket=bucket, Key="k", Body=b"again")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"again"


def test_a_bucket_whose_deletion_never_came_takes_objects_again(closed: Running, bucket: str) -> None:
    """As after an API that died between the index and its own store, or a store that was restored."""
    s3, gateway = closed.client(), closed.gateway
    uid = closed.directory.buckets[bucket].uid
    assert closed.ask(lambda: gateway.index.close_bucket(uid))
    with pytest.raises(ClientError) as refused:
        s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    assert code(refused) == (404, "NoSuchBucket"), "the deletion may be under way"
    closed.clock.ahead += FORGOTTEN_S + 1
    try:
        s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    finally:
        closed.clock.ahead -= FORGOTTEN_S + 1
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"
