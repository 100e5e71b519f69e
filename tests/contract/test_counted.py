"""What every store promises of counted claims: the sum is that of the claims, the limit is the one of the commit."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from hansa.errors import Bug, Full, HansaError
from hansa.kinds.resource import Key
from hansa.store.port import UNLIMITED, Append, Claim, Create, Forget, Release, Reserve, SetCeilings
from hansa.store.store import SqlStore

from .test_store import SCOPE, store

pytestmark = pytest.mark.anyio
assert store  # the fixture, in the form of every store


def some(amount: int, *, scope: str = "quotas/p", key: str = "disks", otherwise: int = UNLIMITED) -> Claim:
    return Claim(scope, key, amount, ceiling=otherwise, counted=True)


async def held(store: SqlStore, scope: str = "quotas/p") -> dict[str, int]:
    """What the claims say, after making sure that the sums say the same."""
    claims: Counter[str] = Counter()
    for h in await store.claims(scope):
        claims[h.claim.key] += h.claim.amount
    assert {c.key: c.held for c in await store.counts(scope) if c.held} == dict(claims)
    return dict(claims)


async def test_an_amount_is_taken_changed_and_given_back_with_its_owner(store: SqlStore) -> None:
    await store.commit(Create(Key("Disk", SCOPE, "a"), "u1", {}), Reserve("u1", (some(3), some(10, key="bytes"))))
    assert await held(store) == {"disks": 3, "bytes": 10}
    await store.commit(Reserve("u1", (some(5),)))
    await store.commit(Reserve("u1", (some(5),)))
    assert await held(store) == {"disks": 5, "bytes": 10}
    await store.commit(Reserve("u1", (some(0, key="bytes"),)))
    assert await held(store) == {"disks": 5} and len(await store.claims_of("u1")) == 1
    await store.commit(Reserve("u2", (some(1),)))
    await store.commit(Release("u2", ("uses",)))
    assert await held(store) == {"disks": 6}
    await store.commit(Release("u2"))
    await store.commit(Forget(Key("Disk", SCOPE, "a"), None))
    assert await held(store) == {}


async def test_amounts_are_bytes_of_many_terabytes(store: SqlStore) -> None:
    most = 600 * 10**15
    await store.commit(SetCeilings("quotas/p", {"bytes": most}))
    await store.commit(Reserve("u1", (some(most - 5, key="bytes"),)))
    with pytest.raises(Full):
        await store.commit(Reserve("u2", (some(10**12, key="bytes"),)))
    await store.commit(Reserve("u1", (some(10**10, key="bytes"),)))
    await store.commit(Reserve("u2", (some(10**12, key="bytes", otherwise=10**11),)))
    assert await held(store) == {"bytes": 10**10 + 10**12}


async def test_a_refusal_has_its_figures_and_keeps_nothing(store: SqlStore) -> None:
    await store.commit(SetCeilings("quotas/p", {"disks": 4}), Reserve("u1", (some(3),)))
    with pytest.raises(Full) as raised:
        await store.commit(Reserve("u2", (some(7, key="bytes"), some(2))))
    short = raised.value.short
    assert short is not None and (short.limit, short.used, short.asked) == (4, 3, 2)
    with pytest.raises(Full) as raised:
        await store.commit(Reserve("u1", (some(5),)))
    assert raised.value.short is not None and raised.value.short.asked == 2
    assert await held(store) == {"disks": 3}
    await store.commit(Reserve("u2", (some(1),)))


async def test_a_limit_that_was_set_goes_before_the_one_that_is_brought_along(store: SqlStore) -> None:
    with pytest.raises(Full):
        await store.commit(Reserve("u1", (some(3, otherwise=2),)))
    await store.commit(SetCeilings("quotas/p", {"disks": 3, "other": 1}))
    await store.commit(Reserve("u1", (some(3, otherwise=2),)))
    await store.commit(SetCeilings("quotas/p", {"disks": 1}))
    assert [(c.key, c.held, c.ceiling) for c in await store.counts("quotas/p")] == [("disks", 3, 1)]
    with pytest.raises(Full):
        await store.commit(Reserve("u2", (some(1),)))
    await store.commit(Reserve("u1", (some(2),)))  # less always fits
    await store.commit(SetCeilings("quotas/p", {}))
    await store.commit(Reserve("u2", (some(9),)))
    await store.commit(Release("u1"), Release("u2"))
    await store.commit(SetCeilings("quotas/p", {}))
    assert await store.counts("quotas/p") == []


async def test_a_counted_claim_without_a_ceiling_or_with_an_end_is_a_bug(store: SqlStore) -> None:
    for claim in (Claim("s", "k", 1, counted=True), Claim("s", "k", 1, ceiling=1, until=5.0, counted=True), some(-1)):
        with pytest.raises(Bug):
            await store.commit(Reserve("u", (claim,)))


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_happens_the_sum_is_that_of_the_claims(store: SqlStore, seed: int) -> None:
    chance, owners = random.Random(seed), [f"u{n}" for n in range(6)]
    scopes, ceilings = ["quotas/o", "quotas/p"], {}
    wanted: dict[tuple[str, str], dict[str, int]] = {}
    for _ in range(80):
        owner, key = chance.choice(owners), chance.choice(["disks", "bytes"])
        match chance.randrange(10):
            case 0:
                scope, ceilings_now = chance.choice(scopes), {key: chance.randrange(20)}
                await store.commit(SetCeilings(scope, ceilings_now))
                ceilings[scope] = ceilings_now
            case 1:
                await store.commit(Release(owner))
                for amounts in wanted.values():
                    amounts.pop(owner, None)
            case 2:
                await store.commit(Release(owner, ("quotas/p",)))
                for (scope, _), amounts in wanted.items():
                    if scope == "quotas/p":
                        amounts.pop(owner, None)
            case _:
                amount = chance.randrange(8)
                before = {scope: wanted.setdefault((scope, key), {}) for scope in scopes}
                try:
                    await store.commit(Reserve(owner, tuple(some(amount, scope=s, key=key) for s in reversed(scopes))))
                except Full as full:
                    rest = sum(n for o, n in before[full.scope].items() if o != owner)
                    assert amount + rest > ceilings[full.scope][key] and amount > before[full.scope].get(owner, 0)
                    continue
                for amounts in before.values():
                    amounts[owner] = amount
        for scope in scopes:
            expected = {k: sum(a.values()) for (s, k), a in wanted.items() if s == scope}
            assert await held(store, scope) == {k: n for k, n in expected.items() if n}


async def test_many_takers_at_once_share_what_there_is(store: SqlStore) -> None:
    await store.commit(SetCeilings("quotas/p", {"disks": 10}))

    async def take(number: int) -> bool:
        try:
            await store.commit(
                Create(Key("Disk", SCOPE, f"d{number}"), f"u{number}", {}), Reserve(f"u{number}", (some(1),))
            )
        except HansaError:
            return False
        return True

    assert sum(await asyncio.gather(*(take(n) for n in range(64)))) == 10
    assert await held(store) == {"disks": 10}


async def test_two_streams_are_read_in_pairs_in_order_and_in_pages(store: SqlStore) -> None:
    for n in range(7):
        await store.commit(Append("open", f"i{n}", f"u{n % 2}", {"n": n}))
    for n in (1, 2, 5):
        await store.commit(Append("close", f"i{n}", f"u{n % 2}", {"end": n}))
    seen, after = [], (0.0, "")
    while page := await store.pairs("open", "close", after=after, limit=3):
        seen += [(p.first.id, p.second) for p in page]
        after = (page[-1].first.at, page[-1].first.id)
    assert seen == [(f"i{n}", {"end": n} if n in (1, 2, 5) else None) for n in range(7)]
    assert [p.first.id for p in await store.pairs("open", "close", alone=True)] == ["i0", "i3", "i4", "i6"]
    assert [p.first.id for p in await store.pairs("open", "close", about="u1")] == ["i1", "i3", "i5"]
    assert len(await store.pairs("open", "close", since=1001.0)) == 4
    entry = await store.record("close", "i2")
    assert entry is not None and entry.body == {"end": 2} and await store.record("close", "i3") is None
