"""Uploads by a browser's form: the form as it comes, its policy, and who signed it."""

from __future__ import annotations

import base64
import hmac
import json

import boto3
import pytest
from botocore.client import Config
from hypothesis import given
from hypothesis import strategies as st

from hansa.gateways.s3.wire import dates, postform
from hansa.gateways.s3.wire.errors import S3Error
from hansa.gateways.s3.wire.postform import PostForm
from hansa.gateways.s3.wire.postpolicy import fill_filename, read_form_claim, read_policy, verify_form
from hansa.gateways.s3.wire.sigv4 import signing_key

TYPE = "multipart/form-data; boundary=xYzZY"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


def form(
    fields: dict[str, str], file: bytes | None, *, filename: str = "a.txt", after: bytes = b"\r\n--xYzZY--\r\n"
) -> bytes:
    out = b"".join(
        f'--xYzZY\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    )
    if file is None:
        return out + b"--xYzZY--\r\n"
    head = f'--xYzZY\r\nContent-Disposition: form-data; name="file"; filename="{filename}"\r\nContent-Type: text/plain\r\n\r\n'
    return out + head.encode() + file + after


def read(raw: bytes, step: int = 1 << 20) -> tuple[PostForm, bytes]:
    reader, pieces = PostForm(TYPE), []
    for at in range(0, len(raw), step):
        pieces += reader.feed(raw[at : at + step])
    reader.finish()
    return reader, b"".join(pieces)


names = st.text("abc-", min_size=1, max_size=8)
files = st.lists(
    st.sampled_from([b"\r", b"\n", b"\r\n", b"--", b"xYzZY", b"\r\n--xYz", b"data", b"\r\r\n--xYzZ"]), max_size=12
)


@given(
    st.dictionaries(names, st.text("abé ${}\r\n-", max_size=12), max_size=5), files.map(b"".join), st.integers(1, 200)
)
def test_a_form_comes_out_whole_however_it_is_cut(fields: dict[str, str], file: bytes, step: int) -> None:
    file = file.replace(b"\r\n--xYzZY", b"")
    fields = {name: value.replace("\r\n--xYzZY", "") for name, value in fields.items()}
    reader, got = read(form(fields, file), step)
    assert got == file and reader.fields == fields
    assert (reader.filename, reader.file_type) == ("a.txt", "text/plain")


@given(files.map(b"".join), st.data())
def test_a_form_that_is_cut_short_is_never_whole(file: bytes, data: st.DataObject) -> None:
    raw = form({"key": "k"}, file.replace(b"\r\n--xYzZY", b""), after=b"\r\n--xYzZY")
    with pytest.raises(S3Error) as caught:
        read(raw[: data.draw(st.integers(0, len(raw) - 1))])
    assert caught.value.code in ("IncompleteBody", "InvalidArgument")


@given(st.lists(st.binary(max_size=60), max_size=4))
def test_no_rubbish_raises_anything_but_a_refusal(pieces: list[bytes]) -> None:
    for prefix in (b"", b"--xYzZY", b"--xYzZY\r\n", b'--xYzZY\r\nContent-Disposition: form-data; name="'):
        try:
            read(prefix + b"".join(pieces))
        except S3Error as error:
            assert error.status == 400


def refused(raw: bytes) -> str:
    with pytest.raises(S3Error) as caught:
        read(raw)
    return caught.value.code


def test_what_is_wrong_with_a_form_is_said() -> None:
    assert refused(form({"key": "k"}, None)) == "InvalidArgument"
    assert refused(b"hello" + form({"key": "k"}, b"x")) == "MalformedPOSTRequest"
    assert refused(form({"a": "x" * (postform.FIELDS_BYTES_MAX + 1)}, b"x")) == "MaxPostPreDataLengthExceededError"
    assert refused(b"x" * (postform.FIELDS_BYTES_MAX + 100)) == "MaxPostPreDataLengthExceededError"
    assert refused(form({f"a{n}": "" for n in range(101)}, b"x")) == "MaxPostPreDataLengthExceededError"
    assert refused(form({"a": "1"}, None)[:-4] + form({"A": "2"}, b"x")[7:]) == "InvalidArgument"
    assert refused(b"--xYzZY\r\nContent-Type: a\r\n\r\nb\r\n--xYzZY--") == "MalformedPOSTRequest"
    assert refused(b"--xYzZY\r\n" + b"a" * postform.HEAD_BYTES_MAX) == "MalformedPOSTRequest"
    assert (
        refused(form({}, b"x", after=b"\r\n--xYzZY" + b"a" * (postform.AFTER_BYTES_MAX + 1))) == "MalformedPOSTRequest"
    )
    for content_type in ("text/plain", "multipart/form-data", ""):
        with pytest.raises(S3Error) as caught:
            PostForm(content_type)
        assert caught.value.code == "MalformedPOSTRequest"


def test_a_filename_loses_its_folders() -> None:
    reader, _ = read(form({"KEY": "user/${filename}"}, b"x", filename="C:\\\\me/photo.jpg"))
    assert fill_filename(reader.fields["key"], reader.filename) == "user/photo.jpg"
    assert reader.has_file


def policy(conditions: object, expiration: object = "2030-01-01T00:00:00Z") -> str:
    return base64.b64encode(json.dumps({"expiration": expiration, "conditions": conditions}).encode()).decode()


NOW = 1_800_000_000.0
GOOD = [{"bucket": "b"}, ["starts-with", "$Key", "user/"], ["EQ", "$acl", "private"], ["content-length-range", 1, "10"]]
FIELDS = {"key": "user/a", "acl": "private", "policy": "p", "x-amz-signature": "s", "x-ignore-me": "1"}


def test_a_form_keeps_to_its_policy() -> None:
    found = read_policy(policy(GOOD))
    found.check(FIELDS, bucket="b", now=NOW)
    for size, code in ((0, "EntityTooSmall"), (11, "EntityTooLarge")):
        with pytest.raises(S3Error) as caught:
            found.check_size(size)
        assert caught.value.code == code
    found.check_size(10)


@pytest.mark.parametrize(
    ("changes", "bucket", "now", "says"),
    [
        ({"key": "other/a"}, "b", NOW, "starts-with"),
        ({"acl": "public-read"}, "b", NOW, "acl"),
        ({"acl": None}, "b", NOW, "acl"),
        ({"x-amz-meta-more": "1"}, "b", NOW, "Extra input fields: x-amz-meta-more"),
        ({}, "c", NOW, "bucket"),
        ({"bucket": "c"}, "b", NOW, "bucket"),
        ({}, "b", 1_900_000_000.0, "expired"),
    ],
)
def test_a_form_that_does_not_is_denied_and_told_why(
    changes: dict[str, str | None], bucket: str, now: float, says: str
) -> None:
    fields = {name: value for name, value in (FIELDS | changes).items() if value is not None}
    with pytest.raises(S3Error, match=says) as caught:
        read_policy(policy(GOOD)).check(fields, bucket=bucket, now=now)
    assert caught.value.code == "AccessDenied" and caught.value.status == 403


def test_a_policy_that_does_not_name_the_bucket_allows_none() -> None:
    with pytest.raises(S3Error, match="bucket"):
        read_policy(policy(GOOD[1:])).check(FIELDS, bucket="b", now=NOW)


@pytest.mark.parametrize(
    "text",
    [
        "%%%",
        "",
        base64.b64encode(b"[]").decode(),
        base64.b64encode(b"[" * 100_000).decode(),
        base64.b64encode(b'{"Expiration": "2030-01-01T00:00:00Z", "conditions": []}').decode(),
        base64.b64encode(b'{"expiration": "2030-01-01T00:00:00Z", "CONDITIONS": []}').decode(),
        base64.b64encode(b'{"expiration": 1' + b"0" * 5000 + b"}").decode(),
        policy([], "2030-01-01 00:00:00"),
        policy([], "soon"),
        policy([], 5),
        policy({}),
        policy([{}]),
        policy([{"key": 5}]),
        policy([["eq", "key", "v"]]),
        policy([["like", "$key", "v"]]),
        policy([["eq", "$key"]]),
        policy([["content-length-range", 0]]),
        policy([["content-length-range", -1, 0]]),
        policy([["content-length-range", 5, 4]]),
        policy([["content-length-range", "9" * 5000, "9" * 5000]]),
        policy([["content-length-range", True, 4]]),
        policy([{"key": "v"}] * 201),
    ],
)
def test_a_policy_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(S3Error) as caught:
        read_policy(text)
    assert (caught.value.code, caught.value.status) == ("InvalidPolicyDocument", 400)


json_values = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=8)  # fmt: skip


@given(st.lists(json_values, max_size=4))
def test_no_condition_raises_anything_but_a_refusal(conditions: list[object]) -> None:
    try:
        read_policy(policy(conditions)).check(FIELDS, bucket="b", now=NOW)
    except S3Error as error:
        assert error.code in ("InvalidPolicyDocument", "AccessDenied")


def boto_form() -> dict[str, str]:
    client = boto3.client(
        "s3",
        region_name="se-sto",
        endpoint_url="http://s3.example",
        aws_access_key_id="AK",
        aws_secret_access_key=SECRET,
        config=Config(signature_version="s3v4"),
    )
    made = client.generate_presigned_post(
        "b", "user/${filename}", Fields={"acl": "private"}, Conditions=[{"acl": "private"}]
    )
    return {name.lower(): value for name, value in made["fields"].items()}


def test_a_form_that_boto_signed_is_believed() -> None:
    fields = boto_form()
    claim = read_form_claim(fields)
    assert claim is not None and claim.access_key == "AK" and claim.scope.region == "se-sto"
    verify_form(claim, signing_key(SECRET.encode(), claim.scope))
    at = dates.read_basic_date(fields["x-amz-date"])
    assert at is not None
    fields["key"] = fill_filename(fields["key"], "a")
    read_policy(claim.policy).check(fields, bucket="b", now=at)
    with pytest.raises(S3Error) as caught:
        verify_form(claim, signing_key(b"another", claim.scope))
    assert caught.value.code == "SignatureDoesNotMatch"


def test_a_form_signed_as_of_old_is_believed() -> None:
    policy = base64.b64encode(b'{"expiration": "2026-11-26T00:00:00Z", "conditions": []}')
    signature = base64.b64encode(hmac.digest(SECRET.encode(), policy, "sha1")).decode()
    claim = read_form_claim({"awsaccesskeyid": "AK", "policy": policy.decode(), "signature": signature})
    assert claim is not None and claim.scope is None
    verify_form(claim, SECRET.encode())
    with pytest.raises(S3Error) as caught:
        verify_form(claim, b"another")
    assert caught.value.code == "SignatureDoesNotMatch"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"policy": ""}, "InvalidArgument"),
        ({"x-amz-signature": ""}, "InvalidArgument"),
        ({"x-amz-algorithm": "AWS4-HMAC-SHA1"}, "InvalidArgument"),
        ({"x-amz-credential": "AK/x"}, "InvalidArgument"),
        ({"x-amz-date": "20130524T000000Z"}, "InvalidArgument"),
        ({"awsaccesskeyid": "AK"}, "InvalidArgument"),
        ({"x-amz-security-token": "t"}, "InvalidToken"),
    ],
)
def test_a_signature_that_is_not_whole_is_refused(changes: dict[str, str], code: str) -> None:
    with pytest.raises(S3Error) as caught:
        read_form_claim(boto_form() | changes)
    assert caught.value.code == code
    assert read_form_claim({"key": "k", "acl": "public-read"}) is None
