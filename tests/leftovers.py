"""What our programs may leave on a host: processes, run folders, control groups, links and tables of its own network.

Several runs may share a host: workers side by side, another checkout, somebody's own cloud. So only what is known to be of
this run counts. A process is, when the run's mark stands in its environment: in `HANSA_TESTS`, or in `PATH`, which our
programs pass on to everything that they start. Folders and control groups are named after clouds, and the clouds of this
run are those whose data folders lie in its folder for tests, and those that tests made and told of (`ours`). The host's own
network is nobody's: whatever is new in it is wrong, whoever did it.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import subprocess
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
OURS = "HANSA_TESTS"  # in the environment of every program that these tests start
_NOWHERE = Path("/nonexistent/hansa-tests")  # a folder of PATH in which nothing is ever found
_clouds: set[str] = set()


def mark() -> str:
    """From here on every program that is started is known as of this run."""
    word = f"{os.getpid()}-{secrets.token_hex(4)}"
    os.environ[OURS] = word
    kept = [part for part in os.environ.get("PATH", os.defpath).split(":") if not part.startswith(str(_NOWHERE))]
    os.environ["PATH"] = ":".join([*kept, str(_NOWHERE / word)])
    return word


def ours(cloud: str) -> str:
    """The same id, remembered: of a cloud whose engines a test makes in its own process, without a data folder."""
    _clouds.add(cloud)
    return cloud


def leftovers(word: str, folder: Path) -> set[str]:
    """A line for each thing of this run that is there now. `folder`: where its tests have their own folders."""
    clouds = _clouds | {_read(file) for file in folder.rglob("cloud-id")} - {""}
    named = re.compile(rf"(?<![0-9A-Za-z])(?:{'|'.join(sorted(map(re.escape, clouds)))})(?![0-9A-Za-z])")
    places = {line for line in _folders() | _groups() if clouds and named.search(line)}
    return {*_processes(word), *places, *_network()}


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def _processes(word: str) -> set[str]:
    """Guests, network daemons, holders of namespaces, ways out, builders of images aside from the shared cache."""
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            environment = (entry / "environ").read_bytes()
            if word.encode() not in environment:
                continue
            marks = [m for m in environment.split(b"\0") if m.startswith(b"HANSA_NETWORK=")]
            if words[0].endswith("qemu-system-x86_64"):
                marks += [each.encode() for each in words if each.startswith("guest=")]
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
