"""Disks from images that strangers made: one of each hostile sort, refused with a reason, and what is whole becomes a disk.

The images are made by `qemu-img` at test time, the engine is the real one; no guest is booted but by the last test.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import struct
import subprocess
import tempfile
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from hansa.engines.ports import ImageFormat, Upload, Volume, VolumeReport, VolumeState
from hansa.engines.qemu import imports, sandbox, uploaded
from hansa.engines.qemu.confinement import own_rights
from hansa.engines.qemu.disks import QemuVolumes
from hansa.engines.qemu.images import ImageStore
from hansa.engines.qemu.sandbox import Limits
from hansa.engines.qemu.site import Site
from hansa.errors import Refused, Retry
from tests.contents import Uploads
from tests.leftovers import ours
from tests.real.guest import open_cloud, tiny_images, until

pytestmark = [
    pytest.mark.real,
    pytest.mark.anyio,
    pytest.mark.skipif(shutil.which("qemu-img") is None, reason="QEMU is not installed: scripts/install"),
]
MIB, GB = 1 << 20, 10**9


class House:
    """The disks of one host, and a folder in which a stranger makes images."""

    def __init__(self, folder: Path, run: Path) -> None:
        self.folder, self.objects = folder, Uploads()
        self.site = Site(folder / "data", run, cloud_id=ours(uuid.uuid4().hex[:8]))
        self.volumes = QemuVolumes(self.site, ImageStore(), self.objects)

    def made(self, *words: str, name: str = "image") -> Path:
        subprocess.run(["qemu-img", *words], check=True, capture_output=True, cwd=self.folder)
        return self.folder / name

    def bring(self, content: bytes | Path, format: str, *, size_bytes: int = 0, generation: int = 1) -> Volume:
        data = content if isinstance(content, bytes) else content.read_bytes()
        key = f"../../{uuid.uuid4()}/x.{format}"
        self.objects.known[key] = data
        upload = Upload("demo", "se-sto", "bucket", key, "v", ImageFormat(format), len(data))
        return Volume(str(uuid.uuid4()), generation, size_bytes, upload=upload)

    async def becomes(self, wanted: Volume, seconds: float = 60) -> VolumeReport:
        async with asyncio.timeout(seconds):
            while (report := await self.volumes.apply(wanted)).state is VolumeState.COPYING:
                await asyncio.sleep(0.02)
        return report

    async def refused(self, wanted: Volume) -> str:
        with pytest.raises(Refused) as caught:
            await self.becomes(wanted)
        assert caught.value.why == "ImageUnavailable"
        assert await self.volumes.remove(wanted.uid)
        assert self.left() == [], "nothing of it is left"
        return caught.value.message

    def left(self) -> list[str]:
        return sorted(entry.name for entry in self.site.disks.path.iterdir()) if self.site.disks.path.is_dir() else []

    def content(self, wanted: Volume) -> bytes:
        out = self.folder / f"{wanted.uid}.content"
        disk = self.site.disks.disk(wanted.uid)
        self.made("convert", "-f", "qcow2", "-O", "raw", str(disk), str(out))
        return out.read_bytes()


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    with tempfile.TemporaryDirectory(prefix="hansa-") as run:
        it = House(tmp_path, Path(run))
        (tmp_path / "data").mkdir(mode=0o700)
        yield it
        for held in await it.volumes.held():
            await it.volumes.remove(held.uid)


# -- what is whole ----------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["raw", "qcow2", "vhdx"])
async def test_a_mib_of_zeros_becomes_a_disk_whatever_it_is_called(house: House, format: str) -> None:
    wanted = house.bring(bytes(MIB), format, size_bytes=GB)
    report = await house.becomes(wanted)
    assert report.state is VolumeState.READY and report.size_bytes >= GB
    assert house.left() == [f"{wanted.uid}.json", f"{wanted.uid}.qcow2"]
    assert (house.site.disks.disk(wanted.uid).stat().st_mode & 0o777) == 0o600
    assert not house.content(wanted).strip(b"\0")


@pytest.mark.parametrize("format", ["raw", "qcow2", "vhdx"])
async def test_an_image_becomes_a_disk_with_what_is_in_it(house: House, format: str) -> None:
    data = os.urandom(3 * MIB) + bytes(5 * MIB) + os.urandom(MIB)
    (house.folder / "source").write_bytes(data)
    image = house.made("convert", "-f", "raw", "-O", format, "source", "image")
    wanted = house.bring(image, format, size_bytes=16 * MIB)
    assert (await house.becomes(wanted)).size_bytes == 16 * MIB
    assert house.content(wanted) == data.ljust(16 * MIB, b"\0")
    grown = Volume(wanted.uid, 2, 32 * MIB, upload=wanted.upload)
    house.objects.known.clear()
    assert (await house.becomes(grown)).size_bytes == 32 * MIB, "what is made does not look at its image again"


async def test_a_compressed_image_unfolds(house: House) -> None:
    (house.folder / "source").write_bytes(b"all work and no play " * 500_000)
    image = house.made("convert", "-c", "-f", "raw", "-O", "qcow2", "source", "image")
    wanted = house.bring(image, "qcow2", size_bytes=16 * MIB)
    await house.becomes(wanted)
    assert house.content(wanted).startswith(b"all work and no play all work")


# -- what is hostile --------------------------------------------------------------------------------


async def test_what_lies_upon_another_file_is_refused(house: House) -> None:
    backing = Path("/etc/passwd")
    image = house.made("create", "-f", "qcow2", "-F", "raw", "-b", str(backing), "image", "1M")
    assert "backing file" in await house.refused(house.bring(image, "qcow2", size_bytes=16 * MIB))


async def test_even_where_nobody_looks_a_backing_file_is_cut_off(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    image = house.made("create", "-f", "qcow2", "-F", "raw", "-b", "/etc/passwd", "image", "1M")
    monkeypatch.setattr(uploaded, "head_fault", lambda format, head: "")
    monkeypatch.setattr(uploaded, "told_fault", lambda told: "")
    wanted = house.bring(image, "qcow2", size_bytes=16 * MIB)
    await house.becomes(wanted)
    assert not house.content(wanted).strip(b"\0"), "not a byte of the host's file came in"


async def test_the_second_look_finds_what_the_first_missed(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploaded, "head_fault", lambda format, head: "")
    image = house.made("create", "-f", "qcow2", "-F", "raw", "-b", "/etc/passwd", "image", "1M")
    assert "backing file" in await house.refused(house.bring(image, "qcow2", size_bytes=16 * MIB))
    image = house.made("create", "-f", "qcow2", "image", "1M")
    house.made("snapshot", "-c", "before", "image")
    assert "snapshots" in await house.refused(house.bring(image, "qcow2", size_bytes=16 * MIB))


async def test_data_in_another_file_are_refused(house: House) -> None:
    image = house.made(
        "create", "-f", "qcow2", "-o", f"data_file={house.folder}/secret,data_file_raw=on", "image", "1M"
    )
    assert "another file" in await house.refused(house.bring(image, "qcow2", size_bytes=16 * MIB))


async def test_an_encrypted_image_is_refused(house: House) -> None:
    image = _encrypted(house)
    assert "encrypted" in await house.refused(house.bring(image, "qcow2", size_bytes=16 * MIB))


def _encrypted(house: House) -> Path:
    """QEMU measures how fast it derives keys, and now and then it cannot tell: then it is asked again."""
    words = (
        "create", "-f", "qcow2", "--object", "secret,id=s,data=planted", "-o",
        "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10", "image", "1M",
    )  # fmt: skip
    for _ in range(20):
        with contextlib.suppress(subprocess.CalledProcessError):
            return house.made(*words)
    return house.made(*words)


async def test_internal_snapshots_are_refused(house: House) -> None:
    image = house.made("create", "-f", "qcow2", "image", "1M")
    house.made("snapshot", "-c", "before", "image")
    assert "snapshots" in await house.refused(house.bring(image, "qcow2", size_bytes=16 * MIB))


@pytest.mark.parametrize("size", ["1E", "100T"])
async def test_a_claim_to_hold_more_than_a_disk_may_is_refused(house: House, size: str) -> None:
    image = house.made("create", "-f", "qcow2", "-o", "cluster_size=2M", "image", size)
    assert "claims to hold" in await house.refused(house.bring(image, "qcow2", size_bytes=16 * MIB))


async def test_an_image_larger_than_its_disk_says_so(house: House) -> None:
    image = house.made("create", "-f", "qcow2", "image", "10G")
    wanted = house.bring(image, "qcow2", size_bytes=GB)
    report = await house.becomes(wanted)
    assert (report.state, report.size_bytes) == (VolumeState.TOO_SMALL, 10 << 30)
    larger = Volume(wanted.uid, 2, 11 * GB, upload=wanted.upload)
    assert (await house.becomes(larger)).state is VolumeState.READY


async def test_a_raw_file_that_looks_like_a_qcow2_is_taken_as_it_is_called(house: House) -> None:
    image = house.made("create", "-f", "qcow2", "-F", "raw", "-b", "/etc/passwd", "image", "1M")
    wanted = house.bring(image, "raw", size_bytes=16 * MIB)
    await house.becomes(wanted)
    assert house.content(wanted)[:4] == b"QFI\xfb", "its bytes, not what they speak of"


@pytest.mark.parametrize("format", ["qcow2", "vhdx"])
async def test_what_is_no_image_is_refused(house: House, format: str) -> None:
    said = await house.refused(house.bring(os.urandom(MIB), format, size_bytes=16 * MIB))
    assert "no qcow2" in said or "cannot be read as vhdx" in said
    cut = house.made("create", "-f", format, "image", "64M").read_bytes()[:70]
    assert "refused" in (said := await house.refused(house.bring(cut, format, size_bytes=16 * MIB))) or "cannot" in said


async def test_a_head_that_asks_for_too_much_is_refused(house: House) -> None:
    whole = bytearray(house.made("create", "-f", "qcow2", "image", "1M").read_bytes())
    for at, form, value, word in (
        (4, ">I", 9, "version 9"), (8, ">Q", 1 << 40, "backing"), (32, ">I", 2, "encrypted"), (60, ">I", 7, "snapshots"),
        (72, ">Q", 1 << 20, "features"), (72, ">Q", 2, "damaged"), (72, ">Q", 4, "another file"), (24, ">Q", 1 << 62, "claims"),
    ):  # fmt: skip
        spoilt = bytearray(whole)
        struct.pack_into(form, spoilt, at, value)
        assert word in await house.refused(house.bring(bytes(spoilt), "qcow2", size_bytes=16 * MIB)), word
    for at, form, value in (
        (20, ">I", 63),
        (36, ">I", 1 << 30),
        (40, ">Q", 1 << 50),
        (48, ">Q", 1 << 62),
        (56, ">I", 1 << 31),
    ):
        spoilt = bytearray(whole)  # clusters and tables out of their minds: refused, or read without harm
        struct.pack_into(form, spoilt, at, value)
        wanted = house.bring(bytes(spoilt), "qcow2", size_bytes=16 * MIB)
        try:
            assert (await house.becomes(wanted)).state is VolumeState.READY and not house.content(wanted).strip(b"\0")
        except Refused as refused:
            assert "cannot be" in refused.message


# -- the sandbox ------------------------------------------------------------------------------------


async def test_the_sandbox_has_no_network_no_user_of_ours_and_little_of_everything(house: House) -> None:
    rights = own_rights()
    async with house.site.turn:
        user = await house.site.user_for("probe")
    script = "import os,resource,json;print(json.dumps([os.getuid(),os.getgroups(),sorted(os.listdir('/sys/class/net')) if os.path.isdir('/sys/class/net') else [],open('/proc/net/dev').read().count(':'),resource.getrlimit(resource.RLIMIT_AS)[0],resource.getrlimit(resource.RLIMIT_FSIZE)[0],[l for l in open('/proc/self/status') if l.startswith(('CapEff','NoNewPrivs','CapBnd'))]]))"
    limits = Limits(20.0, 20, 5)
    real = sandbox.IMG
    try:
        sandbox.IMG = "python3"  # the same walls, another program behind them
        said = await sandbox.run(["-c", script], rights=rights, user=user, files=(), limits=limits)
        assert said.code == 0, said.errors
        import json

        uid, groups, _, devices, memory, largest, status = json.loads(said.output)
        if rights.users:
            assert uid == user > 2_000_000_000 and groups == []
        if rights.networks:
            assert devices == 1, "a loopback that is down, and nothing else"
        assert memory == sandbox.MEMORY_BYTES and largest == 5
        assert "NoNewPrivs:\t1\n" in status and "CapEff:\t0000000000000000\n" in status
        for words, why in (
            ("x = bytearray(2 << 30)", "memory"),
            (f"open('{house.folder}/data/x','w')", "a folder of ours"),
            ("import socket; socket.create_connection(('127.0.0.1', 1), 2)", "a network"),
        ):
            assert (await sandbox.run(["-c", words], rights=rights, user=user, files=(), limits=limits)).code != 0, why
        with pytest.raises(Retry, match="did not end"):
            await sandbox.run(
                ["-c", "import time; time.sleep(60)"], rights=rights, user=user, files=(), limits=Limits(0.5, 5)
            )
        spin = await sandbox.run(["-c", "while True: pass"], rights=rights, user=user, files=(), limits=Limits(20.0, 1))
        assert spin.code < 0, "time of the processor ends too"
        much = await sandbox.run(
            ["-c", "print('x' * (64 << 20))"], rights=rights, user=user, files=(), limits=Limits(20.0, 10)
        )
        assert len(much.output) == sandbox.SAID_BYTES_MAX
    finally:
        sandbox.IMG = real


async def test_what_unfolds_beyond_its_bounds_is_ended(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    (house.folder / "source").write_bytes(b"x" * 200 * MIB)
    image = house.made("convert", "-c", "-f", "raw", "-O", "qcow2", "source", "image")
    assert image.stat().st_size < 20 * MIB
    monkeypatch.setattr(imports, "_room", lambda folder: 30 * MIB)
    wanted = house.bring(image, "qcow2", size_bytes=210 * MIB)
    report = await house.becomes(wanted)
    assert report.state is VolumeState.HOST_FULL and "unfolds to more" in report.message
    part = house.site.disks.part(wanted.uid)
    assert part.stat().st_size <= 30 * MIB
    assert await house.volumes.remove(wanted.uid) and house.left() == []


async def test_a_disk_that_goes_meanwhile_takes_its_import_with_it(house: House) -> None:
    class Slow(Uploads):
        async def read(self, upload: Upload):  # type: ignore[no-untyped-def]
            yield bytes(MIB)
            await asyncio.sleep(60)

    volumes = QemuVolumes(house.site, ImageStore(), Slow())
    wanted = house.bring(bytes(2 * MIB), "raw", size_bytes=16 * MIB)
    report = await volumes.apply(wanted)
    assert report.state is VolumeState.COPYING
    await asyncio.sleep(0.2)
    assert 0.3 < (await volumes.apply(wanted)).progress < 0.6
    assert await volumes.remove(wanted.uid) and house.left() == []


@pytest.mark.parametrize("change", [-1, 1])
async def test_an_object_of_another_length_is_fetched_again(house: House, change: int) -> None:
    wanted = house.bring(b"x" * MIB, "raw", size_bytes=16 * MIB)
    assert wanted.upload is not None
    house.objects.known[wanted.upload.key] = b"x" * (MIB + change)
    with pytest.raises(Retry, match="than it was"):
        await house.becomes(wanted)
    house.objects.known[wanted.upload.key] = b"x" * MIB
    assert (await house.becomes(wanted)).state is VolumeState.READY


@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="QEMU is not installed: scripts/install")
@pytest.mark.parametrize("format", ["raw", "qcow2", "vhdx"])
async def test_a_machine_boots_what_was_brought(tmp_path: Path, format: str) -> None:
    """The firmware starts the first sector of the image: here a few instructions that write a word to the console."""
    word = b"BROUGHT FROM ELSEWHERE\r\n"
    code = bytes.fromhex(
        "31c08ed8be207cbaf803ac84c07403eeebf8f4ebfd"
    )  # each byte from 0x7c20 on to port 0x3f8, then halt
    sector = code.ljust(0x20, b"\x90") + word + b"\0"
    (tmp_path / "source").write_bytes((sector.ljust(510, b"\0") + b"\x55\xaa").ljust(MIB, b"\0"))
    subprocess.run(
        ["qemu-img", "convert", "-f", "raw", "-O", format, "source", "image"],
        check=True,
        cwd=tmp_path,
        capture_output=True,
    )
    content = (tmp_path / "image").read_bytes()
    (tmp_path / "cloud").mkdir()
    async with open_cloud(tmp_path / "cloud", tiny_images()) as cloud:
        upload = Upload("demo", "se-sto", "bucket", "k", "v", ImageFormat(format), len(content))
        cloud.volumes = QemuVolumes(cloud.site, cloud.images, Uploads(k=content))
        await cloud.copied(Volume(cloud.boot_disk, 1, 16 * MIB, upload=upload))
        machine = replace(cloud.machine, image=None)
        await cloud.start(machine)

        async def said() -> bool:
            return word.strip() in await cloud.compute.log(machine.uid, 1 << 16)

        await until(said, 60.0)
