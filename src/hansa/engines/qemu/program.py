"""QEMU's own programs: whether they are here, which version they are, running one of them with a limit."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from hansa.errors import Refused, Retry

SYSTEM, IMG = "qemu-system-x86_64", "qemu-img"
INSTALL = "QEMU is not installed on this host: run scripts/install, or apt-get install qemu-system-x86 qemu-utils"

_LIMIT_S = 25.0


@dataclass(frozen=True, slots=True)
class Qemu:
    """The installed QEMU. `machine_type` is what its alias `q35` means, with the version in it."""

    binary: str
    version: str
    machine_type: str


class Finder:
    """Looks for QEMU and remembers it until the file changes."""

    def __init__(self) -> None:
        self._known: tuple[str, float, Qemu] | None = None

    async def find(self) -> Qemu | None:
        """None when QEMU is not installed. Raises Retry when it does not say what it is."""
        path = shutil.which(SYSTEM)
        if path is None or shutil.which(IMG) is None:
            return None
        changed = Path(path).stat().st_mtime
        if self._known is None or self._known[:2] != (path, changed):
            self._known = (path, changed, await _ask(path))
        return self._known[2]


async def run(*command: str) -> str:
    """Standard output of one of QEMU's programs. Raises Retry when it fails or is too slow, Refused when missing."""
    try:
        done = await asyncio.to_thread(
            subprocess.run, command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_LIMIT_S,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"}, check=False,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise Refused("ProvisioningFailed", INSTALL) from error
    except subprocess.TimeoutExpired as error:
        raise Retry(f"{command[0]} did not end within {_LIMIT_S:.0f} s") from error
    if done.returncode:
        raise Retry(f"{command[0]} failed: {done.stderr.strip()[:300]}", detail=" ".join(command))
    return done.stdout


async def create(path: Path, size_bytes: int, below: Path | None = None) -> None:
    """A fresh qcow2 file at `path`, upon the image `below`. Raises Retry, Refused."""
    path.unlink(missing_ok=True)
    upon = ["-F", "qcow2", "-b", str(below)] if below else []
    await run(IMG, "create", "-q", "-f", "qcow2", *upon, str(path), str(size_bytes))


async def _ask(path: str) -> Qemu:
    said, machines = await asyncio.gather(run(path, "--version"), run(path, "-machine", "help"))
    version = re.search(r"version (\d[\d.]*)", said)
    alias = re.search(r"^q35\s.*\(alias of (\S+)\)", machines, re.M)
    return Qemu(path, version[1] if version else "?", alias[1] if alias else "q35")
