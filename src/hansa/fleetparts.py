"""What a fleet file is made of: sources, parties, shapes, regions, zones, halls, racks, hosts, prices.

A host with a `count` describes that many hosts of one shape; `made` says how many of them become hosts of the
cloud, so that a site of 100,000 GPUs is a few lines in the file and a few hosts in memory. Figures are whole
numbers or decimals, never floats.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

ASSUMED = "assumed"
COUNT_MAX = 1_000_000
ROOMS_MAX = 10_000  # halls and racks that are told one by one, in one fleet
MADE_MAX = 2_000  # hosts made real in memory, in one fleet

ID = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"
Id = Annotated[str, Field(pattern=ID, max_length=63)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=63)]
Text = Annotated[str, Field(min_length=1, max_length=200)]
Country = Annotated[str, Field(pattern=r"^[A-Z]{2}$", description="ISO 3166-1 alpha-2")]
Count = Annotated[int, Field(ge=1, le=COUNT_MAX)]
Power = Annotated[int, Field(ge=1, le=10**9)]
Unit = Literal["Hours", "GPU-Hours", "GB-Hours", "GB", "Requests", "1000 Tokens", "1000000 Tokens", "kWh"]
Cooling = Literal["air", "free-air", "rear-door", "direct-to-chip", "immersion"]


def _decimal(value: Any) -> Any:
    """A whole number as Decimal. A float is no exact figure: refused, as text is."""
    if isinstance(value, int) and not isinstance(value, bool):
        return Decimal(value)
    if not isinstance(value, Decimal):
        raise PydanticCustomError("decimal", "must be a number")
    return value


def _date(value: Any) -> Any:
    try:
        return datetime.date.fromisoformat(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ValueError("must be a date: YYYY-MM-DD") from error


Pue = Annotated[Decimal, Field(ge=1, le=3, max_digits=4, decimal_places=3), BeforeValidator(_decimal),
                WithJsonSchema({"type": "number", "minimum": 1, "maximum": 3})]  # fmt: skip
Date = Annotated[datetime.date, BeforeValidator(_date)]


class Strict(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, alias_generator=to_camel
    )  # fmt: skip


class Sourced(Strict):
    """Something with figures. `source` speaks for all that are given, `sources` for single ones."""

    figures: ClassVar[tuple[str, ...]] = ()  # by their names in the file

    source: Name = Field(ASSUMED, description="a name of the file's `sources`, or `assumed`")
    sources: dict[str, Name] = Field({}, description="the same for single figures")

    def sources_of(self) -> dict[str, str]:
        """The source of every figure that is given."""
        given = (name for name in self.model_fields_set if getattr(self, name) is not None)
        aliases = {type(self).model_fields[name].alias for name in given}
        return {f: self.sources.get(f, self.source) for f in self.figures if f in aliases}


def sourced_in(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Sourced]]:
    """Everything with figures in a part of a fleet, with its path."""
    if isinstance(value, Sourced):
        yield path, value
    if isinstance(value, BaseModel):
        for name, info in type(value).model_fields.items():
            yield from sourced_in(getattr(value, name), (*path, info.alias or name))
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from sourced_in(inner, (*path, name))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from sourced_in(inner, (*path, i))


class Source(Strict):
    """Where a figure was read."""

    title: Text = Field(description="who says what")
    url: str = Field("", pattern=r"^(https?://\S+)?$", max_length=500, description="where it can be read")
    date: Date | None = Field(None, description="of the publication")
    checked_on: Date | None = Field(None, description="the day on which it was read")


class Parent(Strict):
    """Who controls a party in the end."""

    name: Text = Field(description="as registered")
    country: Country


class Party(Sourced):
    """Who operates or owns a site, and under whose law it stands."""

    figures = ("name", "country", "ultimateParent")

    name: Text = Field(description="as registered")
    country: Country
    ultimate_parent: Parent | None = Field(None, description="who controls it in the end, where somebody does")


class GpuModel(Sourced):
    """One model of GPU. Once one is told, every model that a host names must be."""

    figures = ("memoryGB", "powerW")

    memory_gb: int = Field(alias="memoryGB", ge=1, le=10_000, description="of one GPU, gigabytes")
    power_w: Power = Field(alias="powerW", description="the most that one draws, watts")


class Shape(Sourced):
    """What one host of a kind holds and draws."""

    figures: ClassVar[tuple[str, ...]] = ("vcpus", "memoryGB", "gpuModel", "gpus", "powerW")

    vcpus: int = Field(0, ge=0, le=100_000, description="virtual CPUs that it can give")
    memory_gb: int = Field(0, ge=0, le=1_000_000, alias="memoryGB", description="gigabytes, decimal")
    gpu_model: str = Field("", max_length=63, description="goes with `gpus`")
    gpus: int = Field(0, ge=0, le=1_000, description="GPUs in one host")
    power_w: Power | None = Field(None, alias="powerW", description="the most that it draws, watts")


class FleetHost(Shape):
    """One host, or `count` hosts of one shape of which `made` become hosts `{id}-1`, `{id}-2`, … of the cloud."""

    figures = ("count", *Shape.figures)

    id: Id = Field(description="its name; of a counted group, what the names begin with")
    zone: str = Field("", description="letter of its zone, where it stands under `hosts` of a region")
    real: bool = Field(False, description="this machine")
    shape: str = Field("", description="a name of `shapes`, in place of figures of its own")
    count: Count | None = Field(None, description="so many hosts alike, in one rack where the racks are counted")
    made: int | None = Field(
        None, ge=0, le=MADE_MAX, description="how many of `count` become hosts of the cloud; 1 where it is not given"
    )


class FleetRack(Sourced):
    """One rack, or `count` racks alike: what stands in it stands in each of them."""

    figures = ("count", "powerKW")

    id: Id = Field(description="its name in the hall")
    count: Count | None = Field(None, description="so many racks alike")
    power_kw: Power | None = Field(None, alias="powerKW", description="what one rack may draw, kilowatts")
    hosts: list[FleetHost] = Field([], description="what stands in one rack")


class FleetHall(Sourced):
    """A room of a site."""

    figures = ("cooling", "powerKW")

    id: Id = Field(description="its name in the zone")
    cooling: Cooling | None = Field(None, description="where it differs from the zone's")
    power_kw: Power | None = Field(None, alias="powerKW", description="capacity for IT, kilowatts")
    racks: list[FleetRack] = Field([], description="its racks")
    hosts: list[FleetHost] = Field([], description="hosts of the hall whose racks are not told")


class FleetZone(Sourced):
    """One site."""

    figures = ("site", "operator", "owner", "gridZone", "cooling", "pue", "powerKW")

    letter: str = Field(pattern=r"^[a-z]$", description="the zone is called `{region}-{letter}`")
    site: Text = Field(description="for people")
    operator: Name | None = Field(None, description="a name of `parties`: who runs the site")
    owner: Name | None = Field(None, description="a name of `parties`: whose building it is")
    grid_zone: str | None = Field(None, max_length=12, description="bidding zone: SE3, NO4, FR, DE-LU, GB")
    cooling: Cooling | None = Field(None, description="how most of the heat leaves the racks")
    pue: Pue | None = Field(None, description="yearly mean, as designed or measured")
    power_kw: Power | None = Field(None, alias="powerKW", description="capacity for IT, kilowatts")
    halls: list[FleetHall] = Field([], description="its halls")


class FleetRegion(Strict):
    """Sites near one another, under one country's law."""

    id: str = Field(pattern=ID, max_length=40, description="its name in every path: `se-sto`")
    name: Text = Field(description="for people: `Stockholm`")
    country: Country
    zones: list[FleetZone] = Field(min_length=1, max_length=26, description="its sites")
    hosts: list[FleetHost] = Field([], description="hosts whose halls are not told")


class PriceItem(Strict):
    """What one unit costs: of a profile, or of a meter."""

    profile: str = Field("", description="a profile of the catalogue, or")
    meter: str = Field("", pattern=r"^([a-z0-9]([a-z0-9.-]*[a-z0-9])?)?$", max_length=63, description="a meter")
    unit: Unit = Field(description="what is counted")
    micros: int = Field(ge=0, le=10**15, description="millionths of the currency")


class FleetPrices(Sourced):
    """List prices that hold from a day on, until another list of the currency and region begins."""

    figures = ("items",)

    id: Id = Field(description="its name")
    currency: str = Field(pattern=r"^[A-Z]{3}$", description="ISO 4217")
    valid_from: Date = Field(description="the first day")
    regions: list[str] = Field([], description="where it holds; everywhere when empty")
    items: list[PriceItem] = Field(min_length=1, max_length=10_000, description="the prices")


PARTS: tuple[type[Strict], ...] = (
    Source, Party, Parent, GpuModel, Shape, FleetRegion, FleetZone, FleetHall, FleetRack, FleetHost, FleetPrices, PriceItem,
)  # fmt: skip
