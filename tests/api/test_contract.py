"""The demands of the contract, one test each. Numbers are its sections."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from hansa.wiring import write_places

from .conftest import FLEET, Talk, ready_of

pytestmark = pytest.mark.anyio

DISK = {"diskSize": {"amount": 100, "unit": "GB"}, "placement": {"zone": "a"},
        "source": {"type": "image", "diskImageRef": "/compute/global/diskImages/evroc/ubuntu.24-04.1"}}  # fmt: skip


def machine(disk: str, **more: Any) -> dict[str, Any]:
    return {"computeProfileRef": "/compute/global/computeProfiles/c1a.m", "disks": [{"diskRef": disk, "bootFrom": True}],
            "placement": {"zone": "a"}, **more}  # fmt: skip


async def running(talk: Talk, name: str = "vm", **more: Any) -> str:
    await talk.make(
        talk.at("disks"), f"{name}-d", {**DISK, "placement": {"zone": more.get("placement", {}).get("zone", "a")}}
    )
    await talk.make(talk.at("virtualMachines"), name, machine(f"{name}-d", **more))
    await talk.until(talk.at(f"virtualMachines/{name}"))
    return talk.at(f"virtualMachines/{name}")


async def test_1_3_the_envelope_of_an_answer(talk: Talk) -> None:
    made = await talk.make(talk.at("disks"), "d", DISK, userLabels={"a": "1"})
    meta = made["metadata"]
    assert UUID(meta["uid"]) and meta["creationTimestamp"].endswith("Z")
    assert (meta["id"], meta["project"], meta["region"], meta["generation"]) == ("d", "demo", "se-sto", 1)
    assert isinstance(meta["resourceVersion"], str) and meta["userLabels"] == {"a": "1"}
    assert made["spec"] == DISK and made["kind"] == "Disk" and made["apiVersion"] == "compute/v1beta2"
    assert ready_of(made)["status"] == "False"


@pytest.mark.parametrize(
    ("body", "path"),
    [({"apiVersion": "compute/v1"}, "apiVersion"), ({"kind": "Disc"}, "kind"), ({"metadata": {"id": "x", "project": "other"}}, "metadata.project"),
     ({"metadata": {"id": "Not_Good"}}, "metadata.id"), ({"metadata": {}}, "metadata.id"), ({"spec": {"diskSize": {"amount": -1, "unit": "GB"}}}, "spec.diskSize.amount"),
     ({"spec": {}}, "spec")],
)  # fmt: skip
async def test_1_9_wrong_input_names_field_and_stores_nothing(talk: Talk, body: dict[str, Any], path: str) -> None:
    answer = await talk.call("POST", talk.at("disks"), {"metadata": {"id": "x"}, "spec": DISK, **body})
    assert answer.status_code == 400 and answer.json()["reason"] == "FieldValueInvalid"
    assert path in [f["path"] for f in answer.json()["fields"]], answer.text
    assert (await talk.read(talk.at("disks")))["items"] == []


async def test_1_9_bodies_that_are_no_objects(talk: Talk) -> None:
    for raw in (b"{", b"[]", b'"x"', b""):
        answer = await talk.http.post(talk.at("disks"), content=raw, headers={"Authorization": f"Bearer {talk.token}"})
        assert answer.status_code == 400
    big = await talk.call("POST", talk.at("disks"), {"metadata": {"id": "x"}, "spec": {"x": "y" * (2 << 20)}})
    assert big.status_code == 413


async def test_1_9_codes(talk: Talk) -> None:
    assert (await talk.http.get(talk.at("disks"))).status_code == 401
    assert (await talk.call("GET", talk.at("disks/none"))).status_code == 404
    assert (await talk.call("GET", "/compute/v9/nothing")).status_code == 404
    assert (await talk.call("PUT", talk.at("disks/none"), {})).status_code == 405
    unbuilt = await talk.call("GET", talk.at("fileStores", "storage/v1"))
    assert unbuilt.status_code == 501 and unbuilt.json()["reason"] == "NotImplemented"
    await talk.make(talk.at("disks"), "d", DISK)
    again = await talk.call("POST", talk.at("disks"), {"metadata": {"id": "d"}, "spec": DISK})
    assert again.status_code == 409 and again.json()["reason"] == "AlreadyExists" and "AlreadyExists" in again.text


async def test_1_1_doubled_slashes_are_one(talk: Talk) -> None:
    assert (await talk.call("GET", "//" + talk.at("disks").replace("/projects", "//projects"))).status_code == 200


async def test_1_7_selectors_and_1_8_lists(talk: Talk) -> None:
    for i in range(3):
        await talk.make(talk.at("disks"), f"d{i}", DISK, userLabels={"n": str(i), "team.example.com/x": "y"})
    for selector, wanted in (("n in (0,2)", 2), ("n!=1", 2), ("!n", 0), ("team.example.com/x=y,n=1", 1), ("", 3)):
        found = await talk.call("GET", talk.at("disks"), params={"labelSelector": selector})
        assert len(found.json()["items"]) == wanted, selector
    first = (await talk.call("GET", talk.at("disks"), params={"limit": "2"})).json()
    rest = (await talk.call("GET", talk.at("disks"), params={"limit": "2", "continue": first["continue"]})).json()
    assert [i["metadata"]["id"] for i in first["items"] + rest["items"]] == [
        "d0",
        "d1",
        "d2",
    ] and "continue" not in rest


async def test_1_10_labels_are_replaced_whole_and_bump_no_generation(talk: Talk) -> None:
    await talk.make(talk.at("disks"), "d", DISK, userLabels={"a": "1", "b": "2"})
    before = await talk.until(talk.at("disks/d"))
    answer = (await talk.call("PATCH", talk.at("disks/d"), {"metadata": {"userLabels": {"a": "9", "c": None}}})).json()
    assert answer["metadata"]["userLabels"] == {"a": "9"} and answer["metadata"]["generation"] == 1
    assert ready_of(answer) == ready_of(before)
    answer = (await talk.call("PATCH", talk.at("disks/d"), {"metadata": {"userLabels": {}}})).json()
    assert "userLabels" not in answer["metadata"]


async def test_1_10_a_whole_object_sent_back_changes_nothing(talk: Talk) -> None:
    path = await running(talk)
    before = await talk.read(path)
    answer = await talk.call("PATCH", path, before)
    assert answer.status_code == 200 and answer.json() == before


async def test_1_10_ready_drops_in_the_answer_that_starts_work(talk: Talk) -> None:
    await talk.make(talk.at("disks"), "d", DISK)
    await talk.until(talk.at("disks/d"))
    answer = (
        await talk.call("PATCH", talk.at("disks/d"), {"spec": {"diskSize": {"amount": 120, "unit": "GB"}}})
    ).json()
    assert ready_of(answer)["status"] == "False" and answer["metadata"]["generation"] == 2
    grown = await talk.until(talk.at("disks/d"))
    assert grown["status"]["diskSize"] == {"amount": 120, "unit": "GB"}


@pytest.mark.parametrize(
    ("spec", "status"),
    [({"diskSize": {"amount": 1, "unit": "GB"}}, 422), ({"placement": {"zone": "b"}}, 422), ({"placement": {"zone": "a"}}, 200),
     ({"source": None}, 422), ({"diskSize": None}, 422), ({"diskSize": {"amount": 100000, "unit": "MB"}}, 200)],
)  # fmt: skip
async def test_1_10_rules_on_fields(talk: Talk, spec: dict[str, Any], status: int) -> None:
    await talk.make(talk.at("disks"), "d", DISK)
    answer = await talk.call("PATCH", talk.at("disks/d"), {"spec": spec})
    assert answer.status_code == status, answer.text


async def test_1_10_only_a_users_write_makes_a_version_stale(talk: Talk) -> None:
    made = await talk.make(talk.at("disks"), "d", DISK)
    await talk.until(talk.at("disks/d"))  # the status was written since
    old = made["metadata"]["resourceVersion"]
    body = {"metadata": {"resourceVersion": old, "userLabels": {"a": "1"}}}
    assert (await talk.call("PATCH", talk.at("disks/d"), body)).status_code == 200
    body["metadata"]["userLabels"] = {"a": "2"}
    stale = await talk.call("PATCH", talk.at("disks/d"), body)
    assert stale.status_code == 409 and stale.json()["reason"] == "Conflict"


async def test_1_11_in_use_then_gone_within_two_seconds(talk: Talk) -> None:
    path = await running(talk)
    answer = await talk.call("DELETE", talk.at("disks/vm-d"))
    assert answer.status_code == 409 and answer.json()["reason"] == "InUse" and "vm" in answer.json()["debug"]
    assert (await talk.call("DELETE", path)).status_code == 204
    await talk.gone(path)
    assert (await talk.call("DELETE", talk.at("disks/vm-d"))).status_code == 204
    await talk.gone(talk.at("disks/vm-d"), 2)
    assert (await talk.call("DELETE", talk.at("disks/vm-d"))).status_code == 404
    await talk.make(talk.at("disks"), "vm-d", DISK)


async def test_1_5_references_stay_in_the_project_and_exist(talk: Talk) -> None:
    for ref in ("/compute/projects/other/regions/se-sto/disks/x", "/compute/projects/demo/regions/fr-par/disks/x", "missing",
                "/networking/projects/demo/regions/se-sto/subnets/default-se-sto-a"):  # fmt: skip
        answer = await talk.call("POST", talk.at("virtualMachines"), {"metadata": {"id": "x"}, "spec": machine(ref)})
        assert answer.status_code == 400 and answer.json()["fields"][0]["path"] == "spec.disks[0].diskRef", answer.text
    assert (await talk.read(talk.at("virtualMachines")))["items"] == []


async def test_3_2_2_stop_change_profile_start(talk: Talk) -> None:
    path = await running(talk)
    refused = await talk.call("PATCH", path, {"spec": {"computeProfileRef": "c1a.s"}})
    assert refused.status_code == 422
    stopping = (await talk.call("PATCH", path, {"spec": {"running": False}})).json()
    assert ready_of(stopping)["status"] == "False"
    stopped = await talk.until(path)
    assert stopped["status"]["virtualMachineStatus"] == "Stopped" and ready_of(stopped)["reason"] == "Stopped"
    assert (await talk.call("PATCH", path, {"spec": {"computeProfileRef": "c1a.s"}})).status_code == 200
    await talk.until(path)
    started = (await talk.call("PATCH", path, {"spec": {"running": True}})).json()
    assert started["status"]["virtualMachineStatus"] != "Stopped" and ready_of(started)["status"] == "False"
    assert (await talk.until(path))["status"]["virtualMachineStatus"] == "Running"


async def test_3_2_2_public_addresses_attach_move_and_clear(talk: Talk) -> None:
    ips = talk.at("publicIPs", "networking/v1beta2")
    await talk.make(ips, "ip", None)
    address = (await talk.until(f"{ips}/ip"))["status"]["publicIPv4Address"]
    one, two = await running(talk, "one"), await running(talk, "two")
    attach = {"spec": {"networking": {"publicIPv4Address": {"static": {"publicIPRef": "ip"}}}}}
    assert (await talk.call("PATCH", one, attach)).status_code == 200
    assert (await talk.until(one))["status"]["networking"]["publicIPv4Address"] == address
    assert (await talk.call("PATCH", two, attach)).status_code == 409
    assert (await talk.call("DELETE", f"{ips}/ip")).status_code == 409
    clear = {"spec": {"networking": {"publicIPv4Address": {"static": {"publicIPRef": None}}}}}
    assert (await talk.call("PATCH", one, clear)).status_code == 200
    assert "publicIPv4Address" not in (await talk.until(one))["status"]["networking"]
    await talk.until(f"{ips}/ip")
    assert (await talk.call("PATCH", two, attach)).status_code == 200
    assert (await talk.until(two))["status"]["networking"]["publicIPv4Address"] == address


async def test_1_3_user_data_is_sealed_and_comes_back_to_those_who_may_update(talk: Talk, cloud: Any) -> None:
    path = await running(talk, osSettings={"cloudInitUserData": "#cloud-config\nplanted-secret: 1\n"})
    found = await talk.read(path)
    assert found["spec"]["osSettings"]["cloudInitUserData"] == "#cloud-config\nplanted-secret: 1\n"
    assert (await talk.call("PATCH", path, found)).status_code == 200
    changed = {"spec": {"osSettings": {"cloudInitUserData": "other"}}}
    assert (await talk.call("PATCH", path, changed)).status_code == 422
    for change in await cloud.store.changes(0):
        assert "planted-secret" not in str(change)


async def test_3_2_3_the_second_of_a_spread_group_fails_where_there_is_one_host(talk: Talk) -> None:
    await talk.make(talk.at("placementGroups"), "g", {"strategy": {"type": "spread"}, "placement": {"zone": "a"}})
    placement = {"zone": "a", "placementGroupRef": "g"}
    await running(talk, "one", placement=placement)
    await talk.make(talk.at("disks"), "two-d", DISK)
    await talk.until(talk.at("disks/two-d"))
    await talk.make(talk.at("virtualMachines"), "two", machine("two-d", placement=placement))
    failed = await talk.until(talk.at("virtualMachines/two"), "False")
    assert failed["status"]["virtualMachineStatus"] == "ProvisioningFailed"
    assert ready_of(failed)["reason"] == "PlacementGroupExceeded" and "a-1" in ready_of(failed)["message"]
    why = await talk.read(talk.at("virtualMachines/two/why"))
    assert {r["reason"] for r in why["decision"]["refused"]} == {"OtherZone", "GroupMemberThere"}
    assert (await talk.call("DELETE", talk.at("placementGroups/g"))).status_code == 409


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"computeProfileRef": "gn-b200.s"}, "ProvisioningFailed"),
        ({"computeProfileRef": "a1a.2xl"}, "ProvisioningFailed"),
    ],
)
async def test_what_no_host_takes_ends_in_a_condition(talk: Talk, change: dict[str, Any], reason: str) -> None:
    await talk.make(talk.at("disks"), "d", DISK)
    await talk.until(talk.at("disks/d"))
    await talk.make(talk.at("virtualMachines"), "x", {**machine("d"), **change})
    failed = await talk.until(talk.at("virtualMachines/x"), "False")
    assert ready_of(failed)["reason"] == reason and ready_of(failed)["message"]


async def test_a_zone_that_is_not_there_and_a_disk_that_is_too_small(talk: Talk) -> None:
    await talk.make(talk.at("disks"), "z", {**DISK, "placement": {"zone": "q"}})
    assert ready_of(await talk.until(talk.at("disks/z"), "False"))["reason"] == "ZoneInvalid"
    await talk.make(talk.at("disks"), "s", {**DISK, "diskSize": {"amount": 1, "unit": "MB"}})
    assert ready_of(await talk.until(talk.at("disks/s"), "False"))["reason"] == "DiskTooSmall"


async def test_a_simulated_machine_says_so(talk: Talk) -> None:
    found = await talk.read(await running(talk))
    assert found["status"]["simulated"] is True and ready_of(found)["reason"] == "Simulated"


async def test_territories_hold_at_admission(talk: Talk) -> None:
    await talk.make("/sovereignty/v1/projects/demo/sovereigntyPolicies", "nordic", {"territories": ["SE", "NO"]})
    await talk.make(talk.at("disks"), "d", DISK)
    paris = Talk(talk.http, talk.token, region="fr-par")
    answer = await paris.call("POST", paris.at("disks"), {"metadata": {"id": "d"}, "spec": DISK})
    assert answer.status_code == 403 and "nordic" in answer.json()["debug"]


async def test_a_repeated_post_with_its_key_is_one_object(talk: Talk) -> None:
    body = {"metadata": {"id": "d"}, "spec": DISK}
    answers = [await talk.call("POST", talk.at("disks"), body, headers={"Idempotency-Key": "k"}) for _ in range(2)]
    assert [a.status_code for a in answers] == [201, 201]
    assert answers[0].json()["metadata"]["uid"] == answers[1].json()["metadata"]["uid"]
    other = await talk.call(
        "POST", talk.at("disks"), {**body, "metadata": {"id": "e"}}, headers={"Idempotency-Key": "k"}
    )
    assert other.status_code == 409


async def test_a_dry_run_writes_nothing_and_shows_the_placement(talk: Talk) -> None:
    await talk.make(talk.at("disks"), "d", DISK)
    await talk.until(talk.at("disks/d"))
    body = {"metadata": {"id": "x"}, "spec": machine("d")}
    answer = await talk.call("POST", talk.at("virtualMachines"), body, params={"dryRun": "true"})
    assert answer.status_code == 200 and answer.json()["placement"]["chosen"] == [{"host": "a-1"}]
    assert (await talk.call("GET", talk.at("virtualMachines/x"))).status_code == 404


async def test_3_3_networks(talk: Talk) -> None:
    nets = talk.at("virtualPrivateClouds", "networking/v1beta2")
    subnets = talk.at("subnets", "networking/v1beta2")
    vpc = await talk.make(nets, "v", {"stackType": "dual-stack", "ipv4CidrBlocks": ["10.100.0.0/16"]})
    assert vpc["status"]["assignedIPv4CidrBlocks"] == ["10.100.0.0/16"] and vpc["status"]["assignedIPv6GUABlock"]
    assert ready_of(vpc)["status"] == "True"
    ref = "/networking/projects/demo/regions/se-sto/virtualPrivateClouds/v"
    spec = {"vpcRef": ref, "stackType": "dual-stack", "ipv4CidrBlock": "10.100.1.0/24", "placement": {"zone": "a"}}
    made = await talk.make(subnets, "s", spec)
    assert made["spec"] == spec and made["status"]["availableIPv4AddressCount"] == 251
    for block, why in (
        ("10.100.1.128/25", "overlaps"),
        ("10.9.0.0/24", "inside"),
        ("10.100.1.1/24", ""),
        ("10.100.0.0/8", ""),
    ):
        answer = await talk.call("POST", subnets, {"metadata": {"id": "t"}, "spec": {**spec, "ipv4CidrBlock": block}})
        assert answer.status_code == 400 and why in answer.text, answer.text
    free = {**spec, "vpcRef": "default-se-sto", "ipv4CidrBlock": "10.0.200.0/24"}
    await talk.make(subnets, "free", free)
    assert (await talk.call("DELETE", f"{nets}/v")).status_code == 409
    assert (await talk.call("DELETE", f"{nets}/default-se-sto")).status_code == 409
    six = await talk.make(nets, "six", {"stackType": "ipv6-only"})
    assert "ipv4CidrBlocks" not in six["spec"]
    for path in (f"{subnets}/s", f"{nets}/v"):
        assert (await talk.call("DELETE", path)).status_code == 204
        await talk.gone(path, 2)


async def test_3_3_2_security_groups(talk: Talk) -> None:
    groups = talk.at("securityGroups", "networking/v1beta2")
    rules: list[dict[str, Any]] = [
        {"name": "ssh", "direction": "Ingress", "protocol": "TCP", "port": 22, "remote": {}},
        {"name": "six", "direction": "Ingress", "protocol": "UDP", "port": 1, "endPort": 9,
         "remote": {"address": {"ipAddressOrCIDR": "2001:db8::/32"}}},
        {"direction": "Egress", "protocol": "all", "remote": {}},
    ]  # fmt: skip
    spec = {"vpcRef": "/networking/projects/demo/regions/se-sto/virtualPrivateClouds/default-se-sto", "rules": rules}
    made = await talk.make(groups, "g", spec)
    assert made["spec"] == spec
    body = await talk.read(f"{groups}/g")
    body["spec"]["rules"].append({"name": "web", "direction": "Ingress", "protocol": "TCP", "port": 80, "remote": {}})
    assert len((await talk.call("PATCH", f"{groups}/g", body)).json()["spec"]["rules"]) == 4
    for bad in ({"protocol": "ICMP", "port": 3}, {"protocol": "GRE"}, {"direction": "Up"}, {"remote": None}):
        answer = await talk.call(
            "POST", groups, {"metadata": {"id": "x"}, "spec": {**spec, "rules": [{**rules[0], **bad}]}}
        )
        assert answer.status_code == 400, bad
    await running(talk, networking={"securityGroupSettings": {"securityGroupMemberRefs": ["g"]}})
    assert (await talk.call("DELETE", f"{groups}/g")).status_code == 409


async def test_3_6_service_accounts_and_credentials(talk: Talk) -> None:
    accounts = "/iam/v1beta1/projects/demo/serviceAccounts"
    made = await talk.make(accounts, "ci", {"description": "d"}, userLabels={"a": "1"})
    assert made["spec"] == {"description": "d", "enabled": True} and made["status"]["oauthClientId"] == "ci_demo"
    credentials = f"{accounts}/ci/serviceAccountCredentials"
    spec = {"accountRef": {"fqid": "/iam/projects/demo/serviceAccounts/ci"}, "type": "rs256-jwt",
            "expiresAt": "2099-01-01T00:00:00.123456789+02:00", "rs256Jwt": {"accessTokenLifetime": 3600}}  # fmt: skip
    far = await talk.call("POST", credentials, {"metadata": {"id": "k"}, "spec": spec})
    assert far.status_code == 400 and "expiresAt" in far.text
    from datetime import UTC, datetime, timedelta

    spec["expiresAt"] = (datetime.now(UTC) + timedelta(hours=48)).isoformat()
    shown = await talk.make(credentials, "k", spec)
    assert shown["spec"] == spec and shown["status"]["privateKeyJwk"]
    found = await talk.read(f"{credentials}/k")
    assert "privateKeyJwk" not in found["status"] and "publicJwk" not in found["status"]
    revoked = (await talk.call("POST", f"{credentials}/k/revoke", {"reason": "lost"})).json()
    assert revoked["status"]["revokedAt"]
    assert (await talk.call("DELETE", f"{accounts}/ci")).status_code == 204
    await talk.gone(f"{accounts}/ci")
    assert (await talk.call("GET", f"{credentials}/k")).status_code == 404


async def test_3_6_2_projects_come_with_their_network_and_go_with_everything(talk: Talk, cloud: Any) -> None:
    projects = "/iam/v1beta1/projects"
    await talk.make(projects, "fresh", {"organization": cloud.credentials.organization, "name": "Fresh"})
    assert "fresh" in [p["metadata"]["id"] for p in (await talk.read(projects))["items"]]
    inside = Talk(talk.http, talk.token, project="fresh")
    subnets = (await inside.read(inside.at("subnets", "networking/v1beta2")))["items"]
    assert [s["metadata"]["id"] for s in subnets] == ["default-se-sto-a", "default-se-sto-b", "default-se-sto-c"]
    assert [s["spec"]["ipv4CidrBlock"] for s in subnets] == ["10.0.0.0/20", "10.0.16.0/20", "10.0.32.0/20"]
    await running(inside)
    assert (await talk.call("DELETE", f"{projects}/fresh")).status_code == 204
    await talk.gone(f"{projects}/fresh", 20)
    assert await cloud.store.claims("addresses", below=True) == []


async def test_catalogues_are_whole_and_cannot_be_changed(talk: Talk) -> None:
    profiles = (await talk.read("/compute/v1beta2/global/computeProfiles"))["items"]
    images = (await talk.read("/compute/v1beta2/global/diskImages/evroc"))["items"]
    assert len(profiles) == 24 and {"ubuntu-minimal.24-04.1", "rocky.10-0.1"} <= {i["metadata"]["id"] for i in images}
    assert all(i["spec"]["osImage"] in ("tiny", "debian") and i["spec"]["description"] for i in images)
    assert (await talk.read("/compute/v1beta2/global/computeProfiles/a1a.m"))["spec"]["vCPUs"] == 4
    assert (await talk.call("DELETE", "/compute/v1beta2/global/computeProfiles/a1a.m")).status_code == 405
    assert (await talk.http.get("/openapi.json")).json()["openapi"] == "3.1.0"


async def test_without_stand_ins_a_published_image_cannot_be_had(talk: Talk, cloud: Any) -> None:
    await write_places(cloud.store, cloud.world.ids, FLEET, stand_ins=False)
    await talk.make(talk.at("disks"), "d", DISK)
    failed = await talk.until(talk.at("disks/d"), "False")
    assert ready_of(failed)["reason"] == "ImageUnavailable" and "stand-ins" in ready_of(failed)["message"]
