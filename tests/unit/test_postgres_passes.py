"""Ends of passes that are written together: whoever waits gets an answer, whatever happens to the worker."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hansa.errors import Bug, Retry
from hansa.kinds.resource import Key
from hansa.store.driver import Pass, Row
from hansa.store.postgres_passes import BATCH_MAX, WORKERS, Passes

pytestmark = pytest.mark.anyio
MANY = BATCH_MAX * WORKERS * 3 + 1
WITHIN_S = 5.0


def end(number: int) -> Pass:
    return Pass(
        at=1.0, key=Key("Disk", "p", f"d{number}"), token="t", generation=1, status=None, system_labels=None,
        wake=False, due=None, failures=0, by="/x", request="",
    )  # fmt: skip


class Failing:
    """Answers as the database does, but for the first `times` calls: those fail with `error`."""

    def __init__(self, error: BaseException, times: int) -> None:
        self.error, self.left = error, times

    async def __call__(self, statement: str, *values: Any) -> list[Row]:
        await asyncio.sleep(0)
        if self.left:
            self.left -= 1
            raise self.error
        return [(nth + 1, 7, None) for nth in range(len(values[3]))]


async def ended(call: Failing) -> list[int | BaseException]:
    passes = Passes(call)
    async with asyncio.timeout(WITHIN_S):
        return await asyncio.gather(*(passes.finish(end(n)) for n in range(MANY)), return_exceptions=True)


@pytest.mark.parametrize("times", [1, WORKERS, 10**6])
async def test_an_error_that_nobody_foresaw_reaches_who_waits_and_nobody_else(times: int) -> None:
    error = LookupError("a column that is not there")
    said = await ended(Failing(error, times))
    failed = [it for it in said if isinstance(it, Bug)]
    assert len(failed) == min(MANY, BATCH_MAX * times)
    assert all(it.__cause__ is error and "a column" in it.detail for it in failed)
    assert [it for it in said if not isinstance(it, Bug)] == [7] * (MANY - len(failed))


async def test_a_database_that_is_away_is_told_as_it_is() -> None:
    said = await ended(Failing(Retry("the database is away"), 10**6))
    assert all(isinstance(it, Retry) for it in said)


async def test_who_waits_for_workers_that_are_told_to_end_is_told() -> None:
    asked = asyncio.Event()

    async def call(statement: str, *values: Any) -> list[Row]:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    passes = Passes(call)
    waiting = [asyncio.create_task(passes.finish(end(n))) for n in range(MANY)]
    await asked.wait()
    for worker in list(passes._workers):
        worker.cancel()
    async with asyncio.timeout(WITHIN_S):
        said = await asyncio.gather(*waiting, return_exceptions=True)
    assert len(said) == MANY and all(isinstance(it, Bug) for it in said)


async def test_an_answer_that_leaves_one_out_is_told_to_that_one() -> None:
    async def call(statement: str, *values: Any) -> list[Row]:
        return [(nth + 1, 7, None) for nth in range(len(values[3]) - 1)]

    passes = Passes(call)
    async with asyncio.timeout(WITHIN_S):
        said = await asyncio.gather(*(passes.finish(end(n)) for n in range(3)), return_exceptions=True)
    assert said[:2] == [7, 7] and isinstance(said[2], Bug) and "d2" in said[2].message
