"""The ports through which the control loop touches the world: data in, a report out.

Each engine fills one port; its simulated twin fills the same one and passes the same contract tests.
Rules for all of them: `uid` is the token of idempotence; a call takes at most 30 s and one bounded step,
and may be repeated at any time; `generation` is sent along and an engine refuses one older than it has
seen (`Refused`); only `Retry` and `Refused` of `hansa.errors` leave an engine. No option, path or
format ever comes from a tenant: everything here is already validated data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol


class MachineState(StrEnum):
    """What a compute engine sees of one machine."""

    ABSENT = "absent"  # no process; it was never started, or it was stopped as asked
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    POWERED_OFF = "powered-off"  # the guest switched itself off: a wish, not a fault
    DIED = "died"  # the process ended though nobody asked: a fault


@dataclass(frozen=True, slots=True)
class PluggedDisk:
    """A permanent disk as a machine sees it; order in `Machine.disks` is /dev/vda, /dev/vdb, …"""

    uid: str
    boot: bool = False


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


@dataclass(frozen=True, slots=True)
class MachineReport:
    """What is there. `message` is for the user; `ssh_port` is the forwarded port on 127.0.0.1, 0: none."""

    uid: str
    state: MachineState
    generation: int = 0
    message: str = ""
    ssh_port: int = 0
    started_at: float = 0.0  # epoch seconds of the process start, 0: not running
    devices: tuple[str, ...] = ()  # guest device names in the order of `Machine.disks`


class VolumeState(StrEnum):
    READY = "ready"
    WAITING_FOR_IMAGE = "waiting-for-image"  # the image is being built; `progress` says how far
    TOO_SMALL = "too-small"  # the image needs more room; `size_bytes` says how much
    IMAGE_UNAVAILABLE = "image-unavailable"  # it cannot be had on this host; `message` says what to do


@dataclass(frozen=True, slots=True)
class Volume:
    """One disk as it is wanted. `image` is the family of a catalogue image ("tiny"), None: a blank disk.

    `size_bytes` 0 means the image's own default size.
    """

    uid: str
    generation: int
    size_bytes: int
    image: str | None = None


@dataclass(frozen=True, slots=True)
class VolumeReport:
    uid: str
    state: VolumeState
    size_bytes: int = 0
    generation: int = 0
    message: str = ""
    progress: float = 0.0  # 0 … 1 while waiting for an image


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
    gpu_model: str = ""
    gpus: int = 0
    accelerator: str = ""  # "kvm", "tcg", "simulated"; empty while unknown
    isolation: str = ""  # "hardware" or "none"
    network: str = ""  # "user" (slirp), later "bridge", "userspace", "simulated"
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

    async def console(self, uid: str, limit_bytes: int) -> bytes:
        """The last `limit_bytes` of the console log."""
        ...

    async def held(self) -> Sequence[Held]: ...


class VolumeEngine(Protocol):
    """Disks of one host (or of one zone's pool)."""

    async def apply(self, wanted: Volume) -> VolumeReport: ...

    async def remove(self, uid: str) -> bool: ...

    async def held(self) -> Sequence[Held]: ...
