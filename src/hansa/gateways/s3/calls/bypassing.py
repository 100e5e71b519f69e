"""Passing by a retention in GOVERNANCE mode: who may, and that it stands in the audit before it is done.

The record comes first, and without it nothing is changed: so nobody ever passes by unseen. It says what was let through; a
deed that fails after it (the version went meanwhile) leaves a record too many, never one too few. A lock that was laid on
after the version was looked at is not passed by.
"""

from __future__ import annotations

from hansa.gateways.s3.calls.permission import granted
from hansa.gateways.s3.gateway import Call
from hansa.gateways.s3.ports import Bypass
from hansa.gateways.s3.rules import locks
from hansa.gateways.s3.rules.access import Allowed
from hansa.gateways.s3.wire.dates import iso_date
from hansa.objectindex.port import Check
from hansa.objectindex.records import Lock, Version

BYPASS = "x-amz-bypass-governance-retention"


async def may_remove(call: Call, key: str, id: str, check: Check, now: float) -> bool:
    """Whether the version may go although it is retained. `check`: what else must be true of it.

    Raises what `check` does, ServiceUnavailable when the audit takes no record.
    """
    by = _allowed(call, key)
    version = await call.gateway.index.get(call.bucket.uid, key, id) if by is not None else None
    if by is None or version is None or not locks.takes_bypass(version.facts.lock, now):
        return False
    check(version)
    await _record(call, version, by, "deleted")
    return True


async def may_weaken(call: Call, version: Version, new: Lock, now: float) -> bool:
    """Whether its retention may become one that holds less. Raises ServiceUnavailable when the audit takes no record."""
    by = _allowed(call, call.key)
    if by is None or not locks.is_weaker(version.facts.lock, new, now):
        return False
    await _record(call, version, by, f"{new.mode} until {iso_date(new.until)}" if new.mode else "no retention")
    return True


def _allowed(call: Call, key: str) -> Allowed | None:
    """What lets the caller pass by, where they ask to. On a bucket without locks the wish means nothing, and nobody passes
    by without a name."""
    if call.signed is None or not call.bucket.locking or not call.request.flag(BYPASS):
        return None
    return granted(call, "s3:BypassGovernanceRetention", key=key)


async def _record(call: Call, version: Version, by: Allowed, becomes: str) -> None:
    bypass = Bypass(
        id=call.gateway.ids.uid(), caller=call.who.caller, rule=by.by, operation=call.operation.name,
        request=call.request.id, bucket=call.bucket, key=version.key, version=version.id,
        until=version.facts.lock.until, becomes=becomes,
    )  # fmt: skip
    await call.gateway.upstream.record_bypass(bypass)
