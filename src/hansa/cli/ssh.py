"""`hansa ssh`: a login, or a command, in a machine; through the port that its host forwards."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from hansa.cli.options import Progress, client_of, placed
from hansa.errors import Retry
from hansa.sdk import names
from hansa.sdk.client import Seen
from hansa.sdk.errors import Ended, TimedOut, Unclear

USER = "evroc-user"
READY_MARK = "-----END SSH HOST KEY KEYS-----"
_KEYS = re.compile(r"-----BEGIN SSH HOST KEY KEYS-----\r?\n(.*?)-----END SSH HOST KEY KEYS-----", re.DOTALL)
CONNECT_S = 10


def host_keys(console: str) -> list[str]:
    """The public host keys that the guest last printed: `type base64` each. Pure."""
    blocks = _KEYS.findall(console)
    lines = blocks[-1].splitlines() if blocks else []
    return [" ".join(line.split()[:2]) for line in lines if line.startswith(("ssh-", "ecdsa-"))]


def arguments(port: int, key: str | None, known_hosts: Path, alias: str, command: Sequence[str]) -> list[str]:
    """The command line of the SSH client. Asks nothing. Pure."""
    options = [
        "-p", str(port), "-o", "BatchMode=yes", "-o", f"UserKnownHostsFile={known_hosts}", "-o", f"HostKeyAlias={alias}",
        "-o", "StrictHostKeyChecking=yes", "-o", f"ConnectTimeout={CONNECT_S}", "-o", "LogLevel=ERROR",
        "-o", "GlobalKnownHostsFile=/dev/null",
    ]  # fmt: skip
    if key:
        options += ["-i", key, "-o", "IdentitiesOnly=yes"]
    return ["ssh", *options, f"{USER}@127.0.0.1", *command]


@click.command("ssh", context_settings={"ignore_unknown_options": True})
@click.argument("name")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option("-i", "--identity", help="Private key file.")
@click.option("--timeout", default=180.0, show_default=True, help="Seconds to wait for the guest.")
@placed
def ssh_command(name: str, command: tuple[str, ...], identity: str | None, timeout: float, **place: Any) -> None:
    """Log in to a machine as evroc-user, or run a command in it; ends with the command's status.

    \b
      hansa ssh web-1 -i ~/.ssh/id_ed25519
      hansa ssh web-1 -i key -- uname -a
    """
    if shutil.which("ssh") is None:
        raise Unclear("there is no ssh client here: install the package openssh-client")
    client = client_of(**place)
    target = next(iter(names.targets([name], default="vm")))
    end, progress = time.monotonic() + timeout, Progress(str(target))
    machine, keys = _answering(client, target, end, progress)
    port = machine["status"]["ssh"]["port"]
    alias = f"hansa-{machine['metadata']['uid']}"
    known = _known_hosts(alias, keys)
    _first_login(arguments(port, identity, known, alias, ["true"]), end, progress, machine, str(target))
    progress.end()
    # from here on this is the client: signals and the exit status are its own
    os.execvp("ssh", arguments(port, identity, known, alias, command))  # noqa: S606 - no shell is meant


def _answering(client: Any, target: names.Target, end: float, progress: Progress) -> tuple[dict[str, Any], list[str]]:
    """Waits on the console log, never on the port: each connection costs a slow guest dear."""
    while True:
        machine = client.request("GET", client.path_of(target))
        status = machine["status"]
        if status.get("simulated"):
            raise Ended("Simulated", f"{target} stands on a simulated host: there is nothing to log in to")
        if not machine["spec"].get("running", True):
            raise Ended("Stopped", f"{target} is stopped: `hansa start {target.name}` first")
        state = status.get("virtualMachineStatus", "Creating")
        if state == "ProvisioningFailed":
            raise Ended(state, f"{target} could not be made: `hansa why {target}`")
        console = client.logs(target.name) if status.get("ssh") else ""
        if keys := host_keys(console):
            return machine, keys
        progress.told(Seen(state, "waiting for the guest's SSH server" if status.get("ssh") else ""))
        if time.monotonic() > end:
            raise TimedOut(f"{target} does not answer: last seen {state}; `hansa logs {target.name}` shows its console")
        time.sleep(0.3)


def refused(machine: dict[str, Any], name: str) -> str:
    """What to say when the machine takes no key of ours. Pure."""
    text = f"{name} refuses the key: give the one of spec.osSettings.ssh with -i"
    if (machine["spec"].get("osSettings") or {}).get("cloudInitUserData"):
        text += "; with user data those keys reach the guest only where it names the default user (`users: [default]`)"
    return text


def _first_login(command: list[str], end: float, progress: Progress, machine: dict[str, Any], name: str) -> None:
    """Tries until a login works, at most once a second. A refused key is told at once."""
    while True:
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        if done.returncode == 0:
            return
        said = done.stderr.strip().splitlines()
        last = said[-1] if said else f"ssh ended with {done.returncode}"
        if "Permission denied" in last:
            progress.end()
            raise Ended("PermissionDenied", f"{refused(machine, name)} ({last})")
        if time.monotonic() > end:
            raise Retry(f"{name} does not let anybody in: {last}")
        progress.told(Seen("Running", last))
        time.sleep(1.0)


def _known_hosts(alias: str, keys: list[str]) -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hansa" / "known_hosts"
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = base / alias
    file.write_text("".join(f"{alias} {key}\n" for key in keys))
    return file
