"""The index and the bytes of objects alone, without HTTP: small objects durable in groups, listings, sealing.

`per_core` figures divide by the processor time of this process, all of its threads. The limit beside the sealing is what
its digests and AES-256-GCM alone take for the same bytes on one core, in the same run.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import uvloop
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hansa.engines.blobs.files import FileBlobs
from hansa.gateways.s3.sealing.content import Content
from hansa.gateways.s3.sealing.segments import SEGMENT, Place
from hansa.objectindex.index import SqlObjectIndex
from hansa.objectindex.open import open_index
from hansa.objectindex.records import Checksum, Facts, Limits, NewVersion, Piece, Version, Versioning

PLACE = Place("project", "se-sto", "bucket")
ROOMY = Limits(bytes=1 << 50, versions=1 << 40)
SMALL, LARGE, CHUNK = 4096, 64 << 20, 65536
PUTS, GETS, KEYS, AT_ONCE = 6000, 5000, 100_000, 128
DIGESTS: dict[str, tuple[Callable[[], Any], ...]] = {
    "MD5 and SHA-256": (hashlib.md5, hashlib.sha256),
    "MD5": (hashlib.md5,),
    "no digest": (),
}


class Keys:
    def key_material(self, project: str, name: str) -> bytes:
        return b"k" * 32


def run() -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory(dir=".") as name, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield from runner.run(_small(Path(name)))
        yield from runner.run(_listing(Path(name)))
        for words, digests in DIGESTS.items():
            yield runner.run(_large(Path(name), words, digests))


class Took:
    """Wall and processor seconds of a block."""

    def __enter__(self) -> Took:
        self.wall, self.cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall, self.cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu

    def rate(self, what: str, count: float, digits: int = 0) -> dict[str, Any]:
        return {"what": what, "per_s": round(count / self.wall, digits), "per_core": round(count / self.cpu, digits)}


async def _at_once(deeds: int, deed: Callable[[int], Awaitable[object]]) -> None:
    numbers = iter(range(deeds))

    async def some() -> None:
        for n in numbers:
            await deed(n)

    await asyncio.gather(*[some() for _ in range(AT_ONCE)])


async def _small(folder: Path) -> list[dict[str, Any]]:
    index, blobs = await open_index(folder / "small.db"), FileBlobs(folder / "small")
    content, body = Content(index, blobs, Keys()), os.urandom(SMALL)

    async def put(n: int) -> None:
        md5 = hashlib.md5(usedforsecurity=False)
        writer = content.writer(PLACE, size=SMALL, digests=(md5,))
        await writer.feed(body)
        new = _new(n, await writer.finish(), md5.hexdigest())
        await index.publish(new, Versioning.NEVER, project="project", limits=ROOMY)

    with Took() as putting:
        await _at_once(PUTS, put)
    with Took() as again:
        await _at_once(PUTS, put)
    with Took() as getting:
        for n in range(GETS):
            version = await index.get("bucket", _key(n))
            assert version is not None and content.at_hand(PLACE, version, 0, SMALL) is not None
    with Took() as looking:
        for n in range(GETS):
            await index.get("bucket", _key(n))
    await content.close()
    await blobs.close()
    await index.close()
    return [
        putting.rate("new objects of 4 KiB, sealed and durable", PUTS),
        again.rate("objects of 4 KiB overwritten", PUTS),
        getting.rate("objects of 4 KiB read and opened", GETS),
        looking.rate("look-ups in the index", GETS),
    ]


async def _listing(folder: Path) -> list[dict[str, Any]]:
    index = await open_index(folder / "list.db")
    piece = Piece(SMALL, SMALL, f"{0:032x}", b"", "k" * 120)

    async def put(n: int) -> None:
        await index.publish(_new(n, piece, "e" * 32), Versioning.NEVER, project="project")

    await _at_once(KEYS, put)
    pages = 0
    with Took() as listing:
        after, more = "", True
        while more:
            page = await index.list("bucket", after=after)
            after, more, pages = page.next, page.truncated, pages + 1
    with Took() as folders:
        found = await index.list("bucket", delimiter="/")
    await index.close()
    first = {**listing.rate("pages of 1,000 keys, of 100,000", pages), "keys": KEYS}
    return [
        first,
        {"what": "1,000 folders of 100 keys", "ms": round(folders.wall * 1000, 1), "found": len(found.prefixes)},
    ]


async def _large(folder: Path, words: str, digests: tuple[Callable[[], Any], ...]) -> dict[str, Any]:
    index, blobs = await _opened(folder)
    content, body = Content(index, blobs, Keys()), os.urandom(CHUNK)
    with Took() as writing:
        writer = content.writer(PLACE, size=LARGE, digests=[digest() for digest in digests])
        for _ in range(LARGE // CHUNK):
            await writer.feed(body)
        piece = await writer.finish()
    version = Version("bucket", "k", "null", 1, True, False, LARGE, "", 0.0, Facts(pieces=(piece,)))
    with Took() as reading:
        async for _ in content.read(PLACE, version):
            pass
    await blobs.delete(piece.blob)
    await content.close()
    await blobs.close()
    await index.close()
    mib = LARGE / (1 << 20)
    limit = _limit(digests)
    return {
        "what": f"64 MiB hashed ({words}), sealed, written and flushed", "mib_per_s": round(mib / writing.wall),
        "mib_per_core": round(mib / writing.cpu), "digests_and_aes_mib_per_core": round(limit),
        "ratio": round(mib / writing.cpu / limit, 2), "read_and_opened_mib_per_core": round(mib / reading.cpu),
    }  # fmt: skip


def _limit(digests: tuple[Callable[[], Any], ...]) -> float:
    """MiB a second and core of the digests and the cipher, over the same bytes again and again."""
    running, cipher, segment = [digest() for digest in digests], AESGCM(b"k" * 32), os.urandom(SEGMENT)
    with Took() as took:
        for n in range(LARGE // SEGMENT):
            for digest in running:
                digest.update(segment)
            cipher.encrypt(n.to_bytes(12, "big"), segment, b"bound")
    return LARGE / (1 << 20) / took.cpu


async def _opened(folder: Path) -> tuple[SqlObjectIndex, FileBlobs]:
    return await open_index(":memory:"), FileBlobs(folder / "large")


def _key(n: int) -> str:
    return f"folder-{n // 100:06}/object-{n:08}.bin"


def _new(n: int, piece: Piece, etag: str) -> NewVersion:
    facts = Facts(
        headers={"content-type": "application/octet-stream"}, checksum=Checksum("CRC64NVME", "AAAAAAAAAAA="),
        owner="o" * 64, owner_name="somebody", pieces=(piece,),
    )  # fmt: skip
    return NewVersion("bucket", _key(n), "", time.time(), SMALL, etag, facts)
