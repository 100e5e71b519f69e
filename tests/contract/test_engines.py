"""What every compute and volume engine promises: the simulated twin and QEMU under one list."""

from __future__ import annotations

import asyncio
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from hansa.clock import SystemClock
from hansa.engines.ports import (
    ComputeEngine,
    Console,
    HotDisk,
    Machine,
    MachineReport,
    MachineState,
    Nic,
    PluggedDisk,
    Seed,
    Volume,
    VolumeEngine,
    VolumeReport,
    VolumeState,
)
from hansa.engines.qemu import site as qemu_site
from hansa.engines.qemu.disks import QemuVolumes
from hansa.engines.qemu.driver import QemuCompute
from hansa.engines.qemu.images import ImageStore
from hansa.engines.shared import EngineServer, SharedEngines
from hansa.engines.simulated import SimulatedCompute, SimulatedVolumes
from hansa.errors import Refused, Retry
from hansa.wiring import FleetEngines

from ..contents import Uploads
from ..leftovers import ours
from ..real.guest import NoNetwork

pytestmark = pytest.mark.anyio
GB = 10**9


@dataclass
class Site:
    compute: ComputeEngine
    volumes: VolumeEngine
    simulated: bool


@pytest.fixture(params=["simulated", "shared", "qemu"])
async def site(request: Any, tmp_path: Path) -> AsyncIterator[Site]:
    if request.param == "shared":  # the twin, as another process calls it
        twin = SimulatedCompute("h", SystemClock(), vcpus=8, memory_bytes=32 * GB)
        behind = FleetEngines(by_host={"h": twin}, by_zone={"z": SimulatedVolumes()})
        with tempfile.TemporaryDirectory(prefix="hansa-") as run:
            server = EngineServer(behind, Path(run) / "engines")
            await server.open()
            called = SharedEngines(server.path, "h".__eq__, "z".__eq__)
            compute, volumes = called.compute("h"), called.volumes("z")
            assert compute is not None and volumes is not None
            yield Site(compute, volumes, True)
            await server.close()
        return
    if request.param == "simulated":
        yield Site(SimulatedCompute("h", SystemClock(), vcpus=8, memory_bytes=32 * GB), SimulatedVolumes(), True)
        return
    images = ImageStore()
    with tempfile.TemporaryDirectory(prefix="hansa-") as run:
        here = qemu_site.Site(tmp_path, Path(run), cloud_id=ours(uuid.uuid4().hex[:8]))
        compute = QemuCompute(here, images=images, host_name="h", network=NoNetwork())
        yield Site(compute, QemuVolumes(here, images, Uploads()), False)
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


async def plugged(site: Site, machine: Machine, *uids: str) -> MachineReport:
    """The report once just these disks are plugged in beside the permanent ones."""
    async with asyncio.timeout(60):
        while sorted((report := await site.compute.apply(machine)).hot_disks) != sorted(uids):
            await asyncio.sleep(0.1)
    return report


async def blank(site: Site, size_bytes: int = GB) -> str:
    uid = str(uuid.uuid4())
    assert (await site.volumes.apply(Volume(uid, 1, size_bytes))).state is VolumeState.READY
    return uid


async def made(site: Site, volume: Volume) -> VolumeReport:
    async with asyncio.timeout(60):
        while (report := await site.volumes.apply(volume)).state is VolumeState.COPYING:
            assert 0 <= report.progress <= 1
            await asyncio.sleep(0.1)
    assert report.state is VolumeState.READY, report
    return report


async def read_until(console: Console, wanted: bytes) -> bytes:
    seen = b""
    async with asyncio.timeout(60):
        while wanted not in seen:
            assert (more := await console.read()), f"the console ended after {seen!r}"
            seen += more
    return seen


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


# -- disks that come and go ---------------------------------------------------------------------


async def test_a_hot_disk_is_plugged_into_a_running_machine_and_out_again(site: Site) -> None:
    machine, disk = await wanted(site), await blank(site)
    await until(lambda: site.compute.apply(machine), MachineState.RUNNING)
    with_disk = replace(machine, hot_disks=(HotDisk(disk, "a1" * 10),))
    report = await plugged(site, with_disk, disk)
    assert report.devices == ("/dev/vda",) and report.letting_go == ()
    assert (await site.compute.observe(machine.uid)).hot_disks == (disk,)
    assert (await site.compute.apply(with_disk)).hot_disks == (disk,)
    await plugged(site, machine)
    assert await site.volumes.remove(disk)


async def test_a_machine_starts_with_its_hot_disks(site: Site) -> None:
    disk = await blank(site)
    machine = await wanted(site)
    machine = replace(machine, hot_disks=(HotDisk(disk, "b2" * 10),))
    await until(lambda: site.compute.apply(machine), MachineState.RUNNING)
    await plugged(site, machine, disk)
    stopped = replace(machine, generation=2, running=False)
    assert (await until(lambda: site.compute.apply(stopped), MachineState.ABSENT)).hot_disks == ()
    again = replace(machine, generation=3)
    await until(lambda: site.compute.apply(again), MachineState.RUNNING)
    await plugged(site, again, disk)


async def test_one_hot_disk_goes_and_the_other_stays(site: Site) -> None:
    machine, one, two = await wanted(site), await blank(site), await blank(site)
    both = replace(machine, hot_disks=(HotDisk(one, "c3" * 10), HotDisk(two, "d4" * 10)))
    await until(lambda: site.compute.apply(both), MachineState.RUNNING)
    await plugged(site, both, one, two)
    await plugged(site, replace(machine, hot_disks=(HotDisk(two, "d4" * 10),)), two)


async def test_a_hot_disk_grows_while_it_is_plugged_in(site: Site) -> None:
    machine, disk = await wanted(site), await blank(site)
    machine = replace(machine, hot_disks=(HotDisk(disk, "e5" * 10),))
    await until(lambda: site.compute.apply(machine), MachineState.RUNNING)
    await plugged(site, machine, disk)
    grown = await site.volumes.apply(Volume(disk, 2, 2 * GB))
    assert grown.state is VolumeState.READY and grown.size_bytes >= 2 * GB
    assert (await site.compute.observe(machine.uid)).hot_disks == (disk,)


async def test_a_disk_that_the_guest_holds_is_named_until_it_lets_go() -> None:
    site = Site(SimulatedCompute("h", SystemClock(), vcpus=8, memory_bytes=32 * GB), SimulatedVolumes(), True)
    assert isinstance(site.compute, SimulatedCompute)
    machine, disk = await wanted(site), await blank(site)
    await plugged(site, replace(machine, hot_disks=(HotDisk(disk, "f6" * 10),)), disk)
    site.compute.hold(disk)
    report = await site.compute.apply(machine)
    assert report.hot_disks == (disk,) and report.letting_go == (disk,)
    site.compute.let_go(disk)
    assert (await site.compute.observe(machine.uid)).hot_disks == ()


# -- copies -------------------------------------------------------------------------------------


async def test_a_copy_is_as_large_as_its_source_and_outlives_it(site: Site) -> None:
    source, before = await blank(site), time.time()
    copy = Volume(str(uuid.uuid4()), 1, 0, copy_of=source)
    report = await made(site, copy)
    assert report.size_bytes == (await site.volumes.apply(Volume(source, 1, GB))).size_bytes
    assert before - 1 <= report.taken_at <= time.time()
    assert await site.volumes.remove(source)
    again = await site.volumes.apply(copy)
    assert again.state is VolumeState.READY and again.size_bytes == report.size_bytes
    assert again.taken_at == report.taken_at
    assert await site.volumes.remove(copy.uid)
    assert list(await site.volumes.held()) == []


async def test_a_copy_may_be_larger_than_its_source_and_never_smaller(site: Site) -> None:
    source = await blank(site, 2 * GB)
    larger = await made(site, Volume(str(uuid.uuid4()), 1, 3 * GB, copy_of=source))
    assert larger.size_bytes >= 3 * GB
    same = await made(site, Volume(str(uuid.uuid4()), 1, 2 * GB, copy_of=source))
    assert same.size_bytes == (await site.volumes.apply(Volume(source, 1, 2 * GB))).size_bytes
    smaller = await site.volumes.apply(Volume(str(uuid.uuid4()), 1, GB, copy_of=source))
    assert smaller.state is VolumeState.TOO_SMALL and smaller.size_bytes >= 2 * GB


async def test_a_disk_is_copied_while_a_machine_runs_on_it(site: Site) -> None:
    machine = await wanted(site)
    await until(lambda: site.compute.apply(machine), MachineState.RUNNING)
    copy = await made(site, Volume(str(uuid.uuid4()), 1, 0, copy_of=machine.disks[0].uid))
    assert (await site.compute.observe(machine.uid)).state is MachineState.RUNNING
    other = replace(machine, uid=str(uuid.uuid4()), disks=(PluggedDisk(copy.uid, True),))
    await until(lambda: site.compute.apply(other), MachineState.RUNNING)


async def test_a_copy_that_is_removed_while_it_is_made_is_gone(site: Site) -> None:
    source, copy = await blank(site), str(uuid.uuid4())
    await site.volumes.apply(Volume(copy, 1, 0, copy_of=source))
    assert await site.volumes.remove(copy)
    assert [h.uid for h in await site.volumes.held()] == [source]


# -- consoles -----------------------------------------------------------------------------------


async def test_what_is_written_to_a_console_is_shown_on_all_of_them(site: Site) -> None:
    machine = await wanted(site)
    await until(lambda: site.compute.apply(machine), MachineState.RUNNING)
    one, two = await site.compute.console(machine.uid), await site.compute.console(machine.uid)
    await one.write(b"echo hello-there\r")
    for console in (one, two):
        await read_until(console, b"hello-there")
    await one.close()
    await two.write(b"echo still-here\r")
    await read_until(two, b"still-here")
    await two.close()
    assert b"hello-there" in await site.compute.log(machine.uid, 1 << 16)


async def test_a_console_ends_with_its_machine(site: Site) -> None:
    machine = await wanted(site)
    with pytest.raises(Retry):
        await site.compute.console(machine.uid)
    await until(lambda: site.compute.apply(machine), MachineState.RUNNING)
    console = await site.compute.console(machine.uid)
    await until(lambda: site.compute.apply(replace(machine, generation=2, running=False)), MachineState.ABSENT)
    async with asyncio.timeout(60):
        while await console.read():
            pass
    with pytest.raises(Retry):
        await console.write(b"x")
