"""Files up and down: in parts and in parallel, taken up again where they broke off, and checked when they are whole.

An upload in parts that broke off is remembered in the user's cache; the parts that are there, by number, size and CRC32,
are not sent again. A download lies beside its target as `.NAME.hansa-part` until it is whole, with a note of what of it
has come; it goes on only while the object is the very same.
"""

from __future__ import annotations

import base64
import hashlib
import json
import mimetypes
import os
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

from hansa.errors import Conflict, HansaError, Invalid, NotFound
from hansa.sdk.credentials import cache_folder
from hansa.sdk.s3 import S3

WHOLE_MAX = 16 << 20  # what is larger goes in parts
PART = 8 << 20
PARTS_MAX = 10_000
SIZE_MAX = 5 << 40  # of an object
MIB = 1 << 20

T = TypeVar("T")
Moved = Callable[[int], None]


def part_size(size: int) -> int:
    """Bytes of a part, so that there are no more of them than S3 takes."""
    least = -(-size // PARTS_MAX)
    return max(PART, -(-least // MIB) * MIB)


def crc_text(crc: int) -> str:
    return base64.b64encode(crc.to_bytes(4, "big")).decode()


@dataclass(frozen=True, slots=True)
class _Part:
    number: int
    start: int
    size: int


def parts_of(size: int) -> list[_Part]:
    step = part_size(size)
    return [_Part(n + 1, at, min(step, size - at)) for n, at in enumerate(range(0, size, step))]


class Changed(Conflict):
    """A file is another one than the one that was begun with."""


class Transfers:
    """`jobs`: requests at a time. `moved` is told bytes as they are through, from any thread."""

    def __init__(self, s3: S3, jobs: int = 8, moved: Moved = lambda count: None) -> None:
        self.s3, self.moved = s3, moved
        self._jobs = jobs
        self._pool = ThreadPoolExecutor(jobs, thread_name_prefix="hansa-s3")
        self._places = threading.Semaphore(jobs + 2)  # parts in memory

    def __enter__(self) -> Transfers:
        return self

    def __exit__(self, *_raised: Any) -> None:
        self._pool.shutdown(cancel_futures=True)

    def later(self, work: Callable[[], None]) -> Future[None]:
        """For many small things: in a thread of the pool."""
        return self._pool.submit(work)

    def _placed(self, work: Callable[..., T], *words: Any) -> Future[T]:
        """A job that holds one part in memory: waits until there is room for it."""
        self._places.acquire()
        future = self._pool.submit(work, *words)
        future.add_done_callback(lambda _done: self._places.release())
        return future

    # -- up ---------------------------------------------------------------------------------

    def upload(self, file: Path, bucket: str, key: str) -> None:
        """Raises Changed for a file that changes meanwhile."""
        before = file.stat()
        if before.st_size > SIZE_MAX:
            raise Invalid(f"{file} has {before.st_size} bytes; an object has {SIZE_MAX} at most")
        headers = {"x-amz-meta-mtime": f"{before.st_mtime:.9f}"}
        kind, encoding = mimetypes.guess_type(file.name)
        headers["content-type"] = kind if kind is not None and encoding is None else "application/octet-stream"
        if before.st_size > WHOLE_MAX:
            self._upload_parts(file, before, bucket, key, headers)
            return
        body = file.read_bytes()
        _unchanged(file, before, len(body))
        self.s3.put(bucket, key, body, {**headers, "x-amz-checksum-crc32": crc_text(zlib.crc32(body))})
        self.moved(len(body))

    def _upload_parts(
        self, file: Path, before: os.stat_result, bucket: str, key: str, headers: Mapping[str, str]
    ) -> None:
        note = _Note.of(self.s3.endpoint.url, bucket, key, file, before)
        upload, there = self._begun(note, bucket, key, headers)
        try:
            whole, finished = self._send_parts(file, before, bucket, key, upload, there)
        except Changed:  # what it was is nowhere any more, so nobody goes on with these parts
            self.s3.abort(bucket, key, upload)
            note.forget()
            raise
        self.s3.complete(
            bucket, key, upload, finished,
            {"x-amz-checksum-crc32": crc_text(whole), "x-amz-checksum-type": "FULL_OBJECT"},
        )  # fmt: skip
        note.forget()

    def _send_parts(
        self, file: Path, before: os.stat_result, bucket: str, key: str, upload: str,
        there: Mapping[int, tuple[int, str, str]],
    ) -> tuple[int, list[tuple[int, str, str]]]:  # fmt: skip
        """The CRC32 of the whole, and (number, ETag, CRC32) of every part; those that are there are not sent."""
        batch: _Batch[tuple[int, str, str]] = _Batch()
        whole = 0
        try:
            for part, data in _read_parts(file, before.st_size):
                whole, crc = zlib.crc32(data, whole), crc_text(zlib.crc32(data))
                size, etag, known = there.get(part.number, (0, "", ""))
                if size == part.size and known == crc:
                    self.moved(part.size)
                    batch.have((part.number, etag, crc))
                    continue
                batch.add(self._placed(self._put, bucket, key, upload, part, data, crc))
        except Changed:
            batch.stop()
            raise
        finished = sorted(batch.results())
        _unchanged(file, before, before.st_size)
        return whole, finished

    def _begun(
        self, note: _Note, bucket: str, key: str, headers: Mapping[str, str]
    ) -> tuple[str, dict[int, tuple[int, str, str]]]:
        """The upload to go on with, and what of it is there."""
        if (upload := note.read()) is not None:
            try:
                return upload, self.s3.parts(bucket, key, upload)
            except NotFound:  # completed or given up meanwhile
                note.forget()
        wanted = {**headers, "x-amz-checksum-algorithm": "CRC32", "x-amz-checksum-type": "FULL_OBJECT"}
        upload = self.s3.begin(bucket, key, wanted)
        note.write(upload)
        return upload, {}

    def _put(self, bucket: str, key: str, upload: str, part: _Part, data: bytes, crc: str) -> tuple[int, str, str]:
        etag = self.s3.put_part(bucket, key, upload, part.number, data, {"x-amz-checksum-crc32": crc})
        self.moved(part.size)
        return part.number, etag, crc

    # -- down -------------------------------------------------------------------------------

    def download(self, bucket: str, key: str, file: Path) -> None:
        """The target appears whole or not at all. Raises Conflict for an object that changes meanwhile."""
        head = self.s3.head(bucket, key)
        size, etag = int(head.get("content-length", "0")), head.get("etag", "")
        file.parent.mkdir(parents=True, exist_ok=True)
        spare = file.with_name(f".{file.name}.hansa-part")
        if size <= WHOLE_MAX:
            data = self.s3.get(bucket, key, etag=etag)
            spare.write_bytes(data)
            self.moved(len(data))
        else:
            self._fetch_parts(bucket, key, spare, size, etag)
        _check_whole(spare, head, f"{bucket}/{key}")
        modified = _seconds_of(head)
        if modified is not None:
            os.utime(spare, (modified, modified))
        spare.replace(file)
        _progress_of(spare).unlink(missing_ok=True)

    def _fetch_parts(self, bucket: str, key: str, spare: Path, size: int, etag: str) -> None:
        came = _Came(spare, f"{size} {etag}")
        with spare.open("r+b" if came.numbers else "wb") as out:
            os.truncate(out.fileno(), size)
            batch: _Batch[None] = _Batch()
            for part in parts_of(size):
                if part.number in came.numbers:
                    self.moved(part.size)
                    continue
                batch.add(self._placed(self._fetch, bucket, key, etag, part, out.fileno(), came))
            batch.results()

    def _fetch(self, bucket: str, key: str, etag: str, part: _Part, out: int, came: _Came) -> None:
        data = self.s3.get(bucket, key, start=part.start, size=part.size, etag=etag)
        if len(data) != part.size:
            raise Conflict(f"{bucket}/{key} gave {len(data)} bytes where {part.size} were asked for")
        at = 0
        while at < len(data):
            at += os.pwrite(out, data[at:], part.start + at)
        came.add(part.number)
        self.moved(part.size)


# -- what is remembered -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Note:
    """An upload that is under way, in the user's cache."""

    file: Path

    @classmethod
    def of(cls, url: str, bucket: str, key: str, file: Path, seen: os.stat_result) -> _Note:
        about = json.dumps([url, bucket, key, str(file.absolute()), seen.st_size, seen.st_mtime_ns])
        return cls(cache_folder().parent / "uploads" / hashlib.sha256(about.encode()).hexdigest()[:32])

    def read(self) -> str | None:
        try:
            return self.file.read_text().strip() or None
        except OSError:
            return None

    def write(self, upload: str) -> None:
        self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.file.write_text(upload)

    def forget(self) -> None:
        self.file.unlink(missing_ok=True)


class _Came:
    """The numbers of the parts that have come, a line each behind a line that says of which object."""

    def __init__(self, spare: Path, about: str) -> None:
        self._file, self._lock = _progress_of(spare), threading.Lock()
        self.numbers = self._before(spare, about)
        if not self.numbers:
            self._file.write_text(f"{about}\n")

    def _before(self, spare: Path, about: str) -> set[int]:
        try:
            first, *lines = self._file.read_text().splitlines()
        except (OSError, ValueError):
            return set()
        return {int(line) for line in lines if line.isdigit()} if first == about and spare.exists() else set()

    def add(self, number: int) -> None:
        with self._lock, self._file.open("a") as out:
            out.write(f"{number}\n")


def _progress_of(spare: Path) -> Path:
    return spare.with_name(f"{spare.name}s")


# -- small things -----------------------------------------------------------------------------------


def _read_parts(file: Path, size: int) -> Iterator[tuple[_Part, bytes]]:
    with file.open("rb") as source:
        for part in parts_of(size):
            data = source.read(part.size)
            if len(data) != part.size:
                raise Changed(f"{file} became shorter while it was read")
            yield part, data


def _unchanged(file: Path, before: os.stat_result, size: int) -> None:
    now = file.stat()
    if (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns) or size != before.st_size:
        raise Changed(f"{file} changed while it was read; try again")


def _check_whole(file: Path, head: Mapping[str, str], what: str) -> None:
    """Against the CRC32 of the whole object, where S3 has one. Raises HansaError and takes the file away."""
    wanted = head.get("x-amz-checksum-crc32", "")
    if not wanted or head.get("x-amz-checksum-type", "FULL_OBJECT") != "FULL_OBJECT":
        return
    crc = 0
    with file.open("rb") as source:
        while data := source.read(MIB):
            crc = zlib.crc32(data, crc)
    if crc_text(crc) != wanted:
        file.unlink()
        _progress_of(file).unlink(missing_ok=True)
        raise HansaError(
            f"{what} came with other bytes than were stored (CRC32 {crc_text(crc)}, not {wanted}); try again"
        )


def _seconds_of(head: Mapping[str, str]) -> float | None:
    """When an object was last modified: as whoever put it said of their file, else when it was put."""
    from email.utils import parsedate_to_datetime

    try:
        return parsedate_to_datetime(head["last-modified"]).timestamp()
    except (KeyError, ValueError):
        return None


def seconds_of(modified: str) -> float:
    """Epoch seconds of a date in a listing."""
    return datetime.fromisoformat(modified).timestamp()


class _Batch(Generic[T]):
    """Jobs of one file. What goes wrong with one is raised before the next is taken on, and ends those not begun."""

    def __init__(self) -> None:
        self._futures: list[Future[T]] = []
        self._have: list[T] = []
        self._failed: Future[T] | None = None

    def have(self, value: T) -> None:
        self._have.append(value)

    def add(self, future: Future[T]) -> None:
        self._futures.append(future)
        future.add_done_callback(self._look)
        if self._failed is not None:
            self.results()

    def results(self) -> list[T]:
        """Of all jobs, in no order. No job of the batch runs any more when it returns or raises."""
        wait(self._futures, return_when=FIRST_EXCEPTION)
        if self._failed is not None:
            self.stop()
            self._failed.result()
        return [*self._have, *(future.result() for future in self._futures)]

    def stop(self) -> None:
        """No job of the batch runs any more, and none begins."""
        for future in self._futures:
            future.cancel()
        wait(self._futures)

    def _look(self, future: Future[T]) -> None:
        if self._failed is None and not future.cancelled() and future.exception() is not None:
            self._failed = future


__all__ = ["Changed", "Transfers", "crc_text", "part_size", "parts_of", "seconds_of"]
