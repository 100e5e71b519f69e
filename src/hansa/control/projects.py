"""Projects: born with their default network and the key of their objects, gone when everything in them is."""

from __future__ import annotations

from dataclasses import dataclass

from hansa.control.buckets import fresh_material
from hansa.control.networks import default_network
from hansa.control.outcome import Outcome, born_ready, conditions
from hansa.control.quotas import ceilings_of, first_taken
from hansa.control.world import World
from hansa.errors import Invalid
from hansa.kinds.fleet import Region, Zone
from hansa.kinds.iam import Organization, Project
from hansa.kinds.resource import AnyResource, Key, Status
from hansa.kinds.storage import MATERIAL
from hansa.policy.quota import project_scope
from hansa.store.port import Birth, Delete, SetCeilings, Write

CONTENT_POLL_S = 1.0


async def project_born(it: AnyResource, world: World) -> Birth:
    """Ready at once, with the default VPC and a subnet a zone in every region."""
    assert isinstance(it, Project)
    if await world.get(Organization, Key("Organization", "", it.spec.organization)) is None:
        raise Invalid.field("spec.organization", f"there is no organization {it.spec.organization!r}")
    writes: list[Write] = []
    zones = await world.all(Zone)
    for region in await world.all(Region):
        letters = [z.spec.letter for z in zones if z.spec.region == region.name]
        writes += await default_network(it.name, region.name, sorted(letters), world)
    writes += [*await first_taken(it, world), fresh_material(it.uid, world)]
    if it.spec.quotas is not None:
        writes.append(ceilings_of(it))
    return Birth(born_ready(world.clock.now()), observed=1, also=tuple(writes), due=False)


@dataclass(frozen=True, slots=True)
class Projects:
    """A project that goes takes its content with it, in an order in which nothing is held."""

    kind = Project

    async def reconcile(self, it: AnyResource, world: World) -> Outcome:
        now = world.clock.now()
        if not it.deleting:
            keyed = await world.store.secret(it.uid, MATERIAL) is not None
            also = () if keyed else (fresh_material(it.uid, world),)  # one of before there were buckets
            return Outcome(Status(conditions=conditions(it, now, True, "Available")), also=also)
        content = await world.below(f"projects/{it.name}")
        if not content:
            return Outcome(gone=True, also=(SetCeilings(project_scope(it.name), {}),))
        free = [o for o in content if not o.deleting and not await self._held(o, world)]
        message = f"{len(content)} objects in it are being removed"
        return Outcome(
            Status(conditions=conditions(it, now, False, "WaitingForContents", message)),
            again_in_s=CONTENT_POLL_S,
            also=tuple(Delete(o.key, uid=o.uid, force=True) for o in free),
        )

    async def _held(self, it: AnyResource, world: World) -> bool:
        return any(p.holds for p in await world.store.pointers_to(it.key))
