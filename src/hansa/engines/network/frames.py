"""Ethernet frames taken apart and put together: the pure half of the user-space switch.

A guest writes whatever it likes, so `parse` believes no length: what is cut, contradicts itself or hides its
ports in a later fragment is None, and a frame that is None is dropped. MAC and IP addresses are packed bytes here
(6, 4 or 16), because a switch compares them for every frame. Checksums are written but not verified: frames come
from the memory of this host and not over a wire, and whoever receives one verifies it anyway.
Sources: RFC 791, 8200, 768, 9293, 792, 4443, 1071; 1858 and 7112 for fragments.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass, replace
from enum import StrEnum

IPV4, ARP, IPV6 = 0x0800, 0x0806, 0x86DD  # types of frames
ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58  # protocols

BROADCAST_MAC = b"\xff" * 6

_ETHERNET = struct.Struct("!6s6sH")
_HEAD_4 = struct.Struct("!BBHHHBBH4s4s")
_HEAD_6 = struct.Struct("!IHBB16s16s")
_PORTS = struct.Struct("!HH")
_PIECES = struct.Struct("!HI")
_UDP = struct.Struct("!HHHH")

_FRAGMENT = 44
_EXTENSIONS = frozenset({0, 43, _FRAGMENT, 60})  # hop by hop, routing, fragment, destination
_EXTENSIONS_MAX = 8  # more than any honest packet has
_PACKET_BYTES_MAX = 65_535  # of all fragments together
_TCP_BYTES_MIN, _ICMP_BYTES_MIN = 20, 8
_ECHO = {(4, ICMP): (0, 8), (6, ICMPV6): (128, 129)}  # family and protocol: types of an echo and its answer
_DONT_FRAGMENT, _MORE_FRAGMENTS = 0x4000, 0x2000


class Fragment(StrEnum):
    WHOLE = "whole"
    FIRST = "first"  # it has the ports of all
    LATER = "later"  # it has none


@dataclass(frozen=True, slots=True)
class Packet:
    """One frame, taken apart. `family` is 4, 6, or 0 for what is not IP: then all below it is as it stands here.

    `frame[start:end]` is what the protocol carries: a UDP datagram's content, else from the head of TCP, ICMP or
    whatever it is; for a frame that is not IP all after the Ethernet head.
    """

    target_mac: bytes
    source_mac: bytes
    ethertype: int
    start: int
    end: int
    family: int = 0
    source: bytes = b""
    target: bytes = b""
    protocol: int = -1  # after the extensions of IPv6
    hops: int = 0  # how many routers it may still pass
    fragment: Fragment = Fragment.WHOLE
    fragment_id: int = 0
    source_port: int | None = None
    target_port: int | None = None
    tcp_flags: int = 0
    icmp_type: int | None = None
    icmp_id: int | None = None  # of an echo and its answer only


@dataclass(frozen=True, slots=True)
class Way:
    """From whom to whom a frame goes, packed; both addresses are of one family."""

    source_mac: bytes
    target_mac: bytes
    source: bytes
    target: bytes


def packed_mac(text: str) -> bytes:
    """The six bytes of `02:00:00:00:00:01`. Raises ValueError."""
    return bytes.fromhex(text.replace(":", ""))


def packed_address(text: str) -> bytes:
    """The four or sixteen bytes of an address. Raises ValueError."""
    return ipaddress.ip_address(text).packed


# -- taking apart -------------------------------------------------------------------------------


def parse(frame: bytes) -> Packet | None:
    """What is in `frame`; None for one that no honest guest sends, which is to be dropped."""
    if len(frame) < _ETHERNET.size:
        return None
    target_mac, source_mac, ethertype = _ETHERNET.unpack_from(frame)
    if ethertype == IPV4:
        return _ipv4(frame, target_mac, source_mac)
    if ethertype == IPV6:
        return _ipv6(frame, target_mac, source_mac)
    return Packet(target_mac, source_mac, ethertype, _ETHERNET.size, len(frame))


def udp_payload(frame: bytes, family: int, port: int) -> bytes | None:
    """What a whole UDP datagram to `port` carries, None for any other frame."""
    packet = parse(frame)
    if packet is None or packet.protocol != UDP or packet.fragment is not Fragment.WHOLE:
        return None
    if (packet.family, packet.target_port) != (family, port):
        return None
    return frame[packet.start : packet.end]


def _ipv4(frame: bytes, target_mac: bytes, source_mac: bytes) -> Packet | None:
    at = _ETHERNET.size
    if len(frame) < at + _HEAD_4.size:
        return None
    first, _, length, number, pieces, hops, protocol, _, source, target = _HEAD_4.unpack_from(frame, at)
    head, offset = (first & 15) * 4, (pieces & 0x1FFF) * 8
    if first >> 4 != 4 or not _HEAD_4.size <= head <= length <= len(frame) - at:
        return None
    if offset + length - head > _PACKET_BYTES_MAX or (offset == 8 and protocol == TCP):
        return None  # the latter would write over the flags of the first (RFC 1858)
    start, end, piece = at + head, at + length, _fragment(offset, pieces & _MORE_FRAGMENTS)
    packet = Packet(target_mac, source_mac, IPV4, start, end, 4, source, target, protocol, hops, piece, number)
    return _transport(frame, packet)


def _ipv6(frame: bytes, target_mac: bytes, source_mac: bytes) -> Packet | None:
    at = _ETHERNET.size
    start = at + _HEAD_6.size
    if len(frame) < start:
        return None
    first, length, protocol, hops, source, target = _HEAD_6.unpack_from(frame, at)
    if first >> 28 != 6 or start + length > len(frame):
        return None
    head = Packet(target_mac, source_mac, IPV6, start, start + length, 6, source, target, protocol, hops)
    packet = _extensions(frame, head)
    return _transport(frame, packet) if packet else None


def _extensions(frame: bytes, packet: Packet) -> Packet | None:
    """The packet behind the extensions of IPv6, None when they are cut or too many."""
    for _ in range(_EXTENSIONS_MAX):
        if packet.protocol not in _EXTENSIONS or packet.fragment is Fragment.LATER:
            return packet
        start, end = packet.start, packet.end
        if start + 8 > end:
            return None
        if packet.protocol == _FRAGMENT:
            pieces, number = _PIECES.unpack_from(frame, start + 2)
            offset = pieces & 0xFFF8
            if packet.fragment is not Fragment.WHOLE or offset + end - start - 8 > _PACKET_BYTES_MAX:
                return None
            fragment = _fragment(offset, pieces & 1)
            packet = replace(packet, protocol=frame[start], start=start + 8, fragment=fragment, fragment_id=number)
        else:
            start += 8 + frame[start + 1] * 8
            if start > end:
                return None
            packet = replace(packet, protocol=frame[packet.start], start=start)
    return None


def _fragment(offset: int, more: int) -> Fragment:
    if offset:
        return Fragment.LATER
    return Fragment.FIRST if more else Fragment.WHOLE


def _transport(frame: bytes, packet: Packet) -> Packet | None:
    """The packet with what its transport says; a first fragment must have the whole head of it (RFC 7112)."""
    start, room = packet.start, packet.end - packet.start
    if packet.fragment is Fragment.LATER:
        return packet
    if packet.protocol == TCP:
        if room < _TCP_BYTES_MIN or not _TCP_BYTES_MIN <= (frame[start + 12] >> 4) * 4 <= room:
            return None
        source_port, target_port = _PORTS.unpack_from(frame, start)
        return replace(packet, source_port=source_port, target_port=target_port, tcp_flags=frame[start + 13])
    if packet.protocol == UDP:
        if room < _UDP.size:
            return None
        source_port, target_port, length, _ = _UDP.unpack_from(frame, start)
        if length < _UDP.size or (length > room and packet.fragment is Fragment.WHOLE):
            return None
        end = min(packet.end, start + length)
        return replace(packet, source_port=source_port, target_port=target_port, start=start + _UDP.size, end=end)
    if (packet.family, packet.protocol) in _ECHO:
        if room < _ICMP_BYTES_MIN:
            return None
        echo = frame[start] in _ECHO[packet.family, packet.protocol]
        number = int.from_bytes(frame[start + 4 : start + 6], "big") if echo else None
        return replace(packet, icmp_type=frame[start], icmp_id=number)
    return packet


# -- putting together ---------------------------------------------------------------------------


def ethernet(target_mac: bytes, source_mac: bytes, ethertype: int, content: bytes) -> bytes:
    return _ETHERNET.pack(target_mac, source_mac, ethertype) + content


def udp(way: Way, source_port: int, target_port: int, payload: bytes) -> bytes:
    """A frame with one UDP datagram; whoever calls sees to it that it fits the link."""
    length = _UDP.size + len(payload)
    datagram = _UDP.pack(source_port, target_port, length, 0) + payload
    sum_of_all = checksum(_pseudo(way, UDP, length) + datagram) or 0xFFFF  # 0 would say that there is none
    return _ip(way, UDP, 64, datagram[:6] + sum_of_all.to_bytes(2, "big") + payload)


def tcp(way: Way, source_port: int, target_port: int, rest: bytes) -> bytes:
    """A frame with one TCP segment; `rest` is its head from the sequence number on (checksum 0) and its content."""
    segment = _PORTS.pack(source_port, target_port) + rest
    sum_of_all = checksum(_pseudo(way, TCP, len(segment)) + segment)
    return _ip(way, TCP, 64, segment[:16] + sum_of_all.to_bytes(2, "big") + segment[18:])


def icmp6(way: Way, message: bytes) -> bytes:
    """A frame with one ICMPv6 message, whose checksum is filled in; nobody takes it for one from another link."""
    sum_of_all = checksum(_pseudo(way, ICMPV6, len(message)) + message[:2] + b"\0\0" + message[4:])
    return _ip(way, ICMPV6, 255, message[:2] + sum_of_all.to_bytes(2, "big") + message[4:])


def checksum(content: bytes) -> int:
    """The checksum of the Internet over `content` (RFC 1071); 0 where the right one is already in it."""
    padded = content + b"\0" * (len(content) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def _ip(way: Way, protocol: int, hops: int, content: bytes) -> bytes:
    if len(way.source) == 16:
        head = _HEAD_6.pack(6 << 28, len(content), protocol, hops, way.source, way.target)
        return ethernet(way.target_mac, way.source_mac, IPV6, head + content)
    length = _HEAD_4.size + len(content)
    blank = _HEAD_4.pack(0x45, 0, length, 0, _DONT_FRAGMENT, hops, protocol, 0, way.source, way.target)
    head = blank[:10] + checksum(blank).to_bytes(2, "big") + blank[12:]
    return ethernet(way.target_mac, way.source_mac, IPV4, head + content)


def _pseudo(way: Way, protocol: int, length: int) -> bytes:
    """What both checksums cover besides the content: who speaks to whom, so that a stray packet is noticed.

    It is written as IPv6 has it; in IPv4 the same numbers stand in fewer bytes, and the sum is the same.
    """
    return way.source + way.target + struct.pack("!II", length, protocol)
