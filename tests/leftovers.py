"""What our programs may leave on a host: processes, run folders, control groups, links and tables of its own network."""

from __future__ import annotations

import contextlib
import os
import subprocess
from itertools import pairwise
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
OURS = "HANSA_TESTS"  # in the environment of every program that these tests start


def leftovers() -> set[str]:
    """A line for each thing that is there now, but for what is of a cloud that somebody else runs meanwhile."""
    others = _others()
    found = {*_processes(), *_folders(), *_groups(), *_network()}
    return {line for line in found if not any(cloud in line for cloud in others)}


def _others() -> set[str]:
    """The ids of clouds whose `hansa up` lives and was not started by these tests."""
    found = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if "up" not in words or f"{OURS}={os.environ.get(OURS)}".encode() in (entry / "environ").read_bytes():
                continue
            given = [after for word, after in pairwise(words) if word == "--data"]
            data = entry / "cwd" / (given[0] if given else "hansa-data")
            found.add((data / "cloud-id").read_text().strip())
    return found


def _processes() -> set[str]:
    """Guests, network daemons, holders of namespaces, ways out, builders of images aside from the shared cache."""
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            marks = [m for m in (entry / "environ").read_bytes().split(b"\0") if m.startswith(b"HANSA_NETWORK=")]
            if words[0].endswith("qemu-system-x86_64"):
                marks += [word.encode() for word in words if word.startswith("guest=")]
            if marks:
                found.add(f"process {entry.name} {words[0]} {marks[0].decode()}")
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
