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


async def test_lists_of_kinds(served: Served) -> None:
    code, out, errors = await served.run("get", "all,snap,snapshots")
    assert code == 0, errors
    titles = [line for line in out.decode().splitlines() if line and " " not in line]
    assert len(titles) == len(set(titles)) and {"virtualMachines", "virtualPrivateClouds", "subnets"} <= set(titles)
    assert "snapshots" not in titles, "there are none, and of `all` only what is there is shown"
    code, out, _ = await served.run("get", "snap,vm")
    assert b"no snapshots here" in out and b"\nvirtualMachines\n" in out
    code, out, _ = await served.run("get", "all", "-o", "name")
    assert code == 0 and b"vm/vm\n" in out and b"vpc/default-se-sto\n" in out
    for words in (("all",), ("vm,disk",), ("vm/vm", "disk/root")):
        code, _, errors = await served.run("get", *words, "--watch")
        assert code == 2 and b"of one kind" in errors, words


async def test_one_field_for_a_script(served: Served) -> None:
    assert (await served.run("get", "vm", "vm", "--field", "metadata.id"))[1] == b"vm\n"
    assert (await served.run("get", "vm/vm", "--field", "spec.running"))[1] == b"true\n"
    out = (await served.run("get", "subnet", "--field", "spec.placement"))[1]
    assert sorted(out.splitlines()) == [b'{"zone": "a"}', b'{"zone": "b"}', b'{"zone": "c"}']
    code, out, errors = await served.run("get", "vm", "vm", "--field", "status.nothing")
    assert (code, out) == (3, b"") and b"vm/vm has no status.nothing" in errors
    assert (await served.run("get", "snap", "--field", "status.restoreSize"))[:2] == (0, b"")


async def test_created_is_said_of_what_is_written_only(served: Served, tmp_path: Path) -> None:
    """A quota is asked when something is written, not when the files are checked."""
    names = [disk["metadata"]["id"] for disk in (await served.talk.read(served.talk.at("disks")))["items"]]
    limit = {"spec": {"quotas": {"compute": {"disks": len(names) + 2}}}}
    answer = await served.talk.call("PATCH", "/iam/v1beta1/projects/demo", limit)
    assert answer.status_code == 200, answer.text
    file = tmp_path / "disks.yaml"
    spec = "spec: {diskSize: {amount: 1, unit: GB}, placement: {zone: b}}"
    file.write_text("".join(f"---\nkind: Disk\nmetadata: {{id: more-{n}}}\n{spec}\n" for n in range(4)))
    code, out, errors = await served.run("apply", "-f", str(file))
    assert code == 6 and out == b"disk/more-0: created\ndisk/more-1: created\n"
    assert b"disk/more-2: refused; 1 more are not written" in errors and b"limit" in errors
    found = {disk["metadata"]["id"] for disk in (await served.talk.read(served.talk.at("disks")))["items"]}
    assert found == {*names, "more-0", "more-1"}
    code, out, _ = await served.run("apply", "-f", str(file), "--dry-run")
    assert out.splitlines()[:3] == [b"disk/more-0: unchanged", b"disk/more-1: unchanged", b"disk/more-2: created"]
