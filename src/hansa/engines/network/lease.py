"""What one guest is told about its network: the same facts by DHCP, DHCPv6 and router advertisement.

A guest's card is a link of its own, so its host knows who speaks before it reads a byte. Whoever answers is
therefore given this guest's lease, and never a table in which a guest could pass for another.
"""

from __future__ import annotations

from dataclasses import dataclass

from hansa.engines.ports import GUEST_MTU

LEASE_S = 86_400
DOMAIN = "internal"
IPV6_PREFIX = 64  # bits: every subnet has so many in IPv6


@dataclass(frozen=True, slots=True)
class Lease:
    """One guest's addresses, plain text as in `engines.ports`; `prefix` is the IPv4 subnet's, in bits.

    The addresses are for good: `lease_s` (seconds) only says how often a guest asks again.
    """

    mac: str
    name: str
    ipv4: str | None
    prefix: int
    ipv4_gateway: str | None
    ipv6: str | None
    ipv6_gateway: str | None
    dns_v4: tuple[str, ...] = ()
    dns_v6: tuple[str, ...] = ()
    mtu: int = GUEST_MTU
    domain: str = DOMAIN
    lease_s: int = LEASE_S


def search_list(domain: str) -> bytes:
    """A list of one domain in the form of DNS (RFC 1035, 3.1), which all three protocols carry alike."""
    labels = (label.encode() for label in domain.split("."))
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
