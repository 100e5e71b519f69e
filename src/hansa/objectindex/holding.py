"""The object index as it is backed up and put in place, on either database: see `hansa.store.tables`.

The bytes that lie in a store of bytes are not in it. The note that says which store is its own is.
"""

from __future__ import annotations

from typing import Final

from hansa.objectindex.migrate import INDEX
from hansa.store.holding import Holding

OBJECTS: Final = Holding(
    format="hansa-objects-backup",
    what="an object index",
    family=INDEX,
    filled=("s3_versions", "s3_uploads", "s3_blobs"),
    numbered=(("s3_versions", "ord"), ("s3_events", "number")),
    afterwards="delete from s3_leases",
    batch=100,  # a version of ten thousand parts is a row of two megabytes
)
