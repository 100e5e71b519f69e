"""Debian packages without root: which versions apt would give, fetching them, unpacking them.

Runs in the process that builds an image, never in the control process: everything here blocks. apt's own
index is used where there is one; without one (a fresh machine) a private index is fetched beside the image cache.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

from hansa.engines.qemu.deadline import Deadline
from hansa.errors import Refused

T = TypeVar("T")

_URI = re.compile(r"^'(?P<uri>\S+)' (?P<file>\S+) \d+ (?P<hash>\S+)$", re.M)
_TARGET = "$(CODENAME) $(RELEASE) $(REPO_URI) $(COMPONENT) $(ARCHITECTURE) $(ORIGIN) $(FILENAME)"
_HELP = "check the network and /etc/apt/sources.list, run `apt-get update` as root, then `hansa image build`"


@dataclass(frozen=True, slots=True)
class Package:
    """One package as apt would fetch it now: the hash is apt's, `SHA256:…`."""

    name: str
    version: str
    hash: str


@dataclass(frozen=True, slots=True)
class Release:
    """Where this machine's apt has one release of Debian from: lines of a sources.list.

    `indexed_at` (epoch seconds) is the age of the newest index: no package in it is younger.
    """

    codename: str
    sources: tuple[str, ...]
    indexed_at: int


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

    def release(self, codename: str) -> Release:
        """What apt knows of the release `codename`. Raises Refused when its sources have none of it."""
        return self._twice(lambda: self._release(codename))

    def system(self, release: Release, names: Sequence[str]) -> list[Package]:
        """What an empty disk would get with `names`: these, all they depend on, and what every system has."""
        return self._twice(lambda: self._system(release, names))

    def proxy(self) -> str:
        """The proxy of apt's own configuration, empty when it has none."""
        found = re.search(r"^proxy='([^']*)'", self._apt("apt-config", "shell", "proxy", "Acquire::http::Proxy"))
        return found[1] if found and found[1] != "DIRECT" else ""

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
        found = _packages(self._apt("apt-get", "download", "--print-uris", "-q", *names))
        missing = sorted(set(names) - {package.name for package in found})
        if missing:
            raise Refused("ImageUnavailable", f"apt does not know {', '.join(missing)}: {_HELP}")
        return found

    def _release(self, codename: str) -> Release:
        sources, indexed_at = [], 0
        for line in self._apt("apt-get", "indextargets", "--format", _TARGET, "Created-By: Packages").splitlines():
            its_codename, suite, uri, component, architecture, origin, file = line.split(" ")
            of_it = its_codename == codename or its_codename.startswith(f"{codename}-")
            if of_it and (origin, architecture) == ("Debian", "amd64"):
                sources.append(f"deb {uri} {suite} {component}")
                indexed_at = max(indexed_at, int(Path(file).stat().st_mtime))
        if not sources:
            raise Refused(
                "ImageUnavailable", f"apt of this machine has no source of Debian {codename}: add one, {_HELP}"
            )
        return Release(codename, tuple(dict.fromkeys(sources)), indexed_at)

    def _system(self, release: Release, names: Sequence[str]) -> list[Package]:
        """As on a machine without packages, pins and other sources: what the new system's own apt will see."""
        sources = self._folder / f"{release.codename}.list"
        self._folder.mkdir(exist_ok=True)
        sources.write_text("".join(f"{line}\n" for line in release.sources))
        alone = {
            "Dir::Etc::SourceList": sources, "Dir::Etc::SourceParts": "/dev/null", "Dir::State::Status": "/dev/null",
            "Dir::Etc::Preferences": "/dev/null", "Dir::Etc::PreferencesParts": "/dev/null",
            "Dir::Cache::Archives": self._folder / "none", "Dir::Cache::PkgCache": "", "Dir::Cache::SrcPkgCache": "",
            "APT::Install-Recommends": "false", "APT::Install-Suggests": "false", "Acquire::ForceHash": "SHA256",
        }  # fmt: skip
        options = [word for name, value in alone.items() for word in ("-o", f"{name}={value}")]
        return _packages(self._apt("apt-get", *options, "install", "--print-uris", "-qq", "-y", "?essential", *names))

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


def _packages(uris: str) -> list[Package]:
    found = [Package(*_name_and_version(match["file"]), match["hash"]) for match in _URI.finditer(uris)]
    return sorted(found, key=lambda package: package.name)


def _name_and_version(file: str) -> tuple[str, str]:
    name, version, _ = unquote(file).split("_")
    return name, version
