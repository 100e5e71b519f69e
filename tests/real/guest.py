"""A cloud of engines with one machine, and a root shell on its console: what tests of real guests share."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hansa.engines.ports import (
    ComputeEngine,
    Console,
    Held,
    HostNetwork,
    Link,
    Machine,
    MachineReport,
    MachineState,
    NetworkHost,
    NetworkReport,
    Nic,
    PluggedDisk,
    Seed,
    Volume,
    VolumeState,
)
from hansa.engines.qemu import process
from hansa.engines.qemu.disks import QemuVolumes
from hansa.engines.qemu.driver import QemuCompute
from hansa.engines.qemu.images import ImageStore
from hansa.engines.qemu.site import Site
from hansa.errors import Retry

from ..contents import Uploads
from ..leftovers import ours

MIB = 1 << 20
BOOT_LIMIT_S = 60.0
UP = b"-----END SSH HOST KEY KEYS-----"
NIC = Nic("02:00:00:12:34:56", "10.0.0.5", "10.0.0.0/24", "10.0.0.1", "fd00:1::5", "fd00:1::/64", "fd00:1::1")
COMMAND_LENGTH_MAX = 800  # the guest's line editor holds 1024 letters


async def until(true: Callable[[], Awaitable[bool]], limit_s: float) -> None:
    """Ask again until it is so; fail the test after `limit_s`."""
    end = time.monotonic() + limit_s
    while not await true():
        assert time.monotonic() < end, f"not within {limit_s} s"
        await asyncio.sleep(0.05)


class Shell:
    """The root shell that the tiny image keeps on its console. One command at a time."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._heard = b""
        self._count = 0

    @classmethod
    async def open(cls, engine: ComputeEngine, uid: str, limit_s: float = BOOT_LIMIT_S) -> Shell:
        """Wait until the guest is up and its shell answers."""
        shell = cls(await engine.console(uid))
        end = time.monotonic() + limit_s
        while True:
            with contextlib.suppress(TimeoutError):
                assert await shell.run("true", 1.0) == (0, "")
                return shell
            assert time.monotonic() < end, f"no shell within {limit_s} s; it said: {shell._heard[-400:]!r}"

    async def run(self, command: str, limit_s: float = 20.0) -> tuple[int, str]:
        """Status and output of one line of shell. Raises TimeoutError when it does not end.

        The marks around the output are spelled so that the line's own echo does not hold them.
        """
        assert len(command) <= COMMAND_LENGTH_MAX and "\n" not in command
        self._count += 1
        begin, end = f"@b{self._count}@".encode(), f"@e{self._count}:".encode()
        await self.type(f'echo @b""{self._count}@; {command}; echo @e""{self._count}:$?@\n')
        async with asyncio.timeout(limit_s):
            while begin not in self._heard or b"@" not in self._heard.partition(begin)[2].partition(end)[2]:
                await self._listen()
        output, _, rest = self._heard.partition(begin)[2].partition(end)
        status, _, self._heard = rest.partition(b"@")
        return int(status), output.decode(errors="replace").replace("\r", "").strip()

    async def hear(self, word: bytes, limit_s: float = 10.0) -> None:
        """Wait until the guest says `word`."""
        async with asyncio.timeout(limit_s):
            while word not in self._heard:
                await self._listen()

    async def type(self, text: str) -> None:
        await self._console.write(text.encode())

    async def _listen(self) -> None:
        news = await self._console.read()
        assert news, "the console was closed"
        self._heard += news

    async def ended(self, limit_s: float = 5.0) -> None:
        """Wait for the end of the console."""
        async with asyncio.timeout(limit_s):
            while await self._console.read():
                pass

    async def close(self) -> None:
        await self._console.close()


class NoNetwork:
    """Plugs a card into nothing: fills `NetworkEngine` for machines that need none."""

    def __init__(self, link: Link | None = None) -> None:
        self.link = link or Link()

    async def host(self) -> NetworkHost:
        return NetworkHost("simulated", True)

    async def apply(self, wanted: HostNetwork) -> NetworkReport:
        return NetworkReport(wanted.uid, wanted.revision)

    async def observe(self, uid: str) -> NetworkReport | None:
        return None

    async def plug(self, network: str, machine: str) -> Link:
        return self.link

    async def dial(self, network: str, address: str, port: int) -> socket.socket:
        raise Retry("there is no network")

    async def remove(self, uid: str) -> bool:
        return True

    async def held(self) -> Sequence[Held]:
        return ()


def tiny_images() -> ImageStore:
    """The image cache of this machine, with the tiny image in it."""
    store = ImageStore()
    if store.find("tiny") is None:
        store.build("tiny")
    return store


@dataclass
class Cloud:
    """One data folder with its engines, and a machine that tests ask for."""

    folder: Path
    run: Path
    images: ImageStore
    machine: Machine
    key: Path
    network: NoNetwork = field(default_factory=NoNetwork)
    id: str = field(default_factory=lambda: ours(uuid.uuid4().hex[:12]))
    ended: list[str] = field(default_factory=list)  # machines whose process ended, as told by the engine
    made: list[str] = field(default_factory=list)  # disks
    engines: list[QemuCompute] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Fresh engines over the same folder, as after a restart of the control process: nothing in memory is left."""
        self.site = Site(self.folder, self.run, cloud_id=self.id)
        self.compute = QemuCompute(
            self.site, images=self.images, host_name="here", network=self.network, on_exit=self.ended.append
        )
        self.volumes = QemuVolumes(self.site, self.images, Uploads())
        self.engines.append(self.compute)

    @property
    def boot_disk(self) -> str:
        return self.machine.disks[0].uid

    async def disk(self, size_bytes: int = 0, generation: int = 1, image: str | None = "tiny") -> str:
        """The machine's boot disk."""
        return await self.volume(Volume(self.boot_disk, generation, size_bytes, image))

    async def blank(self, size_bytes: int) -> str:
        return await self.volume(Volume(str(uuid.uuid4()), 1, size_bytes))

    async def volume(self, wanted: Volume) -> str:
        report = await self.volumes.apply(wanted)
        assert report.state is VolumeState.READY, report
        self.made.append(wanted.uid)
        return wanted.uid

    async def copied(self, wanted: Volume, limit_s: float = 60.0) -> str:
        """Ask for a copy until it is there."""
        self.made.append(wanted.uid)

        async def ready() -> bool:
            report = await self.volumes.apply(wanted)
            assert report.state in (VolumeState.COPYING, VolumeState.READY), report
            return report.state is VolumeState.READY

        await until(ready, limit_s)
        return wanted.uid

    async def start(self, wanted: Machine | None = None) -> MachineReport:
        report = await self.compute.apply(wanted or self.machine)
        assert report.state is MachineState.RUNNING, report
        return report

    async def booted(self, wanted: Machine | None = None) -> Shell:
        """Start it and wait for its shell."""
        await self.start(wanted)
        return await Shell.open(self.compute, (wanted or self.machine).uid)

    async def stop(self, generation: int, limit_s: float = 30.0) -> None:
        stopped = replace(self.machine, running=False, generation=generation)

        async def gone() -> bool:
            return (await self.compute.apply(stopped)).state is MachineState.ABSENT

        await until(gone, limit_s)

    async def remove(self, uid: str, limit_s: float = 30.0) -> None:
        """A disk, or a copy that is being made, to its end."""
        await until(lambda: self.volumes.remove(uid), limit_s)

    async def state(self) -> MachineState:
        return (await self.compute.observe(self.machine.uid)).state

    def pids(self) -> list[int]:
        """Guests and workers."""
        found = [*process.scan(self.id).values(), *process.scan(self.site.workers).values()]
        return [pid for pids in found for pid in pids]

    def guest(self) -> int:
        """The one guest's process."""
        (pids,) = process.scan(self.id).values()
        (pid,) = pids
        return pid

    async def assert_nothing_is_left(self) -> None:
        """After everything was removed: no process, socket, group or file."""
        assert await self.compute.remove(self.machine.uid)
        for uid in [self.boot_disk, *self.made]:
            await self.remove(uid)
        assert not await self.compute.held()
        assert not await self.volumes.held()
        assert not self.pids()
        assert not list(self.run.iterdir())
        assert not list((self.folder / "disks").glob("*")) and not list((self.folder / "machines").glob("*"))
        assert not list(Path("/sys/fs/cgroup").glob(f"*/hansa/{self.id}*"))

    def end(self) -> None:
        for compute in self.engines:
            compute.close()
        for pid in self.pids():
            os.kill(pid, signal.SIGKILL)
        for uid in self.site.groups.uids():
            self.site.groups.remove(uid)
        shutil.rmtree(self.run)


@contextlib.asynccontextmanager
async def open_cloud(folder: Path, images: ImageStore, network: NoNetwork | None = None) -> AsyncIterator[Cloud]:
    """A cloud for one test, which leaves nothing behind."""
    key = make_key(folder / "key")
    machine = Machine(
        uid=str(uuid.uuid4()),
        name="web",
        generation=1,
        running=True,
        vcpus=1,
        memory_bytes=128 * MIB,
        disks=(PluggedDisk(str(uuid.uuid4()), boot=True),),
        nic=NIC,
        seed=Seed("web", (key.with_suffix(".pub").read_text().strip(),)),
        image="tiny",
    )
    run = Path(tempfile.mkdtemp(prefix="hansa-"))
    cloud = Cloud(folder, run, images, machine, key, network or NoNetwork())
    try:
        yield cloud
        await cloud.assert_nothing_is_left()
    finally:
        cloud.end()


def make_key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path
