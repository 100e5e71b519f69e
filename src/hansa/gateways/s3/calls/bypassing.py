"""Passing by a retention in GOVERNANCE mode: who may, and that it stands in the audit before it is done.

The records come first, those of one request together, and without them nothing is changed: so nobody ever passes by
unseen. They say what was let through; a deed that fails after it (the version went meanwhile) leaves a record too many,
never one too few. A lock that was laid on after the version was looked at is not passed by.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from hansa.gateways.s3.calls.permission import granted, may
from hansa.gateways.s3.gateway import Call
from hansa.gateways.s3.ports import Bypass
from hansa.gateways.s3.rules import locks
from hansa.gateways.s3.rules.access import Allowed
from hansa.gateways.s3.wire.dates import iso_date
from hansa.gateways.s3.wire.errors import S3Error
from hansa.objectindex.port import Check
from hansa.objectindex.records import Lock, Version

BYPASS = "x-amz-bypass-governance-retention"
PERMISSION = "s3:BypassGovernanceRetention"
LOOKS_AT_ONCE = 64

Passing = frozenset[tuple[str, str]]  # versions by key and id


@dataclass(frozen=True, slots=True)
class Leaving:
    """A version that is to be removed. `check`: what else must be true of it."""

    key: str
    id: str
    check: Check


async def may_remove(call: Call, leaving: Sequence[Leaving]) -> Passing:
    """Those that may go although they are retained: all of them stand in the audit by then, in one go.

    Raises ServiceUnavailable when the audit takes no record.
    """
    if not leaving or not _asks(call):
        return frozenset()
    now, gate = await call.gateway.index.floor(call.now), asyncio.Semaphore(LOOKS_AT_ONCE)
    looked = await asyncio.gather(*(_bypassed(call, one, now, gate) for one in leaving))
    found = {(one.key, one.id): it for one, it in zip(leaving, looked, strict=True) if it is not None}
    if found:
        await call.gateway.upstream.record_bypasses(tuple(found.values()))
    return frozenset(found)


async def _bypassed(call: Call, one: Leaving, now: float, gate: asyncio.Semaphore) -> Bypass | None:
    """None: nothing is passed by, for the version is not retained, or does not go anyway."""
    by = granted(call, PERMISSION, key=one.key)
    if by is None:
        return None
    async with gate:
        version = await call.gateway.index.get(call.bucket.uid, one.key, one.id)
    if version is None or not locks.takes_bypass(version.facts.lock, now):
        return None
    if not may(call, "s3:DeleteObjectVersion", version=version, key=one.key):
        return None
    try:
        one.check(version)
    except S3Error:  # the removal itself meets it again, and tells
        return None
    return _record(call, version, by, "deleted")


async def may_weaken(call: Call, version: Version, new: Lock, now: float) -> bool:
    """Whether its retention may become one that holds less. Raises ServiceUnavailable when the audit takes no record."""
    by = granted(call, PERMISSION, key=call.key) if _asks(call) else None
    if by is None or not locks.is_weaker(version.facts.lock, new, now):
        return False
    becomes = f"{new.mode} until {iso_date(new.until)}" if new.mode else "no retention"
    await call.gateway.upstream.record_bypasses((_record(call, version, by, becomes),))
    return True


def _asks(call: Call) -> bool:
    """On a bucket without locks the wish means nothing, and nobody passes by without a name."""
    return call.signed is not None and call.bucket.locking and call.request.flag(BYPASS)


def _record(call: Call, version: Version, by: Allowed, becomes: str) -> Bypass:
    return Bypass(
        id=call.gateway.ids.uid(), caller=call.who.caller, rule=by.by, operation=call.operation.name,
        request=call.request.id, bucket=call.bucket, key=version.key, version=version.id,
        until=version.facts.lock.until, becomes=becomes,
    )  # fmt: skip
