"""How a request's headers name another object: the source of a copy. Pure.

(The rule for a bucket's own name is `kinds.storage`'s, who makes buckets; a request's own address is `request`'s.)
"""

from __future__ import annotations

from dataclasses import dataclass

from hansa.gateways.s3.wire import uri
from hansa.gateways.s3.wire.errors import S3Error

KEY_BYTES_MAX = 1024
VERSION_ID_MAX = 1024


@dataclass(frozen=True, slots=True)
class Source:
    """`version_id` is empty where none is named."""

    bucket: str
    key: str
    version_id: str = ""


def read_copy_source(text: str) -> Source:
    """x-amz-copy-source: `bucket/key` or `/bucket/key`, encoded as an address, with `?versionId=` behind or not.

    Raises InvalidArgument, InvalidURI, KeyTooLongError.
    """
    raw = text.strip().encode("latin-1", errors="replace")
    path, _, query = raw.rpartition(b"?versionId=") if b"?versionId=" in raw else (raw, b"", b"")
    version_id = uri.decode(query.partition(b"&")[0])
    bucket, slash, key = uri.decode(path).removeprefix("/").partition("/")
    if not bucket or not slash or not key:
        raise S3Error.argument("x-amz-copy-source", text, "must have the form bucket/key")
    if len(key.encode()) > KEY_BYTES_MAX:
        raise S3Error.of("KeyTooLongError", MaxSizeAllowed=KEY_BYTES_MAX, Size=len(key.encode()))
    if len(version_id) > VERSION_ID_MAX or (query == b"" and b"?versionId=" in raw):
        raise S3Error.argument("x-amz-copy-source", text, f"versionId must have 1 to {VERSION_ID_MAX} characters")
    return Source(bucket, key, version_id)
