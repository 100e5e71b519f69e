"""Does this host filter? Two ports of a throw-away network, and frames sent by hand from one to the other.

What is proved: with no group nothing arrives, with a group an open port opens and another stays closed, a false
sender's frames are dropped, and a closed rule closes. By the same code that serves guests, in a process of its own
and in namespaces that go with it, so nothing of the host is touched:

    unshare --net python -m hansa.engines.network.probe kernel
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from hansa.engines.network import frames, space
from hansa.engines.network.frames import Way, packed_address, packed_mac
from hansa.engines.network.kernel import KernelNetworks
from hansa.engines.network.naming import ROUTER_MAC
from hansa.engines.network.services import Upstream
from hansa.engines.network.switch import SwitchedNetworks
from hansa.engines.ports import Direction, Group, HostNetwork, Port, Range, Rule
from hansa.errors import HansaError, Retry

ARRIVES_S, STAYS_AWAY_S = 2.0, 0.15
_OPEN, _CLOSED = 7000, 7001
_A = Port("aaaaaaaa-0000-4000-8000-000000000001", 1, "a", "02:00:00:00:00:0a", "10.0.0.10", "2001:db8::a")
_B = Port("bbbbbbbb-0000-4000-8000-000000000002", 1, "b", "02:00:00:00:00:0b", "10.0.0.11", "2001:db8::b")
_NETWORK = HostNetwork(
    "00000000-0000-4000-8000-000000000000", 1, ("10.0.0.0/16", "2001:db8::/48"),
    (Range("10.0.0.0/24", "10.0.0.1", "2001:db8::/64", "2001:db8::1"),), (_A, _B),
)  # fmt: skip
_VNET_HEAD = b"\0" * 10  # before each frame on a tap

Take = Callable[[], bytes | None]


class _Wire:
    """One port's end: what a guest would have."""

    def __init__(self, descriptor: int, head: bytes, target: str = "") -> None:
        self._descriptor, self._head, self._target = descriptor, head, target

    def send(self, frame: bytes) -> None:
        if self._target:
            socket.socket(fileno=os.dup(self._descriptor)).sendto(frame, self._target)
        else:
            os.write(self._descriptor, self._head + frame)

    async def sees(self, port: int, limit_s: float) -> bool:
        """Does a first packet to `port` arrive within the limit?"""
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            await asyncio.sleep(0.01)
            while select.select([self._descriptor], [], [], 0)[0]:
                packet = frames.parse(os.read(self._descriptor, 65_600)[len(self._head) :])
                if packet is not None and packet.target_port == port:
                    return True
        return False


async def prove(networks: KernelNetworks | SwitchedNetworks) -> str:
    """Empty when this host filters as promised, else what it did instead."""
    try:
        return await _prove(networks)
    finally:
        await networks.close()


async def _prove(networks: KernelNetworks | SwitchedNetworks) -> str:
    await networks.begin()
    await networks.apply(_NETWORK)
    a, b = _plugged(networks, _A), _plugged(networks, _B)
    for source, target in ((_A.ipv4, _B.ipv4), (_A.ipv6, _B.ipv6)):
        a.send(_first_packet(source or "", target or "", _OPEN))
    if await b.sees(_OPEN, STAYS_AWAY_S):
        return "a machine without a security group was reached"
    await networks.apply(_with_rules(2, _tcp(Direction.INGRESS, _OPEN), Rule(Direction.EGRESS, "all")))
    for source, target in ((_A.ipv4, _B.ipv4), (_A.ipv6, _B.ipv6)):
        a.send(_first_packet(source or "", target or "", _OPEN))
        if not await b.sees(_OPEN, ARRIVES_S):
            return f"an open port was not reached over {'IPv6' if ':' in (source or '') else 'IPv4'}"
        a.send(_first_packet(source or "", target or "", _CLOSED))
    if await b.sees(_CLOSED, STAYS_AWAY_S):
        return "a closed port was reached"
    a.send(_first_packet("10.0.0.99", _B.ipv4 or "", _OPEN + 2))
    a.send(_first_packet(_A.ipv4 or "", _B.ipv4 or "", _OPEN, mac="02:00:00:00:00:66", source_port=40_001))
    if await b.sees(_OPEN, STAYS_AWAY_S):
        return "a false sender was let through"
    await networks.apply(_with_rules(3, Rule(Direction.EGRESS, "all")))
    a.send(_first_packet(_A.ipv4 or "", _B.ipv4 or "", _OPEN))
    if await b.sees(_OPEN, STAYS_AWAY_S):
        return "a port that was closed stayed open"
    return ""


def _plugged(networks: KernelNetworks | SwitchedNetworks, port: Port) -> _Wire:
    told, descriptors = networks.plug(_NETWORK.uid, port.uid)
    if descriptors:
        os.close(descriptors[1])
        return _Wire(descriptors[0], _VNET_HEAD)
    end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    end.bind(str(told["local"]))
    return _Wire(end.detach(), b"", str(told["remote"]))


def _with_rules(revision: int, *rules: Rule) -> HostNetwork:
    group = Group("g", revision, rules)
    ports = tuple(replace(port, groups=(group.uid,)) for port in (_A, _B))
    return replace(_NETWORK, revision=revision, ports=ports, groups=(group,))


def _tcp(direction: Direction, port: int) -> Rule:
    return Rule(direction, "tcp", (port, port))


def _first_packet(source: str, target: str, port: int, *, mac: str = _A.mac, source_port: int = 40_000) -> bytes:
    """The frame that would open a TCP connection, as the guest `_A` sends it to its router."""
    way = Way(packed_mac(mac), packed_mac(ROUTER_MAC), packed_address(source), packed_address(target))
    return frames.tcp(way, source_port, port, struct.pack("!IIBBHHH", 1, 0, 5 << 4, 0x02, 64_240, 0, 0))


async def _main(kind: str) -> str:
    marks = f"probe-{os.getpid()}"
    with tempfile.TemporaryDirectory(prefix="hansa-") as folder:
        if kind == "switch":
            return await prove(SwitchedNetworks(marks, Path(folder), Upstream()))
        try:
            return await prove(KernelNetworks(marks, Path(folder), Upstream()))
        finally:
            for pid in space.marked(marks).values():
                with contextlib.suppress(OSError):
                    space.Holder.of(pid).end()


def main(arguments: list[str]) -> int:
    """`kernel` or `switch`: prove it now, print the answer as JSON."""
    try:
        why = asyncio.run(_main(arguments[0]))
    except Retry as error:
        why = error.message
    except (HansaError, OSError) as error:
        why = f"it cannot be done: {error}"
    print(json.dumps({"healthy": not why, "message": why}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
