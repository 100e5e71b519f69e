"""What a network lets pass and what it does not: one list, for every way in which a host makes networks.

`HANSA_TEST_NETWORK` says which: namespaces (as root), user-namespaces (as a plain user), userspace.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hansa.engines.ports import Direction, Rule

from .wires import IN, OUT, Host, anything, host, tcp

pytestmark = pytest.mark.anyio


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Host]:
    async with host(tmp_path) as made:
        yield made


async def test_without_a_group_nothing_passes(here: Host) -> None:
    net = here.network()
    await net.group("open", IN, OUT)
    alone, other = await net.guest("alone"), await net.guest("other", "open")
    for guest in (alone, other):
        await guest.listen(80)
        await guest.datagrams(53)
    for sender, receiver in ((alone, other), (other, alone)):
        for address in (receiver.port.ipv4, receiver.port.ipv6):
            assert await sender.connect(address, 80, 0.3) != "hello"
            assert not await sender.datagram(address, 53, 0.3)
            assert not await sender.ping(address, 0.3)


async def test_a_closed_port_is_closed_opens_and_closes_again_for_open_connections_too(here: Host) -> None:
    net = here.network()
    await net.group("web", OUT)
    a, b = await net.guest("a", "web"), await net.guest("b", "web")
    await b.listen(80)
    await b.listen(81)
    for address in (b.port.ipv4, b.port.ipv6):
        await net.group("web", OUT)
        assert await a.connect(address, 80, 0.3) != "hello"
        await net.group("web", OUT, tcp("ingress", 80, 81))
        assert await a.connect(address, 80) == "hello"
        first, second = await a.open(address, 80), await a.open(address, 81)
        await net.group("web", OUT, tcp("ingress", 81))
        assert not await a.talk(first, 0.5), "a connection of a rule that is gone goes on"
        assert await a.talk(second), "a connection of a rule that stayed was cut"
        assert await a.connect(address, 80, 0.3) != "hello"


async def test_what_goes_out_needs_a_rule_too(here: Host) -> None:
    net = here.network()
    await net.group("in", IN)
    await net.group("out", tcp("egress", 80))
    a, b = await net.guest("a", "out"), await net.guest("b", "in")
    await b.listen(80)
    await b.listen(81)
    assert await a.connect(b.port.ipv4, 80) == "hello"
    assert await a.connect(b.port.ipv4, 81, 0.3) != "hello"
    handle = await a.open(b.port.ipv4, 80)
    await net.group("out", tcp("egress", 443))
    assert not await a.talk(handle, 0.5)
    assert await a.connect(b.port.ipv4, 80, 0.3) != "hello"


async def test_a_machine_that_leaves_its_group_is_cut_off(here: Host) -> None:
    net = here.network()
    await net.group("all", IN, OUT)
    a, b = await net.guest("a", "all"), await net.guest("b", "all")
    await b.listen(80)
    handle = await a.open(b.port.ipv6, 80)
    assert await a.talk(handle)
    await net.join(b)
    assert not await a.talk(handle, 0.5)
    await net.join(b, "all")
    assert await a.connect(b.port.ipv6, 80) == "hello"


async def test_a_group_as_remote_means_its_members_of_now(here: Host) -> None:
    net = here.network()
    await net.group("client", OUT)
    await net.group("server", anything("ingress", group="client"))
    a, b, c = await net.guest("a", "client"), await net.guest("b", "server"), await net.guest("c", "client")
    await b.listen(80)
    assert await a.connect(b.port.ipv4, 80) == await a.connect(b.port.ipv6, 80) == "hello"
    handle = await c.open(b.port.ipv4, 80)
    await net.group("other", OUT)
    await net.join(c, "other")
    assert not await c.talk(handle, 0.5)
    assert await c.connect(b.port.ipv4, 80, 0.3) != "hello"
    assert await a.connect(b.port.ipv4, 80) == "hello"


async def test_addresses_protocols_and_ports_are_told_apart(here: Host) -> None:
    net = here.network()
    a, c = await net.guest("a", "any", last=10), await net.guest("c", "any", last=200)
    await net.group("any", OUT)
    b = await net.guest("b", "picky", last=11)
    await net.group(
        "picky",
        tcp("ingress", 8000, 8010, "10.0.0.0/25"),
        Rule(Direction.INGRESS, "udp", (53, 53), ("2001:db8:1::/64",)),
        Rule(Direction.INGRESS, "icmp", None, ("10.0.0.200",)),
    )
    for port in (7999, 8000, 8010, 8011):
        await b.listen(port)
    await b.datagrams(53)
    assert [await a.connect(b.port.ipv4, port, 0.3) == "hello" for port in (7999, 8000, 8010, 8011)] == [0, 1, 1, 0]
    assert await c.connect(b.port.ipv4, 8000, 0.3) != "hello", "an address outside the range"
    assert await a.connect(b.port.ipv6, 8000, 0.3) != "hello", "the other family"
    assert await a.datagram(b.port.ipv6, 53) and not await a.datagram(b.port.ipv4, 53, 0.3)
    assert await c.ping(b.port.ipv4) and not await a.ping(b.port.ipv4, 0.3)


async def test_two_tenants_with_the_same_addresses_do_not_see_each_other(here: Host) -> None:
    one, two = here.network("10.0.0", 1), here.network("10.0.0", 2)
    for net in (one, two):
        await net.group("all", IN, OUT)
    a1, b1 = await one.guest("a", "all", last=10), await one.guest("b", "all", last=11)
    a2, b2 = await two.guest("a", "all", last=10), await two.guest("b", "all", last=11)
    await b1.listen(80)
    assert await a1.connect("10.0.0.11", 80) == "hello"
    assert await a2.connect("10.0.0.11", 80, 0.5) != "hello", "the other tenant's server answered"
    assert await a2.connect(b1.port.ipv6, 80, 0.5) != "hello"
    sniffed = asyncio.create_task(b2.sniff(0.6))
    await asyncio.gather(a1.ping("10.0.0.11"), a1.ping("10.0.0.99", 0.3))
    assert all(b1.port.mac.replace(":", "") not in frame for frame in await sniffed)


async def test_a_neighbour_sees_nothing_of_what_is_not_for_it(here: Host) -> None:
    net = here.network()
    await net.group("all", IN, OUT)
    a, b, c = await net.guest("a", "all"), await net.guest("b", "all"), await net.guest("c", "all")
    await b.listen(80)
    listening = asyncio.create_task(c.sniff(0.8))
    assert await a.connect(b.port.ipv4, 80) == "hello"
    await a.ping(b.port.ipv6)
    a_address = "".join(f"{int(part):02x}" for part in a.port.ipv4.split("."))
    assert not [frame for frame in await listening if a_address in frame]
