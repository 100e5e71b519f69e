"""Mask, cost, choose, explain. Pure: same request, same view, same answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hansa.placement.fleet import FleetView
from hansa.placement.masks import MASKS, shortfall
from hansa.placement.request import Request

RANKED_MAX = 5


@dataclass(frozen=True, slots=True)
class Refusal:
    """How many hosts a reason refused, and the sentence."""

    reason: str
    hosts: int
    message: str
    may_change: bool


@dataclass(frozen=True, slots=True)
class Ranked:
    """One of the best hosts; each term of its cost by name (less is better)."""

    host: str
    cost: float
    terms: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """`host` empty: refused. `may_change`: would waiting help?"""

    host: str
    ranked: tuple[Ranked, ...] = ()
    refused: tuple[Refusal, ...] = ()

    @property
    def may_change(self) -> bool:
        return any(r.may_change for r in self.refused)

    @property
    def decisive(self) -> Refusal | None:
        """The refusal that matters to the one who asked: the last mask that still had hosts before it."""
        return self.refused[-1] if self.refused else None


def place(request: Request, fleet: FleetView) -> Decision:
    """The host with the most room left, among those that nothing refuses; ties by name."""
    open_rows = np.ones(len(fleet.hosts), dtype=np.bool_)
    refused: list[Refusal] = []
    for reason, mask, may_change in MASKS:
        passes = mask(request, fleet)
        no = open_rows & ~passes
        if no.any():
            refused.append(Refusal(reason, int(no.sum()), shortfall(reason, request, fleet, no), may_change))
        open_rows &= passes
    rows = np.flatnonzero(open_rows)
    if not len(rows):
        return Decision("", refused=tuple(refused))
    ranked = _ranked(request, fleet, rows)
    return Decision(ranked[0].host, tuple(ranked[:RANKED_MAX]), tuple(refused))


def _ranked(request: Request, fleet: FleetView, rows: np.ndarray) -> list[Ranked]:
    """Cost: the share of a host's room that the machine would take, of CPU and of memory."""
    cpu = request.vcpus / np.maximum(fleet.free_vcpus[rows], 1)
    memory = request.memory_bytes / np.maximum(fleet.free_memory_bytes[rows], 1)
    found = [
        Ranked(
            fleet.hosts[row].name, round(float(c + m), 6), (("cpu", round(float(c), 6)), ("memory", round(float(m), 6)))
        )
        for row, c, m in zip(rows, cpu, memory, strict=True)
    ]
    return sorted(found, key=lambda r: (r.cost, r.host))
