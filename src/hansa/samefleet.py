"""All processes over one store were started with the same fleet file, else each start would undo the places of the others.

Each process claims what it read for as long as it lives, and goes no further beside one who read something else. Of a dead
one of the same data folder `hansa.hands` knows at once; anybody else's claim counts until it runs out.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
from dataclasses import dataclass
from pathlib import Path

import orjson
import structlog

from hansa.clock import Clock
from hansa.errors import Conflict, Retry
from hansa.fleetfile import FleetFile
from hansa.store.port import UNLIMITED, Claim, Held, Release, Reserve, Store

log = structlog.get_logger("hansa")
SCOPE = "fleet-file"
LIFE_S, RENEW_S = 60.0, 15.0
BY = "/hansa/start"


def digest_of(fleet: FleetFile, *, stand_ins: bool) -> str:
    """What of a fleet the store is filled with; neither comments nor the order of fields count. Pure."""
    read = fleet.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return hashlib.sha256(orjson.dumps([read, stand_ins], option=orjson.OPT_SORT_KEYS)).hexdigest()


def named_here(data: Path, file: Path | None) -> str:
    """How this process is told of to people."""
    read = file.absolute() if file else "the shipped fleet file"
    return f"process {os.getpid()} on {socket.gethostname()} (folder {data.absolute()}, with {read})"


@dataclass(frozen=True, slots=True)
class SameFleet:
    """The claim of one process. `owner`: the name of its hand; `name`: what others are told of it."""

    store: Store
    clock: Clock
    owner: str
    digest: str
    name: str

    async def enter(self) -> None:
        """Raises Conflict beside a process that read another file. Of two that start at once both may go no further."""
        await self._write()
        try:
            await self._look()
        except Conflict:
            await self.leave()
            raise

    async def keep(self) -> None:
        """For ever: renews the claim. Raises Conflict when it ran out, the store being away, and another came."""
        while True:
            await asyncio.sleep(RENEW_S)
            try:
                await self._look()
                await self._write()
            except Retry as retry:
                log.warning("fleet file", message=retry.message, detail=retry.detail)

    async def leave(self) -> None:
        await self.store.commit(Release(self.owner, (SCOPE,)), by=BY)

    async def _write(self) -> None:
        claim = Claim(SCOPE, self.digest, ceiling=UNLIMITED, until=self.clock.now() + LIFE_S, note=self.name)
        await self.store.commit(Reserve(self.owner, (claim,)), by=BY)

    async def _look(self) -> None:
        for held in await self.store.claims(SCOPE):
            if held.claim.key != self.digest:
                raise Conflict(_told(held, self.clock.now()))


def _told(held: Held, now: float) -> str:
    left_s = max(0.0, (held.claim.until or now) - now)
    return (
        f"the fleet file (or HANSA_STAND_INS) is not the one of {held.claim.note}, which works on the same database: "
        "give every process one and the same file. To change it, stop them all, then start them with the new one. "
        f"If that process was killed on another machine, it counts for {left_s:.0f} s more"
    )
