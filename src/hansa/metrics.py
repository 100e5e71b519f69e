"""Numbers for operators, in the text form that Prometheus reads.

A registry belongs to one process and is handed to whoever counts; nothing is global. Labels are names of ours (routes,
verbs, reasons), never of tenants: a label with names of users would grow without end and tell strangers about them.
The library for this is larger than what of it is used here, and keeps one registry for the whole process.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SERIES_MAX = 4096  # of one family; what comes after is counted together
OTHER = "other"

Labels = tuple[str, ...]
Sample = tuple[Labels, float]
CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


@dataclass(slots=True)
class Counter:
    """Something that only grows, by the values of its labels."""

    name: str
    help: str
    labels: Labels = ()
    values: dict[Labels, float] = field(default_factory=dict)

    def add(self, *labels: str, amount: float = 1.0) -> None:
        try:
            self.values[labels] += amount
        except KeyError:
            at = _within(labels, self.values)
            self.values[at] = self.values.get(at, 0.0) + amount

    def lines(self) -> Iterable[str]:
        yield from _head(self.name, self.help, "counter")
        for labels, value in self.values.items():
            yield f"{self.name}{_set(self.labels, labels)} {_number(value)}"


@dataclass(slots=True)
class Histogram:
    """How long something takes, in seconds."""

    name: str
    help: str
    labels: Labels = ()
    values: dict[Labels, list[float]] = field(default_factory=dict)  # one a bound, then above, then the sum

    def observe(self, seconds: float, *labels: str) -> None:
        row = self.values.get(labels)
        if row is None:
            row = self.values.setdefault(_within(labels, self.values), [0.0] * (len(SECONDS) + 2))
        row[bisect_left(SECONDS, seconds)] += 1
        row[-1] += seconds

    def lines(self) -> Iterable[str]:
        yield from _head(self.name, self.help, "histogram")
        for labels, row in self.values.items():
            total = 0.0
            for bound, count in zip((*map(_number, SECONDS), "+Inf"), row[:-1], strict=True):
                total += count
                yield f"{self.name}_bucket{_set((*self.labels, 'le'), (*labels, bound))} {_number(total)}"
            yield f"{self.name}_sum{_set(self.labels, labels)} {_number(row[-1])}"
            yield f"{self.name}_count{_set(self.labels, labels)} {_number(total)}"


async def _nothing() -> Iterable[Sample]:
    return []


@dataclass(slots=True)
class Asked:
    """A family whose values are looked up when somebody reads. `kind`: gauge or counter."""

    name: str
    help: str
    kind: str = "gauge"
    labels: Labels = ()
    samples: Callable[[], Awaitable[Iterable[Sample]]] = _nothing

    def one(self, value: Callable[[], float]) -> None:
        """It is one number."""

        async def samples() -> Iterable[Sample]:
            return [((), float(value()))]

        self.samples = samples

    def many(self, values: Callable[[], Mapping[str, float]]) -> None:
        """It has one label."""

        async def samples() -> Iterable[Sample]:
            return [((label,), float(value)) for label, value in values().items()]

        self.samples = samples


F = TypeVar("F", Counter, Histogram, Asked)


class Metrics:
    """The families of one process, in the order in which they were made."""

    def __init__(self) -> None:
        self._families: list[Counter | Histogram | Asked] = []
        self.requests = self._new(
            Counter("hansa_http_requests_total", "Requests answered.", ("route", "method", "code"))
        )
        self.request_s = self._new(
            Histogram("hansa_http_request_seconds", "From a request's head to its whole answer.", ("route", "method"))
        )
        self.unauthenticated = self._new(Counter("hansa_unauthenticated_total", "Requests refused with 401."))
        self.commit_s = self._new(
            Histogram("hansa_store_commit_seconds", "Commits, until they are durable or refused.", ("outcome",))
        )
        self.pass_s = self._new(Histogram("hansa_loop_pass_seconds", "Passes over one object.", ("kind", "outcome")))
        self.engine_s = self._new(
            Histogram("hansa_engine_call_seconds", "Calls of engines.", ("engine", "call", "outcome"))
        )
        self.work = self._new(
            Asked(
                "hansa_work_keys",
                "Keys of the whole cloud that are due, by whether a loop has them.",
                labels=("state",),
            )
        )
        self.behind = self._new(Asked("hansa_work_behind_seconds", "How long the oldest free key is due."))
        self.in_flight = self._new(Asked("hansa_loop_passes_in_flight", "Passes of this process under way."))
        self.connections = self._new(Asked("hansa_connections", "Connections that are open."))
        self.fates = self._new(
            Asked("hansa_connections_total", "Connections, by what became of them.", "counter", ("fate",))
        )
        resident = self._new(Asked("hansa_process_resident_bytes", "Memory of this process."))
        cpu = self._new(Asked("hansa_process_cpu_seconds_total", "CPU time of this process.", "counter"))
        files = self._new(Asked("hansa_process_open_files", "Descriptors that this process holds."))
        begun = self._new(Asked("hansa_process_start_seconds", "When this process began, epoch seconds."))
        started = time.time()
        resident.one(_resident)
        cpu.one(_cpu)
        files.one(_open_files)
        begun.one(lambda: started)

    def _new(self, family: F) -> F:
        self._families.append(family)
        return family

    async def text(self) -> str:
        """All of them. What cannot be looked up now is left out."""
        lines: list[str] = []
        for family in self._families:
            if isinstance(family, Asked):
                samples = list(await family.samples())
                lines += _head(family.name, family.help, family.kind) if samples else ()
                lines += (f"{family.name}{_set(family.labels, labels)} {_number(v)}" for labels, v in samples)
            else:
                lines += family.lines()
        return "\n".join(lines) + "\n"

    def described(self) -> list[tuple[str, str, Labels, str]]:
        """(name, kind, labels, help) of each family, for the reference."""
        kinds = {Counter: "counter", Histogram: "histogram"}
        return [(f.name, f.kind if isinstance(f, Asked) else kinds[type(f)], f.labels, f.help) for f in self._families]


class S3Metrics(Metrics):
    """Of a process that serves S3: what every process has, and its own."""

    def __init__(self) -> None:
        super().__init__()
        self.s3_requests = self._new(
            Counter("hansa_s3_requests_total", "Requests of S3 answered.", ("operation", "code"))
        )
        self.s3_request_s = self._new(
            Histogram("hansa_s3_request_seconds", "From a request's head to its whole answer.", ("operation",))
        )
        self.s3_bytes = self._new(Counter("hansa_s3_bytes_total", "Bytes of bodies.", ("direction",)))
        self.s3_behind = self._new(
            Asked("hansa_s3_directory_behind_seconds", "Since the control store was last read successfully.")
        )
        self.s3_untold = self._new(Asked("hansa_s3_usage_windows", "Windows of usage that the API has not taken yet."))
        self.s3_capacity = self._new(Asked("hansa_s3_store_bytes", "Room of the store of bytes.", labels=("state",)))


def _within(labels: Labels, values: Mapping[Labels, object]) -> Labels:
    """The labels, or `other` for each once there are too many of them."""
    return labels if labels in values or len(values) < SERIES_MAX else (OTHER,) * len(labels)


def _head(name: str, help: str, kind: str) -> tuple[str, str]:
    return f"# HELP {name} {help}", f"# TYPE {name} {kind}"


def _set(names: Labels, values: Labels) -> str:
    pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True))
    return f"{{{pairs}}}" if pairs else ""


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


# -- this process -------------------------------------------------------------------------------


def _resident() -> float:
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return float(pages) * os.sysconf("SC_PAGE_SIZE")


def _cpu() -> float:
    times = os.times()
    return times.user + times.system


def _open_files() -> float:
    return float(sum(1 for _ in Path("/proc/self/fd").iterdir()))
