"""Guests that lie, flood, or try what is not theirs: their neighbours and their host do not notice.

One list for every way in which a host makes networks, as in `test_filter`.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hansa.engines.network import frames
from hansa.engines.network.frames import Way, packed_address, packed_mac
from hansa.engines.network.naming import ROUTER_MAC
from hansa.engines.network.ruleset import DHCP_A_SECOND

from .wires import IN, OUT, Guest, Host, host

pytestmark = pytest.mark.anyio
ROUTER = packed_mac(ROUTER_MAC)


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Host]:
    async with host(tmp_path) as made:
        yield made


async def pair(here: Host) -> tuple[Guest, Guest]:
    net = here.network()
    await net.group("all", IN, OUT)
    return await net.guest("liar", "all"), await net.guest("honest", "all")


def datagram(
    sender: Guest, target: str, *, source: str = "", mac: str = "", port: int = 7777, to: bytes = ROUTER
) -> str:
    own = sender.port.ipv6 if ":" in target else sender.port.ipv4
    way = Way(packed_mac(mac or sender.port.mac), to, packed_address(source or own or ""), packed_address(target))
    return frames.udp(way, 5555, port, b"lie").hex()


async def arrives(liar: Guest, honest: Guest, *hexed: str) -> bool:
    listening = asyncio.create_task(honest.sniff(0.4))
    await asyncio.sleep(0.05)
    for frame in hexed:
        await liar.frame(frame)
    return any("6c6965" in frame for frame in await listening)  # "lie"


async def test_a_true_sender_is_heard_and_a_false_one_is_not(here: Host) -> None:
    liar, honest = await pair(here)
    for target, false in ((honest.port.ipv4, "10.0.0.99"), (honest.port.ipv6, "2001:db8:1::99")):
        assert await arrives(liar, honest, datagram(liar, target)), "the truth is not heard"
        assert not await arrives(liar, honest, datagram(liar, target, source=false)), "an address that is not its own"
        assert not await arrives(liar, honest, datagram(liar, target, source=target)), "the receiver's own address"
        assert not await arrives(liar, honest, datagram(liar, target, mac="02:00:00:00:00:99")), "a MAC not its own"
        assert not await arrives(liar, honest, datagram(liar, target, to=packed_mac(honest.port.mac), source=false))


async def test_nobody_takes_a_neighbours_address(here: Host) -> None:
    """A gratuitous ARP, a neighbour advertisement: both are heard by nobody, and change nothing."""
    liar, honest = await pair(here)
    victim = await here.networks[0].guest("victim", "all")
    await victim.listen(80)
    claim = packed_mac(liar.port.mac) + packed_address(victim.port.ipv4)
    arp = frames.ethernet(b"\xff" * 6, packed_mac(liar.port.mac), frames.ARP, struct.pack("!HHBBH", 1, 0x800, 6, 4, 2) + claim + b"\xff" * 6 + packed_address(honest.port.ipv4))  # fmt: skip
    listening = asyncio.create_task(honest.sniff(0.5))
    for _ in range(5):
        await liar.frame(arp.hex())
    assert not [frame for frame in await listening if "0806" in frame[24:28]]
    assert await honest.connect(victim.port.ipv4, 80) == "hello"
    taken = asyncio.create_task(liar.sniff(0.6))
    assert await honest.connect(victim.port.ipv4, 80) == "hello"
    assert not [f for f in await taken if packed_address(victim.port.ipv4).hex() in f and "0050" in f]


async def test_a_guest_is_no_router_and_no_dhcp_server(here: Host) -> None:
    liar, honest = await pair(here)
    mac = packed_mac(liar.port.mac)
    link_local = packed_address("fe80::99")
    everybody = Way(mac, b"\x33\x33\0\0\0\1", link_local, packed_address("ff02::1"))
    advert = frames.icmp6(everybody, struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + b"lie lie!").hex()
    offer = frames.udp(Way(mac, b"\xff" * 6, packed_address(liar.port.ipv4), packed_address("255.255.255.255")), 67, 68, b"lie").hex()  # fmt: skip
    straight = frames.udp(Way(mac, packed_mac(honest.port.mac), packed_address(liar.port.ipv4), packed_address(honest.port.ipv4)), 67, 68, b"lie").hex()  # fmt: skip
    assert not await arrives(liar, honest, advert, offer)
    await here.networks[0].join(honest)
    assert not await arrives(liar, honest, straight, advert, offer)


async def test_nothing_of_the_host_is_reached_but_dhcp_and_dns(here: Host) -> None:
    liar, _ = await pair(here)
    with socket.socket() as api:  # stands in for the cloud's API: on the loopback, and on every address
        api.bind(("0.0.0.0", 0))
        api.listen()
        port = api.getsockname()[1]
        own = [a for a in await here.engine._host_addresses() if ":" not in a]
        for address in ("127.0.0.1", "10.0.0.1", "169.254.169.254", "100.64.0.0", "100.64.0.1", *own):
            assert await liar.connect(address, port, 0.2) != "hello", address
    for port in (22, 67, 547, 4789, 8080):
        assert await liar.connect("10.0.0.1", port, 0.2) != "hello"
        assert await liar.connect("2001:db8:1::1", port, 0.2) != "hello"
    assert not await liar.ping("10.0.0.1", 0.2)


async def test_a_flood_at_one_link_is_not_felt_at_another(here: Host) -> None:
    """ARP, DHCP, neighbour discovery and datagrams as fast as they go; a neighbour's connection lives on."""
    liar, honest = await pair(here)
    other = await here.networks[0].guest("other", "all")
    await other.listen(80)
    handle = await honest.open(other.port.ipv4, 80)
    mac, own = packed_mac(liar.port.mac), packed_address(liar.port.ipv4)
    who = frames.ethernet(b"\xff" * 6, mac, frames.ARP, struct.pack("!HHBBH", 1, 0x800, 6, 4, 1) + mac + own + b"\0" * 6 + packed_address("10.0.0.1"))  # fmt: skip
    discover = b"\1\1\6\0" + b"lies" + b"\0" * 20 + mac + b"\0" * 202 + b"\x63\x82\x53\x63" + b"\x35\1\1\xff"
    dhcp = frames.udp(Way(mac, b"\xff" * 6, b"\0" * 4, b"\xff" * 4), 68, 67, discover)
    solicit = frames.icmp6(Way(mac, b"\x33\x33\xff\0\0\1", packed_address("fe80::99"), packed_address("ff02::1:ff00:1")), struct.pack("!BBHI16s", 135, 0, 0, 0, packed_address("fe80::1")))  # fmt: skip
    spread = [datagram(liar, f"10.0.0.{n}") for n in range(2, 250)]

    async def flood() -> None:
        for _ in range(8):
            for frame in (who.hex(), dhcp.hex(), solicit.hex()):
                await liar.frame(frame, 500)
            for frame in spread:
                await liar.frame(frame)

    flooding = asyncio.create_task(flood())
    answers = 0
    for _ in range(20):
        answers += await honest.talk(handle, 2.0)
        await asyncio.sleep(0.05)
    await flooding
    assert answers == 20
    began, answered = time.monotonic(), asyncio.create_task(liar.sniff(4.0))
    await liar.frame(dhcp.hex(), 300)
    while not answered.done():  # its own ear may have been full of its own cries
        await liar.frame(dhcp.hex())
        await asyncio.sleep(0.2)
    offers = [frame for frame in await answered if "00430044" in frame]
    most = DHCP_A_SECOND * (3 + time.monotonic() - began)  # a burst of two seconds' worth
    assert 1 <= len(offers) <= most, f"{len(offers)} of 300 questions were answered"
    fresh = await here.networks[0].guest("fresh", "all")
    assert await fresh.connect(other.port.ipv4, 80) == "hello"


async def test_connections_without_number_are_the_guests_own_trouble(here: Host) -> None:
    """A guest that opens connection after connection runs into its own limit; its neighbour does not."""
    liar, honest = await pair(here)
    other = await here.networks[0].guest("other", "all")
    await other.listen(80)
    spread = [datagram(liar, "10.0.0.12", port=port) for port in range(1, 2000)]
    for frame in spread:
        await liar.frame(frame)
    assert await honest.connect("10.0.0.12", 80, 2.0) == "hello"
