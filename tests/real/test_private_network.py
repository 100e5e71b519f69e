"""`hansa up` with real guests that talk to one another: groups, names, public addresses, kills, a host that restarts."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from hansa.engines.network import space
from hansa.engines.network.driver import NAMESPACES, USER_NAMESPACES, USERSPACE
from hansa.errors import HansaError
from hansa.sdk.client import Client

from .cloud import RealCloud
from .tenant import ALL_OUT, begin, booted, connects, group, rule, settle, until

NETWORK = os.environ.get("HANSA_NETWORK") or (NAMESPACES if os.geteuid() == 0 else USER_NAMESPACES)
KILLS = 20 if os.environ.get("HANSA_LONG") else 3


def test_guests_meet_as_their_groups_allow(cloud: RealCloud) -> None:
    client = cloud.start()
    assert cloud.network() == NETWORK
    group(client, "inside", ALL_OUT)
    for name in ("one", "two"):
        begin(client, name, "inside")
    begin(client, "alone")
    one, two, alone = booted(client, "one", "two", "alone")
    for shell in (two, alone):
        assert shell.succeeds("(while :; do nc -l -p 80 < /etc/hostname; done) > /dev/null 2>&1 &")
    assert one.succeeds("nslookup two.internal | grep -q 10.0.0")
    assert not connects(one, "two.internal", 80), "closed by default"
    group(client, "inside", ALL_OUT, rule("Ingress", "TCP", 80))
    assert connects(one, "two.internal", 80)
    address = client.get("vm", "two")["status"]["networking"]["ipv6Address"]
    assert connects(one, address, 80)
    assert not connects(one, "alone.internal", 80) and not connects(alone, "two.internal", 80)
    assert one.succeeds("ip link show eth0 | grep -q 'mtu 1450'")
    group(client, "inside", ALL_OUT)
    assert not connects(one, "two.internal", 80)
    members = client.get("sg", "inside")["status"]["members"]
    assert sorted(m["status"] for m in members) == ["Active", "Active"]
    networking = client.get("vm", "one")["status"]["networking"]
    assert networking["securityGroupActiveMembershipRefs"] == [
        "/networking/projects/demo/regions/se-sto/securityGroups/inside"
    ]
    cloud.audit()


@pytest.mark.skipif(NETWORK != USERSPACE, reason="of the user-space switch")
def test_without_the_kernel_a_public_address_says_that_it_leads_nowhere(cloud: RealCloud) -> None:
    client = cloud.start()
    client.create("ip", "front", {})
    begin(client, "one", publicIPv4Address={"static": {"publicIPRef": "front"}})
    client.wait("vm", "one", timeout_s=60)

    def why() -> str:
        return next(
            str(c["message"]) for c in client.get("ip", "front")["status"]["conditions"] if c["type"] == "Forwarded"
        )

    until(lambda: "user space" in why(), 20)
    cloud.audit()


def test_a_public_address_moves_between_running_guests(cloud: RealCloud) -> None:
    client = cloud.start()
    if cloud.network() == USERSPACE:
        pytest.skip("the user-space switch has no public addresses, and says so")
    group(client, "web", ALL_OUT, rule("Ingress", "TCP", 80))
    client.create("ip", "front", {})
    public = client.wait("ip", "front")["status"]["publicIPv4Address"]
    begin(client, "one", "web", publicIPv4Address={"static": {"publicIPRef": "front"}})
    begin(client, "two", "web")
    client.create("vpc", "other", {"ipv4CidrBlocks": ["10.0.0.0/16"]})
    client.create(
        "subnet",
        "other",
        {"vpcRef": "other", "stackType": "dual-stack", "ipv4CidrBlock": "10.0.0.0/24", "placement": {"zone": "a"}},
    )
    client.create("sg", "out", {"vpcRef": "other", "rules": [ALL_OUT]})
    begin(client, "far", "out", subnetRef="other")
    one, two, far = booted(client, "one", "two", "far")
    for shell in (one, two):
        shell.succeeds("(while :; do nc -l -p 80 < /etc/hostname; done) > /dev/null 2>&1 &")
    assert "one" in far.run(f"nc -w 3 {public} 80 < /dev/null")
    assert not connects(far, client.get("vm", "one")["status"]["networking"]["ipv6Address"], 80), (
        "another VPC's address"
    )
    assert client.get("ip", "front")["status"]["usedByRef"].endswith("/one")
    client.patch("vm", "one", {"spec": {"networking": {"publicIPv4Address": None}}})
    client.wait("vm", "one", timeout_s=20)
    client.patch("vm", "two", {"spec": {"networking": {"publicIPv4Address": {"static": {"publicIPRef": "front"}}}}})
    client.wait("vm", "two", timeout_s=20)
    assert "two" in far.run(f"nc -w 3 {public} 80 < /dev/null")
    assert client.get("vm", "two")["status"]["networking"]["publicIPv4Address"] == public
    cloud.audit()


def test_whatever_is_killed_rules_addresses_and_attachments_converge(cloud: RealCloud) -> None:
    """The control process, QEMU, the network daemon and a network's holder, at random moments, in turn."""
    chance = random.Random(11)
    client = cloud.start()
    group(client, "web", ALL_OUT, rule("Ingress", "TCP", 80))
    client.create("ip", "front", {})
    begin(client, "stays", "web", publicIPv4Address={"static": {"publicIPRef": "front"}})
    client.create("disk", "data", {"diskSize": {"amount": 10, "unit": "MB"}, "placement": {"zone": "a"}})
    client.wait("vm", "stays", timeout_s=60)
    for turn in range(KILLS):
        if turn and turn % 4 == 0:  # what dies again and again is started later and later: begin anew
            spec = client.get("vm", "stays")["spec"]
            client.delete("vm", "stays")
            client.wait("vm", "stays", until="deleted", timeout_s=60)
            client.create("vm", "stays", spec)
            client.wait("vm", "stays", timeout_s=60)
        _change(client, turn)
        time.sleep(chance.random() * 1.5)
        cloud.kill()
        client = cloud.start()
        _change(client, turn + 1)
        time.sleep(chance.random() * 1.5)
        for pid in cloud.guests():
            os.kill(pid, signal.SIGKILL)
        marks = space.marked(f"{cloud.identity}/")
        victim = chance.choice([pid for mark, pid in marks.items() if "/daemon" in mark or "/network/" in mark])
        os.kill(victim, signal.SIGKILL)
        settle(cloud, client)
    client.delete("vm", "stays")
    client.wait("vm", "stays", until="deleted", timeout_s=60)
    settle(cloud, client)


def _change(client: Client, turn: int) -> None:
    """Something that a user does; what an earlier kill made impossible is refused, and that is all."""
    steps: list[Callable[[], Any]] = [
        lambda: client.create("hotswap", "data", {"virtualMachineRef": "stays", "diskRef": "data"}),
        lambda: client.patch("sg", "web", {"spec": {"rules": [ALL_OUT, rule("Ingress", "TCP", 80 + turn)]}}),
        lambda: begin(client, f"m{turn}", "web"),
        lambda: client.delete("vm", f"m{turn - 1}"),
        lambda: client.delete("hotswap", "data") if turn % 2 else None,
    ]
    for step in steps:
        try:
            step()
        except HansaError as error:
            assert error.status in (404, 409), error


def test_a_host_that_restarts_comes_back_without_a_hand(cloud: RealCloud) -> None:
    """All guests, namespaces and daemons gone at once, as after a power cut; the cloud starts again."""
    client = cloud.start()
    group(client, "web", ALL_OUT, rule("Ingress", "TCP", 80))
    for name in ("a", "b", "c", "d"):
        begin(client, name, "web")
    for name in ("a", "b", "c", "d"):
        client.wait("vm", name, timeout_s=60)
    before = {o["metadata"]["id"]: o["status"]["networking"] for o in client.list("vm")}
    cloud.kill()
    cloud.end_guests()
    for pid in space.marked(f"{cloud.identity}/").values():
        os.kill(pid, signal.SIGKILL)
    client = cloud.start()
    for name in ("a", "b", "c", "d"):
        client.wait("vm", name, timeout_s=90)
    assert {o["metadata"]["id"]: o["status"]["networking"] for o in client.list("vm")} == before
    settle(cloud, client)
