"""People of an organisation: made and looked after by its owners, their passwords by themselves too; permission sets."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from argon2 import PasswordHasher

from hansa.bootstrap import ensure_organization
from hansa.clock import SystemClock, SystemIds

from .conftest import Talk, token_for
from .people import IAM, assign, somebody, with_roles

pytestmark = pytest.mark.anyio
FIRST, SECOND = "a first password", "another password"
TOKEN = "/realms/evroc-customer/protocol/openid-connect/token"


@pytest.fixture
def cheap(cloud: Any) -> Iterator[None]:
    cloud.api.identities.users.passwords._hasher = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    yield


def people(cloud: Any) -> str:
    return f"{IAM}/organizations/{cloud.credentials.organization}/users"


async def add(talk: Talk, cloud: Any, email: str = "ada@example.com", password: str | None = FIRST) -> str:
    body = {"spec": {"email": email, "name": email.title()}} | ({"password": password} if password else {})
    answer = await talk.call("POST", people(cloud), body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["metadata"]["id"])


async def login(talk: Talk, email: str, password: str) -> Any:
    form = {"grant_type": "password", "username": email, "password": password, "client_id": "evroc-cli"}
    return await talk.http.post(TOKEN, data=form)


async def as_person(talk: Talk, email: str, password: str) -> Talk:
    answer = await login(talk, email, password)
    assert answer.status_code == 200, answer.text
    return Talk(talk.http, answer.json()["access_token"])


async def until(person: Talk, status: int) -> None:
    async with asyncio.timeout(10):
        while (await person.call("GET", f"{IAM}/me")).status_code != status:
            await asyncio.sleep(0.05)


@pytest.mark.usefixtures("cheap")
async def test_a_person_is_added_given_a_role_and_logs_in(talk: Talk, cloud: Any) -> None:
    uid = await add(talk, cloud)
    await assign(cloud, talk, f"/iam/users/{uid}", "computeViewer")
    ada = await as_person(talk, "ada@example.com", FIRST)
    assert (await ada.call("GET", talk.at("disks"))).status_code == 200
    assert (await ada.call("GET", people(cloud))).status_code == 403
    shown = await talk.read(f"{people(cloud)}/{uid}")
    assert shown["spec"] == {"email": "ada@example.com", "name": "Ada@Example.Com", "enabled": True, "organizations": [],
                             "organization": cloud.credentials.organization}  # fmt: skip
    listed = [i["metadata"]["id"] for i in (await talk.read(people(cloud)))["items"]]
    assert listed == [cloud.credentials.user, uid]


@pytest.mark.usefixtures("cheap")
async def test_disabling_counts_within_a_second_and_can_be_undone(talk: Talk, cloud: Any) -> None:
    uid = await add(talk, cloud)
    ada = await as_person(talk, "ada@example.com", FIRST)
    change = {"spec": {"enabled": False}}
    assert (await talk.call("PATCH", f"{people(cloud)}/{uid}", change)).json()["spec"]["enabled"] is False
    await until(ada, 401)
    assert (await login(talk, "ada@example.com", FIRST)).status_code == 400
    assert (await talk.call("PATCH", f"{people(cloud)}/{uid}", {"spec": {"enabled": True}})).status_code == 200
    await as_person(talk, "ada@example.com", FIRST)
    records = (await talk.read(f"/audit/v1/organizations/{cloud.credentials.organization}/records?kind=User"))["items"]
    assert [r["verb"] for r in records] == ["login", "enable", "disable", "login", "create"]


@pytest.mark.usefixtures("cheap")
async def test_a_new_password_ends_the_logins_of_the_old_one(talk: Talk, cloud: Any) -> None:
    uid = await add(talk, cloud)
    ada = await as_person(talk, "ada@example.com", FIRST)
    assert (await talk.call("POST", f"{people(cloud)}/{uid}/password", {"password": SECOND})).status_code == 200
    await until(ada, 401)
    assert (await login(talk, "ada@example.com", FIRST)).status_code == 400
    await as_person(talk, "ada@example.com", SECOND)


@pytest.mark.usefixtures("cheap")
async def test_ones_own_password_takes_the_present_one(talk: Talk, cloud: Any) -> None:
    await add(talk, cloud)
    ada = await as_person(talk, "ada@example.com", FIRST)
    for body in ({"password": SECOND}, {"password": SECOND, "current": "wrong wrong wrong"}):
        assert (await ada.call("POST", f"{IAM}/me/password", body)).status_code == 403
    short = await ada.call("POST", f"{IAM}/me/password", {"current": FIRST, "password": "short"})
    assert short.status_code == 400 and "short" not in short.json()["debug"]
    assert (await ada.call("POST", f"{IAM}/me/password", {"current": FIRST, "password": SECOND})).status_code == 200
    await as_person(talk, "ada@example.com", SECOND)


@pytest.mark.usefixtures("cheap")
async def test_guessing_the_present_password_is_limited(talk: Talk, cloud: Any) -> None:
    await add(talk, cloud)
    ada = await as_person(talk, "ada@example.com", FIRST)
    body = {"current": "wrong wrong wrong", "password": SECOND}
    answers = [(await ada.call("POST", f"{IAM}/me/password", body)).status_code for _ in range(6)]
    assert answers == [403] * 5 + [429]


@pytest.mark.usefixtures("cheap")
async def test_nobody_sets_the_password_of_whom_they_could_not_be(talk: Talk, cloud: Any) -> None:
    """An owner of the organisation may; whoever holds a role in another organisation is out of reach."""
    uid = await add(talk, cloud)
    other, _, refresh = await ensure_organization(cloud.store, SystemClock(), SystemIds(), "another")
    theirs = Talk(talk.http, await token_for(talk.http, refresh), project="away")
    await theirs.make(f"{IAM}/projects", "away", {"organization": other})
    body = {"principal": f"/iam/users/{uid}", "role": "projectOwner"}
    assert (await theirs.call("POST", f"{IAM}/projects/away/roleBindings/assign", body)).status_code == 200
    refused = await talk.call("POST", f"{people(cloud)}/{uid}/password", {"password": SECOND})
    assert refused.status_code == 403 and "nobody gives what they do not hold" in refused.json()["debug"]
    assert (await theirs.call("POST", f"{people(cloud)}/{uid}/password", {"password": SECOND})).status_code == 403
    assert (await theirs.call("GET", f"{IAM}/organizations/{other}/users/{uid}")).status_code == 404


async def test_an_address_has_one_owner(talk: Talk, cloud: Any) -> None:
    await add(talk, cloud, password=None)
    again = await talk.call("POST", people(cloud), {"spec": {"email": "ADA@example.com"}})
    assert again.status_code == 409 and "AlreadyExists" in again.text


@pytest.mark.parametrize(
    ("body", "field"),
    [({}, "spec.email"), ({"spec": {"email": "ada"}}, "spec.email"), ({"spec": {"email": "a b@c"}}, "spec.email"), ({"spec": []}, "spec"),
     ({"spec": {"email": "a@b", "name": ""}}, "spec.name"), ({"spec": {"email": "a@b"}, "password": "short"}, "password")],
)  # fmt: skip
async def test_a_wrong_person_is_refused_with_its_field(
    body: dict[str, Any], field: str, talk: Talk, cloud: Any
) -> None:
    answer = await talk.call("POST", people(cloud), body)
    assert answer.status_code == 400 and field in answer.json()["debug"], answer.text


async def test_what_makes_an_owner_cannot_be_asked_for(talk: Talk, cloud: Any) -> None:
    body = {
        "spec": {"email": "eve@example.com", "organizations": [cloud.credentials.organization], "organization": "x"}
    }
    made = (await talk.call("POST", people(cloud), body)).json()
    assert made["spec"]["organizations"] == [] and made["spec"]["organization"] == cloud.credentials.organization
    path = f"{people(cloud)}/{made['metadata']['id']}"
    changed = (await talk.call("PATCH", path, {"spec": {"organizations": ["x"], "email": "other@example.com"}})).json()
    assert changed["spec"] == made["spec"]


async def test_nobody_disables_themselves(talk: Talk, cloud: Any) -> None:
    path = f"{people(cloud)}/{cloud.credentials.user}"
    answer = await talk.call("PATCH", path, {"spec": {"enabled": False}})
    assert answer.status_code == 400 and "another owner" in answer.json()["debug"]
    assert (await talk.read(path))["spec"]["enabled"] is True


@pytest.mark.parametrize("method", ["DELETE", "PUT"])
async def test_other_methods_are_not_offered(method: str, talk: Talk, cloud: Any) -> None:
    assert (await talk.call(method, people(cloud))).status_code == 405
    assert (await talk.call("GET", f"{people(cloud)}/x/y")).status_code == 404
    assert (await talk.call("GET", f"{people(cloud)}/x/password/z")).status_code == 404


# -- permission sets, as older clients say it -------------------------------------------------------

SETS = f"{IAM}/projects/demo/permissionSets"


@pytest.mark.usefixtures("cheap")
async def test_a_permission_set_is_a_thin_layer_over_two_roles(talk: Talk, cloud: Any) -> None:
    await add(talk, cloud)
    ada = await as_person(talk, "ada@example.com", FIRST)
    spec = {"admin": False, "subject": {"type": "user", "user": {"email": "Ada@example.com"}}}
    made = await talk.make(SETS, "ada", spec)
    assert made["spec"] == spec and "principal" not in made["status"]
    accounts = f"{IAM}/projects/demo/serviceAccounts"

    async def answers(status: int) -> None:
        async with asyncio.timeout(10):
            while (await ada.call("POST", accounts, {"metadata": {"id": "x"}, "spec": {}})).status_code != status:
                await asyncio.sleep(0.05)

    async with asyncio.timeout(10):
        while (await ada.call("GET", talk.at("disks"))).status_code != 200:
            await asyncio.sleep(0.05)
    await answers(403)
    assert (await talk.call("PATCH", f"{SETS}/ada", {"spec": {"admin": True}})).status_code == 200
    await answers(201)
    assert (await talk.call("DELETE", f"{SETS}/ada")).status_code == 204
    await talk.gone(f"{SETS}/ada")
    async with asyncio.timeout(10):
        while (await ada.call("GET", talk.at("disks"))).status_code != 403:
            await asyncio.sleep(0.05)


async def test_an_address_of_nobody_here_is_refused_alike(talk: Talk, stranger: Talk, cloud: Any) -> None:
    other = (await stranger.read(f"{IAM}/organizations"))["items"][0]["metadata"]["id"]
    elsewhere = await stranger.call(
        "POST", f"{IAM}/organizations/{other}/users", {"spec": {"email": "eve@example.com"}}
    )
    assert elsewhere.status_code == 201
    answers = []
    for email in ("eve@example.com", "nobody@example.com"):
        spec = {"admin": True, "subject": {"type": "user", "user": {"email": email}}}
        answer = await talk.call("POST", SETS, {"metadata": {"id": "x"}, "spec": spec})
        assert answer.status_code == 400
        answers.append(answer.json()["debug"])
    assert answers[0] == answers[1]


async def test_who_gives_a_permission_set_holds_its_role(talk: Talk, cloud: Any) -> None:
    await add(talk, cloud, password=None)
    _, administrator = await with_roles(cloud, talk, "projectAccessAdministrator", "projectContributor")
    for admin, status in ((True, 403), (False, 200)):
        spec = {"admin": admin, "subject": {"type": "user", "user": {"email": "ada@example.com"}}}
        answer = await administrator.call("POST", f"{SETS}?dryRun=true", {"metadata": {"id": "x"}, "spec": spec})
        assert answer.status_code == status, answer.text
    _, nobody = await somebody(cloud, talk)
    assert (await nobody.call("POST", SETS, {"metadata": {"id": "x"}, "spec": spec})).status_code == 403
