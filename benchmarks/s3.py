"""Objects by S3, as `hansa up` serves it, beside nginx and a bare ASGI application over the same bytes, the digests and
ciphers of one core, the disk, and another S3 server. Of nginx and that other server there are figures where they are installed.

All that goes in is signed, encrypted and durable; what comes out is signed for and decrypted. Rates are per processor
second of the gateway's process (user and system), which a busy machine does not blur, and per second of the clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks import s3peers
from benchmarks.s3load import Body, Load, Sent, Signer, load, plain_get, plain_put
from benchmarks.s3peers import Peer
from hansa.objectindex.open import open_index
from hansa.objectindex.records import Facts, NewVersion, Versioning
from hansa.sdk.client import Client
from hansa.sdk.s3 import S3, Endpoint

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
CLIENTS = (1, 16)
# Requests in all, by size and clients.
GETS = {
    (4 * KIB, 1): 1000, (4 * KIB, 16): 4000, (MIB, 1): 100, (MIB, 16): 240, (64 * MIB, 1): 8, (64 * MIB, 16): 16,
    (GIB, 1): 2,
}  # fmt: skip
PUTS = {
    (4 * KIB, 1): 150, (4 * KIB, 16): 2400, (MIB, 1): 32, (MIB, 16): 96, (64 * MIB, 1): 3, (64 * MIB, 16): 16,
    (GIB, 1): 1,
}  # fmt: skip
ROUNDS = 3
NAMES = {4 * KIB: "4 KiB", MIB: "1 MiB", 64 * MIB: "64 MiB", GIB: "1 GiB"}
KEYS, PAGE, PAGES = 100_000, 1000, 300
PSS_MIB_MAX = 300
LOOK_S = 0.05
UP_S = 60.0
GET_AIM, PUT_AIM = 0.5, 0.8  # of the bare application's bytes
SMALL_GETS_AIM, SMALL_PUTS_AIM, PAGES_AIM = 5000, 1500, 150


def run(*, long: bool = False) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name).absolute()
        files = folder / "files"
        files.mkdir()
        with _hansa(folder) as ours, s3peers.nginx(files) as nginx, s3peers.bare(files) as bare:
            bench = _Bench(ours, nginx, bare, files)
            sizes = (4 * KIB, MIB, 64 * MIB, *([GIB] if long else []))
            yield from _limits(files)
            for size in sizes:
                yield from bench.size(size)
            yield _listed(ours)
            yield _memory(ours)
        yield from _other()


# -- what runs ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Ours:
    """`hansa up`: its gateway, one bucket, and how requests to it are signed."""

    gateway: Peer
    signer: Signer
    data: Path
    bucket: str

    def client(self) -> S3:
        return S3(Endpoint.from_environment(self.data))


@contextlib.contextmanager
def _hansa(folder: Path) -> Iterator[_Ours]:
    out, data = folder / "out", folder / "data"
    settings = {"HANSA_UPLINK": "none", "HANSA_S3_REQUEST_RATE": "1000000"}
    with out.open("wb") as file, (folder / "err").open("wb") as errors:
        server = subprocess.Popen(
            [sys.executable, "-m", "hansa", "up", "--data", str(data), "--port", "0"], stdout=file, stderr=errors,
            env={**os.environ, **settings},
        )  # fmt: skip
    try:
        end = time.monotonic() + UP_S
        while b"ready" not in out.read_bytes():
            assert server.poll() is None and time.monotonic() < end, (folder / "err").read_text()[-2000:]
            time.sleep(0.05)
        endpoint = Endpoint.from_environment(data)
        client = S3(endpoint)
        client.make_bucket("bench")
        client.close()
        told = Client.from_environment(data)
        uid = str(told.get("bucket", "bench")["metadata"]["uid"])
        told.close()
        host = endpoint.url.rpartition("//")[2]
        gateway = Peer(int(host.rpartition(":")[2]), _gateways(server.pid))
        yield _Ours(gateway, Signer(endpoint.pair, host, "bench"), data, uid)
    finally:
        server.terminate()
        server.wait()


def _gateways(supervisor: int) -> tuple[int, ...]:
    """The processes of S3 among those of `hansa up`."""
    children = [int(pid) for pid in Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()]
    found = [pid for pid in children if b"\0--role\0s3\0" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert found, "no process of `hansa up` serves S3"
    return tuple(found)


# -- bytes in and out ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Bench:
    ours: _Ours
    nginx: Peer | None
    bare: Peer
    files: Path

    def size(self, size: int) -> Iterator[dict[str, Any]]:
        """PUT and GET of one size: the bytes of the peers' file are those that went in."""
        body = Body.of(size)
        with (self.files / str(size)).open("wb") as file:
            for _ in range(body.times):
                file.write(body.grain)
        clients = CLIENTS if size < GIB else (1,)
        for each in clients:
            yield self._put(body, each)
        for each in clients:
            yield self._get(body.size, each)

    def _put(self, body: Body, clients: int) -> dict[str, Any]:
        each = PUTS[body.size, clients] // clients
        signer, at, turns = self.ours.signer, f"{body.size}/{clients}", count()

        def signed(turn: int, client: int) -> Sequence[Sent]:
            return [signer.put(f"{at}/{turn}/{client}-{n}", body) for n in range(each)]

        peer = [plain_put("/put{client}", self.bare.host, body)] * each
        best = _best(
            ours=lambda: _load(self.ours.gateway, clients, partial(signed, next(turns))),
            bare_asgi=lambda: _load(self.bare, clients, lambda client: [_named(sent, client) for sent in peer]),
        )
        for left in self.files.glob("put*"):
            left.unlink()
        if body.size <= 16 * KIB:
            aim: dict[str, Any] = {"aim_per_cpu_s": SMALL_PUTS_AIM if clients > 1 else None}
        else:
            aim = {"aim_ratio": PUT_AIM if body.size >= 64 * MIB else None}
        return _figure(f"PUT {NAMES[body.size]}", clients, body.size, best, aim)

    def _get(self, size: int, clients: int) -> dict[str, Any]:
        each, signer = GETS[size, clients] // clients, self.ours.signer
        stored = min(each, max(1, PUTS[size, clients] // clients))

        def presigned(client: int) -> Sequence[Sent]:
            made = [signer.get(f"{size}/{clients}/0/0-{n}", size) for n in range(stored)]
            return [made[n % stored] for n in range(each)]

        def plain(peer: Peer, client: int) -> Sequence[Sent]:
            return [plain_get(f"/{size}", peer.host, size)] * each

        peers = {"bare_asgi": self.bare, "nginx": self.nginx}
        best = _best(
            ours=lambda: _load(self.ours.gateway, clients, presigned),
            **{name: partial(_load, peer, clients, partial(plain, peer)) for name, peer in peers.items() if peer},
        )
        if size <= 16 * KIB:
            aim: dict[str, Any] = {"aim_per_cpu_s": SMALL_GETS_AIM if clients > 1 else None}
        else:
            aim = {"aim_ratio": GET_AIM if size >= 64 * MIB else None}
        return _figure(f"GET {NAMES[size]}", clients, size, best, aim)


def _named(sent: Sent, client: int) -> Sent:
    return Sent(sent.head.replace(b"{client}", b"%d" % client), sent.body, sent.times, sent.size)


def _load(peer: Peer, clients: int, requests: Any) -> Load:
    return load(peer.port, peer.pids, clients, requests)


def _best(**runs: Callable[[], Load]) -> dict[str, Load]:
    """Each in turn, several times; of each the run that took the least: what else the machine does only adds to it."""
    rounds = [{name: run() for name, run in runs.items()} for _ in range(ROUNDS)]
    return {name: max((each[name] for each in rounds), key=lambda found: found.per_cpu_s) for name in runs}


def _figure(what: str, clients: int, size: int, best: dict[str, Load], aim: dict[str, Any]) -> dict[str, Any]:
    """Small objects in requests, large ones in MB. The ratio is to the bare application."""
    figure: dict[str, Any] = {"what": what, "clients": clients}
    for name, each in best.items():
        figure |= _rates("" if name == "ours" else f"{name}_", each, size)
    figure["ratio"] = round(best["ours"].per_cpu_s / best["bare_asgi"].per_cpu_s, 2)
    return figure | {name: value for name, value in aim.items() if value} | {"load": _busy()}


def _rates(name: str, found: Load, size: int) -> dict[str, Any]:
    if size < MIB:
        return {f"{name}per_cpu_s": round(found.per_cpu_s), f"{name}per_s": round(found.per_s)}
    return {f"{name}MB_per_cpu_s": round(found.mb_per_cpu_s), f"{name}MB_per_s": round(found.mb_per_s)}


def _busy() -> float:
    """Load of the machine over the last minute."""
    return round(os.getloadavg()[0], 1)


# -- limits, listings, memory -------------------------------------------------------------------


def _limits(folder: Path) -> Iterator[dict[str, Any]]:
    yield {"what": "MD5, SHA-256 and AES-256-GCM on one core", "MB_per_cpu_s": round(s3peers.one_core())}
    yield {
        "what": "4 KiB written and flushed, one after the other",
        "per_s": round(s3peers.disk_flushes(folder, 4 * KIB, 200)),
    }
    yield {
        "what": "64 MiB written and flushed",
        "MB_per_s": round(s3peers.disk_flushes(folder, 64 * MIB, 6) * 64 * MIB / 1e6),
    }
    wall, cpu = s3peers.group_commits(folder, 4 * KIB, 16)
    yield {"what": "4 KiB rows of a bare SQLite, 16 a flush", "per_s": round(wall), "per_cpu_s": round(cpu)}


def _listed(ours: _Ours) -> dict[str, Any]:
    """Pages of a thousand out of a hundred thousand keys."""
    client = ours.client()
    client.make_bucket("many")
    client.close()
    told = Client.from_environment(ours.data)
    asyncio.run(_fill(ours.data / "s3" / "index.db", str(told.get("bucket", "many")["metadata"]["uid"])))
    told.close()
    signer = Signer(ours.signer.pair, ours.signer.host, "many")
    starts = [f"{n * PAGE:08d}" for n in range(KEYS // PAGE)]

    def pages(client: int) -> Sequence[Sent]:
        return [signer.page(starts[(n + client) % len(starts)]) for n in range(PAGES // 4)]

    found = _load(ours.gateway, 4, pages)
    return {"what": f"list {PAGE} of {KEYS} keys", "per_cpu_s": round(found.per_cpu_s, 1), "per_s": round(found.per_s, 1),
            "aim_per_cpu_s": PAGES_AIM, "load": _busy()}  # fmt: skip


async def _fill(path: Path, bucket: str) -> None:
    """Beside the gateway, as another process of the index."""
    index, now = await open_index(path), time.time()
    facts = Facts(owner="0" * 64, owner_name="bench")
    for start in range(0, KEYS, PAGE):
        await asyncio.gather(*(
            index.publish(
                NewVersion(bucket, f"{n:08d}", f"{n:032x}", now, 0, "d41d8cd98f00b204e9800998ecf8427e", facts),
                Versioning.NEVER, project="bench",
            )
            for n in range(start, start + PAGE)
        ))  # fmt: skip
    await index.close()


def _memory(ours: _Ours) -> dict[str, Any]:
    """The most that the gateway held while an object of 1 GiB went in and came out."""
    before, body = _pss_mib(ours.gateway.pids), Body.of(GIB)
    put, get = ours.signer.put("whole", body), ours.signer.get("whole", GIB)
    most = {}
    for name, sent in (("in", put), ("out", get)):
        with _Watched(ours.gateway.pids) as seen:
            _load(ours.gateway, 1, lambda _, sent=sent: [sent])
        most[name] = seen.most
    return {"what": "PSS of the gateway with 1 GiB going in and out", "before_MiB": round(before),
            "in_MiB": round(most["in"]), "out_MiB": round(most["out"]), "aim_MiB": PSS_MIB_MAX, "load": _busy()}  # fmt: skip


class _Watched:
    """The most memory that some processes were seen to hold."""

    def __init__(self, pids: Sequence[int]) -> None:
        self.most, self._pids, self._end = 0.0, pids, threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._end.wait(LOOK_S):
            self.most = max(self.most, _pss_mib(self._pids))

    def __enter__(self) -> _Watched:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()


def _pss_mib(pids: Sequence[int]) -> float:
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


# -- another S3 server --------------------------------------------------------------------------


def _other() -> Iterator[dict[str, Any]]:
    """The same requests, to a server that is not ours: signed, not encrypted, durable."""
    with s3peers.another_s3() as made:
        if made is None:
            return
        peer, pair = made
        signer = Signer(pair, peer.host, "bench")
        for size, clients, each in ((4 * KIB, 16, 125), (MIB, 16, 12), (64 * MIB, 1, 4)):
            yield from _of_other(peer, signer, size, clients, each)


def _of_other(peer: Peer, signer: Signer, size: int, clients: int, each: int) -> Iterator[dict[str, Any]]:
    body = Body.of(size)

    def puts(client: int) -> Sequence[Sent]:
        return [signer.put(f"{size}/{client}-{n}", body) for n in range(each)]

    def gets(client: int) -> Sequence[Sent]:
        return [signer.get(f"{size}/{client}-{n}", size) for n in range(each)]

    for verb, requests in (("PUT", puts), ("GET", gets)):
        rates = _rates("", _load(peer, clients, requests), size)
        what = f"{verb} {NAMES[size]} by Ceph's gateway, disk and monitor"
        yield {"what": what, "clients": clients, **rates, "load": _busy()}
