"""The fleet file: each rule with the line on which it is broken, sums, counted hosts, and the shipped fleet."""

from __future__ import annotations

from pathlib import Path

import pytest

from hansa.data.catalogue import profiles
from hansa.errors import Invalid
from hansa.fleetfile import FleetFile, parse_fleet, read_fleet
from hansa.fleetparts import MADE_MAX, ROOMS_MAX, sourced_in
from hansa.fleetsums import made_hosts, of_hall, of_rack, of_region, of_zone
from hansa.marked import InvalidFile

GOOD = """\
sources:
  paper: {title: A paper, url: "https://example.org/p", date: 2026-03-01}
parties:
  us: {name: Us AB, country: SE, source: paper}
  them: {name: Them GmbH, country: DE, ultimateParent: {name: Top Inc., country: US}}
gpuModels:
  B200: {memoryGB: 180, powerW: 1000}
shapes:
  cpu: {vcpus: 64, memoryGB: 256, powerW: 500}
  gpu: {vcpus: 208, memoryGB: 2096, gpuModel: B200, gpus: 8, powerW: 14300, source: paper}
regions:
  - id: se-sto
    name: Stockholm
    country: SE
    zones:
      - {letter: a, site: One}
      - letter: b
        site: Two
        operator: us
        owner: them
        gridZone: SE3
        cooling: air
        pue: 1.25
        powerKW: 700
        sources: {pue: paper}
        halls:
          - id: h1
            powerKW: 680
            racks:
              - {id: r1, powerKW: 60, hosts: [{id: b-gpu, shape: gpu, count: 4, made: 2}]}
              - {id: r2, count: 10, powerKW: 60, hosts: [{id: b-more, shape: gpu, count: 4, made: 0}]}
            hosts:
              - {id: b-loose, shape: cpu}
    hosts:
      - {id: me, zone: a, real: true}
      - {id: b-9, zone: b, vcpus: 8, memoryGB: 32}
prices:
  - id: p1
    currency: EUR
    validFrom: 2026-01-01
    items:
      - {profile: a1a.s, unit: Hours, micros: 48000}
      - {meter: disk, unit: GB-Hours, micros: 110}
  - id: p2
    currency: EUR
    validFrom: 2026-07-01
    regions: [se-sto]
    items: [{meter: disk, unit: GB-Hours, micros: 100}]
"""


def good() -> FleetFile:
    return parse_fleet(GOOD.encode(), "good.yaml")


def broken(old: str, new: str) -> list[tuple[int, str, str]]:
    """Line, field and message of every mistake once `old` reads `new`."""
    assert GOOD.count(old) == 1, old
    with pytest.raises(InvalidFile) as caught:
        parse_fleet(GOOD.replace(old, new).encode(), "f.yaml")
    return [(m.place.line, m.path, m.message) for m in caught.value.mistakes]


def test_the_example_is_good_and_sums_up() -> None:
    fleet = good()
    (region,) = fleet.regions
    hall = region.zones[1].halls[0]
    assert of_rack(hall.racks[1], fleet.shapes).gpus == {"B200": 10 * 4 * 8}
    held = of_hall(hall, fleet.shapes)
    assert (held.hosts, held.gpus_total, held.made) == (4 + 40 + 1, 44 * 8, 3)
    assert held.power_w == 44 * 14_300 + 500
    assert of_zone(region, region.zones[1], fleet.shapes).hosts == 46
    assert of_region(region, fleet.shapes).hosts == 47
    assert str(region.zones[1].pue) == "1.25"


def test_made_hosts_carry_the_figures_of_their_shape_and_where_they_stand() -> None:
    fleet = good()
    made = {m.host.id: m for m in made_hosts(fleet.regions, fleet.shapes)}
    assert list(made) == ["me", "b-9", "b-loose", "b-gpu-1", "b-gpu-2"]
    it = made["b-gpu-2"]
    assert (it.zone, it.hall, it.rack) == ("se-sto-b", "se-sto-b-h1", "se-sto-b-h1-r1")
    assert (it.host.gpus, it.host.gpu_model, it.host.vcpus, it.host.count) == (8, "B200", 208, None)
    assert made["me"].host.real and not it.host.real


def test_every_given_figure_has_a_source_or_is_assumed() -> None:
    fleet = good()
    zone = fleet.regions[0].zones[1]
    assert zone.sources_of() == {
        "site": "assumed", "operator": "assumed", "owner": "assumed", "gridZone": "assumed", "cooling": "assumed",
        "pue": "paper", "powerKW": "assumed",
    }  # fmt: skip
    assert fleet.shapes["gpu"].sources_of()["powerW"] == "paper"
    assert "powerW" not in fleet.regions[0].hosts[1].sources_of()


RULES = [
    # names
    ("  - id: se-sto\n    name", "  - id: se_sto\n    name", 12, "regions[0].id", "pattern"),
    ("letter: b", "letter: a", 17, "regions[0].zones[1].letter", "already"),
    ("letter: b", "letter: bb", 17, "regions[0].zones[1].letter", "pattern"),
    ("          - id: h1\n", "          - {id: h1}\n          - id: h1\n", 28, "regions[0].zones[1].halls[1].id", "hall se-sto-b-h1 already"),
    ("id: r2", "id: r1", 31, "regions[0].zones[1].halls[0].racks[1].id", "rack se-sto-b-h1-r1 already"),
    ("id: b-9", "id: b-gpu-2", 30, "regions[0].zones[1].halls[0].racks[0].hosts[0].id", "host b-gpu-2 already"),
    ("id: h1", "id: " + "h" * 60, 27, "regions[0].zones[1].halls[0].id", "at most 63"),
    ("id: p2", "id: p1", 44, "prices[1].id", "already"),
    # parties, sources, grid
    ("operator: us", "operator: nobody", 19, "regions[0].zones[1].operator", "no party nobody; known: them, us"),
    ("owner: them", "owner: nobody", 20, "regions[0].zones[1].owner", "no party nobody"),
    ("pue: paper", "pue: rumour", 25, "regions[0].zones[1].sources.pue", "no source rumour"),
    ("pue: paper", "heat: paper", 25, "regions[0].zones[1].sources.heat", "is not given here"),
    ("country: SE, source: paper", "country: SE, source: rumour", 4, "parties.us.source", "no source rumour; known: assumed, paper"),
    ("gridZone: SE3", "gridZone: SE5", 21, "regions[0].zones[1].gridZone", "SE1, SE2, SE3, SE4"),
    ("gridZone: SE3", "gridZone: NO4", 21, "regions[0].zones[1].gridZone", "not NO4"),
    ("country: US}", "country: usa}", 5, "parties.them.ultimateParent.country", "pattern"),
    ("  paper: {title", "  assumed: {title: x}\n  paper: {title", 2, "sources.assumed", "is no name of a source"),
    ("https://example.org/p", "ftp://example.org/p", 2, "sources.paper.url", "pattern"),
    ("date: 2026-03-01", "date: 1 March 2026", 2, "sources.paper.date", "YYYY-MM-DD"),
    # figures
    ("pue: 1.25", "pue: 0.9", 23, "regions[0].zones[1].pue", "greater than or equal to 1 (given: 0.9)"),
    ("pue: 1.25", "pue: 'low'", 23, "regions[0].zones[1].pue", "must be a number"),
    ("pue: 1.25", "pue: true", 23, "regions[0].zones[1].pue", "must be a number"),
    ("powerKW: 700", "powerKW: 700.5", 24, "regions[0].zones[1].powerKW", "valid integer"),
    ("powerKW: 700", "powerKW: '700'", 24, "regions[0].zones[1].powerKW", "valid integer"),
    ("powerKW: 700", "power_kw: 700", 24, "regions[0].zones[1].power_kw", "it is written powerKW"),
    ("cooling: air", "cooling: ice", 22, "regions[0].zones[1].cooling", "'air'"),
    ("        site: Two\n", "", 17, "regions[0].zones[1].site", "is required"),
    # hosts
    ("zone: b, vcpus", "zone: c, vcpus", 36, "regions[0].hosts[1].zone", "must be a zone of the region: a, b"),
    ("id: b-loose, shape", "id: b-loose, zone: b, shape", 33, "regions[0].zones[1].halls[0].hosts[0].zone", "leave it out"),
    ("id: b-loose, shape: cpu", "id: b-loose, shape: tpu", 33, "regions[0].zones[1].halls[0].hosts[0].shape", "no shape tpu; known: cpu, gpu"),
    ("id: b-loose, shape: cpu", "id: b-loose, shape: cpu, vcpus: 4", 33, "regions[0].zones[1].halls[0].hosts[0].vcpus", "shape cpu already"),
    ("vcpus: 8, memoryGB: 32", "memoryGB: 32", 36, "regions[0].hosts[1].vcpus", "needs a shape"),
    ("vcpus: 8, memoryGB: 32", "vcpus: 8", 36, "regions[0].hosts[1].memoryGB", "needs a shape"),
    ("vcpus: 8, memoryGB: 32", "vcpus: 8, memoryGB: 32, gpus: 1", 36, "regions[0].hosts[1].gpus", "go together"),
    ("vcpus: 8, memoryGB: 32", "vcpus: 8, memoryGB: 32, gpuModel: B200", 36, "regions[0].hosts[1].gpuModel", "go together"),
    ("gpuModel: B200, gpus", "gpuModel: B300, gpus", 10, "shapes.gpu.gpuModel", "no GPU model B300; known: B200"),
    ("memoryGB: 256", "memoryGB: 0", 9, "shapes.cpu.memoryGB", "needs a shape"),
    ("made: 2", "made: 5", 30, "regions[0].zones[1].halls[0].racks[0].hosts[0].made", "5 of 4"),
    ("id: b-9, zone: b,", "id: b-9, zone: b, made: 1,", 36, "regions[0].hosts[1].made", "goes with `count`"),
    ("count: 4, made: 0}", "made: 0}", 31, "regions[0].zones[1].halls[0].racks[1].hosts[0]", "10 racks alike"),
    ("id: b-9, zone: b", "id: b-9, zone: a", 35, "regions[0].hosts[0].real", "must be the only host of its zone"),
    ("zone: b, vcpus", "zone: b, real: true, vcpus", 36, "regions[0].hosts[1].real", "stands twice"),
    ("zone: a, real: true", "zone: a, real: true, count: 1", 35, "regions[0].hosts[0].count", "is one host"),
    ("made: 2", "made: 3000", 30, "regions[0].zones[1].halls[0].racks[0].hosts[0].made", "less than or equal to 2000"),
    # power
    ("id: r1, powerKW: 60", "id: r1, powerKW: 57", 30, "regions[0].zones[1].halls[0].racks[0].powerKW", "draws 58 kW, and it has 57"),
    ("powerKW: 680", "powerKW: 660", 28, "regions[0].zones[1].halls[0].powerKW", "draws 661 kW, and it has 660"),
    ("powerKW: 700", "powerKW: 679", 24, "regions[0].zones[1].powerKW", "draws 680 kW, and it has 679"),
    # prices
    ("profile: a1a.s", "profile: a9z.s", 42, "prices[0].items[0].profile", "no profile a9z.s"),
    ("profile: a1a.s, unit", "profile: a1a.s, meter: disk, unit", 42, "prices[0].items[0]", "either a profile or a meter"),
    ("{profile: a1a.s, unit: Hours", "{meter: disk, unit: GB-Hours", 43, "prices[0].items[1]", "a price for GB-Hours already"),
    ("micros: 48000", "micros: 0.048", 42, "prices[0].items[0].micros", "valid integer"),
    ("micros: 48000", "micros: -1", 42, "prices[0].items[0].micros", "greater than or equal to 0"),
    ("unit: Hours", "unit: Fortnights", 42, "prices[0].items[0].unit", "'Hours'"),
    ("validFrom: 2026-07-01", "validFrom: 2026-01-01", 46, "prices[1].validFrom", "begins with p1"),
    ("validFrom: 2026-07-01", "validFrom: 2026-07-32", 46, "prices[1].validFrom", "YYYY-MM-DD"),
    ("regions: [se-sto]", "regions: [se-sto, no-osl]", 47, "prices[1].regions[1]", "no region no-osl"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "line", "field", "said"), RULES, ids=[f"{r[3]}: {r[4]}" for r in RULES])
def test_a_broken_rule_is_told_with_line_and_field(old: str, new: str, line: int, field: str, said: str) -> None:
    found = broken(old, new)
    assert any(f == field and said in m for _, f, m in found), found
    at = next(place for place, f, m in found if f == field and said in m)
    assert at == line, found


def test_too_many_made_hosts_are_refused() -> None:
    group = f"{{id: x, zone: b, vcpus: 1, memoryGB: 1, count: {MADE_MAX}, made: {MADE_MAX}}}"
    ((line, field, said),) = broken("{id: b-9, zone: b", group + "\n      - {id: b-9, zone: b")
    assert (line, field) == (36, "regions[0].hosts[1].id")
    assert said == "makes host 2001 of the fleet; at most 2000 are made: lower `made`"


def test_too_many_racks_are_counted_instead() -> None:
    racks = "".join(f"              - {{id: x{i}}}\n" for i in range(ROOMS_MAX))
    ((line, field, said),) = broken("              - {id: r2", racks + "              - {id: r2")
    assert (line, field) == (31 + ROOMS_MAX - 2, f"regions[0].zones[1].halls[0].racks[{ROOMS_MAX - 1}].id")
    assert said.endswith("at most 10000 are told: `count` alike racks")


def test_several_mistakes_are_told_in_the_order_of_the_file() -> None:
    text = GOOD.replace("operator: us", "operator: nobody").replace("gridZone: SE3", "gridZone: FR")
    with pytest.raises(InvalidFile) as caught:
        parse_fleet(text.replace("id: p2", "id: p1").encode(), "my.yaml")
    error = caught.value
    assert [m.place.line for m in error.mistakes] == sorted(m.place.line for m in error.mistakes)
    assert error.count == 3 and error.message.startswith("my.yaml is not a good file\n  my.yaml:19:9: ")
    assert [f.path for f in error.fields][0] == "regions[0].zones[1].operator"


@pytest.mark.parametrize("text", ["", "- a\n", "just text\n", "1\n", "regions: []\n", "regions: {}\n", "regions:\n"])
def test_what_is_no_fleet_at_all_is_refused(text: str) -> None:
    with pytest.raises(InvalidFile):
        parse_fleet(text.encode(), "f.yaml")


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="cannot be read: No such file"):
        read_fleet(tmp_path / "none.yaml")
    with pytest.raises(Invalid, match="cannot be read: Is a directory"):
        read_fleet(tmp_path)


# -- the shipped fleet --------------------------------------------------------------------------


def test_the_shipped_fleet_stands_where_it_should() -> None:
    fleet = read_fleet(None)
    sites = {region.name: [zone.letter for zone in region.zones] for region in fleet.regions}
    assert sites == {
        "Stockholm": ["a", "b", "c"], "Borlänge": ["a"], "Narvik": ["a"], "Paris": ["a", "b"], "Mougins": ["a"],
        "Frankfurt": ["a", "b"], "Loughton": ["a"], "Newcastle": ["a"],
    }  # fmt: skip
    assert {r.name: r.zones[-1].grid_zone for r in fleet.regions} == {
        "Stockholm": "SE3", "Borlänge": "SE3", "Narvik": "NO4", "Paris": "FR", "Mougins": "FR", "Frankfurt": "DE-LU",
        "Loughton": "GB", "Newcastle": "GB",
    }  # fmt: skip
    made = list(made_hosts(fleet.regions, fleet.shapes))
    assert [m.host.id for m in made if m.host.real] == ["se-sto-a-1"]
    assert {"se-sto-b-1", "se-sto-b-2", "se-sto-b-3", "se-sto-c-1", "se-sto-c-2", "fr-par-a-1", "fr-par-a-2", "de-fra-a-1",
            "fr-mgs-a-1"} <= {m.host.id for m in made}  # fmt: skip
    assert len(made) < 50  # a start stays cheap
    for region in fleet.regions:
        for zone in region.zones:
            assert any(m.zone == f"{region.id}-{zone.letter}" for m in made), f"{region.id}-{zone.letter} has no host"
            if zone.source != "machine":
                assert zone.operator and zone.owner and zone.pue and zone.power_kw and zone.cooling


def test_the_shipped_fleet_is_announced_where_it_says_so() -> None:
    fleet = read_fleet(None)
    zones = {f"{r.id}-{z.letter}": of_zone(r, z, fleet.shapes) for r in fleet.regions for z in r.zones}
    assert zones["gb-lou-a"].gpus["GB300"] == 23_040
    assert zones["fr-mgs-a"].gpus["B200"] == 50_000
    assert zones["se-sto-c"].gpus["B200"] == 16_000
    assert zones["no-nvk-a"].gpus["GB300"] == 100_008
    used = {name for _, it in sourced_in(fleet) for name in it.sources_of().values()} - {"assumed"}
    assert used == set(fleet.sources), "a source that nothing names, or the other way round"
    for name, source in fleet.sources.items():
        if name not in ("machine", "profiles"):
            assert source.url.startswith("https://") and source.checked_on is not None, name


def test_the_shipped_fleet_prices_every_profile() -> None:
    (prices,) = read_fleet(None).prices
    assert {item.profile for item in prices.items if item.profile} == set(profiles())
    assert prices.source == "assumed"
