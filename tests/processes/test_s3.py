"""The process that serves S3, as `hansa up` keeps it and on a PostgreSQL: there before `ready`, never refusing, told all."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import ssl
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hansa.datafolder import read_environment
from hansa.errors import Conflict, Forbidden, HansaError, NotFound
from hansa.hosting import socket_of
from hansa.sdk.client import Client
from hansa.sdk.s3 import S3, Endpoint
from hansa.sdk.s3sign import Pair

from ..postgres import server
from .test_roles import Processes, beside, free_ports
from .test_supervisor import lives, until
from .test_up import Up, children


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    made = Up(tmp_path)
    yield made
    for process in made.processes:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


Opened = Callable[..., S3]


@pytest.fixture
def opened() -> Iterator[Opened]:
    """Opens clients, and closes them at the end."""
    every: list[S3] = []

    def one(data: Path, pair: Pair | None = None) -> S3:
        endpoint = Endpoint.from_environment(data)
        every.append(S3(endpoint if pair is None else Endpoint(endpoint.url, pair)))
        return every[-1]

    yield one
    for each in every:
        each.close()


def fetched(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


def refused(work: Callable[[], Any]) -> HansaError | None:
    try:
        work()
    except HansaError as error:
        return error
    return None


def test_it_answers_once_ready_is_said_and_keeps_its_ports(up: Up, opened: Opened) -> None:
    up.ready()
    said = read_environment(up.data)
    s3 = opened(up.data)
    s3.make_bucket("films")
    s3.put("films", "a/b", b"once upon a time")
    assert said["AWS_DEFAULT_REGION"] == "se-sto" and "AWS_CA_BUNDLE" not in said
    assert json.loads(fetched(said["AWS_ENDPOINT_URL_S3"] + "/-/health/ready"))["ready"] is True
    assert "hansa_s3_requests_total" in fetched(said["AWS_ENDPOINT_URL_S3"] + "/-/metrics")
    up.processes[-1].send_signal(signal.SIGTERM)
    assert up.processes[-1].wait(60) == 0
    up.ready()
    again = read_environment(up.data)
    assert [again[n] for n in again if n.startswith("AWS_")] == [said[n] for n in said if n.startswith("AWS_")]
    assert s3.get("films", "a/b") == b"once upon a time"


def test_buckets_are_the_same_by_either_way(up: Up, opened: Opened) -> None:
    up.ready()
    s3, client = opened(up.data), Client.from_environment(up.data)
    s3.make_bucket("made-by-s3")
    assert client.get("bucket", "made-by-s3")["spec"]["objectRetentionMode"] == "Disabled"
    client.create("bucket", "made-by-api", {"objectRetentionMode": "Versioned"})
    s3.put("made-by-api", "k", b"x")
    with pytest.raises(Conflict):
        client.delete("bucket", "made-by-api")
    for _ in range(3):  # gone when the answer comes: its name is free
        s3.remove_bucket("made-by-s3")
        assert isinstance(refused(lambda: s3.put("made-by-s3", "k", b"x")), NotFound)
        s3.make_bucket("made-by-s3")
        s3.put("made-by-s3", "k", b"x")
        s3.delete("made-by-s3", "k")
    assert isinstance(refused(lambda: s3.make_bucket("made-by-s3")), Conflict)
    client.close()


def test_a_revoked_key_is_refused_within_a_second(up: Up, opened: Opened) -> None:
    up.ready()
    client = Client.from_environment(up.data)
    project = client.place["project"]
    account = client.list("serviceAccount")[0]["metadata"]["id"]
    made = client.create("s3Key", "mine", {"serviceAccountRef": f"/iam/projects/{project}/serviceAccounts/{account}"})
    mine = opened(up.data, Pair(made["status"]["accessKeyID"], made["status"]["secretAccessKey"], "se-sto"))
    mine.make_bucket("mine-alone")
    client.request("POST", f"/storage/v1/projects/{project}/s3Keys/mine/revoke", None, {})
    began = time.monotonic()
    until(lambda: isinstance(refused(mine.buckets), Forbidden), 5)
    assert time.monotonic() - began < 1.0
    assert [name for name, _ in opened(up.data).buckets()] == ["mine-alone"]
    client.close()


def test_a_killed_gateway_comes_again_and_nobody_is_refused(up: Up, opened: Opened) -> None:
    process = up.ready()
    s3 = opened(up.data)
    s3.make_bucket("steady")
    s3.put("steady", "k", b"kept")
    before = children(process.pid)[1]
    os.kill(before, signal.SIGKILL)
    until(lambda: not lives(before))
    assert opened(up.data).get("steady", "k") == b"kept"  # it waits in the socket that the supervisor holds
    assert len(children(process.pid)) == 2


def test_tls_has_a_certificate_for_paths_and_for_buckets_as_hosts(up: Up, opened: Opened) -> None:
    up.ready()
    port = int(read_environment(up.data)["HANSA_S3_TLS_URL"].rpartition(":")[2])
    context = ssl.create_default_context(cafile=str(up.data / "ca.pem"))
    for host in ("127.0.0.1", "localhost", "s3.localhost", "films.s3.localhost"):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
            with context.wrap_socket(plain, server_hostname=host) as secure:
                secure.sendall(b"GET / HTTP/1.1\r\nHost: " + host.encode() + b"\r\nConnection: close\r\n\r\n")
                answer = b"".join(iter(lambda: secure.recv(65536), b""))
        code = b"NoSuchBucket" if host.startswith("films") else b"AccessDenied"
        assert code in answer, (host, answer)


def test_elsewhere_than_on_loopback_s3_speaks_tls(up: Up, opened: Opened) -> None:
    up.ready("--listen", "https://127.0.0.1:0", "--s3-tls-port", "0")
    said = read_environment(up.data)
    assert said["AWS_ENDPOINT_URL_S3"].startswith("https://127.0.0.1:") and Path(said["AWS_CA_BUNDLE"]).is_file()
    s3 = opened(up.data)
    s3.make_bucket("far")
    assert [name for name, _ in s3.buckets()] == ["far"]


def test_changes_reach_the_api_whatever_clients_are_told(up: Up, opened: Opened) -> None:
    """Its public URL is of something that stands before it, and is not to be reached from here."""
    up.ready("--port", "0", "--url", "https://cloud.example.org/base")
    s3 = opened(up.data)
    s3.make_bucket("behind-a-proxy")
    s3.remove_bucket("behind-a-proxy")


def test_usage_reaches_the_ledger_also_when_it_ends_first(up: Up, opened: Opened) -> None:
    process = up.ready()
    s3 = opened(up.data)
    s3.make_bucket("metered")
    s3.put("metered", "k", b"x" * 1000)
    s3.get("metered", "k")
    os.kill(children(process.pid)[1], signal.SIGTERM)  # it tells what it has counted before it ends
    until(lambda: len(children(process.pid)) == 2, 30)
    client = Client.from_environment(up.data)

    def counted() -> dict[str, int]:
        found: dict[str, int] = {}
        query: dict[str, str] = {}
        while True:
            page = client.request("GET", f"/ledger/v1/projects/{client.place['project']}/usage", query)
            for item in page["items"]:
                found[item["meter"]] = found.get(item["meter"], 0) + item["quantity"]
            if "continue" not in page:
                return found
            query = {"continue": page["continue"]}

    until(lambda: counted().get("bucket_byte_seconds") == 1000, 30)
    assert counted() == {
        "bucket_byte_seconds": 1000, "s3_write_requests": 1, "s3_read_requests": 1, "s3_received_bytes": 1000,
        "s3_sent_bytes": 1000,
    }  # fmt: skip
    client.close()


def test_several_processes_share_the_ports(up: Up, opened: Opened) -> None:
    up.settings = {"HANSA_S3_PROCESSES": "2"}
    process = up.ready()
    assert len(children(process.pid)) == 3
    makers = [opened(up.data) for _ in range(8)]
    makers[0].make_bucket("shared")
    for number, s3 in enumerate(makers):  # whichever process answers knows the bucket at once
        s3.put("shared", f"k{number}", b"x")
    assert [seen.key for seen in makers[0].objects("shared")] == [f"k{n}" for n in range(8)]


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[Processes]:
    url = await server().empty()
    made = Processes(tmp_path, url)
    made.ports |= dict(zip(("s3-1", "s3-2"), free_ports(1) * 2, strict=True))
    yield made
    await beside(made.end)
    with contextlib.suppress(OSError):
        identity = (made.data / "cloud-id").read_text().strip()
        socket_of(identity).unlink(missing_ok=True)
        socket_of(identity).parent.rmdir()
    await server().drop(url)


@pytest.mark.anyio
async def test_on_postgresql_it_is_a_role_beside_the_others(processes: Processes, opened: Opened) -> None:
    port = str(processes.ports["s3-1"])
    for name in ("api-1", "control-1"):
        processes.start(name, "--s3-port", port)
    for name in ("s3-1", "s3-2"):
        processes.start(name, "--s3-port", port)
    for name in ("api-1", "control-1", "s3-1", "s3-2"):
        await processes.ready(name)

    def work() -> None:
        s3 = opened(processes.data)
        s3.make_bucket("on-postgres")
        s3.put("on-postgres", "k", b"kept")
        assert s3.get("on-postgres", "k") == b"kept"
        s3.delete("on-postgres", "k")
        s3.remove_bucket("on-postgres")

    await beside(work)
    processes.kill("s3-1")
    await asyncio.sleep(0.1)
    await beside(lambda: opened(processes.data).buckets())
