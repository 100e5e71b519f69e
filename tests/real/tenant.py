"""A cloud's machines as a tenant sees them: groups, machines in them, a shell on a console, whether two meet."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

from hansa.errors import HansaError
from hansa.sdk.client import Client
from hansa.sdk.errors import TimedOut

from .cloud import RealCloud, disk, machine


def until(what: Callable[[], Any], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "did not come true in time"
        time.sleep(0.1)


def rule(direction: str, protocol: str = "All", port: int = 0, **remote: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"direction": direction, "protocol": protocol, "remote": remote}
    return made | ({"port": port} if port else {})


ALL_OUT = rule("Egress")


def group(client: Client, name: str, *rules: dict[str, Any]) -> None:
    """Make or change a group, and wait until it is enforced."""
    spec = {"vpcRef": "default-se-sto", "rules": list(rules)}
    try:
        client.get("sg", name)
        client.patch("sg", name, {"spec": spec})
    except HansaError:
        client.create("sg", name, spec)
    client.wait("sg", name, timeout_s=20)


def begin(client: Client, name: str, *groups: str, **networking: Any) -> None:
    client.create("disk", name, disk(name))
    spec = machine(name)
    spec["networking"] = {"securityGroupSettings": {"securityGroupMemberRefs": list(groups)}, **networking}
    client.create("vm", name, spec)


class Shell:
    """A root shell on a machine's console, through the API."""

    def __init__(self, client: Client, name: str) -> None:
        self.console, self.number = client.console(name), 0

    def run(self, command: str, seconds: float = 30.0) -> str:
        """What it prints; `?` and its status at the end."""
        self.number += 1
        mark = f"end{self.number}x"
        self.console.write(f"( {command} ); echo {mark[:3]}''{mark[3:]} $?\n".encode())
        seen, end = b"", time.monotonic() + seconds
        while mark.encode() + b" " not in seen or not seen.rstrip().split(mark.encode() + b" ")[-1][:1].isdigit():
            assert time.monotonic() < end, f"{command!r}: {seen[-500:]!r}"
            with contextlib.suppress(TimedOut):
                seen += self.console.read(timeout_s=1.0)
        return seen.decode(errors="replace").replace("\r", "")

    def succeeds(self, command: str) -> bool:
        said = self.run(command)
        return said.rstrip().split(f"end{self.number}x ")[-1].split()[0] == "0"


def booted(client: Client, *names: str) -> list[Shell]:
    for name in names:
        client.wait("vm", name, timeout_s=90)
    for name in names:
        until(lambda name=name: "tiny-guest" in client.logs(name) and "] ready" in client.logs(name), 90)
    return [_answering(Shell(client, name)) for name in names]


def _answering(shell: Shell, seconds: float = 60.0) -> Shell:
    """What is typed before the guest's shell listens is lost: ask until it answers."""
    end = time.monotonic() + seconds
    while True:
        try:
            shell.run("true", 2.0)
        except AssertionError:
            assert time.monotonic() < end, "the shell on the console does not answer"
        else:
            return shell


def connects(shell: Shell, target: str, port: int) -> bool:
    return shell.succeeds(f"echo | nc -w 2 {target} {port} > /dev/null")


def settle(cloud: RealCloud, client: Client) -> None:
    """Until everything that is there is ready or gone, and then the audit agrees."""

    def still() -> list[str]:
        kinds = ("vm", "disk", "sg", "ip", "hotswap", "vpc")
        return [f"{kind}/{o['metadata']['id']}" for kind in kinds for o in client.list(kind)
                if next(c["status"] for c in o["status"]["conditions"] if c["type"] == "Ready") != "True"]  # fmt: skip

    until(lambda: not still(), 120)
    end = time.monotonic() + 30
    while True:
        try:
            cloud.audit()
        except AssertionError:
            assert time.monotonic() < end, cloud.audit()
            time.sleep(0.5)
        else:
            return
