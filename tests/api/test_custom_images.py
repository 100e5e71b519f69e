"""Images of one's own: registered from a bucket, read in an account's name, disks made of them."""

from __future__ import annotations

from typing import Any

import pytest

from hansa.kinds.resource import Key
from hansa.objectindex.records import Encryption, Facts, Version
from hansa.wiring import Cloud

from ..contents import MemoryContents
from .conftest import Talk, ready_of
from .people import IAM, with_roles
from .test_storage import STORAGE, bucket

pytestmark = pytest.mark.anyio
SIZE = {"amount": 10, "unit": "GB"}


async def stored(
    talk: Talk, contents: MemoryContents, key: str = "images/own.qcow2", size: int = 1 << 20, **facts: Any
) -> None:
    """A bucket with an account, and one object in it."""
    made = await bucket(talk, "images", objectRetentionMode="Versioned")
    await talk.make(talk.at("bucketServiceAccounts", STORAGE), "reader", {"buckets": ["images"]})
    uid = made["metadata"]["uid"]
    contents.objects[uid, key] = Version(uid, key, "v1", 1, True, False, size, "e", 0.0, Facts(**facts))


def spec(talk: Talk, path: str = "images/own.qcow2", **more: Any) -> dict[str, Any]:
    at = f"/storage/projects/{talk.project}/regions/{talk.region}"
    source = {
        "bucketRef": f"{at}/buckets/images",
        "serviceAccountRef": f"{at}/bucketServiceAccounts/reader",
        "path": path,
    }
    source |= {k: more.pop(k) for k in list(more) if k == "version"}
    return {"architecture": "amd64", "defaultDiskSize": SIZE, "source": source, **more}


async def test_the_flow_of_the_contract(talk: Talk, contents: MemoryContents, cloud: Cloud) -> None:
    await stored(talk, contents)
    images = talk.at("customDiskImages")
    wanted = spec(talk, version="v1", osName="own")
    made = await talk.make(images, "own", wanted)
    assert made["spec"] == wanted, "echoed exactly"
    await talk.until(f"{images}/own")
    ref = "/compute/projects/demo/regions/se-sto/customDiskImages/own"
    disk = talk.at("disks/boot")
    await talk.make(talk.at("disks"), "boot", {"placement": {"zone": "b"}, "source": {"diskImageRef": ref}})
    found = await talk.until(disk)
    assert found["status"]["diskSize"] == SIZE, "the image says how large"
    kept = await cloud.store.get(Key("Disk", "projects/demo/regions/se-sto", "boot"))
    assert kept.status["upload"]["version"] == "v1" and "upload" not in found["status"]
    answer = await talk.call("PATCH", f"{images}/own", {"spec": {"osName": None, "description": "ours"}})
    assert answer.status_code == 200 and "osName" not in answer.json()["spec"]
    answer = await talk.call("PATCH", f"{images}/own", {"spec": {"source": {"version": "v2"}}})
    assert answer.status_code == 422
    contents.objects.clear()
    assert (await talk.call("DELETE", f"{images}/own")).status_code == 204
    await talk.gone(f"{images}/own")
    assert ready_of(await talk.read(disk))["status"] == "True", "a disk needs its image no more"
    grown = await talk.call("PATCH", disk, {"spec": {"diskSize": {"amount": 20, "unit": "GB"}}})
    assert grown.status_code == 200
    assert (await talk.until(disk))["status"]["diskSize"] == {"amount": 20, "unit": "GB"}
    for path in (disk, talk.at("bucketServiceAccounts/reader", STORAGE), talk.at("buckets/images", STORAGE)):
        assert (await talk.call("DELETE", path)).status_code == 204
        await talk.gone(path)


async def test_an_object_that_comes_later_is_waited_for(talk: Talk, contents: MemoryContents) -> None:
    await stored(talk, contents, key="other.raw")
    images = talk.at("customDiskImages")
    await talk.make(images, "own", spec(talk))
    waiting = await talk.until(f"{images}/own", ready="False")
    assert ready_of(waiting)["reason"] == "WaitingForReference" and "no object images/own.qcow2" in str(waiting)
    (uid, _), version = next(iter(contents.objects.items()))
    contents.objects[uid, "images/own.qcow2"] = version
    assert ready_of(await talk.until(f"{images}/own"))["reason"] == "Available"


async def test_an_image_is_read_in_the_name_of_its_account(talk: Talk, contents: MemoryContents) -> None:
    await stored(talk, contents)
    await bucket(talk, "other")
    account = talk.at("bucketServiceAccounts/reader", STORAGE)
    assert (await talk.call("PATCH", account, {"spec": {"buckets": ["other"]}})).status_code == 200
    images = talk.at("customDiskImages")
    await talk.make(images, "own", spec(talk))
    refused = await talk.until(f"{images}/own", ready="False")
    assert ready_of(refused)["reason"] == "ReferenceInvalid" and "may not read bucket images" in str(refused)
    assert (await talk.call("PATCH", account, {"spec": {"buckets": ["images"]}})).status_code == 200
    await talk.until(f"{images}/own")


async def test_what_only_its_writer_can_read_is_no_image(talk: Talk, contents: MemoryContents) -> None:
    await stored(talk, contents, encryption=Encryption("SSE-C"))
    images = talk.at("customDiskImages")
    await talk.make(images, "own", spec(talk))
    refused = await talk.until(f"{images}/own", ready="False")
    assert ready_of(refused)["reason"] == "ReferenceInvalid" and "encrypted" in str(refused)


@pytest.mark.parametrize(
    ("change", "path"),
    [({"architecture": "arm64"}, "spec.architecture"), ({"defaultDiskSize": {"amount": 0, "unit": "GB"}}, "spec.defaultDiskSize"),
     ({"defaultDiskSize": None}, "spec.defaultDiskSize"), ({"source": {"path": "x.iso"}}, "spec.source.path"),
     ({"source": {"path": ""}}, "spec.source.path"), ({"source": {"path": "é" * 600 + ".raw"}}, "spec.source.path"),
     ({"source": {"bucketRef": "/storage/projects/demo/regions/se-sto/buckets/none"}}, "spec.source.bucketRef"),
     ({"source": {"bucketRef": "/storage/projects/strange/regions/se-sto/buckets/images"}}, "spec.source.bucketRef"),
     ({"source": {"serviceAccountRef": "/iam/projects/demo/serviceAccounts/hansa"}}, "spec.source.serviceAccountRef")],
)  # fmt: skip
async def test_a_wrong_field_is_named(talk: Talk, contents: MemoryContents, change: dict[str, Any], path: str) -> None:
    await stored(talk, contents)
    wanted = spec(talk)
    for name, value in change.items():
        wanted[name] = {**wanted[name], **value} if name == "source" else value
    answer = await talk.call("POST", talk.at("customDiskImages"), {"metadata": {"id": "own"}, "spec": wanted})
    assert answer.status_code == 400 and path in answer.text, answer.text


async def test_who_may_not_read_a_bucket_makes_no_image_of_it(
    talk: Talk, contents: MemoryContents, cloud: Cloud
) -> None:
    await stored(talk, contents)
    _, somebody = await with_roles(cloud, talk, "computeOperator")
    body = {"metadata": {"id": "own"}, "spec": spec(talk)}
    refused = await somebody.call("POST", talk.at("customDiskImages"), body)
    assert refused.status_code == 403 and "storage.objects.read" in refused.text
    _, both = await with_roles(cloud, talk, "computeOperator", "storageObjectViewer")
    assert (await both.call("POST", talk.at("customDiskImages"), body)).status_code == 201


async def test_an_image_counts_what_its_disk_will_take(talk: Talk, contents: MemoryContents) -> None:
    await stored(talk, contents)
    await talk.make(talk.at("customDiskImages"), "own", spec(talk))
    quotas = {"spec": {"quotas": {"compute": {"blockStorage": "9 GB"}}}}
    assert (await talk.call("PATCH", f"{IAM}/projects/demo", quotas)).status_code == 200
    ref = "/compute/projects/demo/regions/se-sto/customDiskImages/own"
    body = {"metadata": {"id": "d"}, "spec": {"placement": {"zone": "b"}, "source": {"diskImageRef": ref}}}
    answer = await talk.call("POST", talk.at("disks"), body)
    assert answer.status_code == 403 and answer.json()["reason"] == "QuotaExceeded"
