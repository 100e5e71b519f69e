"""Machines as QEMU processes on this host: fills `ComputeEngine`.

A call reads the record and the process, lets `plan` compute a step, does it, and reports; a few quick steps follow one
another within `STEP_BUDGET_S`. What must be known after a crash is recorded before it is done, so a killed control
process or QEMU at any line is converged upon by the next call. Meanings that a caller relies on:

- `observe` never changes anything. A machine whose process ended though nobody asked is DIED there; `apply` with
  `running=True` starts it again, so the caller observes first and decides about its back-off.
- POWERED_OFF stays until `apply` is called with `running=False`; the next `running=True` starts the machine.
- A stop that was begun is finished before anything else.
- The caller serializes calls for one uid, and holds the lock of the data folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hansa.engines.ports import Held, HostReport, Machine, MachineReport, MachineState
from hansa.engines.qemu import arguments, forward, plan, process, program, seed
from hansa.engines.qemu.disks import disk_path
from hansa.engines.qemu.folder import Folders, MachineFolder
from hansa.engines.qemu.host import Host
from hansa.engines.qemu.images import ImageStore, image_in
from hansa.engines.qemu.monitor import Monitor
from hansa.engines.qemu.names import is_uid
from hansa.engines.qemu.plan import Phase, Record, Step
from hansa.engines.qemu.process import Process
from hansa.engines.qemu.qcow2 import head
from hansa.errors import Refused, Retry

STEP_BUDGET_S = 1.5
START_LIMIT_S = 5.0
FAILED_STARTS_MAX = 3

_POLL_S, _FIRST_POLL_S = 0.03, 0.005
_QUIT_LIMIT_S, _KILL_LIMIT_S = 2.0, 5.0

_STATES = {
    Phase.STOPPED: MachineState.ABSENT,
    Phase.STARTED: MachineState.RUNNING,
    Phase.STOPPING: MachineState.STOPPING,
    Phase.POWERED_OFF: MachineState.POWERED_OFF,
}
_SWITCHED_OFF = "the guest switched itself off"
_FULL = "the host's disk is full: the guest waits until there is room again"


@dataclass(slots=True)
class _Pass:
    """One call's view of one machine; `record` and `process` change as steps are done."""

    folder: MachineFolder
    record: Record
    process: Process | None


class QemuCompute:
    """Guests of one cloud on one host. `on_exit` is told the uid of a machine whose process ended: a hint."""

    def __init__(
        self,
        data_dir: Path,
        run_dir: Path,
        *,
        cloud_id: str,
        images: ImageStore,
        host_name: str,
        on_exit: Callable[[str], None] | None = None,
    ) -> None:
        self._data_dir = data_dir
        self._cloud = cloud_id
        self._on_exit = on_exit
        self._folders = Folders(data_dir, run_dir)
        self._host = Host(host_name, data_dir, images)
        self._monitors: dict[str, Monitor] = {}
        self._watched: dict[str, Process] = {}

    async def host(self) -> HostReport:
        """What this host is. Not healthy without QEMU; then `message` says what to install."""
        return await self._host.report()

    async def probe_again(self) -> HostReport:
        """Forget what was found out about the accelerator, and find it out again."""
        return await self._host.probe_again()

    async def apply(self, wanted: Machine) -> MachineReport:
        """Step towards `wanted` and say what is there. Raises Retry, Refused."""
        async with self._pass(wanted.uid, create=True) as seen:
            if wanted.generation < seen.record.generation:
                raise Refused(
                    "StaleGeneration", f"generation {seen.record.generation} of this machine was seen already"
                )
            if wanted.generation > seen.record.generation:
                seen.record = replace(seen.record, generation=wanted.generation, failed_starts=0)
                if seen.record.phase is not Phase.STOPPED or wanted.running:
                    await self._write(seen)
            return await self._converge(wanted, seen)

    async def observe(self, uid: str) -> MachineReport:
        """What is there, changing nothing. Raises Retry when a process is there and does not answer."""
        async with self._pass(uid) as seen:
            status = await self._status(seen)
            return self._report(seen, status)

    async def remove(self, uid: str) -> bool:
        """End every process of this machine and delete its files. True once nothing is left."""
        folder = self._folders.of(uid)
        record = folder.read()
        pids = await self._scan_for(uid)
        if record and self._recorded_ticks(record):
            pids.append(record.pid)
        for pid in dict.fromkeys(pids):
            found = process.adopt(pid, self._cloud, uid, None)
            if found is not None:
                with found:
                    if not await self._end(folder, found):
                        return False
        self._forget(uid)
        await asyncio.to_thread(folder.erase)
        return True

    async def console(self, uid: str, limit_bytes: int) -> bytes:
        return await asyncio.to_thread(self._folders.of(uid).tail, limit_bytes)

    async def held(self) -> Sequence[Held]:
        """Machines with a folder or a live process of this cloud; generation 0 where no record says more."""
        alive = await asyncio.to_thread(process.scan, self._cloud)
        uids = sorted({*self._folders.uids(), *filter(is_uid, alive)})
        records = {uid: self._folders.of(uid).read() for uid in uids}
        return [Held(uid, record.generation if record else 0) for uid, record in records.items()]

    async def grow_running(self, disk_uid: str, size_bytes: int) -> bool:
        """Grow a disk inside the guest that holds it. False when no process holds it. Raises Retry."""
        for uid in self._folders.uids():
            record = self._folders.of(uid).read()
            if record is None or disk_uid not in record.disks:
                continue
            async with self._pass(uid) as seen:
                if seen.process is None:
                    continue
                async with self._monitor(seen.folder).session() as session:
                    await session.resize(arguments.node_of(disk_uid), size_bytes)
                return True
        return False

    def close(self) -> None:
        """Let go of every process; they go on."""
        for uid in list(self._watched):
            self._forget(uid)

    async def _converge(self, wanted: Machine, seen: _Pass) -> MachineReport:
        """Step after step, until there is nothing to do, something must be waited for, or the time is up."""
        end = time.monotonic() + STEP_BUDGET_S
        started = False
        while True:
            status = await self._status_or_silent(wanted, seen)
            step = plan.next_step(running=wanted.running, record=seen.record, status=status, now=_uptime_s())
            if step is Step.NOTHING or time.monotonic() >= end:
                break
            if step is Step.START:
                if started:
                    break  # it ended at once: the caller decides when to try again
                started = True
                end += START_LIMIT_S
            await self._take(step, wanted, seen)
        if seen.process and status == "running":
            self._watch(seen)
            await asyncio.to_thread(seen.folder.trim_console)
        return self._report(seen, status)

    async def _take(self, step: Step, wanted: Machine, seen: _Pass) -> None:
        now = _uptime_s()
        match step:
            case Step.START:
                await self._start(wanted, seen)
            case Step.CONTINUE:
                await self._go_on(seen)
            case Step.KEEP_OFF:
                seen.record = replace(seen.record, phase=Phase.POWERED_OFF)
                await self._write(seen)
                await self._end_seen(seen)
            case Step.BEGIN_STOP:
                seen.record = replace(
                    seen.record, phase=Phase.STOPPING, stopping_since=now, pressed_at=0.0, quit_at=0.0
                )
                await self._write(seen)
            case Step.PRESS:
                seen.record = replace(seen.record, pressed_at=now)
                await self._write(seen)
                await self._press_power(seen)
            case Step.QUIT:
                seen.record = replace(seen.record, quit_at=now)
                await self._write(seen)
                await self._quit(seen.folder)
                await asyncio.sleep(_POLL_S)
            case Step.KILL:
                await self._kill(seen)
            case Step.SETTLE:
                seen.record = replace(seen.record, phase=Phase.STOPPED, pid=0, start_ticks=0)
                seen.folder.clear_run()
                await self._write(seen)
            case _:
                await asyncio.sleep(_POLL_S)

    async def _start(self, wanted: Machine, seen: _Pass) -> None:
        """Spawn paused, record whose process it is, then let it run. Raises Retry, Refused."""
        for pid in await self._scan_for(wanted.uid):
            await self._kill_unknown(wanted.uid, pid)
        launch = await self._launch(wanted, seen)
        await asyncio.to_thread(seen.folder.prepare, seed.volume(wanted))
        seen.record = replace(
            seen.record,
            phase=Phase.STARTED,
            pid=0,
            start_ticks=0,
            started_at=0.0,
            accelerator=launch.accelerator,
            machine_type=launch.machine_type,
            ssh_port=launch.ssh_port,
            disks=tuple(disk.uid for disk in wanted.disks),
            devices=arguments.devices(wanted),
            stopping_since=0.0,
            pressed_at=0.0,
            quit_at=0.0,
        )
        await self._write(seen)
        pid = await asyncio.to_thread(process.spawn, arguments.command(wanted, launch), seen.folder.stderr)
        seen.process = process.adopt(pid, self._cloud, wanted.uid, None)
        if seen.process is not None:
            process.prefer_as_victim(pid)
            seen.record = _with_process(seen.record, seen.process)
            await self._write(seen)
        await self._first_answer(wanted, seen)

    async def _first_answer(self, wanted: Machine, seen: _Pass) -> None:
        """Wait until the new QEMU answers. It may be slow: then the next call goes on. If it ended, say why."""
        end = time.monotonic() + START_LIMIT_S
        while seen.process is not None and time.monotonic() < end:
            if not seen.process.alive():
                break
            try:
                await self._go_on(seen)
            except Retry:
                await asyncio.sleep(_FIRST_POLL_S)
            else:
                if seen.record.failed_starts:
                    seen.record = replace(seen.record, failed_starts=0)
                    await self._write(seen)
                return
        if seen.process is None or not seen.process.alive():
            await self._failed_start(wanted, seen)

    async def _failed_start(self, wanted: Machine, seen: _Pass) -> None:
        said = seen.folder.errors() or "it said nothing"
        failures = seen.record.failed_starts + 1
        taken = not forward.is_free(seen.record.ssh_port)
        seen.record = replace(
            seen.record,
            phase=Phase.STOPPED,
            pid=0,
            start_ticks=0,
            failed_starts=failures,
            ssh_port=0 if taken else seen.record.ssh_port,
        )
        await self._write(seen)
        if taken:
            raise Retry("the forwarded port was taken meanwhile: another is chosen", after_s=0.1, detail=said)
        if failures < FAILED_STARTS_MAX or _available_memory_bytes() < wanted.memory_bytes:
            raise Retry(f"QEMU did not start: {said}")
        raise Refused("ProvisioningFailed", f"QEMU did not start, {failures} times in a row: {said}")

    async def _launch(self, wanted: Machine, seen: _Pass) -> arguments.Launch:
        qemu = await self._host.qemu()
        if qemu is None:
            raise Refused("ProvisioningFailed", program.INSTALL)
        disks = [disk_path(self._data_dir, disk.uid) for disk in wanted.disks]
        missing = [path.name for path in disks if not path.exists()]
        if missing:
            raise Retry(f"not on this host yet: {', '.join(missing)}")
        return arguments.Launch(
            cloud=self._cloud,
            binary=qemu.binary,
            machine_type=seen.record.machine_type or qemu.machine_type,
            accelerator=(await self._host.accelerator(qemu)).name,
            ssh_port=forward.port_for(seen.record.ssh_port),
            run_folder=str(seen.folder.run),
            seed=str(seen.folder.seed),
            console=str(seen.folder.console),
            disks=tuple(str(path) for path in disks),
            direct=self._direct_boot(wanted),
        )

    def _direct_boot(self, wanted: Machine) -> arguments.DirectBoot | None:
        """The kernel beside the image that the boot disk lies upon; None: by firmware."""
        boot = next((disk for disk in wanted.disks if disk.boot), None)
        below = head(disk_path(self._data_dir, boot.uid)) if boot else None
        if below is None or not below.backing:
            return None
        image = image_in(Path(below.backing).parent)
        if image is None:
            raise Retry(f"the image below the boot disk is gone from this host: {below.backing}")
        if not image.append:
            return None
        return arguments.DirectBoot(str(image.kernel), str(image.initrd), image.append)

    @contextlib.asynccontextmanager
    async def _pass(self, uid: str, *, create: bool = False) -> AsyncIterator[_Pass]:
        folder = self._folders.of(uid)
        seen = _Pass(folder, folder.read() or Record(uid), None)
        seen.process = await self._find(seen)
        try:
            if create and seen.process is not None and seen.process.pid != seen.record.pid:
                seen.record = _with_process(seen.record, seen.process)
                await self._write(seen)
            yield seen
        finally:
            if seen.process is not None:
                seen.process.close()

    async def _find(self, seen: _Pass) -> Process | None:
        """The process of the record; one that was started and never recorded by its pid file or its command line."""
        record, uid = seen.record, seen.folder.uid
        if ticks := self._recorded_ticks(record):
            return process.adopt(record.pid, self._cloud, uid, ticks)
        found = process.adopt(seen.folder.pid(), self._cloud, uid, None)
        if found is None and record.phase in (Phase.STARTED, Phase.STOPPING) and not record.pid:
            adopted = (process.adopt(pid, self._cloud, uid, None) for pid in await self._scan_for(uid))
            found = next((one for one in adopted if one is not None), None)
        return found

    async def _scan_for(self, uid: str) -> list[int]:
        return (await asyncio.to_thread(process.scan, self._cloud)).get(uid, [])

    async def _kill_unknown(self, uid: str, pid: int) -> None:
        """A process of this machine of which no record is left: nobody knows its port, and it holds the disks."""
        found = process.adopt(pid, self._cloud, uid, None)
        if found is not None:
            with found:
                found.kill()
                await found.ended(_KILL_LIMIT_S)

    def _recorded_ticks(self, record: Record) -> int:
        """Start time of the recorded process; 0 when none was recorded during this boot of the host."""
        return record.start_ticks if record.pid and record.boot_id == process.boot_id() else 0

    async def _status_or_silent(self, wanted: Machine, seen: _Pass) -> str | None:
        try:
            return await self._status(seen)
        except Retry:
            if seen.process is None or not seen.process.alive():
                return None
            if wanted.running and seen.record.phase is Phase.STARTED:
                raise
            return plan.SILENT

    async def _status(self, seen: _Pass) -> str | None:
        """QEMU's run state, None without a process. Raises Retry when a process is there and says nothing."""
        if seen.process is None or not seen.process.alive():
            return None
        try:
            async with self._monitor(seen.folder).session() as session:
                if await session.uid() != seen.folder.uid:
                    raise Retry("another machine's QEMU answers on this socket")
                return await session.status()
        except Retry:
            if not seen.process.alive():
                return None
            raise

    async def _go_on(self, seen: _Pass) -> None:
        async with self._monitor(seen.folder).session() as session:
            await session.go_on()

    async def _press_power(self, seen: _Pass) -> None:
        with contextlib.suppress(Retry):  # repeated, and followed by stronger means
            async with self._monitor(seen.folder).session() as session:
                await session.press_power()

    async def _quit(self, folder: MachineFolder) -> bool:
        """Ask QEMU to end in order. False when it does not listen: SIGKILL follows."""
        try:
            async with self._monitor(folder).session() as session:
                await session.quit()
        except Retry:
            return False
        return True

    async def _kill(self, seen: _Pass) -> None:
        if seen.process is not None:
            seen.process.kill()
            await seen.process.ended(_KILL_LIMIT_S)

    async def _end_seen(self, seen: _Pass) -> None:
        if seen.process is not None and not await self._end(seen.folder, seen.process):
            raise Retry("the machine's QEMU does not end")

    async def _end(self, folder: MachineFolder, running: Process) -> bool:
        """Ask QEMU to end in order, then end it. True once it is gone."""
        if await self._quit(folder) and await running.ended(_QUIT_LIMIT_S):
            return True
        running.kill()
        return await running.ended(_KILL_LIMIT_S)

    def _report(self, seen: _Pass, status: str | None) -> MachineReport:
        record = seen.record
        state = _STATES[record.phase]
        message = _SWITCHED_OFF if state is MachineState.POWERED_OFF else ""
        if status is None:
            if record.phase is Phase.STARTED:
                state, message = (
                    MachineState.DIED,
                    f"the machine's process ended unasked {seen.folder.errors()}".strip(),
                )
            elif record.phase is Phase.STOPPING:
                state = MachineState.ABSENT
        elif record.phase in (Phase.STARTED, Phase.STOPPED):
            state, message = _running_state(status)
        alive = status is not None
        return MachineReport(
            uid=record.uid,
            state=state,
            generation=record.generation,
            message=message,
            ssh_port=record.ssh_port if alive else 0,
            started_at=record.started_at if alive else 0.0,
            devices=record.devices,
        )

    async def _write(self, seen: _Pass) -> None:
        await asyncio.to_thread(seen.folder.write, seen.record)

    def _monitor(self, folder: MachineFolder) -> Monitor:
        return self._monitors.setdefault(folder.uid, Monitor(folder.monitor))

    def _watch(self, seen: _Pass) -> None:
        """Be told of the end of this process, once."""
        uid = seen.folder.uid
        if self._on_exit is None or uid in self._watched or seen.process is None:
            return
        held = process.adopt(seen.process.pid, self._cloud, uid, seen.process.start_ticks)
        if held is not None:
            self._watched[uid] = held
            asyncio.get_running_loop().add_reader(held.fileno(), self._ended, uid)

    def _ended(self, uid: str) -> None:
        watched = self._watched.get(uid)
        if watched is not None:
            watched.alive()  # takes the remains away
            self._unwatch(uid)
        if self._on_exit is not None:
            self._on_exit(uid)

    def _unwatch(self, uid: str) -> None:
        if watched := self._watched.pop(uid, None):
            asyncio.get_running_loop().remove_reader(watched.fileno())
            watched.close()

    def _forget(self, uid: str) -> None:
        self._unwatch(uid)
        self._monitors.pop(uid, None)


def _with_process(record: Record, running: Process) -> Record:
    return replace(
        record,
        pid=running.pid,
        start_ticks=running.start_ticks,
        boot_id=process.boot_id(),
        started_at=record.started_at or time.time(),
    )


def _running_state(status: str) -> tuple[MachineState, str]:
    """What the run state of a live QEMU means to a caller."""
    if status == "shutdown":
        return MachineState.POWERED_OFF, _SWITCHED_OFF
    if status in ("prelaunch", "inmigrate"):
        return MachineState.STARTING, ""
    return MachineState.RUNNING, _FULL if status == "io-error" else ""


def _uptime_s() -> float:
    """Seconds since the host's boot: the same for every process, and nobody sets it back."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _available_memory_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0
