"""A stranger's project cannot be seen or touched: every route of every kind, every reference field."""

from __future__ import annotations

from typing import Any

import pytest

from hansa.kinds import catalogue
from hansa.kinds.registry import all_kinds
from hansa.kinds.resource import AnyResource
from hansa.policy.decide import CATALOGUES

from .conftest import Talk

assert catalogue.MODULES
pytestmark = pytest.mark.anyio
OWNED = [k for k in all_kinds() if k.public and k.kind not in CATALOGUES]


def place(kind: type[AnyResource], scope: str, talk: Talk, organization: str) -> str:
    where = scope.format(project=talk.project, region=talk.region, organization=organization, serviceAccount="hansa")
    return "/" + "/".join(p for p in (kind.service, kind.version, where, kind.collection) if p)


@pytest.mark.parametrize("kind", OWNED, ids=lambda k: k.kind)
async def test_no_route_of_a_kind_answers_a_stranger(
    kind: type[AnyResource], talk: Talk, stranger: Talk, cloud: Any
) -> None:
    names = {"Project": "demo", "Organization": cloud.credentials.organization, "ServiceAccount": "hansa",
             "VirtualPrivateCloud": "default-se-sto", "Subnet": "default-se-sto-a"}  # fmt: skip
    for scope in kind.scopes:
        base = place(kind, scope, talk, cloud.credentials.organization)
        one = f"{base}/{names.get(kind.kind, 'any')}"
        missing = f"{base}/surely-not-there"
        if scope:
            listed = set(kind.verbs) & set("LS")
            assert (await stranger.call("GET", base)).status_code == (403 if listed else 405)
        else:
            shown = (await stranger.call("GET", base)).json()["items"]
            assert names[kind.kind] not in [i["metadata"]["id"] for i in shown]
        for method, path in (("GET", one), ("PATCH", one), ("DELETE", one), ("GET", f"{one}/why"), ("GET", f"{one}/events"),
                             ("POST", f"{one}/start"), ("POST", f"{one}/stop"), ("GET", f"{one}/logs"), ("POST", f"{one}/console"), ("POST", f"{one}/revoke"), ("POST", f"{one}/rotate")):  # fmt: skip
            answer = await stranger.call(method, path, {} if method in ("PATCH", "POST") else None)
            assert answer.status_code in (403, 404, 405), f"{method} {path}: {answer.status_code}"
            if method == "GET":  # what is there and what is not look alike
                other = await stranger.call(method, path.replace(one, missing))
                assert other.status_code == answer.status_code
        if "C" in kind.verbs and scope:
            answer = await stranger.call("POST", base, {"metadata": {"id": "x"}, "spec": {}})
            assert answer.status_code in (400, 403)
    assert (await stranger.call("GET", "/events/v1/projects/demo")).status_code == 403


def foreign(collection: str, service: str = "compute") -> str:
    return f"/{service}/projects/demo/regions/se-sto/{collection}/default-se-sto"


MACHINE = {"computeProfileRef": "c1a.s", "disks": [{"diskRef": "mine", "bootFrom": True}], "placement": {"zone": "a"}}
GROUP = {"vpcRef": "default-se-sto"}
NET = "networking"
CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("compute/v1beta2", "disks", {"diskSize": {"amount": 1, "unit": "GB"}, "source": {"diskImageRef": foreign("customDiskImages")}}),
    ("compute/v1beta2", "disks", {"diskSize": {"amount": 1, "unit": "GB"}, "source": {"snapshotRef": foreign("snapshots")}}),
    ("compute/v1beta2", "virtualMachines", {**MACHINE, "disks": [{"diskRef": foreign("disks"), "bootFrom": True}]}),
    ("compute/v1beta2", "virtualMachines", {**MACHINE, "networking": {"subnetRef": foreign("subnets", NET)}}),
    ("compute/v1beta2", "virtualMachines", {**MACHINE, "networking": {"publicIPv4Address": {"static": {"publicIPRef": foreign("publicIPs", NET)}}}}),
    ("compute/v1beta2", "virtualMachines", {**MACHINE, "networking": {"securityGroupSettings": {"securityGroupMemberRefs": [foreign("securityGroups", NET)]}}}),
    ("compute/v1beta2", "virtualMachines", {**MACHINE, "loadBalancerMemberships": {"backendPoolRefs": [foreign("backendPools", "loadbalancer")]}}),
    ("compute/v1beta2", "virtualMachines", {**MACHINE, "placement": {"zone": "a", "placementGroupRef": foreign("placementGroups")}}),
    ("networking/v1beta2", "subnets", {"vpcRef": foreign("virtualPrivateClouds", NET), "stackType": "ipv6-only", "placement": {"zone": "a"}}),
    ("networking/v1beta2", "securityGroups", {"vpcRef": foreign("virtualPrivateClouds", NET)}),
    *[("networking/v1beta2", "securityGroups", {**GROUP, "rules": [{"direction": "Ingress", "remote": {field: foreign(what, NET)}}]})
      for field, what in (("securityGroupRef", "securityGroups"), ("subnetRef", "subnets"), ("vpcRef", "virtualPrivateClouds"))],
]  # fmt: skip


@pytest.mark.parametrize(("service", "collection", "spec"), CASES)
async def test_no_reference_reaches_into_another_project(
    service: str, collection: str, spec: dict[str, Any], stranger: Talk, cloud: Any
) -> None:
    mine = {"diskSize": {"amount": 1, "unit": "GB"}, "placement": {"zone": "a"}}
    await stranger.make(stranger.at("disks"), "mine", mine)
    answer = await stranger.call("POST", stranger.at(collection, service), {"metadata": {"id": "x"}, "spec": spec})
    assert answer.status_code == 400 and "another project" in answer.json()["debug"], answer.text
    assert (await stranger.call("GET", stranger.at(f"{collection}/x", service))).status_code == 404
