"""What the image store knows of a family: one entry in its table. A new family is a module with a `RECIPE`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hansa.engines.qemu.apt import Archive, Package
from hansa.engines.qemu.deadline import Deadline

Report = Callable[[float, str], None]  # the share that is done, from 0 to 1, and what is being done


@dataclass(frozen=True, slots=True)
class Work:
    """One build: `folder` is empty and takes the image, `aside` what is not kept. `digest` names the outcome."""

    folder: Path
    aside: Path
    archive: Archive
    packages: tuple[Package, ...]
    digest: str
    deadline: Deadline
    report: Report


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a family is made.

    `ours` is everything of ours that makes the image what it is, `packages` what it would be made of now; the two
    give the digest before anything is built. `build` writes `disk.qcow2` and, for direct boot, `vmlinuz` and
    `initrd`, and returns what was installed, `name=version` each; it raises Refused with what went wrong.
    """

    os_image: str
    os_version: str
    default_bytes: int  # what a disk gets unasked
    append: str  # kernel command line for direct boot, empty: by firmware
    ours: Callable[[], Sequence[bytes]]
    packages: Callable[[Archive], list[Package]]
    build: Callable[[Work], list[str]]
