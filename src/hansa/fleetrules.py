"""What must hold between the fields of a fleet file. Pure: paths of mistakes and the rules that they break."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING

from hansa.data.catalogue import profiles
from hansa.fleetparts import (
    ASSUMED,
    MADE_MAX,
    ROOMS_MAX,
    FleetHall,
    FleetHost,
    FleetPrices,
    FleetRack,
    FleetRegion,
    FleetZone,
    Shape,
    sourced_in,
)
from hansa.fleetsums import in_one, names_of, of_host, of_rack, of_zone
from hansa.marked import Path
from hansa.units import NAME_LENGTH_MAX

if TYPE_CHECKING:
    from hansa.fleetfile import FleetFile

Broken = tuple[Path, str]

# Bidding zones of European countries. A country that is not here may name its zone as it likes.
GRID_ZONES: dict[str, tuple[str, ...]] = {
    "AT": ("AT",), "BE": ("BE",), "BG": ("BG",), "CH": ("CH",), "CZ": ("CZ",), "DE": ("DE-LU",), "LU": ("DE-LU",),
    "DK": ("DK1", "DK2"), "EE": ("EE",), "ES": ("ES",), "FI": ("FI",), "FR": ("FR",), "GB": ("GB", "SEM"), "GR": ("GR",),
    "HR": ("HR",), "HU": ("HU",), "IE": ("SEM",),
    "IT": ("IT-CALA", "IT-CNOR", "IT-CSUD", "IT-NORD", "IT-SARD", "IT-SICI", "IT-SUD"), "LT": ("LT",), "LV": ("LV",),
    "NL": ("NL",), "NO": ("NO1", "NO2", "NO3", "NO4", "NO5"), "PL": ("PL",), "PT": ("PT",), "RO": ("RO",),
    "SE": ("SE1", "SE2", "SE3", "SE4"), "SI": ("SI",), "SK": ("SK",),
}  # fmt: skip


def broken(fleet: FleetFile) -> Iterator[Broken]:
    """Every rule that is broken, with the path of the field."""
    yield from _names(fleet)
    yield from _parties(fleet)
    yield from _sourced(fleet)
    for path, region, zone in zones(fleet):
        yield from _grid(path, region, zone)
    for path, nested, host in hosts(fleet):
        yield from _host(fleet, path, host, nested=nested)
    yield from _named_once(fleet)
    for name, shape in fleet.shapes.items():
        yield from _figures(fleet, ("shapes", name), shape)
    yield from _real(fleet)
    yield from _power(fleet)
    yield from _prices(fleet)


# -- walking ------------------------------------------------------------------------------------


def zones(fleet: FleetFile) -> Iterator[tuple[Path, FleetRegion, FleetZone]]:
    for r, region in enumerate(fleet.regions):
        for z, zone in enumerate(region.zones):
            yield ("regions", r, "zones", z), region, zone


def halls(fleet: FleetFile) -> Iterator[tuple[Path, str, FleetHall]]:
    """Each with the name of its object."""
    for path, region, zone in zones(fleet):
        for h, hall in enumerate(zone.halls):
            yield (*path, "halls", h), f"{region.id}-{zone.letter}-{hall.id}", hall


def racks(fleet: FleetFile) -> Iterator[tuple[Path, str, FleetRack]]:
    for path, name, hall in halls(fleet):
        for r, rack in enumerate(hall.racks):
            yield (*path, "racks", r), f"{name}-{rack.id}", rack


def hosts(fleet: FleetFile) -> Iterator[tuple[Path, bool, FleetHost]]:
    """Every entry, and whether it stands inside a hall or rack."""
    for r, region in enumerate(fleet.regions):
        for h, host in enumerate(region.hosts):
            yield ("regions", r, "hosts", h), False, host
    for path, _, hall in halls(fleet):
        for h, host in enumerate(hall.hosts):
            yield (*path, "hosts", h), True, host
    for path, _, rack in racks(fleet):
        for h, host in enumerate(rack.hosts):
            yield (*path, "hosts", h), True, host


# -- names --------------------------------------------------------------------------------------


def _names(fleet: FleetFile) -> Iterator[Broken]:
    yield from _unique("region", ((("regions", i, "id"), r.id) for i, r in enumerate(fleet.regions)))
    for r, region in enumerate(fleet.regions):
        letters = ((("regions", r, "zones", z, "letter"), zone.letter) for z, zone in enumerate(region.zones))
        yield from _unique(f"zone of {region.id}", letters)
    yield from _unique("hall", (((*path, "id"), name) for path, name, _ in halls(fleet)))
    yield from _unique("rack", (((*path, "id"), name) for path, name, _ in racks(fleet)))
    rooms = [(*path, "id") for path, _, _ in (*halls(fleet), *racks(fleet))]
    if len(rooms) > ROOMS_MAX:
        yield rooms[ROOMS_MAX], f"is hall or rack {ROOMS_MAX + 1}; at most {ROOMS_MAX} are told: `count` alike racks"
    every = (((*path, "id"), name) for path, _, host in hosts(fleet) for name in names_of(host))
    made = list(islice(every, MADE_MAX + 1))
    yield from _unique("host", made)
    if len(made) > MADE_MAX:
        yield made[MADE_MAX][0], f"makes host {MADE_MAX + 1} of the fleet; at most {MADE_MAX} are made: lower `made`"
    yield from _unique("price list", ((("prices", i, "id"), p.id) for i, p in enumerate(fleet.prices)))


def _unique(what: str, named: Iterable[tuple[Path, str]]) -> Iterator[Broken]:
    seen: set[str] = set()
    for path, name in named:
        if name in seen:
            yield path, f"there is a {what} {name} already"
        elif len(name) > NAME_LENGTH_MAX:
            yield path, f"makes the name {name} of {len(name)} characters; at most {NAME_LENGTH_MAX} are possible"
        seen.add(name)


def _parties(fleet: FleetFile) -> Iterator[Broken]:
    for path, _, zone in zones(fleet):
        for role, party in (("operator", zone.operator), ("owner", zone.owner)):
            if party is not None and party not in fleet.parties:
                yield (*path, role), f"there is no party {party}; known: {_some(fleet.parties)}"


def _sourced(fleet: FleetFile) -> Iterator[Broken]:
    """The names of sources, wherever one stands."""
    if ASSUMED in fleet.sources:
        yield ("sources", ASSUMED), "is no name of a source: it says that there is none"
    for path, it in sourced_in(fleet):
        said = [((*path, "source"), it.source), *(((*path, "sources", f), s) for f, s in it.sources.items())]
        for at, name in said:
            if name != ASSUMED and name not in fleet.sources:
                yield at, f"there is no source {name}; known: {ASSUMED}, {_some(fleet.sources)}"
        for figure in it.sources.keys() - it.sources_of().keys():
            yield (*path, "sources", figure), f"{figure} is not given here"


def _some(names: Iterable[str]) -> str:
    found = sorted(names)
    return ", ".join(found[:8]) + (", …" if len(found) > 8 else "") if found else "none"


# -- sites and hosts ----------------------------------------------------------------------------


def _grid(path: Path, region: FleetRegion, zone: FleetZone) -> Iterator[Broken]:
    known = GRID_ZONES.get(region.country)
    if zone.grid_zone is not None and known is not None and zone.grid_zone not in known:
        yield (*path, "gridZone"), f"{region.country} has the bidding zones {', '.join(known)}, not {zone.grid_zone}"


def _named_once(fleet: FleetFile) -> Iterator[Broken]:
    for path, _, rack in racks(fleet):
        for h, host in enumerate(rack.hosts):
            if rack.count is not None and host.count is None:
                yield (*path, "hosts", h), f"stands in {rack.count} racks alike: say how many are in one with `count`"


def _host(fleet: FleetFile, path: Path, host: FleetHost, *, nested: bool) -> Iterator[Broken]:
    if nested and host.zone:
        yield (*path, "zone"), "stands in a hall already: leave it out"
    if not nested:
        letters = [z.letter for z in fleet.regions[int(path[1])].zones]
        if host.zone not in letters:
            yield (*path, "zone"), f"must be a zone of the region: {', '.join(letters)} (given: {host.zone!r})"
    own = [name for name in Shape.figures if name in host.sources_of()]
    if host.shape:
        if host.shape not in fleet.shapes:
            yield (*path, "shape"), f"there is no shape {host.shape}; known: {_some(fleet.shapes)}"
        if own:
            yield (*path, own[0]), f"is said by shape {host.shape} already: leave out one of them"
    elif not host.real:
        yield from _figures(fleet, path, host)
    if host.made is not None:
        if host.count is None:
            yield (*path, "made"), "goes with `count`"
        elif host.made > host.count:
            yield (*path, "made"), f"is more than `count`: {host.made} of {host.count}"
    if host.real and host.count is not None:
        yield (*path, "count"), "this machine is one host"


def _figures(fleet: FleetFile, path: Path, it: Shape) -> Iterator[Broken]:
    if not it.vcpus:
        yield (*path, "vcpus"), "a host needs a shape, or vcpus and memoryGB of its own"
    elif not it.memory_gb:
        yield (*path, "memoryGB"), "a host needs a shape, or vcpus and memoryGB of its own"
    if bool(it.gpus) != bool(it.gpu_model):
        yield (*path, "gpus" if it.gpus else "gpuModel"), "gpus and gpuModel go together"
    if it.gpu_model and fleet.gpu_models and it.gpu_model not in fleet.gpu_models:
        yield (*path, "gpuModel"), f"there is no GPU model {it.gpu_model}; known: {_some(fleet.gpu_models)}"


def _real(fleet: FleetFile) -> Iterator[Broken]:
    real = [(path, host) for path, _, host in hosts(fleet) if host.real]
    for path, _ in real[1:]:
        yield (*path, "real"), "only one host is this machine: `real: true` stands twice"
    for path, host in real[:1]:
        region = fleet.regions[int(path[1])]
        letter = host.zone if len(path) == 4 else region.zones[int(path[3])].letter
        zone = next((z for z in region.zones if z.letter == letter), None)
        if zone is not None and of_zone(region, zone, fleet.shapes).hosts != 1:
            yield (*path, "real"), f"this machine ({host.id}) must be the only host of its zone"


# -- power --------------------------------------------------------------------------------------


def _power(fleet: FleetFile) -> Iterator[Broken]:
    """No part may draw more than the whole can give. PUE is beside this: every figure is power for IT."""
    for path, rack in ((p, r) for p, _, r in racks(fleet)):
        yield from _fits(path, "one rack", rack.power_kw, in_one(rack, fleet.shapes).power_w)
    for path, hall in ((p, h) for p, _, h in halls(fleet)):
        yield from _fits(path, "the hall", hall.power_kw, _inside_hall(hall, fleet.shapes))
    for path, region, zone in zones(fleet):
        drawn = sum(
            _inside_hall(h, fleet.shapes) if h.power_kw is None else h.power_kw * 1000 for h in zone.halls
        )  # fmt: skip
        drawn += sum(of_host(h, fleet.shapes).power_w for h in region.hosts if h.zone == zone.letter)
        yield from _fits(path, "the zone", zone.power_kw, drawn)


def _inside_hall(hall: FleetHall, shapes: Mapping[str, Shape]) -> int:
    """Watts: of each rack what it may draw, where that is told, else what its hosts do."""
    drawn = sum(of_host(h, shapes).power_w for h in hall.hosts)
    for rack in hall.racks:
        drawn += of_rack(rack, shapes).power_w if rack.power_kw is None else rack.power_kw * 1000 * (rack.count or 1)
    return drawn


def _fits(path: Path, what: str, power_kw: int | None, drawn_w: int) -> Iterator[Broken]:
    if power_kw is not None and drawn_w > power_kw * 1000:
        yield (*path, "powerKW"), f"what stands in {what} draws {-(-drawn_w // 1000)} kW, and it has {power_kw} kW"


# -- prices -------------------------------------------------------------------------------------


def _prices(fleet: FleetFile) -> Iterator[Broken]:
    known, places = profiles(), {r.id for r in fleet.regions}
    for i, prices in enumerate(fleet.prices):
        path: Path = ("prices", i)
        for r, region in enumerate(prices.regions):
            if region not in places:
                yield (*path, "regions", r), f"there is no region {region}"
        seen: set[tuple[str, str]] = set()
        for j, item in enumerate(prices.items):
            at = (*path, "items", j)
            if bool(item.profile) == bool(item.meter):
                yield at, "names either a profile or a meter"
            elif item.profile and item.profile not in known:
                yield (*at, "profile"), f"there is no profile {item.profile}"
            if (key := (item.profile or item.meter, item.unit)) in seen:
                yield at, f"{key[0]} has a price for {key[1]} already"
            seen.add(key)
        for other in fleet.prices[:i]:
            if _overlap(prices, other):
                yield (*path, "validFrom"), f"begins with {other.id}, in the same currency and place"


def _overlap(one: FleetPrices, other: FleetPrices) -> bool:
    same = (one.currency, one.valid_from) == (other.currency, other.valid_from)
    return same and (not one.regions or not other.regions or bool(set(one.regions) & set(other.regions)))
