"""The way out of the uplink's namespace: `pasta`, which turns its packets into ordinary sockets of this host.

Nothing of the host is changed: no address, no route, no rule. pasta joins only a namespace of a user who is not
root; as root the uplink is therefore tied to a second small namespace, which belongs to a user of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import stat
from dataclasses import dataclass
from pathlib import Path

from hansa.engines.network import space
from hansa.engines.network.naming import OUTSIDE
from hansa.engines.network.space import Holder
from hansa.errors import Retry

RESOLVER = "100.127.255.53"  # what pasta takes for the host's own resolver
OWNER = 2_099_999_999  # as root: the user to whom the namespace of the way out belongs
_BEGIN_LIMIT_S = 5.0
_UP = "up0"  # the other end of `OUTSIDE`, as root
_TUN = Path("/dev/net/tun")


@dataclass(frozen=True, slots=True)
class WayOut:
    """`name` for the host's report: "pasta" or "none", then `message` says why."""

    name: str
    message: str = ""

    @property
    def resolver(self) -> str:
        return RESOLVER if self.name == "pasta" else ""


def possible(*, root: bool) -> WayOut:
    """Is there one on this host? Looks, changes nothing."""
    if shutil.which("pasta", path=space.environment()["PATH"]) is None:
        return WayOut("none", "guests have no way out: install the package passt")
    if root and not stat.S_IMODE(_TUN.stat().st_mode) & stat.S_IWOTH:
        return WayOut(
            "none", f"guests have no way out: {_TUN} is not open to other users (mode 0666, as Debian has it)"
        )
    return WayOut("pasta")


async def open_way(marks: str, uplink: Holder, *, root: bool, log: int) -> None:
    """Make it, where it is not there. Raises Retry."""
    if _pasta_of(marks):
        return
    close_way(marks)
    if not root:
        await _begin_pasta(marks, uplink, [], OUTSIDE, log)
        return
    as_owner = ["setpriv", f"--reuid={OWNER}", f"--regid={OWNER}", "--clear-groups", "--"]
    beyond = space.hold(f"{marks}/way-out", *as_owner, user=True)
    try:
        await _begin_pasta(marks, beyond, as_owner, "wan0", log)
        await _tie(uplink, beyond)
    finally:
        beyond.close()


def close_way(marks: str) -> None:
    """End what `open_way` began."""
    holders = space.marked(f"{marks}/way-out", users=(OWNER,)).values()
    for pid in (*_pasta_of(marks), *holders):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _pasta_of(marks: str) -> list[int]:
    """Found by its words: its environment it keeps to itself."""
    return [pid for pid, words in space.commands() if words[:1] == ["pasta"] and _name(marks) in words]


def _name(marks: str) -> str:
    """A search domain that nobody searches: it says whose pasta it is."""
    return f"{marks}.hansa.invalid"


async def _begin_pasta(marks: str, inside: Holder, before: list[str], link: str, log: int) -> None:
    command = [
        *before, "pasta", "--foreground", "--quiet", "--config-net", "--no-map-gw", "--ns-ifname", link,
        "--tcp-ports", "none", "--udp-ports", "none", "--tcp-ns", "none", "--udp-ns", "none",
        "--dns-forward", RESOLVER, "--search", _name(marks), str(inside.pid),
    ]  # fmt: skip
    pid = space.spawn(command, f"{marks}/pasta", errors=log)
    async with asyncio.timeout(_BEGIN_LIMIT_S):
        while "UP" not in await _look(inside, link):
            if space.ended(pid):
                raise Retry("pasta ended at once: network.log beside the cloud's sockets has its words")
            await asyncio.sleep(0.02)


async def _look(inside: Holder, link: str) -> str:
    return await space.run(None, *_into(inside), "ip", "link", "show", "dev", link, check=False)


async def _tie(uplink: Holder, beyond: Holder) -> None:
    """As root: a pair of links between the uplink and the namespace that pasta serves."""
    await space.run(uplink, "ip", "-force", "-batch", "-", given=f"link del {OUTSIDE}\n", check=False)
    here = (
        f"link add {OUTSIDE} type veth peer name {_UP} netns {beyond.pid}\n"
        f"addr replace 100.127.255.2/30 dev {OUTSIDE}\n"
        f"addr replace fd64:ffff::2/126 dev {OUTSIDE} nodad\n"
        f"link set {OUTSIDE} up\n"
    )
    await space.run(uplink, "ip", "-batch", "-", given=here)
    there = (
        f"addr replace 100.127.255.1/30 dev {_UP}\naddr replace fd64:ffff::1/126 dev {_UP} nodad\nlink set {_UP} up\n"
    )
    await space.run(beyond, "ip", "-batch", "-", given=there)
    with_rules = (
        "table inet hansa {\n chain postrouting { type nat hook postrouting priority srcnat; policy accept;\n"
        f'  oifname != "{_UP}" masquerade\n }}\n}}\n'
    )
    await space.run(beyond, "nft", "-f", "-", given=with_rules)
    switches = ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    await space.run(beyond, "sysctl", "-qw", *switches)
    routes = "route replace default via 100.127.255.1\nroute replace default via fd64:ffff::1\n"
    await space.run(uplink, "ip", "-batch", "-", given=routes)


def _into(inside: Holder) -> list[str]:
    """As its root: root of the host is that anyhow, a plain user becomes it in the user namespace."""
    user = [] if os.geteuid() == 0 else ["-U", "--preserve-credentials"]
    return ["nsenter", "-t", str(inside.pid), *user, "-n", "--"]
