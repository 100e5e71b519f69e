"""The fleet file: which regions, zones and hosts there are. Read strictly, with the path of each mistake."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from hansa.errors import FieldError, Invalid


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True)


class FleetZone(_Strict):
    letter: str = Field(pattern=r"^[a-z]$")
    site: str
    source: str = "assumed"


class FleetHost(_Strict):
    id: str = Field(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", max_length=63)
    zone: str
    real: bool = False
    vcpus: int = Field(0, ge=0)
    memory_gb: int = Field(0, ge=0, alias="memoryGB")
    gpu_model: str = ""
    gpus: int = Field(0, ge=0)


class FleetRegion(_Strict):
    id: str = Field(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", max_length=40)
    name: str
    country: str = Field(pattern=r"^[A-Z]{2}$")
    zones: list[FleetZone] = Field(min_length=1)
    hosts: list[FleetHost] = []

    @model_validator(mode="after")
    def _zones_known(self) -> FleetRegion:
        letters = {z.letter for z in self.zones}
        if lost := [h.id for h in self.hosts if h.zone not in letters]:
            raise ValueError(f"hosts {', '.join(lost)} stand in a zone that the region does not have")
        return self


class FleetFile(_Strict):
    regions: list[FleetRegion] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_real(self) -> FleetFile:
        hosts = [h for r in self.regions for h in r.hosts]
        if len({h.id for h in hosts}) != len(hosts):
            raise ValueError("two hosts have the same id")
        real = [(r.id, h) for r in self.regions for h in r.hosts if h.real]
        if len(real) > 1:
            raise ValueError("only one host is this machine: `real: true` stands twice")
        for region, host in real:
            alone = [h for r in self.regions if r.id == region for h in r.hosts if h.zone == host.zone]
            if len(alone) != 1:
                raise ValueError(f"the real host {host.id} must be the only one of its zone")
        return self


def read_fleet(path: Path | None) -> FleetFile:
    """The fleet of a file, or the one that is shipped. Raises Invalid with path and rule."""
    text = path.read_text() if path else resources.files("hansa.data").joinpath("fleet.yaml").read_text()
    name = str(path or "fleet.yaml")
    try:
        document: Any = yaml.safe_load(text)
        return FleetFile.model_validate(document)
    except yaml.YAMLError as error:
        raise Invalid(f"{name}: no YAML: {error}") from error
    except ValidationError as error:
        found = tuple(FieldError(".".join(str(p) for p in e["loc"]), e["msg"]) for e in error.errors(include_url=False))
        raise Invalid(f"{name}: " + "; ".join(f"{f.path}: {f.message}" for f in found[:5]), fields=found) from error
