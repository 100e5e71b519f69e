"""The OpenAPI document is held against the API by schemathesis: whatever its shapes allow, and whatever they do not, is
sent by callers of every standing, and each answer must be one that the document tells of.

Bounded and seeded: the same examples in each run. `HANSA_LONG` sends many more.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import Response
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from hansa.api.documents import openapi_document
from hansa.bootstrap import ensure_organization
from hansa.clock import SystemClock, SystemIds
from hansa.config import Settings
from hansa.dates import rfc3339
from hansa.engines.simulated import SimulatedNetwork, SimulatedVolumes
from hansa.kinds.registry import all_kinds
from hansa.objectindex.nothing import NothingStored
from hansa.store.open import open_store
from hansa.wiring import FleetEngines, assemble, simulated_host

from ..postgres import server, wanted
from .conftest import BASE, FLEET, Talk, token_for
from .people import with_roles
from .test_matrix import BODIES, filled, routes

T = TypeVar("T")
EXAMPLES = 20 if os.environ.get("HANSA_LONG") else 3  # of each operation, with good data and with bad
ANSWER_S = 30.0
CHECKS = [status_code_conformance, content_type_conformance, response_headers_conformance, response_schema_conformance]
SCHEMA = schemathesis.openapi.from_dict(openapi_document())
OPERATIONS = {found.ok().label: found.ok() for found in SCHEMA.get_all_operations()}
NAMES = {
    "project": ["strange", "nowhere"],
    "organization": ["nobody"],
    "region": ["fr-par", "xx-xxx"],
    "serviceAccount": ["there", "nobody"],
}
HEADERS: list[dict[str, str]] = [
    {}, {"Authorization": "Bearer"}, {"Authorization": "Bearer x.y.z"}, {"Authorization": "Basic Og=="}, {"Authorization": "²"},
    {"X-Request-Id": "²"}, {"X-Request-Id": "a" * 5000}, {"Accept": "text/html"}, {"Content-Type": "text/plain"},
    {"Content-Type": "²"}, {"Idempotency-Key": "k"}, {"Idempotency-Key": "²\xff" * 90}, {"If-Match": '"7"'}, {"Cookie": ";;=;"},
    {"Accept-Encoding": "²"}, {"Content-Encoding": "gzip"}, {"Forwarded": "for=unknown"}, {"Range": "bytes=7-1"},
]  # fmt: skip
CALLERS = [*["owner"] * 8, *["member"] * 3, "stranger", "none"]
EXTRA = [*[{}] * 4 * len(HEADERS), *HEADERS]
SMALL = {"diskSize": {"amount": 1, "unit": "GB"}, "placement": {"zone": "b"}}
MACHINE = {"computeProfileRef": "c1a.s", "disks": [{"diskRef": "there", "bootFrom": True}], "placement": {"zone": "b"}}
GROUP = {"strategy": {"type": "spread"}, "placement": {"zone": "b"}}
COMPUTE, NETWORK, PROJECT = "compute/v1beta2", "networking/v1beta2", "/iam/v1beta1/projects/demo"
KEY = {
    "accountRef": {"fqid": "/iam/projects/demo/serviceAccounts/there"},
    "type": "rs256-jwt",
    "expiresAt": rfc3339(time.time() + 86_400),
}
THERE: list[tuple[str, str, dict[str, Any]]] = [
    (COMPUTE, "disks", SMALL), (COMPUTE, "virtualMachines", MACHINE), (COMPUTE, "placementGroups", GROUP),
    (COMPUTE, "snapshots", {"diskRef": "there"}), (NETWORK, "publicIPs", {}), (NETWORK, "virtualPrivateClouds", {"stackType": "ipv6-only"}),
    (NETWORK, "subnets", {"vpcRef": "there", "stackType": "ipv6-only", "placement": {"zone": "b"}}), (NETWORK, "securityGroups", {"vpcRef": "there"}),
]  # fmt: skip


@dataclass
class Served:
    """A whole cloud in a thread and loop of its own: Hypothesis calls functions that do not wait."""

    folder: Path
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    tokens: dict[str, str] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    database: str = ""
    cloud: Any = None
    http: Any = None

    def call(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return asyncio.run_coroutine_threadsafe(work(), self.loop).result(ANSWER_S)

    async def begin(self) -> None:
        clock, ids, engines = SystemClock(), SystemIds(), FleetEngines()
        for region in FLEET.regions:
            for host in region.hosts:
                engines.by_host[host.id] = simulated_host(host, clock)
                engines.by_zone.setdefault(f"{region.id}-{host.zone}", SimulatedVolumes())
                engines.networks[host.id] = SimulatedNetwork()
        if wanted():  # a database of the module's own: those of single tests end with them
            self.database = await server().empty()
        store = await open_store(self.database or self.folder / "hansa.db", clock=clock, ids=ids)
        made = Settings(data=self.folder)
        self.cloud = await assemble(
            store, engines, made, clock, ids, BASE, FLEET, self.folder, kept={}, contents=NothingStored()
        )
        self.looping = asyncio.create_task(self.cloud.serve_loop())
        self.http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=self.cloud.app), base_url=BASE)
        owner = Talk(self.http, await token_for(self.http, self.cloud.credentials.refresh_token))
        uid, member = await with_roles(self.cloud, owner, "projectContributor")
        organization, _, refresh = await ensure_organization(store, clock, ids, "stranger")
        stranger = Talk(self.http, await token_for(self.http, refresh), project="strange")
        await stranger.make("/iam/v1beta1/projects", "strange", {"organization": organization, "name": "s"})
        for service, collection, spec in THERE:
            await owner.make(owner.at(collection, service), "there", spec)
        await owner.make(
            "/iam/v1beta1/projects", "spare", {"organization": self.cloud.credentials.organization, "name": "s"}
        )
        await owner.make(f"{PROJECT}/serviceAccounts", "there", {})
        await owner.make(f"{PROJECT}/serviceAccounts/there/serviceAccountCredentials", "there", KEY)
        await owner.make("/sovereignty/v1/projects/demo/sovereigntyPolicies", "there", {"territories": ["SE", "FR"]})
        await owner.until(owner.at("virtualMachines/there"))
        self.names = {"project": ["demo"], "organization": [self.cloud.credentials.organization], "region": ["se-sto"]}
        self.texts = {"user": uid, "organization": self.names["organization"][0], "administrator": "projectViewer"}
        for label in OPERATIONS:
            method, _, path = label.partition(" ")
            base, _, last = path.rpartition("/")
            if method == "GET" and last == "{id}" and f"GET {base}" in OPERATIONS:
                self.names[base] = [
                    i["metadata"]["id"]
                    for i in (await owner.read(self.filled(base)))["items"]
                    if i["metadata"]["id"] != "demo"
                ]  # the project stays: all others are in it
        self.tokens = {"owner": owner.token, "member": member.token, "stranger": stranger.token, "none": ""}

    def filled(self, path: str) -> str:
        for name in ("project", "organization", "region"):
            path = path.replace(f"{{{name}}}", self.names[name][0])
        return path

    def name_for(self, name: str, path: str) -> list[str]:
        """Names for a segment of a path: those of objects that are there, and others."""
        if name == "id":
            return [*self.names.get(path.partition("/{id}")[0], [])[-3:] * 2, "other"]
        return [*self.names.get(name, []) * 8, *NAMES.get(name, [])]

    async def end(self) -> None:
        await self.cloud.loop.stop()
        await self.looping
        await self.http.aclose()
        await self.cloud.close()
        if self.database:
            await server().drop(self.database)

    async def send(self, request: requests.PreparedRequest) -> Response:
        headers = [(k.encode(), v if isinstance(v, bytes) else v.encode("utf-8")) for k, v in request.headers.items()]
        body = request.body.encode() if isinstance(request.body, str) else request.body
        answer = await self.http.request(request.method, request.url, content=body, headers=headers)
        return Response(
            answer.status_code, {k: [v] for k, v in answer.headers.items()}, answer.content, request,
            elapsed=0.0, verify=False, encoding="utf-8",
        )  # fmt: skip


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    it = Served(tmp_path_factory.mktemp("openapi"))
    thread = threading.Thread(target=it.loop.run_forever, name="served")
    thread.start()
    try:
        it.call(it.begin)
        yield it
        it.call(it.end)
        assert it.cloud.loop.counts.bugs == 0
    finally:
        it.loop.call_soon_threadsafe(it.loop.stop)
        thread.join(ANSWER_S)
        it.loop.close()


def ask(served: Served, data: st.DataObject, label: str, mode: schemathesis.GenerationMode) -> None:
    """One request of an operation, mostly about things that are there, and its answer held against the document."""
    case = data.draw(OPERATIONS[label].as_strategy(generation_mode=mode))
    who = data.draw(st.sampled_from(CALLERS))
    for name in case.path_parameters:
        if (names := served.name_for(name, label.partition(" ")[2])) and data.draw(st.integers(0, 7)) < 7:
            case.path_parameters[name] = data.draw(st.sampled_from(names))
    kind = OPERATIONS[label].definition.raw.get("tags", [""])[0]
    if label.startswith("POST") and label.endswith(f"/{collection_of(kind)}") and data.draw(st.integers(0, 2)) < 2:
        name = data.draw(st.sampled_from(["fresh", "there", "²", "a" * 64]))
        case.body = filled({"metadata": {"id": name}, "spec": BODIES[kind]}, served.texts)
    if case.query.get("watch"):  # a watch ends with its client
        del case.query["watch"]
    token = served.tokens[who]
    extra = {**({"Authorization": f"Bearer {token}"} if token else {}), **data.draw(st.sampled_from(EXTRA))}
    request = requests.Request(**case.as_transport_kwargs(base_url=BASE)).prepare()
    request.headers.update(extra)
    answer = served.call(lambda: served.send(request))
    told = f"{who}: {request.method} {request.url} {request.body!r}: {answer.status_code} {answer.content[:600]!r}"
    assert answer.status_code != 500, told
    case.validate_response(answer, checks=CHECKS)


def collection_of(kind: str) -> str:
    return next((k.collection for k in all_kinds() if k.kind == kind and "C" in k.verbs), "nothing")


def examples(count: int) -> Any:
    return settings(
        max_examples=count, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck),
        print_blob=False,
    )  # fmt: skip


def takes_anything(operation: Any) -> bool:
    return bool([*operation.path_parameters, *operation.query, *operation.headers, *operation.body])


@pytest.mark.parametrize("label", OPERATIONS)
@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode), ids=lambda mode: mode.value)
def test_every_answer_is_one_that_the_document_tells_of(
    served: Served, label: str, mode: schemathesis.GenerationMode
) -> None:
    if mode.is_negative and not takes_anything(OPERATIONS[label]):
        return  # there is nothing to be wrong

    @examples(EXAMPLES)
    @given(st.data())
    def asked(data: st.DataObject) -> None:
        ask(served, data, label, mode)

    asked()


@pytest.mark.parametrize("method", ["PUT", "HEAD", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "X" * 60])
def test_a_method_that_is_not_offered_is_refused_on_every_path(served: Served, method: str) -> None:
    for path in {label.partition(" ")[2] for label in OPERATIONS}:
        url = BASE + served.filled(path).replace("{id}", "there").replace("{serviceAccount}", "there")
        request = requests.Request(method, url, headers={"Authorization": f"Bearer {served.tokens['owner']}"}).prepare()
        request.method = method
        answer = served.call(lambda: served.send(request))  # noqa: B023 - called at once
        assert answer.status_code in (200, 400, 401, 404, 405, 501, 503), f"{method} {path}: {answer.status_code}"
        assert answer.status_code != 200 or method == "HEAD", f"{method} {path}"


def test_every_route_that_lets_somebody_in_is_in_the_document() -> None:
    """Held against the routes of the golden matrix, whatever they call their parameters."""
    documented = {re.sub(r"{\w+}", "{}", label) for label in OPERATIONS}
    missing = [
        line.shown for line in routes() if re.sub(r"{\w+}", "{}", " ".join(line.shown.split())) not in documented
    ]
    assert not missing
