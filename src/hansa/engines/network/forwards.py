"""Ports of the host's loopback that lead to a machine's port 22, for logins from the host.

The control process makes the listening socket, because this daemon may stand in another namespace; the daemon
keeps it, so that a login outlives the control process. Security groups do not apply: this is the way of the
host's owner, like the console.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from hansa.engines.ports import HostNetwork
from hansa.errors import Retry

SSH = 22
RELAYS_MAX = 64  # of one machine
DIAL_LIMIT_S = 10.0
_PIECE_BYTES = 1 << 16

Dial = Callable[[str, str, int, float], Awaitable[socket.socket]]


@dataclass(slots=True)
class _Forward:
    network: str
    listener: socket.socket
    address: str = ""
    open: int = 0

    @property
    def port(self) -> int:
        name: tuple[str, int] = self.listener.getsockname()
        return name[1]


class Forwards:
    """By machine. `dial` connects into a network."""

    def __init__(self, dial: Dial) -> None:
        self._dial = dial
        self._all: dict[str, _Forward] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, network: str, machine: str, listener: socket.socket) -> None:
        """Take over a bound socket; one that was there before is closed."""
        address = self._all[machine].address if machine in self._all else ""
        self._drop(machine)
        listener.setblocking(False)
        listener.listen(16)
        self._all[machine] = _Forward(network, listener, address)
        asyncio.get_running_loop().add_reader(listener, self._accept, machine)

    def keep(self, wanted: HostNetwork) -> None:
        """The machines of a network, with their addresses; those that are gone lose their port."""
        addresses = {port.uid: port.ipv4 or port.ipv6 or "" for port in wanted.ports}
        for machine in [m for m, f in self._all.items() if f.network == wanted.uid and m not in addresses]:
            self._drop(machine)
        for machine, address in addresses.items():
            if machine in self._all:
                self._all[machine].address = address

    def forget(self, network: str) -> None:
        for machine in [m for m, f in self._all.items() if f.network == network]:
            self._drop(machine)

    def of(self, network: str) -> dict[str, int]:
        """Host ports by machine."""
        return {machine: f.port for machine, f in self._all.items() if f.network == network}

    def close(self) -> None:
        for machine in list(self._all):
            self._drop(machine)
        for task in self._tasks:
            task.cancel()

    def _drop(self, machine: str) -> None:
        if forward := self._all.pop(machine, None):
            asyncio.get_running_loop().remove_reader(forward.listener)
            forward.listener.close()

    def _accept(self, machine: str) -> None:
        forward = self._all[machine]
        try:
            client, _ = forward.listener.accept()
        except OSError:
            return
        if forward.open >= RELAYS_MAX or not forward.address:
            client.close()
            return
        client.setblocking(False)
        forward.open += 1
        task = asyncio.get_running_loop().create_task(self._relay(forward, client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _relay(self, forward: _Forward, client: socket.socket) -> None:
        try:
            with client, contextlib.suppress(OSError):
                try:
                    server = await self._dial(forward.network, forward.address, SSH, DIAL_LIMIT_S)
                except Retry:
                    return  # the client sees the end of the stream and tries again
                with server:
                    await _both_ways(client, server)
        finally:
            forward.open -= 1


async def _both_ways(one: socket.socket, other: socket.socket) -> None:
    """Until both sides have said all, or either breaks."""
    async with asyncio.TaskGroup() as group:
        group.create_task(_pour(one, other))
        group.create_task(_pour(other, one))


async def _pour(source: socket.socket, target: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    try:
        while piece := await loop.sock_recv(source, _PIECE_BYTES):
            await loop.sock_sendall(target, piece)
        target.shutdown(socket.SHUT_WR)
    except OSError:  # one side is broken: so is the other
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
