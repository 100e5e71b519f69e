"""The router of a switched network: a QEMU without a machine, whose user network (slirp) stands behind the switch.

It gives guests a way out through ordinary sockets of ours, and the host a way in for logins: ports of the loopback
that it forwards. What may come to it the switch has decided before. Started when somebody first needs it, IPv4 only.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path

from hansa.engines.network import space
from hansa.engines.ports import HostNetwork, Range
from hansa.errors import Retry

BEGIN_LIMIT_S = 5.0
COMMAND_LIMIT_S = 2.0
FRAMES_A_TURN = 64
_FRAME_BYTES_MAX = 65_550
_PROGRAM = "qemu-system-x86_64"

Receive = Callable[[bytes], None]


class Gateway:
    """`mark` names its process; its sockets are files in `folder`."""

    def __init__(self, mark: str, folder: Path, wanted: HostNetwork) -> None:
        base = folder / f"g{wanted.uid.replace('-', '')[:15]}"
        self._mark, self._ranges = mark, wanted.ranges
        self._ours, self._theirs, self._monitor = (base.with_suffix(end) for end in (".s", ".q", ".m"))
        self._receive: Receive = lambda _frame: None
        self._process: space.Holder | None = None
        self._wire: socket.socket | None = None
        self._forwards: dict[tuple[str, int], int] = {}
        self._turn = asyncio.Lock()
        self._beginning: asyncio.Task[None] | None = None

    async def serve(self, wanted: HostNetwork, receive: Receive) -> None:
        self._receive = receive
        if wanted.ranges != self._ranges:
            self._ranges = wanted.ranges
            await self.close()

    def send(self, frame: bytes) -> None:
        """A frame for the world. The first ones are lost while the way out is being opened."""
        if self._wire is None or self._process is None:
            if self._beginning is None or self._beginning.done():
                self._beginning = asyncio.get_running_loop().create_task(self._begin_quietly())
            return
        with contextlib.suppress(OSError):
            self._wire.sendto(frame, str(self._theirs))

    async def dial(self, address: str, port: int, limit_s: float) -> socket.socket:
        if ":" in address:
            raise Retry("machines without IPv4 cannot be reached from this host: its network is made in user space")
        async with asyncio.timeout(limit_s + BEGIN_LIMIT_S):
            local = await self._forward(address, port)
            dialled = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            try:
                await asyncio.get_running_loop().sock_connect(dialled, ("127.0.0.1", local))
            except OSError as error:
                dialled.close()
                raise Retry(f"nothing answers at {address} port {port}") from error
            return dialled

    async def close(self) -> None:
        if self._beginning is not None:
            self._beginning.cancel()
        if self._wire is not None:
            asyncio.get_running_loop().remove_reader(self._wire)
            self._wire.close()
            self._wire = None
        if self._process is not None:
            self._process.end()
            self._process = None
        self._forwards.clear()
        for path in (self._ours, self._theirs, self._monitor):
            path.unlink(missing_ok=True)

    async def _begin_quietly(self) -> None:
        with contextlib.suppress(Retry):  # without QEMU there is no way out; the host's report says so
            await self._begin()

    async def _begin(self) -> None:
        async with self._turn:
            if self._process is not None and self._process.alive():
                return
            await self.close()
            for pid in space.marked(self._mark).values():  # of a daemon before this one
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if shutil.which(_PROGRAM) is None:
                raise Retry("QEMU is not installed: run scripts/install")
            self._wire = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            self._wire.bind(str(self._ours))
            asyncio.get_running_loop().add_reader(self._wire, self._readable)
            errors = os.open(os.devnull, os.O_WRONLY)
            try:
                self._process = space.Holder.of(space.spawn(self._command(), self._mark, errors=errors))
            finally:
                os.close(errors)
            await self._answering()

    async def _answering(self) -> None:
        async with asyncio.timeout(BEGIN_LIMIT_S):
            while True:
                try:
                    await self._ask("info network")
                except Retry:
                    await asyncio.sleep(0.02)
                else:
                    return

    def _command(self) -> list[str]:
        network, host, spare = _router_of(self._ranges)
        paths = f"local.type=unix,local.path={self._theirs},remote.type=unix,remote.path={self._ours}"
        return [
            _PROGRAM, "-machine", "none", "-nodefaults", "-no-user-config", "-display", "none",
            "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
            "-netdev", f"user,id=u,ipv4=on,ipv6=off,net={network},host={host},dns={spare}",
            "-netdev", "hubport,id=hu,hubid=0,netdev=u",
            "-netdev", f"dgram,id=d,{paths}",
            "-netdev", "hubport,id=hd,hubid=0,netdev=d",
            "-qmp", f"unix:{self._monitor},server=on,wait=off",
        ]  # fmt: skip

    def _readable(self) -> None:
        if self._wire is None:
            return
        for _ in range(FRAMES_A_TURN):
            try:
                frame = self._wire.recv(_FRAME_BYTES_MAX)
            except (BlockingIOError, InterruptedError):
                return
            self._receive(frame)

    async def _forward(self, address: str, port: int) -> int:
        """A port of the loopback that leads there: made once, kept."""
        await self._begin()
        if (address, port) not in self._forwards:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                local = int(probe.getsockname()[1])
            said = await self._ask(f"hostfwd_add u tcp:127.0.0.1:{local}-{address}:{port}")
            if said.strip():
                raise Retry(f"the way to {address} could not be opened: {said.strip()}")
            self._forwards[address, port] = local
        return self._forwards[address, port]

    async def _ask(self, line: str) -> str:
        """One command of QEMU's own monitor. Raises Retry when it does not answer."""
        from qemu.qmp import QMPClient, QMPError

        logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)
        client = QMPClient("gateway")
        try:
            async with asyncio.timeout(COMMAND_LIMIT_S):
                await client.connect(str(self._monitor))
                answer = str(await client.execute("human-monitor-command", {"command-line": line}))
                await client.disconnect()
                return answer
        except (QMPError, OSError, EOFError, TimeoutError) as error:
            raise Retry("the network's gateway does not answer") from error


def _router_of(ranges: tuple[Range, ...]) -> tuple[str, str, str]:
    """Network, address of the router in it, and an address that nobody has, as slirp wants them."""
    first = next((r for r in ranges if r.ipv4 and r.ipv4_gateway), None)
    if first is None or first.ipv4 is None or first.ipv4_gateway is None:
        raise Retry("a network without IPv4 has no way out from this host: its network is made in user space")
    parsed = ipaddress.IPv4Network(first.ipv4)
    return first.ipv4, first.ipv4_gateway, str(parsed[2])
