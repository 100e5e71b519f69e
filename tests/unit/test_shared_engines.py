"""Engines of another process: what goes wrong there is the same here, and nobody else may call."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hansa.engines import shared
from hansa.engines.ports import ComputeEngine
from hansa.engines.shared import EngineServer, SharedEngines
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
    reader, writer = await asyncio.open_unix_connection(server.path)
    await shared._send(writer, ("compute", "h", "secret", (), {}))
    ok, (name, state) = await shared._receive(reader)
    assert (ok, name) == (False, "Bug") and "not called from outside" in state["message"]
    writer.close()


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
