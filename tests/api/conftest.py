"""A whole cloud in this process, all its hosts simulated, spoken to by HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from hansa.bootstrap import ensure_organization
from hansa.clock import SystemClock, SystemIds
from hansa.config import Settings
from hansa.engines.simulated import SimulatedNetwork, SimulatedVolumes
from hansa.fleetfile import FleetFile
from hansa.wiring import Cloud, FleetEngines, assemble, simulated_host

from ..contents import MemoryContents
from ..postgres import a_store

BASE = "http://127.0.0.1:8080"
FLEET = FleetFile.model_validate(
    {"regions": [
        {"id": "se-sto", "name": "Stockholm", "country": "SE",
         "zones": [{"letter": x, "site": x} for x in "abc"],
         "hosts": [{"id": "a-1", "zone": "a", "vcpus": 16, "memoryGB": 64},
                   {"id": "b-1", "zone": "b", "vcpus": 16, "memoryGB": 64},
                   {"id": "b-2", "zone": "b", "vcpus": 16, "memoryGB": 64}]},
        {"id": "fr-par", "name": "Paris", "country": "FR", "zones": [{"letter": "a", "site": "p"}],
         "hosts": [{"id": "p-1", "zone": "a", "vcpus": 16, "memoryGB": 64}]},
    ]}
)  # fmt: skip


@dataclass
class Talk:
    """One caller's conversation. `region` is where regional objects are asked for."""

    http: httpx2.AsyncClient
    token: str
    project: str = "demo"
    region: str = "se-sto"

    async def call(self, method: str, path: str, body: Any = None, **more: Any) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {self.token}", **more.pop("headers", {})}
        return await self.http.request(method, path, json=body, headers=headers, **more)

    def at(self, collection: str, service: str = "compute/v1beta2") -> str:
        return f"/{service}/projects/{self.project}/regions/{self.region}/{collection}"

    async def make(self, path: str, name: str, spec: Any, **meta: Any) -> dict[str, Any]:
        answer = await self.call("POST", path, {"metadata": {"id": name, **meta}, "spec": spec})
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made

    async def read(self, path: str) -> dict[str, Any]:
        answer = await self.call("GET", path)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def until(self, path: str, ready: str = "True", seconds: float = 10) -> dict[str, Any]:
        """Polls as clients do, until `Ready` has this status and the answer speaks of the spec as it is."""
        async with asyncio.timeout(seconds):
            while True:
                found = await self.read(path)
                condition = ready_of(found)
                if condition["status"] == ready and condition["reason"] not in ("Creating", "Updating", "Provisioning"):
                    return found
                await asyncio.sleep(0.02)

    async def gone(self, path: str, seconds: float = 10) -> None:
        async with asyncio.timeout(seconds):
            while (await self.call("GET", path)).status_code != 404:
                await asyncio.sleep(0.02)


def ready_of(found: dict[str, Any]) -> dict[str, Any]:
    return next(c for c in found["status"]["conditions"] if c["type"] == "Ready")


@pytest.fixture
def contents() -> MemoryContents:
    return MemoryContents()


@pytest.fixture
async def cloud(tmp_path: Path, contents: MemoryContents) -> AsyncIterator[Cloud]:
    clock, ids = SystemClock(), SystemIds()
    store = await a_store(tmp_path / "hansa.db", clock=clock, ids=ids)
    engines = FleetEngines()
    for region in FLEET.regions:
        for host in region.hosts:
            engines.by_host[host.id] = simulated_host(host, clock)
            engines.by_zone.setdefault(f"{region.id}-{host.zone}", SimulatedVolumes())
            engines.networks[host.id] = SimulatedNetwork()
    settings = Settings(data=tmp_path, s3_regions="se-sto,fr-par")
    made = await assemble(
        store, engines, settings, clock, ids, BASE, FLEET, tmp_path, kept={}, contents=contents
    )  # fmt: skip
    looping = asyncio.create_task(made.serve_loop())
    yield made
    await made.loop.stop()
    await looping
    await made.close()


@pytest.fixture
async def http(cloud: Cloud) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=cloud.api), base_url=BASE) as client:  # type: ignore[arg-type]
        yield client


async def token_for(http: httpx2.AsyncClient, refresh: str) -> str:
    form = {"grant_type": "refresh_token", "refresh_token": refresh, "client_id": "evroc-cli"}
    answer = await http.post("/realms/evroc-customer/protocol/openid-connect/token", data=form)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["access_token"])


@pytest.fixture
async def talk(cloud: Cloud, http: httpx2.AsyncClient) -> Talk:
    return Talk(http, await token_for(http, cloud.credentials.refresh_token))


@pytest.fixture
async def stranger(cloud: Cloud, http: httpx2.AsyncClient) -> Talk:
    """Another organisation's owner, with a project of their own."""
    organization, _, refresh = await ensure_organization(cloud.store, SystemClock(), SystemIds(), "stranger")
    talk = Talk(http, await token_for(http, refresh), project="strange")
    await talk.make("/iam/v1beta1/projects", "strange", {"organization": organization, "name": "s"})
    return talk
