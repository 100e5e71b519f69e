"""The network daemon of one cloud on one host: holds what must outlive the control process, and does what it asks.

Started by `driver`, one a cloud and host, inside the uplink's namespace (or in ours, for the user-space switch).
It answers DHCP and DNS and relays logins also while no control process is there. It ends by itself when no
network is left, and when for some minutes nobody asked anything and no machine holds its card.

    python -m hansa.engines.network.daemon --folder DIR --marks CLOUD --mode namespaces
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from hansa.engines.network import way_out, wire
from hansa.engines.network.forwards import Forwards
from hansa.engines.network.kernel import KernelNetworks
from hansa.engines.network.services import Upstream
from hansa.engines.network.switch import SwitchedNetworks
from hansa.engines.network.wire import Message
from hansa.engines.ports import HostNetwork
from hansa.errors import HansaError, Retry

SOCKET = "network"
REQUEST_LIMIT_S = 20.0
DIAL_LIMIT_S = 5.0
EMPTY_S = 20.0  # without a network, until it ends
FORGOTTEN_S = 300.0  # without a question and without a running machine, until it ends
_LOOK_EVERY_S = 5.0
_CLIENTS_MAX = 32
_LOOKS = frozenset({"observe", "held"})
LOG = "network.log"


class Networks(Protocol):
    """What makes networks: by the kernel, or by the switch. `routes_publics`: public addresses lead to their machines."""

    routes_publics: bool

    async def begin(self) -> None: ...
    async def apply(self, wanted: HostNetwork) -> None: ...
    async def remove(self, uid: str) -> None: ...
    def applied(self) -> Mapping[str, HostNetwork]: ...
    def plug(self, uid: str, machine: str) -> tuple[Message, list[int]]: ...
    async def dial(self, uid: str, address: str, port: int, limit_s: float) -> socket.socket: ...
    async def know_host(self, addresses: Iterable[str], allowed: Iterable[str]) -> None: ...
    async def idle(self) -> bool: ...
    async def close(self) -> None: ...


class Daemon:
    def __init__(self, networks: Networks, folder: Path) -> None:
        self._networks, self._path = networks, folder / SOCKET
        self._turn = asyncio.Lock()  # one change at a time: all networks share the uplink
        self._forwards = Forwards(networks.dial)
        self._tasks: set[asyncio.Task[None]] = set()
        self._asked_at = self._used_at = time.monotonic()  # to look is not to use
        self._ending = asyncio.Event()

    async def run(self) -> None:
        await self._networks.begin()
        listener = _listener(self._path)
        loop = asyncio.get_running_loop()
        loop.add_reader(listener, self._accept, listener)
        loop.add_signal_handler(signal.SIGTERM, self._ending.set)
        looking = asyncio.create_task(self._look())
        await self._ending.wait()
        looking.cancel()
        loop.remove_reader(listener)
        self._path.unlink(missing_ok=True)
        listener.close()
        self._forwards.close()
        await self._networks.close()

    async def _look(self) -> None:
        """End when there is nothing to be there for."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            now = time.monotonic()
            empty = not self._networks.applied() and now - self._used_at > EMPTY_S
            if empty or (now - self._asked_at > FORGOTTEN_S and await self._networks.idle()):
                self._ending.set()

    def _accept(self, listener: socket.socket) -> None:
        try:
            stream, _ = listener.accept()
        except OSError:
            return
        if len(self._tasks) >= _CLIENTS_MAX or not _is_ours(stream):
            stream.close()
            return
        task = asyncio.get_running_loop().create_task(self._serve(stream))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, stream: socket.socket) -> None:
        """One question, one answer. A client that is slow to speak or to listen is let go."""
        stream.settimeout(2.0)
        given: list[int] = []
        try:
            with stream:
                asked, given = await asyncio.to_thread(wire.receive, stream)
                self._asked_at = time.monotonic()
                if asked.get("ask") not in _LOOKS:
                    self._used_at = self._asked_at
                answer, descriptors = await self._answer(asked, given)
                try:
                    await asyncio.to_thread(wire.send, stream, answer, descriptors)
                finally:
                    _close(descriptors)
        except (OSError, ValueError):
            return  # it hung up
        finally:
            _close(given)

    async def _answer(self, asked: Message, given: list[int]) -> tuple[Message, list[int]]:
        try:
            async with asyncio.timeout(REQUEST_LIMIT_S):
                return await self._do(asked, given)
        except Retry as retry:
            return {"retry": retry.message, "detail": retry.detail, "after": retry.after_s}, []
        except (HansaError, OSError, TimeoutError, KeyError, ValueError) as error:
            return {"retry": f"the network daemon could not {asked.get('ask')}: {error!r}", "after": None}, []

    async def _do(self, asked: Message, given: list[int]) -> tuple[Message, list[int]]:
        match asked["ask"]:
            case "apply":
                return await self._apply(wire.network_of(asked["network"]), asked, given), []
            case "observe":
                return {"report": self._report(asked["uid"])}, []
            case "plug":
                return self._networks.plug(asked["uid"], asked["machine"])
            case "forward":
                return self._forward(asked, given), []
            case "dial":
                dialled = await self._networks.dial(asked["uid"], asked["address"], asked["port"], DIAL_LIMIT_S)
                return {"dialled": True}, [dialled.detach()]
            case "remove":
                async with self._turn:
                    self._forwards.forget(asked["uid"])
                    await self._networks.remove(asked["uid"])
                return {"removed": True}, []
            case "held":
                held = {uid: it.revision for uid, it in self._networks.applied().items()}
                return {"held": held, "pid": os.getpid()}, []
            case other:
                return {"retry": f"the network daemon knows no {other}: it is of another version", "after": None}, []

    async def _apply(self, wanted: HostNetwork, asked: Message, given: list[int]) -> Message:
        async with self._turn:
            await self._networks.know_host(asked["host"], asked["allowed"])
            now = self._networks.applied().get(wanted.uid)
            if now is None or now.revision <= wanted.revision:
                await self._networks.apply(wanted)
                self._forwards.keep(wanted)
        report = self._report(wanted.uid)
        if report is None:
            raise Retry("the network was lost while it was being made", after_s=0.2)
        return {"report": report}

    def _forward(self, asked: Message, given: list[int]) -> Message:
        """Take a listening socket of the host's loopback over, for a machine's port 22."""
        listener = socket.socket(fileno=given.pop())
        self._forwards.add(asked["uid"], asked["machine"], listener)
        if (applied := self._networks.applied().get(asked["uid"])) is not None:
            self._forwards.keep(applied)  # which knows where the machine is: nothing may change any more
        else:
            self._forwards.forget(asked["uid"])
        return {"report": self._report(asked["uid"])}

    def _report(self, uid: str) -> Message | None:
        applied = self._networks.applied().get(uid)
        if applied is None:
            return None
        publics = applied.ports if self._networks.routes_publics else ()
        return {
            "uid": uid, "revision": applied.revision,
            "ports": {port.uid: port.generation for port in applied.ports},
            "groups": {group.uid: group.generation for group in applied.groups},
            "publics": {p.public_ipv4: p.uid for p in publics if p.public_ipv4 and p.ipv4},
            "forwards": self._forwards.of(uid),
        }  # fmt: skip


def _listener(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    mask = os.umask(0o177)
    try:
        made.bind(str(path))
    finally:
        os.umask(mask)
    made.listen(_CLIENTS_MAX)
    return made


def _is_ours(stream: socket.socket) -> bool:
    """Only our own user: the file's mode says so, and this says it again."""
    _, user, _ = struct.unpack("3i", stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return bool(user == os.geteuid())


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="The network daemon of one cloud on one host.")
    parser.add_argument("--folder", type=Path, required=True, help="where its socket is")
    parser.add_argument("--marks", required=True, help="what the marks of its namespaces' holders begin with")
    parser.add_argument("--mode", choices=("kernel", "switch"), required=True)
    parser.add_argument("--resolver", default="", help="address of the resolver that foreign names are asked of")
    parser.add_argument("--underlay", default="", help="this host's address between hosts; without it no tunnels")
    parser.add_argument("--holder", type=int, default=0, help="process that holds the uplink's namespace: ended last")
    given = parser.parse_args(arguments)
    asyncio.run(_main(given))
    return 0


async def _main(given: argparse.Namespace) -> None:
    upstream = Upstream((given.resolver, 53) if given.resolver else None)
    networks: Networks
    if given.mode == "kernel":
        networks = KernelNetworks(given.marks, given.folder, upstream, here=given.underlay)
    else:
        networks = SwitchedNetworks(given.marks, given.folder, upstream)
    await Daemon(networks, given.folder).run()
    way_out.close_way(given.marks)
    (given.folder / LOG).unlink(missing_ok=True)
    for empty in (given.folder / "s", given.folder, given.folder.parent):  # the last is the cloud's, if all else went
        with contextlib.suppress(OSError):
            empty.rmdir()
    if given.holder:
        with contextlib.suppress(ProcessLookupError):
            os.kill(given.holder, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
