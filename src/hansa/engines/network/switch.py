"""Private networks without any help of the kernel: an Ethernet switch in this process, a pair of sockets a machine.

The fallback where namespaces are refused. QEMU sends each frame as a datagram to a socket of ours, `exchange`
decides, and what comes out goes to the sockets of others. The way out and logins from the host go through one
small QEMU without a guest a network, whose user network is a router (`gateway`).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hansa.engines.network import dns
from hansa.engines.network.exchange import GATEWAY, Exchange, Question, Sent
from hansa.engines.network.gateway import Gateway
from hansa.engines.network.services import FORWARDS_MAX, Upstream, resolved
from hansa.engines.network.wire import Message
from hansa.engines.ports import HostNetwork
from hansa.errors import Retry

FRAMES_A_TURN = 64
TIDY_EVERY_S = 10.0
_FRAME_BYTES_MAX = 65_550


@dataclass(slots=True)
class _Switched:
    """One network: its decisions, a socket for each machine, and its gateway once somebody needs one."""

    exchange: Exchange
    gateway: Gateway
    applied: HostNetwork | None = None
    sockets: dict[str, socket.socket] = field(default_factory=dict)


class SwitchedNetworks:
    """`folder` holds the sockets; `marks` begin the marks of the gateways' processes."""

    routes_publics = False

    def __init__(self, marks: str, folder: Path, upstream: Upstream) -> None:
        self._marks, self._folder, self._upstream = marks, folder / "s", upstream
        self._networks: dict[str, _Switched] = {}
        self._host: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
        self._tasks: set[asyncio.Task[None]] = set()
        self._questions = 0
        self._tidying: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        self._folder.mkdir(mode=0o711, exist_ok=True)
        self._tidying = asyncio.create_task(self._tidy_often())

    async def apply(self, wanted: HostNetwork) -> None:
        network = self._networks.get(wanted.uid)
        if network is None:
            gateway = Gateway(f"{self._marks}/gateway/{wanted.uid}", self._folder, wanted)
            network = self._networks[wanted.uid] = _Switched(Exchange(), gateway)
        network.exchange.know_host(*self._host)
        network.exchange.apply(wanted)
        network.applied = wanted
        self._place_sockets(network, wanted)
        await network.gateway.serve(wanted, lambda frame: self._from_gateway(network, frame))

    async def remove(self, uid: str) -> None:
        network = self._networks.pop(uid, None)
        if network is not None:
            for machine in list(network.sockets):
                self._drop(network, machine)
            await network.gateway.close()

    def applied(self) -> Mapping[str, HostNetwork]:
        return {uid: network.applied for uid, network in self._networks.items() if network.applied is not None}

    def plug(self, uid: str, machine: str) -> tuple[Message, list[int]]:
        network = self._networks.get(uid)
        if network is None or machine not in network.sockets:
            raise Retry("the machine is not plugged into its network yet", after_s=0.2)
        return {"local": str(self._theirs(machine)), "remote": str(self._ours(machine))}, []

    async def dial(self, uid: str, address: str, port: int, limit_s: float) -> socket.socket:
        network = self._networks.get(uid)
        if network is None:
            raise Retry("the network is not on this host")
        return await network.gateway.dial(address, port, limit_s)

    async def know_host(self, addresses: Iterable[str], allowed: Iterable[str]) -> None:
        self._host = (tuple(sorted(addresses)), tuple(sorted(allowed)))
        for network in self._networks.values():
            network.exchange.know_host(*self._host)

    async def idle(self) -> bool:
        """Does no machine have its end of the wire open any more?"""
        return not any(self._theirs(machine).exists() for n in self._networks.values() for machine in n.sockets)

    async def close(self) -> None:
        for uid in list(self._networks):
            await self.remove(uid)
        if self._tidying is not None:
            self._tidying.cancel()
        for task in self._tasks:
            task.cancel()

    # -- frames -----------------------------------------------------------------------------

    def _place_sockets(self, network: _Switched, wanted: HostNetwork) -> None:
        machines = {port.uid for port in wanted.ports}
        for machine in [m for m in network.sockets if m not in machines]:
            self._drop(network, machine)
        for machine in machines - network.sockets.keys():
            path = self._ours(machine)
            path.parent.mkdir(mode=0o711, exist_ok=True)
            path.unlink(missing_ok=True)
            made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            made.bind(str(path))
            path.chmod(0o666)  # its folder has a name that nobody guesses and is closed to reading
            network.sockets[machine] = made
            asyncio.get_running_loop().add_reader(made, self._readable, network, machine)

    def _drop(self, network: _Switched, machine: str) -> None:
        made = network.sockets.pop(machine)
        asyncio.get_running_loop().remove_reader(made)
        made.close()
        for path in (self._ours(machine), self._theirs(machine)):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # a QEMU on its way down has its socket in there still
            self._ours(machine).parent.rmdir()

    def _readable(self, network: _Switched, machine: str) -> None:
        source, now = network.sockets[machine], time.monotonic()
        for _ in range(FRAMES_A_TURN):
            try:
                frame = source.recv(_FRAME_BYTES_MAX)
            except (BlockingIOError, InterruptedError):
                return
            for out in network.exchange.from_port(machine, frame, now):
                if isinstance(out, Question):
                    self._ask(network, out)
                else:
                    self._send(network, out)

    def _from_gateway(self, network: _Switched, frame: bytes) -> None:
        for out in network.exchange.from_gateway(frame, time.monotonic()):
            self._send(network, out)

    def _send(self, network: _Switched, out: Sent) -> None:
        """A frame for a machine that is down, or whose queue is full, is lost, as on any Ethernet."""
        to, frame = out
        if to == GATEWAY:
            network.gateway.send(frame)
        elif (sender := network.sockets.get(to)) is not None:
            with contextlib.suppress(OSError):
                sender.sendto(frame, str(self._theirs(to)))

    def _ask(self, network: _Switched, question: Question) -> None:
        if self._questions >= FORWARDS_MAX:
            return
        self._questions += 1
        task = asyncio.get_running_loop().create_task(self._answer(network, question))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, network: _Switched, question: Question) -> None:
        try:
            answer = await resolved(self._upstream, question.forward) or dns.servfail(question.payload)
            if answer is not None:
                self._send(network, question.answered(answer))
        finally:
            self._questions -= 1

    async def _tidy_often(self) -> None:
        while True:
            await asyncio.sleep(TIDY_EVERY_S)
            for network in self._networks.values():
                network.exchange.tidy(time.monotonic())

    # -- paths: a folder a machine, which QEMU's user may own ---------------------------------

    def _ours(self, machine: str) -> Path:
        return self._folder / machine.replace("-", "")[:16] / "s"

    def _theirs(self, machine: str) -> Path:
        return self._folder / machine.replace("-", "")[:16] / "q"
