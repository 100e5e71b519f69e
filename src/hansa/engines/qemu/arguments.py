"""The command line of one guest: pure, from the machine as it is wanted and the descriptors of what it works with.

No text of a tenant comes near it, and no path of ours: disks, seed, log, sockets and network card are numbers of files
that we opened. QEMU runs as nobody and could open none of them itself.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from hansa.engines.ports import Link, Machine
from hansa.engines.qemu import blocks
from hansa.units import MIB

VCPUS_MAX = 64
# TCG's translation cache: unbounded it may take a gigabyte. Boots of the tiny guest are no slower with the least.
LEAST_CACHE_MIB, SMALL_CACHE_MIB, LARGE_CACHE_MIB = 32, 64, 256
LEAST_MEMORY_BYTES = 192 * MIB
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


@dataclass(frozen=True, slots=True)
class DirectBoot:
    """A kernel that is started without firmware and boot loader, and its initramfs: descriptors."""

    kernel: int
    initrd: int
    append: str


@dataclass(frozen=True, slots=True)
class Opened:
    """The descriptors of one disk. `below` -1: it lies upon nothing."""

    file: int
    below: int = -1


@dataclass(frozen=True, slots=True)
class Launch:
    """Everything about a start that is not the machine's own: whose it is, on what it runs, and what it may use."""

    cloud: str
    binary: str
    machine_type: str  # with its version, pc-q35-7.2: an upgrade of QEMU must not change a stopped guest's hardware
    accelerator: str  # "kvm" or "tcg"
    monitor: int  # listening sockets
    line: int
    log: int
    seed: int
    disks: tuple[Opened, ...]  # in the order of `Machine.disks`
    direct: DirectBoot | None = None
    link: Link = Link()  # an empty one: no card


def command(machine: Machine, launch: Launch) -> list[str]:
    """The words that start `machine`, paused: `cont` follows when everything is in place."""
    return [
        *identity(launch.binary, launch.cloud, machine.uid),
        *("-no-shutdown", "-rtc", "base=utc"),
        *_processor(machine, launch),
        *_lines(launch),
        *_boot(launch.direct),
        *("-device", "virtio-scsi-pci,id=scsi0"),  # disks that come and go
        *throttles(),
        *_disks(machine, launch.disks),
        *_seed(launch.seed),
        *_card(machine, launch.link),
        *("-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0"),
        *("-device", "vmgenid,guid=auto"),
    ]


def worker(uid: str, cloud: str, binary: str, monitor: int) -> list[str]:
    """The words that start a QEMU without a machine, for work on disks; nodes follow over its monitor."""
    return [*identity(binary, cloud, uid), "-machine", "none", *_monitor(monitor), *throttles()]


def identity(binary: str, cloud: str, uid: str) -> list[str]:
    """Whose process it is, and that it begins with nothing and may do nothing."""
    return [
        binary,
        *("-uuid", uid, "-name", f"guest={cloud}.{uid},debug-threads=on"),
        *("-nodefaults", "-no-user-config", "-S", "-display", "none", "-sandbox", SANDBOX),
    ]


def throttles() -> list[str]:
    return [word for group in blocks.throttles() for word in ("-object", json.dumps(group))]


def devices(machine: Machine) -> tuple[str, ...]:
    """What the guest calls its permanent disks."""
    return tuple(f"/dev/vd{chr(ord('a') + index)}" for index in range(len(machine.disks)))


def cache_mib(machine: Machine, accelerator: str, *, direct: bool) -> int:
    """TCG's translation cache for this machine, 0 under KVM."""
    if accelerator == "kvm":
        return 0
    if machine.memory_bytes <= LEAST_MEMORY_BYTES:
        return LEAST_CACHE_MIB
    return SMALL_CACHE_MIB if direct else LARGE_CACHE_MIB


def _processor(machine: Machine, launch: Launch) -> list[str]:
    cache = cache_mib(machine, launch.accelerator, direct=launch.direct is not None)
    size = -(-machine.memory_bytes // MIB) * MIB
    # Not reserved: a guest costs what it touches, and the overcommit is counted by placement. Never merged with
    # the pages of another guest.
    backend = {"qom-type": "memory-backend-ram", "id": "ram0", "size": size, "reserve": False, "merge": False}
    return [
        *("-machine", f"{launch.machine_type},memory-backend=ram0"),
        *("-accel", f"tcg,thread=multi,tb-size={cache}" if cache else "kvm"),
        *("-cpu", "max" if cache else "host"),
        *("-smp", str(min(machine.vcpus, VCPUS_MAX)), "-m", f"{size // MIB}M"),
        *("-object", json.dumps(backend)),
    ]


def _lines(launch: Launch) -> list[str]:
    console = f"socket,id=con,fd={launch.line},server=on,wait=off,logfile=/dev/fdset/{launch.log},logappend=on"
    return [*_set(launch.log), "-chardev", console, "-serial", "chardev:con", *_monitor(launch.monitor)]


def _monitor(handle: int) -> list[str]:
    return ["-chardev", f"socket,id=qmp,fd={handle},server=on,wait=off", "-mon", "chardev=qmp,mode=control"]


def _boot(direct: DirectBoot | None) -> list[str]:
    if direct is None:
        return []
    files = ("-kernel", f"/proc/self/fd/{direct.kernel}", "-initrd", f"/proc/self/fd/{direct.initrd}")
    return [*files, "-append", direct.append]


def _disks(machine: Machine, opened: tuple[Opened, ...]) -> list[str]:
    words: list[str] = []
    for disk, handles in zip(machine.disks, opened, strict=True):
        node = blocks.node_of(disk.uid)
        words += [*_set(handles.file), *_set(handles.below)]
        words += ["-blockdev", json.dumps(blocks.disk(node, handles.file, handles.below))]
        # A full host stops the guest, it does not lose its writes.
        device = f"virtio-blk-pci,id=v{node},drive={node},serial={disk.uid.replace('-', '')[:20]},werror=stop"
        words += ["-device", f"{device},bootindex=1" if disk.boot else device]
    return words


def _seed(handle: int) -> list[str]:
    """After the disks, so that it does not become /dev/vda."""
    device = f"virtio-blk-pci,id=vseed,drive={blocks.SEED},serial=cidata"
    return [*_set(handle), "-blockdev", json.dumps(blocks.seed(handle)), "-device", device]


def _card(machine: Machine, link: Link) -> list[str]:
    if link.tap < 0 and not link.local:
        return []
    device = f"virtio-net-pci,netdev=n0,mac={machine.nic.mac},romfile="
    return ["-netdev", json.dumps(_netdev(link)), "-device", device]


def _netdev(link: Link) -> dict[str, object]:
    if link.tap >= 0:
        return {"type": "tap", "id": "n0", "fd": str(link.tap)}
    local, remote = ({"type": "unix", "path": path} for path in (link.local, link.remote))
    return {"type": "dgram", "id": "n0", "local": local, "remote": remote}


def _set(handle: int) -> list[str]:
    """The set of descriptors that has the handle's own number; none for -1."""
    return ["-add-fd", f"fd={handle},set={handle}"] if handle >= 0 else []
