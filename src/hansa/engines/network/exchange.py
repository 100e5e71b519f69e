"""The user-space switch without its sockets: a frame goes in, frames come out. No clock, no network.

The same promises as the kernel's filter (`ruleset`): a guest is known by the port that its frame came in on, it
speaks only with its own MAC and address, its groups are asked for every new flow and remembered for answers, and
it meets its neighbours only here. Errors of ICMP are not passed on; all guests have the same MTU.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass, field

from hansa.engines.network import advertise, dhcp, dhcp6, dns, frames
from hansa.engines.network.advertise import ROUTER_SOLICITATION
from hansa.engines.network.frames import Fragment, Packet, packed_address, packed_mac
from hansa.engines.network.lease import Lease
from hansa.engines.network.naming import ROUTER_MAC
from hansa.engines.network.offers import lease_of, names_of
from hansa.engines.network.permit import Filter
from hansa.engines.network.ruleset import (
    ARP_A_SECOND,
    CONNECTIONS_MAX,
    DHCP_A_SECOND,
    DNS_A_SECOND,
    NEIGHBOUR_A_SECOND,
    NEVER_V4,
    NEVER_V6,
)
from hansa.engines.ports import GUEST_ROUTER, Direction, HostNetwork, Port

GATEWAY = ""  # the way out, and the host: where a port's uid is looked for
FLOW_S = {"tcp": 7200.0, "udp": 180.0, "icmp": 30.0, "icmpv6": 30.0}
FRAGMENTS_S = 30.0
FRAGMENTS_MAX = 4096
_PROTOCOLS = {frames.TCP: "tcp", frames.UDP: "udp", frames.ICMP: "icmp", frames.ICMPV6: "icmpv6"}
_ECHO_REQUESTS = frozenset({8, 128})
_DNS, _DHCP, _ARP, _NEIGHBOUR = "dns", "dhcp", "arp", "neighbour"
_RATES = {_DNS: DNS_A_SECOND, _DHCP: DHCP_A_SECOND, _ARP: ARP_A_SECOND, _NEIGHBOUR: NEIGHBOUR_A_SECOND}

Flow = tuple[int, bytes, int, bytes, int]  # protocol, source, its port, target, its port
Sent = tuple[str, bytes]  # to which port, which frame


@dataclass(frozen=True, slots=True)
class Question:
    """A DNS question that a resolver must be asked: `answered` makes the frame of its answer."""

    port: str
    asked: Packet
    payload: bytes
    forward: dns.Forward

    def answered(self, answer: bytes) -> Sent:
        return self.port, _udp_back(self.asked, answer)


@dataclass(slots=True)
class _Meter:
    """A bucket of tokens: `rate` a second, two seconds' worth at most."""

    rate: float
    tokens: float
    at: float = 0.0

    def takes(self, now: float) -> bool:
        self.tokens = min(2 * self.rate, self.tokens + (now - self.at) * self.rate)
        self.at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


@dataclass(slots=True)
class _Plug:
    """One port, with what is compared for every frame in packed form."""

    port: Port
    lease: Lease
    mac: bytes
    addresses: frozenset[bytes]
    meters: dict[str, _Meter] = field(
        default_factory=lambda: {name: _Meter(float(rate), 2.0 * rate) for name, rate in _RATES.items()}
    )
    flows: int = 0


class Exchange:
    """One network. `never`: networks that no guest reaches through the gateway; `allowed`: those that it may."""

    def __init__(self) -> None:
        self._plugs: dict[str, _Plug] = {}
        self._by_address: dict[bytes, _Plug] = {}
        self._gateways: frozenset[bytes] = frozenset()
        self._filter = Filter(HostNetwork("", 0, (), ()))
        self._names = dns.Names.of({})
        self._flows: dict[Flow, float] = {}  # seconds at which each was seen last
        self._fragments: dict[tuple[bytes, bytes, int], float] = {}
        self._never = _networks((*NEVER_V4, *NEVER_V6))
        self._allowed = _networks(())
        self._blocks = _networks(())

    def apply(self, wanted: HostNetwork) -> None:
        """From now on it is so; flows that would not begin any more are over."""
        old, self._plugs = self._plugs, {}
        for port in wanted.ports:
            lease, addresses = lease_of(port, wanted.ranges), [a for a in (port.ipv4, port.ipv6) if a]
            made = _Plug(port, lease, packed_mac(port.mac), frozenset(packed_address(a) for a in addresses))
            if port.uid in old:
                made.meters = old[port.uid].meters
            self._plugs[port.uid] = made
        self._by_address = {address: plug for plug in self._plugs.values() for address in plug.addresses}
        self._filter, self._names = Filter(wanted), names_of(wanted)
        self._gateways = frozenset(packed_address(gateway) for gateway in self._filter.gateways)
        self._blocks = _networks(wanted.blocks)
        self._flows = {flow: at for flow, at in self._flows.items() if self._may_begin(flow)}
        self._count()

    def know_host(self, addresses: tuple[str, ...], allowed: tuple[str, ...]) -> None:
        self._never = _networks((*NEVER_V4, *NEVER_V6, *addresses))
        self._allowed = _networks(allowed)

    def tidy(self, now: float) -> None:
        """Forget what has been silent for too long. To be called now and then."""
        self._flows = {flow: at for flow, at in self._flows.items() if now - at < FLOW_S[_PROTOCOLS[flow[0]]]}
        self._fragments = {key: at for key, at in self._fragments.items() if now - at < FRAGMENTS_S}
        self._count()

    def from_port(self, uid: str, frame: bytes, now: float) -> Iterator[Sent | Question]:
        """A guest sent a frame."""
        plug, packet = self._plugs.get(uid), frames.parse(frame)
        if plug is None or packet is None or packet.source_mac != plug.mac:
            return
        if packet.family == 0:
            yield from self._arp(plug, frame, now)
        elif packet.source in plug.addresses and not self._is_ours(packet):
            yield from self._route(plug, packet, frame, now)
        else:
            yield from self._service(plug, packet, frame, now)

    def from_gateway(self, frame: bytes, now: float) -> Iterator[Sent]:
        """The host, or the world in answer to a guest, sent a frame."""
        packet = frames.parse(frame)
        if packet is None:
            return
        if packet.family == 0:
            yield from self._arp_of_gateway(frame)
            return
        plug = self._by_address.get(packet.target)
        known = plug is not None and (self._answers(packet, now) or packet.source in self._gateways)
        if plug is not None and known:
            self._remember(packet, now)
            yield plug.port.uid, _readdressed(frame, plug.mac)

    # -- what the host answers itself -------------------------------------------------------

    def _is_ours(self, packet: Packet) -> bool:
        """For a service of the host, or for everybody: nothing to route."""
        if packet.target in self._gateways:
            return not self._answers_host(packet)
        return packet.target[:1] == b"\xff" or packet.target == b"\xff\xff\xff\xff" or packet.target[:2] == b"\xfe\x80"

    def _answers_host(self, packet: Packet) -> bool:
        return _answer_key(packet) in self._flows

    def _arp(self, plug: _Plug, frame: bytes, now: float) -> Iterator[Sent]:
        asked = advertise.arp(frame)
        if asked is None or not plug.meters[_ARP].takes(now):
            return
        if asked.sender not in plug.addresses and asked.sender != b"\0\0\0\0":
            return
        somewhere = (
            asked.target in self._gateways or asked.target in self._by_address or not _lies(asked.target, self._blocks)
        )
        if somewhere and asked.target not in plug.addresses and (answer := advertise.arp_reply(frame, ROUTER_MAC)):
            yield plug.port.uid, answer

    def _arp_of_gateway(self, frame: bytes) -> Iterator[Sent]:
        """The host looks for a guest: it is here."""
        asked = advertise.arp(frame)
        answer = advertise.arp_reply(frame, ROUTER_MAC)
        if asked is not None and answer is not None and asked.target in self._by_address:
            yield GATEWAY, answer

    def _service(self, plug: _Plug, packet: Packet, frame: bytes, now: float) -> Iterator[Sent | Question]:
        if (request := dhcp.dhcp_payload(frame)) is not None:
            if plug.meters[_DHCP].takes(now) and (reply := dhcp.reply(request, plug.lease)):
                yield plug.port.uid, dhcp.frame(reply, plug.lease, ROUTER_MAC)
        elif (request := dhcp6.dhcp6_payload(frame)) is not None:
            if plug.meters[_DHCP].takes(now) and (told := dhcp6.reply(request, plug.lease, ROUTER_MAC)):
                yield plug.port.uid, dhcp6.frame(told, packet, ROUTER_MAC)
        elif packet.icmp_type is not None and packet.family == 6:
            yield from self._neighbour(plug, frame, now)
        elif packet.source in plug.addresses and packet.target in self._gateways:
            yield from self._name(plug, packet, frame, now)

    def _neighbour(self, plug: _Plug, frame: bytes, now: float) -> Iterator[Sent]:
        asked = advertise.discovery(frame)
        if asked is None or not plug.meters[_NEIGHBOUR].takes(now):
            return
        if asked.kind == ROUTER_SOLICITATION:
            answer = advertise.advertisement_frame(plug.lease, ROUTER_MAC)
        elif asked.target == packed_address(GUEST_ROUTER) or asked.target in self._gateways:
            answer = advertise.neighbour_advertisement(asked, ROUTER_MAC)
        else:
            answer = None
        if answer is not None:
            yield plug.port.uid, answer

    def _name(self, plug: _Plug, packet: Packet, frame: bytes, now: float) -> Iterator[Sent | Question]:
        query = frames.udp_payload(frame, packet.family, dns.PORT)
        if query is None or not plug.meters[_DNS].takes(now):
            return
        answer = dns.answer(query, self._names)
        if isinstance(answer, dns.Forward):
            yield Question(plug.port.uid, packet, query, answer)
        elif answer is not None:
            yield plug.port.uid, _udp_back(packet, answer)

    # -- from guest to guest, and out -------------------------------------------------------

    def _route(self, plug: _Plug, packet: Packet, frame: bytes, now: float) -> Iterator[Sent]:
        if not self._passes(plug, packet, now):
            return
        if (target := self._by_address.get(packet.target)) is not None:
            if target is not plug:
                yield target.port.uid, _readdressed(frame, target.mac)
        elif packet.target in self._gateways or (not _lies(packet.target, self._blocks) and self._may_go_out(packet)):
            yield GATEWAY, frame

    def _may_go_out(self, packet: Packet) -> bool:
        return packet.family == 4 and (_lies(packet.target, self._allowed) or not _lies(packet.target, self._never))

    def _passes(self, plug: _Plug, packet: Packet, now: float) -> bool:
        if packet.fragment is Fragment.LATER:
            return (packet.source, packet.target, packet.fragment_id) in self._fragments
        passes = self._answers(packet, now) or self._begins(plug, packet, now)
        if passes and packet.fragment is Fragment.FIRST and len(self._fragments) < FRAGMENTS_MAX:
            self._fragments[packet.source, packet.target, packet.fragment_id] = now
        return passes

    def _answers(self, packet: Packet, now: float) -> bool:
        """Does it belong to a flow that was let begin? Either way counts, but an echo is only answered."""
        flow, answer = _flow_of(packet), _answer_key(packet)
        if answer is not None and answer in self._flows and packet.icmp_type not in _ECHO_REQUESTS:
            self._flows[answer] = now
            return True
        if flow is not None and flow in self._flows:
            self._flows[flow] = now
            return True
        return False

    def _begins(self, plug: _Plug, packet: Packet, now: float) -> bool:
        flow = _flow_of(packet)
        if flow is None or plug.flows >= CONNECTIONS_MAX:
            return False
        if packet.icmp_type is not None and packet.icmp_type not in _ECHO_REQUESTS:
            return False
        if not self._may_begin(flow):
            return False
        self._flows[flow] = now
        plug.flows += 1
        return True

    def _remember(self, packet: Packet, now: float) -> None:
        if (flow := _flow_of(packet)) is not None:
            self._flows.setdefault(flow, now)

    def _may_begin(self, flow: Flow) -> bool:
        protocol, source, _, target, port = flow
        sender, receiver = self._by_address.get(source), self._by_address.get(target)
        name, asked = _PROTOCOLS[protocol], port if protocol in (frames.TCP, frames.UDP) else 0
        if source in self._gateways:
            return receiver is not None
        if sender is None or target in self._gateways:
            return False
        if not self._filter.permits(sender.port, Direction.EGRESS, _address(target), name, asked):
            return False
        return receiver is None or self._filter.permits(receiver.port, Direction.INGRESS, _address(source), name, asked)

    def _count(self) -> None:
        for plug in self._plugs.values():
            plug.flows = 0
        for _, source, _, _, _ in self._flows:
            if source in self._by_address:
                self._by_address[source].flows += 1


# -- pure ---------------------------------------------------------------------------------------


def _flow_of(packet: Packet) -> Flow | None:
    """What names a flow in the direction of its first packet; None for what has no flow."""
    if packet.protocol not in _PROTOCOLS:
        return None
    if packet.icmp_type is not None:
        if packet.icmp_id is None:
            return None
        return packet.protocol, packet.source, packet.icmp_id, packet.target, packet.icmp_id
    if packet.source_port is None or packet.target_port is None:
        return None
    return packet.protocol, packet.source, packet.source_port, packet.target, packet.target_port


def _answer_key(packet: Packet) -> Flow | None:
    """The flow that `packet` would be an answer in."""
    flow = _flow_of(packet)
    return (flow[0], flow[3], flow[4], flow[1], flow[2]) if flow is not None else None


def _readdressed(frame: bytes, mac: bytes) -> bytes:
    """The same packet on another link: from the router to its guest."""
    return mac + packed_mac(ROUTER_MAC) + frame[12:]


def _udp_back(asked: Packet, payload: bytes) -> bytes:
    way = frames.Way(packed_mac(ROUTER_MAC), asked.source_mac, asked.target, asked.source)
    assert asked.source_port is not None and asked.target_port is not None  # it was UDP
    return frames.udp(way, asked.target_port, asked.source_port, payload)


def _address(packed: bytes) -> str:
    return str(ipaddress.ip_address(packed))


Networks = tuple[tuple[int, int, int], ...]  # bytes of the family, network, mask


def _networks(cidrs: tuple[str, ...]) -> Networks:
    parsed = [ipaddress.ip_network(cidr, strict=False) for cidr in cidrs]
    return tuple((n.max_prefixlen // 8, int(n.network_address), int(n.netmask)) for n in parsed)


def _lies(packed: bytes, networks: Networks) -> bool:
    number, width = int.from_bytes(packed, "big"), len(packed)
    return any(bytes_ == width and number & mask == network for bytes_, network, mask in networks)
