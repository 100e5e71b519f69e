"""Control groups: what a guest's QEMU may take of the host, held by the kernel.

One group a guest, `hansa/CLOUD/UID`, and above all of them `hansa`, whose weight is their share beside the host's other
work: in the second version of control groups where its controllers are there and may be used, else in the hierarchies of
the first, else none. Which controllers work is found out once by making a group and writing a bound. Everything blocks
for less than a millisecond a file.
Source: Linux, Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hansa.engines.qemu import blocks
from hansa.engines.qemu.names import is_uid
from hansa.units import MIB

CONTROLLERS = ("cpu", "memory", "pids", "io")
PROCESSES_MAX = 256
WEIGHT = 100  # of a group that nobody gave another

_FIRST_VERSION = {"cpu": "cpu", "memory": "memory", "pids": "pids", "io": "blkio"}
_OURS = "hansa"
_CONTROL = "hansa-control"  # where we stand ourselves: a group with subgroups holds no process
_PERIOD_US = 100_000
_REMOVAL_LIMIT_S = 1.0
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one QEMU may take. `cores_milli`: thousandths of a core."""

    memory_bytes: int
    cores_milli: int


def bounds(vcpus: int, memory_bytes: int, cache_mib: int) -> Bounds:
    """A guest's processors and half a core for the emulator; its memory, a quarter, and what an emulator needs."""
    return Bounds(memory_bytes * 5 // 4 + (200 + cache_mib) * MIB, vcpus * 1000 + 500)


def second_version(limits: Bounds, device: str) -> dict[str, dict[str, str]]:
    """The files of one group by controller. `device`: MAJOR:MINOR of the host's disk."""
    return {
        "cpu": {"cpu.max": f"{limits.cores_milli * _PERIOD_US // 1000} {_PERIOD_US}"},
        "memory": {"memory.max": str(limits.memory_bytes)},
        "pids": {"pids.max": str(PROCESSES_MAX)},
        "io": {"io.max": f"{device} " + " ".join(f"{name}={most}" for name, most in _io().items())},
    }


def first_version(limits: Bounds, device: str) -> dict[str, dict[str, str]]:
    """The same in the words of the first version."""
    names = {"rbps": "read_bps", "wbps": "write_bps", "riops": "read_iops", "wiops": "write_iops"}
    return {
        "cpu": {
            "cpu.cfs_period_us": str(_PERIOD_US),
            "cpu.cfs_quota_us": str(limits.cores_milli * _PERIOD_US // 1000),
        },
        "memory": {"memory.limit_in_bytes": str(limits.memory_bytes)},
        "pids": {"pids.max": str(PROCESSES_MAX)},
        "io": {f"blkio.throttle.{names[name]}_device": f"{device} {most}" for name, most in _io().items()},
    }


def share(weight: int, *, second: bool) -> tuple[str, str]:
    """The file that holds the weight of a group among its siblings, and what to write. `weight`: 1 … 10,000, as the second
    version has it; the first counts in 1024 where the second has 100."""
    return ("cpu.weight", str(weight)) if second else ("cpu.shares", str(max(2, weight * 1024 // WEIGHT)))


def mounts(table: str) -> dict[str, Path]:
    """Where control groups are mounted, from the text of /proc/self/mountinfo: by controller, `unified` for the second
    version."""
    found: dict[str, Path] = {}
    for line in table.splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.partition(" ")
        place = Path(left.split()[4])
        if kind == "cgroup2":
            found.setdefault("unified", place)
        elif kind == "cgroup":
            for name in options.rpartition(" ")[2].split(","):
                found.setdefault(name, place)
    return found


def own_group(table: str) -> str:
    """The group below which ours are made, from the text of /proc/self/cgroup: where we stand, or stood at first."""
    lines = [line.removeprefix("0::/") for line in table.splitlines() if line.startswith("0::/")]
    return "".join(lines).removesuffix(_CONTROL).rstrip("/")


@dataclass(frozen=True, slots=True)
class _Tree:
    """One hierarchy below which we make groups."""

    base: Path
    controllers: tuple[str, ...]
    second: bool = False

    def group(self, *names: str) -> Path:
        """The folder of a group, made with all above it, which whoever removes another group may take away meanwhile."""
        for _ in range(_ATTEMPTS - 1):
            with contextlib.suppress(FileNotFoundError):
                return self._make(names)
        return self._make(names)

    def _make(self, names: tuple[str, ...]) -> Path:
        folder = self.base
        for name in (_OURS, *names):
            if self.second:
                for controller in self.controllers:
                    (folder / "cgroup.subtree_control").write_text(f"+{controller}")
            folder = folder / name
            folder.mkdir(exist_ok=True)
        return folder


class Groups:
    """The groups of one cloud. `weight`: of all guests together, see `share`."""

    def __init__(self, cloud: str, data_dir: Path, *, weight: int = WEIGHT) -> None:
        self._cloud = cloud
        self._data_dir = data_dir
        self._weight = weight
        self._known: tuple[_Tree, ...] | None = None
        self._finding = threading.Lock()

    @property
    def limits(self) -> tuple[str, ...]:
        """What a group bounds here."""
        working = {name for tree in self._trees() for name in tree.controllers}
        return tuple(name for name in CONTROLLERS if name in working)

    def make(self, uid: str, limits: Bounds) -> None:
        """A group with these bounds, made or changed."""
        for tree in self._trees():
            _bound(tree, tree.group(self._cloud, uid), limits, device_of(self._data_dir))
            if "cpu" in tree.controllers:
                name, text = share(self._weight, second=tree.second)
                (tree.base / _OURS / name).write_text(text)

    def take_in(self, uid: str, pid: int) -> None:
        """Move a process with all its threads. It may be in the group already, or be gone."""
        for tree in self._trees():
            with contextlib.suppress(ProcessLookupError):
                (tree.base / _OURS / self._cloud / uid / "cgroup.procs").write_text(str(pid))

    def remove(self, uid: str) -> bool:
        """True once the group is gone: a process that has just ended may hold it for a moment."""
        end = time.monotonic() + _REMOVAL_LIMIT_S
        for tree in self._trees():
            cloud = tree.base / _OURS / self._cloud
            while not _removed(cloud / uid):
                if time.monotonic() > end:
                    return False
                time.sleep(0.005)
            if _removed(cloud):  # it stays while another group is in it
                _removed(cloud.parent)
        return True

    def uids(self) -> set[str]:
        """Machines that have a group."""
        places = (tree.base / _OURS / self._cloud for tree in self._trees())
        return {entry.name for place in places if place.is_dir() for entry in place.iterdir() if is_uid(entry.name)}

    def _trees(self) -> tuple[_Tree, ...]:
        with self._finding:
            if self._known is None:
                there = mounts(Path("/proc/self/mountinfo").read_text())
                device = device_of(self._data_dir)
                tried = _second_trees(there) or _first_trees(there)
                self._known = tuple(tree for tree in tried if _works(tree, self._cloud, device))
            return self._known


def device_of(folder: Path) -> str:
    """MAJOR:MINOR of the whole disk that holds `folder`, or will; empty where it is none that can be bounded."""
    while not folder.exists():
        folder = folder.parent
    number = folder.stat().st_dev
    entry = Path("/sys/dev/block") / f"{os.major(number)}:{os.minor(number)}"
    if not entry.exists():
        return ""
    whole = entry.resolve().parent if (entry / "partition").exists() else entry
    return (whole / "dev").read_text().strip()


def _second_trees(there: Mapping[str, Path]) -> list[_Tree]:
    """One tree a controller, though they share a folder: each is tried alone."""
    mount = there.get("unified")
    base = _own_group(mount) if mount else None
    if base is None:
        return []
    known = (base / "cgroup.controllers").read_text().split()
    return [_Tree(base, (name,), second=True) for name in CONTROLLERS if name in known]


def _first_trees(there: Mapping[str, Path]) -> list[_Tree]:
    return [_Tree(there[name], (ours,)) for ours, name in _FIRST_VERSION.items() if name in there]


def _own_group(mount: Path) -> Path | None:
    """Where we may make groups: anywhere as root, else below the group that was delegated to us.

    A group with subgroups holds no process itself, so whoever is in ours moves down, we among them.
    """
    if os.geteuid() == 0:
        return mount
    base = mount / own_group(Path("/proc/self/cgroup").read_text())
    if not os.access(base, os.W_OK) or not os.access(base / "cgroup.procs", os.W_OK):
        return None
    try:
        (base / _CONTROL).mkdir(exist_ok=True)
        for pid in (base / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                (base / _CONTROL / "cgroup.procs").write_text(pid)
    except OSError:
        return None  # not delegated to us in fact
    return base


def _works(tree: _Tree, cloud: str, device: str) -> bool:
    """Whether a group can be made and bounded: found out by doing it."""
    name = f"probe-{os.getpid()}"
    try:
        _bound(tree, tree.group(cloud, name), bounds(1, 0, 0), device)
    except OSError:
        return False
    finally:
        cloud_folder = tree.base / _OURS / cloud
        if _removed(cloud_folder / name) and _removed(cloud_folder):
            _removed(cloud_folder.parent)
    return True


def _bound(tree: _Tree, folder: Path, limits: Bounds, device: str) -> None:
    words = second_version(limits, device) if tree.second else first_version(limits, device)
    for controller in tree.controllers:
        for name, text in words[controller].items():
            (folder / name).write_text(text)


def _removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _io() -> dict[str, int]:
    """The ceilings of a burst: below them QEMU's own throttle holds the steady rate."""
    return {
        "rbps": blocks.READ_BYTES_PER_S_MAX,
        "wbps": blocks.WRITE_BYTES_PER_S_MAX,
        "riops": blocks.OPERATIONS_PER_S_MAX,
        "wiops": blocks.OPERATIONS_PER_S_MAX,
    }
