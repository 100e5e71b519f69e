"""Places: regions, their zones (one site each), halls, racks and hosts, and what things cost there. Ours, read-only
through the API; the fleet file says what there is, and each host's engine what it can do.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hansa.kinds.resource import Resource, Spec, Status, Wire
from hansa.kinds.rules import refers

# -- whose a place is, and what stands in it ----------------------------------------------------


class Parent(Wire):
    name: str
    country: str


class Party(Wire):
    """Who operates or owns a place, and the law that they stand under."""

    name: str
    country: str  # ISO 3166-1 alpha-2
    ultimate_parent: Parent | None = None  # who controls it in the end, where somebody does
    source: str = ""


class GpuCount(Wire):
    model: str
    quantity: int


class Described(Spec):
    """What a place holds as the fleet file describes it: more than the hosts that are made of it."""

    hosts: int = 0
    gpus: tuple[GpuCount, ...] = ()
    sources: dict[str, str] = {}  # of each figure: where it was read, or "assumed"


# -- regions and zones --------------------------------------------------------------------------


class RegionSpec(Spec):
    name: str  # for people: "Stockholm"
    country: str  # ISO 3166-1 alpha-2


class Region(
    Resource[RegionSpec, Status],
    service="fleet", version="v1", collection="regions", scope="", verbs="GL",
    columns=(("NAME", "spec.name"), ("COUNTRY", "spec.country")),
):  # fmt: skip
    """One or more sites near one another, under one country's law."""


class ZoneSpec(Described):
    region: str
    letter: str
    site: str
    country: str
    source: str = ""  # where the public fact stands, or "assumed"
    region_ref: Annotated[str | None, refers("Region")] = None
    operator: Party | None = None
    owner: Party | None = None
    grid_zone: str | None = None  # bidding zone of the grid
    cooling: str | None = None
    pue: str | None = None  # power usage effectiveness, a decimal as text
    power_kw: int | None = Field(None, alias="powerKW")  # capacity for IT, kilowatts


class Zone(
    Resource[ZoneSpec, Status],
    service="fleet", version="v1", collection="zones", scope="", verbs="GL",
    columns=(("REGION", "spec.region"), ("LETTER", "spec.letter"), ("SITE", "spec.site"), ("COUNTRY", "spec.country"),
             ("OPERATOR", "spec.operator.name"), ("OWNER", "spec.owner.name"), ("GRID", "spec.gridZone"),
             ("PUE", "spec.pue"), ("POWER KW", "spec.powerKW"), ("HOSTS", "spec.hosts")),
):  # fmt: skip
    """One site of a region. Its id is `{region}-{letter}`."""


# -- inside a site ------------------------------------------------------------------------------


class HallSpec(Described):
    zone_ref: Annotated[str, refers("Zone")]
    racks: int = 0
    cooling: str | None = None
    power_kw: int | None = Field(None, alias="powerKW")


class Hall(
    Resource[HallSpec, Status],
    service="fleet", version="v1", collection="halls", scope="", verbs="GL",
    columns=(("ZONE", "spec.zoneRef"), ("COOLING", "spec.cooling"), ("POWER KW", "spec.powerKW"),
             ("RACKS", "spec.racks"), ("HOSTS", "spec.hosts")),
):  # fmt: skip
    """A room of a site, with its own cooling and power. Its id is `{zone}-{hall}`."""


class RackSpec(Described):
    hall_ref: Annotated[str, refers("Hall")]
    count: int = 1  # so many racks alike; hosts and gpus are those of all of them
    power_kw: int | None = Field(None, alias="powerKW")  # of one rack


class Rack(
    Resource[RackSpec, Status],
    service="fleet", version="v1", collection="racks", scope="", verbs="GL",
    columns=(("HALL", "spec.hallRef"), ("COUNT", "spec.count"), ("POWER KW", "spec.powerKW"), ("HOSTS", "spec.hosts")),
):  # fmt: skip
    """A rack, or several alike. Its id is `{hall}-{rack}`."""


# -- hosts --------------------------------------------------------------------------------------


class Capacity(Wire):
    """What can be promised, after overcommit."""

    vcpus: int = Field(0, alias="vCPUs")
    memory_bytes: int = 0
    disk_bytes: int = 0
    gpu_model: str = ""
    gpus: int = 0


class HostSpec(Spec):
    region: str
    zone: str
    simulated: bool
    capacity: Capacity = Capacity()  # physical; of the real host it is measured
    zone_ref: Annotated[str | None, refers("Zone")] = None
    hall_ref: Annotated[str | None, refers("Hall")] = None
    rack_ref: Annotated[str | None, refers("Rack")] = None  # of racks alike: one of them
    power_w: int | None = Field(None, alias="powerW")  # the most that it draws, watts


class HostStatus(Status):
    capacity: Capacity = Capacity()
    accelerator: str = ""
    isolation: str = ""
    network: str = ""  # how networks are made there: namespaces, user-namespaces, userspace, simulated
    uplink: str = ""  # the guests' way out: pasta, slirp, none
    limits: tuple[str, ...] = ()  # what bounds a guest there beyond QEMU's own limits: cpu, memory, pids, io
    disk_free_bytes: int = 0
    engine: str = ""
    simulated: bool = False
    message: str = ""


class Host(
    Resource[HostSpec, HostStatus],
    service="fleet", version="v1", collection="hosts", scope="", verbs="GL",
    columns=(("REGION", "spec.region"), ("ZONE", "spec.zone"), ("SIMULATED", "status.simulated"),
             ("ACCELERATOR", "status.accelerator"), ("ISOLATION", "status.isolation"), ("NETWORK", "status.network"), ("UPLINK", "status.uplink"),
             ("VCPUS", "status.capacity.vCPUs"), ("MEMORY", "status.capacity.memoryBytes")),
):  # fmt: skip
    """A machine that runs machines. `simulated` ones exist only on paper."""


# -- prices -------------------------------------------------------------------------------------


class Price(Wire):
    """What one unit of a profile or of a meter costs."""

    profile: str | None = None
    meter: str | None = None
    unit: str
    micros: int  # millionths of the currency


class PriceListSpec(Spec):
    currency: str  # ISO 4217
    valid_from: str  # the day from which it holds, until another of its currency and region begins
    region_refs: tuple[Annotated[str, refers("Region")], ...] = ()  # where it holds; everywhere when empty
    items: tuple[Price, ...]
    source: str = ""


class PriceList(
    Resource[PriceListSpec, Status],
    service="fleet", version="v1", collection="priceLists", scope="", verbs="GL", short=("prices",),
    columns=(("CURRENCY", "spec.currency"), ("VALID FROM", "spec.validFrom"), ("REGIONS", "spec.regionRefs"),
             ("PRICES", "spec.items"), ("SOURCE", "spec.source")),
):  # fmt: skip
    """List prices from a day on, in whole millionths of a currency."""
