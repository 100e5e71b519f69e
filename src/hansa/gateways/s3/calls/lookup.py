"""Finding the bucket, the version and the part that a request means, and saying so in S3's words when there is none.

One read of the index, then the decision: a stranger is told `AccessDenied` for what is not there and for what is not
theirs alike; only who may list the bucket learns that a key does not exist.
"""

from __future__ import annotations

import re

from hansa.gateways.s3.calls.permission import allow, may, refusal
from hansa.gateways.s3.gateway import Call
from hansa.gateways.s3.ports import BucketView
from hansa.gateways.s3.wire.errors import S3Error
from hansa.objectindex.records import Version

VERSION_ID_MAX = 1024
# Ours and those of other servers of S3, which clients bring along and should be told are missing.
_VERSION_ID = re.compile(rf"null|[A-Za-z0-9._~=-]{{20,{VERSION_ID_MAX}}}")
PARTS_MAX = 10_000


async def bucket_named(call: Call, name: str, *, waits: bool = True) -> BucketView | None:
    """The bucket that the caller means by a name. `waits`: one that was made elsewhere just now is found too."""
    directory = call.gateway.directory
    region = call.signed.claim.scope.region if call.signed else ""
    view = directory.bucket(name, region)
    if view is None and waits:
        await directory.caught_up()
        view = directory.bucket(name, region)
    return view


def check_owner(view: BucketView, expected: str | None) -> None:
    """A client may say whose bucket it means. Raises AccessDenied for another's."""
    if expected is not None and expected not in (view.owner, view.project):
        raise S3Error.of("AccessDenied", "The bucket belongs to another owner than the one expected.")


def part_asked(call: Call) -> int | None:
    """The part that the query names, if it names one. Raises InvalidArgument."""
    text = call.field("partNumber")
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 6 or not 1 <= int(text) <= PARTS_MAX:
        raise S3Error.argument("partNumber", text, f"must be 1 to {PARTS_MAX}")
    return int(text)


def version_id(call: Call) -> str:
    """The version that the query names; empty: the latest. Raises InvalidArgument for what can be no version's id."""
    id = call.field("versionId")
    if id is None:
        return ""
    if not is_version_id(id):
        raise S3Error.argument("versionId", id, "must be null or an id that a version was given")
    return id


def is_version_id(text: str) -> bool:
    """Whether a version of some server could have it."""
    return _VERSION_ID.fullmatch(text) is not None


async def seen(call: Call) -> Version:
    """The version that the operation is about, which may be a marker only if it was named. Decided by its facts.

    Raises NoSuchKey, NoSuchVersion, MethodNotAllowed for a marker, AccessDenied.
    """
    id = version_id(call)
    version = await call.gateway.index.get(call.bucket.uid, call.key, id)
    if version is None or version.marker:
        return present(call, version, id)
    allow(call, version=version)
    return version


def present(call: Call, version: Version | None, id: str) -> Version:
    """The version, if it is an object."""
    if version is not None and not version.marker:
        return version
    error = absent(call, id) if version is None else _marked(call, version, id)
    raise error


def absent(call: Call, id: str) -> S3Error:
    """What is said of nothing: that it is not there, to those who may list; to all others no more than no."""
    if not may(call, "s3:ListBucketVersions" if id else "s3:ListBucket", prefix=call.key):
        return refusal(call)
    if id:
        return S3Error.of("NoSuchVersion", Key=call.key, VersionId=id)
    return S3Error.of("NoSuchKey", Key=call.key).with_headers({"x-amz-delete-marker": "false"})


def _marked(call: Call, marker: Version, id: str) -> S3Error:
    told = {"x-amz-delete-marker": "true", "x-amz-version-id": marker.id}
    if id and may(call, "s3:ListBucketVersions"):
        error = S3Error.of("MethodNotAllowed", Method=call.request.method, ResourceType="DeleteMarker")
        return error.with_headers(told | {"allow": "DELETE"})
    error = absent(call, "")
    return error.with_headers(told) if error.code == "NoSuchKey" else error
