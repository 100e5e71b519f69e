"""Does this host filter? Three ports of a throw-away network, and frames sent by hand between them.

What is proved: an open port is open and another closed, a false sender's frames are dropped, a machine without a group
is neither reached nor heard, and a rule that goes closes its port. By the same code that serves guests, in a process of its own
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
from collections.abc import Sequence
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

ARRIVES_S, ROUND_S, ROUNDS = 4.0, 0.05, 3  # a busy host is slow, and may lose or overtake: all is sent several times
_OPEN, _FALSE, _ALONE, _CLOSED = range(7000, 7004)  # ports, each for one kind of sender; all but the last open
_A = Port("aaaaaaaa-0000-4000-8000-000000000001", 1, "a", "02:00:00:00:00:0a", "10.0.0.10", "2001:db8::a")
_B = Port("bbbbbbbb-0000-4000-8000-000000000002", 1, "b", "02:00:00:00:00:0b", "10.0.0.11", "2001:db8::b")
_C = Port("cccccccc-0000-4000-8000-000000000003", 1, "c", "02:00:00:00:00:0c", "10.0.0.12", "2001:db8::c")
_NETWORK = HostNetwork(
    "00000000-0000-4000-8000-000000000000", 1, ("10.0.0.0/16", "2001:db8::/48"),
    (Range("10.0.0.0/24", "10.0.0.1", "2001:db8::/64", "2001:db8::1"),),
)  # fmt: skip
_VNET_HEAD = b"\0" * 10  # before each frame on a tap


class _Wire:
    """One port's end: what a guest would have."""

    def __init__(self, descriptor: int, head: bytes, target: str = "") -> None:
        self._descriptor, self._head, self._target = descriptor, head, target

    def send(self, frame: bytes) -> None:
        if self._target:
            socket.socket(fileno=os.dup(self._descriptor)).sendto(frame, self._target)
        else:
            os.write(self._descriptor, self._head + frame)

    def seen(self) -> set[int]:
        """The target ports of what arrived since the last call."""
        found: set[int] = set()
        while select.select([self._descriptor], [], [], 0)[0]:
            packet = frames.parse(os.read(self._descriptor, 65_600)[len(self._head) :])
            if packet is not None and packet.target_port is not None:
                found.add(packet.target_port)
        return found


async def prove(networks: KernelNetworks | SwitchedNetworks) -> str:
    """Empty when this host filters as promised, else what it did instead."""
    try:
        return await _prove(networks)
    finally:
        await networks.close()


async def _prove(networks: KernelNetworks | SwitchedNetworks) -> str:
    """What must not arrive is sent with what must: where that has come several times, the rest is kept away."""
    await networks.begin()
    await networks.apply(_network(1, (_A, _B), *map(_tcp, (_OPEN, _FALSE, _ALONE))))
    a, b, c = (_plugged(networks, port) for port in (_A, _B, _C))
    for family in ("IPv4", "IPv6"):
        sent = [
            (a, _first_packet(_A, _C, family, _OPEN)),
            (a, _first_packet(_A, _B, family, _CLOSED)),
            (a, _first_packet(replace(_A, ipv4="10.0.0.99", ipv6="2001:db8::99"), _B, family, _FALSE)),
            (a, _first_packet(replace(_A, mac="02:00:00:00:00:66"), _B, family, _FALSE)),
            (c, _first_packet(_C, _B, family, _ALONE)),
            (a, _first_packet(_A, _B, family, _OPEN)),
        ]
        if trouble := _too_much(await _arrivals(sent, b, _OPEN)):
            return f"{trouble} over {family}"
        if c.seen():
            return f"a machine without a security group was reached over {family}"
    await networks.apply(_network(2, (_A, _B), _tcp(_FALSE)))
    sent = [(a, _first_packet(_A, _B, "IPv4", port)) for port in (_OPEN, _FALSE)]
    return "a port that was closed stayed open" if _OPEN in await _arrivals(sent, b, _FALSE) else ""


async def _arrivals(sent: Sequence[tuple[_Wire, bytes]], at: _Wire, mark: int) -> set[int]:
    """All is sent, round by round, until something to `mark` came in ROUNDS of them: the ports of what came."""
    found: set[int] = set()
    rounds, end = 0, time.monotonic() + ARRIVES_S
    while rounds < ROUNDS and time.monotonic() < end:
        for wire, frame in sent:
            wire.send(frame)
        came: set[int] = set()
        late = time.monotonic() + ROUND_S
        while mark not in came and time.monotonic() < late:
            await asyncio.sleep(0.005)
            came |= at.seen()
        found |= came
        rounds += mark in came
    return found


def _too_much(arrived: set[int]) -> str:
    if _OPEN not in arrived:
        return "an open port was not reached"
    if _CLOSED in arrived:
        return "a closed port was reached"
    if _FALSE in arrived:
        return "a false sender was let through"
    return "a machine without a security group was heard" if _ALONE in arrived else ""


def _plugged(networks: KernelNetworks | SwitchedNetworks, port: Port) -> _Wire:
    told, descriptors = networks.plug(_NETWORK.uid, port.uid)
    if descriptors:
        os.close(descriptors[1])
        return _Wire(descriptors[0], _VNET_HEAD)
    end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    end.bind(str(told["local"]))
    return _Wire(end.detach(), b"", str(told["remote"]))


def _network(revision: int, members: tuple[Port, ...], *rules: Rule) -> HostNetwork:
    """`members` are in one group with these rules, and may send anything; the third port is in none."""
    group = Group("g", revision, (*rules, Rule(Direction.EGRESS, "all")))
    ports = tuple(replace(p, groups=(group.uid,)) if p in members else p for p in (_A, _B, _C))
    return replace(_NETWORK, revision=revision, ports=ports, groups=(group,))


def _tcp(port: int) -> Rule:
    return Rule(Direction.INGRESS, "tcp", (port, port))


def _first_packet(source: Port, target: Port, family: str, port: int) -> bytes:
    """The frame that would open a TCP connection, as its guest sends it to its router."""
    ends = (source.ipv4, target.ipv4) if family == "IPv4" else (source.ipv6, target.ipv6)
    way = Way(packed_mac(source.mac), packed_mac(ROUTER_MAC), *(packed_address(end or "") for end in ends))
    start = struct.pack("!IIBBHHH", 1, 0, 5 << 4, 0x02, 64_240, 0, 0)
    return frames.tcp(way, 40_000, port, start)


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
