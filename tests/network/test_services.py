"""What a network offers: addresses, names, and what a machine is told about its link."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import dns.message
import dns.rcode
import pytest

from .wires import IN, OUT, Guest, Host, host

pytestmark = pytest.mark.anyio


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Host]:
    async with host(tmp_path) as made:
        yield made


async def asked(guest: Guest, name: str, kind: str = "A", server: str = "10.0.0.1") -> dns.message.Message:
    """A question to the network's name server, by a real resolver's packet."""
    code = (
        "import socket,sys,dns.message as m\n"
        f"q=m.make_query({name!r},{kind!r})\n"
        f"s=socket.socket(socket.{'AF_INET6' if ':' in server else 'AF_INET'},socket.SOCK_DGRAM);s.settimeout(3)\n"
        f"s.connect(({server!r},53));s.send(q.to_wire());print(s.recv(4096).hex())"
    )
    import sys

    done = await guest.run(sys.executable, "-c", code)
    assert done["status"] == 0, done["said"]
    return dns.message.from_wire(bytes.fromhex(done["said"].strip()))


async def test_machines_find_each_other_by_name_and_no_other_tenant_does(here: Host) -> None:
    net, other = here.network("10.0.0", 1), here.network("10.0.0", 2)
    await net.group("all", IN, OUT)
    a = await net.guest("web-1")
    await net.guest("db-1")
    stranger = await other.guest("db-1", last=77)
    for server in ("10.0.0.1", "2001:db8:1::1"):
        assert "10.0.0.11" in (await asked(a, "db-1.internal", server=server)).to_text()
    assert "2001:db8:1::b" in (await asked(a, "db-1.internal", "AAAA")).to_text()
    assert "db-1.internal." in (await asked(a, "11.0.0.10.in-addr.arpa", "PTR")).to_text()
    assert (await asked(a, "nobody.internal")).rcode() == dns.rcode.NXDOMAIN
    assert (await asked(a, "example.org")).rcode() == dns.rcode.SERVFAIL, "there is no way out here"
    assert "10.0.0.77" in (await asked(stranger, "db-1.internal")).to_text()


@pytest.mark.skipif(shutil.which("busybox") is None, reason="busybox is not installed: scripts/install --dev")
async def test_a_machine_gets_its_own_address_by_dhcp_and_nobody_elses(here: Host, tmp_path: Path) -> None:
    net = here.network()
    one, two = await net.guest("one", configure=False), await net.guest("two", configure=False)
    script = tmp_path / "script"
    script.write_text('#!/bin/sh\necho "$1 $ip/$mask via $router dns $dns mtu $mtu name $hostname domain $domain"\n')
    script.chmod(0o755)
    tmp_path.chmod(0o755)
    for guest, address in ((one, "10.0.0.10"), (two, "10.0.0.11")):
        await guest.run("ip", "link", "set", "eth0", "address", guest.port.mac, "up")
        done = await guest.run(
            "busybox", "udhcpc", "-f", "-n", "-q", "-t", "5", "-T", "1", "-i", "eth0", "-s", str(script), "-O", "mtu"
        )
        assert done["status"] == 0, done
        assert f"bound {address}/24 via 10.0.0.1 dns 10.0.0.1 mtu 1450 name {guest.port.name}" in done["said"], done


async def test_a_router_advertisement_tells_the_way_and_the_mtu(here: Host) -> None:
    net = here.network()
    guest = await net.guest("one", configure=False)
    await guest.run("sysctl", "-qw", "net.ipv6.conf.eth0.accept_ra=2", "net.ipv6.conf.eth0.accept_dad=0")
    await guest.run("ip", "link", "set", "eth0", "address", guest.port.mac, "up")
    said = ""
    async with asyncio.timeout(10):
        while "default via fe80::1" not in said:
            await asyncio.sleep(0.1)
            said = (await guest.run("ip", "-6", "route"))["said"]
    assert "2001:db8:1::/64" not in said, "the subnet must not be on the link: neighbours are reached by the router"
    mtu = await guest.run("cat", "/proc/sys/net/ipv6/conf/eth0/mtu")
    assert mtu["said"].strip() == "1450"


async def test_a_login_from_the_host_needs_no_group(here: Host) -> None:
    """The way of the host's owner, past the groups: by `dial`, and by the forwarded port."""
    net = here.network()
    await net.guest("one")  # the host is told of everything again, once its daemon runs
    guest = await net.guest("two")  # and of this one a single time
    await guest.listen(22)
    report = await here.engine.observe(net.uid)
    assert report is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", report.forwards[guest.port.uid])
    async with asyncio.timeout(10):
        assert await reader.readline() == b"hello\n"
    writer.close()
    dialled = await here.engine.dial(net.uid, guest.port.ipv4 or "", 22)
    with dialled:
        async with asyncio.timeout(10):
            assert await asyncio.get_running_loop().sock_recv(dialled, 100) == b"hello\n"
