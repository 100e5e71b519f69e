"""Several control processes over one store, in virtual time: each has a side of its own, with its own clock.

On PostgreSQL the sides are drivers with connections of their own, so that their transactions really interleave; the
virtual loop waits for the server's answers (`Traffic`) without letting time pass. A clock that jumps is noticed some
while later, as the driver measures it every 30 s.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hansa.clock import Clock, Ids
from hansa.store.driver import Driver, Pass, Row, Transaction
from hansa.store.locks import NOTHING, Needs
from hansa.store.postgres import PostgresDriver
from hansa.store.sqlite import SqliteDriver
from hansa.store.store import SqlStore

from ..postgres import server, wanted
from .clockwork import Traffic, VirtualClock

T = TypeVar("T")
NOTICED_S = 30.0


@dataclass
class Jumpy:
    """A clock that an operator sets wrong, and right again."""

    true: Clock
    off_s: float = 0.0

    def now(self) -> float:
        return self.true.now() + self.off_s


@dataclass
class Side:
    """A driver as one process has it."""

    inner: Driver
    true: Clock
    clock: Jumpy
    traffic: Traffic
    _skew_s: float = 0.0
    _measured: float = field(default=0.0)

    alone = False

    @property
    def skew_s(self) -> float:
        if self.true.now() - self._measured > NOTICED_S:
            self._measured, self._skew_s = self.true.now(), -self.clock.off_s
        return self._skew_s

    def listen(self, call: Callable[[int], None]) -> None:
        self.inner.listen(call)

    async def read(self, statement: str, **parameters: Any) -> list[Row]:
        self.traffic.count += 1
        try:
            return await self.inner.read(statement, **parameters)
        finally:
            self.traffic.count -= 1

    async def write(self, work: Callable[[Transaction], Awaitable[T]], needs: Needs = NOTHING) -> T:
        self.traffic.count += 1
        try:
            return await self.inner.write(work, needs)
        finally:
            self.traffic.count -= 1

    async def at_once(self, statement: str, **parameters: Any) -> list[Row]:
        self.traffic.count += 1
        try:
            return await self.inner.at_once(statement, **parameters)
        finally:
            self.traffic.count -= 1

    @property
    def finish(self) -> Callable[[Pass], Awaitable[int]] | None:
        return None if self.inner.finish is None else self._finish

    async def _finish(self, it: Pass) -> int:
        assert self.inner.finish is not None
        self.traffic.count += 1
        try:
            return await self.inner.finish(it)
        finally:
            self.traffic.count -= 1

    async def close(self) -> None:
        self.traffic.count += 1
        await self.inner.close()
        self.traffic.count -= 1


async def sides(count: int, true: VirtualClock, ids: Ids) -> list[tuple[SqlStore, Jumpy]]:
    """Stores over one new database, as so many processes have them."""
    traffic = true.traffic
    traffic.count += 1
    drivers = await _postgres(count, true) if wanted() else [SqliteDriver(":memory:", inline=True)] * count
    traffic.count -= 1
    made = []
    for driver in drivers:
        clock = Jumpy(true)
        made.append((SqlStore(Side(driver, true, clock, traffic), clock, ids), clock))
    return made


async def _postgres(count: int, true: Clock) -> list[Driver]:
    url = await server().empty()
    drivers: list[Driver] = []
    for _ in range(count):
        driver = PostgresDriver(url, true, follow=False)
        driver._hints.start = lambda: None  # type: ignore[method-assign]  # sides tell one another at once, below
        await driver.start()
        drivers.append(driver)
    return drivers
