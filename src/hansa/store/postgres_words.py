"""What PostgreSQL calls differently: parameters, the few statements that have a shape of their own, errors."""

from __future__ import annotations

import re
from functools import lru_cache

import asyncpg

from hansa.errors import Bug, HansaError, Retry
from hansa.kinds.resource import Key
from hansa.store import statements as sql
from hansa.store.locks import Needs, number

_NAMED = re.compile(r"(?<![:\w]):([a-z_]+)")
# Names a commit holds one by one; a larger one holds the whole store. The server has room for some 6,000 in all.
LOCKS_MAX = 64
_STORE = number("store")

OWN_SHAPE = {
    # In which order changes can be read: see migrations/0001_init.postgresql.sql.
    # By the index that is made for it: see migrations/0004_passes.postgresql.sql.
    sql.LIST_EXACT: f"""
select {sql.COLUMNS} from objects where kind || '/' || scope = :kind::text || '/' || :scope::text and seq > :after
 order by seq limit :limit""",
    sql.REVISION: "select hansa_readable()",
    sql.CHANGES: """
select revision, at, kind, scope, name, uid, act, by_whom, request, body
  from hansa_changes(:after, :scope, :inside, :limit)""",
    sql.INSERT_CHANGE: "select hansa_change(:at, :kind, :scope, :name, :uid, :act, :by, :request, :body)",
    sql.CLAIM: """
select kind, scope, name, failures, going, due_at from hansa_claim(:now, :until, :token, :limit)""",
}

# In one order for all, before anything else of these rows is written. `lateral`: row by row in that order, each by its
# key; a join could be planned as a scan of the whole table.
LOCK_WORK = """
with keys as materialized (
  select * from unnest($1::text[], $2::text[], $3::text[]) as k (kind, scope, name)
  union
  select l.source_kind, l.source_scope, l.source_name
    from unnest($4::text[], $5::text[], $6::text[]) as k (kind, scope, name)
    cross join lateral (
      select source_kind, source_scope, source_name from links
       where target_kind = k.kind and target_scope = k.scope and target_name = k.name) l
  union
  select l.target_kind, l.target_scope, l.target_name
    from unnest($4::text[], $5::text[], $6::text[]) as k (kind, scope, name)
    cross join lateral (
      select target_kind, target_scope, target_name from links
       where source_kind = k.kind and source_scope = k.scope and source_name = k.name) l
  order by 1, 2, 3),
held as (
  select h.one from keys k cross join lateral (
    select 1 as one from work w where w.kind = k.kind and w.scope = k.scope and w.name = k.name for update) h)
select pg_current_xact_id()::text from (select count(one) from held) as all_of_them"""
CREATE = """
select hansa_create(:at, :kind, :scope, :name, :uid, :by, :request, :body, :labels, :system_labels, :spec, :status,
                    :observed, :due)"""
RUNNING = "select not pg_visible_in_snapshot($1::text::xid8, pg_current_snapshot())"
WRITTEN = "select exists (select 1 from changes where revision = $1 and at = $2 and uid = $3)"


@lru_cache(maxsize=512)
def translate(statement: str) -> tuple[str, tuple[str, ...]]:
    """The statement with `$n` for `:name`, and the names in that order. Worked out once a statement."""
    return numbered(OWN_SHAPE.get(statement, statement))


def numbered(statement: str) -> tuple[str, tuple[str, ...]]:
    """The same for a statement that is no one's own shape."""
    names: list[str] = []

    def place(match: re.Match[str]) -> str:
        if match[1] not in names:
            names.append(match[1])
        return f"${names.index(match[1]) + 1}"

    return _NAMED.sub(place, statement), tuple(names)


def opening(needs: Needs) -> str:
    """Begins a transaction and takes the names: all numbers, so it goes as one simple query."""
    words = ["begin isolation level read committed"]
    if len(needs.names) > LOCKS_MAX:
        words.append(f"select pg_advisory_xact_lock({_STORE})")
    elif needs.names:
        words.append(f"select pg_advisory_xact_lock_shared({_STORE})")
        words += [f"select pg_advisory_xact_lock{'' if alone else '_shared'}({n})" for n, alone in needs.names]
    return "; ".join(words)


async def hold_all(connection: asyncpg.Connection) -> None:
    """The whole store alone, until the transaction of this connection ends: nobody else commits meanwhile."""
    await connection.execute(f"select pg_advisory_xact_lock({_STORE})")


def columns(keys: tuple[Key, ...]) -> tuple[list[str], list[str], list[str]]:
    return [k.kind for k in keys], [k.scope for k in keys], [k.name for k in keys]


# -- errors -------------------------------------------------------------------------------------

# Given way to another: the whole transaction may be tried again at once.
AGAIN = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError, asyncpg.UniqueViolationError)
# The server is not there, or is on its way out or in.
_AWAY = (
    OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.OperatorInterventionError,
    asyncpg.InternalClientError,
)  # fmt: skip
ERRORS = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


def told(error: BaseException, where: str) -> HansaError:
    """What a driver's exception means to us. `where` (the database without its password) is for operators alone.

    Only the server's first line is kept as detail: its further ones quote rows.
    """
    detail = f"{where}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    for kinds, text in _MEANINGS:
        if isinstance(error, kinds):
            return Retry(text, detail=detail)
    return Bug("the database refused a statement of ours", detail=detail)


_MEANINGS: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...] = (
    (asyncpg.DiskFullError, "the disk of the database is full"),
    (asyncpg.ReadOnlySQLTransactionError, "the database takes no writes now"),
    (asyncpg.InsufficientResourcesError, "the database has no room for more connections or memory"),
    (asyncpg.InvalidAuthorizationSpecificationError, "the database does not let us in: wrong user or password"),
    (asyncpg.InsufficientPrivilegeError, "the user of the database may not do what is needed"),
    (asyncpg.InvalidCatalogNameError, "there is no such database"),
    (asyncpg.LockNotAvailableError, "the database is busy: others held what is needed for too long"),
    (asyncpg.QueryCanceledError, "the database took too long"),
    (TimeoutError, "the database does not answer in time"),
    (AGAIN, "the database is busy: others were faster several times"),
    (_AWAY, "the database does not answer"),
)
