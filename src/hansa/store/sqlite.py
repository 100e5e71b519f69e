"""SQLite as a first-class database: one writer with group commit, reads in place.

Statements run in the event loop, where a turn costs some 20 µs each; only the flush of a commit, which takes
milliseconds, waits in a thread. Whatever is asked meanwhile queues and shares the next flush. Handing each
statement to a thread instead would let two threads fight over the interpreter lock for every one of them.
`synchronous=FULL`, always.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar, cast

from hansa.clock import Clock, Ids
from hansa.errors import Bug, HansaError, Retry
from hansa.store import statements as sql
from hansa.store.driver import Row, Transaction
from hansa.store.locks import NOTHING, Needs
from hansa.store.migrate import migrate, pending, version_sqlite
from hansa.store.store import SqlStore

T = TypeVar("T")
GROUP_MAX = 64  # commits that share one flush
BUSY_MS = 5000
READY_LOOK_S = 0.05
OWN_FAULTS = (ArithmeticError, LookupError, TypeError, ValueError)  # of one commit; the others of its group go on

Work = Callable[[Transaction], Awaitable[Any]]


async def open_sqlite(path: Path | str, *, clock: Clock, ids: Ids, inline: bool = False) -> SqlStore:
    """Opens or makes the database. `inline`: every commit at once and in place, for simulations."""
    return SqlStore(SqliteDriver(path, inline=inline), clock, ids)


async def open_sqlite_reader(path: Path | str, *, clock: Clock, ids: Ids, wait_s: float) -> SqlStore:
    """Beside the process that writes: opens a database that is there, or will be within `wait_s`.

    Raises NewerDatabase, and Retry when it does not come or its schema is not brought up to date in time.
    """
    end = time.monotonic() + wait_s
    while True:
        reader = _ready(path)
        if reader is not None:
            return SqlStore(SqliteReader(reader), clock, ids)
        if time.monotonic() >= end:
            raise Retry(f"no database with the schema of this program came to be at {path} within {wait_s:g} s")
        await asyncio.sleep(READY_LOOK_S)


def _ready(path: Path | str) -> sqlite3.Connection | None:
    """A connection that only reads, None while another process is still making the database or changing its schema."""
    if not Path(path).exists():
        return None
    connection = _connect(f"{Path(path).absolute().as_uri()}?mode=rw")
    try:
        if not pending(version_sqlite(connection)):
            connection.execute("pragma query_only=on")
            return connection
    except sqlite3.Error:  # it is being made
        pass
    except HansaError:
        connection.close()
        raise
    connection.close()
    return None


def _connect(path: Path | str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, cached_statements=256, uri=str(path).startswith("file:")
    )
    connection.execute(f"pragma busy_timeout={BUSY_MS}")
    connection.execute("pragma foreign_keys=off")
    connection.execute("pragma case_sensitive_like=on")
    return connection


class SqliteReader:
    """For a process that never writes: another one has the database."""

    skew_s = 0.0
    alone = False

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def listen(self, call: Callable[[int], None]) -> None:
        """Nobody tells: who wants to know looks at the revision."""

    async def read(self, statement: str, **parameters: Any) -> list[Row]:
        try:
            return self._connection.execute(statement, parameters).fetchall()
        except sqlite3.Error as error:
            raise Retry("the database does not answer", detail=str(error)) from error

    async def write(self, work: Callable[[Transaction], Awaitable[T]], needs: Needs = NOTHING) -> T:
        raise Bug("this process only reads the control database")

    async def at_once(self, statement: str, **parameters: Any) -> list[Row]:
        raise Bug("this process only reads the control database")

    @property
    def finish(self) -> None:
        """Nothing ends here."""

    async def close(self) -> None:
        self._connection.close()


class SqliteDriver:
    skew_s = 0.0  # one process, one clock
    alone = True

    def __init__(self, path: Path | str, *, inline: bool = False) -> None:
        self._inline = inline
        if str(path) != ":memory:":
            Path(path).touch(mode=0o600)  # its journal gets the same mode
        self._writer = _connect(path)
        self._writer.execute("pragma journal_mode=wal")
        self._writer.execute("pragma synchronous=full")
        migrate(self._writer)
        if str(path) == ":memory:":
            self._reader = self._writer
        else:
            self._reader = _connect(path)
            self._reader.execute("pragma query_only=on")
        self._tx = _Transaction(self._writer)
        self._queue: deque[tuple[Work, asyncio.Future[Any]]] = deque()
        self._flusher: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hansa-flush")
        self._closed = False

    def listen(self, call: Callable[[int], None]) -> None:
        """Nobody else writes."""

    async def read(self, statement: str, **parameters: Any) -> list[Row]:
        try:
            return self._reader.execute(statement, parameters).fetchall()
        except sqlite3.Error as error:
            raise Retry("the database does not answer", detail=str(error)) from error

    async def write(self, work: Callable[[Transaction], Awaitable[T]], needs: Needs = NOTHING) -> T:
        if self._closed:
            raise Retry("the store is closed")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.append((work, future))
        if self._inline:
            await self._group()
        elif self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush())
        return cast(T, await future)

    async def at_once(self, statement: str, **parameters: Any) -> list[Row]:
        return await self.write(lambda tx: tx.all(statement, **parameters))

    @property
    def finish(self) -> None:
        """In place, one statement more costs next to nothing."""
        return None

    async def _flush(self) -> None:
        """Groups until nothing is queued. Never cancelled but by `close`, which waits for it."""
        while self._queue:
            await self._group()

    async def _group(self) -> None:
        """One transaction for all that is queued now; each commit of it stands or falls alone."""
        group = [self._queue.popleft() for _ in range(min(len(self._queue), GROUP_MAX))]
        results: list[tuple[asyncio.Future[Any], Any, Exception | None]] = []
        try:
            self._writer.execute("begin immediate")
            for work, future in group:
                results.append((future, *await self._one(work)))
            if self._inline:
                self._writer.execute("commit")
            else:
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(self._thread, self._writer.execute, "commit")
        except sqlite3.Error as error:
            self._abandon(group, error)
            return
        for future, value, refusal in results:
            if future.done():
                continue
            if refusal is not None:
                future.set_exception(refusal)
            else:
                future.set_result(value)

    async def _one(self, work: Work) -> tuple[Any, Exception | None]:
        self._writer.execute("savepoint one")
        try:
            value = await work(self._tx)
        except (HansaError, *OWN_FAULTS) as refusal:
            self._writer.execute("rollback to one")
            self._writer.execute("release one")
            return None, refusal
        self._writer.execute("release one")
        return value, None

    def _abandon(self, group: list[tuple[Work, asyncio.Future[Any]]], error: sqlite3.Error) -> None:
        """Disk full, locked, or I/O: nothing of the group is kept, and everybody is told to try again."""
        with contextlib.suppress(sqlite3.Error):  # whoever comes next finds out
            if self._writer.in_transaction:
                self._writer.execute("rollback")
        for _, future in group:
            if not future.done():
                future.set_exception(Retry("the database does not take writes now", detail=str(error)))

    async def close(self) -> None:
        self._closed = True
        if self._flusher is not None:
            await asyncio.wait([self._flusher])
        self._thread.shutdown()
        self._writer.close()
        if self._reader is not self._writer:
            self._reader.close()


class _Transaction:
    """Statements of the open transaction; nothing here ever really waits."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def all(self, statement: str, **parameters: Any) -> list[Row]:
        return self._connection.execute(statement, parameters).fetchall()

    async def many(self, statement: str, rows: Sequence[dict[str, Any]]) -> None:
        self._connection.executemany(statement, rows)

    async def create(self, **row: Any) -> int | None:
        if await self.all(sql.STATE, **row):
            return None
        revision = int((await self.all(sql.INSERT_CHANGE, act="create", **row))[0][0])
        await self.all(sql.INSERT_OBJECT, revision=revision, **row)
        await self.all(sql.INSERT_WORK, **row)
        return revision
