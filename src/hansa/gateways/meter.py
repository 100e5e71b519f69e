"""Usage of a gateway: counted in memory, put into a window each minute, told to the API until the API has it.

A window has an id, under which the API records it once however often it is told. Between its end and the API's word it
lies in a folder, so that an API that is away, or a gateway that is started again, loses nothing; what a gateway that is
killed had counted since the last minute is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import structlog

from hansa.clock import Clock
from hansa.errors import Retry
from hansa.gateways.api import ApiClient

log = structlog.get_logger("hansa.meter")
WINDOW_S = 60
ROWS_MAX = 500  # of one message
TELL_S = 10.0
MESSAGES_MAX = 50  # in one go
SPOOLED_MAX = 10_000  # windows that wait: a week of an API that is away
PATH = "/internal/v1/usage"


class Counted(NamedTuple):
    """Whose usage it is."""

    kind: str
    name: str
    uid: str
    project: str
    project_uid: str
    organization: str
    region: str


@dataclass(slots=True)
class _Row:
    counts: dict[str, int] = field(default_factory=dict)
    held: bool = False


class Meter:
    """`gateway` is this process's own name, made anew at each start. `mint` signs a token for the API's inner side."""

    def __init__(self, gateway: str, folder: Path, api: ApiClient, clock: Clock, mint: Callable[[], str]) -> None:
        self._gateway, self._folder, self._api, self._clock, self._mint = gateway, folder, api, clock, mint
        self._rows: dict[Counted, _Row] = {}
        self._began = int(clock.now())
        self._number = 0

    def add(self, whose: Counted, held: bool, **counts: int) -> None:
        """`held`: what it holds may have changed, and is to be looked at."""
        row = self._rows.get(whose)
        if row is None:
            row = self._rows[whose] = _Row()
        row.held = row.held or held
        sums = row.counts
        for meter, count in counts.items():
            if count:
                sums[meter] = sums.get(meter, 0) + count

    async def keep(self) -> None:
        """For ever: closes a window at each full minute, and tells what waits."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            await asyncio.sleep(WINDOW_S - self._clock.now() % WINDOW_S)
            self.close_window()
            await self.tell()

    def close_window(self) -> None:
        """What was counted since the last one goes to the folder. A few rows, written at once."""
        rows, self._rows = self._rows, {}
        began, self._began = self._began, int(self._clock.now())
        for part in _parts([_row(whose, row) for whose, row in rows.items()]):
            self._number += 1
            id = f"{self._gateway}-{self._number}"
            window = {"id": id, "start": began, "end": max(began, self._began), "rows": part}
            spare = self._folder / f".{id}"
            try:
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                spare.write_bytes(orjson.dumps(window))
                spare.replace(self._folder / f"{began:012d}-{id}.json")
            except OSError as error:
                log.error("usage of a window is lost", window=id, detail=str(error))

    async def tell(self) -> None:
        """Tells the API what waits, the oldest first. What it will never take is put aside and said."""
        for file in self.waiting()[:MESSAGES_MAX]:
            try:
                window = orjson.loads(file.read_bytes())
                answered = await self._api.ask("POST", PATH, self._mint(), window, timeout_s=TELL_S)
            except FileNotFoundError:
                continue  # another process of this folder told it
            except (orjson.JSONDecodeError, OSError) as error:
                self._put_aside(file, str(error))
                continue
            except Retry as retry:
                log.warning("usage waits", message=retry.message, detail=retry.detail)
                return
            if answered.status == 200:
                file.unlink(missing_ok=True)
            elif answered.status in (400, 413, 422):
                self._put_aside(file, answered.message)
            else:
                log.warning("usage waits", status=answered.status, message=answered.message)
                return

    def waiting(self) -> list[Path]:
        """Windows that the API has not taken yet."""
        try:
            names = sorted(file.name for file in self._folder.iterdir() if file.suffix == ".json")
        except FileNotFoundError:
            return []
        for name in names[:-SPOOLED_MAX]:
            log.error("usage of a window is lost", window=name, detail="too many wait")
            (self._folder / name).unlink(missing_ok=True)
        return [self._folder / name for name in names[-SPOOLED_MAX:]]

    def _put_aside(self, file: Path, why: str) -> None:
        log.error("usage was refused", window=file.name, detail=why)
        try:
            file.rename(file.with_suffix(".refused"))
        except OSError as error:  # another process of this folder did it, or it is tried again in a minute
            log.warning("usage could not be put aside", window=file.name, detail=str(error))


def _row(whose: Counted, row: _Row) -> dict[str, Any]:
    return {
        "kind": whose.kind, "name": whose.name, "uid": whose.uid, "project": whose.project,
        "projectUid": whose.project_uid, "organization": whose.organization, "region": whose.region,
        "counts": row.counts, "held": row.held,
    }  # fmt: skip


def _parts(rows: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, len(rows), ROWS_MAX):
        yield rows[start : start + ROWS_MAX]
