"""The store on PostgreSQL beside bare asyncpg doing the same rows; claims under contention; a backup.

The server is Debian's, on loopback, flushing as it does out of the box; it shares the machine with us. `HANSA_BENCH_URL`
names another one (an empty database).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg

from benchmarks import database_api
from benchmarks.store import looped
from hansa.clock import SystemClock, SystemIds
from hansa.kinds import catalogue
from hansa.kinds.resource import Key
from hansa.store import tables
from hansa.store.backup import write_backup
from hansa.store.open import open_store
from hansa.store.port import Create, Query, SetStatus, Settle
from hansa.store.store import SqlStore

assert catalogue.MODULES
PORT = 15_432
SCOPE = "projects/p/regions/r"
SPEC = {"strategy": {"type": "spread"}, "placement": {"zone": "a"}, "note": "x" * 400}
TASKS, CREATES, GETS, KEYS, OBJECTS = 16, 2000, 4000, 2000, 100_000
BARE_TABLES = """
drop schema if exists bare cascade; create schema bare;
create table bare.objects (kind text, scope text, name text, uid text unique, spec text, status text,
                           primary key (kind, scope, name));
create table bare.changes (revision bigserial primary key, kind text, scope text, name text, body text);
create table bare.work (kind text, scope text, name text, due double precision, primary key (kind, scope, name))"""


def run() -> Iterator[dict[str, Any]]:
    with _server() as url:
        for figures in (_rates, _two_processes, _claims, _loops):
            yield from asyncio.run(figures(url))
        yield from database_api.run(url)
        yield from asyncio.run(_backup(url))


@contextlib.contextmanager
def _server() -> Iterator[str]:
    """A new server, or the one that is named."""
    if url := os.environ.get("HANSA_BENCH_URL"):
        yield url
        return
    binaries = max(Path("/usr/lib/postgresql").glob("*/bin"))
    folder = Path(tempfile.mkdtemp(prefix="hansa-bench-", dir="/tmp"))
    prefix = ["setpriv", "--pdeathsig", "INT"]
    if os.geteuid() == 0:
        user = pwd.getpwnam("postgres")
        os.chown(folder, user.pw_uid, user.pw_gid)
        prefix += ["--reuid", str(user.pw_uid), "--regid", str(user.pw_gid), "--clear-groups"]
    words = [*prefix, "--", str(binaries / "initdb"), "-D", "data", "-U", "hansa", "-A", "trust", "-E", "UTF8"]
    subprocess.run([*words, "--locale=C.UTF-8"], cwd=folder, check=True, capture_output=True)
    server = subprocess.Popen(
        [*prefix, "--", str(binaries / "postgres"), "-D", "data", "-k", str(folder), "-p", str(PORT),
         "-c", "listen_addresses=127.0.0.1"], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        ready = [str(binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(PORT)]
        while subprocess.run(ready, check=False).returncode:
            time.sleep(0.1)
        yield f"postgresql://hansa@127.0.0.1:{PORT}/postgres"
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder)


async def _open(url: str) -> SqlStore:
    return await open_store(url, clock=SystemClock(), ids=SystemIds())


def _create(name: str, *, due: bool = False) -> Create:
    return Create(Key("PlacementGroup", SCOPE, name), f"u-{name}", SPEC, status={"s": 1}, due=due)


async def _shared(count: int, one: Any) -> float:
    """`count` calls by TASKS tasks: calls a second."""
    numbers = iter(range(count))

    async def work() -> None:
        for n in numbers:
            await one(n)

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(TASKS)))
    return count / (time.perf_counter() - began)


async def _rates(url: str) -> list[dict[str, Any]]:
    store = await _open(url)
    creates = await _shared(CREATES, lambda n: store.commit(_create(f"g{n}")))
    gets = await _shared(GETS, lambda n: store.get(Key("PlacementGroup", SCOPE, f"g{n % CREATES}")))
    await store.close()
    pool = await asyncpg.create_pool(url, min_size=1, max_size=10)
    text = str(SPEC)

    async def bare_create(n: int) -> None:
        key = ("PlacementGroup", SCOPE, f"b{n}")
        async with pool.acquire() as connection, connection.transaction():
            await connection.fetchval(
                "insert into bare.changes (kind, scope, name, body) values ($1, $2, $3, $4) returning revision",
                *key,
                text,
            )
            await connection.execute("insert into bare.objects values ($1, $2, $3, $4, $5, '{}')", *key, f"u{n}", text)
            await connection.execute("insert into bare.work values ($1, $2, $3, 0)", *key)

    async def bare_get(n: int) -> None:
        async with pool.acquire() as connection:
            await connection.fetch("select * from bare.objects where kind = $1 and scope = $2 and name = $3",
                                   "PlacementGroup", SCOPE, f"b{n % CREATES}")  # fmt: skip

    async with pool.acquire() as connection:
        await connection.execute(BARE_TABLES)
    bare_creates, bare_gets = await _shared(CREATES, bare_create), await _shared(GETS, bare_get)
    await pool.close()
    return [
        {"what": "creates through the store on PostgreSQL", "per_s": round(creates),
         "bare_asyncpg_per_s": round(bare_creates), "ratio": round(creates / bare_creates, 2), "tasks": TASKS},
        {"what": "gets through the store on PostgreSQL", "per_s": round(gets), "bare_asyncpg_per_s": round(bare_gets),
         "ratio": round(gets / bare_gets, 2), "tasks": TASKS},
    ]  # fmt: skip


WORKER = """
import asyncio, sys
from benchmarks import database
async def main():
    store = await database._open(sys.argv[1])
    rate = await database._shared(database.CREATES, lambda n: store.commit(database._create(f"{sys.argv[2]}-{n}")))
    print(rate)
    await store.close()
asyncio.run(main())
"""


async def _two_processes(url: str) -> list[dict[str, Any]]:
    async def child(name: str) -> float:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", WORKER, url, name, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        return float(out)

    alone = await child("alone")
    both = await asyncio.gather(child("one"), child("two"))
    return [{"what": "creates on PostgreSQL by two processes", "per_s": round(sum(both)), "one_process_per_s": round(alone),
             "ratio": round(sum(both) / alone, 2)}]  # fmt: skip


async def _claims(url: str) -> list[dict[str, Any]]:
    """Whole passes (claim, read, status, settle) of KEYS keys by several control loops."""
    figures = []
    for loops in (1, 2, 4):
        stores = [await _open(url) for _ in range(loops)]
        for start in range(0, KEYS, 500):
            await stores[0].commit(*(_create(f"c{loops}-{n}", due=True) for n in range(start, start + 500)))
        done = 0
        began = time.perf_counter()

        async def work(store: SqlStore) -> None:
            nonlocal done
            while leases := await store.claim(16, 60):

                async def one(lease: Any) -> None:
                    found = await store.get(lease.key)
                    await store.commit(SetStatus(lease.key, found.generation, {"s": 2}, lease), Settle(lease, None))

                await asyncio.gather(*(one(lease) for lease in leases))
                done += len(leases)

        await asyncio.gather(*(work(s) for s in stores))
        took = time.perf_counter() - began
        assert done == KEYS, done
        figures.append({"what": f"passes on PostgreSQL, {loops} loops claiming", "per_s": round(done / took)})
        for store in stores:
            await store.close()
    return figures


async def _loops(url: str) -> list[dict[str, Any]]:
    """The same by real control loops: what the loop asks besides, and the work of waking neighbours."""
    figures = []
    for count in (1, 2):
        stores = [await _open(url) for _ in range(count)]
        for start in range(0, KEYS, 500):
            await stores[0].commit(*(_create(f"l{count}-{n}", due=True) for n in range(start, start + 500)))
        figures.append({"what": f"passes of the loop on PostgreSQL, {count} in one process",
                        "per_s": round(await looped(stores, KEYS))})  # fmt: skip
        for store in stores:
            await store.close()
    return figures


async def _backup(url: str) -> list[dict[str, Any]]:
    """100,000 objects out of either database and into the other, beside pg_dump."""
    figures: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=".") as name:
        small = Path(name) / "small.db"
        store = await _open(str(small))
        for start in range(0, OBJECTS, 1000):
            await store.commit(*(_create(f"x{n}") for n in range(start, start + 1000)))
        await store.close()
        file = Path(name) / "from-sqlite"
        figures.append({"what": "backup of 100,000 objects from SQLite", **await _write(str(small), file)})
        began = time.perf_counter()
        async with tables.target(url) as target:
            await tables.load(file, target, replace=True, told=lambda _table, _rows: None)
        figures.append(
            {"what": "restore of 100,000 objects into PostgreSQL", "s": round(time.perf_counter() - began, 1)}
        )
        store = await _open(url)
        assert len((await store.list(Query("PlacementGroup", SCOPE))).items) == OBJECTS
        await store.close()
        figure = {
            "what": "backup of 100,000 objects from PostgreSQL",
            **await _write(url, Path(name) / "from-postgres"),
        }
        began = time.perf_counter()
        dump = max(Path("/usr/lib/postgresql").glob("*/bin")) / "pg_dump"
        subprocess.run([dump, "-Fc", "-Z3", "-f", Path(name) / "dump", url], check=True)
        figures.append({**figure, "pg_dump_s": round(time.perf_counter() - began, 1)})
    return figures


async def _write(database: str, file: Path) -> dict[str, Any]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    async with tables.source(database) as source:
        await write_backup(source, file, at=time.time(), program="bench", told=lambda _table, _rows: None)
    took = time.perf_counter() - began
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    return {"s": round(took, 1), "MiB": file.stat().st_size >> 20, "memory_grown_MiB": grown}
