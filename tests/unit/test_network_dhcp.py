"""DHCPv4: a guest gets its own address and no other, whatever it asks, and bytes that make no sense get no answer."""

from __future__ import annotations

import struct
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest
from hypothesis import given

from hansa.engines.network import dhcp, frames
from hansa.engines.network.dhcp import Kind, Reply
from hansa.engines.network.frames import packed_address, packed_mac
from hansa.engines.network.lease import Lease
from tests.unit.test_network_frames import hostile, mutated

LEASE = Lease("02:00:00:00:00:05", "web", "10.0.0.5", 24, "10.0.0.1", None, None, ("10.0.0.1", "10.0.0.2"))
ROUTER_MAC = "02:00:00:00:00:01"
OWN, SERVER, OTHER = packed_address("10.0.0.5"), packed_address("10.0.0.1"), packed_address("10.0.0.99")
DISCOVER, REQUEST, DECLINE, RELEASE, INFORM = 1, 3, 4, 7, 8
MAGIC = b"\x63\x82\x53\x63"

# As udhcpc of busybox 1.35 sent them; what is left out is zero.
UDHCPC = f"01010600 7802a6f0 {0:040x} 020000000005 {0:0404x} 63825363 "
UDHCPC_DISCOVER = bytes.fromhex(
    UDHCPC + "350101 39020240 370a0103060c0f1a1c2a7779 3c0c75646863702031 2e33352e30 3d0701020000000005 ff"
).ljust(300, b"\0")
UDHCPC_REQUEST = bytes.fromhex(
    UDHCPC + "350103 32040a000005 36040a000001 39020240 370a0103060c0f1a1c2a7779 3d0701020000000005 ff"
).ljust(300, b"\0")


def request(kind: int, *options: tuple[int, bytes], address: bytes = b"\0" * 4, flags: int = 0, **head: bytes) -> bytes:
    first = head.get("first", b"\x01\x01\x06\0")
    relay, mac = head.get("relay", b"\0" * 4), head.get("mac", packed_mac(LEASE.mac))
    fixed = first + struct.pack("!4sHH4s8s4s16s192x", b"abcd", 0, flags, address, b"", relay, mac) + MAGIC
    return (
        fixed + b"".join(bytes([code, len(value)]) + value for code, value in ((53, bytes([kind])), *options)) + b"\xff"
    )


def options(answer: Reply | None) -> dict[int, bytes]:
    """The options of an answer, read as a client does that believes nothing."""
    assert answer is not None
    raw, found, at = answer.payload, {}, 240
    assert raw[236:240] == MAGIC and 300 <= len(raw) <= 548
    while raw[at] != 255:
        code, size = raw[at], raw[at + 1]
        assert code not in found and at + 2 + size < len(raw)
        found[code] = raw[at + 2 : at + 2 + size]
        at += 2 + size
    assert not raw[at + 1 :].strip(b"\0")
    return found


def given_address(answer: Reply | None) -> str:
    assert answer is not None
    return str(IPv4Address(answer.payload[16:20]))


def test_an_offer_byte_for_byte() -> None:
    answer = dhcp.reply(UDHCPC_DISCOVER, LEASE)
    assert answer == Reply(
        bytes.fromhex(
            "02010600 7802a6f0 00000000 00000000 0a000005 00000000 00000000 020000000005"
            + "00" * 202
            + "63825363 350102 36040a000001 3d0701020000000005 0104ffffff00 03040a000001 330400015180 3a040000a8c0"
            "3b0400012750 1a0205aa 06080a0000010a000002 7905000a000001 0c03776562 0f08696e7465726e616c"
            "770a08696e7465726e616c00 ff"
        ).ljust(300, b"\0"),
        "10.0.0.1",
        "255.255.255.255",
    )


def test_discover_is_offered_and_request_acknowledged() -> None:
    offer, ack = dhcp.reply(UDHCPC_DISCOVER, LEASE), dhcp.reply(UDHCPC_REQUEST, LEASE)
    assert options(offer)[53] == b"\x02"
    assert options(ack)[53] == b"\x05"
    assert given_address(offer) == given_address(ack) == "10.0.0.5"
    assert {key: value for key, value in options(ack).items() if key != 53} == {
        key: value for key, value in options(offer).items() if key != 53
    }


def test_what_was_not_asked_for_is_not_told() -> None:
    told = options(dhcp.reply(request(DISCOVER, (55, b"\x01\x03")), LEASE))
    assert {1, 3, 6, 12, 15, 26, 51, 54, 58, 59} <= set(told)
    assert not {61, 119, 121} & set(told)
    assert struct.unpack("!III", told[51] + told[58] + told[59]) == (86400, 43200, 75600)
    told = options(dhcp.reply(request(DISCOVER, (55, b"\x79\x77")), LEASE))
    assert told[121] == b"\0" + SERVER
    assert told[119] == b"\x08internal\0"


def test_without_name_servers_none_are_told() -> None:
    assert 6 not in options(dhcp.reply(request(DISCOVER), replace(LEASE, dns_v4=())))


@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        (request(REQUEST, (54, SERVER), (50, OWN)), Kind.ACK),  # it takes the offer
        (request(REQUEST, (54, SERVER), (50, OTHER)), Kind.NAK),
        (request(REQUEST, (54, OTHER), (50, OWN)), None),  # it takes another server's
        (request(REQUEST, (50, OWN)), Kind.ACK),  # it has restarted
        (request(REQUEST, (50, OTHER)), Kind.NAK),
        (request(REQUEST, (50, b"\x0a")), Kind.NAK),
        (request(REQUEST, address=OWN), Kind.ACK),  # it asks for longer
        (request(REQUEST, address=OTHER), Kind.NAK),
        (request(REQUEST), None),
        (request(INFORM, address=OWN), Kind.ACK),
        (request(INFORM), Kind.ACK),
        (request(INFORM, address=OTHER), None),
        (request(DECLINE, (50, OWN), (54, SERVER)), None),
        (request(RELEASE, (54, SERVER), address=OWN), None),
        (request(Kind.OFFER), None),
        (request(99), None),
    ],
)
def test_every_state_of_a_client_has_its_answer(asked: bytes, kind: Kind | None) -> None:
    answer = dhcp.reply(asked, LEASE)
    assert (answer and options(answer)[53][0]) == kind


def test_a_no_gives_nothing_and_says_why_to_all() -> None:
    answer = dhcp.reply(request(REQUEST, address=OTHER), LEASE)
    assert answer is not None
    told = options(answer)
    assert answer.payload[12:20] == b"\0" * 8
    assert (set(told), told[53]) == ({53, 54, 56}, b"\x06")
    assert told[56] == b"the address of web is 10.0.0.5"
    assert answer.target == dhcp.BROADCAST


def test_who_only_asks_for_facts_gets_no_lease() -> None:
    answer = dhcp.reply(request(INFORM, address=OWN), LEASE)
    assert not {51, 58, 59} & set(options(answer))
    assert given_address(answer) == "0.0.0.0"


def test_an_answer_goes_to_the_address_that_a_guest_has_unless_it_asks_otherwise() -> None:
    def target(asked: bytes) -> str:
        answer = dhcp.reply(asked, LEASE)
        assert answer is not None
        assert answer.payload[10:12] == asked[10:12]
        return answer.target

    assert target(request(REQUEST, address=OWN)) == "10.0.0.5"
    assert target(request(INFORM, address=OWN)) == "10.0.0.5"
    assert target(request(REQUEST, address=OWN, flags=0x8000)) == dhcp.BROADCAST
    assert target(request(REQUEST, (50, OWN))) == dhcp.BROADCAST
    assert target(request(DISCOVER)) == dhcp.BROADCAST


@pytest.mark.parametrize(
    "asked",
    [
        request(DISCOVER, mac=packed_mac("02:00:00:00:00:06")),
        request(DISCOVER, relay=SERVER),
        request(DISCOVER, first=b"\x02\x01\x06\0"),
        request(DISCOVER, first=b"\x01\x06\x06\0"),
        request(DISCOVER, first=b"\x01\x01\x10\0"),
        request(DISCOVER).replace(MAGIC, b"\0\0\0\0"),
        request(DISCOVER)[:240],
        request(DISCOVER)[:239],
        request(DISCOVER)[:-1] + b"\x0c\x09web",  # a name that is cut
        request(DISCOVER)[:-1] + b"\x0c",
        request(DISCOVER, (53, b"\x03")),  # two kinds
        request(DISCOVER) + bytes(1500 - len(request(DISCOVER)) + 1),
    ],
)
def test_what_is_not_the_guests_own_or_makes_no_sense_gets_no_answer(asked: bytes) -> None:
    assert dhcp.reply(asked, LEASE) is None


def test_the_longest_request_is_answered() -> None:
    asked = request(DISCOVER)
    assert dhcp.reply(asked + bytes(1500 - len(asked)), LEASE) is not None


@pytest.mark.parametrize("missing", [{"ipv4": None}, {"ipv4_gateway": None}])
def test_a_guest_without_ipv4_gets_no_answer(missing: dict[str, Any]) -> None:
    assert dhcp.reply(UDHCPC_DISCOVER, replace(LEASE, **missing)) is None


@pytest.mark.parametrize(
    "more", [b"", b"\xff", b"\0\0\0", b"\x0c\0", b"\x0c\x03web", b"\xff\x0c\x09", b"\0\x0c\x01w\0\xff"]
)
def test_options_may_end_as_they_like(more: bytes) -> None:
    asked = request(DISCOVER)[:-1] + more
    assert options(dhcp.reply(asked, LEASE)) == options(dhcp.reply(request(DISCOVER), LEASE))


def test_filling_stands_between_options() -> None:
    asked = request(DISCOVER)[:240] + b"\0\x35\x01\x03\0\0\x32\x04" + OTHER + b"\0\xff"
    assert options(dhcp.reply(asked, LEASE))[53] == b"\x06"


def test_an_option_in_two_pieces_is_one() -> None:
    assert options(dhcp.reply(request(DISCOVER, (61, b"\x01ab"), (61, b"cd")), LEASE))[61] == b"\x01abcd"


def test_the_longest_identifier_leaves_room_for_what_a_guest_needs() -> None:
    name = "n" * 63
    told = options(dhcp.reply(request(DISCOVER, (61, b"i" * 255), (55, b"\x77\x79")), replace(LEASE, name=name)))
    assert {1, 3, 51, 54, 61} <= set(told)
    assert 61 not in options(dhcp.reply(request(DISCOVER, (61, b"i" * 255), (61, b"i")), LEASE))


def test_a_frame_carries_the_answer_to_the_guest() -> None:
    aloud = dhcp.reply(UDHCPC_DISCOVER, LEASE)
    alone = dhcp.reply(request(REQUEST, address=OWN), LEASE)
    assert aloud is not None and alone is not None
    for answer, mac, address in ((aloud, b"\xff" * 6, b"\xff" * 4), (alone, packed_mac(LEASE.mac), OWN)):
        frame = dhcp.frame(answer, LEASE, ROUTER_MAC)
        packet = frames.parse(frame)
        assert packet is not None
        assert (packet.target_mac, packet.target, packet.source) == (mac, address, SERVER)
        assert frames.udp_payload(frame, 4, 68) == answer.payload


def test_a_request_is_found_in_its_frame() -> None:
    way = frames.Way(packed_mac(LEASE.mac), frames.BROADCAST_MAC, b"\0" * 4, b"\xff" * 4)
    assert dhcp.dhcp_payload(frames.udp(way, 68, 67, UDHCPC_DISCOVER)) == UDHCPC_DISCOVER
    assert dhcp.dhcp_payload(frames.udp(way, 68, 69, UDHCPC_DISCOVER)) is None


@hostile
@given(mutated(UDHCPC_DISCOVER, UDHCPC_REQUEST, request(REQUEST, address=OWN), request(INFORM, address=OWN)))
def test_a_hostile_guest_gets_its_own_address_or_none(asked: bytes) -> None:
    answer = dhcp.reply(asked, LEASE)
    if answer is None:
        return
    told = options(answer)
    assert answer.payload[4:8] == asked[4:8]
    assert given_address(answer) in ("0.0.0.0", "10.0.0.5")
    assert answer.target in (dhcp.BROADCAST, "10.0.0.5")
    assert told[54] == SERVER and told[53][0] in (Kind.OFFER, Kind.ACK, Kind.NAK)
    assert told[53][0] == Kind.NAK or told[3] == SERVER
