"""Placement refuses with its shortfall, chooses the roomiest, and is the same every time."""

from __future__ import annotations

from dataclasses import replace

from hansa.placement.fleet import FleetView, HostRow
from hansa.placement.place import place
from hansa.placement.request import Request

GB = 10**9
HOST = HostRow("h1", "r", "a", "SE", True, False, 16, 32 * GB)
REQUEST = Request("u", "r", "a", 4, 8 * GB)


def test_the_host_with_the_most_room_is_chosen() -> None:
    fleet = FleetView((HOST, replace(HOST, name="h2", free_vcpus=64, free_memory_bytes=256 * GB)))
    decision = place(REQUEST, fleet)
    assert decision.host == "h2" and [r.host for r in decision.ranked] == ["h2", "h1"]
    assert place(REQUEST, fleet) == decision


def test_a_full_host_is_refused_with_its_shortfall() -> None:
    decision = place(REQUEST, FleetView((replace(HOST, free_vcpus=3),)))
    assert decision.host == "" and decision.may_change
    assert decision.refused[0].message == "asks for 4 vCPUs, at most 3 are free on one host"


def test_each_host_is_refused_by_its_first_reason_only() -> None:
    fleet = FleetView((replace(HOST, zone="b", free_vcpus=0), replace(HOST, name="h2", free_memory_bytes=0)))
    assert [(r.reason, r.hosts) for r in place(REQUEST, fleet).refused] == [("OtherZone", 1), ("MemoryShort", 1)]


def test_a_forbidden_territory_is_refused_with_the_rules_words() -> None:
    decision = place(replace(REQUEST, forbidden=(("SE", "only NO"),)), FleetView((HOST,)))
    assert decision.refused[0].message == "only NO" and not decision.may_change


def test_a_spread_group_never_shares_a_host() -> None:
    fleet = FleetView((replace(HOST, groups=frozenset({"g"})), replace(HOST, name="h2", free_vcpus=4)))
    assert place(replace(REQUEST, group="g"), fleet).host == "h2"


def test_a_gpu_that_is_not_there_is_refused() -> None:
    decision = place(replace(REQUEST, gpus=1, gpu_model="B200"), FleetView((HOST,)))
    assert decision.refused[0].reason == "GpuMissing"


def test_no_host_at_all_is_a_refusal_without_reason() -> None:
    assert place(REQUEST, FleetView()).host == ""
