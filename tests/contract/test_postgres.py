"""What PostgreSQL adds to the store's promises: many processes, an order of changes, a server that goes away."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from hansa.clock import SystemClock, SystemIds
from hansa.config import Settings
from hansa.control.loop import Loop
from hansa.control.world import World
from hansa.errors import Conflict, HansaError, Invalid, Retry
from hansa.kinds import catalogue
from hansa.kinds.resource import Key
from hansa.objectindex.nothing import NothingStored
from hansa.sealing import Sealer
from hansa.store import postgres, postgres_hints, statements
from hansa.store.locks import needs_of, object_name
from hansa.store.migrate import NewerDatabase
from hansa.store.open import open_store
from hansa.store.port import Append, Claim, Create, Delete, LinkTo, Query, Reserve, SetStatus, Settle, Update, Wake
from hansa.store.postgres_words import translate
from hansa.store.store import SqlStore
from hansa.wiring import FleetEngines

from ..postgres import Server, server

assert catalogue.MODULES
pytestmark = pytest.mark.anyio
SCOPE = "projects/p/regions/r"
SOON_S = 20.0  # a deadline, never a measure


def key(name: str) -> Key:
    return Key("Disk", SCOPE, name)


@pytest.fixture
async def url() -> AsyncIterator[str]:
    made = await server().empty()
    yield made
    await server().drop(made)


@pytest.fixture
async def store(url: str) -> AsyncIterator[SqlStore]:
    made = await opened(url)
    yield made
    await made.close()


async def opened(url: str, clock: Any = None, **more: Any) -> SqlStore:
    return await open_store(url, clock=clock or SystemClock(), ids=SystemIds(), **more)


@contextlib.asynccontextmanager
async def raw(url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def test_every_shared_statement_is_understood(store: SqlStore, url: str) -> None:
    texts = [v for n, v in vars(statements).items() if n.isupper() and isinstance(v, str) and not n.startswith("_")]
    texts = [t for t in texts if t.split()[0] in ("select", "insert", "update", "delete", "with")]
    assert len(texts) > 30
    async with raw(url) as connection:
        for text in texts:
            await connection.prepare(translate(text)[0])


async def test_however_many_start_at_once_the_schema_is_made_once(url: str) -> None:
    stores = await asyncio.gather(*(opened(url) for _ in range(5)))
    await asyncio.gather(*(s.commit(Create(key(f"d{n}"), f"u{n}", {})) for n, s in enumerate(stores)))
    assert len((await stores[0].list(Query("Disk", SCOPE))).items) == 5
    for each in stores:
        await each.close()


async def test_a_newer_database_is_left_alone(url: str) -> None:
    await (await opened(url)).close()
    async with raw(url) as connection:
        await connection.execute("insert into schema_version values (9999)")
    with pytest.raises(NewerDatabase, match="9999"):
        await opened(url)


async def test_a_password_is_told_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "START_S", 0.0)
    address = "postgresql://me:hidden@127.0.0.1:1/hansa?sslmode=disable"
    assert "hidden" not in repr(Settings(database=address)) + str(Settings(database=address).model_dump())  # type: ignore[arg-type]
    with capture_logs() as logs, pytest.raises(Retry) as raised:
        await opened(address)
    assert "hidden" not in str(logs) + raised.value.message + raised.value.detail
    assert "postgresql://me@127.0.0.1:1/hansa" in raised.value.detail and "127.0.0.1" not in raised.value.message
    with pytest.raises(Invalid, match="mysql"):
        await opened("mysql://me:hidden@host/x")


# -- order of changes ---------------------------------------------------------------------------

CHANGE = "select hansa_change(1.0, 'Disk', 's', 'n', 'u', 'create', '', '', null)"


@pytest.mark.parametrize("first_to_begin", [0, 1])
async def test_a_change_is_read_after_all_with_a_lower_number(store: SqlStore, url: str, first_to_begin: int) -> None:
    """Whichever transaction is the older one: the one with the lower number keeps the other back."""
    async with raw(url) as low, raw(url) as high:
        for connection in (low, high) if first_to_begin == 0 else (high, low):
            await connection.execute("begin; select pg_current_xact_id()")
        lower = await low.fetchval(CHANGE)
        higher = await high.fetchval(CHANGE)
        assert higher == lower + 1
        await high.execute("commit")
        assert await store.changes(0) == [] and await store.revision() < lower
        await low.execute("commit")
    async with asyncio.timeout(SOON_S):
        while await store.revision() != higher:
            await asyncio.sleep(0.01)
    assert [c.revision for c in await store.changes(0)] == [lower, higher]


async def test_a_number_that_was_given_up_keeps_nobody_back(store: SqlStore, url: str) -> None:
    async with raw(url) as given_up:
        await given_up.execute("begin")
        await given_up.fetchval(CHANGE)
        mine = await store.commit(Create(key("a"), "u", {}))
        assert await store.revision() == 0
        await given_up.execute("rollback")
    assert [c.revision for c in await store.changes(0)] == [mine]


async def test_who_follows_the_changes_of_many_writers_misses_none(store: SqlStore, url: str) -> None:
    others = [await opened(url) for _ in range(3)]
    committed: list[int] = []

    async def write(n: int) -> None:
        for i in range(40):
            committed.append(await others[n % 3].commit(Create(key(f"d{n}-{i}"), f"u{n}-{i}", {"n": i})))

    async def follow() -> list[int]:
        seen: list[int] = []
        while len(seen) < 12 * 40:
            seen += [c.revision for c in await store.changes(seen[-1] if seen else 0, limit=7)]
            await asyncio.sleep(0)
        return seen

    async with asyncio.timeout(SOON_S * 3):
        seen, *_ = await asyncio.gather(follow(), *(write(n) for n in range(12)))
    assert seen == sorted(committed)
    for each in others:
        await each.close()


# -- side by side -------------------------------------------------------------------------------


async def test_neighbours_wake_one_another_without_deadlocks(store: SqlStore, url: str) -> None:
    names = [f"d{n}" for n in range(6)]
    await store.commit(*(Create(key(n), f"u{n}", {}) for n in names))
    for n in names:
        links = tuple(LinkTo(key(m), "spec.ref", holds=False, free=False) for m in names if m != n)
        await store.commit(Update(key(n), (await store.get(key(n))).user_revision, spec={"l": 1}, links=links))
    other = await opened(url)
    passes = 0

    async def work(mine: SqlStore) -> None:
        nonlocal passes
        while passes < 200:
            for lease in await mine.claim(3, 60):
                found = await mine.get(lease.key)
                passes += 1
                await mine.commit(
                    SetStatus(lease.key, found.generation, {"n": passes}, lease, wake=True), Settle(lease, 0.0)
                )
            await asyncio.sleep(0)

    async with asyncio.timeout(SOON_S * 3):
        await asyncio.gather(*(work(s) for s in (store, other) for _ in range(4)))
    await other.close()
    async with raw(url) as connection:
        await connection.execute("select pg_stat_clear_snapshot()")
        assert (
            await connection.fetchval("select deadlocks from pg_stat_database where datname = current_database()") == 0
        )


async def test_a_deletion_and_a_new_link_do_not_pass_one_another(store: SqlStore) -> None:
    """Whoever comes second sees the first: never a holder of what is going."""
    for turn in range(25):
        target, holder = key(f"t{turn}"), key(f"h{turn}")
        await store.commit(Create(target, f"t{turn}", {}))
        link = LinkTo(target, "spec.ref", holds=True, free=False)
        ended = await asyncio.gather(
            store.commit(Delete(target)), store.commit(Create(holder, f"h{turn}", {}, links=(link,))),
            return_exceptions=True,
        )  # fmt: skip
        assert [isinstance(e, HansaError) for e in ended].count(True) == 1, ended


async def test_of_many_who_make_the_same_one_does(store: SqlStore, url: str) -> None:
    other = await opened(url)
    made = await asyncio.gather(
        *(s.commit(Create(key("same"), f"u{n}-{id(s)}", {})) for n in range(10) for s in (store, other)),
        return_exceptions=True,
    )
    assert [type(m).__name__ for m in made if not isinstance(m, int)] == ["AlreadyExists"] * 19
    await other.close()


async def test_a_commit_larger_than_all_others_takes_the_store_alone(store: SqlStore) -> None:
    count = 700
    await asyncio.gather(
        store.commit(*(Create(key(f"a{n}"), f"a{n}", {}) for n in range(count))),
        *(store.commit(Create(key(f"b{n}"), f"b{n}", {})) for n in range(20)),
    )
    assert len((await store.list(Query("Disk", SCOPE))).items) == count + 20
    await store.commit(*(Wake(key(f"a{n}"), 5) for n in range(count)))


async def test_a_commit_names_all_that_it_touches() -> None:
    needs = needs_of((
        Create(key("new"), "u", {}, links=(LinkTo(key("t"), "p", holds=True, free=False),), parents=(Key("Project", "", "p"),)),
        SetStatus(key("s"), 1, {}, None, wake=True), Wake(key("w")), Reserve("u", (Claim("a", "b"),)),
    ))  # fmt: skip
    held = dict(needs.names)
    assert held[object_name(key("new"))] and held[object_name(key("s"))] and len(held) == 5
    assert not held[object_name(key("t"))] and not held[object_name(Key("Project", "", "p"))]
    assert set(needs.work) == {key("t"), key("s"), key("w")} and set(needs.linked) == {key("new"), key("s")}
    assert [n for n, _ in needs.names] == sorted(held)


async def test_others_are_told_of_a_commit(store: SqlStore, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_hints, "LOOK_S", 3600.0)  # nobody looks by himself
    other, told = await opened(url), asyncio.Queue[int]()
    other.on_commit(told.put_nowait)
    await asyncio.sleep(0.2)
    revision = await store.commit(Create(key("a"), "u", {}))
    async with asyncio.timeout(SOON_S):
        while await told.get() < revision:
            pass
    assert [c.revision for c in await other.changes(0)] == [revision]
    await other.close()


async def test_a_reader_is_told_again_once_a_held_back_change_can_be_read(store: SqlStore, url: str) -> None:
    told = asyncio.Queue[int]()
    async with raw(url) as slow:
        await slow.execute("begin")
        await slow.fetchval(CHANGE)
        revision = await store.commit(Create(key("a"), "u", {}))
        store.on_commit(told.put_nowait)
        await asyncio.sleep(0.1)
        while not told.empty():  # a hint of before may come late
            assert told.get_nowait() < revision
        await slow.execute("commit")
        async with asyncio.timeout(SOON_S):
            while await told.get() != revision:
                pass


CHILD = """
import asyncio, sys
from hansa.clock import SystemClock, SystemIds
from hansa.errors import Conflict, Full
from hansa.kinds.resource import Key
from hansa.store.open import open_store
from hansa.store.port import Append, Claim, Release, Reserve, SetStatus, Settle

url, me, lease_s = sys.argv[1], sys.argv[2], float(sys.argv[3])

async def main():
    store = await open_store(url, clock=SystemClock(), ids=SystemIds())
    for n in range(60):                      # an amount, of which all together may take 100
        try:
            await store.commit(Reserve(f"{me}-{n}", (Claim("host", "vcpus", 3, ceiling=100),)))
        except Full:
            pass
    print("claiming", flush=True)
    while await store.next_due() is not None:
        leases = await store.claim(4, lease_s)
        if not leases:
            await asyncio.sleep(0.02)
        for lease in leases:
            owner = f"{lease.token}"
            try:                             # held by two at once: Full, and the child fails
                await store.commit(Reserve(owner, (Claim("held", lease.key.name),)))
                await asyncio.sleep(0.002)
                found = await store.get(lease.key)
                passes = found.status.get("passes", 0) + 1
                await store.commit(
                    SetStatus(lease.key, found.generation, {"passes": passes}, lease, wake=False),
                    Release(owner), Append("passes", f"{lease.key.name}-{passes}", found.uid, {"by": me}),
                    Settle(lease, 0.0 if passes < 3 else None))
            except Conflict:                 # the lease ran out and another has it
                await store.commit(Release(owner))
    await store.close()

asyncio.run(main())
"""


async def test_of_several_processes_none_does_what_another_did_and_any_may_be_killed(url: str, tmp_path: Path) -> None:
    store = await opened(url)
    names = [f"d{n}" for n in range(60)]
    await store.commit(*(Create(key(n), f"u-{n}", {}) for n in names))
    outs = [tmp_path / f"{n}.out" for n in range(3)]
    children = [_child(out, url, str(n), "60") for n, out in enumerate(outs)]
    async with asyncio.timeout(SOON_S * 3):
        while sum(e.claim.amount for e in await store.claims("host")) < 99:
            assert all(c.poll() is None for c in children), [o.read_text() for o in outs]
            await asyncio.sleep(0.02)
        while not await store.records("passes"):
            await asyncio.sleep(0.01)
        children[0].send_signal(signal.SIGKILL)
        children[0].wait()
        await _expire(url)  # instead of waiting until its leases run out
        while any(c.poll() is None for c in children[1:]):
            await asyncio.sleep(0.05)
    assert [c.returncode for c in children[1:]] == [0, 0], [o.read_text() for o in outs]
    assert sum(e.claim.amount for e in await store.claims("host")) == 99
    found = (await store.list(Query("Disk", SCOPE))).items
    assert [f.status["passes"] for f in found] == [3] * 60
    passes = [e.id for e in await store.records("passes", limit=1000)]
    assert len(passes) == len(set(passes)) == 180
    await store.close()


async def _expire(url: str) -> None:
    """Leases that nobody gives back run out, and what the dead one held aside with them."""
    async with raw(url) as connection:
        while tokens := await connection.fetch("select distinct token from work where token <> ''"):
            dead = [t[0] for t in tokens if not await _lives(connection, t[0])]
            await connection.execute("update work set leased_until = 0 where token = any($1)", dead)
            await connection.execute("delete from claims where scope = 'held' and owner = any($1)", dead)
            if not dead:
                return


async def _lives(connection: Any, token: str) -> bool:
    """A batch of four is through within moments, if its process lives."""
    for _ in range(100):
        await asyncio.sleep(0.02)
        if not await connection.fetchval("select exists (select 1 from work where token = $1)", token):
            return True
    return False


def _child(out: Path, *words: str) -> subprocess.Popen[bytes]:
    with out.open("wb") as file:
        return subprocess.Popen([sys.executable, "-c", CHILD, *words], stdout=file, stderr=file)


# -- time ---------------------------------------------------------------------------------------


class Wrong(SystemClock):
    def __init__(self, off_s: float) -> None:
        self._off_s = off_s

    def now(self) -> float:
        return super().now() + self._off_s


@pytest.mark.parametrize("off_s", [3600.0, -3600.0])
async def test_a_process_with_a_wrong_clock_neither_takes_nor_loses_leases(url: str, off_s: float) -> None:
    with capture_logs() as logs:
        right, wrong = await opened(url), await opened(url, Wrong(off_s))
    assert [entry["event"] for entry in logs].count("clock") == 1
    await wrong.commit(Create(key("a"), "u1", {}))
    assert abs((await right.get(key("a"))).created_at - time.time()) < 60
    (lease,) = await right.claim(1, 60)
    assert await wrong.claim(1, 60) == []
    await right.commit(Settle(lease, 0.0))
    (lease,) = await wrong.claim(1, 60)
    assert await right.claim(1, 60) == []
    await wrong.commit(Settle(lease, 30.0))
    due = await right.next_due()
    assert due is not None and 0 < due - time.time() < 60
    assert await wrong.next_due() == due and abs(wrong.clock.now() - right.clock.now()) < 2
    await right.close()
    await wrong.close()


async def test_a_lease_that_runs_out_in_the_middle_of_a_commit(store: SqlStore, url: str) -> None:
    """The commit that has begun holds the row: whoever claims skips it. One that begins later is refused."""
    await store.commit(Create(key("a"), "u1", {}))
    (lease,) = await store.claim(1, 60)
    async with raw(url) as connection:
        await connection.execute("update work set leased_until = 0")  # it has run out
        await connection.execute("begin; select 1 from work for update")  # as a commit that is under way holds it
        assert await store.claim(1, 60) == []
        await connection.execute("rollback")
    (second,) = await store.claim(1, 60)
    with pytest.raises(Conflict):
        await store.commit(SetStatus(key("a"), 1, {"by": 1}, lease), Append("r", "1", "u1", {}), Settle(lease, None))
    await store.commit(SetStatus(key("a"), 1, {"by": 2}, second), Append("r", "2", "u1", {}), Settle(second, None))
    assert [e.id for e in await store.records("r")] == ["2"]


# -- what goes wrong ----------------------------------------------------------------------------


async def test_what_others_hold_too_long_is_told_as_busy(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(postgres.SETTINGS, "lock_timeout", "200")
    store = await opened(url)
    await store.commit(Create(key("a"), "u1", {}))
    async with raw(url) as other:
        await other.execute(f"begin; select pg_advisory_xact_lock({object_name(key('a'))})")
        with pytest.raises(Retry, match="busy"):
            await store.commit(Delete(key("a")))
        await store.commit(Create(key("b"), "u2", {}))
        await other.execute("rollback")
    await store.commit(Delete(key("a")))
    await store.close()


async def test_an_object_that_is_held_keeps_no_other_pass_from_its_end(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(postgres.SETTINGS, "lock_timeout", "200")
    store = await opened(url)
    await store.commit(*(Create(key(f"d{n}"), f"u{n}", {}) for n in range(20)))
    leases = sorted(await store.claim(20, 60), key=lambda x: x.key)
    async with raw(url) as other:
        await other.execute(f"begin; select pg_advisory_xact_lock({object_name(leases[5].key)})")
        ends = [store.commit(SetStatus(x.key, 1, {"s": 1}, x), Settle(x, None)) for x in leases]
        said = await asyncio.gather(*ends, return_exceptions=True)
        await other.execute("rollback")
    assert [n for n, it in enumerate(said) if isinstance(it, Retry)] == [5]
    assert all(isinstance(it, int) for n, it in enumerate(said) if n != 5)
    await store.commit(SetStatus(leases[5].key, 1, {"s": 1}, leases[5]), Settle(leases[5], None))
    await store.close()


async def test_a_key_and_a_list_are_read_by_their_own_index_before_there_are_statistics(
    store: SqlStore, url: str
) -> None:
    connection = await asyncpg.connect(url, server_settings=postgres.SETTINGS)
    values = {"kind": "Disk", "scope": SCOPE, "name": "d7", "after": 0, "limit": 10}
    try:
        for rows in (0, 300, 3000):
            await store.commit(*(Create(key(f"d{rows}-{n}"), f"u{rows}-{n}", {}) for n in range(rows)))
            for statement, index in ((statements.GET, "objects_pkey"), (statements.LIST_EXACT, "objects_in_order")):
                text, names = translate(statement)
                plan = await connection.fetch(f"explain {text}", *(values[n] for n in names))
                assert any(f"using {index} " in line[0] for line in plan), (rows, plan)
    finally:
        await connection.close()


async def test_a_transaction_whose_process_stands_still_is_ended(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(postgres.SETTINGS, "idle_in_transaction_session_timeout", "300")
    stuck = await opened(url)
    await stuck.commit(Create(key("a"), "u1", {}))
    store = await opened(url)

    async def stand_still(tx: Any) -> None:
        await asyncio.sleep(2.0)
        await tx.all(statements.REVISION)

    standing = asyncio.create_task(stuck._driver.write(stand_still, needs_of((Delete(key("a")),))))
    await asyncio.sleep(0.1)
    await store.commit(Delete(key("a")))  # waits for it, not for ever
    with pytest.raises(Retry):
        await standing
    await stuck.close()
    await store.close()


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


COMMIT = b"Q\0\0\0\x0bcommit\0"  # as a message of its own


class Wire:
    """Between a client and the server's socket; breaks a connection around its COMMIT when told to."""

    def __init__(self, real: str, folder: Path) -> None:
        self.real, self.folder, self.breaks = real, folder, ""
        self.broken = 0

    async def __aenter__(self) -> Wire:
        self._server = await asyncio.start_unix_server(self._serve, str(self.folder / ".s.PGSQL.5432"))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await self._between(reader, writer)

    async def _between(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up, out = await asyncio.open_unix_connection(f"{self.real}/.s.PGSQL.5432")
        back = asyncio.create_task(self._carry(up, writer))
        try:
            while data := await reader.read(65536):
                if COMMIT in data and self.breaks:
                    how, self.breaks = self.breaks, ""
                    self.broken += 1
                    if how == "after":
                        await _end(back)
                        out.write(data)
                        await up.read(65536)  # the server has answered; nobody hears it
                    return
                out.write(data)
        finally:
            await _end(back)
            for each in (writer, out):
                each.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()


async def test_what_became_of_a_commit_that_was_cut_off_is_asked_for(url: str, tmp_path: Path) -> None:
    await (await opened(url)).close()
    folder = url.partition("host=")[2].partition("&")[0]
    sockets = Path(f"/tmp/hansa-wire-{os.getpid()}")
    sockets.mkdir(mode=0o700)
    try:
        async with Wire(folder, sockets) as wire:
            store = await opened(url.replace(folder, str(sockets)))
            wire.breaks = "after"
            await store.commit(Create(key("a"), "u1", {}))
            assert wire.broken == 1 and (await store.get(key("a"))).uid == "u1"
            wire.breaks = "before"
            with pytest.raises(Retry, match="does not answer"):
                await store.commit(Create(key("b"), "u2", {}))
            await store.commit(Create(key("b"), "u2", {}))
            await store.close()
    finally:
        (sockets / ".s.PGSQL.5432").unlink(missing_ok=True)
        sockets.rmdir()


@pytest.fixture
def own_server() -> Iterator[Server]:
    made = Server()
    yield made
    made.remove()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
async def test_a_database_that_goes_away_loses_and_doubles_nothing(own_server: Server, how: signal.Signals) -> None:
    url = own_server.url("postgres")
    store, other = await opened(url), await opened(url)
    acknowledged: set[str] = set()
    refusals: set[str] = set()
    stop = asyncio.Event()

    async def create(n: int, mine: SqlStore) -> None:
        """As a client that tries again until it has an answer."""
        i = 0
        while not stop.is_set():
            name = f"d{n}-{i}"
            try:
                await mine.commit(Create(key(name), name, {}, due=False), Append("made", name, name, {}))
            except Retry as retry:
                refusals.add(retry.message)
                await asyncio.sleep(0.05)
                with contextlib.suppress(Retry):
                    if await mine.find(name) is None:
                        continue
                    acknowledged.add(name)
                    i += 1
                continue
            acknowledged.add(name)
            i += 1

    loop = Loop(
        World(other, FleetEngines(), other.clock, SystemIds(), Settings(), NothingStored(), Sealer(b"0" * 32)), {}
    )
    looping = asyncio.create_task(loop.run())
    working = [asyncio.create_task(create(n, (store, other)[n % 2])) for n in range(8)]
    async with asyncio.timeout(SOON_S * 4):
        for turn in range(3):
            enough = len(acknowledged) + 60
            while len(acknowledged) < enough:
                assert not any(t.done() for t in working), [t for t in working if t.done()]
                await asyncio.sleep(0.01)
            await asyncio.to_thread(own_server.stop, how)
            with pytest.raises(Retry, match="database"):
                await store.revision()
            with pytest.raises(Retry, match="database"):
                await store.commit(Create(key(f"never{turn}"), f"n{turn}", {}))
            await asyncio.sleep(0.3)
            await asyncio.to_thread(own_server.start)
        enough = len(acknowledged) + 60
        while len(acknowledged) < enough:
            await asyncio.sleep(0.01)
        stop.set()
        await asyncio.gather(*working)
    assert refusals  # it was told
    kept = [s.uid for s in (await store.list(Query("Disk", SCOPE))).items]
    assert acknowledged <= set(kept) and len(kept) == len(set(kept))
    assert sorted(e.id for e in await store.records("made", limit=100_000)) == sorted(kept)
    assert [c.uid for c in await other.changes(0, limit=100_000)] == [
        s.uid for s in (await store.list(Query("Disk", SCOPE))).items
    ]
    told = asyncio.Queue[int]()
    other.on_commit(told.put_nowait)  # those who listen do so again
    revision = await store.commit(Create(key("last"), "last", {}))
    async with asyncio.timeout(SOON_S):
        while await told.get() < revision:
            pass
        while (due := await store.due(key("last"))) is None or due.due_at is not None:
            await asyncio.sleep(0.01)  # the loop that was there before settles it
    await loop.stop()
    await looping
    await store.close()
    await other.close()
