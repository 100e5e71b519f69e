"""Disks as qcow2 files: blank ones, and copy-on-write overlays of an image, which cost nothing until written.

`disks/UID.qcow2` is the disk, `disks/UID.json` what we know of it. A disk is made aside, made durable and renamed:
the rename is the commit. Formats are always given, never guessed.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from hansa.engines.ports import Held, Volume, VolumeReport, VolumeState
from hansa.engines.qemu import program
from hansa.engines.qemu.files import read_json, sync_folder, write_json
from hansa.engines.qemu.images import Building, Image, ImageStore, Unavailable
from hansa.engines.qemu.names import checked, is_uid
from hansa.engines.qemu.qcow2 import head
from hansa.errors import Refused, Retry
from hansa.units import MIB, human_size

FULL_SHARE = 0.85  # above this no new disk is made: thin disks promise more than there is

Grow = Callable[[str, int], Awaitable[bool]]


def disk_path(data_dir: Path, uid: str) -> Path:
    return data_dir / "disks" / f"{checked(uid)}.qcow2"


def rounded(size_bytes: int) -> int:
    """Up to a whole MiB: decimal sizes are not even whole sectors."""
    return -(-size_bytes // MIB) * MIB


class QemuVolumes:
    """The disks below `data_dir`. `grow_running` resizes a disk inside the QEMU that holds it; False: none does."""

    def __init__(self, data_dir: Path, images: ImageStore, grow_running: Grow) -> None:
        self._data_dir = data_dir
        self._folder = data_dir / "disks"
        self._images = images
        self._grow_running = grow_running

    async def apply(self, wanted: Volume) -> VolumeReport:
        """Make the disk, or let it grow; never shrink it. Raises Retry, Refused."""
        path = disk_path(self._data_dir, wanted.uid)
        known = read_json(self._notes(wanted.uid)) or {}
        if wanted.generation < known.get("generation", 0):
            raise Refused("StaleGeneration", f"generation {known['generation']} of this disk was seen already")
        there = head(path)
        if there is None:
            if known:
                raise Refused("ProvisioningFailed", "the disk's file is gone from this host; what it held is lost")
            return await self._create(wanted, path)
        size_bytes = there.size_bytes
        if rounded(wanted.size_bytes) > size_bytes:
            size_bytes = rounded(wanted.size_bytes)
            await self._grow(wanted.uid, path, size_bytes)
        if wanted.generation > known.get("generation", 0) or not known:
            await self._note(wanted)
        return self._ready(wanted, size_bytes)

    async def remove(self, uid: str) -> bool:
        return await asyncio.to_thread(self._erase, uid)

    async def held(self) -> Sequence[Held]:
        return await asyncio.to_thread(self._list)

    async def _create(self, wanted: Volume, path: Path) -> VolumeReport:
        image = await asyncio.to_thread(self._images.ensure, wanted.image) if wanted.image else None
        if isinstance(image, Building):
            return VolumeReport(
                wanted.uid, VolumeState.WAITING_FOR_IMAGE, generation=wanted.generation,
                message=f"{image.message} ({image.progress:.0%})", progress=image.progress,
            )  # fmt: skip
        if isinstance(image, Unavailable):
            return VolumeReport(
                wanted.uid, VolumeState.IMAGE_UNAVAILABLE, generation=wanted.generation, message=image.message
            )
        size_bytes = wanted.size_bytes or (image.default_bytes if image else MIB)
        if image and rounded(size_bytes) < image.size_bytes:
            return VolumeReport(
                wanted.uid, VolumeState.TOO_SMALL, image.size_bytes, wanted.generation,
                f"the image {image.family} needs {human_size(image.size_bytes)}, the disk has {human_size(size_bytes)}",
            )  # fmt: skip
        await self._write(path, rounded(size_bytes), image)
        await self._note(wanted)
        return self._ready(wanted, rounded(size_bytes))

    async def _write(self, path: Path, size_bytes: int, image: Image | None) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        usage = shutil.disk_usage(self._folder)
        if usage.used / usage.total > FULL_SHARE:
            raise Retry(f"the host's disk is {usage.used / usage.total:.0%} full: no new disk fits safely")
        part = path.with_name(f"{path.name}.part")
        part.unlink(missing_ok=True)
        below = ["-F", "qcow2", "-b", str(image.disk)] if image else []
        await program.run(program.IMG, "create", "-q", "-f", "qcow2", *below, str(part), str(size_bytes))
        await asyncio.to_thread(_commit, part, path)

    async def _grow(self, uid: str, path: Path, size_bytes: int) -> None:
        if not await self._grow_running(uid, size_bytes):
            await program.run(program.IMG, "resize", "-q", "-f", "qcow2", str(path), str(size_bytes))

    async def _note(self, wanted: Volume) -> None:
        known = {"generation": wanted.generation, "image": wanted.image, "notedAt": time.time()}
        await asyncio.to_thread(write_json, self._notes(wanted.uid), known)

    def _notes(self, uid: str) -> Path:
        return self._folder / f"{checked(uid)}.json"

    def _ready(self, wanted: Volume, size_bytes: int) -> VolumeReport:
        return VolumeReport(wanted.uid, VolumeState.READY, size_bytes, wanted.generation)

    def _erase(self, uid: str) -> bool:
        path = disk_path(self._data_dir, uid)
        for file in (path.with_name(f"{path.name}.part"), path, self._notes(uid)):
            file.unlink(missing_ok=True)
        return True

    def _list(self) -> list[Held]:
        if not self._folder.is_dir():
            return []
        uids = sorted({entry.name.partition(".")[0] for entry in self._folder.iterdir()})
        return [Held(uid, (read_json(self._notes(uid)) or {}).get("generation", 0)) for uid in uids if is_uid(uid)]


def _commit(part: Path, path: Path) -> None:
    part.chmod(0o600)
    handle = os.open(part, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    part.rename(path)
    sync_folder(path.parent)
