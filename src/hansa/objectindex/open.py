"""One way to open an object index, whichever database it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hansa.clock import Clock, SystemClock
from hansa.objectindex.index import SqlObjectIndex
from hansa.objectindex.sqlite import SqliteDriver
from hansa.objectindex.steady import Steady
from hansa.store.open import is_postgres


async def open_index(
    database: str | Path, *, clock: Clock | None = None, passed: Callable[[], float] | None = None
) -> SqlObjectIndex:
    """`database`: `postgresql://user@host/name`, the path of an SQLite file, made when it is not there, or `:memory:`.
    `passed`: seconds by a clock that nobody can set; with it the index believes no jump forward (see `steady`).

    Raises NewerDatabase, Retry when the database does not answer, Invalid.
    """
    clock = clock or SystemClock()
    steady = None if passed is None else Steady(clock.now(), passed)
    if is_postgres(str(database)):
        from hansa.objectindex.postgres import open_postgres  # its driver is loaded by those alone who use it

        return await open_postgres(str(database), clock, steady)
    return SqlObjectIndex(SqliteDriver(database), clock, steady)
