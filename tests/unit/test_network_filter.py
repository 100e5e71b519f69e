"""The packet filter's pure half: what the rules say, which open connections they end, and the lines for links."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hansa.engines.network import interfaces, permit, ruleset
from hansa.engines.network.interfaces import Transit
from hansa.engines.network.naming import network_link, port_link
from hansa.engines.network.permit import Connection, Filter, connections, dead
from hansa.engines.network.ruleset import Uplink
from hansa.engines.network.wire import network_document, network_of
from hansa.engines.ports import Direction, Group, HostNetwork, Neighbour, Port, Range, Rule

A = Port("aaaaaaaa-1111-4000-8000-000000000001", 1, "a", "02:00:00:00:00:0a", "10.0.0.10", "2001:db8::a", ("web",))
B = Port("bbbbbbbb-1111-4000-8000-000000000002", 1, "b", "02:00:00:00:00:0b", "10.0.0.11", "2001:db8::b", ("web", "db"))
ALONE = Port("cccccccc-1111-4000-8000-000000000003", 1, "c", "02:00:00:00:00:0c", "10.0.0.12", None)
WEB = Group(
    "web", 1, (Rule(Direction.INGRESS, "tcp", (80, 89)), Rule(Direction.EGRESS, "all")), ("10.0.0.10", "10.0.0.11")
)
DB = Group("db", 1, (Rule(Direction.INGRESS, "tcp", (5432, 5432), (), "web"),), ("10.0.0.11",))
NETWORK = HostNetwork(
    "11111111-1111-4000-8000-000000000001", 7, ("10.0.0.0/16",),
    (Range("10.0.0.0/24", "10.0.0.1", "2001:db8::/64", "2001:db8::1"),), (A, B, ALONE), (WEB, DB), (), 9,
)  # fmt: skip

TCP = (
    "tcp      6 431999 ESTABLISHED src=10.0.0.10 dst=10.0.0.11 sport=40000 dport=80 "
    "src=10.0.0.11 dst=10.0.0.10 sport=80 dport=40000 [ASSURED] mark=0 use=1"
)
NATTED = (
    "tcp      6 431999 ESTABLISHED src=198.51.100.1 dst=203.0.113.7 sport=40000 dport=80 "
    "src=10.0.0.11 dst=198.51.100.1 sport=80 dport=40000 [ASSURED] mark=0 use=1"
)
ECHO = "icmp     1 29 src=10.0.0.10 dst=10.0.0.11 type=8 code=0 id=77 src=10.0.0.11 dst=10.0.0.10 type=0 code=0 id=77 mark=0 use=1"


def only(line: str) -> Connection:
    (found,) = connections(line)
    return found


# -- open connections ---------------------------------------------------------------------------


def test_a_line_of_conntrack_is_read_as_it_stands() -> None:
    assert only(TCP) == Connection(
        "tcp", "10.0.0.10", "10.0.0.11", 40000, 80, "10.0.0.11", "10.0.0.10",
        ("-p", "tcp", "-s", "10.0.0.10", "-d", "10.0.0.11", "--sport", "40000", "--dport", "80"),
    )  # fmt: skip
    assert only(NATTED).answered_from == "10.0.0.11" and only(NATTED).target == "203.0.113.7"
    assert only(ECHO).words[-6:] == ("--icmp-type", "8", "--icmp-code", "0", "--icmp-id", "77")
    assert not list(connections("conntrack v1.4.7: 0 flow entries have been shown.\n\nrubbish = x\n"))


@given(st.text(alphabet=st.sampled_from("tcp src=dst=10.0 \n[]=sportdport8"), max_size=200))
def test_no_line_breaks_the_reader(text: str) -> None:
    assert all(isinstance(found, Connection) for found in connections(text))


def test_a_connection_lives_as_long_as_its_rules() -> None:
    assert not dead(NETWORK, [only(TCP)])
    closed = replace(NETWORK, groups=(replace(WEB, rules=WEB.rules[1:]), DB))
    assert dead(closed, [only(TCP)]) == [only(TCP)]
    mute = replace(NETWORK, groups=(replace(WEB, rules=WEB.rules[:1]), DB))
    assert dead(mute, [only(TCP)]), "its sender may send no more"
    gone = replace(NETWORK, ports=(A,))
    assert not dead(gone, [only(TCP)]), "what leaves the network is the egress rules' to judge"


def test_a_public_address_that_moves_takes_its_connections_with_it() -> None:
    here = replace(NETWORK, ports=(A, replace(B, public_ipv4="203.0.113.7")))
    assert not dead(here, [only(NATTED)])
    assert dead(NETWORK, [only(NATTED)])
    there = replace(NETWORK, ports=(replace(A, public_ipv4="203.0.113.7"), B))
    assert dead(there, [only(NATTED)])


def test_what_the_host_itself_opened_stays() -> None:
    login = replace(only(TCP), source="10.0.0.1", target="10.0.0.12", answered_from="10.0.0.12", answered_to="10.0.0.1")
    assert not dead(NETWORK, [login]), "a machine without a group is still its owner's to log in to"
    assert dead(replace(NETWORK, ports=(A,)), [login])


def test_a_member_of_a_group_is_known_by_its_address() -> None:
    rules = Filter(NETWORK)
    assert rules.permits(B, Direction.INGRESS, "10.0.0.10", "tcp", 5432)
    assert not rules.permits(B, Direction.INGRESS, "10.0.0.12", "tcp", 5432)
    assert not rules.permits(A, Direction.INGRESS, "10.0.0.10", "tcp", 5432), "another group's rule"
    assert not rules.permits(ALONE, Direction.EGRESS, "10.0.0.10", "tcp", 1)


# -- rules --------------------------------------------------------------------------------------


def test_ports_with_the_same_groups_share_their_chains() -> None:
    many = tuple(replace(A, uid=f"{n:08d}-1111-4000-8000-000000000001", ipv4=f"10.0.1.{n}") for n in range(100))
    text = ruleset.network_rules(replace(NETWORK, ports=many))
    assert text.count("tcp dport 80-89 accept") == 1 and text.count("goto s0_out") == 100


def test_a_port_without_a_group_has_no_way_in_or_out() -> None:
    text = ruleset.network_rules(NETWORK)
    assert f'"{port_link(ALONE.uid)}" : goto' not in text
    assert f'"{port_link(ALONE.uid)}" . {ALONE.mac} . {ALONE.ipv4}' in text, "it still may ask for DHCP and DNS"


@given(
    st.lists(st.ip_addresses(network="10.0.0.0/8").map(str), max_size=4),
    st.lists(st.ip_addresses(v=6).map(str), max_size=4),
)
def test_the_uplinks_sets_never_overlap(v4: list[str], v6: list[str]) -> None:
    """nft refuses an interval set whose elements overlap: then no guest had a way out, or all had every way."""
    text = ruleset.uplink_rules(Uplink(("203.0.113.7",), (*v4, *v6), ("10.0.0.0/24", "10.0.0.0/25")))
    for name in ("never4", "never6", "allowed4"):
        line = next(line for line in text.splitlines() if f"set {name} " in line)
        networks = [ipaddress.ip_network(word.strip(" ,;}")) for word in line.partition("elements = {")[2].split(",")]
        for i, one in enumerate(networks):
            assert not any(one.overlaps(other) for other in networks[:i])


@pytest.mark.parametrize(
    "never", ["127.0.0.1", "10.1.2.3", "169.254.169.254", "192.168.1.1", "fe80::1", "fd00::1", "::1"]
)
def test_what_nobody_reaches_by_the_uplink(never: str) -> None:
    address = ipaddress.ip_address(never)
    networks = [ipaddress.ip_network(n) for n in (*ruleset.NEVER_V4, *ruleset.NEVER_V6)]
    assert any(address in n for n in networks if n.version == address.version)


# -- links --------------------------------------------------------------------------------------


def test_names_fit_the_kernel_and_tell_ports_from_networks() -> None:
    for name, letter in ((port_link(A.uid), "t"), (network_link(NETWORK.uid), "v")):
        assert len(name) <= 15 and name.startswith(letter)


def test_transit_addresses_are_never_shared() -> None:
    seen: set[str] = set()
    for index in range(interfaces.NETWORKS_MAX):
        transit = Transit(index)
        ends = {transit.uplink_v4, transit.network_v4, transit.uplink_v6, transit.network_v6}
        assert len(ends) == 4 and not ends & seen
        seen |= ends


def test_a_guest_is_written_down_and_never_asked_for() -> None:
    lines = interfaces.port_lines(A, NETWORK.ranges)
    link = port_link(A.uid)
    assert f"neigh replace 10.0.0.10 lladdr {A.mac} dev {link} nud permanent" in lines
    assert f"route replace 10.0.0.10/32 dev {link} src 10.0.0.1" in lines
    assert f"route replace 2001:db8::a/128 dev {link} src 2001:db8::1" in lines


@given(st.ip_addresses(v=4).map(str), st.ip_addresses(v=4).map(str))
def test_hosts_are_told_apart_inside_a_tunnel(one: str, other: str) -> None:
    if one != other:
        assert interfaces.next_hop(one) != interfaces.next_hop(other)
        assert interfaces.router_mac(one) != interfaces.router_mac(other)
    lines = interfaces.tunnel_lines([Neighbour("x", "10.0.0.99", None, other)], one)
    assert f"route replace 10.0.0.99/32 via inet6 {interfaces.next_hop(other)} dev vx0 onlink" in lines


def test_a_network_travels_as_it_is() -> None:
    full = replace(NETWORK, neighbours=(Neighbour("n", "10.0.0.77", None, "192.0.2.9"),))
    assert network_of(network_document(full)) == full
    assert permit.Filter(network_of(network_document(full))).ports.keys() == Filter(full).ports.keys()
