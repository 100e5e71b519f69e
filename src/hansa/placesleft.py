"""Places that left the fleet file: they go, or say what holds them."""

from __future__ import annotations

from collections.abc import Collection

import structlog

from hansa.control.hosts import capacity_scope
from hansa.control.outcome import condition
from hansa.control.pools import pool_scope
from hansa.fleetobjects import PLACES
from hansa.kinds.registry import read
from hansa.kinds.resource import Key, Stored
from hansa.store.port import Delete, Query, SetStatus, Store, Write

log = structlog.get_logger("hansa")
WRITES_MAX = 500  # in one commit


async def leave(store: Store, wanted: Collection[Key], now: float) -> None:
    """Deletes every place that is not wanted, from hosts up to regions, with the default networks there. One on
    which something stands stays, and what it stands in: each says so in its status and in the log."""
    leaving: dict[Key, Stored] = {}
    for kind in reversed(PLACES):
        page = await store.list(Query(kind))
        leaving |= {s.key: s for s in page.items if s.key not in wanted and s.deleted_at is None}
    held: dict[Key, str] = {}  # what keeps a place, and with it all that it stands in
    writes: list[Write] = []
    for key, stored in leaving.items():
        inside = [held[p.source] for p in await store.pointers_to(key) if p.source in held]
        networks, why = await _networks(store, stored)
        why = await _claimed(store, stored) or next(iter(inside), "") or why
        if why:
            held[key] = why
            log.warning("left the fleet file, stays", place=str(key), why=why)
            writes += _told(stored, why, now)
        else:
            log.info("left the fleet file, goes", place=str(key))
            writes += [*networks, Delete(key, uid=stored.uid)]
    for start in range(0, len(writes), WRITES_MAX):
        await store.commit(*writes[start : start + WRITES_MAX], by="/hansa/start")


async def _claimed(store: Store, stored: Stored) -> str:
    """What holds room of a host or of a zone, "" when nothing does."""
    name, spec = stored.key.name, stored.spec
    if stored.key.kind == "Host":
        owners = {h.owner for h in await store.claims(capacity_scope(name))}
        return f"{len(owners)} machine(s) stand on {stored.key}" if owners else ""
    if stored.key.kind == "Zone":
        owners = {h.owner for h in await store.claims(pool_scope(str(spec["region"]), str(spec["letter"])))}
        return f"{len(owners)} disk(s) or snapshot(s) stand in {stored.key}" if owners else ""
    return ""


async def _networks(store: Store, stored: Stored) -> tuple[list[Write], str]:
    """The default networks that go with a zone or region, or what is there besides them."""
    if stored.key.kind not in ("Zone", "Region"):
        return [], ""
    whole = stored.key.kind == "Region"
    region = stored.key.name if whole else str(stored.spec["region"])
    writes: list[Write] = []
    for project in (await store.list(Query("Project"))).items:
        page = await store.list(Query(None if whole else "Subnet", f"projects/{project.key.name}/regions/{region}"))
        for there in page.items:
            zone = (there.spec.get("placement") or {}).get("zone")
            if there.deleted_at is not None or not (whole or zone == stored.spec["letter"]):
                continue
            if not await _free(store, there, region):
                return [], f"{there.key} stands in {stored.key}"
            writes.append(Delete(there.key, uid=there.uid, force=True))
    return writes, ""


async def _free(store: Store, there: Stored, region: str) -> bool:
    """Part of a default network, and nothing in it but parts of it."""
    if not _default(there.key, region):
        return False
    holders = [p.source for p in await store.pointers_to(there.key) if p.holds]
    return all(_default(key, region) for key in holders)


def _default(key: Key, region: str) -> bool:
    if key.kind == "VirtualPrivateCloud":
        return key.name == f"default-{region}"
    return key.kind == "Subnet" and key.name.startswith(f"default-{region}-") and len(key.name) == len(region) + 10


def _told(stored: Stored, why: str, now: float) -> list[Write]:
    """The status of a place that stays. A host's own reconciler tells of it."""
    if stored.key.kind == "Host":
        return []
    before = read(stored).status.conditions
    said = condition(
        "Ready", False, "LeftFleetFile", f"it left the fleet file, but {why}", before=before,
        generation=stored.generation, now=now,
    )  # fmt: skip
    status = {**stored.status, "conditions": [said.wire()]}
    return [] if status == stored.status else [SetStatus(stored.key, stored.generation, status, None)]
