"""What each write means, in statements: one transaction's writes, in the order given.

Everything that must hold together stands in one transaction; nothing here knows which database it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hansa.errors import AlreadyExists, Bug, Conflict, Full, InUse, Invalid, NotFound
from hansa.kinds.resource import Key, Stored
from hansa.store import counted
from hansa.store import statements as sql
from hansa.store.driver import Transaction
from hansa.store.port import (
    Append,
    Claim,
    Create,
    Delete,
    Forget,
    Lease,
    LinkTo,
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
from hansa.store.rows import body_of, key_columns, pattern_below, stored_of, text_of, texts_of

ONE_BY_ONE = 16  # single keys that are reserved one after the other; more go scope by scope


class Pen:
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
                    body=text_of(write.body),
                )
            case SetSecret():
                place = {"uid": write.uid, "name": write.name, "sealed": write.sealed}
                if write.old is None:
                    await self._tx.all(sql.SET_SECRET, **place)
                else:
                    await self._tx.all(sql.RESEAL, old=write.old, **place)
            case Wake():
                await self._tx.all(sql.WAKE, at=self._now + write.in_s, **key_columns(write.key))
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
        texts = texts_of(fresh)
        revision = await self._tx.create(
            at=self._now, uid=it.uid, by=self._by, request=self._request, body=body_of(fresh, texts),
            observed=it.observed, due=self._now if it.due else None, **texts, **key_columns(it.key),
        )  # fmt: skip
        if revision is None:
            rows = await self._tx.all(sql.STATE, **key_columns(it.key))
            state = "is still being deleted" if rows and rows[0][1] is not None else "exists already"
            raise AlreadyExists(f"AlreadyExists: {it.key} {state}")
        self.revision = revision
        if it.links:
            await self._link(it.key, it.uid, it.links)
            await self._wake_linked(it.key)

    async def _must_be_there(self, key: Key) -> None:
        rows = await self._tx.all(sql.STATE, **key_columns(key))
        if not rows:
            raise NotFound(f"there is no {key}")
        if rows[0][1] is not None:
            raise Conflict(f"{key} is being deleted")

    async def _link(self, key: Key, uid: str, links: Iterable[LinkTo]) -> None:
        for link in links:
            if link.target == key:
                continue
            if not link.free:
                rows = await self._tx.all(sql.STATE, **key_columns(link.target))
                if not rows or rows[0][1] is not None:
                    state = "is being deleted" if rows else "does not exist"
                    raise Invalid.field(link.path, f"{link.target} {state}")
            target = link.target
            await self._tx.all(
                sql.INSERT_LINK, uid=uid, path=link.path, holds=int(link.holds),
                target_kind=target.kind, target_scope=target.scope, target_name=target.name, **key_columns(key),
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
        texts = texts_of(fresh)
        revision = await self._change(fresh, "update", texts)
        await self._tx.all(
            sql.UPDATE_OBJECT, spec=texts["spec"], labels=texts["labels"], generation=generation, observed=observed,
            revision=revision, **key_columns(it.key),
        )  # fmt: skip
        if spec == old.spec:
            return
        await self._wake_linked(it.key)
        await self._tx.all(sql.FORGET_LINKS, **key_columns(it.key))
        await self._link(it.key, old.uid, it.links)
        await self._wake_linked(it.key)
        await self._tx.all(sql.WAKE, at=self._now, **key_columns(it.key))

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
            texts = texts_of(fresh)
            revision = await self._change(fresh, "status", texts)
            await self._tx.all(
                sql.SET_STATUS, status=texts["status"], system_labels=texts["system_labels"],
                generation=it.generation, revision=revision, **key_columns(it.key),
            )  # fmt: skip
        if it.wake:
            await self._wake_linked(it.key)

    async def _delete(self, it: Delete) -> None:
        old = await self._now_of(it.key)
        if it.uid is not None and old.uid != it.uid:
            raise NotFound(f"there is no {it.key} with the uid {it.uid}")
        if old.deleted_at is not None:
            return
        if not it.force and (holders := await self._tx.all(sql.HOLDERS, **key_columns(it.key))):
            names = ", ".join(f"{kind} {name}" for kind, name in holders[:3]) + (
                " and more" if len(holders) > 3 else ""
            )
            raise InUse(f"InUse: {it.key} is used by {names}")
        fresh = Stored(
            it.key, old.uid, old.created_at, old.generation, 0, 0, old.observed, self._now, old.labels,
            old.system_labels, old.spec, old.status,
        )  # fmt: skip
        revision = await self._change(fresh, "delete", texts_of(fresh))
        await self._tx.all(sql.MARK_DELETED, at=self._now, revision=revision, **key_columns(it.key))
        await self._tx.all(sql.WAKE_GOING, at=self._now, **key_columns(it.key))
        await self._wake_linked(it.key)

    async def _forget(self, it: Forget) -> None:
        if it.lease is not None:
            await self._must_hold(it.lease)
        old = await self._now_of(it.key)
        await self._change(old, "forget", None)
        await self._wake_linked(it.key)
        for statement in (sql.FORGET_OBJECT, sql.FORGET_LINKS, sql.FORGET_WORK):
            await self._tx.all(statement, **key_columns(it.key))
        await counted.give_back(self._tx, old.uid)
        await self._tx.all(sql.RELEASE_ALL, owner=old.uid)
        await self._tx.all(sql.FORGET_SECRETS, uid=old.uid)

    async def _now_of(self, key: Key) -> Stored:
        rows = await self._tx.all(sql.GET, **key_columns(key))
        if not rows:
            raise NotFound(f"there is no {key}")
        return stored_of(rows[0])

    async def _must_hold(self, lease: Lease) -> None:
        if not await self._tx.all(sql.HOLDS_LEASE, token=lease.token, **key_columns(lease.key)):
            raise Conflict(f"the lease on {lease.key} is in another hand")

    async def _change(self, it: Stored, act: str, texts: dict[str, str] | None) -> int:
        body = None if texts is None else body_of(it, texts)
        rows = await self._tx.all(
            sql.INSERT_CHANGE, at=self._now, uid=it.uid, act=act, by=self._by, request=self._request, body=body,
            **key_columns(it.key),
        )  # fmt: skip
        self.revision = int(rows[0][0])
        return self.revision

    # -- work -------------------------------------------------------------------------------

    async def _wake_linked(self, key: Key) -> None:
        await self._tx.all(sql.WAKE_LINKED, at=self._now, **key_columns(key))

    async def _settle(self, it: Settle) -> None:
        due = None if it.due_in_s is None else self._now + it.due_in_s
        await self._tx.all(
            sql.SETTLE, token=it.lease.token, due=due, failures=failures_after(it), **key_columns(it.lease.key)
        )

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
            await counted.give_back(self._tx, it.owner, scope, pattern_below(scope))
            await self._tx.all(sql.RELEASE, owner=it.owner, scope=scope, inside=pattern_below(scope))


def failures_after(settle: Settle) -> int:
    """The count of failures with which a key is given back."""
    return settle.lease.failures + 1 if settle.failed else 0
