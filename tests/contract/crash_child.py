"""Writes objects without end, tells its parent what it begins and what was acknowledged, and dies.

Run as a program it is a mould: for each line of JSON on its input it forks a writer and waits for its end. A writer prints a line before each deed and one when it is done; what it printed is in the pipe whatever becomes of
it. It may be given a point at which it kills itself: so often met, before or after the call of that name.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import random
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from hansa.engines.blobs.files import Calls, FileBlobs
from hansa.gateways.s3.sealing.content import Content
from hansa.gateways.s3.sealing.segments import Place
from hansa.objectindex.index import SqlObjectIndex
from hansa.objectindex.open import open_index
from hansa.objectindex.port import ObjectIndex
from hansa.objectindex.records import Facts, NewVersion, Part, Piece, Upload, Version, Versioning
from hansa.objectindex.sqlite import SqliteDriver

PLAIN, VERSIONED = "plain", "versioned"
STATES = {PLAIN: Versioning.NEVER, VERSIONED: Versioning.ENABLED}
PROJECT = "project"
POINTS = ["write", "flush", "link", "flush_folder", "statement", "commit"]
KEYS = 3  # of one writer's thread of deeds, in each bucket
VERSIONS_MAX = 4
LIFE_S = 60.0


class Keys:
    def key_material(self, project: str, name: str) -> bytes:
        return hashlib.sha256(project.encode()).digest()


def body_of(number: int, size: int) -> bytes:
    """The bytes of a deed: the same for whoever asks."""
    seed = hashlib.sha256(str(number).encode()).digest()
    return (seed * (size // len(seed) + 1))[:size]


def place_of(bucket: str) -> Place:
    return Place(PROJECT, "region", bucket)


def tell(**words: Any) -> None:
    os.write(1, orjson.dumps(words) + b"\n")


@dataclass
class Point:
    """Dies at the `times`-th meeting of `name`, before its call or after it."""

    name: str = ""
    times: int = 0
    after: bool = False

    def wrap(self, name: str, call: Callable[..., Any], note: Callable[..., None] | None = None) -> Callable[..., Any]:
        def wrapped(*words: Any, **more: Any) -> Any:
            self._meet(name, after=False)
            if note is not None:
                note("begin", *words)
            result = call(*words, **more)
            if note is not None:
                note("end", *words)
            self._meet(name, after=True)
            return result

        return wrapped

    def _meet(self, name: str, *, after: bool) -> None:
        if name != self.name or after != self.after:
            return
        self.times -= 1
        if self.times <= 0:
            os.kill(os.getpid(), signal.SIGKILL)


def note_link(when: str, source: str, target: str) -> None:
    if when == "end":
        tell(disk="linked", path=target, inode=os.stat(source).st_ino)


def note_flush(when: str, file: int) -> None:
    if when == "end":
        tell(disk="flushed", inode=os.fstat(file).st_ino)


def note_folder(when: str, folder: int) -> None:
    tell(disk=f"folder {when}", folder=os.readlink(f"/proc/self/fd/{folder}"))


def calls_of(point: Point) -> Calls:
    calls = Calls()
    return Calls(
        write=point.wrap("write", calls.write),
        flush=point.wrap("flush", calls.flush, note_flush),
        flush_folder=point.wrap("flush_folder", calls.flush_folder, note_folder),
        link=point.wrap("link", calls.link, note_link),
        allocate=calls.allocate,
    )


class Statements:
    """A connection whose statements are points."""

    def __init__(self, connection: Any, point: Point) -> None:
        self._connection = connection
        self._commit = point.wrap("commit", connection.execute)
        self._statement = point.wrap("statement", connection.execute)

    def execute(self, statement: str, *words: Any) -> Any:
        return (self._commit if statement == "commit" else self._statement)(statement, *words)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


async def opened(folder: Path, database: str, point: Point) -> tuple[SqlObjectIndex, Content]:
    index = await open_index(database)
    driver: Any = index._driver
    if isinstance(driver, SqliteDriver):
        driver._writer = Statements(driver._writer, point)  # type: ignore[assignment]
        driver._tx._connection = driver._writer
    blobs = FileBlobs(folder / "blobs", reserve=0, calls=calls_of(point))
    return index, Content(index, blobs, Keys())


class Writer:
    def __init__(
        self, index: ObjectIndex, content: Content, chance: random.Random, numbers: itertools.count[int]
    ) -> None:
        self._index, self._content, self._chance, self._numbers = index, content, chance, numbers

    async def deeds(self, name: str) -> None:
        """One after the other, on keys that nobody else writes."""
        while True:
            bucket = self._chance.choice([PLAIN, VERSIONED])
            key = f"{name}/{self._chance.randrange(KEYS)}"
            versions = (await self._index.list_versions(bucket, prefix=key)).versions
            if len(versions) > VERSIONS_MAX:
                await self._remove(bucket, key, self._chance.choice(versions))
                continue
            deed = self._chance.choices([self._put, self._multipart, self._delete], [6, 2, 2])[0]
            await deed(bucket, key)

    async def _put(self, bucket: str, key: str) -> None:
        number, size = next(self._numbers), self._chance.choice([0, 100, 9000, 40_000, 300_000])
        tell(begin=number, what="put", bucket=bucket, key=key, size=size)
        piece = await self._stored(bucket, number, size)
        await self._index.publish(_new(bucket, key, number, piece), STATES[bucket], project=PROJECT)
        tell(done=number)

    async def _stored(self, bucket: str, number: int, size: int, part: int = 1) -> Piece:
        writer = self._content.writer(place_of(bucket), size=size, number=part)
        await writer.feed(body_of(number, size))
        return await writer.finish()

    async def _multipart(self, bucket: str, key: str) -> None:
        number, sizes = next(self._numbers), [50_000, 60_000, self._chance.choice([10, 70_000])]
        tell(begin=number, what="put", bucket=bucket, key=key, size=sum(sizes))
        body = body_of(number, sum(sizes))
        upload = f"u{number}"
        await self._index.begin(Upload(bucket, key, upload, 1.0), project=PROJECT)
        pieces = []
        for part, size in enumerate(sizes, 1):
            writer = self._content.writer(place_of(bucket), size=size, number=part)
            await writer.feed(body[sum(sizes[: part - 1]) : sum(sizes[:part])])
            pieces.append(await writer.finish())
            assert await self._index.put_part(bucket, Part(upload, pieces[-1], 1.0), project=PROJECT)
        assert await self._index.complete(upload, _new(bucket, key, number, *pieces), STATES[bucket], project=PROJECT)
        tell(done=number)

    async def _delete(self, bucket: str, key: str) -> None:
        number = next(self._numbers)
        tell(begin=number, what="delete", bucket=bucket, key=key)
        marker = replace(_new(bucket, key, number), marker=True)
        await self._index.lay_marker(marker, STATES[bucket], project=PROJECT)
        tell(done=number)

    async def _remove(self, bucket: str, key: str, version: Version) -> None:
        number = next(self._numbers)
        tell(begin=number, what="remove", bucket=bucket, key=key, id=version.id)
        await self._index.remove(bucket, key, version.id, project=PROJECT)
        tell(done=number)


def _new(bucket: str, key: str, number: int, *pieces: Piece) -> NewVersion:
    facts = Facts(metadata={"number": str(number)}, pieces=pieces)
    return NewVersion(bucket, key, f"v{number}", 1.0, sum(piece.size for piece in pieces), f"etag{number}", facts)


async def write(
    folder: str, database: str, name: str, base: int, seed: int, writers: int, point: dict[str, Any]
) -> None:  # fmt: skip
    tell(process=os.getpid())
    index, content = await opened(Path(folder), database, Point(**point))
    writer = Writer(index, content, random.Random(seed), itertools.count(base))
    async with asyncio.timeout(LIFE_S):  # should nobody be left to kill it
        await asyncio.gather(*[writer.deeds(f"{name}{n}") for n in range(writers)])


def mould() -> None:
    for line in sys.stdin:
        number = os.fork()
        if not number:
            try:
                asyncio.run(write(**orjson.loads(line)))
            finally:
                os._exit(1)
        _, status = os.waitpid(number, 0)
        tell(ended=os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    mould()
