"""The audit: a record with every write, refusals, calls of nobody as a number; read with a role and a filter."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from hansa.api import audit as module
from hansa.api.audit import REFUSALS_MAX
from hansa.clock import Clock
from hansa.errors import Retry
from hansa.store.port import Append

from .conftest import Talk
from .people import IAM, somebody, with_roles

pytestmark = pytest.mark.anyio
BLANK = {"diskSize": {"amount": 1, "unit": "GB"}, "placement": {"zone": "a"}}
RECORDS = "/audit/v1/projects/demo/records"


@dataclass(frozen=True)
class Later:
    clock: Clock
    by_s: float

    def now(self) -> float:
        return self.clock.now() + self.by_s


@dataclass(frozen=True)
class Refusing:
    """The store as the audit sees it; the loop's passes have the real one beside it."""

    commit: Callable[..., Awaitable[int]]


async def found(talk: Talk, path: str = RECORDS, **query: Any) -> list[dict[str, Any]]:
    answer = await talk.call("GET", path, params=query)
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


async def test_every_write_has_a_record_with_who_what_and_the_requests_id(talk: Talk, cloud: Any) -> None:
    disk = talk.at("disks/data")
    answers = [await talk.call("POST", talk.at("disks"), {"metadata": {"id": "data"}, "spec": BLANK}),
               await talk.call("PATCH", disk, {"metadata": {"userLabels": {"a": "b"}}}),
               await talk.call("DELETE", disk)]  # fmt: skip
    assert [a.status_code for a in answers] == [201, 200, 204]
    records = (await found(talk, kind="Disk"))[::-1]
    assert [r["verb"] for r in records] == ["create", "update", "delete"]
    assert [r["request"] for r in records] == [a.headers["x-request-id"] for a in answers]
    for record in records:
        assert record["who"] == f"/iam/users/{cloud.credentials.user}" and record["outcome"] == "done"
        assert record["ref"] == "/compute/projects/demo/regions/se-sto/disks/data" and record["name"] == "data"
        assert record["project"] == "demo" and record["organization"] == cloud.credentials.organization


async def test_what_changes_nothing_has_no_record(talk: Talk) -> None:
    await talk.make(talk.at("disks"), "data", BLANK)
    before = len(await found(talk))
    assert (await talk.call("PATCH", talk.at("disks/data"), {"spec": BLANK})).status_code == 200
    assert (
        await talk.call("POST", f"{talk.at('disks')}?dryRun=true", {"metadata": {"id": "x"}, "spec": BLANK})
    ).status_code == 200
    assert (await talk.call("POST", talk.at("disks"), {"metadata": {"id": "data"}, "spec": BLANK})).status_code == 409
    assert (await talk.call("GET", talk.at("disks"))).status_code == 200
    assert len(await found(talk)) == before


async def test_every_kind_of_write_is_there_under_its_own_verb(talk: Talk, cloud: Any) -> None:
    await talk.make(talk.at("disks"), "boot", BLANK)
    machine = {
        "computeProfileRef": "c1a.s",
        "disks": [{"diskRef": "boot", "bootFrom": True}],
        "placement": {"zone": "a"},
        "running": False,
    }
    await talk.make(talk.at("virtualMachines"), "vm", machine)
    await talk.until(talk.at("virtualMachines/vm"))
    assert (await talk.call("POST", talk.at("virtualMachines/vm/start"))).status_code == 202
    assert (await talk.call("POST", talk.at("virtualMachines/vm/stop"))).status_code == 202
    accounts = f"{IAM}/projects/demo/serviceAccounts"
    await talk.make(accounts, "ci", {"enabled": True})
    key = {
        "accountRef": {"fqid": "/iam/projects/demo/serviceAccounts/ci"},
        "type": "rs256-jwt",
        "expiresAt": "2030-01-01T00:00:00Z",
    }
    await talk.make(f"{accounts}/ci/serviceAccountCredentials", "k", key)
    assert (await talk.call("POST", f"{accounts}/ci/serviceAccountCredentials/k/revoke", {})).status_code == 200
    await with_roles(cloud, talk, "computeViewer", "computeOperator")
    seen = {(r["kind"], r["verb"]) for r in await found(talk)}
    assert {("VirtualMachine", "start"), ("VirtualMachine", "stop"), ("ServiceAccountCredential", "create"),
            ("ServiceAccountCredential", "revoke"), ("RoleBinding", "create"), ("RoleBinding", "assign")} <= seen  # fmt: skip


async def test_a_refusal_is_recorded_with_its_reason(talk: Talk, cloud: Any, stranger: Talk) -> None:
    uid, viewer = await with_roles(cloud, talk, "computeViewer")
    refused = await viewer.call("DELETE", talk.at("disks/data"))
    hidden = await stranger.call("GET", f"{IAM}/projects/demo")
    outside = await stranger.call("POST", talk.at("disks"), {"metadata": {"id": "x"}, "spec": BLANK})
    assert [a.status_code for a in (refused, hidden, outside)] == [403, 404, 403]
    by_request = {r["request"]: r for r in await found(talk, outcome="refused")}
    one = by_request[refused.headers["x-request-id"]]
    assert (one["who"], one["verb"], one["kind"], one["status"]) == (f"/iam/users/{uid}", "delete", "Disk", 403)
    assert "compute.disks.delete" in one["why"] and one["reason"] == "Forbidden"
    assert by_request[hidden.headers["x-request-id"]]["status"] == 404
    assert by_request[outside.headers["x-request-id"]]["verb"] == "create"


async def test_what_is_missing_or_in_the_way_is_no_refusal(talk: Talk) -> None:
    assert (await talk.call("GET", talk.at("disks/none"))).status_code == 404
    assert (await talk.call("PATCH", talk.at("disks/none"), {})).status_code == 404
    assert await found(talk, outcome="refused") == []


async def test_a_repeated_refusal_is_recorded_once_a_minute_and_counted_where_it_was_aimed(
    talk: Talk, cloud: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    uid, viewer = await with_roles(cloud, talk, "computeViewer")
    for _ in range(8):
        assert (await viewer.call("DELETE", talk.at("disks/x"))).status_code == 403
    assert len(await found(talk, outcome="refused")) == 1
    home = f"/audit/v1/organizations/{cloud.credentials.organization}/records"
    assert (await found(talk, home, outcome="unauthenticated"))[0]["counts"] == {f"refused /iam/users/{uid}": 7}
    monkeypatch.setattr(cloud.api.audit, "clock", Later(cloud.api.audit.clock, module.WINDOW_S))
    assert (await viewer.call("DELETE", talk.at("disks/x"))).status_code == 403
    assert len(await found(talk, outcome="refused")) == 2


async def test_different_refusals_of_one_caller_are_limited_and_the_rest_counted(talk: Talk, cloud: Any) -> None:
    uid, viewer = await with_roles(cloud, talk, "computeViewer")
    answers = [await viewer.call("DELETE", talk.at(f"disks/x{n}")) for n in range(REFUSALS_MAX + 7)]
    assert {a.status_code for a in answers} == {403}
    assert len(await found(talk, outcome="refused")) == REFUSALS_MAX
    assert sum("details" in a.json() for a in answers) == REFUSALS_MAX, "no id leads nowhere"
    home = f"/audit/v1/organizations/{cloud.credentials.organization}/records"
    assert (await found(talk, home, outcome="unauthenticated"))[0]["counts"] == {f"refused /iam/users/{uid}": 7}


async def test_a_write_and_its_verdict_are_one_record_with_one_id(talk: Talk, cloud: Any) -> None:
    before = {e.id for e in await cloud.store.records("audit", limit=1000)}
    made = await talk.call("POST", talk.at("disks"), {"metadata": {"id": "data"}, "spec": BLANK})
    fresh = [e for e in await cloud.store.records("audit", limit=1000) if e.id not in before]
    assert [e.id for e in fresh] == [made.headers["x-decision-id"]]
    assert await cloud.store.records("verdicts") == []
    record = (await found(talk, kind="Disk"))[0]
    assert record["id"] == fresh[0].id and record["rule"] and record["verb"] == "create"


async def test_only_what_was_decided_about_a_write_is_a_decision(talk: Talk, cloud: Any) -> None:
    _, viewer = await with_roles(cloud, talk, "computeViewer")
    refused = await viewer.call("GET", f"{IAM}/projects/demo/roleBindings")
    assert refused.status_code == 403 and "details" not in refused.json()
    record = (await found(talk, outcome="refused"))[0]
    assert record["request"] == refused.headers["x-request-id"] and "rule" not in record
    assert (await viewer.call("GET", f"/decisions/v1/{record['id']}")).status_code == 404


async def test_verdicts_of_an_older_store_are_still_found(talk: Talk, stranger: Talk, cloud: Any) -> None:
    ref = "/compute/projects/demo/regions/se-sto/disks/old"
    body = {"verdict": "refused", "act": "create", "ref": ref, "by": "/iam/users/gone", "rule": "QuotaExceeded",
            "reasons": ["compute.disks: limit 0"], "request": "r", "quota": {"of": "projects/demo", "limit": 0}}  # fmt: skip
    await cloud.store.commit(Append("verdicts", "an-old-one", "", body))
    shown = await talk.read("/decisions/v1/an-old-one")
    assert shown["type"] == "verdict" and shown.items() >= body.items() and shown["help"]
    assert (await stranger.call("GET", "/decisions/v1/an-old-one")).status_code == 404


async def test_calls_of_nobody_are_counted_not_written_one_by_one(talk: Talk, cloud: Any) -> None:
    whole = f"/audit/v1/organizations/{cloud.credentials.organization}/records"
    for _ in range(20):
        assert (await talk.http.get(talk.at("disks"))).status_code == 401
    form = {"grant_type": "refresh_token", "refresh_token": "x", "client_id": "evroc-cli"}
    assert (await talk.http.post("/realms/evroc-customer/protocol/openid-connect/token", data=form)).status_code == 400
    counted = await found(talk, whole, outcome="unauthenticated")
    assert [c["counts"] for c in counted] == [{"token": 20, "invalid_grant": 1}]
    assert counted[0]["count"] == 21 and counted[0]["who"] == ""


async def test_a_refusal_stands_though_the_store_takes_no_record(
    talk: Talk, cloud: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, viewer = await with_roles(cloud, talk, "computeViewer")
    assert (await viewer.call("GET", talk.at("disks"))).status_code == 200

    async def full(*writes: Any, **more: Any) -> int:
        raise Retry("the disk is full")

    monkeypatch.setattr(cloud.api.audit, "store", Refusing(full))
    assert (await viewer.call("DELETE", talk.at("disks/x"))).status_code == 403


async def test_no_id_is_given_out_before_it_leads_somewhere(
    talk: Talk, cloud: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, viewer = await with_roles(cloud, talk, "computeViewer")
    meanwhile = []

    async def asked_twice(*writes: Any, **more: Any) -> int:
        monkeypatch.setattr(cloud.api.audit, "store", cloud.store)
        meanwhile.append(await viewer.call("DELETE", talk.at("disks/x")))
        raise Retry("the disk is full")

    monkeypatch.setattr(cloud.api.audit, "store", Refusing(asked_twice))
    first = await viewer.call("DELETE", talk.at("disks/x"))
    later = await viewer.call("DELETE", talk.at("disks/x"))
    assert [a.status_code for a in (*meanwhile, first, later)] == [403, 403, 403]
    assert ["details" in a.json() for a in (*meanwhile, first, later)] == [False, False, True]
    shown = await viewer.read(f"/decisions/v1/{later.json()['details']['decision']}")
    assert shown["verdict"] == "refused"


async def test_a_refusal_stands_though_its_minute_is_over_before_the_store_says_no(
    talk: Talk, cloud: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, viewer = await with_roles(cloud, talk, "computeViewer")
    later = []

    async def slow(*writes: Any, **more: Any) -> int:
        if not later:
            later.append(Later(cloud.api.audit.clock, module.WINDOW_S))
            monkeypatch.setattr(cloud.api.audit, "clock", later[0])
            assert (await viewer.call("DELETE", talk.at("disks/y"))).status_code == 403
        raise Retry("the disk is full")

    monkeypatch.setattr(cloud.api.audit, "store", Refusing(slow))
    answer = await viewer.call("DELETE", talk.at("disks/x"))
    assert later and answer.status_code == 403 and "details" not in answer.json()


# -- reading ----------------------------------------------------------------------------------------


async def test_pages_go_on_where_the_last_one_ended(talk: Talk) -> None:
    for number in range(7):
        await talk.make(talk.at("disks"), f"d{number}", BLANK)
    names, token = [], ""
    while True:
        query = {"limit": 2, "kind": "Disk", "verb": "create", **({"continue": token} if token else {})}
        page = (await talk.call("GET", RECORDS, params=query)).json()
        names += [i["name"] for i in page["items"]]
        assert len(page["items"]) <= 2
        if not (token := page.get("continue", "")):
            break
    assert names == [f"d{n}" for n in reversed(range(7))]


async def test_a_filter_looks_through_so_much_at_a_time_and_goes_on(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGE", 2)
    monkeypatch.setattr(module, "SCANNED_MAX", 4)
    await talk.make(talk.at("disks"), "needle", BLANK)
    for number in range(9):
        await talk.make(talk.at("disks"), f"d{number}", BLANK)
    items, token, pages = [], "", 0
    while True:
        page = (
            await talk.call("GET", RECORDS, params={"name": "needle", **({"continue": token} if token else {})})
        ).json()
        items, pages = [*items, *page["items"]], pages + 1
        if not (token := page.get("continue", "")):
            break
    assert [i["name"] for i in items] == ["needle"] and pages > 2


async def test_filters_by_who_request_and_time(talk: Talk, cloud: Any) -> None:
    uid, operator = await with_roles(cloud, talk, "computeOperator")
    mine = await operator.call("POST", talk.at("disks"), {"metadata": {"id": "mine"}, "spec": BLANK})
    await talk.make(talk.at("disks"), "other", BLANK)
    assert [r["name"] for r in await found(talk, who=f"/iam/users/{uid}")] == ["mine"]
    request = mine.headers["x-request-id"]
    one = (await found(talk, request=request))[0]
    assert one["name"] == "mine"
    assert await found(talk, until=one["at"], name="mine") == []
    assert [r["name"] for r in await found(talk, since=one["at"], kind="Disk")] == ["other", "mine"]
    assert await found(talk, since="2099-01-01T00:00:00Z") == []


@pytest.mark.parametrize("query", [{"limit": 0}, {"limit": 10**6}, {"since": "yesterday"}, {"until": "2026"}, {"continue": "x"}, {"limit": "x"}])  # fmt: skip
async def test_a_wrong_question_names_its_field(query: dict[str, Any], talk: Talk) -> None:
    answer = await talk.call("GET", RECORDS, params=query)
    assert answer.status_code == 400 and next(iter(query)) in answer.json()["debug"]


async def test_one_tenants_audit_is_not_anothers(talk: Talk, stranger: Talk, cloud: Any) -> None:
    await stranger.make("/compute/v1beta2/projects/strange/regions/se-sto/disks", "theirs", BLANK)
    assert [r["name"] for r in await found(stranger, "/audit/v1/projects/strange/records", kind="Disk")] == ["theirs"]
    assert (await stranger.call("GET", RECORDS)).status_code == 403
    assert (await talk.call("GET", "/audit/v1/projects/strange/records")).status_code == 403
    everything = await found(talk, f"/audit/v1/organizations/{cloud.credentials.organization}/records")
    assert "theirs" not in {r["name"] for r in everything}
    _, viewer = await with_roles(cloud, talk, "projectContributor")
    assert (await viewer.call("GET", RECORDS)).status_code == 403
    _, responder = await with_roles(cloud, talk, "securityIncidentResponder")
    assert (await responder.call("GET", RECORDS)).status_code == 200
    _, nobody = await somebody(cloud, talk)
    assert (await nobody.call("GET", RECORDS)).status_code == 403
