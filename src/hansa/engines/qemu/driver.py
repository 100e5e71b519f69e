"""Machines as QEMU processes on this host: fills `ComputeEngine`.

A call reads the record and the process, lets `plan` compute a step, lets `steps` do it, and reports; a few quick steps
follow one another within `STEP_BUDGET_S`. What must be known after a crash is recorded before it is done, so a killed
control process or QEMU at any line is converged upon by the next call. Meanings that a caller relies on:

- `observe` never changes anything. A machine whose process ended though nobody asked is DIED there, or LOST where its
  host or its network went; `apply` with `running=True` starts it again, so the caller observes first and decides about
  its back-off.
- POWERED_OFF stays until `apply` is called with `running=False`; the next `running=True` starts the machine.
- A stop that was begun is finished before anything else.
- The caller serializes calls for one uid, and holds the lock of the data folder.

The reader's map: `launch` starts, `confinement` and `cgroups` hold, `hotswap` plugs, `console` and `watches` listen.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from hansa.engines.ports import Console, Held, HostReport, Machine, MachineReport, NetworkEngine
from hansa.engines.qemu import hotswap, plan, process
from hansa.engines.qemu.console import Consoles
from hansa.engines.qemu.diskfolder import RESUME_BYTES, space
from hansa.engines.qemu.files import refusals_of_the_host
from hansa.engines.qemu.host import Host
from hansa.engines.qemu.images import ImageStore
from hansa.engines.qemu.launch import Launcher
from hansa.engines.qemu.names import is_uid
from hansa.engines.qemu.plan import Phase, Record, Step
from hansa.engines.qemu.report import report
from hansa.engines.qemu.seen import Seen, Sight, seen
from hansa.engines.qemu.site import Site
from hansa.engines.qemu.steps import START_LIMIT_S, Steps, end, kill, uptime_s
from hansa.engines.qemu.watches import Watches
from hansa.errors import Refused, Retry

STEP_BUDGET_S = 1.5


class QemuCompute:
    """Guests of one cloud on one host. `on_exit` is told the uid of a machine whose process ended: a hint."""

    def __init__(
        self,
        site: Site,
        *,
        images: ImageStore,
        host_name: str,
        network: NetworkEngine,
        on_exit: Callable[[str], None] | None = None,
    ) -> None:
        self._site = site
        self._host = Host(host_name, site, images)
        self._steps = Steps(Launcher(site, self._host, network))
        self._watches = Watches(on_exit)
        self._consoles = Consoles()

    async def host(self) -> HostReport:
        """What this host is. Not healthy without QEMU; then `message` says what to install."""
        return await self._host.report()

    async def probe_again(self) -> HostReport:
        """Forget what was found out about the accelerator, and find it out again."""
        return await self._host.probe_again()

    async def apply(self, wanted: Machine) -> MachineReport:
        """Step towards `wanted` and say what is there. Raises Retry, Refused."""
        with refusals_of_the_host():
            async with seen(self._site, wanted.uid, adopt=True) as view:
                known = view.record.generation
                if wanted.generation < known:
                    raise Refused("StaleGeneration", f"generation {known} of this machine was seen already")
                if wanted.generation > known:
                    view.record = replace(view.record, generation=wanted.generation, failed_starts=0)
                    if view.record.phase is not Phase.STOPPED or wanted.running:
                        await view.remember()
                return await self._converge(wanted, view)

    async def observe(self, uid: str) -> MachineReport:
        """What is there, changing nothing. Raises Retry when a process is there and does not answer."""
        with refusals_of_the_host():
            async with seen(self._site, uid) as view:
                return await self._report(view, await view.look())

    async def cut_off(self, uid: str) -> None:
        """End the QEMU of a machine whose card leads nowhere any more: it is LOST, and the next `apply` starts it."""
        with refusals_of_the_host():
            async with seen(self._site, uid, adopt=True) as view:
                if view.alive and view.record.phase is Phase.STARTED:
                    await view.remember(cut_off=True)
                    await kill(view)

    async def remove(self, uid: str) -> bool:
        """End every process of this machine and delete its files. True once nothing is left."""
        with refusals_of_the_host():
            async with seen(self._site, uid) as view:
                pids = [view.process.pid] if view.process else []
                for pid in dict.fromkeys([*pids, *(await self._site.guests()).get(uid, [])]):
                    found = process.adopt(pid, self._site.cloud, uid, None)
                    if found is not None:
                        with found:
                            if not await end(view, found):
                                return False
                self._watches.forget(uid)
                await self._consoles.close(uid)
                if not await asyncio.to_thread(self._site.groups.remove, uid):
                    return False
                self._site.forget(view.folder.run)
                await asyncio.to_thread(view.folder.erase)
                return True

    async def log(self, uid: str, limit_bytes: int) -> bytes:
        with refusals_of_the_host():
            return await asyncio.to_thread(self._site.folders.of(uid).tail, limit_bytes)

    async def console(self, uid: str) -> Console:
        """The live console; several see the same. Raises Retry when the machine does not run."""
        with refusals_of_the_host():
            async with seen(self._site, uid) as view:
                if not view.alive:
                    raise Retry("the machine does not run: it has no console now")
                return await self._consoles.open(uid, view.folder.line)

    async def held(self) -> Sequence[Held]:
        """Machines with a folder, a group or a live process of this cloud; generation 0 where no record says more."""
        with refusals_of_the_host():
            alive = await self._site.guests()
            await asyncio.to_thread(self._site.boots.seen, process.boot_id())
            groups = await asyncio.to_thread(self._site.groups.uids)
            uids = sorted({*self._site.folders.uids(), *groups, *filter(is_uid, alive)})
            records = {uid: self._site.folders.of(uid).read() for uid in uids}
            return [Held(uid, record.generation if record else 0) for uid, record in records.items()]

    def close(self) -> None:
        """Let go of every process; they go on."""
        self._watches.close()
        self._consoles.end()

    async def _converge(self, wanted: Machine, view: Seen) -> MachineReport:
        """Step after step, until there is nothing to do, something must be waited for, or the time is up."""
        limit = time.monotonic() + STEP_BUDGET_S
        tried: set[Step] = set()
        while True:
            sight = await _look_or_silent(wanted, view)
            room = sight.status != plan.FAILED or await self._room()
            step = plan.next_step(
                running=wanted.running, record=view.record, status=sight.status, now=uptime_s(), room=room
            )
            if step is Step.NOTHING or step in tried or time.monotonic() >= limit:
                break  # one that was tried and is due again: the caller decides when
            if step is Step.START:
                limit += START_LIMIT_S
            if step in (Step.START, Step.CONTINUE):
                tried.add(step)
            await self._steps.take(step, wanted, view)
        trouble = ""
        if _takes_disks(view, sight) and hotswap.differs(wanted, view.record.hot, sight):
            trouble = await hotswap.swap(wanted, view, sight)
            sight = await view.look()
        if view.process is not None and view.alive:
            self._watches.watch(view.folder, view.process)
        return await self._report(view, sight, trouble)

    async def _report(self, view: Seen, sight: Sight, trouble: str = "") -> MachineReport:
        room = sight.status != plan.FAILED or await self._room()
        said = view.folder.errors() if sight.status is None else ""
        return report(
            view.record, sight, lost=_lost(view.record), room=room, said=said, trouble=trouble,
            last_seen=await self._last_seen(view.record),
        )  # fmt: skip

    async def _last_seen(self, record: Record) -> float:
        """When a guest of an earlier boot of the host was; 0 for one of this boot, of whose end we hear."""
        if record.boot_id == process.boot_id():
            return 0.0
        return await asyncio.to_thread(self._site.boots.last_seen, record.boot_id)

    async def _room(self) -> bool:
        """Whether a guest that waits for room may go on."""
        return (await asyncio.to_thread(space, self._site.data_dir)).free_bytes >= RESUME_BYTES


async def _look_or_silent(wanted: Machine, view: Seen) -> Sight:
    try:
        return await view.look()
    except Retry:
        if not view.alive:
            return Sight(None)
        if wanted.running and view.record.phase is Phase.STARTED:
            raise
        return Sight(plan.SILENT)


def _takes_disks(view: Seen, sight: Sight) -> bool:
    return view.record.phase is Phase.STARTED and sight.status in ("running", "paused", "prelaunch", plan.FAILED)


def _lost(record: Record) -> bool:
    """Whether a process that is gone went with its host, or with the network that it ran in."""
    if record.cut_off or record.boot_id != process.boot_id():
        return True
    holder = process.stat(record.holder) if record.holder else None
    return record.holder > 0 and (holder is None or holder.start_ticks != record.holder_ticks)
