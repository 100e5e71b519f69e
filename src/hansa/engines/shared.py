"""Engines of one process for the others of the same machine: the ports of `engines.ports` over a unix socket.

What an engine holds in memory (a monitor of QEMU, a watch, a twin) can be in one process only. The others call it here:
one connection a call, which ends the call when it ends. Both ends are of the same user, which each asks the kernel
about; what travels is plain data in the form of `engines.wire`. An error comes back as itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import structlog

from hansa.engines.counted import Engines
from hansa.engines.ports import ComputeEngine, Console, NetworkEngine, VolumeEngine
from hansa.engines.wire import CALLS, Call, read_answer, read_call, write_answer, write_call, write_error
from hansa.errors import Bug, HansaError, Retry

log = structlog.get_logger("hansa.engines")
FRAME_BYTES_MAX = 64 << 20
CONNECT_S = 2.0
CLOSE_S = 5.0
CALL_S = 60.0  # outlives every pass of the loop
AGAIN_S = 0.5
_SIZE = struct.Struct("!I")
_PEER = struct.Struct("3i")  # pid, uid, gid
Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


# -- the side that has the engines --------------------------------------------------------------


@dataclass(slots=True)
class EngineServer:
    """Lets other processes of this user call `engines`. `path`: a socket in a folder of ours."""

    engines: Engines
    path: Path
    _server: asyncio.Server | None = None
    _open: dict[asyncio.Task[None], asyncio.StreamWriter] = field(default_factory=dict)

    async def open(self) -> None:
        """Whoever calls this has the lock of the engines: a socket that is there is a dead one's."""
        self.path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)
        spare = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        spare.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, spare)
        spare.chmod(0o600)
        spare.replace(self.path)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self.path.unlink(missing_ok=True)
        for writer in self._open.values():
            writer.transport.abort()
        if self._open:
            await asyncio.wait(set(self._open), timeout=CLOSE_S)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._open[task] = writer
            task.add_done_callback(lambda ended: self._open.pop(ended, None))
        try:
            if _peer(writer) == os.geteuid():
                await self._answer(reader, writer)
        except (OSError, EOFError, asyncio.IncompleteReadError):
            pass  # the caller is gone
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(CALL_S):
            body = await _receive(reader)
        try:
            call = read_call(body)
        except Bug as bug:
            await _send(writer, write_error(bug))
            return
        calling = asyncio.create_task(self._call(call))
        waited: set[asyncio.Task[Any]] = {calling}
        if call.name != "console":
            waited.add(asyncio.create_task(reader.read(1)))
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        for other in waited - {calling}:
            other.cancel()
        if not calling.done():  # nobody waits any more: as a pass that is over its time
            calling.cancel()
            return
        answer, console = calling.result()
        await _send(writer, answer)
        if console is not None:
            await _carry(console, reader, writer)

    async def _call(self, call: Call) -> tuple[bytes, Console | None]:
        """What to send, and the console that goes on after it."""
        engine = getattr(self.engines, call.port)(call.where)
        if engine is None:
            return write_error(Retry(f"no engine drives {call.where}")), None
        try:
            value = await getattr(engine, call.name)(*call.args)
            if call.name == "console":
                return write_answer(call, None), value
            return write_answer(call, value), None
        except HansaError as error:
            return write_error(error), None
        except Exception as bug:  # noqa: BLE001 - it is the caller's loop that counts and tells it
            log.exception("bug", engine=call.port, call=call.name)
            return write_error(Bug(f"{call.port}.{call.name}: {bug!r}")), None


async def _carry(console: Console, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Bytes of a console, both ways, until one side ends."""

    async def out() -> None:
        while data := await console.read():
            await _send(writer, data)
        await _send(writer, b"")

    async def back() -> None:
        while data := await _receive(reader):
            await console.write(data)

    tasks = {asyncio.create_task(out()), asyncio.create_task(back())}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
            with contextlib.suppress(
                asyncio.CancelledError, OSError, EOFError, HansaError, asyncio.IncompleteReadError
            ):
                await task
        await console.close()


# -- the side that calls ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SharedEngines:
    """The engines that the process behind `path` has, for those hosts and zones that there are."""

    path: Path
    has_host: Callable[[str], bool]
    has_zone: Callable[[str], bool]
    _kept: dict[tuple[str, str], Any] = field(default_factory=dict)

    def compute(self, host: str) -> ComputeEngine | None:
        return cast(ComputeEngine, self._of("compute", host)) if self.has_host(host) else None

    def volumes(self, zone: str) -> VolumeEngine | None:
        return cast(VolumeEngine, self._of("volumes", zone)) if self.has_zone(zone) else None

    def network(self, host: str) -> NetworkEngine | None:
        return cast(NetworkEngine, self._of("network", host)) if self.has_host(host) else None

    def _of(self, port: str, where: str) -> Any:
        return self._kept.setdefault((port, where), Remote(self.path, port, where))


class Remote:
    """One engine of another process."""

    def __init__(self, path: Path, port: str, where: str) -> None:
        self._path, self._port, self._where = path, port, where

    def __getattr__(self, name: str) -> Any:
        if name not in CALLS[self._port]:
            raise AttributeError(name)

        async def call(*args: Any) -> Any:
            return await self._call(Call(self._port, self._where, name, args))

        self.__dict__[name] = call
        return call

    async def _call(self, call: Call) -> Any:
        body = write_call(call)
        reader, writer = await self._connect()
        held = False
        try:
            async with asyncio.timeout(CALL_S):
                await _send(writer, body)
                value = read_answer(call, await _receive(reader))
            if call.name == "console":
                held = True
                return RemoteConsole(reader, writer)
            return value
        except (OSError, EOFError, asyncio.IncompleteReadError) as error:
            raise _away(error) from error
        finally:
            if not held:
                writer.close()

    async def _connect(self) -> Pair:
        try:
            async with asyncio.timeout(CONNECT_S):
                reader, writer = await asyncio.open_unix_connection(self._path, limit=1 << 20)
        except OSError as error:
            raise _away(error) from error
        if _peer(writer) != os.geteuid():
            writer.close()
            raise Bug(f"{self._path} is served by somebody else")
        return reader, writer


class RemoteConsole:
    """A console of another process. Fills `Console`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._ended = False

    async def read(self) -> bytes:
        try:
            data = b"" if self._ended else await _receive(self._reader)
        except (OSError, EOFError, asyncio.IncompleteReadError):
            data = b""
        if not data:
            self._ended = True
            self._writer.close()
        return data

    async def write(self, data: bytes) -> None:
        if self._ended:
            raise Retry("the console is closed")
        if not data:
            return
        try:
            await _send(self._writer, data)
        except OSError as error:
            raise Retry("the console is closed", detail=str(error)) from error

    async def close(self) -> None:
        self._writer.close()


def _away(error: BaseException) -> Retry:
    text = "the process that drives this host does not answer; another one takes its place"
    return Retry(text, after_s=AGAIN_S, detail=str(error))


# -- frames -------------------------------------------------------------------------------------


async def _send(writer: asyncio.StreamWriter, body: bytes) -> None:
    writer.write(_SIZE.pack(len(body)) + body)
    await writer.drain()


async def _receive(reader: asyncio.StreamReader) -> bytes:
    size = _SIZE.unpack(await reader.readexactly(_SIZE.size))[0]
    if size > FRAME_BYTES_MAX:
        raise EOFError(f"a frame of {size} bytes")
    return await reader.readexactly(size)


def _peer(writer: asyncio.StreamWriter) -> int:
    """The user at the other end, as the kernel knows it."""
    connection = writer.get_extra_info("socket")
    return int(_PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))[1])
