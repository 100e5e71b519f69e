"""Blobs in any S3 store: one bucket, one object a blob, under ids that say nothing.

What is small goes in one request; a longer blob as a multipart upload, a few MiB of it in memory at a time. Every
request may be sent again, as an id is written once and always with the same bytes. An upload that is given up is ended
and deleted, so that no part stays behind; one that is cut off by a crash is the store's to clear: give the bucket a rule
that aborts incomplete uploads after some days.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Final
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from hansa.engines.blobs.names import checked, is_id
from hansa.engines.blobs.port import Capacity, StoredBlob
from hansa.errors import Bug, HansaError, Invalid, NotFound, Retry

if TYPE_CHECKING:
    from obstore.store import ObjectStore

PART: Final = 5 << 20  # bytes; the least that S3 takes
PARTS_MAX: Final = 10_000
PARTS_AT_ONCE: Final = 2
QUEUED: Final = 2  # writes that wait for the upload
LISTED: Final = 1000
OWNER: Final = "owner"  # an object that says whose store it is
CLAIM_S: Final = 1.0  # between a claim and a look at whose it is
CONNECT_S: Final = 5.0
STALL_S: Final = 30.0  # nothing comes or goes for so long
END_S: Final = 120.0  # for a store to put the parts together
RETRIES: Final = 3
RETRY_S: Final = 20.0
_ERRORS: Final = (BaseError, OSError, TimeoutError)


@dataclass(frozen=True, slots=True)
class RemoteStore:
    """Where the bytes lie. `prefix` is empty or ends with a slash."""

    endpoint: str
    bucket: str
    prefix: str
    region: str
    access_key: str
    secret_key: str = field(repr=False)

    @classmethod
    def of(cls, url: str, *, region: str, access_key: str, secret_key: str) -> RemoteStore:
        """`url`: `https://ENDPOINT/BUCKET[/PREFIX]`. Raises Invalid naming the field."""
        parts = urlsplit(url)
        bucket, _, prefix = parts.path.strip("/").partition("/")
        if parts.scheme not in {"http", "https"} or not parts.netloc or not bucket or parts.query or parts.username:
            raise Invalid.field("s3_store", "is https://ENDPOINT/BUCKET or https://ENDPOINT/BUCKET/PREFIX")
        if not access_key or not secret_key:
            raise Invalid.field("s3_store_access_key", "and s3_store_secret_key are due with s3_store")
        prefix = f"{prefix}/" if prefix else ""
        return cls(f"{parts.scheme}://{parts.netloc}", bucket, prefix, region, access_key, secret_key)

    def connect(self) -> S3Store:
        """Asks nothing of it yet."""
        return S3Store(
            self.bucket, endpoint=self.endpoint, region=self.region, access_key_id=self.access_key,
            secret_access_key=self.secret_key, virtual_hosted_style_request=False,
            client_options={
                "allow_http": self.endpoint.startswith("http://"), "connect_timeout": timedelta(seconds=CONNECT_S),
                "read_timeout": timedelta(seconds=STALL_S), "timeout": timedelta(days=1),
            },
            retry_config={"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_S)},
        )  # fmt: skip


async def open_object_store(url: str, *, region: str, access_key: str, secret_key: str) -> ObjectStoreBlobs:
    """Looks once whether it is there and lets us in. Raises Invalid naming the setting that is wrong, Retry."""
    remote = RemoteStore.of(url, region=region, access_key=access_key, secret_key=secret_key)
    blobs = ObjectStoreBlobs(remote.connect(), prefix=remote.prefix)
    try:
        async with aclosing(blobs.all()) as stored:
            await anext(stored, None)
    except Retry as error:
        raise await _shut_out(remote, blobs, error) from error
    return blobs


async def _shut_out(remote: RemoteStore, blobs: ObjectStoreBlobs, error: Retry) -> HansaError:
    """By the setting that answers for it. A listing fails in one way only; a look at one object tells more."""
    try:
        await obstore.head_async(blobs.store, remote.prefix + OWNER)
    except (PermissionDeniedError, UnauthenticatedError):
        name, rule = "s3_store_access_key", "is not let in; it is wrong, or its s3_store_secret_key is"
    except FileNotFoundError:
        name, rule = "s3_store", f"there is no bucket {remote.bucket}, or the key may not list it"
    except _ERRORS:
        return Retry(f"s3_store: {remote.endpoint}/{remote.bucket} does not answer as S3 does", detail=error.detail)
    else:
        name, rule = "s3_store_access_key", "may not list the bucket"
    return Invalid.field(name, f"{rule} ({remote.endpoint}/{remote.bucket})")


class ObjectStoreBlobs:
    name: ClassVar[str] = "objectstore"

    def __init__(self, store: ObjectStore, *, prefix: str = "") -> None:
        self.store, self._prefix = store, prefix

    def path(self, id: str) -> str:
        return self._prefix + checked(id)

    async def writer(self, id: str, size: int | None = None) -> ObjectWriter:
        return ObjectWriter(self, checked(id), _part_size(size))

    async def read(
        self, id: str, start: int = 0, length: int | None = None, *, piece: int = 1 << 20
    ) -> AsyncGenerator[bytes, None]:
        if length == 0:
            return
        options: Any = {}  # for all of it: an empty object has no range
        if length is not None:
            options = {"range": (start, start + length)}
        elif start:
            options = {"range": {"offset": start}}
        with _translated(id):
            got = await obstore.get_async(self.store, self.path(id), options=options)
        held = b""
        stream = aiter(got.stream(min_chunk_size=piece))
        while True:
            with _translated(id):
                chunk = await asyncio.wait_for(anext(stream, None), STALL_S + CONNECT_S)
            if chunk is None:
                break
            held += bytes(chunk)
            for at in range(0, len(held) - piece + 1, piece):
                yield held[at : at + piece]
            held = held[len(held) // piece * piece :]
        if held:
            yield held

    async def size(self, id: str) -> int | None:
        try:
            with _translated(id):
                return int((await obstore.head_async(self.store, self.path(id)))["size"])
        except NotFound:
            return None

    async def delete(self, id: str) -> None:
        with suppress(NotFound), _translated(id):
            await obstore.delete_async(self.store, self.path(id))

    async def all(self, after: str = "") -> AsyncGenerator[StoredBlob, None]:
        offset = self._prefix + after if after else None
        listing = aiter(obstore.list(self.store, self._prefix or None, offset=offset, chunk_size=LISTED))
        while True:
            with _translated(""):
                batch: Any = await asyncio.wait_for(anext(listing, None), STALL_S + RETRY_S)
            if batch is None:
                return
            for one in sorted(batch, key=lambda one: str(one["path"])):
                id = str(one["path"]).removeprefix(self._prefix)
                if is_id(id) and id > after:
                    yield StoredBlob(id, int(one["size"]), one["last_modified"].timestamp())

    async def claim(self, owner: str) -> str:
        """Not every store puts on a condition: two that claim an empty one at the same moment look again afterwards."""
        path = self._prefix + OWNER
        for wait_s in (0.0, CLAIM_S):
            await asyncio.sleep(wait_s)
            with suppress(NotFound), _translated(OWNER):
                got = await obstore.get_async(self.store, path)
                return bytes(await got.bytes_async()).decode()
            with _translated(OWNER):
                await obstore.put_async(self.store, path, owner.encode(), use_multipart=False)
        raise Retry("the store of objects forgets what it was given")

    async def capacity(self) -> Capacity:
        return Capacity(None, None)

    async def close(self) -> None:
        """Connections end with the store object."""


class ObjectWriter:
    def __init__(self, blobs: ObjectStoreBlobs, id: str, part: int) -> None:
        self._blobs, self._id, self._part = blobs, id, part
        self._held = bytearray()
        self._size = 0
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue(QUEUED)
        self._upload: asyncio.Task[None] | None = None
        self._ended = False

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._ended:
            raise Bug("a blob's writer was used after its end", detail=self._id)
        self._held += data
        self._size += len(data)
        if len(self._held) > self._part:
            if self._upload is None:
                self._upload = asyncio.create_task(self._put_all())
            await self._send(bytes(self._held))
            self._held.clear()

    async def finish(self) -> int:
        if self._ended:
            raise Bug("a blob's writer was used after its end", detail=self._id)
        if self._upload is not None:
            await self._end(self._upload)
        else:
            with _translated(self._id):
                whole = bytes(self._held)
                await obstore.put_async(self._blobs.store, self._blobs.path(self._id), whole, use_multipart=False)
        self._ended = True
        self._held.clear()
        return self._size

    async def discard(self) -> None:
        if self._ended:
            return
        self._ended = True
        self._held.clear()
        if self._upload is not None:
            with suppress(Retry):  # then the store keeps at most an unfinished upload
                await self._end(self._upload)
                await self._blobs.delete(self._id)

    async def _end(self, upload: asyncio.Task[None]) -> None:
        if self._held:
            await self._send(bytes(self._held))
        await self._send(None)
        with _translated(self._id):
            await asyncio.wait_for(asyncio.shield(upload), END_S)

    async def _send(self, data: bytes | None) -> None:
        """Waits for room, or for the upload to fail."""
        assert self._upload is not None
        put = asyncio.ensure_future(self._queue.put(data))
        try:
            await asyncio.wait({put, self._upload}, timeout=END_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sent = put.done() and not put.cancelled()
            put.cancel()
        if self._upload.done() or not sent:
            with _translated(self._id):
                if self._upload.done():
                    await self._upload
            raise Retry("the store of objects does not take the bytes")

    async def _put_all(self) -> None:
        await obstore.put_async(
            self._blobs.store, self._blobs.path(self._id), self._parts(), use_multipart=True, chunk_size=self._part,
            max_concurrency=PARTS_AT_ONCE,
        )  # fmt: skip

    async def _parts(self) -> AsyncIterator[bytes]:
        while (data := await self._queue.get()) is not None:
            yield data


class _translated:
    """Whatever the client raises inside becomes ours."""

    def __init__(self, id: str) -> None:
        self._id = id

    def __enter__(self) -> None:
        """Nothing yet."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, FileNotFoundError):
            raise NotFound("the bytes are not there", detail=self._id) from error
        if isinstance(error, _ERRORS):
            detail = f"{type(error).__name__}: {str(error)[:500]}"
            raise Retry("the store of objects does not answer", detail=detail) from error


def _part_size(size: int | None) -> int:
    """So large that the parts are not too many."""
    return PART if size is None else max(PART, -(-size // (PARTS_MAX - 1)))
