"""The flows of section 4.3 as Terraform holds them: apply, empty plan, drop state, import, empty plan, destroy."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from .conftest import Talk, ready_of

pytestmark = pytest.mark.anyio
NET, COMPUTE, IAM = "networking/v1beta2", "compute/v1beta2", "iam/v1beta1"
KEPT = ("uid", "creationTimestamp", "project", "region", "userLabels")


def state(found: dict[str, Any]) -> dict[str, Any]:
    """What Terraform keeps of an object: identity, spec, and computed values of the status."""
    status = {k: v for k, v in found["status"].items() if k not in ("conditions", "privateKeyJwk")}
    return {"spec": found["spec"], "status": status, **{k: found["metadata"].get(k) for k in KEPT}}


class Terraform:
    """Objects in the order in which they were applied."""

    def __init__(self, talk: Talk) -> None:
        self.talk = talk
        self.kept: dict[str, dict[str, Any]] = {}
        self.written: dict[str, Any] = {}

    async def apply(self, base: str, name: str, spec: Any) -> None:
        made = await self.talk.make(base, name, spec, userLabels={"made-by": "terraform", "rev": "v1"})
        assert spec is None or all(made["spec"].get(k) == v for k, v in spec.items()), "the spec came back changed"
        path = f"{base}/{name}"
        assert name in [i["metadata"]["id"] for i in (await self.talk.read(base))["items"]]
        self.written[path] = spec
        self.kept[path] = state(await self._settled(path))

    async def _settled(self, path: str) -> dict[str, Any]:
        found = await self.talk.read(path)
        return await self.talk.until(path) if found["status"].get("conditions") else found

    async def refresh(self) -> None:
        """What others did to an object's status is taken over, as `terraform refresh` does."""
        for path in self.kept:
            self.kept[path] = state(await self._settled(path))

    async def plan_is_empty(self) -> None:
        for path, kept in self.kept.items():
            found = state(await self.talk.read(path))
            assert found == kept, path
            wanted = self.written[path]
            assert wanted is None or {k: found["spec"].get(k) for k in wanted} == wanted, path

    async def import_all(self) -> None:
        """State dropped, every object imported by its id: the same, field by field."""
        imported = {path: state(await self.talk.read(path)) for path in self.kept}
        assert imported == self.kept

    async def change(self, path: str, spec: dict[str, Any]) -> None:
        whole = await self.talk.read(path)
        whole["spec"] = {**whole["spec"], **spec}
        whole["metadata"]["userLabels"] = {"made-by": "terraform", "rev": "v2"}
        answer = await self.talk.call("PATCH", path, whole)
        assert answer.status_code == 200, answer.text
        assert answer.json()["metadata"]["userLabels"]["rev"] == "v2"
        self.written[path] = {**(self.written[path] or {}), **spec}
        self.kept[path] = state(await self._settled(path))

    async def round(self) -> None:
        await self.refresh()
        await self.plan_is_empty()
        await self.import_all()
        await self.plan_is_empty()

    async def destroy(self) -> None:
        for path in reversed(self.kept):
            assert (await self.talk.call("DELETE", path)).status_code == 204, path
            await self.talk.gone(path)


@pytest.fixture
def terraform(talk: Talk) -> Terraform:
    return Terraform(talk)


def disk(size: int = 100) -> dict[str, Any]:
    return {"diskSize": {"amount": size, "unit": "GB"}, "placement": {"zone": "a"},
            "source": {"type": "image", "diskImageRef": "/compute/global/diskImages/evroc/ubuntu-minimal.24-04.1"}}  # fmt: skip


def ref(collection: str, name: str, service: str = "compute") -> str:
    return f"/{service}/projects/demo/regions/se-sto/{collection}/{name}"


async def test_disk(terraform: Terraform, talk: Talk) -> None:
    await terraform.apply(talk.at("disks"), "image", disk())
    await terraform.apply(
        talk.at("disks"), "blank", {"diskSize": {"amount": 7, "unit": "GB"}, "placement": {"zone": "b"}}
    )
    unsized = disk()
    del unsized["diskSize"]
    await terraform.apply(talk.at("disks"), "unsized", unsized)
    assert terraform.kept[talk.at("disks/unsized")]["status"]["diskSize"]["amount"]
    await terraform.round()
    await terraform.change(talk.at("disks/image"), {"diskSize": {"amount": 120, "unit": "GB"}})
    await terraform.round()
    await terraform.destroy()


async def test_machine_in_a_network_of_its_own(terraform: Terraform, talk: Talk) -> None:
    nets, subnets = talk.at("virtualPrivateClouds", NET), talk.at("subnets", NET)
    await terraform.apply(nets, "stack", {"stackType": "dual-stack", "ipv4CidrBlocks": ["10.100.0.0/16"]})
    await terraform.apply(subnets, "stack", {"vpcRef": ref("virtualPrivateClouds", "stack", "networking"), "stackType": "dual-stack",
                                             "ipv4CidrBlock": "10.100.1.0/24", "placement": {"zone": "a"}})  # fmt: skip
    await terraform.apply(
        talk.at("placementGroups"), "pg", {"strategy": {"type": "spread"}, "placement": {"zone": "a"}}
    )
    await terraform.apply(talk.at("securityGroups", NET), "sg", {"vpcRef": ref("virtualPrivateClouds", "stack", "networking"), "rules": [
        {"name": "ssh", "direction": "Ingress", "protocol": "TCP", "port": 22, "remote": {"address": {"ipAddressOrCIDR": "::/0"}}},
        {"name": "out", "direction": "Egress", "protocol": "All", "remote": {}}]})  # fmt: skip
    await terraform.apply(talk.at("publicIPs", NET), "ip", None)
    await terraform.apply(talk.at("disks"), "boot", disk(20))
    await terraform.apply(
        talk.at("disks"), "data", {"diskSize": {"amount": 10, "unit": "GB"}, "placement": {"zone": "a"}}
    )
    await terraform.apply(talk.at("virtualMachines"), "vm", {
        "computeProfileRef": "/compute/global/computeProfiles/a1a.xs",
        "disks": [{"diskRef": ref("disks", "boot"), "bootFrom": True}, {"diskRef": ref("disks", "data")}],
        "networking": {"subnetRef": ref("subnets", "stack", "networking"), "stackType": "dual-stack",
                       "publicIPv4Address": {"static": {"publicIPRef": ref("publicIPs", "ip", "networking")}},
                       "securityGroupSettings": {"securityGroupMemberRefs": [ref("securityGroups", "sg", "networking")]}},
        "osSettings": {"ssh": {"authorizedKeys": [{"value": "ssh-ed25519 AAAA me"}]}},
        "placement": {"zone": "a", "placementGroupRef": ref("placementGroups", "pg")}})  # fmt: skip
    await terraform.round()
    status = terraform.kept[talk.at("virtualMachines/vm")]["status"]
    assert status["networking"]["privateIPv4Address"].startswith("10.100.1.") and status["networking"]["ipv6Address"]
    assert status["networking"]["publicIPv4Address"] and [d["device"] for d in status["attachedDisks"]] == [
        "/dev/vda",
        "/dev/vdb",
    ]
    assert terraform.kept[talk.at("publicIPs/ip", NET)]["status"]["usedByRef"] == ref("virtualMachines", "vm")
    assert terraform.kept[talk.at("securityGroups/sg", NET)]["status"]["members"][0]["status"] == "Active"
    await terraform.destroy()


async def test_machine_with_defaults(terraform: Terraform, talk: Talk) -> None:
    await terraform.apply(talk.at("disks"), "boot", disk(20))
    await terraform.apply(talk.at("virtualMachines"), "vm", {
        "computeProfileRef": "/compute/global/computeProfiles/c1a.m", "disks": [{"diskRef": ref("disks", "boot"), "bootFrom": True}],
        "placement": {"zone": "a"}, "running": False})  # fmt: skip
    await terraform.round()
    await terraform.change(talk.at("virtualMachines/vm"), {"running": True})
    await terraform.round()
    await terraform.destroy()


async def test_ipv6_only_network(terraform: Terraform, talk: Talk) -> None:
    await terraform.apply(talk.at("virtualPrivateClouds", NET), "six", {"stackType": "ipv6-only"})
    await terraform.apply(talk.at("subnets", NET), "six", {"vpcRef": ref("virtualPrivateClouds", "six", "networking"),
                                                           "stackType": "ipv6-only", "placement": {"zone": "b"}})  # fmt: skip
    await terraform.round()
    await terraform.destroy()


async def test_service_account_and_credential(terraform: Terraform, talk: Talk) -> None:
    accounts = f"/{IAM}/projects/demo/serviceAccounts"
    await terraform.apply(accounts, "ci", {"description": "first", "enabled": True})
    await terraform.apply(f"{accounts}/ci/serviceAccountCredentials", "key", {
        "accountRef": {"fqid": "/iam/projects/demo/serviceAccounts/ci"}, "type": "rs256-jwt",
        "expiresAt": (datetime.now(UTC) + timedelta(hours=48)).isoformat(), "rs256Jwt": {"accessTokenLifetime": 3600}})  # fmt: skip
    await terraform.round()
    await terraform.change(f"{accounts}/ci", {"description": "second", "enabled": False})
    await terraform.round()
    await terraform.destroy()


async def test_project(terraform: Terraform, talk: Talk, cloud: Any) -> None:
    await terraform.apply(f"/{IAM}/projects", "tf", {"organization": cloud.credentials.organization, "name": "One"})
    await terraform.round()
    await terraform.change(f"/{IAM}/projects/tf", {"name": "Two"})
    await terraform.round()
    await terraform.destroy()
    assert "tf" not in [p["metadata"]["id"] for p in (await talk.read(f"/{IAM}/projects"))["items"]]


async def test_organization_name(talk: Talk, cloud: Any) -> None:
    path = f"/{IAM}/organizations/{cloud.credentials.organization}"
    assert (await talk.call("PATCH", path, {"spec": {"name": "New"}})).json()["spec"]["name"] == "New"


async def test_catalogue(talk: Talk) -> None:
    for base in ("computeProfiles", "diskImages/evroc"):
        for item in (await talk.read(f"/{COMPUTE}/global/{base}"))["items"]:
            assert await talk.read(f"/{COMPUTE}/global/{base}/{item['metadata']['id']}") == item


async def test_ready_is_there_in_time(talk: Talk) -> None:
    made = await talk.make(talk.at("publicIPs", NET), "ip", {})
    assert ready_of(made)["status"] == "False"
    assert (await talk.until(talk.at("publicIPs/ip", NET)))["status"]["publicIPv4Address"]
