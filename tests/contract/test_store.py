"""What every store promises, whatever database is behind it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hansa.clock import SystemClock, SystemIds
from hansa.errors import AlreadyExists, Conflict, Full, Gone, InUse, Invalid, NotFound
from hansa.kinds import catalogue
from hansa.kinds.resource import Key
from hansa.store.migrate import NewerDatabase
from hansa.store.open import open_store
from hansa.store.port import (
    Append,
    Claim,
    Create,
    Delete,
    Forget,
    LinkTo,
    Query,
    Release,
    Reserve,
    SetSecret,
    SetStatus,
    Settle,
    Update,
    Wake,
)
from hansa.store.sqlite import open_sqlite
from hansa.store.store import SqlStore, StoreClock

from ..postgres import server

assert catalogue.MODULES
pytestmark = pytest.mark.anyio
SCOPE = "projects/p/regions/r"


def key(name: str, kind: str = "Disk", scope: str = SCOPE) -> Key:
    return Key(kind, scope, name)


class Time:
    def __init__(self) -> None:
        self.at = 1000.0

    def now(self) -> float:
        return self.at


@pytest.fixture(params=["file", "inline", "postgresql"])
async def store(request: Any, tmp_path: Path) -> AsyncIterator[SqlStore]:
    if request.param == "postgresql":
        url = await server().empty()
        made = await open_store(url, clock=Time(), ids=SystemIds(), follow_clock=False)
        yield made
        await made.close()
        await server().drop(url)
        return
    inline = request.param == "inline"
    made = await open_store(":memory:" if inline else tmp_path / "x.db", clock=Time(), ids=SystemIds(), inline=inline)
    yield made
    await made.close()


def clock_of(store: SqlStore) -> Time:
    assert isinstance(store.clock, StoreClock) and isinstance(store.clock.given, Time)
    return store.clock.given


async def test_what_was_committed_is_read_at_once(store: SqlStore) -> None:
    revision = await store.commit(Create(key("a"), "u1", {"x": [1, {"y": None}]}, labels={"k": "v"}), by="me")
    found = await store.get(key("a"))
    assert (found.uid, found.spec, found.labels, found.revision) == (
        "u1",
        {"x": [1, {"y": None}]},
        {"k": "v"},
        revision,
    )
    assert (await store.find("u1")) == found
    assert [c.act for c in await store.changes(0)] == ["create"]


async def test_a_commit_is_all_or_nothing(store: SqlStore) -> None:
    await store.commit(Create(key("a"), "u1", {}))
    with pytest.raises(AlreadyExists):
        await store.commit(Create(key("b"), "u2", {}), Create(key("a"), "u3", {}))
    with pytest.raises(NotFound):
        await store.get(key("b"))
    assert len(await store.changes(0)) == 1


async def test_a_missing_target_refuses_the_write_and_a_free_one_does_not(store: SqlStore) -> None:
    link = LinkTo(key("target"), "spec.ref", holds=True, free=False)
    with pytest.raises(Invalid) as raised:
        await store.commit(Create(key("a"), "u1", {}, links=(link,)))
    assert raised.value.fields[0].path == "spec.ref"
    await store.commit(Create(key("a"), "u1", {}, links=(LinkTo(key("target"), "spec.ref", holds=False, free=True),)))
    assert [p.source for p in await store.pointers_to(key("target"))] == [key("a")]


async def test_a_held_target_cannot_be_deleted_until_its_holder_goes(store: SqlStore) -> None:
    await store.commit(Create(key("t"), "u1", {}))
    await store.commit(Create(key("h"), "u2", {}, links=(LinkTo(key("t"), "spec.ref", holds=True, free=False),)))
    with pytest.raises(InUse, match="h"):
        await store.commit(Delete(key("t")))
    await store.commit(Delete(key("h")))
    await store.commit(Delete(key("t")))
    assert (await store.get(key("t"))).deleted_at is not None


async def test_a_users_write_is_refused_only_by_a_users_write(store: SqlStore) -> None:
    await store.commit(Create(key("a"), "u1", {"n": 1}))
    first = await store.get(key("a"))
    await store.commit(SetStatus(key("a"), 1, {"s": 1}, None))
    await store.commit(Update(key("a"), first.user_revision, spec={"n": 2}))
    with pytest.raises(Conflict):
        await store.commit(Update(key("a"), first.user_revision, spec={"n": 3}))
    found = await store.get(key("a"))
    assert (found.generation, found.observed, found.spec) == (2, 1, {"n": 2})


async def test_a_write_that_changes_nothing_writes_nothing(store: SqlStore) -> None:
    await store.commit(Create(key("a"), "u1", {"n": 1}, status={"s": 1}, observed=1))
    before = await store.get(key("a"))
    await store.commit(Update(key("a"), before.user_revision, spec={"n": 1}), SetStatus(key("a"), 1, {"s": 1}, None))
    assert await store.get(key("a")) == before


async def test_one_key_is_in_one_hand_and_a_stale_one_is_refused(store: SqlStore) -> None:
    await store.commit(Create(key("a"), "u1", {}))
    (lease,) = await store.claim(10, 60)
    assert await store.claim(10, 60) == []
    clock_of(store).at += 61
    (second,) = await store.claim(10, 60)
    with pytest.raises(Conflict):
        await store.commit(SetStatus(key("a"), 1, {"s": 1}, lease))
    await store.commit(SetStatus(key("a"), 1, {"s": 2}, second), Settle(second, None))
    await store.commit(Settle(lease, 0.0))  # a lost lease has no say
    assert (await store.due(key("a"))).due_at is None  # type: ignore[union-attr]


# What the loop mostly commits, a status and the key given back, may go another way than all else: with a record beside
# it, it does not.
BESIDE = {"alone": (), "with a record": (Append("beside", "1", "u1", {}),)}


@pytest.mark.parametrize("beside", BESIDE)
async def test_the_end_of_a_pass_is_a_change_like_any_other(store: SqlStore, beside: str) -> None:
    await store.commit(Create(key("a"), "u1", {"n": 1, "ö": [None, 1.5]}, status={"s": 0}, labels={"a": "b"}))
    (lease,) = await store.claim(1, 60)
    clock_of(store).at += 0.125
    said = SetStatus(key("a"), 1, {"s": 1, "t": 'x"\u0000'}, lease, system_labels={"c": "d"})
    revision = await store.commit(said, *BESIDE[beside], Settle(lease, 5.0, failed=True), by="me", request="r")
    found, change = await store.get(key("a")), (await store.changes(0))[-1]
    assert (found.status, found.observed, found.revision) == ({"s": 1, "t": 'x"\u0000'}, 1, revision)
    assert (found.labels, found.system_labels, found.generation, found.user_revision) == (
        {"a": "b"}, {"c": "d"}, 1, revision - 1)  # fmt: skip
    assert change.stored == replace(found, revision=revision) and (change.act, change.by, change.request) == (
        "status",
        "me",
        "r",
    )
    assert (change.revision, change.at, change.uid) == (revision, clock_of(store).at, "u1")
    due = await store.due(key("a"))
    assert due is not None and (due.due_at, due.leased_until, due.failures) == (clock_of(store).at + 5.0, 0, 1)


@pytest.mark.parametrize("beside", BESIDE)
async def test_a_pass_that_says_nothing_new_only_gives_its_key_back(store: SqlStore, beside: str) -> None:
    await store.commit(Create(key("a"), "u1", {}, status={"s": 0}, observed=1))
    before = await store.get(key("a"))
    (lease,) = await store.claim(1, 60)
    await store.commit(SetStatus(key("a"), 1, {"s": 0}, lease), *BESIDE[beside], Settle(lease, None))
    assert await store.get(key("a")) == before and len(await store.changes(0)) == 1
    assert (await store.due(key("a"))).due_at is None  # type: ignore[union-attr]


@pytest.mark.parametrize("beside", BESIDE)
async def test_a_pass_that_is_refused_writes_nothing_and_keeps_its_key(store: SqlStore, beside: str) -> None:
    await store.commit(Create(key("a"), "u1", {"n": 1}), Create(key("b"), "u2", {}))
    lease, other = sorted(await store.claim(2, 60), key=lambda x: x.key)
    await store.commit(Update(key("a"), (await store.get(key("a"))).user_revision, spec={"n": 2}))
    before = len(await store.changes(0))
    for wrong in (lease, replace(lease, token="not-mine"), replace(lease, key=key("c"))):
        with pytest.raises(Conflict):
            await store.commit(SetStatus(wrong.key, 1, {"s": 9}, wrong), *BESIDE[beside], Settle(wrong, None))
    assert len(await store.changes(0)) == before and await store.records("beside") == []
    assert (await store.due(key("a"))).leased_until > clock_of(store).at  # type: ignore[union-attr]
    await store.commit(SetStatus(key("b"), 1, {"s": 1}, other), *BESIDE[beside], Settle(other, None))


async def test_of_many_passes_that_end_at_once_each_stands_or_falls_alone(store: SqlStore) -> None:
    await store.commit(*(Create(key(f"d{n}"), f"u{n}", {}) for n in range(100)))
    leases = sorted(await store.claim(100, 60), key=lambda x: x.key)
    leases[7] = replace(leases[7], token="lost")
    ends = [store.commit(SetStatus(x.key, 1 + (n == 9), {"n": n}, x), Settle(x, None)) for n, x in enumerate(leases)]
    said = await asyncio.gather(*ends, return_exceptions=True)
    assert [n for n, it in enumerate(said) if isinstance(it, Conflict)] == [7, 9]
    assert len({it for it in said if isinstance(it, int)}) == 98
    for n, lease in enumerate(leases):
        assert (await store.get(lease.key)).status == ({} if n in (7, 9) else {"n": n})
    assert (await store.backlog()).leased == 2


@pytest.mark.parametrize("beside", BESIDE)
async def test_neighbours_whose_passes_end_together_wake_one_another(store: SqlStore, beside: str) -> None:
    link = LinkTo(key("b"), "spec.other", holds=False, free=False)
    await store.commit(Create(key("b"), "u2", {}), Create(key("a"), "u1", {}, links=(link,)))
    leases = await store.claim(2, 60)
    assert len(leases) == 2
    ends = [(SetStatus(x.key, 1, {"s": 1}, x, wake=True), *BESIDE[beside], Settle(x, None)) for x in leases]
    await asyncio.gather(*(store.commit(*end) for end in ends))
    assert {x.key for x in await store.claim(9, 60)} == {key("a"), key("b")}


async def test_the_next_due_key_is_told_whoever_holds_the_others(store: SqlStore) -> None:
    at = clock_of(store).at
    assert await store.next_due() is None
    await store.commit(Create(key("a"), "u1", {}), Create(key("b"), "u2", {}, due=False))
    assert await store.next_due() == at
    (lease,) = await store.claim(1, 60)
    assert await store.next_due() == at + 60, "a lease that runs out"
    await store.commit(Wake(key("b"), 90.0))
    assert await store.next_due() == at + 60
    await store.commit(Wake(key("b"), 30.0))
    assert await store.next_due() == at + 30
    await store.commit(Settle(lease, 10.0))
    assert await store.next_due() == at + 10


async def test_a_write_that_lands_in_the_middle_of_a_pass_is_not_lost(store: SqlStore) -> None:
    await store.commit(Create(key("a"), "u1", {"n": 1}))
    (lease,) = await store.claim(10, 60)
    found = await store.get(key("a"))
    await store.commit(Update(key("a"), found.user_revision, spec={"n": 2}))
    with pytest.raises(Conflict):
        await store.commit(SetStatus(key("a"), 1, {}, lease))
    await store.commit(Settle(lease, None))
    assert [x.key for x in await store.claim(10, 60)] == [key("a")]


async def test_deletions_are_claimed_before_everything_else(store: SqlStore) -> None:
    await store.commit(Create(key("a"), "u1", {}), Create(key("b"), "u2", {}))
    clock_of(store).at += 1
    await store.commit(Delete(key("b")))
    assert [x.key.name for x in await store.claim(1, 60)] == ["b"]


async def test_those_who_point_at_a_thing_are_woken_by_it(store: SqlStore) -> None:
    await store.commit(Create(key("t"), "u1", {}))
    await store.commit(Create(key("h"), "u2", {}, links=(LinkTo(key("t"), "spec.ref", holds=False, free=False),)))
    for lease in await store.claim(10, 60):
        await store.commit(Settle(lease, None))
    await store.commit(SetStatus(key("t"), 1, {"ready": True}, None, wake=True))
    assert [x.key.name for x in await store.claim(10, 60)] == ["h"]


async def test_a_wake_in_the_future_is_kept_and_never_later_than_before(store: SqlStore) -> None:
    await store.commit(Create(key("a"), "u1", {}))
    (lease,) = await store.claim(1, 60)
    await store.commit(Wake(key("a"), 5.0), Settle(lease, None))
    assert await store.next_due() == clock_of(store).at + 5
    await store.commit(Wake(key("a"), 50.0))
    assert await store.next_due() == clock_of(store).at + 5


async def test_what_is_forgotten_leaves_nothing(store: SqlStore) -> None:
    await store.commit(
        Create(key("a"), "u1", {}), Reserve("u1", (Claim("s", "k"),)), SetSecret("u1", "n", b"x"), Delete(key("a"))
    )
    (lease,) = await store.claim(1, 60)
    await store.commit(Forget(key("a"), lease))
    assert await store.claims("s") == [] and await store.secret("u1", "n") is None and await store.due(key("a")) is None
    assert [c.act for c in await store.changes(0)] == ["create", "delete", "forget"]
    await store.commit(Create(key("a"), "u2", {}))


async def test_a_single_key_has_one_owner(store: SqlStore) -> None:
    await store.commit(Reserve("u1", (Claim("addr", "4"),)))
    await store.commit(Reserve("u1", (Claim("addr", "4"),)))
    with pytest.raises(Full) as raised:
        await store.commit(Reserve("u2", (Claim("addr", "5"), Claim("addr", "4"))))
    assert raised.value.owner == "u1" and [h.claim.key for h in await store.claims("addr")] == ["4"]
    await store.commit(Release("u1", ("addr",)))
    await store.commit(Reserve("u2", (Claim("addr", "4"),)))


async def test_many_keys_are_reserved_as_one_is(store: SqlStore) -> None:
    many = tuple(Claim("addr", str(n), until=clock_of(store).at + 10) for n in range(50))
    await store.commit(Reserve("u1", (*many, Claim("other", "x"))))
    await store.commit(Reserve("u1", many))
    assert len(await store.claims("addr")) == 50 and len(await store.claims("other")) == 1
    with pytest.raises(Full) as raised:
        await store.commit(Reserve("u2", (*(Claim("free", str(n)) for n in range(20)), Claim("addr", "49"))))
    assert (raised.value.owner, raised.value.key) == ("u1", "49") and await store.claims("free") == []
    clock_of(store).at += 11
    await store.commit(Reserve("u2", many))
    assert {h.owner for h in await store.claims("addr")} <= {"u2"}


async def test_a_claim_with_an_end_can_be_taken_over_after_it(store: SqlStore) -> None:
    await store.commit(Reserve("u1", (Claim("jti", "x", until=clock_of(store).at + 10),)))
    with pytest.raises(Full):
        await store.commit(Reserve("u2", (Claim("jti", "x", until=clock_of(store).at + 10),)))
    clock_of(store).at += 11
    await store.commit(Reserve("u2", (Claim("jti", "x"),)))


async def test_an_amount_never_passes_its_ceiling_however_many_ask_at_once(store: SqlStore) -> None:
    async def one(i: int) -> bool:
        try:
            await store.commit(Reserve(f"u{i}", (Claim("host/a", "vcpus", 3, ceiling=32),)))
        except Full:
            return False
        return True

    won = await asyncio.gather(*(one(i) for i in range(64)))
    assert sum(won) == 10 and sum(h.claim.amount for h in await store.claims("host", below=True)) == 30


async def test_scopes_end_at_segments(store: SqlStore) -> None:
    await store.commit(
        Create(key("a", scope="projects/a/regions/r"), "u1", {}),
        Create(key("a", scope="projects/ab/regions/r"), "u2", {}),
    )
    assert [s.uid for s in (await store.list(Query(None, "projects/a", below=True))).items] == ["u1"]
    assert [c.uid for c in await store.changes(0, scope="projects/a")] == ["u1"]


async def test_a_list_goes_page_by_page_in_order_of_creation(store: SqlStore) -> None:
    await store.commit(*(Create(key(f"d{9 - i}"), f"u{i}", {}) for i in range(10)))
    seen, after = [], ""
    while True:
        page = await store.list(Query("Disk", SCOPE, limit=4, after=after))
        seen += [s.uid for s in page.items]
        after = page.next
        if not after:
            break
    assert seen == [f"u{i}" for i in range(10)]


async def test_a_record_is_appended_once(store: SqlStore) -> None:
    for _ in range(2):
        await store.commit(Append("decisions", "id1", "u1", {"n": 1}))
    assert [e.body for e in await store.records("decisions", about="u1")] == [{"n": 1}]


async def test_changes_that_are_no_longer_kept_are_gone(store: SqlStore) -> None:
    await store.commit(*(Create(key(f"d{i}"), f"u{i}", {}) for i in range(10)))
    clock_of(store).at += 8 * 86_400
    await store.sweep(changes_kept=3)
    with pytest.raises(Gone):
        await store.changes(1)
    assert [c.revision for c in await store.changes(7)] == [8, 9, 10]


async def test_a_newer_database_is_left_alone(tmp_path: Path) -> None:
    made = await open_sqlite(tmp_path / "x.db", clock=SystemClock(), ids=SystemIds())
    made._driver._writer.execute("insert into schema_version values (9999)")  # type: ignore[attr-defined]
    await made.close()
    with pytest.raises(NewerDatabase, match="9999"):
        await open_sqlite(tmp_path / "x.db", clock=SystemClock(), ids=SystemIds())


async def test_records_are_read_by_time_newest_first_and_by_whom_they_are_about(store: SqlStore) -> None:
    for n in range(6):
        clock_of(store).at = 1000.0 + n // 2
        await store.commit(Append("audit", f"r{n}", "acme" if n % 2 else "other", {"n": n}))
    await store.commit(Append("other", "r9", "acme", {}))
    seen = await store.span("audit", before=5000.0)
    assert [e.id for e in seen] == ["r5", "r4", "r3", "r2", "r1", "r0"]
    assert [e.id for e in await store.span("audit", about="acme", before=5000.0)] == ["r5", "r3", "r1"]
    assert [e.id for e in await store.span("audit", since=1001.0, before=1002.0)] == ["r3", "r2"]
    assert [e.id for e in await store.span("audit", before=seen[2].at, below="r3", limit=2)] == ["r2", "r1"]


async def test_secrets_are_walked_in_pages_and_replaced_only_as_they_were(store: SqlStore) -> None:
    for n in range(5):
        await store.commit(SetSecret(f"u{n // 2}", f"s{n}", f"sealed {n}".encode()))
    found, after = [], ("", "")
    while page := await store.secrets(after=after, limit=2):
        found += page
        after = (page[-1].uid, page[-1].name)
    assert [(s.uid, s.name, s.sealed) for s in found] == [
        (f"u{n // 2}", f"s{n}", f"sealed {n}".encode()) for n in range(5)
    ]
    await store.commit(SetSecret("u0", "s0", b"new", b"not what is there"))
    assert await store.secret("u0", "s0") == b"sealed 0"
    await store.commit(SetSecret("u0", "s0", b"new", b"sealed 0"), SetSecret("none", "s", b"new", b"old"))
    assert await store.secret("u0", "s0") == b"new" and await store.secret("none", "s") is None


CHILD = """
import asyncio, sys
from hansa.clock import SystemClock, SystemIds
from hansa.kinds.resource import Key
from hansa.store.port import Create
from hansa.store.sqlite import open_sqlite

async def main():
    store = await open_sqlite(sys.argv[1], clock=SystemClock(), ids=SystemIds())
    async def one(n):
        for i in range(100000):
            await store.commit(Create(Key("Disk", "projects/p/regions/r", f"{n}-{i}"), f"{n}-{i}", {"n": i}))
            print(f"{n}-{i}", flush=True)
    await asyncio.gather(*(one(n) for n in range(8)))

asyncio.run(main())
"""


async def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    for turn in range(3):
        path, out = tmp_path / f"{turn}.db", tmp_path / f"{turn}.out"
        with out.open("wb") as file:
            child = subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=file)
            while out.stat().st_size < 500 * (turn + 1):
                assert child.poll() is None
                time.sleep(0.01)
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
        told = out.read_text().rsplit("\n", 1)[0].splitlines()
        store = await open_sqlite(path, clock=SystemClock(), ids=SystemIds())
        kept = {s.uid for s in (await store.list(Query("Disk", SCOPE))).items}
        assert told and set(told) <= kept
        await store.close()


async def test_the_backlog_tells_what_is_due_and_what_is_in_a_hand(store: SqlStore) -> None:
    empty = await store.backlog()
    assert (empty.due, empty.leased, empty.behind_s) == (0, 0, 0.0)
    for number in range(3):
        await store.commit(Create(Key("Disk", "projects/p/regions/r", f"d{number}"), f"u{number}", {}))
    await store.commit(Create(Key("Disk", "projects/p/regions/r", "rest"), "u9", {}, due=False))
    assert (await store.backlog()).due == 3
    leases = await store.claim(2, 60.0)
    found = await store.backlog()
    assert (found.due, found.leased) == (1, 2) and 0 <= found.behind_s < 60
    await store.commit(*(Settle(lease, None) for lease in leases))
    assert ((await store.backlog()).due, (await store.backlog()).leased) == (1, 0)


async def test_an_object_is_read_with_the_request_of_its_users_last_write(store: SqlStore) -> None:
    made = await store.commit(Create(key("d"), "u", {"n": 1}), request="trace-1")
    assert await store.asked(key("d")) == (await store.get(key("d")), "trace-1")
    await store.commit(SetStatus(key("d"), 1, {"s": 1}, None), request="the loop's")
    assert (await store.asked(key("d")))[1] == "trace-1"
    await store.commit(Update(key("d"), made, spec={"n": 2}), request="trace-2")
    assert await store.asked(key("d")) == (await store.get(key("d")), "trace-2")
    clock_of(store).at += 100
    await store.commit(Create(key("e"), "u2", {}))
    await store.sweep(changes_kept=1, changes_kept_s=10)
    assert await store.asked(key("d")) == (await store.get(key("d")), ""), "the change is no longer kept"
    with pytest.raises(NotFound):
        await store.asked(key("none"))


async def test_what_a_dead_hand_holds_is_free_at_once(store: SqlStore) -> None:
    for number in range(4):
        await store.commit(Create(Key("Disk", "projects/p/regions/r", f"d{number}"), f"u{number}", {}))
    store.hand = "dead."
    dead = await store.claim(2, 60.0)
    store.hand = "de_d."
    living = await store.claim(1, 60.0)
    store.hand = "other."
    assert await store.release("dead.") == 2 and await store.release("dead.") == 0
    assert {lease.key for lease in await store.claim(4, 60.0)} == {d.key for d in dead} | {
        Key("Disk", "projects/p/regions/r", f"d{n}") for n in range(4)
    } - {living[0].key}
    with pytest.raises(Conflict):  # were it not dead after all, it could write nothing more about them
        await store.commit(SetStatus(dead[0].key, 1, {}, dead[0]))
    assert await store.release("de_d.") == 1
    assert await store.release("") == 3
