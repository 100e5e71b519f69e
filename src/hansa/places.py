"""What every cloud knows from its start: the places of the fleet file and the catalogues, made to match.

Run at every start, by every process; run twice it changes nothing. What left the file goes, unless something
stands on it: then it stays, says what holds it, and goes at the first start after that is gone.
"""

from __future__ import annotations

import structlog

from hansa.api.admission import links
from hansa.clock import Clock, Ids, SystemClock
from hansa.control.networks import default_network, late_default_subnet
from hansa.control.world import World
from hansa.data.catalogue import images, profiles
from hansa.errors import Conflict, Full, NotFound
from hansa.fleetfile import FleetFile
from hansa.fleetobjects import objects_of
from hansa.kinds.fleet import Region, Zone
from hansa.kinds.iam import Project
from hansa.kinds.networking import Subnet, VirtualPrivateCloud
from hansa.kinds.registry import kind_named
from hansa.kinds.resource import Document, Key, Stored
from hansa.placesleft import leave
from hansa.store.port import Create, Forget, LinkTo, SetStatus, Store, Update, Wake, Write

log = structlog.get_logger("hansa")
SYSTEM_CLOCK = SystemClock()
TRIES = 5  # processes that start together write the same: the slower one looks again
WRITES_MAX = 500  # in one commit


async def write_places(
    store: Store, ids: Ids, fleet: FleetFile, *, stand_ins: bool, clock: Clock = SYSTEM_CLOCK
) -> None:
    """Regions, zones, halls, racks, hosts, price lists and catalogues as objects. Idempotent."""
    wanted: dict[Key, tuple[Document, Document]] = {key: (spec, {}) for key, spec in objects_of(fleet).items()}
    for name, profile in profiles().items():
        wanted[Key("ComputeProfile", "global", name)] = (profile, {})
    for name, (image, family) in images(stand_ins=stand_ins).items():
        wanted[Key("DiskImage", "global", name)] = (image, {"family": family})
    for tried in range(1, TRIES + 1):
        try:
            await _match(store, ids, wanted)
            await leave(store, wanted.keys(), clock.now())
        except (Conflict, NotFound):
            if tried == TRIES:
                raise
        else:
            return


async def _match(store: Store, ids: Ids, wanted: dict[Key, tuple[Document, Document]]) -> None:
    writes: list[Write] = []
    for key, (spec, status) in wanted.items():
        try:
            stored = await store.get(key)
        except NotFound:
            writes.append(_create(key, ids, spec, status))
            continue
        if stored.deleted_at is not None:  # it left, and is wanted again before it was gone
            writes += [Forget(key, None), _create(key, ids, spec, status)]
            continue
        writes += _update(stored, spec, status)
    for start in range(0, len(writes), WRITES_MAX):
        await store.commit(*writes[start : start + WRITES_MAX], by="/hansa/start")


def _create(key: Key, ids: Ids, spec: Document, status: Document) -> Create:
    """A zone counts as followed once every project has its network there: see `complete_networks`."""
    observed = 0 if key.kind in ("Host", "Zone") else 1
    to = _links(key, spec)
    return Create(key, ids.uid(), spec, status=status, links=to, observed=observed, due=key.kind == "Host")


def _update(stored: Stored, spec: Document, status: Document) -> list[Write]:
    key, looked_after = stored.key, stored.key.kind == "Host"
    writes: list[Write] = []
    if stored.spec != spec:
        observed = None if looked_after or not stored.observed else 1
        writes.append(Update(key, stored.user_revision, spec=spec, links=_links(key, spec), observed=observed))
    if looked_after:
        writes.append(Wake(key))
    elif stored.status != status and stored.observed:
        generation = stored.generation + (stored.spec != spec)
        writes.append(SetStatus(key, generation, status, None))
    return writes


def _links(key: Key, spec: Document) -> tuple[LinkTo, ...]:
    kind = kind_named(key.kind)
    return links(kind, key, kind.spec_type.model_validate(spec))


# -- networks in new zones ----------------------------------------------------------------------


async def complete_networks(world: World) -> None:
    """Every project that is there already gets its default network in zones that are new."""
    fresh = [z for z in await world.all(Zone) if not z.deleting and z.stored.observed == 0]
    if not fresh:
        return
    letters: dict[str, list[str]] = {}
    for zone in fresh:
        letters.setdefault(zone.spec.region, []).append(zone.spec.letter)
    for project in await world.all(Project):
        for region in await world.all(Region):
            if not project.deleting and not region.deleting and region.name in letters:
                await _complete(project.name, region.name, sorted(letters[region.name]), world)
    seen = (SetStatus(zone.key, zone.generation, zone.stored.status, None) for zone in fresh)
    await world.store.commit(*seen, by="/hansa/start")


async def _complete(project: str, region: str, letters: list[str], world: World) -> None:
    """What is missing of one default network. Of several processes one writes; the others find it written."""
    for tried in range(1, TRIES + 1):
        try:
            if writes := await _missing(project, region, letters, world):
                await world.store.commit(*writes, by="/hansa/start")
        except (Conflict, Full):
            if tried == TRIES:
                raise
        else:
            return


async def _missing(project: str, region: str, letters: list[str], world: World) -> list[Write]:
    scope = f"projects/{project}/regions/{region}"
    vpc = await world.get(VirtualPrivateCloud, Key("VirtualPrivateCloud", scope, f"default-{region}"))
    if vpc is None:
        every = sorted(z.spec.letter for z in await world.all(Zone) if z.spec.region == region and not z.deleting)
        return await default_network(project, region, every, world)
    if vpc.deleting:
        return []
    others = await world.pointing(Subnet, vpc.key)
    writes: list[Write] = []
    for letter in letters:
        if any(s.name == f"default-{region}-{letter}" for s in others):
            continue
        more, made = late_default_subnet(vpc, region, letter, others, world)
        if made is None:
            log.warning("no room for a default subnet", vpc=vpc.ref, zone=f"{region}-{letter}")
            continue
        writes, others = [*writes, *more], [*others, made]
    return writes
