"""The DHCPv4 server of one guest: a request in, the answer out.

There is nothing to remember: the lease is known before the guest asks, the same for ever, so an offer promises
nothing that a later acknowledgement could break. A guest that asks for another address is told no at once, which
makes a clone of a disk forget its origin's. What is broken, speaks for another card or came through a relay is None.
Sources: RFC 2131 (who is answered how), 2132 (options), 3396, 3397, 3442, 6842.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Network

from hansa.engines.network import frames
from hansa.engines.network.frames import packed_address, packed_mac
from hansa.engines.network.lease import Lease, search_list

SERVER_PORT, CLIENT_PORT = 67, 68
BROADCAST = "255.255.255.255"

_HEAD = struct.Struct("!4B4sHH4s4s4s4s16s192x4s")
_MAGIC = b"\x63\x82\x53\x63"
_REQUEST, _REPLY = 1, 2
_NOBODY = b"\0" * 4
_BROADCAST_FLAG = 0x8000
_REQUEST_BYTES_MAX = 1500  # no honest one is longer
_REPLY_BYTES_MIN = 300  # of BOOTP; some clients drop what is shorter
_REPLY_BYTES_MAX = 548  # what every client must take: a datagram of 576 bytes without its heads


class Kind(IntEnum):
    """What a message is (option 53)."""

    DISCOVER = 1
    OFFER = 2
    REQUEST = 3
    ACK = 5
    NAK = 6
    INFORM = 8


class Option(IntEnum):
    PAD = 0
    MASK = 1
    ROUTER = 3
    DNS = 6
    NAME = 12
    DOMAIN = 15
    MTU = 26
    ADDRESS = 50
    LEASE_S = 51
    KIND = 53
    SERVER = 54
    PARAMETERS = 55  # codes of the options that the client asks for
    MESSAGE = 56
    RENEW_S = 58
    REBIND_S = 59
    CLIENT = 61
    SEARCH = 119
    ROUTES = 121
    END = 255


@dataclass(frozen=True, slots=True)
class Reply:
    """A payload from the gateway, `source`, for port 68 of `target`: the guest's address or everybody's."""

    payload: bytes
    source: str
    target: str


@dataclass(frozen=True, slots=True)
class _Asked:
    kind: int
    transaction: bytes
    flags: int
    address: bytes  # that the client has already, `_NOBODY`: none
    mac: bytes
    options: dict[int, bytes]


def reply(request: bytes, lease: Lease) -> Reply | None:
    """The answer to a guest's `request` (a UDP payload), None where none is due."""
    asked = _parse(request)
    if asked is None or asked.mac != packed_mac(lease.mac) or lease.ipv4 is None or lease.ipv4_gateway is None:
        return None
    own, server = packed_address(lease.ipv4), packed_address(lease.ipv4_gateway)
    kind = _decide(asked, own, server)
    if kind is None:
        return None
    options = [
        (Option.KIND, bytes([kind])),
        (Option.SERVER, server),
        (Option.CLIENT, asked.options.get(Option.CLIENT, b"")),
    ]
    if kind is Kind.NAK:
        options.append((Option.MESSAGE, f"the address of {lease.name} is {lease.ipv4}".encode()))
    else:
        options += _told(asked, lease, server)
    given = own if kind is not Kind.NAK and asked.kind != Kind.INFORM else _NOBODY
    alone = kind is not Kind.NAK and asked.address == own and not asked.flags & _BROADCAST_FLAG
    return Reply(_payload(asked, kind, given, options), lease.ipv4_gateway, lease.ipv4 if alone else BROADCAST)


def frame(answer: Reply, lease: Lease, server_mac: str) -> bytes:
    """`answer` as a frame for the guest."""
    target_mac = frames.BROADCAST_MAC if answer.target == BROADCAST else packed_mac(lease.mac)
    ends = packed_address(answer.source), packed_address(answer.target)
    return frames.udp(frames.Way(packed_mac(server_mac), target_mac, *ends), SERVER_PORT, CLIENT_PORT, answer.payload)


def dhcp_payload(raw: bytes) -> bytes | None:
    """The request in a frame to the server's port, None for any other frame."""
    return frames.udp_payload(raw, 4, SERVER_PORT)


def _decide(asked: _Asked, own: bytes, server: bytes) -> Kind | None:
    """Which answer is due (RFC 2131, 4.3); None also for a guest that took another server's offer."""
    if asked.kind == Kind.DISCOVER:
        return Kind.OFFER
    if asked.kind == Kind.INFORM:
        return Kind.ACK if asked.address in (_NOBODY, own) else None
    wanted = asked.options.get(Option.ADDRESS) or asked.address
    if asked.kind != Kind.REQUEST or asked.options.get(Option.SERVER, server) != server or wanted == _NOBODY:
        return None
    return Kind.ACK if wanted == own else Kind.NAK


def _told(asked: _Asked, lease: Lease, gateway: bytes) -> list[tuple[Option, bytes]]:
    """What a guest is told, the most needed first. Who asks for routes must ignore the router (RFC 3442)."""
    parameters = asked.options.get(Option.PARAMETERS, b"")
    told = [(Option.MASK, IPv4Network((0, lease.prefix)).netmask.packed), (Option.ROUTER, gateway)]
    if asked.kind != Kind.INFORM:
        told += [
            (Option.LEASE_S, struct.pack("!I", lease.lease_s)),
            (Option.RENEW_S, struct.pack("!I", lease.lease_s // 2)),
            (Option.REBIND_S, struct.pack("!I", lease.lease_s * 7 // 8)),
        ]
    told += [
        (Option.MTU, struct.pack("!H", lease.mtu)),
        (Option.DNS, b"".join(map(packed_address, lease.dns_v4))),
    ]
    if Option.ROUTES in parameters:
        told.append((Option.ROUTES, b"\0" + gateway))
    told += [(Option.NAME, lease.name.encode()), (Option.DOMAIN, lease.domain.encode())]
    if Option.SEARCH in parameters:
        told.append((Option.SEARCH, search_list(lease.domain)))
    return told


def _payload(asked: _Asked, kind: Kind, given: bytes, options: Sequence[tuple[Option, bytes]]) -> bytes:
    """The message with as many options as fit; those without a value are left out."""
    client = asked.address if kind is Kind.ACK else _NOBODY
    head = _HEAD.pack(
        _REPLY, 1, 6, 0, asked.transaction, 0, asked.flags & _BROADCAST_FLAG, client, given, _NOBODY, _NOBODY,
        asked.mac, _MAGIC,
    )  # fmt: skip
    body = bytearray(head)
    for code, value in options:
        if 0 < len(value) < 256 and len(body) + 2 + len(value) < _REPLY_BYTES_MAX:
            body += bytes([code, len(value)]) + value
    body.append(Option.END)
    return bytes(body).ljust(_REPLY_BYTES_MIN, b"\0")


def _parse(request: bytes) -> _Asked | None:
    if not _HEAD.size <= len(request) <= _REQUEST_BYTES_MAX:
        return None
    operation, hardware, length, _, transaction, _, flags, address, _, _, relay, mac, magic = _HEAD.unpack_from(request)
    if (operation, hardware, length, relay, magic) != (_REQUEST, 1, 6, _NOBODY, _MAGIC):
        return None
    options = _options(request[_HEAD.size :])
    if options is None or len(options.get(Option.KIND, b"")) != 1:
        return None
    return _Asked(options[Option.KIND][0], transaction, flags, address, mac[:6], options)


def _options(raw: bytes) -> dict[int, bytes] | None:
    """Options by code, None when one is cut. One that comes twice is one in two pieces (RFC 3396)."""
    found: dict[int, bytes] = {}
    at = 0
    while at < len(raw) and raw[at] != Option.END:
        if raw[at] == Option.PAD:
            at += 1
            continue
        if at + 2 > len(raw) or at + 2 + raw[at + 1] > len(raw):
            return None
        code, end = raw[at], at + 2 + raw[at + 1]
        found[code] = found.get(code, b"") + raw[at + 2 : end]
        at = end
    return found
