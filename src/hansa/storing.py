"""Where objects are kept: the index and the store of bytes that the settings name. Every process of a cloud opens them here.

On one machine both lie in `DIR/s3`; with PostgreSQL the index has tables of its own there, and bytes may lie in any
store that speaks S3.
"""

from __future__ import annotations

from hansa.clock import Clock
from hansa.config import Settings
from hansa.engines.blobs.port import BlobEngine
from hansa.objectindex.open import open_index as _open
from hansa.objectindex.port import ObjectIndex
from hansa.store.open import is_postgres

FOLDER, INDEX, BLOBS = "s3", "index.db", "blobs"


async def open_index(settings: Settings, clock: Clock) -> ObjectIndex:
    """Made when it is not there. Raises Retry, NewerDatabase, Invalid."""
    folder = settings.data / FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    where = settings.store_at if is_postgres(settings.store_at) else str(folder / INDEX)
    return await _open(where, clock=clock)


async def open_blobs(settings: Settings) -> BlobEngine:
    """Raises Retry, Invalid for an address that names no store."""
    if settings.s3_store:
        from hansa.engines.blobs.objectstore import open_object_store

        return await open_object_store(
            settings.s3_store, region=settings.s3_store_region, access_key=settings.s3_store_access_key.get_secret_value(),
            secret_key=settings.s3_store_secret_key.get_secret_value(),
        )  # fmt: skip
    from hansa.engines.blobs.files import FileBlobs

    return FileBlobs(settings.data / FOLDER / BLOBS)
