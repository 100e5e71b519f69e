"""A real host stands alone in its zone: so no placement, and no spread group, ever mixes real and simulated hosts."""

from __future__ import annotations

from pathlib import Path

import pytest

from hansa.errors import Invalid
from hansa.fleetfile import read_fleet

FLEET = """
regions:
  - id: se-sto
    name: Stockholm
    country: SE
    zones: [{letter: a, site: One}, {letter: b, site: Two}]
    hosts:
      - {id: mine, zone: %s, real: true}
      - {id: paper, zone: b, vcpus: 8, memoryGB: 32}
      - {id: other, zone: %s, vcpus: 8, memoryGB: 32}
"""


def read(folder: Path, mine: str, other: str) -> None:
    file = folder / "fleet.yaml"
    file.write_text(FLEET % (mine, other))
    read_fleet(file)


def test_alone_in_its_zone_it_is_taken(tmp_path: Path) -> None:
    read(tmp_path, "a", "b")


@pytest.mark.parametrize(("mine", "other"), [("b", "b"), ("a", "a")])
def test_beside_a_simulated_host_it_is_refused(tmp_path: Path, mine: str, other: str) -> None:
    with pytest.raises(Invalid) as refused:
        read(tmp_path, mine, other)
    assert "mine" in refused.value.message and "zone" in refused.value.message


def test_a_zone_of_the_same_letter_in_another_region_is_another_zone(tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    elsewhere = (
        FLEET[FLEET.index("  - id") :].replace("se-sto", "fr-par").replace(", real: true", ", vcpus: 8, memoryGB: 32")
    )
    for name in ("mine", "paper", "other"):
        elsewhere = elsewhere.replace(f"id: {name}", f"id: far-{name}")
    file.write_text(FLEET % ("a", "b") + elsewhere % ("a", "b"))
    hosts = [host for region in read_fleet(file).regions for host in region.hosts]
    assert [host.id for host in hosts if host.real] == ["mine"] and len(hosts) == 6


def test_only_one_host_is_this_machine(tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text((FLEET % ("a", "b")).replace("{id: paper, zone: b,", "{id: paper, zone: b, real: true,"))
    with pytest.raises(Invalid) as refused:
        read_fleet(file)
    assert "real" in refused.value.message


def test_in_the_fleet_that_is_shipped_it_stands_alone() -> None:
    (region, host) = next((r, h) for r in read_fleet(None).regions for h in r.hosts if h.real)
    assert [each.id for each in region.hosts if each.zone == host.zone] == [host.id]
