"""Sums over a fleet: what is described, and which hosts of it are made. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from hansa.fleetparts import FleetHall, FleetHost, FleetRack, FleetRegion, FleetZone, Shape


@dataclass(frozen=True, slots=True)
class Sum:
    """What a part of a fleet holds, as described. `power_w` is the most that its hosts draw, as far as told."""

    hosts: int = 0
    gpus: Counter[str] = field(default_factory=Counter)  # by model
    power_w: int = 0
    made: int = 0

    def __add__(self, other: Sum) -> Sum:
        return Sum(
            self.hosts + other.hosts, self.gpus + other.gpus, self.power_w + other.power_w, self.made + other.made
        )

    def times(self, count: int) -> Sum:
        """`count` parts alike. Of those, hosts are made once."""
        gpus = Counter({model: number * count for model, number in self.gpus.items()})
        return Sum(self.hosts * count, gpus, self.power_w * count, self.made)

    @property
    def gpus_total(self) -> int:
        return self.gpus.total()


Shapes = Mapping[str, Shape]


def of_host(host: FleetHost, shapes: Shapes) -> Sum:
    """One entry: a host, or a counted group."""
    it, count = shape_of(host, shapes), host.count or 1
    gpus = Counter({it.gpu_model: it.gpus * count}) if it.gpus else Counter[str]()
    return Sum(count, gpus, (it.power_w or 0) * count, made_of(host))


def of_rack(rack: FleetRack, shapes: Shapes) -> Sum:
    """All racks of an entry."""
    return in_one(rack, shapes).times(rack.count or 1)


def in_one(rack: FleetRack, shapes: Shapes) -> Sum:
    """What one rack of an entry holds."""
    return total(of_host(h, shapes) for h in rack.hosts)


def of_hall(hall: FleetHall, shapes: Shapes) -> Sum:
    return total(of_rack(r, shapes) for r in hall.racks) + total(of_host(h, shapes) for h in hall.hosts)


def of_zone(region: FleetRegion, zone: FleetZone, shapes: Shapes) -> Sum:
    loose = (h for h in region.hosts if h.zone == zone.letter)
    return total(of_hall(h, shapes) for h in zone.halls) + total(of_host(h, shapes) for h in loose)


def of_region(region: FleetRegion, shapes: Shapes) -> Sum:
    return total(of_zone(region, zone, shapes) for zone in region.zones)


def total(parts: Iterable[Sum]) -> Sum:
    return sum(parts, Sum())


def shape_of(host: FleetHost, shapes: Shapes) -> Shape:
    """The figures of a host: its own, or those of the shape that it names (empty ones where there is none)."""
    return shapes.get(host.shape, Shape()) if host.shape else host


def made_of(host: FleetHost) -> int:
    """How many hosts of the cloud an entry makes."""
    return 1 if host.made is None else host.made


def names_of(host: FleetHost) -> Iterator[str]:
    """The hosts that are made of an entry, by name."""
    if host.count is None:
        yield host.id
    else:
        yield from (f"{host.id}-{number}" for number in range(1, made_of(host) + 1))


@dataclass(frozen=True, slots=True)
class MadeHost:
    """One host of the cloud: its name and figures, and where it stands. `hall`, `rack`: names, or empty."""

    host: FleetHost  # with its own name and figures, without shape and count
    region: str
    letter: str
    hall: str = ""
    rack: str = ""

    @property
    def zone(self) -> str:
        return f"{self.region}-{self.letter}"


def made_hosts(regions: Iterable[FleetRegion], shapes: Shapes) -> Iterator[MadeHost]:
    """Every host that becomes one of the cloud, in the order of the file."""
    for region in regions:
        for loose in region.hosts:
            yield from _made(loose, shapes, region.id, loose.zone)
        for zone in region.zones:
            for hall in zone.halls:
                name = f"{region.id}-{zone.letter}-{hall.id}"
                for host in hall.hosts:
                    yield from _made(host, shapes, region.id, zone.letter, name)
                for rack in hall.racks:
                    for host in rack.hosts:
                        yield from _made(host, shapes, region.id, zone.letter, name, f"{name}-{rack.id}")


def _made(
    entry: FleetHost, shapes: Shapes, region: str, letter: str, hall: str = "", rack: str = ""
) -> Iterator[MadeHost]:
    it = shape_of(entry, shapes)
    own = {name: getattr(it, name) for name in ("vcpus", "memory_gb", "gpu_model", "gpus", "power_w")}
    for name in names_of(entry):
        changed = {**own, "id": name, "zone": letter, "shape": "", "count": None, "made": None}
        yield MadeHost(entry.model_copy(update=changed), region, letter, hall, rack)
