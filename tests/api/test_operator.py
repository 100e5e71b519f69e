"""What an operator can see of a process: numbers without names of tenants, health, one id from request to loop."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator

import httpx2
import pytest
import structlog

from hansa.errors import Retry
from hansa.wiring import Cloud

from .conftest import BASE, Talk, ready_of

pytestmark = pytest.mark.anyio
DISK = {"diskSize": {"amount": 1, "unit": "GB"}, "placement": {"zone": "b"}}


@pytest.fixture
async def http(cloud: Cloud) -> AsyncIterator[httpx2.AsyncClient]:
    """As the server has it: the API with what is around it."""
    async with httpx2.AsyncClient(transport=from_address(cloud, "127.0.0.1"), base_url=BASE) as client:
        yield client


def from_address(cloud: Cloud, address: str) -> httpx2.ASGITransport:
    return httpx2.ASGITransport(app=cloud.app, client=(address, 1))


async def numbers(http: httpx2.AsyncClient) -> dict[str, float]:
    answer = await http.get("/metrics")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    pairs = (line.rsplit(" ", 1) for line in answer.text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


# -- numbers ------------------------------------------------------------------------------------


async def test_requests_are_counted_by_route_and_never_by_name(talk: Talk, http: httpx2.AsyncClient) -> None:
    path = talk.at("disks")
    await talk.make(path, "secretname", DISK)
    await talk.until(f"{path}/secretname")
    await talk.call("GET", f"{path}/otherhidden")
    await http.get("/compute/v1beta2/hiddenpath/x")
    await http.get(path)
    found = await numbers(http)
    template = "/compute/v1beta2/projects/*/regions/*/disks"
    assert found[f'hansa_http_requests_total{{route="{template}",method="POST",code="201"}}'] == 1
    assert found[f'hansa_http_requests_total{{route="{template}/{{name}}",method="GET",code="404"}}'] == 1
    assert found[f'hansa_http_request_seconds_count{{route="{template}",method="POST"}}'] == 1
    assert found[f'hansa_http_request_seconds_bucket{{route="{template}",method="POST",le="+Inf"}}'] == 1
    assert found["hansa_unauthenticated_total"] == 2
    assert found['hansa_loop_pass_seconds_count{kind="Disk",outcome="ok"}'] >= 1
    text = (await http.get("/metrics")).text
    for name in ("secretname", "otherhidden", "hiddenpath", "demo", talk.token):
        assert name not in text, name


async def test_work_store_and_process_are_told(talk: Talk, http: httpx2.AsyncClient) -> None:
    found = await numbers(http)
    assert found["hansa_process_resident_bytes"] > 10e6 and found["hansa_process_cpu_seconds_total"] > 0
    assert "hansa_loop_passes_in_flight" in found


async def test_the_text_is_well_formed(talk: Talk, http: httpx2.AsyncClient) -> None:
    await talk.call("GET", talk.at("disks"))
    sample = re.compile(r'[a-z_]+({[a-z]+="[^"\\\n]*"(,[a-z]+="[^"\\\n]*")*})? [0-9.e+-]+')
    seen: set[str] = set()
    for line in (await http.get("/metrics")).text.splitlines():
        if line.startswith("# TYPE "):
            assert line.split()[2] not in seen
            seen.add(line.split()[2])
        assert line.startswith("# ") or sample.fullmatch(line), line
    assert len(seen) >= 8


async def test_numbers_are_for_this_machine_alone(cloud: Cloud, http: httpx2.AsyncClient) -> None:
    async with httpx2.AsyncClient(transport=from_address(cloud, "192.0.2.9"), base_url=BASE) as afar:
        assert (await afar.get("/metrics")).status_code in (401, 404)
        assert (await afar.get("/health/live")).json() == {"status": "live"}
    for near in ("::1", "::ffff:127.0.0.1", "127.9.9.9"):
        async with httpx2.AsyncClient(transport=from_address(cloud, near), base_url=BASE) as local:
            assert (await local.get("/metrics")).status_code == 200, near
    passed_on = await http.get("/metrics", headers={"X-Forwarded-For": "192.0.2.9"})
    assert passed_on.status_code in (401, 404)
    assert (await http.post("/metrics")).status_code in (401, 404)


@pytest.mark.parametrize(("readers", "here", "afar"), [("off", 401, 401), ("everywhere", 200, 200)])
async def test_a_setting_says_who_reads_the_numbers(cloud: Cloud, readers: str, here: int, afar: int) -> None:
    object.__setattr__(cloud.app, "readers", readers)
    for address, status in (("127.0.0.1", here), ("192.0.2.9", afar)):
        async with httpx2.AsyncClient(transport=from_address(cloud, address), base_url=BASE) as client:
            assert (await client.get("/metrics")).status_code == status


# -- health -------------------------------------------------------------------------------------


async def test_ready_says_what_is_wrong(
    cloud: Cloud, http: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asyncio.timeout(10):
        while (await http.get("/health/ready")).status_code != 200:
            await asyncio.sleep(0.02)
    good = await http.get("/health/ready")
    assert good.json() == {"ready": True, "checks": {"store": "ok", "loop": "ok"}}

    async def away() -> int:
        raise Retry("the database does not answer", detail="password=hunter2")

    monkeypatch.setattr(cloud.store, "revision", away)
    bad = await http.get("/health/ready")
    assert bad.status_code == 503 and bad.json()["why"] == "store: the database does not answer"
    assert "hunter2" not in bad.text
    assert (await http.get("/health/live")).status_code == 200
    monkeypatch.undo()
    await cloud.loop.stop()
    async with asyncio.timeout(10):
        while cloud.loop.in_flight:
            await asyncio.sleep(0.01)
    await asyncio.sleep(1.1)  # its last sleep is over
    cloud.loop.beat = time.monotonic() - 100
    stuck = await http.get("/health/ready")
    assert stuck.status_code == 503 and "loop: the loop has not looked for work for 100 s" in stuck.json()["why"]


# -- the id of a request ------------------------------------------------------------------------


async def test_a_request_keeps_its_id_from_the_client_to_the_loop(talk: Talk) -> None:
    path = talk.at("disks")
    body = {"metadata": {"id": "d"}, "spec": DISK}
    made = await talk.call("POST", path, body, headers={"X-Request-Id": "trace-7.of_ours"})
    assert made.headers["x-request-id"] == "trace-7.of_ours"
    found = await talk.until(f"{path}/d")
    assert ready_of(found)["status"] == "True"
    events = (await talk.read(f"{path}/d/events"))["items"]
    by_act = {(e["act"], e["by"]): e["request"] for e in events}
    assert by_act[("status", "/hansa/loop")] == "trace-7.of_ours"
    assert {e["request"] for e in events if e["act"] == "create"} == {"trace-7.of_ours"}
    removed = await talk.call("DELETE", f"{path}/d", headers={"X-Request-Id": "trace-8"})
    assert removed.headers["x-request-id"] == "trace-8"
    await talk.gone(f"{path}/d")
    project = await talk.read("/events/v1/projects/demo?limit=500")
    assert {e["request"] for e in project["items"] if e["act"] == "forget" and e["id"] == "d"} == {"trace-8"}


@pytest.mark.parametrize("given", ["", "a b", "x" * 65, "-x", "a\tb"])
async def test_another_id_is_not_taken_over(talk: Talk, given: str) -> None:
    answer = await talk.call("GET", talk.at("disks"), headers={"X-Request-Id": given})
    assert answer.status_code == 200
    assert answer.headers["x-request-id"] != given and len(answer.headers.get_list("x-request-id")) == 1
    refused = await talk.call("GET", talk.at("disks") + "/none", headers={"X-Request-Id": "mine"})
    assert refused.json()["request"] == refused.headers["x-request-id"] == "mine"


async def test_each_write_is_one_line_in_the_log(talk: Talk, http: httpx2.AsyncClient) -> None:
    with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        await talk.call("POST", talk.at("disks"), {"metadata": {"id": "d"}, "spec": DISK},
                        headers={"X-Request-Id": "trace-9"})  # fmt: skip
    told = [line for line in lines if line["event"] == "request"]
    assert [(t["method"], t["status"], t["request"]) for t in told if t["log_level"] == "info"] == [
        ("POST", 201, "trace-9")
    ]
    assert talk.token not in repr(lines)
