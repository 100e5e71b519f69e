"""Usage and decisions through the API: what owners read, page by page, and that strangers read nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hansa.api import audit

from .conftest import Talk, ready_of
from .test_flows import ref
from .test_quotas import blank, machine

pytestmark = pytest.mark.anyio
IAM = "iam/v1beta1"
USAGE = "/ledger/v1/projects/demo/usage"


async def usage(talk: Talk, **query: str) -> list[dict[str, Any]]:
    """All intervals, read in pages as small as they get."""
    found, query = [], {"limit": "2", **query}
    while True:
        answer = await talk.call("GET", USAGE, params=query)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        assert len(page["items"]) <= 2
        found += page["items"]
        if "continue" not in page:
            return found
        query["continue"] = page["continue"]


async def running(talk: Talk, name: str) -> str:
    await talk.make(talk.at("disks"), name, blank(10))
    made = await talk.make(talk.at("virtualMachines"), name, machine(name))
    await talk.until(talk.at(f"virtualMachines/{name}"))
    return str(made["metadata"]["uid"])


async def test_what_runs_is_an_open_interval_and_what_ran_is_a_closed_one(talk: Talk) -> None:
    uid = await running(talk, "m")
    found = await usage(talk, uid=uid)
    assert {(i["meter"], i["quantity"], i["unit"]) for i in found} == {
        ("vcpu_seconds", 2, "vCPU"), ("memory_byte_seconds", 4 * 10**9, "byte")
    }  # fmt: skip
    for item in found:
        assert item["open"] and "end" not in item and item["simulated"] is True
        assert (item["project"], item["region"], item["zone"], item["sku"]) == ("demo", "se-sto", "a", "c1a.s")
        assert item["ref"] == ref("virtualMachines", "m") and item["consumed"] == item["quantity"] * item["seconds"]
    assert (await talk.call("DELETE", talk.at("virtualMachines/m"))).status_code == 204
    await talk.gone(talk.at("virtualMachines/m"))
    ended = await usage(talk, uid=uid)
    assert [i["id"] for i in ended] == [i["id"] for i in found]
    assert all(not i["open"] and i["end"] >= i["start"] for i in ended)
    assert await usage(talk, uid=uid, open="true") == []
    assert [i["meter"] for i in await usage(talk, open="true")] == ["disk_byte_seconds"]


async def test_what_the_loop_remembers_of_meters_is_not_shown(talk: Talk) -> None:
    await running(talk, "m")
    for path in ("virtualMachines/m", "disks/m"):
        assert not {"metering", "shape", "onSince"} & set((await talk.read(talk.at(path)))["status"])


async def test_usage_is_filtered_and_clipped(talk: Talk) -> None:
    await running(talk, "m")
    await talk.make(talk.at("publicIPs", "networking/v1beta2"), "ip", {})
    await talk.until(talk.at("publicIPs/ip", "networking/v1beta2"))
    assert {i["kind"] for i in await usage(talk)} == {"VirtualMachine", "Disk", "PublicIP"}
    assert [i["unit"] for i in await usage(talk, meter="public_ip_seconds")] == ["address"]
    assert {i["kind"] for i in await usage(talk, kind="Disk", zone="a")} == {"Disk"}
    assert await usage(talk, zone="b") == [] and await usage(talk, until="2020-01-01T00:00:00Z") == []
    later = await usage(talk, since="2999-01-01T00:00:00Z")
    assert later and all(i["open"] and i["seconds"] == 0 for i in later)
    for wrong in ({"since": "yesterday"}, {"limit": "0"}, {"continue": "x"}, {"open": "maybe"}):
        answer = await talk.call("GET", USAGE, params=wrong)
        assert answer.status_code == 400 and answer.json()["fields"][0]["path"] == next(iter(wrong)), answer.text


async def test_strangers_read_no_usage_and_no_decision(talk: Talk, stranger: Talk) -> None:
    assert (await stranger.call("GET", USAGE)).status_code in (403, 404)
    answer = await talk.call("POST", talk.at("disks"), {"metadata": {"id": "d"}, "spec": blank(1)})
    path = f"/decisions/v1/{answer.headers['x-decision-id']}"
    assert (await talk.call("GET", path)).status_code == 200
    assert (await stranger.call("GET", path)).status_code == 404
    missing = await talk.call("GET", "/decisions/v1/none")
    assert missing.status_code == 404 and (await talk.call("GET", f"/decisions/v1/{'x' * 200}")).status_code == 404


async def test_every_write_names_the_verdict_that_let_it_through(talk: Talk) -> None:
    path = talk.at("disks/d")
    calls = [("POST", talk.at("disks"), {"metadata": {"id": "d"}, "spec": blank(1)}, "create"),
             ("PATCH", path, {"metadata": {"userLabels": {"a": "b"}}}, "update"), ("DELETE", path, None, "delete")]  # fmt: skip
    seen = set()
    for method, where, body, act in calls:
        answer = await talk.call(method, where, body)
        assert answer.status_code in (200, 201, 204), answer.text
        found = await talk.read(f"/decisions/v1/{answer.headers['x-decision-id']}")
        assert (found["type"], found["verdict"], found["act"]) == ("verdict", "allowed", act)
        assert found["ref"] == ref("disks", "d") and found["rule"] and found["by"].startswith("/iam/")
        assert found["request"] == answer.headers["x-request-id"]
        seen.add(found["id"])
    assert len(seen) == 3
    assert "x-decision-id" not in (await talk.call("GET", talk.at("disks"))).headers


async def test_a_write_that_stored_nothing_names_no_verdict(talk: Talk) -> None:
    body = {"metadata": {"id": "d"}, "spec": blank(1)}
    dry = await talk.call("POST", talk.at("disks?dryRun=true"), body)
    assert dry.status_code == 200 and "x-decision-id" not in dry.headers
    keyed = {"Idempotency-Key": "once"}
    first = await talk.call("POST", talk.at("disks"), body, headers=keyed)
    assert "x-decision-id" in first.headers
    second = await talk.call("POST", talk.at("disks"), body, headers=keyed)
    assert second.status_code == 201 and "x-decision-id" not in second.headers
    same = await talk.call("PATCH", talk.at("disks/d"), {"spec": {}})
    assert same.status_code == 200 and "x-decision-id" not in same.headers
    missing = await talk.call("DELETE", talk.at("disks/none"))
    assert missing.status_code == 404 and "details" not in missing.json()


async def test_a_refusal_is_kept_with_its_reasons_and_what_would_help(talk: Talk) -> None:
    limits = {"spec": {"quotas": {"compute": {"disks": 0}}}}
    assert (await talk.call("PATCH", f"/{IAM}/projects/demo", limits)).status_code == 200
    body = {"metadata": {"id": "d"}, "spec": blank(1)}
    answer = await talk.call("POST", talk.at("disks"), body)
    id = answer.json()["details"]["decision"]
    found = await talk.read(f"/decisions/v1/{id}")
    assert (found["verdict"], found["rule"], found["ref"]) == ("refused", "QuotaExceeded", ref("disks", "d"))
    assert {k: found["quota"][k] for k in ("quota", "limit", "used", "asked")} == {
        "quota": "compute.disks", "limit": 0, "used": 0, "asked": 1
    }  # fmt: skip
    assert "raise it" in found["help"] and "limit 0" in found["reasons"][0]
    again = await talk.call("POST", talk.at("disks"), body)
    assert again.json()["details"]["decision"] == id, "the same refusal is the same decision"


async def test_whom_a_role_refuses_may_read_why(talk: Talk, stranger: Talk, cloud: Any) -> None:
    answer = await stranger.call("POST", talk.at("disks"), {"metadata": {"id": "d"}, "spec": blank(1)})
    assert answer.status_code == 403
    path = f"/decisions/v1/{answer.json()['details']['decision']}"
    found = await stranger.read(path)
    assert (found["verdict"], found["rule"]) == ("refused", "Forbidden") and found["reasons"]
    assert (await talk.read(path))["by"] == found["by"], "the owner of what was tried may read it as well"
    hidden = await stranger.call("DELETE", f"/{IAM}/projects/demo")
    assert hidden.status_code == 404 and hidden.json()["details"]["decision"]


async def test_who_is_refused_all_the_time_fills_nothing(
    stranger: Talk, cloud: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "REFUSALS_MAX", 5)
    path = "/compute/v1beta2/projects/demo/regions/se-sto/disks"

    async def refused(number: int) -> bool:
        answer = await stranger.call("POST", path, {"metadata": {"id": f"d{number}"}, "spec": blank(1)})
        assert answer.status_code == 403
        return "details" in answer.json()

    def kept(rows: list[Any]) -> int:
        return sum(e.body["outcome"] == "refused" for e in rows)

    before = kept(await cloud.store.records("audit", limit=1000))
    assert sum([await refused(n) for n in range(3)] + [await refused(n % 3) for n in range(9)]) >= 3
    for n in range(20):
        await refused(n)
    assert kept(await cloud.store.records("audit", limit=1000)) - before <= 5


async def test_a_placement_is_found_by_its_id(talk: Talk) -> None:
    await running(talk, "m")
    shown = await talk.read(talk.at("virtualMachines/m"))
    found = await talk.read(f"/decisions/v1/{shown['status']['decision']}")
    assert found["type"] == "placement" and found["ref"] == ref("virtualMachines", "m")
    assert found["chosen"] == [{"host": "a-1"}] and found["refused"]
    assert ready_of(shown)["status"] == "True"


async def test_a_new_project_of_an_old_name_sees_nothing_of_the_old_one(talk: Talk, cloud: Any) -> None:
    spec = {"organization": cloud.credentials.organization}
    brief = Talk(talk.http, talk.token, project="brief")
    for used in (1, 0):
        await talk.make(f"/{IAM}/projects", "brief", spec)
        if used:
            await brief.make(brief.at("disks"), "d", blank(1))
            await brief.until(brief.at("disks/d"))
        found = (await talk.read("/ledger/v1/projects/brief/usage"))["items"]
        assert len(found) == used
        await asyncio.sleep(0)
        assert (await talk.call("DELETE", f"/{IAM}/projects/brief")).status_code == 204
        await talk.gone(f"/{IAM}/projects/brief")
