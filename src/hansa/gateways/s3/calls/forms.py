"""Uploads by a browser's form: the fields come first, then the file, and the form's own policy says what may be in them.

The fields stand in for the headers of a PUT. A form carries its signature in its fields, or none: then the bucket must
let everybody write.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from hansa.gateways.s3.answers import Answer, empty
from hansa.gateways.s3.answers import xml as xml_answer
from hansa.gateways.s3.calls.intake import OBJECT_BYTES_MAX, new_writer, stored, taken
from hansa.gateways.s3.calls.permission import TAGGING, allow
from hansa.gateways.s3.calls.writing import drafted, publish_whole, written_headers
from hansa.gateways.s3.gateway import Call
from hansa.gateways.s3.request import KEY_BYTES_MAX, Body
from hansa.gateways.s3.wire import checksums, documents, postpolicy, xml
from hansa.gateways.s3.wire.checksums import Digests
from hansa.gateways.s3.wire.conditions import WriteConditions
from hansa.gateways.s3.wire.errors import S3Error
from hansa.gateways.s3.wire.postform import PostForm
from hansa.gateways.s3.wire.postpolicy import PostPolicy
from hansa.gateways.s3.wire.uri import encode, encode_path, write_query
from hansa.objectindex.records import Version

_AS_HEADERS = (
    "content-type", "content-encoding", "content-disposition", "content-language", "cache-control", "expires",
)  # fmt: skip
_STATUSES = {"200": 200, "201": 201}


async def post_object(call: Call) -> Answer:
    form = PostForm(call.request.header("content-type"))
    first = await _fields(call.request.body, form)
    policy = await _admitted(call, form)
    claimed = checksums.read_claimed(call.request.headers)
    draft = await drafted(call, call.request.headers)
    digests = Digests((*claimed.wanted, *(() if draft.sealing.opaque else ("MD5",))))
    writer = new_writer(call, draft.sealing, None, digests, 1)
    most = policy.most if policy is not None else OBJECT_BYTES_MAX
    piece = await stored(_file(call.request.body, form, first), writer, most)
    try:
        if policy is not None:
            policy.check_size(piece.size)
        claimed.check(digests)
    except S3Error:
        await call.gateway.content.drop([piece])
        raise
    kept = taken(call, draft.sealing, piece, digests, claimed.algorithm)
    return _answer(call, form, await publish_whole(call, draft, kept, WriteConditions()))


# -- the form -----------------------------------------------------------------------------------


async def _fields(body: Body, form: PostForm) -> list[bytes]:
    """Reads on until the file begins; its first pieces."""
    while not form.has_file:
        data = await body.next()
        if not data:
            form.finish()
        pieces = form.feed(data)
    return pieces


async def _file(body: Body, form: PostForm, first: list[bytes]) -> AsyncIterator[bytes | memoryview]:
    for piece in first:
        yield piece
    while data := await body.next():
        for piece in form.feed(data):
            yield piece
    form.finish()


async def _admitted(call: Call, form: PostForm) -> PostPolicy | None:
    """Who sent the form, and whether they may: its signature, its policy, then the permission like any other's.

    From here on the call has the key and the headers of the form. Raises InvalidArgument, AccessDenied and so on.
    """
    key = form.fields.get("key", "")
    if not key:
        raise S3Error.argument("key", "", "the form must have this field")
    key = form.fields["key"] = postpolicy.fill_filename(key, form.filename)
    if len(key.encode()) > KEY_BYTES_MAX:
        raise S3Error.of("KeyTooLongError", MaxSizeAllowed=KEY_BYTES_MAX, Size=len(key.encode()))
    claim = postpolicy.read_form_claim(form.fields)
    policy = None
    if claim is not None:
        call.signed = await call.gateway.identifier.of_form(claim, call.now)
        policy = postpolicy.read_policy(claim.policy)
        policy.check(form.fields, bucket=call.bucket.name, now=call.now)
    call.request.key, call.request.headers = key, _headers(call, form)
    allow(call)
    return policy


def _headers(call: Call, form: PostForm) -> Mapping[str, str]:
    """Those that the fields stand for, and of the request's own only what says nothing of the object: no policy covers a
    header, so one must not do what a field would have been refused."""
    fields = form.fields
    silent = (*_AS_HEADERS, "content-md5", "if-match", "if-none-match")
    headers = call.request.headers.items()
    own = {name: value for name, value in headers if not name.startswith("x-amz-") and name not in silent}
    found = own | {name: _latin(fields[name]) for name in _AS_HEADERS if fields.get(name)}
    found |= {name: _latin(value) for name, value in fields.items() if name.startswith("x-amz-")}
    if "content-type" not in found and form.file_type:
        found["content-type"] = form.file_type
    if fields.get("acl"):
        found["x-amz-acl"] = fields["acl"]
    if fields.get("tagging"):
        found[TAGGING] = write_query(documents.read_tagging(fields["tagging"].encode())).decode()
    return found


def _latin(text: str) -> str:
    """As a header would have brought it: bytes in the guise of Latin-1."""
    return text.encode().decode("latin-1")


# -- the answer ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the object is, as the answers of forms say it."""

    url: str
    etag: str


def _answer(call: Call, form: PostForm, version: Version) -> Answer:
    """A redirect where the form asks for one, else the status that it asks for; 204 when it asks for none of ours."""
    told = written_headers(call, version)
    scheme = "https" if call.request.tls else "http"
    place = _Place(f"{scheme}://{call.request.host}/{call.bucket.name}/{encode_path(call.key).decode()}", told["etag"])
    target = form.fields.get("success_action_redirect") or form.fields.get("redirect") or ""
    if _is_address(target):
        told_of = (("bucket", call.bucket.name), ("key", call.key), ("etag", place.etag))
        query = "&".join(f"{name}={encode(value).decode()}" for name, value in told_of)
        return empty(303, {"location": f"{target}{'&' if urlsplit(target).query else '?'}{query}"})
    status = _STATUSES.get(form.fields.get("success_action_status", ""), 204)
    if status != 201:
        return empty(status, told | {"location": place.url})
    body = xml.document(
        "PostResponse",
        xml.element("Location", place.url),
        xml.element("Bucket", call.bucket.name),
        xml.element("Key", call.key),
        xml.element("ETag", place.etag),
        namespace=False,
    )
    return xml_answer(body, 201).extend(told | {"location": place.url})


def _is_address(text: str) -> bool:
    try:
        found = urlsplit(text)
    except ValueError:
        return False
    return found.scheme in ("http", "https") and bool(found.netloc)
