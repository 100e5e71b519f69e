"""Disks handed to a QEMU that runs already: opened here, passed over its monitor, made a node there."""

from __future__ import annotations

import asyncio
from pathlib import Path

from hansa.engines.qemu import blocks
from hansa.engines.qemu.diskfolder import DiskFolder, Note
from hansa.engines.qemu.handles import Handles
from hansa.engines.qemu.monitor import Session


async def pass_disk(session: Session, disks: DiskFolder, uid: str) -> None:
    """The disk as its own node, to be written. Raises Declined when another process has the file's lock."""
    with Handles() as opened:
        file = await session.give(opened.write(disks.disk(uid)), uid)
        below = await _pass_below(session, disks, uid, uid, opened)
        await session.add_node(blocks.disk(blocks.node_of(uid), file, below))


async def pass_source(session: Session, disks: DiskFolder, uid: str, node: str) -> None:
    """The disk as `node`, to be read only."""
    with Handles() as opened:
        file = await session.give(opened.read(disks.disk(uid)), node)
        below = await _pass_below(session, disks, uid, node, opened)
        await session.add_node(blocks.source(node, file, below))


async def pass_target(session: Session, disks: DiskFolder, uid: str, name: str) -> None:
    """The disk that is being made, empty and upon nothing; its descriptors are called `name`."""
    with Handles() as opened:
        part = await session.give(opened.write(disks.part(uid)), name)
        await session.add_node(blocks.disk(blocks.target_of(uid), part, -1, group=blocks.COPY))


async def _pass_below(session: Session, disks: DiskFolder, uid: str, name: str, opened: Handles) -> int:
    below = (await asyncio.to_thread(disks.note, uid) or Note()).below
    return await session.give(opened.read(Path(below)), name) if below else -1
