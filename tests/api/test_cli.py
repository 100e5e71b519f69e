"""The command line against a served cloud: files into objects, lists of kinds, one field for a script."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import test_console_clients
from .test_console_clients import Served

pytestmark = pytest.mark.anyio
served = test_console_clients.served

NET = "networking/v1beta2"
NETWORK = """
kind: VirtualPrivateCloud
metadata: {id: shop}
"""


def group(name: str, *remotes: str) -> str:
    rules = "".join(f"\n    - {{direction: Egress, remote: {{securityGroupRef: {r}}}}}" for r in remotes)
    return f"\n---\nkind: SecurityGroup\nmetadata: {{id: {name}}}\nspec:\n  vpcRef: shop\n  rules:{rules or ' []'}\n"


async def test_groups_that_name_one_another_stand_in_one_file(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "groups.yaml"
    file.write_text(NETWORK + group("front", "front", "app") + group("app", "front", "db") + group("db"))
    code, out, errors = await served.run("apply", "-f", str(file), "--wait")
    assert code == 0, errors
    assert b"sg/front: created" in out and b"sg/app is ready" in out
    for name, count in (("front", 2), ("app", 2), ("db", 0)):
        found = await served.talk.read(served.talk.at(f"securityGroups/{name}", NET))
        assert len(found["spec"]["rules"]) == count
    assert (await served.run("apply", "-f", str(file)))[1].count(b"unchanged") == 4
    file.write_text(NETWORK + group("front", "cache") + group("cache", "front"))
    code, out, errors = await served.run("apply", "-f", str(file), "--dry-run")
    assert code == 0 and b"sg/front: changed" in out and b"sg/cache: created" in out, errors
    code, out, errors = await served.run("apply", "-f", str(file), "--wait")
    assert code == 0, errors
    found = await served.talk.read(served.talk.at("securityGroups/front", NET))
    assert [r["remote"]["securityGroupRef"] for r in found["spec"]["rules"]] == ["cache"]


async def test_a_group_that_is_nowhere_is_refused(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "groups.yaml"
    file.write_text(NETWORK + group("front", "nobody"))
    code, _, errors = await served.run("apply", "-f", str(file))
    assert code == 1 and b"spec.rules[0].remote.securityGroupRef: SecurityGroup nobody" in errors
