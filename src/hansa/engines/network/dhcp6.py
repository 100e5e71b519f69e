"""The DHCPv6 server of one guest: a message in, the answer out.

As with IPv4 there is nothing to remember. Every identity association is answered with the one address of the lease,
the first of them; a second one, a temporary one and a whole prefix are told that there is none. What another
server is meant to answer, or what RFC 8415 says to discard, is None.
Sources: RFC 8415 (16: what is valid; 18.3: who is answered how; 21: options), 3646.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from hansa.engines.network import frames
from hansa.engines.network.frames import packed_address, packed_mac
from hansa.engines.network.lease import IPV6_PREFIX, Lease, search_list
from hansa.engines.ports import GUEST_ROUTER

SERVER_PORT, CLIENT_PORT = 547, 546
SERVERS = "ff02::1:2"  # the group that a server joins

_REQUEST_BYTES_MAX = 1500  # no honest one is longer
_CLIENT_ID_BYTES_MAX = 130
_ASSOCIATIONS_MAX = 8
_ADDRESSES_MAX = 8  # of one association
_LINK_LAYER = struct.pack("!HH", 3, 1)  # an identifier (DUID) made of an Ethernet address
_FIRST_CHOICE = b"\xff"  # a client that sees it waits for no other server


class Kind(IntEnum):
    SOLICIT = 1
    ADVERTISE = 2
    REQUEST = 3
    CONFIRM = 4
    RENEW = 5
    REBIND = 6
    REPLY = 7
    RELEASE = 8
    DECLINE = 9
    INFORMATION = 11


class Option(IntEnum):
    CLIENT = 1
    SERVER = 2
    ADDRESSES = 3  # IA_NA
    TEMPORARY = 4  # IA_TA
    ADDRESS = 5
    PREFERENCE = 7
    STATUS = 13
    RAPID = 14
    DNS = 23
    SEARCH = 24
    PREFIXES = 25  # IA_PD


class Status(IntEnum):
    SUCCESS = 0
    NO_ADDRESS = 2
    NOT_ON_LINK = 4
    NO_PREFIX = 6


_HEAD_BYTES: dict[int, int] = {Option.ADDRESSES: 12, Option.TEMPORARY: 4, Option.PREFIXES: 12}  # of associations
_ADDRESS_BYTES = 24
_TO_ONE_SERVER = frozenset({Kind.REQUEST, Kind.RENEW, Kind.RELEASE, Kind.DECLINE})
_KINDS = _TO_ONE_SERVER | {Kind.SOLICIT, Kind.CONFIRM, Kind.REBIND, Kind.INFORMATION}


@dataclass(frozen=True, slots=True)
class _Association:
    """A client's name for what it wants, and the addresses that it has or hopes for (packed)."""

    kind: Option
    number: bytes
    addresses: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class _Asked:
    kind: Kind
    transaction: bytes
    client: bytes  # empty: it did not say
    server: bytes  # empty: any
    rapid: bool
    associations: tuple[_Association, ...]


def reply(request: bytes, lease: Lease, server_mac: str) -> bytes | None:
    """The answer to a guest's `request` (a UDP payload), for the address and port it came from; None: none is due."""
    asked = _parse(request)
    if asked is None or lease.ipv6 is None or not _is_valid(asked, _identifier(server_mac)):
        return None
    options = _options(asked, lease, packed_address(lease.ipv6))
    if options is None:
        return None
    answer = Kind.ADVERTISE if asked.kind is Kind.SOLICIT and not asked.rapid else Kind.REPLY
    known = [_option(Option.CLIENT, asked.client)] if asked.client else []
    ours = _option(Option.SERVER, _identifier(server_mac))
    return bytes([answer]) + asked.transaction + b"".join([*known, ours, *options])


def frame(payload: bytes, asked: frames.Packet, server_mac: str) -> bytes:
    """An answer as a frame to who sent the frame `asked`, from the router."""
    way = frames.Way(packed_mac(server_mac), asked.source_mac, packed_address(GUEST_ROUTER), asked.source)
    return frames.udp(way, SERVER_PORT, CLIENT_PORT, payload)


def dhcp6_payload(raw: bytes) -> bytes | None:
    """The message in a frame to the server's port, None for any other frame."""
    return frames.udp_payload(raw, 6, SERVER_PORT)


def _is_valid(asked: _Asked, ours: bytes) -> bool:
    """Whether it is for us, and says what its kind must say (RFC 8415, 16)."""
    if asked.kind is Kind.INFORMATION:
        return asked.server in (b"", ours) and not asked.associations
    if not asked.client:
        return False
    return asked.server == ours if asked.kind in _TO_ONE_SERVER else not asked.server


def _options(asked: _Asked, lease: Lease, own: bytes) -> list[bytes] | None:
    """What the answer says beside who speaks to whom; None for a question about nothing."""
    if asked.kind is Kind.CONFIRM:
        held = [address for association in asked.associations for address in association.addresses]
        if not held:
            return None
        right = all(address == own for address in held)
        return [_status(Status.SUCCESS if right else Status.NOT_ON_LINK)]
    if asked.kind in (Kind.RELEASE, Kind.DECLINE):
        return [_status(Status.SUCCESS)]
    options = [_option(Option.DNS, b"".join(map(packed_address, lease.dns_v6)))] if lease.dns_v6 else []
    options.append(_option(Option.SEARCH, search_list(lease.domain)))
    if asked.kind is Kind.SOLICIT:
        options.append(_option(Option.RAPID, b"") if asked.rapid else _option(Option.PREFERENCE, _FIRST_CHOICE))
    return [*_associations(asked, own, lease.lease_s), *options]


def _associations(asked: _Asked, own: bytes, lease_s: int) -> Iterator[bytes]:
    given = False
    for wanted in asked.associations:
        if wanted.kind is Option.PREFIXES:
            yield _refused(wanted, Status.NO_PREFIX)
        elif wanted.kind is Option.TEMPORARY or given:
            yield _refused(wanted, Status.NO_ADDRESS)
        elif asked.kind is Kind.REQUEST and not _are_in_subnet(wanted.addresses, own):
            yield _refused(wanted, Status.NOT_ON_LINK)
        else:
            given = True
            others = wanted.addresses if asked.kind in (Kind.RENEW, Kind.REBIND) else ()
            yield _granted(wanted, own, others, lease_s)


def _granted(wanted: _Association, own: bytes, others: tuple[bytes, ...], lease_s: int) -> bytes:
    """The association with its address, and with a life of 0 s those that the client must give up."""
    head = wanted.number + struct.pack("!II", lease_s // 2, lease_s * 4 // 5)
    lives = [(own, lease_s), *((other, 0) for other in others if other != own)]
    addresses = (_option(Option.ADDRESS, address + struct.pack("!II", life_s, life_s)) for address, life_s in lives)
    return _option(Option.ADDRESSES, head + b"".join(addresses))


def _refused(wanted: _Association, why: Status) -> bytes:
    head = wanted.number.ljust(_HEAD_BYTES[wanted.kind], b"\0")
    return _option(wanted.kind, head + _status(why))


def _are_in_subnet(addresses: tuple[bytes, ...], own: bytes) -> bool:
    return all(address[: IPV6_PREFIX // 8] == own[: IPV6_PREFIX // 8] for address in addresses)


def _identifier(server_mac: str) -> bytes:
    return _LINK_LAYER + packed_mac(server_mac)


def _status(status: Status) -> bytes:
    return _option(Option.STATUS, struct.pack("!H", status))


def _option(code: Option, content: bytes) -> bytes:
    return struct.pack("!HH", code, len(content)) + content


def _parse(request: bytes) -> _Asked | None:
    if not 4 <= len(request) <= _REQUEST_BYTES_MAX or request[0] not in _KINDS:
        return None
    options = _split(request[4:])
    if options is None:
        return None
    first = dict(reversed(options))  # of what comes twice the first counts
    client, server = first.get(Option.CLIENT, b""), first.get(Option.SERVER, b"")
    found = [_association(Option(code), content) for code, content in options if code in _HEAD_BYTES]
    associations = tuple(association for association in found[:_ASSOCIATIONS_MAX] if association)
    if None in found or len(client) > _CLIENT_ID_BYTES_MAX:
        return None
    return _Asked(Kind(request[0]), request[1:4], client, server, Option.RAPID in first, associations)


def _association(kind: Option, content: bytes) -> _Association | None:
    """None when it is cut."""
    options = _split(content[_HEAD_BYTES[kind] :])
    if len(content) < _HEAD_BYTES[kind] or options is None:
        return None
    addresses = [inner[:16] for code, inner in options if code == Option.ADDRESS and len(inner) >= _ADDRESS_BYTES]
    return _Association(kind, content[:4], tuple(addresses[:_ADDRESSES_MAX]))


def _split(raw: bytes) -> list[tuple[int, bytes]] | None:
    """Codes and contents of a row of options, None when one is cut."""
    found: list[tuple[int, bytes]] = []
    at = 0
    while at < len(raw):
        if at + 4 > len(raw):
            return None
        code, length = struct.unpack_from("!HH", raw, at)
        at += 4 + length
        if at > len(raw):
            return None
        found.append((code, raw[at - length : at]))
    return found
