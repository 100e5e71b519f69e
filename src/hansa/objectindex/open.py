"""One way to open an object index, whichever database it is."""

from __future__ import annotations

from pathlib import Path

from hansa.clock import Clock, SystemClock
from hansa.objectindex.index import SqlObjectIndex
from hansa.objectindex.sqlite import SqliteDriver
from hansa.store.open import is_postgres


async def open_index(database: str | Path, *, clock: Clock | None = None) -> SqlObjectIndex:
    """`database`: `postgresql://user@host/name`, the path of an SQLite file, made when it is not there, or `:memory:`.

    Raises NewerDatabase, Retry when the database does not answer, Invalid.
    """
    clock = clock or SystemClock()
    if is_postgres(str(database)):
        from hansa.objectindex.postgres import open_postgres  # its driver is loaded by those alone who use it

        return await open_postgres(str(database), clock)
    return SqlObjectIndex(SqliteDriver(database), clock)
