"""The reference page of the fleet file, from its models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from hansa.fleetfile import WHOLE, FleetFile, read_fleet
from hansa.fleetparts import ASSUMED, COUNT_MAX, MADE_MAX, ROOMS_MAX, FleetZone, sourced_in
from hansa.fleetrules import GRID_ZONES
from hansa.fleetsums import of_zone
from hansa.marked import BYTES_MAX, DEPTH_MAX, VALUES_MAX

TITLES = {"FleetFile": "The file", "FleetPrices": "Price list", "PriceItem": "Price", "GpuModel": "GPU model"}
INTRO = f"""A fleet file says which regions, sites, halls, racks and hosts there are, whose they are, what they draw and what
things cost. `hansa up --fleet FILE` starts a cloud with it, `hansa fleet check FILE` says whether it is good, and
`hansa fleet schema` prints a JSON Schema for editors. [Describe your fleet](../how-to/describe-your-fleet.md) has an
example; [the shipped fleet](shipped-fleet.md) is one.

It is YAML 1.2 in UTF-8: `NO` is text, a number with a point is a decimal, a date is YYYY-MM-DD. Not read are anchors,
aliases and tags, so each line is what it says. Unknown names, and names that stand twice, are refused. At most
{BYTES_MAX >> 20} MiB, {VALUES_MAX:,} values and {DEPTH_MAX} levels; a `count` is at most {COUNT_MAX:,};
at most {ROOMS_MAX:,} halls and racks are told one by one.

**Counted hosts and racks.** An entry with a `count` describes that many hosts, or racks, alike. All of them count in the
sums of their rack, hall and zone (`hosts`, `gpus`); `made` of them, 1 unless you say, become hosts of the cloud on which
machines are placed, with the names `{{id}}-1`, `{{id}}-2`, … Of racks that are counted themselves, hosts are made once and
stand in one of them. A fleet makes at most {MADE_MAX:,} hosts, however many it describes.

**Sources.** What has figures takes `source`, a name of the file's `sources` or `assumed`, for all of them, and `sources`
for single ones: `sources: {{pue: assumed}}`. Without either a figure is assumed. The API shows the source of every figure.
"""
SHIPPED_INTRO = """The fleet that a cloud starts with unless you [describe your own](../how-to/describe-your-fleet.md). Sites, owners and
sizes follow what their operators announced; what was not announced is assumed, and says so, here and in the API. Nobody
named here runs this software or stands behind it, and announced is not built: sizes are those of the first full phase.

Zone `a` of `se-sto` is the machine on which the cloud runs. Every other host is simulated.
"""
SHIPPED_ASSUMED = """## What is assumed, and how

- **Paris, Frankfurt**: no announcement of these sites was found, so all of them is assumed, their operator too. That
  Stockholm has three zones is documented; of the second one no figure was found.
- **PUE**: 1.10 to 1.15 where liquid cools, 1.2 in the Nordics and 1.3 elsewhere where air does.
- **Racks**: 72 GPUs in 18 trays at 142 kW, or four servers of 8 GPUs at 60 kW, as many as the announced number of GPUs
  needs; so Narvik has 100,008 for the 100,000 announced and Newcastle 7,992 for 8,000. Where a model was not
  announced, it is assumed.
- **Borlänge**: its 23 MW are announced, not its GPUs: 120 racks of 190 kW fill them.
- **Grid zones** follow from where the sites lie.
- **Prices**: no list was found for all profiles. The list is made up, with round figures in the order of the market, so
  that bills can be tried; set your own.
"""
RULES = """- Ids of regions, letters of a region's zones, halls of a zone, racks of a hall, price lists: each once. Names of hosts,
  those of counted ones too, each once in the file. Composed names have at most 63 characters.
- A host under `hosts` of a region names a zone of it; one in a hall or rack names none.
- At most one host is this machine (`real: true`), one host by itself, and the only one of its zone.
- A host names a shape, or has `vcpus` and `memoryGB` of its own; not both. `gpus` and `gpuModel` go together.
- `made` is at most `count`. In counted racks every host is counted.
- Operators and owners are `parties`; sources are `sources`; a single source speaks of a figure that is given.
- What stands in a rack, hall or zone draws no more than its `powerKW`. All of these are power for IT: PUE comes on top.
- A price names either a profile of the catalogue or a meter, each once a unit. Of two lists in one currency and region,
  one begins later. Amounts are whole millionths of the currency.
- The bidding zone is one of its country:"""


def page(made: str) -> str:
    lines = ["# Fleet file", "", made, INTRO]
    for part in WHOLE:
        lines += [*_part(part), ""]
    grids = ["", "| country | bidding zones |", "|---|---|"]
    grids += [f"| {country} | {', '.join(names)} |" for country, names in sorted(GRID_ZONES.items())]
    return "\n".join([*lines, "## Rules", "", RULES, *grids]) + "\n"


def shipped(made: str) -> str:
    """Where the figures of the shipped fleet come from."""
    fleet = read_fleet(None)
    sites = [(f"{r.id}-{z.letter}", z, of_zone(r, z, fleet.shapes)) for r in fleet.regions for z in r.zones]
    lines = ["# The shipped fleet", "", made, SHIPPED_INTRO, "## Sites", ""]
    lines += [
        "| zone | site | operator | owner | grid | cooling | PUE | MW | hosts | GPUs | hosts made |",
        "|" + "---|" * 11,
    ]
    for name, zone, held in sites:
        gpus = ", ".join(f"{number:,} {model}" for model, number in sorted(held.gpus.items()))
        power = f"{zone.power_kw / 1000:g}" if zone.power_kw else ""
        cells = [f"`{name}`", zone.site, _party(fleet, zone.operator), _party(fleet, zone.owner), zone.grid_zone,
                 zone.cooling, zone.pue, power, f"{held.hosts:,}", gpus, held.made]  # fmt: skip
        lines.append("| " + " | ".join("" if cell is None else str(cell) for cell in cells) + " |")
    lines += ["", "## Which figure from where", "", "| what | figures | source |", "|---|---|---|"]
    lines += [f"| {what} | {', '.join(figures)} | {name} |" for what, name, figures in _told(fleet)]
    lines += [
        "",
        "All figures that are not here are assumed.",
        "",
        "## Sources",
        "",
        "| source | what | date |",
        "|---|---|---|",
    ]
    for name, it in fleet.sources.items():
        lines.append(
            f"| {name} | {f'[{it.title}]({it.url})' if it.url else it.title} | {it.date or ''} | {it.checked_on or ''} |"
        )
    return "\n".join([*lines, "", SHIPPED_ASSUMED.rstrip()]) + "\n"


def _party(fleet: FleetFile, name: str | None) -> str:
    if name is None:
        return ""
    it = fleet.parties[name]
    above = f", of {it.ultimate_parent.name} ({it.ultimate_parent.country})" if it.ultimate_parent else ""
    return f"{it.name} ({it.country}){above}"


def _told(fleet: FleetFile) -> Iterator[tuple[str, str, list[str]]]:
    """Of each part of the fleet the figures that have a source: part, source, figures."""
    for path, it in sourced_in(fleet):
        by_source: dict[str, list[str]] = {}
        for figure, name in it.sources_of().items():
            by_source.setdefault(name, []).append(figure)
        what = _called(fleet, path, it)
        yield from ((what, name, figures) for name, figures in by_source.items() if name != ASSUMED)


def _called(fleet: FleetFile, path: tuple[str | int, ...], it: object) -> str:
    """A part as people call it: `zone se-sto-b`, `party evroc`, `rack g of zone gb-lou-a`."""
    if path[0] != "regions":
        words = {"parties": "party", "shapes": "shape", "gpuModels": "GPU model", "prices": "price list"}
        return f"{words[str(path[0])]} {path[1]}"
    region = fleet.regions[int(path[1])]
    own = getattr(it, "id", "")
    if path[2] == "hosts":
        return f"host {own}"
    zone = f"zone {region.id}-{region.zones[int(path[3])].letter}"
    return zone if isinstance(it, FleetZone) else f"{str(path[-2]).removesuffix('s')} {own} of {zone}"


def _part(part: type[BaseModel]) -> Iterator[str]:
    name = part.__name__
    yield f"## {TITLES.get(name, name.removeprefix('Fleet'))}"
    yield ""
    yield (part.__doc__ or "").strip()
    yield ""
    yield "| field | type | required | meaning |"
    yield "|---|---|---|---|"
    schema = part.model_json_schema(by_alias=True)
    required = schema.get("required", ())
    for field, told in schema["properties"].items():
        needed = "yes" if field in required else ""
        yield f"| `{field}` | {_type(told)} | {needed} | {told.get('description', '')} |"


def _type(told: dict[str, Any]) -> str:
    """What stands there, in words: `whole number, 1 to 1000`."""
    kinds = [kind for kind in told.get("anyOf", [told]) if kind.get("type") != "null"]
    it = {**told, **kinds[0]}
    if "$ref" in it:
        return _title(it["$ref"])
    if "enum" in it:
        return ", ".join(f"`{word}`" for word in it["enum"])
    if it["type"] == "array":
        return f"list of {_type(it['items'])}"
    if it["type"] == "object":
        return f"mapping to {_type(it.get('additionalProperties') or next(iter(it['patternProperties'].values())))}"
    if it["type"] == "integer":
        return f"whole number, {it['minimum']:,} to {it['maximum']:,}"
    if it["type"] == "number":
        return f"decimal, {it['minimum']} to {it['maximum']}"
    if it.get("format") == "date":
        return "date"
    words = {"string": "text", "boolean": "`true` or `false`"}
    return words[it["type"]] + (f" `{it['pattern']}`" if "pattern" in it else "").replace("|", "\\|")


def _title(ref: str) -> str:
    name = ref.rsplit("/", 1)[-1]
    return TITLES.get(name, name.removeprefix("Fleet")).lower()
