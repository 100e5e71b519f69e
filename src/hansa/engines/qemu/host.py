"""What this host is and can do: its sizes, its QEMU, and the accelerator that was found to work."""

from __future__ import annotations

import asyncio
import json
import os
import sys

from hansa.engines.ports import HostReport
from hansa.engines.qemu import probe, program
from hansa.engines.qemu.diskfolder import space
from hansa.engines.qemu.images import ImageStore
from hansa.engines.qemu.site import Site
from hansa.errors import Retry


class Host:
    """The machine on which we run. Answers are remembered: QEMU's until its file changes, the accelerator's once final."""

    def __init__(self, name: str, site: Site, images: ImageStore) -> None:
        self._name = name
        self._site = site
        self._images = images
        self._probing = asyncio.Lock()
        self._accelerator: probe.Accelerator | None = None

    async def report(self) -> HostReport:
        """Capacities are physical. Not healthy without QEMU; then `message` says what to install."""
        qemu = await self._site.find_qemu()
        accelerator = await self.accelerator(qemu) if qemu else None
        name = accelerator.name if accelerator else ""
        room = await asyncio.to_thread(space, self._site.data_dir)
        return HostReport(
            name=self._name,
            simulated=False,
            healthy=qemu is not None,
            vcpus=os.cpu_count() or 1,
            memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            disk_bytes=room.total_bytes,
            disk_free_bytes=room.free_bytes,
            accelerator=name,
            isolation={probe.KVM: "hardware", probe.TCG: "none"}.get(name, ""),
            limits=await asyncio.to_thread(lambda: self._site.groups.limits),
            engine=f"qemu {qemu.version}" if qemu else "qemu",
            message=accelerator.reason if accelerator else program.INSTALL,
        )

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
