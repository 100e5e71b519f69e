"""S3 as tenants, strangers and operators meet it: one cloud as a process, several projects, each with keys of its own."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from hansa.errors import HansaError, Invalid
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


def said(work: Any) -> str:
    """S3's code, `OK` when nothing was refused."""
    try:
        work()
    except HansaError as error:
        return error.reason
    return "OK"


def seconds_until(work: Any, code: str, most_s: float = 5.0) -> float:
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
