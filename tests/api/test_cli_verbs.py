"""`hansa diff`, `get --watch`, `why` and completion, as commands against a served cloud."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from hansa.edge.server import make_server
from hansa.engines.simulated import SimulatedVolumes
from hansa.errors import Retry
from hansa.wiring import Cloud

from ..programs import no_cloud
from .conftest import BASE, Talk

pytestmark = pytest.mark.anyio
DISK = {"diskSize": {"amount": 1, "unit": "GB"}, "placement": {"zone": "b"}}


class Shell:
    """Commands of ours as processes, with the environment that `hansa.env` would give."""

    def __init__(self, url: str, token: str, home: Path) -> None:
        self.environment = no_cloud(
            HANSA_API_URL=url, HANSA_TOKEN=token, HANSA_PROJECT="demo", HANSA_REGION="se-sto",
            XDG_CACHE_HOME=str(home), NO_COLOR="1",
        )  # fmt: skip

    async def start(self, *words: str, **more: str) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "hansa", *words, env={**self.environment, **more}, stdout=pipe, stderr=pipe
        )

    async def run(self, *words: str, code: int = 0, **more: str) -> str:
        process = await self.start(*words, **more)
        async with asyncio.timeout(30):
            out, errors = await process.communicate()
        assert process.returncode == code, (words, out.decode(), errors.decode())
        return out.decode()


@pytest.fixture
async def http(cloud: Cloud) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(app=cloud.app)  # type: ignore[arg-type]
    async with httpx2.AsyncClient(transport=transport, base_url=BASE) as client:
        yield client


@pytest.fixture
async def shell(cloud: Cloud, talk: Talk, tmp_path: Path) -> AsyncIterator[Shell]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = make_server(cloud.app)
    serving = asyncio.create_task(server.serve([listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    yield Shell(f"http://127.0.0.1:{listener.getsockname()[1]}", talk.token, tmp_path)
    server.should_exit = True
    async with asyncio.timeout(20):
        await serving


async def test_diff_says_what_apply_would_change(shell: Shell, talk: Talk, tmp_path: Path) -> None:
    file = tmp_path / "d.json"
    document = {"kind": "Disk", "metadata": {"id": "one"}, "spec": DISK}
    file.write_text(json.dumps(document))
    out = await shell.run("diff", "-f", str(file), code=1)
    assert out.splitlines()[0] == "+ disk/one" and "    spec.diskSize.amount: 1" in out
    assert out.splitlines()[-1] == "1 to create, 0 to change, 0 as they are"
    assert (await talk.call("GET", talk.at("disks") + "/one")).status_code == 404
    await shell.run("apply", "-f", str(file), "--wait")
    assert await shell.run("diff", "-f", str(file)) == "0 to create, 0 to change, 1 as they are\n"
    document["spec"] = {**DISK, "diskSize": {"amount": 2, "unit": "GB"}}
    file.write_text(json.dumps(document))
    out = await shell.run("diff", "-f", str(file), code=1)
    assert out.splitlines()[:2] == ["~ disk/one", "    spec.diskSize.amount: 1 -> 2"]
    file.write_text(json.dumps({**document, "spec": {**DISK, "diskSize": {"amount": 1, "unit": "MB"}}}))
    await shell.run("diff", "-f", str(file), code=2)  # it may not shrink: that is no difference, that is wrong
    await shell.run("diff", "-f", str(tmp_path / "none.json"), code=3)


async def test_a_watch_shows_the_table_and_each_change_with_what_is_deleted(shell: Shell, talk: Talk) -> None:
    path = talk.at("disks")
    await talk.make(path, "before", DISK)
    await talk.until(f"{path}/before")
    watching = await shell.start("get", "disk", "--watch")
    assert watching.stdout is not None
    lines: list[list[str]] = []

    async def until(*cells: str) -> None:
        async with asyncio.timeout(20):
            while not lines or lines[-1][: len(cells)] != list(cells):
                assert watching.stdout is not None
                lines.append((await watching.stdout.readline()).decode().split())

    try:
        await until("before", "True", "Available")
        assert lines[0][:3] == ["NAME", "READY", "REASON"]
        await talk.make(path, "after", DISK)
        await until("after", "True", "Available")
        await talk.call("DELETE", f"{path}/before")
        await until("before", "-", "deleted")
        told = [line[:3] for line in lines]
        assert all(a != b for a, b in zip(told, told[1:], strict=False))  # nothing is said twice
    finally:
        watching.kill()
        await watching.communicate()
    watching = await shell.start("get", "disk", "after", "--watch", "-o", "json")
    assert watching.stdout is not None
    try:
        async with asyncio.timeout(20):
            first = json.loads(await watching.stdout.readline())
        assert (first["type"], first["object"]["metadata"]["id"]) == ("ADDED", "after")
    finally:
        watching.kill()
        await watching.communicate()
    await shell.run("get", "vm,disk", "--watch", code=2)


async def test_why_leads_to_what_is_in_the_way(
    shell: Shell, talk: Talk, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(self: Any, wanted: Any) -> Any:
        raise Retry("the shelf is locked", after_s=0.2)

    monkeypatch.setattr(SimulatedVolumes, "apply", broken)
    await talk.make(talk.at("disks"), "root", {**DISK, "source": {"type": "image", "diskImageRef": "/compute/global/diskImages/evroc/tiny.1"}})  # fmt: skip
    spec = {"computeProfileRef": "a1a.s", "disks": [{"diskRef": "root", "bootFrom": True}], "placement": {"zone": "b"}}
    made = await talk.call("POST", talk.at("virtualMachines"), {"metadata": {"id": "vm"}, "spec": spec},
                           headers={"X-Request-Id": "trace-1"})  # fmt: skip
    assert made.status_code == 201, made.text
    async with asyncio.timeout(20):
        while True:
            why = await talk.read(talk.at("virtualMachines") + "/vm/why")
            causes = {c["ref"].rsplit("/", 1)[-1]: c for c in why["causes"]}
            if causes.get("root", {}).get("reason") == "EngineNotAnswering" and why["attempts"]["recent"]:
                break
            await asyncio.sleep(0.05)
    assert causes["root"]["message"] == "the shelf is locked"
    assert why["attempts"]["recent"][-1]["reason"] == "WaitingForReference"
    assert why["attempts"]["recent"][-1]["request"] == "trace-1"
    text = await shell.run("why", "vm/vm")
    assert "waits in the end for" in text and "disk/root" in text and "the shelf is locked" in text
    assert "what helps" in text and "The last attempts say what the engine answered" in text
    assert "[request trace-1]" in text
    disk = await shell.run("why", "disk/root")
    assert "failed in a row; last: the shelf is locked" in disk and "waits in the end for" not in disk
    monkeypatch.undo()
    await talk.until(talk.at("virtualMachines") + "/vm", seconds=20)
    ready = await talk.read(talk.at("virtualMachines") + "/vm/why")
    assert ready["causes"] == [] and ready["helps"] == []


async def complete(shell: Shell, *words: str, **more: str) -> list[str]:
    """What bash would offer for the last word."""
    line = {
        "COMP_WORDS": " ".join(("hansa", *words)),
        "COMP_CWORD": str(len(words)),
        "_HANSA_COMPLETE": "bash_complete",
    }
    out = await shell.run(**{**line, **more})
    return [row.partition(",")[2] for row in out.splitlines() if row]


async def test_a_shell_completes_verbs_kinds_and_names(shell: Shell, talk: Talk) -> None:
    for name in ("web-1", "web-2", "data"):
        await talk.make(talk.at("disks"), name, DISK)
    assert await complete(shell, "wh") == ["why"]
    assert "disk" in await complete(shell, "get", "di")
    assert await complete(shell, "get", "disk", "web") == ["web-1", "web-2"]
    assert await complete(shell, "get", "disk", "web-1", "web") == ["web-2"]
    assert await complete(shell, "why", "disk/d") == ["disk/data"]
    assert "disk/" in await complete(shell, "delete", "disk/data", "di")
    assert await complete(shell, "ssh", "x") == []


async def test_without_a_cloud_completion_says_nothing(shell: Shell, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and never answers
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert await complete(shell, "get", "disk", "w", HANSA_API_URL=url) == []
    assert await complete(shell, "get", "disk", "w", HANSA_API_URL="http://127.0.0.1:9") == []
    assert await complete(shell, "get", "nonsense", "w") == []
    assert "disk" in await complete(shell, "get", "di", HANSA_API_URL="http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("name", "mark"), [("bash", "complete -o"), ("zsh", "compdef"), ("fish", "complete --no-files")]
)
async def test_completion_prints_a_script(shell: Shell, name: str, mark: str) -> None:
    script = await shell.run("completion", name)
    assert mark in script and "_HANSA_COMPLETE" in script
    await shell.run("completion", "tcsh", code=2)
