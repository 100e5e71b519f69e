"""Usage intervals of one object, opened and closed in the commit of the status that they follow from.

The object's own status remembers what is open, so a pass that died before its commit opened nothing, and one that
is repeated opens nothing twice.
"""

from __future__ import annotations

from hansa.control.world import World
from hansa.errors import Retry
from hansa.kinds.iam import Project
from hansa.kinds.meters import NOTHING, MeteredStatus, Metering
from hansa.kinds.resource import AnyResource, Document, Key, Status
from hansa.ledger.usage import Turn, Whose, closed_body, opened_body, turn, units_of
from hansa.store.port import Append, Write


async def metered(it: AnyResource, after: Status | None, world: World) -> tuple[Metering | None, tuple[Write, ...]]:
    """What is open with the new status (None: the object is gone), and the records that say so."""
    if not it.meters or not isinstance(it.status, MeteredStatus):
        return None, ()
    measure = type(it).measure(after) if after is not None else NOTHING
    done = turn(it.status.metering, measure, world.clock.now(), world.ids.uid)
    if not done.opened and not done.closed:
        return it.status.metering, ()
    return done.metering, _records(it, done, await _whose(it, simulated=measure.simulated, world=world))


def with_metering(status: Status, metering: Metering) -> Document:
    """A status as it is stored: a reconciler that made a new one knows nothing of what is open."""
    return {**status.wire(), "metering": metering.wire()}


async def _whose(it: AnyResource, *, simulated: bool, world: World) -> Whose:
    project = await world.get(Project, Key("Project", "", it.key.project or ""))
    if project is None:  # it goes only after what is in it
        raise Retry(f"project {it.key.project} of {it.key} cannot be read")
    return Whose(
        uid=it.uid, ref=it.ref, kind=it.kind, project=project.name, project_uid=project.uid,
        organization=project.spec.organization, region=it.key.region or "",
        simulated=simulated or bool(getattr(it.status, "simulated", None)),
    )  # fmt: skip


def _records(it: AnyResource, done: Turn, whose: Whose) -> tuple[Write, ...]:
    units = units_of(it.meters)
    ends = [Append(whose.closed_stream, c.interval.id, it.uid, closed_body(c, whose, units)) for c in done.closed]
    begins = [Append(whose.opened_stream, i.id, it.uid, opened_body(i, whose, units)) for i in done.opened]
    return (*ends, *begins)
