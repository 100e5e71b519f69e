"""Private networks of one cloud on this host: fills `NetworkEngine` by asking the network daemon.

The daemon and the processes that hold namespaces outlive us. A question that finds no daemon starts one and tells
it again what was wanted, so that whoever of them dies, the next call mends it. Nothing is started before the first
network is wanted, and nothing is left when the last one is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hansa.engines.network import space, way_out, wire
from hansa.engines.network.daemon import LOG, SOCKET
from hansa.engines.network.forwards import SSH
from hansa.engines.network.space import Holder
from hansa.engines.network.way_out import WayOut
from hansa.engines.network.wire import Message
from hansa.engines.ports import Held, HostNetwork, Link, NetworkHost, NetworkReport
from hansa.errors import Refused, Retry

NAMESPACES, USER_NAMESPACES, USERSPACE = "namespaces", "user-namespaces", "userspace"
MODES = (NAMESPACES, USER_NAMESPACES, USERSPACE)
ASK_LIMIT_S = 25.0
BEGIN_LIMIT_S = 10.0
PROBE_LIMIT_S = 10.0
PROBE_AGAIN_S = 30.0
HOST_ADDRESSES_S = 10.0
_PROGRAMS = {"ip": "iproute2", "nft": "nftables", "conntrack": "conntrack", "nsenter": "util-linux"}
_LOG_BYTES_MAX = 1 << 20


class LocalNetworks:
    """`folder`: short, for sockets. `mode` and `uplink`: forced, empty: what a probe finds, "none": no way out.

    `underlay`: this host's address between hosts, without it no tunnels. `allowed`: private networks outside
    that guests may reach nevertheless.
    """

    def __init__(
        self,
        folder: Path,
        *,
        cloud_id: str,
        mode: str = "",
        uplink: str = "",
        underlay: str = "",
        allowed: Sequence[str] = (),
    ) -> None:
        self._folder, self._marks = folder, cloud_id
        self._forced, self._uplink, self._underlay, self._allowed = mode, uplink, underlay, tuple(allowed)
        self._mode = ""
        self._healthy: NetworkHost | None = None
        self._looked_at = -PROBE_AGAIN_S
        self._wanted: dict[str, HostNetwork] = {}
        self._ports: dict[str, int] = {}  # of the loopback, by machine: kept over restarts of the daemon
        self._children: set[int] = set()  # of ours that may have ended: their remains are taken away
        self._beginning, self._probing = asyncio.Lock(), asyncio.Lock()
        self._addresses: tuple[float, tuple[str, ...]] = (-HOST_ADDRESSES_S, ())

    # -- the port ---------------------------------------------------------------------------

    async def host(self) -> NetworkHost:
        """What was proved on this host; proved again after a while when it was not what it should be."""
        async with self._probing:
            late = time.monotonic() - self._looked_at > PROBE_AGAIN_S
            if self._healthy is None or (not self._healthy.healthy and late):
                self._healthy = await self._probe()
                self._mode = self._healthy.mode
                self._looked_at = time.monotonic()
            return self._healthy

    async def probe_again(self) -> NetworkHost:
        self._healthy = None
        return await self.host()

    async def apply(self, wanted: HostNetwork) -> NetworkReport:
        self._wanted[wanted.uid] = wanted
        answer, _ = await self._ask(await self._apply_message(wanted))
        return await self._forwarded(wire.report_of(answer["report"]), wanted)

    async def observe(self, uid: str) -> NetworkReport | None:
        if not self._is_running():
            return None
        answer, _ = await self._ask({"ask": "observe", "uid": uid}, begin=False)
        return wire.report_of(answer["report"]) if answer.get("report") else None

    async def plug(self, network: str, machine: str) -> Link:
        answer, descriptors = await self._ask({"ask": "plug", "uid": network, "machine": machine})
        if not descriptors:
            return Link(local=answer["local"], remote=answer["remote"])
        holder = answer["holder"] if self._mode == USER_NAMESPACES else 0
        return Link(tap=descriptors[0], namespace=descriptors[1], holder=holder)

    async def dial(self, network: str, address: str, port: int) -> socket.socket:
        _, descriptors = await self._ask({"ask": "dial", "uid": network, "address": address, "port": port})
        return socket.socket(fileno=descriptors[0])

    async def remove(self, uid: str) -> bool:
        self._wanted.pop(uid, None)
        if self._is_running():
            await self._ask({"ask": "remove", "uid": uid}, begin=False)
        return True

    async def held(self) -> Sequence[Held]:
        self._children -= {pid for pid in self._children if space.ended(pid)}
        if not self._is_running():
            return []
        answer, _ = await self._ask({"ask": "held"}, begin=False)
        return [Held(uid, revision) for uid, revision in sorted(answer.get("held", {}).items())]

    # -- asking -----------------------------------------------------------------------------

    async def _ask(
        self, message: Message, descriptors: Sequence[int] = (), *, begin: bool = True
    ) -> tuple[Message, list[int]]:
        """The daemon's answer; with `begin` one is started where none listens. Raises Retry."""
        try:
            answer, given = await asyncio.to_thread(self._talk, message, descriptors)
        except (FileNotFoundError, ConnectionError) as error:  # there is none, or it is just ending
            if not begin:
                return {}, []
            await self._begin()
            try:
                answer, given = await asyncio.to_thread(self._talk, message, descriptors)
            except OSError:
                raise Retry("the network daemon does not answer") from error
        except OSError as error:
            raise Retry("the network daemon does not answer", detail=repr(error)) from error
        if "retry" in answer:
            raise Retry(answer["retry"], after_s=answer.get("after"), detail=answer.get("detail", ""))
        return answer, given

    def _talk(self, message: Message, descriptors: Sequence[int]) -> tuple[Message, list[int]]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
            stream.settimeout(ASK_LIMIT_S)
            stream.connect(str(self._folder / SOCKET))
            wire.send(stream, message, descriptors)
            return wire.receive(stream)

    async def _apply_message(self, wanted: HostNetwork) -> Message:
        return {
            "ask": "apply", "network": wire.network_document(wanted), "host": await self._host_addresses(),
            "allowed": self._allowed,
        }  # fmt: skip

    async def _forwarded(self, report: NetworkReport, wanted: HostNetwork) -> NetworkReport:
        """Give every machine its port on the loopback. The socket is made here: the daemon may stand elsewhere."""
        for port in wanted.ports:
            if port.uid in report.forwards:
                self._ports[port.uid] = report.forwards[port.uid]
                continue
            with _listening(self._ports.get(port.uid, 0)) as listener:
                message = {"ask": "forward", "uid": wanted.uid, "machine": port.uid, "to": SSH}
                answer, _ = await self._ask(message, [listener.fileno()])
            if answer.get("report"):
                report = wire.report_of(answer["report"])
        return report

    async def _host_addresses(self) -> tuple[str, ...]:
        """Every address of this host, which no guest may reach by the way out. Remembered for some seconds."""
        if self._uplink == "none" and self._mode == USERSPACE:
            return ("0.0.0.0/0", "::/0")
        at, known = self._addresses
        if time.monotonic() - at > HOST_ADDRESSES_S:
            listing = json.loads(await space.run(None, "ip", "-j", "address") or "[]")
            known = tuple(a["local"] for link in listing for a in link.get("addr_info", ()) if "local" in a)
            self._addresses = (time.monotonic(), known)
        return known

    # -- beginning --------------------------------------------------------------------------

    def _is_running(self) -> bool:
        return (self._folder / SOCKET).exists()

    async def _begin(self) -> None:
        """Holder of the uplink, way out, daemon; then everything that was wanted, once more."""
        async with self._beginning:
            if await asyncio.to_thread(self._answers):
                return
            host = await self.host()
            if not host.healthy:
                raise Retry(f"this host makes no networks: {host.message}", after_s=PROBE_AGAIN_S)
            self._folder.mkdir(mode=0o711, parents=True, exist_ok=True)
            (self._folder / SOCKET).unlink(missing_ok=True)
            self._end_old_daemon()
            log = self._log()
            try:
                await self._begin_daemon(host, log)
            finally:
                os.close(log)
        for wanted in list(self._wanted.values()):
            answer, _ = await self._ask(await self._apply_message(wanted))
            await self._forwarded(wire.report_of(answer["report"]), wanted)

    async def _begin_daemon(self, host: NetworkHost, log: int) -> None:
        command = [
            sys.executable, "-m", "hansa.engines.network.daemon", "--folder", str(self._folder), "--marks", self._marks,
            "--mode", "switch" if host.mode == USERSPACE else "kernel", "--underlay", self._underlay,
        ]  # fmt: skip
        if host.mode == USERSPACE:
            command += ["--resolver", "" if self._uplink == "none" else _first_resolver()]
        else:
            uplink = await asyncio.to_thread(self._hold_uplink, host.mode)
            way = await self._open_way(host, uplink, log)
            into = ["nsenter", "-t", str(uplink.pid)]
            into += ["-U", "--preserve-credentials"] if host.mode == USER_NAMESPACES else []
            command = [*into, "-n", "--", *command, "--resolver", way.resolver, "--holder", str(uplink.pid)]
            uplink.close()
        pid = space.spawn(command, f"{self._marks}/daemon", errors=log)
        self._children.add(pid)
        end = time.monotonic() + BEGIN_LIMIT_S
        while not await asyncio.to_thread(self._answers):
            if space.ended(pid):
                raise Retry("the network daemon ended at once", detail=self._last_words())
            if time.monotonic() > end:
                raise Retry(
                    f"the network daemon does not listen after {BEGIN_LIMIT_S:.0f} s", detail=self._last_words()
                )
            await asyncio.sleep(0.02)

    def _hold_uplink(self, mode: str) -> Holder:
        mark = f"{self._marks}/uplink"
        if pid := space.marked(mark).get(mark):
            return Holder.of(pid)
        made = space.hold(mark, user=mode == USER_NAMESPACES)
        self._children.add(made.pid)
        return made

    async def _open_way(self, host: NetworkHost, uplink: Holder, log: int) -> WayOut:
        if host.uplink == "none":
            return WayOut("none")
        try:
            await way_out.open_way(self._marks, uplink, root=host.mode == NAMESPACES, log=log)
        except (Retry, OSError, TimeoutError) as error:  # networks are there without it; the next daemon tries again
            why = f"guests have no way out: {error.message if isinstance(error, Retry) else repr(error)}"
            self._healthy = replace(host, uplink="none", message="; ".join(filter(None, (host.message, why))))
            return WayOut("none", why)
        return WayOut(host.uplink)

    def _end_old_daemon(self) -> None:
        """One that does not listen any more, and would be in the way of the next."""
        for pid in space.marked(f"{self._marks}/daemon").values():
            with contextlib.suppress(OSError):
                Holder.of(pid).end()

    def _answers(self) -> bool:
        try:
            answer, _ = self._talk({"ask": "held"}, ())
        except OSError:
            return False
        return "held" in answer

    def _log(self) -> int:
        path = self._folder / LOG
        if path.exists() and path.stat().st_size > _LOG_BYTES_MAX:
            path.unlink()
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            return (self._folder / LOG).read_text(errors="replace")[-2000:]
        return ""

    # -- what this host can -----------------------------------------------------------------

    async def _probe(self) -> NetworkHost:
        """The best way that is proved to filter; the user-space switch where no other is."""
        root = os.geteuid() == 0
        modes = [self._forced] if self._forced else [NAMESPACES if root else USER_NAMESPACES, USERSPACE]
        said: list[str] = []
        for mode in modes:
            why = await self._proved(mode)
            if not why:
                return self._described(mode, "; ".join(said))
            said.append(f"{mode}: {why}")
        return NetworkHost(modes[-1], healthy=False, message="; ".join(said))

    async def _proved(self, mode: str) -> str:
        """Empty when it filters, else why not. At most PROBE_LIMIT_S."""
        if mode != USERSPACE and (missing := _missing()):
            return f"missing {', '.join(missing)}: run scripts/install"
        before = {
            NAMESPACES: ["unshare", "--net", "--"],
            USER_NAMESPACES: ["unshare", "--user", "--map-root-user", "--net", "--"],
            USERSPACE: [],
        }[mode]
        kind = "switch" if mode == USERSPACE else "kernel"
        command = [*before, sys.executable, "-m", "hansa.engines.network.probe", kind]
        try:
            answer: dict[str, Any] = json.loads(await space.run(None, *command))
        except Retry as error:
            return error.message
        except ValueError:
            return "the probe gave no answer"
        return "" if answer["healthy"] else str(answer["message"])

    def _described(self, mode: str, why_not_better: str) -> NetworkHost:
        if self._uplink == "none":
            return NetworkHost(mode, healthy=True, message=why_not_better)
        if mode == USERSPACE:
            return NetworkHost(mode, healthy=True, message=why_not_better, uplink="slirp")
        way = way_out.possible(root=mode == NAMESPACES)
        message = "; ".join(filter(None, (why_not_better, way.message)))
        return NetworkHost(mode, healthy=True, message=message, uplink=way.name)


def check_mode(text: str) -> str:
    """`text` when it names a way of making networks. Raises Refused."""
    if text and text not in MODES:
        raise Refused("ProvisioningFailed", f"there is no network mode {text!r}: {', '.join(MODES)}")
    return text


def _missing() -> list[str]:
    path = space.environment()["PATH"]
    return [package for program, package in _PROGRAMS.items() if shutil.which(program, path=path) is None]


def _listening(port: int) -> socket.socket:
    """A socket bound to `port` of the loopback, to any where that is taken."""
    for wanted in (port, 0):
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind(("127.0.0.1", wanted))
        except OSError:
            made.close()
        else:
            return made
    raise Retry("no port of the loopback is free")


def _first_resolver() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/etc/resolv.conf").read_text().splitlines():
            words = line.split()
            if len(words) > 1 and words[0] == "nameserver" and ":" not in words[1]:
                return words[1]
    return ""
