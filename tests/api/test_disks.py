"""Snapshots, attachments and the room of a zone, as the contract wants them (3.2.1, 3.2.4, 3.2.5)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest

from hansa.control import attachments
from hansa.engines.simulated import SimulatedCompute, SimulatedVolumes
from hansa.kinds.compute import Disk, Snapshot
from hansa.kinds.resource import Key
from hansa.store.port import Wake
from hansa.wiring import Cloud

from .conftest import Talk, ready_of

pytestmark = pytest.mark.anyio
SCOPE = "projects/demo/regions/se-sto"
IMAGE = "/compute/global/diskImages/evroc/ubuntu-minimal.24-04.1"


@pytest.fixture(autouse=True)
def copies_are_quick(cloud: Cloud) -> None:
    volumes(cloud).copy_steps = 0


def ref(collection: str, name: str) -> str:
    return f"/compute/{SCOPE}/{collection}/{name}"


def blank(gigabytes: int = 50, zone: str = "a") -> dict[str, Any]:
    return {"diskSize": {"amount": gigabytes, "unit": "GB"}, "placement": {"zone": zone}}


def restored(snapshot: str = "s", **more: Any) -> dict[str, Any]:
    source = {"type": "snapshot", "snapshotRef": ref("snapshots", snapshot)}
    return {"placement": {"zone": "a"}, "source": source, **more}


async def disk(talk: Talk, name: str, spec: dict[str, Any] | None = None) -> str:
    await talk.make(talk.at("disks"), name, spec or blank())
    await talk.until(talk.at(f"disks/{name}"))
    return talk.at(f"disks/{name}")


async def machine(talk: Talk, name: str = "vm", zone: str = "a", **more: Any) -> str:
    await disk(talk, f"{name}-boot", {**blank(20, zone), "source": {"type": "image", "diskImageRef": IMAGE}})
    spec = {"computeProfileRef": "c1a.m", "disks": [{"diskRef": f"{name}-boot", "bootFrom": True}],
            "placement": {"zone": zone}, **more}  # fmt: skip
    await talk.make(talk.at("virtualMachines"), name, spec)
    await talk.until(talk.at(f"virtualMachines/{name}"))
    return talk.at(f"virtualMachines/{name}")


def pair(vm: str = "vm", data: str = "data") -> dict[str, Any]:
    return {"virtualMachineRef": ref("virtualMachines", vm), "diskRef": ref("disks", data)}


async def attach(talk: Talk, name: str = "at", **who: str) -> str:
    await talk.make(talk.at("hotswapDiskAttachments"), name, pair(**who))
    await talk.until(talk.at(f"hotswapDiskAttachments/{name}"))
    return talk.at(f"hotswapDiskAttachments/{name}")


async def snapshot(talk: Talk, name: str = "s", of: str = "data") -> dict[str, Any]:
    await talk.make(talk.at("snapshots"), name, {"diskRef": ref("disks", of)})
    return await talk.until(talk.at(f"snapshots/{name}"))


async def delete(talk: Talk, path: str) -> None:
    answer = await talk.call("DELETE", path)
    assert answer.status_code == 204, answer.text
    await talk.gone(path)


async def eventually(talk: Talk, path: str, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    async with asyncio.timeout(10):
        while not is_so(found := await talk.read(path)):
            await asyncio.sleep(0.02)
    return found


def volumes(cloud: Cloud) -> SimulatedVolumes:
    engine = cloud.world.engines.volumes("se-sto-a")
    assert isinstance(engine, SimulatedVolumes)
    return engine


def host(cloud: Cloud) -> SimulatedCompute:
    engine = cloud.world.engines.compute("a-1")
    assert isinstance(engine, SimulatedCompute)
    return engine


# -- snapshots ----------------------------------------------------------------------------------


async def test_3_2_5_a_snapshot_says_what_it_is(talk: Talk) -> None:
    await disk(talk, "data")
    made = await talk.make(talk.at("snapshots"), "s", {"diskRef": ref("disks", "data")}, userLabels={"a": "1"})
    assert made["spec"] == {"diskRef": ref("disks", "data")} and ready_of(made)["status"] == "False"
    found = await talk.until(talk.at("snapshots/s"))
    status = found["status"]
    assert status["restoreSize"] == {"amount": 50, "unit": "GB"} and status["placement"] == {"zones": "a"}
    assert status["creationTime"] >= found["metadata"]["creationTimestamp"] and status["simulated"] is True
    assert "crash-consistent" in ready_of(found)["message"] and status["creationTime"] in ready_of(found)["message"]
    assert not {"source", "begun", "family"} & set(status)
    changed = await talk.call("PATCH", talk.at("snapshots/s"), {"metadata": {"userLabels": {"a": "2"}}})
    assert changed.json()["metadata"]["userLabels"] == {"a": "2"} and ready_of(changed.json()) == ready_of(found)
    refused = await talk.call("PATCH", talk.at("snapshots/s"), {"spec": {"diskRef": ref("disks", "other")}})
    assert refused.status_code == 422
    missing = await talk.call("POST", talk.at("snapshots"), {"metadata": {"id": "t"}, "spec": {"diskRef": "none"}})
    assert missing.status_code == 400 and missing.json()["fields"][0]["path"] == "spec.diskRef"


async def test_3_2_5_a_snapshot_outlives_its_disk_whose_id_may_be_used_again(talk: Talk, cloud: Cloud) -> None:
    path = await disk(talk, "data")
    taken = await snapshot(talk)
    await delete(talk, path)
    await disk(talk, "data", blank(7))
    await cloud.store.commit(Wake(Key("Snapshot", SCOPE, "s")))
    assert (await talk.until(talk.at("snapshots/s")))["status"] == taken["status"]
    await disk(talk, "back", restored())
    assert (await talk.read(talk.at("disks/back")))["status"]["diskSize"] == {"amount": 50, "unit": "GB"}


async def test_3_2_5_nothing_goes_while_it_is_copied(talk: Talk, cloud: Cloud) -> None:
    await disk(talk, "data")
    volumes(cloud).copy_steps, volumes(cloud).held_back = 1, True
    await talk.make(talk.at("snapshots"), "s", {"diskRef": "data"})
    copying = await eventually(talk, talk.at("snapshots/s"), lambda s: ready_of(s)["reason"] == "Copying")
    assert "0%" in ready_of(copying)["message"]
    refused = await talk.call("DELETE", talk.at("disks/data"))
    assert refused.status_code == 409 and refused.json()["reason"] == "InUse" and "Snapshot s" in refused.text
    volumes(cloud).held_back = False
    await talk.until(talk.at("snapshots/s"))
    volumes(cloud).held_back = True
    await talk.make(talk.at("disks"), "back", restored())
    refused = await talk.call("DELETE", talk.at("snapshots/s"))
    assert refused.status_code == 409 and "Disk back" in refused.json()["debug"]
    await delete(talk, talk.at("disks/back"))
    for path in ("snapshots/s", "disks/data"):
        await delete(talk, talk.at(path))
    assert await volumes(cloud).held() == []


async def test_3_2_5_a_snapshot_waits_for_its_disk_and_fails_with_it(talk: Talk, cloud: Cloud) -> None:
    volumes(cloud).full = "the host's disk is 90 % full"
    await talk.make(talk.at("disks"), "data", blank())
    await talk.make(talk.at("snapshots"), "s", {"diskRef": "data"})
    waiting = await talk.until(talk.at("snapshots/s"), "False")
    assert ready_of(waiting)["reason"] == "WaitingForReference" and "data" in ready_of(waiting)["message"]
    small = {**blank(), "diskSize": {"amount": 1, "unit": "MB"}, "source": {"diskImageRef": IMAGE}}
    await talk.make(talk.at("disks"), "small", small)
    assert ready_of(await talk.until(talk.at("disks/small"), "False"))["reason"] == "DiskTooSmall"
    await talk.make(talk.at("snapshots"), "t", {"diskRef": "small"})
    failed = await talk.until(talk.at("snapshots/t"), "False")
    assert ready_of(failed)["reason"] == "ProvisioningFailed" and "DiskTooSmall" in ready_of(failed)["message"]
    await delete(talk, talk.at("disks/small"))  # a failed snapshot does not hold it
    for path in ("snapshots/s", "snapshots/t"):
        await delete(talk, talk.at(path))


async def test_3_2_1_a_disk_from_a_snapshot(talk: Talk, cloud: Cloud) -> None:
    await disk(talk, "data", {**blank(), "source": {"type": "image", "diskImageRef": IMAGE}})
    await snapshot(talk)
    plain = await disk(talk, "plain", restored())
    found = await talk.read(plain)
    assert "diskSize" not in found["spec"] and found["status"]["diskSize"] == {"amount": 50, "unit": "GB"}
    await disk(talk, "larger", restored(diskSize={"amount": 60, "unit": "GB"}))
    zoneless = await disk(talk, "zoneless", restored(placement={"zone": ""}))
    assert (await talk.read(zoneless))["status"]["placement"] == {"zone": "a"}
    for name, spec, reason, said in (
        ("elsewhere", restored(placement={"zone": "b"}), "ReferenceInvalid", ("zone a", "zone b")),
        ("small", restored(diskSize={"amount": 49, "unit": "GB"}), "DiskTooSmall", ("50 GB", "49 GB")),
    ):
        await talk.make(talk.at("disks"), name, spec)
        failed = ready_of(await talk.until(talk.at(f"disks/{name}"), "False"))
        assert failed["reason"] == reason and all(word in failed["message"] for word in said), failed
    grown = await talk.call("PATCH", talk.at("disks/small"), {"spec": {"diskSize": {"amount": 50, "unit": "GB"}}})
    assert grown.status_code == 200
    await talk.until(talk.at("disks/small"))
    stored = Disk(await cloud.store.get(Key("Disk", SCOPE, "plain")))
    snap = Snapshot(await cloud.store.get(Key("Snapshot", SCOPE, "s")))
    taken = Disk(await cloud.store.get(Key("Disk", SCOPE, "data")))
    assert stored.status.family == snap.status.family == taken.status.family != ""  # what it boots came with the copy
    vm = {"computeProfileRef": "c1a.m", "disks": [{"diskRef": "plain", "bootFrom": True}], "placement": {"zone": "a"}}
    await talk.make(talk.at("virtualMachines"), "vm", vm)
    await talk.until(talk.at("virtualMachines/vm"))


async def test_3_2_1_a_disk_grows_although_its_snapshot_is_gone(talk: Talk) -> None:
    await disk(talk, "data")
    await snapshot(talk)
    path = await disk(talk, "back", restored())
    await delete(talk, talk.at("snapshots/s"))
    shrunk = await talk.call("PATCH", path, {"spec": {"diskSize": {"amount": 49, "unit": "GB"}}})
    assert shrunk.status_code == 422 and "50 GB" in shrunk.json()["debug"]
    answer = await talk.call("PATCH", path, {"spec": {"diskSize": {"amount": 70, "unit": "GB"}}})
    assert answer.status_code == 200, answer.text
    grown = await talk.until(path)
    assert (
        grown["status"]["diskSize"] == {"amount": 70, "unit": "GB"} and grown["spec"]["source"] == restored()["source"]
    )
    unknown = await talk.call("POST", talk.at("disks"), {"metadata": {"id": "new"}, "spec": restored()})
    assert unknown.status_code == 400 and unknown.json()["fields"][0]["path"] == "spec.source.snapshotRef"


# -- attachments --------------------------------------------------------------------------------


async def test_3_2_4_an_attachment_is_ready_once_the_disk_is_plugged_in(talk: Talk, cloud: Cloud) -> None:
    vm_path = await machine(talk)
    before = await talk.read(vm_path)
    await disk(talk, "data")
    made = await talk.make(talk.at("hotswapDiskAttachments"), "at", pair(), userLabels={"a": "1"})
    serial = made["status"]["serial"]
    assert re.fullmatch("[a-z0-9]{20}", serial) and ready_of(made)["status"] == "False"
    assert made["metadata"]["systemLabels"] == {"compute.evroc.com/disk-attachment-disk": "data"}
    assert made["spec"] == pair()
    found = await talk.until(talk.at("hotswapDiskAttachments/at"))
    assert found["status"]["serial"] == serial and ready_of(found)["reason"] == "Available"
    uid = (await talk.read(talk.at("disks/data")))["metadata"]["uid"]
    assert (await host(cloud).observe(before["metadata"]["uid"])).hot_disks == (uid,)
    vm = await talk.read(vm_path)
    assert vm["status"]["hotswapDiskAttachments"] == [{
        "hotswapDiskAttachmentRef": ref("hotswapDiskAttachments", "at"), "attached": True, "serial": serial,
        "diskRef": ref("disks", "data"), "device": f"/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_{serial}",
    }]  # fmt: skip
    assert vm["metadata"]["generation"] == 1 and ready_of(vm) == ready_of(before)
    used = await eventually(talk, talk.at("disks/data"), lambda d: bool(d["status"]["diskUsage"]))
    assert used["status"]["diskUsage"] == [{"useKind": "hotswap", "virtualMachineRef": ref("virtualMachines", "vm"),
                      "attachmentRef": ref("hotswapDiskAttachments", "at")}]  # fmt: skip
    for field, other in (("diskRef", ref("disks", "vm-boot")), ("virtualMachineRef", ref("virtualMachines", "x"))):
        answer = await talk.call("PATCH", talk.at("hotswapDiskAttachments/at"), {"spec": {field: other}})
        assert answer.status_code == 422, answer.text


async def test_3_2_4_detaching_frees_the_disk_before_the_404(talk: Talk, cloud: Cloud) -> None:
    vm_path = await machine(talk)
    data = await disk(talk, "data")
    path = await attach(talk)
    held = await talk.call("DELETE", data)
    assert held.status_code == 409 and "at" in held.json()["debug"]
    vm = await talk.read(vm_path)
    await delete(talk, path)
    assert (await host(cloud).observe(vm["metadata"]["uid"])).hot_disks == ()
    await delete(talk, data)
    after = await talk.until(vm_path)
    assert after["status"]["hotswapDiskAttachments"] == [] and ready_of(after) == ready_of(vm)


async def test_3_2_4_one_user_of_a_disk_at_a_time(talk: Talk) -> None:
    await machine(talk, "vm")
    await disk(talk, "data")
    await attach(talk)
    second = {"metadata": {"id": "second"}, "spec": pair()}
    answer = await talk.call("POST", talk.at("hotswapDiskAttachments"), second)
    assert answer.status_code == 409 and "HotswapDiskAttachment at" in answer.json()["debug"], answer.text
    permanent = {"metadata": {"id": "second"}, "spec": pair(data="vm-boot")}
    answer = await talk.call("POST", talk.at("hotswapDiskAttachments"), permanent)
    assert answer.status_code == 409 and "VirtualMachine vm" in answer.json()["debug"], answer.text
    other = {"metadata": {"id": "other"}, "spec": {"computeProfileRef": "c1a.m", "placement": {"zone": "a"},
             "disks": [{"diskRef": "data", "bootFrom": True}]}}  # fmt: skip
    answer = await talk.call("POST", talk.at("virtualMachines"), other)
    assert answer.status_code == 409 and "HotswapDiskAttachment at" in answer.json()["debug"], answer.text
    await delete(talk, talk.at("hotswapDiskAttachments/at"))
    await attach(talk, "second")


async def test_3_2_4_disk_and_machine_share_a_zone_and_exist(talk: Talk) -> None:
    await machine(talk)
    await disk(talk, "far", blank(zone="b"))
    await talk.make(talk.at("hotswapDiskAttachments"), "at", pair(data="far"))
    failed = await talk.until(talk.at("hotswapDiskAttachments/at"), "False")
    assert ready_of(failed)["reason"] == "ReferenceInvalid" and "zone b" in ready_of(failed)["message"]
    vm = await eventually(talk, talk.at("virtualMachines/vm"), lambda v: bool(v["status"]["hotswapDiskAttachments"]))
    listed = vm["status"]["hotswapDiskAttachments"][0]
    assert not listed["attached"] and listed["reason"] == "HotswapDiskInvalid" and "zone b" in listed["message"]
    for spec, path in ((pair(vm="none"), "spec.virtualMachineRef"), (pair(data="none"), "spec.diskRef")):
        answer = await talk.call("POST", talk.at("hotswapDiskAttachments"), {"metadata": {"id": "x"}, "spec": spec})
        assert answer.status_code == 400 and answer.json()["fields"][0]["path"] == path, answer.text
    await delete(talk, talk.at("hotswapDiskAttachments/at"))
    await delete(talk, talk.at("disks/far"))


async def test_3_2_4_a_machine_that_stands_still_has_the_disk_when_it_starts(talk: Talk, cloud: Cloud) -> None:
    path = await machine(talk, running=False)
    await disk(talk, "data")
    attachment = await attach(talk)
    assert "when vm starts" in ready_of(await talk.read(attachment))["message"]
    await delete(talk, attachment)
    attachment = await attach(talk)
    assert (await talk.call("PATCH", path, {"spec": {"running": True}})).status_code == 200
    await talk.until(path)
    await eventually(talk, attachment, lambda a: (ready_of(a)["status"], ready_of(a)["message"]) == ("True", ""))
    uid = (await talk.read(path))["metadata"]["uid"]
    assert len((await host(cloud).observe(uid)).hot_disks) == 1
    await talk.call("PATCH", path, {"spec": {"running": False}})
    stopped = await talk.until(path)
    entry = stopped["status"]["hotswapDiskAttachments"][0]
    assert not entry["attached"] and "device" not in entry and entry["serial"]
    await eventually(talk, attachment, lambda a: "when vm starts" in ready_of(a)["message"])
    await delete(talk, attachment)
    await delete(talk, talk.at("disks/data"))


async def test_3_2_4_a_machine_takes_its_attachments_with_it(talk: Talk, cloud: Cloud) -> None:
    path = await machine(talk)
    for name in ("one", "two"):
        await disk(talk, name)
        await attach(talk, f"at-{name}", data=name)
    host(cloud).hold((await talk.read(talk.at("disks/one")))["metadata"]["uid"])
    assert (await talk.call("DELETE", talk.at("hotswapDiskAttachments/at-one"))).status_code == 204
    await delete(talk, path)
    assert (await talk.read(talk.at("hotswapDiskAttachments")))["items"] == []
    for name in ("one", "two", "vm-boot"):
        assert (await talk.call("DELETE", talk.at(f"disks/{name}"))).status_code == 204
        await talk.gone(talk.at(f"disks/{name}"), 2)
    assert await cloud.store.claims("uses", below=True) == []
    assert await cloud.store.claims("pools", below=True) == []


async def test_3_2_4_a_hot_disk_grows_while_attached(talk: Talk) -> None:
    vm_path = await machine(talk)
    data = await disk(talk, "data")
    path = await attach(talk)
    vm, attached = await talk.read(vm_path), await talk.read(path)
    answer = await talk.call("PATCH", data, {"spec": {"diskSize": {"amount": 60, "unit": "GB"}}})
    assert answer.status_code == 200 and ready_of(answer.json())["status"] == "False"
    assert (await talk.until(data))["status"]["diskSize"] == {"amount": 60, "unit": "GB"}
    assert ready_of(await talk.until(path)) == ready_of(attached)
    assert (await talk.read(vm_path))["status"] == vm["status"]


async def test_3_2_4_a_machine_has_so_many_attachments_at_most(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attachments, "ATTACHMENTS_PER_MACHINE_MAX", 1)
    await machine(talk)
    for name in ("one", "two"):
        await disk(talk, name)
    await attach(talk, data="one")
    answer = await talk.call(
        "POST", talk.at("hotswapDiskAttachments"), {"metadata": {"id": "x"}, "spec": pair(data="two")}
    )
    assert answer.status_code == 403 and "the most it may" in answer.json()["debug"]


async def test_a_project_goes_with_snapshots_and_attachments(talk: Talk, cloud: Cloud) -> None:
    await talk.make("/iam/v1beta1/projects", "fresh", {"organization": cloud.credentials.organization, "name": "F"})
    inside = Talk(talk.http, talk.token, project="fresh")
    await machine(inside)
    await disk(inside, "data")
    spec = {"virtualMachineRef": "vm", "diskRef": "data"}
    await inside.make(inside.at("hotswapDiskAttachments"), "at", spec)
    await inside.until(inside.at("hotswapDiskAttachments/at"))
    await inside.make(inside.at("snapshots"), "s", {"diskRef": "data"})
    assert (await talk.call("DELETE", "/iam/v1beta1/projects/fresh")).status_code == 204
    await talk.gone("/iam/v1beta1/projects/fresh", 30)
    assert await volumes(cloud).held() == [] and await host(cloud).held() == []


# -- room ---------------------------------------------------------------------------------------


async def test_a_zone_promises_no_more_than_it_may(talk: Talk, cloud: Cloud) -> None:
    cloud.world.settings.disk_overcommit = 0.0001  # of a petabyte: 100 GB
    await cloud.store.commit(Wake(Key("Host", "", "a-1")))
    await eventually(talk, "/fleet/v1/hosts/a-1", lambda h: h["status"].get("capacity", {}).get("diskBytes") == 10**11)
    first = await disk(talk, "first", blank(60))
    await talk.make(talk.at("disks"), "second", blank(50))
    refused = ready_of(await talk.until(talk.at("disks/second"), "False"))
    assert refused["reason"] == "ProvisioningFailed"
    assert refused["message"] == ("zone a has no room for 50 GB: 60 GB promised of 100 GB; delete disks or raise "
                                  "HANSA_DISK_OVERCOMMIT")  # fmt: skip
    await talk.make(talk.at("snapshots"), "s", {"diskRef": "first"})
    assert "no room for 60 GB" in ready_of(await talk.until(talk.at("snapshots/s"), "False"))["message"]
    grown = await talk.call("PATCH", first, {"spec": {"diskSize": {"amount": 101, "unit": "GB"}}})
    assert grown.status_code == 403 and "no room for 101 GB" in grown.json()["debug"]
    assert (await talk.read(first))["spec"]["diskSize"]["amount"] == 60
    assert (await talk.call("PATCH", first, {"spec": {"diskSize": {"amount": 100, "unit": "GB"}}})).status_code == 200
    await talk.until(first)
    held = await cloud.store.claims("pools/se-sto-a")
    assert [h.claim.amount for h in held] == [100 * 10**9]
    assert (await talk.call("PATCH", first, {"metadata": {"userLabels": {"full": "yes"}}})).status_code == 200
    for name in ("snapshots/s", "disks/first"):
        await delete(talk, talk.at(name))
    await cloud.store.commit(Wake(Key("Disk", SCOPE, "second")))
    await talk.until(talk.at("disks/second"))


async def test_a_full_host_is_said_and_gone_on_with(talk: Talk, cloud: Cloud) -> None:
    volumes(cloud).full = "the host's disk is 90 % full"
    await talk.make(talk.at("disks"), "data", blank())
    waiting = ready_of(await talk.until(talk.at("disks/data"), "False"))
    assert waiting["reason"] == "HostDiskFull" and "90 %" in waiting["message"]
    volumes(cloud).full = ""
    await cloud.store.commit(Wake(Key("Disk", SCOPE, "data")))
    await talk.until(talk.at("disks/data"))
