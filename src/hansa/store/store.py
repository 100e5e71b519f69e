"""The port of the store, over a driver: what each write means, in statements.

A driver gives transactions one after the other (`write`) and reads beside them (`read`). Everything that
must hold together stands in one transaction here; nothing here knows which database it is.
"""

from __future__ import annotations

import builtins
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import orjson

from hansa.clock import Clock, Ids
from hansa.errors import AlreadyExists, Bug, Conflict, Full, Gone, HansaError, InUse, Invalid, NotFound, Retry
from hansa.kinds.resource import Key, Stored
from hansa.store import counted
from hansa.store import statements as sql
from hansa.store.locks import NOTHING, Needs, needs_of
from hansa.store.port import (
    UNLIMITED,
    Append,
    Backlog,
    Change,
    Claim,
    Count,
    Create,
    Delete,
    Due,
    Entry,
    Forget,
    Held,
    Lease,
    LinkTo,
    Page,
    Pair,
    Pointer,
    Query,
    Release,
    Reserve,
    SetCeilings,
    SetSecret,
    SetStatus,
    Settle,
    Update,
    Wake,
    Write,
)

T = TypeVar("T")
Row = Sequence[Any]
EVERYTHING = UNLIMITED
ONE_BY_ONE = 16  # single keys that are reserved one after the other; more go scope by scope


class Transaction(Protocol):
    async def all(self, statement: str, **parameters: Any) -> list[Row]: ...

    async def many(self, statement: str, rows: Sequence[dict[str, Any]]) -> None:
        """One statement for every row, without answers."""
        ...

    async def create(self, **row: Any) -> int | None:
        """The rows of a new object in `objects`, `changes` and `work`: its revision, None when the key is there."""
        ...


class Driver(Protocol):
    @property
    def skew_s(self) -> float:
        """Seconds to add to this process's clock for the time that all processes of the store agree on."""
        ...

    @property
    def alone(self) -> bool:
        """No other process writes to it, and this one's clock is the only one."""
        ...

    async def write(self, work: Callable[[Transaction], Awaitable[T]], needs: Needs = NOTHING) -> T:
        """Runs `work` in a transaction that nobody disturbs in what `needs` names; returns after it is durable.

        Raises what `work` raises (then nothing of it is kept), Retry when the database does not answer. `work` may
        run more than once, each time on a fresh transaction."""
        ...

    def listen(self, call: Callable[[int], None]) -> None:
        """`call(revision)` when others may have written, or when more of `changes` can be read than before."""
        ...

    async def read(self, statement: str, **parameters: Any) -> list[Row]: ...

    async def close(self) -> None: ...


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
        rows = await self._driver.read(sql.GET, **_key(key))
        if not rows:
            raise NotFound(f"there is no {key}")
        return _stored(rows[0])

    async def find(self, uid: str) -> Stored | None:
        rows = await self._driver.read(sql.FIND, uid=uid)
        return _stored(rows[0]) if rows else None

    async def list(self, query: Query) -> Page:
        if query.after and not query.after.isdigit():
            raise Invalid.field("continue", "must be one that a list gave out")
        asked = EVERYTHING if query.limit is None else query.limit + 1
        revision = await self.revision()  # before the rows: who watches from it misses nothing
        values: dict[str, Any] = {"scope": query.scope, "after": int(query.after or 0), "limit": asked}
        if query.kind is not None and not query.below:
            rows = await self._driver.read(sql.LIST_EXACT, kind=query.kind, **values)
        else:
            inside = _inside(query.scope)
            rows = await self._driver.read(
                sql.LIST, kind=query.kind or "", below=int(query.below), inside=inside, **values
            )
        more = query.limit is not None and len(rows) > query.limit
        rows = rows[: query.limit] if more else rows
        return Page([_stored(r) for r in rows], str(rows[-1][14]) if more else "", revision)

    async def changes(self, after: int, *, scope: str = "", limit: int = 500) -> builtins.list[Change]:
        rows = await self._driver.read(sql.CHANGES, after=after, scope=scope, inside=_inside(scope), limit=limit)
        if after + 1 < await self.oldest_change():  # after the rows: a sweep in between drops none unnoticed
            raise Gone(f"changes after {after} are no longer kept: list again and go on from there")
        return [_change(r) for r in rows]

    async def request_of(self, revision: int) -> str:
        rows = await self._driver.read(sql.REQUEST, revision=revision)
        return str(rows[0][0]) if rows else ""

    async def pointers_to(self, key: Key) -> builtins.list[Pointer]:
        return [_pointer(r) for r in await self._driver.read(sql.LINKS_TO, **_key(key))]

    async def pointers_from(self, key: Key) -> builtins.list[Pointer]:
        return [_pointer(r) for r in await self._driver.read(sql.LINKS_FROM, **_key(key))]

    async def claims(self, scope: str, *, below: bool = False) -> builtins.list[Held]:
        rows = await self._driver.read(
            sql.CLAIMS_IN, scope=scope, below=int(below), inside=_inside(scope), now=self.clock.now()
        )
        return [_held(r) for r in rows]

    async def claims_of(self, owner: str) -> builtins.list[Held]:
        return [_held(r) for r in await self._driver.read(sql.CLAIMS_OF, owner=owner, now=self.clock.now())]

    async def counts(self, scope: str) -> builtins.list[Count]:
        rows = await self._driver.read(sql.CEILINGS_IN, scope=scope)
        return [Count(key, held, ceiling) for key, ceiling, held in rows]

    async def record(self, stream: str, id: str) -> Entry | None:
        rows = await self._driver.read(sql.RECORD, stream=stream, id=id)
        return _entry(rows[0]) if rows else None

    async def pairs(
        self, first: str, second: str, *, about: str = "", alone: bool = False, since: float = 0.0,
        after: tuple[float, str] = (0.0, ""), limit: int = 100,
    ) -> builtins.list[Pair]:  # fmt: skip
        rows = await self._driver.read(
            sql.PAIRS, first=first, second=second, about=about, alone=int(alone), since=since, after_at=after[0],
            after_id=after[1], limit=limit,
        )  # fmt: skip
        return [Pair(_entry(r), None if r[6] is None else orjson.loads(r[6])) for r in rows]

    async def records(self, stream: str, *, about: str | None = None, limit: int = 50) -> builtins.list[Entry]:
        rows = await self._driver.read(sql.RECORDS, stream=stream, about=about or "", limit=limit)
        return [_entry(r) for r in rows]

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
        rows = await self._driver.read(sql.WORK, **_key(key))
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
        async def work(tx: Transaction) -> int:
            pen = _Pen(tx, self.clock.now(), by, request)
            for write in writes:
                await pen.write(write)
            return pen.revision

        started, outcome = time.perf_counter(), "ok"
        try:
            revision = await self._driver.write(work, needs_of(writes))
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

        async def work(tx: Transaction) -> builtins.list[Row]:
            return await tx.all(sql.CLAIM, now=now, until=now + lease_s, token=token, limit=limit)

        try:
            found = await self._driver.write(work)
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


def _why(retry: Retry) -> str:
    return retry.message + (f": {retry.detail}" if retry.detail else "")


async def _touch(tx: Transaction) -> None:
    """A write that nobody reads: what takes it takes others too."""
    await tx.all(sql.TOUCH)


class _Pen:
    """One transaction's writes, in the order given."""

    def __init__(self, tx: Transaction, now: float, by: str, request: str) -> None:
        self._tx, self._now, self._by, self._request = tx, now, by, request
        self.revision = 0

    async def write(self, write: Write) -> None:
        match write:
            case Create():
                await self._create(write)
            case Update():
                await self._update(write)
            case SetStatus():
                await self._set_status(write)
            case Delete():
                await self._delete(write)
            case Forget():
                await self._forget(write)
            case Reserve():
                if len(write.claims) > ONE_BY_ONE and all(c.ceiling is None for c in write.claims):
                    await self._reserve_keys(write.owner, write.claims)
                    return
                for claim in write.claims:
                    if not claim.counted:
                        await self._reserve(write.owner, claim)
                if amounts := [claim for claim in write.claims if claim.counted]:
                    await counted.take(self._tx, write.owner, amounts)
            case Release():
                await self._release(write)
            case SetCeilings():
                await counted.set_ceilings(self._tx, write)
            case Append():
                await self._tx.all(
                    sql.APPEND,
                    stream=write.stream,
                    id=write.id,
                    about=write.about,
                    at=self._now,
                    body=_json(write.body),
                )
            case SetSecret():
                place = {"uid": write.uid, "name": write.name, "sealed": write.sealed}
                if write.old is None:
                    await self._tx.all(sql.SET_SECRET, **place)
                else:
                    await self._tx.all(sql.RESEAL, old=write.old, **place)
            case Wake():
                await self._tx.all(sql.WAKE, at=self._now + write.in_s, **_key(write.key))
            case Settle():
                await self._settle(write)

    # -- objects ----------------------------------------------------------------------------

    async def _create(self, it: Create) -> None:
        for parent in it.parents:
            await self._must_be_there(parent)
        fresh = Stored(
            it.key, it.uid, self._now, observed=it.observed, labels=dict(it.labels),
            system_labels=dict(it.system_labels), spec=it.spec, status=it.status,
        )  # fmt: skip
        texts = _texts(fresh)
        revision = await self._tx.create(
            at=self._now, uid=it.uid, by=self._by, request=self._request, body=_body(fresh, texts),
            observed=it.observed, due=self._now if it.due else None, **texts, **_key(it.key),
        )  # fmt: skip
        if revision is None:
            rows = await self._tx.all(sql.STATE, **_key(it.key))
            state = "is still being deleted" if rows and rows[0][1] is not None else "exists already"
            raise AlreadyExists(f"AlreadyExists: {it.key} {state}")
        self.revision = revision
        if it.links:
            await self._link(it.key, it.uid, it.links)
            await self._wake_linked(it.key)

    async def _must_be_there(self, key: Key) -> None:
        rows = await self._tx.all(sql.STATE, **_key(key))
        if not rows:
            raise NotFound(f"there is no {key}")
        if rows[0][1] is not None:
            raise Conflict(f"{key} is being deleted")

    async def _link(self, key: Key, uid: str, links: Iterable[LinkTo]) -> None:
        for link in links:
            if link.target == key:
                continue
            if not link.free:
                rows = await self._tx.all(sql.STATE, **_key(link.target))
                if not rows or rows[0][1] is not None:
                    state = "is being deleted" if rows else "does not exist"
                    raise Invalid.field(link.path, f"{link.target} {state}")
            target = link.target
            await self._tx.all(
                sql.INSERT_LINK, uid=uid, path=link.path, holds=int(link.holds),
                target_kind=target.kind, target_scope=target.scope, target_name=target.name, **_key(key),
            )  # fmt: skip

    async def _update(self, it: Update) -> None:
        old = await self._now_of(it.key)
        if old.deleted_at is not None:
            raise Conflict(f"{it.key} is being deleted")
        if old.user_revision != it.user_revision:
            raise Conflict(f"{it.key} was changed meanwhile")
        spec = old.spec if it.spec is None else it.spec
        labels = old.labels if it.labels is None else dict(it.labels)
        if spec == old.spec and labels == old.labels:
            return
        generation = old.generation + (spec != old.spec)
        observed = old.observed if it.observed is None else generation
        fresh = Stored(
            it.key,
            old.uid,
            old.created_at,
            generation,
            0,
            0,
            observed,
            None,
            labels,
            old.system_labels,
            spec,
            old.status,
        )
        texts = _texts(fresh)
        revision = await self._change(fresh, "update", texts)
        await self._tx.all(
            sql.UPDATE_OBJECT, spec=texts["spec"], labels=texts["labels"], generation=generation, observed=observed,
            revision=revision, **_key(it.key),
        )  # fmt: skip
        if spec == old.spec:
            return
        await self._wake_linked(it.key)
        await self._tx.all(sql.FORGET_LINKS, **_key(it.key))
        await self._link(it.key, old.uid, it.links)
        await self._wake_linked(it.key)
        await self._tx.all(sql.WAKE, at=self._now, **_key(it.key))

    async def _set_status(self, it: SetStatus) -> None:
        if it.lease is not None:
            await self._must_hold(it.lease)
        old = await self._now_of(it.key)
        if old.generation != it.generation:
            raise Conflict(f"{it.key} has generation {old.generation}, not {it.generation} any more")
        if it.revision not in (None, old.revision):
            raise Conflict(f"{it.key} was changed meanwhile")
        labels = old.system_labels if it.system_labels is None else dict(it.system_labels)
        if old.status != it.status or old.observed != it.generation or labels != old.system_labels:
            fresh = Stored(
                it.key, old.uid, old.created_at, old.generation, 0, old.user_revision, it.generation, old.deleted_at,
                old.labels, labels, old.spec, it.status,
            )  # fmt: skip
            texts = _texts(fresh)
            revision = await self._change(fresh, "status", texts)
            await self._tx.all(
                sql.SET_STATUS, status=texts["status"], system_labels=texts["system_labels"],
                generation=it.generation, revision=revision, **_key(it.key),
            )  # fmt: skip
        if it.wake:
            await self._wake_linked(it.key)

    async def _delete(self, it: Delete) -> None:
        old = await self._now_of(it.key)
        if it.uid is not None and old.uid != it.uid:
            raise NotFound(f"there is no {it.key} with the uid {it.uid}")
        if old.deleted_at is not None:
            return
        if not it.force and (holders := await self._tx.all(sql.HOLDERS, **_key(it.key))):
            names = ", ".join(f"{kind} {name}" for kind, name in holders[:3]) + (
                " and more" if len(holders) > 3 else ""
            )
            raise InUse(f"InUse: {it.key} is used by {names}")
        fresh = Stored(
            it.key, old.uid, old.created_at, old.generation, 0, 0, old.observed, self._now, old.labels,
            old.system_labels, old.spec, old.status,
        )  # fmt: skip
        revision = await self._change(fresh, "delete", _texts(fresh))
        await self._tx.all(sql.MARK_DELETED, at=self._now, revision=revision, **_key(it.key))
        await self._tx.all(sql.WAKE_GOING, at=self._now, **_key(it.key))
        await self._wake_linked(it.key)

    async def _forget(self, it: Forget) -> None:
        if it.lease is not None:
            await self._must_hold(it.lease)
        old = await self._now_of(it.key)
        await self._change(old, "forget", None)
        await self._wake_linked(it.key)
        for statement in (sql.FORGET_OBJECT, sql.FORGET_LINKS, sql.FORGET_WORK):
            await self._tx.all(statement, **_key(it.key))
        await counted.give_back(self._tx, old.uid)
        await self._tx.all(sql.RELEASE_ALL, owner=old.uid)
        await self._tx.all(sql.FORGET_SECRETS, uid=old.uid)

    async def _now_of(self, key: Key) -> Stored:
        rows = await self._tx.all(sql.GET, **_key(key))
        if not rows:
            raise NotFound(f"there is no {key}")
        return _stored(rows[0])

    async def _must_hold(self, lease: Lease) -> None:
        if not await self._tx.all(sql.HOLDS_LEASE, token=lease.token, **_key(lease.key)):
            raise Conflict(f"the lease on {lease.key} is in another hand")

    async def _change(self, it: Stored, act: str, texts: dict[str, str] | None) -> int:
        body = None if texts is None else _body(it, texts)
        rows = await self._tx.all(
            sql.INSERT_CHANGE, at=self._now, uid=it.uid, act=act, by=self._by, request=self._request, body=body,
            **_key(it.key),
        )  # fmt: skip
        self.revision = int(rows[0][0])
        return self.revision

    # -- work -------------------------------------------------------------------------------

    async def _wake_linked(self, key: Key) -> None:
        await self._tx.all(sql.WAKE_LINKED, at=self._now, **_key(key))

    async def _settle(self, it: Settle) -> None:
        due = None if it.due_in_s is None else self._now + it.due_in_s
        failures = it.lease.failures + 1 if it.failed else 0
        await self._tx.all(sql.SETTLE, token=it.lease.token, due=due, failures=failures, **_key(it.lease.key))

    # -- claims -----------------------------------------------------------------------------

    async def _reserve(self, owner: str, claim: Claim) -> None:
        place = {"scope": claim.scope, "key": claim.key}
        held = 0
        for other, amount, single, until in await self._tx.all(sql.CLAIM_HOLDERS, **place):
            expired = until is not None and until <= self._now
            if other == owner or expired:
                await self._tx.all(sql.DROP_CLAIM, owner=other, **place)
            elif claim.ceiling is None:
                raise Full(claim.scope, claim.key, owner=other)
            elif single:
                raise Bug(f"{claim.scope} {claim.key} is claimed as one key and as an amount")
            else:
                held += amount
        # Nobody else reserves of this (scope, key) meanwhile: see `hansa.store.locks`.
        if claim.ceiling is not None and held + claim.amount > claim.ceiling:
            raise Full(
                claim.scope, claim.key,
                f"{claim.scope} {claim.key}: {claim.ceiling} at most, {held} in use, {claim.amount} asked",
            )  # fmt: skip
        await self._tx.all(
            sql.INSERT_CLAIM, owner=owner, amount=claim.amount, single=int(claim.ceiling is None), until=claim.until,
            note=claim.note, **place,
        )  # fmt: skip

    async def _reserve_keys(self, owner: str, claims: Sequence[Claim]) -> None:
        """The same for many single keys: a network sets aside hundreds of addresses at once."""
        for scope in sorted({c.scope for c in claims}):
            wanted = {c.key: c for c in claims if c.scope == scope}
            for key, other, until in await self._tx.all(sql.SCOPE_HOLDERS, scope=scope):
                if key in wanted and (other == owner or (until is not None and until <= self._now)):
                    await self._tx.all(sql.DROP_CLAIM, owner=other, scope=scope, key=key)
                elif key in wanted:
                    raise Full(scope, key, owner=other)
            rows = [
                {"scope": scope, "key": c.key, "owner": owner, "amount": c.amount, "single": 1, "until": c.until, "note": c.note}
                for c in wanted.values()
            ]  # fmt: skip
            await self._tx.many(sql.INSERT_CLAIM, rows)

    async def _release(self, it: Release) -> None:
        if not it.scopes:
            await counted.give_back(self._tx, it.owner)
            await self._tx.all(sql.RELEASE_ALL, owner=it.owner)
        for scope in it.scopes:
            await counted.give_back(self._tx, it.owner, scope, _inside(scope))
            await self._tx.all(sql.RELEASE, owner=it.owner, scope=scope, inside=_inside(scope))


# -- rows ---------------------------------------------------------------------------------------


def _key(key: Key) -> dict[str, str]:
    return {"kind": key.kind, "scope": key.scope, "name": key.name}


def _inside(scope: str) -> str:
    """A LIKE pattern for every scope below this one; names hold no `!` but `_` is a wildcard."""
    escaped = scope.replace("!", "!!").replace("%", "!%").replace("_", "!_")
    return f"{escaped}/%"


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


def _texts(it: Stored) -> dict[str, str]:
    return {
        "labels": _json(it.labels), "system_labels": _json(it.system_labels),
        "spec": _json(it.spec), "status": _json(it.status),
    }  # fmt: skip


def _body(it: Stored, texts: dict[str, str]) -> str:
    """The object as one JSON text, from parts that are JSON already."""
    head = _json({
        "created_at": it.created_at, "generation": it.generation, "user_revision": it.user_revision,
        "observed": it.observed, "deleted_at": it.deleted_at,
    })  # fmt: skip
    return head[:-1] + "".join(f',"{name}":{text}' for name, text in texts.items()) + "}"


def _stored(row: Row) -> Stored:
    return Stored(
        Key(row[0], row[1], row[2]), row[3], row[4], row[5], row[6], row[7], row[8], row[9],
        orjson.loads(row[10]), orjson.loads(row[11]), orjson.loads(row[12]), orjson.loads(row[13]),
    )  # fmt: skip


def _change(row: Row) -> Change:
    revision, at, kind, scope, name, uid, act, by, request, body = row
    key = Key(kind, scope, name)
    stored = None
    if body is not None:
        stored = Stored(key, uid, revision=revision, **orjson.loads(body))
    return Change(revision, at, key, uid, act, by, request, stored)


def _entry(row: Row) -> Entry:
    return Entry(row[0], row[1], row[2], row[3], orjson.loads(row[4]))


def _pointer(row: Row) -> Pointer:
    return Pointer(Key(row[0], row[1], row[2]), row[3], Key(row[4], row[5], row[6]), row[7], bool(row[8]))


def _held(row: Row) -> Held:
    scope, key, owner, amount, single, until, note = row
    return Held(owner, Claim(scope, key, amount, None if single else EVERYTHING, until, note))
