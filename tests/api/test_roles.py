"""Role bindings through the API: what they open, that nobody gives what they do not hold, and what they close again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hansa.kinds.bindings import ROLES_MAX
from hansa.policy.access import ROLES, permissions_of

from .conftest import Talk
from .people import IAM, assign, place_of, somebody, with_roles

pytestmark = pytest.mark.anyio
BINDINGS = f"{IAM}/projects/demo/roleBindings"
BLANK = {"diskSize": {"amount": 1, "unit": "GB"}, "placement": {"zone": "a"}}


def binding(principal: str, *roles: str) -> dict[str, Any]:
    return {"spec": {"principal": principal, "roles": [{"name": f"/iam/roles/{r}"} for r in roles]}}


async def until(talk: Talk, method: str, path: str, status: int, body: Any = None) -> Any:
    """A standing is believed for a second: waits until the answer is this one."""
    async with asyncio.timeout(10):
        while (answer := await talk.call(method, path, body)).status_code != status:
            await asyncio.sleep(0.05)
    return answer


# -- what they open ---------------------------------------------------------------------------------


async def test_the_list_of_roles_is_complete(talk: Talk) -> None:
    items = (await talk.read(f"{IAM}/roles"))["items"]
    assert {i["id"] for i in items} == {f"/iam/roles/{name}" for name in ROLES}
    assert {i["scope"] for i in items} == {"project", "organization"}
    assert all(i["description"] and i["permissions"] for i in items)


async def test_a_person_without_a_role_sees_nothing(cloud: Any, talk: Talk) -> None:
    _, nobody = await somebody(cloud, talk)
    assert (await nobody.call("GET", talk.at("disks"))).status_code == 403
    assert (await nobody.call("GET", f"{IAM}/projects/demo")).status_code == 404
    assert (await nobody.read(f"{IAM}/projects"))["items"] == []
    assert (await nobody.read(f"{IAM}/organizations"))["items"] == []
    assert (await nobody.call("GET", "/compute/v1beta2/global/computeProfiles")).status_code == 200


async def test_a_viewer_reads_and_sees_no_user_data(cloud: Any, talk: Talk) -> None:
    await talk.make(talk.at("disks"), "boot", BLANK)
    spec = {"computeProfileRef": "c1a.s", "disks": [{"diskRef": "boot", "bootFrom": True}], "placement": {"zone": "a"},
            "running": False, "osSettings": {"cloudInitUserData": "#cloud-config secret-in-user-data"}}  # fmt: skip
    await talk.make(talk.at("virtualMachines"), "vm", spec)
    _, viewer = await with_roles(cloud, talk, "computeViewer")
    shown = await viewer.read(talk.at("virtualMachines/vm"))
    assert shown["spec"]["osSettings"]["cloudInitUserData"] == "***"
    listed = (await viewer.read(talk.at("virtualMachines")))["items"][0]
    assert "secret-in-user-data" not in str(listed)
    why = (await viewer.call("GET", talk.at("virtualMachines/vm/why"))).text
    assert "secret-in-user-data" not in why
    assert "secret-in-user-data" in str(await talk.read(talk.at("virtualMachines/vm")))
    refused = await viewer.call("PATCH", talk.at("virtualMachines/vm"), {"spec": {"running": True}})
    assert refused.status_code == 403 and "compute.virtualMachines.update" in refused.json()["debug"]
    assert (await viewer.call("GET", talk.at("subnets", "networking/v1beta2"))).status_code == 403
    assert (await viewer.call("GET", talk.at("disks/surely-not"))).status_code == 404
    assert [p["metadata"]["id"] for p in (await viewer.read(f"{IAM}/projects"))["items"]] == ["demo"]


async def test_events_tell_of_what_one_may_read(cloud: Any, talk: Talk) -> None:
    await talk.make(talk.at("disks"), "data", BLANK)
    _, viewer = await with_roles(cloud, talk, "networkingViewer")
    events = (await viewer.read("/events/v1/projects/demo"))["items"]
    assert events and {e["kind"] for e in events} <= {
        "VirtualPrivateCloud",
        "Subnet",
        "SecurityGroup",
        "PublicIP",
        "Project",
    }
    assert "Disk" in {e["kind"] for e in (await talk.read("/events/v1/projects/demo"))["items"]}


async def test_resources_narrow_lists_gets_and_writes(cloud: Any, talk: Talk) -> None:
    for name in ("mine", "theirs"):
        await talk.make(talk.at("disks"), name, BLANK)
    pattern = ["/compute/projects/demo/regions/*/disks/mine"]
    _, part = await with_roles(cloud, talk, "computeOperator", resources=pattern)
    assert [d["metadata"]["id"] for d in (await part.read(talk.at("disks")))["items"]] == ["mine"]
    assert (await part.call("GET", talk.at("disks/mine"))).status_code == 200
    assert (await part.call("GET", talk.at("disks/theirs"))).status_code == 403
    made = await part.call("POST", talk.at("disks"), {"metadata": {"id": "other"}, "spec": BLANK})
    assert made.status_code == 403
    assert (await part.call("GET", talk.at("virtualMachines"))).status_code == 403
    assert (await part.call("DELETE", talk.at("disks/mine"))).status_code == 204


async def test_a_binding_that_is_changed_or_gone_counts_within_a_second(cloud: Any, talk: Talk) -> None:
    uid, person = await with_roles(cloud, talk, "computeViewer")
    assert (await person.call("GET", talk.at("disks"))).status_code == 200
    await assign(cloud, talk, f"/iam/users/{uid}", "computeOperator")
    await until(person, "POST", talk.at("disks"), 201, {"metadata": {"id": "d"}, "spec": BLANK})
    body = {"principal": f"/iam/users/{uid}", "role": "/iam/roles/computeOperator"}
    assert (await talk.call("POST", f"{BINDINGS}/revoke", body)).status_code == 200
    await until(person, "DELETE", talk.at("disks/d"), 403)
    assert (await talk.call("DELETE", f"{BINDINGS}/u-{uid}")).status_code == 204
    await until(person, "GET", talk.at("disks"), 403)


async def test_a_watch_ends_when_its_role_is_taken_away(cloud: Any, talk: Talk) -> None:
    uid, person = await with_roles(cloud, talk, "computeViewer")
    asking, lines = {"Authorization": f"Bearer {person.token}"}, []

    async def watch() -> None:
        async with talk.http.stream("GET", talk.at("disks"), params={"watch": "true"}, headers=asking) as answer:
            async for line in answer.aiter_lines():
                lines.append(line)

    watching = asyncio.create_task(watch())
    await talk.make(talk.at("disks"), "before", BLANK)
    assert (await talk.call("DELETE", f"{BINDINGS}/u-{uid}")).status_code == 204
    async with asyncio.timeout(20):
        number = 0
        while not watching.done():
            await talk.make(talk.at("disks"), f"after-{number}", BLANK)
            number += 1
            await asyncio.sleep(0.3)
    await watching
    assert any('"before"' in line for line in lines), "it had been told of something"


# -- service accounts -------------------------------------------------------------------------------


async def grants(talk: Talk, ref: str, *checks: tuple[str, str]) -> list[bool]:
    body = {"principal": ref, "checks": [{"permission": p, "resource": r} for p, r in checks]}
    answer = await talk.call("POST", f"{IAM}/checkAccess", body)
    assert answer.status_code == 200, answer.text
    return [r["allowed"] for r in answer.json()["results"]]


WRITES = ("compute.disks.create", "/compute/projects/demo/regions/se-sto/disks/x")
READS = ("compute.disks.read", "/compute/projects/demo/regions/se-sto/disks/x")


async def test_an_account_is_at_home_until_a_binding_names_it(talk: Talk) -> None:
    await talk.make(f"{IAM}/projects/demo/serviceAccounts", "robot", {"enabled": True})
    robot = "/iam/projects/demo/serviceAccounts/robot"
    assert await grants(talk, robot, WRITES, READS) == [True, True]
    assert (await talk.call("POST", BINDINGS, binding(robot, "computeViewer"))).status_code == 201
    assert await grants(talk, robot, WRITES, READS) == [False, True]
    assert (await talk.call("DELETE", f"{BINDINGS}/sa-demo.robot")).status_code == 204
    await talk.gone(f"{BINDINGS}/sa-demo.robot")
    assert await grants(talk, robot, WRITES, READS) == [False, False], "the last role is gone, and no other comes back"


async def test_an_account_takes_its_bindings_with_it_and_its_name_inherits_nothing(talk: Talk) -> None:
    accounts, robot = f"{IAM}/projects/demo/serviceAccounts", "/iam/projects/demo/serviceAccounts/robot"
    await talk.make(accounts, "robot", {"enabled": True})
    assert (await talk.call("POST", BINDINGS, binding(robot, "projectOwner"))).status_code == 201
    assert (await talk.call("DELETE", f"{accounts}/robot")).status_code == 204
    await talk.gone(f"{accounts}/robot")
    assert (await talk.call("GET", f"{BINDINGS}/sa-demo.robot")).status_code == 404
    await talk.make(accounts, "robot", {"enabled": True})
    console = ("compute.virtualMachines.console", "/compute/projects/demo/regions/se-sto/virtualMachines/x")
    assert await grants(talk, robot, console, READS) == [False, True]


async def test_whoever_makes_a_key_holds_what_the_account_holds(cloud: Any, talk: Talk) -> None:
    """The account of hansa.env owns the organisation: an owner of the project alone cannot become it."""
    _, owner = await with_roles(cloud, talk, "projectOwner")
    key = {"accountRef": {"fqid": "/iam/projects/demo/serviceAccounts/hansa"}, "type": "rs256-jwt",
           "expiresAt": "2099-01-01T00:00:00Z"}  # fmt: skip
    path = f"{IAM}/projects/demo/serviceAccounts/hansa/serviceAccountCredentials"
    refused = await owner.call("POST", f"{path}?dryRun=true", {"metadata": {"id": "k"}, "spec": key})
    assert refused.status_code == 403 and "organizationOwner" in refused.json()["debug"]
    await talk.make(f"{IAM}/projects/demo/serviceAccounts", "plain", {"enabled": True})
    key["accountRef"] = {"fqid": "/iam/projects/demo/serviceAccounts/plain"}
    allowed = await owner.call("POST", path.replace("/hansa/", "/plain/"), {"metadata": {"id": "k"}, "spec": {**key, "expiresAt": "2030-01-01T00:00:00Z"}})  # fmt: skip
    assert allowed.status_code == 201, allowed.text


# -- the grant rule ---------------------------------------------------------------------------------


async def test_nobody_gives_what_they_do_not_hold(cloud: Any, talk: Talk) -> None:
    other, _ = await somebody(cloud, talk, "other")
    me, administrator = await with_roles(cloud, talk, "projectAccessAdministrator", "computeOperator")
    for role, status in (("computeViewer", 201), ("projectOwner", 403), ("networkingViewer", 403)):
        answer = await administrator.call("POST", f"{BINDINGS}?dryRun=true", binding(f"/iam/users/{other}", role))
        assert answer.status_code == (200 if status == 201 else status), answer.text
    refused = await administrator.call(
        "POST", f"{BINDINGS}/assign", {"principal": f"/iam/users/{me}", "role": "projectOwner"}
    )
    assert refused.status_code == 403 and "nobody gives what they do not hold" in refused.json()["debug"]
    mine = await administrator.read(f"{BINDINGS}/u-{me}")
    mine["spec"]["roles"].append({"name": "/iam/roles/projectOwner"})
    assert (await administrator.call("PATCH", f"{BINDINGS}/u-{me}", mine)).status_code == 403
    sets = {"admin": True, "subject": {"user": {"email": "nobody@example.com"}}}
    assert (
        await administrator.call("POST", f"{IAM}/projects/demo/permissionSets", {"metadata": {"id": "p"}, "spec": sets})
    ).status_code == 403


async def test_each_role_may_be_given_by_its_holder_and_an_administrator_of_nothing_else(
    cloud: Any, talk: Talk
) -> None:
    other, _ = await somebody(cloud, talk, "other")
    for name, role in ROLES.items():
        administrator = "projectAccessAdministrator" if role.scope == "projects" else "organizationAccessAdministrator"
        _, alone = await with_roles(cloud, talk, administrator)
        _, both = await with_roles(cloud, talk, *dict.fromkeys((administrator, name)))
        path = f"{place_of(cloud, talk, name)}?dryRun=true"
        assert (await both.call("POST", path, binding(f"/iam/users/{other}", name))).status_code == 200, name
        answer = (await alone.call("POST", path, binding(f"/iam/users/{other}", name))).status_code
        assert answer == (200 if permissions_of(name) <= permissions_of(administrator) else 403), name


async def test_what_was_given_may_be_kept_and_taken_away_by_an_administrator(cloud: Any, talk: Talk) -> None:
    uid, _ = await with_roles(cloud, talk, "projectOwner", "computeViewer")
    _, administrator = await with_roles(cloud, talk, "projectAccessAdministrator")
    path = f"{BINDINGS}/u-{uid}"
    assert (await administrator.call("PATCH", path, {"spec": {"name": "told"}})).status_code == 200
    body = {"principal": f"/iam/users/{uid}", "role": "/iam/roles/projectOwner"}
    answer = await administrator.call("POST", f"{BINDINGS}/revoke", body)
    assert answer.status_code == 200
    assert answer.json()["spec"]["roles"] == [{"name": "/iam/roles/computeViewer"}]
    again = await administrator.call("POST", f"{BINDINGS}/assign", body)
    assert again.status_code == 403


async def test_who_lost_a_role_a_moment_ago_gives_it_no_more(cloud: Any, talk: Talk) -> None:
    """A standing is believed for a second, but not for giving."""
    me, administrator = await with_roles(cloud, talk, "projectAccessAdministrator", "computeOperator")
    other, _ = await somebody(cloud, talk, "other")
    await administrator.read(f"{BINDINGS}/u-{me}")  # now it is remembered
    body = {"principal": f"/iam/users/{me}", "role": "computeOperator"}
    assert (await talk.call("POST", f"{BINDINGS}/revoke", body)).status_code == 200
    answer = await administrator.call("POST", BINDINGS, binding(f"/iam/users/{other}", "computeViewer"))
    assert answer.status_code == 403


async def test_a_maker_of_projects_owns_those_alone(cloud: Any, talk: Talk) -> None:
    _, maker = await with_roles(cloud, talk, "organizationProjectCreator")
    spec = {"organization": cloud.credentials.organization, "name": "mine"}
    await maker.make(f"{IAM}/projects", "mine", spec)
    await until(maker, "GET", f"{IAM}/projects/mine", 200)
    assert (await maker.call("GET", "/compute/v1beta2/projects/mine/regions/se-sto/disks")).status_code == 200
    assert (await maker.call("GET", talk.at("disks"))).status_code == 403
    assert (await maker.call("DELETE", f"{IAM}/projects/mine")).status_code == 204
    await talk.gone(f"{IAM}/projects/mine")


# -- form -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"principal": "/iam/users/me", "roles": [{"name": "/iam/roles/computeViewer"}]}, "spec.principal"),
        ({"roles": [{"name": "/iam/roles/computeViewer"}]}, "spec.principal"),
        ({"roles": []}, "spec.roles"),
        ({"roles": [{"name": "computeViewer"}]}, "spec.roles"),
        ({"roles": [{"name": "/iam/roles/emperor"}]}, "spec.roles[0].name"),
        ({"roles": [{"name": "/iam/roles/organizationOwner"}]}, "spec.roles[0].name"),
        ({"roles": [{"name": "/iam/roles/computeViewer"}] * 2}, "spec.roles"),
        ({"roles": [{"name": f"/iam/roles/r{n}"} for n in range(ROLES_MAX + 1)]}, "spec.roles"),
        ({"roles": [{"name": "/iam/roles/computeViewer", "resources": ["*"]}]}, "spec.roles"),
        ({"roles": [{"name": "/iam/roles/computeViewer", "resources": ["/compute/projects/*/regions/*/disks/*"]}]}, "spec.roles"),
        ({"roles": [{"name": "/iam/roles/computeViewer", "resources": ["/compute/projects/other/regions/*/disks/*"]}]}, "spec.roles[0].resources"),
        ({"principal": "/iam/users/00000000-0000-4000-8000-000000000000", "roles": [{"name": "/iam/roles/computeViewer"}]}, "spec.principal"),
        ({"principal": "/iam/projects/demo/serviceAccounts/none", "roles": [{"name": "/iam/roles/computeViewer"}]}, "spec.principal"),
    ],
)  # fmt: skip
async def test_a_wrong_binding_is_refused_with_its_field(
    spec: dict[str, Any], field: str, talk: Talk, cloud: Any
) -> None:
    if "principal" not in spec and field != "spec.principal":
        spec = {"principal": f"/iam/users/{cloud.credentials.user}", **spec}
    answer = await talk.call("POST", BINDINGS, {"spec": spec})
    assert answer.status_code == 400 and field in answer.json()["debug"], answer.text


async def test_a_strangers_account_can_be_named_by_nobody(talk: Talk, stranger: Talk, cloud: Any) -> None:
    """Whether it exists or not: the same answer."""
    await stranger.make(f"{IAM}/projects/strange/serviceAccounts", "robot", {"enabled": True})
    for place in ("projects/demo", f"organizations/{cloud.credentials.organization}"):
        role = "computeViewer" if place == "projects/demo" else "organizationViewer"
        answers = [
            await talk.call(
                "POST", f"{IAM}/{place}/roleBindings", binding(f"/iam/projects/strange/serviceAccounts/{n}", role)
            )
            for n in ("robot", "not-there")
        ]
        assert [a.status_code for a in answers] == [400, 400]
        said = [{**a.json(), "request": "", "fields": ""} for a in answers]
        assert str(said[0]).replace("robot", "not-there") == str(said[1])


# -- asking -----------------------------------------------------------------------------------------


async def test_permissions_are_tested_in_the_order_asked(cloud: Any, talk: Talk) -> None:
    _, viewer = await with_roles(cloud, talk, "computeViewer")
    checks = [
        {"permission": "compute.disks.read", "resource": "/compute/projects/demo/regions/se-sto/disks/x"},
        {"permission": "compute.disks.create", "resource": "/compute/projects/demo/regions/se-sto/disks/x"},
        {"permission": "compute.disks.read", "resource": "/compute/projects/other/regions/se-sto/disks/x"},
        {"permission": "no.such.permission", "resource": "/iam/projects/demo"},
        {"permission": "iam.projects.read", "resource": "/iam/projects/demo"},
        {"permission": "compute.diskImages.read", "resource": "/compute/global/diskImages/evroc/ubuntu.24-04.1"},
        {"permission": "compute.disks.read", "resource": "/compute/global/diskImages/evroc/ubuntu.24-04.1"},
        {"permission": "fleet.regions.read", "resource": "/fleet/regions/se-sto"},
        {"permission": "fleet.regions.delete", "resource": "/fleet/regions/se-sto"},
    ]
    answer = await viewer.call("POST", f"{IAM}/testPermissions", {"checks": checks})
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [{k: r[k] for k in ("permission", "resource")} for r in results] == checks
    assert [r["allowed"] for r in results] == [True, False, False, False, True, True, False, True, False]


@pytest.mark.parametrize("body", [{}, {"checks": []}, {"checks": [1]}, {"checks": [{"permission": "a.b.c"}]}, {"checks": [{"permission": "a.b.c", "resource": "x"}]}, {"checks": [{}] * 257}])  # fmt: skip
async def test_a_wrong_question_is_refused(body: dict[str, Any], talk: Talk) -> None:
    answer = await talk.call("POST", f"{IAM}/testPermissions", body)
    assert answer.status_code == 400, answer.text


async def test_access_of_others_is_told_to_those_who_may_read_bindings(cloud: Any, talk: Talk, stranger: Talk) -> None:
    uid, viewer = await with_roles(cloud, talk, "computeViewer")
    assert await grants(talk, f"/iam/users/{uid}", READS, WRITES) == [True, False]
    body = {"principal": f"/iam/users/{uid}", "checks": [{"permission": READS[0], "resource": READS[1]}]}
    assert (await viewer.call("POST", f"{IAM}/checkAccess", body)).status_code == 403
    assert (await stranger.call("POST", f"{IAM}/checkAccess", body)).status_code == 403


async def test_everybody_sees_their_own_bindings(cloud: Any, talk: Talk) -> None:
    uid, viewer = await with_roles(cloud, talk, "computeViewer", "organizationProjectCreator")
    items = (await viewer.read(f"{IAM}/me/roleBindings"))["items"]
    assert sorted(i["spec"]["roles"][0]["name"] for i in items) == [
        "/iam/roles/computeViewer",
        "/iam/roles/organizationProjectCreator",
    ]
    me = await viewer.read(f"{IAM}/me")
    assert me["principal"] == f"/iam/users/{uid}" and len(me["grants"]) == 2


async def test_assigning_adds_up_and_the_last_revocation_removes_the_binding(cloud: Any, talk: Talk) -> None:
    uid, _ = await somebody(cloud, talk)
    who = f"/iam/users/{uid}"
    pattern = "/compute/projects/demo/regions/*/disks/{}"
    first = await assign(cloud, talk, who, "computeViewer", [pattern.format("a")])
    assert first["metadata"]["id"] == f"u-{uid}"
    both = await assign(cloud, talk, who, "computeViewer", [pattern.format("b")])
    assert both["spec"]["roles"][0]["resources"] == [pattern.format("a"), pattern.format("b")]
    whole = await assign(cloud, talk, who, "computeViewer")
    assert whole["spec"]["roles"] == [{"name": "/iam/roles/computeViewer"}]
    await asyncio.gather(
        *(assign(cloud, talk, who, role) for role in ("computeOperator", "networkingViewer", "storageOperator"))
    )
    assert len((await talk.read(f"{BINDINGS}/u-{uid}"))["spec"]["roles"]) == 4, "none of them was lost"
    for role in ("computeViewer", "computeOperator", "networkingViewer", "storageOperator"):
        answer = await talk.call("POST", f"{BINDINGS}/revoke", {"principal": who, "role": role})
        assert answer.status_code == 200, answer.text
    assert answer.json()["spec"]["roles"] == []
    await talk.gone(f"{BINDINGS}/u-{uid}")
    assert (
        await talk.call("POST", f"{BINDINGS}/revoke", {"principal": who, "role": "computeViewer"})
    ).status_code == 404
