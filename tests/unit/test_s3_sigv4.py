"""Signatures of version 4: the examples that are published, another signer's requests, and what is refused."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from hansa.gateways.s3.wire import dates
from hansa.gateways.s3.wire.canonical import EMPTY_SHA256, Scope, signing_key
from hansa.gateways.s3.wire.errors import S3Error
from hansa.gateways.s3.wire.sigv4 import Claim, Request, read_claim, verify
from hansa.gateways.s3.wire.uri import Query, decode, encode_path, read_query, write_query
from hansa.sdk import s3sign

ACCESS_KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET = b"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
WHEN = "20130524T000000Z"
NOW = 1369353600.0
HOST = "examplebucket.s3.amazonaws.com"
PAIR = s3sign.Pair(ACCESS_KEY, SECRET.decode(), "us-east-1")


def sign(method: str, path: str, query: Query, headers: dict[str, str]) -> dict[str, str]:
    target = encode_path(path).decode()
    return s3sign.signed(PAIR, method, target, write_query(query).decode(), headers, EMPTY_SHA256, NOW)


def request(method: str, target: str, headers: dict[str, str]) -> Request:
    path, _, query = target.partition("?")
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    return Request(method, decode(path.encode()), query.encode(), raw, dict(read_query(query.encode())))


def believed(asked: Request, *, now: float = NOW, secret: bytes = SECRET) -> Claim:
    claim = read_claim(asked, now=now)
    assert claim is not None
    verify(claim, asked, signing_key(secret, claim.scope))
    return claim


def signed(signature: str, names: str, **headers: str) -> dict[str, str]:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    authorization = (
        f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/20130524/us-east-1/s3/aws4_request,"
        f"SignedHeaders={names},Signature={signature}"
    )
    return {
        "host": HOST,
        "x-amz-date": WHEN,
        "x-amz-content-sha256": EMPTY_SHA256,
        **fields,
        "authorization": authorization,
    }


PUBLISHED = [
    request(
        "GET",
        "/test.txt",
        signed(
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
            "host;range;x-amz-content-sha256;x-amz-date",
            range="bytes=0-9",
        ),
    ),
    request(
        "PUT",
        "/test%24file.text",
        signed(
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
            "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
            date="Fri, 24 May 2013 00:00:00 GMT",
            x_amz_storage_class="REDUCED_REDUNDANCY",
            x_amz_content_sha256="44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072",
        ),
    ),
    request(
        "GET",
        "/?lifecycle",
        signed(
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543", "host;x-amz-content-sha256;x-amz-date"
        ),
    ),
    request(
        "GET",
        "/?max-keys=2&prefix=J",
        signed(
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7", "host;x-amz-content-sha256;x-amz-date"
        ),
    ),
]
PRESIGNED = (
    "/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256"
    "&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request"
    "&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host"
    "&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
)


@pytest.mark.parametrize("asked", PUBLISHED)
def test_the_published_requests_are_believed(asked: Request) -> None:
    claim = believed(asked)
    assert claim.access_key == ACCESS_KEY and claim.scope == Scope("20130524", "us-east-1")
    assert claim.at == NOW and not claim.presigned and claim.body_sha256 is not None


def test_the_published_presigned_address_is_believed_for_a_day() -> None:
    asked = request("GET", PRESIGNED, {"host": HOST})
    assert believed(asked).presigned
    assert believed(asked, now=NOW + 86400).payload == "UNSIGNED-PAYLOAD"
    assert refusal(asked, now=NOW + 86401).message == "Request has expired"


def test_our_signer_makes_the_published_address() -> None:
    assert "/test.txt?" + s3sign.presigned(PAIR, "GET", "/test.txt", HOST, 86400, NOW) == PRESIGNED


def refusal(asked: Request, *, now: float = NOW, secret: bytes = SECRET) -> S3Error:
    with pytest.raises(S3Error) as caught:
        believed(asked, now=now, secret=secret)
    return caught.value


def test_a_wrong_secret_a_changed_path_and_a_changed_method_do_not_match() -> None:
    asked = PUBLISHED[0]
    assert refusal(asked, secret=b"another").code == "SignatureDoesNotMatch"
    moved = Request("GET", "/test.txt/", asked.raw_query, asked.headers, asked.fields)
    assert refusal(moved).code == "SignatureDoesNotMatch"
    other = Request("DELETE", asked.path, asked.raw_query, asked.headers, asked.fields)
    assert refusal(other).code == "SignatureDoesNotMatch"
    assert "StringToSign" in refusal(other).extras and refusal(other).status == 403


def test_a_customers_encryption_key_is_not_echoed() -> None:
    headers = {"host": HOST, "x-amz-server-side-encryption-customer-key": "c2VjcmV0"}
    sent = sign("GET", "/k", (), headers)
    error = refusal(request("GET", "/k", sent), secret=b"another")
    assert error.code == "SignatureDoesNotMatch" and "c2VjcmV0" not in repr(error.extras)


def test_nobody_signed_is_no_error() -> None:
    assert read_claim(request("GET", "/k?x=1", {"host": HOST}), now=NOW) is None


def good(**changes: str | None) -> Request:
    """A right request whose headers are changed after it was signed; None takes one out."""
    sent: dict[str, str | None] = dict(sign("GET", "/k", (("a", "b"),), {"host": HOST}))
    sent |= {name.replace("_", "-"): value for name, value in changes.items()}
    return request("GET", "/k?a=b", {name: value for name, value in sent.items() if value is not None})


def authorization(**changes: str) -> str:
    fields = {
        "Credential": f"{ACCESS_KEY}/20130524/us-east-1/s3/aws4_request",
        "SignedHeaders": "host;x-amz-content-sha256;x-amz-date",
        "Signature": "0" * 64,
    } | changes
    return "AWS4-HMAC-SHA256 " + ", ".join(f"{name}={value}" for name, value in fields.items())


@pytest.mark.parametrize(
    ("asked", "code", "status"),
    [
        (good(authorization=""), "AccessDenied", 403),
        (good(authorization="AWS AK:c2ln"), "InvalidRequest", 400),
        (good(authorization="Bearer x"), "InvalidArgument", 400),
        (good(authorization="AWS4-HMAC-SHA256"), "AuthorizationHeaderMalformed", 400),
        (good(authorization="AWS4-HMAC-SHA256 Credential=x"), "AuthorizationHeaderMalformed", 400),
        (good(authorization=authorization(Credential="AK/20130524/us-east-1/s3")), "AuthorizationHeaderMalformed", 400),
        (good(authorization=authorization(Credential="AK/20130524/r/iam/aws4_request")), "AuthorizationHeaderMalformed", 400),
        (good(authorization=authorization(Credential="AK/2013/r/s3/aws4_request")), "AuthorizationHeaderMalformed", 400),
        (good(authorization=authorization(Credential="AK/20130525/r/s3/aws4_request")), "AuthorizationHeaderMalformed", 400),
        (good(authorization=authorization(Signature="0" * 63)), "AuthorizationHeaderMalformed", 400),
        (good(authorization=authorization(Signature="é" * 64)), "AuthorizationHeaderMalformed", 400),
        (good(authorization=authorization(SignedHeaders="Host")), "AuthorizationHeaderMalformed", 400),
        (good(authorization=authorization(SignedHeaders="host;host")), "AuthorizationHeaderMalformed", 400),
        (good(authorization=authorization(SignedHeaders="x-amz-content-sha256;x-amz-date")), "AccessDenied", 403),
        (good(authorization=authorization()), "SignatureDoesNotMatch", 403),
        (good(x_amz_date="never"), "AccessDenied", 403),
        (good(x_amz_date=None), "AccessDenied", 403),
        (good(x_amz_content_sha256=None), "InvalidRequest", 400),
        (good(x_amz_content_sha256="abc"), "InvalidArgument", 400),
        (good(x_amz_security_token="t"), "InvalidToken", 400),
        (good(x_amz_meta_added="by somebody on the way"), "AccessDenied", 403),
        (good(x_amz_content_sha256="0" * 64), "SignatureDoesNotMatch", 403),
        (request("GET", PRESIGNED, {"host": HOST, "authorization": authorization()}), "InvalidArgument", 400),
        (request("GET", "/k?AWSAccessKeyId=a&Signature=b&Expires=1", {"host": HOST}), "InvalidRequest", 400),
        (request("GET", PRESIGNED.replace("&X-Amz-Expires=86400", ""), {"host": HOST}), "AuthorizationQueryParametersError", 400),
        (request("GET", PRESIGNED.replace("HMAC-SHA256", "HMAC-SHA1"), {"host": HOST}), "AuthorizationQueryParametersError", 400),
        (request("GET", PRESIGNED.replace("Date=2013", "Date=2014"), {"host": HOST}), "AuthorizationQueryParametersError", 400),
        (request("GET", PRESIGNED + "&X-Amz-Security-Token=t", {"host": HOST}), "InvalidToken", 400),
        (request("GET", PRESIGNED + "&versionId=1", {"host": HOST}), "SignatureDoesNotMatch", 403),
        (request("GET", PRESIGNED, {"host": HOST, "x-amz-acl": "public-read"}), "AccessDenied", 403),
    ],
)  # fmt: skip
def test_what_is_refused_says_so_in_the_protocols_words(asked: Request, code: str, status: int) -> None:
    error = refusal(asked)
    assert (error.code, error.status) == (code, status)


@pytest.mark.parametrize("expires", ["0", "-7", "609901", "604801", "9" * 30])
def test_a_presigned_time_out_of_range_is_forbidden(expires: str) -> None:
    asked = request("GET", PRESIGNED.replace("86400", expires), {"host": HOST})
    assert refusal(asked).status == 403


@pytest.mark.parametrize("expires", ["x", "1.5", "+5", "\u0665"])
def test_a_presigned_time_that_is_no_number_is_a_bad_address(expires: str) -> None:
    asked = request("GET", PRESIGNED.replace("86400", expires), {"host": HOST})
    assert (refusal(asked).code, refusal(asked).status) == ("AuthorizationQueryParametersError", 400)


@pytest.mark.parametrize("seconds", [-901, 901])
def test_a_clock_that_is_too_far_off_is_refused(seconds: float) -> None:
    assert refusal(good(), now=NOW + seconds).code == "RequestTimeTooSkewed"
    assert believed(good(), now=NOW + seconds * 0.99).access_key == ACCESS_KEY


def test_a_date_header_stands_in_for_the_protocols_own() -> None:
    sent = sign("GET", "/k", (), {"host": HOST})
    names = "date;host;x-amz-content-sha256"
    headers = {"host": HOST, "date": dates.http_date(NOW), "x-amz-content-sha256": EMPTY_SHA256}
    headers["authorization"] = authorization(SignedHeaders=names)
    claim = read_claim(request("GET", "/k", headers), now=NOW)
    assert claim is not None and claim.timestamp == sent["x-amz-date"] == WHEN


keys = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00"), min_size=1, max_size=40)
fields = st.lists(
    st.tuples(st.text("abc-xyz", min_size=1, max_size=5), keys), max_size=4, unique_by=lambda pair: pair[0]
)


@given(keys, fields, st.sampled_from(["GET", "PUT", "DELETE"]))
def test_what_our_client_signs_is_believed(key: str, query: list[tuple[str, str]], method: str) -> None:
    sent = sign(method, "/" + key, tuple(query), {"host": HOST, "x-amz-meta-a": "  b   c "})
    raw = [(name.encode(), value.encode()) for name, value in sent.items()]
    believed(Request(method, "/" + key, write_query(query), raw, dict(query)))
    path = encode_path("/" + key).decode()
    address = f"{path}?{s3sign.presigned(PAIR, method, path, HOST, 60, NOW)}"
    believed(request(method, address, {"host": HOST}))


@given(keys, fields)
def test_what_boto_signs_is_believed(key: str, query: list[tuple[str, str]]) -> None:
    from botocore.utils import percent_encode

    path = percent_encode(key, safe="/~")
    url = f"https://{HOST}/{path}?" + "&".join(f"{percent_encode(n)}={percent_encode(v)}" for n, v in query)
    for presigned in (False, True):
        sent = AWSRequest("GET", url, headers={"x-amz-meta-a": "b"})
        credentials = Credentials(ACCESS_KEY, SECRET.decode())
        auth = (
            S3SigV4QueryAuth(credentials, "s3", "se-sto", 60) if presigned else S3SigV4Auth(credentials, "s3", "se-sto")
        )
        auth.add_auth(sent)
        target = urlsplit(sent.url)
        headers = dict(sent.headers.items()) | {"host": HOST}
        asked = request("GET", f"{target.path}?{target.query}", headers)
        stamp = headers.get("X-Amz-Date") or asked.fields["X-Amz-Date"]
        at = dates.read_basic_date(stamp)
        assert at is not None
        claim = believed(asked, now=at)
        assert claim.presigned is presigned and claim.scope.region == "se-sto"


@given(st.binary(max_size=200), st.binary(max_size=100))
def test_no_rubbish_raises_anything_but_a_refusal(value: bytes, query: bytes) -> None:
    for text in (value, b"AWS4-HMAC-SHA256 " + value, authorization().encode() + value):
        try:
            headers = [
                (b"host", b"h"),
                (b"authorization", text),
                (b"x-amz-date", value),
                (b"x-amz-content-sha256", value),
            ]
            read_claim(Request("GET", decode(b"/" + value), query, headers, dict(read_query(query))), now=NOW)
        except S3Error as error:
            assert 400 <= error.status < 500
