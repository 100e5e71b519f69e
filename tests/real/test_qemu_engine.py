"""The real engine keeps its promises: guests boot, run confined, are stopped, killed, adopted and removed.

Every guest here is a QEMU process with the tiny image and no network card, driven over its console.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import uvloop

from hansa.engines.ports import HotDisk, Link, MachineState, PluggedDisk, Volume, VolumeState
from hansa.engines.qemu import cgroups, confinement, console, folder, plan, process
from hansa.engines.qemu.disks import QemuVolumes
from hansa.engines.qemu.driver import QemuCompute
from hansa.engines.qemu.files import write_json
from hansa.engines.qemu.images import Building, ImageStore, Unavailable
from hansa.engines.qemu.site import STARTS_MAX, Site
from hansa.errors import Invalid, Refused, Retry
from tests.contents import Uploads
from tests.real.guest import MIB, Cloud, NoNetwork, Shell, open_cloud, tiny_images, until

pytestmark = [
    pytest.mark.real,
    pytest.mark.anyio,
    pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="QEMU is not installed: scripts/install"),
]
root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives each guest a user of its own")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def images() -> ImageStore:
    return tiny_images()


@pytest.fixture
async def cloud(tmp_path: Path, images: ImageStore) -> AsyncIterator[Cloud]:
    async with open_cloud(tmp_path, images) as made:
        yield made


# -- a life -------------------------------------------------------------------------------------


async def test_a_machine_boots_keeps_its_disks_and_host_key_and_stops(cloud: Cloud) -> None:
    disk = await cloud.disk()
    text = b"#cloud-config\nusers:\n  - default\nruncmd:\n  - echo ran >> /root/count\n"
    extra = await cloud.blank(5 * 10**9)
    cloud.machine = replace(
        cloud.machine,
        seed=replace(cloud.machine.seed, user_data=text),
        disks=(*cloud.machine.disks, PluggedDisk(extra)),
        memory_bytes=256 * MIB,
    )
    shell = await cloud.booted()
    assert (await cloud.compute.observe(cloud.machine.uid)).devices == ("/dev/vda", "/dev/vdb")
    _, sectors = await shell.run("cat /sys/block/vdb/size")
    assert 5 * 10**9 <= int(sectors) * 512 < 5 * 10**9 + MIB
    assert (await shell.run("findfs LABEL=cidata"))[1] == "/dev/vdc", "the seed comes after the disks"
    code, said = await shell.run("hostname; ls /sys/class/net; cat /root/count; echo kept > /root/note; sync")
    assert (code, said.split()) == (0, ["web", "lo", "ran"])
    keys = await shell.run("cat /home/evroc-user/.ssh/authorized_keys")
    assert keys == (0, cloud.machine.seed.authorized_keys[0])
    host_key = await shell.run("cat /etc/dropbear/*key | sha256sum")

    report = await cloud.volumes.apply(Volume(disk, 2, 2 * 10**9, "tiny"))
    assert report.size_bytes >= 2 * 10**9
    assert await shell.run("sleep 0.2; cat /sys/block/vda/size") == (0, str(report.size_bytes // 512))

    await cloud.stop(2)
    assert await cloud.state() is MachineState.ABSENT
    await shell.ended()
    report = await cloud.volumes.apply(Volume(disk, 3, 3 * 10**9, "tiny"))
    shell = await cloud.booted(replace(cloud.machine, generation=3))
    assert await shell.run("cat /sys/block/vda/size") == (0, str(report.size_bytes // 512))
    assert await shell.run("cat /root/note /root/count") == (0, "kept\nran")
    assert await shell.run("cat /etc/dropbear/*key | sha256sum") == host_key
    log = await cloud.compute.log(cloud.machine.uid, MIB)
    assert log.count(b"tiny-guest: ") > log.count(b" start\r") == 2, "kept over restarts"
    assert len(await cloud.compute.log(cloud.machine.uid, 100)) == 100


async def test_a_guest_that_powers_itself_off_stays_off_until_it_was_stopped(cloud: Cloud) -> None:
    await cloud.disk()
    shell = await cloud.booted()
    await shell.type("poweroff\n")

    async def off() -> bool:
        return await cloud.state() is MachineState.POWERED_OFF

    await until(off, 15)
    assert (await cloud.compute.apply(cloud.machine)).state is MachineState.POWERED_OFF
    assert not cloud.pids()
    cloud.begin()
    assert (await cloud.compute.apply(cloud.machine)).state is MachineState.POWERED_OFF
    await cloud.stop(2)
    await cloud.start(replace(cloud.machine, generation=3))


async def test_a_blank_disk_starts_by_firmware(cloud: Cloud) -> None:
    await cloud.disk(size_bytes=10**6, image=None)
    report = await cloud.start(replace(cloud.machine, image=None))
    assert report.devices == ("/dev/vda",)
    assert b"-kernel" not in Path(f"/proc/{cloud.guest()}/cmdline").read_bytes()


# -- confined -----------------------------------------------------------------------------------


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


async def _nobody_is(user: int) -> bool:
    return user not in confinement.living_users()


@root
async def test_a_guests_qemu_is_nobody_in_a_network_of_its_own(cloud: Cloud) -> None:
    await cloud.disk()
    await cloud.start()
    pid = cloud.guest()
    seen = status_of(pid)
    user = int(seen["Uid"].split()[0])
    assert user >= confinement.USER_FIRST and set(seen["Uid"].split() + seen["Gid"].split()) == {str(user)}
    assert seen["Groups"] == "" and seen["NoNewPrivs"] == "1" and seen["Seccomp"] == "2"
    assert {int(mask, 16) for name, mask in seen.items() if name.startswith("Cap")} == {0}
    assert Path(f"/proc/{pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()
    assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "500"
    os.kill(pid, signal.SIGKILL)
    await until(lambda: _nobody_is(user), 5)
    await cloud.start()
    assert status_of(cloud.guest())["Uid"].split()[0] == str(user), "kept for the machine's life"


@root
async def test_no_file_of_ours_can_be_opened_by_a_guests_qemu(cloud: Cloud) -> None:
    disk = await cloud.disk()
    await cloud.start()
    user = status_of(cloud.guest())["Uid"].split()[0]
    for outer in (cloud.folder.parent, cloud.folder, cloud.run):
        outer.chmod(0o711)  # as open as it can be: the files themselves must be shut
    machine = cloud.site.folders.of(cloud.machine.uid)
    paths = [*machine.path.iterdir(), *machine.run.iterdir(), cloud.site.disks.disk(disk)]
    assert len(paths) >= 6
    for path in paths:
        words = ["setpriv", "--reuid", user, "--regid", user, "--clear-groups", "test", "-r", str(path)]
        assert subprocess.run(words, check=False).returncode == 1, path
    assert all(path.stat().st_uid == 0 and path.stat().st_mode & 0o077 == 0 for path in paths)


async def test_a_guests_qemu_holds_what_it_was_given_and_its_command_line_tells_nothing(cloud: Cloud) -> None:
    await cloud.disk()
    with open(os.devnull) as stray:
        os.set_inheritable(stray.fileno(), True)
        await cloud.start()
    pid = cloud.guest()
    held = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir() if os.path.lexists(entry)]
    ours = [path for path in held if path.startswith("/") and not path.startswith("/dev/")]
    image = cloud.images.find("tiny")
    assert image is not None
    machine = cloud.site.folders.of(cloud.machine.uid)
    expected = {machine.console, machine.seed, machine.stderr, image.kernel, image.initrd, image.disk}
    assert {Path(path) for path in ours} == {*expected, cloud.site.disks.disk(cloud.boot_disk)}
    assert not [path for path in held if path.startswith("pipe:")]
    words = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    assert not re.search(r"ssh-ed25519|\bweb\b", words) and str(cloud.folder) not in words and "10.0.0" not in words


@root
async def test_a_guest_is_bounded_and_its_memory_is_known(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    await cloud.disk()
    host = await cloud.compute.host()
    assert 0 < host.disk_free_bytes < host.disk_bytes
    if set(host.limits) != {"cpu", "memory", "pids", "io"}:
        pytest.skip(f"this host bounds only {host.limits}")
    shell = await cloud.booted()
    groups = Path(f"/proc/{cloud.guest()}/cgroup").read_text()
    assert groups.count(f"/hansa/{cloud.id}/{cloud.machine.uid}\n") >= 1
    files = {path.name: path.read_text().strip() for path in Path("/sys/fs/cgroup").glob(f"*/hansa/{cloud.id}/*/*max")}
    files |= {p.name: p.read_text().strip() for p in Path("/sys/fs/cgroup").glob(f"*/hansa/{cloud.id}/*/*quota_us")}
    files |= {p.name: p.read_text().strip() for p in Path("/sys/fs/cgroup").glob(f"*/hansa/{cloud.id}/*/*in_bytes")}
    assert files["pids.max"] == "256"
    most = 160 * MIB + 232 * MIB
    assert files.get("memory.max", files.get("memory.limit_in_bytes")) == str(most)
    assert files.get("cpu.max", files.get("cpu.cfs_quota_us", "")).split()[0] == "150000"
    status, _ = await shell.run("dd if=/dev/urandom of=/root/fill bs=1M count=64 && sync", 60)
    assert status == 0
    resident = int(status_of(cloud.guest())["VmRSS"].split()[0]) << 10
    assert resident < most
    with capsys.disabled():
        print(f"\nmemory of a 128 MiB guest that was used: {resident / MIB:.0f} MiB resident, {most / MIB:.0f} allowed")


@root
async def test_a_card_is_plugged_into_the_tap_and_the_network_that_are_handed_over(
    tmp_path: Path, images: ImageStore
) -> None:
    script = (
        "import fcntl, os, struct, sys; f = os.open('/dev/net/tun', os.O_RDWR);"
        "fcntl.ioctl(f, 0x400454CA, struct.pack('16sH14x', b'tap0', 0x5002)); os.set_inheritable(f, True);"
        "os.system('ip link set tap0 up'); print(f, flush=True); sys.stdin.read()"
    )
    made = subprocess.Popen(
        ["unshare", "--net", sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert made.stdout is not None
        number = int(made.stdout.readline())
        handle = os.pidfd_open(made.pid)
        tap = _handle_of(made.pid, handle, number)
        namespace = os.open(f"/proc/{made.pid}/ns/net", os.O_RDONLY)
        inode, tun = os.fstat(namespace).st_ino, os.fstat(tap).st_rdev
        os.close(handle)
        async with open_cloud(tmp_path, images, NoNetwork(Link(tap=tap, namespace=namespace))) as cloud:
            await cloud.disk()
            await cloud.start(replace(cloud.machine, network="net"))
            assert os.stat(f"/proc/{cloud.guest()}/ns/net").st_ino == inode
            still_ours = [os.stat(entry) for entry in Path("/proc/self/fd").iterdir() if entry.exists()]
            assert not [each for each in still_ours if each.st_rdev == tun or each.st_ino == inode], "let go of"
            words = ["nsenter", f"--net=/proc/{made.pid}/ns/net", "ip", "-s", "-j", "link", "show", "tap0"]

            async def heard() -> bool:
                said = await asyncio.to_thread(subprocess.check_output, words)
                return json.loads(said)[0]["stats64"]["rx"]["packets"] > 0

            await until(heard, 30)
    finally:
        made.kill()
        made.communicate()


@root
async def test_a_card_is_plugged_into_sockets_where_there_is_no_tap(tmp_path: Path, images: ImageStore) -> None:
    async with open_cloud(tmp_path, images) as cloud:
        cloud.run.chmod(0o711)
        place = cloud.run / "p,1"  # a comma would end an option
        place.mkdir(mode=0o711)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as switch:
            switch.bind(str(cloud.run / "switch"))
            cloud.network.link = Link(local=str(place / "guest"), remote=str(cloud.run / "switch"))
            await cloud.disk()
            await cloud.start(replace(cloud.machine, network="net"))
        assert (place / "guest").is_socket()
        assert place.stat().st_uid == (place / "guest").stat().st_uid >= confinement.USER_FIRST
        shutil.rmtree(place)
        (cloud.run / "switch").unlink()


def _handle_of(pid: int, handle: int, number: int) -> int:
    """A copy of a descriptor of another process: the system call pidfd_getfd."""
    found: int = ctypes.CDLL(None, use_errno=True).syscall(438, handle, number, 0)
    assert found >= 0, os.strerror(ctypes.get_errno())
    return found


@root
@pytest.mark.parametrize("rights", ["a plain user", "with networks in a user namespace", "root of a user namespace"])
async def test_a_guest_runs_without_root(tmp_path: Path, images: ImageStore, rights: str) -> None:
    """The whole engine with less rights: fewer fences, the same life, and no capability in any of them."""
    data = tmp_path / "data"
    data.mkdir()
    for path in (tmp_path, *tmp_path.parents):
        if path.is_relative_to(tempfile.gettempdir()):
            path.chmod(path.stat().st_mode | 0o011)
    shutil.chown(data, 65534, 65534)
    script = f"""
import asyncio, ctypes, os, subprocess, time
from dataclasses import replace
from pathlib import Path
if {rights.startswith("root")}:
    assert ctypes.CDLL(None).unshare(0x10000000) == 0
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text("0 65534 1")
    Path("/proc/self/gid_map").write_text("0 65534 1")
from hansa.engines.ports import Link, MachineState, Volume
from hansa.engines.qemu.images import ImageStore
from hansa.errors import Retry
from tests.real.guest import NoNetwork, open_cloud
def holder():
    made = subprocess.Popen(["unshare", "--user", "--map-root-user", "--net", "sleep", "300"])
    while Path(f"/proc/{{made.pid}}/ns/net").readlink() == Path("/proc/self/ns/net").readlink():
        time.sleep(0.01)
    return made
async def main():
    held = holder() if {rights.startswith("with")} else None
    link = Link(namespace=os.open(f"/proc/{{held.pid}}/ns/net", os.O_RDONLY), holder=held.pid) if held else Link()
    images = ImageStore(Path({str(images.cache)!r}))
    async with open_cloud(Path({str(data)!r}), images, NoNetwork(link)) as cloud:
        await cloud.disk()
        cloud.machine = replace(cloud.machine, network="net" if held else "")
        await cloud.booted() if {rights.startswith("a plain")} else await cloud.start()
        status = Path(f"/proc/{{cloud.guest()}}/status").read_text()
        assert "NoNewPrivs:\\t1" in status and "Uid:\\t{0 if rights.startswith("root") else 65534}" in status and "CapEff:\\t0000000000000000" in status
        assert (await cloud.compute.host()).limits == ()
        if held:
            assert "CapBnd:\\t0000000000000000" in status
            assert os.stat(f"/proc/{{cloud.guest()}}/ns/net").st_ino == os.stat(f"/proc/{{held.pid}}/ns/net").st_ino
            os.kill(cloud.guest(), 9)
            held.kill()
            held.wait()
            assert (await cloud.compute.observe(cloud.machine.uid)).state is MachineState.LOST
        elif {rights.startswith("a plain")}:
            await cloud.stop(2)
        grown = Volume(cloud.boot_disk, 2, 2 * 10**9, "tiny")
        for _ in range(50):  # the kernel lets go of a killed process's locks a moment after its end is seen
            try:
                await cloud.volumes.apply(grown)
                break
            except Retry:
                await asyncio.sleep(0.1)
        else:
            await cloud.volumes.apply(grown)
asyncio.run(main())
"""
    words = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    words += [sys.executable, "-c", script]
    done = await asyncio.to_thread(
        subprocess.run, words, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False,
        env={**os.environ, "HOME": "/nonexistent", "PYTHONPATH": "src:.", "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


# -- the console --------------------------------------------------------------------------------


async def test_two_consoles_see_the_same_and_a_slow_one_holds_up_nobody(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "BACKLOG_BYTES_MAX", 8 << 10)
    await cloud.disk()
    shell = await cloud.booted()
    other, slow = await cloud.compute.console(cloud.machine.uid), await cloud.compute.console(cloud.machine.uid)
    assert await shell.run("echo b''oth") == (0, "both")
    heard = b""
    while b"both" not in heard:
        heard += await other.read()
    await other.close()
    assert await other.read() == b""
    assert (await shell.run("yes | head -c 30000", 60))[0] == 0
    heard = b""
    while news := await slow.read():
        heard += news
    assert len(heard) <= 8 << 10, "what it left behind is bounded"
    with pytest.raises(Retry):
        await slow.write(b"x")
    await shell.close()
    with pytest.raises(Retry):
        await shell.type("x")
    again = await Shell.open(cloud.compute, cloud.machine.uid)
    os.kill(cloud.guest(), signal.SIGKILL)
    await again.ended()
    with pytest.raises(Retry):
        await cloud.compute.console(cloud.machine.uid)


async def test_a_guest_that_floods_its_console_does_not_fill_the_host(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a smaller limit: an emulated serial line carries some 100 KB/s."""
    limit = 64 << 10
    monkeypatch.setattr(folder, "CONSOLE_BYTES_MAX", limit)
    await cloud.disk()
    shell = await cloud.booted()
    await shell.type("yes abcdefghijklmnopqrstuvwxyz0123456789 > /dev/console\n")
    await shell.hear(b"6789\r\nabcd")
    await shell.close()
    files = cloud.site.folders.of(cloud.machine.uid)
    older, largest, turns = files.console.with_name("console.log.1"), 0, set()
    async with asyncio.timeout(30):
        while len(turns) < 3:
            await asyncio.sleep(0.05)
            largest = max(largest, sum(path.stat().st_size for path in files.path.glob("console.log*")))
            turns |= {older.stat().st_ino} if older.exists() else set()
    assert older.stat().st_size == limit
    assert largest < 2 * limit + 2 * MIB
    assert (await cloud.compute.log(cloud.machine.uid, limit)).count(b"0123456789") > 1000
    with capsys.disabled():
        print(f"\nconsole flood: at most {largest >> 10} KiB kept with a limit of {limit >> 10} KiB")


# -- faults -------------------------------------------------------------------------------------


async def test_a_killed_qemu_is_reported_and_started_again(cloud: Cloud) -> None:
    await cloud.disk()
    await cloud.start()
    os.kill(cloud.guest(), signal.SIGKILL)

    async def told() -> bool:
        return cloud.ended == [cloud.machine.uid]

    await until(told, 5)
    assert await cloud.state() is MachineState.DIED
    await cloud.start()
    assert len(cloud.pids()) == 1


async def test_a_machine_that_went_with_its_host_or_its_network_is_lost_and_not_at_fault(cloud: Cloud) -> None:
    await cloud.disk()
    await cloud.start()
    await cloud.compute.cut_off(cloud.machine.uid)
    assert not cloud.pids()
    assert await cloud.state() is MachineState.LOST
    await cloud.start()
    pid = cloud.guest()
    os.kill(pid, signal.SIGKILL)
    files = cloud.site.folders.of(cloud.machine.uid)
    record = files.read()
    assert record is not None
    files.write(replace(record, boot_id="another boot"))
    await until(lambda: _gone(pid), 5)
    assert await cloud.state() is MachineState.LOST
    assert (await cloud.compute.observe(cloud.machine.uid)).ended_at == 0.0  # nobody looked in that boot
    cloud.site.boots.seen("another boot")
    seen = (await cloud.compute.observe(cloud.machine.uid)).ended_at
    assert seen > record.started_at > 0
    await cloud.start()
    assert await cloud.state() is MachineState.RUNNING


async def _gone(pid: int) -> bool:
    found = process.stat(pid)
    return found is None or found.state == "Z"


async def test_a_stopped_qemu_delays_nobody_and_is_ended(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(plan.GRACE_S, "tcg", 1.0)
    await cloud.disk()
    await cloud.start()
    os.kill(cloud.guest(), signal.SIGSTOP)
    before = asyncio.get_running_loop().time()
    with pytest.raises(Retry):
        await cloud.compute.apply(cloud.machine)
    with pytest.raises(Retry):
        await cloud.compute.observe(cloud.machine.uid)
    assert asyncio.get_running_loop().time() - before < 6
    await cloud.stop(2)
    assert not cloud.pids()


async def test_a_stopped_qemu_is_removed(cloud: Cloud) -> None:
    await cloud.disk()
    await cloud.start()
    os.kill(cloud.guest(), signal.SIGSTOP)
    assert await cloud.compute.remove(cloud.machine.uid)
    assert not cloud.pids()


async def test_a_new_control_process_adopts_a_guest_and_another_cloud_leaves_it_alone(cloud: Cloud) -> None:
    await cloud.disk()
    report = await cloud.start()
    pid = cloud.guest()
    cloud.begin()
    before = asyncio.get_running_loop().time()
    assert (await cloud.compute.apply(cloud.machine)).started_at == report.started_at
    assert asyncio.get_running_loop().time() - before < 1
    assert cloud.guest() == pid
    elsewhere = Site(cloud.folder / "b", cloud.run / "b", cloud_id="another")
    stranger = QemuCompute(elsewhere, images=cloud.images, host_name="here", network=NoNetwork())
    assert not await stranger.held()
    assert await stranger.remove(cloud.machine.uid)
    assert cloud.guest() == pid


async def test_a_leftover_without_files_is_found_and_ended(cloud: Cloud) -> None:
    await cloud.disk()
    await cloud.start()
    shutil.rmtree(cloud.folder / "machines")
    for entry in cloud.run.iterdir():
        shutil.rmtree(entry)
    assert [held.uid for held in await cloud.compute.held()] == [cloud.machine.uid]
    assert await cloud.compute.remove(cloud.machine.uid)
    assert not cloud.pids()
    if (await cloud.compute.host()).limits:
        cloud.site.groups.make(cloud.machine.uid, cgroups.bounds(1, 128 * MIB, 32))
        assert [held.uid for held in await cloud.compute.held()] == [cloud.machine.uid], "a group alone is held too"


async def test_a_start_that_was_never_recorded_is_adopted(cloud: Cloud) -> None:
    """Killed between spawn and record: the record knows no pid, the process is found by its command line."""
    await cloud.disk()
    await cloud.start()
    pid = cloud.guest()
    write_json(state_file(cloud), {"uid": cloud.machine.uid, "generation": 1, "phase": "started"})
    assert await cloud.state() is MachineState.RUNNING
    await cloud.start()
    assert cloud.guest() == pid


async def test_a_record_of_an_unknown_shape_is_no_record(cloud: Cloud) -> None:
    await cloud.disk()
    await cloud.start()
    pid = cloud.guest()
    for strange in ({"uid": cloud.machine.uid, "phase": "flying"}, {"uid": 7}, {"pid": "many"}):
        write_json(state_file(cloud), strange)
        assert await cloud.state() is MachineState.ABSENT
    state_file(cloud).write_text("{torn")
    await cloud.start()
    assert cloud.guest() != pid, "one of which nothing is known is ended and started anew"


def state_file(cloud: Cloud) -> Path:
    return cloud.site.folders.of(cloud.machine.uid).path / "state.json"


@pytest.mark.parametrize("delay_s", [0.0, 0.05, 0.1, 0.15, 0.25])
async def test_a_control_process_killed_at_any_moment_of_a_start_leaves_one_guest(cloud: Cloud, delay_s: float) -> None:
    script = f"""
import asyncio
from pathlib import Path
from hansa.engines.ports import *
from hansa.engines.qemu.driver import QemuCompute
from hansa.engines.qemu.disks import QemuVolumes
from hansa.engines.qemu.images import ImageStore
from hansa.engines.qemu.site import Site
from tests.contents import Uploads
from tests.real.guest import NoNetwork
async def main():
    images = ImageStore(Path({str(cloud.images.cache)!r}))
    site = Site(Path({str(cloud.folder)!r}), Path({str(cloud.run)!r}), cloud_id={cloud.id!r})
    compute = QemuCompute(site, images=images, host_name="here", network=NoNetwork())
    wanted = {cloud.machine!r}
    print("go", flush=True)
    await QemuVolumes(site, images, Uploads()).apply(Volume(wanted.disks[0].uid, 1, 0, "tiny"))
    await compute.apply(wanted)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": "."}
    )
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


async def test_a_qemu_that_does_not_start_says_why_and_is_given_up_after_three_times(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cloud.disk()
    cloud.site.disks.disk(cloud.boot_disk).write_bytes(b"QFI\xfb" + bytes(100))
    for _ in range(2):
        with pytest.raises(Retry) as retry:
            await cloud.compute.apply(cloud.machine)
        assert "qcow2" in retry.value.message
    with pytest.raises(Refused) as refused:
        await cloud.compute.apply(cloud.machine)
    assert refused.value.why == "ProvisioningFailed"


async def test_a_host_without_qemu_says_what_to_install(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    await cloud.disk()
    monkeypatch.setenv("PATH", "/nowhere")
    host = await cloud.compute.host()
    assert not host.healthy
    assert "apt-get install qemu-system-x86" in host.message
    with pytest.raises(Refused) as error:
        await cloud.compute.apply(cloud.machine)
    assert error.value.why == "ProvisioningFailed"


async def test_no_more_than_a_few_guests_start_at_the_same_time(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    now, most = 0, 0

    async def launch(*_: object) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.02)
        now -= 1

    monkeypatch.setattr(cloud.compute._steps._launcher, "launch", launch)
    many = [replace(cloud.machine, uid=str(uuid.uuid4())) for _ in range(3 * STARTS_MAX)]
    done = await asyncio.gather(*(cloud.compute.apply(each) for each in many), return_exceptions=True)
    assert all(isinstance(each, Retry) for each in done) and most == STARTS_MAX
    for each in many:
        assert await cloud.compute.remove(each.uid)


def test_the_engine_works_on_the_event_loop_of_the_server_too(tmp_path: Path, images: ImageStore) -> None:
    """Files are passed over a socket that uvloop reads from."""

    async def life() -> None:
        async with open_cloud(tmp_path, images) as cloud:
            await cloud.disk()
            hot = await cloud.blank(MIB)
            report = await cloud.start(replace(cloud.machine, hot_disks=(HotDisk(hot, "a" * 20),)))
            assert report.hot_disks == (hot,)
            line = await cloud.compute.console(cloud.machine.uid)
            assert await line.read()
            os.kill(cloud.guest(), signal.SIGKILL)
            while await line.read():
                pass
            await cloud.copied(Volume(str(uuid.uuid4()), 1, 0, copy_of=cloud.boot_disk))

    uvloop.run(life())


# -- images and room ----------------------------------------------------------------------------


async def test_a_disk_smaller_than_its_image_says_how_much_is_needed(cloud: Cloud) -> None:
    report = await cloud.volumes.apply(Volume(cloud.boot_disk, 1, 10**6, "tiny"))
    image = cloud.images.find("tiny")
    assert image is not None
    assert (report.state, report.size_bytes) == (VolumeState.TOO_SMALL, image.size_bytes)


async def test_an_image_that_is_being_built_or_cannot_be_had_is_told(cloud: Cloud) -> None:
    class Cache(ImageStore):
        def ensure(self, family: str) -> Building | Unavailable:
            return Building(0.3, "fetching") if family == "tiny" else Unavailable("no such image; there is: tiny")

    volumes = QemuVolumes(cloud.site, Cache(), Uploads())
    report = await volumes.apply(Volume(cloud.boot_disk, 1, 0, "tiny"))
    assert (report.state, report.progress) == (VolumeState.WAITING_FOR_IMAGE, 0.3)
    report = await volumes.apply(Volume(str(uuid.uuid4()), 1, 0, "suse"))
    assert report.state is VolumeState.IMAGE_UNAVAILABLE and "tiny" in report.message


@root
async def test_on_a_full_host_a_guest_waits_and_loses_nothing(tmp_path: Path, images: ImageStore) -> None:
    """In a small file system of its own, which nobody else sees."""
    script = f"""
import asyncio, os
from dataclasses import replace
from pathlib import Path
from hansa.engines.ports import *
from hansa.engines.qemu.images import ImageStore
from tests.real.guest import MIB, open_cloud, until
folder = Path({str(tmp_path)!r})
async def main():
    async with open_cloud(folder, ImageStore(Path({str(images.cache)!r}))) as cloud:
        await cloud.disk()
        shell = await cloud.booted()
        filler = folder / "filler"
        filler.write_bytes(bytes(100 * MIB))
        running = asyncio.create_task(shell.run("dd if=/dev/urandom of=/root/f bs=1M count=60; sync", 90))
        async def paused():
            report = await cloud.compute.observe(cloud.machine.uid)
            return report.state is MachineState.PAUSED and "full" in report.message
        await until(paused, 60)
        report = await cloud.compute.apply(cloud.machine)
        assert report.state is MachineState.PAUSED, report
        new = await cloud.volumes.apply(Volume("0f0e0d0c-1111-4222-8333-444444444444", 1, MIB))
        assert new.state is VolumeState.HOST_FULL and "full" in new.message, new
        filler.unlink()
        assert (await cloud.compute.apply(cloud.machine)).state is MachineState.RUNNING
        status, said = await running
        assert status == 0 and "60+0 records out" in said, said
        assert (await shell.run("dmesg | grep -c error"))[1] == "0"
        copy = await cloud.volumes.apply(Volume("0f0e0d0c-1111-4222-8333-444444444445", 1, 0, copy_of=cloud.boot_disk))
        assert copy.state is VolumeState.HOST_FULL and "would be" in copy.message, copy
asyncio.run(main())
"""
    mount = f'mount -t tmpfs -o size=150m none {tmp_path} && exec {sys.executable} -c "$SCRIPT"'
    done = await asyncio.to_thread(
        subprocess.run, ["unshare", "--mount", "sh", "-c", mount], cwd=ROOT, capture_output=True, text=True,
        timeout=150, check=False, env={**os.environ, "PYTHONPATH": ".", "SCRIPT": script},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


async def test_a_run_folder_whose_path_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid):
        Site(tmp_path, Path("/run") / ("x" * 90), cloud_id="c")
