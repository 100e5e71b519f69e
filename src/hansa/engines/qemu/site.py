"""One cloud on this host, as both engines know it: its files, its QEMUs, and which guest holds a disk.

A disk is written by one process at a time: the QEMU of a guest, or a worker of our own. Whoever takes one looks and
writes down what it does while it holds `turn`, so the two engines never take the same; QEMU's own lock of the file is
the last fence.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from hansa.engines.qemu import process, program
from hansa.engines.qemu.boots import Boots
from hansa.engines.qemu.cgroups import WEIGHT, Groups
from hansa.engines.qemu.confinement import choose_user, living_users, own_rights
from hansa.engines.qemu.diskfolder import DiskFolder
from hansa.engines.qemu.folder import Folders
from hansa.engines.qemu.monitor import Monitor
from hansa.engines.qemu.plan import Phase, Record
from hansa.engines.qemu.program import INSTALL, Qemu
from hansa.errors import Refused, Retry

STARTS_MAX = 4  # guests that start at the same time: a host that comes back with a hundred starves none of them


class Site:
    """What `QemuCompute` and `QemuVolumes` of one cloud share. Its id marks every process, socket and group of it."""

    def __init__(self, data_dir: Path, run_dir: Path, *, cloud_id: str, guests_weight: int = WEIGHT) -> None:
        self.data_dir = data_dir
        self.cloud = cloud_id
        self.workers = f"{cloud_id}-disks"  # stands in a worker's command line where a guest's has the cloud
        self.rights = own_rights()
        self.folders = Folders(data_dir, run_dir)
        self.disks = DiskFolder(data_dir)
        self.boots = Boots(data_dir)
        self.groups = Groups(cloud_id, data_dir, weight=guests_weight)
        self.turn = asyncio.Lock()
        self.starts = asyncio.Semaphore(STARTS_MAX)
        self.growing: set[str] = set()  # disks that this very process grows in a worker
        self.children: set[int] = set()  # workers that we started and whose end nobody watches
        self._finder = program.Finder()
        self._monitors: dict[Path, Monitor] = {}

    async def find_qemu(self) -> Qemu | None:
        return await self._finder.find()

    async def qemu(self) -> Qemu:
        """Raises Refused with what to install, Retry."""
        found = await self.find_qemu()
        if found is None:
            raise Refused("ProvisioningFailed", INSTALL)
        return found

    def monitor(self, run: Path) -> Monitor:
        """Of the QEMU with this run-time folder."""
        return self._monitors.setdefault(run, Monitor(run / "qmp"))

    def forget(self, run: Path) -> None:
        self._monitors.pop(run, None)

    async def guests(self) -> dict[str, list[int]]:
        """Every live QEMU of a guest: pids by uid of the machine."""
        return await asyncio.to_thread(process.scan, self.cloud)

    async def workers_alive(self) -> dict[str, list[int]]:
        """The workers of this cloud: pids by the disk that each makes or grows."""
        self.children -= {pid for pid in self.children if process.reap(pid)}
        return await asyncio.to_thread(process.scan, self.workers)

    async def user_for(self, uid: str) -> int:
        """A user of its own for the QEMU that `uid` names, 0 where we cannot give one. To be called in `turn`."""
        return await asyncio.to_thread(self._user_for, uid) if self.rights.users else 0

    async def guest_with(self, disk: str) -> Record | None:
        """The machine whose QEMU holds the disk. Raises Retry while one is about to."""
        return await asyncio.to_thread(self._guest_with, disk)

    def _guest_with(self, disk: str) -> Record | None:
        for record in self.folders.records():
            if record.phase is Phase.STOPPED or disk not in (*record.disks, *record.hot):
                continue
            if record.phase is Phase.STARTED and not record.pid:
                raise Retry("the machine with this disk is being started", after_s=0.5)
            found = process.of_record(record, self.cloud)
            if found is not None:
                found.close()
                return record
        return None

    def _user_for(self, uid: str) -> int:
        recorded = {record.user for record in self.folders.records() if record.uid != uid}
        working = {work.user for work in self.disks.works()}
        return choose_user(f"{self.cloud}.{uid}", recorded | working | living_users())
