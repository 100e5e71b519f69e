"""S3 as tenants, strangers and operators meet it: one cloud as a process, several projects, each with keys of its own."""

from __future__ import annotations

import base64
import json
import secrets
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import md5
from typing import Any

import pytest

from hansa.errors import Forbidden, HansaError, Invalid
from hansa.sdk.client import Client
from hansa.sdk.s3 import S3, Endpoint
from hansa.sdk.s3sign import Pair

from .test_up import Up

WITHIN_S = 1.0  # what is taken away is gone


class Cloud:
    """A running `hansa up`; what is made here has names that were not used before."""

    def __init__(self, up: Up) -> None:
        self.up, self.data = up, up.data
        self.client = Client.from_environment(up.data)
        self.project: str = self.client.place["project"]
        self._opened: list[S3] = []
        self._count = 0

    def close(self) -> None:
        self.client.close()
        for each in self._opened:
            each.close()

    def name(self, of: str) -> str:
        self._count += 1
        return f"{of}-{self._count}"

    def s3(self, pair: Pair | None = None) -> S3:
        endpoint = Endpoint.from_environment(self.data)
        self._opened.append(S3(endpoint if pair is None else Endpoint(endpoint.url, pair)))
        return self._opened[-1]

    def bucket(self, **spec: Any) -> str:
        name = self.name("bucket")
        self.client.create("bucket", name, spec)
        return name

    def account(self, *roles: str, project: str = "") -> str:
        """A service account's reference."""
        client, name = self.client.at(project=project or self.project), self.name("account")
        client.create("serviceAccount", name, {"enabled": True})
        ref = f"/iam/projects/{project or self.project}/serviceAccounts/{name}"
        for role in roles:
            self.bind(ref, role)
        return ref

    def bind(self, ref: str, role: str, verb: str = "assign") -> None:
        body = {"principal": ref, "role": f"/iam/roles/{role}"}
        self.client.request("POST", f"/iam/v1beta1/projects/{ref.split('/')[3]}/roleBindings/{verb}", None, body)

    def key(self, ref: str, region: str = "se-sto", **spec: Any) -> Pair:
        client, name = self.client.at(project=ref.split("/")[3]), self.name("key")
        status = client.create("s3Key", name, {"serviceAccountRef": ref, **spec})["status"]
        return Pair(status["accessKeyID"], status["secretAccessKey"], region)

    def other(self) -> str:
        """Another project."""
        name = self.name("other")
        spec = {"organization": self.client.place["organization"], "name": name}
        self.client.request("POST", "/iam/v1beta1/projects", None, {"metadata": {"id": name}, "spec": spec})
        return name


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    up = Up(tmp_path_factory.mktemp("tenancy"))
    process = up.ready()
    made = Cloud(up)
    yield made
    made.close()
    process.terminate()
    process.wait(60)


def said(work: Callable[[], Any]) -> str:
    """S3's code, `OK` when nothing was refused."""
    try:
        work()
    except HansaError as error:
        return error.reason
    return "OK"


def seconds_until(work: Callable[[], Any], code: str, most_s: float = 5.0) -> float:
    """How long it takes until `work` is refused with `code`."""
    began = time.monotonic()
    while (now := said(work)) != code:
        assert time.monotonic() - began < most_s, f"it still says {now}"
        time.sleep(0.01)
    return time.monotonic() - began


# -- where bytes lie --------------------------------------------------------------------------------


def test_a_region_without_a_store_takes_no_bucket_by_either_way(cloud: Cloud) -> None:
    """France is a region of this fleet, but nothing stores objects there: a bucket of France would lie in Sweden."""
    with pytest.raises(
        Invalid, match=r"metadata\.region: there is no store for objects in fr-par; there is one in se-sto"
    ):
        cloud.client.at(region="fr-par").create("bucket", "not-in-paris", {})
    s3 = cloud.s3()
    for region in ("fr-par", "xx-yyy", "eu-west-1"):
        assert said(lambda region=region: s3.make_bucket("not-in-paris", region)) == "InvalidLocationConstraint"
    assert "not-in-paris" not in dict(s3.buckets())


@pytest.mark.parametrize(("region", "code"), [
    ("se-sto", "OK"), ("fr-par", "OK"), ("us-east-1", "OK"), ("eu-north-1", "AuthorizationHeaderMalformed"),
])  # fmt: skip
def test_who_signs_for_a_region_that_is_none_is_told_which_is(cloud: Cloud, region: str, code: str) -> None:
    given = Endpoint.from_environment(cloud.data).pair
    s3 = cloud.s3(Pair(given.access_key, given.secret_key, region))
    try:
        assert (s3.send("GET", "", "").status, code) == (200, "OK")
    except HansaError as error:
        assert (error.reason, code) == (code, "AuthorizationHeaderMalformed") and "sign for se-sto" in error.message


def test_a_policy_of_territories_holds_for_buckets_and_what_is_put_into_them(cloud: Cloud) -> None:
    project = cloud.other()
    s3 = cloud.s3(cloud.key(cloud.account(project=project)))
    name = cloud.name("before")
    s3.make_bucket(name)
    s3.put(name, "k", b"put when it was allowed")
    cloud.client.at(project=project).create("sovereigntyPolicy", "france-only", {"territories": ["FR"]})
    assert seconds_until(lambda: s3.put(name, "later", b"x"), "AccessDenied") < WITHIN_S
    assert said(lambda: s3.make_bucket(cloud.name("after"))) == "AccessDenied"
    assert s3.get(name, "k") == b"put when it was allowed"


# -- what is taken away -----------------------------------------------------------------------------


def test_a_role_and_an_account_that_are_taken_away_are_gone_within_a_second(cloud: Cloud) -> None:
    bucket, ref = cloud.bucket(), cloud.account("storageObjectOperator")
    s3 = cloud.s3(cloud.key(ref))
    s3.put(bucket, "k", b"x")
    cloud.bind(ref, "storageObjectOperator", "revoke")
    assert seconds_until(lambda: s3.get(bucket, "k"), "AccessDenied") < WITHIN_S
    cloud.bind(ref, "storageObjectViewer")
    assert seconds_until(lambda: s3.get(bucket, "k"), "OK") < WITHIN_S
    cloud.client.patch("serviceAccount", ref.rpartition("/")[2], {"spec": {"enabled": False}})
    assert seconds_until(lambda: s3.get(bucket, "k"), "InvalidAccessKeyId") < WITHIN_S


def test_a_replaced_key_counts_until_its_grace_is_over_and_an_expired_one_no_more(cloud: Cloud) -> None:
    bucket, ref = cloud.bucket(), cloud.account("storageObjectViewer")
    old = cloud.key(ref)
    name = next(k for k in cloud.client.list("s3Key") if k["status"]["accessKeyID"] == old.access_key)["metadata"]["id"]
    path = f"/storage/v1/projects/{cloud.project}/s3Keys/{name}/rotate"
    began = time.monotonic()
    status = cloud.client.request("POST", path, None, {"graceSeconds": 2})["status"]
    new = cloud.s3(Pair(status["accessKeyID"], status["secretAccessKey"], "se-sto"))
    before = cloud.s3(old)
    assert said(lambda: before.page(bucket)) == said(lambda: new.page(bucket)) == "OK"
    seconds_until(lambda: before.page(bucket), "InvalidAccessKeyId")
    assert 1.5 < time.monotonic() - began < 3.0
    assert said(lambda: new.page(bucket)) == "OK"
    assert "secretAccessKey" not in cloud.client.get("s3Key", name)["status"]


def test_an_address_that_was_signed_ends_with_its_key(cloud: Cloud) -> None:
    bucket, ref = cloud.bucket(), cloud.account("storageObjectOperator")
    cloud.s3().put(bucket, "k", b"x")
    pair = cloud.key(ref)
    address = cloud.s3(pair).presign("GET", bucket, "k", 600)
    assert status_of(address) == 200
    cloud.client.delete("serviceAccount", ref.rpartition("/")[2])
    began = time.monotonic()
    while status_of(address) != 403:
        assert time.monotonic() - began < WITHIN_S


def status_of(address: str) -> int:
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


# -- what a project may hold ------------------------------------------------------------------------


def limited(cloud: Cloud, **quota: Any) -> tuple[str, S3]:
    """A project with these limits of `objectStorage`, and its S3."""
    project = cloud.other()
    s3 = cloud.s3(cloud.key(cloud.account(project=project)))
    path = f"/iam/v1beta1/projects/{project}"
    cloud.client.request("PATCH", path, None, {"spec": {"quotas": {"objectStorage": quota}}})
    return project, s3


def at_once(count: int, work: Callable[[int], Any]) -> Counter[str]:
    """What S3 says to so many who ask together."""
    with ThreadPoolExecutor(count) as pool:
        return Counter(pool.map(lambda number: said(lambda: work(number)), range(count)))


def test_sixteen_writers_fill_a_quota_of_bytes_to_the_last_that_fits(cloud: Cloud) -> None:
    project, s3 = limited(cloud, totalSize="1 MB")
    bucket = cloud.name("full")
    s3.make_bucket(bucket)
    assert at_once(16, lambda n: s3.put(bucket, f"k{n}", b"x" * 100_000)) == {"OK": 10, "QuotaExceeded": 6}
    kept = [seen.key for seen in s3.objects(bucket)]
    assert len(kept) == 10
    s3.put(bucket, kept[0], b"y" * 100_000)  # in the place of another
    s3.delete(bucket, kept[1])
    s3.put(bucket, "one more", b"x" * 100_000)
    assert said(lambda: s3.put(bucket, "two more", b"x")) == "QuotaExceeded"
    used = cloud.client.at(project=project).list("ProjectQuota")[0]["status"]["quotaUsage"]["objectStorage"]
    assert used["totalSize"] == "1 MB" and used["objects"] == 10


def test_parts_of_an_upload_count_until_it_is_given_up(cloud: Cloud) -> None:
    _, s3 = limited(cloud, totalSize="12 MB")
    bucket, part = cloud.name("parts"), b"x" * (6 << 20)
    s3.make_bucket(bucket)
    upload = s3.begin(bucket, "k", {})
    s3.put_part(bucket, "k", upload, 1, part, {})
    assert said(lambda: s3.put_part(bucket, "k", upload, 2, part, {})) == "QuotaExceeded"
    assert said(lambda: s3.put(bucket, "other", part)) == "QuotaExceeded"
    s3.abort(bucket, "k", upload)
    s3.put(bucket, "other", part)


def test_quotas_of_objects_and_of_buckets_hold(cloud: Cloud) -> None:
    _, s3 = limited(cloud, objects=5, buckets=2)
    first, second = cloud.name("few"), cloud.name("few")
    s3.make_bucket(first)
    assert at_once(16, lambda n: s3.put(first, f"k{n}", b"x")) == {"OK": 5, "QuotaExceeded": 11}
    s3.make_bucket(second)
    assert said(lambda: s3.make_bucket(cloud.name("few"))) == "TooManyBuckets"
    s3.remove_bucket(second)
    s3.make_bucket(second)


def test_what_an_organisation_may_hold_is_shared_by_its_projects(cloud: Cloud) -> None:
    (_, one), (_, two) = limited(cloud), limited(cloud)
    clients, buckets = (one, two), (cloud.name("shared"), cloud.name("shared"))
    path = f"/iam/v1beta1/organizations/{cloud.client.place['organization']}"
    used = cloud.client.list("OrgQuota")[0]["status"]["quotaUsage"]["objectStorage"]["objects"]
    limit: dict[str, Any] = {"spec": {"quotas": {"objectStorage": {"objects": used + 7}}}}
    cloud.client.request("PATCH", path, None, limit)
    try:
        for s3, bucket in zip(clients, buckets, strict=True):
            s3.make_bucket(bucket)
        assert at_once(16, lambda n: clients[n % 2].put(buckets[n % 2], f"k{n}", b"x")) == {
            "OK": 7, "QuotaExceeded": 9
        }  # fmt: skip
        assert sum(len(list(s3.objects(bucket))) for s3, bucket in zip(clients, buckets, strict=True)) == 7
    finally:
        limit["spec"]["quotas"]["objectStorage"]["objects"] = None
        cloud.client.request("PATCH", path, None, limit)


def test_who_asks_more_often_than_the_quota_says_is_slowed_down_and_nobody_else(cloud: Cloud) -> None:
    (_, slow), (_, other) = limited(cloud, requestsPerSecond=3), limited(cloud)
    addresses = []
    for s3 in (slow, other):
        bucket = cloud.name("paced")
        s3.make_bucket(bucket)
        addresses.append(s3.presign("GET", bucket, "k", 600))
    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        slowed, free = (Counter(pool.map(status_of, [address] * 40)) for address in addresses)
    assert free == {404: 40}, "nobody else is slowed down: there is just no such key"
    assert slowed.keys() <= {404, 503} and slowed[404] <= 3 * (time.monotonic() - began) + 3
    with pytest.raises(urllib.error.HTTPError) as told:
        for _ in range(50):
            try:
                urllib.request.urlopen(addresses[0], timeout=10)
            except urllib.error.HTTPError as error:
                if error.code == 503:
                    raise
    assert told.value.headers["retry-after"] == "1" and b"<Code>SlowDown</Code>" in told.value.read()


# -- what is told and kept --------------------------------------------------------------------------


def test_a_retention_that_is_passed_by_stands_in_the_audit_before_it_is_answered(cloud: Cloud) -> None:
    bucket, s3 = cloud.bucket(objectRetentionMode="Locking"), cloud.s3(cloud.key(cloud.account("storageOperator")))
    until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
    for key in ("kept", "gone"):
        s3.put(
            bucket, key, b"x", {"x-amz-object-lock-mode": "GOVERNANCE", "x-amz-object-lock-retain-until-date": until}
        )
    version = s3.head(bucket, "gone")["x-amz-version-id"]
    passing = {"x-amz-bypass-governance-retention": "true"}
    path = f"/audit/v1/projects/{cloud.project}/records"
    assert said(lambda: s3.send("DELETE", bucket, "gone", [("versionId", version)])) == "AccessDenied"
    s3.send("DELETE", bucket, "gone", [("versionId", version)], headers=passing)
    (record,) = cloud.client.request("GET", path, {"verb": "bypass", "name": bucket})["items"]
    assert (record["outcome"], record["rule"], record["kind"]) == ("allowed", "storageOperator", "Bucket")
    assert record["via"].startswith(f"/storage/projects/{cloud.project}/s3Keys/") and record["request"]
    seen = record["object"]
    assert (seen["key"], seen["version"], seen["becomes"]) == ("gone", version, "deleted")
    assert seen["until"].removesuffix(".000Z") + "Z" == until


def test_a_key_of_bytes_counts_as_soon_as_it_was_made(cloud: Cloud) -> None:
    bucket, s3 = cloud.bucket(), cloud.s3()
    for _ in range(5):
        name = cloud.name("bytes")
        cloud.client.create("encryptionKey", name, {})
        sealed = {"x-amz-server-side-encryption": "aws:kms", "x-amz-server-side-encryption-aws-kms-key-id": name}
        s3.put(bucket, name, b"under a key of its own", sealed)
    cloud.client.delete("encryptionKey", name)
    assert seconds_until(lambda: s3.get(bucket, name), "KMS.NotFoundException") < WITHIN_S


def test_a_refusal_is_in_the_log_with_its_reason_and_the_id_that_the_client_was_told(cloud: Cloud) -> None:
    bucket, ref = cloud.bucket(), cloud.account("storageObjectViewer")
    s3 = cloud.s3(cloud.key(ref))
    with pytest.raises(Forbidden) as refused:
        s3.put(bucket, "k", b"x")
    for _ in range(20):
        assert said(lambda: s3.put(bucket, "k", b"x")) == "AccessDenied"
    lines = [json.loads(line) for line in cloud.up.said("err").splitlines() if b'"refused"' in line]
    mine = [line for line in lines if line.get("bucket") == bucket]
    assert len(mine) == 1, "the first of a minute"
    assert (refused.value.detail or "").endswith(mine[0]["request"])
    assert mine[0]["who"] == ref and "storage.objects.create" in mine[0]["why"]


def test_what_is_changed_through_s3_is_audited_in_the_name_of_who_signed(cloud: Cloud) -> None:
    ref = cloud.account("storageOperator")
    s3, name = cloud.s3(cloud.key(ref)), cloud.name("audited")
    s3.make_bucket(name)
    s3.send(
        "PUT",
        name,
        "",
        [("tagging", "")],
        b"<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>",
    )
    s3.remove_bucket(name)
    records = cloud.client.request("GET", f"/audit/v1/projects/{cloud.project}/records", {"limit": "50"})["items"]
    mine = [record for record in records if record["name"] == name]
    assert [record["verb"] for record in mine] == ["delete", "update", "create"]
    assert {record["who"] for record in mine} == {ref} and all("/s3Keys/" in record["via"] for record in mine)


def test_neither_secrets_nor_what_is_stored_lies_open_in_the_folder_or_the_log(cloud: Cloud) -> None:
    bucket, s3 = cloud.bucket(), cloud.s3()
    words = {size: f"planted-{size}-{secrets.token_hex(8)}".encode() for size in ("small", "large", "customer")}
    pair, own = cloud.key(cloud.account("storageObjectViewer")), secrets.token_bytes(32)
    s3.put(bucket, "small", words["small"])
    s3.put(bucket, "large", words["large"] * 100_000)
    customer = {
        "x-amz-server-side-encryption-customer-algorithm": "AES256",
        "x-amz-server-side-encryption-customer-key": base64.b64encode(own).decode(),
        "x-amz-server-side-encryption-customer-key-md5": base64.b64encode(
            md5(own, usedforsecurity=False).digest()
        ).decode(),
    }
    s3.put(bucket, "customer", words["customer"], customer)
    s3.put_part(bucket, "parts", s3.begin(bucket, "parts", {}), 1, words["large"] * 100_000, {})
    cloud.client.create("bucketServiceAccount", name := cloud.name("bound"), {"buckets": [bucket]})
    read = cloud.client.get("bucketServiceAccountSecret", f"{name}-s3")["data"]["secretAccessKey"]
    hidden = [*words.values(), pair.secret_key.encode(), read.encode(), own, base64.b64encode(own), own.hex().encode()]
    files = [file for file in cloud.up.folder.rglob("*") if file.is_file()]
    assert len(files) > 10
    for file in files:
        content = file.read_bytes()
        assert not any(word in content for word in hidden), file
