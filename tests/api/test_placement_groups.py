"""Spread groups over the simulated hosts of one zone: a host for each member, and none for one too many."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from .conftest import Talk, ready_of

pytestmark = pytest.mark.anyio


async def member(talk: Talk, name: str, group: str = "g", zone: str = "b") -> str:
    """Ask for a machine of the group. Returns its path."""
    await talk.make(talk.at("disks"), name, {"diskSize": {"amount": 20, "unit": "GB"}, "placement": {"zone": zone}})
    await talk.until(talk.at(f"disks/{name}"))
    await talk.make(talk.at("virtualMachines"), name, {
        "computeProfileRef": "c1a.s", "disks": [{"diskRef": name, "bootFrom": True}],
        "placement": {"zone": zone, "placementGroupRef": group}})  # fmt: skip
    return talk.at(f"virtualMachines/{name}")


async def host_of(talk: Talk, path: str) -> str:
    await talk.until(path)
    (chosen,) = (await talk.read(f"{path}/why"))["decision"]["chosen"]
    return str(chosen["host"])


async def spread(talk: Talk, name: str, zone: str = "b") -> None:
    await talk.make(talk.at("placementGroups"), name, {"strategy": {"type": "spread"}, "placement": {"zone": zone}})


async def test_each_member_has_a_host_of_its_own_however_many_ask_at_once(talk: Talk) -> None:
    for group in ("g", "h"):
        await spread(talk, group)
    asked = [("m0", "g"), ("m1", "g"), ("m2", "h"), ("m3", "h")]
    paths = await asyncio.gather(*(member(talk, name, group) for name, group in asked))
    hosts = [await host_of(talk, path) for path in paths]
    assert sorted(hosts[:2]) == sorted(hosts[2:]) == ["b-1", "b-2"]


async def test_one_too_many_is_told_whose_hosts_are_taken_and_a_place_that_is_left_is_taken(talk: Talk) -> None:
    await spread(talk, "g")
    first, second = await member(talk, "m0"), await member(talk, "m1")
    left = await host_of(talk, first)
    await talk.until(second)
    third = await member(talk, "m2")
    failed = await talk.until(third, "False")
    assert failed["status"]["virtualMachineStatus"] == "ProvisioningFailed"
    assert ready_of(failed)["reason"] == "PlacementGroupExceeded"
    assert {"b-1", "b-2"} <= set(ready_of(failed)["message"].replace(",", " ").split())
    for path in (third, first):
        assert (await talk.call("DELETE", path)).status_code == 204
        await talk.gone(path)
    assert await host_of(talk, await member(talk, "m3")) == left


async def test_a_member_stands_in_the_zone_of_its_group(talk: Talk) -> None:
    await spread(talk, "g", "a")
    refused: dict[str, Any] = await talk.until(await member(talk, "m0"), "False")
    assert ready_of(refused)["reason"] == "ReferenceInvalid"
    assert "placement group g is in zone a" in ready_of(refused)["message"]
