"""The ports through which the control loop touches the world: data in, a report out.

Each engine fills one port; its simulated twin fills the same one and passes the same contract tests.
Rules for all of them: `uid` is the token of idempotence; a call takes at most 30 s and one bounded step,
and may be repeated at any time; `generation` is sent along and an engine refuses one older than it has
seen (`Refused`); only `Retry` and `Refused` of `hansa.errors` leave an engine. No option, path or
format ever comes from a tenant: everything here is already validated data.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

# -- machines -----------------------------------------------------------------------------------


class MachineState(StrEnum):
    """What a compute engine sees of one machine."""

    ABSENT = "absent"  # no process; it was never started, or it was stopped as asked
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"  # its host holds it back, as when the host's disk is full; `message` says why
    STOPPING = "stopping"
    POWERED_OFF = "powered-off"  # the guest switched itself off: a wish, not a fault
    DIED = "died"  # the process ended though nobody asked: a fault
    LOST = "lost"  # it went with its host (a restart, its network torn down): nobody's fault


@dataclass(frozen=True, slots=True)
class PluggedDisk:
    """A permanent disk as a machine sees it; order in `Machine.disks` is /dev/vda, /dev/vdb, …"""

    uid: str
    boot: bool = False


@dataclass(frozen=True, slots=True)
class HotDisk:
    """A disk that comes and goes while the machine runs. The guest finds it by `serial`:
    /dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_<serial>, at most 20 letters and digits."""

    uid: str
    serial: str


GUEST_MTU = 1450  # bytes, on every network: 1500 without the heads of a tunnel between hosts (VXLAN over IPv4)
GUEST_ROUTER = "fe80::1"  # the host, on every guest's link


@dataclass(frozen=True, slots=True)
class Nic:
    """The machine's one network card. Addresses are plain text, prefixes are bits."""

    mac: str
    ipv4: str | None
    ipv4_network: str | None  # CIDR of the subnet
    ipv4_gateway: str | None
    ipv6: str | None
    ipv6_network: str | None
    ipv6_gateway: str | None


@dataclass(frozen=True, slots=True)
class Seed:
    """What first boot is told (NoCloud). `user_data` is passed on byte for byte."""

    hostname: str
    authorized_keys: tuple[str, ...] = ()
    user_data: bytes = b""


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine as it is wanted on one host."""

    uid: str
    name: str
    generation: int
    running: bool
    vcpus: int
    memory_bytes: int
    disks: tuple[PluggedDisk, ...]
    nic: Nic
    seed: Seed
    image: str | None  # catalogue family that the boot disk came from ("tiny", "debian"), None: blank or unknown
    network: str = ""  # uid of the network that its card is plugged into
    hot_disks: tuple[HotDisk, ...] = ()


@dataclass(frozen=True, slots=True)
class MachineReport:
    """What is there. `message` is for the user."""

    uid: str
    state: MachineState
    generation: int = 0
    message: str = ""
    started_at: float = 0.0  # epoch seconds of the process start, 0: not running
    ended_at: float = 0.0  # epoch seconds at which a LOST one was last seen to run, 0: not known
    devices: tuple[str, ...] = ()  # guest device names in the order of `Machine.disks`
    hot_disks: tuple[str, ...] = ()  # uids of the disks that are plugged in beside these
    letting_go: tuple[str, ...] = ()  # of them, those that are to go and that the guest still holds


class Console(Protocol):
    """A machine's serial console, both ways. Several may be open; all see the same."""

    async def read(self) -> bytes:
        """What the guest wrote since, empty once the console is closed or the machine gone."""
        ...

    async def write(self, data: bytes) -> None:
        """Raises Retry when the machine is gone."""
        ...

    async def close(self) -> None: ...


# -- disks --------------------------------------------------------------------------------------


class VolumeState(StrEnum):
    READY = "ready"
    WAITING_FOR_IMAGE = "waiting-for-image"  # the image is being built; `progress` says how far
    COPYING = "copying"  # from its source; `progress` says how far
    TOO_SMALL = "too-small"  # the source needs more room; `size_bytes` says how much
    IMAGE_UNAVAILABLE = "image-unavailable"  # it cannot be had on this host; `message` says what to do
    HOST_FULL = "host-full"  # the host's disk has no room for it now; `message` says how full it is


class ImageFormat(StrEnum):
    """Of an uploaded image: what the name of its object says, and nothing in it."""

    QCOW2 = "qcow2"
    VHDX = "vhdx"
    RAW = "raw"


@dataclass(frozen=True, slots=True)
class Upload:
    """One version of an object that holds a disk image. To an engine its key is a word for `ObjectSource`, no more."""

    project: str
    region: str
    bucket: str  # uid
    key: str
    version: str
    format: ImageFormat
    size_bytes: int


class ObjectSource(Protocol):
    """Where uploads are read."""

    def read(self, upload: Upload) -> AsyncGenerator[bytes, None]:
        """Its bytes, in order. Raises Retry, and Refused for one that is gone or cannot be opened."""
        ...


@dataclass(frozen=True, slots=True)
class Volume:
    """One disk as it is wanted: blank, from a catalogue image, from an upload, or a full copy of another volume.

    `image` is a family ("tiny"), `copy_of` the uid of a volume; without one of the three it is blank. A copy of a volume that a
    running machine writes to is what a power cut would leave; it does not depend on its source once READY.
    `size_bytes` 0 means the source's own size.
    """

    uid: str
    generation: int
    size_bytes: int
    image: str | None = None
    copy_of: str | None = None
    upload: Upload | None = None


@dataclass(frozen=True, slots=True)
class VolumeReport:
    uid: str
    state: VolumeState
    size_bytes: int = 0
    generation: int = 0
    message: str = ""
    progress: float = 0.0  # 0 … 1 while waiting for an image or copying
    taken_at: float = 0.0  # epoch seconds of the moment that a copy shows, 0: no copy


# -- networks -----------------------------------------------------------------------------------


class Direction(StrEnum):
    INGRESS = "ingress"
    EGRESS = "egress"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a security group. `protocol`: tcp, udp, icmp (both families) or all.

    `ports`: first and last, None: every port. The remote is one of `cidrs` (v4 or v6), or a member of the
    group `group` (uid); with neither it is anyone.
    """

    direction: Direction
    protocol: str
    ports: tuple[int, int] | None = None
    cidrs: tuple[str, ...] = ()
    group: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """A security group with the addresses of all its members, wherever they stand."""

    uid: str
    generation: int
    rules: tuple[Rule, ...] = ()
    members: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Port:
    """Where one machine of this host is plugged in. Without a group nothing passes but DHCP and DNS."""

    uid: str  # of the machine
    generation: int  # of the machine's spec
    name: str  # by DHCP, and in DNS as `<name>.internal`
    mac: str
    ipv4: str | None
    ipv6: str | None
    groups: tuple[str, ...] = ()
    public_ipv4: str | None = None


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A machine of the same network on another host, reached through the tunnel to `host` (an address)."""

    name: str
    ipv4: str | None
    ipv6: str | None
    host: str


@dataclass(frozen=True, slots=True)
class Range:
    """One subnet: CIDRs and the gateway's address in each family."""

    ipv4: str | None
    ipv4_gateway: str | None
    ipv6: str | None
    ipv6_gateway: str | None


@dataclass(frozen=True, slots=True)
class HostNetwork:
    """The whole wanted state of one private network on one host.

    `revision` is the store's at the time of reading: an engine ignores an older one than it has seen.
    `blocks`: the VPC's CIDRs. `tunnel`: the VXLAN network identifier, unique in the region.
    """

    uid: str
    revision: int
    blocks: tuple[str, ...]
    ranges: tuple[Range, ...]
    ports: tuple[Port, ...] = ()
    groups: tuple[Group, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    tunnel: int = 0


@dataclass(frozen=True, slots=True)
class NetworkReport:
    """What is enforced: each port with the generation of its machine, each group with its own.

    `forwards`: port 22 of a machine on this port of 127.0.0.1 of the host.
    """

    uid: str
    revision: int
    ports: Mapping[str, int] = field(default_factory=dict)
    groups: Mapping[str, int] = field(default_factory=dict)
    publics: Mapping[str, str] = field(default_factory=dict)  # public address -> uid of the machine it reaches
    forwards: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NetworkHost:
    """How a host makes networks: "namespaces" (root), "user-namespaces" (without), "userspace", "simulated".

    Not healthy: a closed port was not found closed, and the host takes no machine; `message` says why.
    `uplink`: the way out: "pasta", "slirp", "none".
    """

    mode: str
    healthy: bool
    message: str = ""
    uplink: str = "none"


@dataclass(frozen=True, slots=True)
class Link:
    """What a machine's card is plugged into, ready to be handed to a new process; `close` lets go of it.

    Either `tap`, a file descriptor of a tap device, with `namespace`, one of the network namespace that the
    process shall run in (`holder`: a process whose user namespace it must enter first, 0: none), or `local`
    and `remote`, paths of datagram sockets.
    """

    tap: int = -1
    namespace: int = -1
    holder: int = 0
    local: str = ""
    remote: str = ""

    def close(self) -> None:
        for handle in (self.tap, self.namespace):
            if handle >= 0:
                socket.close(handle)


# -- hosts --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Held:
    """Something that an engine holds, for the sweep."""

    uid: str
    generation: int


@dataclass(frozen=True, slots=True)
class HostReport:
    """What a host is and can do. Capacities are physical, before overcommit."""

    name: str
    simulated: bool
    healthy: bool
    vcpus: int
    memory_bytes: int
    disk_bytes: int
    disk_free_bytes: int = 0
    gpu_model: str = ""
    gpus: int = 0
    accelerator: str = ""  # "kvm", "tcg", "simulated"; empty while unknown
    isolation: str = ""  # "hardware" or "none"
    limits: tuple[str, ...] = ()  # what a guest's control group bounds here: "cpu", "memory", "pids", "io"
    engine: str = ""  # name and version: "qemu 7.2.19"
    message: str = ""  # why it is not healthy, or why this accelerator
    features: frozenset[str] = field(default_factory=frozenset)


class ComputeEngine(Protocol):
    """Machines on one host."""

    async def host(self) -> HostReport: ...

    async def apply(self, wanted: Machine) -> MachineReport:
        """Take one step towards `wanted` and say what is there. Raises Retry, Refused."""
        ...

    async def observe(self, uid: str) -> MachineReport: ...

    async def remove(self, uid: str) -> bool:
        """True once no process, file, port or socket of this machine is left."""
        ...

    async def log(self, uid: str, limit_bytes: int) -> bytes:
        """The last `limit_bytes` of the console log, kept over restarts of the machine."""
        ...

    async def console(self, uid: str) -> Console:
        """The live console. Raises Retry when the machine does not run."""
        ...

    async def held(self) -> Sequence[Held]: ...


class VolumeEngine(Protocol):
    """Disks of one host (or of one zone's pool)."""

    async def apply(self, wanted: Volume) -> VolumeReport: ...

    async def remove(self, uid: str) -> bool: ...

    async def held(self) -> Sequence[Held]: ...


class NetworkEngine(Protocol):
    """Private networks on one host."""

    async def host(self) -> NetworkHost: ...

    async def apply(self, wanted: HostNetwork) -> NetworkReport:
        """Make the network so: what is no longer in it is closed when this returns, open connections of a
        rule that is gone included. Raises Retry, Refused."""
        ...

    async def observe(self, uid: str) -> NetworkReport | None:
        """What is enforced, None for a network that is not on this host."""
        ...

    async def plug(self, network: str, machine: str) -> Link:
        """What the card of `machine` is plugged into. Raises Retry while its port is not there."""
        ...

    async def dial(self, network: str, address: str, port: int) -> socket.socket:
        """A TCP connection from the host to a machine, past the security groups: for logins and consoles of
        owners, never for tenants' traffic. Raises Retry when nothing answers."""
        ...

    async def remove(self, uid: str) -> bool:
        """True once nothing of the network is left on this host."""
        ...

    async def held(self) -> Sequence[Held]:
        """Networks on this host; the generation is the revision that was applied."""
        ...
