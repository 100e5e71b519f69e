"""The ends of passes, many in one transaction of PostgreSQL: the loop's most frequent write.

Whoever ends a pass queues it. A few workers take what has queued meanwhile, so that one alone goes at once and many
share a round trip and a flush. Each pass of a batch stands or falls alone: `hansa_finish` asks what could refuse it
before it writes anything of it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import structlog

from hansa.errors import Bug, Conflict, HansaError, NotFound
from hansa.store.driver import Pass, Row
from hansa.store.locks import number, object_name

log = structlog.get_logger("hansa.store")
WORKERS = 2  # batches in flight: one is flushed while the next is worked on
BATCH_MAX = 32
FINISH = """
select nth, number, refusal
  from hansa_finish($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)"""
# Of a batch that failed by one of these, one pass may have been the cause: each is tried alone.
_PERHAPS_ONE = (asyncpg.LockNotAvailableError, asyncpg.QueryCanceledError, asyncpg.DataError)

Call = Callable[..., Awaitable[list[Row]]]
_Waiting = tuple[Pass, asyncio.Future[int]]


class Passes:
    """`call(statement, *values)` runs one statement as a transaction of its own, or raises our errors."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._queue: deque[_Waiting] = deque()
        self._workers: set[asyncio.Task[None]] = set()

    async def finish(self, it: Pass) -> int:
        """The revision, 0 when nothing new was said. Raises Conflict, NotFound, Retry."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._queue.append((it, future))
        if len(self._workers) < WORKERS:
            self._begin()
        return await future

    def _begin(self) -> None:
        worker = asyncio.create_task(self._work())
        self._workers.add(worker)
        worker.add_done_callback(self._ended)

    def _ended(self, worker: asyncio.Task[None]) -> None:
        """One that failed leaves the queue to another; one that was told to end, to nobody: then the program ends."""
        self._workers.discard(worker)
        if not worker.cancelled() and (error := worker.exception()) is not None:  # told to all who waited for it, too
            log.error("passes", message="ends of passes were not written", detail=repr(error))
        if self._workers or not self._queue:
            return
        if not worker.cancelled():
            self._begin()
        while worker.cancelled() and self._queue:
            _fail(self._queue.popleft(), asyncio.CancelledError())

    async def _work(self) -> None:
        while self._queue:
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), BATCH_MAX))]
            try:
                await self._write(batch)
            except BaseException as error:  # nobody waits for ever, whatever it was
                for waiting in batch:
                    _fail(waiting, error)
                raise
            for waiting in batch:
                _fail(waiting, None)

    async def _write(self, batch: list[_Waiting]) -> None:
        try:
            rows = await self._call(FINISH, *_columns([it for it, _ in batch]))
        except HansaError as error:
            if len(batch) > 1 and isinstance(error.__cause__, _PERHAPS_ONE):
                for one in batch:
                    await self._write([one])
                return
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for nth, revision, refusal in rows:
            it, future = batch[nth - 1]
            if future.done():  # nobody waits for it any more
                continue
            if refusal is None:
                future.set_result(int(revision))
            else:
                future.set_exception(_refused(it, refusal))


def _fail(waiting: _Waiting, cause: BaseException | None) -> None:
    """Told to whoever still waits."""
    it, future = waiting
    if not future.done():
        bug = Bug(f"the end of a pass over {it.key} was not written", detail=repr(cause) if cause else "")
        bug.__cause__ = cause
        future.set_exception(bug)


def _columns(passes: list[Pass]) -> tuple[Any, ...]:
    """The arguments of `hansa_finish`: a list for each member, of all passes."""
    names = sorted({object_name(it.key) for it in passes if it.status is not None})
    return (
        number("store"), names, [it.at for it in passes],
        [it.key.kind for it in passes], [it.key.scope for it in passes], [it.key.name for it in passes],
        [it.token for it in passes], [it.generation for it in passes], [it.status for it in passes],
        [it.system_labels for it in passes], [it.wake for it in passes], [it.due for it in passes],
        [it.failures for it in passes], [it.by for it in passes], [it.request for it in passes],
    )  # fmt: skip


def _refused(it: Pass, refusal: str) -> HansaError:
    match refusal:
        case "lease":
            return Conflict(f"the lease on {it.key} is in another hand")
        case "gone":
            return NotFound(f"there is no {it.key}")
        case _:
            return Conflict(f"{it.key} has not the generation {it.generation} any more")
