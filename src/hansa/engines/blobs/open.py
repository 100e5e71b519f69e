"""One way to open a store of bytes, whichever it is."""

from __future__ import annotations

from pathlib import Path

from hansa.engines.blobs.files import RESERVE, FileBlobs
from hansa.engines.blobs.port import BlobEngine


def open_blobs(
    folder: Path, *, store: str = "", region: str = "us-east-1", access_key: str = "", secret_key: str = "",
    reserve: int = RESERVE,
) -> BlobEngine:  # fmt: skip
    """`store`: `https://ENDPOINT/BUCKET[/PREFIX]` of any S3; empty: files in `folder`. Raises Invalid, Retry."""
    if not store:
        return FileBlobs(folder, reserve=reserve)
    from hansa.engines.blobs.objectstore import ObjectStoreBlobs, RemoteStore  # its client is an extra

    remote = RemoteStore.of(store, region=region, access_key=access_key, secret_key=secret_key)
    return ObjectStoreBlobs(remote.connect(), prefix=remote.prefix)
