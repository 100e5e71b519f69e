"""The simulated twins: hosts, disks and networks that exist only in memory, for zones without machines and for tests.

They fill the ports of `engines.ports` and pass the same contract tests. Everywhere a user looks they are
named as simulated. `faults` makes a call fail before or after it took effect, from a seed. What a real guest
or host does by itself (die, hold a disk, run full) is done by methods that only tests call.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field

from hansa.clock import Clock, SystemClock
from hansa.engines.ports import (
    Held,
    HostNetwork,
    HostReport,
    Link,
    Machine,
    MachineReport,
    MachineState,
    NetworkHost,
    NetworkReport,
    Volume,
    VolumeReport,
    VolumeState,
)
from hansa.errors import Refused, Retry

DEFAULT_IMAGE_BYTES = 10**9
COPY_STEPS = 3  # calls that a copy takes
LOG_BYTES_MAX = 1 << 16
WAITING_MAX = 256  # writes that a console keeps for a reader


@dataclass(slots=True)
class Faults:
    """Chances in [0, 1] that a call fails before, or after, it took effect; and how long calls take."""

    seed: int = 0
    before: float = 0.0
    after: float = 0.0
    delay_s: float = 0.0
    _random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)  # noqa: S311 - a schedule of faults, not a secret

    async def begin(self) -> None:
        if self.delay_s:
            await asyncio.sleep(self._random.random() * self.delay_s)
        if self._random.random() < self.before:
            raise Retry("simulated: the engine did not answer", after_s=0.5)

    def end(self) -> None:
        if self._random.random() < self.after:
            raise Retry("simulated: the engine's answer was lost", after_s=0.5)


# -- machines -----------------------------------------------------------------------------------


class SimulatedConsole:
    """A console without a guest: it shows what is written to it. A reader that lags loses the oldest."""

    def __init__(self, guest: _Guest) -> None:
        self._guest = guest
        self._waiting: asyncio.Queue[bytes] = asyncio.Queue(WAITING_MAX)
        self._closed = False

    async def read(self) -> bytes:
        if self._closed and self._waiting.empty():
            return b""
        return await self._waiting.get()

    async def write(self, data: bytes) -> None:
        if self._closed:
            raise Retry("simulated: the machine is gone")
        self._guest.say(data)

    async def close(self) -> None:
        self._guest.consoles.discard(self)
        self.end()

    def show(self, data: bytes) -> None:
        if self._waiting.full():
            self._waiting.get_nowait()
        self._waiting.put_nowait(data)

    def end(self) -> None:
        """Whoever reads is told once that nothing comes any more."""
        if not self._closed:
            self._closed = True
            self.show(b"")


@dataclass(slots=True)
class _Guest:
    name: str
    generation: int
    state: MachineState = MachineState.ABSENT
    message: str = "simulated"
    started_at: float = 0.0
    ended_at: float = 0.0
    disks: tuple[str, ...] = ()
    hot: dict[str, str] = field(default_factory=dict)  # uid of a disk that is plugged in -> serial
    letting_go: set[str] = field(default_factory=set)  # of them, those that were asked for
    log: bytearray = field(default_factory=bytearray)
    consoles: set[SimulatedConsole] = field(default_factory=set)

    def start(self, now: float) -> None:
        self.state, self.started_at, self.message = MachineState.RUNNING, now, "simulated"
        self.ended_at = 0.0
        self.say(f"simulated: {self.name} started; no real machine stands behind this console\r\n".encode())

    def end(self, state: MachineState) -> None:
        """No process any more: nothing is plugged into it, and nobody talks to it."""
        self.state, self.started_at, self.message = state, 0.0, "simulated"
        self.hot.clear()
        self.letting_go.clear()
        for console in self.consoles:
            console.end()
        self.consoles.clear()

    def say(self, data: bytes) -> None:
        self.log += data
        del self.log[:-LOG_BYTES_MAX]
        for console in self.consoles:
            console.show(data)


class SimulatedCompute:
    """One host on paper. A guest lets go of a disk at once, unless a test holds it."""

    simulated = True

    def __init__(
        self, name: str, clock: Clock, *, vcpus: int, memory_bytes: int, gpu_model: str = "", gpus: int = 0,
        faults: Faults | None = None,
    ) -> None:  # fmt: skip
        self._name, self._clock, self._faults = name, clock, faults or Faults()
        self._room = (vcpus, memory_bytes, gpu_model, gpus)
        self._guests: dict[str, _Guest] = {}
        self._holding: set[str] = set()  # uids of disks that guests hold on to

    async def host(self) -> HostReport:
        vcpus, memory_bytes, model, gpus = self._room
        return HostReport(
            self._name, simulated=True, healthy=True, vcpus=vcpus, memory_bytes=memory_bytes, disk_bytes=10**15,
            disk_free_bytes=10**15, gpu_model=model, gpus=gpus, accelerator="simulated", isolation="none",
            engine="simulated", message="simulated: no real machine stands behind this host",
        )  # fmt: skip

    async def apply(self, wanted: Machine) -> MachineReport:
        await self._faults.begin()
        guest = self._guests.get(wanted.uid)
        if guest is None:
            guest = self._guests[wanted.uid] = _Guest(wanted.name, wanted.generation)
        if wanted.generation < guest.generation:
            raise Refused("StaleGeneration", f"generation {guest.generation} of this machine was seen already")
        guest.generation, guest.disks = wanted.generation, tuple(d.uid for d in wanted.disks)
        if not wanted.running:
            guest.end(MachineState.ABSENT)
        elif guest.state in (MachineState.ABSENT, MachineState.DIED, MachineState.LOST):
            guest.start(self._clock.now())
        if guest.state is MachineState.RUNNING:  # a paused one neither takes nor gives
            self._plug(guest, wanted)
        self._faults.end()
        return self._report(wanted.uid)

    def _plug(self, guest: _Guest, wanted: Machine) -> None:
        asked = {d.uid: d.serial for d in wanted.hot_disks}
        guest.letting_go = set(guest.hot) - set(asked)
        for uid in guest.letting_go - self._holding:
            guest.letting_go.discard(uid)
            del guest.hot[uid]
        for uid, serial in asked.items():
            guest.hot.setdefault(uid, serial)

    async def observe(self, uid: str) -> MachineReport:
        await self._faults.begin()
        return self._report(uid)

    async def remove(self, uid: str) -> bool:
        await self._faults.begin()
        if (guest := self._guests.pop(uid, None)) is not None:
            guest.end(MachineState.ABSENT)
        self._faults.end()
        return True

    async def log(self, uid: str, limit_bytes: int) -> bytes:
        guest = self._guests.get(uid)
        return bytes(guest.log[-limit_bytes:]) if guest is not None else b""

    async def console(self, uid: str) -> SimulatedConsole:
        await self._faults.begin()
        guest = self._guests.get(uid)
        if guest is None or guest.state not in (MachineState.RUNNING, MachineState.PAUSED):
            raise Retry("simulated: the machine does not run")
        console = SimulatedConsole(guest)
        guest.consoles.add(console)
        console.show(f"simulated: the console of {guest.name} shows what you write\r\n".encode())
        return console

    async def held(self) -> Sequence[Held]:
        return [Held(uid, guest.generation) for uid, guest in sorted(self._guests.items())]

    # -- what guests and hosts do by themselves ---------------------------------------------

    def die(self, uid: str) -> None:
        self._end(uid, MachineState.DIED)

    def lose(self, uid: str) -> None:
        """It goes with its host."""
        self._end(uid, MachineState.LOST)
        if (guest := self._guests.get(uid)) and guest.state is MachineState.LOST:
            guest.ended_at = self._clock.now()

    def power_off(self, uid: str) -> None:
        self._end(uid, MachineState.POWERED_OFF)

    def pause(self, uid: str, message: str = "simulated: the host's disk is full") -> None:
        if (guest := self._guests.get(uid)) and guest.state is MachineState.RUNNING:
            guest.state, guest.message = MachineState.PAUSED, message

    def resume(self, uid: str) -> None:
        if (guest := self._guests.get(uid)) and guest.state is MachineState.PAUSED:
            guest.state, guest.message = MachineState.RUNNING, "simulated"

    def hold(self, disk: str) -> None:
        """The guest that this disk is plugged into does not let go of it."""
        self._holding.add(disk)

    def let_go(self, disk: str) -> None:
        """It lets go, at once where it was asked to."""
        self._holding.discard(disk)
        for guest in self._guests.values():
            if disk in guest.letting_go:
                guest.letting_go.discard(disk)
                del guest.hot[disk]

    def _end(self, uid: str, state: MachineState) -> None:
        if (guest := self._guests.get(uid)) and guest.state in (MachineState.RUNNING, MachineState.PAUSED):
            guest.end(state)

    def _report(self, uid: str) -> MachineReport:
        guest = self._guests.get(uid)
        if guest is None:
            return MachineReport(uid, MachineState.ABSENT)
        devices = tuple(f"/dev/vd{chr(ord('a') + i)}" for i in range(len(guest.disks)))
        return MachineReport(
            uid, guest.state, guest.generation, guest.message, started_at=guest.started_at, devices=devices, ended_at=guest.ended_at,
            hot_disks=tuple(sorted(guest.hot)), letting_go=tuple(sorted(guest.letting_go)),
        )  # fmt: skip


# -- disks --------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Disk:
    generation: int
    size_bytes: int
    left: int = 0  # calls until it is copied
    taken_at: float = 0.0


class SimulatedVolumes:
    """Disks of a simulated zone: sizes, no bytes.

    For tests: `full`, why nothing more fits (empty: it does); `copy_steps`, calls that a copy takes; and
    `held_back`, no copy goes on.
    """

    simulated = True

    def __init__(self, faults: Faults | None = None, clock: Clock | None = None) -> None:
        self._faults, self._clock = faults or Faults(), clock or SystemClock()
        self._disks: dict[str, _Disk] = {}
        self.full, self.copy_steps, self.held_back = "", COPY_STEPS, False

    async def apply(self, wanted: Volume) -> VolumeReport:
        await self._faults.begin()
        disk = self._disks.get(wanted.uid)
        if disk is not None and wanted.generation < disk.generation:
            raise Refused("StaleGeneration", f"generation {disk.generation} of this disk was seen already")
        size_bytes = wanted.size_bytes
        if disk is None:
            needed = self._source_bytes(wanted)
            size_bytes = size_bytes or needed or DEFAULT_IMAGE_BYTES
            if size_bytes < needed:
                return VolumeReport(wanted.uid, VolumeState.TOO_SMALL, needed, wanted.generation)
        if self.full and (disk is None or size_bytes > disk.size_bytes):
            return VolumeReport(wanted.uid, VolumeState.HOST_FULL, generation=wanted.generation, message=self.full)
        if disk is None:
            disk = self._disks[wanted.uid] = _Disk(wanted.generation, size_bytes)
            if wanted.copy_of is not None:
                disk.left, disk.taken_at = self.copy_steps, self._clock.now()
        disk.generation, disk.size_bytes = wanted.generation, max(disk.size_bytes, size_bytes)
        report = self._step(wanted.uid, disk)
        self._faults.end()
        return report

    def _source_bytes(self, wanted: Volume) -> int:
        """What a new disk must at least hold. Raises Retry while its source is not there."""
        if wanted.copy_of is not None:
            source = self._disks.get(wanted.copy_of)
            if source is None or source.left:
                raise Retry("simulated: what is to be copied is not there", after_s=1.0)
            return source.size_bytes
        if wanted.image is not None and wanted.size_bytes:
            return DEFAULT_IMAGE_BYTES // 10
        return 0

    def _step(self, uid: str, disk: _Disk) -> VolumeReport:
        if disk.left:
            progress = max(0.0, 1 - disk.left / max(1, self.copy_steps))
            disk.left -= not self.held_back
            return VolumeReport(
                uid, VolumeState.COPYING, disk.size_bytes, disk.generation, progress=progress, taken_at=disk.taken_at
            )
        return VolumeReport(uid, VolumeState.READY, disk.size_bytes, disk.generation, taken_at=disk.taken_at)

    async def remove(self, uid: str) -> bool:
        await self._faults.begin()
        self._disks.pop(uid, None)
        self._faults.end()
        return True

    async def held(self) -> Sequence[Held]:
        return [Held(uid, disk.generation) for uid, disk in sorted(self._disks.items())]


# -- networks -----------------------------------------------------------------------------------


class SimulatedNetwork:
    """Networks of one host on paper: what was applied is kept and reported as enforced; no packet moves."""

    simulated = True

    def __init__(self, faults: Faults | None = None) -> None:
        self._faults = faults or Faults()
        self._networks: dict[str, HostNetwork] = {}

    async def host(self) -> NetworkHost:
        return NetworkHost("simulated", healthy=True, message="simulated: nothing passes and nothing is filtered")

    async def apply(self, wanted: HostNetwork) -> NetworkReport:
        await self._faults.begin()
        kept = self._networks.get(wanted.uid)
        if kept is None or kept.revision <= wanted.revision:
            kept = self._networks[wanted.uid] = wanted
        self._faults.end()
        return _enforced(kept)

    async def observe(self, uid: str) -> NetworkReport | None:
        await self._faults.begin()
        kept = self._networks.get(uid)
        return _enforced(kept) if kept is not None else None

    async def plug(self, network: str, machine: str) -> Link:
        await self._faults.begin()
        kept = self._networks.get(network)
        if kept is None or machine not in {port.uid for port in kept.ports}:
            raise Retry("simulated: the machine's port is not there yet", after_s=0.5)
        return Link()

    async def dial(self, network: str, address: str, port: int) -> socket.socket:
        raise Refused("Simulated", f"simulated: no machine stands behind {address}, so nothing answers on port {port}")

    async def remove(self, uid: str) -> bool:
        await self._faults.begin()
        self._networks.pop(uid, None)
        self._faults.end()
        return True

    async def held(self) -> Sequence[Held]:
        return [Held(uid, kept.revision) for uid, kept in sorted(self._networks.items())]


def _enforced(kept: HostNetwork) -> NetworkReport:
    return NetworkReport(
        kept.uid, kept.revision,
        ports={port.uid: port.generation for port in kept.ports},
        groups={group.uid: group.generation for group in kept.groups},
        publics={port.public_ipv4: port.uid for port in kept.ports if port.public_ipv4},
    )  # fmt: skip
