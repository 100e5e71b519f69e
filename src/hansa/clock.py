"""Time and chance: the only places where either enters the program.

Everything else is handed a `Clock` and an `Ids`, so that a simulation can own both.
"""

from __future__ import annotations

import random
import time
import uuid
from typing import Protocol


class Clock(Protocol):
    def now(self) -> float:
        """Seconds since the epoch, UTC."""
        ...


class Ids(Protocol):
    def uid(self) -> str:
        """A UUID, version 4."""
        ...

    def token(self) -> str:
        """128 random bits in hex: lease tokens, names of one-off things. Not for secrets."""
        ...

    def chance(self) -> float:
        """A number in [0, 1): jitter."""
        ...


class SystemClock:
    def now(self) -> float:
        return time.time()


def passed() -> float:
    """Seconds since this machine started, those that it slept included: time that nobody can set."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class SystemIds:
    def __init__(self) -> None:
        self._random = random.SystemRandom()

    def uid(self) -> str:
        return str(uuid.uuid4())

    def token(self) -> str:
        return uuid.uuid4().hex

    def chance(self) -> float:
        return self._random.random()


class SeededIds:
    """The same ids for the same seed: for simulations and golden files."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def uid(self) -> str:
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def token(self) -> str:
        return f"{self._random.getrandbits(128):032x}"

    def chance(self) -> float:
        return self._random.random()
