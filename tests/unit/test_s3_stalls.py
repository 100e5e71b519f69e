"""Deadlines of the waits of a stream: each of them counts from its own beginning, and nobody else's end is taken for one."""

from __future__ import annotations

import asyncio
from weakref import ref

import pytest

from hansa.gateways.s3.stalls import Stalls

pytestmark = pytest.mark.anyio


async def test_many_waits_may_take_longer_together_than_one_may() -> None:
    stalls = Stalls(0.2)
    for _ in range(6):
        assert await stalls.within(asyncio.sleep(0.08, "there")) == "there"
    await asyncio.sleep(0.5)  # between two waits there is no hurry
    assert await stalls.within(asyncio.sleep(0.08, "there")) == "there"


async def test_one_that_takes_too_long_is_ended_in_time() -> None:
    stalls, loop, cancelled = Stalls(0.3), asyncio.get_running_loop(), asyncio.Event()

    async def never() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    await stalls.within(asyncio.sleep(0.2))
    began = loop.time()
    with pytest.raises(TimeoutError):
        await stalls.within(never())
    assert cancelled.is_set() and 0.29 <= loop.time() - began < 1.5
    task = asyncio.current_task()
    assert task is not None and task.cancelling() == 0


async def test_who_is_told_to_end_ends() -> None:
    async def wait(stalls: Stalls) -> None:
        await stalls.within(asyncio.Event().wait())

    task = asyncio.create_task(wait(Stalls(30)))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_of_what_is_waited_for_comes_through() -> None:
    async def wrong() -> None:
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        await Stalls(30).within(wrong())


async def test_nothing_is_left_once_it_has_ended() -> None:
    stalls = Stalls(30)
    await stalls.within(asyncio.sleep(0))
    left = ref(stalls)
    stalls.end()
    del stalls
    await asyncio.sleep(0.05)
    assert left() is None, "a timer still knows it"
