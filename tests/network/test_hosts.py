"""A host's networks as a whole: public addresses, the uplink, deaths of every process, two hosts, nothing left."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hansa.engines.network import space
from hansa.engines.network.permit import Filter
from hansa.engines.ports import Direction, Neighbour, Rule
from hansa.errors import Retry

from .test_hostile import datagram
from .wires import IN, KERNEL, OUT, Host, anything, host, run, tcp

pytestmark = pytest.mark.anyio
kernel_only = pytest.mark.skipif(not KERNEL, reason="the user-space switch has no public addresses and no tunnels")


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Host]:
    async with host(tmp_path) as made:
        yield made


# -- public addresses and the uplink ------------------------------------------------------------


@kernel_only
async def test_a_public_address_reaches_its_guest_and_moves(here: Host) -> None:
    one, two = here.network("10.0.0", 1), here.network("10.0.0", 2)
    for net in (one, two):
        await net.group("web", OUT, tcp("ingress", 80))
    peer = await here.peer()
    a, b = await one.guest("a", "web"), await two.guest("b", "web")
    for guest in (a, b):
        await guest.listen(80)
        await guest.listen(81)
    public = "203.0.113.7"
    assert await peer.connect(public, 80, 0.3) != "hello"
    await one.change(a, public_ipv4=public)
    handle = await peer.open(public, 80)
    assert await peer.talk(handle)
    assert await peer.connect(public, 81, 0.3) != "hello", "a closed port is closed by this way too"
    await one.change(a, public_ipv4=None)
    assert not await peer.talk(handle, 0.5), "a connection by an address that moved goes on"
    await two.change(b, public_ipv4=public)
    handle = await peer.open(public, 80)
    assert await peer.talk(handle)
    assert await b.arrived_bytes(80) > 0 and await a.arrived_bytes(80) > 0
    report = await here.engine.observe(two.uid)
    assert report is not None and report.publics == {public: b.port.uid}


@pytest.mark.skipif(KERNEL, reason="of the user-space switch")
async def test_the_switch_does_not_claim_that_a_public_address_leads_anywhere(here: Host) -> None:
    net = here.network()
    guest = await net.guest("a")
    await net.change(guest, public_ipv4="203.0.113.7")
    report = await here.engine.observe(net.uid)
    assert report is not None and list(report.ports) == [guest.port.uid] and report.publics == {}


@kernel_only
async def test_a_guest_goes_out_with_its_public_address_or_its_networks(here: Host) -> None:
    net = here.network()
    await net.group("out", OUT)
    peer = await here.peer()
    await peer.listen(80)
    a, b = await net.guest("a", "out"), await net.guest("b", "out")
    await net.change(a, public_ipv4="203.0.113.8")
    for guest in (a, b):
        assert isinstance(await guest.open("198.51.100.1", 80), int)
    seen = (await peer.run("sh", "-c", "cat /proc/net/tcp"))["said"]
    assert "087100CB" in seen, "203.0.113.8 was not seen"
    await net.group("out")
    assert await b.connect("198.51.100.1", 80, 0.3) != "hello"


@kernel_only
async def test_two_networks_meet_by_public_addresses_only(here: Host) -> None:
    one, two = here.network("10.0.0", 1), here.network("10.1.0", 2)
    for net in (one, two):
        await net.group("all", IN, OUT)
    a, b = await one.guest("a", "all"), await two.guest("b", "all")
    neighbour = await two.guest("c", "all")
    await b.listen(80)
    await two.change(b, public_ipv4="203.0.113.9")
    assert await a.connect("203.0.113.9", 80) == "hello"
    assert await neighbour.connect("203.0.113.9", 80) == "hello", "by its public address from its own network"
    assert await a.connect(b.port.ipv4, 80, 0.3) != "hello"
    assert await a.connect(b.port.ipv6, 80, 0.3) != "hello"
    for index in range(4):
        assert await a.connect(f"100.64.0.{index}", 80, 0.2) != "hello"


# -- deaths -------------------------------------------------------------------------------------


async def test_the_filter_outlives_the_daemon_and_its_services_come_back(here: Host) -> None:
    net = here.network()
    await net.group("web", OUT, tcp("ingress", 80))
    a, b = await net.guest("a", "web"), await net.guest("b", "web")
    await b.listen(80)
    await b.listen(81)
    for _ in range(3):
        os.kill(here.marks()[f"{here.cloud}/daemon"], signal.SIGKILL)
        if KERNEL:
            assert await a.connect(b.port.ipv4, 80) == "hello"
        assert await a.connect(b.port.ipv4, 81, 0.3) != "hello"
        await net.tell()
        assert await a.connect(b.port.ipv4, 80) == "hello"
        assert await a.connect(b.port.ipv4, 81, 0.3) != "hello"
        report = await here.engine.observe(net.uid)
        assert report is not None and set(report.forwards) == set(net.ports)
    await net.group("web", OUT)
    assert await a.connect(b.port.ipv4, 80, 0.3) != "hello"


@kernel_only
async def test_a_network_whose_holder_dies_is_made_anew_and_its_machines_are_ended(here: Host) -> None:
    net = here.network()
    await net.group("web", OUT, IN)
    a, b = await net.guest("a", "web"), await net.guest("b", "web")
    stand_in = await asyncio.create_subprocess_exec(  # a QEMU runs inside the network's namespace
        *here.inside(f"network/{net.uid}"), "sleep", "60"
    )
    holder = here.marks()[f"{here.cloud}/network/{net.uid}"]
    while space.inode_of(stand_in.pid) != space.inode_of(holder):
        await asyncio.sleep(0.01)
    os.kill(holder, signal.SIGKILL)
    await net.tell()
    async with asyncio.timeout(5):
        assert await stand_in.wait() == -signal.SIGKILL
    assert await here.engine.observe(net.uid) is None or (await here.engine.apply(net.wanted())).ports
    for guest in (a, b):
        await guest.end()
    await net.tell()
    a, b = await net.plug(a.port), await net.plug(b.port)
    await b.listen(80)
    assert await a.connect(b.port.ipv4, 80) == "hello"


async def test_a_card_is_in_one_hand_and_a_machine_that_left_has_none(here: Host) -> None:
    net = here.network()
    a = await net.guest("a")
    if KERNEL:
        with pytest.raises(Retry, match="another process"):
            await here.engine.plug(net.uid, a.port.uid)
    await net.leave(a)
    with pytest.raises(Retry, match="not plugged"):
        await here.engine.plug(net.uid, a.port.uid)


async def test_an_older_wish_never_moves_the_world_back(here: Host) -> None:
    net = here.network()
    await net.guest("a")
    old = net.wanted()
    await net.guest("b")
    report = await here.engine.apply(old)
    assert len(report.ports) == 2 and report.revision > old.revision


async def test_nothing_is_left_when_the_last_network_is_gone(here: Host) -> None:
    assert not here.marks(), "something was started before it was needed"
    net = here.network()
    guest = await net.guest("a")
    inodes = {space.inode_of(pid) for pid in here.marks().values()} - {space.inode_of(os.getpid())}
    await guest.end()
    assert await here.engine.remove(net.uid)
    assert await here.engine.observe(net.uid) is None and not await here.engine.held()
    os.kill(here.marks()[f"{here.cloud}/daemon"], signal.SIGTERM)
    async with asyncio.timeout(10):
        while here.marks():
            await here.engine.held()
            await asyncio.sleep(0.05)
    assert not [pid for inode in inodes for pid in space.inside_of(inode)]


# -- the same meaning twice ---------------------------------------------------------------------


async def test_the_filter_and_the_function_that_judges_open_connections_agree(here: Host) -> None:
    """Random groups, random packets: what arrives is what `permit` says."""
    chance = random.Random(4)
    net = here.network()
    a, b = await net.guest("a", "x"), await net.guest("b", "y")
    tried = passed = 0
    for _ in range(10):
        for name in ("x", "y"):
            rules = [_random_rule(chance) for _ in range(chance.randrange(4))]
            await net.group(name, *rules, *([OUT] if name == "x" and chance.random() < 0.5 else []))
        rules_now = Filter(net.wanted())
        asked = [(chance.choice([b.port.ipv4, b.port.ipv6]) or "", chance.choice([80, 81, 90])) for _ in range(4)]
        listening = asyncio.create_task(b.sniff(0.35))
        await asyncio.sleep(0.05)
        for to, port in asked:
            await a.frame(datagram(a, to, port=port))
        seen = await listening
        for to, port in asked:
            own = (a.port.ipv6 if ":" in to else a.port.ipv4) or ""
            lets = rules_now.permits(a.port, Direction.EGRESS, to, "udp", port)
            lets = lets and rules_now.permits(b.port, Direction.INGRESS, own, "udp", port)
            arrived = any(f"15b3{port:04x}" in f and f"{':' in to:d}" == f"{f[24:28] == '86dd':d}" for f in seen)
            assert arrived == lets, f"to {to} port {port}: arrived {arrived}, by the rules {lets}: {net.groups}"
            tried, passed = tried + 1, passed + lets
    assert 5 < passed < tried - 5, "the dice were loaded"


def _random_rule(chance: random.Random) -> Rule:
    protocol = chance.choice(["udp", "udp", "all", "tcp"])
    ports = chance.choice([None, (80, 80), (80, 89), (81, 90)]) if protocol in ("udp", "tcp") else None
    remote = chance.choice(["anyone", "anyone", "cidr", "group"])
    cidrs = (
        (chance.choice(["10.0.0.0/24", "10.0.0.10", "2001:db8:1::/64", "192.0.2.0/24"]),) if remote == "cidr" else ()
    )
    return Rule(
        chance.choice([Direction.INGRESS, Direction.EGRESS]), protocol, ports, cidrs,
        chance.choice("xyz") if remote == "group" else "",
    )  # fmt: skip


# -- two hosts ----------------------------------------------------------------------------------


@kernel_only
async def test_one_network_on_two_hosts(tmp_path: Path) -> None:
    """Two engines tied by a wire: machines of one network meet over the tunnel, through the filters of both."""
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    async with (
        host(tmp_path / "1", underlay="192.168.50.1") as one,
        host(tmp_path / "2", underlay="192.168.50.2") as two,
    ):
        left, right = one.network("10.0.0", 5), two.network("10.0.0", 5)
        right.uid = left.uid
        stranger = two.network("10.0.0", 6)
        for net in (left, right, stranger):
            await net.group("all", IN, OUT, members=("10.0.0.10", "10.0.0.20", "2001:db8:5::a", "2001:db8:5::14"))
        a, b = await left.guest("a", "all", last=10), await right.guest("b", "all", last=20)
        c = await stranger.guest("c", "all", last=20)
        await _wire(one, two)
        left.neighbours = (Neighbour("b", b.port.ipv4, b.port.ipv6, "192.168.50.2"),)
        right.neighbours = (Neighbour("a", a.port.ipv4, a.port.ipv6, "192.168.50.1"),)
        await left.tell()
        await right.tell()
        await b.listen(80)
        await c.listen(80)
        for address in (b.port.ipv4, b.port.ipv6):
            assert await a.connect(address, 80) == "hello"
        handle = await a.open(b.port.ipv4, 80)
        await a.pour(handle, 10_000_000)
        async with asyncio.timeout(20):
            while await b.arrived_bytes(80) < 9_900_000:
                await asyncio.sleep(0.05)
        assert await c.arrived_bytes(80) == 0
        assert "mtu 1450" in (await a.run("ip", "link", "show", "eth0"))["said"]
        await right.group("all", OUT, anything("ingress", "10.0.0.99"))
        assert not await a.talk(handle, 0.5), "the receiver's host did not close it"
        assert await a.connect(b.port.ipv4, 80, 0.3) != "hello"


async def _wire(one: Host, two: Host) -> None:
    """A pair of links between two uplinks: what a data centre's network is between two hosts."""
    uplink1, uplink2 = one.inside("uplink"), two.inside("uplink")
    if os.geteuid() == 0 and len(uplink1) == 5:
        await run(
            [*uplink1, "ip", "link", "add", "wire0", "type", "veth", "peer", "name", "wire0", "netns", uplink2[2]]
        )
    else:  # two user namespaces: neither may put a link into the other, so a process carries the frames
        pytest.skip("two plain users' namespaces cannot be tied by a wire")
    for uplink, address in ((uplink1, "192.168.50.1"), (uplink2, "192.168.50.2")):
        await run([*uplink, "ip", "addr", "add", f"{address}/24", "dev", "wire0"])
        await run([*uplink, "ip", "link", "set", "wire0", "up"])
