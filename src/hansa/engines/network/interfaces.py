"""Links, addresses and routes of one network on one host, as lines for `ip -batch`. Pure.

Every guest has a tap of its own, a routed link: the host answers ARP for whoever else may be reached, so
guests of one subnet meet at its filter and not on a wire that they share. The gateways' addresses lie on `lo`.
All lines may be repeated.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from hansa.engines.network.naming import EXTERNAL, ROUTER_MAC, TUNNEL, network_link, port_link
from hansa.engines.ports import GUEST_MTU, GUEST_ROUTER, HostNetwork, Neighbour, Port, Range

TRANSIT_V4 = ipaddress.IPv4Network("100.64.0.0/10")
TRANSIT_V6 = ipaddress.IPv6Network("fd64::/64")
NETWORKS_MAX = 4096  # on one host
TUNNEL_PORT = 4789


@dataclass(frozen=True, slots=True)
class Transit:
    """The pair of addresses between one network and the uplink, by its number on this host."""

    index: int

    @property
    def uplink_v4(self) -> str:
        return str(TRANSIT_V4[2 * self.index])

    @property
    def network_v4(self) -> str:
        return str(TRANSIT_V4[2 * self.index + 1])

    @property
    def uplink_v6(self) -> str:
        return str(TRANSIT_V6[2 * self.index])

    @property
    def network_v6(self) -> str:
        return str(TRANSIT_V6[2 * self.index + 1])


def base(wanted: HostNetwork, transit: Transit, *, have: bool) -> list[str]:
    """What a network has without any machine: gateways, the way to the uplink, and nowhere for the rest.

    `have`: the link to the uplink is there. Run inside the network's namespace.
    """
    lines = ["link set lo up"]
    for r in wanted.ranges:
        lines += [f"addr replace {address}/{bits} dev lo" for address, bits in _gateways(r)]
    lines += [f"route replace unreachable {block} metric 4000000000" for block in wanted.blocks]
    if have:
        lines += [
            f"link set {EXTERNAL} up",
            f"addr replace {transit.network_v4}/31 dev {EXTERNAL}",
            f"addr replace {transit.network_v6}/127 dev {EXTERNAL} nodad",
            f"route replace default via {transit.uplink_v4} dev {EXTERNAL}",
            f"route replace default via {transit.uplink_v6} dev {EXTERNAL}",
        ]
    return lines


def uplink_side(network_uid: str, transit: Transit) -> list[str]:
    """The other end of that link. Run inside the uplink's namespace."""
    link = network_link(network_uid)
    return [
        f"link set {link} up",
        f"addr replace {transit.uplink_v4}/31 dev {link}",
        f"addr replace {transit.uplink_v6}/127 dev {link} nodad",
    ]


def port_lines(port: Port, ranges: Sequence[Range]) -> list[str]:
    """One machine's link, whose tap is there already. Its neighbour is written down, never asked for."""
    link = port_link(port.uid)
    lines = [
        f"link set {link} address {ROUTER_MAC} mtu {GUEST_MTU} addrgenmode none",
        f"link set {link} up",
        f"addr replace {GUEST_ROUTER}/64 dev {link} nodad",
    ]
    for address in filter(None, (port.ipv4, port.ipv6)):
        gateway, bits = gateway_of(address, ranges), 128 if ":" in address else 32
        source = f" src {gateway}" if gateway else ""
        lines += [
            f"neigh replace {address} lladdr {port.mac} dev {link} nud permanent",
            f"route replace {address}/{bits} dev {link}{source}",
        ]
    return lines


def tunnel_device(tunnel: int, here: str) -> str:
    """Made in the uplink's namespace, so that what is wrapped travels there, then moved into the network's."""
    return f"link add {TUNNEL} type vxlan id {tunnel} dstport {TUNNEL_PORT} local {here} nolearning"


def tunnel_lines(neighbours: Sequence[Neighbour], here: str) -> list[str]:
    """Ways to machines on other hosts: each is a route to its host's end of the tunnel; nothing is flooded."""
    lines = [
        f"link set {TUNNEL} address {router_mac(here)} mtu {GUEST_MTU} addrgenmode none",
        f"link set {TUNNEL} up",
    ]
    for host in sorted({it.host for it in neighbours}):
        lines.append(f"neigh replace {next_hop(host)} lladdr {router_mac(host)} dev {TUNNEL} nud permanent")
    for it in neighbours:
        if it.ipv4:
            lines.append(f"route replace {it.ipv4}/32 via inet6 {next_hop(it.host)} dev {TUNNEL} onlink")
        if it.ipv6:
            lines.append(f"route replace {it.ipv6}/128 via {next_hop(it.host)} dev {TUNNEL} onlink")
    return lines


def tunnel_entries(neighbours: Sequence[Neighbour]) -> list[str]:
    """Which host's address stands behind which end of the tunnel, as lines for `bridge -batch`."""
    hosts = sorted({it.host for it in neighbours})
    return [f"fdb replace {router_mac(host)} dev {TUNNEL} dst {host} self permanent" for host in hosts]


def next_hop(host: str) -> str:
    """A link-local address that stands for a host's end of the tunnel inside a network."""
    number = _number(host)
    return f"fe80::{number >> 16:x}:{number & 0xFFFF:x}"


def router_mac(host: str) -> str:
    """The MAC of a host's end of every tunnel, from its address in the underlay."""
    return "02:fe:" + ":".join(f"{byte:02x}" for byte in _number(host).to_bytes(4, "big"))


def _number(host: str) -> int:
    return int(ipaddress.ip_address(host)) & 0xFFFFFFFF


def gateway_of(address: str, ranges: Iterable[Range]) -> str | None:
    """The gateway of the subnet that `address` lies in."""
    parsed = ipaddress.ip_address(address)
    for r in ranges:
        cidr, gateway = (r.ipv6, r.ipv6_gateway) if parsed.version == 6 else (r.ipv4, r.ipv4_gateway)
        if cidr and parsed in ipaddress.ip_network(cidr):
            return gateway
    return None


def _gateways(r: Range) -> Iterator[tuple[str, int]]:
    if r.ipv4_gateway:
        yield r.ipv4_gateway, 32
    if r.ipv6_gateway:
        yield r.ipv6_gateway, 128
