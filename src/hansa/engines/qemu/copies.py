"""Full copies of disks: snapshots, and disks made from them.

One mechanism: a block job in the QEMU that holds the source, which copies what the disk showed at one moment while its
guest goes on writing; a worker's QEMU where no guest holds it. A call begins the job or looks after it, and never waits
for it. The job belongs to that QEMU and is named after the copy, so it outlives us and is found again by an heir; if
its QEMU ends before it is done, what there is goes away and the copy is begun anew.

Where nothing lies below the source only its own clusters are read: the same content, and an empty terabyte costs
nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import replace

from hansa.engines.ports import Volume, VolumeReport, VolumeState
from hansa.engines.qemu import blocks, process, program, worker
from hansa.engines.qemu.diskfolder import Note, Task, Work, full_message, rounded, space
from hansa.engines.qemu.monitor import Declined, Job, Session
from hansa.engines.qemu.passing import pass_source, pass_target
from hansa.engines.qemu.site import Site
from hansa.errors import Refused, Retry
from hansa.units import human_size

CANCEL_LIMIT_S = 2.0

_SOURCE = "source"  # its node in a worker
_POLL_S = 0.05


class Copies:
    """The copies that are being made in one data folder."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._disks = site.disks

    async def step(self, wanted: Volume) -> VolumeReport | None:
        """Begin the copy or look after it; None once the disk is there and noted. Raises Retry, Refused."""
        work = await asyncio.to_thread(self._disks.work, wanted.uid)
        if work is None:
            return await self._begin(wanted)
        if wanted.generation < work.generation:
            raise Refused("StaleGeneration", f"generation {work.generation} of this disk was seen already")
        if not work.filled:
            job = await self._look_after(work)
            if job is None:  # its QEMU is gone, or never began it
                await self._drop(work)
                return await self._begin(wanted)
            if job.failure:
                return await self._failed(work, job)
            if not job.concluded:
                return _copying(work, job.progress)
            work = replace(work, filled=True)
            await asyncio.to_thread(self._disks.write_work, work)
        await self.finish(work)
        return None

    async def finish(self, work: Work) -> None:
        """The copy is complete and closed: let go of it and give it its name. May be repeated. Raises Retry."""
        async with self._session(work) as session:
            if session is not None:
                await _forget(session, work)
        if not work.machine and not await worker.end(self._site, work.uid, in_order=True):
            raise Retry("the worker on the disk does not end")
        await asyncio.to_thread(self._disks.commit, work.uid)
        note = Note(work.generation, image=work.image, taken_at=work.taken_at)
        await asyncio.to_thread(self._disks.write_note, work.uid, note)
        await asyncio.to_thread(self._disks.end_work, work.uid)

    async def cancel(self, uid: str) -> bool:
        """End what is done to make this disk. True once nothing of it goes on. Raises Retry."""
        work = await asyncio.to_thread(self._disks.work, uid)
        if work is None:
            return True
        if work.machine:
            async with self._session(work) as session:
                if session is not None and not await _cancelled(session, work):
                    return False
        elif not await worker.end(self._site, uid):
            return False
        return True

    async def _begin(self, wanted: Volume) -> VolumeReport:
        source = wanted.copy_of or ""
        source_bytes = await asyncio.to_thread(self._disks.size_bytes, source)
        if source_bytes is None:
            raise Retry(f"the disk that is to be copied is not on this host: {source}")
        size_bytes = rounded(wanted.size_bytes) or source_bytes
        if size_bytes < source_bytes:
            said = f"the source needs {human_size(source_bytes)}, the disk has {human_size(size_bytes)}"
            return VolumeReport(wanted.uid, VolumeState.TOO_SMALL, source_bytes, wanted.generation, said)
        more_bytes = await asyncio.to_thread(self._disks.written_bytes, source)
        if full := await self._full(wanted.uid, wanted.generation, more_bytes):
            return full
        work = await self._record(wanted, size_bytes, source_bytes)
        if refused := await self._start(work):
            await self._drop(work)
            raise Retry("the QEMU that has the disk does not copy it now", detail=refused.detail) from refused
        return _copying(work, 0.0)

    async def _record(self, wanted: Volume, size_bytes: int, source_bytes: int) -> Work:
        """Settle who copies and write it down, then make the empty target and the worker where one is needed."""
        source = wanted.copy_of or ""
        async with self._site.turn:
            guest = await self._site.guest_with(source)
            if guest is None and (doing := await worker.busy(self._site, source, reading=True)):
                raise Retry(f"the disk that is to be copied has to wait: {doing}")
            note = await asyncio.to_thread(self._disks.note, source) or Note()
            work = Work(
                wanted.uid,
                Task.COPY,
                wanted.generation,
                source=source,
                machine=guest.uid if guest else "",
                user=0 if guest else await self._site.user_for(wanted.uid),
                size_bytes=size_bytes,
                image=note.image,
                taken_at=time.time(),
            )
            await asyncio.to_thread(self._disks.write_work, work)
            await program.create(self._disks.part(wanted.uid), source_bytes)
            if guest is None:
                await worker.begin(self._site, work)
        return work

    async def _start(self, work: Work) -> Declined | None:
        """Hand over the target, to a worker the source as well, and begin. What QEMU said where it refused."""
        job = blocks.job_of(work.uid)
        below = (await asyncio.to_thread(self._disks.note, work.source) or Note()).below
        async with self._session(work) as session:
            if session is None:
                raise Retry("the QEMU that was to copy the disk has ended")
            try:
                if not work.machine:
                    await pass_source(session, self._disks, work.source, _SOURCE)
                await pass_target(session, self._disks, work.uid, job)
                source = blocks.node_of(work.source) if work.machine else _SOURCE
                await session.begin_copy(job, source, blocks.target_of(work.uid), whole=bool(below))
            except Declined as refused:
                await _forget(session, work)
                return refused
        return None

    async def _look_after(self, work: Work) -> Job | None:
        """The job; with a complete one the target is given its size and closed, a failed one is forgotten."""
        async with self._session(work) as session:
            if session is None:
                return None
            job = await session.job(blocks.job_of(work.uid))
            if job is None or job.failure:
                await _forget(session, work)
            elif job.concluded and (target := blocks.target_of(work.uid)) in await session.nodes():
                await session.resize(target, work.size_bytes)
                await session.delete_node(target)
            return job

    async def _failed(self, work: Work, job: Job) -> VolumeReport:
        full = await self._full(work.uid, work.generation, 0)
        await self._drop(work)
        if full:
            return full
        raise Retry(f"the copy broke off and is begun anew: {job.failure}")

    async def _drop(self, work: Work) -> None:
        """Nothing of this attempt is left."""
        if not work.machine and not await worker.end(self._site, work.uid):
            raise Retry("the worker on the disk does not end")
        await asyncio.to_thread(self._disks.part(work.uid).unlink, missing_ok=True)
        await asyncio.to_thread(self._disks.end_work, work.uid)

    async def _full(self, uid: str, generation: int, more_bytes: int) -> VolumeReport | None:
        said = full_message(await asyncio.to_thread(space, self._disks.path), more_bytes)
        return VolumeReport(uid, VolumeState.HOST_FULL, generation=generation, message=said) if said else None

    @contextlib.asynccontextmanager
    async def _session(self, work: Work) -> AsyncIterator[Session | None]:
        """With the QEMU that does the work; None when it is gone. Raises Retry when it says nothing."""
        if not work.machine:
            if not await worker.lives(self._site, work.uid):
                yield None
                return
            async with worker.session(self._site, work.uid) as session:
                yield session
            return
        folder = self._site.folders.of(work.machine)
        record = await asyncio.to_thread(folder.read)
        found = process.of_record(record, self._site.cloud) if record else None
        if found is None:
            yield None
            return
        with found:
            async with self._site.monitor(folder.run).session() as session:
                yield session


async def _forget(session: Session, work: Work) -> None:
    """Nothing of the job is left in this QEMU. It does not run."""
    job, target = blocks.job_of(work.uid), blocks.target_of(work.uid)
    if await session.job(job):
        await session.dismiss(job)
    if target in await session.nodes():
        await session.delete_node(target)
    await session.take_back(job)


async def _cancelled(session: Session, work: Work) -> bool:
    name = blocks.job_of(work.uid)
    limit = time.monotonic() + CANCEL_LIMIT_S
    job = await session.job(name)
    if job and not job.concluded:
        await session.cancel(name)
    while job and not job.concluded:
        if time.monotonic() > limit:
            return False
        await asyncio.sleep(_POLL_S)
        job = await session.job(name)
    await _forget(session, work)
    return True


def _copying(work: Work, progress: float) -> VolumeReport:
    return VolumeReport(
        work.uid,
        VolumeState.COPYING,
        work.size_bytes,
        work.generation,
        f"being copied ({progress:.0%})",
        progress,
        work.taken_at,
    )
