"""What a gateway does when nobody asks: the duties that come round, each in the hands of one process at a time.

A duty is a coroutine that does one round and ends. Whoever holds its lease in the index does it; the index also keeps
when it is due next, so several gateways do no more than one. A lease is renewed while the round goes on, and lost with
the process: another one goes on from the place that the duty noted. Every deed is looked at again inside the index, so
that a round done twice does no harm.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import structlog

from hansa.clock import Clock, Ids
from hansa.errors import HansaError
from hansa.objectindex.port import ObjectIndex

LEASE_S = 60.0
RENEW_S = 20.0
LOOK_S = 1.0  # between two looks at what is due
BACK_OFF_S = 30.0  # after a round that failed
PER_S = 2000  # versions looked at, or things done, in a second of one duty

log = structlog.get_logger("hansa.s3.chores")
Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Duty:
    """`work` is one whole round. `every_s`: from the end of one to the next."""

    name: str
    every_s: float
    work: Callable[[], Awaitable[None]]


@dataclass(slots=True)
class Pace:
    """Keeps a duty from taking more than its share: so much a second, over any stretch of work."""

    per_s: float = PER_S
    sleep: Sleep = asyncio.sleep

    async def spend(self, amount: int) -> None:
        await self.sleep(amount / self.per_s)


@dataclass(slots=True)
class Chores:
    """`run` never ends by itself. One for each process; `holder` must differ between them."""

    index: ObjectIndex
    clock: Clock
    ids: Ids
    duties: Sequence[Duty]
    sleep: Sleep = asyncio.sleep
    holder: str = ""
    _not_before: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.holder = self.holder or self.ids.token()

    async def run(self) -> None:
        """Each duty at its own time: a long round of one keeps no other waiting. Cancelled, it ends when all have ended:
        index and store are in use until then."""
        async with asyncio.TaskGroup() as duties:
            for duty in self.duties:
                duties.create_task(self._keep(duty))

    async def _keep(self, duty: Duty) -> None:
        while True:
            await self._attempt(duty)
            await self.sleep(LOOK_S * (0.5 + self.ids.chance()))

    async def look(self) -> list[str]:
        """One look at all duties: the names of those of which a round was done."""
        return [duty.name for duty in self.duties if await self._attempt(duty)]

    async def _attempt(self, duty: Duty) -> bool:
        """A bug or a bad row ends one round of one duty; the process that serves goes on, and tries again later."""
        if self.clock.now() < self._not_before.get(duty.name, 0.0):
            return False
        try:
            return await self._if_due(duty)
        except HansaError as error:
            log.warning("chore failed", duty=duty.name, reason=error.message, detail=error.detail)
        except Exception:
            log.exception("chore failed by a bug", duty=duty.name)
        self._not_before[duty.name] = self.clock.now() + BACK_OFF_S
        return False

    async def at_once(self, duty: Duty) -> bool:
        """A round whether it is due or not, its errors for who asked. False: another process is at it."""
        return await self._lease(duty) and await self._leased(duty, due_only=False)

    async def _if_due(self, duty: Duty) -> bool:
        if await self._next(duty) > self.clock.now() or not await self._lease(duty):
            return False
        return await self._leased(duty)

    async def _leased(self, duty: Duty, *, due_only: bool = True) -> bool:
        try:
            if due_only and await self._next(duty) > self.clock.now():  # somebody else has just done it
                return False
            done = await self._renewing(duty)
            if done:
                await self.index.note(_next_name(duty), repr(self.clock.now() + duty.every_s))
            return done
        finally:
            await self._let_go(duty)

    async def _let_go(self, duty: Duty) -> None:
        """Raises nothing of the index's: a cancellation must not be lost for it, and a lease also runs out by itself."""
        try:
            await self._lease(duty, 0.0)
        except HansaError as error:
            log.warning("lease not given back", duty=duty.name, reason=error.message, detail=error.detail)

    async def _renewing(self, duty: Duty) -> bool:
        """False: the lease was lost, and the round with it."""
        work = asyncio.ensure_future(duty.work())
        try:
            while True:
                await asyncio.wait((work,), timeout=RENEW_S)
                if work.done():
                    work.result()
                    return True
                if not await self._lease(duty):
                    log.warning("chore lost its lease", duty=duty.name)
                    return False
        finally:
            if not work.done():
                work.cancel()
                await asyncio.wait((work,))

    async def _lease(self, duty: Duty, seconds: float = LEASE_S) -> bool:
        return await self.index.lease(f"chores/{duty.name}", self.holder, seconds)

    async def _next(self, duty: Duty) -> float:
        return float(await self.index.note(_next_name(duty)) or 0.0)


def _next_name(duty: Duty) -> str:
    return f"chores/{duty.name}/next"
