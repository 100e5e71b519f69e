"""What a network offers its guests: addresses (DHCP, DHCPv6, router advertisements) and names (DNS).

One set of sockets a network, made inside its namespace. A guest is known by the link that its question came
in on, so it gets its own lease and no other. What is answered is decided in `dhcp`, `dhcp6`, `advertise` and
`dns`, which are pure; here bytes are taken in and given out.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import struct
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass

from hansa.engines.network import advertise, dhcp, dhcp6, dns, offers
from hansa.engines.network.lease import Lease
from hansa.engines.network.naming import ROUTER_MAC, port_link
from hansa.engines.ports import HostNetwork

DATAGRAMS_A_TURN = 64
FORWARDS_MAX = 256  # questions to the resolver that are in flight, of one network
FORWARD_LIMIT_S = 3.0
STREAMS_MAX = 64  # DNS over TCP, of one network
STREAM_LIMIT_S = 5.0
ADVERTISE_EVERY_S = 300.0
_QUERY_BYTES_MAX = 4096

_IP_PKTINFO = 8
_ICMP6_FILTER = 1


@dataclass(frozen=True, slots=True)
class Upstream:
    """The resolver that foreign names are asked of, None: there is no way out, and they fail."""

    address: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class _Asked:
    """A datagram with where it came from: the sender as the socket names it, link index, our own address."""

    payload: bytes
    sender: tuple[str, int]
    link: int
    local: str


class Services:
    """To be made inside the network's namespace; `serve` and `close` may be called anywhere."""

    def __init__(self, uid: str, upstream: Upstream) -> None:
        self._uid, self._upstream = uid, upstream
        self._leases: dict[int, Lease] = {}  # by index of the link
        self._names = dns.Names.of({})
        self._joined: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._forwards = asyncio.Semaphore(FORWARDS_MAX)
        self._streams = 0
        self._dhcp = _udp4(67)
        self._dhcp6 = _udp6(547)
        self._dns4, self._dns6 = _udp4(53), _udp6(53)
        self._router = _icmp6()
        self._listeners = [_tcp(socket.AF_INET), _tcp(socket.AF_INET6)]
        self._begin()

    def serve(self, wanted: HostNetwork, links: Mapping[str, int]) -> None:
        """From now on these are the machines, and these the indexes of their links."""
        ports = {links[port_link(port.uid)]: port for port in wanted.ports if port_link(port.uid) in links}
        self._leases = {index: offers.lease_of(port, wanted.ranges) for index, port in ports.items()}
        self._names = offers.names_of(wanted)
        for index in ports.keys() - self._joined:
            _join(self._dhcp6, dhcp6.SERVERS, index)
            _join(self._router, advertise.ALL_ROUTERS, index)
            self._advertise(index)
        self._joined = set(ports)

    def close(self) -> None:
        loop = asyncio.get_running_loop()
        for task in self._tasks:
            task.cancel()
        for each in (self._dhcp, self._dhcp6, self._dns4, self._dns6, self._router, *self._listeners):
            loop.remove_reader(each)
            each.close()

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        for each, answer in (
            (self._dhcp, self._answer_dhcp), (self._dhcp6, self._answer_dhcp6), (self._router, self._answer_router),
            (self._dns4, self._answer_dns), (self._dns6, self._answer_dns),
        ):  # fmt: skip
            loop.add_reader(each, self._readable, each, answer)
        for listener in self._listeners:
            loop.add_reader(listener, self._accept, listener)
        self._spawn(self._advertise_often())

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _readable(self, source: socket.socket, answer: Callable[[socket.socket, _Asked], None]) -> None:
        for _ in range(DATAGRAMS_A_TURN):
            try:
                asked = _receive(source)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # an error that an earlier answer met on its way: nobody's question
                continue
            if asked is not None:
                answer(source, asked)

    # -- addresses --------------------------------------------------------------------------

    def _answer_dhcp(self, source: socket.socket, asked: _Asked) -> None:
        lease = self._leases.get(asked.link)
        answer = dhcp.reply(asked.payload, lease) if lease else None
        if answer is not None:
            own = socket.inet_aton(lease.ipv4_gateway) if lease and lease.ipv4_gateway else b""
            where = struct.pack("=I4s4s", asked.link, own, b"")
            _send(source, answer.payload, [(socket.IPPROTO_IP, _IP_PKTINFO, where)], (answer.target, 68))

    def _answer_dhcp6(self, source: socket.socket, asked: _Asked) -> None:
        lease = self._leases.get(asked.link)
        answer = dhcp6.reply(asked.payload, lease, ROUTER_MAC) if lease else None
        if answer is not None:
            _send(source, answer, [], (*asked.sender, 0, asked.link))

    def _answer_router(self, source: socket.socket, asked: _Asked) -> None:
        if asked.payload[:1] == bytes([advertise.ROUTER_SOLICITATION]):
            self._advertise(asked.link)

    def _advertise(self, link: int) -> None:
        lease = self._leases.get(link)
        message = advertise.advertisement(lease, ROUTER_MAC) if lease else None
        if message is not None:
            _send(self._router, message, [], (advertise.ALL_NODES, 0, 0, link))

    async def _advertise_often(self) -> None:
        while True:
            await asyncio.sleep(ADVERTISE_EVERY_S)
            for link in list(self._leases):
                self._advertise(link)

    # -- names ------------------------------------------------------------------------------

    def _answer_dns(self, source: socket.socket, asked: _Asked) -> None:
        answer = dns.answer(asked.payload, self._names)
        if isinstance(answer, bytes):
            self._send_dns(source, asked, answer)
        elif answer is not None:
            self._spawn(self._forward_dns(source, asked, answer))

    async def _forward_dns(self, source: socket.socket, asked: _Asked, question: dns.Forward) -> None:
        answer = await self._resolved(question) or dns.servfail(asked.payload)
        if answer is not None:
            self._send_dns(source, asked, answer)

    def _send_dns(self, source: socket.socket, asked: _Asked, answer: bytes) -> None:
        if source.family == socket.AF_INET:
            where = struct.pack("=I4s4s", 0, socket.inet_aton(asked.local), b"")
            _send(source, answer, [(socket.IPPROTO_IP, _IP_PKTINFO, where)], asked.sender)
        else:
            where = socket.inet_pton(socket.AF_INET6, asked.local) + struct.pack("=I", asked.link)
            _send(source, answer, [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, where)], (*asked.sender, 0, asked.link))

    async def _resolved(self, question: dns.Forward) -> bytes | None:
        """The resolver's answer, None when there is none."""
        if self._forwards.locked():
            return None
        async with self._forwards:
            return await resolved(self._upstream, question)

    def _accept(self, listener: socket.socket) -> None:
        try:
            stream, _ = listener.accept()
        except OSError:
            return
        if self._streams >= STREAMS_MAX:
            stream.close()
            return
        stream.setblocking(False)
        self._streams += 1
        self._spawn(self._stream(stream))

    async def _stream(self, stream: socket.socket) -> None:
        """DNS over TCP: questions and answers, each behind its length."""
        try:
            async with asyncio.timeout(STREAM_LIMIT_S):
                reader, writer = await asyncio.open_connection(sock=stream)
                with contextlib.closing(writer):
                    while True:
                        (length,) = struct.unpack("!H", await reader.readexactly(2))
                        query = await reader.readexactly(min(length, _QUERY_BYTES_MAX))
                        told = dns.answer(query, self._names, tcp=True)
                        if isinstance(told, dns.Forward):
                            told = await self._resolved(told) or dns.servfail(query)
                        if told is None:
                            return
                        writer.write(struct.pack("!H", len(told)) + told)
                        await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            return  # it hung up, or was too slow
        finally:
            self._streams -= 1


# -- what is told, pure -------------------------------------------------------------------------


# -- asking a resolver --------------------------------------------------------------------------


async def resolved(upstream: Upstream, question: dns.Forward) -> bytes | None:
    """The resolver's answer, None when there is no resolver or it says nothing."""
    if upstream.address is None:
        return None
    ask = _ask_by_stream if question.tcp else _ask_by_datagram
    try:
        async with asyncio.timeout(FORWARD_LIMIT_S):
            return await ask(upstream.address, question)
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return None


async def _ask_by_datagram(resolver: tuple[str, int], question: dns.Forward) -> bytes:
    """Under a number of our own and from a port of its own; what answers another question is passed over."""
    loop, number = asyncio.get_running_loop(), secrets.randbits(16)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as out:
        await loop.sock_connect(out, resolver)
        await loop.sock_sendall(out, dns.ask(question, number))
        while True:
            answer = dns.relay(question, number, await loop.sock_recv(out, 65_535))
            if answer is not None:
                return answer


async def _ask_by_stream(resolver: tuple[str, int], question: dns.Forward) -> bytes | None:
    number = secrets.randbits(16)
    query = dns.ask(question, number)
    reader, writer = await asyncio.open_connection(*resolver)
    with contextlib.closing(writer):
        writer.write(struct.pack("!H", len(query)) + query)
        (length,) = struct.unpack("!H", await reader.readexactly(2))
        return dns.relay(question, number, await reader.readexactly(length))


# -- sockets ------------------------------------------------------------------------------------


def _udp4(port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    made.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    made.bind(("0.0.0.0", port))  # noqa: S104 - inside a namespace of our own
    return made


def _udp6(port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    made.bind(("::", port))
    return made


def _icmp6() -> socket.socket:
    made = socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMPV6)
    passed = [0xFFFFFFFF] * 8  # a bit a type, set: not wanted
    passed[advertise.ROUTER_SOLICITATION >> 5] &= ~(1 << (advertise.ROUTER_SOLICITATION & 31))
    made.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, struct.pack("=8I", *passed))
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 255)
    return made


def _tcp(family: socket.AddressFamily) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    made.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", 53))  # noqa: S104 - inside a namespace of our own
    made.listen(32)
    return made


def _join(member: socket.socket, group: str, link: int) -> None:
    request = socket.inet_pton(socket.AF_INET6, group) + struct.pack("=I", link)
    with contextlib.suppress(OSError):  # it is a member already: an index that came back
        member.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)


def _receive(source: socket.socket) -> _Asked | None:
    payload, extra, _, sender = source.recvmsg(65_535, 256)
    for level, kind, data in extra:
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
            link, _, local = struct.unpack("=I4s4s", data)
            return _Asked(payload, sender[:2], link, socket.inet_ntoa(local))
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            local6, link = data[:16], struct.unpack("=I", data[16:20])[0]
            return _Asked(
                payload, (sender[0].partition("%")[0], sender[1]), link, socket.inet_ntop(socket.AF_INET6, local6)
            )
    return None


def _send(out: socket.socket, payload: bytes, extra: list[tuple[int, int, bytes]], target: tuple[object, ...]) -> None:
    """A datagram that cannot be sent is lost, as on any network: its guest asks again."""
    with contextlib.suppress(OSError):
        out.sendmsg([payload], extra, 0, target)
