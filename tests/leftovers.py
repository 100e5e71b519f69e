"""What our programs may leave on a host: processes, run folders, control groups, links and tables of its own network."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")


def leftovers() -> set[str]:
    """A line for each thing that is there now. Other clouds of this host are in it too: compare two moments."""
    return {*_processes(), *_folders(), *_groups(), *_network()}


def _processes() -> set[str]:
    """Guests, network daemons, holders of namespaces, ways out, builders of images aside from the shared cache."""
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            marked = b"HANSA_NETWORK=" in (entry / "environ").read_bytes()
            if marked or (words[0].endswith("qemu-system-x86_64") and "guest=" in " ".join(words)):
                found.add(f"process {entry.name} {words[0]}")
    return found


def _folders() -> set[str]:
    roots = (Path("/run/hansa"), Path(f"/tmp/hansa-{os.geteuid()}"))
    return {f"folder {folder}" for root in roots if root.is_dir() for folder in root.iterdir()}


def _groups() -> set[str]:
    folders = [*(GROUPS / "hansa").glob("*/"), *GROUPS.glob("*/hansa/*/")]
    return {f"control group {folder}" for folder in folders}


def _network() -> set[str]:
    """Of the host's own namespace, which is never touched: links, tables, named namespaces."""
    found = {f"link {name}" for name in os.listdir("/sys/class/net")}
    for what, command in (("table", ["nft", "list", "tables"]), ("namespace", ["ip", "netns", "list"])):
        with contextlib.suppress(OSError):
            said = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
            found |= {f"{what} {line}" for line in said.stdout.splitlines()}
    return found
