"""Debian packages without root: which versions apt would give, fetching them, unpacking them.

Runs in the process that builds an image, never in the control process: everything here blocks. apt's own
index is used where there is one; without one (a fresh machine) a private index is fetched beside the image cache.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

from hansa.errors import Refused

T = TypeVar("T")

_URI = re.compile(r"^'(?P<uri>\S+)' (?P<file>\S+) \d+ (?P<hash>\S+)$", re.M)
_HELP = "check the network and /etc/apt/sources.list, run `apt-get update` as root, then `hansa image build`"


@dataclass(frozen=True, slots=True)
class Package:
    """One package as apt would fetch it now: the hash is apt's, `SHA256:…`."""

    name: str
    version: str
    hash: str


class Deadline:
    """Every command of one build shares one limit."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def run(self, *command: str | Path, cwd: Path | None = None, text: str = "") -> str:
        """Standard output of `command`. Raises Refused (ImageUnavailable) when it fails or is too slow."""
        program = str(command[0])
        try:
            done = subprocess.run(
                [str(word) for word in command], cwd=cwd, input=text, text=True, capture_output=True, check=False,
                timeout=max(0.1, self._end - time.monotonic()), env=_environment(),
            )  # fmt: skip
        except FileNotFoundError as error:
            raise Refused("ImageUnavailable", f"{program} is missing: run scripts/install") from error
        except subprocess.TimeoutExpired as error:
            raise Refused("ImageUnavailable", f"{program} did not end in time") from error
        if done.returncode:
            raise Refused("ImageUnavailable", f"{program} failed: {_last_line(done.stderr)}", detail=done.stderr)
        return done.stdout


class Archive:
    """What apt knows, by the machine's own index or by a private one in `folder`."""

    def __init__(self, folder: Path, deadline: Deadline) -> None:
        self._options = ["-o", "APT::Sandbox::User=root"] if os.geteuid() == 0 else []
        self._folder = folder
        self._deadline = deadline
        self._private = False

    def dependency(self, name: str, pattern: str) -> str:
        """The dependency of `name` that matches `pattern`: from a meta package to the real one."""
        return self._twice(lambda: self._dependency(name, pattern))

    def resolve(self, names: Sequence[str]) -> list[Package]:
        """The versions that would be fetched now. Raises Refused for a name that apt does not know."""
        return self._twice(lambda: self._resolve(names))

    def unpack(self, packages: Sequence[Package], folder: Path) -> Path:
        """Fetch `packages` and unpack them into one tree below `folder`."""
        fetched, tree = folder / "packages", folder / "tree"
        fetched.mkdir()
        tree.mkdir()
        self._twice(lambda: self._fetch(packages, fetched))
        for file in sorted(fetched.glob("*.deb")):
            self._deadline.run("dpkg-deb", "-x", file, tree)
        return tree

    def _dependency(self, name: str, pattern: str) -> str:
        text = self._apt("apt-cache", "depends", "--no-recommends", "--no-suggests", name)
        found = re.search(rf"Depends: ({pattern})\s", text)
        if not found:
            raise Refused("ImageUnavailable", f"apt knows no package that {name} stands for: {_HELP}")
        return found.group(1)

    def _resolve(self, names: Sequence[str]) -> list[Package]:
        text = self._apt("apt-get", "download", "--print-uris", "-q", *names)
        found = [Package(*_name_and_version(match["file"]), match["hash"]) for match in _URI.finditer(text)]
        missing = sorted(set(names) - {package.name for package in found})
        if missing:
            raise Refused("ImageUnavailable", f"apt does not know {', '.join(missing)}: {_HELP}")
        return sorted(found, key=lambda package: package.name)

    def _fetch(self, packages: Sequence[Package], folder: Path) -> str:
        return self._apt("apt-get", "download", "-q", *(f"{p.name}={p.version}" for p in packages), cwd=folder)

    def _apt(self, *command: str, cwd: Path | None = None) -> str:
        return self._deadline.run(command[0], *self._options, *command[1:], cwd=cwd)

    def _twice(self, ask: Callable[[], T]) -> T:
        """`ask` with the machine's index; where that is missing or stale, once more with a fresh one of our own."""
        try:
            return ask()
        except Refused:
            if self._private:
                raise
            self._private = True
            self._own_index()
            return ask()

    def _own_index(self) -> None:
        lists, cache = self._folder / "lists", self._folder / "cache"
        for folder in (lists / "partial", cache / "archives/partial"):
            folder.mkdir(parents=True)
        self._options += ["-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={cache}"]
        self._apt("apt-get", "update", "-q")


def _name_and_version(file: str) -> tuple[str, str]:
    name, version, _ = unquote(file).split("_")
    return name, version


def _environment() -> dict[str, str]:
    """apt and friends in English, with the administrator's programs, and with nothing of ours that is secret."""
    keep = ("HOME", "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "TMPDIR")
    kept = {name: os.environ[name] for name in keep if name in os.environ}
    return kept | {"LC_ALL": "C.UTF-8", "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"}


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:300] if lines else "it said nothing"
