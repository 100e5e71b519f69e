"""What a store asks of a database: transactions one after the other (`write`) and reads beside them (`read`)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from hansa.kinds.resource import Key
from hansa.store.locks import NOTHING, Needs

T = TypeVar("T")
Row = Sequence[Any]


class Transaction(Protocol):
    async def all(self, statement: str, **parameters: Any) -> list[Row]: ...

    async def many(self, statement: str, rows: Sequence[dict[str, Any]]) -> None:
        """One statement for every row, without answers."""
        ...

    async def create(self, **row: Any) -> int | None:
        """The rows of a new object in `objects`, `changes` and `work`: its revision, None when the key is there."""
        ...


@dataclass(frozen=True, slots=True)
class Pass:
    """The end of a pass of the loop: its status under its lease and generation (None: none), and the key given back.

    Texts are JSON; `system_labels` None leaves them as they are. `at`, `due`: epoch seconds, `due` None is at rest.
    """

    at: float
    key: Key
    token: str
    due: float | None
    failures: int
    by: str
    request: str
    generation: int = 0
    status: str | None = None
    system_labels: str | None = None
    wake: bool = False


class Driver(Protocol):
    @property
    def skew_s(self) -> float:
        """Seconds to add to this process's clock for the time that all processes of the store agree on."""
        ...

    @property
    def alone(self) -> bool:
        """No other process writes to it, and this one's clock is the only one."""
        ...

    async def write(self, work: Callable[[Transaction], Awaitable[T]], needs: Needs = NOTHING) -> T:
        """Runs `work` in a transaction that nobody disturbs in what `needs` names; returns after it is durable.

        Raises what `work` raises (then nothing of it is kept), Retry when the database does not answer. `work` may
        run more than once, each time on a fresh transaction."""
        ...

    async def at_once(self, statement: str, **parameters: Any) -> list[Row]:
        """One statement that writes, as a transaction of its own. Raises Retry."""
        ...

    @property
    def finish(self) -> Callable[[Pass], Awaitable[int]] | None:
        """A shorter way to write the end of a pass, where the database has one: the revision, 0 when nothing new was
        said. Raises Conflict, NotFound, Retry."""
        ...

    def listen(self, call: Callable[[int], None]) -> None:
        """`call(revision)` when others may have written, or when more of `changes` can be read than before."""
        ...

    async def read(self, statement: str, **parameters: Any) -> list[Row]: ...

    async def close(self) -> None: ...
