"""A cloud of 100,000 stored objects beside one of 1,000: start, list of one project, get, create; what rest costs.

Both hold projects of a hundred objects each, of which one is a machine (stopped) and the others are disks; all of them
rest. Figures are medians of calls one after the other, on SQLite and, where Debian's package is there, on PostgreSQL.
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.postgres import BINARIES, Server

from hansa.api.admission import Gate
from hansa.api.caller import caller_of, principal
from hansa.clock import SystemClock, SystemIds
from hansa.config import Settings
from hansa.control.networks import default_network
from hansa.control.outcome import condition
from hansa.control.world import World
from hansa.dates import rfc3339
from hansa.kinds import catalogue
from hansa.kinds.compute import Disk
from hansa.kinds.resource import Key
from hansa.objectindex.nothing import NothingStored
from hansa.policy.decide import decide
from hansa.policy.verdict import Act, Rules
from hansa.sdk.client import Client
from hansa.sealing import Sealer
from hansa.store.open import open_store
from hansa.store.port import Create, LinkTo, Query, Write
from hansa.wiring import FleetEngines

assert catalogue.MODULES
SMALL, LARGE = 1_000, 100_000
EACH = 100  # objects of a project: itself, its default network and subnet, a machine, and disks
DISKS = EACH - 4
STARTS, LISTS, GETS, CREATES, CHECKS = 5, 200, 1000, 200, 5_000
KILLED = 20  # machines that are under way when the process is killed
QUIET_S, LIMIT_S = 10.0, 300.0
AIM = 2.0
SIZE = {"amount": 1, "unit": "GB"}
GROUP = {"strategy": {"type": "spread"}, "placement": {"zone": "b"}}


def run() -> Iterator[dict[str, Any]]:
    yield from _on("sqlite", None)
    if BINARIES.is_dir():
        server = Server(fsync="on", full_page_writes="on", autovacuum="on")
        try:
            yield from _on("postgresql", server)
        finally:
            server.remove()


def _on(database: str, server: Server | None) -> Iterator[dict[str, Any]]:
    figures: dict[int, dict[str, float]] = {}
    for count in (SMALL, LARGE):
        with tempfile.TemporaryDirectory(dir=".") as name:
            url = "" if server is None else asyncio.run(server.empty())
            figures[count] = _measured(_Cloud(Path(name), url), count)
    for what in (
        "start_s",
        "start_cpu_s",
        *(f"{call}_{unit}" for call in ("list", "get", "create") for unit in ("ms", "cpu_ms")),
    ):
        small, large = figures[SMALL][what], figures[LARGE][what]
        yield {"what": f"{what} with {LARGE} objects", "database": database, "figure": round(large, 3),
               f"with_{SMALL}": round(small, 3), "ratio": round(large / small, 2), "aim": AIM}  # fmt: skip
    for what in ("rss_MiB", "commits_at_rest", "quiet_s", "role_check_us", "decide_us", "killed_to_converged_s"):
        yield {"what": f"{what} with {LARGE} objects", "database": database, "figure": round(figures[LARGE][what], 2),
               f"with_{SMALL}": round(figures[SMALL][what], 2)}  # fmt: skip


@dataclass
class _Cloud:
    folder: Path
    database: str
    process: Any = None

    @property
    def store_at(self) -> str:
        return self.database or str(self.folder / "data" / "hansa.db")

    def start(self) -> tuple[float, float]:
        """Seconds until it serves, and processor seconds that it took for it."""
        out, began = self.folder / "out", time.perf_counter()
        words = ["--database", self.database] if self.database else []
        with out.open("wb") as file, (self.folder / "err").open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hansa", "up", "--data", str(self.folder / "data"), "--port", "0", *words],
                stdout=file, stderr=errors, env={"HANSA_UPLINK": "none", **os.environ},
            )  # fmt: skip
        while b"ready" not in out.read_bytes():
            assert self.process.poll() is None, (self.folder / "err").read_text()[-2000:]
            time.sleep(0.005)
        return time.perf_counter() - began, self.cpu_s()

    def cpu_s(self) -> float:
        tasks = [task for pid in self.family() for task in Path(f"/proc/{pid}/task").glob("*/schedstat")]
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9

    def family(self) -> list[int]:
        """The supervisor and its processes."""
        found = [int(self.process.pid)]
        for pid in found:
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                found += [int(child) for child in task.read_text().split()]
        return found

    def rss(self) -> float:
        pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self.family())
        return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()

    def client(self) -> Client:
        return Client.from_environment(self.folder / "data")


def _measured(cloud: _Cloud, count: int) -> dict[str, float]:
    cloud.start()
    organization = str(cloud.client().place["organization"])
    cloud.stop()
    asyncio.run(_fill(cloud.store_at, organization, count))
    cloud.start()
    _settle(cloud.client())
    cloud.stop()
    starts = []
    for _ in range(STARTS):
        starts.append(cloud.start())
        cloud.stop()
    cloud.start()
    client = cloud.client().at(project="p0", region="se-sto")
    try:
        _settle(client)
        found = {
            "start_s": statistics.median(s for s, _ in starts),
            "start_cpu_s": statistics.median(c for _, c in starts),
            **_timed("list", cloud, LISTS, lambda _: client.list("disk")),
            **_timed("get", cloud, GETS, lambda n: client.get("disk", f"d{n % DISKS}")),
            **_timed("create", cloud, CREATES, lambda n: client.create("pg", f"g{n}", GROUP)),
        }  # fmt: skip
        _settle(client)
        before = _commits(client)
        time.sleep(QUIET_S)
        found |= {"commits_at_rest": _commits(client) - before, "quiet_s": QUIET_S, "rss_MiB": cloud.rss()}
        found["killed_to_converged_s"] = _killed(cloud)
    finally:
        client.close()
        cloud.stop()
    return found | asyncio.run(_checks(cloud.store_at))


def _timed(name: str, cloud: _Cloud, times: int, call: Callable[[int], Any]) -> dict[str, float]:
    """Milliseconds of one call in the middle, and of the server's processor for each: the latter is what a busy
    machine does not blur."""
    took, before = [], cloud.cpu_s()
    for n in range(times):
        began = time.perf_counter()
        call(n)
        took.append((time.perf_counter() - began) * 1000)
    cpu_ms = (cloud.cpu_s() - before) * 1000 / times
    return {f"{name}_ms": statistics.median(took), f"{name}_cpu_ms": cpu_ms}


# -- what is stored -----------------------------------------------------------------------------


async def _fill(database: str, organization: str, count: int) -> None:
    """Projects with all that is in them, as the loop would have left them."""
    store = await open_store(database, clock=SystemClock(), ids=SystemIds())
    ids = SystemIds()
    world = World(store, FleetEngines(), SystemClock(), ids, Settings(), NothingStored(), Sealer(bytes(32)))
    for p in range(count // EACH):
        project, scope = Key("Project", "", f"p{p}"), f"projects/p{p}/regions/se-sto"
        spec = {"organization": organization, "name": f"p{p}"}
        writes: list[Write] = [Create(project, ids.uid(), spec, _ready(), observed=1, due=False)]
        writes += await default_network(f"p{p}", "se-sto", ["b"], world)
        for n in range(DISKS):
            writes.append(
                Create(
                    Key("Disk", scope, f"d{n}"), ids.uid(), {"diskSize": SIZE, "placement": {"zone": "b"}}, _ready(),
                    parents=(project,), observed=1, due=False,
                )
            )  # fmt: skip
        boot = LinkTo(Key("Disk", scope, "d0"), "spec.disks[0].diskRef", holds=True, free=False)
        machine = {"computeProfileRef": "c1a.s", "disks": [{"diskRef": "d0", "bootFrom": True}],
                   "placement": {"zone": "b"}, "running": False}  # fmt: skip
        writes.append(
            Create(Key("VirtualMachine", scope, "m"), ids.uid(), machine, links=(boot,), parents=(project,), due=True)
        )
        await store.commit(*writes, by="/hansa/bench")
    await store.close()


def _ready() -> dict[str, Any]:
    now = SystemClock().now()
    ready = condition("Ready", True, "Available", "", before=(), generation=1, now=now)
    return {"conditions": [ready.wire()], "since": rfc3339(now)}


# -- rest, death --------------------------------------------------------------------------------


def _metric(client: Client, name: str) -> float:
    text = client.transport.send("GET", "/metrics", {}).body.decode()
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))


def _commits(client: Client) -> float:
    return _metric(client, "hansa_store_commit_seconds_count")


def _settle(client: Client) -> None:
    """Until nothing is due."""
    end = time.monotonic() + LIMIT_S
    while _metric(client, "hansa_work_keys"):
        assert time.monotonic() < end, "the work does not end"
        time.sleep(0.1)


def _killed(cloud: _Cloud) -> float:
    """Seconds from the end of a process that had work under way until all of it is done by the next one."""
    client = cloud.client()
    for n in range(KILLED):
        client.create("disk", f"k{n}", {"diskSize": SIZE, "placement": {"zone": "b"}})
        machine = {
            "computeProfileRef": "c1a.s",
            "disks": [{"diskRef": f"k{n}", "bootFrom": True}],
            "placement": {"zone": "b"},
        }
        client.create("vm", f"k{n}", machine)
    client.close()
    began = time.perf_counter()
    for pid in cloud.family():
        os.kill(pid, signal.SIGKILL)
    cloud.process.wait()
    cloud.start()
    again = cloud.client()
    try:
        for n in range(KILLED):
            again.wait("vm", f"k{n}", timeout_s=60)
    finally:
        again.close()
    return time.perf_counter() - began


async def _checks(database: str) -> dict[str, float]:
    """Microseconds of a role check: with the look at the project's organisation, and the decision alone."""
    store = await open_store(database, clock=SystemClock(), ids=SystemIds())
    try:
        users = [stored.key for stored in (await store.list(Query("User"))).items]
        caller = await caller_of(store, await principal(store, f"/iam/users/{users[0].name}"))
        gate, key = Gate(store), Key("Disk", "projects/p0/regions/se-sto", "d1")
        assert await gate.may(caller, Act.READ, Disk, key)
        began = time.perf_counter()
        for _ in range(CHECKS):
            await gate.may(caller, Act.READ, Disk, key)
        checked, subject = time.perf_counter() - began, await gate.subject(Disk, key)
        began = time.perf_counter()
        for _ in range(CHECKS):
            decide(caller, Act.READ, subject, Rules())
        decided = time.perf_counter() - began
    finally:
        await store.close()
    return {"role_check_us": checked / CHECKS * 1e6, "decide_us": decided / CHECKS * 1e6}
