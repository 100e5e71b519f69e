"""The simulated twins: hosts and disks that exist only in memory, for zones without machines and for tests.

They fill the ports of `engines.ports` and pass the same contract tests. Everywhere a user looks they are
named as simulated. `faults` makes a call fail before or after it took effect, from a seed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from hansa.clock import Clock
from hansa.engines.ports import (
    Held,
    HostReport,
    Machine,
    MachineReport,
    MachineState,
    Volume,
    VolumeReport,
    VolumeState,
)
from hansa.errors import Refused, Retry

DEFAULT_IMAGE_BYTES = 10**9


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


@dataclass(slots=True)
class _Guest:
    generation: int
    state: MachineState
    started_at: float = 0.0
    disks: int = 1


class SimulatedCompute:
    """One host on paper. `die` and `power_off` are for tests: what a real guest may do by itself."""

    simulated = True

    def __init__(
        self, name: str, clock: Clock, *, vcpus: int, memory_bytes: int, gpu_model: str = "", gpus: int = 0,
        faults: Faults | None = None,
    ) -> None:  # fmt: skip
        self._name, self._clock, self._faults = name, clock, faults or Faults()
        self._room = (vcpus, memory_bytes, gpu_model, gpus)
        self._guests: dict[str, _Guest] = {}

    async def host(self) -> HostReport:
        vcpus, memory_bytes, model, gpus = self._room
        return HostReport(
            self._name, simulated=True, healthy=True, vcpus=vcpus, memory_bytes=memory_bytes, disk_bytes=10**15,
            gpu_model=model, gpus=gpus, accelerator="simulated", isolation="none", network="simulated",
            engine="simulated", message="simulated: no real machine stands behind this host",
        )  # fmt: skip

    async def apply(self, wanted: Machine) -> MachineReport:
        await self._faults.begin()
        guest = self._guests.get(wanted.uid)
        if guest is None:
            guest = self._guests[wanted.uid] = _Guest(wanted.generation, MachineState.ABSENT)
        if wanted.generation < guest.generation:
            raise Refused("StaleGeneration", f"generation {guest.generation} of this machine was seen already")
        guest.generation, guest.disks = wanted.generation, len(wanted.disks)
        if not wanted.running:
            guest.state, guest.started_at = MachineState.ABSENT, 0.0
        elif guest.state in (MachineState.ABSENT, MachineState.DIED):
            guest.state, guest.started_at = MachineState.RUNNING, self._clock.now()
        self._faults.end()
        return self._report(wanted.uid)

    async def observe(self, uid: str) -> MachineReport:
        await self._faults.begin()
        return self._report(uid)

    async def remove(self, uid: str) -> bool:
        await self._faults.begin()
        self._guests.pop(uid, None)
        self._faults.end()
        return True

    async def console(self, uid: str, limit_bytes: int) -> bytes:
        text = b"simulated: this machine has no console\n"
        return text[-limit_bytes:] if uid in self._guests else b""

    async def held(self) -> Sequence[Held]:
        return [Held(uid, guest.generation) for uid, guest in sorted(self._guests.items())]

    def die(self, uid: str) -> None:
        if (guest := self._guests.get(uid)) and guest.state is MachineState.RUNNING:
            guest.state = MachineState.DIED

    def power_off(self, uid: str) -> None:
        if (guest := self._guests.get(uid)) and guest.state is MachineState.RUNNING:
            guest.state = MachineState.POWERED_OFF

    def _report(self, uid: str) -> MachineReport:
        guest = self._guests.get(uid)
        if guest is None:
            return MachineReport(uid, MachineState.ABSENT)
        devices = tuple(f"/dev/vd{chr(ord('a') + i)}" for i in range(guest.disks))
        return MachineReport(
            uid, guest.state, guest.generation, "simulated", started_at=guest.started_at, devices=devices
        )


class SimulatedVolumes:
    """Disks of a simulated zone: sizes, no bytes."""

    simulated = True

    def __init__(self, faults: Faults | None = None) -> None:
        self._faults = faults or Faults()
        self._disks: dict[str, tuple[int, int]] = {}  # uid -> generation, size

    async def apply(self, wanted: Volume) -> VolumeReport:
        await self._faults.begin()
        generation, size = self._disks.get(wanted.uid, (0, 0))
        if wanted.generation < generation:
            raise Refused("StaleGeneration", f"generation {generation} of this disk was seen already")
        asked = wanted.size_bytes or DEFAULT_IMAGE_BYTES
        if wanted.image is not None and asked < DEFAULT_IMAGE_BYTES // 10:
            return VolumeReport(wanted.uid, VolumeState.TOO_SMALL, DEFAULT_IMAGE_BYTES // 10, wanted.generation)
        size = max(size, asked)
        self._disks[wanted.uid] = (wanted.generation, size)
        self._faults.end()
        return VolumeReport(wanted.uid, VolumeState.READY, size, wanted.generation)

    async def remove(self, uid: str) -> bool:
        await self._faults.begin()
        self._disks.pop(uid, None)
        self._faults.end()
        return True

    async def held(self) -> Sequence[Held]:
        return [Held(uid, generation) for uid, (generation, _) in sorted(self._disks.items())]
