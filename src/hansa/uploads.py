"""Disk images that lie in buckets, read for the engines of this process: the same bytes that S3 would hand out.

The index, the bytes and the keys are opened when an image is first asked for: most processes never are.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field

from hansa.clock import Clock
from hansa.config import Settings
from hansa.engines.ports import Upload
from hansa.errors import NotFound, Refused, Retry
from hansa.gateways.s3.sealing.content import Content
from hansa.gateways.s3.sealing.segments import Damaged, Place, SealedKey
from hansa.gateways.s3.wire.errors import S3Error
from hansa.kinds.iam import Project
from hansa.kinds.resource import Key
from hansa.kinds.storage import EncryptionKey, material_name, named_generation
from hansa.objectindex.port import ObjectIndex
from hansa.objectindex.records import Version
from hansa.sealing import Sealer
from hansa.store.port import Store
from hansa.storing import open_blobs, open_index

UNREADABLE = "ImageUnavailable"


@dataclass(slots=True)
class _Keys:
    """The keys that one version lies under. Fills `KeySource`."""

    known: Mapping[str, bytes]

    def key_material(self, project: str, name: str) -> bytes:
        if name not in self.known:
            raise Refused(UNREADABLE, f"the image lies under the key {name!r}, which is not there or is disabled")
        return self.known[name]


@dataclass(slots=True)
class StoredUploads:
    """Fills `ObjectSource`. `sealer_of`: the sealing keys of this data folder, asked for at each read."""

    settings: Settings
    store: Store
    clock: Clock
    sealer_of: Callable[[], Sealer]
    _index: ObjectIndex | None = None
    _opening: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def read(self, upload: Upload) -> AsyncGenerator[bytes, None]:
        index = await self._opened()
        version = await index.get(upload.bucket, upload.key, upload.version)
        if version is None or version.marker or version.size != upload.size_bytes:
            raise Refused(UNREADABLE, "the version of the object that the disk was to be made of is not there any more")
        keys = _Keys(await self._keys_of(upload, version))
        blobs = await open_blobs(self.settings)
        content = Content(index, blobs, keys, clock=self.clock)
        try:
            async with aclosing(content.read(Place(upload.project, upload.region, upload.bucket), version)) as pieces:
                async for piece in pieces:
                    yield bytes(piece)
        except Damaged as error:
            raise Refused(UNREADABLE, "the object is damaged: its seal does not open", detail=str(error)) from error
        except (NotFound, S3Error) as error:
            raise Refused(UNREADABLE, f"the object cannot be read: {error.message}", detail=error.detail) from error
        finally:
            await content.close()
            await blobs.close()

    async def close(self) -> None:
        if self._index is not None:
            await self._index.close()

    async def _opened(self) -> ObjectIndex:
        async with self._opening:
            if self._index is None:
                self._index = await open_index(self.settings, self.clock)
            return self._index

    async def _keys_of(self, upload: Upload, version: Version) -> dict[str, bytes]:
        """By name; the project's own has none. A key that is disabled is not there."""
        names = {SealedKey.read(piece.sealed_key).key for piece in version.facts.pieces if piece.sealed_key}
        found: dict[str, bytes] = {}
        sealer = await asyncio.to_thread(self.sealer_of)
        for text in names:
            name, generation = named_generation(text)
            key = Key(EncryptionKey.kind, f"projects/{upload.project}", name)
            try:
                stored = await self.store.get(key if name else Key(Project.kind, "", upload.project))
            except NotFound:
                continue
            if name and (not EncryptionKey(stored).spec.enabled or stored.deleted_at is not None):
                continue
            secret = material_name(generation)
            sealed = await self.store.secret(stored.uid, secret)
            if sealed is None:
                raise Retry("the key of the object is not known here yet", after_s=1.0)
            found[text] = sealer.open(sealed, f"{stored.uid}/{secret}")
        return found
