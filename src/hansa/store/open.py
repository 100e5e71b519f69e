"""One way to open a store, whichever database it is."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from hansa.clock import Clock, Ids
from hansa.errors import Invalid, Retry
from hansa.store.migrate import Migration, migrate, migrate_postgresql, pending, version_postgresql, version_sqlite
from hansa.store.sqlite import open_sqlite, open_sqlite_reader
from hansa.store.store import SqlStore

SCHEMES = ("postgresql", "postgres")
READER_S = 60.0  # for another process to make the database or bring its schema up to date
MIGRATE_S = 600.0  # a statement of a migration, over a million rows


def is_postgres(database: str) -> bool:
    """Raises Invalid for the address of a database that is neither."""
    scheme, separator, _ = database.partition("://")
    if not separator:
        return False
    if scheme in SCHEMES:
        return True
    raise Invalid.field("database", f"is a path or postgresql://…, not {scheme}://")


async def open_store(
    database: str | Path, *, clock: Clock, ids: Ids, inline: bool = False, follow_clock: bool = True
) -> SqlStore:
    """`database`: `postgresql://user@host/name`, or the path of an SQLite file, made when it is not there.

    `inline` (SQLite) and `follow_clock` False (PostgreSQL) are for simulations, which own all time.
    Raises NewerDatabase, Retry when the database does not answer, Invalid.
    """
    if is_postgres(str(database)):
        from hansa.store.postgres import open_postgres  # its driver is loaded by those alone who use it

        return await open_postgres(str(database), clock=clock, ids=ids, follow=follow_clock)
    return await open_sqlite(database, clock=clock, ids=ids, inline=inline)


async def open_reader(database: str | Path, *, clock: Clock, ids: Ids, wait_s: float = READER_S) -> SqlStore:
    """For a process that never writes and makes nothing: gateways. It waits `wait_s` for those that do.

    Raises NewerDatabase, Retry, Invalid.
    """
    if is_postgres(str(database)):
        from hansa.store.postgres import open_postgres_reader

        return await open_postgres_reader(str(database), clock=clock, ids=ids, wait_s=wait_s)
    return await open_sqlite_reader(database, clock=clock, ids=ids, wait_s=wait_s)


async def migrate_database(database: str, *, dry_run: bool) -> tuple[int, list[Migration]]:
    """The schema that was found, and what was applied to it (or would be). Raises NewerDatabase, Retry."""
    if is_postgres(database):
        from hansa.store.postgres import apart

        async with apart(database, statement_s=MIGRATE_S) as connection:
            present = await version_postgresql(connection)
            return present, pending(present) if dry_run else await migrate_postgresql(connection)
    if dry_run and not Path(database).exists():
        return 0, pending(0)
    connection = sqlite3.connect(database, isolation_level=None)
    try:
        present = version_sqlite(connection)
        return present, pending(present) if dry_run else migrate(connection)
    except sqlite3.Error as error:
        raise Retry("the database cannot be migrated now", detail=str(error)) from error
    finally:
        connection.close()
