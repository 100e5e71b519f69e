"""Two API and two control processes over one PostgreSQL: any is killed at any time, all converges, nothing is twice.

The zones are simulated: their hosts live in whichever control process has the folder's engines, and begin again empty
in the next one, as real ones would after a loss of power.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import pytest

from hansa.clock import SystemClock, SystemIds
from hansa.engines.shared import SharedEngines
from hansa.errors import AlreadyExists, HansaError, NotFound
from hansa.hosting import socket_of
from hansa.sdk.client import Client
from hansa.sdk.errors import Unreachable
from hansa.store.open import open_store

from ..api.conftest import FLEET
from ..postgres import server
from ..programs import no_cloud

pytestmark = pytest.mark.anyio
T = TypeVar("T")
KILLS = 40 if os.environ.get("HANSA_LONG") else 8
MACHINES = 12
SPEC = {"computeProfileRef": "a1a.s", "placement": {"zone": "b"}}
DISK = {"diskSize": {"amount": 1, "unit": "GB"}, "placement": {"zone": "b"},
        "source": {"type": "image", "diskImageRef": "/compute/global/diskImages/evroc/tiny.1"}}  # fmt: skip


class Processes:
    """`hansa serve` in roles, by name: api-1, api-2 on one port; control-1, control-2 with ports for health."""

    def __init__(self, folder: Path, database: str) -> None:
        self.folder, self.data = folder, folder / "data"
        self.fleet = folder / "fleet.yaml"
        self.fleet.write_text(FLEET.model_dump_json(by_alias=True, exclude_defaults=True))
        self.port, *rest = free_ports(3)
        self.ports = {"api-1": self.port, "api-2": self.port, "control-1": rest[0], "control-2": rest[1]}
        self.environment = no_cloud(HANSA_DATABASE=database)
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *more: str, data: Path | None = None) -> subprocess.Popen[bytes]:
        words = ["serve", "--role", name.split("-")[0], "--data", str(data or self.data), "--fleet", str(self.fleet)]
        with (self.folder / f"{name}.out").open("wb") as out, (self.folder / f"{name}.err").open("ab") as errors:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", "hansa", *words, "--port", str(self.ports[name]), *more],
                stdin=subprocess.DEVNULL, stdout=out, stderr=errors, env=self.environment,
            )  # fmt: skip
        return self.running[name]

    async def ready(self, name: str) -> None:
        async with asyncio.timeout(90):
            while b"ready" not in (self.folder / f"{name}.out").read_bytes():
                assert self.running[name].poll() is None, self.said(name)
                await asyncio.sleep(0.05)

    def kill(self, name: str) -> None:
        self.running[name].kill()
        self.running[name].wait()

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.err").read_text()

    def get(self, name: str, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[name]}{path}", timeout=10) as answer:
            return str(answer.read().decode())

    def end(self) -> None:
        for process in self.running.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()
            process.wait()


def free_ports(count: int) -> list[int]:
    open_now = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in open_now]
    for each in open_now:
        each.close()
    return ports


async def beside(work: Callable[..., T], *words: Any) -> T:
    return await asyncio.to_thread(work, *words)


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[tuple[Processes, str]]:
    url = await server().empty()
    made = Processes(tmp_path, url)
    yield made, url
    await beside(made.end)
    with contextlib.suppress(OSError):
        identity = (made.data / "cloud-id").read_text().strip()
        socket_of(identity).unlink(missing_ok=True)
        socket_of(identity).parent.rmdir()
    await server().drop(url)


def firmly(work: Callable[[], T]) -> T:
    """As a client does who must not give up: a broken connection is no answer."""
    end = time.monotonic() + 90
    while True:
        try:
            return work()
        except Unreachable:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def make(client: Client, number: int) -> None:
    with contextlib.suppress(AlreadyExists):  # the answer to the first POST was lost with its process
        firmly(lambda: client.create("disk", f"d{number}", DISK))
    spec = {**SPEC, "disks": [{"diskRef": f"d{number}", "bootFrom": True}]}
    with contextlib.suppress(AlreadyExists):
        firmly(lambda: client.create("vm", f"m{number}", spec))


def remove(client: Client, kind: str, name: str) -> None:
    with contextlib.suppress(NotFound):
        firmly(lambda: client.delete(kind, name))
    firmly(lambda: gone(client, kind, name))


def gone(client: Client, kind: str, name: str) -> None:
    with contextlib.suppress(NotFound):
        client.wait(kind, name, until="deleted", timeout_s=120)


async def test_any_process_may_be_killed_at_any_time(processes: tuple[Processes, str]) -> None:
    cloud, url = processes
    for name in cloud.ports:
        cloud.start(name)
    for name in cloud.ports:
        await cloud.ready(name)
    client = await beside(Client.from_environment, cloud.data)
    dice = random.Random(int(os.environ.get("HANSA_SEED", "5")))

    async def killing() -> None:
        for _ in range(KILLS):
            await asyncio.sleep(dice.uniform(0.2, 1.0))
            name = dice.choice(list(cloud.ports))
            await beside(cloud.kill, name)
            cloud.start(name)
            if dice.random() < 0.7:
                await cloud.ready(name)

    def working() -> None:
        for number in range(MACHINES):
            make(client, number)

    await asyncio.gather(killing(), beside(working))
    for number in range(MACHINES):
        found = await beside(firmly, lambda n=number: client.wait("vm", f"m{n}", timeout_s=120))
        assert found["status"]["virtualMachineStatus"] == "Running"
    await nothing_is_twice(cloud, url)
    for name in cloud.ports:
        await cloud.ready(name)
        assert json.loads(await beside(cloud.get, name, "/health/ready"))["ready"] is True
    for number in range(MACHINES):
        await beside(remove, client, "vm", f"m{number}")
    for number in range(MACHINES):
        await beside(remove, client, "disk", f"d{number}")
    client.close()
    await nothing_is_left(cloud, url)


async def nothing_is_twice(cloud: Processes, url: str) -> None:
    """Each machine was made once, stands on one host, in the store as in the engines, and holds what it needs there."""
    store = await open_store(url, clock=SystemClock(), ids=SystemIds())
    connection = await asyncpg.connect(url)
    try:
        made = await connection.fetch("select name, count(*) from changes where kind = 'VirtualMachine' and act = 'create' group by name")  # fmt: skip
        assert sorted((r[0], r[1]) for r in made) == sorted((f"m{n}", 1) for n in range(MACHINES))
        machines = await connection.fetch("select uid, status from objects where kind = 'VirtualMachine'")
        hosts = {row["uid"]: json.loads(row["status"])["host"] for row in machines}
        claims = [h for h in await store.claims("hosts", below=True) if h.claim.key == "vcpus"]
        assert {h.owner: h.claim.scope for h in claims} == {uid: f"hosts/{host}" for uid, host in hosts.items()}
        assert len(claims) == MACHINES
        addresses = [(json.loads(r["status"])["networking"]) for r in machines]
        private = [json.dumps(a, sort_keys=True) for a in addresses]
        assert len(set(private)) == MACHINES
    finally:
        await connection.close()
        await store.close()
    async with asyncio.timeout(90):
        while (seen := await held(cloud)) != Counter(hosts.items()):
            assert max(seen.values(), default=0) <= 1, seen
            await asyncio.sleep(0.2)


async def held(cloud: Processes) -> Counter[tuple[str, str]]:
    """(uid, host) of every machine that the engines have, asked as a control process asks."""
    identity = (cloud.data / "cloud-id").read_text().strip()
    engines = SharedEngines(socket_of(identity), lambda host: True, lambda zone: True)
    found: Counter[tuple[str, str]] = Counter()
    for region in FLEET.regions:
        for host in region.hosts:
            compute = engines.compute(host.id)
            assert compute is not None
            with contextlib.suppress(HansaError):  # the process is just being replaced: asked again
                found.update((each.uid, host.id) for each in await compute.held())
    return found


async def nothing_is_left(cloud: Processes, url: str) -> None:
    store = await open_store(url, clock=SystemClock(), ids=SystemIds())
    try:
        assert await store.claims("hosts", below=True) == []
    finally:
        await store.close()
    async with asyncio.timeout(90):
        while await held(cloud):
            await asyncio.sleep(0.2)


async def test_both_control_processes_work_and_the_hosts_move(processes: tuple[Processes, str]) -> None:
    cloud, _ = processes
    for name in ("api-1", "control-1", "control-2"):
        cloud.start(name)
        await cloud.ready(name)
    client = await beside(Client.from_environment, cloud.data)

    def several(first: int) -> None:
        for number in range(first, first + 6):
            make(client, number)
        for number in range(first, first + 6):
            client.wait("vm", f"m{number}", timeout_s=90)

    await beside(several, 0)
    passes = [await beside(passes_of, cloud, name) for name in ("control-1", "control-2")]
    assert min(passes) > 0, passes
    drives = [name for name in ("control-1", "control-2") if "this process drives the hosts" in cloud.said(name)]
    assert len(drives) == 1  # the kernel gave the lock to one
    with pytest.raises(urllib.error.HTTPError, match="404"):
        await beside(cloud.get, drives[0], "/openapi.json")  # the API is elsewhere
    logs = await beside(client.logs, "m0")
    assert "simulated: m0 started" in logs  # the API has no engines and asked the one who has
    with client.console("m0") as console:
        console.write(b"hello-there\n")
        seen = console.before
        while b"hello-there" not in seen:
            seen += await beside(console.read, 10)
    await beside(cloud.kill, drives[0])
    hands = cloud.data / "hands"
    async with asyncio.timeout(30):  # the others see that it is gone, and take up what it had
        while len([f for f in hands.iterdir() if not f.name.startswith(".")]) > 2:
            await asyncio.sleep(0.05)
    other = next(name for name in ("control-1", "control-2") if name not in drives)
    async with asyncio.timeout(60):
        while "this process drives the hosts" not in cloud.said(other):
            await asyncio.sleep(0.05)
    await beside(several, 10)
    client.close()


def passes_of(cloud: Processes, name: str) -> float:
    lines = cloud.get(name, "/metrics").splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("hansa_loop_pass_seconds_count"))


async def test_hosts_belong_to_one_folder(processes: tuple[Processes, str], tmp_path: Path) -> None:
    cloud, _ = processes
    cloud.start("control-1")
    await cloud.ready("control-1")
    other = tmp_path / "other"
    refused = cloud.start("control-2", data=other)
    assert await beside(refused.wait, 60) == 1
    assert "driven from" in cloud.said("control-2") and "--take-hosts" in cloud.said("control-2")
    await beside(cloud.kill, "control-1")
    cloud.start("control-2", "--take-hosts", data=other)
    await cloud.ready("control-2")
    async with asyncio.timeout(60):
        while "this process drives the hosts" not in cloud.said("control-2"):
            await asyncio.sleep(0.05)
    identity = (other / "cloud-id").read_text().strip()
    await beside(cloud.end)
    with contextlib.suppress(OSError):
        socket_of(identity).parent.rmdir()


async def test_a_process_with_another_fleet_file_is_refused(processes: tuple[Processes, str]) -> None:
    cloud, _ = processes
    cloud.start("control-1")
    await cloud.ready("control-1")
    before = json.loads(cloud.fleet.read_text())
    changed = {**before, "regions": [{**before["regions"][0], "name": "Renamed"}, *before["regions"][1:]]}
    cloud.fleet.write_text(json.dumps(changed))
    for name in ("control-2", "api-1"):
        refused = cloud.start(name)
        assert await beside(refused.wait, 60) == 1
        pid = cloud.running["control-1"].pid
        assert f"not the one of process {pid}" in cloud.said(name) and "stop them all" in cloud.said(name)
    cloud.fleet.write_text(json.dumps(before, indent=1))  # says the same
    cloud.start("api-1")
    await cloud.ready("api-1")
    client = await beside(Client.from_environment, cloud.data)
    region = before["regions"][0]["id"]
    assert (await beside(client.get, "region", region))["spec"]["name"] == before["regions"][0]["name"]
    for name in ("control-1", "api-1"):  # both are killed: the kernel knows at once
        await beside(cloud.kill, name)
    cloud.fleet.write_text(json.dumps(changed))
    cloud.start("api-1")
    await cloud.ready("api-1")
    assert (await beside(client.get, "region", region))["spec"]["name"] == "Renamed"
    client.close()


@pytest.mark.parametrize("role", ["api", "control"])
def test_on_sqlite_one_process_does_both(tmp_path: Path, role: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "hansa", "serve", "--role", role, "--data", str(tmp_path / "d")],
        capture_output=True, text=True, timeout=60, env=no_cloud(),
    )  # fmt: skip
    assert ran.returncode == 1 and "needs --database postgresql://" in ran.stderr
