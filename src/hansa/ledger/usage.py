"""Usage intervals: when they open and close, and what they come to. Pure; whole numbers throughout.

An interval says how much of one meter one object drew from `start` to `end`: whole seconds since the epoch, half
open, so that what follows at once begins where the other ended. An interval of one meter never overlaps another of
the same object, whatever clocks do. What is no amount over time (requests, bytes sent) is counted in windows instead.
Nothing is rated here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from hansa.kinds.meters import Measure, Meter, Metering, OpenInterval
from hansa.kinds.resource import Document

OPENED, CLOSED = "usage", "usage-ends"  # two streams a project: an interval's id is the id of both its records
COUNTED = "usage-counted"  # a third: what was counted in a window of time, one record a window and object


@dataclass(frozen=True, slots=True)
class Closed:
    interval: OpenInterval
    end: int

    @property
    def consumed(self) -> int:
        return consumed(self.interval.quantity, self.interval.start, self.end)


@dataclass(frozen=True, slots=True)
class Turn:
    """What one look at an object came to: what is open now, and what opened and closed by it."""

    metering: Metering
    opened: tuple[OpenInterval, ...] = ()
    closed: tuple[Closed, ...] = ()


def turn(before: Metering | None, measure: Measure, now: float, new_id: Callable[[], str]) -> Turn:
    """From what was open to what is drawn now. A changed quantity, place or price closes one and opens the next."""
    was = before or Metering()
    moment = max(int(now), was.until)
    ended = moment if measure.until is None else min(moment, int(measure.until))
    drawn = {meter.name: (quantity, measure) for meter, quantity in measure.levels.items() if quantity > 0}
    kept = tuple(i for i in was.open if _still(i, drawn))
    closed = tuple(Closed(i, max(ended, i.start)) for i in was.open if i not in kept)
    until = max((was.until, *(c.end for c in closed)))
    running = {i.meter for i in kept}
    opened = tuple(
        OpenInterval(id=new_id(), meter=name, quantity=quantity, start=_start(measure, was, closed, moment, until),
                     zone=measure.zone, sku=measure.sku)
        for name, (quantity, _) in drawn.items() if name not in running
    )  # fmt: skip
    return Turn(Metering(open=(*kept, *opened), until=until), opened, closed)


def _still(interval: OpenInterval, drawn: Mapping[str, tuple[int, Measure]]) -> bool:
    quantity, measure = drawn.get(interval.meter, (0, None))
    if measure is None:
        return False
    return (interval.quantity, interval.zone, interval.sku) == (quantity, measure.zone, measure.sku)


def _start(measure: Measure, was: Metering, closed: tuple[Closed, ...], moment: int, until: int) -> int:
    """As the engine says where nothing was drawn since; else from now on, and never before what was closed."""
    since = None if measure.since is None else int(measure.since)
    if since is not None and not closed and not was.open and was.until <= since <= moment:
        return since
    return max(moment, until)


def consumed(quantity: int, start: int, end: int) -> int:
    """Unit-seconds of an interval: 4 vCPUs from 100 to 160 are 240 vCPU-seconds."""
    return quantity * max(0, end - start)


def overlap_s(start: int, end: int | None, since: int, until: int) -> int:
    """Seconds of an interval (open: up to `until`) that lie in [since, until)."""
    return max(0, min(until if end is None else end, until) - max(start, since))


# -- as records ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Whose:
    """What the records of an object's intervals say of it. `ref` is its reference, `uid` itself."""

    uid: str
    ref: str
    kind: str
    project: str
    project_uid: str
    organization: str
    region: str
    simulated: bool = False

    @property
    def opened_stream(self) -> str:
        return stream_of(OPENED, self.project_uid)

    @property
    def closed_stream(self) -> str:
        return stream_of(CLOSED, self.project_uid)


def stream_of(which: str, project_uid: str) -> str:
    """By the project's uid: another project that takes the name later sees nothing of this one's."""
    return f"{which}/{project_uid}"


def opened_body(interval: OpenInterval, whose: Whose, units: Mapping[str, str]) -> Document:
    body: Document = {
        "id": interval.id, "meter": interval.meter, "quantity": interval.quantity, "unit": units[interval.meter],
        "start": interval.start, "uid": whose.uid, "ref": whose.ref, "kind": whose.kind, "project": whose.project,
        "organization": whose.organization, "region": whose.region, "zone": interval.zone, "sku": interval.sku,
    }  # fmt: skip
    return {**body, "simulated": True} if whose.simulated else body


def closed_body(closed: Closed, whose: Whose, units: Mapping[str, str]) -> Document:
    """Everything again, so that the record stands for itself."""
    return {**opened_body(closed.interval, whose, units), "end": closed.end, "consumed": closed.consumed}


def counted_body(whose: Whose, id: str, start: int, end: int, counts: Mapping[str, int]) -> Document:
    """What one object was asked for from `start` to `end`: whole numbers by meter."""
    return {
        "id": id, "counts": dict(counts), "start": start, "end": end, "uid": whose.uid, "ref": whose.ref,
        "kind": whose.kind, "project": whose.project, "organization": whose.organization, "region": whose.region,
        "zone": "", "sku": "",
    }  # fmt: skip


def counted_items(body: Document, units: Mapping[str, str]) -> list[Document]:
    """A window as one item a meter, in the shape of an interval: its quantity is what was consumed, whatever its length."""
    shared = {name: value for name, value in body.items() if name not in ("counts", "id")}
    return [
        {**shared, "id": f"{body['id']}/{meter}", "meter": meter, "quantity": count, "unit": units.get(meter, "")}
        for meter, count in sorted(body["counts"].items())
    ]


def units_of(meters: Iterable[Meter]) -> dict[str, str]:
    return {meter.name: meter.unit for meter in meters}
