"""The steps of one machine, each done as `plan` names it. What is irreversible is recorded first."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

from hansa.engines.ports import Machine
from hansa.engines.qemu import hotswap
from hansa.engines.qemu.launch import KILL_LIMIT_S, Launcher
from hansa.engines.qemu.plan import Phase, Step
from hansa.engines.qemu.process import Process
from hansa.engines.qemu.seen import Seen
from hansa.errors import Refused, Retry

START_LIMIT_S = 5.0
TURN_LIMIT_S = 10.0  # that a start waits for others
FAILED_STARTS_MAX = 3

_POLL_S, _FIRST_POLL_S = 0.03, 0.01
_QUIT_LIMIT_S = 2.0


def uptime_s() -> float:
    """Seconds since the host's boot: the same for every process, and nobody sets it back."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Steps:
    """How a machine is moved one step on."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher

    async def take(self, step: Step, wanted: Machine, seen: Seen) -> None:
        """Raises Retry, Refused."""
        now = uptime_s()
        match step:
            case Step.START:
                await self._start(wanted, seen)
            case Step.CONTINUE:
                await _let_run(wanted, seen)
            case Step.KEEP_OFF:
                await seen.remember(phase=Phase.POWERED_OFF)
                if seen.process is not None and not await end(seen, seen.process):
                    raise Retry("the machine's QEMU does not end")
            case Step.BEGIN_STOP:
                await seen.remember(phase=Phase.STOPPING, stopping_since=now, pressed_at=0.0, quit_at=0.0)
            case Step.PRESS:
                await seen.remember(pressed_at=now)
                await _press_power(seen)
            case Step.QUIT:
                await seen.remember(quit_at=now)
                await _quit(seen)
                await asyncio.sleep(_POLL_S)
            case Step.KILL:
                await kill(seen)
            case Step.SETTLE:
                seen.folder.clear_run()
                await asyncio.to_thread(seen.site.groups.remove, seen.folder.uid)
                await seen.remember(phase=Phase.STOPPED, pid=0, start_ticks=0, hot=(), letting_go=(), cut_off=False)
            case _:
                await asyncio.sleep(_POLL_S)

    async def _start(self, wanted: Machine, seen: Seen) -> None:
        """Spawn paused, record whose process it is, then let it run. Raises Retry, Refused."""
        starts = seen.site.starts
        try:
            async with asyncio.timeout(TURN_LIMIT_S):
                await starts.acquire()
        except TimeoutError as error:
            raise Retry("many machines are started on this host now: this one has to wait", after_s=0.5) from error
        try:
            await self._launcher.launch(wanted, seen)
            await _first_answer(wanted, seen)
        finally:
            starts.release()


async def end(seen: Seen, running: Process) -> bool:
    """Ask QEMU to end in order, then end it. True once it is gone."""
    if await _quit(seen) and await running.ended(_QUIT_LIMIT_S):
        return True
    running.kill()
    return await running.ended(KILL_LIMIT_S)


async def kill(seen: Seen) -> None:
    if seen.process is not None:
        seen.process.kill()
        await seen.process.ended(KILL_LIMIT_S)


async def _let_run(wanted: Machine, seen: Seen) -> None:
    """`cont`; before the first one everything is put in place. Raises Retry when QEMU does not answer."""
    sight = await seen.look()
    if seen.process is None or sight.status is None:
        return
    if sight.status == "prelaunch":
        await asyncio.to_thread(seen.site.groups.take_in, seen.folder.uid, seen.process.pid)
        if hotswap.differs(wanted, seen.record.hot, sight):
            await hotswap.swap(wanted, seen, sight)
    async with seen.session() as session:
        await session.go_on()


async def _first_answer(wanted: Machine, seen: Seen) -> None:
    """Wait until the new QEMU answers. It may be slow: then the next call goes on. If it ended, say why."""
    limit = time.monotonic() + START_LIMIT_S
    while seen.alive and time.monotonic() < limit:
        try:
            await _let_run(wanted, seen)
        except Retry:
            await asyncio.sleep(_FIRST_POLL_S)
        else:
            if seen.alive and seen.record.failed_starts:
                await seen.remember(failed_starts=0)
            break
    if not seen.alive:
        await _failed_start(wanted, seen)


async def _failed_start(wanted: Machine, seen: Seen) -> None:
    said = seen.folder.errors() or "it said nothing"
    failures = seen.record.failed_starts + 1
    await seen.remember(phase=Phase.STOPPED, pid=0, start_ticks=0, failed_starts=failures)
    if failures < FAILED_STARTS_MAX or _available_memory_bytes() < wanted.memory_bytes:
        raise Retry(f"QEMU did not start: {said}")
    raise Refused("ProvisioningFailed", f"QEMU did not start, {failures} times in a row: {said}")


async def _press_power(seen: Seen) -> None:
    with contextlib.suppress(Retry):  # repeated, and followed by stronger means
        async with seen.session() as session:
            await session.press_power()


async def _quit(seen: Seen) -> bool:
    """Ask QEMU to end in order. False when it does not listen: SIGKILL follows."""
    try:
        async with seen.session() as session:
            await session.quit()
    except Retry:
        return False
    return True


def _available_memory_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0
