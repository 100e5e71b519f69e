"""Where objects are kept: the index and the store of bytes that the settings name. Every process of a cloud opens them here.

On one machine both lie in `DIR/s3`; with PostgreSQL the index has tables of its own there, and bytes may lie in any
store that speaks S3.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from importlib.util import find_spec

from hansa.clock import Clock, Ids, passed
from hansa.config import Settings
from hansa.engines.blobs.port import BlobEngine
from hansa.errors import Invalid
from hansa.objectindex.open import open_index as _open
from hansa.objectindex.port import ObjectIndex
from hansa.store.open import is_postgres

FOLDER, INDEX, BLOBS = "s3", "index.db", "blobs"
OWNER = "store"  # the note of the index that says which store is its own
CLAIM_S = 5.0  # for another process that claims the store at this moment


async def open_index(settings: Settings, clock: Clock) -> ObjectIndex:
    """Made when it is not there. Raises Retry, NewerDatabase, Invalid."""
    (settings.data / FOLDER).mkdir(mode=0o700, parents=True, exist_ok=True)
    return await _open(index_at(settings), clock=clock, passed=passed)


def index_at(settings: Settings) -> str:
    """Where the index is: in the PostgreSQL of the store, password and all, or in a file of its own."""
    return settings.store_at if is_postgres(settings.store_at) else str(settings.data / FOLDER / INDEX)


async def open_blobs(settings: Settings) -> BlobEngine:
    """Raises Retry, Invalid for an address that names no store, or where the package that speaks to one is missing."""
    if settings.s3_store:
        if find_spec("obstore") is None:
            raise Invalid.field("s3_store", "needs the package obstore: install hansa with its extra `objectstore`")
        from hansa.engines.blobs.objectstore import open_object_store

        return await open_object_store(
            settings.s3_store, region=settings.s3_store_region, access_key=settings.s3_store_access_key.get_secret_value(),
            secret_key=settings.s3_store_secret_key.get_secret_value(),
        )  # fmt: skip
    from hansa.engines.blobs.files import FileBlobs

    return FileBlobs(settings.data / FOLDER / BLOBS)


async def claim(index: ObjectIndex, blobs: BlobEngine, ids: Ids) -> None:
    """Index and store belong together: what an index does not know is deleted from its store one day, so it must never
    be given the store of another one. Raises Invalid."""
    owner = await index.note(OWNER) or ids.token()
    there = await blobs.claim(owner)
    if there != owner and await _is_empty(blobs):  # a process died between the store and the index
        owner = there
    for _ in range(int(CLAIM_S * 10)):
        if there == owner:
            await index.note(OWNER, there)
            return
        await asyncio.sleep(0.1)
        owner = await index.note(OWNER)
    raise Invalid.field(
        "s3_store",
        "holds the bytes of another cloud, or of an index that was lost; bring back the index of this store, or name an "
        "empty one",
    )


async def _is_empty(blobs: BlobEngine) -> bool:
    async with aclosing(blobs.all()) as stored:
        return await anext(stored, None) is None
