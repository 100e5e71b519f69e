"""What a request asks for: every operation once, nothing taken for another, nothing unknown let through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hansa.gateways.s3.wire import operations, uri
from hansa.gateways.s3.wire.errors import CODES, S3Error
from hansa.gateways.s3.wire.operations import OPERATIONS, TABLE, route

QUERY = {"list-type": {"list-type": "2"}, "uploadId": {"uploadId": "u", "partNumber": "1"}}


@pytest.mark.parametrize(("level", "method", "selector"), sorted(TABLE))
def test_every_line_of_the_table_is_reached(level: str, method: str, selector: str) -> None:
    query: dict[str, str] = {}
    for name in selector.split("+"):
        if name not in ("", "copy"):
            query |= QUERY.get(name, {name: ""})
    found = route(
        method, "" if level == "service" else "b", "k" if level == "object" else "", query, copies="copy" in selector
    )
    assert found == TABLE[level, method, selector]  # type: ignore[index]
    assert found.level == level


def test_no_operation_has_two_permissions() -> None:
    for operation in TABLE.values():
        known = OPERATIONS[operation.name]
        assert operation.name == "Preflight" or known == operation
        assert operation.action.startswith("s3:") or operation.name == "Preflight"


@pytest.mark.parametrize(
    ("method", "bucket", "key", "query", "name"),
    [
        ("GET", "", "", {"x-id": "ListBuckets"}, "ListBuckets"),
        ("GET", "b", "", {"prefix": "a", "max-keys": "2", "list-type": "1"}, "ListObjects"),
        ("GET", "b", "", {"list-type": "2", "X-Amz-Signature": "s", "start-after": "a"}, "ListObjectsV2"),
        ("GET", "b", "k", {"v": "3"}, "GetObject"),
        ("GET", "b", "k", {"list-type": "2"}, "GetObject"),
        ("GET", "b", "k", {"session": "of-a-reader"}, "GetObject"),
        ("GET", "b", "k", {"partNumber": "2", "versionId": "v", "response-expires": "x"}, "GetObject"),
        ("PUT", "b", "k", {"x-id": "PutObject", "X-Amz-Date": "d", "x-amz-acl": "private"}, "PutObject"),
        ("POST", "b", "k", {"uploads": ""}, "CreateMultipartUpload"),
        ("GET", "b", "", {"inventory": "", "id": "i"}, "GetBucketInventoryConfiguration"),
        ("HEAD", "b", "", {}, "HeadBucket"),
        ("OPTIONS", "b", "k", {"anything": ""}, "Preflight"),
    ],
)
def test_requests_are_what_they_say(method: str, bucket: str, key: str, query: dict[str, str], name: str) -> None:
    assert route(method, bucket, key, query).name == name


def test_a_method_that_a_thing_does_not_have_is_told_those_that_it_has() -> None:
    for method, key, name, allowed in (("HEAD", "", "location", "GET"), ("POST", "k", "tagging", "GET, PUT, DELETE")):
        with pytest.raises(S3Error) as caught:
            route(method, "b", key, {name: ""})
        assert caught.value.code == "MethodNotAllowed" and caught.value.headers["allow"] == allowed


def test_a_named_version_needs_its_own_permission() -> None:
    operation = route("DELETE", "b", "k", {"versionId": "v"})
    assert operation.action_for({}) == "s3:DeleteObject"
    assert operation.action_for({"versionId": "v"}) == "s3:DeleteObjectVersion"
    assert route("PUT", "b", "k", {}).action_for({"versionId": "v"}) == "s3:PutObject"


@pytest.mark.parametrize(
    ("method", "bucket", "key", "query", "code"),
    [
        ("PUT", "b", "k", {"tomorrow": ""}, "NotImplemented"),
        ("PUT", "b", "k", {"tomorrow": "1"}, "NotImplemented"),
        ("DELETE", "b", "", {"tomorrow": ""}, "NotImplemented"),
        ("GET", "b", "k", {"tomorrow": ""}, "NotImplemented"),
        ("GET", "b", "", {"retention": ""}, "NotImplemented"),
        ("POST", "b", "k", {}, "MethodNotAllowed"),
        ("POST", "", "", {}, "MethodNotAllowed"),
        ("PATCH", "b", "k", {}, "MethodNotAllowed"),
        ("GET", "b", "", {"acl": "", "tagging": ""}, "InvalidArgument"),
        ("PUT", "b", "k", {"partNumber": "1"}, "InvalidArgument"),
        ("DELETE", "b", "k", {"acl": ""}, "MethodNotAllowed"),
        ("HEAD", "b", "", {"location": ""}, "MethodNotAllowed"),
        ("HEAD", "b", "k", {"uploads": ""}, "MethodNotAllowed"),
        ("GET", "b", "k", {"uploads": ""}, "InvalidRequest"),
        ("GET", "b", "k", {"versions": "1"}, "InvalidRequest"),
        ("GET", "b", "k", {"policy": "x"}, "NotImplemented"),
        ("GET", "b", "k", {"restore": ""}, "NotImplemented"),
    ],
)
def test_what_we_do_not_know_is_never_taken_for_something_else(
    method: str, bucket: str, key: str, query: dict[str, str], code: str
) -> None:
    with pytest.raises(S3Error) as caught:
        route(method, bucket, key, query)
    assert caught.value.code == code


@given(
    st.sampled_from(["PUT", "POST", "DELETE"]),
    st.text("abcdefghijklmnopqrstuvwyz-ABC", min_size=1, max_size=12),
    st.text(max_size=3),
    st.booleans(),
)
def test_no_unknown_field_lets_a_write_through(method: str, name: str, value: str, on_object: bool) -> None:
    try:
        found = route(method, "b", "k" if on_object else "", {name: value})
    except S3Error as error:
        assert error.status in (400, 405, 501)
        return
    known = {field for _, _, selector in TABLE for field in selector.split("+")}
    assert name in known or any(name in fields for fields in operations._PARAMETERS.values())
    assert found.name in OPERATIONS


def test_an_error_has_its_status_and_its_words() -> None:
    for code, (status, words) in CODES.items():
        error = S3Error.of(code, Key="k")
        assert error.status == status and error.message == words and error.extras == {"Key": "k"}
        assert 300 <= status < 600 and words.endswith(".")
    with pytest.raises(KeyError):
        S3Error.of("NoSuchCode")


keys = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)


@given(keys)
def test_an_address_is_encoded_and_decoded_once(key: str) -> None:
    assert uri.decode(uri.encode_path(key)) == key
    assert uri.decode(uri.encode(key), blank_plus=True) == key
    assert b"/" not in uri.encode(key) and b" " not in uri.encode_path(key)


@given(st.lists(st.tuples(keys.filter(bool), keys), max_size=6))
def test_a_query_comes_back_sorted(query: list[tuple[str, str]]) -> None:
    assert sorted(uri.read_query(uri.write_query(query))) == sorted(query)


parts = st.sampled_from(
    [
        b"a",
        b"-",
        b"~",
        b"=",
        b"&",
        b"+",
        b"%2F",
        b"%2f",
        b"%41",
        b"%C3%A4",
        b"\xc3\xa4",
        b" ",
        b"a-b=1",
        b"a=1",
        b"sig=x",
    ]
)


@given(st.lists(parts, max_size=12).map(b"".join))
def test_a_query_is_signed_as_its_fields_would_be(raw: bytes) -> None:
    fields = uri.read_query(raw)
    assert uri.canonical_query(raw) == uri.write_query(fields)
    assert uri.canonical_query(raw, without=b"sig") == uri.write_query([field for field in fields if field[0] != "sig"])


def test_nothing_is_normalised_and_a_plus_stays_in_a_path() -> None:
    assert uri.decode(b"/b/a//b/../c%2Fd+e%2B") == "/b/a//b/../c/d+e+"
    assert uri.read_query(b"a=b+c&flag&x=%2B&&e=") == (("a", "b c"), ("flag", ""), ("x", "+"), ("e", ""))


@pytest.mark.parametrize("raw", [b"%", b"%4", b"%zz", b"%ff", b"\xff", b"a%c3%28"])
def test_a_broken_escape_is_refused(raw: bytes) -> None:
    with pytest.raises(S3Error) as caught:
        uri.decode(raw)
    assert caught.value.code == "InvalidURI"


def test_a_query_has_a_limit_and_no_name_twice() -> None:
    with pytest.raises(S3Error):
        uri.read_query(b"&".join([b"a=1"] * (uri.QUERY_FIELDS_MAX + 1)))
    assert uri.single((("a", "1"), ("b", "2"))) == {"a": "1", "b": "2"}
    with pytest.raises(S3Error) as caught:
        uri.single((("a", "1"), ("a", "2")))
    assert caught.value.extras["ArgumentName"] == "a"
