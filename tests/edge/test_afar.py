"""A whole cloud behind TLS: our clients and others trust it by what `hansa.env` names, and nothing else."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from hansa.bootstrap import write_environment
from hansa.clock import SystemClock, SystemIds
from hansa.config import Settings
from hansa.datafolder import read_environment
from hansa.edge import authority
from hansa.edge.front import Front, front_of
from hansa.edge.server import make_server
from hansa.engines.simulated import SimulatedNetwork, SimulatedVolumes
from hansa.errors import Invalid
from hansa.objectindex.nothing import NothingStored
from hansa.sdk.client import Client
from hansa.sdk.credentials import Connection
from hansa.sdk.errors import Unclear, Unreachable
from hansa.store.sqlite import open_sqlite
from hansa.wiring import FleetEngines, assemble, simulated_host

from ..api.conftest import FLEET

pytestmark = pytest.mark.anyio
T = TypeVar("T")


async def beside(work: Callable[[], T]) -> T:
    async with asyncio.timeout(30):
        return await asyncio.to_thread(work)


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    clock, ids = SystemClock(), SystemIds()
    settings = Settings(data=tmp_path, listen="https://127.0.0.1:0")
    listener = socket.create_server(("127.0.0.1", 0))
    made = front_of(settings, listener, clock)
    store = await open_sqlite(tmp_path / "hansa.db", clock=clock, ids=ids)
    engines = FleetEngines()
    for region in FLEET.regions:
        for host in region.hosts:
            engines.by_host[host.id] = simulated_host(host, clock)
            engines.by_zone.setdefault(f"{region.id}-{host.zone}", SimulatedVolumes())
            engines.networks[host.id] = SimulatedNetwork()
    cloud = await assemble(
        store,
        engines,
        made.known_to(settings),
        clock,
        ids,
        made.url,
        FLEET,
        tmp_path,
        kept=read_environment(tmp_path),
        contents=NothingStored(),
    )
    write_environment(tmp_path, made.url, cloud.credentials, made.trust)
    assert made.certificates is not None
    server = make_server(cloud.api, None, made.certificates.context)
    serving = asyncio.create_task(server.serve([listener]))
    looping = asyncio.create_task(cloud.serve_loop())
    while not server.started:
        await asyncio.sleep(0.01)
    yield made
    server.should_exit = True
    await cloud.loop.stop()
    await asyncio.gather(serving, looping)
    await cloud.close()


async def test_the_sdk_trusts_what_the_environment_names(front: Front, tmp_path: Path) -> None:
    given = read_environment(tmp_path)
    assert given["HANSA_API_URL"] == front.url and front.url.startswith("https://127.0.0.1:")
    assert given["HANSA_TOKEN_URL"].startswith(front.url)

    def work() -> None:
        client = Client.from_environment(tmp_path)
        disk = client.create("disk", "d", {"diskSize": {"amount": 1, "unit": "GB"}, "placement": {"zone": "b"}})
        assert disk["metadata"]["id"] == "d"
        client.wait("disk", "d", timeout_s=20)
        client.close()

    await beside(work)


async def test_a_console_opens_over_tls(front: Front, tmp_path: Path) -> None:
    image = {"type": "image", "diskImageRef": "/compute/global/diskImages/evroc/tiny.1"}
    spec = {"computeProfileRef": "a1a.s", "placement": {"zone": "b"}, "disks": [{"diskRef": "d", "bootFrom": True}]}

    def work() -> bytes:
        client = Client.from_environment(tmp_path)
        size = {"amount": 1, "unit": "GB"}
        client.create("disk", "d", {"diskSize": size, "placement": {"zone": "b"}, "source": image})
        client.create("vm", "m", spec)
        client.wait("vm", "m", timeout_s=20)
        with client.console("m") as console:
            seen = console.before
            console.write(b"hello-there\n")
            while b"hello-there" not in seen:
                seen += console.read(timeout_s=10)
        client.close()
        return seen

    assert b"simulated: m started" in await beside(work)


async def test_a_service_account_may_mean_any_name_of_the_place(front: Front, tmp_path: Path) -> None:
    given = {k: v for k, v in read_environment(tmp_path).items() if "REFRESH" not in k and not k.startswith("HANSA_")}
    port = front.place.port

    def work(host: str) -> None:
        url = f"https://{host}:{port}"
        token = given["EVROC_TOKEN_URL"].replace(front.url, url)
        ca = str(tmp_path / authority.PUBLIC)
        there = {**given, "EVROC_API_URL": url, "EVROC_TOKEN_URL": token, "HANSA_CA_FILE": ca}
        client = Client.connected(Connection.from_variables(there))
        assert client.list("vm") == []
        client.close()

    await beside(lambda: work("127.0.0.1"))
    if socket.gethostname().lower() in front.names():  # its certificate names the machine too
        assert any(name == socket.gethostname().lower() for name in front.names())


async def test_without_the_authority_nothing_is_sent(front: Front, tmp_path: Path) -> None:
    given = {k: v for k, v in read_environment(tmp_path).items() if k not in front.trust}

    def work(more: dict[str, str]) -> None:
        Client.connected(Connection.from_variables({**given, **more})).list("vm")

    with pytest.raises(Unreachable, match="cannot be trusted: .*HANSA_CA_FILE"):
        await beside(lambda: work({}))
    with pytest.raises(Unclear, match="holds no certificate"):
        await beside(lambda: work({"HANSA_CA_FILE": str(tmp_path / "hansa.db")}))


GO = """
package main
import ("net/http"; "os"; "fmt")
func main() {
    answer, err := http.Get(os.Getenv("HANSA_API_URL") + "/openapi.json")
    if err != nil { fmt.Fprintln(os.Stderr, err); os.Exit(1) }
    fmt.Println(answer.StatusCode)
}
"""
URL = "os.environ['HANSA_API_URL'] + '/openapi.json'"
OTHERS = {  # programs that print 200
    "python": [sys.executable, "-c", f"import os, urllib.request as u; print(u.urlopen({URL}).status)"],
    "httpx2": [sys.executable, "-c", f"import os, httpx2; print(httpx2.get({URL}).status_code)"],
    "requests": [sys.executable, "-c", f"import os, requests; print(requests.get({URL}).status_code)"],
    "curl": ["curl", "-sS", "-o", os.devnull, "-w", "%{http_code}\n", "$HANSA_API_URL/openapi.json"],
    "node": ["node", "-e", "fetch(process.env.HANSA_API_URL + '/openapi.json').then(a => console.log(a.status))"],
    "go": ["go", "run", "main.go"],
}


@pytest.mark.parametrize("name", OTHERS)
async def test_others_trust_what_the_environment_names(front: Front, tmp_path: Path, name: str) -> None:
    """Programs that know nothing of us, in a shell that sourced `hansa.env`, as `docs/how-to/tls.md` says."""
    words = OTHERS[name]
    if shutil.which(words[0]) is None:
        pytest.skip(f"there is no {words[0]} here")
    (tmp_path / "main.go").write_text(GO)
    said = " ".join(f'"{word}"' if "$HANSA" in word else shlex.quote(word) for word in words)

    def work(before: str) -> subprocess.CompletedProcess[str]:
        kept = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "NO_PROXY": "*"}
        script = f". ./hansa.env; {before} exec {said}"
        return subprocess.run(["sh", "-c", script], env=kept, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    ran = await asyncio.to_thread(work, "")
    assert ran.stdout == "200\n", ran.stderr
    ran = await asyncio.to_thread(work, f"unset {' '.join(front.trust)};")
    assert ran.returncode != 0 and "certificate" in ran.stderr, ran.stderr  # it does not know the authority


def test_half_a_pair_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        file, _ = authority.ensure(tmp_path, ["127.0.0.1"], SystemClock().now())
        with pytest.raises(Invalid, match="tls_key: goes with the other one"):
            front_of(Settings(data=tmp_path, tls_cert=file), listener, SystemClock())
        with pytest.raises(Invalid, match="begins with https://"):
            front_of(Settings(data=tmp_path, tls_cert=file, tls_key=file, url="http://a"), listener, SystemClock())


def test_an_operators_certificate_is_named_to_clients_when_they_do_not_know_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        file, _ = authority.ensure(tmp_path / "theirs", ["127.0.0.1"], SystemClock().now())
        theirs = tmp_path / "theirs" / authority.PUBLIC
        settings = Settings(data=tmp_path, tls_cert=file, tls_key=file, tls_ca=theirs)
        made = front_of(settings, listener, SystemClock())
        assert made.place.secure and made.url.startswith("https://")
        assert Path(made.trust["HANSA_CA_FILE"]).read_bytes() == theirs.read_bytes()
