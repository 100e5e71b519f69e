"""Blobs as files of this machine: `ROOT/ab/cd/abcd…`, after the first digits of their ids.

A blob is written without a name, flushed, then linked to its name, and the folder flushed: before that it is nowhere,
after it it is whole, whatever the machine does meanwhile. Flushes of one folder that are asked for at the same time
are one flush. A flush that fails is final for its file, and for some seconds nothing is written at all: what the disk
really holds is not known then.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar

import structlog

from hansa.diskroom import DiskRoom
from hansa.engines.blobs.filecalls import (
    FOLDER_MODE,
    MODE,
    Calls,
    after,
    blobs_in,
    flush_folder,
    has_nameless_files,
    make_root,
    path_of,
    private,
    sweep,
    told,
)
from hansa.engines.blobs.names import checked, is_id
from hansa.engines.blobs.port import Capacity, StoredBlob
from hansa.errors import Bug, HansaError, Retry

T = TypeVar("T")
log = structlog.get_logger("hansa.blobs")

FLUSHERS: Final = 8  # flushes at the same time: the file system's journal makes one of them
SUSPECT_S: Final = 10.0  # nothing is written so long after a failed flush
ALLOCATED_MIN: Final = 1 << 20  # room for less is not taken beforehand: it would cost more than it saves
OWNER: Final = "owner"  # a file that says whose store it is
TMP: Final = "tmp"  # for file systems that have no files without a name


class FileBlobs:
    name: ClassVar[str] = "files"

    def __init__(self, root: Path, *, reserve: int | None = None, calls: Calls | None = None) -> None:
        """Makes the folder when it is not there and takes away what a crash left unfinished. Raises Retry."""
        self.calls = calls or Calls()
        self.root = root
        try:
            self.folder = make_root(root, TMP)
            sweep(root / TMP)
            self.room = DiskRoom(self.folder, reserve)
        except OSError as error:
            raise told(error, "the folder of the store cannot be used") from error
        self.nameless = has_nameless_files(root)
        self.threads = ThreadPoolExecutor(FLUSHERS, thread_name_prefix="hansa-blobs")
        self._flushing: dict[str, _Folder] = {}
        self._known: set[str] = set()  # folders that are there and flushed
        self._suspect_until = 0.0

    # -- writing ----------------------------------------------------------------------------

    async def writer(self, id: str, size: int | None = None) -> FileWriter:
        self._check_suspect()
        self.room.take(size or 0)
        return await self.thread(FileWriter, self, checked(id), size)

    def _check_suspect(self) -> None:
        if time.monotonic() < self._suspect_until:
            raise Retry("the store's disk failed to keep what it was given; nothing is written for the moment")

    def suspect(self, error: OSError, id: str) -> None:
        self._suspect_until = time.monotonic() + SUSPECT_S
        log.error("a disk failed to flush", folder=str(self.root), blob=id, error=error.strerror)

    async def settle(self, shelf: str) -> None:
        """The names in a folder are durable. Whoever asks while a flush runs shares the next one."""
        folder = self._flushing.get(shelf)
        if folder is None:
            folder = self._flushing[shelf] = _Folder()
        turn = asyncio.get_running_loop().create_future()
        folder.waiting.append(turn)
        if folder.task is None:
            folder.task = asyncio.create_task(self._flush_folder(shelf, folder))
        await turn

    async def _flush_folder(self, shelf: str, folder: _Folder) -> None:
        while folder.waiting:
            turns, folder.waiting = folder.waiting, []
            try:
                await self.thread(self._flush_now, shelf)
            except HansaError as error:
                for turn in turns:
                    if not turn.done():
                        turn.set_exception(error)
                continue
            for turn in turns:
                if not turn.done():
                    turn.set_result(None)
        del self._flushing[shelf]

    def _flush_now(self, shelf: str) -> None:
        try:
            flush_folder(self.calls, self.folder, shelf)
        except OSError as error:
            self.suspect(error, shelf)
            raise told(error, "what was written could not be flushed") from error

    def make_shelf(self, id: str) -> str:
        """The folder of a blob, there and durable. Blocks; raises OSError."""
        upper, shelf = id[:2], f"{id[:2]}/{id[2:4]}"
        if shelf not in self._known:
            for folder, above in ((upper, "."), (shelf, upper)):
                try:
                    os.mkdir(folder, FOLDER_MODE, dir_fd=self.folder)
                except FileExistsError:
                    if not stat.S_ISDIR(os.stat(folder, dir_fd=self.folder, follow_symlinks=False).st_mode):
                        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), folder) from None
                flush_folder(self.calls, self.folder, above)
            self._known.add(shelf)
        return shelf

    async def delete(self, id: str) -> None:
        await self.thread(self._delete, checked(id))

    def _delete(self, id: str) -> None:
        try:
            os.unlink(path_of(id), dir_fd=self.folder)
        except FileNotFoundError:
            return
        except OSError as error:
            raise told(error, "the bytes could not be deleted") from error

    # -- reading ----------------------------------------------------------------------------

    async def read(
        self, id: str, start: int = 0, length: int | None = None, *, piece: int = 1 << 20
    ) -> AsyncGenerator[bytes, None]:
        reader = await self.thread(self.open, id)
        try:
            while length is None or length > 0:
                data = await self.thread(reader.read, start, piece if length is None else min(piece, length))
                if not data:
                    return
                yield data
                start += len(data)
                length = None if length is None else length - len(data)
        finally:
            reader.close()

    def open(self, id: str) -> FileReader:
        try:
            return FileReader(os.open(path_of(checked(id)), os.O_RDONLY | os.O_NOFOLLOW, dir_fd=self.folder))
        except OSError as error:
            raise told(error, "the bytes cannot be read", id=id) from error

    async def size(self, id: str) -> int | None:
        return await self.thread(self._size, checked(id))

    def _size(self, id: str) -> int | None:
        try:
            return os.stat(path_of(id), dir_fd=self.folder, follow_symlinks=False).st_size
        except FileNotFoundError:
            return None
        except OSError as error:
            raise told(error, "the store cannot be looked at") from error

    async def all(self, after: str = "") -> AsyncGenerator[StoredBlob, None]:
        """Folder by folder; what comes or goes meanwhile may be told or not."""
        for upper in await self.thread(self._folders, "."):
            if upper < after[:2]:
                continue
            for lower in await self.thread(self._folders, upper):
                if upper + lower < after[:4]:
                    continue
                for blob in await self.thread(self._blobs_in, f"{upper}/{lower}"):
                    if blob.id > after:
                        yield blob

    def _folders(self, above: str) -> list[str]:
        try:
            names = [folder.name for folder in (self.root / above).iterdir()]
        except OSError as error:
            raise told(error, "the store cannot be looked at") from error
        return sorted(name for name in names if len(name) == 2 and is_id(name * 16))

    def _blobs_in(self, shelf: str) -> list[StoredBlob]:
        try:
            return sorted(blobs_in(self.root / shelf), key=lambda blob: blob.id)
        except OSError as error:
            raise told(error, "the store cannot be looked at") from error

    async def claim(self, owner: str) -> str:
        return await self.thread(self._claim, owner)

    def _claim(self, owner: str) -> str:
        """A file that appears whole, and once."""
        draft, mark = self.root / TMP / f"{OWNER}-{owner}", self.root / OWNER
        try:
            with open(draft, "w", opener=private) as file:
                file.write(owner)
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):
                mark.hardlink_to(draft)
            draft.unlink()
            flush_folder(self.calls, self.folder, ".")
            return mark.read_text()
        except OSError as error:
            raise told(error, "the folder of the store cannot be used") from error

    async def capacity(self) -> Capacity:
        """The reserve is taken off what is free."""
        return Capacity(*self.room.capacity())

    async def thread(self, call: Callable[..., T], *words: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.threads, call, *words)

    async def close(self) -> None:
        """After the last writer and reader."""
        if tasks := [folder.task for folder in self._flushing.values() if folder.task is not None]:
            await asyncio.wait(tasks)
        await asyncio.to_thread(self.threads.shutdown)
        os.close(self.folder)


class FileWriter:
    def __init__(self, blobs: FileBlobs, id: str, size: int | None) -> None:
        """Blocks. Raises Retry, Exhausted."""
        self._blobs, self._id, self._size = blobs, id, 0
        self._is_announced = size is not None  # and has its room; else room is taken as the bytes come
        self._tmp = None if blobs.nameless else f"{TMP}/{id}"
        self._busy = threading.Lock()  # a request that was given up may end while its thread still writes
        self._file = -1
        try:
            self._file = self._made()
            if size is not None and size >= ALLOCATED_MIN:
                blobs.calls.allocate(self._file, 0, size)
        except OSError as error:
            self._drop()
            raise told(error, "the bytes could not be written") from error

    def _made(self) -> int:
        if self._tmp is None:
            return os.open(".", os.O_TMPFILE | os.O_WRONLY, MODE, dir_fd=self._blobs.folder)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        return os.open(self._tmp, flags, MODE, dir_fd=self._blobs.folder)

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        await self._blobs.thread(self.append, [data])

    def append(self, parts: Sequence[bytes | bytearray | memoryview]) -> None:
        with self._busy:
            try:
                left = [memoryview(part) for part in parts if part]
                if not self._is_announced:
                    self._blobs.room.take(sum(len(part) for part in left))
                while left:
                    written = self._blobs.calls.write(self._open(), left)
                    self._size += written
                    left = after(left, written)
            except OSError as error:
                self._drop()
                raise told(error, "the bytes could not be written") from error
            except HansaError:
                self._drop()
                raise

    def _open(self) -> int:
        if self._file < 0:
            raise Bug("a blob's writer was used after its end", detail=self._id)
        return self._file

    async def finish(self) -> int:
        shelf = await self._blobs.thread(self._end)
        await self._blobs.settle(shelf)
        return self._size

    def _end(self) -> str:
        with self._busy:
            return self._place()

    def _place(self) -> str:
        """Flushes the file and gives it its name."""
        file, calls = self._open(), self._blobs.calls
        try:
            if os.fstat(file).st_size != self._size:
                os.ftruncate(file, self._size)  # less came than was announced
            self._flush(file)
            shelf = self._blobs.make_shelf(self._id)
            source = self._tmp or f"/proc/self/fd/{file}"
            folder = self._blobs.folder
            calls.link(source, path_of(self._id), src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=True)
        except FileExistsError as error:
            raise Bug("a blob's id was used twice", detail=self._id) from error
        except OSError as error:
            raise told(error, "the bytes could not be written") from error
        finally:
            self._drop()
        return shelf

    def _flush(self, file: int) -> None:
        try:
            self._blobs.calls.flush(file)
        except OSError as error:
            self._blobs.suspect(error, self._id)
            raise

    async def discard(self) -> None:
        await self._blobs.thread(self._discard)

    def _discard(self) -> None:
        with self._busy:
            self._drop()

    def _drop(self) -> None:
        """The room is free at once, unless the file has its name by now."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            if self._tmp is not None:
                os.unlink(self._tmp, dir_fd=self._blobs.folder)


class FileReader:
    def __init__(self, file: int) -> None:
        self._file = file

    def read(self, start: int, length: int) -> bytes:
        try:
            data = os.pread(self._file, length, start)
            while 0 < len(data) < length and (more := os.pread(self._file, length - len(data), start + len(data))):
                data += more
        except OSError as error:
            raise told(error, "the bytes cannot be read") from error
        return data

    def at_hand(self, start: int, length: int) -> bytes | bytearray | None:
        room = bytearray(length)
        return room if self.fill(start, memoryview(room), waits=False) else None

    def fill(self, start: int, room: memoryview, *, waits: bool) -> bool:
        flags = 0 if waits else os.RWF_NOWAIT
        try:
            got = os.preadv(self._file, [room], start, flags)
            while waits and 0 < got < len(room) and (more := os.preadv(self._file, [room[got:]], start + got)):
                got += more
        except OSError as error:
            if not waits and error.errno in {errno.EAGAIN, errno.EOPNOTSUPP}:
                return False
            raise told(error, "the bytes cannot be read") from error
        return got == len(room)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class _Folder:
    """One folder's flushes: who waits for the next, and the task that runs them."""

    def __init__(self) -> None:
        self.waiting: list[asyncio.Future[None]] = []
        self.task: asyncio.Task[None] | None = None
