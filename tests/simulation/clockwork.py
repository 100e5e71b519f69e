"""An event loop whose time is virtual: a wait costs nothing, and the same seed gives the same run."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


ANSWER_S = 1.0  # real seconds for a server that is asked; then time goes on without it


class _Jump(selectors.BaseSelector):
    """Never waits for real: what would be a wait moves the clock. Only the answer of a real server is waited for,
    while `busy`, and no time passes meanwhile."""

    def __init__(self, busy: Callable[[], bool]) -> None:
        self._real, self.now, self._busy = selectors.DefaultSelector(), 0.0, busy

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = self._real.select(ANSWER_S if timeout != 0 and self._busy() else 0)
        if not ready:
            if timeout is None:
                raise RuntimeError("everything waits for something that never comes")
            self.now += max(timeout, 0.0)
        return ready

    def register(self, fileobj: Any, events: int, data: Any = None) -> Any:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> Any:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> Any:
        return self._real.modify(fileobj, events, data)

    def get_map(self) -> Any:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()


@dataclass
class Traffic:
    """Calls that wait for a real server."""

    count: int = 0

    def __call__(self) -> bool:
        return self.count > 0


class VirtualClock:
    """Epoch seconds that follow the virtual loop."""

    def __init__(self, jump: _Jump, traffic: Traffic) -> None:
        self._jump, self.traffic = jump, traffic

    def now(self) -> float:
        return 1_800_000_000.0 + self._jump.now


def run(main: Callable[[VirtualClock], Coroutine[Any, Any, T]]) -> T:
    """Runs a coroutine to its end in virtual time."""
    traffic = Traffic()
    jump = _Jump(traffic)
    loop = asyncio.SelectorEventLoop(jump)
    loop.time = lambda: jump.now  # type: ignore[method-assign]
    try:
        return loop.run_until_complete(main(VirtualClock(jump, traffic)))
    finally:
        loop.close()
