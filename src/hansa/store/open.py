"""One way to open a store, whichever database it is."""

from __future__ import annotations

from pathlib import Path

from hansa.clock import Clock, Ids
from hansa.errors import Invalid
from hansa.store.sqlite import open_sqlite
from hansa.store.store import SqlStore

SCHEMES = ("postgresql", "postgres")


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
