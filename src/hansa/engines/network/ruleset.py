"""The packet filter of one private network on one host, as text for `nft -f`. Pure.

Every guest is alone on its link, so the link's name is proof of who speaks. A packet is looked at three times:
`raw` lets in only frames with the guest's own MAC and address, `sender` what its groups let out, `receiver`
what the groups of the one that it is for let in. What no rule lets through is dropped: a port without a group
sends and receives nothing but DHCP and DNS. The whole table is replaced in one transaction.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from hansa.engines.network.naming import EXTERNAL, OUTSIDE, TUNNEL, port_link
from hansa.engines.ports import Direction, Group, HostNetwork, Port, Rule

TABLE = "hansa"
# What one guest may ask of its host in a second, and how many connections it may have open: a flood is
# dropped at its own link, before the host works for it.
DHCP_A_SECOND, DNS_A_SECOND, NEIGHBOUR_A_SECOND, ARP_A_SECOND = 10, 200, 50, 50
CONNECTIONS_MAX = 10_000

# Nobody behind the uplink, whoever asks: this host's own networks, and what is no address of a host.
NEVER_V4 = (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16",
    "224.0.0.0/3",
)  # fmt: skip
NEVER_V6 = ("::/127", "::ffff:0:0/96", "fc00::/7", "fe80::/10", "ff00::/8")


@dataclass(frozen=True, slots=True)
class Uplink:
    """What the uplink's own filter is made from. `host`: addresses of the host itself, which no guest may reach.

    `allowed`: CIDRs that guests may reach although they are private or the host's neighbours.
    """

    publics: tuple[str, ...] = ()
    host: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()


def network_rules(wanted: HostNetwork) -> str:
    """The tables of a network's namespace."""
    sets = {port.groups: f"s{index}" for index, port in enumerate(_by_groups(wanted.ports))}
    groups = {group.uid: group for group in wanted.groups}
    members = {group.uid: f"g{index}" for index, group in enumerate(wanted.groups)}
    lines = [
        *_replaced("inet"),
        *_set("known4", "ifname . ether_addr . ipv4_addr", _known(wanted.ports, 4)),
        *_set("known6", "ifname . ether_addr . ipv6_addr", _known(wanted.ports, 6)),
        *(line for group in wanted.groups for line in _members(members[group.uid], group)),
        *_map("leave", _verdicts(wanted.ports, sets, "out")),
        *_map("enter", _verdicts(wanted.ports, sets, "in")),
        *(line for name, rate in _METERS for line in _meter(name, rate)),
        *(line for port in _by_groups(wanted.ports) for line in _groups(port, sets[port.groups], groups, members)),
        *_CHAINS,
        *_translation(wanted.ports),
        "}",
        *_replaced("arp"),
        *_set("known", "ifname . ether_addr . ipv4_addr", _known(wanted.ports, 4)),
        *_ARP,
        "}",
    ]
    return "\n".join(lines) + "\n"


def uplink_rules(it: Uplink) -> str:
    """The table of the uplink's namespace: a network reaches public addresses and the outside, never another."""
    v4 = [address for address in it.host if ":" not in address]
    v6 = [address for address in it.host if ":" in address]
    lines = [
        *_replaced("inet"),
        *_set("publics", "ipv4_addr", it.publics),
        *_set("never4", "ipv4_addr", _merged([*NEVER_V4, *v4]), interval=True),
        *_set("never6", "ipv6_addr", _merged([*NEVER_V6, *v6]), interval=True),
        *_set("allowed4", "ipv4_addr", _merged(a for a in it.allowed if ":" not in a), interval=True),
        *_set("allowed6", "ipv6_addr", _merged(a for a in it.allowed if ":" in a), interval=True),
        *_UPLINK,
        "}",
    ]
    return "\n".join(lines) + "\n"


# -- tables that are always the same ------------------------------------------------------------

_METERS = (
    ("dhcp", DHCP_A_SECOND), ("dns", DNS_A_SECOND), ("neighbour", NEIGHBOUR_A_SECOND),
)  # fmt: skip

_CHAINS = f"""
  set connections {{ type ifname; flags dynamic; size 65535; }}
  chain raw {{
    type filter hook prerouting priority raw; policy accept;
    iifname != "t*" accept
    meta nfproto ipv4 udp sport 68 udp dport 67 jump dhcp_asked
    iifname . ether saddr . ip saddr @known4 accept
    icmpv6 type {{ nd-router-advert, nd-redirect }} drop
    ip6 saddr fe80::/10 jump neighbour_asked
    ip6 saddr :: icmpv6 type {{ nd-neighbor-solicit, mld2-listener-report }} jump neighbour_asked
    iifname . ether saddr . ip6 saddr @known6 accept
    drop
  }}
  chain dhcp_asked {{
    update @dhcp {{ iifname limit rate over {DHCP_A_SECOND}/second burst {2 * DHCP_A_SECOND} packets }} drop
    accept
  }}
  chain neighbour_asked {{
    update @neighbour {{ iifname limit rate over {NEIGHBOUR_A_SECOND}/second burst {2 * NEIGHBOUR_A_SECOND} packets }} drop
    icmpv6 type {{ nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert, mld2-listener-report }} accept
    udp sport 546 udp dport 547 accept
    drop
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
    oifname "{EXTERNAL}" tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
    ct state established,related accept
    ct state invalid drop
    iifname "t*" jump sender
    oifname "t*" jump receiver
    iifname "t*" oifname {{ "{EXTERNAL}", "{TUNNEL}" }} accept
  }}
  chain sender {{
    add @connections {{ iifname ct count over {CONNECTIONS_MAX} }} drop
    iifname vmap @leave
    drop
  }}
  chain receiver {{
    oifname vmap @enter
    drop
  }}
  chain input {{
    type filter hook input priority filter; policy drop;
    iifname "lo" accept
    ct state established,related accept
    icmpv6 type {{ nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert, mld2-listener-report }} accept
    iifname "t*" udp dport {{ 67, 547 }} accept
    iifname "t*" meta l4proto {{ tcp, udp }} th dport 53 jump dns_asked
  }}
  chain dns_asked {{
    update @dns {{ iifname limit rate over {DNS_A_SECOND}/second burst {DNS_A_SECOND} packets }} drop
    accept
  }}
  chain output {{
    type filter hook output priority filter; policy accept;
    icmpv6 type nd-redirect drop
  }}""".splitlines()

_ARP = f"""
  set asked {{ type ifname; flags dynamic; size 65535; timeout 10s; }}
  chain input {{
    type filter hook input priority filter; policy drop;
    iifname != "t*" accept
    update @asked {{ iifname limit rate over {ARP_A_SECOND}/second burst {2 * ARP_A_SECOND} packets }} drop
    iifname . arp saddr ether . arp saddr ip @known accept
    arp saddr ip 0.0.0.0 accept
  }}""".splitlines()

_UPLINK = f"""
  chain forward {{
    type filter hook forward priority filter; policy drop;
    ct state established,related accept
    ct state invalid drop
    ip daddr @publics oifname "v*" accept
    iifname "v*" oifname "v*" drop
    iifname "v*" ip daddr @allowed4 accept
    iifname "v*" ip6 daddr @allowed6 accept
    iifname "v*" ip daddr @never4 drop
    iifname "v*" ip6 daddr @never6 drop
    iifname "v*" accept
  }}
  chain input {{
    type filter hook input priority filter; policy drop;
    iifname "lo" accept
    ct state established,related accept
    iifname != "v*" icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert }} accept
    iifname "v*" icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
    iifname != "v*" udp dport 4789 accept
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname "{OUTSIDE}" masquerade
    oifname != "v*" iifname "v*" ip saddr != @publics masquerade
  }}""".splitlines()


# -- what differs -------------------------------------------------------------------------------


def _replaced(family: str) -> list[str]:
    """Open the table anew: naming it first makes the deletion right when it is not there yet."""
    return [f"table {family} {TABLE}", f"delete table {family} {TABLE}", f"table {family} {TABLE} {{"]


def _set(name: str, type: str, elements: Iterable[str], *, interval: bool = False) -> list[str]:
    inside = ", ".join(elements)
    flags = " flags interval;" if interval else ""
    filled = f" elements = {{ {inside} }};" if inside else ""
    return [f"  set {name} {{ type {type};{flags}{filled} }}"]


def _map(name: str, elements: Sequence[str]) -> list[str]:
    filled = f" elements = {{ {', '.join(elements)} }};" if elements else ""
    return [f"  map {name} {{ type ifname : verdict;{filled} }}"]


def _meter(name: str, _rate: int) -> list[str]:
    return [f"  set {name} {{ type ifname; flags dynamic; size 65535; timeout 10s; }}"]


def _known(ports: Sequence[Port], family: int) -> list[str]:
    pairs = ((port, port.ipv4 if family == 4 else port.ipv6) for port in ports)
    return [f'"{port_link(port.uid)}" . {port.mac} . {address}' for port, address in pairs if address]


def _members(name: str, group: Group) -> list[str]:
    v4 = [a for a in group.members if ":" not in a]
    v6 = [a for a in group.members if ":" in a]
    return [*_set(f"{name}_4", "ipv4_addr", v4), *_set(f"{name}_6", "ipv6_addr", v6)]


def _by_groups(ports: Sequence[Port]) -> list[Port]:
    """One port of each set of groups: all of them share its chains."""
    return list({port.groups: port for port in ports if port.groups}.values())


def _verdicts(ports: Sequence[Port], sets: dict[tuple[str, ...], str], side: str) -> list[str]:
    return [f'"{port_link(port.uid)}" : goto {sets[port.groups]}_{side}' for port in ports if port.groups]


def _groups(port: Port, name: str, groups: dict[str, Group], members: dict[str, str]) -> Iterator[str]:
    """The two chains of a set of groups. `return` goes on to the receiver, `accept` lets through."""
    rules = [rule for uid in port.groups if uid in groups for rule in groups[uid].rules]
    for side, direction, verdict in (("out", Direction.EGRESS, "return"), ("in", Direction.INGRESS, "accept")):
        yield f"  chain {name}_{side} {{"
        for rule in rules:
            if rule.direction is direction:
                yield from (f"    {line} {verdict}".replace("  ", " ", 1) for line in _matches(rule, members))
        yield "    drop"
        yield "  }"


def _matches(rule: Rule, members: dict[str, str]) -> Iterator[str]:
    what, side = _traffic(rule), "daddr" if rule.direction is Direction.EGRESS else "saddr"
    if rule.group:
        if name := members.get(rule.group):  # a group without members, or none any more, matches nobody
            yield f"ip {side} @{name}_4{what}"
            yield f"ip6 {side} @{name}_6{what}"
        return
    if not rule.cidrs:
        yield what.strip()
        return
    for cidr in rule.cidrs:
        network = ipaddress.ip_network(cidr, strict=False)
        yield f"{'ip' if network.version == 4 else 'ip6'} {side} {network}{what}"


def _traffic(rule: Rule) -> str:
    """The protocol and ports, with a space before; empty for everything."""
    match rule.protocol:
        case "all":
            return ""
        case "icmp":
            return " meta l4proto { icmp, icmpv6 }"
        case protocol if rule.ports is None:
            return f" meta l4proto {protocol}"
        case protocol:
            first, last = rule.ports
            return f" {protocol} dport {first if first == last else f'{first}-{last}'}"


def _translation(ports: Sequence[Port]) -> Iterator[str]:
    """Public addresses: to the guest and back. Without one a guest goes out with the network's own address."""
    pairs = [(port.public_ipv4, port.ipv4) for port in ports if port.public_ipv4 and port.ipv4]
    yield "  chain prerouting {"
    yield "    type nat hook prerouting priority dstnat; policy accept;"
    if pairs:
        yield f"    dnat ip to ip daddr map {{ {', '.join(f'{public} : {own}' for public, own in pairs)} }}"
    yield "  }"
    yield "  chain postrouting {"
    yield "    type nat hook postrouting priority srcnat; policy accept;"
    if pairs:
        inside = ", ".join(f"{own} : {public}" for public, own in pairs)
        yield f'    oifname "{EXTERNAL}" snat ip to ip saddr map {{ {inside} }}'
    yield f'    oifname "{EXTERNAL}" masquerade'
    yield "  }"


def _merged(cidrs: Iterable[str]) -> list[str]:
    """Without overlaps: an interval set takes none."""
    networks = [ipaddress.ip_network(cidr, strict=False) for cidr in cidrs]
    v4 = [n for n in networks if isinstance(n, ipaddress.IPv4Network)]
    v6 = [n for n in networks if isinstance(n, ipaddress.IPv6Network)]
    return [str(n) for n in (*ipaddress.collapse_addresses(v4), *ipaddress.collapse_addresses(v6))]
