"""Buckets, bucket service accounts, S3 keys and encryption keys, as clients of the contract and of ours use them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hansa.clock import SystemClock
from hansa.kinds.resource import Key
from hansa.kinds.storage import MATERIAL, BucketServiceAccount, S3Key, canonical_id, material_name, pair_fault
from hansa.objectindex.records import Held
from hansa.wiring import Cloud

from ..contents import MemoryContents
from .conftest import Talk, ready_of
from .people import IAM, assign, with_roles

pytestmark = pytest.mark.anyio
STORAGE = "storage/v1"
KEYS = "/storage/v1/projects/demo/s3Keys"
ACCOUNT = "/iam/projects/demo/serviceAccounts/ci"
TMP = {"id": "tmp", "expireCurrentVersion": {"days": 30}, "filter": {"prefix": "tmp/"}}
ABORT = {"id": "abort", "abortIncompleteMultipart": {"days": 7}}


async def bucket(talk: Talk, name: str, **spec: Any) -> dict[str, Any]:
    return await talk.make(talk.at("buckets", STORAGE), name, spec)


async def account(talk: Talk, name: str = "ci") -> None:
    await talk.make(f"{IAM}/projects/{talk.project}/serviceAccounts", name, {})


async def s3_key(talk: Talk, name: str = "k", **spec: Any) -> dict[str, Any]:
    return await talk.make(KEYS, name, {"serviceAccountRef": ACCOUNT, **spec})


async def sealed(cloud: Cloud, uid: str, name: str) -> str:
    """A secret as the gateway reads it."""
    value = await cloud.store.secret(uid, name)
    assert value is not None
    return cloud.api.resources.sealer.open(value, f"{uid}/{name}").decode()


# -- the flows of the contract's clients ------------------------------------------------------------


async def test_a_bucket_is_ready_at_once_and_reads_disabled(talk: Talk) -> None:
    made = await bucket(talk, "plain")
    assert made["spec"] == {"objectRetentionMode": "Disabled"}
    assert ready_of(made)["status"] == "True" and made["metadata"]["region"] == "se-sto"
    listed = await talk.read(talk.at("buckets", STORAGE))
    assert [i["metadata"]["id"] for i in listed["items"]] == ["plain"]
    versioned = await bucket(talk, "kept", objectRetentionMode="Versioned")
    assert versioned["spec"]["objectRetentionMode"] == "Versioned"


async def test_a_lifecycle_of_two_rules_becomes_one_of_one(talk: Talk) -> None:
    made = await bucket(talk, "ages", lifecyclePolicy={"rules": [TMP, ABORT]})
    assert [r["id"] for r in made["spec"]["lifecyclePolicy"]["rules"]] == ["tmp", "abort"], "order is kept"
    later = {"id": "tmp", "expireCurrentVersion": {"days": 60}}
    answer = await talk.call(
        "PATCH", talk.at("buckets/ages", STORAGE), {"spec": {"lifecyclePolicy": {"rules": [later]}}}
    )
    assert answer.status_code == 200 and ready_of(answer.json())["status"] == "True"
    found = await talk.read(talk.at("buckets/ages", STORAGE))
    assert found["spec"]["lifecyclePolicy"] == {"rules": [later]}
    assert found["metadata"]["generation"] == 2 and ready_of(found)["status"] == "True"


async def test_the_keys_of_a_bucket_account_are_read_by_the_name_that_it_gives(talk: Talk, cloud: Cloud) -> None:
    await bucket(talk, "data")
    made = await talk.make(talk.at("bucketServiceAccounts", STORAGE), "reader", {"buckets": ["data"]})
    assert made["spec"]["buckets"] == ["data"], "bare, as sent"
    assert ready_of(made)["status"] == "True"
    name = made["status"]["s3CredentialsSecretName"]
    for _ in range(2):  # any number of times
        secret = await talk.read(talk.at(f"bucketServiceAccountSecrets/{name}", STORAGE))
    assert set(secret) == {"apiVersion", "kind", "metadata", "data"} and secret["kind"] == "BucketServiceAccountSecret"
    key, value = secret["data"]["accessKeyID"], secret["data"]["secretAccessKey"]
    assert len(key) == 20 and len(value) == 40
    assert await sealed(cloud, made["metadata"]["uid"], f"secret/{key}") == value
    path = talk.at("bucketServiceAccounts/reader", STORAGE)
    assert (await talk.call("DELETE", path)).status_code == 204
    await talk.gone(path)
    await talk.gone(talk.at(f"bucketServiceAccountSecrets/{name}", STORAGE))
    assert await cloud.store.secret(made["metadata"]["uid"], f"secret/{key}") is None


async def test_a_bucket_of_an_account_can_go_and_the_account_still_be_changed(talk: Talk) -> None:
    await bucket(talk, "one")
    await bucket(talk, "two")
    accounts = talk.at("bucketServiceAccounts", STORAGE)
    await talk.make(accounts, "both", {"buckets": ["one", "two"]})
    assert (await talk.call("DELETE", talk.at("buckets/one", STORAGE))).status_code == 204
    await talk.gone(talk.at("buckets/one", STORAGE), seconds=2)
    answer = await talk.call("PATCH", f"{accounts}/both", {"metadata": {"userLabels": {"a": "b"}}})
    assert answer.status_code == 200 and answer.json()["spec"]["buckets"] == ["one", "two"]
    missing = {"metadata": {"id": "x"}, "spec": {"buckets": ["nowhere"]}}
    refused = await talk.call("POST", accounts, missing)
    assert refused.status_code == 400 and "spec.buckets[0]" in refused.text


async def test_a_bucket_with_something_in_it_stays(talk: Talk, contents: MemoryContents) -> None:
    made = await bucket(talk, "full")
    uid, path = made["metadata"]["uid"], talk.at("buckets/full", STORAGE)
    contents.by_bucket[uid] = Held(bytes=2_000_000, versions=3, current=2, uploads=1)
    found = await talk.read(path)
    assert found["status"]["contents"] == {
        "bytes": 2_000_000,
        "objects": 2,
        "versions": 3,
        "uploadBytes": 0,
        "uploads": 1,
    }
    refused = await talk.call("DELETE", path)
    assert refused.status_code == 409 and refused.json()["reason"] == "InUse"
    assert "3 versions (2 MB) and 1 unfinished uploads" in refused.text
    project = await talk.call("DELETE", f"{IAM}/projects/demo")
    assert project.status_code == 409 and "bucket full holds" in project.text
    assert ready_of(await talk.read(path))["status"] == "True" and not contents.closed
    contents.by_bucket.clear()
    assert (await talk.call("DELETE", f"{path}?dryRun=true")).status_code == 204 and not contents.closed
    assert (await talk.call("DELETE", path)).status_code == 204
    assert uid in contents.closed, "nothing comes into it any more"
    await talk.gone(path, seconds=2)
    await bucket(talk, "full")


# -- rules ------------------------------------------------------------------------------------------


async def test_names_of_buckets_are_those_of_s3_and_shared_by_all(talk: Talk, stranger: Talk) -> None:
    buckets = talk.at("buckets", STORAGE)
    for name in ("ab", "a" * 64, "Upper", "a_b", "a..b", "a.-b", "192.168.5.4", "xn--a", "x-s3alias", "-a-", "a/b", ""):
        answer = await talk.call("POST", buckets, {"metadata": {"id": name}, "spec": {}})
        assert answer.status_code == 400 and "metadata.id" in answer.text, name
    for name in ("a.b", "0a-9", "a" * 63):
        await bucket(talk, name)
    taken = await stranger.call("POST", stranger.at("buckets", STORAGE), {"metadata": {"id": "a.b"}, "spec": {}})
    assert taken.status_code == 409 and taken.json()["reason"] == "AlreadyExists"
    assert "demo" not in taken.text, "whose it is, is not told"
    again = await talk.call("POST", buckets, {"metadata": {"id": "a.b"}, "spec": {}})
    assert again.status_code == 409 and again.json()["reason"] == "AlreadyExists"
    stranger.region = "fr-par"
    await bucket(stranger, "a.b")
    assert (await talk.call("DELETE", f"{buckets}/a.b")).status_code == 204
    await talk.gone(f"{buckets}/a.b")
    stranger.region = "se-sto"
    await bucket(stranger, "a.b")


async def test_one_of_two_who_want_a_name_at_once_gets_it(talk: Talk, stranger: Talk) -> None:
    body = {"metadata": {"id": "wanted"}, "spec": {}}
    answers = await asyncio.gather(*(t.call("POST", t.at("buckets", STORAGE), body) for t in (talk, stranger) * 3))
    assert sorted(a.status_code for a in answers) == [201, 409, 409, 409, 409, 409]
    assert all(a.json()["reason"] == "AlreadyExists" for a in answers if a.status_code == 409)


@pytest.mark.parametrize(
    ("was", "becomes", "code"),
    [("Disabled", "Versioned", 200), ("Versioned", "Suspended", 200), ("Suspended", "Versioned", 200),
     ("Versioned", "Locking", 200), ("Disabled", "Locking", 200), ("Disabled", "Suspended", 200),
     ("Versioned", "Disabled", 422), ("Suspended", "Disabled", 422), ("Locking", "Versioned", 422),
     ("Locking", "Suspended", 422), ("Locking", "Disabled", 422), ("Versioned", "Sometimes", 400)],
)  # fmt: skip
async def test_what_was_versioned_stays_so_and_what_locks_locks(talk: Talk, was: str, becomes: str, code: int) -> None:
    await bucket(talk, "modes", objectRetentionMode=was)
    path = talk.at("buckets/modes", STORAGE)
    answer = await talk.call("PATCH", path, {"spec": {"objectRetentionMode": becomes}})
    assert answer.status_code == code, answer.text
    assert (await talk.read(path))["spec"]["objectRetentionMode"] == (becomes if code == 200 else was)
    if code != 200:
        assert "spec.objectRetentionMode" in answer.text


ONE_RULE: dict[str, Any] = {"id": "r", "expireCurrentVersion": {"days": 1}}


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"defaultObjectLocking": {"mode": "Soft", "durationDays": 1}}, "defaultObjectLocking"),
        ({"objectRetentionMode": "Locking", "defaultObjectLocking": {"mode": "Soft"}}, "spec.defaultObjectLocking"),
        ({"objectRetentionMode": "Locking", "defaultObjectLocking": {"mode": "Soft", "durationDays": 0}},
         "spec.defaultObjectLocking.durationDays"),
        ({"objectRetentionMode": "Locking", "defaultObjectLocking": {"mode": "Hard", "durationDays": 1}},
         "spec.defaultObjectLocking.mode"),
        ({"lifecyclePolicy": {"rules": [ONE_RULE, ONE_RULE]}}, "spec.lifecyclePolicy.rules"),
        ({"lifecyclePolicy": {"rules": [{"id": "r"}]}}, "spec.lifecyclePolicy.rules[0]"),
        ({"lifecyclePolicy": {"rules": [{"expireCurrentVersion": {"days": 1}}]}}, "spec.lifecyclePolicy.rules[0].id"),
        ({"lifecyclePolicy": {"rules": [{"id": "r", "expireCurrentVersion": {"days": 1, "date": "2027-01-01"}}]}},
         "spec.lifecyclePolicy.rules[0].expireCurrentVersion"),
        ({"lifecyclePolicy": {"rules": [{"id": "r", "expireCurrentVersion": {"date": "2027-01-01T12:00:00Z"}}]}},
         "spec.lifecyclePolicy.rules[0].expireCurrentVersion.date"),
        ({"lifecyclePolicy": {"rules": [{"id": "r", "expireNonCurrentVersion": {"days": 1, "maxNumVersions": 1}}]}},
         "spec.lifecyclePolicy.rules[0].expireNonCurrentVersion"),
        ({"lifecyclePolicy": {"rules": [{"id": "r", "expireNonCurrentVersion": {}}]}},
         "spec.lifecyclePolicy.rules[0].expireNonCurrentVersion"),
        ({"lifecyclePolicy": {"rules": [{**ONE_RULE, "filter": {"sizeGreaterThan": 5, "sizeLessThan": 5}}]}},
         "spec.lifecyclePolicy.rules[0].filter"),
        ({"lifecyclePolicy": {"rules": [{**ONE_RULE, "filter": {"tag": [{"key": "a"}, {"key": "a"}]}}]}},
         "spec.lifecyclePolicy.rules[0].filter.tag"),
        ({"policy": "x" * 20_481}, "spec.policy"),
        ({"policy": "nonsense"}, "spec.policy"),
        ({"policy": {"Statement": {"Effect": "Allow", "Principal": "*", "Action": "s3:*", "Resource": "arn:aws:s3:::other/*"}}},
         "spec.policy: Statement[0].Resource"),
        ({"cors": {"rules": [{"allowedMethods": ["GET"], "allowedOrigins": ["*"], "exposeHeaders": ["a\r\nb: c"]}]}},
         "spec.cors"),
        ({"tags": [{"key": "aws:x", "value": "1"}]}, "spec.tags"),
        ({"tags": [{"key": "a", "value": "1"}, {"key": "a", "value": "2"}]}, "spec.tags"),
        ({"cors": {"rules": [{"allowedMethods": ["GET"], "allowedOrigins": ["*.*"]}]}}, "spec.cors.rules[0].allowedOrigins"),
        ({"encryption": {"algorithm": "AES256", "key": "k"}}, "spec.encryption"),
        ({"replication": {"rules": [{"id": "r", "destination": {"bucket": "other"}}]}}, "replication"),
        ({"objectRetentionMode": "Versioned", "replication": {"rules": [{"id": "r", "destination": {"bucket": "other"}}]}},
         "spec.replication.rules[0].destination.bucket"),
    ],
)  # fmt: skip
async def test_a_wrong_field_is_named(talk: Talk, spec: dict[str, Any], path: str) -> None:
    answer = await talk.call("POST", talk.at("buckets", STORAGE), {"metadata": {"id": "wrong"}, "spec": spec})
    assert answer.status_code == 400 and path in answer.text, answer.text


async def test_bytes_are_copied_only_to_where_a_policy_lets_them_lie(talk: Talk) -> None:
    talk.region = "fr-par"
    await bucket(talk, "copies", objectRetentionMode="Versioned")
    talk.region = "se-sto"
    await bucket(talk, "loose")
    rule = {"id": "r", "destination": {"bucket": "copies"}}
    made = await bucket(talk, "source", objectRetentionMode="Versioned", replication={"rules": [rule]})
    assert made["spec"]["replication"] == {"rules": [rule]}
    path = talk.at("buckets/source", STORAGE)
    for other, word in (("loose", "keeps no versions"), ("source", "no other bucket"), ("gone", "no other bucket")):
        change = {"spec": {"replication": {"rules": [{**rule, "destination": {"bucket": other}}]}}}
        answer = await talk.call("PATCH", path, change)
        assert answer.status_code == 400 and word in answer.text
    policies = "/sovereignty/v1/projects/demo/sovereigntyPolicies"
    await talk.make(policies, "home", {"territories": ["SE"]})
    answer = await talk.call("PATCH", path, {"spec": {"replication": {"rules": [{**rule, "id": "again"}]}}})
    assert answer.status_code == 400 and "allows only SE" in answer.text


async def test_new_buckets_count_against_a_quota(talk: Talk) -> None:
    quotas = {"spec": {"quotas": {"objectStorage": {"buckets": 2, "totalSize": "5 TB"}}}}
    assert (await talk.call("PATCH", f"{IAM}/projects/demo", quotas)).status_code == 200
    await bucket(talk, "aaa")
    await bucket(talk, "bbb")
    answer = await talk.call("POST", talk.at("buckets", STORAGE), {"metadata": {"id": "ccc"}, "spec": {}})
    assert answer.status_code == 403 and answer.json()["reason"] == "QuotaExceeded"
    quota = await talk.read(talk.at("projectQuotas", "quotas/v1alpha2"))
    assert quota["spec"]["objectStorage"] == {"buckets": 2, "totalSize": "5000 GB"}
    assert quota["status"]["quotaUsage"]["objectStorage"]["buckets"] == 2
    assert (await talk.call("DELETE", talk.at("buckets/aaa", STORAGE))).status_code == 204
    await talk.gone(talk.at("buckets/aaa", STORAGE))
    await bucket(talk, "ccc")


async def test_a_project_has_a_key_for_its_objects_from_its_birth(talk: Talk, cloud: Cloud) -> None:
    for name in ("demo", "second"):
        if name != "demo":
            await talk.make(f"{IAM}/projects", name, {"organization": cloud.credentials.organization})
        stored = await cloud.store.get(Key("Project", "", name))
        value = await cloud.store.secret(stored.uid, MATERIAL)
        assert value is not None and len(cloud.api.resources.sealer.open(value, f"{stored.uid}/{MATERIAL}")) == 32


async def test_an_encryption_key_is_switched_off_and_shredded(talk: Talk, cloud: Cloud) -> None:
    keys = "/storage/v1/projects/demo/encryptionKeys"
    made = await talk.make(keys, "own", {"description": "ours"})
    uid = made["metadata"]["uid"]
    assert made["spec"]["enabled"] is True and ready_of(made)["status"] == "True"
    value = await cloud.store.secret(uid, MATERIAL)
    assert value is not None and len(cloud.api.resources.sealer.open(value, f"{uid}/{MATERIAL}")) == 32
    off = await talk.call("PATCH", f"{keys}/own", {"spec": {"enabled": False}})
    assert off.json()["spec"]["enabled"] is False and ready_of(off.json())["status"] == "True"
    assert (await talk.call("DELETE", f"{keys}/own")).status_code == 204
    await talk.gone(f"{keys}/own")
    assert await cloud.store.secret(uid, MATERIAL) is None


async def test_an_encryption_key_gets_new_material_and_keeps_the_old(talk: Talk, cloud: Cloud) -> None:
    keys = "/storage/v1/projects/demo/encryptionKeys"
    uid = (await talk.make(keys, "own", {}))["metadata"]["uid"]

    async def material(generation: int) -> bytes:
        name = material_name(generation)
        sealed = await cloud.store.secret(uid, name)
        assert sealed is not None
        return cloud.api.resources.sealer.open(sealed, f"{uid}/{name}")

    first = await material(1)
    turned = await talk.call("POST", f"{keys}/own/rotate", {})
    assert turned.status_code == 200 and turned.json()["status"]["generation"] == 2
    assert turned.json()["status"]["rotatedAt"] and ready_of(turned.json())["status"] == "True"
    assert await material(1) == first and await material(2) != first and len(await material(2)) == 32
    assert (await talk.call("POST", f"{keys}/own/rotate", {"graceSeconds": 1})).status_code == 400
    answers = await asyncio.gather(*(talk.call("POST", f"{keys}/own/rotate", {}) for _ in range(4)))
    won = [answer for answer in answers if answer.status_code == 200]
    assert won and {answer.status_code for answer in answers} <= {200, 409}
    assert (await talk.read(f"{keys}/own"))["status"]["generation"] == 2 + len(won)
    await talk.call("PATCH", f"{keys}/own", {"spec": {"enabled": False}})
    assert (await talk.call("POST", f"{keys}/own/rotate", {})).status_code == 409
    assert (await talk.call("DELETE", f"{keys}/own")).status_code == 204
    await talk.gone(f"{keys}/own")
    assert await cloud.store.secret(uid, MATERIAL) is None and await cloud.store.secret(uid, "material@2") is None


# -- S3 keys ----------------------------------------------------------------------------------------


async def test_a_key_is_shown_once_and_belongs_to_its_account(talk: Talk, cloud: Cloud) -> None:
    await account(talk)
    made = await s3_key(talk, description="of the build")
    key, secret = made["status"]["accessKeyID"], made["status"]["secretAccessKey"]
    assert len(key) == 20 and len(secret) == 40 and "pairs" not in made["status"]
    found = await talk.read(f"{KEYS}/k")
    assert found["status"]["accessKeyID"] == key and "secretAccessKey" not in found["status"]
    assert secret not in (await talk.call("GET", KEYS)).text
    it = S3Key(await cloud.store.get(Key("S3Key", "projects/demo", "k")))
    assert await sealed(cloud, it.uid, it.status.pairs[-1].sealed) == secret
    assert it.user_id == canonical_id(ACCOUNT) and it.display_name == "ci"
    answer = await talk.call("PATCH", f"{KEYS}/k", {"spec": {"description": "of the old build"}})
    assert answer.status_code == 200 and ready_of(answer.json())["status"] == "True"
    moved = await talk.call("PATCH", f"{KEYS}/k", {"spec": {"expiresAt": "2030-01-01T00:00:00Z"}})
    assert moved.status_code == 422
    assert (await talk.call("DELETE", f"{IAM}/projects/demo/serviceAccounts/ci")).status_code == 204
    await talk.gone(f"{IAM}/projects/demo/serviceAccounts/ci")
    await talk.gone(f"{KEYS}/k")


async def test_a_turned_key_leaves_the_old_one_a_while(talk: Talk, cloud: Cloud) -> None:
    await account(talk)
    made = await s3_key(talk)
    old, clock = made["status"]["accessKeyID"], SystemClock()
    turned = await talk.call("POST", f"{KEYS}/k/rotate", {"graceSeconds": 60})
    assert turned.status_code == 200 and turned.headers["cache-control"] == "no-store"
    new, secret = turned.json()["status"]["accessKeyID"], turned.json()["status"]["secretAccessKey"]
    at = Key("S3Key", "projects/demo", "k")
    it = S3Key(await cloud.store.get(at))
    assert new != old and await sealed(cloud, it.uid, f"secret/{new}") == secret
    assert [pair_fault(it, k, clock.now()) for k in (old, new, "HSNOBODY")] == ["", "", "the key is gone"]
    assert pair_fault(it, old, clock.now() + 61) == "the key was replaced"
    assert pair_fault(it, new, clock.now() + 61) == ""
    again = await talk.call("POST", f"{KEYS}/k/rotate", {"graceSeconds": 0})
    it = S3Key(await cloud.store.get(at))
    assert [p.access_key for p in it.status.pairs] == [again.json()["status"]["accessKeyID"]]
    assert await sealed(cloud, it.uid, f"secret/{new}") == "", "what counts no more is not kept"
    for wrong in (-1, 10**9, "long", True):
        refused = await talk.call("POST", f"{KEYS}/k/rotate", {"graceSeconds": wrong})
        assert refused.status_code == 400 and "graceSeconds" in refused.text


async def test_a_revoked_key_does_not_come_back(talk: Talk, cloud: Cloud) -> None:
    await account(talk)
    made = await s3_key(talk)
    answers = await asyncio.gather(
        talk.call("POST", f"{KEYS}/k/revoke", {"reason": "leaked"}),
        *(talk.call("POST", f"{KEYS}/k/rotate", {}) for _ in range(4)),
    )
    assert answers[0].status_code in (200, 409)
    if answers[0].status_code == 409:  # a turn was faster: told so, and asked again
        assert (await talk.call("POST", f"{KEYS}/k/revoke", {"reason": "leaked"})).status_code == 200
    assert (await talk.call("POST", f"{KEYS}/k/rotate", {})).status_code == 409
    it = S3Key(await cloud.store.get(Key("S3Key", "projects/demo", "k")))
    assert "was revoked" in pair_fault(it, made["status"]["accessKeyID"], SystemClock().now())
    shown = {a.json()["status"]["accessKeyID"] for a in answers[1:] if a.status_code == 200}
    assert shown <= {p.access_key for p in it.status.pairs}, "no key that was given out is lost"


async def test_the_secret_of_a_bucket_account_turns_too(talk: Talk, cloud: Cloud) -> None:
    await bucket(talk, "data")
    made = await talk.make(talk.at("bucketServiceAccounts", STORAGE), "app", {"buckets": ["data"]})
    path = talk.at(f"bucketServiceAccountSecrets/{made['status']['s3CredentialsSecretName']}", STORAGE)
    before = (await talk.read(path))["data"]
    turned = await talk.call("POST", talk.at("bucketServiceAccounts/app/rotate", STORAGE), {})
    assert turned.status_code == 200 and "secretAccessKey" not in turned.text
    after = (await talk.read(path))["data"]
    assert before["accessKeyID"] != after["accessKeyID"] and before["secretAccessKey"] != after["secretAccessKey"]
    it = BucketServiceAccount(await cloud.store.get(Key("BucketServiceAccount", "projects/demo/regions/se-sto", "app")))
    assert pair_fault(it, before["accessKeyID"], SystemClock().now()) == ""


async def test_wrong_keys_are_refused(talk: Talk) -> None:
    await account(talk)
    for spec, path in (
        ({}, "spec.serviceAccountRef"),
        ({"serviceAccountRef": "ci"}, "spec.serviceAccountRef"),
        ({"serviceAccountRef": "/iam/projects/strange/serviceAccounts/ci"}, "spec.serviceAccountRef"),
        ({"serviceAccountRef": "/iam/projects/demo/serviceAccounts/nobody"}, "spec.serviceAccountRef"),
        ({"serviceAccountRef": ACCOUNT, "expiresAt": "2020-01-01T00:00:00Z"}, "spec.expiresAt"),
        ({"serviceAccountRef": ACCOUNT, "expiresAt": "soon"}, "spec.expiresAt"),
        ({"serviceAccountRef": ACCOUNT, "roles": [{"name": "/iam/roles/king"}]}, "spec.roles[0].name"),
        ({"serviceAccountRef": ACCOUNT, "roles": [{"name": "/iam/roles/organizationOwner"}]}, "spec.roles[0].name"),
    ):
        answer = await talk.call("POST", KEYS, {"metadata": {"id": "k"}, "spec": spec})
        assert answer.status_code == 400 and path in answer.text, (spec, answer.text)


async def test_only_who_holds_what_a_key_reaches_makes_one(talk: Talk, cloud: Cloud) -> None:
    await account(talk)
    body = {"metadata": {"id": "mine"}, "spec": {"serviceAccountRef": ACCOUNT}}
    for role in ("projectContributor", "storageOperator", "cicdInfrastructureManager", "securityIncidentResponder"):
        _, somebody = await with_roles(cloud, talk, role)
        assert (await somebody.call("POST", KEYS, body)).status_code == 403, role
    _, owner = await with_roles(cloud, talk, "projectOwner")
    assert (await owner.call("POST", KEYS, body)).status_code == 201
    _, responder = await with_roles(cloud, talk, "securityIncidentResponder")
    assert (await responder.call("POST", f"{KEYS}/mine/rotate", {})).status_code == 403, "a new key is given to nobody"
    assert (await responder.call("POST", f"{KEYS}/mine/revoke", {})).status_code == 200


@pytest.mark.parametrize(
    "change",
    [
        {"policy": {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:GetObject",
                                                            "Principal": {"AWS": "arn:aws:iam::demo:root"},
                                                            "Resource": "arn:aws:s3:::data/*"}]}},
        {"publicAccessBlock": {}},
        {"objectOwnership": "ObjectWriter"},
    ],
)  # fmt: skip
async def test_a_bucket_is_opened_by_who_holds_what_is_in_it(talk: Talk, cloud: Cloud, change: dict[str, Any]) -> None:
    await bucket(talk, "data")
    path = talk.at("buckets/data", STORAGE)
    _, builder = await with_roles(cloud, talk, "cicdInfrastructureManager")
    refused = await builder.call("PATCH", path, {"spec": change})
    assert refused.status_code == 403 and "storage.objects.read" in refused.text
    born = {"metadata": {"id": "new"}, "spec": change}
    assert (await builder.call("POST", talk.at("buckets", STORAGE), born)).status_code == 403
    assert (await builder.call("PATCH", path, {"spec": {"objectRetentionMode": "Versioned"}})).status_code == 200
    _, keeper = await with_roles(cloud, talk, "storageOperator")
    assert (await keeper.call("PATCH", path, {"spec": change})).status_code == 200
    assert (await builder.call("PATCH", path, {"spec": dict.fromkeys(change)})).status_code == 403


async def test_who_may_not_update_an_account_does_not_read_its_secret(talk: Talk, cloud: Cloud, stranger: Talk) -> None:
    await bucket(talk, "data")
    made = await talk.make(talk.at("bucketServiceAccounts", STORAGE), "app", {"buckets": ["data"]})
    path = talk.at(f"bucketServiceAccountSecrets/{made['status']['s3CredentialsSecretName']}", STORAGE)
    secret = (await talk.read(path))["data"]["secretAccessKey"]
    for role in ("organizationViewer", "securityIncidentResponder"):
        _, somebody = await with_roles(cloud, talk, role)
        shown = await somebody.call("GET", path)
        assert shown.status_code == 200 and shown.json()["data"]["secretAccessKey"] == "***"
    for role in ("projectContributor", "storageOperator"):
        _, somebody = await with_roles(cloud, talk, role)
        assert (await somebody.read(path))["data"]["secretAccessKey"] == secret
    _, viewer = await with_roles(cloud, talk, "computeViewer")
    assert (await viewer.call("GET", path)).status_code == 403
    assert (await stranger.call("GET", path)).status_code == 403
    for more in ("why", "events"):
        assert secret not in (await talk.call("GET", f"{path}/{more}")).text


async def test_the_operator_brings_keys_from_elsewhere_and_nobody_else(
    talk: Talk, cloud: Cloud, stranger: Talk
) -> None:
    await account(talk)
    pair = {"accessKeyID": "0555b35654ad1656d804", "secretAccessKey": "h7GhxuBLTrlhVUyxSPUKUV8r/2EI4ngqJxD7iBdB==",
            "userId": "testid", "displayName": "M. Tester"}  # fmt: skip
    made = await s3_key(talk, "main", imported=pair)
    assert made["status"]["accessKeyID"] == pair["accessKeyID"] and pair["secretAccessKey"] not in str(made)
    assert made["spec"]["imported"]["secretAccessKey"] == "***" and "secretAccessKey" not in made["status"]
    assert pair["secretAccessKey"] not in (await talk.call("GET", f"{KEYS}/main")).text
    it = S3Key(await cloud.store.get(Key("S3Key", "projects/demo", "main")))
    assert await sealed(cloud, it.uid, it.status.pairs[0].sealed) == pair["secretAccessKey"]
    assert (it.user_id, it.display_name) == ("testid", "M. Tester")
    twice = await talk.call(
        "POST", KEYS, {"metadata": {"id": "again"}, "spec": {"serviceAccountRef": ACCOUNT, "imported": pair}}
    )
    assert twice.status_code == 409 and twice.json()["reason"] == "AlreadyExists"
    await stranger.make(f"{IAM}/projects/strange/serviceAccounts", "ci", {})
    theirs = {
        "serviceAccountRef": "/iam/projects/strange/serviceAccounts/ci",
        "imported": {**pair, "accessKeyID": "other"},
    }
    refused = await stranger.call(
        "POST", "/storage/v1/projects/strange/s3Keys", {"metadata": {"id": "k"}, "spec": theirs}
    )
    assert refused.status_code == 403 and "operator" in refused.text
    turned = await talk.call("POST", f"{KEYS}/main/rotate", {})
    assert turned.status_code == 200
    for wrong in ({"accessKeyID": "a b"}, {"secretAccessKey": "short"}, {"userId": ""}, {"userId": "a/b"}):
        spec = {"serviceAccountRef": ACCOUNT, "imported": {**pair, **wrong}}
        answer = await talk.call("POST", KEYS, {"metadata": {"id": "wrong"}, "spec": spec})
        assert answer.status_code == 400 and f"spec.imported.{next(iter(wrong))}" in answer.text


# -- who acts with a key ----------------------------------------------------------------------------


async def with_key(
    cloud: Cloud, talk: Talk, it: S3Key | BucketServiceAccount, access_key: str, *, lent: str = ""
) -> Talk:
    """The conversation of a gateway that acts for who holds a key. `lent`: a bucket that lets them change it."""
    ref = it.spec.service_account_ref if isinstance(it, S3Key) else it.ref
    keys, issuer = cloud.api.callers._keys, cloud.api.callers._issuer  # type: ignore[attr-defined]
    now = SystemClock().now()
    token = keys.sign({"iss": issuer, "aud": "hansa-api", "exp": now + 60, "account": ref, "via": it.ref,
                       "proof": it.uid, "accessKey": access_key, "lent": lent})  # fmt: skip
    return Talk(talk.http, token)


async def test_a_key_reaches_storage_in_its_project_and_no_further(talk: Talk, cloud: Cloud) -> None:
    await account(talk)
    made = await s3_key(talk)
    it = S3Key(await cloud.store.get(Key("S3Key", "projects/demo", "k")))
    gateway = await with_key(cloud, talk, it, made["status"]["accessKeyID"])
    await bucket(gateway, "made-by-s3")
    records = (await talk.read("/audit/v1/projects/demo/records?kind=Bucket"))["items"]
    assert (records[0]["who"], records[0]["via"], records[0]["verb"]) == (ACCOUNT, it.ref, "create")
    disk = {"metadata": {"id": "d"}, "spec": {"diskSize": {"amount": 1, "unit": "GB"}, "placement": {"zone": "a"}}}
    refused = await gateway.call("POST", gateway.at("disks"), disk)
    assert refused.status_code == 403 and it.ref in refused.text
    assert (
        await gateway.call("POST", KEYS, {"metadata": {"id": "x"}, "spec": {"serviceAccountRef": ACCOUNT}})
    ).status_code == 403
    assert (await gateway.call("GET", f"{IAM}/projects/demo")).status_code == 200


async def test_a_bucket_that_is_lent_can_be_changed_and_no_other(talk: Talk, cloud: Cloud) -> None:
    await account(talk)
    buckets = talk.at("buckets", STORAGE)
    for name in ("mine", "lent", "third"):
        await bucket(talk, name)
    only = "/storage/projects/demo/regions/*/buckets/mine"
    made = await s3_key(talk, roles=[{"name": "/iam/roles/storageOperator", "resources": [only]}])
    it = S3Key(await cloud.store.get(Key("S3Key", "projects/demo", "k")))
    access_key = made["status"]["accessKeyID"]
    plain = await with_key(cloud, talk, it, access_key)
    gateway = await with_key(cloud, talk, it, access_key, lent="/storage/projects/demo/regions/se-sto/buckets/lent")
    change = {"spec": {"tags": [{"key": "a", "value": "1"}]}}
    for who, name, status in (
        (plain, "mine", 200), (plain, "lent", 403), (gateway, "lent", 200), (gateway, "third", 403), (gateway, "mine", 200)
    ):  # fmt: skip
        answer = await who.call("PATCH", f"{buckets}/{name}", change)
        assert answer.status_code == status, (name, answer.text)
    records = (await talk.read("/audit/v1/projects/demo/records?kind=Bucket"))["items"]
    assert {record["via"] for record in records if record["verb"] == "update"} == {it.ref}
    assert (await gateway.call("POST", buckets, {"metadata": {"id": "new"}, "spec": {}})).status_code == 403
    for wrong in ("/storage/projects/demo/regions/se-sto/buckets/*", "/storage/projects/demo", "rubbish", "*"):
        other = await with_key(cloud, talk, it, access_key, lent=wrong)
        assert (await other.call("PATCH", f"{buckets}/third", change)).status_code == 403


async def test_a_key_with_roles_reaches_as_far_as_they_do(talk: Talk, cloud: Cloud) -> None:
    await account(talk)
    await bucket(talk, "mine")
    await bucket(talk, "other")
    only = "/storage/projects/demo/regions/*/buckets/mine"
    made = await s3_key(talk, roles=[{"name": "/iam/roles/storageOperator", "resources": [only]}])
    it = S3Key(await cloud.store.get(Key("S3Key", "projects/demo", "k")))
    gateway = await with_key(cloud, talk, it, made["status"]["accessKeyID"])
    tags = {"spec": {"tags": [{"key": "a", "value": "b"}]}}
    assert (await gateway.call("PATCH", gateway.at("buckets/mine", STORAGE), tags)).status_code == 200
    assert (await gateway.call("PATCH", gateway.at("buckets/other", STORAGE), tags)).status_code == 403
    assert [b["metadata"]["id"] for b in (await gateway.read(gateway.at("buckets", STORAGE)))["items"]] == ["mine"]
    await assign(cloud, talk, ACCOUNT, "computeViewer")  # the account itself holds less than its key may
    await asyncio.sleep(1.05)
    assert (
        await gateway.call("PATCH", gateway.at("buckets/mine", STORAGE), {"spec": {"tags": None}})
    ).status_code == 403


async def test_a_bucket_account_reads_its_buckets_and_changes_none(talk: Talk, cloud: Cloud) -> None:
    await bucket(talk, "data")
    await bucket(talk, "other")
    await talk.make(talk.at("bucketServiceAccounts", STORAGE), "app", {"buckets": ["data"]})
    it = BucketServiceAccount(await cloud.store.get(Key("BucketServiceAccount", "projects/demo/regions/se-sto", "app")))
    gateway = await with_key(cloud, talk, it, it.status.pairs[-1].access_key)
    await gateway.read(gateway.at("buckets/data", STORAGE))
    for method, path, body in (
        ("GET", "buckets/other", None), ("PATCH", "buckets/data", {"spec": {"tags": []}}), ("DELETE", "buckets/data", None),
        ("POST", "buckets", {"metadata": {"id": "new"}, "spec": {}}), ("GET", "bucketServiceAccounts/app", None),
    ):  # fmt: skip
        assert (await gateway.call(method, gateway.at(path, STORAGE), body)).status_code == 403, (method, path)


@pytest.mark.parametrize("end", ["revoke", "delete", "rotate", "disable", "expire"])
async def test_what_ends_a_key_ends_what_it_does_within_a_second(talk: Talk, cloud: Cloud, end: str) -> None:
    await account(talk)
    at = SystemClock().now() + 1.5
    from hansa.dates import rfc3339

    made = await s3_key(talk, **({"expiresAt": rfc3339(at)} if end == "expire" else {}))
    it = S3Key(await cloud.store.get(Key("S3Key", "projects/demo", "k")))
    gateway = await with_key(cloud, talk, it, made["status"]["accessKeyID"])
    path = gateway.at("buckets", STORAGE)
    assert (await gateway.call("GET", path)).status_code == 200
    if end == "disable":
        await talk.call("PATCH", f"{IAM}/projects/demo/serviceAccounts/ci", {"spec": {"enabled": False}})
    elif end == "delete":
        assert (await talk.call("DELETE", f"{KEYS}/k")).status_code == 204
    elif end in ("revoke", "rotate"):
        body = {"graceSeconds": 0} if end == "rotate" else {}
        assert (await talk.call("POST", f"{KEYS}/k/{end}", body)).status_code == 200
    await asyncio.sleep(1.05 if end != "expire" else max(at - SystemClock().now(), 0) + 1.05)
    assert (await gateway.call("GET", path)).status_code == 401


async def test_nobody_makes_an_account_for_buckets_that_they_cannot_read(talk: Talk, cloud: Cloud) -> None:
    await bucket(talk, "mine")
    await bucket(talk, "other")
    accounts = talk.at("bucketServiceAccounts", STORAGE)
    only = [f"/storage/projects/demo/regions/*/{what}" for what in ("*/mine", "bucketServiceAccounts/*")]
    _, somebody = await with_roles(cloud, talk, "storageOperator", resources=only)
    assert (
        await somebody.call("POST", accounts, {"metadata": {"id": "a"}, "spec": {"buckets": ["mine"]}})
    ).status_code == 201
    refused = await somebody.call("POST", accounts, {"metadata": {"id": "b"}, "spec": {"buckets": ["mine", "other"]}})
    assert refused.status_code == 403 and "nobody gives what they do not hold" in refused.text
    wider = await somebody.call("PATCH", f"{accounts}/a", {"spec": {"buckets": ["other"]}})
    assert wider.status_code == 403


PUBLIC = {"Version": "2012-10-17", "Statement": [
    {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::open/*"}]}  # fmt: skip


async def test_documents_are_held_to_the_rules_of_s3_on_this_way_too(talk: Talk) -> None:
    path = talk.at("buckets/open", STORAGE)
    await bucket(talk, "open")
    for wrong in ("no json", {"Statement": []}, {"Statement": [{"Effect": "Maybe"}]}):
        refused = await talk.call("PATCH", path, {"spec": {"policy": wrong}})
        assert refused.status_code == 400 and "spec.policy" in refused.text, refused.text
    refused = await talk.call("PATCH", path, {"spec": {"policy": PUBLIC}})
    assert refused.status_code == 400 and "BlockPublicPolicy" in refused.text, "closed as shipped"
    refused = await talk.call(
        "POST", talk.at("buckets", STORAGE), {"metadata": {"id": "born"}, "spec": {"policy": PUBLIC}}
    )
    assert refused.status_code == 400
    everybody = {"grants": [{"grantee": "http://acs.amazonaws.com/groups/global/AllUsers", "permission": "READ"}]}
    assert (await talk.call("PATCH", path, {"spec": {"acl": everybody}})).status_code == 400
    off = {"spec": {"publicAccessBlock": {"restrictPublicBuckets": False}}}
    assert (await talk.call("PATCH", path, off)).status_code == 200
    opened = await talk.call("PATCH", path, {"spec": {"policy": PUBLIC}})
    assert opened.status_code == 200 and opened.json()["spec"]["policy"] == PUBLIC
    again = await talk.call("PATCH", path, {"spec": {"publicAccessBlock": {"blockPublicPolicy": True}}})
    assert again.status_code == 200, "what is there stays; the next one is refused"
    assert (await talk.call("PATCH", path, {"spec": {"policy": {**PUBLIC, "Id": "x"}}})).status_code == 400
