"""A PostgreSQL of the tests' own, from Debian's package: one server a session, one schema a test.

The server runs as an ordinary user in a folder of its own, without flushing to disk, and is reached by a socket in
that folder alone. A database a test would cost ten times as much.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg

from hansa.clock import Clock, Ids
from hansa.store.open import open_store
from hansa.store.store import SqlStore

BINARIES = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path("/nonexistent"))
SETTINGS = {
    "fsync": "off", "full_page_writes": "off", "listen_addresses": "", "max_connections": "300", "autovacuum": "off",
    "shared_buffers": "64MB",
}  # fmt: skip
START_S = 30.0


def wanted() -> bool:
    """Are the suites that run on either database to run on PostgreSQL?"""
    return os.environ.get("HANSA_TEST_DATABASE", "sqlite") == "postgresql"


class Server:
    """`postgres` in a new folder under /tmp."""

    def __init__(self, **settings: str) -> None:
        assert BINARIES.is_dir(), "Debian's package postgresql is missing: scripts/install --dev"
        self._folder = Path(tempfile.mkdtemp(prefix="hansa-pg-", dir="/tmp"))
        self._settings = SETTINGS | settings
        self._numbers = itertools.count()
        self._process: subprocess.Popen[bytes] | None = None
        self._as: list[str] = []
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(self._folder, user.pw_uid, user.pw_gid)
            self._as = ["--reuid", str(user.pw_uid), "--regid", str(user.pw_gid), "--clear-groups"]
        words = ["-D", "data", "-U", "hansa", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
        self._run("initdb", *words)
        self.start()

    def _command(self, program: str, *words: str) -> list[str]:
        return ["setpriv", *self._as, "--pdeathsig", "INT", "--", str(BINARIES / program), *words]

    def _run(self, program: str, *words: str) -> None:
        subprocess.run(self._command(program, *words), cwd=self._folder, check=True, capture_output=True)

    def start(self) -> None:
        given = [w for name, value in self._settings.items() for w in ("-c", f"{name}={value}")]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command("postgres", "-D", "data", "-k", str(self._folder), *given),
                cwd=self._folder, stdout=log, stderr=log,
            )  # fmt: skip
        end = time.monotonic() + START_S
        while subprocess.run([BINARIES / "pg_isready", "-q", "-h", self._folder], check=False).returncode:
            assert self._process.poll() is None and time.monotonic() < end, (self._folder / "log").read_text()
            time.sleep(0.02)

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: connections are cut, what is under way is rolled back. SIGQUIT: at once, as in a crash."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(START_S)

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self._folder)

    def url(self, name: str) -> str:
        return f"postgresql://hansa@/{name}?host={self._folder}"

    async def empty(self) -> str:
        """The address of a new schema without anything in it."""
        name = f"t{next(self._numbers)}"
        await self.execute(f"create schema {name}")
        return f"{self.url('postgres')}&search_path={name}"

    async def drop(self, url: str) -> None:
        await self.execute(f"drop schema {url.rpartition('=')[2]} cascade")

    async def execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self.url("postgres"))
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


@functools.cache
def server() -> Server:
    """The session's server, started by the first who asks; `tests/conftest.py` removes it."""
    return Server()


def remove_server() -> None:
    if server.cache_info().currsize:
        server().remove()
        server.cache_clear()


@contextlib.asynccontextmanager
async def a_database(kind: str, path: Path) -> AsyncIterator[str]:
    """Where an empty database is: `path` for sqlite, for postgresql a schema of its own, which is gone at the end."""
    if kind == "sqlite":
        yield str(path)
        return
    url = await server().empty()
    try:
        yield url
    finally:
        await server().drop(url)


async def a_store(path: Path | str, *, clock: Clock, ids: Ids, inline: bool = False, follow: bool = True) -> SqlStore:
    """A store on the database that this run is for; `path` is where SQLite's would be. The same path is the same
    store on both, until the test ends; `:memory:` is another one each time."""
    if not wanted():
        return await open_store(path, clock=clock, ids=ids, inline=inline)
    if str(path) == ":memory:" or str(path) not in _urls:
        _urls[str(path)] = await server().empty()
    return await open_store(_urls[str(path)], clock=clock, ids=ids, follow_clock=follow)


async def all_that_is_kept(path: Path) -> bytes:
    """Every byte of the store at this path as an outsider would find it: SQLite's files, PostgreSQL's rows."""
    files = b"".join(file.read_bytes() for file in path.parent.glob(f"{path.name}*"))
    if str(path) not in _urls:
        return files
    connection = await asyncpg.connect(_urls[str(path)])
    try:
        names = await connection.fetch("select tablename from pg_tables where schemaname = current_schema()")
        rows = [row[0] for (name,) in names for row in await connection.fetch(f"select t::text from {name} t")]
    finally:
        await connection.close()
    assert rows and not files
    return "\n".join(rows).encode()


_urls: dict[str, str] = {}


async def drop_all() -> None:
    for url in _urls.values():
        await server().drop(url)
    _urls.clear()


def any_left() -> bool:
    return bool(_urls)
