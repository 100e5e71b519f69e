"""Starting a guest: everything it may use is opened here, and its QEMU is spawned confined and paused.

The order is that of a crash at any line: what could be left behind is written down first. QEMU itself opens no path of
ours, so the files belong to us alone, whoever breaks out of it.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from hansa.engines.ports import Link, Machine, NetworkEngine
from hansa.engines.qemu import arguments, cgroups, confinement, process, seed, worker
from hansa.engines.qemu.arguments import DirectBoot, Launch, Opened
from hansa.engines.qemu.confinement import Confinement
from hansa.engines.qemu.diskfolder import Note
from hansa.engines.qemu.handles import Handles, to_its_end
from hansa.engines.qemu.host import Host
from hansa.engines.qemu.images import image_in
from hansa.engines.qemu.plan import Phase
from hansa.engines.qemu.program import Qemu
from hansa.engines.qemu.seen import Seen
from hansa.engines.qemu.site import Site
from hansa.errors import Retry

KILL_LIMIT_S = 5.0


class Launcher:
    """Starts the guests of one cloud."""

    def __init__(self, site: Site, host: Host, network: NetworkEngine) -> None:
        self._site = site
        self._host = host
        self._network = network

    async def launch(self, wanted: Machine, seen: Seen) -> None:
        """Afterwards `seen.process` is its QEMU, which waits for `cont`, or None when it ended. Raises Retry, Refused."""
        for pid in (await self._site.guests()).get(wanted.uid, []):
            await self._end_unknown(wanted.uid, pid)
        qemu = await self._site.qemu()
        accelerator = (await self._host.accelerator(qemu)).name
        link = await self._network.plug(wanted.network, wanted.uid) if wanted.network else Link()
        try:
            with Handles() as opened:
                launch = await to_its_end(self._open, wanted, seen, qemu, accelerator, link, opened)
                await self._record(wanted, seen, launch)
                command = await asyncio.to_thread(self._confine, wanted, seen, launch)
                pid = await to_its_end(process.spawn, command, seen.folder.stderr, opened.numbers)
        finally:
            link.close()
        seen.process = process.adopt(pid, self._site.cloud, wanted.uid, None)
        if seen.process is not None:
            process.prefer_as_victim(pid)
            await seen.take_over(seen.process)

    def _open(self, wanted: Machine, seen: Seen, qemu: Qemu, accelerator: str, link: Link, opened: Handles) -> Launch:
        """Everything that the guest may use, open. Blocks."""
        folder = seen.folder
        folder.prepare(seed.volume(wanted))
        launch = Launch(
            cloud=self._site.cloud,
            binary=qemu.binary,
            machine_type=seen.record.machine_type or qemu.machine_type,
            accelerator=accelerator,
            monitor=opened.listen(folder.monitor),
            line=opened.listen(folder.line),
            log=opened.append(folder.console),
            seed=opened.read(folder.seed),
            disks=tuple(self._open_disk(disk.uid, opened) for disk in wanted.disks),
            direct=self._direct_boot(wanted, opened),
            link=link,
        )
        opened.lend(link.tap)
        opened.lend(link.namespace)
        return launch

    def _open_disk(self, uid: str, opened: Handles) -> Opened:
        below = (self._site.disks.note(uid) or Note()).below
        try:
            return Opened(opened.write(self._site.disks.disk(uid)), opened.read(Path(below)) if below else -1)
        except FileNotFoundError as error:
            raise Retry(f"disk {uid} is not on this host yet", detail=str(error)) from error

    def _direct_boot(self, wanted: Machine, opened: Handles) -> DirectBoot | None:
        """The kernel of the image that the boot disk descends from; None: by firmware."""
        boot = next((disk for disk in wanted.disks if disk.boot), None)
        folder = (self._site.disks.note(boot.uid) or Note()).image if boot else ""
        if not folder:
            return None
        image = image_in(Path(folder))
        if image is None:
            raise Retry(f"the image of the boot disk is gone from this host: {folder}")
        if not image.append:
            return None
        return DirectBoot(opened.read(image.kernel), opened.read(image.initrd), image.append)

    async def _record(self, wanted: Machine, seen: Seen, launch: Launch) -> None:
        """Take the disks: from here on they are this machine's, until its process is known to be gone."""
        async with self._site.turn:
            for disk in wanted.disks:
                if doing := await worker.busy(self._site, disk.uid):
                    raise Retry(f"disk {disk.uid} has to wait: {doing}")
            holder = process.stat(launch.link.holder) if launch.link.holder else None
            await seen.remember(
                phase=Phase.STARTED,
                pid=0,
                start_ticks=0,
                boot_id=process.boot_id(),
                started_at=0.0,
                accelerator=launch.accelerator,
                machine_type=launch.machine_type,
                user=await self._site.user_for(wanted.uid),
                holder=launch.link.holder,
                holder_ticks=holder.start_ticks if holder else 0,
                disks=tuple(disk.uid for disk in wanted.disks),
                devices=arguments.devices(wanted),
                hot=(),
                letting_go=(),
                cut_off=False,
                stopping_since=0.0,
                pressed_at=0.0,
                quit_at=0.0,
            )

    def _confine(self, wanted: Machine, seen: Seen, launch: Launch) -> list[str]:
        """The whole command, and the group that its process will be moved to. Blocks."""
        user, link = seen.record.user, launch.link
        if link.local and user:
            os.chown(Path(link.local).parent, user, user)  # QEMU makes its own end of a datagram link
        cache = arguments.cache_mib(wanted, launch.accelerator, direct=launch.direct is not None)
        self._site.groups.make(wanted.uid, cgroups.bounds(wanted.vcpus, wanted.memory_bytes, cache))
        group = confinement.device_group(launch.accelerator)
        held = Confinement(self._site.rights, user, group, link.namespace, link.holder)
        return [*confinement.words(held), *arguments.command(wanted, launch)]

    async def _end_unknown(self, uid: str, pid: int) -> None:
        """A process of this machine of which no record is left: nobody knows what it holds."""
        found = process.adopt(pid, self._site.cloud, uid, None)
        if found is not None:
            with found:
                found.kill()
                await found.ended(KILL_LIMIT_S)
