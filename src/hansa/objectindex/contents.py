"""What of the object index a bucket's status shows. Pure."""

from __future__ import annotations

from hansa.kinds.storage import BucketContents
from hansa.objectindex.records import Held


def contents_of(held: Held) -> BucketContents:
    return BucketContents(
        bytes=held.bytes, objects=held.current, versions=held.versions, upload_bytes=held.upload_bytes,
        uploads=held.uploads,
    )  # fmt: skip
