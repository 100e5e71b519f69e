"""The object index on PostgreSQL: many processes, each with a pool of connections, writing side by side.

A transaction begins by taking the names that the index gives it (the key alone, its bucket and what projects may hold
together shared with other writers), in one order for all; a limit of the project's own takes its name after them, counts
come last. So what a check saw stays true, and nobody waits in a circle. Sums are spread over slots, so that the writers of
one bucket do not queue for its row.
Every wait has an end on both sides.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import lru_cache
from typing import Any, Final, TypeVar

import asyncpg

from hansa.clock import Clock
from hansa.errors import Bug, Retry
from hansa.objectindex import statements as sql
from hansa.objectindex import transaction
from hansa.objectindex.index import Names, SqlObjectIndex
from hansa.objectindex.migrate import migrate_postgresql
from hansa.objectindex.order import Row
from hansa.objectindex.records import NULL, Held
from hansa.objectindex.steady import Steady
from hansa.objectindex.transaction import Counts, Looked, Make, Project, Transaction, bucket_owner, project_owner
from hansa.store.locks import number
from hansa.store.postgres import ACQUIRE_S, CONNECT_S, SETTINGS, STATEMENT_S, WRITE_S, connect, shown
from hansa.store.postgres_words import AGAIN, ERRORS, numbered, told

T = TypeVar("T")
POOL_MAX: Final = 16  # connections of one process
SLOTS: Final = 16
ATTEMPTS: Final = 6
UNDO_S: Final = 5.0
_OWN_SHAPE: Final = {
    sql.KNOWN: "select blob_id from s3_blobs where blob_id in (select jsonb_array_elements_text(:blobs::text::jsonb))",
    sql.HELD_TOGETHER: sql.HELD_TOGETHER.replace(
        "select value from json_each(:owners)", "select jsonb_array_elements_text(:owners::text::jsonb)"
    ),
}


async def open_postgres(url: str, clock: Clock, steady: Steady | None = None) -> SqlObjectIndex:
    """Connects and brings the schema up to date. Raises NewerDatabase, Retry."""
    driver = PostgresDriver(url)
    await driver.start()
    return SqlObjectIndex(driver, clock, steady)


class PostgresDriver:
    alone = False
    batch_min = 32

    def __init__(self, url: str) -> None:
        self._url, self._where = url, shown(url)
        self._pool: asyncpg.Pool | None = None

    async def start(self) -> None:
        async with asyncio.timeout(WRITE_S):
            connection = await connect(self._url)
            try:
                await migrate_postgresql(connection)
            except ERRORS as error:
                raise told(error, self._where) from error
            finally:
                await connection.close(timeout=CONNECT_S)
            self._pool = await asyncpg.create_pool(
                self._url, min_size=0, max_size=POOL_MAX, timeout=CONNECT_S, command_timeout=STATEMENT_S + 2,
                server_settings=SETTINGS, connection_class=_Connection,
            )  # fmt: skip

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[asyncpg.Connection]:
        pool = self._pool  # which `close` may let go of meanwhile
        if pool is None:
            raise Retry("the object index is closed")
        try:
            connection = await pool.acquire(timeout=ACQUIRE_S)
        except ERRORS as error:
            raise told(error, self._where) from error
        try:
            yield connection
        finally:
            with contextlib.suppress(*ERRORS):  # one that is broken is thrown away, and another made when needed
                await pool.release(connection, timeout=CONNECT_S)

    def stamp(self, name: int) -> int | None:
        """Asking the server would cost what a read does."""
        return None

    async def read(self, statement: str, **parameters: Any) -> Sequence[Row]:
        text, names = _translated(statement)
        return await self._asked(text, [parameters[name] for name in names])

    async def _asked(self, text: str, values: Sequence[Any]) -> Sequence[Row]:
        """A connection that broke meanwhile is replaced once: a read may be repeated."""
        for last in (False, True):
            async with self._connection() as connection:
                try:
                    return await connection.fetch(text, *values)  # type: ignore[no-any-return]
                except ERRORS as error:
                    if last or not _is_broken(connection):
                        raise told(error, self._where) from error
        raise AssertionError

    async def rolled(
        self, bucket: str, low: bytes, high: bytes, prefix: bytes, delimiter: bytes, limit: int
    ) -> Sequence[Row]:
        """One question, where batches would take one for each folder."""
        return await self._asked(_ROLLED, [bucket, low, high, len(prefix), delimiter, limit])

    async def write(self, work: Callable[[Transaction], Awaitable[T]], names: Names = ()) -> T:
        try:
            async with asyncio.timeout(WRITE_S):
                return await self._attempts(work, names)
        except TimeoutError as error:
            raise told(error, self._where) from error

    async def _attempts(self, work: Callable[[Transaction], Awaitable[T]], names: Names) -> T:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await self._attempt(work, names)
            except AGAIN as error:
                if attempt == ATTEMPTS:
                    raise told(error, self._where) from error
                await asyncio.sleep(random.random() * 0.01 * 2**attempt)
        raise AssertionError

    async def _attempt(self, work: Callable[[Transaction], Awaitable[T]], names: Names) -> T:
        """Whether it was committed is not known when the connection breaks at its end: Retry, and whoever asked may
        ask again, as each write of the index may be repeated."""
        async with self._connection() as connection:
            try:
                await connection.execute(_opening(names))
                value = await work(_Transaction(connection))
                await connection.execute("commit")
            except BaseException as error:
                await self._undo(connection)
                if isinstance(error, ERRORS) and not isinstance(error, AGAIN):
                    raise told(error, self._where) from error
                raise
            return value

    async def _undo(self, connection: asyncpg.Connection) -> None:
        """Nothing is kept: rolled back, or the connection is cut and the server does it."""
        try:
            async with asyncio.timeout(UNDO_S):
                await connection.execute("rollback")
        except (*ERRORS, asyncio.CancelledError):
            with contextlib.suppress(asyncpg.InterfaceError):  # broken already
                connection.terminate()

    async def close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            async with asyncio.timeout(CONNECT_S):
                await pool.close()
        except (*ERRORS, TimeoutError):
            pool.terminate()


class _Connection(asyncpg.Connection):  # type: ignore[misc]  # its package has no types
    def get_reset_query(self) -> str:
        """Nothing of ours outlives a transaction: no round trip when a connection goes back."""
        return ""


class _Transaction:
    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    async def all(self, statement: str, **parameters: Any) -> Sequence[Row]:
        text, names = _translated(statement)
        return await self._fetch(text, *[parameters[name] for name in names])

    async def many(self, statement: str, rows: Sequence[dict[str, Any]]) -> None:
        text, names = _translated(statement)
        await self._connection.executemany(text, [[row[name] for name in names] for row in rows])

    async def look(self, bucket: str, key: bytes, project: Project | None) -> Looked:
        ((closed, latest, null, *sums),) = await self._fetch(_LOOK, bucket, key, *_asking(project))
        latest, null = _row(latest), _row(null)
        is_null = latest is None or latest[5] == NULL
        return Looked(closed, latest, latest if is_null else null, Held(*sums))

    async def room(self, project: Project) -> Held:
        return Held(*(await self._fetch(_ROOM, *_asking(project)))[0])

    async def keep(self, inline: Sequence[tuple[int, bytes]]) -> None:
        await transaction.keep(self, inline)

    async def make(self, new: Make) -> int:
        counts = new.counts
        rows = await self._fetch(
            _MAKE, new.bucket, new.key, new.id, int(new.marker), new.size, new.etag, new.modified, new.shown, new.facts,
            new.ref, new.replaced, new.demoted, list(new.freed.refs), list(new.freed.blobs), new.now,
            [ref for ref, _ in new.inline], [body for _, body in new.inline], list(new.used),
            bucket_owner(new.bucket), project_owner(new.project), _slot(new.bucket, new.key),
            counts.bytes, counts.versions, counts.current, counts.upload_bytes, counts.uploads,
        )  # fmt: skip
        return int(rows[0][0])

    async def count(self, bucket: str, key: bytes, project: str, counts: Counts) -> None:
        await transaction.count(self, bucket, project, counts, _slot(bucket, key))

    async def _fetch(self, text: str, *values: Any) -> Sequence[Row]:
        try:
            return await self._connection.fetch(text, *values)  # type: ignore[no-any-return]
        except asyncpg.DataError as error:
            raise Bug("the database refused a value of ours", detail=type(error).__name__) from error


_ROLLED: Final = "select * from s3_rolled($1, $2, $3, $4, $5, $6)"
_LOOK: Final = "select * from s3_look($1, $2, $3, $4, $5)"
_ROOM: Final = "select * from s3_room($1, $2, $3)"
_MAKE: Final = f"select s3_make({', '.join(f'${n}' for n in range(1, 27))})"


def _asking(project: Project | None) -> tuple[str | None, int | None, bool | None]:
    return (None, None, None) if project is None else (project_owner(project.uid), project.name, project.alone)


def _row(composite: Any) -> Row | None:
    """A row of `s3_versions` as the statements order its columns."""
    if composite is None or composite[0] is None:
        return None
    return tuple([composite[name] for name in _NAMES])


_NAMES: Final = tuple(sql.COLUMNS.split(", "))


def _slot(bucket: str, key: bytes) -> int:
    return number("s3 slot", bucket, key.hex()) % SLOTS


def _opening(names: Names) -> str:
    """Begins a transaction and takes the names: all numbers, so it goes as one simple query."""
    locks = [f"select {_lock(name, alone)}" for name, alone in names]
    return "; ".join(["begin isolation level read committed", *locks])


def _lock(name: int, alone: bool) -> str:
    return f"pg_advisory_xact_lock{'' if alone else '_shared'}({name})"


@lru_cache(maxsize=256)
def _translated(statement: str) -> tuple[str, tuple[str, ...]]:
    return numbered(_OWN_SHAPE.get(statement, statement))


def _is_broken(connection: asyncpg.Connection) -> bool:
    try:
        return bool(connection.is_closed())
    except asyncpg.InterfaceError:
        return True
