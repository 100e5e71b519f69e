"""What this host is and can do: its sizes, its QEMU, and the accelerator that was found to work."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from pathlib import Path

from hansa.engines.ports import HostReport
from hansa.engines.qemu import probe, program
from hansa.engines.qemu.images import ImageStore
from hansa.errors import Retry


class Host:
    """The machine on which we run. Answers are remembered: QEMU's until its file changes, the accelerator's once final."""

    def __init__(self, name: str, data_dir: Path, images: ImageStore) -> None:
        self._name = name
        self._data_dir = data_dir
        self._images = images
        self._finder = program.Finder()
        self._probing = asyncio.Lock()
        self._accelerator: probe.Accelerator | None = None

    async def report(self) -> HostReport:
        """Capacities are physical. Not healthy without QEMU; then `message` says what to install."""
        qemu = await self.qemu()
        accelerator = await self.accelerator(qemu) if qemu else None
        name = accelerator.name if accelerator else ""
        return HostReport(
            name=self._name,
            simulated=False,
            healthy=qemu is not None,
            vcpus=os.cpu_count() or 1,
            memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            disk_bytes=_disk_bytes(self._data_dir),
            accelerator=name,
            isolation={probe.KVM: "hardware", probe.TCG: "none"}.get(name, ""),
            network="user",
            engine=f"qemu {qemu.version}" if qemu else "qemu",
            message=accelerator.reason if accelerator else program.INSTALL,
        )

    async def qemu(self) -> program.Qemu | None:
        return await self._finder.find()

    async def accelerator(self, qemu: program.Qemu) -> probe.Accelerator:
        """KVM where a kernel has booted under it, else TCG. Probes once, up to ten seconds."""
        async with self._probing:
            if self._accelerator is None or not self._accelerator.final:
                known = await asyncio.to_thread(probe.chosen, self._images, qemu.version)
                self._accelerator = known or await self._probe(qemu)
            return self._accelerator

    async def probe_again(self) -> HostReport:
        self._accelerator = None
        await asyncio.to_thread(probe.forget, self._images)
        return await self.report()

    async def _probe(self, qemu: program.Qemu) -> probe.Accelerator:
        module, cache = "hansa.engines.qemu.probe", str(self._images.cache)
        try:
            answer = json.loads(await program.run(sys.executable, "-m", module, "--cache", cache, qemu.version))
        except Retry as error:
            return probe.Accelerator(probe.TCG, f"the probe of KVM failed: {error.message}", final=False)
        return probe.Accelerator(answer["accelerator"], answer["reason"], answer["final"])


def _disk_bytes(folder: Path) -> int:
    """Capacity of the file system that holds `folder`, or will hold it."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).total
