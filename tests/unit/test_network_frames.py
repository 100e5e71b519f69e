"""Frames taken apart and put together: what is built is read back, and no byte of a guest's is believed."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.engines.network import frames
from hansa.engines.network.frames import Fragment, Way, checksum, packed_address, packed_mac

GUEST, ROUTER = packed_mac("02:00:00:00:00:05"), packed_mac("02:00:00:00:00:01")
WAY_4 = Way(GUEST, ROUTER, packed_address("10.0.0.5"), packed_address("10.0.0.1"))
WAY_6 = Way(GUEST, ROUTER, packed_address("fd00::5"), packed_address("fd00::1"))
WAYS = pytest.mark.parametrize("way", [WAY_4, WAY_6], ids=["IPv4", "IPv6"])
TCP_SYN = struct.pack("!HHIIBBHHH", 40000, 22, 7, 0, 5 << 4, 2, 65535, 0, 0)
ECHO = struct.pack("!BBHHH", 8, 0, 0, 1777, 1) + b"ping"

# As a kernel sent it: a question for `web.internal`.
DNS_FRAME = bytes.fromhex(
    "020000000001 020000000005 0800"
    "4500003a ebe14000 4011 3acc 0a000005 0a000001"
    "b64d0035 0026143d"
    "d1d60100 00010000 00000000 03776562 08696e74 65726e61 6c000001 0001"
)


def ipv4(content: bytes, protocol: int, pieces: int = 0, options: bytes = b"") -> bytes:
    size = 20 + len(options)
    head = struct.pack(
        "!BBHHHBBH4s4s",
        0x40 | size // 4,
        0,
        size + len(content),
        9,
        pieces,
        64,
        protocol,
        0,
        WAY_4.source,
        WAY_4.target,
    )
    return frames.ethernet(ROUTER, GUEST, frames.IPV4, head + options + content)


def ipv6(content: bytes, following: int, length: int | None = None) -> bytes:
    size = len(content) if length is None else length
    head = struct.pack("!IHBB16s16s", 6 << 28, size, following, 64, WAY_6.source, WAY_6.target)
    return frames.ethernet(ROUTER, GUEST, frames.IPV6, head + content)


def piece6(following: int, offset: int, more: int) -> bytes:
    return struct.pack("!BBHI", following, 0, offset | more, 1234)


def mutated(*packets: bytes) -> st.SearchStrategy[bytes]:
    """Random bytes, and real packets that are cut, have bytes changed, or go on with what does not belong there."""

    def change(packet: bytes, cut: int, changes: list[tuple[int, int]], more: bytes) -> bytes:
        raw = bytearray(packet[: max(0, len(packet) - cut)] + more)
        for at, value in changes:
            if raw:
                raw[at % len(raw)] = value
        return bytes(raw)

    few = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=6)
    cuts = st.just(0) | st.integers(0, 400)
    changed = st.builds(change, st.sampled_from(packets), cuts, few, st.binary(max_size=40))
    return changed | st.binary(max_size=600)


hostile = settings(deadline=None, max_examples=300)  # bytes of a guest that wants us to fail


def test_a_frame_of_a_kernel_is_read() -> None:
    packet = frames.parse(DNS_FRAME)
    assert packet is not None
    assert (packet.family, packet.protocol, packet.source_port, packet.target_port) == (4, frames.UDP, 46669, 53)
    assert (packet.source_mac, packet.source, packet.target) == (GUEST, WAY_4.source, WAY_4.target)
    assert (packet.hops, packet.fragment, packet.fragment_id) == (64, Fragment.WHOLE, 0xEBE1)
    assert DNS_FRAME[packet.start : packet.end].startswith(b"\xd1\xd6\x01\x00")
    assert checksum(DNS_FRAME[14:34]) == 0


@WAYS
def test_what_is_built_is_read_back_with_right_checksums(way: Way) -> None:
    frame = frames.udp(way, 67, 68, b"odd")
    packet = frames.parse(frame)
    assert packet is not None
    assert (packet.source, packet.target, packet.source_port, packet.target_port) == (way.source, way.target, 67, 68)
    assert (packet.source_mac, packet.target_mac, packet.hops) == (GUEST, ROUTER, 64)
    assert frame[packet.start : packet.end] == b"odd"
    assert frames.udp_payload(frame, packet.family, 68) == b"odd"
    assert frames.udp_payload(frame, packet.family, 67) is None
    assert frames.udp_payload(frame, 10 - packet.family, 68) is None
    datagram = frame[packet.start - 8 :]
    assert checksum(way.source + way.target + struct.pack("!II", 17, len(datagram)) + datagram) == 0
    if way is WAY_4:
        assert checksum(frame[14:34]) == 0


def test_a_checksum_of_zero_is_written_as_all_ones() -> None:
    plain = frames.udp(WAY_4, 1, 2, b"\0\0")
    rest = struct.unpack("!H", plain[40:42])[0]
    frame = frames.udp(WAY_4, 1, 2, struct.pack("!H", rest))
    assert frame[40:42] == b"\xff\xff"


def test_the_checksum_is_that_of_the_rfc() -> None:
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF ^ 0xDDF2  # RFC 1071, 3
    assert checksum(b"\x01") == 0xFFFF ^ 0x0100


@given(st.binary(max_size=200))
def test_a_checksum_makes_the_sum_of_all_zero(content: bytes) -> None:
    even = content + b"\0" * (len(content) % 2)
    assert checksum(even + checksum(even).to_bytes(2, "big")) == 0


def test_an_icmp_message_passes_no_router() -> None:
    frame = frames.icmp6(WAY_6, bytes([128, 0, 9, 9, 0, 7, 0, 1]))
    packet = frames.parse(frame)
    assert packet is not None
    assert (packet.icmp_type, packet.icmp_id, packet.hops) == (128, 7, 255)
    message = frame[packet.start :]
    assert checksum(WAY_6.source + WAY_6.target + struct.pack("!II", len(message), 58) + message) == 0


@WAYS
def test_a_segment_goes_on_with_a_right_checksum(way: Way) -> None:
    frame = frames.tcp(way, 40000, 22, TCP_SYN[4:] + b"odd")
    packet = frames.parse(frame)
    assert packet is not None
    assert (packet.source_port, packet.target_port, packet.tcp_flags, packet.hops) == (40000, 22, 2, 64)
    segment = frame[packet.start : packet.end]
    assert (segment[:16], segment[18:]) == (TCP_SYN[:16], TCP_SYN[18:] + b"odd")
    assert checksum(way.source + way.target + struct.pack("!II", 6, len(segment)) + segment) == 0


def test_tcp_is_read() -> None:
    packet = frames.parse(ipv4(TCP_SYN, 6))
    assert packet is not None
    assert (packet.source_port, packet.target_port, packet.tcp_flags) == (40000, 22, 2)
    assert (packet.icmp_type, packet.icmp_id) == (None, None)


@pytest.mark.parametrize(
    ("frame", "kind", "number"),
    [
        (ipv4(ECHO, 1), 8, 1777),
        (ipv4(b"\0" + ECHO[1:], 1), 0, 1777),
        (ipv6(b"\x80" + ECHO[1:8], 58), 128, 1777),
        (ipv6(b"\x81" + ECHO[1:8], 58), 129, 1777),
        (ipv4(b"\x03\x01\0\0\0\0\0\0", 1), 3, None),
        (ipv6(b"\x82" + ECHO[1:], 58), 130, None),
        (ipv6(ECHO, 1), None, None),  # the other family's
        (ipv4(ECHO, 58), None, None),
    ],
)
def test_only_an_echo_has_a_number(frame: bytes, kind: int | None, number: int | None) -> None:
    packet = frames.parse(frame)
    assert packet is not None
    assert (packet.icmp_type, packet.icmp_id, packet.source_port, packet.tcp_flags) == (kind, number, None, 0)


@pytest.mark.parametrize(
    ("frame", "length"),
    [
        (frames.ethernet(ROUTER, GUEST, frames.ARP, b""), 0),
        (ipv4(b"", 47), 0),
        (ipv6(b"", 59), 0),
        (ipv6(bytes([59, 0]) + b"\0" * 6, 60), 0),
        (ipv6(piece6(59, 0, 0), 44), 0),
        (ipv6((bytes([60, 0]) + b"\0" * 6) * 6 + bytes([47, 0]) + b"\0" * 6, 0), 0),
        (frames.udp(WAY_4, 1, 2, b""), 0),
        (ipv4(b"x" * 7, 17, pieces=0x1FFF), 7),  # the end of the longest packet
        (ipv6(piece6(17, 0xFFF8, 0) + b"x" * 7, 44), 7),
    ],
)
def test_what_is_just_long_enough_is_read(frame: bytes, length: int) -> None:
    packet = frames.parse(frame)
    assert packet is not None
    assert packet.end - packet.start == length


def test_options_of_ipv4_are_passed_over() -> None:
    packet = frames.parse(ipv4(TCP_SYN, 6, options=b"\x01" * 8))
    assert packet is not None and packet.target_port == 22


def test_padding_behind_a_packet_is_no_part_of_it() -> None:
    frame = frames.udp(WAY_4, 1, 2, b"x") + b"\0" * 17
    assert frames.udp_payload(frame, 4, 2) == b"x"


def test_extensions_of_ipv6_are_passed_over() -> None:
    chain = bytes([43, 0]) + b"\xff" * 6 + bytes([60, 1]) + b"\0" * 14 + bytes([6, 0]) + b"\0" * 6
    packet = frames.parse(ipv6(chain + TCP_SYN, 0))
    assert packet is not None
    assert (packet.protocol, packet.target_port) == (frames.TCP, 22)


@pytest.mark.parametrize(
    "frame",
    [
        ipv6((bytes([0, 0]) + b"\0" * 6) * 9, 0),  # extensions without end
        ipv6(bytes([6, 9]) + b"\0" * 6 + TCP_SYN, 0),  # an extension longer than the packet
        ipv6(b"\x06\0\0\0", 0),  # a cut one
        ipv6(piece6(44, 0, 1) + piece6(6, 0, 0) + TCP_SYN, 44),  # a fragment of a fragment
        ipv6(piece6(17, 0xFFF8, 0) + b"x" * 8, 44),  # more than a packet can hold
        ipv6(TCP_SYN, 6, length=len(TCP_SYN) + 1),
        ipv6(b"", 0),  # a jumbo packet
    ],
)
def test_an_ipv6_packet_that_lies_is_dropped(frame: bytes) -> None:
    assert frames.parse(frame) is None


@pytest.mark.parametrize(
    "frame",
    [
        ipv4(TCP_SYN[:19], 6),
        ipv4(TCP_SYN[:12] + b"\x40" + TCP_SYN[13:], 6),  # a head of 16 bytes
        ipv4(TCP_SYN[:12] + b"\xf0" + TCP_SYN[13:], 6),  # a head of 60 bytes, of which 20 are there
        ipv4(b"\0\1\0\2\0\7\0", 17),
        ipv4(b"\0\1\0\2\0\7\0\0", 17),
        ipv4(b"\0\1\0\2\0\x09\0\0", 17),
        ipv4(ECHO[:7], 1),
        ipv4(TCP_SYN, 6, pieces=1),  # writes over the flags of the first
        ipv4(b"x" * 8, 17, pieces=0x1FFF),  # more than a packet can hold
        DNS_FRAME[:14] + b"\x65" + DNS_FRAME[15:],
        DNS_FRAME[:14] + b"\x44" + DNS_FRAME[15:],
        DNS_FRAME[:-1],
        DNS_FRAME[:33],
        DNS_FRAME[:13],
        b"",
    ],
)
def test_an_ipv4_packet_that_lies_is_dropped(frame: bytes) -> None:
    assert frames.parse(frame) is None


def test_only_the_first_fragment_has_ports() -> None:
    first = frames.parse(ipv4(frames.udp(WAY_4, 5, 53, b"x" * 64)[34:], 17, pieces=0x2000))
    later = frames.parse(ipv4(b"\x00\x35" * 8, 17, pieces=9))
    assert first is not None and (first.fragment, first.target_port, first.fragment_id) == (Fragment.FIRST, 53, 9)
    assert later is not None and (later.fragment, later.target_port, later.fragment_id) == (Fragment.LATER, None, 9)
    whole = frames.parse(ipv6(piece6(6, 0, 0) + TCP_SYN, 44))
    assert whole is not None and (whole.fragment, whole.target_port) == (Fragment.WHOLE, 22)
    first = frames.parse(ipv6(piece6(6, 0, 1) + TCP_SYN, 44))
    later = frames.parse(ipv6(piece6(6, 64, 0) + TCP_SYN, 44))
    assert first is not None and (first.fragment, first.target_port, first.fragment_id) == (Fragment.FIRST, 22, 1234)
    assert later is not None and (later.fragment, later.target_port, later.fragment_id) == (Fragment.LATER, None, 1234)


def test_a_piece_of_a_datagram_is_no_datagram() -> None:
    assert frames.udp_payload(b"", 4, 53) is None
    assert frames.udp_payload(ipv4(frames.udp(WAY_4, 5, 53, b"x" * 64)[34:], 17, pieces=0x2000), 4, 53) is None


def test_what_is_not_ip_is_left_as_it_is() -> None:
    packet = frames.parse(frames.ethernet(frames.BROADCAST_MAC, GUEST, frames.ARP, b"abc"))
    assert packet is not None
    assert (packet.target_mac, packet.source_mac) == (b"\xff\xff\xff\xff\xff\xff", GUEST)
    assert (packet.family, packet.ethertype, packet.start, packet.end) == (0, frames.ARP, 14, 17)
    assert (packet.protocol, packet.hops, packet.fragment_id, packet.source_port) == (-1, 0, 0, None)


@hostile
@given(
    mutated(
        DNS_FRAME, ipv4(TCP_SYN, 6), ipv4(ECHO, 1), ipv6(piece6(6, 0, 1) + TCP_SYN, 44),
        ipv6(bytes([6, 0]) + b"\0" * 6 + TCP_SYN, 0), frames.udp(WAY_6, 546, 547, b"x" * 40),
    )
)  # fmt: skip
def test_no_frame_is_believed_more_than_it_holds(frame: bytes) -> None:
    packet = frames.parse(frame)
    if packet is None:
        return
    assert 14 <= packet.start <= packet.end <= len(frame)
    assert len(packet.source) == len(packet.target) == {0: 0, 4: 4, 6: 16}[packet.family]
    has_ports = packet.family != 0 and packet.protocol in (6, 17) and packet.fragment is not Fragment.LATER
    assert (packet.source_port is not None) == (packet.target_port is not None) == has_ports
    if packet.family == 4:
        assert socket.inet_ntop(socket.AF_INET, frame[26:30]) == socket.inet_ntop(socket.AF_INET, packet.source)
