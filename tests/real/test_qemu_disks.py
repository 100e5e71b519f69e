"""Disks beside a machine's life: plugged in and taken out while it runs, grown, and copied, whatever ends meanwhile."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from hansa.engines.ports import HotDisk, Machine, MachineState, PluggedDisk, Volume, VolumeReport, VolumeState
from hansa.engines.qemu import blocks, plan, worker
from hansa.engines.qemu.diskfolder import Note, Task, Work
from hansa.engines.qemu.driver import QemuCompute
from hansa.engines.qemu.images import ImageStore
from hansa.errors import Refused, Retry
from tests.real.guest import MIB, Cloud, Shell, open_cloud, tiny_images, until

pytestmark = [
    pytest.mark.real,
    pytest.mark.anyio,
    pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="QEMU is not installed: scripts/install"),
]
SERIAL = "abcdefghij0123456789"
LINK = f"/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_{SERIAL}"


@pytest.fixture(scope="session")
def images() -> ImageStore:
    return tiny_images()


@pytest.fixture
async def cloud(tmp_path: Path, images: ImageStore) -> AsyncIterator[Cloud]:
    async with open_cloud(tmp_path, images) as made:
        yield made


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies take long enough to be met on the way."""
    monkeypatch.setattr(blocks, "COPY_BYTES_PER_S", 4 * MIB)


def with_hot(machine: Machine, generation: int, *disks: str) -> Machine:
    serials = (SERIAL, "k" * 20)
    hot = tuple(HotDisk(uid, serial) for uid, serial in zip(disks, serials, strict=False))
    return replace(machine, generation=generation, hot_disks=hot)


async def within(shell: Shell, command: str, limit_s: float = 5.0) -> None:
    """Until the guest sees it so."""

    async def true() -> bool:
        return (await shell.run(command))[0] == 0

    await until(true, limit_s)


def file_of(cloud: Cloud, uid: str) -> Path:
    return cloud.site.disks.disk(uid)


def qemu_io(path: Path, *commands: str) -> None:
    words = [word for command in commands for word in ("-c", command)]
    done = subprocess.run(["qemu-io", "-f", "qcow2", *words, str(path)], capture_output=True, text=True, check=True)
    assert "failed" not in done.stdout + done.stderr, done.stdout


def assert_alone(path: Path) -> None:
    """Sound, and upon nothing."""
    said = subprocess.run(["qemu-img", "check", str(path)], capture_output=True, text=True, check=True).stdout
    assert "No errors" in said
    assert "backing" not in subprocess.run(["qemu-img", "info", str(path)], capture_output=True, text=True).stdout


# -- hot-swap -----------------------------------------------------------------------------------


async def test_a_disk_is_plugged_in_grown_and_taken_out_while_the_guest_runs(cloud: Cloud) -> None:
    await cloud.disk()
    hot, other = await cloud.blank(64 * MIB), await cloud.blank(32 * MIB)
    shell = await cloud.booted()
    report = await cloud.compute.apply(with_hot(cloud.machine, 2, hot))
    assert (report.hot_disks, report.letting_go) == ((hot,), ())
    await within(shell, f"test -b {LINK}")
    assert await shell.run(f"mke2fs {LINK} > /dev/null && mount {LINK} /mnt && echo hi > /mnt/x && umount /mnt") == (
        0,
        "",
    )

    grown = await cloud.volumes.apply(Volume(hot, 2, 96 * MIB))
    assert grown.size_bytes == 96 * MIB
    await within(shell, f"test $(cat /sys/block/sda/size) = {96 * MIB // 512}")

    report = await cloud.compute.apply(with_hot(cloud.machine, 3, hot, other))
    assert set(report.hot_disks) == {hot, other}
    await within(shell, "test -b /dev/sdb")
    report = await cloud.compute.apply(with_hot(cloud.machine, 4))
    assert (report.hot_disks, report.letting_go) == ((), ())
    await within(shell, f"! test -e {LINK} && ! test -e /dev/sdb")

    await cloud.stop(5)
    report = await cloud.compute.observe(cloud.machine.uid)
    assert (report.state, report.hot_disks) == (MachineState.ABSENT, ())
    shell = await cloud.booted(with_hot(cloud.machine, 6, hot))  # there from the first instruction
    assert (await cloud.compute.observe(cloud.machine.uid)).hot_disks == (hot,)
    assert await shell.run("mount /dev/sda /mnt && cat /mnt/x; dmesg | grep -c 'Attached SCSI disk'") == (0, "hi\n1")


async def test_a_disk_is_not_taken_from_a_paused_guest_until_it_runs_again(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cloud.disk()
    hot = await cloud.blank(MIB)
    await cloud.start(with_hot(cloud.machine, 1, hot))
    async with cloud.site.monitor(cloud.site.folders.of(cloud.machine.uid).run).session() as session:
        await session._execute("stop")

    async def no_room(_: QemuCompute) -> bool:
        return False

    with monkeypatch.context() as patch:
        patch.setattr(plan, "FAILED", "paused")  # as when a write has failed
        patch.setattr(QemuCompute, "_room", no_room)
        for _ in range(2):
            report = await cloud.compute.apply(with_hot(cloud.machine, 2))
            assert (report.state, report.hot_disks, report.letting_go) == (MachineState.PAUSED, (hot,), (hot,))
        cloud.begin()
        report = await cloud.compute.observe(cloud.machine.uid)
        assert (report.hot_disks, report.letting_go) == ((hot,), (hot,)), "known to an heir"
    report = await cloud.compute.apply(with_hot(cloud.machine, 2))
    assert (report.state, report.hot_disks, report.letting_go) == (MachineState.RUNNING, (), ())


async def test_what_a_dead_control_process_left_half_plugged_is_completed(cloud: Cloud) -> None:
    await cloud.disk()
    hot = await cloud.blank(MIB)
    await cloud.start()
    monitor = cloud.site.monitor(cloud.site.folders.of(cloud.machine.uid).run)
    with file_of(cloud, hot).open("r+b") as file:
        async with monitor.session() as session:  # descriptors only
            await session.give(file.fileno(), hot)
    report = await cloud.compute.apply(with_hot(cloud.machine, 2, hot))
    assert report.hot_disks == (hot,)
    async with monitor.session() as session:  # a node and no device
        await session.delete_device(blocks.device_of(hot))
    assert (await cloud.compute.observe(cloud.machine.uid)).hot_disks == ()
    assert (await cloud.compute.apply(with_hot(cloud.machine, 3, hot))).hot_disks == (hot,)
    async with monitor.session() as session:  # on its way out, and the record says nothing of it
        await session.delete_device(blocks.device_of(hot))
    cloud.begin()
    assert (await cloud.compute.apply(with_hot(cloud.machine, 4))).hot_disks == ()
    async with monitor.session() as session:
        assert blocks.node_of(hot) not in await session.nodes()
        sets = await session._execute("query-fdsets")
        assert hot not in [one.get("opaque") for each in sets for one in each["fds"]]


async def test_a_disk_goes_to_one_machine_at_a_time(cloud: Cloud) -> None:
    await cloud.disk()
    hot = await cloud.blank(MIB)
    boot = await cloud.blank(MIB)
    second = replace(cloud.machine, uid=str(uuid.uuid4()), disks=(PluggedDisk(boot, boot=True),))
    await cloud.start(with_hot(cloud.machine, 1, hot))
    report = await cloud.compute.apply(with_hot(second, 1, hot, str(uuid.uuid4())))
    assert report.state is MachineState.RUNNING and report.hot_disks == ()
    assert "held elsewhere" in report.message and "not on this host yet" in report.message
    await cloud.compute.apply(with_hot(cloud.machine, 2))
    report = await cloud.compute.apply(with_hot(second, 1, hot))
    assert (report.hot_disks, report.message) == ((hot,), "")
    assert await cloud.compute.remove(second.uid)


# -- copies -------------------------------------------------------------------------------------


async def test_a_snapshot_of_a_guest_that_writes_boots_after_its_source_is_gone(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "COPY_BYTES_PER_S", 8 * MIB)
    await cloud.disk()
    shell = await cloud.booted()
    fill = "dd if=/dev/urandom of=/root/big bs=1M count=24 && sha256sum /root/big > /root/sum && sync"
    assert (await shell.run(fill, 60))[0] == 0
    await shell.type("n=0; while :; do n=$((n + 1)); echo $n >> /root/log; dd if=/dev/zero of=/root/w bs=64k count=9; ")
    await shell.type("sync; done 2> /dev/null &\n")
    await asyncio.sleep(1)
    copy, reports = Volume(str(uuid.uuid4()), 1, 2 * 10**9, copy_of=cloud.boot_disk), []
    before = time.time()

    async def ready() -> bool:
        reports.append(await cloud.volumes.apply(copy))
        return reports[-1].state is VolumeState.READY

    await until(ready, 60)
    cloud.made.append(copy.uid)
    copying = [report for report in reports if report.state is VolumeState.COPYING]
    assert len(copying) > 2 and copying[-1].progress > copying[0].progress
    assert len({report.taken_at for report in reports}) == 1 and before <= reports[0].taken_at <= before + 2
    assert reports[-1].size_bytes >= 2 * 10**9
    await shell.run("echo late > /root/late; sync")
    assert await cloud.compute.remove(cloud.machine.uid)
    await cloud.remove(cloud.boot_disk)
    assert_alone(file_of(cloud, copy.uid))

    cloud.machine = replace(cloud.machine, uid=str(uuid.uuid4()), disks=(PluggedDisk(copy.uid, boot=True),))
    shell = await cloud.booted()
    assert await shell.run("cd /root && sha256sum -c sum") == (0, "/root/big: OK")
    assert (await shell.run("ls /root/late"))[0] != 0, "it shows the moment when it was begun"
    status, counted = await shell.run("awk '$1 != NR' /root/log | wc -l; wc -l < /root/log")
    wrong, lines = map(int, counted.split())
    assert status == 0 and wrong == 0 and lines > 3
    assert (await shell.run("dmesg | grep -ci 'ext4-fs error'"))[1] == "0"


async def test_a_copy_of_a_disk_at_rest_may_be_larger_and_never_smaller(cloud: Cloud) -> None:
    source = await cloud.blank(8 * MIB)
    qemu_io(file_of(cloud, source), "write -P 7 0 8M")
    await cloud.disk()
    small = await cloud.volumes.apply(Volume(str(uuid.uuid4()), 1, 4 * MIB, copy_of=source))
    assert (small.state, small.size_bytes) == (VolumeState.TOO_SMALL, 8 * MIB)
    with pytest.raises(Retry):
        await cloud.volumes.apply(Volume(str(uuid.uuid4()), 1, 0, copy_of=str(uuid.uuid4())))
    same = await cloud.copied(Volume(str(uuid.uuid4()), 1, 0, copy_of=source))
    await cloud.remove(source)
    larger = await cloud.copied(Volume(str(uuid.uuid4()), 1, 16 * MIB, copy_of=same))
    image = await cloud.copied(Volume(str(uuid.uuid4()), 1, 0, copy_of=cloud.boot_disk))
    for uid in (same, larger, image):
        assert_alone(file_of(cloud, uid))
    qemu_io(file_of(cloud, larger), "read -P 7 0 8M", "read -P 0 8M 8M")
    report = await cloud.volumes.apply(Volume(larger, 2, 32 * MIB, copy_of=same))
    assert (report.state, report.size_bytes) == (VolumeState.READY, 32 * MIB) and report.taken_at > 0
    original, made = (cloud.folder / name for name in ("original.raw", "made.raw"))
    for uid, raw in ((cloud.boot_disk, original), (image, made)):
        subprocess.run(["qemu-img", "convert", "-O", "raw", str(file_of(cloud, uid)), str(raw)], check=True)
    assert subprocess.run(["cmp", str(original), str(made)]).returncode == 0


async def test_a_copy_of_an_empty_terabyte_takes_no_time_and_no_room(cloud: Cloud) -> None:
    source = await cloud.blank(10**12)
    before = time.monotonic()
    copy = await cloud.copied(Volume(str(uuid.uuid4()), 1, 0, copy_of=source))
    assert time.monotonic() - before < 5
    assert file_of(cloud, copy).stat().st_blocks * 512 < 4 * MIB


async def begin_copy(cloud: Cloud, source: str) -> tuple[Volume, VolumeReport]:
    """A copy that was begun and is far from done."""
    wanted = Volume(str(uuid.uuid4()), 1, 0, copy_of=source)
    cloud.made.append(wanted.uid)
    reports = []

    async def moving() -> bool:
        reports.append(await cloud.volumes.apply(wanted))
        return reports[-1].progress > 0

    await until(moving, 10)
    assert reports[-1].state is VolumeState.COPYING and reports[-1].progress < 0.9, reports[-1]
    return wanted, reports[-1]


async def finish_copy(cloud: Cloud, wanted: Volume, source: str) -> VolumeReport:
    """Until it is there; it has the content of its source, of sevens."""
    (work,) = cloud.site.disks.works()
    if work.machine:
        async with cloud.site.monitor(cloud.site.folders.of(work.machine).run).session() as session:
            await unthrottle(session)
    elif await worker.lives(cloud.site, wanted.uid):
        async with worker.session(cloud.site, wanted.uid) as session:
            await unthrottle(session)
    await cloud.copied(wanted)
    report = await cloud.volumes.apply(wanted)
    assert_alone(file_of(cloud, wanted.uid))
    qemu_io(file_of(cloud, wanted.uid), "read -P 7 0 16M")
    assert not cloud.site.disks.works()
    return report


async def unthrottle(session) -> None:  # type: ignore[no-untyped-def]
    fast = {"bps-write": 0}
    await session._execute("qom-set", {"path": f"/objects/{blocks.COPY}", "property": "limits", "value": fast})


async def sevens(cloud: Cloud) -> str:
    source = await cloud.blank(16 * MIB)
    qemu_io(file_of(cloud, source), "write -P 7 0 16M")
    return source


@pytest.mark.usefixtures("slow")
async def test_a_copy_outlives_the_control_process(cloud: Cloud) -> None:
    source = await sevens(cloud)
    wanted, begun = await begin_copy(cloud, source)
    cloud.begin()
    report = await cloud.volumes.apply(wanted)
    assert report.progress >= begun.progress and report.taken_at == begun.taken_at
    assert (await finish_copy(cloud, wanted, source)).taken_at == begun.taken_at
    await cloud.disk()
    await cloud.start(with_hot(cloud.machine, 1, source))
    wanted, begun = await begin_copy(cloud, source)
    cloud.begin()
    second = Volume(str(uuid.uuid4()), 1, 0, copy_of=source)
    assert (await cloud.volumes.apply(second)).state is VolumeState.COPYING
    cloud.begin()
    await cloud.remove(second.uid)  # of two at a time one ends and the other goes on
    assert (await finish_copy(cloud, wanted, source)).taken_at == begun.taken_at


@pytest.mark.usefixtures("slow")
async def test_a_copy_whose_worker_is_killed_is_begun_anew(cloud: Cloud) -> None:
    source = await sevens(cloud)
    wanted, begun = await begin_copy(cloud, source)
    (pid,) = cloud.pids()
    if os.geteuid() == 0:
        status = Path(f"/proc/{pid}/status").read_text()
        assert "CapEff:\t0000000000000000" in status and "NoNewPrivs:\t1" in status and "Uid:\t21" in status
    os.kill(pid, signal.SIGKILL)
    await asyncio.sleep(0.1)
    report = await cloud.volumes.apply(wanted)
    assert report.state is VolumeState.COPYING and report.taken_at > begun.taken_at
    assert (await finish_copy(cloud, wanted, source)).taken_at == report.taken_at


@pytest.mark.usefixtures("slow")
async def test_a_copy_whose_guest_is_killed_is_begun_anew_and_the_guest_waits_for_its_disk(cloud: Cloud) -> None:
    source = await sevens(cloud)
    await cloud.disk()
    wanted_machine = replace(cloud.machine, disks=(*cloud.machine.disks, PluggedDisk(source)))
    await cloud.start(wanted_machine)
    wanted, begun = await begin_copy(cloud, source)
    os.kill(cloud.guest(), signal.SIGKILL)
    await asyncio.sleep(0.1)
    report = await cloud.volumes.apply(wanted)
    assert report.state is VolumeState.COPYING and report.taken_at > begun.taken_at
    with pytest.raises(Retry) as retry:
        await cloud.compute.apply(wanted_machine)
    assert "a copy of the disk is being made" in retry.value.message
    with pytest.raises(Retry):
        await cloud.volumes.apply(Volume(source, 2, 32 * MIB))
    second = Volume(str(uuid.uuid4()), 1, 0, copy_of=source)
    assert (await cloud.volumes.apply(second)).state is VolumeState.COPYING, "many may read"
    await cloud.remove(second.uid)
    await finish_copy(cloud, wanted, source)
    await cloud.start(wanted_machine)


@pytest.mark.usefixtures("slow")
async def test_a_job_that_fails_leaves_nothing_and_the_copy_is_begun_anew(cloud: Cloud) -> None:
    source = await sevens(cloud)
    await cloud.disk()
    await cloud.start(replace(cloud.machine, disks=(*cloud.machine.disks, PluggedDisk(source))))
    wanted, begun = await begin_copy(cloud, source)
    async with cloud.site.monitor(cloud.site.folders.of(cloud.machine.uid).run).session() as session:
        await session.cancel(blocks.job_of(wanted.uid))

        async def concluded() -> bool:
            job = await session.job(blocks.job_of(wanted.uid))
            return job is not None and job.concluded

        await until(concluded, 10)
    with pytest.raises(Retry) as retry:
        await cloud.volumes.apply(wanted)
    assert "begun anew" in retry.value.message
    assert not cloud.site.disks.part(wanted.uid).exists()
    report = await cloud.volumes.apply(wanted)
    assert report.state is VolumeState.COPYING and report.taken_at > begun.taken_at
    await finish_copy(cloud, wanted, source)


@pytest.mark.usefixtures("slow")
async def test_a_copy_that_is_no_longer_wanted_is_ended(cloud: Cloud) -> None:
    source = await sevens(cloud)
    wanted, _ = await begin_copy(cloud, source)
    await cloud.remove(wanted.uid)
    assert not cloud.pids() and not cloud.site.disks.works()
    await cloud.disk()
    await cloud.start(with_hot(cloud.machine, 1, source))
    wanted, _ = await begin_copy(cloud, source)
    report = await cloud.compute.apply(with_hot(cloud.machine, 2))
    assert report.letting_go == (source,), "held until its copy is done"
    await cloud.remove(wanted.uid)
    assert not cloud.site.disks.part(wanted.uid).exists()
    async with cloud.site.monitor(cloud.site.folders.of(cloud.machine.uid).run).session() as session:
        assert await session.job(blocks.job_of(wanted.uid)) is None
        assert blocks.target_of(wanted.uid) not in await session.nodes()
    assert (await cloud.compute.apply(with_hot(cloud.machine, 2))).hot_disks == ()


async def test_a_growth_that_a_dead_control_process_began_holds_up_nobody(cloud: Cloud) -> None:
    await cloud.disk()
    work = Work(cloud.boot_disk, Task.GROW, 1, source=cloud.boot_disk, size_bytes=2 * 10**9)
    cloud.site.disks.write_work(work)
    await worker.begin(cloud.site, work)
    async with worker.session(cloud.site, cloud.boot_disk) as session:
        assert await session.nodes() == set()
    cloud.begin()
    await cloud.start()
    assert len(cloud.pids()) == 1 and not cloud.site.disks.works()
    report = await cloud.volumes.apply(Volume(cloud.boot_disk, 2, 2 * 10**9, "tiny"))
    assert report.size_bytes >= 2 * 10**9


@pytest.mark.parametrize("left", ["part", "note", "work", "name"])
async def test_a_disk_that_was_half_made_is_made_again(cloud: Cloud, left: str) -> None:
    uid = await cloud.disk()
    disks = cloud.site.disks
    match left:
        case "part":  # before its note was written
            disks.disk(uid).rename(disks.part(uid))
            (disks.path / f"{uid}.json").unlink()
        case "note":  # before it was renamed
            disks.disk(uid).rename(disks.part(uid))
        case "work":  # a copy that was written down and never begun
            disks.erase(uid)
            source = await cloud.blank(MIB)
            disks.write_work(Work(uid, Task.COPY, 1, source=source, size_bytes=MIB))
            assert await cloud.copied(Volume(uid, 1, 0, copy_of=source)) == uid
            return
        case "name":  # a copy that was named and not noted
            (disks.path / f"{uid}.json").unlink()
            disks.write_work(Work(uid, Task.COPY, 1, source="gone", image="/i", taken_at=5.0, filled=True))
            report = await cloud.volumes.apply(Volume(uid, 2, 0, copy_of="gone"))
            assert (report.state, report.taken_at, report.generation) == (VolumeState.READY, 5.0, 2)
            assert disks.note(uid) == Note(2, image="/i", taken_at=5.0) and not disks.works()
            return
    report = await cloud.volumes.apply(Volume(uid, 1, 0, "tiny"))
    note = disks.note(uid)
    assert report.state is VolumeState.READY and note is not None and note.below
    (disks.path / f"{uid}.json").unlink()
    with pytest.raises(Refused):  # never upon nothing where an image was
        await cloud.volumes.apply(Volume(uid, 1, 0, "tiny"))
