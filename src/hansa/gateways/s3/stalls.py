"""One deadline after the other for the many short waits of a stream, at the price of one timer: it is not set anew for each
wait, but looks, when it is due, how long the wait of that moment has gone on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


class Stalls:
    """Of one stream, whose waits follow one another. `seconds` is what each of them may take."""

    __slots__ = ("__weakref__", "_is_over", "_seconds", "_since", "_task", "_timer")

    def __init__(self, seconds: float) -> None:
        self._seconds, self._since, self._is_over = seconds, 0.0, False
        self._task: asyncio.Task[object] | None = None  # that waits just now
        self._timer: asyncio.TimerHandle | None = None

    async def within(self, waited: Awaitable[T]) -> T:
        """Raises TimeoutError; what was waited for is cancelled then."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        before = task.cancelling()
        self._task, self._since = task, loop.time()
        if self._timer is None:
            self._timer = loop.call_at(self._since + self._seconds, self._look, loop)
        try:
            return await waited
        except asyncio.CancelledError as error:
            if self._is_over and task.uncancel() <= before:
                raise TimeoutError from error
            raise  # somebody else wants it to end, perhaps besides
        finally:
            self._task = None

    def end(self) -> None:
        """Nothing more is waited for."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        if self._task is None:
            return  # the next wait sets it
        due = self._since + self._seconds
        if loop.time() < due:
            self._timer = loop.call_at(due, self._look, loop)
        else:
            self._is_over = True
            self._task.cancel()
