"""What every compute and volume engine promises: the simulated twin and QEMU under one list."""

from __future__ import annotations

import asyncio
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from hansa.clock import SystemClock
from hansa.engines.ports import (
    ComputeEngine,
    Machine,
    MachineReport,
    MachineState,
    Nic,
    PluggedDisk,
    Seed,
    Volume,
    VolumeEngine,
    VolumeState,
)
from hansa.engines.qemu.disks import QemuVolumes
from hansa.engines.qemu.driver import QemuCompute
from hansa.engines.qemu.images import ImageStore
from hansa.engines.simulated import SimulatedCompute, SimulatedVolumes
from hansa.errors import Refused

pytestmark = pytest.mark.anyio
GB = 10**9


@dataclass
class Site:
    compute: ComputeEngine
    volumes: VolumeEngine
    simulated: bool


@pytest.fixture(params=["simulated", "qemu"])
async def site(request: Any, tmp_path: Path) -> AsyncIterator[Site]:
    if request.param == "simulated":
        yield Site(SimulatedCompute("h", SystemClock(), vcpus=8, memory_bytes=32 * GB), SimulatedVolumes(), True)
        return
    images = ImageStore()
    with tempfile.TemporaryDirectory(prefix="hansa-") as run:
        compute = QemuCompute(tmp_path, Path(run), cloud_id=uuid.uuid4().hex[:8], images=images, host_name="h")
        yield Site(compute, QemuVolumes(tmp_path, images, compute.grow_running), False)
        for held in await compute.held():
            await compute.remove(held.uid)
        compute.close()


async def wanted(site: Site, **more: Any) -> Machine:
    disk = str(uuid.uuid4())
    report = await site.volumes.apply(Volume(disk, 1, GB, "tiny"))
    assert report.state is VolumeState.READY
    nic = Nic("02:00:00:00:00:01", "10.0.0.4", "10.0.0.0/24", "10.0.0.1", None, None, None)
    made = Machine(str(uuid.uuid4()), "m", 1, True, 1, 128 * 10**6, (PluggedDisk(disk, True),), nic, Seed("m"), "tiny")
    return replace(made, **more)


async def until(call: Callable[[], Awaitable[MachineReport]], state: MachineState) -> MachineReport:
    async with asyncio.timeout(60):
        while (report := await call()).state is not state:
            await asyncio.sleep(0.1)
    return report


async def test_a_host_says_what_it_is(site: Site) -> None:
    report = await site.compute.host()
    assert report.healthy and report.vcpus and report.memory_bytes and report.simulated is site.simulated
    assert report.accelerator in (("simulated",) if site.simulated else ("tcg", "kvm"))
    assert report.isolation == ("hardware" if report.accelerator == "kvm" else "none")


async def test_a_machine_runs_once_however_often_it_is_asked_for(site: Site) -> None:
    machine = await wanted(site)
    first = await until(lambda: site.compute.apply(machine), MachineState.RUNNING)
    again = await site.compute.apply(machine)
    assert again.state is MachineState.RUNNING and again.started_at == first.started_at
    assert again.devices == ("/dev/vda",) and again.generation == 1
    assert [h.uid for h in await site.compute.held()] == [machine.uid]


async def test_an_older_generation_never_moves_the_world_back(site: Site) -> None:
    machine = await wanted(site, generation=3)
    await until(lambda: site.compute.apply(machine), MachineState.RUNNING)
    with pytest.raises(Refused):
        await site.compute.apply(replace(machine, generation=2, running=False))
    assert (await site.compute.observe(machine.uid)).state is MachineState.RUNNING


async def test_stopped_is_absent_and_can_be_started_again(site: Site) -> None:
    machine = await wanted(site)
    await until(lambda: site.compute.apply(machine), MachineState.RUNNING)
    off = replace(machine, generation=2, running=False)
    report = await until(lambda: site.compute.apply(off), MachineState.ABSENT)
    assert report.started_at == 0
    await until(lambda: site.compute.apply(replace(machine, generation=3)), MachineState.RUNNING)


async def test_removing_leaves_nothing_and_may_be_repeated(site: Site) -> None:
    machine = await wanted(site)
    await until(lambda: site.compute.apply(machine), MachineState.RUNNING)
    for _ in range(2):
        assert await site.compute.remove(machine.uid)
    assert list(await site.compute.held()) == []
    assert (await site.compute.observe(machine.uid)).state is MachineState.ABSENT
    assert await site.compute.remove(str(uuid.uuid4()))


async def test_a_disk_is_made_once_grows_and_goes(site: Site) -> None:
    uid = str(uuid.uuid4())
    for _ in range(2):
        report = await site.volumes.apply(Volume(uid, 1, 10**6))
        assert report.state is VolumeState.READY and report.size_bytes >= 10**6
    grown = await site.volumes.apply(Volume(uid, 2, 3 * GB))
    assert grown.size_bytes >= 3 * GB
    with pytest.raises(Refused):
        await site.volumes.apply(Volume(uid, 1, GB))
    assert [h.uid for h in await site.volumes.held()] == [uid]
    for _ in range(2):
        assert await site.volumes.remove(uid)
    assert list(await site.volumes.held()) == []


async def test_a_disk_smaller_than_its_image_is_refused_with_the_size_it_needs(site: Site) -> None:
    report = await site.volumes.apply(Volume(str(uuid.uuid4()), 1, 10**6, "tiny"))
    assert report.state is VolumeState.TOO_SMALL and report.size_bytes > 10**6
    assert list(await site.volumes.held()) == []


async def test_without_a_size_a_disk_has_its_images(site: Site) -> None:
    report = await site.volumes.apply(Volume(str(uuid.uuid4()), 1, 0, "tiny"))
    assert report.state is VolumeState.READY and report.size_bytes > 10**8
