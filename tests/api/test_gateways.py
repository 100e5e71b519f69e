"""What a gateway tells the API, and how the directory of a gateway follows what the API does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import httpx2
import pytest

from hansa.api.caller import issuer_of, key_holder
from hansa.api.gateways import AUDIENCE, gateway_claims
from hansa.api.keys import SigningKeys
from hansa.errors import Retry
from hansa.gateways.s3.directory import Directory
from hansa.gateways.s3.following import Follower
from hansa.gateways.s3.wire.errors import S3Error
from hansa.kinds.storage import Bucket
from hansa.objectindex.records import Versioning
from hansa.policy.decide import decide
from hansa.policy.verdict import Act, Rules, Subject
from hansa.wiring import Cloud

from .conftest import BASE, Talk, token_for
from .people import assign

pytestmark = pytest.mark.anyio
USAGE = "/internal/v1/usage"


def own_token(cloud: Cloud, **more: Any) -> str:
    assert cloud.api.gateways is not None
    claims = gateway_claims(issuer_of(BASE), "g1", cloud.store.clock.now())  # type: ignore[attr-defined]
    return cloud.api.gateways.keys.sign({**claims, **more})


async def project_uid(cloud: Cloud) -> str:
    from hansa.kinds.resource import Key

    return (await cloud.store.get(Key("Project", "", "demo"))).uid


async def window(cloud: Cloud, id: str = "g1-1", **counts: int) -> dict[str, Any]:
    start = int(time.time()) // 60 * 60
    row = {
        "kind": "Bucket", "name": "films", "uid": "b-1", "project": "demo", "projectUid": await project_uid(cloud),
        "organization": "o", "region": "se-sto", "counts": counts or {"s3_read_requests": 3}, "held": True,
    }  # fmt: skip
    return {"id": id, "start": start, "end": start + 60, "rows": [row]}


async def tell(http: httpx2.AsyncClient, token: str, body: Any) -> httpx2.Response:
    return await http.post(USAGE, json=body, headers={"Authorization": f"Bearer {token}"})


# -- usage ------------------------------------------------------------------------------------------


async def test_a_window_is_recorded_once_however_often_it_is_told(
    cloud: Cloud, http: httpx2.AsyncClient, talk: Talk
) -> None:
    body = await window(cloud, s3_read_requests=3, s3_sent_bytes=5_000_000_000, s3_list_requests=0)
    for _ in range(3):
        answer = await tell(http, own_token(cloud), body)
        assert answer.status_code == 200 and answer.json() == {"window": "g1-1", "rows": 1}
    await tell(http, own_token(cloud), await window(cloud, "g1-2"))
    first = await talk.read("/ledger/v1/projects/demo/usage")
    items = (await talk.read(f"/ledger/v1/projects/demo/usage?continue={first['continue']}"))["items"]
    assert [(i["meter"], i["quantity"], i["consumed"], i["unit"], i["open"]) for i in items] == [
        ("s3_read_requests", 3, 3, "request", False), ("s3_sent_bytes", 5_000_000_000, 5_000_000_000, "byte", False),
        ("s3_read_requests", 3, 3, "request", False),
    ]  # fmt: skip
    assert items[0]["ref"] == "/storage/projects/demo/regions/se-sto/buckets/films" and items[0]["seconds"] == 60
    pages = f"/ledger/v1/projects/demo/usage?limit=1&continue={first['continue']}&meter=s3_read_requests"
    page = await talk.read(pages)
    assert len(page["items"]) == 1 and page["continue"].startswith("c")
    far = await talk.read("/ledger/v1/projects/demo/usage?since=2100-01-01T00:00:00Z")
    assert far == {"items": []}


@pytest.mark.parametrize("claims", [{"aud": "hansa-api"}, {"iss": "http://else"}, {"exp": 5}, {"exp": "soon"}])
async def test_a_token_for_anything_else_is_not_heard(
    cloud: Cloud, http: httpx2.AsyncClient, claims: dict[str, Any]
) -> None:
    assert (await tell(http, own_token(cloud, **claims), await window(cloud))).status_code == 401


async def test_nobody_but_a_gateway_is_heard(cloud: Cloud, http: httpx2.AsyncClient, talk: Talk) -> None:
    foreign = SigningKeys.fresh().sign(gateway_claims(issuer_of(BASE), "g1", time.time()))
    for token in (talk.token, foreign, "x", ""):
        assert (await tell(http, token, await window(cloud))).status_code == 401
    inward = await http.get("/iam/v1beta1/projects", headers={"Authorization": f"Bearer {own_token(cloud)}"})
    assert inward.status_code == 401 and AUDIENCE not in inward.text  # and a gateway's own token opens nothing else
    assert (await http.get(USAGE, headers={"Authorization": f"Bearer {own_token(cloud)}"})).status_code == 401


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"id": "../x"}, "id"), ({"start": -1}, "start"), ({"end": 0}, "end"), ({"rows": [{"kind": "Bucket"}]}, "rows.0.name"),
        ({"rows": None}, "rows"),
    ],
)  # fmt: skip
async def test_a_window_of_no_good_form_is_refused_by_name(
    cloud: Cloud, http: httpx2.AsyncClient, change: dict[str, Any], path: str
) -> None:
    answer = await tell(http, own_token(cloud), {**await window(cloud), **change})
    assert answer.status_code == 400 and answer.json()["fields"][0]["path"] == path


async def test_meters_that_nobody_knows_are_refused(cloud: Cloud, http: httpx2.AsyncClient) -> None:
    answer = await tell(http, own_token(cloud), await window(cloud, gold=1))
    assert answer.status_code == 400 and "gold" in answer.text


# -- retentions that were passed by -----------------------------------------------------------------


def bypass(**more: Any) -> dict[str, Any]:
    return {
        "id": "b-1", "who": "/iam/projects/demo/serviceAccounts/ci", "via": "/storage/projects/demo/s3Keys/k",
        "rule": "projectContributor", "operation": "DeleteObject", "request": "A1", "project": "demo", "region": "se-sto",
        "bucket": "films", "uid": "b-uid", "key": "\0 кино/../a", "version": "v1", "until": 1_900_000_000.0,
        "becomes": "deleted", **more,
    }  # fmt: skip


async def pass_by(cloud: Cloud, http: httpx2.AsyncClient, *, token: str = "", **more: Any) -> httpx2.Response:
    headers = {"Authorization": f"Bearer {token or own_token(cloud)}"}
    return await http.post("/internal/v1/bypasses", json={"bypasses": [bypass(**more)]}, headers=headers)


async def test_a_bypass_stands_once_in_the_audit_of_whom_the_bucket_belongs_to(
    cloud: Cloud, http: httpx2.AsyncClient, talk: Talk
) -> None:
    for _ in range(2):
        answer = await pass_by(cloud, http)
        assert (answer.status_code, answer.json()) == (200, {"records": ["b-1"]})
    organization = cloud.credentials.organization
    for scope in ("projects/demo", f"organizations/{organization}"):
        (record,) = (await talk.read(f"/audit/v1/{scope}/records?verb=bypass"))["items"]
        assert record.pop("at") and record == {
            "id": "b-1", "who": "/iam/projects/demo/serviceAccounts/ci", "via": "/storage/projects/demo/s3Keys/k",
            "verb": "bypass", "kind": "Bucket", "name": "films", "uid": "b-uid", "outcome": "allowed", "request": "A1",
            "ref": "/storage/projects/demo/regions/se-sto/buckets/films", "project": "demo", "organization": organization,
            "rule": "projectContributor",
            "object": {"key": "\0 кино/../a", "version": "v1", "until": "2030-03-17T17:46:40.000Z", "becomes": "deleted",
                       "operation": "DeleteObject"},
        }  # fmt: skip
    verdict = await talk.read("/decisions/v1/b-1")
    assert (verdict["verdict"], verdict["act"], verdict["rule"]) == ("allowed", "bypass", "projectContributor")


async def test_a_bypass_is_taken_of_gateways_in_good_form_only(
    cloud: Cloud, http: httpx2.AsyncClient, talk: Talk
) -> None:
    for token in (talk.token, own_token(cloud, aud="hansa-api"), "x"):
        assert (await pass_by(cloud, http, token=token)).status_code == 401
    for change, path in (
        ({"id": "../x"}, "id"),
        ({"key": ""}, "key"),
        ({"until": -1}, "until"),
        ({"rule": ""}, "rule"),
    ):
        answer = await pass_by(cloud, http, **change)
        assert answer.status_code == 400 and answer.json()["fields"][0]["path"] == f"bypasses.0.{path}", answer.text
    headers = {"Authorization": f"Bearer {own_token(cloud)}"}
    for wrong in ([], [bypass()] * 101, [bypass(), bypass(id="b-2", request="A2")]):
        answer = await http.post("/internal/v1/bypasses", json={"bypasses": wrong}, headers=headers)
        assert answer.status_code == 400 and answer.json()["fields"][0]["path"] == "bypasses", answer.text
    assert (await pass_by(cloud, http, project="nowhere")).status_code == 404
    assert (await http.post("/internal/v1/others", json={}, headers={})).status_code in (401, 404)
    assert (await talk.read("/audit/v1/projects/demo/records?verb=bypass"))["items"] == []


async def test_the_bypasses_of_one_request_are_recorded_together(
    cloud: Cloud, http: httpx2.AsyncClient, talk: Talk
) -> None:
    many = [bypass(id=f"b-{n}", version=f"v{n}") for n in range(3)]
    headers = {"Authorization": f"Bearer {own_token(cloud)}"}
    answer = await http.post("/internal/v1/bypasses", json={"bypasses": many}, headers=headers)
    assert (answer.status_code, answer.json()) == (200, {"records": ["b-0", "b-1", "b-2"]})
    records = (await talk.read("/audit/v1/projects/demo/records?verb=bypass"))["items"]
    assert {record["object"]["version"] for record in records} == {"v0", "v1", "v2"}


# -- the directory ----------------------------------------------------------------------------------


@pytest.fixture
async def follower(cloud: Cloud) -> AsyncIterator[Follower]:
    sealer = cloud.api.resources.sealer
    directory = Directory(cloud.store.clock, sealer.open, region="se-sto", quotas={})  # type: ignore[attr-defined]
    made = Follower(cloud.store, directory, partial(key_holder, cloud.store))
    await made.load()
    yield made


async def an_account(talk: Talk, name: str = "ci") -> str:
    await talk.make(f"/iam/v1beta1/projects/{talk.project}/serviceAccounts", name, {})
    return f"/iam/projects/{talk.project}/serviceAccounts/{name}"


async def a_key(talk: Talk, name: str = "k", **spec: Any) -> dict[str, Any]:
    return await talk.make(f"/storage/v1/projects/{talk.project}/s3Keys", name, spec)


async def test_buckets_come_change_and_go(talk: Talk, follower: Follower) -> None:
    directory, path = follower.directory, talk.at("buckets", "storage/v1")
    made = await talk.make(path, "films", {})
    assert directory.bucket("films") is None
    await directory.caught_up()
    view = directory.bucket("films")
    assert view is not None and (view.uid, view.project, view.region, view.territory, view.versioning) == (
        made["metadata"]["uid"], "demo", "se-sto", "SE", Versioning.NEVER,
    )  # fmt: skip
    assert view.organization and [b.name for b in directory.buckets_of("demo")] == ["films"]
    await talk.call("PATCH", f"{path}/films", {"spec": {"objectRetentionMode": "Locking"}})
    await directory.caught_up()
    later = directory.bucket("films")
    assert later is not None and later.revision > view.revision and later.locking
    assert later.versioning is Versioning.ENABLED
    await talk.call("DELETE", f"{path}/films")
    await talk.gone(f"{path}/films")
    await directory.caught_up()
    assert directory.bucket("films") is None and directory.bucket_by_uid(view.uid) is None
    assert list(directory.buckets_of("demo")) == []


async def test_a_key_opens_what_its_account_may_until_it_is_ended(cloud: Cloud, talk: Talk, follower: Follower) -> None:
    directory = follower.directory
    made = await a_key(talk, serviceAccountRef=await an_account(talk))
    access_key = made["status"]["accessKeyID"]
    assert directory.key(access_key) is None
    await directory.caught_up()
    identity = directory.key(access_key)
    assert identity is not None and identity.secret.decode() == made["status"]["secretAccessKey"]
    assert (identity.project, identity.buckets, identity.disabled) == ("demo", None, "")
    assert directory.user(identity.user_id) == identity.display_name == "ci"
    subject = Subject(
        Bucket.kind, "x", "demo", identity.organization, ref="/storage/projects/demo/regions/se-sto/buckets/x"
    )
    assert decide(identity.caller, Act.CREATE, subject, Rules()).allowed
    await assign(
        cloud, talk, "/iam/projects/demo/serviceAccounts/ci", "computeViewer"
    )  # from now on bindings alone count
    await directory.caught_up()
    narrowed = directory.key(access_key)
    assert narrowed is not None and not decide(narrowed.caller, Act.CREATE, subject, Rules()).allowed
    await talk.call("PATCH", "/iam/v1beta1/projects/demo/serviceAccounts/ci", {"spec": {"enabled": False}})
    await directory.caught_up()
    disabled = directory.key(access_key)
    assert disabled is not None and "disabled" in disabled.disabled
    await talk.call("POST", "/storage/v1/projects/demo/s3Keys/k/revoke", {})
    await directory.caught_up()
    revoked = directory.key(access_key)
    assert revoked is not None and "revoked" in revoked.disabled
    await talk.call("DELETE", "/storage/v1/projects/demo/s3Keys/k")
    await talk.gone("/storage/v1/projects/demo/s3Keys/k")
    await directory.caught_up()
    assert directory.key(access_key) is None and directory.holder_of(access_key) == ""


async def test_an_account_for_buckets_is_bound_to_those_of_its_own_project(talk: Talk, follower: Follower) -> None:
    directory, path = follower.directory, talk.at("buckets", "storage/v1")
    films = await talk.make(path, "films", {})
    made = await talk.make(talk.at("bucketServiceAccounts", "storage/v1"), "reader", {"buckets": ["films"]})
    name = made["status"]["s3CredentialsSecretName"]
    secret = await talk.read(talk.at(f"bucketServiceAccountSecrets/{name}", "storage/v1"))
    await directory.caught_up()
    identity = directory.key(secret["data"]["accessKeyID"])
    assert identity is not None and identity.buckets == frozenset({films["metadata"]["uid"]})
    assert identity.secret.decode() == secret["data"]["secretAccessKey"]


async def test_keys_of_bytes_are_sealed_switched_off_and_shredded(talk: Talk, follower: Follower, cloud: Cloud) -> None:
    directory, path = follower.directory, "/storage/v1/projects/demo/encryptionKeys"
    await talk.make(talk.at("buckets", "storage/v1"), "films", {})
    await talk.make(path, "vault", {})
    await directory.caught_up()
    home, vault = directory.key_material("demo", ""), directory.key_material("demo", "vault")
    assert len(home) == len(vault) == 32 and home != vault
    with pytest.raises(S3Error, match="no such encryption key"):
        directory.key_material("demo", "nobody")
    with pytest.raises(Retry):
        directory.key_material("nowhere", "")
    await talk.call("PATCH", f"{path}/vault", {"spec": {"enabled": False}})
    await directory.caught_up()
    with pytest.raises(S3Error) as refused:
        directory.key_material("demo", "vault")
    assert refused.value.code == "KMS.DisabledException"
    await talk.call("DELETE", f"{path}/vault")
    await talk.gone(f"{path}/vault")
    await directory.caught_up()
    with pytest.raises(S3Error) as gone:
        directory.key_material("demo", "vault")
    assert gone.value.code == "KMS.NotFoundException"


async def test_generations_of_a_key_follow(talk: Talk, follower: Follower) -> None:
    directory, path = follower.directory, "/storage/v1/projects/demo/encryptionKeys"
    await talk.make(path, "vault", {})
    await directory.caught_up()
    first = directory.key_material("demo", "vault")
    assert directory.newest("demo", "vault") == "vault" and directory.newest("demo", "nobody") == "nobody"
    with pytest.raises(Retry):  # another process wrote under one that is not known here yet
        directory.key_material("demo", "vault@2")
    assert (await talk.call("POST", f"{path}/vault/rotate", {})).status_code == 200
    await directory.caught_up()
    assert directory.newest("demo", "vault") == "vault@2"
    second = directory.key_material("demo", "vault@2")
    assert directory.key_material("demo", "vault") == first != second
    await talk.call("PATCH", f"{path}/vault", {"spec": {"enabled": False}})
    await directory.caught_up()
    for name in ("vault", "vault@2"):
        with pytest.raises(S3Error, match="disabled"):
            directory.key_material("demo", name)
    await talk.call("DELETE", f"{path}/vault")
    await talk.gone(f"{path}/vault")
    await talk.make(path, "vault", {})
    await directory.caught_up()
    assert directory.newest("demo", "vault") == "vault" and directory.key_material("demo", "vault") not in (
        first,
        second,
    )
    assert ("demo", "vault@2") not in directory.materials


async def test_rules_and_limits_follow(talk: Talk, follower: Follower) -> None:
    directory = follower.directory
    await talk.make("/sovereignty/v1/projects/demo/sovereigntyPolicies", "home", {"territories": ["SE"]})
    await talk.call(
        "PATCH", "/iam/v1beta1/projects/demo", {"spec": {"quotas": {"objectStorage": {"totalSize": "5 GB"}}}}
    )
    await directory.caught_up()
    assert [rule.territories for rule in directory.rules_of("demo").territories] == [frozenset({"SE"})]
    assert directory.project_limits("demo").held.bytes == 5 * 10**9
    await talk.call("DELETE", "/sovereignty/v1/projects/demo/sovereigntyPolicies/home")
    await talk.gone("/sovereignty/v1/projects/demo/sovereigntyPolicies/home")
    await directory.caught_up()
    assert directory.rules_of("demo") == Rules()


async def test_many_who_ask_at_once_share_a_look(
    talk: Talk, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, known = [], type(follower.store).changes

    async def counted(self: Any, after: int, **more: Any) -> Any:
        looks.append(after)
        await asyncio.sleep(0.02)
        return await known(self, after, **more)

    monkeypatch.setattr(type(follower.store), "changes", counted)
    first = asyncio.create_task(follower.directory.caught_up())
    await asyncio.sleep(0.005)
    await talk.make(talk.at("buckets", "storage/v1"), "films", {})  # the look under way may not see it any more
    await asyncio.gather(*(follower.directory.caught_up() for _ in range(50)))
    await first
    assert follower.directory.bucket("films") is not None and len(looks) <= 8


async def test_a_directory_that_missed_changes_reads_all_again(
    talk: Talk, follower: Follower, cloud: Cloud, http: httpx2.AsyncClient
) -> None:
    for number in range(3):
        await talk.make(talk.at("buckets", "storage/v1"), f"films-{number}", {})
    await cloud.store.sweep(changes_kept=1, changes_kept_s=-3600)  # type: ignore[attr-defined]
    assert await cloud.store.oldest_change() > follower.revision + 1
    await follower.directory.caught_up()
    assert [b.name for b in follower.directory.buckets_of("demo")] == [f"films-{n}" for n in range(3)]
    assert await follower.health() == ""
    assert await token_for(http, cloud.credentials.refresh_token)
