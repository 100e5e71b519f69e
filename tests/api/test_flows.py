"""The flows of section 4.3 as Terraform holds them: apply, empty plan, drop state, import, empty plan, destroy."""

from __future__ import annotations

import asyncio
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
        """What others did to an object's status is taken over, as `terraform refresh` does, once nothing moves."""
        async with asyncio.timeout(10):
            same = 0
            while same < 3:
                await asyncio.sleep(0.05)
                seen = {path: state(await self._settled(path)) for path in self.kept}
                same = same + 1 if seen == self.kept else 0
                self.kept.update(seen)

    async def plan_is_empty(self) -> None:
        for path, kept in self.kept.items():
            found = state(await self.talk.read(path))
            assert found == kept, path
            wanted = self.written[path]
            assert wanted is None or {k: found["spec"].get(k) for k in wanted} == wanted, path

    async def import_all(self) -> None:
        """State dropped, every object imported by its id: the same, field by field."""
        dropped, self.kept = self.kept, {}
        for path in dropped:
            self.kept[path] = state(await self.talk.read(path))
        assert self.kept == dropped

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
        """In the reverse order of apply; in the end a read of each says 404, and of each list that it is not in it."""
        for path in reversed(self.kept):
            assert (await self.talk.call("DELETE", path)).status_code == 204, path
            await self.talk.gone(path)
        for path in self.kept:
            assert (await self.talk.call("GET", path)).status_code == 404, path
            base, _, name = path.rpartition("/")
            listed = await self.talk.call("GET", base)
            assert listed.status_code == 404 or name not in [i["metadata"]["id"] for i in listed.json()["items"]], path


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
    async with asyncio.timeout(10):  # the group hears of the machine after the machine is ready
        while True:
            members = (await talk.read(talk.at("securityGroups/sg", NET)))["status"]["members"]
            if [m["status"] for m in members] == ["Active"]:
                break
            await asyncio.sleep(0.02)
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


async def test_a_disk_that_comes_and_goes(terraform: Terraform, talk: Talk) -> None:
    """The contract's hot-swap flow (4.3)."""
    await terraform.apply(talk.at("disks"), "boot", disk(20))
    await terraform.apply(talk.at("virtualMachines"), "vm", {
        "computeProfileRef": "/compute/global/computeProfiles/a1a.xs", "disks": [{"diskRef": ref("disks", "boot"), "bootFrom": True}],
        "placement": {"zone": "a"}})  # fmt: skip
    await terraform.apply(
        talk.at("disks"), "data", {"diskSize": {"amount": 50, "unit": "GB"}, "placement": {"zone": "a"}}
    )
    spec = {"virtualMachineRef": ref("virtualMachines", "vm"), "diskRef": ref("disks", "data")}
    await terraform.apply(talk.at("hotswapDiskAttachments"), "data-to-vm", spec)
    await terraform.round()
    kept = terraform.kept
    serial = kept[talk.at("hotswapDiskAttachments/data-to-vm")]["status"]["serial"]
    listed = kept[talk.at("virtualMachines/vm")]["status"]["hotswapDiskAttachments"]
    assert serial and [(e["attached"], e["serial"]) for e in listed] == [(True, serial)]
    assert kept[talk.at("disks/data")]["status"]["diskUsage"][0]["useKind"] == "hotswap"
    await terraform.change(talk.at("disks/data"), {"diskSize": {"amount": 60, "unit": "GB"}})
    await terraform.round()
    await terraform.change(talk.at("virtualMachines/vm"), {"running": False})
    await terraform.change(talk.at("virtualMachines/vm"), {"running": True})
    await terraform.round()
    assert kept[talk.at("hotswapDiskAttachments/data-to-vm")]["status"] == {"serial": serial, "simulated": True}
    await terraform.destroy()


async def test_a_snapshot_and_a_disk_from_it(terraform: Terraform, talk: Talk, cloud: Any) -> None:
    cloud.world.engines.volumes("se-sto-a").copy_steps = 0
    await terraform.apply(talk.at("disks"), "boot", disk(20))
    await terraform.apply(talk.at("snapshots"), "taken", {"diskRef": ref("disks", "boot")})
    source = {"type": "snapshot", "snapshotRef": ref("snapshots", "taken")}
    await terraform.apply(talk.at("disks"), "unsized", {"placement": {"zone": "a"}, "source": source})
    sized = {"diskSize": {"amount": 30, "unit": "GB"}, "placement": {"zone": "a"}, "source": source}
    await terraform.apply(talk.at("disks"), "sized", sized)
    await terraform.round()
    assert terraform.kept[talk.at("snapshots/taken")]["status"]["restoreSize"] == {"amount": 20, "unit": "GB"}
    assert terraform.kept[talk.at("disks/unsized")]["status"]["diskSize"] == {"amount": 20, "unit": "GB"}
    await terraform.change(talk.at("disks/sized"), {"diskSize": {"amount": 40, "unit": "GB"}})
    await terraform.round()
    await terraform.destroy()


async def test_a_volume_of_kubernetes(talk: Talk) -> None:
    """As the CSI driver holds it (4.5): create, attach, find by label, expand while attached, detach, delete."""
    await talk.make(talk.at("disks"), "node-boot", disk(20))
    await talk.make(talk.at("virtualMachines"), "node", {
        "computeProfileRef": "c1a.m", "disks": [{"diskRef": ref("disks", "node-boot"), "bootFrom": True}],
        "placement": {"zone": "a"}})  # fmt: skip
    await talk.until(talk.at("virtualMachines/node"))
    mine = {"managed-by": "csi-test"}
    spec: dict[str, Any] = {"diskSize": {"amount": 10_000, "unit": "MB"}, "placement": {"zone": ""}}
    await talk.make(talk.at("disks"), "csi-volume", spec, userLabels=mine)
    again = await talk.call("POST", talk.at("disks"), {"metadata": {"id": "csi-volume"}, "spec": spec})
    assert again.status_code == 409
    volume = await talk.until(talk.at("disks/csi-volume"))
    assert volume["spec"]["diskSize"] == spec["diskSize"] and volume["status"]["placement"] == {"zone": "a"}
    pair = {"virtualMachineRef": ref("virtualMachines", "node"), "diskRef": ref("disks", "csi-volume")}
    path = talk.at("hotswapDiskAttachments/csi-volume-to-node")
    await talk.make(talk.at("hotswapDiskAttachments"), "csi-volume-to-node", pair, userLabels=mine)
    assert (await talk.until(path))["status"]["serial"]
    selector = "managed-by=csi-test,compute.evroc.com/disk-attachment-disk=csi-volume"
    for wanted, count in ((selector, 1), (selector.replace("volume", "other"), 0)):
        answer = await talk.call("GET", talk.at("hotswapDiskAttachments"), params={"labelSelector": wanted})
        assert len(answer.json()["items"]) == count, wanted
    bigger = {"spec": {"diskSize": {"amount": 12_000, "unit": "MB"}}}
    assert (await talk.call("PATCH", talk.at("disks/csi-volume"), bigger)).status_code == 200
    assert (await talk.until(talk.at("disks/csi-volume")))["status"]["diskSize"] == bigger["spec"]["diskSize"]
    assert ready_of(await talk.read(path))["status"] == "True"
    for gone in (path, talk.at("disks/csi-volume")):
        assert (await talk.call("DELETE", gone)).status_code == 204
        await talk.gone(gone, 2)


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


async def test_role_bindings(terraform: Terraform, talk: Talk) -> None:
    """A role on a fresh service account; the id follows from the principal, and a second binding is refused."""
    accounts, bindings = f"/{IAM}/projects/demo/serviceAccounts", f"/{IAM}/projects/demo/roleBindings"
    await terraform.apply(accounts, "ci", {"enabled": True, "description": "builds"})
    principal = "/iam/projects/demo/serviceAccounts/ci"
    spec = {"principal": principal, "roles": [{"name": "/iam/roles/computeViewer"}], "name": "the builder"}
    await terraform.apply(bindings, "sa-demo.ci", spec)
    again = await talk.call("POST", bindings, {"metadata": {"id": "sa-demo.ci"}, "spec": spec})
    assert again.status_code == 409 and "AlreadyExists" in again.text
    other = await talk.call("POST", bindings, {"metadata": {"id": "mine"}, "spec": spec})
    assert other.status_code == 400 and "sa-demo.ci" in other.json()["debug"]
    await terraform.round()
    pattern = "/compute/projects/demo/regions/*/disks/*"
    roles = [{"name": "/iam/roles/computeViewer"}, {"name": "/iam/roles/computeOperator", "resources": [pattern]}]
    await terraform.change(f"{bindings}/sa-demo.ci", {"roles": roles})
    await terraform.round()
    moved = await talk.call("PATCH", f"{bindings}/sa-demo.ci", {"spec": {"principal": principal + "x"}})
    assert moved.status_code == 422
    await terraform.destroy()


async def test_role_bindings_of_an_organisation(terraform: Terraform, talk: Talk, cloud: Any) -> None:
    organization = cloud.credentials.organization
    await terraform.apply(f"/{IAM}/projects/demo/serviceAccounts", "watch", {"enabled": True})
    spec = {
        "principal": "/iam/projects/demo/serviceAccounts/watch",
        "roles": [{"name": "/iam/roles/organizationViewer"}],
    }
    await terraform.apply(f"/{IAM}/organizations/{organization}/roleBindings", "sa-demo.watch", spec)
    await terraform.round()
    await terraform.destroy()


async def test_quotas_as_data_sources(terraform: Terraform, talk: Talk, cloud: Any) -> None:
    """Read before and after an apply: figures are there, follow what is held, and return with its end."""
    organization = cloud.credentials.organization
    whole = f"/quotas/v1alpha2/organizations/{organization}/regions/se-sto/orgQuotas"
    project = "/quotas/v1alpha2/projects/demo/regions/se-sto/projectQuotas"

    async def used() -> tuple[int, str, int, str, int]:
        usage = (await talk.read(whole))["status"]["quotaUsage"]
        compute = usage["compute"]
        return (compute["vCPUs"], compute["memory"], compute["memoryInKiBs"], compute["blockStorage"],
                usage["networking"]["publicIPs"])  # fmt: skip

    before = await used()
    quotas = (await talk.read(whole))["spec"]["quotas"]
    assert quotas["compute"]["vCPUs"] > 0 and quotas["compute"]["memory"] and quotas["networking"]["publicIPs"] > 0
    assert (await talk.read(project))["spec"]["objectStorage"]["totalSize"]
    assert (await talk.read(whole))["metadata"]["uid"] and (await talk.read(whole)) == (await talk.read(whole))
    await terraform.apply(talk.at("disks"), "boot", disk(100))
    await terraform.apply(talk.at("publicIPs", NET), "ip", None)
    await terraform.apply(talk.at("virtualMachines"), "vm", {
        "computeProfileRef": "/compute/global/computeProfiles/c1a.m", "disks": [{"diskRef": ref("disks", "boot"), "bootFrom": True}],
        "placement": {"zone": "a"}})  # fmt: skip
    assert await used() == (before[0] + 4, "8 GB", before[2] + 8 * 10**9 // 1024, "100 GB", before[4] + 1)
    await terraform.change(talk.at("disks/boot"), {"diskSize": {"amount": 120, "unit": "GB"}})
    await terraform.change(talk.at("virtualMachines/vm"), {"running": False})
    await terraform.change(
        talk.at("virtualMachines/vm"), {"computeProfileRef": "/compute/global/computeProfiles/c1a.s"}
    )
    assert await used() == (before[0] + 2, "4 GB", before[2] + 4 * 10**9 // 1024, "120 GB", before[4] + 1)
    await terraform.round()
    await terraform.destroy()
    assert await used() == before


async def test_a_plan_that_a_quota_refuses_goes_through_once_it_is_raised(terraform: Terraform, talk: Talk) -> None:
    async def limit(count: int) -> None:
        body = {"spec": {"quotas": {"networking": {"publicIPs": count}}}}
        assert (await talk.call("PATCH", f"/{IAM}/projects/demo", body)).status_code == 200

    await limit(1)
    await terraform.apply(talk.at("publicIPs", NET), "one", None)
    refused = await talk.call("POST", talk.at("publicIPs", NET), {"metadata": {"id": "two"}, "spec": {}})
    assert refused.status_code == 403 and refused.json()["reason"] == "QuotaExceeded"  # no client tries again on 403
    assert refused.json()["details"].items() >= {"limit": 1, "used": 1, "asked": 1}.items()
    await terraform.round()
    await limit(2)
    await terraform.apply(talk.at("publicIPs", NET), "two", None)
    await terraform.round()
    await terraform.destroy()
