"""A fleet file as the objects that the API shows: regions, zones, halls, racks, hosts and price lists. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from hansa.fleetfile import FleetFile
from hansa.fleetparts import ASSUMED, FleetHall, FleetRack, FleetRegion, FleetZone, Sourced
from hansa.fleetsums import MadeHost, Sum, made_hosts, of_hall, of_rack, of_zone
from hansa.kinds.resource import Document, Key

PLACES = ("Region", "Zone", "Hall", "Rack", "Host", "PriceList")  # each after what it points at


def objects_of(fleet: FleetFile) -> dict[Key, Document]:
    """The specs by key, each after what it points at."""
    regions = fleet.regions
    zones = [(region, zone) for region in regions for zone in region.zones]
    halls = [(f"{r.id}-{z.letter}", hall) for r, z in zones for hall in z.halls]
    racks = [(f"{zone}-{hall.id}", rack) for zone, hall in halls for rack in hall.racks]
    found: dict[tuple[str, str], Document] = {}
    found |= {("Region", r.id): {"name": r.name, "country": r.country} for r in regions}
    found |= {("Zone", f"{r.id}-{z.letter}"): _zone(fleet, r, z) for r, z in zones}
    found |= {("Hall", f"{zone}-{hall.id}"): _hall(fleet, zone, hall) for zone, hall in halls}
    found |= {("Rack", f"{hall}-{rack.id}"): _rack(fleet, hall, rack) for hall, rack in racks}
    found |= {("Host", made.host.id): host_spec(made) for made in made_hosts(regions, fleet.shapes)}
    found |= dict(_prices(fleet))
    return {Key(kind, "", name): spec for (kind, name), spec in found.items()}


def _ref(collection: str, name: str) -> str:
    return f"/fleet/{collection}/{name}"


def source_text(fleet: FleetFile, name: str) -> str:
    """A source as people read it: title, dates, address."""
    if name == ASSUMED or name not in fleet.sources:
        return ASSUMED
    it = fleet.sources[name]
    dates = [it.date.isoformat() if it.date else "", f"read {it.checked_on}" if it.checked_on else ""]
    return ", ".join(filter(None, (it.title, *dates, it.url)))


def _told(fleet: FleetFile, it: Sourced, held: Sum) -> Document:
    """What a place holds, and where its figures come from."""
    gpus = [{"model": model, "quantity": number} for model, number in sorted(held.gpus.items())]
    sources = {figure: source_text(fleet, name) for figure, name in it.sources_of().items()}
    return {"hosts": held.hosts, "gpus": gpus, "sources": sources}


def _given(**values: object) -> Document:
    return {name: value for name, value in values.items() if value is not None}


def _zone(fleet: FleetFile, region: FleetRegion, zone: FleetZone) -> Document:
    return {
        "region": region.id, "letter": zone.letter, "site": zone.site, "country": region.country,
        "source": source_text(fleet, zone.source), "regionRef": _ref("regions", region.id),
        **_given(
            operator=_party(fleet, zone.operator), owner=_party(fleet, zone.owner),
            gridZone=zone.grid_zone, cooling=zone.cooling, pue=None if zone.pue is None else str(zone.pue),
            powerKW=zone.power_kw,
        ),
        **_told(fleet, zone, of_zone(region, zone, fleet.shapes)),
    }  # fmt: skip


def _party(fleet: FleetFile, name: str | None) -> Document | None:
    if name is None:
        return None
    it = fleet.parties[name]
    parent = it.ultimate_parent
    above = None if parent is None else {"name": parent.name, "country": parent.country}
    return {"name": it.name, "country": it.country, "source": source_text(fleet, it.source),
            **_given(ultimateParent=above)}  # fmt: skip


def _hall(fleet: FleetFile, zone: str, hall: FleetHall) -> Document:
    racks = sum(rack.count or 1 for rack in hall.racks)
    return {"zoneRef": _ref("zones", zone), "racks": racks, **_given(cooling=hall.cooling, powerKW=hall.power_kw),
            **_told(fleet, hall, of_hall(hall, fleet.shapes))}  # fmt: skip


def _rack(fleet: FleetFile, hall: str, rack: FleetRack) -> Document:
    return {"hallRef": _ref("halls", hall), "count": rack.count or 1, **_given(powerKW=rack.power_kw),
            **_told(fleet, rack, of_rack(rack, fleet.shapes))}  # fmt: skip


def host_spec(made: MadeHost) -> Document:
    it = made.host
    room = {"vCPUs": it.vcpus, "memoryBytes": it.memory_gb * 10**9, "gpuModel": it.gpu_model, "gpus": it.gpus}
    return {
        "region": made.region, "zone": made.letter, "simulated": not it.real, "capacity": room,
        "zoneRef": _ref("zones", made.zone),
        **_given(
            hallRef=_ref("halls", made.hall) if made.hall else None,
            rackRef=_ref("racks", made.rack) if made.rack else None, powerW=it.power_w,
        ),
    }  # fmt: skip


def _prices(fleet: FleetFile) -> Iterator[tuple[tuple[str, str], Document]]:
    for prices in fleet.prices:
        items = [{**_given(profile=i.profile or None, meter=i.meter or None), "unit": i.unit, "micros": i.micros}
                 for i in prices.items]  # fmt: skip
        yield ("PriceList", prices.id), {
            "currency": prices.currency, "validFrom": prices.valid_from.isoformat(), "items": items,
            "regionRefs": [_ref("regions", region) for region in prices.regions],
            "source": source_text(fleet, prices.source),
        }  # fmt: skip
