"""Engines whose calls are counted and timed: the same ports, one more line of thought around each call."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, cast

from hansa.engines.ports import ComputeEngine, NetworkEngine, VolumeEngine
from hansa.errors import HansaError

T = TypeVar("T")
Tell = Callable[[float, str, str, str], None]  # seconds, engine, call, outcome


class Engines(Protocol):
    def compute(self, host: str) -> ComputeEngine | None: ...

    def volumes(self, zone: str) -> VolumeEngine | None: ...

    def network(self, host: str) -> NetworkEngine | None: ...


@dataclass(frozen=True, slots=True)
class CountedEngines:
    """The engines behind, each call told to `tell`."""

    engines: Engines
    tell: Tell
    _kept: dict[int, Any] = field(default_factory=dict)

    def compute(self, host: str) -> ComputeEngine | None:
        return self._counted(self.engines.compute(host), "compute")

    def volumes(self, zone: str) -> VolumeEngine | None:
        return self._counted(self.engines.volumes(zone), "volumes")

    def network(self, host: str) -> NetworkEngine | None:
        return self._counted(self.engines.network(host), "network")

    def _counted(self, engine: T | None, port: str) -> T | None:
        if engine is None:
            return None
        if id(engine) not in self._kept:
            self._kept[id(engine)] = Counted(engine, port, self.tell)
        return cast(T, self._kept[id(engine)])


class Counted:
    """Any engine; what it has besides calls that wait is passed on as it is."""

    def __init__(self, engine: Any, port: str, tell: Tell) -> None:
        self._engine, self._port, self._tell = engine, port, tell

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._engine, name)
        if not inspect.iscoroutinefunction(found):
            return found

        async def call(*args: Any, **more: Any) -> Any:
            started, outcome = time.perf_counter(), "ok"
            try:
                return await found(*args, **more)
            except BaseException as error:
                outcome = error.reason if isinstance(error, HansaError) else type(error).__name__
                raise
            finally:
                self._tell(time.perf_counter() - started, self._port, name, outcome)

        self.__dict__[name] = call
        return call
