"""Places through the API: what the fleet file says, in references from host to region; what leaves it, goes or says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hansa.control.hosts import capacity_scope
from hansa.errors import NotFound
from hansa.fleetfile import FleetFile, parse_fleet, read_fleet
from hansa.fleetobjects import PLACES, objects_of
from hansa.kinds.fleet import Zone
from hansa.kinds.resource import Key
from hansa.places import complete_networks, write_places
from hansa.store.port import Claim, Create, Query, Release, Reserve
from hansa.wiring import Cloud

from .conftest import FLEET, Talk, ready_of

pytestmark = pytest.mark.anyio

TEXT = """\
sources:
  paper: {title: A paper, url: "https://example.org/p", date: 2026-03-01}
parties:
  us: {name: Us AB, country: SE, source: paper}
  them: {name: Them GmbH, country: DE, ultimateParent: {name: Top Inc., country: US}}
regions:
  - id: se-sto
    name: Stockholm
    country: SE
    zones:
      - {letter: a, site: a}
      - letter: b
        site: b
        operator: us
        owner: them
        gridZone: SE3
        cooling: air
        pue: 1.25
        powerKW: 700
        sources: {pue: paper}
        halls:
          - id: h1
            powerKW: 600
            racks:
              - {id: r1, powerKW: 20, hosts: [{id: b, vcpus: 16, memoryGB: 64, powerW: 400, count: 9, made: 2}]}
              - {id: r2, count: 4, hosts: [{id: g, vcpus: 16, memoryGB: 64, gpuModel: B200, gpus: 8, count: 4, made: 0}]}
      - {letter: c, site: c}
      - {letter: d, site: d}
    hosts:
      - {id: a-1, zone: a, vcpus: 16, memoryGB: 64}
  - id: no-osl
    name: Oslo
    country: NO
    zones: [{letter: a, site: Oslo}]
    hosts: [{id: o-1, zone: a, vcpus: 16, memoryGB: 64}]
prices:
  - id: p1
    currency: EUR
    validFrom: 2026-01-01
    regions: [no-osl]
    items: [{profile: a1a.s, unit: Hours, micros: 48000}, {meter: disk, unit: GB-Hours, micros: 110}]
"""
FULL = parse_fleet(TEXT.encode(), "full.yaml")
PARIS = "/networking/v1beta2/projects/demo/regions/fr-par"


@pytest.fixture
def start(cloud: Cloud) -> Any:
    """Does what a start does with another fleet file."""

    async def again(fleet: FleetFile) -> None:
        await write_places(cloud.store, cloud.world.ids, fleet, stand_ins=True, clock=cloud.world.clock)
        await complete_networks(cloud.world)

    return again


async def read(talk: Talk, collection: str, name: str) -> dict[str, Any]:
    return await talk.read(f"/fleet/v1/{collection}/{name}")


async def names(talk: Talk, collection: str) -> set[str]:
    return {i["metadata"]["id"] for i in (await talk.read(f"/fleet/v1/{collection}"))["items"]}


async def test_a_host_points_at_its_rack_hall_zone_and_region(talk: Talk, start: Any) -> None:
    await start(FULL)
    host = (await read(talk, "hosts", "b-2"))["spec"]
    assert host["rackRef"] == "/fleet/racks/se-sto-b-h1-r1" and host["powerW"] == 400
    rack = (await read(talk, "racks", host["rackRef"].split("/")[-1]))["spec"]
    assert rack == {"hallRef": "/fleet/halls/se-sto-b-h1", "count": 1, "powerKW": 20, "hosts": 9, "gpus": [],
                    "sources": {"powerKW": "assumed"}}  # fmt: skip
    hall = (await read(talk, "halls", "se-sto-b-h1"))["spec"]
    assert (hall["zoneRef"], hall["racks"], hall["hosts"]) == ("/fleet/zones/se-sto-b", 5, 25)
    assert hall["gpus"] == [{"model": "B200", "quantity": 128}]
    zone = (await read(talk, "zones", "se-sto-b"))["spec"]
    assert (zone["regionRef"], zone["pue"], zone["gridZone"], zone["powerKW"]) == (
        "/fleet/regions/se-sto",
        "1.25",
        "SE3",
        700,
    )
    assert zone["operator"] == {
        "name": "Us AB",
        "country": "SE",
        "source": "A paper, 2026-03-01, https://example.org/p",
    }
    assert zone["owner"]["ultimateParent"] == {"name": "Top Inc.", "country": "US"}
    assert zone["sources"]["pue"].startswith("A paper") and zone["sources"]["powerKW"] == "assumed"
    assert (await read(talk, "regions", "se-sto"))["spec"]["country"] == "SE"


async def test_prices_are_whole_numbers_from_a_day_on(talk: Talk, start: Any) -> None:
    await start(FULL)
    spec = (await read(talk, "priceLists", "p1"))["spec"]
    assert spec == {
        "currency": "EUR", "validFrom": "2026-01-01", "source": "assumed", "regionRefs": ["/fleet/regions/no-osl"],
        "items": [{"profile": "a1a.s", "unit": "Hours", "micros": 48000}, {"meter": "disk", "unit": "GB-Hours", "micros": 110}],
    }  # fmt: skip


async def test_places_are_for_reading(talk: Talk, start: Any) -> None:
    await start(FULL)
    for collection, name in (("halls", "se-sto-b-h1"), ("racks", "se-sto-b-h1-r1"), ("priceLists", "p1")):
        for method in ("PATCH", "DELETE"):
            assert (await talk.call(method, f"/fleet/v1/{collection}/{name}", {})).status_code == 405
        body = {"metadata": {"id": "x"}, "spec": {}}
        assert (await talk.call("POST", f"/fleet/v1/{collection}", body)).status_code == 405


async def test_the_shipped_fleet_becomes_objects_whose_references_hold(cloud: Cloud, start: Any) -> None:
    fleet = read_fleet(None)
    await start(fleet)
    for key, spec in objects_of(fleet).items():
        assert (await cloud.store.get(key)).spec == spec
        pointed = {p.path: p.target.name for p in await cloud.store.pointers_from(key)}
        wanted = {f"spec.{name}": ref.split("/")[-1] for name, ref in spec.items() if name.endswith("Ref")}
        assert pointed == wanted and (wanted or key.kind in ("Region", "PriceList"))


async def test_a_second_start_changes_nothing(cloud: Cloud, start: Any) -> None:
    await start(FULL)

    async def state() -> list[Any]:
        found = [s for kind in (*PLACES, "Subnet", "VirtualPrivateCloud") for s in
                 (await cloud.store.list(Query(kind, "", below=True))).items]  # fmt: skip
        return [(s.key, s.uid, s.generation, s.user_revision, s.spec, s.deleted_at) for s in found]

    await cloud.loop.stop()  # what is on its way out stays as it is
    before = await state()
    await start(FULL)
    assert await state() == before


# -- what is new --------------------------------------------------------------------------------


async def test_a_new_zone_and_a_new_region_get_default_networks_in_every_project(talk: Talk, start: Any) -> None:
    await start(FULL)
    at = "/networking/v1beta2/projects/demo/regions/se-sto/subnets"
    made = await talk.read(f"{at}/default-se-sto-d")
    assert made["spec"] == {"vpcRef": "/networking/projects/demo/regions/se-sto/virtualPrivateClouds/default-se-sto",
                            "stackType": "dual-stack", "ipv4CidrBlock": "10.0.48.0/20", "placement": {"zone": "d"}}  # fmt: skip
    assert ready_of(made)["status"] == "True"
    blocks = [s["status"]["assignedIPv6GUABlock"] for s in (await talk.read(at))["items"]]
    assert len(set(blocks)) == len(blocks) == 4
    oslo = "/networking/v1beta2/projects/demo/regions/no-osl"
    assert (await talk.read(f"{oslo}/virtualPrivateClouds/default-no-osl"))["spec"]["ipv4CidrBlocks"] == ["10.0.0.0/16"]
    assert (await talk.read(f"{oslo}/subnets/default-no-osl-a"))["spec"]["ipv4CidrBlock"] == "10.0.0.0/20"


async def test_a_default_subnet_that_comes_late_avoids_what_is_there(talk: Talk, start: Any) -> None:
    at = "/networking/v1beta2/projects/demo/regions/se-sto/subnets"
    spec = {
        "vpcRef": "default-se-sto",
        "stackType": "dual-stack",
        "ipv4CidrBlock": "10.0.50.0/24",
        "placement": {"zone": "a"},
    }
    await talk.make(at, "mine", spec)
    await start(FULL)
    assert (await talk.read(f"{at}/default-se-sto-d"))["spec"]["ipv4CidrBlock"] == "10.0.64.0/20"


async def test_networks_are_completed_after_a_start_that_was_cut_short(talk: Talk, cloud: Cloud, start: Any) -> None:
    await write_places(cloud.store, cloud.world.ids, FULL, stand_ins=True)  # and killed here
    assert [z.name for z in await cloud.world.all(Zone) if z.stored.observed == 0] == ["se-sto-d", "no-osl-a"]
    await start(FULL)
    assert all(z.stored.observed == z.generation for z in await cloud.world.all(Zone))
    await talk.read("/networking/v1beta2/projects/demo/regions/no-osl/subnets/default-no-osl-a")


# -- what leaves --------------------------------------------------------------------------------


async def test_what_left_the_file_goes_with_its_default_networks(talk: Talk, start: Any) -> None:
    await start(FULL)
    await talk.gone("/fleet/v1/regions/fr-par")
    await talk.gone("/fleet/v1/zones/fr-par-a")
    await talk.gone("/fleet/v1/hosts/p-1")
    await talk.gone(f"{PARIS}/subnets/default-fr-par-a")
    await talk.gone(f"{PARIS}/virtualPrivateClouds/default-fr-par")
    await start(FLEET)
    for name in ("se-sto-b-h1-r1", "se-sto-b-h1-r2"):
        await talk.gone(f"/fleet/v1/racks/{name}")
    await talk.gone("/fleet/v1/halls/se-sto-b-h1")
    await talk.gone("/fleet/v1/priceLists/p1")
    await talk.gone("/fleet/v1/zones/se-sto-d")
    assert await names(talk, "regions") == {"se-sto", "fr-par"}
    assert await names(talk, "hosts") == {"a-1", "b-1", "b-2", "p-1"}
    await talk.read(f"{PARIS}/subnets/default-fr-par-a")  # and came again with the region


async def test_a_place_on_which_a_disk_stands_stays_and_says_so(talk: Talk, start: Any) -> None:
    paris = Talk(talk.http, talk.token, region="fr-par")
    blank = {"diskSize": {"amount": 1, "unit": "GB"}, "placement": {"zone": "a"}}
    await paris.make(paris.at("disks"), "d", blank)
    await paris.until(paris.at("disks/d"))
    await start(FULL)
    await talk.gone("/fleet/v1/hosts/p-1")  # nothing stands on the host itself
    zone = ready_of(await read(talk, "zones", "fr-par-a"))
    assert (zone["status"], zone["reason"]) == ("False", "LeftFleetFile")
    assert zone["message"] == "it left the fleet file, but 1 disk(s) or snapshot(s) stand in Zone fr-par-a"
    region = ready_of(await read(talk, "regions", "fr-par"))
    assert region["reason"] == "LeftFleetFile" and "snapshot(s) stand in Zone fr-par-a" in region["message"]
    await talk.read(f"{PARIS}/subnets/default-fr-par-a")
    assert (await paris.call("DELETE", paris.at("disks/d"))).status_code == 204
    await paris.gone(paris.at("disks/d"))
    await start(FULL)
    await talk.gone("/fleet/v1/regions/fr-par")


async def test_a_region_with_a_network_of_a_project_stays(talk: Talk, start: Any) -> None:
    vpc = {"stackType": "dual-stack", "ipv4CidrBlocks": ["10.9.0.0/16"]}
    await talk.make(f"{PARIS}/virtualPrivateClouds", "own", vpc)
    await start(FULL)
    said = ready_of(await read(talk, "regions", "fr-par"))["message"]
    assert "VirtualPrivateCloud own in projects/demo/regions/fr-par stands in Region fr-par" in said
    await talk.gone("/fleet/v1/zones/fr-par-a")


async def test_a_zone_with_a_subnet_of_a_project_stays(talk: Talk, start: Any) -> None:
    spec = {
        "vpcRef": "default-fr-par",
        "stackType": "dual-stack",
        "ipv4CidrBlock": "10.0.200.0/24",
        "placement": {"zone": "a"},
    }
    await talk.make(f"{PARIS}/subnets", "mine", spec)
    await start(FULL)
    assert "Subnet mine" in ready_of(await read(talk, "zones", "fr-par-a"))["message"]
    await talk.read(f"{PARIS}/subnets/default-fr-par-a")


async def test_a_host_with_a_machine_keeps_all_that_it_stands_in(talk: Talk, cloud: Cloud, start: Any) -> None:
    await start(FULL)
    owner = cloud.world.ids.uid()
    await cloud.store.commit(Reserve(owner, (Claim(capacity_scope("b-2"), "vcpus", 2, ceiling=16),)))
    await start(FLEET.model_copy(update={"regions": FLEET.regions[1:]}))
    await talk.gone("/fleet/v1/hosts/b-1")
    await talk.gone("/fleet/v1/racks/se-sto-b-h1-r2")
    host = ready_of(await talk.until("/fleet/v1/hosts/b-2", "True"))
    assert host["status"] == "True"  # this process drives it still; the next one will not
    for collection, name in (("racks", "se-sto-b-h1-r1"), ("halls", "se-sto-b-h1"), ("zones", "se-sto-b")):
        said = ready_of(await read(talk, collection, name))
        assert said["message"] == "it left the fleet file, but 1 machine(s) stand on Host b-2"
    assert ready_of(await read(talk, "regions", "se-sto"))["reason"] == "LeftFleetFile"
    await cloud.store.commit(Release(owner))
    await start(FLEET)  # it is back: as if it had never left
    assert (await read(talk, "zones", "se-sto-b"))["status"] == {}
    await talk.gone("/fleet/v1/halls/se-sto-b-h1")


async def test_a_place_that_comes_back_before_it_was_gone_is_made_anew(cloud: Cloud, start: Any, talk: Talk) -> None:
    await cloud.loop.stop()  # nobody forgets what is deleted
    old = await cloud.store.get(Key("Region", "", "fr-par"))
    await start(FULL)
    assert (await cloud.store.get(Key("Region", "", "fr-par"))).deleted_at is not None
    await start(FLEET)
    new = await cloud.store.get(Key("Region", "", "fr-par"))
    assert new.deleted_at is None and new.uid != old.uid and new.spec == old.spec


async def test_processes_that_start_together_write_the_same(cloud: Cloud) -> None:
    import asyncio

    writing = (write_places(cloud.store, cloud.world.ids, FULL, stand_ins=True) for _ in range(4))
    await asyncio.gather(*writing)
    for key, spec in objects_of(FULL).items():
        assert (await cloud.store.get(key)).spec == spec


async def test_a_place_that_is_not_ours_is_left_alone(cloud: Cloud, start: Any) -> None:
    """Only places leave: catalogues and everything else stays."""
    key = Key("ComputeProfile", "global", "old.xl")
    await cloud.store.commit(Create(key, cloud.world.ids.uid(), {}, observed=1, due=False))
    await start(FULL)
    assert (await cloud.store.get(key)).deleted_at is None
    with pytest.raises(NotFound):
        await cloud.store.get(Key("Hall", "", "nowhere"))


async def test_a_default_region_that_the_fleet_does_not_have_is_refused(tmp_path: Path) -> None:
    from hansa.config import Settings
    from hansa.errors import Invalid
    from hansa.wiring import build_cloud

    with pytest.raises(Invalid, match="HANSA_REGION: the fleet has no region xx-yyy; it has se-sto, "):
        await build_cloud(Settings(data=tmp_path, region="xx-yyy"), "http://127.0.0.1:1")
    assert not (tmp_path / "hansa.db").exists()
