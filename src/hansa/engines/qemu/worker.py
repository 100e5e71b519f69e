"""Workers: QEMUs without a machine that work on disks which no guest holds.

A worker is confined like a guest and has the files that it is given and nothing else, so a disk that a guest's QEMU
wrote is never parsed by a process with our rights. It is proven like a guest, by `guest=CLOUD-disks.UID` with the uid
of the disk that it makes or grows, and it outlives us like one: a copy goes on and is found again.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator

from hansa.engines.qemu import arguments, confinement, process
from hansa.engines.qemu.confinement import Confinement
from hansa.engines.qemu.diskfolder import Task, Work
from hansa.engines.qemu.folder import make_run
from hansa.engines.qemu.handles import Handles, to_its_end
from hansa.engines.qemu.monitor import Session
from hansa.engines.qemu.process import Process
from hansa.engines.qemu.site import Site
from hansa.errors import Retry

_START_LIMIT_S, _END_LIMIT_S = 5.0, 5.0


async def begin(site: Site, work: Work) -> None:
    """Start the worker of `work`, which is written down already. To be called in `site.turn`. Raises Retry, Refused."""
    qemu = await site.qemu()
    run = site.folders.of_worker(work.uid)
    await asyncio.to_thread(make_run, run)
    with Handles() as opened:
        monitor = opened.listen(run / "qmp")
        held = Confinement(site.rights, work.user)
        command = [*confinement.words(held), *arguments.worker(work.uid, site.workers, qemu.binary, monitor)]
        site.children.add(await to_its_end(process.spawn, command, run / "stderr", opened.numbers))


@contextlib.asynccontextmanager
async def session(site: Site, uid: str) -> AsyncIterator[Session]:
    """Talk to the worker on disk `uid`. Raises Retry when there is none."""
    async with site.monitor(site.folders.of_worker(uid)).session(_START_LIMIT_S) as opened:
        if await opened.uid() != uid:
            raise Retry("another worker answers on this socket")
        yield opened


async def lives(site: Site, uid: str) -> bool:
    return uid in await site.workers_alive()


async def end(site: Site, uid: str, *, in_order: bool = False) -> bool:
    """End the worker on disk `uid`, `in_order` after it has written everything. True once there is none."""
    pids = (await site.workers_alive()).get(uid, [])
    found = [one for one in (process.adopt(pid, site.workers, uid, None) for pid in pids) if one]
    try:
        if in_order:
            with contextlib.suppress(Retry):
                async with session(site, uid) as opened:
                    await opened.quit()
        if not all([await _ended(one, in_order=in_order) for one in found]):
            return False
    finally:
        for one in found:
            one.close()
    run = site.folders.of_worker(uid)
    site.forget(run)
    await asyncio.to_thread(shutil.rmtree, run, ignore_errors=True)
    return True


async def busy(site: Site, disk: str, *, reading: bool = False) -> str:
    """What a worker does with the disk, for a user; empty: none is in the way. To be called in `site.turn`.

    Many may read a disk at the same time. A growth that a dead control process of ours began is ended: it is begun
    again when the disk is looked at.
    """
    for work in await asyncio.to_thread(site.disks.works):
        if work.machine or disk not in (work.uid, work.source):
            continue
        if work.task is Task.COPY:
            if not (reading and disk == work.source) and await lives(site, work.uid):
                return "a copy of the disk is being made"
        elif work.uid in site.growing:
            return "the disk is being grown"
        elif await end(site, work.uid):
            await asyncio.to_thread(site.disks.end_work, work.uid)
    return ""


async def _ended(found: Process, *, in_order: bool) -> bool:
    if in_order and await found.ended(_END_LIMIT_S):
        return True
    found.kill()
    return await found.ended(_END_LIMIT_S)
