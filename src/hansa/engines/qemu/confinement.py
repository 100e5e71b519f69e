"""What a QEMU may do on this host: as little as it can, by words in front of its command line.

Each word is a program that gives something up and becomes the next, so the process keeps its pid: `nsenter` or
`unshare` leave our network, `setpriv` leaves our user, our groups and every capability. Whoever breaks out of the
emulator is nobody, owns no file and reaches no address.
"""

from __future__ import annotations

import zlib
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

USER_FIRST, USERS = 2_100_000_000, 40_000_000  # no distribution gives these numbers to anyone
KVM = Path("/dev/kvm")

_PROC = Path("/proc")
_SETGID, _SETUID, _SETPCAP, _SYS_ADMIN = 6, 7, 8, 21  # numbers of capabilities


@dataclass(frozen=True, slots=True)
class Rights:
    """What we may take from a process that we start. A container's root may have less than a host's."""

    users: bool = False  # give it a user of its own
    networks: bool = False  # give it a network of its own
    bounds: bool = False  # keep every capability from it for good


@dataclass(frozen=True, slots=True)
class Confinement:
    """How one QEMU is held."""

    rights: Rights
    user: int = 0  # its user, 0: ours
    group: int = 0  # of a device that it opens, 0: none
    namespace: int = -1  # descriptor of the network namespace that it runs in, -1: one of its own where we may
    holder: int = 0  # process whose user namespace is entered first, 0: none


def own_rights() -> Rights:
    """As the kernel says."""
    status = (_PROC / "self/status").read_text()
    held = int(status.partition("CapEff:")[2].split()[0], 16)
    mapped = all(_maps((_PROC / f"self/{name}_map").read_text()) for name in ("uid", "gid"))
    return Rights(
        users=mapped and _has(held, _SETUID) and _has(held, _SETGID),
        networks=_has(held, _SYS_ADMIN),
        bounds=_has(held, _SETPCAP),
    )


def words(held: Confinement) -> list[str]:
    """The programs in front of the command, each with its options."""
    return [*_network(held), *_rights(held)]


def choose_user(seed: str, taken: Container[int]) -> int:
    """A user for the process that `seed` names, none of `taken`. The same seed finds the same one where it can."""
    first = zlib.crc32(seed.encode())
    users = (USER_FIRST + (first + step) % USERS for step in range(USERS))
    return next(user for user in users if user not in taken)


def living_users() -> set[int]:
    """The users of all processes of this host. Reads all of /proc."""
    return set(_owners())


def device_group(accelerator: str) -> int:
    """The group that must be kept to open the accelerator's device, 0: none."""
    if accelerator != "kvm" or not KVM.exists():
        return 0
    found = KVM.stat()
    return 0 if found.st_mode & 0o006 == 0o006 else found.st_gid


def _network(held: Confinement) -> list[str]:
    if held.namespace < 0:
        return ["unshare", "--net"] if held.rights.networks else []
    enter = ["-t", str(held.holder), "-U", "--preserve-credentials"] if held.holder else []
    return ["nsenter", *enter, f"--net=/proc/self/fd/{held.namespace}"]


def _rights(held: Confinement) -> list[str]:
    words = ["setpriv", "--no-new-privs", "--inh-caps=-all"]
    if held.user and not held.holder:
        groups = ["--groups", str(held.group)] if held.group else ["--clear-groups"]
        words += ["--reuid", str(held.user), "--regid", str(held.user), *groups]
    if held.rights.bounds or held.holder:  # whoever enters a user namespace is root there, and us outside
        words.append("--bounding-set=-all")
    return words


def _has(capabilities: int, number: int) -> bool:
    return bool(capabilities >> number & 1)


def _maps(table: str) -> bool:
    """Whether the users that we give exist in this user namespace."""
    rows = [tuple(map(int, line.split())) for line in table.splitlines()]
    return any(first <= USER_FIRST and first + count >= USER_FIRST + USERS for first, _, count in rows)


def _owners() -> Iterator[int]:
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            try:
                yield entry.stat().st_uid
            except FileNotFoundError:
                continue
