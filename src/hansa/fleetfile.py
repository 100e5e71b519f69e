"""The fleet file: which regions, sites, halls, racks and hosts there are, whose they are and what they cost.

Read strictly: unknown and doubled names are refused, and each mistake is told with line, column and field. What
it is made of stands in `fleetparts`, what must hold between fields in `fleetrules`, sums in `fleetsums`.
"""

from __future__ import annotations

from decimal import Decimal
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from hansa.errors import Invalid
from hansa.fleetparts import (
    PARTS,
    FleetHost,
    FleetPrices,
    FleetRegion,
    GpuModel,
    Name,
    Party,
    Shape,
    Source,
    Strict,
)
from hansa.fleetrules import broken
from hansa.marked import BYTES_MAX, InvalidFile, Marked, Mistake, dotted, read_marked

__all__ = ["FleetFile", "FleetHost", "parse_fleet", "read_fleet"]

SHIPPED = "fleet.yaml"
NAMED_MAX = 1_000  # regions, sources, shapes, … of one file


class FleetFile(Strict):
    """The whole file."""

    sources: dict[Name, Source] = Field(
        {}, max_length=NAMED_MAX, description="where figures were read, by a name of your choice"
    )
    parties: dict[Name, Party] = Field(
        {}, max_length=NAMED_MAX, description="operators and owners, by a name of your choice"
    )
    gpu_models: dict[Name, GpuModel] = Field(
        {}, max_length=NAMED_MAX, description="by the name that hosts and profiles use"
    )
    shapes: dict[Name, Shape] = Field({}, max_length=NAMED_MAX, description="kinds of host, by a name of your choice")
    regions: list[FleetRegion] = Field(min_length=1, max_length=NAMED_MAX, description="the places")
    prices: list[FleetPrices] = Field([], max_length=NAMED_MAX, description="list prices, each from a day on")

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if found := list(broken(self)):
            raise PydanticCustomError(
                "fleet", "{text}", {"text": "; ".join(f"{dotted(p)}: {m}" for p, m in found[:5]), "found": found}
            )
        return self


WHOLE: tuple[type[Strict], ...] = (FleetFile, *PARTS)


def read_fleet(path: Path | None) -> FleetFile:
    """The fleet of a file, or the one that is shipped. Raises InvalidFile with line, column, field and rule."""
    if path is None:
        return parse_fleet(resources.files("hansa.data").joinpath(SHIPPED).read_bytes(), SHIPPED)
    try:
        with path.open("rb") as file:
            raw = file.read(BYTES_MAX + 1)
    except OSError as error:
        raise Invalid(f"{path} cannot be read: {error.strerror or error}") from error
    return parse_fleet(raw, str(path))


def parse_fleet(raw: bytes, name: str) -> FleetFile:
    """Raises InvalidFile."""
    marked = read_marked(raw, name)
    try:
        return FleetFile.model_validate(marked.value)
    except ValidationError as error:
        raise InvalidFile(name, _mistakes(error, marked)) from error


def _mistakes(error: ValidationError, marked: Marked) -> list[Mistake]:
    found: list[Mistake] = []
    for each in error.errors(include_url=False):
        if each["type"] == "fleet":
            found += [Mistake(dotted(p), message, marked.place(p)) for p, message in each["ctx"]["found"]]
            continue
        path = tuple(part for part in each["loc"] if part != "[key]")
        found.append(Mistake(dotted(path), _message(each), marked.place(path)))
    return found


def _message(each: Any) -> str:
    if each["type"] == "missing":
        return "is required"
    if each["type"] == "extra_forbidden":
        known = _known_as(str(each["loc"][-1]))
        return "there is no such field" + (f" here: it is written {known}" if known else "")
    value, said = each.get("input"), str(each["msg"]).removeprefix("Value error, ")
    if isinstance(value, (str, int, Decimal)):
        text = f"{value}" if not isinstance(value, str) else f"{value[:60]!r}"
        said += f" (given: {text[:80]})"
    return said


@cache
def _spellings() -> dict[str, str]:
    """Every name that stands somewhere in a fleet file, by its letters alone."""
    return {_letters(str(f.alias)): str(f.alias) for part in WHOLE for f in part.model_fields.values()}


def _known_as(name: str) -> str:
    """A field that is spelt almost so: `power_kw`, `PowerKW` or `powerKw` for powerKW."""
    known = _spellings().get(_letters(name), "")
    return known if known != name else ""


def _letters(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()
