"""From the plan of a network to what each of its guests is offered: its lease, and the names that are known. Pure."""

from __future__ import annotations

import ipaddress

from hansa.engines.network import dns
from hansa.engines.network.interfaces import gateway_of
from hansa.engines.network.lease import Lease
from hansa.engines.ports import HostNetwork, Neighbour, Port, Range


def lease_of(port: Port, ranges: tuple[Range, ...]) -> Lease:
    """What a machine is told. Names are asked of its gateways."""
    prefix = next(
        (
            ipaddress.ip_network(r.ipv4).prefixlen
            for r in ranges
            if r.ipv4 and port.ipv4 and _lies_in(port.ipv4, r.ipv4)
        ),
        32,
    )
    gateway4 = gateway_of(port.ipv4, ranges) if port.ipv4 else None
    gateway6 = gateway_of(port.ipv6, ranges) if port.ipv6 else None
    return Lease(
        mac=port.mac, name=port.name, ipv4=port.ipv4, prefix=prefix, ipv4_gateway=gateway4, ipv6=port.ipv6,
        ipv6_gateway=gateway6, dns_v4=(gateway4,) if gateway4 else (), dns_v6=(gateway6,) if gateway6 else (),
    )  # fmt: skip


def names_of(wanted: HostNetwork) -> dns.Names:
    """The machines of a network by name, and the gateways as its name servers."""
    known: list[Port | Neighbour] = [*wanted.neighbours, *wanted.ports]
    machines = {it.name: tuple(address for address in (it.ipv4, it.ipv6) if address) for it in known}
    servers = [address for r in wanted.ranges for address in (r.ipv4_gateway, r.ipv6_gateway) if address]
    return dns.Names.of(machines, tuple(servers), wanted.revision)


def _lies_in(address: str, cidr: str) -> bool:
    return ipaddress.ip_address(address) in ipaddress.ip_network(cidr)
