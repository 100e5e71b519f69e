"""The way out by pasta: guests reach the outside through ordinary sockets of the host, and nothing of the host.

`outside` is a namespace with a server, and the host of the test is a namespace beside it: no frame leaves this
machine. Run inside such a host, which `tests/network/with_outside` makes.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from .wires import KERNEL, OUT, Host, host

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif("HANSA_TEST_OUTSIDE" not in os.environ, reason="run by tests/network/with_outside"),
    pytest.mark.skipif(not KERNEL or shutil.which("pasta") is None, reason="pasta is not installed"),
]
OUTSIDE = os.environ.get("HANSA_TEST_OUTSIDE", "")


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Host]:
    async with host(tmp_path, uplink="") as made:
        yield made


async def test_a_guest_reaches_the_outside_and_nothing_of_its_host(here: Host) -> None:
    assert (await here.engine.host()).uplink == "pasta"
    net = here.network()
    await net.group("out", OUT)
    guest = await net.guest("a", "out")
    async with asyncio.timeout(20):
        while await guest.connect(OUTSIDE, 80, 1.0) != "hello":
            await asyncio.sleep(0.2)
    own = [a for a in await here.engine._host_addresses() if ":" not in a]
    assert "198.51.100.2" in own
    with socket.socket() as api:
        api.bind(("0.0.0.0", 0))
        api.listen()
        for address in (*own, "198.51.100.254", "10.255.0.1", "127.0.0.1"):
            assert await guest.connect(address, api.getsockname()[1], 0.3) != "hello", address
    await net.group("out")
    assert await guest.connect(OUTSIDE, 80, 0.3) != "hello"
    os.kill(here.marks()[f"{here.cloud}/daemon"], 9)
    await net.group("out", OUT)
    assert await guest.connect(OUTSIDE, 80, 2.0) == "hello"
