"""Engines of one process for the others of the same machine: the ports of `engines.ports` over a unix socket.

What an engine holds in memory (a monitor of QEMU, a watch, a twin) can be in one process only. The others call it here:
one connection a call, which ends the call when it ends. Both ends are the same program, of the same user, which each
asks the kernel about; so what travels is Python's own form of the ports' plain data. An error comes back as itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import structlog

from hansa import errors
from hansa.engines.counted import Engines
from hansa.engines.ports import ComputeEngine, Console, NetworkEngine, VolumeEngine
from hansa.errors import Bug, HansaError, Retry

log = structlog.get_logger("hansa.engines")
FRAME_BYTES_MAX = 64 << 20
CONNECT_S = 2.0
CLOSE_S = 5.0
CALL_S = 60.0  # outlives every pass of the loop
AGAIN_S = 0.5
CALLS = {
    "compute": frozenset({"host", "apply", "observe", "remove", "log", "console", "held"}),
    "volumes": frozenset({"apply", "remove", "held"}),
    "network": frozenset({"host", "apply", "observe", "remove", "held"}),
}
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
        port, where, name, args, more = await _receive(reader)
        call = asyncio.create_task(self._call(port, where, name, args, more))
        waited: set[asyncio.Task[Any]] = {call} if name == "console" else {call, asyncio.create_task(reader.read(1))}
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        for other in waited - {call}:
            other.cancel()
        if not call.done():  # nobody waits any more: as a pass that is over its time
            call.cancel()
            return
        ok, value = call.result()
        await _send(writer, (ok, None if ok and name == "console" else value))
        if ok and name == "console":
            await _carry(value, reader, writer)

    async def _call(self, port: str, where: str, name: str, args: Any, more: Any) -> tuple[bool, Any]:
        if name not in CALLS.get(port, ()):
            return False, _told(Bug(f"{port}.{name} is not called from outside"))
        engine = getattr(self.engines, port)(where)
        if engine is None:
            return False, _told(Retry(f"no engine drives {where}"))
        try:
            return True, await getattr(engine, name)(*args, **more)
        except HansaError as error:
            return False, _told(error)
        except Exception as bug:  # noqa: BLE001 - it is the caller's loop that counts and tells it
            log.exception("bug", engine=port, call=name)
            return False, _told(Bug(f"{port}.{name}: {bug!r}"))


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

        async def call(*args: Any, **more: Any) -> Any:
            return await self._call(name, args, more)

        self.__dict__[name] = call
        return call

    async def _call(self, name: str, args: Any, more: Any) -> Any:
        reader, writer = await self._connect()
        held = False
        try:
            async with asyncio.timeout(CALL_S):
                await _send(writer, (self._port, self._where, name, args, more))
                ok, value = await _receive(reader)
            if not ok:
                raise _rebuilt(*value)
            if name == "console":
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
            data = b"" if self._ended else cast(bytes, await _receive(self._reader))
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


# -- what travels -------------------------------------------------------------------------------


async def _send(writer: asyncio.StreamWriter, value: Any) -> None:
    body = pickle.dumps(value)
    writer.write(_SIZE.pack(len(body)) + body)
    await writer.drain()


async def _receive(reader: asyncio.StreamReader) -> Any:
    size = _SIZE.unpack(await reader.readexactly(_SIZE.size))[0]
    if size > FRAME_BYTES_MAX:
        raise EOFError(f"a frame of {size} bytes")
    return pickle.loads(await reader.readexactly(size))  # noqa: S301 - from this user's own process, see `_peer`


def _peer(writer: asyncio.StreamWriter) -> int:
    """The user at the other end, as the kernel knows it."""
    connection = writer.get_extra_info("socket")
    return int(_PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))[1])


def _told(error: HansaError) -> tuple[str, dict[str, Any]]:
    return type(error).__name__, dict(error.__dict__)


def _rebuilt(name: str, state: dict[str, Any]) -> HansaError:
    """An error as it was, whatever its constructor asks for."""
    kind = getattr(errors, name, None)
    if not (isinstance(kind, type) and issubclass(kind, HansaError)):
        kind = Bug
    error: HansaError = kind.__new__(kind)
    Exception.__init__(error, state.get("message", ""))
    error.__dict__.update(state)
    return error
