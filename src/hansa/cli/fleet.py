"""`hansa fleet`: fleet files, without a cloud: is one good, what does it describe, how is one written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hansa.cli.show import document, table

if TYPE_CHECKING:
    from hansa.fleetfile import FleetFile
    from hansa.fleetparts import FleetHall, FleetHost, FleetRegion, FleetZone

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group("fleet")
def fleet_command() -> None:
    """Check a fleet file, show what one describes, and the schema for editors.

    \b
      hansa fleet check my-fleet.yaml     is it good? each mistake with line and column
      hansa fleet show                    the shipped fleet, as a tree
      hansa up --fleet my-fleet.yaml      start a cloud with it
    """


@fleet_command.command("check")
@click.argument("file", type=FILE)
@click.option("--output", type=click.Choice(["table", "json"]), default="table", help="How to say it.")
def check_command(file: Path, output: str) -> None:
    """Is FILE a good fleet file? Says each mistake with line, column and field, exit status 1.

    Of a good one it shows what is described, and how many figures have a source.
    """
    from hansa.fleetfile import read_fleet
    from hansa.marked import InvalidFile

    try:
        fleet = read_fleet(file)
    except InvalidFile as error:
        if output != "json":
            raise
        told = {"ok": False, "file": str(file), "count": error.count, "mistakes": [m.wire() for m in error.mistakes]}
        click.echo(document(told, "json"))
        raise click.exceptions.Exit(1) from error
    rows = [summary(fleet, region.id, [region]) for region in fleet.regions]
    whole = summary(fleet, "total", fleet.regions)
    figures, assumed = _figures(fleet)
    if output == "json":
        told = {"ok": True, "file": str(file), "regions": rows, "total": whole, "figures": figures, "assumed": assumed}
        click.echo(document(told, "json"))
        return
    click.echo(table(HEADINGS, [*(_cells(row) for row in rows), _cells(whole)]))
    click.echo(f"\n{file} is good: {figures} figures, {figures - assumed} with a source, {assumed} assumed; "
               f"{whole['made']} hosts are made of it")  # fmt: skip


HEADINGS = ("REGION", "ZONES", "HALLS", "RACKS", "HOSTS", "MADE", "GPUS", "MW", "PUE")


def summary(fleet: FleetFile, name: str, regions: list[FleetRegion]) -> dict[str, Any]:
    """What regions hold together. `powerKW` and `pue` are None where no zone says."""
    from hansa.fleetsums import of_region, total

    zones = [zone for region in regions for zone in region.zones]
    halls = [hall for zone in zones for hall in zone.halls]
    held = total(of_region(region, fleet.shapes) for region in regions)
    power = [zone.power_kw for zone in zones if zone.power_kw is not None]
    pues = sorted({zone.pue for zone in zones if zone.pue is not None})
    return {
        "region": name, "zones": len(zones), "halls": len(halls),
        "racks": sum(rack.count or 1 for hall in halls for rack in hall.racks), "hosts": held.hosts,
        "made": held.made, "gpus": dict(sorted(held.gpus.items())), "powerKW": sum(power) if power else None,
        "pue": [str(pues[0]), str(pues[-1])] if pues else None,
    }  # fmt: skip


def _cells(row: dict[str, Any]) -> list[str]:
    pue = "-" if row["pue"] is None else "-".join(dict.fromkeys(row["pue"]))
    gpus = f"{sum(row['gpus'].values()):,}" if row["gpus"] else "-"
    counts = [f"{row[name]:,}" for name in ("zones", "halls", "racks", "hosts", "made")]
    return [row["region"], *counts, gpus, _mw(row["powerKW"]), pue]


def _mw(power_kw: int | None) -> str:
    """Kilowatts as megawatts, exactly."""
    return "-" if power_kw is None else f"{power_kw // 1000}.{power_kw % 1000:03d}".rstrip("0").rstrip(".")


def _figures(fleet: FleetFile) -> tuple[int, int]:
    """How many figures there are, and how many are assumed."""
    from hansa.fleetparts import ASSUMED, sourced_in

    said = [name for _, it in sourced_in(fleet) for name in it.sources_of().values()]
    return len(said), said.count(ASSUMED)


@fleet_command.command("show")
@click.argument("file", type=FILE, required=False)
def show_command(file: Path | None) -> None:
    """The places of FILE, or of the shipped fleet, as a tree."""
    from hansa.fleetfile import read_fleet

    fleet = read_fleet(file)
    for region in fleet.regions:
        click.echo(f"{region.id}  {region.name}, {region.country}")
        for zone in region.zones:
            click.echo(f"  {region.id}-{zone.letter}  {_zone(fleet, zone)}")
            for line in _inside(region, zone):
                click.echo(f"    {line}")
    for prices in fleet.prices:
        where = ", ".join(prices.regions) or "everywhere"
        click.echo(f"{prices.id}  {len(prices.items)} prices in {prices.currency} from {prices.valid_from}, {where}")


def _zone(fleet: FleetFile, zone: FleetZone) -> str:
    said = [zone.site]
    for role, name in (("operator", zone.operator), ("owner", zone.owner)):
        if name is not None:
            party = fleet.parties[name]
            above = (
                f", of {party.ultimate_parent.name} ({party.ultimate_parent.country})" if party.ultimate_parent else ""
            )
            said.append(f"{role} {party.name} ({party.country}{above})")
    more = (zone.grid_zone, zone.cooling, zone.pue and f"PUE {zone.pue}", zone.power_kw and f"{_mw(zone.power_kw)} MW")
    return " · ".join([*said, *(text for text in more if text)])


def _inside(region: FleetRegion, zone: FleetZone) -> Iterator[str]:
    yield from (_host(h) for h in region.hosts if h.zone == zone.letter)
    for hall in zone.halls:
        yield from _hall(hall)


def _hall(hall: FleetHall) -> Iterator[str]:
    power = f"{_mw(hall.power_kw)} MW" if hall.power_kw else ""
    yield " · ".join(filter(None, (f"hall {hall.id}", hall.cooling, power)))
    yield from (f"  {_host(h)}" for h in hall.hosts)
    for rack in hall.racks:
        alike = f"{rack.count} racks {rack.id}" if rack.count else f"rack {rack.id}"
        power = f" of {rack.power_kw} kW" if rack.power_kw else ""
        yield f"  {alike}{power}: " + (", ".join(_host(h) for h in rack.hosts) or "empty")


def _host(host: FleetHost) -> str:
    if host.real:
        return f"{host.id}, this machine"
    gpus = f", {host.gpus} x {host.gpu_model}" if host.gpus else ""
    what = host.shape or f"{host.vcpus} vCPUs, {host.memory_gb} GB{gpus}"
    if host.count is None:
        return f"{host.id} ({what})"
    return f"{host.count:,} x {what} ({host.id}, {1 if host.made is None else host.made} made)"


@fleet_command.command("schema")
def schema_command() -> None:
    """The JSON Schema of a fleet file, for editors. `fleet check` knows more rules than a schema can say."""
    from hansa.fleetfile import FleetFile

    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **FleetFile.model_json_schema(by_alias=True)}
    click.echo(document(schema, "json"))
