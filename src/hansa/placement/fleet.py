"""The fleet as columns: one row a host. Pure data; the store is the truth, this is a view of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class HostRow:
    """One host, before it becomes a row. Free amounts are after overcommit and what is claimed."""

    name: str
    region: str
    zone: str
    territory: str
    healthy: bool
    simulated: bool
    free_vcpus: int
    free_memory_bytes: int
    gpu_model: str = ""
    free_gpus: int = 0
    groups: frozenset[str] = frozenset()  # uids of placement groups with a member here
    message: str = ""


@dataclass(frozen=True)
class FleetView:
    """A read-only snapshot, in columns."""

    hosts: Sequence[HostRow] = field(default_factory=tuple)

    def _column(self, name: str) -> NDArray[np.object_]:
        return np.array([getattr(h, name) for h in self.hosts], dtype=object)

    @cached_property
    def site(self) -> NDArray[np.object_]:
        """`region/zone`, one a host."""
        return np.array([f"{h.region}/{h.zone}" for h in self.hosts], dtype=object)

    @cached_property
    def territory(self) -> NDArray[np.object_]:
        return self._column("territory")

    @cached_property
    def healthy(self) -> NDArray[np.bool_]:
        return np.array([h.healthy for h in self.hosts], dtype=np.bool_)

    @cached_property
    def free_vcpus(self) -> NDArray[np.int64]:
        return np.array([h.free_vcpus for h in self.hosts], dtype=np.int64)

    @cached_property
    def free_memory_bytes(self) -> NDArray[np.int64]:
        return np.array([h.free_memory_bytes for h in self.hosts], dtype=np.int64)

    @cached_property
    def gpu_model(self) -> NDArray[np.object_]:
        return self._column("gpu_model")

    @cached_property
    def free_gpus(self) -> NDArray[np.int64]:
        return np.array([h.free_gpus for h in self.hosts], dtype=np.int64)
