"""Talking to one QEMU over QMP: the only file that knows the client library.

Connections are short: QMP serves one client at a time, and a connection that is kept is one that an heir of ours
cannot get. Every word has a limit, because a stopped QEMU takes the connection and answers nothing. Whatever goes
wrong here is `Retry`: the world is looked at again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from qemu.qmp import QMPClient, QMPError

from hansa.errors import Retry

GREETING_LIMIT_S = 2.0
COMMAND_LIMIT_S = 2.0
RESIZE_LIMIT_S = 10.0


class Session:
    """One connection, already greeted."""

    def __init__(self, client: QMPClient, name: str) -> None:
        self._client = client
        self._name = name

    async def uid(self) -> str:
        answer: dict[str, str] = await self._execute("query-uuid")
        return answer["UUID"]

    async def status(self) -> str:
        """QEMU's run state: prelaunch, running, paused, shutdown, io-error, internal-error, …"""
        answer: dict[str, str] = await self._execute("query-status")
        return answer["status"]

    async def go_on(self) -> None:
        await self._execute("cont")

    async def press_power(self) -> None:
        """The power button: only a request, which the guest may not see."""
        await self._execute("system_powerdown")

    async def quit(self) -> None:
        """End QEMU in order: what it holds in memory of the disks is written."""
        await self._execute("quit")

    async def resize(self, node: str, size_bytes: int) -> None:
        await self._execute("block_resize", {"node-name": node, "size": size_bytes}, limit_s=RESIZE_LIMIT_S)

    async def _execute(
        self, command: str, arguments: Mapping[str, object] | None = None, *, limit_s: float = COMMAND_LIMIT_S
    ) -> Any:
        try:
            async with asyncio.timeout(limit_s):
                return await self._client.execute(command, arguments)
        except TimeoutError as error:
            raise Retry(f"the machine's QEMU did not answer {command} within {limit_s:.0f} s") from error
        except (QMPError, OSError, EOFError) as error:
            raise Retry(f"the machine's QEMU refused {command}", detail=f"{self._name}: {error!r}") from error


class Monitor:
    """The QMP socket of one machine. Sessions of the same machine follow one another."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._turn = asyncio.Lock()
        logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)  # it logs what we raise

    @contextlib.asynccontextmanager
    async def session(self, limit_s: float = GREETING_LIMIT_S) -> AsyncIterator[Session]:
        """Connect, greet, and hang up afterwards. Raises Retry when QEMU is not there or says nothing."""
        async with self._turn:
            client = await self._connect(limit_s)
            try:
                yield Session(client, self._socket.parent.name)
            finally:
                await _hang_up(client)

    async def _connect(self, limit_s: float) -> QMPClient:
        client = QMPClient(self._socket.parent.name)
        try:
            async with asyncio.timeout(limit_s):
                await client.connect(str(self._socket))
        except TimeoutError as error:
            await _hang_up(client)
            raise Retry(f"the machine's QEMU said nothing for {limit_s:.0f} s", detail=str(self._socket)) from error
        except (QMPError, OSError, EOFError) as error:
            raise Retry("the machine's QEMU cannot be reached", detail=f"{self._socket}: {error!r}") from error
        return client


async def _hang_up(client: QMPClient) -> None:
    """After the death of QEMU this raises what the reader saw: expected, and said already."""
    with contextlib.suppress(QMPError, OSError, EOFError, TimeoutError):
        async with asyncio.timeout(GREETING_LIMIT_S):
            await client.disconnect()
