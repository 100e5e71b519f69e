"""Applies the numbered .sql files of `hansa.objectindex.migrations`, as `hansa.store.migrate` does those of the store.

The index may share a database with the control store, so its version stands in a table of its own.
"""

from __future__ import annotations

import sqlite3
from typing import Any, Final

from hansa.store import migrate
from hansa.store.locks import number
from hansa.store.migrate import Migration, NewerDatabase

_PACKAGE: Final = "hansa.objectindex.migrations"
_MIGRATING: Final = number("s3 migrate")
_TABLE: Final = "create table if not exists s3_schema_version (version integer not null)"
_VERSION: Final = "select coalesce(max(version), 0) from s3_schema_version"
_INSERT: Final = "insert into s3_schema_version (version) values"


def known() -> list[Migration]:
    """Every migration of the index, in order."""
    return migrate.known(_PACKAGE)


def pending(present: int) -> list[Migration]:
    """What an index of this version lacks. Raises NewerDatabase."""
    every = known()
    if present > every[-1].number:
        raise NewerDatabase(
            f"the object index has schema {present}, this program knows {every[-1].number}: run the newer hansa"
        )
    return [m for m in every if m.number > present]


def migrate_sqlite(connection: sqlite3.Connection) -> None:
    """Raises NewerDatabase, and what SQLite raises. However many start at once, one does it."""
    connection.execute("begin immediate")
    try:
        connection.execute(_TABLE)
        for migration in pending(int(connection.execute(_VERSION).fetchone()[0])):
            for statement in migration.sqlite():
                connection.execute(statement)
            connection.execute(f"{_INSERT} (?)", (migration.number,))
    except BaseException:
        connection.execute("rollback")
        raise
    connection.execute("commit")


async def migrate_postgresql(connection: Any) -> None:
    """`connection` is asyncpg's. Raises NewerDatabase, and what the driver raises."""
    async with connection.transaction():
        await connection.execute(f"select pg_advisory_xact_lock({_MIGRATING})")
        await connection.execute(_TABLE)
        for migration in pending(int(await connection.fetchval(_VERSION))):
            for script in migration.postgresql():
                await connection.execute(script)
            await connection.execute(f"{_INSERT} ($1)", migration.number)
