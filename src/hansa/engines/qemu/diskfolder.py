"""Where the files of disks are, and what is known of each beside its file.

`UID.qcow2` is the disk and `UID.json` its note; `UID.qcow2.part` is a disk that is being made, and `UID.work.json` says
which QEMU works on it. Nothing here talks to a process.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from hansa.engines.qemu.files import read_json, sync_file, sync_folder, write_json
from hansa.engines.qemu.names import checked, is_uid
from hansa.engines.qemu.qcow2 import head
from hansa.engines.qemu.shape import shaped
from hansa.errors import Refused
from hansa.units import DISK_BYTES_MAX, MIB

FULL_SHARE = 0.85  # above this no new disk is made: thin disks promise more than there is
RESUME_BYTES = 32 * MIB  # with this much free a guest that waits for room goes on


@dataclass(frozen=True, slots=True)
class Note:
    """What is known of one disk."""

    generation: int = 0
    image: str = ""  # folder of the image that it descends from, whose kernel may start it
    below: str = ""  # the file that it lies upon, empty: none
    taken_at: float = 0.0  # epoch seconds of the moment that a copy shows, 0: no copy


class Task(StrEnum):
    COPY = "copy"
    GROW = "grow"


@dataclass(frozen=True, slots=True)
class Work:
    """What a QEMU does with disk `uid`, recorded before it is begun."""

    uid: str = ""
    task: Task = Task.COPY
    generation: int = 0
    source: str = ""  # the disk that is read, `uid` itself when it grows
    machine: str = ""  # whose QEMU does it, empty: a worker of its own
    user: int = 0  # of that worker
    size_bytes: int = 0
    image: str = ""  # as in the note of the source
    taken_at: float = 0.0
    filled: bool = False  # the copy is complete and closed: what is left is names


@dataclass(frozen=True, slots=True)
class Space:
    """Room on a file system, as an ordinary user sees it."""

    used_bytes: int
    free_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.used_bytes + self.free_bytes

    def share(self, more_bytes: int = 0) -> float:
        """How full it is, 0 … 1, with `more_bytes` written."""
        return (self.used_bytes + more_bytes) / max(1, self.total_bytes)


def space(folder: Path) -> Space:
    """Room where `folder` is, or will be."""
    while not folder.exists():
        folder = folder.parent
    found = shutil.disk_usage(folder)
    return Space(found.used, found.free)


def full_message(room: Space, more_bytes: int = 0) -> str:
    """Why no disk that may take `more_bytes` is made now, for a user; empty: it is."""
    if room.share() > FULL_SHARE:
        return f"the host's disk is {room.share():.0%} full: no new disk fits safely"
    if room.share(more_bytes) > FULL_SHARE:
        return f"the host's disk would be {room.share(more_bytes):.0%} full with this disk: it does not fit safely"
    return ""


def rounded(size_bytes: int) -> int:
    """Up to a whole MiB: decimal sizes are not even whole sectors."""
    return -(-size_bytes // MIB) * MIB


class DiskFolder:
    """The disks below one data folder."""

    def __init__(self, data_dir: Path) -> None:
        self.path = data_dir / "disks"

    def disk(self, uid: str) -> Path:
        """Raises Refused for what is no uid."""
        return self.path / f"{checked(uid)}.qcow2"

    def part(self, uid: str) -> Path:
        return self.path / f"{checked(uid)}.qcow2.part"

    def upload(self, uid: str) -> Path:
        """What an image is fetched into: gone with the disk, and when the disk is made."""
        return self.path / f".{checked(uid)}.upload"

    def size_bytes(self, uid: str) -> int | None:
        """What the disk holds, None when it is not here. Raises Refused when its file is damaged."""
        found = head(self.disk(uid))
        if found is not None and found.size_bytes > DISK_BYTES_MAX + MIB:
            raise Refused("ProvisioningFailed", "the disk's file is damaged: it claims an impossible size")
        return found.size_bytes if found else None

    def written_bytes(self, uid: str) -> int:
        """What the disk and what lies below take on the host: the most that a copy will take."""
        files = (self.disk(uid), Path((self.note(uid) or Note()).below))
        return sum(file.stat().st_blocks * 512 for file in files if file.is_file())

    def note(self, uid: str) -> Note | None:
        return shaped(read_json(self._note(uid)), Note())

    def write_note(self, uid: str, note: Note) -> None:
        write_json(self._note(uid), asdict(note))

    def work(self, uid: str) -> Work | None:
        return shaped(read_json(self._work(uid)), Work())

    def write_work(self, work: Work) -> None:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_json(self._work(work.uid), asdict(work))

    def end_work(self, uid: str) -> None:
        self._work(uid).unlink(missing_ok=True)

    def works(self) -> list[Work]:
        """Everything that is being done."""
        names = sorted(self.path.glob("*.work.json")) if self.path.is_dir() else []
        found = (self.work(name.name.partition(".")[0]) for name in names if is_uid(name.name.partition(".")[0]))
        return [work for work in found if work]

    def commit(self, uid: str) -> None:
        """The finished `.part` becomes the disk. May be repeated."""
        part = self.part(uid)
        if part.exists():
            part.chmod(0o600)
            sync_file(part)
            part.rename(self.disk(uid))
        sync_folder(self.path)

    def tidy(self) -> None:
        """Take away halves of notes that a killed process left. For the one that drives this host, before it begins."""
        for half in self.path.glob(".*.part"):
            half.unlink(missing_ok=True)

    def uids(self) -> list[str]:
        """Every disk of which there is anything."""
        if not self.path.is_dir():
            return []
        names = {entry.name.lstrip(".").partition(".")[0] for entry in self.path.iterdir()}
        return sorted(filter(is_uid, names))

    def erase(self, uid: str) -> None:
        """The disk goes first and its note last: what is interrupted is found again and ended."""
        for file in (self.part(uid), self.disk(uid), self._work(uid), *self.path.glob(f".{checked(uid)}.*")):
            file.unlink(missing_ok=True)
        self._note(uid).unlink(missing_ok=True)
        if self.path.is_dir():
            sync_folder(self.path)

    def _note(self, uid: str) -> Path:
        return self.path / f"{checked(uid)}.json"

    def _work(self, uid: str) -> Path:
        return self.path / f"{checked(uid)}.work.json"
