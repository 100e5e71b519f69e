"""Disks that come and go while a machine runs.

Three things make one plugged in: descriptors, a block node, a device; all are named after the disk, so whatever a dead
control process left half-done is seen and completed. QEMU's own lists are the truth, and the record only says which
disks it may hold, written down before they are plugged in.

On virtio-scsi QEMU takes a device away at once, even from a guest that is paused and cannot see it go. So a disk is
only taken from a guest that runs; from another it goes when that one runs again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from hansa.engines.ports import HotDisk, Machine
from hansa.engines.qemu import blocks, worker
from hansa.engines.qemu.monitor import Declined, Session
from hansa.engines.qemu.passing import pass_disk
from hansa.engines.qemu.seen import Seen, Sight
from hansa.engines.qemu.site import Site

UNPLUG_LIMIT_S = 1.0  # then it is left pending: the next pass asks again
REPLUG_LIMIT_S = 2.0  # until a device that was just taken out has let go of its node
CLOSE_LIMIT_S = 0.5  # until a node that no device uses is free; one that is being copied is not
_POLL_S = 0.02


def differs(wanted: Machine, held: Sequence[str], sight: Sight) -> bool:
    """Whether anything is to be plugged in or taken out. `held`: what QEMU may hold by the record."""
    names = {disk.uid for disk in wanted.hot_disks}
    return not names == set(sight.hot) == set(held)


async def swap(wanted: Machine, seen: Seen, sight: Sight) -> str:
    """Take out what is not wanted, plug in what is missing. Returns why one is not there yet, for the user.

    Raises Retry when QEMU does not answer.
    """
    site, kept = seen.site, {disk.uid for disk in wanted.hot_disks}
    going = tuple(sorted({*seen.record.hot, *sight.hot} - kept))
    missing: list[HotDisk] = []
    troubles: list[str] = []
    async with site.turn:
        for disk in (disk for disk in wanted.hot_disks if disk.uid not in sight.hot):
            trouble = await _trouble_with(site, disk.uid)
            troubles.append(trouble) if trouble else missing.append(disk)
        held = {*sight.hot, *seen.record.hot, *(disk.uid for disk in missing)}
        await _note(seen, held, going)
    async with seen.session() as session:
        for uid in going:
            await _unplug(session, uid, running=sight.status == "running")
        for disk in missing:
            try:
                await _plug(site, session, disk)
            except Declined:
                troubles.append(f"disk {disk.uid} is still held elsewhere")
        nodes = await session.nodes()
    held = {uid for uid in held if blocks.node_of(uid) in nodes}
    await _note(seen, held, tuple(uid for uid in going if uid in held))
    return "; ".join(troubles)


async def _note(seen: Seen, held: set[str], going: tuple[str, ...]) -> None:
    if (tuple(sorted(held)), going) != (seen.record.hot, seen.record.letting_go):
        await seen.remember(hot=tuple(sorted(held)), letting_go=going)


async def _trouble_with(site: Site, uid: str) -> str:
    if await asyncio.to_thread(site.disks.size_bytes, uid) is None:
        return f"disk {uid} is not on this host yet"
    doing = await worker.busy(site, uid)
    return f"disk {uid} has to wait: {doing}" if doing else ""


async def _plug(site: Site, session: Session, disk: HotDisk) -> None:
    """Raises Declined when another process has the file's lock, or a device that is going the node."""
    if blocks.node_of(disk.uid) not in await session.nodes():
        await session.take_back(disk.uid)  # what an attempt that was broken off left
        try:
            await pass_disk(session, site.disks, disk.uid)
        except Declined:
            await session.take_back(disk.uid)
            raise
    if not await _within(REPLUG_LIMIT_S, lambda: _added(session, disk)):
        raise Declined("the disk is still being let go of")


async def _added(session: Session, disk: HotDisk) -> bool:
    try:
        await session.add_device(blocks.hot_device(disk.uid, disk.serial))
    except Declined:
        return False
    return True


async def _unplug(session: Session, uid: str, *, running: bool) -> None:
    """As far as it goes now. A mounted disk is taken away too: Linux does not refuse."""
    device, node = blocks.device_of(uid), blocks.node_of(uid)
    if device in await session.devices():
        if not running:
            return
        await session.delete_device(device)
        if not await _within(UNPLUG_LIMIT_S, lambda: _without_device(session, device)):
            return
    if node not in await session.nodes() or await _within(CLOSE_LIMIT_S, lambda: _closed(session, node)):
        await session.take_back(uid)


async def _without_device(session: Session, device: str) -> bool:
    return device not in await session.devices()


async def _closed(session: Session, node: str) -> bool:
    try:
        await session.delete_node(node)
    except Declined:  # in use: the device lets go of it a moment later, a copy when it is done
        return False
    return True


async def _within(limit_s: float, done: Callable[[], Awaitable[bool]]) -> bool:
    end = time.monotonic() + limit_s
    while not await done():
        if time.monotonic() > end:
            return False
        await asyncio.sleep(_POLL_S)
    return True
