"""The command line of one guest: pure, from the machine as it is wanted and where its files are.

No text of a tenant comes near it: names are uids, addresses were parsed, keys and user data lie on the seed volume.
Paths go in JSON, or with their commas doubled.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Sequence
from dataclasses import dataclass

from hansa.engines.ports import Machine, Nic
from hansa.units import MIB

VCPUS_MAX = 64
SMALL_CACHE_MIB, LARGE_CACHE_MIB = 64, 256  # TCG's translation cache: by default it may take a gigabyte

# A machine without IPv4 gets this one on its card for the forwarded SSH port: QEMU 7.2 forwards to IPv4 only.
MANAGEMENT = Nic("", "100.127.255.2", "100.127.255.0/29", "100.127.255.1", None, None, None)


@dataclass(frozen=True, slots=True)
class DirectBoot:
    """A kernel that is started without firmware and boot loader."""

    kernel: str
    initrd: str
    append: str


@dataclass(frozen=True, slots=True)
class Launch:
    """Everything about a start that is not the machine's own: whose it is, where its files are, on what it runs."""

    cloud: str
    binary: str
    machine_type: str  # with its version, pc-q35-7.2: an upgrade of QEMU must not change a stopped guest's hardware
    accelerator: str  # "kvm" or "tcg"
    ssh_port: int  # on 127.0.0.1
    run_folder: str
    seed: str
    console: str
    disks: tuple[str, ...]  # qcow2 files in the order of `Machine.disks`
    direct: DirectBoot | None = None


def command(machine: Machine, launch: Launch) -> list[str]:
    """The words that start `machine`, paused: `cont` follows when everything is in place."""
    return [
        launch.binary,
        *("-uuid", machine.uid, "-name", f"guest={launch.cloud}.{machine.uid},debug-threads=on"),
        *("-nodefaults", "-no-user-config", "-no-shutdown", "-S", "-display", "none", "-rtc", "base=utc"),
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
        *_processor(machine, launch),
        *_sockets(launch),
        *_boot(launch.direct),
        *("-device", "virtio-scsi-pci,id=scsi0"),  # disks that come and go
        *_disks(machine, launch.disks),
        *_seed(launch.seed),
        *("-netdev", netdev(machine.nic, launch.ssh_port)),
        *("-device", f"virtio-net-pci,netdev=n0,mac={machine.nic.mac},romfile="),
        *("-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0"),
        *("-device", "vmgenid,guid=auto"),
    ]


def node_of(disk_uid: str) -> str:
    """The block node of a disk: QEMU allows 31 letters."""
    return f"d-{disk_uid.replace('-', '')[:28]}"


def netdev(nic: Nic, ssh_port: int) -> str:
    """Slirp with everything shut but DHCP and the forwarded port: until groups filter, closed is the safe side."""
    ipv4 = nic if nic.ipv4 and nic.ipv4_network and nic.ipv4_gateway else MANAGEMENT
    words = [
        "user,id=n0,restrict=on",
        f"ipv4=on,net={ipv4.ipv4_network},host={ipv4.ipv4_gateway},dhcpstart={ipv4.ipv4}",
        f"dns={_spare_address(str(ipv4.ipv4_network), ipv4.ipv4, ipv4.ipv4_gateway)}",
        f"hostfwd=tcp:127.0.0.1:{ssh_port}-{ipv4.ipv4}:22",
        *_ipv6(nic),
    ]
    return ",".join(words)


def devices(machine: Machine) -> tuple[str, ...]:
    """What the guest calls its permanent disks."""
    return tuple(f"/dev/vd{chr(ord('a') + index)}" for index in range(len(machine.disks)))


def _processor(machine: Machine, launch: Launch) -> list[str]:
    cache = SMALL_CACHE_MIB if launch.direct else LARGE_CACHE_MIB
    kvm = launch.accelerator == "kvm"
    size = -(-machine.memory_bytes // MIB) * MIB
    # Not reserved: a guest costs what it touches, and the overcommit is counted by placement. Never merged with
    # the pages of another guest.
    backend = {"qom-type": "memory-backend-ram", "id": "ram0", "size": size, "reserve": False, "merge": False}
    return [
        *("-machine", f"{launch.machine_type},memory-backend=ram0"),
        *("-accel", "kvm" if kvm else f"tcg,thread=multi,tb-size={cache}"),
        *("-cpu", "host" if kvm else "max"),
        *("-smp", str(min(machine.vcpus, VCPUS_MAX)), "-m", f"{size // MIB}M"),
        *("-object", json.dumps(backend)),
    ]


def _sockets(launch: Launch) -> list[str]:
    run, console = _escaped(launch.run_folder), _escaped(launch.console)
    return [
        *("-chardev", f"socket,id=con,path={run}/con,server=on,wait=off,logfile={console},logappend=on"),
        *("-serial", "chardev:con"),
        *("-qmp", f"unix:{run}/qmp,server=on,wait=off"),
        *("-pidfile", f"{launch.run_folder}/pid"),
    ]


def _boot(direct: DirectBoot | None) -> list[str]:
    if direct is None:
        return []
    return ["-kernel", direct.kernel, "-initrd", direct.initrd, "-append", direct.append]


def _disks(machine: Machine, files: Sequence[str]) -> list[str]:
    words: list[str] = []
    for disk, file in zip(machine.disks, files, strict=True):
        node = node_of(disk.uid)
        block = {
            "driver": "qcow2",
            "node-name": node,
            "discard": "unmap",
            "detect-zeroes": "unmap",
            "file": {"driver": "file", "filename": file},
        }
        # A full host stops the guest, it does not lose its writes.
        device = f"virtio-blk-pci,id=v{node},drive={node},serial={disk.uid.replace('-', '')[:20]},werror=stop"
        words += ["-blockdev", json.dumps(block), "-device", f"{device},bootindex=1" if disk.boot else device]
    return words


def _seed(file: str) -> list[str]:
    """After the disks, so that it does not become /dev/vda."""
    block = {
        "driver": "raw",
        "node-name": "seed",
        "read-only": True,
        "file": {"driver": "file", "filename": file, "read-only": True},
    }
    return ["-blockdev", json.dumps(block), "-device", "virtio-blk-pci,id=vseed,drive=seed,serial=cidata"]


def _ipv6(nic: Nic) -> list[str]:
    if not nic.ipv6 or not nic.ipv6_network:
        return ["ipv6=off"]
    network = ipaddress.IPv6Network(nic.ipv6_network)
    words = [f"ipv6=on,ipv6-prefix={network.network_address},ipv6-prefixlen={network.prefixlen}"]
    if nic.ipv6_gateway:
        words.append(f"ipv6-host={nic.ipv6_gateway}")
    return [*words, f"ipv6-dns={_spare_address(nic.ipv6_network, nic.ipv6, nic.ipv6_gateway)}"]


def _spare_address(network: str, *taken: str | None) -> str:
    """The highest address of `network` that is not `taken`: slirp wants a name server in it, distinct from all.

    The all-ones address comes last: in a /30 no other is left.
    """
    parsed = ipaddress.ip_network(network)
    last = parsed.broadcast_address
    for step in range(1, parsed.num_addresses):
        candidate = str(last - step)
        if candidate not in taken:
            return candidate
    return str(last)


def _escaped(path: str) -> str:
    return path.replace(",", ",,")
