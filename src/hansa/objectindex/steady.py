"""How far on a clock may be believed: locks end with it, and one wrong jump forward would end them all.

What counts is the time that passes by itself, which nobody can set, from the moment on at which the process began. A
process that begins while its clock is ahead believes it: nothing here tells that from a machine that stood for long.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

STEP_S: Final = 3600.0  # by so much a clock may be put right
DRIFT: Final = 0.001  # and so much faster it may run: seconds a second

log = structlog.get_logger("hansa.s3.clock")


class Steady:
    """`now`: the clock at this moment (epoch seconds); `passed`: seconds from any moment on, for as long as this lives."""

    def __init__(self, now: float, passed: Callable[[], float]) -> None:
        self._passed = passed
        self._began, self._mark = now, passed()
        self._is_told = False

    def believed(self, now: float) -> float:
        """`now`, or what has passed, where the clock is further on than it should be."""
        passed = self._passed() - self._mark
        if now <= self._began + passed * (1 + DRIFT) + STEP_S:
            self._is_told = False
            return now
        if not self._is_told:
            self._is_told = True
            log.error(
                "the clock jumped ahead: locks of objects go by the time that passes",
                ahead_s=round(now - self._began - passed),
            )
        return self._began + passed
