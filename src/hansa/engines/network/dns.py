"""The name server of one network: what is asked about its own machines is answered here, the rest goes to a resolver.

`<machine>.internal` and the names of the network's own addresses are known exactly, so what is not there is said
not to be there. Questions that only make sense inside (private ranges, `localhost`, `local`, plain words) never leave:
they would tell a stranger how the network is built. What does leave is written anew, so that no byte that a guest
made reaches the resolver. The one file that knows the DNS library.
Sources: RFC 1034, 1035, 2308 (what is not there), 6303 and 7793 (private ranges), 6761, 6762, 7686, 6891, 8482.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
from dns.rcode import Rcode
from dns.rdataclass import RdataClass
from dns.rdatatype import RdataType

from hansa.engines.network.lease import DOMAIN

PORT = 53
TTL_S = 30  # machines come and go
ABSENT_TTL_S = 5  # a name that is asked for too early is found soon after

_HEAD = struct.Struct("!HHHHHH")
_QUERY_BYTES_MAX = 1232
_RECORDS_MAX = 4  # beside the question: an honest query has one, for its options
_UDP_BYTES_MIN, _UDP_BYTES_MAX = 512, 1232  # the latter passes any link in one piece
_TCP_BYTES_MAX = 65_535
_OPCODE = 0x7800
_ZONE = dns.name.from_text(DOMAIN)
_LABEL_BYTES_MAX = 63
_LABELS_MAX = 48  # an IPv6 address backwards has 35; longer names only cost time
_OCTETS = frozenset(map(str, range(256)))
_NIBBLES = frozenset("0123456789abcdef")
_ADDRESSES = frozenset({RdataType.A, RdataType.AAAA})
_V4, _V6 = dns.name.from_text("in-addr.arpa"), dns.name.from_text("ip6.arpa")


def _zones(names: Iterable[str]) -> frozenset[dns.name.Name]:
    return frozenset(dns.name.from_text(name) for name in names)


_PRIVATE = _zones(
    [
        *(f"{network}.in-addr.arpa" for network in ("0", "10", "127", "254.169", "168.192", "255.255.255.255")),
        *(f"{network}.in-addr.arpa" for network in ("2.0.192", "100.51.198", "113.0.203")),
        *(f"{second}.172.in-addr.arpa" for second in range(16, 32)),
        *(f"{second}.100.in-addr.arpa" for second in range(64, 128)),
        *(f"{network}.ip6.arpa" for network in ("d.f", "8.e.f", "9.e.f", "a.e.f", "b.e.f", "8.b.d.0.1.0.0.2")),
        *(f"{last}.{'.'.join('0' * 31)}.ip6.arpa" for last in "01"),
    ]
)
_NOWHERE = _zones(["invalid", "local", "localhost", "onion", "test"])
_ZONE_LABELS_MAX = max(map(len, _PRIVATE))


@dataclass(frozen=True, slots=True)
class Names:
    """The machines of a network: addresses by name, name by address, and the addresses of this name server.

    `serial` rises with each change, as the network's revision does.
    """

    forward: Mapping[str, tuple[str, ...]]
    reverse: Mapping[str, str]
    servers: tuple[str, ...] = ()
    serial: int = 1

    @classmethod
    def of(cls, machines: Mapping[str, tuple[str, ...]], servers: tuple[str, ...] = (), serial: int = 1) -> Names:
        """Both maps from one. Raises ValueError for what is no address."""
        reverse = {_plain(address): name for name, addresses in machines.items() for address in addresses}
        return cls(machines, reverse, servers, serial)


@dataclass(frozen=True, slots=True)
class Forward:
    """A question for a resolver, written anew, and how many bytes of answer the guest takes.

    What came by `tcp` must be asked by it too: the guest does not ask a third time.
    """

    query: bytes
    limit_bytes: int
    tcp: bool


def answer(query: bytes, names: Names, *, tcp: bool = False) -> bytes | Forward | None:
    """The answer to a guest's `query`, or the question for a resolver; None for what is no question at all.

    By UDP an answer that the guest cannot take is cut and marked so, and it asks again by TCP.
    """
    asked = _parse(query)
    if asked is None or isinstance(asked, bytes):
        return asked
    question = asked.question[0]
    limit_bytes = _limit(asked, tcp=tcp)
    if asked.edns > 0:
        return _written(_reply(asked, Rcode.BADVERS), limit_bytes)
    if question.rdclass != RdataClass.IN or _is_refused(question.rdtype):
        return _written(_reply(asked, Rcode.REFUSED), limit_bytes)
    reply = _own(asked, names)
    return Forward(_anew(asked), limit_bytes, tcp) if reply is None else _written(reply, limit_bytes)


def servfail(query: bytes) -> bytes | None:
    """The answer when no resolver answers; None for what is no question."""
    asked = _parse(query)
    if asked is None or isinstance(asked, bytes):
        return asked
    return _written(_reply(asked, Rcode.SERVFAIL), _UDP_BYTES_MIN)


def ask(forward: Forward, number: int) -> bytes:
    """The question under a `number` (16 bits) that is drawn for it: a guest must not know what to forge."""
    return number.to_bytes(2, "big") + forward.query[2:]


def relay(forward: Forward, number: int, response: bytes) -> bytes | None:
    """A resolver's response as the guest gets it; None when it answers another question than `ask` wrote."""
    if len(response) < _HEAD.size or len(response) > _TCP_BYTES_MAX:
        return None
    given, flags, questions, *_ = _HEAD.unpack_from(response)
    if (given, flags & (dns.flags.QR | _OPCODE), questions) != (number, dns.flags.QR, 1):
        return None
    name, kind = _question(forward.query)
    same_name, same_kind = _question(response)
    if (same_name.lower(), same_kind) != (name.lower(), kind):
        return None
    if len(response) <= forward.limit_bytes:
        return forward.query[:2] + response[2:]
    asked, *_ = _HEAD.unpack_from(forward.query)
    return _HEAD.pack(asked, flags | dns.flags.TC, 1, 0, 0, 0) + name + kind


# -- what is ours -------------------------------------------------------------------------------


def _own(asked: dns.message.Message, names: Names) -> dns.message.Message | None:
    """The answer to a question about this network or about nothing on earth, None for one about the world."""
    question = asked.question[0]
    name, kind = question.name, question.rdtype
    if name.is_subdomain(_ZONE):
        return _in_zone(asked, names)
    if nowhere := _within(name, _NOWHERE):
        return _absent(asked, names, nowhere, Rcode.NXDOMAIN)
    if name.is_subdomain(_V4) or name.is_subdomain(_V6):
        return _of_address(asked, names)
    if len(name) == 2 and kind in _ADDRESSES:  # one word and the root
        found = names.forward.get(_text(name.labels[0]))
        return _addresses(asked, names, None, found) if found else _absent(asked, names, None, Rcode.NXDOMAIN)
    return None


def _in_zone(asked: dns.message.Message, names: Names) -> dns.message.Message:
    name = asked.question[0].name
    if name == _ZONE:
        return _apex(asked, names, _ZONE) or _addresses(asked, names, _ZONE, names.servers)
    found = names.forward.get(_text(name.labels[0])) if len(name) == len(_ZONE) + 1 else None
    return _addresses(asked, names, _ZONE, found) if found else _absent(asked, names, _ZONE, Rcode.NXDOMAIN)


def _of_address(asked: dns.message.Message, names: Names) -> dns.message.Message | None:
    """The name of an address; None for one that is neither ours nor private."""
    name, kind = asked.question[0].name, asked.question[0].rdtype
    zone = _within(name, _PRIVATE)
    family, digits = _digits(name)
    machine = names.reverse.get(_address(family, digits))
    if machine:
        target = _record(RdataType.PTR, f"{machine}.{DOMAIN}.")
        return (
            _found(asked, [target]) if kind in (target.rdtype, RdataType.ANY) else _absent(asked, names, zone or name)
        )
    if zone is None:
        return None
    if name == zone:
        return _apex(asked, names, zone) or _absent(asked, names, zone)
    return _absent(asked, names, zone, Rcode.NOERROR if _is_part(family, digits) else Rcode.NXDOMAIN)


def _apex(asked: dns.message.Message, names: Names, zone: dns.name.Name) -> dns.message.Message | None:
    """What a zone says of itself. Its name server is `internal` itself, which takes no name from a machine."""
    kind = asked.question[0].rdtype
    if kind in (RdataType.SOA, RdataType.ANY):
        return _found(asked, [_authority(names)])
    return _found(asked, [_record(RdataType.NS, f"{DOMAIN}.")]) if kind == RdataType.NS else None


def _addresses(
    asked: dns.message.Message, names: Names, zone: dns.name.Name | None, addresses: Iterable[str]
) -> dns.message.Message:
    """Those of the family that is asked for, both for any; nothing of a name that has only the other."""
    kind = asked.question[0].rdtype
    kinds = [(RdataType.AAAA if ":" in address else RdataType.A, address) for address in addresses]
    records = [_record(own, address) for own, address in kinds if kind in (own, RdataType.ANY)]
    return _found(asked, records) if records else _absent(asked, names, zone)


def _found(asked: dns.message.Message, records: Iterable[dns.rdata.Rdata]) -> dns.message.Message:
    reply = _reply(asked, Rcode.NOERROR)
    reply.flags |= dns.flags.AA
    name = asked.question[0].name
    for record in records:
        reply.find_rrset(reply.answer, name, record.rdclass, record.rdtype, create=True).add(record, TTL_S)
    return reply


def _absent(
    asked: dns.message.Message, names: Names, zone: dns.name.Name | None, rcode: Rcode = Rcode.NOERROR
) -> dns.message.Message:
    """No such name, or a name with nothing of the kind (NOERROR).

    The zone above it says how long to remember that (RFC 2308); a plain word has none and is not remembered.
    """
    reply = _reply(asked, rcode)
    reply.flags |= dns.flags.AA
    if zone is not None:
        reply.authority.append(dns.rrset.from_rdata(zone, ABSENT_TTL_S, _authority(names)))
    return reply


def _authority(names: Names) -> dns.rdata.Rdata:
    numbers = f"{names.serial & 0xFFFFFFFF} 3600 600 86400 {ABSENT_TTL_S}"
    return _record(RdataType.SOA, f"{DOMAIN}. hostmaster.{DOMAIN}. {numbers}")


def _record(kind: RdataType, text: str) -> dns.rdata.Rdata:
    return dns.rdata.from_text(RdataClass.IN, kind, text)


# -- names --------------------------------------------------------------------------------------


def _within(name: dns.name.Name, zones: frozenset[dns.name.Name]) -> dns.name.Name | None:
    """The zone of `zones` that `name` lies in."""
    suffixes = (dns.name.Name(name.labels[at:]) for at in range(max(0, len(name) - _ZONE_LABELS_MAX), len(name)))
    return next((suffix for suffix in suffixes if suffix in zones), None)


def _digits(name: dns.name.Name) -> tuple[int, list[str]]:
    """The family of a reverse name and what it says of an address, first digits first."""
    family, zone = (4, _V4) if name.is_subdomain(_V4) else (6, _V6)
    return family, [_text(label) for label in reversed(name.relativize(zone).labels)]


def _address(family: int, digits: list[str]) -> str:
    """The address, as `Names` writes it; empty when the digits are not one whole address."""
    if not _is_part(family, digits, whole=True):
        return ""
    if family == 4:
        return ".".join(digits)
    return str(ipaddress.IPv6Address(int("".join(digits), 16)))


def _is_part(family: int, digits: list[str], *, whole: bool = False) -> bool:
    """Whether addresses can begin so; such a name is not said to be absent, since some below it may be there."""
    count, allowed = (4, _OCTETS) if family == 4 else (32, _NIBBLES)
    return (len(digits) == count if whole else len(digits) < count) and allowed.issuperset(digits)


def _plain(address: str) -> str:
    return str(ipaddress.ip_address(address))


def _text(label: bytes) -> str:
    return label.decode("ascii", "replace").lower()


# -- messages -----------------------------------------------------------------------------------


def _parse(query: bytes) -> dns.message.Message | bytes | None:
    """The question; the answer already when there is no sense in it; None for an answer, and for what is neither."""
    if len(query) < _HEAD.size:
        return None
    _, flags, questions, answers, authorities, additions = _HEAD.unpack_from(query)
    if flags & dns.flags.QR:
        return None
    if flags & _OPCODE:
        return _refusal(query, Rcode.NOTIMP)
    if len(query) > _QUERY_BYTES_MAX or questions != 1 or answers or authorities or additions > _RECORDS_MAX:
        return _refusal(query, Rcode.FORMERR)
    asked = dns.message.from_wire(query, continue_on_error=True)
    if asked.errors:
        return _refusal(query, Rcode.FORMERR)
    return _refusal(query, Rcode.REFUSED) if len(asked.question[0].name) > _LABELS_MAX else asked


def _refusal(query: bytes, rcode: Rcode) -> bytes:
    """A head alone: whatever follows it in the query is not understood."""
    number, flags, *_ = _HEAD.unpack_from(query)
    return _HEAD.pack(number, dns.flags.QR | (flags & (_OPCODE | dns.flags.RD)) | rcode, 0, 0, 0, 0)


def _is_refused(kind: RdataType) -> bool:
    """Kinds that are no data: transfers of a zone and the like."""
    return kind == RdataType.NONE or (dns.rdatatype.is_metatype(kind) and kind != RdataType.ANY)


def _limit(asked: dns.message.Message, *, tcp: bool) -> int:
    if tcp:
        return _TCP_BYTES_MAX
    return _UDP_BYTES_MIN if asked.edns < 0 else min(max(asked.payload, _UDP_BYTES_MIN), _UDP_BYTES_MAX)


def _reply(asked: dns.message.Message, rcode: Rcode) -> dns.message.Message:
    reply = dns.message.make_response(asked, recursion_available=True, our_payload=_UDP_BYTES_MAX, pad=0)
    reply.set_rcode(rcode)
    return reply


def _written(reply: dns.message.Message, limit_bytes: int) -> bytes:
    return reply.to_wire(max_size=limit_bytes, prefer_truncation=True)


def _anew(asked: dns.message.Message) -> bytes:
    """The same question in our own words: nothing is taken over but name, kind and how the answer is wanted."""
    question = asked.question[0]
    flags = dns.flags.RD | (asked.flags & dns.flags.CD)
    fresh = dns.message.make_query(
        question.name,
        question.rdtype,
        use_edns=0 if asked.edns >= 0 else False,
        ednsflags=asked.ednsflags & dns.flags.DO,
        payload=_limit(asked, tcp=False),
        id=asked.id,
        flags=flags,
    )
    return fresh.to_wire()


def _question(message: bytes) -> tuple[bytes, bytes]:
    """The first question of a message: its name, and its kind and class."""
    at = _HEAD.size
    while at < len(message) and 0 < message[at] <= _LABEL_BYTES_MAX:
        at += 1 + message[at]
    return message[_HEAD.size : at + 1], message[at + 1 : at + 5]
