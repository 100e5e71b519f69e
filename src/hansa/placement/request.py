"""What is to be placed, whatever its kind."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Request:
    """One member. Memory in bytes. `forbidden`: territories that policy refuses, with the rule's words."""

    uid: str
    region: str
    zone: str
    vcpus: int
    memory_bytes: int
    gpu_model: str = ""
    gpus: int = 0
    group: str = ""  # uid of a spread group, empty: none
    forbidden: tuple[tuple[str, str], ...] = ()  # (territory, why)
