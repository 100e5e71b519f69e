"""The loop: claim, reconcile, write, settle. The only mechanism for whatever takes time.

Level-triggered: a reconciler is told which object, never what happened. A key is in one hand at a time (a
lease with a token), a write that lands meanwhile makes it due again, and a pass that died is repeated
when its lease runs out. `except Exception` stands here and at the web edge only.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from hansa.control.clockwatch import ClockWatch
from hansa.control.metering import metered, with_metering
from hansa.control.outcome import Outcome, conditions
from hansa.control.world import Reconcilers, World
from hansa.dates import parse_rfc3339, rfc3339
from hansa.errors import Conflict, Full, NotFound, Refused, Retry
from hansa.kinds.reasons import is_terminal
from hansa.kinds.registry import read
from hansa.kinds.resource import AnyResource, Document, Key
from hansa.store.port import Forget, Lease, SetStatus, Settle, Write

log = structlog.get_logger("hansa.loop")

PASS_S = 30.0  # one pass of one object
LEASE_S = 60.0  # outlives the pass and its commit
IDLE_S = 1.0  # longest sleep while nothing is due
BACKOFF_MAX_S = 300.0
CONFLICTS_MAX = 5
ERRORS_KEPT = 1000


@dataclass(slots=True)
class Counts:
    """For metrics and tests."""

    passes: int = 0
    conflicts: int = 0
    retries: int = 0
    refusals: int = 0
    bugs: int = 0


@dataclass(slots=True)
class Loop:
    world: World
    reconcilers: Reconcilers
    tasks_max: int = 16
    counts: Counts = field(default_factory=Counts)
    errors: OrderedDict[Key, str] = field(default_factory=OrderedDict)
    timed: Callable[[float, str, str], None] = lambda seconds, kind, outcome: None
    beat: float = 0.0  # of the monotonic clock: when it last looked what is due
    _clock: ClockWatch = field(init=False)
    _owed: list[Lease] = field(default_factory=list)
    _awake: asyncio.Event = field(default_factory=asyncio.Event)
    _running: set[asyncio.Task[None]] = field(default_factory=set)
    _stopping: bool = False

    def __post_init__(self) -> None:
        self._clock = ClockWatch(self.world.store, self.world.clock)

    def wake(self, _revision: int = 0) -> None:
        """A hint: something was committed."""
        self._awake.set()

    def last_error(self, key: Key) -> str:
        """The last thing that went wrong with an object in this process, for `why`."""
        return self.errors.get(key, "")

    async def run(self) -> None:
        """Until `stop`. What is in flight then is finished or, after its deadline, left to its lease."""
        while not self._stopping:
            self.beat = time.monotonic()
            self._awake.clear()
            free = self.tasks_max - len(self._running)
            leases = await self._claim(free) if free > 0 else ()
            for lease in leases:
                task = asyncio.create_task(self._pass(lease))
                self._running.add(task)
                task.add_done_callback(self._done)
            if not leases:
                await self._sleep()
        if self._running:
            await asyncio.wait(self._running, timeout=PASS_S)

    @property
    def in_flight(self) -> int:
        return len(self._running)

    async def stop(self) -> None:
        self._stopping = True
        self._awake.set()

    async def _claim(self, free: int) -> tuple[Lease, ...]:
        try:
            await self._clock.look()
            await self._give_back()
            due = await self.world.store.next_due()
            if due is None or due > self.world.clock.now():
                return ()
            return tuple(await self.world.store.claim(free, LEASE_S))
        except Retry as retry:
            log.warning("claim", message=retry.message)
            await asyncio.sleep(IDLE_S)
            return ()

    async def _give_back(self) -> None:
        """Keys whose pass could not be written: free again once anything can, not when their lease runs out."""
        owed = list(self._owed)
        if owed:
            await self._commit(*(Settle(lease, 0.0, failed=True) for lease in owed))
            del self._owed[: len(owed)]

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._awake.set()

    async def _sleep(self) -> None:
        due = None
        with contextlib.suppress(Retry):  # asked again, and told, when it claims
            due = await self.world.store.next_due()
        wait_s = IDLE_S if due is None else min(IDLE_S, max(0.0, due - self.world.clock.now()))
        if len(self._running) >= self.tasks_max:
            wait_s = IDLE_S
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(wait_s, 0.001)):
                await self._awake.wait()

    # -- one pass ---------------------------------------------------------------------------

    async def _pass(self, lease: Lease) -> None:
        started, outcome = time.perf_counter(), "bug"
        with structlog.contextvars.bound_contextvars(key=str(lease.key)):
            try:
                outcome = await self.attempt(lease)
            except Retry as retry:  # the store itself does not answer
                outcome = "retry"
                self._owed.append(lease)
                self._remember(lease.key, retry.message + (f": {retry.detail}" if retry.detail else ""))
                log.warning("store", message=retry.message, detail=retry.detail)
            except Exception as bug:
                self.counts.bugs += 1
                self._remember(lease.key, f"bug: {bug!r}")
                log.exception("bug")
            finally:
                self.timed(time.perf_counter() - started, lease.key.kind, outcome)

    async def attempt(self, lease: Lease) -> str:
        """One pass over one object: reconcile, then commit status, other writes and settling together. What came of
        it, in a word."""
        self.counts.passes += 1
        try:
            stored, request = await self.world.store.asked(lease.key)
        except NotFound:
            await self._commit(Settle(lease, None))
            return "gone"
        it = read(stored)
        with structlog.contextvars.bound_contextvars(**({"request": request} if request and _wanting(it) else {})):
            return await self._attempt(it, lease)

    async def _attempt(self, it: AnyResource, lease: Lease) -> str:
        reconciler = self.reconcilers.get(it.kind)
        if reconciler is None:
            await self._commit(*self._unmanaged(it, lease))
            return "unmanaged"
        try:
            async with asyncio.timeout(PASS_S):
                outcome = await reconciler.reconcile(it, self.world)
            await self._commit(*await self._writes(it, lease, outcome))
            self.errors.pop(lease.key, None)
        except (Conflict, NotFound):  # the world moved meanwhile: look again
            self.counts.conflicts += 1
            await self._commit(Settle(lease, self._jitter(0.02)))
            return "conflict"
        except Full as full:  # somebody was faster: decide again on a fresh view
            self.counts.conflicts += 1
            self._remember(lease.key, full.message)
            await self._commit(Settle(lease, self._jitter(0.05)))
            return "full"
        except Refused as refused:
            self.counts.refusals += 1
            self._remember(lease.key, refused.message)
            await self._settle_with(it, lease, refused.why, refused.message, None, failed=False)
            return "refused"
        except Retry as retry:
            self.counts.retries += 1
            await self._back_off(it, lease, retry.message, retry.after_s)
            return "retry"
        except TimeoutError:
            self.counts.retries += 1
            await self._back_off(it, lease, f"no answer within {PASS_S:.0f} s", None)
            return "timeout"
        except Exception as bug:
            self.counts.bugs += 1
            log.exception("bug")
            await self._back_off(it, lease, f"bug: {bug!r}", None)
            return "bug"
        return "ok"

    def _unmanaged(self, it: AnyResource, lease: Lease) -> tuple[Write, ...]:
        """A kind that nobody reconciles: nothing to do, or nothing to clean up."""
        return (Forget(it.key, lease),) if it.deleting else (Settle(lease, None),)

    async def _writes(self, it: AnyResource, lease: Lease, outcome: Outcome) -> tuple[Write, ...]:
        if outcome.gone:
            _, ends = await metered(it, None, self.world)
            return (*outcome.also, *ends, Forget(it.key, lease))
        settle = Settle(lease, outcome.again_in_s)
        if outcome.status is None:
            return (*outcome.also, settle)
        metering, records = await metered(it, outcome.status, self.world)
        document = outcome.status.wire() if metering is None else with_metering(outcome.status, metering)
        if outcome.expect_s is not None:
            document = self._overdue(it, document, outcome.expect_s)
        now_ready = outcome.status.is_ready
        wake = outcome.wake or now_ready != it.status.is_ready or it.stored.observed != it.generation
        return (*outcome.also, *records, SetStatus(it.key, it.generation, document, lease, wake=wake), settle)

    def _overdue(self, it: AnyResource, document: Document, expect_s: float) -> Document:
        """Says since when a wait is longer than it should be; the reason stays, for programs. The end of a story
        is no wait."""
        for condition in document["conditions"]:
            waits = condition["status"] == "False" and not is_terminal(condition["reason"])
            if condition["type"] == "Ready" and waits:
                since = max(parse_rfc3339(condition["lastTransitionTime"]), it.stored.created_at)
                if self.world.clock.now() - since > expect_s:
                    late = f"overdue: not Ready since {rfc3339(since)}, expected within {expect_s:.0f} s"
                    condition["message"] = f"{condition.get('message', '')} ({late})".strip()
        return document

    async def _back_off(self, it: AnyResource, lease: Lease, message: str, after_s: float | None) -> None:
        wait_s = after_s if after_s is not None else min(BACKOFF_MAX_S, 2.0 ** min(lease.failures, 9))
        self._remember(lease.key, message)
        log.info("retry", message=message, in_s=round(wait_s, 1), failures=lease.failures + 1)
        reason = "Deleting" if it.deleting else "EngineNotAnswering"
        await self._settle_with(it, lease, reason, message, self._jitter(wait_s), failed=True)

    async def _settle_with(
        self, it: AnyResource, lease: Lease, reason: str, message: str, due_in_s: float | None, *, failed: bool
    ) -> None:
        """Writes the trouble where the user sees it, and settles. A lost lease has no say."""
        said = conditions(it, self.world.clock.now(), False, reason, message)
        others = [c for c in it.status.conditions if c.type != "Ready"]
        document = {**it.stored.status, "conditions": [c.wire() for c in (*said, *others)]}
        write = SetStatus(it.key, it.generation, document, lease, wake=it.status.is_ready)
        try:
            await self._commit(write, Settle(lease, due_in_s, failed=failed))
        except Conflict:
            await self._commit(Settle(lease, self._jitter(0.02)))

    async def _commit(self, *writes: Write) -> None:
        request = structlog.contextvars.get_contextvars().get("request", "")
        await self.world.store.commit(*writes, by="/hansa/loop", request=request)

    def _jitter(self, seconds: float) -> float:
        return seconds * (0.75 + 0.5 * self.world.ids.chance())

    def _remember(self, key: Key, message: str) -> None:
        self.errors[key] = message
        self.errors.move_to_end(key)
        while len(self.errors) > ERRORS_KEPT:
            self.errors.popitem(last=False)


def _wanting(it: AnyResource) -> bool:
    """Is what the user's last write asked for still to be done? Its request's id goes on into what is done about it."""
    return not it.ready
