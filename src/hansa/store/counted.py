"""Counted claims, in one transaction: amounts whose sum is kept beside its limit.

What is held of a (scope, key) is the sum over the rows of `claims`; the row in `ceilings` says the same without
adding them up, and is the lock that those who take wait for. Both change together, here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence

from hansa.errors import Bug, Full, Retry, Shortfall
from hansa.store import statements as sql
from hansa.store.driver import Transaction
from hansa.store.port import Claim, SetCeilings

TRIES = 3


async def take(tx: Transaction, owner: str, claims: Sequence[Claim]) -> None:
    """Makes the owner hold just these amounts, or raises Full with the figures of the first that does not fit.

    In order of scope and key, as everybody locks them.
    """
    mine = {(scope, key): amount for scope, key, amount in await tx.all(sql.CLAIMED_BY, owner=owner)}
    for claim in sorted(claims, key=lambda c: (c.scope, c.key)):
        if claim.until is not None or claim.ceiling is None or claim.amount < 0:
            raise Bug(f"{claim.scope} {claim.key}: a counted claim has a ceiling, no end, and is at least 0")
        held = mine.get((claim.scope, claim.key))
        if claim.amount == (held or 0):
            continue
        place = {"scope": claim.scope, "key": claim.key}
        await _count(tx, claim, claim.amount - (held or 0))
        if held is not None:
            await tx.all(sql.DROP_CLAIM, owner=owner, **place)
        if claim.amount:
            await tx.all(
                sql.INSERT_CLAIM, owner=owner, amount=claim.amount, single=0, until=None, note=claim.note, **place
            )


async def _count(tx: Transaction, claim: Claim, more: int) -> None:
    place = {"scope": claim.scope, "key": claim.key}
    for _ in range(TRIES):
        if await tx.all(sql.COUNT, more=more, otherwise=claim.ceiling, **place):
            return
        rows = await tx.all(sql.CEILING, **place)
        if rows:
            own, used = rows[0]
            limit = claim.ceiling if own is None else own
            said = f"{claim.scope} {claim.key}: {limit} at most, {used} in use, {more} asked"
            raise Full(claim.scope, claim.key, said, short=Shortfall(int(limit or 0), int(used), more))
        await tx.all(sql.INSERT_CEILING, **place)  # the first that is ever held of it
    raise Retry(f"{claim.scope} {claim.key}: its ceiling is being dropped by others all the time")


async def give_back(tx: Transaction, owner: str, scope: str = "", inside: str = "") -> None:
    """Before the owner's claims (of a scope and below, or all of them) are dropped."""
    for place, key, amount in await tx.all(sql.COUNTED_OF, owner=owner, prefix=scope, inside=inside):
        await tx.all(sql.COUNT, scope=place, key=key, more=-int(amount), otherwise=0)


async def set_ceilings(tx: Transaction, it: SetCeilings) -> None:
    await tx.all(sql.UNSET_CEILINGS, scope=it.scope)
    for key, ceiling in sorted(it.ceilings.items()):
        await tx.all(sql.SET_CEILING, scope=it.scope, key=key, ceiling=ceiling)
    await tx.all(sql.DROP_UNUSED_CEILINGS, scope=it.scope)
