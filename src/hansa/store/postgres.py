"""PostgreSQL: many processes over one store, each with a pool of connections.

Transactions run side by side at READ COMMITTED. What makes that safe stands in `hansa.store.locks`: a commit first
takes the names and rows that it will touch, in one order for all. So sums under a ceiling cannot change under it,
links and deletions cannot pass one another, and there are no deadlocks among commits; those that remain possible
(a sweep of expired claims beside a reservation) end in a bounded number of attempts.

Time. Leases, due times and dates of creation must mean the same to all processes. The database's clock is the one that
all of them see: `skew_s` is how far this process's clock is off, measured at each connect and every 30 s, and the
store's clock adds it whenever it is more than a second. A process with a wrong clock therefore neither takes keys that
others hold nor leaves its own open to them. Between a jump of its clock and the next measuring, and should the
database's clock itself jump, a key may be claimed twice: the token in its lease then lets one of the two write, never
both.

Every wait has an end, on both sides: the server ends statements, waits for locks and idle transactions; here each
call has a deadline too. What cannot be said is `Retry`, and the next call connects anew by itself. When a connection
breaks during COMMIT, the server is asked afterwards what became of the transaction.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

import asyncpg
import structlog

from hansa.clock import Clock, Ids
from hansa.errors import HansaError, Invalid, Retry
from hansa.store import statements as sql
from hansa.store.driver import Pass, Row, Transaction
from hansa.store.locks import NOTHING, Needs
from hansa.store.migrate import migrate_postgresql, pending, version_postgresql
from hansa.store.postgres_hints import Hints
from hansa.store.postgres_passes import Passes
from hansa.store.postgres_words import (
    AGAIN,
    CREATE,
    ERRORS,
    LOCK_WORK,
    RUNNING,
    WRITTEN,
    columns,
    opening,
    told,
    translate,
)
from hansa.store.store import SqlStore

T = TypeVar("T")
log = structlog.get_logger("hansa.store")

POOL_MAX = 10  # connections of one process; more only queue at the disk
CONNECT_S = 5.0
ACQUIRE_S = 5.0  # for a free connection, a new one included
STATEMENT_S = 10.0
LOCK_S = 5.0
ABANDONED_S = 20.0  # a transaction whose process stands still is ended by the server
WRITE_S = 30.0  # a whole commit, attempts included
OUTCOME_S = 10.0  # for asking what became of a commit
OUTCOME_LOOK_S = 0.25
ATTEMPTS = 6
SCHEMA_LOOK_S = 0.25  # of a reader, while another process makes the schema
START_S = 15.0  # for a database that is still starting when we do
SETTINGS = {
    "application_name": "hansa",
    "statement_timeout": str(int(STATEMENT_S * 1000)),
    "lock_timeout": str(int(LOCK_S * 1000)),
    "idle_in_transaction_session_timeout": str(int(ABANDONED_S * 1000)),
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "synchronous_commit": "on",
    "timezone": "UTC",
    "jit": "off",
    # Our statements look up rows by their keys; a table without statistics must not tempt into scanning all of it.
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
}
READS_ONLY = {"default_transaction_read_only": "on"}


async def open_postgres_reader(url: str, *, clock: Clock, ids: Ids, wait_s: float) -> SqlStore:
    """For a process that never writes; the server holds it to that. Another one brings the schema up to date, within
    `wait_s`. Raises NewerDatabase, Retry."""
    driver = PostgresDriver(url, clock, wait_s=wait_s)
    await driver.start()
    return SqlStore(driver, clock, ids)


async def open_postgres(url: str, *, clock: Clock, ids: Ids, follow: bool = True) -> SqlStore:
    """Connects, brings the schema up to date, listens to other processes.

    `follow` False: the clock that is given stays as it is, for tests that own time. Raises NewerDatabase, Retry.
    """
    driver = PostgresDriver(url, clock, follow=follow)
    await driver.start()
    return SqlStore(driver, clock, ids)


def shown(url: str) -> str:
    """Where a database is, without its password and options: for people and logs."""
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    user = parts.netloc.rpartition("@")[0].partition(":")[0]
    return f"postgresql://{user + '@' if user else ''}{place}{parts.path}"


async def connect(url: str, *, statement_s: float = STATEMENT_S) -> asyncpg.Connection:
    """One connection apart from any pool. Raises our errors."""
    try:
        settings = SETTINGS | {"statement_timeout": str(int(statement_s * 1000))}
        return await asyncpg.connect(url, timeout=CONNECT_S, command_timeout=statement_s + 2, server_settings=settings)
    except (*ERRORS, ValueError) as error:
        raise told(error, shown(url)) from error


@contextlib.asynccontextmanager
async def apart(url: str, *, statement_s: float = STATEMENT_S) -> AsyncIterator[asyncpg.Connection]:
    """The same for the length of a block. Whatever the driver raises inside becomes ours."""
    connection = await connect(url, statement_s=statement_s)
    try:
        yield connection
        await connection.close(timeout=CONNECT_S)
    except ERRORS as error:
        raise told(error, shown(url)) from error
    finally:
        connection.terminate()


async def _await_schema(connection: asyncpg.Connection, wait_s: float) -> None:
    """Raises NewerDatabase, Retry."""
    for _ in range(int(wait_s / SCHEMA_LOOK_S) + 1):
        if not pending(await version_postgresql(connection)):
            return
        await asyncio.sleep(SCHEMA_LOOK_S)
    raise Retry(f"nobody brought the schema of the database up to date within {wait_s:g} s")


class _Connection(asyncpg.Connection):  # type: ignore[misc]  # its package has no types
    def get_reset_query(self) -> str:
        """Nothing of ours outlives a transaction: no round trip when a connection goes back."""
        return ""


class PostgresDriver:
    def __init__(self, url: str, clock: Clock, *, follow: bool = True, wait_s: float | None = None) -> None:
        """`wait_s`: it only reads, and waits so long for a schema that others make."""
        self._url, self.where, self._wait_s = url, shown(url), wait_s
        self._pool: asyncpg.Pool | None = None
        self._hints = Hints(lambda: connect(url), clock, follow=follow)
        self._passes = Passes(self._alone)
        self._closed = False

    @property
    def skew_s(self) -> float:
        return self._hints.skew_s

    alone = False

    def listen(self, call: Callable[[int], None]) -> None:
        self._hints.listen(call)

    async def start(self) -> None:
        """Waits `START_S` for a database that is still starting. Raises Retry, NewerDatabase."""
        async with asyncio.timeout(START_S + WRITE_S + (self._wait_s or 0)):
            connection = await self._first()
            try:
                if self._wait_s is not None:
                    await _await_schema(connection, self._wait_s)
                else:
                    for migration in await migrate_postgresql(connection):
                        log.info("migrated", migration=str(migration))
                await self._hints.measure(connection)
            except ERRORS as error:
                raise told(error, self.where) from error
            finally:
                await connection.close(timeout=CONNECT_S)
            self._pool = await asyncpg.create_pool(
                self._url, min_size=0, max_size=POOL_MAX, timeout=CONNECT_S, command_timeout=STATEMENT_S + 2,
                server_settings=SETTINGS | (READS_ONLY if self._wait_s is not None else {}),
                connection_class=_Connection,
            )  # fmt: skip
        self._hints.start()

    async def _first(self) -> asyncpg.Connection:
        left = START_S
        while True:
            try:
                return await connect(self._url)
            except Retry as retry:
                away = isinstance(retry.__cause__, OSError | asyncpg.CannotConnectNowError)
                if not away or left <= 0:
                    raise
            await asyncio.sleep(0.5)
            left -= 0.5

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[asyncpg.Connection]:
        if self._pool is None or self._closed:
            raise Retry("the store is closed")
        try:
            connection = await self._pool.acquire(timeout=ACQUIRE_S)
        except ERRORS as error:
            raise told(error, self.where) from error
        try:
            yield connection
        finally:
            with contextlib.suppress(*ERRORS):  # one that is broken is thrown away, and another made when needed
                await self._pool.release(connection, timeout=CONNECT_S)

    # -- reading ----------------------------------------------------------------------------

    async def read(self, statement: str, **parameters: Any) -> list[Row]:
        """A connection that broke meanwhile is replaced once: a read may be repeated."""
        text, names = translate(statement)
        try:
            values = _values(names, parameters)
        except Invalid:
            return []  # nothing of that name can be there
        for last in (False, True):
            async with self._connection() as connection:
                try:
                    return list(await connection.fetch(text, *values))
                except ERRORS as error:
                    if last or not _is_broken(connection):
                        raise told(error, self.where) from error
        raise AssertionError

    # -- writing ----------------------------------------------------------------------------

    async def write(self, work: Callable[[Transaction], Awaitable[T]], needs: Needs = NOTHING) -> T:
        try:
            async with asyncio.timeout(WRITE_S):
                value = await self._attempts(work, needs)
        except TimeoutError as error:
            raise told(error, self.where) from error
        self._hints.committed()
        return value

    async def _attempts(self, work: Callable[[Transaction], Awaitable[T]], needs: Needs) -> T:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await self._attempt(work, needs)
            except AGAIN as error:
                if attempt == ATTEMPTS:
                    raise told(error, self.where) from error
                await asyncio.sleep(random.random() * 0.01 * 2**attempt)
        raise AssertionError

    async def at_once(self, statement: str, **parameters: Any) -> list[Row]:
        text, names = translate(statement)
        return await self._alone(text, *_values(names, parameters))

    async def finish(self, it: Pass) -> int:
        try:
            async with asyncio.timeout(WRITE_S):
                revision = await self._passes.finish(it)
        except TimeoutError as error:
            raise told(error, self.where) from error
        self._hints.committed()
        return revision

    async def _alone(self, text: str, *values: Any) -> list[Row]:
        """A statement that commits by itself. Whether it did is not known when the connection breaks meanwhile, so it
        is one that does no harm twice, and none when its answer is lost."""
        for attempt in range(1, ATTEMPTS + 1):
            async with self._connection() as connection:
                try:
                    return list(await connection.fetch(text, *values))
                except ERRORS as error:
                    if not isinstance(error, AGAIN) or attempt == ATTEMPTS:
                        raise told(error, self.where) from error
            await asyncio.sleep(random.random() * 0.01 * 2**attempt)
        raise AssertionError

    async def _attempt(self, work: Callable[[Transaction], Awaitable[T]], needs: Needs) -> T:
        async with self._connection() as connection:
            try:
                await connection.execute(opening(needs))
                xid = None
                if needs is not NOTHING:
                    xid = await connection.fetchval(LOCK_WORK, *columns(needs.work), *columns(needs.linked))
                transaction = _Transaction(connection)
                value = await work(transaction)
            except BaseException as error:
                await self._undo(connection)
                if isinstance(error, ERRORS) and not isinstance(error, AGAIN):
                    raise told(error, self.where) from error
                raise
            try:
                await connection.execute("commit")
            except ERRORS as error:
                _cut(connection)
                await self._outcome(xid, transaction.last_change, error)
            return value

    async def _undo(self, connection: asyncpg.Connection) -> None:
        """Nothing is kept: rolled back, or the connection is cut and the server does it."""
        try:
            async with asyncio.timeout(CONNECT_S):
                await connection.execute("rollback")
        except (*ERRORS, asyncio.CancelledError):
            _cut(connection)

    async def _outcome(self, xid: str | None, change: Change | None, error: BaseException) -> None:
        """Returns when the transaction was committed after all. Raises Retry when it was not, or nobody can say.

        Its last change tells: a transaction's id alone may be given out again after a crash."""
        unknown = Retry("the database went away while it committed: whether it did is not known", detail=self.where)
        if xid is None or change is None:
            raise unknown from error
        for _ in range(int(OUTCOME_S / OUTCOME_LOOK_S)):
            known, running = False, True
            with contextlib.suppress(HansaError, *ERRORS):
                async with self._connection() as connection:
                    running = await connection.fetchval(RUNNING, xid)  # first: afterwards it changes nothing any more
                    known = await connection.fetchval(WRITTEN, *change)
            if known:
                return
            if not running:
                raise told(error, self.where) from error
            await asyncio.sleep(OUTCOME_LOOK_S)
        raise unknown from error

    async def close(self) -> None:
        self._closed = True
        await self._hints.close()
        if self._pool is not None:
            try:
                async with asyncio.timeout(CONNECT_S):
                    await self._pool.close()
            except (*ERRORS, TimeoutError):
                self._pool.terminate()


def _cut(connection: asyncpg.Connection) -> None:
    """Ends a connection whose state nobody knows; one that broke already is not in our hands any more."""
    with contextlib.suppress(asyncpg.InterfaceError):
        connection.terminate()


def _is_broken(connection: asyncpg.Connection) -> bool:
    try:
        return bool(connection.is_closed())
    except asyncpg.InterfaceError:
        return True


Change = tuple[int, float, str]  # revision, at, uid: enough to know a change by


class _Transaction:
    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self.last_change: Change | None = None

    async def all(self, statement: str, **parameters: Any) -> list[Row]:
        text, names = translate(statement)
        rows = list(await self._connection.fetch(text, *_values(names, parameters)))
        if statement is sql.INSERT_CHANGE:
            self.last_change = (rows[0][0], parameters["at"], parameters["uid"])
        return rows

    async def many(self, statement: str, rows: Sequence[dict[str, Any]]) -> None:
        text, names = translate(statement)
        await self._connection.executemany(text, [_values(names, row) for row in rows])

    async def create(self, **row: Any) -> int | None:
        ((revision,),) = await self.all(CREATE, **row)
        if revision is not None:
            self.last_change = (revision, row["at"], row["uid"])
        return None if revision is None else int(revision)


def _values(names: tuple[str, ...], parameters: dict[str, Any]) -> list[Any]:
    values = [parameters[name] for name in names]
    if any(isinstance(v, str) and "\0" in v for v in values):
        raise Invalid("a text holds a NUL character, which cannot be stored")
    return values
