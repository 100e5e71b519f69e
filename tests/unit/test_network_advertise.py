"""Router advertisements, neighbour discovery and ARP: a guest finds its router and nothing that it should not."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given

from hansa.engines.network import advertise, frames
from hansa.engines.network.advertise import Discovery
from hansa.engines.network.frames import packed_address, packed_mac
from hansa.engines.network.lease import Lease
from tests.unit.test_network_frames import hostile, mutated

LEASE = Lease("02:00:00:00:00:05", "web", None, 24, None, "fd00:77::5", "fd00:77::1", (), ("fd00:77::1", "fd00:77::2"))
ROUTER_MAC = "02:00:00:00:00:01"
ROUTER, GUEST = packed_mac(ROUTER_MAC), packed_mac(LEASE.mac)
LINK_LOCAL, GATEWAY = packed_address("fe80::1"), packed_address("fd00:77::1")
GUEST_LINK_LOCAL = packed_address("fe80::ff:fe00:5")
NOBODY = b"\0" * 16

# As a kernel sent them.
SOLICITATION = bytes.fromhex(
    "333300000002 020000000005 86dd 60000000 0010 3a ff fe80000000000000000000fffe000005"
    "ff020000000000000000000000000002 85007b24 00000000 0101020000000005"
)
ARP_REQUEST = bytes.fromhex(
    "ffffffffffff 020000000005 0806 0001 0800 06 04 0001 020000000005 0a000005 000000000000 0a000001"
)


def asked(target: bytes, source: bytes = GUEST_LINK_LOCAL, *, hops: int = 255, kind: int = 135, code: int = 0) -> bytes:
    """A guest's neighbour solicitation for `target`."""
    group = b"\xff\x02" + b"\0" * 9 + b"\x01\xff" + target[-3:]
    option = b"" if source == NOBODY else b"\x01\x01" + GUEST
    way = frames.Way(GUEST, b"\x33\x33" + group[-4:], source, group)
    frame = frames.icmp6(way, struct.pack("!BBHI", kind, code, 0, 0) + target + option)
    return frame[:21] + bytes([hops]) + frame[22:]


def arp(operation: int = 1, *, sender_mac: bytes = GUEST, sender: str = "10.0.0.5", target: str = "10.0.0.1") -> bytes:
    addresses = sender_mac + packed_address(sender) + b"\0" * 6 + packed_address(target)
    return frames.ethernet(
        b"\xff" * 6, GUEST, frames.ARP, struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + addresses
    )


def options(message: bytes, head: int) -> dict[int, bytes]:
    """Options of neighbour discovery, read as a client does that believes nothing."""
    found, at = {}, head
    while at < len(message):
        size = message[at + 1] * 8
        assert size and at + size <= len(message)
        found[message[at]] = message[at + 2 : at + size]
        at += size
    return found


def right_sum(frame: bytes) -> bool:
    """Whether the checksum of an ICMPv6 message without extensions is right."""
    content = frame[54:]
    return frames.checksum(frame[22:54] + struct.pack("!II", len(content), 58) + content) == 0


def test_an_advertisement_byte_for_byte() -> None:
    assert (
        advertise.advertisement(LEASE, ROUTER_MAC)
        == bytes.fromhex(
            "86000000 40c00708 00000000 00000000"  # managed and other, 1800 s
            "0101 020000000001"
            "0501 0000 000005aa"
            "0304 4000 00015180 00015180 00000000 fd000077000000000000000000000000"  # of 64 bits, neither on link nor for use
            "1f03 0000 00000708 08696e7465726e616c00 000000000000"
            "1905 0000 00000708 fd000077000000000000000000000001 fd000077000000000000000000000002"
        )
    )


def test_without_name_servers_none_are_advertised() -> None:
    message = advertise.advertisement(replace(LEASE, dns_v6=()), ROUTER_MAC)
    assert message is not None
    assert set(options(message, 16)) == {1, 3, 5, 31}


def test_a_guest_without_ipv6_gets_no_advertisement() -> None:
    lease = replace(LEASE, ipv6=None)
    assert advertise.advertisement(lease, ROUTER_MAC) is None
    assert advertise.advertisement_frame(lease, ROUTER_MAC) is None


def test_a_frame_carries_the_advertisement_from_the_router_to_all() -> None:
    frame = advertise.advertisement_frame(LEASE, ROUTER_MAC)
    assert frame is not None and right_sum(frame)
    packet = frames.parse(frame)
    assert packet is not None
    assert (packet.source_mac, packet.target_mac) == (ROUTER, b"\x33\x33\0\0\0\x01")
    assert (packet.source, packet.target, packet.hops) == (LINK_LOCAL, packed_address("ff02::1"), 255)
    message = frame[packet.start : packet.end]
    assert message[:2] + b"\0\0" + message[4:] == advertise.advertisement(LEASE, ROUTER_MAC)


def test_a_kernels_solicitation_of_a_router_is_read() -> None:
    assert right_sum(SOLICITATION)
    assert advertise.discovery(SOLICITATION) == Discovery(133, GUEST, GUEST_LINK_LOCAL, b"")


def test_what_only_a_router_may_say_is_read_too() -> None:
    said = frames.icmp6(frames.Way(GUEST, ROUTER, GUEST_LINK_LOCAL, LINK_LOCAL), bytes([134]) + b"\0" * 15)
    assert advertise.discovery(said) == Discovery(134, GUEST, GUEST_LINK_LOCAL, b"")
    redirect = bytes([137]) + b"\0" * 7 + LINK_LOCAL + GATEWAY
    said = frames.icmp6(frames.Way(GUEST, ROUTER, GUEST_LINK_LOCAL, LINK_LOCAL), redirect)
    assert advertise.discovery(said) == Discovery(137, GUEST, GUEST_LINK_LOCAL, LINK_LOCAL)
    said = frames.icmp6(frames.Way(GUEST, ROUTER, GUEST_LINK_LOCAL, LINK_LOCAL), redirect[:-1])
    assert advertise.discovery(said) is None


@pytest.mark.parametrize("target", [LINK_LOCAL, GATEWAY])
def test_who_asks_for_the_router_gets_its_mac(target: bytes) -> None:
    found = advertise.discovery(asked(target))
    assert found == Discovery(135, GUEST, GUEST_LINK_LOCAL, target)
    frame = advertise.neighbour_advertisement(found, ROUTER_MAC)
    assert frame is not None and right_sum(frame)
    packet = frames.parse(frame)
    assert packet is not None
    assert (packet.source_mac, packet.target_mac, packet.hops) == (ROUTER, GUEST, 255)
    assert (packet.source, packet.target) == (target, GUEST_LINK_LOCAL)
    assert frame[packet.start :][4] == 0xE0  # a router, asked for, and what was known before is wrong
    assert advertise.discovery(frame) == Discovery(136, ROUTER, target, target)
    assert options(frame[packet.start :], 24) == {2: ROUTER}


def test_a_guest_that_wants_the_routers_address_hears_that_it_is_taken() -> None:
    found = advertise.discovery(asked(GATEWAY, NOBODY))
    assert found is not None
    frame = advertise.neighbour_advertisement(found, ROUTER_MAC)
    assert frame is not None and right_sum(frame)
    packet = frames.parse(frame)
    assert packet is not None
    assert (packet.target, packet.target_mac) == (packed_address("ff02::1"), b"\x33\x33\0\0\0\x01")
    assert frame[packet.start :][4] == 0xA0


def test_only_a_question_is_answered() -> None:
    found = advertise.discovery(SOLICITATION)
    assert found is not None and advertise.neighbour_advertisement(found, ROUTER_MAC) is None
    assert advertise.neighbour_advertisement(replace(found, kind=136, target=GATEWAY), ROUTER_MAC) is None


@pytest.mark.parametrize(
    "frame",
    [
        asked(GATEWAY, hops=254),  # came over a router
        asked(GATEWAY, code=1),
        asked(GATEWAY, kind=128),  # an echo
        asked(packed_address("ff02::1")),
        asked(GATEWAY, packed_address("ff02::5")),
        asked(GATEWAY, NOBODY)[:-1],
        frames.icmp6(frames.Way(GUEST, ROUTER, GUEST_LINK_LOCAL, LINK_LOCAL), b"\x87\0\0\0\0\0\0\0" + GATEWAY[:15]),
        frames.icmp6(frames.Way(GUEST, ROUTER, GUEST_LINK_LOCAL, LINK_LOCAL), b"\x85" + b"\0" * 7 + b"\x01\0" + GUEST),
        frames.icmp6(
            frames.Way(GUEST, ROUTER, GUEST_LINK_LOCAL, LINK_LOCAL), b"\x85" + b"\0" * 7 + b"\x01\x02" + GUEST
        ),
        frames.icmp6(frames.Way(GUEST, ROUTER, GUEST_LINK_LOCAL, LINK_LOCAL), b"\x85" + b"\0" * 7 + b"\x01"),
        ARP_REQUEST,
        b"",
    ],
)
def test_an_invalid_message_is_none(frame: bytes) -> None:
    assert advertise.discovery(frame) is None


def test_a_kernels_question_for_the_gateway_is_answered() -> None:
    found = advertise.arp(ARP_REQUEST)
    assert found is not None
    assert (found.request, found.sender, found.target) == (True, packed_address("10.0.0.5"), packed_address("10.0.0.1"))
    assert advertise.arp_reply(ARP_REQUEST, ROUTER_MAC) == bytes.fromhex(
        "020000000005 020000000001 0806 0001 0800 06 04 0002 020000000001 0a000001 020000000005 0a000005"
    )
    assert advertise.arp_reply(ARP_REQUEST + b"\0" * 18, ROUTER_MAC) == advertise.arp_reply(ARP_REQUEST, ROUTER_MAC)


def test_a_guest_that_probes_for_the_gateways_address_hears_that_it_is_taken() -> None:
    reply = advertise.arp_reply(arp(sender="0.0.0.0"), ROUTER_MAC)
    assert reply is not None
    found = advertise.arp(reply)
    assert found is not None and not found.request
    assert (found.sender_mac, found.sender, found.target) == (ROUTER, packed_address("10.0.0.1"), b"\0" * 4)


@pytest.mark.parametrize(
    "frame",
    [
        arp(2),
        arp(3),
        arp(sender="10.0.0.1"),  # it says who it is, and asks nothing
        arp(sender_mac=packed_mac("02:00:00:00:00:06")),
        arp()[:-1],
        arp()[:14] + b"\0\x06" + arp()[16:],
        SOLICITATION,
        b"",
    ],
)
def test_what_is_no_honest_question_is_not_answered(frame: bytes) -> None:
    assert advertise.arp_reply(frame, ROUTER_MAC) is None


@hostile
@given(mutated(SOLICITATION, ARP_REQUEST, asked(GATEWAY), asked(LINK_LOCAL, NOBODY)))
def test_a_hostile_guest_gets_a_right_answer_or_none(frame: bytes) -> None:
    found = advertise.discovery(frame)
    answer = advertise.neighbour_advertisement(found, ROUTER_MAC) if found else None
    assert answer is None or (right_sum(answer) and advertise.discovery(answer) is not None)
    reply = advertise.arp_reply(frame, ROUTER_MAC)
    assert reply is None or (reply[:6], reply[22:28], len(reply)) == (frame[6:12], ROUTER, 42)
