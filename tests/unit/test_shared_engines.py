"""Engines of another process: what goes wrong there is the same here, and nobody else may call."""

from __future__ import annotations

import asyncio
import os
import pickle
import struct
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hansa.engines import shared
from hansa.engines.ports import (
    ComputeEngine,
    Direction,
    Group,
    Held,
    HostNetwork,
    HostReport,
    HotDisk,
    ImageFormat,
    Machine,
    MachineReport,
    MachineState,
    Neighbour,
    NetworkHost,
    NetworkReport,
    Nic,
    PluggedDisk,
    Port,
    Range,
    Rule,
    Seed,
    Upload,
    Volume,
    VolumeReport,
    VolumeState,
)  # fmt: skip
from hansa.engines.shared import EngineServer, SharedEngines
from hansa.engines.wire import CALLS, Call, read_answer, read_call, write_answer, write_call, write_error
from hansa.errors import Bug, Full, HansaError, Invalid, Refused, Retry
from hansa.wiring import FleetEngines

pytestmark = pytest.mark.anyio


class Odd:
    """An engine that does what a test says."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.cancelled = self.begun = 0

    async def remove(self, uid: str) -> bool:
        if self.error is not None:
            raise self.error
        return uid == "gone"

    async def observe(self, uid: str) -> Any:
        self.begun += 1
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def log(self, uid: str, limit_bytes: int) -> bytes:
        return b"x" * limit_bytes

    async def secret(self) -> str:
        return "not for others"


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Odd, ComputeEngine, EngineServer]]:
    odd = Odd()
    with tempfile.TemporaryDirectory(prefix="hansa-") as run:
        server = EngineServer(FleetEngines(by_host={"h": odd}), Path(run) / "engines")  # type: ignore[dict-item]
        await server.open()
        engine = SharedEngines(server.path, lambda host: True, lambda zone: False).compute("h")
        assert engine is not None
        yield odd, engine, server
        await server.close()


@pytest.mark.parametrize(
    "error",
    [
        Retry("not now", after_s=3.5, detail="why"),
        Refused("DiskTooSmall", "too small", detail="d"),
        Full("hosts/h", "memory", owner="u"),
        Invalid.field("spec.x", "is wrong"),
    ],
)
async def test_an_error_comes_back_as_it_was(pair: Any, error: HansaError) -> None:
    odd, engine, _ = pair
    odd.error = error
    with pytest.raises(type(error)) as found:
        await engine.remove("u")
    assert found.value.__dict__ == error.__dict__ and str(found.value) == str(error)


async def test_a_bug_there_is_a_bug_here(pair: Any) -> None:
    odd, engine, _ = pair
    odd.error = ValueError("what cannot be")
    with pytest.raises(Bug, match="compute.remove: ValueError"):
        await engine.remove("u")
    odd.error = None
    assert await engine.remove("gone") is True and len(await engine.log("u", 5 << 20)) == 5 << 20


async def test_whoever_stops_waiting_ends_the_call(pair: Any) -> None:
    odd, engine, _ = pair
    waiting = asyncio.create_task(engine.observe("u"))
    async with asyncio.timeout(10):
        while not odd.begun:
            await asyncio.sleep(0.01)
        waiting.cancel()
        while not odd.cancelled:
            await asyncio.sleep(0.01)


async def test_only_the_ports_are_called(pair: Any) -> None:
    _, engine, server = pair
    with pytest.raises(AttributeError):
        engine.secret  # noqa: B018
    assert "compute.secret is not called from outside" in await answer_to(server, b'["compute","h","secret"]\n[]')
    assert "no.remove is not called from outside" in await answer_to(server, b'["no","h","remove"]\n["u"]')


async def answer_to(server: EngineServer, body: bytes) -> str:
    """What a frame of somebody's own making is told."""
    reader, writer = await asyncio.open_unix_connection(server.path)
    await shared._send(writer, body)
    async with asyncio.timeout(10):
        answer = await shared._receive(reader)
        assert await reader.read() == b""  # and the connection ends
    writer.close()
    assert answer[:1] == b"!"
    return answer.decode()


class Carrier:
    """Runs something when it is unpickled."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> Any:
        return Path.touch, (self.made,)


async def test_a_frame_cannot_carry_code(pair: Any, tmp_path: Path) -> None:
    _, engine, server = pair
    hostile = pickle.dumps(("compute", "h", "remove", (Carrier(tmp_path / "ran"),), {}))
    assert "Invalid JSON" in await answer_to(server, hostile)
    assert "Invalid JSON" in await answer_to(server, b'["compute","h","remove"]\n' + hostile)
    assert not (tmp_path / "ran").exists() and await engine.remove("gone") is True


HEAD = b'["compute","h","remove"]\n'


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "a call"),
        (b"\x00" * 100, "a call"),
        (b'{"port":"compute"}\n[]', "a call"),
        (b'["compute","h"]\n[]', "a call"),
        (b'["compute","h",7]\n[]', "a call: 2"),
        (HEAD + b"[]", "compute.remove: 0"),
        (HEAD + b"[7]", "compute.remove: 0: Input should be a valid string"),
        (HEAD + b'["u","more"]', "compute.remove"),
        (HEAD + b'[{"__class__":"os"}]', "compute.remove: 0"),
        (b'["compute","h","log"]\n["u","5"]', "compute.log: 1: Input should be a valid integer"),
        (b'["compute","h","apply"]\n[{"uid":"u"}]', "compute.apply: 0.name: Field required"),
        (HEAD + b"[" * 100_000, "compute.remove"),
        (b'["compute","x","remove"]\n["u"]', "!"),
    ],
)
async def test_a_frame_that_the_port_does_not_declare_is_refused(pair: Any, body: bytes, why: str) -> None:
    odd, engine, server = pair
    odd.error = AssertionError("it was called")
    assert why in (told := await answer_to(server, body)) and "it was called" not in told
    odd.error = None
    assert await engine.remove("gone") is True


async def test_a_frame_over_the_limit_is_not_read(pair: Any) -> None:
    _, engine, server = pair
    reader, writer = await asyncio.open_unix_connection(server.path)
    writer.write(struct.pack("!I", shared.FRAME_BYTES_MAX + 1) + b"x")
    async with asyncio.timeout(10):
        assert await reader.read() == b""
    writer.close()
    assert await engine.remove("gone") is True


async def test_what_the_port_does_not_declare_is_neither_sent_nor_given(pair: Any) -> None:
    odd, engine, _ = pair
    with pytest.raises(Bug, match="not what the port declares"):
        await engine.remove(7)
    odd.log = odd.remove  # gives a bool
    with pytest.raises(Bug, match="compute.log"):
        await engine.log("u", 5)


# -- the form -----------------------------------------------------------------------------------


NETWORK = HostNetwork(
    "n", 7, ("10.0.0.0/16",), (Range("10.0.0.0/24", "10.0.0.1", None, None),),
    ports=(Port("m", 3, "web", "02:00:00:00:00:01", "10.0.0.4", None, ("g",), "203.0.113.9"),),
    groups=(Group("g", 2, (Rule(Direction.INGRESS, "tcp", (22, 23), ("::/0",)), Rule(Direction.EGRESS, "all")), ("m",)),),
    neighbours=(Neighbour("db", None, "fd00::4", "192.0.2.2"),), tunnel=77,
)  # fmt: skip
NIC = Nic("02:00:00:00:00:01", "10.0.0.4", "10.0.0.0/24", "10.0.0.1", None, None, None)
MACHINE = Machine(
    "m", "web", 3, True, 2, 10**9, (PluggedDisk("d", True), PluggedDisk("e")), NIC,
    Seed("web", ("ssh-ed25519 A",), bytes(range(256))), None, "n", (HotDisk("f", "S"),),
)  # fmt: skip
UPLOAD = Upload("demo", "se-sto", "b", "images/é.vhdx", "v", ImageFormat.VHDX, 10**12)
HOST = HostReport("h", False, True, 8, 10**12, 1, limits=("cpu",), features=frozenset({"a", "b"}), message="é\n\x00")


@pytest.mark.parametrize(
    ("port", "name", "args", "value"),
    [
        ("compute", "host", (), HOST),
        ("compute", "apply", (MACHINE,), MachineReport("m", MachineState.RUNNING, 3, started_at=1.5, devices=("vda",))),
        ("compute", "log", ("m", 4096), bytes(range(256)) * 16),
        ("compute", "held", (), [Held("m", 3)]),
        ("volumes", "apply", (Volume("d", 1, 10**12, "tiny"),), VolumeReport("d", VolumeState.COPYING, progress=0.25)),
        ("volumes", "apply", (Volume("d", 1, 0, upload=UPLOAD),), VolumeReport("d", VolumeState.TOO_SMALL, 5)),
        ("network", "host", (), NetworkHost("namespaces", False, "why", "pasta")),
        ("network", "apply", (NETWORK,), NetworkReport("n", 7, {"m": 3}, {"g": 2}, {"203.0.113.9": "m"}, {"m": 2222})),
        ("network", "observe", ("n",), None),
    ],
)
def test_calls_and_answers_come_out_as_they_went_in(port: str, name: str, args: Any, value: Any) -> None:
    call = Call(port, "h", name, args)
    assert read_call(write_call(call)) == call
    assert read_answer(call, write_answer(call, value)) == value


def test_every_call_from_outside_has_its_form() -> None:
    for port, names in CALLS.items():
        for name in names:
            with pytest.raises(Bug, match=f"{port}.{name}: "):
                read_call(f'["{port}","h","{name}"]\n{{}}'.encode())


def test_an_error_that_cannot_travel_says_so() -> None:
    error = Retry("not now", detail="\udc80")
    with pytest.raises(Bug, match="Retry is not what the port declares"):
        read_answer(Call("compute", "h", "host", ()), write_error(error))
    with pytest.raises(Bug, match="an odd one"):
        read_answer(Call("compute", "h", "host", ()), b'![{"kind":"os","message":"an odd one"}]')


async def test_nobody_but_this_user_may_call(pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, engine, server = pair
    assert server.path.stat().st_mode & 0o777 == 0o600
    real = os.geteuid()
    monkeypatch.setattr(shared, "_peer", lambda writer: real + 1)
    with pytest.raises(Bug, match="served by somebody else"):
        await engine.remove("u")


async def test_while_nobody_drives_the_host_it_is_tried_again(pair: Any) -> None:
    _, engine, server = pair
    await server.close()
    with pytest.raises(Retry, match="another one takes its place") as error:
        await engine.remove("u")
    assert error.value.after_s == shared.AGAIN_S
    other = SharedEngines(server.path, lambda host: host == "h", lambda zone: zone == "z")
    assert other.compute("x") is None and other.network("x") is None and other.volumes("x") is None
