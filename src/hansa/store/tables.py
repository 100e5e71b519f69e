"""All tables of a holding at once, on either database: read at one moment, or put in place in one transaction.

Only what our migrations make counts as ours; anything else in the same database is neither read nor touched.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from hansa.errors import Conflict, HansaError, Retry
from hansa.store.backup import BrokenBackup, Columns, Progress, Row, Source, Summary, reading
from hansa.store.holding import STORE, Holding
from hansa.store.open import is_postgres

# Numbers given out after a backup was made are not given out again: clients and hosts may still know them.
NUMBERS_SKIPPED = 1_000_000
STATEMENT_S = 600.0  # a count of the rows of a table that fills a disk


class NotEmpty(Conflict):
    """A restore would overwrite what is there."""


class Target(Protocol):
    """An open transaction over a holding, in which all of it is replaced."""

    of: Holding

    async def schema(self) -> int: ...

    async def is_empty(self) -> bool: ...

    async def build(self, schema: int) -> Columns:
        """Drops what is ours and builds this schema anew, without a row. The columns of its tables."""
        ...

    async def put(self, table: str, columns: Sequence[str], rows: Sequence[Row]) -> None: ...

    async def count(self, table: str) -> int: ...

    async def finish(self) -> None:
        """Numbers go on after the greatest, leases are free, the schema is this program's."""
        ...


async def load(path: Path, target: Target, *, replace: bool, told: Progress) -> Summary:
    """Puts a verified file in place of what the target holds; the caller commits. Raises NotEmpty, BrokenBackup."""
    of = target.of
    of.family.pending(await target.schema())
    if not replace and not await target.is_empty():
        raise NotEmpty(f"the target holds {of.what} already; --replace throws it away")
    with reading(path, of) as (summary, batches):
        there = await target.build(summary.schema)
        if {t: sorted(c) for t, c in there.items()} != {t: sorted(c) for t, c in summary.columns.items()}:
            raise BrokenBackup(f"its tables are not those of schema {summary.schema}")
        for table, batch in batches:
            await target.put(table, summary.columns[table], batch)
            told(table, summary.rows.get(table, 0) + len(batch))
        for table, count in summary.rows.items():
            if await target.count(table) != count:
                raise BrokenBackup(f"{table} has other rows than the backup")
        await target.finish()
    return summary


@asynccontextmanager
async def source(database: str, of: Holding = STORE) -> AsyncIterator[Source]:
    """It as it is now, for as long as it is read; those who write are not held up."""
    if is_postgres(database):
        from hansa.store.postgres import apart

        async with (
            apart(database, statement_s=STATEMENT_S) as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            yield PostgresTables(connection, of)
        return
    if not Path(database).exists():
        raise HansaError(f"there is no database {database}")
    reader = sqlite3.connect(f"file:{database}?mode=ro", uri=True, isolation_level=None)
    try:
        reader.execute("begin")
        yield SqliteTables(reader, of)
    finally:
        reader.close()


@asynccontextmanager
async def target(database: str, of: Holding = STORE) -> AsyncIterator[Target]:
    """All or nothing: committed when the block ends well. Raises Conflict when a program works on it."""
    if is_postgres(database):
        from hansa.store.postgres import apart
        from hansa.store.postgres_words import hold_all

        async with apart(database, statement_s=STATEMENT_S) as connection, connection.transaction():
            await hold_all(connection)
            if others := await connection.fetchval(_OTHERS):
                raise Conflict(f"{others} connections of running programs are open on this database; stop them first")
            yield PostgresTables(connection, of)
        return
    Path(database).touch(mode=0o600)  # its journal gets the same mode
    writer = sqlite3.connect(database, isolation_level=None, timeout=1.0)
    try:
        writer.execute("pragma journal_mode=wal")
        writer.execute("pragma synchronous=full")
        writer.execute("begin immediate")
        yield SqliteTables(writer, of)
        writer.execute("commit")
    except sqlite3.OperationalError as error:
        raise Retry("the database takes no writes now", detail=str(error)) from error
    finally:
        writer.close()


# Connections that write as the store does; another store in another schema of the database counts too.
_OTHERS = """
select count(*) from pg_stat_activity
 where datname = current_database() and application_name = 'hansa' and pid <> pg_backend_pid()"""


class SqliteTables:
    name = "sqlite"

    def __init__(self, connection: sqlite3.Connection, of: Holding) -> None:
        self._connection, self.of = connection, of

    async def schema(self) -> int:
        return self.of.family.version_sqlite(self._connection)

    async def columns(self) -> Columns:
        found = {}
        for table in self.of.tables():
            if names := [row[1] for row in self._connection.execute(f"pragma table_info({table})")]:
                found[table] = names
        return found

    async def rows(self, table: str, columns: Sequence[str]) -> AsyncIterator[Sequence[Row]]:
        cursor = self._connection.execute(f"select {', '.join(columns)} from {table}")
        while batch := cursor.fetchmany(self.of.batch):
            yield batch

    async def is_empty(self) -> bool:
        present = await self.columns()
        return not any(
            self._connection.execute(f"select exists (select 1 from {table})").fetchone()[0]
            for table in self.of.filled
            if table in present
        )

    async def build(self, schema: int) -> Columns:
        for table in [*await self.columns(), self.of.family.table]:
            self._connection.execute(f"drop table if exists {table}")
        self.of.family.apply_sqlite(self._connection, schema)
        columns = await self.columns()
        for table in columns:
            self._connection.execute(f"delete from {table}")
        return columns

    async def put(self, table: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        places = ", ".join("?" * len(columns))
        self._connection.executemany(f"insert into {table} ({', '.join(columns)}) values ({places})", rows)

    async def count(self, table: str) -> int:
        return int(self._connection.execute(f"select count(*) from {table}").fetchone()[0])

    async def finish(self) -> None:
        for table, column in self.of.numbered:
            highest = self._connection.execute(f"select coalesce(max({column}), 0) from {table}").fetchone()[0]
            self._connection.execute("delete from sqlite_sequence where name = ?", (table,))
            self._connection.execute(
                "insert into sqlite_sequence (name, seq) values (?, ?)", (table, highest + NUMBERS_SKIPPED)
            )
        self._connection.execute(self.of.afterwards)
        self.of.family.apply_sqlite(self._connection)


class PostgresTables:
    name = "postgresql"

    def __init__(self, connection: Any, of: Holding) -> None:
        self._connection, self.of = connection, of

    async def schema(self) -> int:
        return await self.of.family.version_postgresql(self._connection)

    async def columns(self) -> Columns:
        rows = await self._connection.fetch(
            "select table_name, column_name from information_schema.columns"
            " where table_schema = current_schema() and table_name = any($1) order by table_name, ordinal_position",
            self.of.tables(),
        )
        found: dict[str, list[str]] = {}
        for table, name in rows:
            found.setdefault(table, []).append(name)
        return {table: found[table] for table in self.of.tables() if table in found}

    async def rows(self, table: str, columns: Sequence[str]) -> AsyncIterator[Sequence[Row]]:
        cursor = await self._connection.cursor(f"select {', '.join(columns)} from {table}")
        while batch := await cursor.fetch(self.of.batch):
            yield batch

    async def is_empty(self) -> bool:
        present = await self.columns()
        for table in self.of.filled:
            if table in present and await self._connection.fetchval(f"select exists (select 1 from {table})"):
                return False
        return True

    async def build(self, schema: int) -> Columns:
        await self._drop([*await self.columns(), self.of.family.table])
        await self.of.family.apply_postgresql(self._connection, schema)
        columns = await self.columns()
        for table in columns:
            await self._connection.execute(f"delete from {table}")
        return columns

    async def _drop(self, tables: Iterable[str]) -> None:
        for table in tables:
            await self._connection.execute(f"drop table if exists {table} cascade")
        for name in self.of.functions():
            if await self._connection.fetchval("select to_regproc($1) is not null", name):
                await self._connection.execute(f"drop function {name}")

    async def put(self, table: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        await self._connection.copy_records_to_table(table, columns=columns, records=[tuple(r) for r in rows])

    async def count(self, table: str) -> int:
        return int(await self._connection.fetchval(f"select count(*) from {table}"))

    async def finish(self) -> None:
        for table, column in self.of.numbered:
            highest = await self._connection.fetchval(f"select coalesce(max({column}), 0) from {table}")
            await self._connection.execute(f"select setval('{table}_{column}_seq', $1)", highest + NUMBERS_SKIPPED)
        await self._connection.execute(self.of.afterwards)
        await self.of.family.apply_postgresql(self._connection)
