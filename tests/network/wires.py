"""Guests and hosts for tests of networks: an engine that makes them real, and agents that stand in for machines."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hansa.engines.network import space
from hansa.engines.network.driver import NAMESPACES, USER_NAMESPACES, USERSPACE, LocalNetworks
from hansa.engines.ports import Direction, Group, HostNetwork, Neighbour, NetworkHost, Port, Range, Rule
from hansa.errors import Retry

from ..leftovers import ours

AGENT = Path(__file__).with_name("agent.py")
MODE = os.environ.get("HANSA_TEST_NETWORK", NAMESPACES)
KERNEL = MODE != USERSPACE


class Guest:
    """One agent, spoken to by name: `await guest.connect("10.0.0.5", 22)`."""

    def __init__(self, process: asyncio.subprocess.Process, port: Port) -> None:
        self.process, self.port = process, port
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def begin(cls, command: list[str], port: Port, descriptors: tuple[int, ...] = ()) -> Guest:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=descriptors, limit=1 << 24,
            env=space.environment() | {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}, start_new_session=True,
        )  # fmt: skip
        assert process.stdout is not None
        async with asyncio.timeout(20):
            assert json.loads(await process.stdout.readline())["ready"]
        return cls(process, port)

    def __getattr__(self, name: str) -> Any:
        async def ask(*given: Any, **also: Any) -> Any:
            number = next(self._numbers)
            waiting = self._waiting[number] = asyncio.get_running_loop().create_future()
            assert self.process.stdin is not None
            line = json.dumps({"id": number, "do": name, "with": given, "also": also})
            self.process.stdin.write(line.encode() + b"\n")
            async with asyncio.timeout(60):
                answer = await waiting
            del self._waiting[number]
            if "error" in answer:
                raise AssertionError(f"{self.port.name}: {name}: {answer['error']}")
            return answer["answer"]

        return ask

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            answer = json.loads(line)
            if (waiting := self._waiting.get(answer["id"])) is not None:
                waiting.set_result(answer)

    async def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
        self._reading.cancel()


@dataclass
class Net:
    """One network of one tenant, whose machines tests add; what it wants is told to its host as a whole."""

    host: Host
    prefix: str = "10.0.0"
    number: int = 1
    uid: str = field(default_factory=lambda: str(uuid.uuid4()))
    ports: dict[str, Port] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    neighbours: tuple[Neighbour, ...] = ()
    revision: int = 0

    @property
    def v6(self) -> str:
        return f"2001:db8:{self.number:x}"

    def wanted(self) -> HostNetwork:
        self.revision += 1
        members: dict[str, list[str]] = {uid: [] for uid in self.groups}
        for port in self.ports.values():
            for uid in port.groups:
                members.setdefault(uid, []).extend(a for a in (port.ipv4, port.ipv6) if a)
        groups = tuple(replace(g, members=tuple(members[g.uid]) + g.members) for g in self.groups.values())
        r = Range(f"{self.prefix}.0/24", f"{self.prefix}.1", f"{self.v6}::/64", f"{self.v6}::1")
        return HostNetwork(
            self.uid, self.revision, (f"{self.prefix}.0/24", f"{self.v6}::/48"), (r,), tuple(self.ports.values()), groups,
            self.neighbours, self.number,
        )  # fmt: skip

    async def tell(self) -> None:
        """As the loop does: what fails for now is tried again."""
        async with asyncio.timeout(20):
            while True:
                try:
                    await self.host.engine.apply(self.wanted())
                except Retry:
                    await asyncio.sleep(0.1)
                else:
                    return

    async def group(self, name: str, *rules: Rule, members: tuple[str, ...] = ()) -> None:
        """Make or change a group, and tell the host."""
        old = self.groups.get(name)
        self.groups[name] = Group(name, old.generation + 1 if old else 1, rules, members)
        await self.tell()

    async def join(self, guest: Guest, *groups: str) -> None:
        port = self.ports[guest.port.uid]
        self.ports[port.uid] = guest.port = replace(port, groups=groups, generation=port.generation + 1)
        await self.tell()

    async def change(self, guest: Guest, **fields: Any) -> None:
        self.ports[guest.port.uid] = guest.port = replace(self.ports[guest.port.uid], **fields)
        await self.tell()

    async def guest(self, name: str, *groups: str, last: int = 0, configure: bool = True) -> Guest:
        """A machine with an address, plugged in."""
        number = last or 10 + len(self.ports)
        port = Port(
            str(uuid.uuid4()), 1, name, f"02:00:00:00:{self.number:02x}:{number:02x}", f"{self.prefix}.{number}",
            f"{self.v6}::{number:x}", groups,
        )  # fmt: skip
        self.ports[port.uid] = port
        await self.tell()
        return await self.plug(port, configure=configure)

    async def plug(self, port: Port, *, configure: bool = True) -> Guest:
        link = await self.host.engine.plug(self.uid, port.uid)
        before = (
            ["unshare", "--net", "--"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--net", "--"]
        )
        words = [*before, sys.executable, str(AGENT)]
        if link.tap >= 0:
            guest = await Guest.begin([*words, "--tap", str(link.tap)], port, (link.tap,))
        else:
            guest = await Guest.begin([*words, "--local", link.local, "--remote", link.remote], port)
        link.close()
        self.host.guests.append(guest)
        if configure:
            await guest.setup(port.mac, f"{port.ipv4}/24", f"{self.prefix}.1", port.ipv6 or "")
        return guest

    async def leave(self, guest: Guest) -> None:
        await guest.end()
        del self.ports[guest.port.uid]
        await self.tell()


@dataclass
class Host:
    """An engine with its folder, and whoever was started on it."""

    engine: LocalNetworks
    folder: Path
    cloud: str
    guests: list[Guest] = field(default_factory=list)
    networks: list[Net] = field(default_factory=list)
    _numbers: Any = field(default_factory=lambda: itertools.count(1))

    def network(self, prefix: str = "10.0.0", number: int = 0) -> Net:
        made = Net(self, prefix, number or next(self._numbers))
        self.networks.append(made)
        return made

    def marks(self) -> dict[str, int]:
        return space.marked(self.cloud)

    def inside(self, what: str) -> list[str]:
        """Words that run a program where the process with this mark is, as its root."""
        pid = self.marks()[f"{self.cloud}/{what}"]
        user = [] if os.geteuid() == 0 and MODE == NAMESPACES else ["-U", "--preserve-credentials"]
        return ["nsenter", "-t", str(pid), *user, "-n", "--"]

    async def peer(self, address: str = "198.51.100.1") -> Guest:
        """Somebody beyond the uplink, on a wire that the test ties to it."""
        before = self.inside("uplink")
        port = Port("peer", 1, "peer", "", address, None)
        guest = await Guest.begin([*before, "unshare", "--net", "--", sys.executable, str(AGENT), "--none"], port)
        self.guests.append(guest)
        pid = guest.process.pid
        name = f"peer{pid % 10_000}"
        base = address.rpartition(".")[0]
        for words in (
            ["ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(pid)],
            ["ip", "addr", "add", f"{base}.254/24", "dev", name], ["ip", "link", "set", name, "up"],
        ):  # fmt: skip
            await run([*before, *words])
        for words in (
            ["ip", "addr", "add", f"{address}/24", "dev", "eth0"], ["ip", "link", "set", "eth0", "up"],
            ["ip", "route", "add", "default", "via", f"{base}.254"],
        ):  # fmt: skip
            done = await guest.run(*words)
            assert done["status"] == 0, done
        return guest

    async def end(self) -> None:
        for guest in self.guests:
            await guest.end()
        for network in self.networks:
            await self.engine.remove(network.uid)


_PROVED: list[NetworkHost] = []


@contextlib.asynccontextmanager
async def host(folder: Path, *, underlay: str = "", uplink: str = "none") -> AsyncIterator[Host]:
    """A host of the mode under test. Nothing of it is left behind, whatever happens."""
    cloud = ours(f"test{uuid.uuid4().hex[:8]}")
    run_folder = Path("/tmp") / f"hn-{cloud}"
    engine = LocalNetworks(run_folder, cloud_id=cloud, mode=MODE, uplink=uplink, underlay=underlay)
    made = Host(engine, run_folder, cloud)
    if not _PROVED:  # once a run: it takes a second
        _PROVED.append(await engine.host())
        assert _PROVED[0].healthy, _PROVED[0].message
    engine._healthy, engine._mode = _PROVED[0], _PROVED[0].mode
    try:
        yield made
    except BaseException:
        with contextlib.suppress(OSError):
            print((run_folder / "network.log").read_text()[-4000:])
        raise
    finally:
        await made.end()
        for pid in made.marks().values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM if "/daemon" in _mark_of(made, pid) else signal.SIGKILL)
        async with asyncio.timeout(20):
            while made.marks():
                await engine.held()
                await asyncio.sleep(0.05)
        subprocess.run(["rm", "-rf", str(run_folder)], check=True)


def _mark_of(made: Host, pid: int) -> str:
    return next((mark for mark, at in made.marks().items() if at == pid), "")


async def run(command: list[str]) -> str:
    return await space.run(None, *command)


def tcp(direction: str, first: int = 0, last: int = 0, *cidrs: str, group: str = "") -> Rule:
    ports = (first, last or first) if first else None
    return Rule(Direction(direction), "tcp", ports, cidrs, group)


def anything(direction: str, *cidrs: str, group: str = "") -> Rule:
    return Rule(Direction(direction), "all", None, cidrs, group)


OUT = anything("egress")
IN = anything("ingress")
__all__ = [
    "IN",
    "KERNEL",
    "MODE",
    "NAMESPACES",
    "OUT",
    "USERSPACE",
    "USER_NAMESPACES",
    "Guest",
    "Host",
    "Net",
    "anything",
    "host",
    "tcp",
]
