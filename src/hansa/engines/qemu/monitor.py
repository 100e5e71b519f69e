"""Talking to one QEMU over QMP: the only file that knows the client library.

Connections are short: QMP serves one client at a time, and a connection that is kept is one that an heir of ours
cannot get. Every word has a limit, because a stopped QEMU takes the connection and answers nothing. Whatever goes
wrong here is `Retry`: the world is looked at again.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qemu.qmp import ExecuteError, QMPClient, QMPError

from hansa.errors import Retry

GREETING_LIMIT_S = 2.0
COMMAND_LIMIT_S = 2.0
BLOCK_LIMIT_S = 10.0  # for what waits until the disk's own reads and writes are done
COPY_REQUESTS, COPY_REQUEST_BYTES = 2, 512 << 10


class Declined(Retry):
    """QEMU answers, and says no: what is asked does not fit its state."""


@dataclass(frozen=True, slots=True)
class Job:
    """A block job. `failure` is empty for one that runs or went well."""

    name: str
    concluded: bool
    progress: float  # 0 … 1
    failure: str


class Session:
    """One connection, already greeted. Each method is one word of QMP and raises Retry, Declined where QEMU refuses."""

    def __init__(self, client: QMPClient, wire: socket.socket, name: str) -> None:
        self._client = client
        self._wire = wire
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

    # -- descriptors ----------------------------------------------------------------------------

    async def give(self, handle: int, name: str) -> int:
        """Hand over an open file under `name`; the number of the new set of descriptors. Closes nothing of ours."""
        try:
            self._wire.sendmsg([b" "], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [handle]))])
        except OSError as error:
            raise Retry("the machine's QEMU takes no file", detail=f"{self._name}: {error!r}") from error
        answer: dict[str, int] = await self._execute("add-fd", {"opaque": name})
        return answer["fdset-id"]

    async def take_back(self, name: str) -> None:
        """Forget every file that was handed over under `name`."""
        sets: list[dict[str, Any]] = await self._execute("query-fdsets")
        for each in sets:
            if any(one.get("opaque") == name for one in each["fds"]):
                await self._execute("remove-fd", {"fdset-id": each["fdset-id"]})

    # -- nodes and devices ----------------------------------------------------------------------

    async def nodes(self) -> set[str]:
        """The block nodes by name."""
        answer: list[dict[str, Any]] = await self._execute("query-named-block-nodes", {"flat": True})
        return {node["node-name"] for node in answer}

    async def add_node(self, node: Mapping[str, object]) -> None:
        await self._execute("blockdev-add", node, limit_s=BLOCK_LIMIT_S)

    async def delete_node(self, name: str) -> None:
        """Close it: what is held of it in memory is written."""
        await self._execute("blockdev-del", {"node-name": name}, limit_s=BLOCK_LIMIT_S)

    async def resize(self, node: str, size_bytes: int) -> None:
        await self._execute("block_resize", {"node-name": node, "size": size_bytes}, limit_s=BLOCK_LIMIT_S)

    async def devices(self) -> set[str]:
        """Devices with an id of ours."""
        answer: list[dict[str, str]] = await self._execute("qom-list", {"path": "/machine/peripheral"})
        return {device["name"] for device in answer if device["type"].startswith("child<")}

    async def add_device(self, device: Mapping[str, object]) -> None:
        await self._execute("device_add", device, limit_s=BLOCK_LIMIT_S)

    async def delete_device(self, name: str) -> None:
        """A request: the device is gone when `devices` no longer names it."""
        await self._execute("device_del", {"id": name}, limit_s=BLOCK_LIMIT_S)

    # -- jobs -----------------------------------------------------------------------------------

    async def begin_copy(self, job: str, source: str, target: str, *, whole: bool) -> None:
        """Copy what `source` shows at this moment. Not `whole`: only what lies in its own file, not below it.

        Little is under way at a time: whatever waits for the disk's requests holds the whole guest until they are done.
        """
        words = {"job-id": job, "device": source, "target": target, "sync": "full" if whole else "top"}
        pace = {"max-workers": COPY_REQUESTS, "max-chunk": COPY_REQUEST_BYTES}
        await self._execute("blockdev-backup", {**words, "auto-dismiss": False, "x-perf": pace}, limit_s=BLOCK_LIMIT_S)

    async def job(self, name: str) -> Job | None:
        answer: list[dict[str, Any]] = await self._execute("query-jobs")
        found = next((job for job in answer if job["id"] == name), None)
        if found is None:
            return None
        share = found["current-progress"] / max(1, found["total-progress"])
        return Job(name, found["status"] == "concluded", min(1.0, share), found.get("error", ""))

    async def cancel(self, job: str) -> None:
        await self._execute("job-cancel", {"id": job})

    async def dismiss(self, job: str) -> None:
        await self._execute("job-dismiss", {"id": job})

    async def _execute(
        self, command: str, arguments: Mapping[str, object] | None = None, *, limit_s: float = COMMAND_LIMIT_S
    ) -> Any:
        try:
            async with asyncio.timeout(limit_s):
                return await self._client.execute(command, arguments)
        except TimeoutError as error:
            raise Retry(f"the machine's QEMU did not answer {command} within {limit_s:.0f} s") from error
        except ExecuteError as error:
            raise Declined(f"the machine's QEMU refused {command}", detail=f"{self._name}: {error}") from error
        except (QMPError, OSError, EOFError) as error:
            raise Retry(f"the machine's QEMU broke off at {command}", detail=f"{self._name}: {error!r}") from error


class Monitor:
    """The QMP socket of one machine. Sessions of the same machine follow one another."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turn = asyncio.Lock()
        logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)  # it logs what we raise

    @contextlib.asynccontextmanager
    async def session(self, limit_s: float = GREETING_LIMIT_S) -> AsyncIterator[Session]:
        """Connect, greet, and hang up afterwards. Raises Retry when QEMU is not there or says nothing."""
        async with self._turn:
            client = QMPClient(self._path.parent.name)
            with contextlib.closing(await self._connect(client, limit_s)) as wire:
                try:
                    yield Session(client, wire, self._path.parent.name)
                finally:
                    await _hang_up(client)

    async def _connect(self, client: QMPClient, limit_s: float) -> socket.socket:
        """Returns a second handle of the connection: files are passed beside the library, whose way needs a private
        member of asyncio that other event loops lack."""
        plug = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        plug.setblocking(False)
        wire = socket.socket(fileno=os.dup(plug.fileno()))
        connected = False
        try:
            async with asyncio.timeout(limit_s):
                await asyncio.get_running_loop().sock_connect(plug, str(self._path))
                await client.connect(plug)
            connected = True
        except TimeoutError as error:
            raise Retry(f"the machine's QEMU said nothing for {limit_s:.0f} s", detail=str(self._path)) from error
        except (QMPError, OSError, EOFError, AssertionError) as error:
            # The library asserts that what it has just connected to is still there: killed at that moment, it is not.
            raise Retry("the machine's QEMU cannot be reached", detail=f"{self._path}: {error!r}") from error
        finally:
            if not connected:
                await _hang_up(client)
                plug.close()
                wire.close()
        return wire


async def _hang_up(client: QMPClient) -> None:
    """After the death of QEMU this raises what the reader saw: expected, and said already."""
    with contextlib.suppress(QMPError, OSError, EOFError, TimeoutError):
        async with asyncio.timeout(GREETING_LIMIT_S):
            await client.disconnect()
