"""Disks from images that tenants uploaded: fetched, looked at, converted, each in the background of `apply`.

The bytes come as a stream and lie in a file of ours that others may read by its descriptor alone. Everything that
parses them runs in the sandbox, with the format that the name of the object gave; whatever an image points at is
refused, and cut off besides. The disk is a qcow2 that we made, filled by that program: it is trusted as little as one
that a guest wrote. An import that is broken off leaves a `.part` and begins anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hansa.engines.ports import ObjectSource, Upload, Volume, VolumeReport, VolumeState
from hansa.engines.qemu import program, sandbox, uploaded
from hansa.engines.qemu.diskfolder import FULL_SHARE, Note, full_message, rounded, space
from hansa.engines.qemu.files import refusals_of_the_host
from hansa.engines.qemu.handles import Handles
from hansa.engines.qemu.sandbox import Limits, Said
from hansa.engines.qemu.site import Site
from hansa.errors import Refused, Retry
from hansa.units import MIB, human_size

IMPORTS_MAX = 2  # at a time: they take a core each
LOOK = Limits(wall_s=60.0, cpu_s=30)
CONVERT_S, CONVERT_CPU_S = 3600.0, 3000
LOT_BYTES = 4 * MIB
SLACK_BYTES = 64 * MIB  # of a qcow2 beside its data
READ_S = 120.0  # for the next bytes of an upload to come
_SHOWN, _REASON = 0.9, "ImageUnavailable"


@dataclass(slots=True)
class _Import:
    """One that goes on, or that ended: its task says how."""

    generation: int
    upload: Upload
    task: asyncio.Task[VolumeReport | None] | None = None
    fetched: int = 0
    doing: str = "waits for another import"

    @property
    def progress(self) -> float:
        return _SHOWN * self.fetched / max(1, self.upload.size_bytes)


class Imports:
    def __init__(self, site: Site, source: ObjectSource) -> None:
        self._site, self._disks, self._source = site, site.disks, source
        self._turns = asyncio.Semaphore(IMPORTS_MAX)
        self._known: dict[str, _Import] = {}

    async def step(self, wanted: Volume) -> VolumeReport | None:
        """Begins the import or looks after it; None once the disk is there and noted. Raises Retry, Refused."""
        if wanted.upload is None:
            raise Refused("ProvisioningFailed", "there is no upload to import")
        known = self._known.get(wanted.uid)
        if known is not None and known.task is not None and known.task.done() and known.generation < wanted.generation:
            known = None  # it ended for another size: asked anew
        if known is None:
            known = self._known[wanted.uid] = _Import(wanted.generation, wanted.upload)
            known.task = asyncio.create_task(self._made(wanted, wanted.upload, known))
        task = known.task
        if task is None or not task.done():
            return VolumeReport(
                wanted.uid, VolumeState.COPYING, generation=wanted.generation, message=known.doing,
                progress=known.progress,
            )  # fmt: skip
        report = self._outcome(wanted.uid, task)
        if report is None:
            await asyncio.to_thread(self._disks.write_note, wanted.uid, Note(known.generation))
            await asyncio.to_thread(self._disks.commit, wanted.uid)
            self._known.pop(wanted.uid, None)
        return report

    def _outcome(self, uid: str, task: asyncio.Task[VolumeReport | None]) -> VolumeReport | None:
        """What an import came to. What may be otherwise the next time is forgotten, and begun again."""
        if task.cancelled():
            self._known.pop(uid, None)
            raise Retry("the import was broken off and begins anew")
        error = task.exception()
        lasts = isinstance(error, Refused) if error is not None else _lasts(task.result())
        if not lasts:
            self._known.pop(uid, None)
        return task.result()

    async def cancel(self, uid: str) -> None:
        """Nothing of an import goes on when this returns."""
        known = self._known.pop(uid, None)
        if known is not None and known.task is not None and not known.task.done():
            known.task.cancel()
            await asyncio.wait({known.task})

    # -- one import ---------------------------------------------------------------------------

    async def _made(self, wanted: Volume, upload: Upload, known: _Import) -> VolumeReport | None:
        async with self._turns:
            with refusals_of_the_host():
                file = self._disks.upload(wanted.uid)
                try:
                    return await self._imported(wanted, upload, file, known)
                finally:
                    await asyncio.to_thread(file.unlink, missing_ok=True)

    async def _imported(self, wanted: Volume, upload: Upload, file: Path, known: _Import) -> VolumeReport | None:
        if full := self._full(wanted, upload.size_bytes):
            return full
        known.doing = f"{human_size(upload.size_bytes)} are being fetched"
        empty = await self._fetch(upload, file, known)
        known.doing = "the image is being looked at"
        needs_bytes = upload.size_bytes if empty else await self._looked_at(wanted.uid, upload, file)
        size_bytes = rounded(wanted.size_bytes or needs_bytes)
        if size_bytes < needs_bytes:
            said = f"the image needs {human_size(needs_bytes)}, the disk has {human_size(size_bytes)}"
            return VolumeReport(wanted.uid, VolumeState.TOO_SMALL, needs_bytes, wanted.generation, said)
        await program.create(self._disks.part(wanted.uid), size_bytes)
        known.doing = "the image is being converted"
        if not empty and (full := await self._convert(wanted, upload, file, needs_bytes)):
            return full
        return None

    def _full(self, wanted: Volume, more_bytes: int) -> VolumeReport | None:
        said = full_message(space(self._disks.path), more_bytes)
        return (
            VolumeReport(wanted.uid, VolumeState.HOST_FULL, generation=wanted.generation, message=said)
            if said
            else None
        )

    async def _fetch(self, upload: Upload, file: Path, known: _Import) -> bool:
        """The bytes into a file, holes for zeros. True: there was nothing but zeros, which are a disk in any format."""
        writer = await asyncio.to_thread(_Writer, file)
        try:
            stream = aiter(self._source.read(upload))
            async with contextlib.aclosing(stream):  # type: ignore[type-var]
                while True:
                    async with asyncio.timeout(READ_S):
                        piece = await anext(stream, None)
                    if piece is None:
                        break
                    known.fetched += len(piece)
                    if known.fetched > upload.size_bytes:
                        raise Retry("the object is longer than it was")
                    if writer.take(piece):
                        await asyncio.to_thread(writer.write)
            if known.fetched != upload.size_bytes:
                raise Retry("the object is shorter than it was")
            await asyncio.to_thread(writer.finish, upload.size_bytes)
        except TimeoutError as error:
            raise Retry(f"no bytes of the object came for {READ_S:.0f} s") from error
        finally:
            await asyncio.to_thread(writer.close)
        return not writer.anything

    async def _looked_at(self, uid: str, upload: Upload, file: Path) -> int:
        """The size that the image is of. Raises Refused with what is wrong with it."""
        fault = uploaded.head_fault(upload.format, await asyncio.to_thread(_head, file))
        if fault:
            raise Refused(_REASON, f"the image is refused: {fault}")
        with Handles() as opened:
            words = ["info", "--output=json", uploaded.source_options(upload.format, opened.read(file))]
            said = await self._sandboxed(uid, words, opened, LOOK)
        if said.code:
            raise Refused(_REASON, f"the image cannot be read as {upload.format}: {_shown(said)}")
        try:
            told: Mapping[str, Any] = uploaded.read_told(said.output)
        except ValueError as error:
            raise Refused(_REASON, "the image says more of itself than anybody reads") from error
        if fault := uploaded.told_fault(told):
            raise Refused(_REASON, f"the image is refused: {fault}")
        return int(told["virtual-size"])

    async def _convert(self, wanted: Volume, upload: Upload, file: Path, needs_bytes: int) -> VolumeReport | None:
        """Fills the `.part`. A report when the host has no room for what the image unfolds to."""
        part = self._disks.part(wanted.uid)
        await asyncio.to_thread(part.chmod, 0o666)  # for a stranger with its descriptor: the folder is closed to others
        room = _room(self._disks.path)
        limits = Limits(CONVERT_S, CONVERT_CPU_S, min(room, needs_bytes + needs_bytes // 512 + SLACK_BYTES))
        with Handles() as opened:
            source = uploaded.source_options(upload.format, opened.read(file))
            words = ["convert", "-n", "--target-image-opts", source, uploaded.target_options(opened.write(part))]
            said = await self._sandboxed(wanted.uid, words, opened, limits)
        if said.code == 0:
            return None
        if limits.output_bytes == room:
            message = f"the image unfolds to more than the {human_size(room)} that this host has free"
            return VolumeReport(wanted.uid, VolumeState.HOST_FULL, generation=wanted.generation, message=message)
        raise Refused(_REASON, f"the image cannot be converted: {_shown(said)}")

    async def _sandboxed(self, uid: str, words: list[str], opened: Handles, limits: Limits) -> Said:
        async with self._site.turn:
            user = await self._site.user_for(uid)
        return await sandbox.run(words, rights=self._site.rights, user=user, files=opened.numbers, limits=limits)


def _lasts(report: VolumeReport | None) -> bool:
    """Is it so until another size is asked for? A disk that is filled is there until it has its name."""
    return report is None or report.state is VolumeState.TOO_SMALL


class _Writer:
    """Gathers lots and writes them; zeros become holes."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        self._file = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._lot, self._at, self.anything = bytearray(), 0, False

    def take(self, piece: bytes | memoryview) -> bool:
        """True: the lot is large enough to be written."""
        self._lot += piece
        return len(self._lot) >= LOT_BYTES

    def write(self) -> None:
        lot, self._lot = self._lot, bytearray()
        if lot.strip(b"\0"):
            self.anything = True
            done = 0
            while done < len(lot):
                done += os.pwrite(self._file, memoryview(lot)[done:], self._at + done)
        self._at += len(lot)

    def finish(self, size_bytes: int) -> None:
        """Its last bytes; readable, but not writable, by whoever is handed it."""
        self.write()
        os.ftruncate(self._file, size_bytes)
        os.fchmod(self._file, 0o444)

    def close(self) -> None:
        os.close(self._file)


def _head(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(uploaded.HEAD_BYTES)


def _room(folder: Path) -> int:
    """Bytes that may be written before the host's disk is too full."""
    found = space(folder)
    return max(0, int(found.total_bytes * FULL_SHARE) - found.used_bytes)


def _shown(said: Said) -> str:
    if said.code < 0:
        return f"qemu-img took too much and was ended (signal {-said.code})"
    return said.errors.replace("qemu-img: ", "").partition("\n")[0][:200] or f"exit status {said.code}"
