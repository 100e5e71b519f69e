"""Disks as qcow2 files: blank ones, copy-on-write overlays of an image, which cost nothing until written, and copies.

A disk is made aside, made durable and renamed: the rename is the commit. Formats are always given, never guessed, and
a file that a guest's QEMU wrote is only ever opened by a QEMU that may do nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from hansa.engines.ports import Held, ObjectSource, Volume, VolumeReport, VolumeState
from hansa.engines.qemu import blocks, program, worker
from hansa.engines.qemu.copies import Copies
from hansa.engines.qemu.diskfolder import Note, Task, Work, full_message, rounded, space
from hansa.engines.qemu.files import refusals_of_the_host
from hansa.engines.qemu.images import Building, Image, ImageStore, Unavailable
from hansa.engines.qemu.imports import Imports
from hansa.engines.qemu.passing import pass_disk
from hansa.engines.qemu.site import Site
from hansa.errors import Refused, Retry
from hansa.units import MIB, human_size


class QemuVolumes:
    """The disks of one cloud on one host. Fills `VolumeEngine`."""

    def __init__(self, site: Site, images: ImageStore, objects: ObjectSource) -> None:
        self._site = site
        self._disks = site.disks
        self._disks.tidy()
        self._images = images
        self._copies = Copies(site)
        self._imports = Imports(site, objects)

    async def apply(self, wanted: Volume) -> VolumeReport:
        """Make the disk, or let it grow; never shrink it. Raises Retry, Refused."""
        with refusals_of_the_host():
            known = await asyncio.to_thread(self._disks.note, wanted.uid)
            if known and wanted.generation < known.generation:
                raise Refused("StaleGeneration", f"generation {known.generation} of this disk was seen already")
            size_bytes = await asyncio.to_thread(self._disks.size_bytes, wanted.uid)
            if size_bytes is None:
                if known and not self._disks.part(wanted.uid).exists():
                    raise Refused("ProvisioningFailed", "the disk's file is gone from this host; what it held is lost")
                return await self._make(wanted)
            return await self._keep(wanted, known, size_bytes)

    async def remove(self, uid: str) -> bool:
        """True once no file of the disk and nothing that makes it is left."""
        with refusals_of_the_host():
            if not await self._copies.cancel(uid):
                return False
            await self._imports.cancel(uid)
            await asyncio.to_thread(self._disks.erase, uid)
            return True

    async def held(self) -> Sequence[Held]:
        with refusals_of_the_host():
            uids = await asyncio.to_thread(self._disks.uids)
            return [Held(uid, (self._disks.note(uid) or Note()).generation) for uid in uids]

    async def _keep(self, wanted: Volume, known: Note | None, size_bytes: int) -> VolumeReport:
        """The disk is there: complete what was broken off, let it grow, and note what was seen."""
        work = await asyncio.to_thread(self._disks.work, wanted.uid)
        if work and work.task is Task.COPY:
            await self._copies.finish(work)
            known = await asyncio.to_thread(self._disks.note, wanted.uid)
        if known is None and wanted.image:
            raise Refused(
                "ProvisioningFailed", "the disk's note is gone from this host: what it lies upon is not known"
            )
        if rounded(wanted.size_bytes) > size_bytes:
            size_bytes = rounded(wanted.size_bytes)
            await self._grow(wanted.uid, wanted.generation, size_bytes)
        if known is None or wanted.generation > known.generation:
            known = replace(known or Note(), generation=wanted.generation)
            await asyncio.to_thread(self._disks.write_note, wanted.uid, known)
        return _ready(wanted, size_bytes, known.taken_at)

    async def _make(self, wanted: Volume) -> VolumeReport:
        if wanted.copy_of or wanted.upload:
            going = await (self._copies if wanted.copy_of else self._imports).step(wanted)
            if going is not None:
                return going
            made_bytes = await asyncio.to_thread(self._disks.size_bytes, wanted.uid)
            return await self._keep(wanted, await asyncio.to_thread(self._disks.note, wanted.uid), made_bytes or 0)
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
        return await self._create(wanted, image)

    async def _create(self, wanted: Volume, image: Image | None) -> VolumeReport:
        size_bytes = rounded(wanted.size_bytes or (image.default_bytes if image else MIB))
        if image and size_bytes < image.size_bytes:
            return VolumeReport(
                wanted.uid, VolumeState.TOO_SMALL, image.size_bytes, wanted.generation,
                f"the image {image.family} needs {human_size(image.size_bytes)}, the disk has {human_size(size_bytes)}",
            )  # fmt: skip
        if full := full_message(await asyncio.to_thread(space, self._disks.path)):
            return VolumeReport(wanted.uid, VolumeState.HOST_FULL, generation=wanted.generation, message=full)
        await asyncio.to_thread(self._disks.path.mkdir, mode=0o700, parents=True, exist_ok=True)
        await program.create(self._disks.part(wanted.uid), size_bytes, image.disk if image else None)
        note = Note(wanted.generation, str(image.folder), str(image.disk)) if image else Note(wanted.generation)
        await asyncio.to_thread(self._disks.write_note, wanted.uid, note)  # first: what lies below stands only there
        await asyncio.to_thread(self._disks.commit, wanted.uid)
        return _ready(wanted, size_bytes)

    async def _grow(self, uid: str, generation: int, size_bytes: int) -> None:
        """Inside the guest that holds the disk, else by a worker. Raises Retry."""
        async with self._site.turn:
            guest = await self._site.guest_with(uid)
            if guest is None:
                if doing := await worker.busy(self._site, uid):
                    raise Retry(f"the disk grows later: {doing}")
                work = Work(uid, Task.GROW, generation, source=uid, size_bytes=size_bytes)
                work = replace(work, user=await self._site.user_for(uid))
                self._site.growing.add(uid)
                await asyncio.to_thread(self._disks.write_work, work)
        if guest is not None:
            async with self._site.monitor(self._site.folders.of(guest.uid).run).session() as session:
                await session.resize(blocks.node_of(uid), size_bytes)
            return
        try:
            await worker.begin(self._site, work)
            async with worker.session(self._site, uid) as session:
                await pass_disk(session, self._disks, uid)
                await session.resize(blocks.node_of(uid), size_bytes)
        finally:
            if await worker.end(self._site, uid, in_order=True):
                await asyncio.to_thread(self._disks.end_work, uid)
            self._site.growing.discard(uid)


def _ready(wanted: Volume, size_bytes: int, taken_at: float = 0.0) -> VolumeReport:
    return VolumeReport(wanted.uid, VolumeState.READY, size_bytes, wanted.generation, taken_at=taken_at)
