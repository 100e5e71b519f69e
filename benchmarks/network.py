"""What the packet filter costs: throughput with it and without, and the time to change a rule on a hundred ports.

Guests are tiny ones under emulation, so the figures say how much is lost, not how much a network carries. Each is
beside the same path with the filter taken out. As root; without root through `scripts/as-plain-user`.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.api import _hansa
from benchmarks.byhand import until_up
from hansa.engines.network import space
from hansa.engines.network.driver import LocalNetworks
from hansa.engines.ports import Direction, Group, HostNetwork, Port, Range, Rule
from hansa.sdk.client import Client

MEBIBYTES, TIMES, PORTS, CHANGES = 24, 3, 100, 9
PEER = "198.51.100.1"
WITHOUT = """flush ruleset
table inet hansa {
  chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    oifname "ext0" masquerade
  }
}
"""


def run() -> Iterator[dict[str, Any]]:
    os.environ["HANSA_UPLINK"] = "none"  # the peer is on a wire of ours
    yield from asyncio.run(_rules())
    yield from _throughput()
    if os.geteuid() == 0:
        words = ["scripts/as-plain-user", sys.executable, "-m", "benchmarks", "network"]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        for line in done.stdout.splitlines():
            yield {**json.loads(line), "without_root": True}


async def _rules() -> list[dict[str, Any]]:
    """Telling a host a changed rule: the whole table anew, and every open connection asked again."""
    with tempfile.TemporaryDirectory(prefix="hb-") as name:
        engine = LocalNetworks(Path(name), cloud_id=f"bench{os.getpid()}", uplink="none")
        ports = tuple(
            Port(
                f"{n:08d}-0000-4000-8000-000000000001",
                1,
                f"m{n}",
                f"02:00:00:00:01:{n:02x}",
                f"10.0.1.{n}",
                None,
                ("g",),
            )
            for n in range(1, PORTS + 1)
        )
        group = Group("g", 1, (Rule(Direction.EGRESS, "all"),), tuple(p.ipv4 or "" for p in ports))
        wanted = HostNetwork(
            "11111111-0000-4000-8000-000000000001", 1, ("10.0.0.0/16",), (Range("10.0.1.0/24", "10.0.1.254", None, None),),
            ports, (group,),
        )  # fmt: skip
        await engine.apply(wanted)
        took = []
        for turn in range(CHANGES):
            rules = (*group.rules, Rule(Direction.INGRESS, "tcp", (80 + turn, 80 + turn)))
            changed = replace(wanted, revision=2 + turn, groups=(replace(group, generation=2 + turn, rules=rules),))
            began = time.monotonic()
            await engine.apply(changed)
            took.append(time.monotonic() - began)
        pid = space.marked(f"bench{os.getpid()}/network/").popitem()[1]
        user = [] if os.geteuid() == 0 else ["-U", "--preserve-credentials"]
        inside = ["nsenter", "-t", str(pid), *user, "-n", "--"]
        listed = await space.run(None, *inside, "nft", "list", "table", "inet", "hansa")
        bare = []
        for _ in range(CHANGES):
            text = f"table inet hansa\ndelete table inet hansa\n{listed}"
            began = time.monotonic()
            await space.run(None, *inside, "nft", "-f", "-", given=text)
            bare.append(time.monotonic() - began)
        await engine.remove(wanted.uid)
    middle = statistics.median(took), statistics.median(bare)
    return [{"what": f"change a rule on {PORTS} ports", "ms": round(1000 * middle[0]),
             "nft_alone_ms": round(1000 * middle[1]), "ratio": round(middle[0] / middle[1], 2), "of": CHANGES}]  # fmt: skip


def _throughput() -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as name:
        server, client = _hansa(Path(name))
        data = Path(name) / "data"
        try:
            yield from _measured(client, data)
        finally:
            for machine in client.list("vm"):
                client.delete("vm", machine["metadata"]["id"])
                client.wait("vm", machine["metadata"]["id"], until="deleted")
            client.close()
            server.terminate()
            server.wait()


def _measured(client: Client, data: Path) -> Iterator[dict[str, Any]]:
    rules = [{"direction": way, "protocol": "All", "remote": {}} for way in ("Ingress", "Egress")]
    client.create("sg", "all", {"vpcRef": "default-se-sto", "rules": rules})
    for name in ("a", "b"):
        client.create("disk", name, {"diskSize": {"amount": 1, "unit": "GB"}, "placement": {"zone": "a"},
                                     "source": {"diskImageRef": "/compute/global/diskImages/evroc/tiny.1"}})  # fmt: skip
        uid = client.create("vm", name, {
            "computeProfileRef": "t1.nano", "disks": [{"diskRef": name, "bootFrom": True}], "placement": {"zone": "a"},
            "networking": {"securityGroupSettings": {"securityGroupMemberRefs": ["all"]}},
        })["metadata"]["uid"]  # fmt: skip
        client.wait("vm", name)
        until_up(data / "machines" / uid / "console.log")
    cloud = (data / "cloud-id").read_text().strip()
    marks = space.marked(f"{cloud}/")
    user = [] if os.geteuid() == 0 else ["-U", "--preserve-credentials"]
    uplink = ["nsenter", "-t", str(marks[f"{cloud}/uplink"]), *user, "-n", "--"]
    network = ["nsenter", "-t", str(next(pid for mark, pid in marks.items() if "/network/" in mark)), *user, "-n", "--"]
    peer = _peer(uplink)
    try:
        a, b = _Shell(client, "a"), _Shell(client, "b")
        address = client.get("vm", "b")["status"]["networking"]["privateIPv4Address"]
        paths = {
            "guest to guest": lambda: _pull(a, b, address),
            "guest to a peer beyond the uplink, in writes of 1 KiB": lambda: a.times(
                f"dd if=/dev/zero bs=64k count={16 * MEBIBYTES} 2>/dev/null | nc {PEER} 5001"
            ),
            "a peer beyond the uplink to a guest": lambda: a.times(f"nc {PEER} 5002 < /dev/null > /dev/null"),
        }
        filtered = {what: [path() for _ in range(TIMES)] for what, path in paths.items()}
        subprocess.run([*network, "nft", "-f", "-"], input=WITHOUT, text=True, check=True, env=space.environment())
        subprocess.run([*uplink, "nft", "flush", "ruleset"], check=True, env=space.environment())
        subprocess.run(
            [*uplink, "ip", "route", "replace", "100.64.0.0/31", "dev", _veth(uplink)],
            check=True,
            env=space.environment(),
        )
        plain = {what: [path() for _ in range(TIMES)] for what, path in paths.items()}
    finally:
        peer.kill()
        peer.wait()
    for what in paths:
        ours, bare = (8 * 1.048576 * MEBIBYTES / statistics.median(times[what]) for times in (filtered, plain))
        yield {
            "what": what,
            "Mbit_s": round(ours),
            "without_filter_Mbit_s": round(bare),
            "ratio": round(ours / bare, 2),
            "of": TIMES,
        }


def _pull(a: _Shell, b: _Shell, address: str) -> float:
    """Guest `a` takes a file from guest `b`'s web server."""
    b.run(f"[ -e /tmp/f ] || {{ truncate -s {MEBIBYTES}M /tmp/f; httpd -p 5001 -h /tmp; }}")
    began = time.monotonic()
    came = a.run(f"wget -q -O - http://{address}:5001/f | wc -c")
    took = time.monotonic() - began
    if str(MEBIBYTES << 20) not in came:
        raise RuntimeError(f"not all of {MEBIBYTES} MiB came: {came}")
    return took


class _Shell:
    """The root shell on a machine's console."""

    def __init__(self, client: Client, name: str) -> None:
        self._console = client.console(name)
        self._number = 0
        end = time.monotonic() + 60
        while not self._answers() and time.monotonic() < end:
            pass

    def _answers(self) -> bool:
        """What is typed before the guest's shell listens is lost."""
        try:
            return bool(self.run("true", 2.0))
        except TimeoutError:
            return False

    def run(self, command: str, seconds: float = 120.0) -> str:
        from hansa.sdk.errors import TimedOut

        self._number += 1
        mark = f"mark{self._number}x"
        self._console.write(f"{command}; echo {mark[:3]}''{mark[3:]}\n".encode())
        seen, end = b"", time.monotonic() + seconds
        while mark.encode() not in seen:
            if time.monotonic() > end:
                raise TimeoutError(command)
            try:
                seen += self._console.read(timeout_s=1.0)
            except TimedOut:
                continue
        return seen.decode(errors="replace")

    def times(self, command: str) -> float:
        began = time.monotonic()
        self.run(command)
        return time.monotonic() - began


def _peer(uplink: list[str]) -> subprocess.Popen[bytes]:
    """A server beyond the uplink: takes everything on 5001, gives as much on 5002."""
    code = f"""
import socket, threading
def serve(port, work):
    s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(("{PEER}", port)); s.listen()
    while True:
        c, _ = s.accept(); threading.Thread(target=work, args=(c,), daemon=True).start()
def take(c):
    while c.recv(1 << 20): pass
    c.close()
def give(c):
    c.sendall(bytes({MEBIBYTES} << 20)); c.close()
import time
while True:
    try:
        threading.Thread(target=serve, args=(5001, take), daemon=True).start(); serve(5002, give)
    except OSError:
        time.sleep(0.05)
"""
    peer = subprocess.Popen([*uplink, "unshare", "--net", "--", sys.executable, "-c", code], env=space.environment())
    ours = space.inode_of(os.getpid())
    end = time.monotonic() + 5
    before = space.inode_of(int(uplink[2]))
    while space.inode_of(peer.pid) in (ours, before) and time.monotonic() < end:
        time.sleep(0.02)
    for words in (
        [*uplink, "ip", "link", "add", "peer0", "type", "veth", "peer", "name", "eth0", "netns", str(peer.pid)],
        [*uplink, "ip", "addr", "add", "198.51.100.254/24", "dev", "peer0"], [*uplink, "ip", "link", "set", "peer0", "up"],
        [*_into(uplink, peer.pid), "ip", "addr", "add", f"{PEER}/24", "dev", "eth0"],
        [*_into(uplink, peer.pid), "ip", "link", "set", "eth0", "up"],
        [*_into(uplink, peer.pid), "ip", "route", "add", "default", "via", "198.51.100.254"],
    ):  # fmt: skip
        subprocess.run(words, check=True, env=space.environment())
    return peer


def _into(uplink: list[str], pid: int) -> list[str]:
    return [*uplink[:2], str(pid), *uplink[3:]]


def _veth(uplink: list[str]) -> str:
    listing = subprocess.run(
        [*uplink, "ip", "-j", "link"], capture_output=True, text=True, check=True, env=space.environment()
    )
    return next(link["ifname"] for link in json.loads(listing.stdout) if link["ifname"].startswith("v"))
