"""DHCPv6: one address for one guest, whatever it asks for; what is not meant for this server gets no answer."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import replace

import pytest
from hypothesis import given

from hansa.engines.network import dhcp6, frames
from hansa.engines.network.dhcp6 import Kind, Option, Status
from hansa.engines.network.frames import packed_address, packed_mac
from hansa.engines.network.lease import Lease
from tests.unit.test_network_frames import hostile, mutated

LEASE = Lease("02:00:00:00:00:05", "web", None, 24, None, "fd00:77::5", "fd00:77::1", (), ("fd00:77::1",))
ROUTER_MAC = "02:00:00:00:00:01"
OWN, NEAR, FAR = (packed_address(text) for text in ("fd00:77::5", "fd00:77::9", "fd00:99::5"))
SERVER_ID = b"\0\x03\0\x01" + packed_mac(ROUTER_MAC)
TRANSACTION = b"abc"
CLIENT = (Option.CLIENT, b"\0\x03\0\x01" + packed_mac(LEASE.mac))
SERVER = (Option.SERVER, SERVER_ID)
STRANGER = (Option.SERVER, b"\0\x03\0\x01" + packed_mac("02:00:00:00:00:09"))

# As dhclient of ISC 4.4.3 sent them.
SOLICIT = bytes.fromhex(
    "01bcf4fd 0001000e 00010001329afd1f020000000005 00060004 00170018 00080002 0000 0003000c 000000050000 0e1000001518"
)
REQUEST = bytes.fromhex(
    "03ac49bc 0001000e 00010001329afd1f020000000005 0002000a 00030001020000000001 00060004 00170018 00080002 0000"
    "00030028 00000005 00000e10 00001518 00050018 fd000077000000000000000000000005 00001c20 00001d4c"
)
RELEASE = bytes.fromhex(
    "08535ecc 0001000e 00010001329afd1f020000000005 0002000a 00030001020000000001 00060004 00170018 00080002 0000"
    "00030028 00000005 00000000 00000000 00050018 fd000077000000000000000000000005 00000000 00000000"
)


def option(code: int, content: bytes) -> bytes:
    return struct.pack("!HH", code, len(content)) + content


def addresses(*wanted: bytes, number: int = 5) -> tuple[int, bytes]:
    inner = b"".join(option(Option.ADDRESS, address + b"\0" * 8) for address in wanted)
    return Option.ADDRESSES, struct.pack("!III", number, 0, 0) + inner


PREFIXES = (Option.PREFIXES, struct.pack("!III", 6, 0, 0))
TEMPORARY = (Option.TEMPORARY, struct.pack("!I", 7))
RAPID = (Option.RAPID, b"")


def message(kind: int, *options: tuple[int, bytes]) -> bytes:
    return bytes([kind]) + TRANSACTION + b"".join(option(*each) for each in options)


def split(raw: bytes) -> list[tuple[int, bytes]]:
    """Options, read as a client does that believes nothing."""
    found = []
    while raw:
        code, size = struct.unpack_from("!HH", raw)
        assert len(raw) >= 4 + size
        found.append((code, raw[4 : 4 + size]))
        raw = raw[4 + size :]
    return found


def answered(request: bytes, lease: Lease = LEASE) -> tuple[int, list[tuple[int, bytes]]]:
    answer = dhcp6.reply(request, lease, ROUTER_MAC)
    assert answer is not None
    assert answer[1:4] == request[1:4]
    return answer[0], split(answer[4:])


def association(options: list[tuple[int, bytes]], code: int = Option.ADDRESSES) -> dict[str, tuple[int, int]]:
    """Addresses of the only association of its kind, with their lives in seconds."""
    [content] = [content for each, content in options if each == code]
    head = {Option.TEMPORARY: 4}.get(Option(code), 12)
    inner = [content for each, content in split(content[head:]) if each == Option.ADDRESS]
    return {str(ipaddress.IPv6Address(each[:16])): struct.unpack("!II", each[16:24]) for each in inner}


def status(options: list[tuple[int, bytes]], code: int | None = None) -> int:
    """The status of the whole answer, or of the last association of a kind."""
    if code is not None:
        content = [content for each, content in options if each == code][-1]
        options = split(content[{Option.TEMPORARY: 4}.get(Option(code), 12) :])
    return int.from_bytes(dict(options)[Option.STATUS], "big")


def test_an_advertisement_byte_for_byte() -> None:
    assert dhcp6.reply(SOLICIT, LEASE, ROUTER_MAC) == bytes.fromhex(
        "02bcf4fd 0001000e 00010001329afd1f020000000005 0002000a 00030001020000000001"
        "00030028 00000005 0000a8c0 00010e00 00050018 fd000077000000000000000000000005 00015180 00015180"
        "00170010 fd000077000000000000000000000001 0018000a 08696e7465726e616c00 00070001 ff"
    )


CLIENT_BYTES, SERVER_BYTES = "0001000a 00030001020000000005", "0002000a 00030001020000000001"
SUCCESS, ON_ANOTHER_LINK = "000d0002 0000", "000d0002 0004"


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        (
            f"01616263 {CLIENT_BYTES} 000e0000 00040004 00000007 0019000c 00000006 00000000 00000000",
            f"07616263 {CLIENT_BYTES} {SERVER_BYTES} 0004000a 00000007 000d0002 0002"
            "00190012 00000006 00000000 00000000 000d0002 0006"
            "00170010 fd000077000000000000000000000001 0018000a 08696e7465726e616c00 000e0000",
        ),
        (
            f"06616263 {CLIENT_BYTES} 0003000c 00000005 00000000 00000000",
            f"07616263 {CLIENT_BYTES} {SERVER_BYTES}"
            "00030028 00000005 0000a8c0 00010e00 00050018 fd000077000000000000000000000005 00015180 00015180"
            "00170010 fd000077000000000000000000000001 0018000a 08696e7465726e616c00",
        ),
        (
            f"04616263 {CLIENT_BYTES} 00030028 00000005 00000000 00000000"
            "00050018 fd000077000000000000000000000009 00000000 00000000",
            f"07616263 {CLIENT_BYTES} {SERVER_BYTES} {ON_ANOTHER_LINK}",
        ),
        (f"09616263 {CLIENT_BYTES} {SERVER_BYTES}", f"07616263 {CLIENT_BYTES} {SERVER_BYTES} {SUCCESS}"),
    ],
    ids=["solicit", "rebind", "confirm", "decline"],
)
def test_answers_byte_for_byte(asked: str, answer: str) -> None:
    assert dhcp6.reply(bytes.fromhex(asked), LEASE, ROUTER_MAC) == bytes.fromhex(answer)


def test_a_request_is_granted() -> None:
    kind, options = answered(REQUEST)
    assert kind == Kind.REPLY
    assert association(options) == {"fd00:77::5": (86400, 86400)}
    assert Option.PREFERENCE not in dict(options)
    assert dict(options)[Option.SERVER] == SERVER_ID


def test_a_client_in_a_hurry_has_its_address_at_once() -> None:
    kind, options = answered(message(Kind.SOLICIT, CLIENT, RAPID, addresses()))
    assert kind == Kind.REPLY
    assert dict(options)[Option.RAPID] == b""
    assert association(options) == {"fd00:77::5": (86400, 86400)}


def test_hopes_are_not_fulfilled() -> None:
    kind, options = answered(message(Kind.SOLICIT, CLIENT, addresses(NEAR, FAR)))
    assert (kind, association(options)) == (Kind.ADVERTISE, {"fd00:77::5": (86400, 86400)})


def test_a_request_for_another_link_is_told_so() -> None:
    _, options = answered(message(Kind.REQUEST, CLIENT, SERVER, addresses(FAR)))
    assert association(options) == {}
    assert status(options, Option.ADDRESSES) == Status.NOT_ON_LINK
    _, options = answered(message(Kind.REQUEST, CLIENT, SERVER, addresses(NEAR)))
    assert association(options) == {"fd00:77::5": (86400, 86400)}


@pytest.mark.parametrize("asked", [message(Kind.RENEW, CLIENT, SERVER, addresses(OWN, NEAR, FAR)),
                                   message(Kind.REBIND, CLIENT, addresses(NEAR, OWN, FAR))])  # fmt: skip
def test_who_asks_for_longer_gives_up_all_other_addresses(asked: bytes) -> None:
    kind, options = answered(asked)
    assert kind == Kind.REPLY
    assert association(options) == {"fd00:77::5": (86400, 86400), "fd00:77::9": (0, 0), "fd00:99::5": (0, 0)}


@pytest.mark.parametrize(
    ("held", "wanted"),
    [([OWN], Status.SUCCESS), ([NEAR], Status.NOT_ON_LINK), ([OWN, FAR], Status.NOT_ON_LINK)],
)
def test_a_guest_that_comes_back_hears_whether_its_address_is_right(held: list[bytes], wanted: Status) -> None:
    kind, options = answered(message(Kind.CONFIRM, CLIENT, addresses(*held)))
    assert (kind, status(options)) == (Kind.REPLY, wanted)
    assert Option.ADDRESSES not in dict(options)


def test_a_confirmation_of_nothing_gets_no_answer() -> None:
    assert dhcp6.reply(message(Kind.CONFIRM, CLIENT, addresses()), LEASE, ROUTER_MAC) is None


@pytest.mark.parametrize("asked", [RELEASE, message(Kind.DECLINE, CLIENT, SERVER, addresses(OWN))])
def test_what_is_given_back_is_accepted(asked: bytes) -> None:
    kind, options = answered(asked)
    assert (kind, status(options)) == (Kind.REPLY, Status.SUCCESS)
    assert {code for code, _ in options} == {Option.CLIENT, Option.SERVER, Option.STATUS}


def test_facts_are_told_to_who_asks_for_no_address() -> None:
    kind, options = answered(message(Kind.INFORMATION))
    assert kind == Kind.REPLY
    assert dict(options) == {
        Option.SERVER: SERVER_ID, Option.DNS: packed_address("fd00:77::1"), Option.SEARCH: b"\x08internal\0",
    }  # fmt: skip
    _, options = answered(message(Kind.INFORMATION, CLIENT, SERVER), replace(LEASE, dns_v6=()))
    assert {code for code, _ in options} == {Option.CLIENT, Option.SERVER, Option.SEARCH}


def test_there_is_one_address_and_no_prefix() -> None:
    asked = message(Kind.SOLICIT, CLIENT, PREFIXES, addresses(), addresses(number=8), TEMPORARY)
    _, options = answered(asked)
    given = [content for code, content in options if code == Option.ADDRESSES]
    assert [struct.unpack("!I", content[:4])[0] for content in given] == [5, 8]
    assert split(given[0][12:])[0][0] == Option.ADDRESS
    assert status(options, Option.ADDRESSES) == Status.NO_ADDRESS
    assert status(options, Option.TEMPORARY) == Status.NO_ADDRESS
    assert status(options, Option.PREFIXES) == Status.NO_PREFIX


@pytest.mark.parametrize(
    "asked",
    [
        message(Kind.SOLICIT, addresses()),  # from nobody
        message(Kind.SOLICIT, CLIENT, SERVER, addresses()),
        message(Kind.CONFIRM, CLIENT, SERVER, addresses(OWN)),
        message(Kind.REBIND, CLIENT, SERVER, addresses(OWN)),
        message(Kind.REQUEST, CLIENT, addresses(OWN)),
        message(Kind.REQUEST, CLIENT, STRANGER, addresses(OWN)),
        message(Kind.RENEW, CLIENT, STRANGER, addresses(OWN)),
        message(Kind.RELEASE, CLIENT, STRANGER, addresses(OWN)),
        message(Kind.DECLINE, CLIENT, STRANGER, addresses(OWN)),
        message(Kind.INFORMATION, STRANGER),
        message(Kind.INFORMATION, addresses()),
        message(Kind.ADVERTISE, CLIENT, SERVER, addresses(OWN)),
        message(Kind.REPLY, CLIENT, SERVER, addresses(OWN)),
        message(12, CLIENT),  # from a relay
        message(Kind.SOLICIT, (Option.CLIENT, b"x" * 131), addresses()),
        message(Kind.SOLICIT, CLIENT, (Option.ADDRESSES, b"\0" * 11)),
        message(Kind.SOLICIT, CLIENT, (Option.ADDRESSES, b"\0" * 15)),
        message(Kind.SOLICIT, CLIENT, addresses()) + b"\0\x01\0\x09",
        message(Kind.SOLICIT, CLIENT, addresses()) + b"\0\x01",
        message(Kind.SOLICIT, CLIENT, addresses(), (99, b"x" * 1500)),
        message(Kind.SOLICIT, CLIENT, addresses(), (99, b"x" * (1501 - 38))),
        b"\x01ab",
        b"",
    ],
)
def test_what_is_not_for_this_server_or_makes_no_sense_gets_no_answer(asked: bytes) -> None:
    assert dhcp6.reply(asked, LEASE, ROUTER_MAC) is None


def test_what_is_not_known_is_passed_over() -> None:
    number, content = addresses(NEAR)
    strange = (number, content + option(99, FAR + b"\0" * 8) + option(99, b"") + option(Option.ADDRESS, FAR))
    asked = message(Kind.REBIND, (Option.CLIENT, b"x" * 130), (99, b""), strange, (99, b""))
    assert association(answered(asked)[1]) == {"fd00:77::5": (86400, 86400), "fd00:77::9": (0, 0)}


def test_the_longest_request_is_answered() -> None:
    asked = message(Kind.SOLICIT, CLIENT, addresses(), (99, b"x" * (1500 - 38)))
    assert len(asked) == 1500
    assert association(answered(asked)[1]) == {"fd00:77::5": (86400, 86400)}


def test_a_guest_without_ipv6_gets_no_answer() -> None:
    assert dhcp6.reply(SOLICIT, replace(LEASE, ipv6=None), ROUTER_MAC) is None


def test_a_greedy_guest_gets_no_more_than_fits_a_packet() -> None:
    many = [addresses(*[FAR] * 12, number=number) for number in range(4)]
    answer = dhcp6.reply(message(Kind.REBIND, CLIENT, *many), LEASE, ROUTER_MAC)
    assert answer is not None and answer.count(b"\0\x05\0\x18" + FAR) == 8 and len(answer) < 1200
    answer = dhcp6.reply(message(Kind.SOLICIT, CLIENT, *[PREFIXES] * 60), LEASE, ROUTER_MAC)
    assert answer is not None and answer.count(struct.pack("!HHI", Option.PREFIXES, 18, 6)) == 8


def test_a_frame_carries_the_answer_to_who_asked() -> None:
    guest = packed_address("fe80::ff:fe00:5")
    group = packed_address(dhcp6.SERVERS)
    asked = frames.udp(frames.Way(packed_mac(LEASE.mac), b"\x33\x33\0\x01\0\x02", guest, group), 546, 547, SOLICIT)
    assert dhcp6.dhcp6_payload(asked) == SOLICIT
    sender = frames.parse(asked)
    assert sender is not None
    frame = dhcp6.frame(b"answer", sender, ROUTER_MAC)
    packet = frames.parse(frame)
    assert packet is not None
    assert (packet.target_mac, packet.target) == (packed_mac(LEASE.mac), guest)
    assert (packet.source, packet.source_port) == (packed_address("fe80::1"), 547)
    assert frames.udp_payload(frame, 6, 546) == b"answer"


@hostile
@given(
    mutated(
        SOLICIT, REQUEST, RELEASE, message(Kind.REBIND, CLIENT, addresses(NEAR, OWN, FAR)),
        message(Kind.SOLICIT, CLIENT, PREFIXES, TEMPORARY, addresses()), message(Kind.CONFIRM, CLIENT, addresses(OWN)),
        message(Kind.INFORMATION, CLIENT),
    )
)  # fmt: skip
def test_a_hostile_guest_gets_its_own_address_or_none(asked: bytes) -> None:
    if dhcp6.reply(asked, LEASE, ROUTER_MAC) is None:
        return
    kind, options = answered(asked)
    assert kind in (Kind.ADVERTISE, Kind.REPLY)
    assert dict(options)[Option.SERVER] == SERVER_ID
    for code, content in options:
        for inner, address in split(content[12:]) if code == Option.ADDRESSES else ():
            assert inner != Option.ADDRESS or address[:16] == OWN or address[16:] == b"\0" * 8
