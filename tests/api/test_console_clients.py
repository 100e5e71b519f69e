"""The console as its users have it: the SDK and the command line, against the server as `hansa up` sets it up."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pty
import signal
import socket
import sys
import termios
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx2
import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect

from hansa.api.carry import FRAME_BYTES_MAX
from hansa.edge.server import Server, make_server
from hansa.engines.simulated import SimulatedCompute
from hansa.errors import Conflict, Forbidden, NotFound
from hansa.sdk import Client, Connection, Ended, TimedOut, Unreachable
from hansa.sdk.console import Console
from hansa.wiring import Cloud

from ..programs import no_cloud
from .conftest import Talk
from .test_console import make_machine

pytestmark = pytest.mark.anyio
T = TypeVar("T")


@dataclass
class Served:
    """A cloud on loopback with one machine."""

    cloud: Cloud
    talk: Talk
    url: str
    server: Server
    path: str = ""
    clients: list[Client] = field(default_factory=list)

    def client(self) -> Client:
        connection = Connection(self.url, token=self.talk.token, project="demo", region="se-sto")
        self.clients.append(Client.connected(connection))
        return self.clients[-1]

    async def engine(self) -> tuple[SimulatedCompute, str]:
        engine = self.cloud.world.engines.compute("a-1")
        assert isinstance(engine, SimulatedCompute)
        return engine, str((await self.talk.read(self.path))["metadata"]["uid"])

    async def run(self, *words: str, typed: bytes = b"") -> tuple[int, bytes, bytes]:
        process = await self.start(*words, stdin=asyncio.subprocess.PIPE)
        async with asyncio.timeout(30):
            out, errors = await process.communicate(typed)
        assert process.returncode is not None
        return process.returncode, out, errors

    async def start(self, *words: str, **more: Any) -> asyncio.subprocess.Process:
        environment = no_cloud(
            HANSA_API_URL=self.url, HANSA_TOKEN=self.talk.token, HANSA_PROJECT="demo", HANSA_REGION="se-sto"
        )
        pipes = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE, **more}
        return await asyncio.create_subprocess_exec(sys.executable, "-m", "hansa", *words, env=environment, **pipes)


@pytest.fixture
async def served(cloud: Cloud, talk: Talk) -> AsyncIterator[Served]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = make_server(cloud.api)
    serving = asyncio.create_task(server.serve([listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    made = Served(cloud, talk, f"http://127.0.0.1:{listener.getsockname()[1]}", server)
    made.path = await make_machine(talk)
    yield made
    for client in made.clients:
        client.close()
    server.should_exit = True
    async with asyncio.timeout(10):
        await serving


async def beside(work: Callable[[], T]) -> T:
    """What blocks, in a thread of its own."""
    async with asyncio.timeout(30):
        return await asyncio.to_thread(work)


def read_until(console: Console, wanted: bytes) -> bytes:
    seen = b""
    while wanted not in seen:
        seen += console.read(timeout_s=10)
    return seen


# -- SDK ----------------------------------------------------------------------------------------


async def test_a_program_reads_and_types(served: Served) -> None:
    def work() -> None:
        with served.client().console("vm") as console:
            assert b"simulated: vm started" in console.before and console.ended == ""
            console.write(b"uname -a\n" + b"x" * 200_000 + b"end;")
            assert read_until(console, b"end;").endswith(b"x" * 200_000 + b"end;")
            with pytest.raises(TimedOut, match="for 0.05 s"):
                console.read(timeout_s=0.05)
        assert console.read(timeout_s=1) == b"" and console.ended == "closed"
        with pytest.raises(Ended, match="the console is closed"):
            console.write(b"x")

    await beside(work)
    async with asyncio.timeout(10):
        while served.cloud.api.consoles._open:
            await asyncio.sleep(0.01)


async def test_a_program_hears_that_the_machine_stopped(served: Served) -> None:
    engine, uid = await served.engine()
    console = await beside(lambda: served.client().console("vm"))
    engine.power_off(uid)
    assert b"simulated" in await beside(lambda: read_until(console, b"you write"))
    assert await beside(console.read) == b"" and console.ended == "the machine stopped"
    with pytest.raises(Conflict, match="switched itself off"):
        await beside(lambda: served.client().console("vm"))


async def test_a_program_is_refused_as_everywhere(served: Served) -> None:
    client = served.client()
    with pytest.raises(NotFound):
        await beside(lambda: client.console("nothing"))
    ticket = await beside(lambda: client.request("POST", client.path("vm", "vm") + "/console")["ticket"])
    (await beside(lambda: Console.open(served.url, ticket))).close()
    with pytest.raises(Forbidden, match="used before") as refused:
        await beside(lambda: Console.open(served.url, ticket))
    assert refused.value.detail.startswith("request ") and "/docs/reference/errors#forbidden" in refused.value.__notes__
    with pytest.raises(Unreachable, match="no console answers"):
        await beside(lambda: Console.open("http://127.0.0.1:1", ticket))


async def test_a_cloud_that_stops_breaks_the_connection(served: Served) -> None:
    console = await beside(lambda: served.client().console("vm"))
    served.server.should_exit = True
    with pytest.raises(Unreachable, match="open it again"):
        while await beside(console.read):
            pass


async def test_one_who_does_not_read_is_told_why_when_he_does(served: Served) -> None:
    client = served.client()
    url = (await beside(lambda: client.request("POST", client.path("vm", "vm") + "/console")))["url"]
    place, small = url.partition("?")[2], socket.socket()
    small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    small.connect(("127.0.0.1", int(served.url.rpartition(":")[2])))
    slow = await beside(
        lambda: connect(f"ws{served.url.removeprefix('http')}/console/v1?{place}", sock=small, legacy=True)
    )
    engine, uid = await served.engine()
    other = await beside(lambda: client.console("vm"))
    typing = await engine.console(uid)
    async with asyncio.timeout(20):
        while served.cloud.api.consoles._open[uid] == 2:
            await typing.write(b"z" * FRAME_BYTES_MAX)
            await beside(lambda: other.read(timeout_s=10))
    await typing.close()

    def read_all() -> None:
        while True:
            slow.recv(timeout=20)

    with pytest.raises(ConnectionClosedError) as closed:
        await beside(read_all)
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1013 and "too slowly" in closed.value.rcvd.reason
    await beside(lambda: (slow.close(), other.close()))


async def test_a_frame_that_is_too_large_is_refused_by_the_server_itself(served: Served) -> None:
    console = await beside(lambda: served.client().console("vm"))
    await beside(lambda: console._connection.send(b"x" * (FRAME_BYTES_MAX + 1)))
    with pytest.raises(Ended, match="closed the console"):
        while await beside(console.read):
            pass
    console.close()


async def test_the_server_logs_no_ticket(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger().setLevel(logging.DEBUG)  # as an operator may
    client = served.client()
    ticket = await beside(lambda: client.request("POST", client.path("vm", "vm") + "/console")["ticket"])
    (await beside(lambda: Console.open(served.url, ticket))).close()
    with pytest.raises(Forbidden):
        await beside(lambda: Console.open(served.url, ticket))
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("uvicorn")]
    assert not [line for line in ours if ticket in line or "handshake" in line]


# -- command line -------------------------------------------------------------------------------


async def test_a_pipe_is_typed_and_what_comes_of_it_is_shown(served: Served) -> None:
    code, out, errors = await served.run("console", "vm", "--linger", "0.5", typed=b"uname -a\n")
    assert code == 0 and errors == b""
    assert out.startswith(b"simulated: vm started") and out.endswith(b"uname -a\n")


async def test_until_waits_for_what_comes_after_the_first_byte_typed(served: Served) -> None:
    code, out, _ = await served.run("console", "vm/vm", "--until", "done", "--timeout", "20", typed=b"echo done\n")
    assert code == 0 and b"echo done" in out
    code, _, errors = await served.run("console", "vm", "--until", "started", "--timeout", "0.3", typed=b"x\n")
    assert code == 4 and b"vm/vm did not write 'started' within 0 s" in errors
    code, out, _ = await served.run("console", "vm", "--until", "started", "--timeout", "20")  # nothing is typed
    assert code == 0 and b"started" in out


async def test_until_ends_when_the_machine_does(served: Served) -> None:
    engine, uid = await served.engine()
    process = await served.start("console", "vm", "--until", "never", stdin=asyncio.subprocess.DEVNULL)
    assert process.stdout is not None
    async with asyncio.timeout(20):
        await process.stdout.readuntil(b"you write")
        engine.power_off(uid)
        _, errors = await process.communicate()
    assert process.returncode == 1 and b"ended before 'never' came" in errors


async def test_refusals_are_lines_and_exit_statuses(served: Served) -> None:
    engine, uid = await served.engine()
    engine.power_off(uid)
    code, out, errors = await served.run("console", "vm")
    assert code == 5 and out == b"" and b"hansa start vm" in errors and errors.count(b"\n") <= 3
    assert (await served.run("console", "nothing"))[0] == 3
    assert (await served.run("console", "disk/vm-d"))[0] == 2
    assert (await served.run("console"))[0] == 2


async def test_the_opening_is_among_the_events(served: Served) -> None:
    await served.run("console", "vm", "--linger", "0")
    _, out, _ = await served.run("events", "vm/vm")
    assert b"opened the console" in out.splitlines()[-1]


@contextlib.asynccontextmanager
async def terminal(served: Served) -> AsyncIterator[tuple[int, asyncio.subprocess.Process]]:
    """`hansa console vm` on a terminal: the other end of it, and the process."""
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    before = termios.tcgetattr(theirs)
    process = await served.start("console", "vm", stdin=theirs, stdout=theirs, stderr=theirs)
    try:
        yield ours, process
        async with asyncio.timeout(20):
            await process.wait()
        assert termios.tcgetattr(theirs) == before, "the terminal was not put back"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(ours)
        os.close(theirs)


async def shown(at: int, wanted: bytes) -> bytes:
    seen = b""
    async with asyncio.timeout(20):
        while wanted not in seen:
            with contextlib.suppress(BlockingIOError):
                seen += os.read(at, 65536)
            await asyncio.sleep(0.01)
    return seen


async def test_on_a_terminal_each_key_goes_to_the_guest_until_the_one_that_leaves(served: Served) -> None:
    async with terminal(served) as (ours, process):
        seen = await shown(ours, b"you write")
        assert b"console of vm/vm; Ctrl-] leaves it" in seen
        os.write(ours, b"\x03\x1a\x04hi;")  # Ctrl-C, Ctrl-Z and Ctrl-D are the guest's
        assert b"\x03\x1a\x04hi;" in await shown(ours, b"hi;")
        os.write(ours, b"bye;\x1dnot this")
        seen = await shown(ours, b"left the console")
        assert b"not this" not in seen and b"vm/vm: left the console" in seen
    assert process.returncode == 0
    assert b"bye;" in (await served.talk.call("GET", f"{served.path}/logs")).content


async def test_a_terminal_is_put_back_when_the_machine_stops(served: Served) -> None:
    engine, uid = await served.engine()
    async with terminal(served) as (ours, process):
        await shown(ours, b"you write")
        engine.power_off(uid)
        await shown(ours, b"vm/vm: the machine stopped")
    assert process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_a_terminal_is_put_back_when_the_command_is_ended(served: Served, number: signal.Signals) -> None:
    async with terminal(served) as (ours, process):
        await shown(ours, b"you write")
        process.send_signal(number)
    assert process.returncode == 128 + number


async def test_http_goes_on_beside_a_console(served: Served) -> None:
    console = await beside(lambda: served.client().console("vm"))
    async with httpx2.AsyncClient(base_url=served.url, trust_env=False) as http:
        assert (await http.get("/healthz")).status_code == 200
        upgrade = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        }
        answer = await http.get("/console/v1", params={"ticket": "x"}, headers=upgrade)
    assert (
        answer.status_code == 403
        and answer.json()["reason"] == "Forbidden"
        and answer.headers["content-type"] == "application/json"
    )
    await beside(console.close)
