"""GET and POST through the API against a bare Starlette application on the same server; memory when idle.

Load comes from `wrk` (Debian's package) where it is installed, else from a small client of our own; both
sides of a ratio always see the same one. Figures are per CPU second of the server.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from threading import Thread
from typing import Any

from hansa.sdk.client import Client

SECONDS, CONNECTIONS = 4, 8
BARE = """
import sys, uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

BODY = b'{"metadata":{"id":"x"},"spec":{"a":"' + b"x" * 600 + b'"}}'

async def get(request):
    return Response(BODY, media_type="application/json")

async def post(request):
    await request.json()
    return Response(BODY, 201, media_type="application/json")

uvicorn.run(Starlette(routes=[Route("/x", get), Route("/x", post, methods=["POST"])]), port=int(sys.argv[1]),
            http="httptools", loop="uvloop", access_log=False, log_level="error")
"""


def run() -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server, client = _hansa(folder)
        bare, port = _bare()
        try:
            time.sleep(2)
            yield {"what": "memory of hansa up, idle", "rss_MiB": _rss(server.pid), "budget_MiB": 120}
            client.create("pg", "one", {"strategy": {"type": "spread"}, "placement": {"zone": "a"}})
            path, token = client.path("pg", "one"), client.headers()
            yield _compare("GET", server, client.transport.url, path, token, None, bare, port)
            yield _compare("POST", server, client.transport.url, path.rsplit("/", 1)[0], token, "pg", bare, port)
        finally:
            client.close()
            for process in (server, bare):
                process.terminate()
                process.wait()


def _hansa(folder: Path) -> tuple[subprocess.Popen[bytes], Client]:
    out = folder / "out"
    with out.open("wb") as file:
        server = subprocess.Popen(
            [sys.executable, "-m", "hansa", "up", "--data", str(folder / "data"), "--port", "0"], stdout=file
        )
    while b"ready" not in out.read_bytes():
        time.sleep(0.05)
    return server, Client.from_environment(folder / "data")


def _bare() -> tuple[subprocess.Popen[bytes], int]:
    port = 18_000 + os.getpid() % 1000
    return subprocess.Popen([sys.executable, "-c", BARE, str(port)]), port


def _compare(
    method: str, server: Any, url: str, path: str, headers: dict[str, str], kind: str | None, bare: Any, port: int
) -> dict[str, Any]:
    ours = _rate(server.pid, int(url.rsplit(":", 1)[1]), method, path, headers, kind)
    limit = _rate(bare.pid, port, method, "/x", {}, kind)
    return {"what": f"{method} through the API", "per_cpu_s": round(ours), "bare_starlette_per_cpu_s": round(limit),
            "ratio": round(ours / limit, 2), "aim": 0.35}  # fmt: skip


def _rate(pid: int, port: int, method: str, path: str, headers: dict[str, str], kind: str | None) -> float:
    """Requests a CPU second of the server."""
    before = cpu_s(pid)
    if method == "GET" and shutil.which("wrk"):
        words = [w for name, value in headers.items() for w in ("-H", f"{name}: {value}")]
        said = subprocess.run(["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", *words, f"http://127.0.0.1:{port}{path}"],
                              capture_output=True, text=True, check=True).stdout  # fmt: skip
        done = int(said.split(" requests in")[0].split()[-1])
    else:
        done = load(port, method, path, headers, kind)
    return done / (cpu_s(pid) - before)


def load(port: int, method: str, path: str, headers: dict[str, str], kind: str | None) -> int:
    counts, mark = [0] * CONNECTIONS, time.time_ns() % 10**12  # no name comes twice
    end = time.monotonic() + SECONDS

    def work(i: int) -> None:
        connection = HTTPConnection("127.0.0.1", port)
        while time.monotonic() < end:
            spec = {"strategy": {"type": "spread"}, "placement": {"zone": "a"}}
            body = json.dumps({"metadata": {"id": f"g{port}-{mark}-{i}-{counts[i]}"}, "spec": spec}) if kind else None
            connection.request(method, path, body, {**headers, "Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            assert answer.status in (200, 201), answer.status
            counts[i] += 1
        connection.close()

    threads = [Thread(target=work, args=(i,)) for i in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts)


def cpu_s(pid: int) -> float:
    return sum(_cpu_of(each) for each in _tree(pid))


def _cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss(pid: int) -> int:
    pages = sum(int(Path(f"/proc/{each}/statm").read_text().split()[1]) for each in _tree(pid))
    return pages * os.sysconf("SC_PAGE_SIZE") // (1 << 20)


def _tree(pid: int) -> list[int]:
    """A process and its children: `hansa up` is a supervisor above the one that works."""
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
