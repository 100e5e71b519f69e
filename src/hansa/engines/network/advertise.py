"""How a guest finds its router: router advertisements, and for the switch the answers to ARP and neighbour discovery.

An advertisement sends the guest to DHCPv6 for its address (flags M and O) and says that nothing of its subnet is
on its own link: every neighbour is reached through the router, as the link has no other end. So a guest never has
an address that its host does not know, and DHCPv6 alone gives it no default route: both are needed.
Sources: RFC 4861 (messages), 8106 (DNS), 826 (ARP), 5227 (probes).
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

from hansa.engines.network import frames
from hansa.engines.network.frames import packed_address, packed_mac
from hansa.engines.network.lease import IPV6_PREFIX, Lease, search_list
from hansa.engines.ports import GUEST_ROUTER

ROUTER_SOLICITATION, ROUTER_ADVERTISEMENT = 133, 134
NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT = 135, 136
REDIRECT = 137

ALL_NODES = "ff02::1"
ALL_ROUTERS = "ff02::2"  # the group that whoever hears solicitations joins
ROUTER_LIFETIME_S = 1800  # a new advertisement must come before it ends

_HOPS = 255  # what came over a router has fewer, and is not meant for this link
_MANAGED, _OTHER = 0x80, 0x40
_ROUTER, _SOLICITED, _OVERRIDE = 0x80, 0x40, 0x20
_SOURCE_MAC, _TARGET_MAC, _PREFIX, _MTU, _DNS, _SEARCH = 1, 2, 3, 5, 25, 31
_HEAD_BYTES = {
    ROUTER_SOLICITATION: 8, ROUTER_ADVERTISEMENT: 16, NEIGHBOUR_SOLICITATION: 24, NEIGHBOUR_ADVERTISEMENT: 24,
    REDIRECT: 40,
}  # fmt: skip
_ARP = struct.Struct("!HHBBH6s4s6s4s")
_ARP_REQUEST, _ARP_REPLY = 1, 2
_UNSPECIFIED, _MULTICAST = b"\0" * 16, b"\xff"


@dataclass(frozen=True, slots=True)
class Discovery:
    """A message of neighbour discovery; addresses packed. `target` is empty for those that speak of a router."""

    kind: int
    source_mac: bytes
    source: bytes  # all zero: the guest has no address yet, and asks whether another has it
    target: bytes


@dataclass(frozen=True, slots=True)
class Arp:
    """An ARP message about IPv4 on Ethernet; addresses packed. A probe comes from address 0.0.0.0."""

    request: bool
    source_mac: bytes  # the frame's own: `sender_mac` may lie
    sender_mac: bytes
    sender: bytes
    target: bytes


# -- routers ------------------------------------------------------------------------------------


def advertisement(lease: Lease, router_mac: str) -> bytes | None:
    """The ICMPv6 message for a guest, to `ALL_NODES` with 255 hops; None for one without IPv6.

    Its checksum is 0: a raw socket's kernel fills it in.
    """
    if lease.ipv6 is None:
        return None
    subnet = ipaddress.IPv6Network((lease.ipv6, IPV6_PREFIX), strict=False)
    head = struct.pack("!BBHBBHII", ROUTER_ADVERTISEMENT, 0, 0, 64, _MANAGED | _OTHER, ROUTER_LIFETIME_S, 0, 0)
    prefix = struct.pack("!BBIII16s", IPV6_PREFIX, 0, lease.lease_s, lease.lease_s, 0, subnet.network_address.packed)
    options = [
        _option(_SOURCE_MAC, packed_mac(router_mac)),
        _option(_MTU, struct.pack("!HI", 0, lease.mtu)),
        _option(_PREFIX, prefix),
        _option(_SEARCH, struct.pack("!HI", 0, ROUTER_LIFETIME_S) + search_list(lease.domain)),
    ]
    if lease.dns_v6:
        servers = b"".join(map(packed_address, lease.dns_v6))
        options.append(_option(_DNS, struct.pack("!HI", 0, ROUTER_LIFETIME_S) + servers))
    return head + b"".join(options)


def advertisement_frame(lease: Lease, router_mac: str) -> bytes | None:
    """The same as a whole frame, None for a guest without IPv6."""
    message = advertisement(lease, router_mac)
    if message is None:
        return None
    ends = packed_address(GUEST_ROUTER), packed_address(ALL_NODES)
    return frames.icmp6(frames.Way(packed_mac(router_mac), _group_mac(ends[1]), *ends), message)


# -- neighbours ---------------------------------------------------------------------------------


def discovery(frame: bytes) -> Discovery | None:
    """The message of neighbour discovery in `frame`, None for any other frame and for an invalid one."""
    packet = frames.parse(frame)
    if packet is None or packet.fragment is not frames.Fragment.WHOLE or packet.hops != _HOPS:
        return None
    kind = packet.icmp_type
    if packet.family != 6 or kind not in _HEAD_BYTES:
        return None
    message = frame[packet.start : packet.end]
    if len(message) < _HEAD_BYTES[kind] or message[1] != 0 or not _are_options(message[_HEAD_BYTES[kind] :]):
        return None
    target = b"" if kind in (ROUTER_SOLICITATION, ROUTER_ADVERTISEMENT) else message[8:24]
    if _MULTICAST in (target[:1], packet.source[:1]):
        return None
    return Discovery(kind, packet.source_mac, packet.source, target)


def neighbour_advertisement(asked: Discovery, mac: str) -> bytes | None:
    """The frame that says to who asked: `asked.target` is at `mac`, a router. None for what was no question.

    Whoever only makes sure that nobody has the address yet is told aloud that somebody has.
    """
    if asked.kind != NEIGHBOUR_SOLICITATION:
        return None
    probe = asked.source == _UNSPECIFIED
    target = packed_address(ALL_NODES) if probe else asked.source
    flags = _ROUTER | _OVERRIDE | (0 if probe else _SOLICITED)
    message = struct.pack("!BBHB3x16s", NEIGHBOUR_ADVERTISEMENT, 0, 0, flags, asked.target)
    target_mac = _group_mac(target) if probe else asked.source_mac
    way = frames.Way(packed_mac(mac), target_mac, asked.target, target)
    return frames.icmp6(way, message + _option(_TARGET_MAC, packed_mac(mac)))


def arp(frame: bytes) -> Arp | None:
    """The ARP message in `frame`, None for any other frame."""
    packet = frames.parse(frame)
    if packet is None or packet.ethertype != frames.ARP or packet.end - packet.start < _ARP.size:
        return None
    hardware, protocol, mac_length, length, operation, sender_mac, sender, _, target = _ARP.unpack_from(
        frame, packet.start
    )
    if (hardware, protocol, mac_length, length) != (1, frames.IPV4, 6, 4) or operation not in (1, 2):
        return None
    return Arp(operation == _ARP_REQUEST, packet.source_mac, sender_mac, sender, target)


def arp_reply(frame: bytes, mac: str) -> bytes | None:
    """The frame that says to who asked by `frame`: the address is at `mac`. None for what was no honest question.

    Whether the address is one to answer for is the caller's to know, by `arp(frame).target`.
    """
    asked = arp(frame)
    if asked is None or not asked.request or asked.sender == asked.target or asked.sender_mac != asked.source_mac:
        return None
    own = packed_mac(mac)
    message = _ARP.pack(1, frames.IPV4, 6, 4, _ARP_REPLY, own, asked.target, asked.sender_mac, asked.sender)
    return frames.ethernet(asked.source_mac, own, frames.ARP, message)


def _option(kind: int, content: bytes) -> bytes:
    """One option of neighbour discovery, filled up to units of eight bytes."""
    units = -(-(len(content) + 2) // 8)
    return (bytes([kind, units]) + content).ljust(units * 8, b"\0")


def _are_options(raw: bytes) -> bool:
    at = 0
    while at < len(raw):
        if at + 2 > len(raw) or raw[at + 1] == 0:
            return False
        at += raw[at + 1] * 8
    return at == len(raw)


def _group_mac(group: bytes) -> bytes:
    """The MAC address of an IPv6 multicast group (RFC 2464)."""
    return b"\x33\x33" + group[-4:]
