"""What `hansa apply` makes of a file before anything is written."""

from __future__ import annotations

from typing import Any

from hansa.cli.apply import ordered, without_rules


def rule(*, to: str = "", **remote: Any) -> dict[str, Any]:
    return {"direction": "Egress", "remote": {"securityGroupRef": to} if to else remote}


def body(*rules: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"id": "front"}, "spec": {"vpcRef": "shop", "rules": list(rules)}}


def test_rules_that_name_a_group_which_is_not_made_yet_are_left_for_later() -> None:
    world, own, full = rule(), rule(to="front"), rule(to="/networking/projects/p/regions/r/securityGroups/app")
    whole = body(world, own, full, rule(to="db"))
    assert without_rules(whole, {"app"}) == body(world, own, rule(to="db"))
    assert without_rules(whole, {"app", "db"})["spec"] == {"vpcRef": "shop", "rules": [world, own]}
    assert without_rules(whole, {"other"}) is whole and without_rules(whole, set()) is whole
    bare = {"metadata": {"id": "x"}, "spec": {"vpcRef": "shop"}}
    assert without_rules(bare, {"app"}) is bare


def test_what_is_pointed_at_comes_first() -> None:
    restored = {"kind": "Disk", "metadata": {"id": "b"}, "spec": {"source": {"snapshotRef": "s"}}}
    kinds = ["hotswap", "vm", "snap", "disk", "sg", "subnet", "vpc"]
    mixed = [restored, *({"kind": kind, "metadata": {"id": "a"}} for kind in kinds)]
    names = [(d["kind"], d["metadata"]["id"]) for d in ordered(mixed)]
    assert names == [("vpc", "a"), ("subnet", "a"), ("sg", "a"), ("disk", "a"), ("snap", "a"), ("Disk", "b"), ("vm", "a"),
                     ("hotswap", "a")]  # fmt: skip
