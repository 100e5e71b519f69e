"""The door of the API: who comes in, how many, and who is shown out.

Connections are counted before TLS, in all and by address. When there are too many, the one that has waited longest
without being answered leaves, of the address that has most: so somebody who opens thousands and says nothing loses
his own, and whoever asks something is let in. Only when all are being answered a new one is sent away. Deadlines are
looked at twice a second in one pass; no connection has a timer of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from hansa.edge.guest import HANDSHAKE_S, Guest, Limits

log = structlog.get_logger("hansa.edge")
LOOK_S = 0.5
PAUSE_S = 0.1
SHORT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
TLS_RECORD = b"\x16"
_SAID = b'{"reason":"PlainHTTP","debug":"this port speaks TLS: use https:// (plain HTTP is for loopback only)"}'
PLAIN = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
    % len(_SAID)
)
PLAIN_ANSWER = PLAIN + _SAID


@dataclass(slots=True)
class Tally:
    """For metrics."""

    accepted: int = 0
    refused: int = 0  # sent away: all places were taken by connections being answered
    shown_out: int = 0  # to make room
    late: int = 0  # over a deadline


@dataclass(slots=True)
class Door:
    """Accepts on one listening socket. `make(guest, door)`: a new protocol for a connection."""

    listener: socket.socket
    make: Callable[[Guest, Door], asyncio.Protocol]
    limits: Limits
    context: ssl.SSLContext | None = None
    tally: Tally = field(default_factory=Tally)
    _guests: set[Guest] = field(default_factory=set)
    _by_address: Counter[str] = field(default_factory=Counter)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def open(self) -> None:
        for work in (self._accept(), self._watch()):
            self._keep(asyncio.create_task(work))

    def close(self) -> None:
        """Nobody new comes in. Those inside are ended by whoever serves them."""
        for task in self._tasks:
            task.cancel()

    async def wait_closed(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1)

    @property
    def inside(self) -> int:
        return len(self._guests)

    def leave(self, guest: Guest) -> None:
        """A connection ended. Once for each is enough, more do no harm."""
        if guest in self._guests:
            self._guests.discard(guest)
            self._by_address[guest.address] -= 1
            if self._by_address[guest.address] <= 0:
                del self._by_address[guest.address]

    # -- coming in --------------------------------------------------------------------------

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, name = await loop.sock_accept(self.listener)
            except OSError as error:
                if error.errno in SHORT_OF_DESCRIPTORS:
                    log.warning("door", message="no descriptor is free", detail=str(error))
                    self._make_room(self._fullest())
                    await asyncio.sleep(PAUSE_S)
                continue
            self._enter(connection, address_of(name[0]))

    def _enter(self, connection: socket.socket, address: str) -> None:
        self.tally.accepted += 1
        full = len(self._guests) >= self.limits.connections
        if full or self._by_address[address] >= self.limits.each:
            crowd = self._fullest() if self._by_address[address] < self.limits.each else address
            if not self._make_room(crowd) and not (full and self._make_room("")):
                self.tally.refused += 1
                connection.close()
                return
        loop = asyncio.get_running_loop()
        guest = Guest(address, loop.time(), deadline=loop.time() + HANDSHAKE_S)
        self._guests.add(guest)
        self._by_address[address] += 1
        task = loop.create_task(self._welcome(connection, guest))
        guest.end = guest.late = task.cancel  # type: ignore[assignment]
        self._keep(task)

    async def _welcome(self, connection: socket.socket, guest: Guest) -> None:
        loop, made = asyncio.get_running_loop(), False
        try:
            if self.context is not None and not await _speaks_tls(connection):
                return
            limit_s = HANDSHAKE_S if self.context is not None else None
            await loop.connect_accepted_socket(
                lambda: self.make(guest, self), connection, ssl=self.context, ssl_handshake_timeout=limit_s
            )
            made = True
        except OSError:
            pass  # no TLS, cut off, or too slow: theirs to say, and they may be anybody
        finally:
            if not made:
                connection.close()
                self.leave(guest)

    # -- showing out ------------------------------------------------------------------------

    def _fullest(self) -> str:
        return max(self._by_address, key=self._by_address.__getitem__, default="")

    def _make_room(self, address: str) -> bool:
        """Ends the connection of this address (empty: of any) that has waited longest; False when none waits."""
        waiting = [g for g in self._guests if g.waits_since is not None and address in ("", g.address)]
        if not waiting:
            return False
        guest = min(waiting, key=lambda g: g.waits_since or 0.0)
        self.tally.shown_out += 1
        self.leave(guest)
        guest.end()
        return True

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK_S)
            now = loop.time()
            for guest in [g for g in self._guests if now >= min(g.deadline, g.stall)]:
                if now >= guest.stall:
                    guest.stalled()
                else:
                    self.tally.late += 1
                    guest.late()

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def address_of(host: str) -> str:
    """What counts as one address: an IPv4 address, the first 64 bits of an IPv6 address."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        mapped = address.ipv4_mapped
        return str(mapped) if mapped else str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
    return str(address)


async def _speaks_tls(connection: socket.socket) -> bool:
    """Does it begin as TLS does? To whoever speaks plain HTTP is said what this port is."""
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()
    loop.add_reader(connection, _done, readable)
    try:
        await readable
    finally:
        loop.remove_reader(connection)
    first = connection.recv(1, socket.MSG_PEEK)
    if first == TLS_RECORD:
        return True
    if first.isalpha():
        with contextlib.suppress(OSError):
            connection.recv(64 << 10)  # what is unread would make the answer a reset
            connection.send(PLAIN_ANSWER)
            connection.shutdown(socket.SHUT_WR)
    return False


def _done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
