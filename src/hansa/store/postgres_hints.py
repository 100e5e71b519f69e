"""Waking early: one connection that listens to other processes and tells them of our commits.

A hint is only a hint. It carries a revision up to which `changes` can be read, and may be late, doubled or lost: who
waits looks by itself now and then. Notices go out from this connection after the commits that they speak of, many in
one: a notice inside each commit would make all commits of the database queue for one lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import structlog

from hansa.clock import Clock
from hansa.errors import HansaError, Retry
from hansa.store.postgres_words import ERRORS

log = structlog.get_logger("hansa.store")

CHANNEL = "hansa"
LOOK_S = 5.0  # between looks when nobody tells anything
LAGGING_S = 0.02  # between looks while a commit cannot be read yet
AGAIN_S = 0.5  # before the next attempt to connect
MEASURE_S = 30.0
RIGHT_S = 1.0  # a clock that is off by less is right
GATHER_S = 0.002  # so that many commits share one look and one notice
_LOOK = "select hansa_given_out(), hansa_readable()"


class Hints:
    def __init__(self, connect: Callable[[], Awaitable[asyncpg.Connection]], clock: Clock, *, follow: bool) -> None:
        self._connect, self._clock, self._follow = connect, clock, follow
        self._calls: list[Callable[[int], None]] = []
        self._stirred = asyncio.Event()
        self._ours = False  # something of this process is to be told to others
        self._told = 0
        self._measured = 0.0
        self._me = os.urandom(8).hex()
        self._task: asyncio.Task[None] | None = None
        self.skew_s = 0.0

    def listen(self, call: Callable[[int], None]) -> None:
        self._calls.append(call)

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    def committed(self) -> None:
        """This process committed something."""
        self._ours = True
        self._stirred.set()

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def measure(self, connection: asyncpg.Connection) -> None:
        """How far our clock is off the database's, of the quickest of three answers."""
        if not self._follow:
            return
        answers = []
        for _ in range(3):
            began, ours = time.monotonic(), self._clock.now()
            theirs = float(await connection.fetchval("select extract(epoch from clock_timestamp())"))
            took_s = time.monotonic() - began
            answers.append((took_s, theirs - ours - took_s / 2))
        off_s = min(answers)[1]
        skew_s = off_s if abs(off_s) > RIGHT_S else 0.0
        if (skew_s != 0.0) != (self.skew_s != 0.0) or abs(skew_s - self.skew_s) > RIGHT_S:
            log.warning("clock", message="the clock of this machine is not the database's", behind_s=round(off_s, 1))
        self.skew_s = skew_s
        self._measured = time.monotonic()

    async def _run(self) -> None:
        away = False
        while True:
            try:
                connection = await self._connect()
            except HansaError as error:
                if not away:  # told once, not twice a second
                    log.warning("listen", message=error.message, detail=error.detail)
                away = True
                await asyncio.sleep(AGAIN_S)
                continue
            if away:
                log.info("listen", message="the database answers again")
            away = False
            try:
                await connection.execute("set synchronous_commit = off")  # a notice need not survive anything
                await connection.add_listener(CHANNEL, self._heard)
                await self.measure(connection)
                self._tell(self._told)  # whatever was said while we did not listen
                while True:
                    await self._look(connection)
            except (*ERRORS, Retry) as error:
                log.warning("listen", message="the connection that listens broke", detail=str(error))
            finally:
                connection.terminate()
            await asyncio.sleep(AGAIN_S)

    def _heard(self, _connection: Any, _pid: int, _channel: str, sender: Any) -> None:
        if sender != self._me:
            self._stirred.set()

    async def _look(self, connection: asyncpg.Connection) -> None:
        """Waits until something stirs, then tells what can be read now, and others what is ours."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_S):
                await self._stirred.wait()
        await asyncio.sleep(GATHER_S)
        self._stirred.clear()
        if connection.is_closed():
            raise Retry("the connection is closed")
        if self._ours:
            self._ours = False
            await connection.execute("select pg_notify($1, $2)", CHANNEL, self._me)
        newest, readable = await connection.fetchrow(_LOOK)
        if readable > self._told:
            self._tell(readable)
        if readable < newest:  # a transaction that began earlier is still at work
            await asyncio.sleep(LAGGING_S)
            self._stirred.set()
        if time.monotonic() - self._measured > MEASURE_S:
            await self.measure(connection)

    def _tell(self, revision: int) -> None:
        self._told = max(self._told, revision)
        for call in self._calls:
            call(revision)
