"""The port of the store, over a driver: what it reads, and what it hands to a `Pen` to write.

What each write means stands in `pen`, what a database must offer in `driver`, what a row is outside in `rows`.
"""

from __future__ import annotations

import builtins
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from hansa.clock import Clock, Ids
from hansa.errors import Gone, HansaError, Invalid, NotFound, Retry
from hansa.kinds.resource import Key, Stored
from hansa.store import statements as sql
from hansa.store.driver import Driver, Pass, Row, Transaction
from hansa.store.locks import needs_of
from hansa.store.pen import Pen, failures_after
from hansa.store.port import (
    UNLIMITED,
    Backlog,
    Change,
    Count,
    Due,
    Entry,
    Held,
    Lease,
    Page,
    Pair,
    Pointer,
    Query,
    SetSecret,
    SetStatus,
    Settle,
    Write,
)
from hansa.store.rows import change_of, entry_of, held_of, key_columns, pattern_below, pointer_of, stored_of, text_of


@dataclass(frozen=True, slots=True)
class StoreClock:
    """The time that all processes of a store agree on. Whoever works with the store takes this clock."""

    given: Clock
    driver: Driver

    def now(self) -> float:
        return self.given.now() + self.driver.skew_s


class SqlStore:
    """`hansa.store.port.Store` over a driver."""

    def __init__(self, driver: Driver, clock: Clock, ids: Ids) -> None:
        self._driver, self._ids = driver, ids
        self.clock: Clock = StoreClock(clock, driver)
        self._listeners: builtins.list[Callable[[int], None]] = []
        self.hand = ""  # whose leases they are: the beginning of their tokens
        self.timed: Callable[[float, str], None] = lambda seconds, outcome: None
        self.unwritable = ""
        driver.listen(self._tell)

    @property
    def alone(self) -> bool:
        return self._driver.alone

    # -- reading ----------------------------------------------------------------------------

    async def get(self, key: Key) -> Stored:
        rows = await self._driver.read(sql.GET, **key_columns(key))
        if not rows:
            raise NotFound(f"there is no {key}")
        return stored_of(rows[0])

    async def find(self, uid: str) -> Stored | None:
        rows = await self._driver.read(sql.FIND, uid=uid)
        return stored_of(rows[0]) if rows else None

    async def list(self, query: Query) -> Page:
        if query.after and not query.after.isdigit():
            raise Invalid.field("continue", "must be one that a list gave out")
        asked = UNLIMITED if query.limit is None else query.limit + 1
        values: dict[str, Any] = {"scope": query.scope, "after": int(query.after or 0), "limit": asked}
        if query.kind is not None and not query.below:
            rows = await self._driver.read(sql.LIST_EXACT, kind=query.kind, **values)
        else:
            inside = pattern_below(query.scope)
            rows = await self._driver.read(
                sql.LIST, kind=query.kind or "", below=int(query.below), inside=inside, **values
            )
        more = query.limit is not None and len(rows) > query.limit
        rows = rows[: query.limit] if more else rows
        return Page([stored_of(r) for r in rows], str(rows[-1][14]) if more else "")

    async def changes(self, after: int, *, scope: str = "", limit: int = 500) -> builtins.list[Change]:
        rows = await self._driver.read(sql.CHANGES, after=after, scope=scope, inside=pattern_below(scope), limit=limit)
        if after + 1 < await self.oldest_change():  # after the rows: a sweep in between drops none unnoticed
            raise Gone(f"changes after {after} are no longer kept: list again and go on from there")
        return [change_of(r) for r in rows]

    async def asked(self, key: Key) -> tuple[Stored, str]:
        rows = await self._driver.read(sql.GET_ASKED, **key_columns(key))
        if not rows:
            raise NotFound(f"there is no {key}")
        return stored_of(rows[0]), rows[0][15] or ""

    async def pointers_to(self, key: Key) -> builtins.list[Pointer]:
        return [pointer_of(r) for r in await self._driver.read(sql.LINKS_TO, **key_columns(key))]

    async def pointers_from(self, key: Key) -> builtins.list[Pointer]:
        return [pointer_of(r) for r in await self._driver.read(sql.LINKS_FROM, **key_columns(key))]

    async def claims(self, scope: str, *, below: bool = False) -> builtins.list[Held]:
        rows = await self._driver.read(
            sql.CLAIMS_IN, scope=scope, below=int(below), inside=pattern_below(scope), now=self.clock.now()
        )
        return [held_of(r) for r in rows]

    async def claims_of(self, owner: str) -> builtins.list[Held]:
        return [held_of(r) for r in await self._driver.read(sql.CLAIMS_OF, owner=owner, now=self.clock.now())]

    async def counts(self, scope: str) -> builtins.list[Count]:
        rows = await self._driver.read(sql.CEILINGS_IN, scope=scope)
        return [Count(key, held, ceiling) for key, ceiling, held in rows]

    async def record(self, stream: str, id: str) -> Entry | None:
        rows = await self._driver.read(sql.RECORD, stream=stream, id=id)
        return entry_of(rows[0]) if rows else None

    async def pairs(
        self, first: str, second: str, *, about: str = "", alone: bool = False, since: float = 0.0,
        after: tuple[float, str] = (0.0, ""), limit: int = 100,
    ) -> builtins.list[Pair]:  # fmt: skip
        rows = await self._driver.read(
            sql.PAIRS, first=first, second=second, about=about, alone=int(alone), since=since, after_at=after[0],
            after_id=after[1], limit=limit,
        )  # fmt: skip
        return [Pair(entry_of(r), None if r[6] is None else orjson.loads(r[6])) for r in rows]

    async def records(self, stream: str, *, about: str | None = None, limit: int = 50) -> builtins.list[Entry]:
        rows = await self._driver.read(sql.RECORDS, stream=stream, about=about or "", limit=limit)
        return [entry_of(r) for r in rows]

    async def span(
        self, stream: str, *, about: str = "", since: float = 0.0, before: float, below: str = "", limit: int = 500
    ) -> builtins.list[Entry]:
        rows = await self._driver.read(
            sql.RECORDS_SPAN, stream=stream, about=about, since=since, before=before, below=below, limit=limit
        )
        return [Entry(r[0], r[1], r[2], r[3], orjson.loads(r[4])) for r in rows]

    async def secrets(self, *, after: tuple[str, str] = ("", ""), limit: int = 500) -> builtins.list[SetSecret]:
        rows = await self._driver.read(sql.SECRETS, uid=after[0], name=after[1], limit=limit)
        return [SetSecret(r[0], r[1], bytes(r[2])) for r in rows]

    async def secret(self, uid: str, name: str) -> bytes | None:
        rows = await self._driver.read(sql.SECRET, uid=uid, name=name)
        return bytes(rows[0][0]) if rows else None

    async def due(self, key: Key) -> Due | None:
        rows = await self._driver.read(sql.WORK, **key_columns(key))
        return Due(rows[0][0], rows[0][1], rows[0][2]) if rows else None

    async def revision(self) -> int:
        return int((await self._driver.read(sql.REVISION))[0][0])

    async def oldest_change(self) -> int:
        return int((await self._driver.read(sql.OLDEST))[0][0])

    async def backlog(self) -> Backlog:
        now = self.clock.now()
        due, oldest, leased = (await self._driver.read(sql.BACKLOG, now=now))[0]
        return Backlog(int(due or 0), int(leased or 0), max(0.0, now - oldest) if oldest is not None else 0.0)

    async def next_due(self) -> float | None:
        due = (await self._driver.read(sql.NEXT_DUE))[0][0]
        return None if due is None else float(due)

    # -- writing ----------------------------------------------------------------------------

    async def commit(self, *writes: Write, by: str = "", request: str = "") -> int:
        started, outcome = time.perf_counter(), "ok"
        try:
            revision = await self._written(writes, by, request)
        except HansaError as refusal:
            outcome = refusal.reason
            if isinstance(refusal, Retry):
                self.unwritable = _why(refusal)
            raise
        finally:
            self.timed(time.perf_counter() - started, outcome)
        if revision:  # something was really written
            self.unwritable = ""
        self._tell(revision)
        return revision

    async def _written(self, writes: Sequence[Write], by: str, request: str) -> int:
        if (finish := self._driver.finish) is not None:
            whole = _pass_of(writes, self.clock.now(), by, request)
            if whole is not None:
                return await finish(whole)

        async def work(tx: Transaction) -> int:
            pen = Pen(tx, self.clock.now(), by, request)
            for write in writes:
                await pen.write(write)
            return pen.revision

        return await self._driver.write(work, needs_of(writes))

    async def trouble(self) -> str:
        if self.unwritable:
            try:
                await self._driver.write(_touch)
            except Retry as retry:
                self.unwritable = _why(retry)
            else:
                self.unwritable = ""
        return self.unwritable

    async def rebase(self, back_s: float) -> None:
        async def work(tx: Transaction) -> None:
            await tx.all(sql.REBASE, back=back_s)

        await self._driver.write(work)
        self._tell(await self.revision())

    async def claim(self, limit: int, lease_s: float) -> Sequence[Lease]:
        now, token = self.clock.now(), self.hand + self._ids.token()
        try:
            found = await self._driver.at_once(sql.CLAIM, now=now, until=now + lease_s, token=token, limit=limit)
        except Retry as retry:
            self.unwritable = _why(retry)
            raise
        rows = sorted(found, key=lambda r: (-r[4], r[5]))
        return [Lease(Key(r[0], r[1], r[2]), token, now + lease_s, r[3]) for r in rows]

    async def release(self, hand: str) -> int:
        inside = "".join("!" + c if c in "!%_" else c for c in hand) + "%"

        async def work(tx: Transaction) -> builtins.list[Row]:
            return await tx.all(sql.RELEASE_LEASES, inside=inside)

        released = len(await self._driver.write(work))
        if released:
            self._tell(await self.revision())
        return released

    async def sweep(self, *, changes_kept: int = 100_000, changes_kept_s: float = 7 * 86_400.0) -> None:
        now = self.clock.now()

        async def work(tx: Transaction) -> None:
            await tx.all(sql.DROP_EXPIRED, now=now)
            newest = (await tx.all(sql.REVISION))[0][0]
            await tx.all(sql.DROP_CHANGES, before=now - changes_kept_s, below=newest - changes_kept + 1)
            await tx.all(sql.SET_OLDEST)

        await self._driver.write(work)

    def on_commit(self, call: Callable[[int], None]) -> None:
        self._listeners.append(call)

    def _tell(self, revision: int) -> None:
        for call in self._listeners:
            call(revision)

    async def close(self) -> None:
        await self._driver.close()


def _pass_of(writes: Sequence[Write], now: float, by: str, request: str) -> Pass | None:
    """What the loop mostly commits, as one thing; None for all else."""
    match writes:
        case [Settle() as settle]:
            said = None
        case [SetStatus() as said, Settle() as settle] if _is_pass(said, settle):
            pass
        case _:
            return None
    due = None if settle.due_in_s is None else now + settle.due_in_s
    end = Pass(now, settle.lease.key, settle.lease.token, due, failures_after(settle), by, request)
    if said is None:
        return end
    labels = None if said.system_labels is None else text_of(dict(said.system_labels))
    return replace(
        end, generation=said.generation, status=text_of(said.status), system_labels=labels, wake=said.wake
    )  # fmt: skip


def _is_pass(said: SetStatus, settle: Settle) -> bool:
    return said.lease == settle.lease and said.key == settle.lease.key and said.revision is None


def _why(retry: Retry) -> str:
    return retry.message + (f": {retry.detail}" if retry.detail else "")


async def _touch(tx: Transaction) -> None:
    """A write that nobody reads: what takes it takes others too."""
    await tx.all(sql.TOUCH)
