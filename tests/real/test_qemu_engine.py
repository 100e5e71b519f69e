"""The real engine keeps its promises: guests boot, are logged into, stopped, killed, adopted and removed.

Every guest here is a QEMU process with the tiny image. Nothing leaves the loopback.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from hansa.engines.ports import (
    Machine,
    MachineReport,
    MachineState,
    Nic,
    PluggedDisk,
    Seed,
    Volume,
    VolumeState,
)
from hansa.engines.qemu import forward, plan, process
from hansa.engines.qemu.disks import QemuVolumes, disk_path
from hansa.engines.qemu.driver import QemuCompute
from hansa.engines.qemu.files import write_json
from hansa.engines.qemu.images import ImageStore
from hansa.errors import Refused, Retry

pytestmark = [
    pytest.mark.real,
    pytest.mark.anyio,
    pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="QEMU is not installed: scripts/install"),
]

UP = b"-----END SSH HOST KEY KEYS-----"
NIC = Nic("52:54:00:12:34:56", "10.0.0.5", "10.0.0.0/24", "10.0.0.1", "fd00:1::5", "fd00:1::/64", "fd00:1::1")
MIB = 1 << 20


@dataclass
class Cloud:
    """One data folder with its engines, and a machine that tests ask for."""

    folder: Path
    run: Path
    id: str
    images: ImageStore
    compute: QemuCompute
    volumes: QemuVolumes
    machine: Machine
    key: Path

    async def disk(self, size_bytes: int = 0, generation: int = 1, image: str | None = "tiny") -> str:
        uid = self.machine.disks[0].uid
        report = await self.volumes.apply(Volume(uid, generation, size_bytes, image))
        assert report.state is VolumeState.READY, report
        return uid

    async def start(self, wanted: Machine | None = None) -> MachineReport:
        (self.folder / "machines" / self.machine.uid / "console.log").unlink(missing_ok=True)
        report = await self.compute.apply(wanted or self.machine)
        assert report.state is MachineState.RUNNING, report
        return report

    async def booted(self, wanted: Machine | None = None) -> MachineReport:
        report = await self.start(wanted)
        await until(lambda: self._up(), 60)
        return report

    async def _up(self) -> bool:
        return UP in await self.compute.console(self.machine.uid, MIB)

    async def stop(self, generation: int) -> None:
        stopped = replace(self.machine, running=False, generation=generation)

        async def gone() -> bool:
            return (await self.compute.apply(stopped)).state is MachineState.ABSENT

        await until(gone, 30)

    async def login(self, port: int, command: str, *options: str, user: str = "evroc-user") -> tuple[int, str]:
        words = [
            "ssh", "-F", "none", "-i", str(self.key), "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=no",
            "-o", f"UserKnownHostsFile={self.folder / 'known_hosts'}", "-o", "BatchMode=yes", "-o", "ConnectTimeout=20",
            "-p", str(port), *options, f"{user}@127.0.0.1", command,
        ]  # fmt: skip
        done = await asyncio.to_thread(subprocess.run, words, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout.strip()

    def pids(self) -> list[int]:
        return [pid for pids in process.scan(self.id).values() for pid in pids]


async def until(true: Callable[[], Awaitable[bool]], limit_s: float) -> None:
    end = time.monotonic() + limit_s
    while not await true():
        assert time.monotonic() < end, f"not within {limit_s} s"
        await asyncio.sleep(0.1)


def make_key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


@pytest.fixture(scope="session")
def images() -> ImageStore:
    store = ImageStore()
    if store.find("tiny") is None:
        store.build("tiny")
    return store


@pytest.fixture
async def cloud(tmp_path: Path, images: ImageStore) -> AsyncIterator[Cloud]:
    run = Path(tempfile.mkdtemp(prefix="hansa-"))
    cloud_id = uuid.uuid4().hex[:12]
    compute = QemuCompute(tmp_path, run, cloud_id=cloud_id, images=images, host_name="here")
    key = make_key(tmp_path / "key")
    machine = Machine(
        uid=str(uuid.uuid4()),
        name="web",
        generation=1,
        running=True,
        vcpus=1,
        memory_bytes=192 * MIB,
        disks=(PluggedDisk(str(uuid.uuid4()), boot=True),),
        nic=NIC,
        seed=Seed("web", (key.with_suffix(".pub").read_text().strip(),)),
        image="tiny",
    )
    made = Cloud(
        tmp_path, run, cloud_id, images, compute, QemuVolumes(tmp_path, images, compute.grow_running), machine, key
    )
    try:
        yield made
        assert await compute.remove(machine.uid)
        assert await made.volumes.remove(machine.disks[0].uid)
        assert not await compute.held()
        assert not await made.volumes.held()
        assert not made.pids()
        assert not list(run.iterdir())
    finally:
        compute.close()
        for pid in made.pids():
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(run)


async def test_a_machine_boots_keeps_its_disk_and_host_key_and_stops(cloud: Cloud) -> None:
    disk = await cloud.disk()
    first = await cloud.booted()
    code, said = await cloud.login(first.ssh_port, "id -un; hostname; ip -o addr show dev eth0; echo kept > note; sync")
    assert code == 0
    assert said.splitlines()[:2] == ["evroc-user", "web"]
    assert "10.0.0.5/24" in said
    assert "fd00:1::5/64" in said
    known = (cloud.folder / "known_hosts").read_text()

    report = await cloud.volumes.apply(Volume(disk, 2, 2 * 10**9, "tiny"))
    assert report.size_bytes >= 2 * 10**9
    _, said = await cloud.login(first.ssh_port, "cat /sys/block/vda/size")
    assert int(said) * 512 == report.size_bytes

    await cloud.stop(2)
    assert (await cloud.compute.observe(cloud.machine.uid)).state is MachineState.ABSENT
    again = await cloud.booted(replace(cloud.machine, generation=3))
    assert again.ssh_port == first.ssh_port
    code, said = await cloud.login(again.ssh_port, "cat note; sudo id -u")
    assert (code, said) == (0, "kept\n0")
    assert (cloud.folder / "known_hosts").read_text() == known


async def test_nobody_else_logs_in(cloud: Cloud) -> None:
    await cloud.disk()
    report = await cloud.booted()
    assert (await cloud.login(report.ssh_port, "true", user="root"))[0] != 0
    other = make_key(cloud.folder / "other")
    assert (await replace(cloud, key=other).login(report.ssh_port, "true"))[0] != 0
    assert (await cloud.login(report.ssh_port, "true"))[0] == 0


async def test_the_guest_reaches_nothing(cloud: Cloud) -> None:
    """Closed until security groups filter: not the host, not another address, no metadata service."""
    await cloud.disk()
    report = await cloud.booted()
    for target in ("10.0.0.1 22", f"10.0.0.1 {report.ssh_port}", "169.254.169.254 80"):
        code, _ = await cloud.login(report.ssh_port, f"nc -w 2 {target} < /dev/null")
        assert code != 0, target


async def test_a_guest_that_powers_itself_off_stays_off_until_it_was_stopped(cloud: Cloud) -> None:
    await cloud.disk()
    report = await cloud.booted()
    await cloud.login(report.ssh_port, "sudo poweroff")

    async def off() -> bool:
        return (await cloud.compute.observe(cloud.machine.uid)).state is MachineState.POWERED_OFF

    await until(off, 15)
    assert (await cloud.compute.apply(cloud.machine)).state is MachineState.POWERED_OFF
    assert not cloud.pids()
    heir = QemuCompute(cloud.folder, cloud.run, cloud_id=cloud.id, images=cloud.images, host_name="here")
    assert (await heir.apply(cloud.machine)).state is MachineState.POWERED_OFF
    await cloud.stop(2)
    await cloud.start(replace(cloud.machine, generation=3))


async def test_user_data_runs_once_and_asks_for_keys(cloud: Cloud) -> None:
    await cloud.disk()
    text = b"#cloud-config\nusers:\n  - default\nruncmd:\n  - echo ran >> /root/count\n"
    wanted = replace(cloud.machine, seed=replace(cloud.machine.seed, user_data=text))
    report = await cloud.booted(wanted)
    await asyncio.sleep(1)
    assert (await cloud.login(report.ssh_port, "sudo cat /root/count"))[1] == "ran"
    await cloud.stop(2)
    report = await cloud.booted(replace(wanted, generation=3))
    await asyncio.sleep(1)
    assert (await cloud.login(report.ssh_port, "sudo cat /root/count"))[1] == "ran"


async def test_a_killed_qemu_is_reported_and_started_again(cloud: Cloud) -> None:
    await cloud.disk()
    ended: list[str] = []
    cloud.compute._on_exit = ended.append
    await cloud.start()
    os.kill(cloud.pids()[0], signal.SIGKILL)

    async def told() -> bool:
        return bool(ended)

    await until(told, 5)
    assert (await cloud.compute.observe(cloud.machine.uid)).state is MachineState.DIED
    await cloud.booted()
    assert len(cloud.pids()) == 1


async def test_a_stopped_qemu_delays_nobody_and_is_ended(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(plan.GRACE_S, "tcg", 3.0)
    await cloud.disk()
    await cloud.start()
    os.kill(cloud.pids()[0], signal.SIGSTOP)
    before = time.monotonic()
    with pytest.raises(Retry):
        await cloud.compute.apply(cloud.machine)
    with pytest.raises(Retry):
        await cloud.compute.observe(cloud.machine.uid)
    assert time.monotonic() - before < 6
    await cloud.stop(2)
    assert not cloud.pids()


async def test_a_stopped_qemu_is_removed(cloud: Cloud) -> None:
    await cloud.disk()
    await cloud.start()
    os.kill(cloud.pids()[0], signal.SIGSTOP)
    assert await cloud.compute.remove(cloud.machine.uid)
    assert not cloud.pids()


async def test_a_new_control_process_adopts_a_guest_and_another_cloud_leaves_it_alone(cloud: Cloud) -> None:
    await cloud.disk()
    report = await cloud.start()
    pid = cloud.pids()
    heir = QemuCompute(cloud.folder, cloud.run, cloud_id=cloud.id, images=cloud.images, host_name="here")
    before = time.monotonic()
    assert (await heir.apply(cloud.machine)).ssh_port == report.ssh_port
    assert time.monotonic() - before < 1
    assert cloud.pids() == pid
    stranger = QemuCompute(
        cloud.folder / "b", cloud.run / "b", cloud_id="another", images=cloud.images, host_name="here"
    )
    assert not await stranger.held()
    assert await stranger.remove(cloud.machine.uid)
    assert cloud.pids() == pid


async def test_a_leftover_without_files_is_found_and_ended(cloud: Cloud) -> None:
    await cloud.disk()
    await cloud.start()
    shutil.rmtree(cloud.folder / "machines")
    for entry in cloud.run.iterdir():
        shutil.rmtree(entry)
    assert [held.uid for held in await cloud.compute.held()] == [cloud.machine.uid]
    assert await cloud.compute.remove(cloud.machine.uid)
    assert not cloud.pids()


async def test_a_start_that_was_never_recorded_is_adopted(cloud: Cloud) -> None:
    """Killed between spawn and record: the record knows no pid, the process is found by its command line."""
    await cloud.disk()
    await cloud.start()
    pid = cloud.pids()
    folder = cloud.folder / "machines" / cloud.machine.uid
    write_json(folder / "state.json", {"uid": cloud.machine.uid, "generation": 1, "phase": "started"})
    next(cloud.run.iterdir()).joinpath("pid").unlink()
    assert (await cloud.compute.observe(cloud.machine.uid)).state is MachineState.RUNNING
    assert (await cloud.compute.apply(cloud.machine)).state is MachineState.RUNNING
    assert cloud.pids() == pid


@pytest.mark.parametrize("delay_s", [0.0, 0.02, 0.05, 0.09, 0.15])
async def test_a_control_process_killed_at_any_moment_of_a_start_leaves_one_guest(cloud: Cloud, delay_s: float) -> None:
    wanted = repr(cloud.machine)
    script = f"""
import asyncio, sys
from pathlib import Path
from hansa.engines.ports import *
from hansa.engines.qemu.driver import QemuCompute
from hansa.engines.qemu.disks import QemuVolumes
from hansa.engines.qemu.images import ImageStore
async def main():
    images = ImageStore()
    compute = QemuCompute(Path({str(cloud.folder)!r}), Path({str(cloud.run)!r}), cloud_id={cloud.id!r}, images=images,
                          host_name="here")
    volumes = QemuVolumes(Path({str(cloud.folder)!r}), images, compute.grow_running)
    wanted = {wanted}
    print("go", flush=True)
    await volumes.apply(Volume(wanted.disks[0].uid, 1, 0, "tiny"))
    await compute.apply(wanted)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
    assert child.stdout is not None
    await child.stdout.readline()
    await asyncio.sleep(delay_s)
    child.kill()
    await child.wait()
    await cloud.disk()
    await cloud.start()
    assert len(cloud.pids()) == 1


async def test_an_older_generation_is_refused(cloud: Cloud) -> None:
    await cloud.disk(generation=2)
    await cloud.start(replace(cloud.machine, generation=2))
    with pytest.raises(Refused) as machine:
        await cloud.compute.apply(cloud.machine)
    with pytest.raises(Refused) as disk:
        await cloud.disk(generation=1)
    assert machine.value.why == disk.value.why == "StaleGeneration"


async def test_a_taken_port_is_replaced(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    await cloud.disk()
    taken = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0)
    port = taken.sockets[0].getsockname()[1]
    with monkeypatch.context() as patch:
        patch.setattr(forward, "port_for", lambda kept: kept or port)
        with pytest.raises(Retry):
            await cloud.compute.apply(cloud.machine)
    assert (await cloud.start()).ssh_port not in (0, port)
    taken.close()


async def test_an_ipv6_machine_and_a_small_network_can_be_logged_into(cloud: Cloud) -> None:
    await cloud.disk()
    only = replace(NIC, ipv4=None, ipv4_network=None, ipv4_gateway=None)
    report = await cloud.booted(replace(cloud.machine, nic=only))
    code, said = await cloud.login(report.ssh_port, "ip -o addr show dev eth0")
    assert code == 0
    assert "fd00:1::5/64" in said
    await cloud.stop(2)
    small = replace(NIC, ipv4="10.9.9.14", ipv4_network="10.9.9.8/29", ipv4_gateway="10.9.9.9")
    report = await cloud.booted(replace(cloud.machine, nic=small, generation=3))
    code, said = await cloud.login(report.ssh_port, "ip -o addr show dev eth0")
    assert code == 0
    assert "10.9.9.14/29" in said


async def test_a_blank_disk_starts_by_firmware_and_the_data_disk_is_vdb(cloud: Cloud) -> None:
    uid = await cloud.disk(size_bytes=10**6, image=None)
    assert disk_path(cloud.folder, uid).exists()
    report = await cloud.start(replace(cloud.machine, image=None))
    assert report.devices == ("/dev/vda",)


async def test_a_second_disk_is_vdb_and_the_seed_comes_after(cloud: Cloud) -> None:
    await cloud.disk()
    extra = str(uuid.uuid4())
    await cloud.volumes.apply(Volume(extra, 1, 5 * 10**9))
    report = await cloud.booted(replace(cloud.machine, disks=(*cloud.machine.disks, PluggedDisk(extra))))
    assert report.devices == ("/dev/vda", "/dev/vdb")
    size = disk_size(await cloud.login(report.ssh_port, "cat /sys/block/vdb/size"))
    assert 5 * 10**9 <= size < 5 * 10**9 + MIB
    await cloud.compute.remove(cloud.machine.uid)
    await cloud.volumes.remove(extra)


def disk_size(answer: tuple[int, str]) -> int:
    return int(answer[1]) * 512


async def test_a_disk_smaller_than_its_image_says_how_much_is_needed(cloud: Cloud) -> None:
    report = await cloud.volumes.apply(Volume(cloud.machine.disks[0].uid, 1, 10**6, "tiny"))
    assert report.state is VolumeState.TOO_SMALL
    assert report.size_bytes == 64 * MIB


async def test_an_image_that_is_not_there_is_built_meanwhile(cloud: Cloud, tmp_path: Path) -> None:
    images = ImageStore(tmp_path / "cache")
    volumes = QemuVolumes(tmp_path, images, cloud.compute.grow_running)
    wanted = Volume(cloud.machine.disks[0].uid, 1, 0, "tiny")
    first = await volumes.apply(wanted)
    assert first.state is VolumeState.WAITING_FOR_IMAGE

    async def ready() -> bool:
        report = await volumes.apply(wanted)
        assert report.state in (VolumeState.WAITING_FOR_IMAGE, VolumeState.READY), report
        return report.state is VolumeState.READY

    await until(ready, 120)
    report = await volumes.apply(replace(wanted, image="suse", uid=str(uuid.uuid4())))
    assert report.state is VolumeState.IMAGE_UNAVAILABLE
    assert "tiny" in report.message


async def test_files_of_a_tenant_are_for_the_owner_only(cloud: Cloud) -> None:
    await cloud.disk()
    await cloud.start()
    folder = cloud.folder / "machines" / cloud.machine.uid
    assert folder.stat().st_mode & 0o777 == 0o700
    for file in [*folder.iterdir(), disk_path(cloud.folder, cloud.machine.disks[0].uid)]:
        assert file.stat().st_mode & 0o077 == 0, file
    words = Path(f"/proc/{cloud.pids()[0]}/cmdline").read_text()
    assert "ssh-ed25519" not in words


async def test_a_host_without_qemu_says_what_to_install(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    await cloud.disk()
    monkeypatch.setenv("PATH", "/nowhere")
    host = await cloud.compute.host()
    assert not host.healthy
    assert "apt-get install qemu-system-x86" in host.message
    with pytest.raises(Refused) as error:
        await cloud.compute.apply(cloud.machine)
    assert error.value.why == "ProvisioningFailed"
