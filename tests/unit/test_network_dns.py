"""The name server: what is ours is known exactly, what is private stays inside, the rest is asked for in our words."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.reversename
import pytest
from dns.edns import OptionType
from dns.rcode import Rcode
from hypothesis import given
from hypothesis import strategies as st

from hansa.engines.network import dns as server
from hansa.engines.network.dns import Forward, Names
from tests.unit.test_network_frames import hostile, mutated

MANY = tuple(f"10.0.1.{last}" for last in range(1, 200))
MACHINES = {"web": ("10.0.0.5", "fd00:77:0::5"), "six": ("fd00:77::6",), "many": MANY, "public": ("192.0.9.5",)}
NAMES = Names.of(MACHINES, ("10.0.0.1", "fd00:77::1"), 7)
NXDOMAIN, NOERROR = Rcode.NXDOMAIN, Rcode.NOERROR
NUMBERS = itertools.cycle(range(0x1234, 0xFFFF, 0x0101))  # of questions: the same ones in all processes of a run


def query(name: str, kind: str = "A", **more: Any) -> bytes:
    return dns.message.make_query(name, kind, **{"id": next(NUMBERS), **more}).to_wire(max_size=65_535)


def padded(size: int) -> bytes:
    """A question for `web.internal` that is `size` bytes long."""
    fill = OptionType.make(65001)
    empty = len(query("web.internal", options=[dns.edns.GenericOption(fill, b"")]))
    return query("web.internal", options=[dns.edns.GenericOption(fill, b"x" * (size - empty))])


def read(response: bytes | Forward | None) -> dns.message.Message:
    """An answer, read as strictly as the library can, and what all answers have in common."""
    assert isinstance(response, bytes)
    message = dns.message.from_wire(response)
    assert message.flags & dns.flags.QR
    return message


def records(message: dns.message.Message) -> set[str]:
    return {str(record) for rrset in message.answer for record in rrset}


def zone_of_absence(message: dns.message.Message) -> str:
    """The zone that says how long to remember that something is not there."""
    assert not message.answer
    [authority] = message.authority
    assert authority.rdtype == dns.rdatatype.SOA
    assert (authority.ttl, authority[0].minimum, authority[0].serial) == (5, 5, 7)
    return str(authority.name)


def backwards(address: str) -> str:
    return str(dns.reversename.from_address(address))


def test_an_answer_byte_for_byte() -> None:
    asked = bytes.fromhex(
        "d1d6 0100 0001 0000 0000 0000 03776562 08696e7465726e616c 00 0001 0001"
    )  # as a kernel sent it
    assert server.answer(asked, NAMES) == bytes.fromhex(
        "d1d6 8580 0001 0001 0000 0000 03776562 08696e7465726e616c 00 0001 0001 c00c 0001 0001 0000001e 0004 0a000005"
    )


@pytest.mark.parametrize(
    ("name", "kind", "wanted"),
    [
        ("web.internal", "A", {"10.0.0.5"}),
        ("web.internal", "AAAA", {"fd00:77::5"}),
        ("web.internal", "ANY", {"10.0.0.5", "fd00:77::5"}),
        ("WeB.InTeRnAl", "A", {"10.0.0.5"}),
        ("web", "A", {"10.0.0.5"}),  # a word without a dot
        ("six", "AAAA", {"fd00:77::6"}),
        ("internal", "A", {"10.0.0.1"}),
        ("internal", "AAAA", {"fd00:77::1"}),
        ("internal", "NS", {"internal."}),
        ("internal", "SOA", {"internal. hostmaster.internal. 7 3600 600 86400 5"}),
        ("10.in-addr.arpa", "NS", {"internal."}),
        ("d.f.ip6.arpa", "SOA", {"internal. hostmaster.internal. 7 3600 600 86400 5"}),
        (backwards("10.0.0.5"), "PTR", {"web.internal."}),
        (backwards("10.0.0.5").upper(), "ANY", {"web.internal."}),
        (backwards("fd00:77::6"), "PTR", {"six.internal."}),
        (backwards("192.0.9.5"), "PTR", {"public.internal."}),
    ],
)
def test_what_is_ours_is_answered_with_authority(name: str, kind: str, wanted: set[str]) -> None:
    response = read(server.answer(query(name, kind), NAMES))
    assert (response.rcode(), records(response)) == (NOERROR, wanted)
    assert response.flags & dns.flags.AA
    assert str(response.question[0].name) == str(dns.name.from_text(name))  # small and large letters as they were


@pytest.mark.parametrize(
    ("name", "kind", "rcode", "zone"),
    [
        ("six.internal", "A", NOERROR, "internal."),  # there, but not with this
        ("web.internal", "MX", NOERROR, "internal."),
        ("internal", "TXT", NOERROR, "internal."),
        ("no.internal", "A", NXDOMAIN, "internal."),
        ("a.web.internal", "A", NXDOMAIN, "internal."),
        (backwards("10.0.0.6"), "PTR", NXDOMAIN, "10.in-addr.arpa."),
        (backwards("10.0.0.5"), "A", NOERROR, "10.in-addr.arpa."),
        (backwards("192.0.9.5"), "TXT", NOERROR, backwards("192.0.9.5")),
        (backwards("172.16.0.1"), "PTR", NXDOMAIN, "16.172.in-addr.arpa."),
        (backwards("172.31.255.1"), "PTR", NXDOMAIN, "31.172.in-addr.arpa."),
        (backwards("192.168.1.1"), "PTR", NXDOMAIN, "168.192.in-addr.arpa."),
        (backwards("169.254.1.1"), "PTR", NXDOMAIN, "254.169.in-addr.arpa."),
        (backwards("100.64.0.1"), "PTR", NXDOMAIN, "64.100.in-addr.arpa."),
        (backwards("127.0.0.1"), "PTR", NXDOMAIN, "127.in-addr.arpa."),
        (backwards("fd12::1"), "PTR", NXDOMAIN, "d.f.ip6.arpa."),
        (backwards("fe80::1"), "PTR", NXDOMAIN, "8.e.f.ip6.arpa."),
        (backwards("2001:db8::1"), "PTR", NXDOMAIN, "8.b.d.0.1.0.0.2.ip6.arpa."),
        (backwards("::1"), "PTR", NOERROR, backwards("::1")),
        ("10.in-addr.arpa", "PTR", NOERROR, "10.in-addr.arpa."),
        ("0.10.in-addr.arpa", "PTR", NOERROR, "10.in-addr.arpa."),  # a part of addresses that are there
        ("7.7.0.0.0.0.d.f.ip6.arpa", "PTR", NOERROR, "d.f.ip6.arpa."),
        ("256.0.0.10.in-addr.arpa", "PTR", NXDOMAIN, "10.in-addr.arpa."),
        ("256.10.in-addr.arpa", "PTR", NXDOMAIN, "10.in-addr.arpa."),
        ("05.0.0.10.in-addr.arpa", "PTR", NXDOMAIN, "10.in-addr.arpa."),
        ("x.10.in-addr.arpa", "PTR", NXDOMAIN, "10.in-addr.arpa."),
        ("1.5.0.0.10.in-addr.arpa", "PTR", NXDOMAIN, "10.in-addr.arpa."),
        ("localhost", "A", NXDOMAIN, "localhost."),
        ("a.localhost", "AAAA", NXDOMAIN, "localhost."),
        ("printer.local", "A", NXDOMAIN, "local."),
        ("a.b.onion", "A", NXDOMAIN, "onion."),
        ("a.test", "A", NXDOMAIN, "test."),
    ],
)
def test_what_is_not_there_is_said_not_to_be_there(name: str, kind: str, rcode: Rcode, zone: str) -> None:
    response = read(server.answer(query(name, kind), NAMES))
    assert (response.rcode(), zone_of_absence(response)) == (rcode, zone)
    assert response.flags & dns.flags.AA


def test_a_plain_word_never_leaves() -> None:
    for name, rcode in (("nowhere", NXDOMAIN), ("six", NOERROR)):
        response = read(server.answer(query(name, "A"), NAMES))
        assert (response.rcode(), response.answer, response.authority) == (rcode, [], [])


@pytest.mark.parametrize(
    ("name", "kind"),
    [("example.com", "A"), ("com", "DS"), (".", "NS"), (backwards("8.8.8.8"), "PTR"), (backwards("2a00::1"), "PTR"),
     ("web.internal.example.com", "A"), ("172.in-addr.arpa", "NS"), (backwards("172.32.0.1"), "PTR"),
     (backwards("100.128.0.1"), "PTR")],
)  # fmt: skip
def test_what_belongs_to_others_goes_to_a_resolver(name: str, kind: str) -> None:
    forward = server.answer(query(name, kind), NAMES)
    assert isinstance(forward, Forward)
    question = dns.message.from_wire(forward.query).question[0]
    assert (str(question.name), dns.rdatatype.to_text(question.rdtype)) == (str(dns.name.from_text(name)), kind)


def test_what_leaves_is_written_anew() -> None:
    secret = dns.edns.GenericOption(OptionType.make(65001), b"a word for a friend outside")
    asked = dns.message.make_query("ExAmple.com", "A", payload=4000, options=[secret], want_dnssec=True)
    asked.flags = dns.flags.CD | dns.flags.AD | dns.flags.TC
    forward = server.answer(asked.to_wire(), NAMES)
    assert isinstance(forward, Forward) and (forward.limit_bytes, forward.tcp) == (1232, False)
    sent = dns.message.from_wire(forward.query)
    assert sent.flags == dns.flags.RD | dns.flags.CD
    assert (sent.options, sent.payload, sent.ednsflags) == ((), 1232, int(dns.flags.DO))
    assert (sent.id, sent.question) == (asked.id, asked.question)
    assert b"ExAmple" in forward.query and b"friend" not in forward.query
    other = server.answer(query("example.com", use_edns=0), NAMES)
    assert isinstance(other, Forward) and dns.message.from_wire(other.query).ednsflags == 0
    plain = server.answer(query("example.com"), NAMES, tcp=True)
    assert isinstance(plain, Forward) and (plain.limit_bytes, plain.tcp) == (65_535, True)
    assert dns.message.from_wire(plain.query).edns == -1


def resolved(forward: Forward, number: int, count: int = 1) -> bytes:
    """What a resolver answers to `forward`."""
    response = dns.message.make_response(dns.message.from_wire(server.ask(forward, number)), recursion_available=True)
    text = [f"192.0.9.{last}" for last in range(count)]
    response.answer.append(dns.rrset.from_text_list("example.com.", 60, "IN", "A", text))
    return response.to_wire()


def test_a_resolvers_response_goes_to_the_guest_under_its_own_number() -> None:
    asked = query("eXample.com", id=0x1234)
    forward = server.answer(asked, NAMES)
    assert isinstance(forward, Forward)
    assert server.ask(forward, 0xBEEF)[:2] == b"\xbe\xef"
    relayed = server.relay(forward, 0xBEEF, resolved(forward, 0xBEEF))
    response = read(relayed)
    assert (response.id, records(response)) == (0x1234, {"192.0.9.0"})


def test_a_response_to_another_question_is_none() -> None:
    forward, other = server.answer(query("example.com"), NAMES), server.answer(query("example.org"), NAMES)
    assert isinstance(forward, Forward) and isinstance(other, Forward)
    good = resolved(forward, 5)
    assert server.relay(forward, 5, good) is not None
    for bad in (
        resolved(forward, 6),
        resolved(other, 5),
        server.ask(forward, 5),  # a question
        good[:2] + bytes([good[2] | 0x28]) + good[3:],  # a message of another kind
        good[:4] + b"\0\2" + good[6:],
        good.replace(b"\0\1\0\1", b"\0\x1c\0\1", 1),  # the same name, another kind
        good[:20],
        good[:11],
        b"",
    ):
        assert server.relay(forward, 5, bad) is None


def test_a_response_that_is_too_long_for_the_guest_is_cut_and_says_so() -> None:
    asked = query("EXAMPLE.com")
    forward = server.answer(asked, NAMES)
    assert isinstance(forward, Forward)
    relayed = server.relay(forward, 5, resolved(forward, 5, count=60))
    response = read(relayed)
    assert response.flags & dns.flags.TC and not response.answer
    assert relayed is not None and relayed[:2] == asked[:2] and relayed[12:] == asked[12:]
    short = resolved(forward, 5)
    assert server.relay(replace(forward, limit_bytes=len(short)), 5, short) == asked[:2] + short[2:]
    assert read(server.relay(replace(forward, limit_bytes=len(short) - 1), 5, short)).flags & dns.flags.TC


@pytest.mark.parametrize("size", [0, 511, 600, 1232, 4096])
def test_an_answer_is_never_longer_than_the_guest_takes(size: int) -> None:
    asked = query("many.internal", use_edns=0, payload=size) if size else query("many.internal")
    cut = server.answer(asked, NAMES)
    assert isinstance(cut, bytes) and len(cut) <= min(max(512, size), 1232)
    assert read(cut).flags & dns.flags.TC
    assert read(cut).edns == (0 if size else -1)
    whole = read(server.answer(asked, NAMES, tcp=True))
    assert not whole.flags & dns.flags.TC
    assert records(whole) == set(MANY)


def test_padding_is_not_asked_of_us() -> None:
    asked = dns.message.make_query(
        "web.internal", "A", options=[dns.edns.GenericOption(OptionType.make(12), b"\0" * 40)], pad=128
    )
    response = server.answer(asked.to_wire(), NAMES)
    assert isinstance(response, bytes) and len(response) < 128


@pytest.mark.parametrize(
    ("asked", "rcode"),
    [
        (query("web.internal", rdclass="CH"), Rcode.REFUSED),
        (query("version.bind", "TXT", rdclass="CH"), Rcode.REFUSED),
        (query("web.internal", rdclass="ANY"), Rcode.REFUSED),
        (query("internal", "AXFR"), Rcode.REFUSED),
        (query("example.com", "AXFR"), Rcode.REFUSED),
        (query("example.com", "TYPE0"), Rcode.REFUSED),
        (query("a." * 47 + "com"), Rcode.REFUSED),  # 48 labels and the root
        (query("web.internal", use_edns=1), Rcode.BADVERS),
        (query("web.internal") + b"\0", Rcode.FORMERR),
        (query("web.internal")[:-1], Rcode.FORMERR),
        (query("web.internal")[:12], Rcode.FORMERR),
        (padded(1233), Rcode.FORMERR),
    ],
)
def test_what_is_not_to_be_answered_is_refused(asked: bytes, rcode: Rcode) -> None:
    response = read(server.answer(asked, NAMES))
    assert response.rcode() == rcode
    assert response.id == int.from_bytes(asked[:2], "big")
    assert not response.answer


def test_the_longest_query_and_name_are_answered() -> None:
    assert len(padded(1232)) == 1232
    assert records(read(server.answer(padded(1232), NAMES))) == {"10.0.0.5"}
    assert isinstance(server.answer(query("a." * 46 + "com"), NAMES), Forward)
    forward = server.answer(query(f"{'a' * 63}.b.com"), NAMES)
    assert isinstance(forward, Forward)
    response = dns.message.make_response(dns.message.from_wire(server.ask(forward, 5))).to_wire()
    assert read(server.relay(forward, 5, response)).question == dns.message.from_wire(forward.query).question


@pytest.mark.parametrize(
    ("section", "count", "rcode"),
    [("question", 1, Rcode.FORMERR), ("answer", 1, Rcode.FORMERR), ("authority", 1, Rcode.FORMERR),
     ("additional", 4, NOERROR), ("additional", 5, Rcode.FORMERR)],
)  # fmt: skip
def test_a_query_has_one_question_and_little_more(section: str, count: int, rcode: Rcode) -> None:
    asked = dns.message.make_query("web.internal", "A")
    for number in range(count):
        more = dns.rrset.from_text(f"a{number}.internal.", 5, "IN", "A", "10.0.0.1")
        getattr(asked, section).append(more)
    assert read(server.answer(asked.to_wire(), NAMES)).rcode() == rcode


def test_a_query_without_a_question_is_refused() -> None:
    asked = query("web.internal")
    assert read(server.answer(asked[:4] + b"\0\0" + asked[6:12], NAMES)).rcode() == Rcode.FORMERR


def test_other_operations_are_not_known() -> None:
    asked = dns.message.make_query("web.internal", "A")
    asked.set_opcode(dns.opcode.UPDATE)
    response = server.answer(asked.to_wire(), NAMES)
    assert isinstance(response, bytes)
    assert (response[2] >> 3 & 15, response[3] & 15) == (dns.opcode.UPDATE, Rcode.NOTIMP)


def test_an_answer_is_never_answered() -> None:
    response = server.answer(query("web.internal"), NAMES)
    assert isinstance(response, bytes)
    assert server.answer(response, NAMES) is None
    assert server.servfail(response) is None
    assert server.answer(b"short", NAMES) is None


def test_without_a_resolver_the_failure_is_ours() -> None:
    asked = query("example.com", use_edns=0)
    response = read(server.servfail(asked))
    assert response.rcode() == Rcode.SERVFAIL
    assert (response.id, response.question) == (dns.message.from_wire(asked).id, dns.message.from_wire(asked).question)
    assert read(server.servfail(asked[:-1])).rcode() == Rcode.FORMERR


def test_an_address_is_the_same_however_it_is_written() -> None:
    assert NAMES.reverse["fd00:77::5"] == "web"
    with pytest.raises(ValueError, match="does not appear"):
        Names.of({"web": ("10.0.0.256",)})


PACKETS = (
    query("web.internal"),
    query("example.com", "AAAA", use_edns=0, payload=1232, want_dnssec=True),
    query(backwards("fd00:77::5"), "PTR"),
    query("many.internal", options=[dns.edns.GenericOption(OptionType.make(10), b"12345678")]),
)


@hostile
@given(mutated(*PACKETS), st.booleans())
def test_a_hostile_guest_gets_a_right_answer_or_none(asked: bytes, tcp: bool) -> None:
    response = server.answer(asked, NAMES, tcp=tcp)
    if isinstance(response, Forward):
        assert len(dns.message.from_wire(response.query).question) == 1
        response = server.servfail(asked)
        assert response is not None
    if response is None:
        assert len(asked) < 12 or asked[2] & 0x80
        return
    assert response[:2] == asked[:2] and response[2] & 0x80
    assert tcp or len(response) <= 1232
    if not response[2] & 0x78:
        dns.message.from_wire(response)


@hostile
@given(mutated(*(query("example.com"), resolved(Forward(query("example.com"), 512, False), 5))))
def test_a_hostile_resolver_is_not_believed(response: bytes) -> None:
    forward = Forward(query("example.com", id=9), 512, False)
    relayed = server.relay(forward, 5, response)
    assert relayed is None or (relayed[:2], relayed[12:29].lower()) == (b"\0\x09", forward.query[12:29])
