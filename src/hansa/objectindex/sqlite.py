"""The object index on SQLite: statements in the event loop, flushes in a thread, several processes in turns.

Whatever is asked while a commit flushes shares the next one. Between processes two file locks make the turns: who wants
to write takes `turn` first and `writing` then, and gives `turn` back; so a process that writes without pause cannot
pass one that waits. Both are the kernel's: they end with the process that holds them. `synchronous=FULL`, always.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sqlite3
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from hansa.diskroom import DiskRoom
from hansa.errors import Bug, HansaError, Retry
from hansa.objectindex import transaction
from hansa.objectindex.changes import Changes
from hansa.objectindex.index import Names
from hansa.objectindex.migrate import migrate_sqlite
from hansa.objectindex.order import Row
from hansa.objectindex.records import Held
from hansa.objectindex.transaction import Counts, Looked, Make, Project, Transaction

T = TypeVar("T")
Work = Callable[[Transaction], Awaitable[Any]]
_Asked = tuple[Work, asyncio.Future[Any], Names]
GROUP_MAX: Final = 64  # writes that share one flush
GATHER_S: Final = 0.005  # at most, for more of them to come along
OPEN_BUSY_MS: Final = 10_000  # others may be bringing the schema up to date
TURN_S: Final = 10.0  # for this process's turn to write
LOOK_S: Final = 0.001
CACHE_KIB: Final = 32 * 1024  # of each of the two connections
OWN_FAULTS: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)  # of one write


class SqliteDriver:
    alone = True
    batch_min = 2

    def __init__(self, path: Path | str, *, reserve: int | None = None) -> None:
        """Opens or makes the database. `reserve`: see `DiskRoom`. Raises Retry, NewerDatabase."""
        self._turns: _Turns | None = None
        self._changes: Changes | None = None
        room: DiskRoom | None = None
        try:
            if str(path) != ":memory:":
                Path(path).touch(mode=0o600)  # its journal gets the same mode
                self._turns = _Turns(Path(path))
                self._changes = Changes(beside(Path(path), ".changes"))
                room = DiskRoom(Path(path), reserve)
            self._writer = _connect(path)
            self._writer.execute("pragma journal_mode=wal")
            self._writer.execute("pragma synchronous=full")
            migrate_sqlite(self._writer)
            self._writer.execute("pragma busy_timeout=0")  # turns are waited for in the loop
            self._reader = self._writer if self._turns is None else _connect(path)
            if self._turns is not None:
                self._reader.execute("pragma query_only=on")
        except (sqlite3.Error, OSError) as error:
            raise Retry("the object index cannot be opened", detail=str(error)) from error
        self._tx = _Transaction(self._writer, room)
        self._queue: deque[_Asked] = deque()
        self._flusher: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hansa-s3-flush")
        self._closed = False

    async def read(self, statement: str, **parameters: Any) -> list[Row]:
        try:
            return self._reader.execute(statement, parameters).fetchall()
        except sqlite3.Error as error:
            raise Retry("the object index does not answer", detail=str(error)) from error

    def stamp(self, name: int) -> int | None:
        return None if self._changes is None else self._changes.stamp(name)

    async def rolled(self, bucket: str, low: bytes, high: bytes, prefix: bytes, delimiter: bytes, limit: int) -> None:
        """Batches cost nothing here."""

    async def write(self, work: Callable[[Transaction], Awaitable[T]], names: Names = ()) -> T:
        """`names` keep nobody waiting, as transactions come one after the other; under those taken alone something changes."""
        if self._closed:
            raise Retry("the object index is closed")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.append((work, future, names))
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush())
        return cast(T, await future)

    async def _flush(self) -> None:
        """Groups until nothing is queued. `close` waits for it."""
        try:
            while self._queue:
                await self._gather()
                try:
                    await self._begin()
                except (sqlite3.Error, OSError, HansaError) as error:
                    self._abandon(self._taken(), error)
                    continue
                await self._group(self._taken())
        except BaseException as error:  # those behind the group that it came of do not wait for ever either
            self._abandon([self._queue.popleft() for _ in range(len(self._queue))], error)
            raise

    async def _gather(self) -> None:
        """Whoever is at the door already shares the flush: two turns of the loop are from bytes on a socket to the queue."""
        end = asyncio.get_running_loop().time() + GATHER_S
        before = 0
        while before < len(self._queue) < GROUP_MAX and asyncio.get_running_loop().time() < end:
            before = len(self._queue)
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    def _taken(self) -> list[_Asked]:
        return [self._queue.popleft() for _ in range(min(len(self._queue), GROUP_MAX))]

    async def _begin(self) -> None:
        """Raises Retry when others write without end."""
        if self._turns is not None:
            await self._turns.take()
        end = asyncio.get_running_loop().time() + TURN_S
        while True:
            try:
                self._writer.execute("begin immediate")
                return
            except sqlite3.OperationalError as error:  # somebody who knows of no turns writes: a copy being made
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or asyncio.get_running_loop().time() > end:
                    raise
            await asyncio.sleep(LOOK_S)

    async def _group(self, group: list[_Asked]) -> None:
        """One transaction for all of them; each write stands or falls alone."""
        results: list[tuple[asyncio.Future[Any], Any, Exception | None]] = []
        try:
            for work, future, _ in group:
                results.append((future, *await self._one(work)))
            changed = [name for _, _, names in group for name, alone in names if alone]
            commit = asyncio.get_running_loop().run_in_executor(self._thread, self._commit, changed)
            try:
                await asyncio.shield(commit)
            except asyncio.CancelledError:
                await asyncio.wait([commit])  # the turn is ours for as long as the thread commits
                raise
        except sqlite3.Error as error:
            self._abandon(group, error)
            return
        except BaseException as error:  # nobody waits for ever, whatever it was
            self._abandon(group, error)
            raise
        finally:
            if self._turns is not None:
                self._turns.give_back()
        for future, value, refusal in results:
            if future.done():
                continue
            if refusal is not None:
                future.set_exception(refusal)
            else:
                future.set_result(value)

    def _commit(self, changed: Sequence[int]) -> None:
        """Blocks. `changed`: names under which something does."""
        if self._changes is None:
            self._writer.execute("commit")
            return
        self._changes.begin(changed)
        try:
            self._writer.execute("commit")
        finally:
            self._changes.end(changed)

    async def _one(self, work: Work) -> tuple[Any, Exception | None]:
        self._writer.execute("savepoint one")
        try:
            value = await work(self._tx)
        except (HansaError, *OWN_FAULTS) as refusal:
            self._undo()
            return None, refusal
        except sqlite3.IntegrityError as error:
            self._undo()
            return None, Bug("the object index refused a write of ours", detail=str(error))
        self._writer.execute("release one")
        return value, None

    def _undo(self) -> None:
        self._writer.execute("rollback to one")
        self._writer.execute("release one")

    def _abandon(self, group: Sequence[_Asked], error: BaseException) -> None:
        """Disk full, locked, or I/O: nothing of the group is kept, and everybody is told to try again."""
        with contextlib.suppress(sqlite3.Error):  # whoever comes next finds out
            if self._writer.in_transaction:
                self._writer.execute("rollback")
        if self._turns is not None:
            self._turns.give_back()
        for _, future, _ in group:
            if not future.done():
                future.set_exception(Retry("the object index takes no writes now", detail=str(error)))

    async def close(self) -> None:
        self._closed = True
        if self._flusher is not None:
            await asyncio.wait([self._flusher])
        await asyncio.to_thread(self._thread.shutdown)
        self._writer.close()
        if self._reader is not self._writer:
            self._reader.close()
        if self._turns is not None:
            self._turns.close()
        if self._changes is not None:
            self._changes.close()


class _Transaction:
    """Statements of the open transaction; nothing here ever really waits."""

    def __init__(self, connection: sqlite3.Connection, room: DiskRoom | None) -> None:
        """`room`: None where nothing lies on a disk."""
        self._connection, self._room = connection, room

    async def all(self, statement: str, **parameters: Any) -> list[Row]:
        return self._connection.execute(statement, parameters).fetchall()

    async def many(self, statement: str, rows: Sequence[dict[str, Any]]) -> None:
        self._connection.executemany(statement, rows)

    async def look(self, bucket: str, key: bytes, project: Project | None) -> Looked:
        return await transaction.look(self, bucket, key, project)

    async def room(self, project: Project) -> Held:
        return await transaction.held(self, transaction.project_owner(project.uid))

    async def keep(self, inline: Sequence[tuple[int, bytes]]) -> None:
        if self._room is not None:
            self._room.take(sum(len(body) for _, body in inline))
        await transaction.keep(self, inline)

    async def make(self, new: Make) -> int:
        return await transaction.make(self, new)

    async def count(self, bucket: str, key: bytes, project: str, counts: Counts) -> None:
        await transaction.count(self, bucket, project, counts, slot=0)


class _Turns:
    """Who writes next, among processes."""

    def __init__(self, database: Path) -> None:
        self._turn, self._writing = (_lock_file(database, suffix) for suffix in (".turn", ".writing"))

    async def take(self) -> None:
        """Raises Retry when it does not come in time."""
        await _locked(self._turn)
        try:
            await _locked(self._writing)
        finally:
            fcntl.flock(self._turn, fcntl.LOCK_UN)

    def give_back(self) -> None:
        fcntl.flock(self._writing, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self._turn)
        os.close(self._writing)


async def _locked(file: int) -> None:
    end = asyncio.get_running_loop().time() + TURN_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if asyncio.get_running_loop().time() > end:
                raise Retry("others write to the object index without end") from error
        await asyncio.sleep(LOOK_S)


def _lock_file(database: Path, suffix: str) -> int:
    return os.open(beside(database, suffix), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)


def beside(database: Path, suffix: str) -> Path:
    return database.with_name(database.name + suffix)


def _connect(path: Path | str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
    connection.execute(f"pragma busy_timeout={OPEN_BUSY_MS}")
    connection.execute(f"pragma cache_size=-{CACHE_KIB}")
    return connection
