"""Private networks by the kernel: a namespace each, a tap a machine, nftables between them.

Runs inside the uplink's namespace, as root of it. What is kept in memory can be found again or made again:
the namespaces are found by their holders' marks, everything in them is written anew and may be repeated.
The filter stands before a link is up, and what a narrower filter would not let begin is ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import signal
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from hansa.engines.network import interfaces, permit, ruleset, space
from hansa.engines.network.interfaces import NETWORKS_MAX, Transit
from hansa.engines.network.naming import EXTERNAL, TUNNEL, network_link, port_link
from hansa.engines.network.ruleset import Uplink
from hansa.engines.network.services import Services, Upstream
from hansa.engines.network.space import Holder
from hansa.engines.network.wire import Message
from hansa.engines.ports import HostNetwork, Port
from hansa.errors import Retry

DEAD_ONE_BY_ONE_MAX = 64  # more connections than that are ended a port at a time

_NETWORK_SYSCTLS = {
    "net.ipv4.ip_forward": "1",
    "net.ipv6.conf.all.forwarding": "1",
    "net.ipv4.conf.all.send_redirects": "0",
    "net.ipv4.conf.default.send_redirects": "0",
    "net.ipv4.conf.all.rp_filter": "0",
    "net.ipv4.conf.default.rp_filter": "0",
    "net.ipv4.conf.default.accept_redirects": "0",
    "net.ipv6.conf.default.accept_ra": "0",
    "net.ipv6.conf.default.accept_dad": "0",
    "net.ipv6.conf.all.accept_redirects": "0",
    "net.ipv6.conf.default.accept_redirects": "0",
}


@dataclass(slots=True)
class _Network:
    """One network as it is: what was applied, and which links are in place as which port wants them."""

    holder: Holder
    transit: Transit
    services: Services
    applied: HostNetwork | None = None
    rules: str = ""
    ports: dict[str, Port] = field(default_factory=dict)
    links: dict[str, int] = field(default_factory=dict)  # of taps: name -> index
    publics: dict[str, str] = field(default_factory=dict)  # public address -> uid of its machine
    neighbours: tuple[object, ...] | None = None


class KernelNetworks:
    """`marks`: what the marks of our holders begin with. `folder`: for small files that outlive us.

    `here`: this host's address in the underlay, empty when it has no tunnels.
    """

    routes_publics = True

    def __init__(self, marks: str, folder: Path, upstream: Upstream, *, here: str = "") -> None:
        self._marks, self._folder, self._upstream, self._here = marks, folder, upstream, here
        self._networks: dict[str, _Network] = {}
        self._uplink = Uplink()
        self._uplink_rules = ""

    async def begin(self) -> None:
        """Find what an earlier process of ours left, and shut the uplink before anything passes."""
        space.set_sysctls({k: v for k, v in _NETWORK_SYSCTLS.items() if "accept_ra" not in k})
        await space.run(None, "ip", "-batch", "-", given="link set lo up\n")
        await self._write_uplink()
        links = await self._links(None)
        for mark, pid in space.marked(f"{self._marks}/network/").items():
            uid = mark.rpartition("/")[2]
            if network_link(uid) not in links:  # it never got its way out: made anew
                with contextlib.suppress(OSError):
                    Holder.of(pid).end()
                continue
            self._keep(uid, await self._found(uid, Holder.of(pid)))

    async def apply(self, wanted: HostNetwork) -> None:
        """Raises Retry. What was begun is finished by the next call."""
        network = await self._network(wanted)
        await self._write_rules(network, wanted)
        await self._place_ports(network, wanted)
        await self._place_tunnels(network, wanted)
        await self._place_publics(network, wanted)
        network.applied = wanted
        network.services.serve(wanted, network.links)
        await self._end_dead(network, wanted)

    async def remove(self, uid: str) -> None:
        network = self._drop(uid)
        if network is not None:
            await space.run(None, "ip", "-force", "-batch", "-", given=f"link del {network_link(uid)}\n", check=False)
            network.holder.end()
            self._inode_file(uid).unlink(missing_ok=True)
            await self._write_uplink()

    def applied(self) -> dict[str, HostNetwork]:
        return {uid: network.applied for uid, network in self._networks.items() if network.applied is not None}

    def plug(self, uid: str, machine: str) -> tuple[Message, list[int]]:
        """Descriptors of the machine's tap and of its network's namespace, and who holds that."""
        network = self._placed(uid, machine)
        try:
            with space.inside(network.holder):
                tap = space.open_tap(port_link(machine))
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise Retry("another process holds the machine's network card", after_s=0.5) from error
            raise Retry(f"the machine's network card cannot be opened: {error.strerror}") from error
        namespace = os.open(f"/proc/{network.holder.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        return {"holder": network.holder.pid}, [tap, namespace]

    async def dial(self, uid: str, address: str, port: int, limit_s: float) -> socket.socket:
        network = self._networks.get(uid)
        if network is None:
            raise Retry("the network is not on this host")
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with space.inside(network.holder):
            dialled = socket.socket(family, socket.SOCK_STREAM)
        dialled.setblocking(False)
        try:
            async with asyncio.timeout(limit_s):
                await asyncio.get_running_loop().sock_connect(dialled, (address, port))
        except (OSError, TimeoutError) as error:
            dialled.close()
            raise Retry(f"nothing answers at {address} port {port}") from error
        return dialled

    async def idle(self) -> bool:
        """Does no machine hold its card any more?"""
        for network in self._networks.values():
            listing = json.loads(await space.run(network.holder, "ip", "-j", "link"))
            if any(link["ifname"].startswith("t") and "LOWER_UP" in link["flags"] for link in listing):
                return False
        return True

    async def close(self) -> None:
        """Take everything down."""
        for uid in list(self._networks):
            await self.remove(uid)

    async def know_host(self, addresses: Iterable[str], allowed: Iterable[str]) -> None:
        """Addresses of the host itself: no guest reaches them."""
        fresh = Uplink(self._uplink.publics, tuple(sorted(addresses)), tuple(sorted(allowed)))
        if fresh != self._uplink:
            self._uplink = fresh
            await self._write_uplink()

    # -- the namespace ----------------------------------------------------------------------

    async def _network(self, wanted: HostNetwork) -> _Network:
        network = self._networks.get(wanted.uid)
        if network is None:
            network = await self._make(wanted.uid)
            self._keep(wanted.uid, network)
        if network.applied is None or (network.applied.blocks, network.applied.ranges) != (
            wanted.blocks,
            wanted.ranges,
        ):
            lines = interfaces.base(wanted, network.transit, have=True)
            await space.run(network.holder, "ip", "-batch", "-", given=_text(lines))
        return network

    def _keep(self, uid: str, network: _Network) -> None:
        self._networks[uid] = network
        asyncio.get_running_loop().add_reader(network.holder.handle, self._lost, uid)

    def _drop(self, uid: str) -> _Network | None:
        network = self._networks.pop(uid, None)
        if network is not None:
            asyncio.get_running_loop().remove_reader(network.holder.handle)
            network.services.close()
        return network

    def _lost(self, uid: str) -> None:
        """Its holder died: what ran in it is cut off for good. It is made anew when it is wanted again."""
        if (network := self._drop(uid)) is not None:
            network.holder.end()
            self._end_orphans(uid)

    async def _make(self, uid: str) -> _Network:
        self._end_orphans(uid)
        taken = {network.transit.index for network in self._networks.values()}
        index = next((i for i in range(NETWORKS_MAX) if i not in taken), None)
        if index is None:
            raise Retry(f"this host holds {NETWORKS_MAX} networks, the most it may")
        holder = space.hold(f"{self._marks}/network/{uid}")
        self._inode_file(uid).write_text(str(holder.inode))
        network = _Network(holder, Transit(index), self._services(uid, holder))
        link = network_link(uid)
        await space.run(None, "ip", "-force", "-batch", "-", given=f"link del {link}\n", check=False)
        lines = [f"link add {link} type veth peer name {EXTERNAL} netns {holder.pid}"]
        await space.run(None, "ip", "-batch", "-", given=_text([*lines, *interfaces.uplink_side(uid, network.transit)]))
        with space.inside(holder):
            space.set_sysctls(_NETWORK_SYSCTLS)
        return network

    async def _found(self, uid: str, holder: Holder) -> _Network:
        """A network of an earlier process: nothing is known of its ports but that their links are there."""
        addresses = json.loads(await space.run(None, "ip", "-j", "-4", "address", "show", "dev", network_link(uid)))
        local = next((a["local"] for link in addresses for a in link.get("addr_info", ())), None)
        taken = {network.transit.index for network in self._networks.values()}
        index = next(
            i for i in range(NETWORKS_MAX) if Transit(i).uplink_v4 == local or local is None and i not in taken
        )
        return _Network(holder, Transit(index), self._services(uid, holder))

    def _services(self, uid: str, holder: Holder) -> Services:
        with space.inside(holder):
            return Services(uid, self._upstream)

    def _end_orphans(self, uid: str) -> None:
        """Guests of a namespace whose holder is gone: they are cut off for good, and are started again."""
        with contextlib.suppress(OSError, ValueError):
            for pid in space.inside_of(int(self._inode_file(uid).read_text())):
                os.kill(pid, signal.SIGKILL)

    def _inode_file(self, uid: str) -> Path:
        return self._folder / f"{uid}.namespace"

    def _placed(self, uid: str, machine: str) -> _Network:
        network = self._networks.get(uid)
        if network is None or network.applied is None or machine not in network.ports:
            raise Retry("the machine is not plugged into its network yet", after_s=0.2)
        return network

    # -- the filter -------------------------------------------------------------------------

    async def _write_rules(self, network: _Network, wanted: HostNetwork) -> None:
        rules = ruleset.network_rules(wanted)
        if rules != network.rules:
            network.rules = ""
            await space.run(network.holder, "nft", "-f", "-", given=rules)
            network.rules = rules

    async def _write_uplink(self) -> None:
        publics = tuple(sorted(address for network in self._networks.values() for address in network.publics))
        self._uplink = Uplink(publics, self._uplink.host, self._uplink.allowed)
        rules = ruleset.uplink_rules(self._uplink)
        if rules != self._uplink_rules:
            await space.run(None, "nft", "-f", "-", given=rules)
            self._uplink_rules = rules

    async def _end_dead(self, network: _Network, wanted: HostNetwork) -> None:
        """End what is open and what the rules would not let begin any more."""
        listing = await space.run(network.holder, "conntrack", "-L", "-f", "ipv4", check=False)
        listing += await space.run(network.holder, "conntrack", "-L", "-f", "ipv6", check=False)
        dead = permit.dead(wanted, permit.connections(listing))
        if len(dead) > DEAD_ONE_BY_ONE_MAX:
            for address in sorted({end for it in dead for end in (it.source, it.answered_from)}):
                for side in ("-s", "-r"):
                    await space.run(network.holder, "conntrack", "-D", side, address, check=False)
            return
        for it in dead:
            family = ["-f", "ipv6"] if ":" in it.source else []
            await space.run(network.holder, "conntrack", "-D", *family, *it.words, check=False)

    # -- links ------------------------------------------------------------------------------

    async def _place_ports(self, network: _Network, wanted: HostNetwork) -> None:
        links = await self._links(network.holder)
        ports = {port_link(port.uid): port for port in wanted.ports}
        unwanted = [name for name in links if name.startswith("t") and name not in ports]
        if unwanted:
            gone = _text(f"link del {name}" for name in unwanted)
            await space.run(network.holder, "ip", "-force", "-batch", "-", given=gone, check=False)
            network.ports = {uid: port for uid, port in network.ports.items() if port_link(uid) in ports}
        if missing := [name for name in ports if name not in links]:
            self._make_taps(network, missing)
        changed = [p for name, p in ports.items() if name in missing or not _alike(network.ports.get(p.uid), p)]
        if changed:
            await self._write_ports(network, wanted, changed, forget=[p for p in changed if port_link(p.uid) in links])
        network.ports = {port.uid: port for port in wanted.ports}
        if missing or not network.links:
            links = await self._links(network.holder)
        network.links = {name: index for name, index in links.items() if name in ports}

    def _make_taps(self, network: _Network, names: list[str]) -> None:
        try:
            with space.inside(network.holder):
                for name in names:
                    space.make_tap(name)
        except OSError as error:
            raise Retry(f"no tap device could be made: {error.strerror}") from error

    async def _write_ports(
        self, network: _Network, wanted: HostNetwork, ports: list[Port], *, forget: list[Port]
    ) -> None:
        if forget:
            await _forget(network.holder, (port_link(port.uid) for port in forget))
        lines = [line for port in ports for line in interfaces.port_lines(port, wanted.ranges)]
        first = [line for line in lines if line.startswith("link set") and not line.endswith(" up")]
        await space.run(network.holder, "ip", "-batch", "-", given=_text(first))
        with space.inside(network.holder):
            for port in ports:
                link = port_link(port.uid)
                space.set_sysctls({
                    f"net.ipv4.conf.{link}.proxy_arp": "1", f"net.ipv4.neigh.{link}.proxy_delay": "0",
                    f"net.ipv4.conf.{link}.send_redirects": "0", f"net.ipv6.conf.{link}.accept_ra": "0",
                })  # fmt: skip
        await space.run(network.holder, "ip", "-batch", "-", given=_text(lines))

    async def _place_tunnels(self, network: _Network, wanted: HostNetwork) -> None:
        if not self._here or wanted.neighbours == network.neighbours:
            return
        if not wanted.neighbours and network.neighbours is None:
            return
        if TUNNEL not in await self._links(network.holder):
            lines = [
                interfaces.tunnel_device(wanted.tunnel, self._here),
                f"link set {TUNNEL} netns {network.holder.pid}",
            ]
            await space.run(None, "ip", "-batch", "-", given=_text(lines))
        await _forget(network.holder, [TUNNEL])
        lines = interfaces.tunnel_lines(wanted.neighbours, self._here)
        await space.run(network.holder, "ip", "-batch", "-", given=_text(lines))
        entries = interfaces.tunnel_entries(wanted.neighbours)
        await space.run(network.holder, "bridge", "-batch", "-", given=_text(entries))
        network.neighbours = wanted.neighbours

    async def _place_publics(self, network: _Network, wanted: HostNetwork) -> None:
        """Public addresses are routed to their network, which translates them; one that moves is routed anew."""
        publics = {port.public_ipv4: port.uid for port in wanted.ports if port.public_ipv4 and port.ipv4}
        link = network_link(wanted.uid)
        gone = [f"route del {address}/32 dev {link}" for address in network.publics if address not in publics]
        if gone:
            await space.run(None, "ip", "-force", "-batch", "-", given=_text(gone), check=False)
        via = network.transit.network_v4
        if set(publics) - set(network.publics) or network.applied is None:
            for other in self._networks.values():
                if other is not network:
                    other.publics = {a: uid for a, uid in other.publics.items() if a not in publics}
            lines = [f"route replace {address}/32 via {via} dev {link}" for address in sorted(publics)]
            await space.run(None, "ip", "-batch", "-", given=_text(lines))
        network.publics = publics
        await self._write_uplink()

    async def _links(self, holder: Holder | None) -> dict[str, int]:
        return {
            link["ifname"]: link["ifindex"] for link in json.loads(await space.run(holder, "ip", "-j", "link")) if link
        }


def _alike(old: Port | None, new: Port) -> bool:
    """Does the link need nothing done? Groups and names are no matter of links."""
    return old is not None and (old.mac, old.ipv4, old.ipv6) == (new.mac, new.ipv4, new.ipv6)


async def _forget(holder: Holder, links: Iterable[str]) -> None:
    """Drop whatever routes and neighbours these links had."""
    links = list(links)
    routes = _text(f"route flush dev {link} proto boot" for link in links)
    neighbours = _text(f"neigh flush dev {link} nud permanent" for link in links)
    await space.run(holder, "ip", "-force", "-batch", "-", given=routes + neighbours, check=False)
    await space.run(holder, "ip", "-6", "-force", "-batch", "-", given=routes, check=False)


def _text(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
