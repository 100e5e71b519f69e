"""The API on PostgreSQL, by one process and by two, beside bare asyncpg doing the same rows on the same server.

No control process runs: what is measured is the API. Wall-clock rates share the machine with the server and the load;
`per_cpu_s` counts the processors' time of the API processes alone.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import asyncpg

from benchmarks.api import CONNECTIONS, SECONDS, cpu_s, load
from hansa.sdk.client import Client

SPEC = {"strategy": {"type": "spread"}, "placement": {"zone": "a"}}
TEXT = "x" * 600
READY_S = 60.0
TABLES = """
drop schema if exists bare_api cascade; create schema bare_api;
create table bare_api.objects (kind text, scope text, name text, uid text unique, spec text, status text,
                               primary key (kind, scope, name));
create table bare_api.changes (revision bigserial primary key, kind text, scope text, name text, body text);
create table bare_api.work (kind text, scope text, name text, due double precision, primary key (kind, scope, name));
create table bare_api.records (stream text, id text, body text, primary key (stream, id))"""


def run(url: str) -> Iterator[dict[str, Any]]:
    database = asyncio.run(_fresh(url))
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name)
        first = _served(folder, database, 0)
        servers = [first, _served(folder, database, 1, "--url", f"http://127.0.0.1:{first[1]}")]
        try:
            client = Client.from_environment(folder / "data")
            client.create("pg", "one", SPEC)
            path, headers = client.path("pg", "one"), client.headers()
            client.close()
            for method, at in (("POST", path.rsplit("/", 1)[0]), ("GET", path)):
                alone = _pressed(servers[:1], method, at, headers)
                both = _pressed(servers, method, at, headers)
                bare = asyncio.run(_bare(url, method))
                yield {"what": f"{method} through the API on PostgreSQL", **alone, "bare_asyncpg_per_s": round(bare),
                       "ratio": round(alone["per_s"] / bare, 2)}  # fmt: skip
                yield {"what": f"{method} through two API processes on PostgreSQL", **both,
                       "ratio_to_one": round(both["per_s"] / alone["per_s"], 2)}  # fmt: skip
        finally:
            for process, _ in servers:
                process.terminate()
                process.wait()


async def _fresh(url: str) -> str:
    """A database of its own on the same server."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("drop database if exists bench_api with (force)")
        await connection.execute("create database bench_api")
    finally:
        await connection.close()
    return url.rpartition("/")[0] + "/bench_api"


def _served(folder: Path, database: str, number: int, *more: str) -> tuple[subprocess.Popen[bytes], int]:
    """An API process and its port. The URL that clients are given is the same of all: tokens are made out for it."""
    port = _free_port()
    out = folder / f"out{number}"
    with out.open("wb") as file, (folder / f"log{number}").open("wb") as log:
        words = [
            "serve",
            "--role",
            "api",
            "--data",
            str(folder / "data"),
            "--database",
            database,
            "--port",
            str(port),
            *more,
        ]
        process = subprocess.Popen([sys.executable, "-m", "hansa", *words], stdout=file, stderr=log)
    end = time.monotonic() + READY_S
    while b"ready" not in out.read_bytes():
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError((folder / f"log{number}").read_text())
        time.sleep(0.05)
    return process, port


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _pressed(servers: list[Any], method: str, path: str, headers: dict[str, str]) -> dict[str, Any]:
    """CONNECTIONS clients on each of the processes, for SECONDS."""
    kind = "pg" if method == "POST" else None
    before = sum(cpu_s(process.pid) for process, _ in servers)
    with ThreadPoolExecutor(len(servers)) as pool:
        done = sum(pool.map(lambda server: load(server[1], method, path, headers, kind), servers))
    spent = sum(cpu_s(process.pid) for process, _ in servers) - before
    return {"per_s": round(done / SECONDS), "per_cpu_s": round(done / spent)}


async def _bare(url: str, method: str) -> float:
    """The rows of a POST (object, change, work, record) or of a GET, by as many tasks: transactions a second."""
    pool = await asyncpg.create_pool(url, min_size=1, max_size=10)
    end, done = time.monotonic() + SECONDS, 0

    async def post(name: str) -> None:
        key = ("PlacementGroup", "projects/p/regions/r", name)
        async with pool.acquire() as connection, connection.transaction():
            await connection.fetchval(
                "insert into bare_api.changes (kind, scope, name, body) values ($1, $2, $3, $4) returning revision",
                *key, TEXT,
            )  # fmt: skip
            await connection.execute("insert into bare_api.objects values ($1, $2, $3, $3, $4, '{}')", *key, TEXT)
            await connection.execute("insert into bare_api.work values ($1, $2, $3, 0)", *key)
            await connection.execute("insert into bare_api.records values ('audit', $1, $2)", name, TEXT)

    async def get(_name: str) -> None:
        async with pool.acquire() as connection:
            await connection.fetch("select * from bare_api.objects where kind = $1 and scope = $2 and name = $3",
                                   "PlacementGroup", "projects/p/regions/r", "0-0")  # fmt: skip

    async def work(i: int) -> None:
        nonlocal done
        number = 0
        while time.monotonic() < end:
            await (post if method == "POST" else get)(f"{i}-{number}")
            number += 1
            done += 1

    if method == "POST":
        await pool.execute(TABLES)
    await asyncio.gather(*(work(i) for i in range(CONNECTIONS)))
    await pool.close()
    return done / SECONDS
