"""Would these groups let this packet through? The same meaning as `ruleset`, as a function. Pure.

The user-space switch asks it for every new flow. Where the kernel filters, it finds the open connections that
the rules of now would not let begin any more: closing a rule closes them too.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from hansa.engines.ports import Direction, HostNetwork, Port, Rule

ICMP = frozenset({"icmp", "icmpv6"})


@dataclass(frozen=True, slots=True)
class Connection:
    """One tracked connection: the first packet's addresses and ports, and those of its answers.

    They differ where an address is translated. `port` is the one that the first packet was sent to.
    """

    protocol: str
    source: str
    target: str
    source_port: int
    port: int
    answered_from: str
    answered_to: str
    words: tuple[str, ...] = ()  # what names it to `conntrack -D`


class Filter:
    """The rules of one network, ready to be asked."""

    def __init__(self, wanted: HostNetwork) -> None:
        self._groups = {group.uid: group for group in wanted.groups}
        self._members = {group.uid: frozenset(group.members) for group in wanted.groups}
        self.ports = {address: port for port in wanted.ports for address in (port.ipv4, port.ipv6) if address}
        self.publics = {port.public_ipv4: port for port in wanted.ports if port.public_ipv4}
        self.gateways = frozenset(
            gateway for r in wanted.ranges for gateway in (r.ipv4_gateway, r.ipv6_gateway) if gateway
        )

    def permits(self, at: Port, direction: Direction, remote: str, protocol: str, port: int) -> bool:
        """May `at` send to (egress) or be sent to by (ingress) `remote`? `port`: the one sent to, 0: none."""
        return any(
            rule.direction is direction and self._matches(rule, remote, protocol, port)
            for uid in at.groups
            if uid in self._groups
            for rule in self._groups[uid].rules
        )

    def still(self, it: Connection) -> bool:
        """May this connection, open already, go on?"""
        sender, receiver = self.ports.get(it.source), self.ports.get(it.answered_from)
        if it.source in self.gateways or it.target in self.gateways:
            return sender is not None or receiver is not None  # the host's own: logins, DHCP, DNS
        if sender is None and receiver is None:
            return False
        if sender is not None and not self._may_leave(sender, it):
            return False
        return receiver is None or self._may_enter(receiver, it)

    def _may_leave(self, sender: Port, it: Connection) -> bool:
        if it.answered_to != it.source and sender.public_ipv4 not in (None, it.answered_to):
            return False  # it goes out with another address than the machine has by now
        if self.publics.get(it.answered_to, sender) is not sender:
            return False
        return self.permits(sender, Direction.EGRESS, it.answered_from, it.protocol, it.port)

    def _may_enter(self, receiver: Port, it: Connection) -> bool:
        if it.target != it.answered_from and self.publics.get(it.target) is not receiver:
            return False  # the public address that it came by has moved
        return self.permits(receiver, Direction.INGRESS, it.source, it.protocol, it.port)

    def _matches(self, rule: Rule, remote: str, protocol: str, port: int) -> bool:
        if rule.protocol not in ("all", "icmp" if protocol in ICMP else protocol):
            return False
        if rule.ports is not None and not rule.ports[0] <= port <= rule.ports[1]:
            return False
        if rule.group:
            return remote in self._members.get(rule.group, frozenset())
        return not rule.cidrs or any(_inside(remote, cidr) for cidr in rule.cidrs)


def connections(listing: str) -> Iterator[Connection]:
    """The lines of `conntrack -L` as connections; what is no line of it is passed over."""
    for line in listing.splitlines():
        words = line.split()
        pairs = [tuple(word.split("=", 1)) for word in words if "=" in word and not word.startswith("[")]
        ends = [
            (name, value) for name, value in pairs if name in ("src", "dst", "sport", "dport", "type", "code", "id")
        ]
        first, answer = _half(ends, 0), _half(ends, 1)
        if words and {"src", "dst"} <= first.keys() and {"src", "dst"} <= answer.keys():
            yield _connection(words[0], first, answer)


def dead(wanted: HostNetwork, open_now: Iterable[Connection]) -> list[Connection]:
    """Those that the network as it is wanted would not let begin."""
    rules = Filter(wanted)
    return [connection for connection in open_now if not rules.still(connection)]


def _half(ends: list[tuple[str, str]], which: int) -> dict[str, str]:
    """The first or the second mention of each name."""
    seen: dict[str, list[str]] = {}
    for name, value in ends:
        seen.setdefault(name, []).append(value)
    return {name: values[which] for name, values in seen.items() if len(values) > which}


def _connection(protocol: str, first: Mapping[str, str], answer: Mapping[str, str]) -> Connection:
    words = ["-p", protocol, "-s", first["src"], "-d", first["dst"]]
    if "dport" in first:
        words += ["--sport", first["sport"], "--dport", first["dport"]]
    elif "id" in first:
        prefix = "--icmpv6" if protocol == "icmpv6" else "--icmp"
        words += [f"{prefix}-type", first["type"], f"{prefix}-code", first["code"], f"{prefix}-id", first["id"]]
    return Connection(
        protocol, first["src"], first["dst"], int(first.get("sport", 0)), int(first.get("dport", 0)),
        answer["src"], answer["dst"], tuple(words),
    )  # fmt: skip


@lru_cache(maxsize=65_536)
def _inside(address: str, cidr: str) -> bool:
    return ipaddress.ip_address(address) in ipaddress.ip_network(cidr, strict=False)
