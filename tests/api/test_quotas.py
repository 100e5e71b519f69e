"""Quotas through the API: what the contract's clients read, what is refused with which figures, who sets them."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest

from hansa.policy.quota import organization_scope, project_scope

from .conftest import Talk, ready_of
from .test_flows import disk, ref

pytestmark = pytest.mark.anyio
NET, IAM, QUOTAS = "networking/v1beta2", "iam/v1beta1", "quotas/v1alpha2"


def blank(size: int, unit: str = "GB") -> dict[str, Any]:
    return {"diskSize": {"amount": size, "unit": unit}, "placement": {"zone": "a"}}


def machine(name: str, profile: str = "c1a.s", **more: Any) -> dict[str, Any]:
    disks = [{"diskRef": ref("disks", name), "bootFrom": True}]
    return {"computeProfileRef": profile, "disks": disks, "placement": {"zone": "a"}, **more}


class Desk:
    """Reads and sets quotas as a client does."""

    def __init__(self, talk: Talk, organization: str) -> None:
        self.talk, self.organization = talk, organization

    async def limit_project(self, **quotas: Any) -> None:
        answer = await self.talk.call("PATCH", f"/{IAM}/projects/{self.talk.project}", {"spec": {"quotas": quotas}})
        assert answer.status_code == 200, answer.text

    async def limit_organization(self, **quotas: Any) -> httpx2.Response:
        path = f"/{IAM}/organizations/{self.organization}"
        return await self.talk.call("PATCH", path, {"spec": {"quotas": quotas}})

    async def project(self, region: str = "se-sto") -> dict[str, Any]:
        return await self.talk.read(f"/{QUOTAS}/projects/{self.talk.project}/regions/{region}/projectQuotas")

    async def whole(self, region: str = "se-sto") -> dict[str, Any]:
        return await self.talk.read(f"/{QUOTAS}/organizations/{self.organization}/regions/{region}/orgQuotas")


@pytest.fixture
def desk(talk: Talk, cloud: Any) -> Desk:
    return Desk(talk, cloud.credentials.organization)


def figures(answer: httpx2.Response) -> tuple[str, int, int, int]:
    """Quantity, limit, used and asked of a refusal, which has the contract's form."""
    body = answer.json()
    assert (answer.status_code, body["reason"]) == (403, "QuotaExceeded"), answer.text
    details = body["details"]
    assert "limit" in body["debug"] and "used" in body["debug"] and "asked" in body["debug"]
    return details["quota"], details["limit"], details["used"], details["asked"]


async def test_what_terraform_reads_is_always_there(desk: Desk, talk: Talk) -> None:
    for region in ("se-sto", "fr-par"):
        whole, project = await desk.whole(region), await desk.project(region)
        quotas, usage = whole["spec"]["quotas"], whole["status"]["quotaUsage"]
        assert isinstance(quotas["compute"]["vCPUs"], int) and isinstance(quotas["networking"]["publicIPs"], int)
        assert quotas["compute"]["memory"].endswith(" GB") and isinstance(quotas["compute"]["gpus"], dict)
        assert set(usage["compute"]) >= {
            "vCPUs", "memory", "memoryInKiBs", "blockStorage", "blockStorageInMBs", "gpus"
        }  # fmt: skip
        assert project["spec"]["objectStorage"]["totalSize"] == "unlimited"
        assert project["status"]["quotaUsage"]["objectStorage"]["totalSize"] == "0 GB"
        assert whole["metadata"]["region"] == region and whole["metadata"]["organization"] == desk.organization
        assert whole["kind"] == "OrgQuota" and project["kind"] == "ProjectQuota"
        assert "conditions" not in project["status"]
    missing = await talk.call("GET", f"/{QUOTAS}/projects/demo/regions/nowhere/projectQuotas")
    assert missing.status_code == 404
    path = f"/{QUOTAS}/projects/demo/regions/se-sto/projectQuotas"
    for method in ("POST", "PATCH", "DELETE"):
        assert (await talk.call(method, path, {})).status_code == 405


async def test_a_spent_quota_refuses_with_limit_used_and_asked_and_stores_nothing(desk: Desk, talk: Talk) -> None:
    await desk.limit_project(compute={"blockStorage": "150 GB", "disks": 2})
    await talk.make(talk.at("disks"), "one", blank(100))
    answer = await talk.call("POST", talk.at("disks"), {"metadata": {"id": "two"}, "spec": blank(60)})
    assert figures(answer) == ("compute.blockStorage", 150 * 10**9, 100 * 10**9, 60 * 10**9)
    assert "project demo" in answer.json()["debug"] and "hansa quota set" in answer.json()["debug"]
    assert (await talk.call("GET", talk.at("disks/two"))).status_code == 404
    await talk.make(talk.at("disks"), "two", blank(50))
    answer = await talk.call("POST", talk.at("disks"), {"metadata": {"id": "three"}, "spec": blank(1, "KB")})
    assert figures(answer)[0] == "compute.blockStorage"
    await desk.limit_project(compute={"blockStorage": "unlimited"})
    answer = await talk.call("POST", talk.at("disks"), {"metadata": {"id": "three"}, "spec": blank(1)})
    assert figures(answer) == ("compute.disks", 2, 2, 1)
    await talk.until(talk.at("disks/one"))
    assert (await talk.call("DELETE", talk.at("disks/one"))).status_code == 204
    await talk.gone(talk.at("disks/one"))
    await talk.make(talk.at("disks"), "three", blank(1))
    used = (await desk.project())["status"]["quotaUsage"]["compute"]
    assert (used["disks"], used["blockStorage"], used["blockStorageInMBs"]) == (2, "51 GB", 51_000)


async def test_a_changed_spec_takes_the_difference(desk: Desk, talk: Talk) -> None:
    await desk.limit_project(compute={"blockStorage": "100 GB", "vCPUs": 4})
    await talk.make(talk.at("disks"), "d", blank(40))
    await talk.until(talk.at("disks/d"))
    grow = {"spec": {"diskSize": {"amount": 101, "unit": "GB"}}}
    assert figures(await talk.call("PATCH", talk.at("disks/d"), grow)) == (
        "compute.blockStorage", 100 * 10**9, 40 * 10**9, 61 * 10**9
    )  # fmt: skip
    assert (await talk.read(talk.at("disks/d")))["spec"]["diskSize"]["amount"] == 40
    grow["spec"]["diskSize"]["amount"] = 100
    assert (await talk.call("PATCH", talk.at("disks/d"), grow)).status_code == 200
    await talk.make(talk.at("virtualMachines"), "d", machine("d", "c1a.s", running=False))
    await talk.until(talk.at("virtualMachines/d"))
    larger = {"spec": {"computeProfileRef": "c1a.l"}}
    assert figures(await talk.call("PATCH", talk.at("virtualMachines/d"), larger)) == ("compute.vCPUs", 4, 2, 6)
    for profile, cores, gigabytes in (("c1a.m", 4, 8), ("a1a.xs", 1, 4)):
        answer = await talk.call("PATCH", talk.at("virtualMachines/d"), {"spec": {"computeProfileRef": profile}})
        assert answer.status_code == 200, answer.text
        used = (await desk.project())["status"]["quotaUsage"]["compute"]
        assert (used["vCPUs"], used["memory"], used["virtualMachines"]) == (cores, f"{gigabytes} GB", 1)


async def test_both_the_project_and_its_organisation_have_a_say(desk: Desk, talk: Talk, cloud: Any) -> None:
    assert (await desk.limit_organization(networking={"publicIPs": 3})).status_code == 200
    await talk.make(f"/{IAM}/projects", "second", {"organization": desk.organization})
    other = Talk(talk.http, talk.token, project="second")
    await Desk(other, desk.organization).limit_project(networking={"publicIPs": 2})
    for name in ("a", "b"):
        await other.make(other.at("publicIPs", NET), name, {})
    answer = await other.call("POST", other.at("publicIPs", NET), {"metadata": {"id": "c"}, "spec": {}})
    assert figures(answer) == ("networking.publicIPs", 2, 2, 1) and answer.json()["details"]["of"] == "project second"
    await talk.make(talk.at("publicIPs", NET), "a", {})
    answer = await talk.call("POST", talk.at("publicIPs", NET), {"metadata": {"id": "b"}, "spec": {}})
    assert figures(answer) == ("networking.publicIPs", 3, 3, 1)
    assert answer.json()["details"]["of"] == f"organization {desk.organization}"
    assert (await desk.whole())["status"]["quotaUsage"]["networking"]["publicIPs"] == 3
    shown = await talk.read(f"/{IAM}/organizations/{desk.organization}")
    assert shown["status"]["quotaUsage"] == (await desk.whole())["status"]["quotaUsage"]
    assert shown["spec"]["quotas"] == {"networking": {"publicIPs": 3}}


async def test_a_quota_below_what_is_used_refuses_only_new_takes(desk: Desk, talk: Talk) -> None:
    for name in ("a", "b"):
        await talk.make(talk.at("disks"), name, blank(10))
    await desk.limit_project(compute={"disks": 1, "blockStorage": "5 GB"})
    await talk.until(talk.at("disks/a"))
    labels = {"metadata": {"userLabels": {"tier": "web"}}}
    assert (await talk.call("PATCH", talk.at("disks/a"), labels)).status_code == 200
    grow = {"spec": {"diskSize": {"amount": 11, "unit": "GB"}}}
    assert figures(await talk.call("PATCH", talk.at("disks/a"), grow))[0] == "compute.blockStorage"
    assert (await talk.call("DELETE", talk.at("disks/a"))).status_code == 204
    await talk.gone(talk.at("disks/a"))
    answer = await talk.call("POST", talk.at("disks"), {"metadata": {"id": "c"}, "spec": blank(1, "KB")})
    assert figures(answer)[0] == "compute.blockStorage"
    assert (await desk.project())["status"]["quotaUsage"]["compute"]["disks"] == 1


async def test_a_dry_run_says_what_is_short(desk: Desk, talk: Talk) -> None:
    await desk.limit_project(compute={"vCPUs": 3})
    await talk.make(talk.at("disks"), "m", blank(1))
    body = {"metadata": {"id": "m"}, "spec": machine("m", "c1a.m")}
    answer = await talk.call("POST", talk.at("virtualMachines?dryRun=true"), body)
    assert figures(answer) == ("compute.vCPUs", 3, 0, 4)
    body["spec"] = machine("m")
    assert (await talk.call("POST", talk.at("virtualMachines?dryRun=true"), body)).status_code == 200
    assert (await desk.project())["status"]["quotaUsage"]["compute"]["vCPUs"] == 0


async def test_gpus_are_counted_by_their_model(desk: Desk, talk: Talk) -> None:
    await desk.limit_project(compute={"gpus": {"L40S": 1}})
    await talk.make(talk.at("disks"), "m", blank(1))
    body = {"metadata": {"id": "m"}, "spec": machine("m", "gn-l40s.m")}
    answer = await talk.call("POST", talk.at("virtualMachines"), body)
    assert figures(answer) == ("compute.gpus.nvidia.com/AD102GL_L40S", 1, 0, 2)
    await talk.make(talk.at("virtualMachines"), "m", machine("m", "gn-l40s.s"))
    assert (await desk.project())["status"]["quotaUsage"]["compute"]["gpus"] == {"nvidia.com/AD102GL_L40S": 1}


async def test_a_size_that_only_the_loop_learns_is_taken_by_the_loop(desk: Desk, talk: Talk, cloud: Any) -> None:
    """A snapshot of a disk whose image gives its size, and disks from it without one."""
    cloud.world.engines.volumes("se-sto-a").copy_steps = 0
    unsized = disk()
    del unsized["diskSize"]
    await talk.make(talk.at("disks"), "boot", unsized)
    await talk.make(talk.at("snapshots"), "s", {"diskRef": "boot"})
    source = {"placement": {"zone": "a"}, "source": {"snapshotRef": "s"}}
    await talk.make(talk.at("disks"), "copy", source)
    await talk.until(talk.at("disks/copy"))
    used = (await desk.project())["status"]["quotaUsage"]["compute"]
    assert (used["disks"], used["snapshots"], used["blockStorage"]) == (2, 1, "30 GB")


async def test_a_disk_that_is_short_of_quota_only_later_says_so(desk: Desk, talk: Talk, cloud: Any) -> None:
    volumes = cloud.world.engines.volumes("se-sto-a")
    volumes.full = "full"  # the disk is not made, so nobody knows how large its snapshot will be
    unsized = {"placement": {"zone": "a"}, "source": {"snapshotRef": "s"}}
    await talk.make(talk.at("disks"), "d", blank(10))
    await talk.make(talk.at("snapshots"), "s", {"diskRef": "d"})
    await talk.make(talk.at("disks"), "copy", unsized)
    await desk.limit_project(compute={"blockStorage": "25 GB"})
    volumes.full = ""
    found = await talk.until(talk.at("disks/copy"), ready="False", seconds=20)
    async with asyncio.timeout(20):
        while ready_of(found)["reason"] != "QuotaExceeded":
            await asyncio.sleep(0.05)
            found = await talk.read(talk.at("disks/copy"))
    assert "limit 25 GB, used 20 GB, asked 10 GB" in ready_of(found)["message"]
    why = await talk.read(talk.at("disks/copy/why"))
    assert why["ready"]["reason"] == "QuotaExceeded" and "quota" in why["help"]
    await desk.limit_project(compute={"blockStorage": None})


async def test_projects_are_counted_and_their_limits_go_with_them(desk: Desk, talk: Talk, cloud: Any) -> None:
    before = (await desk.whole())["status"]["quotaUsage"]["iam"]["projects"]
    assert (await desk.limit_organization(iam={"projects": before + 1})).status_code == 200
    spec = {"organization": desk.organization, "quotas": {"compute": {"disks": 0}}}
    await talk.make(f"/{IAM}/projects", "brief", spec)
    brief = Talk(talk.http, talk.token, project="brief")
    refused = await brief.call("POST", brief.at("disks"), {"metadata": {"id": "d"}, "spec": blank(1)})
    assert figures(refused) == ("compute.disks", 0, 0, 1)
    answer = await talk.call("POST", f"/{IAM}/projects", {"metadata": {"id": "more"}, "spec": spec})
    assert figures(answer) == ("iam.projects", before + 1, before + 1, 1)
    assert (await talk.call("DELETE", f"/{IAM}/projects/brief")).status_code == 204
    await talk.gone(f"/{IAM}/projects/brief")
    assert await cloud.store.counts(project_scope("brief")) == []
    await talk.make(f"/{IAM}/projects", "brief", {"organization": desk.organization})
    await brief.make(brief.at("disks"), "d", blank(1))


async def test_only_the_operator_raises_an_organisation_and_only_owners_limit_a_project(
    desk: Desk, talk: Talk, stranger: Talk, cloud: Any
) -> None:
    theirs = (await stranger.read(f"/{IAM}/organizations"))["items"][0]["metadata"]["id"]
    tenant = Desk(stranger, theirs)
    assert (await tenant.limit_organization(networking={"publicIPs": 5})).status_code == 200
    for more in ({"publicIPs": 6}, {"publicIPs": None}):
        answer = await tenant.limit_organization(networking=more)
        assert answer.status_code == 403 and "only the operator" in answer.json()["debug"], answer.text
    assert (await tenant.limit_organization(networking={"publicIPs": 4})).status_code == 200
    operator = Desk(talk, theirs)
    assert (await operator.limit_organization(networking={"publicIPs": 50})).status_code == 200
    quotas = (await tenant.whole())["spec"]["quotas"]
    assert quotas["networking"]["publicIPs"] == 50
    assert (await Desk(stranger, desk.organization).limit_organization(compute={"disks": 1})).status_code == 404
    answer = await stranger.call("PATCH", f"/{IAM}/projects/demo", {"spec": {"quotas": {"compute": {"disks": 1}}}})
    assert answer.status_code in (403, 404)
    assert (await stranger.call("GET", f"/{QUOTAS}/projects/demo/regions/se-sto/projectQuotas")).status_code == 403


async def test_the_pace_of_s3_is_a_quota_whose_default_is_a_setting(
    desk: Desk, talk: Talk, stranger: Talk, cloud: Any
) -> None:
    rate = cloud.world.settings.s3_request_rate
    assert (await desk.whole())["spec"]["quotas"]["objectStorage"]["requestsPerSecond"] == rate
    assert "requestsPerSecond" not in (await desk.project())["spec"]["objectStorage"], "a project has none of its own"
    await desk.limit_project(objectStorage={"requestsPerSecond": 50})
    assert (await desk.project())["spec"]["objectStorage"]["requestsPerSecond"] == 50
    theirs = Desk(stranger, (await stranger.read(f"/{IAM}/organizations"))["items"][0]["metadata"]["id"])
    answer = await theirs.limit_organization(objectStorage={"requestsPerSecond": rate + 1})
    assert answer.status_code == 403 and "only the operator" in answer.json()["debug"], answer.text
    assert (await theirs.limit_organization(objectStorage={"requestsPerSecond": rate - 1})).status_code == 200
    assert (await theirs.whole())["spec"]["quotas"]["objectStorage"]["requestsPerSecond"] == rate - 1


@pytest.mark.parametrize(
    ("quotas", "path"),
    [
        ({"objectStorage": {"requestsPerSecond": -1}}, "spec.quotas.objectStorage.requestsPerSecond"),
        ({"compute": {"vCPUs": -1}}, "spec.quotas.compute.vCPUs"),
        ({"compute": {"memory": "64"}}, "spec.quotas.compute.memory"),
        ({"compute": {"gpus": {"L40S": 2**31}}}, "spec.quotas.compute.gpus.L40S"),
        ({"objectStorage": {"totalSize": "lots"}}, "spec.quotas.objectStorage.totalSize"),
    ],
)
async def test_a_wrong_quota_names_field_and_rule(quotas: Any, path: str, talk: Talk) -> None:
    answer = await talk.call("PATCH", f"/{IAM}/projects/demo", {"spec": {"quotas": quotas}})
    assert answer.status_code == 400 and answer.json()["fields"][0]["path"] == path, answer.text
    assert "pattern" not in answer.json()["debug"]


async def test_sixty_four_creators_at_once_never_oversell(desk: Desk, talk: Talk, cloud: Any) -> None:
    assert (await desk.limit_organization(compute={"disks": 30})).status_code == 200
    await desk.limit_project(compute={"blockStorage": "200 GB"})

    async def create(number: int) -> int:
        body = {"metadata": {"id": f"d{number}"}, "spec": blank(10)}
        answer = await talk.call("POST", talk.at("disks"), body)
        if answer.status_code == 403:
            figures(answer)
        return answer.status_code

    codes = await asyncio.gather(*(create(n) for n in range(64)))
    assert sorted(codes) == [201] * 20 + [403] * 44
    assert len((await talk.read(talk.at("disks")))["items"]) == 20
    for scope in (project_scope("demo"), organization_scope(desk.organization)):
        held: dict[str, int] = {}
        for h in await cloud.store.claims(scope):
            held[h.claim.key] = held.get(h.claim.key, 0) + h.claim.amount
        counts = {c.key: c.held for c in await cloud.store.counts(scope) if c.held}
        assert counts == held and counts["compute.blockStorage"] == 200 * 10**9 and counts["compute.disks"] == 20
