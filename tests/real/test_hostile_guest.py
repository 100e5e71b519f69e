"""One guest does its worst; its neighbours, the host and the control process do not notice."""

from __future__ import annotations

import time

from .cloud import RealCloud
from .tenant import ALL_OUT, Shell, begin, booted, connects, group, rule, until

MEETINGS = 25
LOG_BYTES_MAX = 4 << 20  # of one machine on the host's disk


def test_a_hostile_guest_is_its_own_trouble(cloud: RealCloud) -> None:
    client = cloud.start()
    group(client, "inside", ALL_OUT, rule("Ingress", "TCP", 80), rule("Ingress", "ICMP"))
    for name in ("evil", "one", "two"):
        begin(client, name, "inside")
    evil, one, two = booted(client, "evil", "one", "two")
    addresses = {n: client.get("vm", n)["status"]["networking"]["privateIPv4Address"] for n in ("evil", "one", "two")}
    assert two.succeeds("(while :; do nc -l -p 80 < /etc/hostname; done) > /dev/null 2>&1 &")
    assert evil.succeeds(f"ping -c 1 -w 5 {addresses['one']}"), "while it is honest, it is heard"

    _lies(evil, addresses)
    assert evil.succeeds(f"ping -c 1 -w 5 {addresses['one']}"), "honest again, heard again"
    for attack in (
        "while :; do udhcpc -i eth0 -n -q -s /bin/true -t 1 -T 0 -x hostname:two; done",  # leases that are not its own
        f"while :; do arping -c 100 -w 1 -I eth0 -s {addresses['two']} {addresses['one']}; done",
        f"while :; do ping -i 0.002 -s 1400 -c 2000 {addresses['one']}; done",
        "while :; do nslookup two.internal; done",
        "while :; do dd if=/dev/zero of=/root/flood bs=1M count=200; sync; done",
    ):
        evil.run(f"({attack}) > /dev/null 2>&1 &")
    evil.run("rm -rf /etc/acpi; killall acpid; trap '' TERM", 20)  # the power button does nothing
    evil.console.write(b"while :; do echo a line that fills whatever keeps it aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa; done\n")

    client.request("POST", client.path("VirtualMachine", "evil") + "/stop")
    machine = client.get("vm", "evil")
    for _ in range(MEETINGS):
        # between two visitors its server is away for a moment: who comes then is refused, and comes again
        assert any(connects(one, "two.internal", 80) for _ in range(4)), "neighbours meet"
        machine = client.get("vm", "evil")
    assert machine["status"]["virtualMachineStatus"] == "Stopping", "it has not gone of its own will"
    group(client, "inside", ALL_OUT, rule("Ingress", "ICMP"))
    assert not connects(one, "two.internal", 80), "rules change as ever"
    client.create("disk", "late", {"diskSize": {"amount": 10, "unit": "MB"}, "placement": {"zone": "a"}})
    client.create("hotswap", "late", {"virtualMachineRef": "one", "diskRef": "late"})
    client.wait("hotswap", "late", timeout_s=30)
    logs = [f for f in (cloud.data / "machines" / machine["metadata"]["uid"]).iterdir() if "console" in f.name]
    assert logs and sum(f.stat().st_size for f in logs) <= LOG_BYTES_MAX, "its console's log has a limit"

    until(lambda: client.get("vm", "evil")["status"]["virtualMachineStatus"] == "Stopped", 150)
    settled = time.monotonic() + 30
    while True:
        try:
            cloud.audit()
            break
        except AssertionError:
            assert time.monotonic() < settled, cloud.audit()
            time.sleep(0.5)


def _lies(evil: Shell, addresses: dict[str, str]) -> None:
    """With another's address, and with another MAC, nothing of it arrives."""
    evil.run(f"ip addr add {addresses['two']}/32 dev eth0")
    assert not evil.succeeds(f"ping -c 2 -w 3 -I {addresses['two']} {addresses['one']}"), "a false address is heard"
    evil.run(
        f"ip addr del {addresses['two']}/32 dev eth0; cat /sys/class/net/eth0/address > /tmp/mac; ip route > /tmp/r"
    )
    evil.run("ip link set eth0 down; ip link set eth0 address 02:00:00:00:00:77; ip link set eth0 up")
    restore_routes = "while read line; do ip route add $line onlink 2>/dev/null || ip route add $line; done < /tmp/r"
    evil.run(restore_routes)
    assert not evil.succeeds(f"ping -c 2 -w 3 {addresses['one']}"), "a false MAC is heard"
    evil.run(f"ip link set eth0 down; ip link set eth0 address $(cat /tmp/mac); ip link set eth0 up; {restore_routes}")
