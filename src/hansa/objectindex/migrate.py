"""Applies the numbered .sql files of `hansa.objectindex.migrations`, as `hansa.store.migrate` does those of the store.

The index may share a database with the control store, so its version stands in a table of its own.
"""

from __future__ import annotations

import sqlite3
from typing import Any, Final

from hansa.store.locks import number
from hansa.store.migrate import Family

INDEX: Final = Family("the object index", "hansa.objectindex.migrations", "s3_schema_version", number("s3 migrate"))


def migrate_sqlite(connection: sqlite3.Connection) -> None:
    """Raises NewerDatabase, and what SQLite raises. However many start at once, one does it."""
    connection.execute("begin immediate")
    try:
        INDEX.apply_sqlite(connection)
    except BaseException:
        connection.execute("rollback")
        raise
    connection.execute("commit")


async def migrate_postgresql(connection: Any) -> None:
    """`connection` is asyncpg's. Raises NewerDatabase, and what the driver raises."""
    async with connection.transaction():
        await INDEX.apply_postgresql(connection)
