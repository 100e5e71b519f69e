"""Time in the hands of a test."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Hands:
    """A clock that moves when told."""

    at: float = 1_800_000_000.0

    def now(self) -> float:
        return self.at
