"""The clock is set wrong under a cloud on SQLite, whose only clock it is: nothing lost, nothing double, and what was due
does not wait for the hour to come again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from itertools import pairwise
from typing import Any

import pytest

from hansa.control.loop import IDLE_S
from hansa.errors import Full
from hansa.kinds.compute import Disk, VirtualMachine
from hansa.store.port import Claim, Reserve
from hansa.store.sqlite import open_sqlite
from hansa.store.store import SqlStore

from .clockwork import VirtualClock, run
from .sides import Jumpy
from .test_convergence import _disk, _machine
from .test_ledger import intervals
from .test_scenarios import Scene

HOUR_S = 3600.0
Intervals = list[tuple[int, int | None, int]]  # start, end, quantity


class Wrong(Scene):
    """A world whose every clock is the movable one."""

    clock: Any

    def __init__(self, seed: int, clock: VirtualClock) -> None:
        super().__init__(seed, Jumpy(clock))  # type: ignore[arg-type]

    async def open(self) -> list[tuple[SqlStore, Jumpy]]:
        return [(await open_sqlite(":memory:", clock=self.clock, ids=self.ids, inline=True), self.clock)]

    async def begin(self) -> None:
        self.faults.before = self.faults.after = self.faults.delay_s = 0.0
        await self.start()
        self.loop, self.task = self.begin_loop()
        await asyncio.sleep(2)

    async def finish(self) -> None:
        assert self.loop.counts.bugs == 0
        await self.loop.stop()
        await self.task
        await self.store.close()

    async def machine_of(self, number: int) -> None:
        await self._create(Disk, _disk(f"d{number}", "a", 10))
        await self._create(VirtualMachine, _machine(f"m{number}", f"d{number}", "a"))

    async def guests(self) -> int:
        return sum(len(engine._guests) for engine in self.hosts())


def played(play: Callable[[Wrong], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    async def main(clock: VirtualClock) -> None:
        it = Wrong(11, clock)
        await it.begin()
        await play(it)
        await it.finish()

    def test() -> None:
        run(main)

    test.__doc__ = play.__doc__
    return test


@played
async def test_what_is_due_does_not_wait_for_the_hour_to_come_again(it: Wrong) -> None:
    """The engine fails, the passes back off; then the clock goes back, the engine works again, and so does the loop."""
    it.faults.before = 1.0
    await it.machine_of(0)
    await asyncio.sleep(20)
    assert not (await it.machine()).ready
    it.clock.off_s -= HOUR_S
    it.faults.before = 0.0
    await asyncio.sleep(90)  # longer than any back-off by now, much shorter than an hour
    assert (await it.machine()).ready and await it.guests() == 1
    due = await it.store.next_due()
    assert due is None or due < it.clock.now() + HOUR_S


@played
async def test_a_pass_that_is_under_way_ends_once(it: Wrong) -> None:
    it.faults.delay_s = 10.0
    await it.machine_of(0)
    await asyncio.sleep(3)
    assert it.loop.in_flight
    it.clock.off_s -= HOUR_S
    await asyncio.sleep(120)
    assert (await it.machine()).ready and await it.guests() == 1


@pytest.mark.parametrize("off_s", [-HOUR_S, HOUR_S, -86_400.0])
def test_a_start_with_another_clock_goes_on_at_once(off_s: float) -> None:
    """The clock changes while nothing runs."""

    async def main(clock: VirtualClock) -> None:
        it = Wrong(12, clock)
        await it.begin()
        it.faults.before = 1.0
        await it.machine_of(0)
        await asyncio.sleep(20)
        await it.kill(it.loop, it.task)
        it.clock.off_s += off_s
        it.faults.before = 0.0
        it.loop, it.task = it.begin_loop()
        await asyncio.sleep(90)
        assert (await it.machine()).ready and await it.guests() == 1
        await it.finish()

    run(main)


@played
async def test_forth_and_back_leaves_the_world_as_it_was(it: Wrong) -> None:
    for number in range(3):
        await it.machine_of(number)
        await asyncio.sleep(1)
        it.clock.off_s += HOUR_S if number % 2 == 0 else -2 * HOUR_S
        await asyncio.sleep(60)
    assert await it.guests() == 3
    for number in range(3):
        assert (await it.get(VirtualMachine, f"m{number}")).ready
    passes = it.loop.counts.passes
    await asyncio.sleep(10 * IDLE_S)
    assert it.loop.counts.passes - passes <= 3, "what rests stays at rest"


@played
async def test_a_claim_with_an_end_is_held_no_shorter_than_promised(it: Wrong) -> None:
    """An assertion's `jti` or a key of idempotency: the clock goes back, and it still cannot be taken twice."""
    claim = Claim("jti/x", "once", until=it.clock.now() + 300)
    await it.store.commit(Reserve("first", (claim,)))
    it.clock.off_s -= HOUR_S
    await it.store.sweep()
    with pytest.raises(Full):
        await it.store.commit(Reserve("second", (claim,)))
    await asyncio.sleep(HOUR_S + 301)
    await it.store.commit(Reserve("second", (Claim("jti/x", "once", until=it.clock.now() + 300),)))


def sound(found: Intervals, now: float) -> int:
    """Seconds of the closed intervals, of which none is negative and none overlaps another."""
    ordered = sorted((start, now if end is None else end) for start, end, _ in found)
    assert all(start <= end for start, end in ordered if end != now), found
    assert all(before[1] <= after[0] for before, after in pairwise(ordered) if before[1] != now), found
    return sum(end - start for start, end, _ in found if end is not None)


@pytest.mark.parametrize("off_s", [-HOUR_S, HOUR_S])
def test_usage_is_never_negative_and_never_counted_twice(off_s: float) -> None:
    """A guest runs 200 s, the clock is set wrong while it does and set right later; then it runs once more."""

    async def main(clock: VirtualClock) -> None:
        it = Wrong(13, clock)
        await it.begin()
        await it.machine_of(0)
        await asyncio.sleep(100)
        it.clock.off_s += off_s
        await asyncio.sleep(100)
        await it._patch(VirtualMachine, "m0", {"running": False})
        await asyncio.sleep(60)
        first = await intervals(it, "vcpu_seconds")
        assert len(first) == 1 and first[0][1] is not None
        # 200 s and what the clock jumped forward meanwhile; nothing of what it jumped back
        assert 0 <= sound(first, it.clock.now()) <= 200 + max(0.0, off_s)
        await it._patch(VirtualMachine, "m0", {"running": True})
        await asyncio.sleep(30)
        it.clock.off_s -= off_s
        await asyncio.sleep(100)
        assert await it.guests() == 1
        await it._patch(VirtualMachine, "m0", {"running": False})
        await asyncio.sleep(60)
        both = await intervals(it, "vcpu_seconds")
        assert len(both) == 2 and all(end is not None for _, end, _ in both)
        assert sound(both, it.clock.now()) - sound(first, it.clock.now()) <= 130 + max(0.0, -off_s)
        await it.finish()

    run(main)
