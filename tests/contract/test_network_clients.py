"""Real clients agree with what a network service answers: busybox's udhcpc, ISC's dhclient, the kernel, a DNS client.

Two namespaces and a cable between them. The host's end answers as a host with namespaces does, by sockets, and then
as the user-space switch does, by whole frames. The guest's end has nothing but its clients.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import json
import os
import select
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import dns.flags
import dns.message
import dns.query
import dns.rcode
import pytest

from hansa.engines.network import advertise, dhcp, dhcp6, frames
from hansa.engines.network import dns as names
from hansa.engines.network.frames import packed_address, packed_mac
from hansa.engines.network.lease import Lease
from hansa.engines.network.naming import ROUTER_MAC
from hansa.engines.ports import GUEST_ROUTER

T = TypeVar("T")
CLONE_NEWNET = 0x40000000
HOST, GUEST = f"hansa-{os.getpid()}-host", f"hansa-{os.getpid()}-guest"
LEASE = Lease(
    "02:00:00:00:00:05", "web", "10.0.0.5", 24, "10.0.0.1", "fd00:77::5", "fd00:77::1", ("10.0.0.1",), ("fd00:77::1",)
)
MANY = tuple(f"10.0.1.{last}" for last in range(1, 100))
NAMES = names.Names.of({"web": ("10.0.0.5", "fd00:77::5"), "many": MANY}, ("10.0.0.1", "fd00:77::1"))
SCRIPT = '#!/bin/sh\nenv > "{folder}/$(date +%s%N).${{reason:-$1}}"\n'


def enter(namespace: str) -> None:
    """This thread into a namespace, for the rest of its life."""
    with open(f"/run/netns/{namespace}", "rb") as file:
        library = ctypes.CDLL(None, use_errno=True)
        if library.setns(file.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {namespace}")


def inside(namespace: str, call: Callable[[], T]) -> T:
    with ThreadPoolExecutor(1, initializer=enter, initargs=(namespace,)) as thread:
        return thread.submit(call).result(timeout=20)


def run(*command: str, seconds: float = 20) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def in_guest(*command: str) -> str:
    return run("ip", "netns", "exec", GUEST, *command)


# -- the host's end -----------------------------------------------------------------------------


class Answering:
    """Answers in the host's namespace until it is stopped."""

    def __init__(self) -> None:
        self.ready, self.ended = threading.Event(), threading.Event()
        self.kinds: list[int] = []  # of DHCPv4 answers, as they were given

    def serve(self) -> None:
        with contextlib.ExitStack() as stack:
            answers = {stack.enter_context(each): call for each, call in self.sockets()}
            self.ready.set()
            while not self.ended.is_set():
                for each in select.select(list(answers), [], [], 0.1)[0]:
                    answers[each](each)

    def sockets(self) -> Iterator[tuple[socket.socket, Callable[[socket.socket], None]]]:
        raise NotImplementedError

    def dhcp_reply(self, request: bytes) -> dhcp.Reply | None:
        answer = dhcp.reply(request, LEASE)
        if answer:
            self.kinds.append(answer.payload[answer.payload.index(b"\x35\x01") + 2])
        return answer


def dns_reply(query: bytes, *, tcp: bool = False) -> bytes | None:
    """There is no resolver here."""
    answer = names.answer(query, NAMES, tcp=tcp)
    return names.servfail(query) if isinstance(answer, names.Forward) else answer


class BySockets(Answering):
    def sockets(self) -> Iterator[tuple[socket.socket, Callable[[socket.socket], None]]]:
        index = struct.pack("@I", socket.if_nametoindex("host0"))
        v4 = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        v4.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        v4.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"host0\0")
        v4.bind(("0.0.0.0", dhcp.SERVER_PORT))
        yield v4, self._dhcp
        v6 = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        v6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, packed_address(dhcp6.SERVERS) + index)
        v6.bind(("::", dhcp6.SERVER_PORT))
        yield v6, self._dhcp6
        raw = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"host0\0")
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, packed_address(advertise.ALL_ROUTERS) + index)
        yield raw, self._router
        for family, address in ((socket.AF_INET, "10.0.0.1"), (socket.AF_INET6, "fd00:77::1")):
            by_udp = socket.socket(family, socket.SOCK_DGRAM)
            by_udp.bind((address, names.PORT))
            yield by_udp, self._names
            by_tcp = socket.create_server((address, names.PORT), family=family)
            yield by_tcp, self._names_by_tcp

    def _dhcp(self, each: socket.socket) -> None:
        request, _ = each.recvfrom(2048)
        if answer := self.dhcp_reply(request):
            each.sendto(answer.payload, (answer.target, dhcp.CLIENT_PORT))

    def _dhcp6(self, each: socket.socket) -> None:
        request, sender = each.recvfrom(2048)
        if answer := dhcp6.reply(request, LEASE, ROUTER_MAC):
            each.sendto(answer, sender)

    def _router(self, each: socket.socket) -> None:
        message, _ = each.recvfrom(2048)
        if message[0] == advertise.ROUTER_SOLICITATION:
            each.sendto(advertise.advertisement(LEASE, ROUTER_MAC) or b"", (advertise.ALL_NODES, 0))

    def _names(self, each: socket.socket) -> None:
        query, sender = each.recvfrom(2048)
        if answer := dns_reply(query):
            each.sendto(answer, sender)

    def _names_by_tcp(self, each: socket.socket) -> None:
        connection, _ = each.accept()
        with connection, connection.makefile("rwb") as stream:
            connection.settimeout(5)
            query = stream.read(int.from_bytes(stream.read(2), "big"))
            answer = dns_reply(query, tcp=True) or b""
            stream.write(len(answer).to_bytes(2, "big") + answer)


class ByFrames(Answering):
    def sockets(self) -> Iterator[tuple[socket.socket, Callable[[socket.socket], None]]]:
        packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
        packets.bind(("host0", 0))
        yield packets, self._answer

    def _answer(self, each: socket.socket) -> None:
        frame, origin = each.recvfrom(2048)
        if origin[2] == socket.PACKET_OUTGOING:
            return
        if answer := self._frame(frame):
            each.send(answer)

    def _frame(self, frame: bytes) -> bytes | None:
        if asked := advertise.arp(frame):
            return advertise.arp_reply(frame, ROUTER_MAC) if asked.target == packed_address("10.0.0.1") else None
        if found := advertise.discovery(frame):
            if found.kind == advertise.ROUTER_SOLICITATION:
                return advertise.advertisement_frame(LEASE, ROUTER_MAC)
            known = map(packed_address, (GUEST_ROUTER, "fd00:77::1"))
            return advertise.neighbour_advertisement(found, ROUTER_MAC) if found.target in known else None
        packet = frames.parse(frame)
        if packet is None:
            return None
        if request := dhcp.dhcp_payload(frame):
            answer = self.dhcp_reply(request)
            return dhcp.frame(answer, LEASE, ROUTER_MAC) if answer else None
        if message := dhcp6.dhcp6_payload(frame):
            reply = dhcp6.reply(message, LEASE, ROUTER_MAC)
            return dhcp6.frame(reply, packet, ROUTER_MAC) if reply else None
        query = frames.udp_payload(frame, packet.family, names.PORT)
        response = dns_reply(query) if query else None
        way = frames.Way(packed_mac(ROUTER_MAC), packet.source_mac, packet.target, packet.source)
        return frames.udp(way, names.PORT, packet.source_port or 0, response) if response else None


# -- the cable ----------------------------------------------------------------------------------


@dataclass
class Link:
    """A guest on a cable, and where its clients write what they were told."""

    answering: Answering
    folder: Path

    def script(self) -> str:
        path = self.folder / "script"
        path.write_text(SCRIPT.format(folder=self.folder))
        path.chmod(0o755)
        return str(path)

    def reports(self, reason: str) -> dict[str, str]:
        """The variables that a client's script was last called with for `reason`."""
        found = sorted(self.folder.glob(f"*.{reason}"))
        assert found, sorted(path.name for path in self.folder.iterdir())
        return dict(line.split("=", 1) for line in found[-1].read_text().splitlines() if "=" in line)


@pytest.fixture(scope="module", params=[BySockets, ByFrames], ids=["sockets", "frames"])
def answering(request: Any) -> Iterator[Answering]:
    with contextlib.ExitStack() as stack:
        for namespace in (HOST, GUEST):
            made = subprocess.run(["ip", "netns", "add", namespace], capture_output=True, text=True, timeout=20)
            if made.returncode and any(word in made.stderr for word in ("not permitted", "denied")):
                pytest.skip(f"network namespaces are refused here: {made.stderr.strip()}")
            assert made.returncode == 0, made.stderr
            stack.callback(run, "ip", "netns", "del", namespace)
        lay_cable(with_addresses=request.param is BySockets)
        made_here: Answering = request.param()
        thread = stack.enter_context(ThreadPoolExecutor(1, initializer=enter, initargs=(HOST,)))
        serving = thread.submit(made_here.serve)
        stack.callback(serving.result, timeout=10)  # raises what went wrong in it
        stack.callback(made_here.ended.set)
        assert made_here.ready.wait(10)
        in_guest("ip", "link", "set", "guest0", "up")
        yield made_here


def lay_cable(*, with_addresses: bool) -> None:
    peer = ("peer", "name", "guest0", "address", LEASE.mac, "netns", GUEST)
    run("ip", "-n", HOST, "link", "add", "host0", "address", ROUTER_MAC, "type", "veth", *peer)
    run("ip", "-n", HOST, "link", "set", "host0", "addrgenmode", "none")
    in_guest("sysctl", "-qw", "net.ipv6.conf.guest0.accept_ra=2", "net.ipv6.conf.guest0.accept_dad=0")
    if with_addresses:
        run("ip", "-n", HOST, "addr", "add", "10.0.0.1/24", "dev", "host0")
        for address in (f"{GUEST_ROUTER}/64", "fd00:77::1/64"):
            run("ip", "-n", HOST, "addr", "add", address, "dev", "host0", "nodad")
    run("ip", "-n", HOST, "link", "set", "host0", "up")
    in_guest("ip", "link", "set", "lo", "up")


@pytest.fixture
def link(answering: Answering, tmp_path: Path) -> Iterator[Link]:
    yield Link(answering, tmp_path)
    in_guest("ip", "-4", "addr", "flush", "dev", "guest0")
    in_guest("ip", "-6", "addr", "flush", "dev", "guest0", "scope", "global")


def until(what: Callable[[], T], seconds: float = 15) -> T:
    """The first thing that is true of what `what` gives."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.1)
    return found


# -- the clients --------------------------------------------------------------------------------


def test_the_kernel_takes_the_router_and_its_mtu_but_no_prefix(link: Link) -> None:
    routes = until(lambda: json.loads(in_guest("ip", "-6", "-j", "route", "show", "default")))
    assert [(route["gateway"], route["dev"], route["protocol"]) for route in routes] == [("fe80::1", "guest0", "ra")]
    assert in_guest("cat", "/proc/sys/net/ipv6/conf/guest0/mtu").strip() == "1450"
    others = json.loads(in_guest("ip", "-6", "-j", "route", "show", "dev", "guest0"))
    assert {route["dst"] for route in others} <= {"default", "fe80::/64", "multicast"}
    addresses = json.loads(in_guest("ip", "-6", "-j", "addr", "show", "dev", "guest0"))[0]["addr_info"]
    assert [address["scope"] for address in addresses] == ["link"]


def test_udhcpc_takes_the_lease(link: Link) -> None:
    asked = ("-O", "staticroutes", "-O", "search", "-O", "mtu")
    in_guest("busybox", "udhcpc", "-i", "guest0", "-f", "-q", "-n", "-t", "5", "-T", "1", *asked, "-s", link.script())
    told = link.reports("bound")
    assert {key: told[key] for key in ("ip", "mask", "subnet", "router", "serverid", "dns", "mtu", "lease")} == {
        "ip": "10.0.0.5", "mask": "24", "subnet": "255.255.255.0", "router": "10.0.0.1", "serverid": "10.0.0.1",
        "dns": "10.0.0.1", "mtu": "1450", "lease": "86400",
    }  # fmt: skip
    assert (told["hostname"], told["domain"], told["search"].strip()) == ("web", "internal", "internal")
    assert told["staticroutes"].split() == ["0.0.0.0/0", "10.0.0.1"]


def test_a_clone_forgets_the_address_of_its_origin(link: Link) -> None:
    lease = 'lease { interface "guest0"; fixed-address 10.0.0.99; expire 5 2099/01/01 00:00:00; }\n'
    (link.folder / "leases").write_text(lease)
    del link.answering.kinds[:]
    with dhclient(link, "-4"):
        told = link.reports("BOUND")
    assert told["new_ip_address"] == "10.0.0.5"
    assert link.answering.kinds == [dhcp.Kind.NAK, dhcp.Kind.OFFER, dhcp.Kind.ACK]


def test_dhclient_takes_its_ipv6_address_and_gives_it_back(link: Link) -> None:
    with dhclient(link, "-6"):
        told = link.reports("BOUND6")
    assert told["new_ip6_address"] == "fd00:77::5"
    assert (told["new_dhcp6_name_servers"], told["new_dhcp6_domain_search"]) == ("fd00:77::1", "internal.")
    assert (told["new_preferred_life"], told["new_max_life"]) == ("86400", "86400")
    assert (told["new_renew"], told["new_rebind"]) == ("43200", "69120")
    assert link.reports("RELEASE6")["old_ip6_address"] == "fd00:77::5"


@contextlib.contextmanager
def dhclient(link: Link, family: str) -> Iterator[None]:
    """A client that has its lease; it is told to give it back and to end."""
    files = ("-lf", str(link.folder / "leases"), "-pf", str(link.folder / "pid"), "-cf", "/dev/null")
    common = ("dhclient", family, "-v", *files, "-sf", link.script())
    in_guest(*common, "-1", "guest0")
    try:
        yield
    finally:
        in_guest(*common, "-r", "guest0")


@pytest.mark.parametrize("server", ["10.0.0.1", "fd00:77::1"])
def test_names_are_found_by_both_families(link: Link, server: str) -> None:
    in_guest("ip", "addr", "add", "10.0.0.5/24", "dev", "guest0")
    in_guest("ip", "addr", "add", "fd00:77::5/128", "dev", "guest0", "nodad")
    until(lambda: json.loads(in_guest("ip", "-6", "-j", "route", "show", "default")))

    def ask(name: str, kind: str) -> tuple[dns.rcode.Rcode, set[str]]:
        response = dns.query.udp(dns.message.make_query(name, kind), server, timeout=5)
        return response.rcode(), {str(record) for rrset in response.answer for record in rrset}

    def all_of_them() -> list[tuple[dns.rcode.Rcode, set[str]]]:
        return [ask("web.internal", "A"), ask("web.internal", "AAAA"), ask("no.internal", "A"), ask("a.test.", "A")]

    wanted = [(0, {"10.0.0.5"}), (0, {"fd00:77::5"}), (3, set()), (3, set())]
    assert inside(GUEST, all_of_them) == wanted
    reverse = ipaddress.ip_address("fd00:77::5").reverse_pointer
    assert inside(GUEST, lambda: ask(reverse, "PTR")) == (0, {"web.internal."})
    assert inside(GUEST, lambda: ask("example.com", "A")) == (dns.rcode.SERVFAIL, set())
    assert "10.0.0.5" in in_guest("busybox", "nslookup", "-type=a", "web.internal", server)


def test_a_long_answer_is_asked_for_again_by_tcp(link: Link) -> None:
    in_guest("ip", "addr", "add", "10.0.0.5/24", "dev", "guest0")
    query = dns.message.make_query("many.internal", "A", use_edns=0, payload=1232)
    cut = inside(GUEST, lambda: dns.query.udp(query, "10.0.0.1", timeout=5))
    assert cut.flags & dns.flags.TC
    if isinstance(link.answering, ByFrames):
        return  # the switch speaks no TCP
    whole, by_tcp = inside(GUEST, lambda: dns.query.udp_with_fallback(query, "10.0.0.1", timeout=5))
    assert by_tcp
    assert {str(record) for rrset in whole.answer for record in rrset} == set(MANY)
