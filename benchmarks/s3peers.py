"""What S3 is held against: nginx and a bare ASGI application over the same files, what one core can hash and seal, what
the disk can flush, and another S3 server.

The bare application takes a body as the gateway must: MD5, SHA-256, AES-256-GCM and a write for each MiB of it, in one
thread. It knows no signatures, no index, no keys and no flush: it is the ceiling that the bytes themselves set.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from tests import ceph

from hansa.sdk.s3 import S3, Endpoint
from hansa.sdk.s3sign import Pair

UP_S = 20.0
PIECE = 256 << 10
NGINX = """
user root; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log; daemon off;
events {{ worker_connections 256; }}
http {{
  access_log off; sendfile on; tcp_nopush off; tcp_nodelay on; keepalive_requests 1000000; default_type application/octet-stream;
  open_file_cache max=1000; client_body_temp_path {folder}/n1; proxy_temp_path {folder}/n2; fastcgi_temp_path {folder}/n3;
  uwsgi_temp_path {folder}/n4; scgi_temp_path {folder}/n5;
  server {{ listen 127.0.0.1:{port}; root {folder}; }}
}}
"""
BARE = """
import hashlib, os, sys, uvicorn
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
folder, port, piece = sys.argv[1], int(sys.argv[2]), 256 << 10

async def get(path, send):
    file = os.open(folder + path, os.O_RDONLY)
    try:
        size = os.fstat(file).st_size
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
        while size > 0:
            data = os.read(file, piece)
            size -= len(data)
            await send({"type": "http.response.body", "body": data, "more_body": size > 0})
    finally:
        os.close(file)

def taken(file, held, number, seal, md5, sha):
    plain = b"".join(held)
    md5.update(plain)
    sha.update(plain)
    os.write(file, seal.encrypt(number.to_bytes(12, "big"), plain, None))

async def put(path, receive, send):
    file = os.open(folder + path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    md5, sha, seal, held, size, number, more = hashlib.md5(), hashlib.sha256(), AESGCM(os.urandom(32)), [], 0, 0, True
    while more:
        message = await receive()
        more = message.get("more_body", False)
        held.append(message["body"])
        size += len(message["body"])
        if size >= 4 * piece or not more:
            taken(file, held, number, seal, md5, sha)
            held, size, number = [], 0, number + 1
    os.close(file)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})

async def app(scope, receive, send):
    await (get(scope["path"], send) if scope["method"] == "GET" else put(scope["path"], receive, send))

uvicorn.run(app, port=port, http="httptools", loop="uvloop", access_log=False, log_level="error", lifespan="off")
"""


@dataclass(frozen=True, slots=True)
class Peer:
    """A server that runs: `pids` are those whose processor counts."""

    port: int
    pids: tuple[int, ...]

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"


@contextlib.contextmanager
def nginx(folder: Path) -> Iterator[Peer | None]:
    """Serves the files of a folder, where it is installed."""
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        yield None
        return
    port, settings = free_port(), folder / "nginx.conf"
    settings.write_text(NGINX.format(folder=folder, port=port))
    master = subprocess.Popen([program, "-p", str(folder), "-e", str(folder / "nginx.log"), "-c", str(settings)])
    try:
        _until_it_listens(port)
        workers = Path(f"/proc/{master.pid}/task/{master.pid}/children").read_text().split()
        yield Peer(port, (master.pid, *map(int, workers)))
    finally:
        master.terminate()
        master.wait()


@contextlib.contextmanager
def bare(folder: Path) -> Iterator[Peer]:
    """Serves the files of a folder, and takes new ones."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", BARE, str(folder), str(port)])
    try:
        _until_it_listens(port)
        yield Peer(port, (process.pid,))
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def another_s3() -> Iterator[tuple[Peer, Pair] | None]:
    """Ceph's gateway with its disk and monitor, where Debian's packages of it are there; with a bucket."""
    if not ceph.installed():
        yield None
        return
    server = ceph.Ceph()
    try:
        pair = Pair(ceph.ACCESS_KEY, ceph.SECRET_KEY, "us-east-1")
        client = S3(Endpoint(server.url, pair))
        client.make_bucket("bench")
        client.close()
        yield Peer(int(server.url.rpartition(":")[2]), server.pids()), pair
    finally:
        server.remove()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _until_it_listens(port: int) -> None:
    end = time.monotonic() + UP_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        assert time.monotonic() < end, f"nobody listens on {port}"
        time.sleep(0.05)


# -- limits -------------------------------------------------------------------------------------


def one_core(size: int = 64 << 20) -> float:
    """MB a processor second that MD5, SHA-256 and AES-256-GCM let through together."""
    data, seal = os.urandom(PIECE), AESGCM(os.urandom(32))
    md5, sha = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    began = time.process_time()
    for number in range(size // PIECE):
        md5.update(data)
        sha.update(data)
        seal.encrypt(number.to_bytes(12, "big"), data, None)
    return size / (time.process_time() - began) / 1e6


def disk_flushes(folder: Path, size: int, count: int) -> float:
    """Files of so many bytes a second, written and flushed one after the other."""
    data, began = os.urandom(size), time.perf_counter()
    for number in range(count):
        file = os.open(folder / f"flush{number}", os.O_WRONLY | os.O_CREAT, 0o600)
        os.write(file, data)
        os.fdatasync(file)
        os.close(file)
    took = time.perf_counter() - began
    for number in range(count):
        (folder / f"flush{number}").unlink()
    return count / took


def group_commits(folder: Path, size: int, group: int, rounds: int = 100) -> tuple[float, float]:
    """Rows of so many bytes that a bare SQLite makes durable, `group` a flush: per second, per processor second."""
    path, data = folder / "bare.db", os.urandom(size)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("pragma journal_mode=wal")
    connection.execute("pragma synchronous=full")
    connection.execute("create table objects (bucket, key, body, primary key (bucket, key))")
    cpu, began = time.process_time(), time.perf_counter()
    for turn in range(rounds):
        connection.execute("begin immediate")
        for n in range(group):
            connection.execute("insert into objects values ('b', ?, ?)", (f"{turn}/{n}", data))
        connection.execute("commit")
    wall, used = time.perf_counter() - began, time.process_time() - cpu
    connection.close()
    path.unlink()
    return group * rounds / wall, group * rounds / used
