"""The disk is full under a whole cloud in a process of its own: it says so, keeps what it promised, and goes on by itself
when there is room again.

Full is played by a limit on the size of files, which the kernel enforces on the database alone, and which the test lifts
while the process runs.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from hansa.errors import HansaError
from hansa.sdk.client import Client

DISK = {"diskSize": {"amount": 1, "unit": "GB"}, "placement": {"zone": "b"}}
LIMIT_S = 120.0  # longer than a lease
ROOM = 4 << 10  # bytes of a file that may be written: less than one page in the journal takes
BEFORE, TRIES_MAX = 5, 20
# Python would leave half a module's bytecode beside its source, for whoever imports it next.
NO_BYTECODE = {"PYTHONDONTWRITEBYTECODE": "1"}


class Process:
    """`hansa up` that may not write beyond a size which is set while it runs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, folder / "data"
        self.start()

    def start(self) -> None:
        out = self.folder / "out"
        with out.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hansa", "up", "--data", str(self.data), "--port", "0"],
                stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.DEVNULL, env={"HANSA_UPLINK": "none", **os.environ, **NO_BYTECODE},
            )  # fmt: skip
        until(lambda: b"ready" in out.read_bytes() or self.process.poll() is not None)
        assert self.process.poll() is None, out.read_text()
        self.client = Client.from_environment(self.data)

    def fill(self) -> None:
        self._limit(ROOM)

    def empty(self) -> None:
        self._limit(resource.RLIM_INFINITY)

    def _limit(self, size: int) -> None:
        for pid in family(self.process.pid):
            hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))

    def ready(self) -> tuple[int, dict[str, Any]]:
        answer = self.client.transport.send("GET", "/health/ready", {}, tries_more=0)
        found: dict[str, Any] = json.loads(answer.body)
        return answer.status, found

    def create(self, name: str) -> str:
        """The answer to one POST, tried once: "made", or the reason."""
        body = json.dumps({"metadata": {"id": name}, "spec": DISK}).encode()
        path = urlsplit(self.client.path("disk", name)).path.rpartition("/")[0]
        headers = {**self.client.headers(), "Content-Type": "application/json"}
        answer = self.client.transport.send("POST", path, headers, body, tries_more=0)
        return "made" if answer.status == 201 else f"{answer.status} {json.loads(answer.body)['reason']}"

    def names(self) -> set[str]:
        return {found["metadata"]["id"] for found in self.client.list("disk")}

    def end(self) -> None:
        self.client.close()
        self.process.terminate()
        self.process.wait(LIMIT_S)


def family(pid: int) -> list[int]:
    """A process and all that it started, and so on."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += family(int(child))
    return found


def until(what: Any) -> None:
    end = time.monotonic() + LIMIT_S
    while not what():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    it = Process(tmp_path)
    yield it
    it.end()


def full(it: Process) -> set[str]:
    """Creates until the disk is full: the names that were promised."""
    made = {f"before{n}" for n in range(BEFORE)}
    assert {it.create(name) for name in made} == {"made"}
    it.fill()
    for n in range(TRIES_MAX):
        said = it.create(f"d{n}")
        if said != "made":
            assert said == "503 Unavailable", said
            return made
        made.add(f"d{n}")
    raise AssertionError("the disk was never full")


def test_a_full_disk_is_told_and_nothing_that_was_promised_is_lost(process: Process) -> None:
    made = full(process)
    status, said = process.ready()
    assert status == 503 and not said["ready"] and "does not take writes" in said["why"]
    assert process.names() == made, "reads go on, and show what was promised and nothing else"
    why = process.client.request("GET", process.client.path("disk", min(made)) + "/why")
    assert "does not take writes" in why["attempts"]["lastError"]
    process.empty()
    until(lambda: process.ready()[0] == 200)
    for name in made:
        process.client.wait("disk", name, timeout_s=LIMIT_S)
    assert process.create("after") == "made" and process.names() == {*made, "after"}


def test_a_process_that_dies_with_a_full_disk_begins_again_whole(process: Process) -> None:
    made = full(process)
    for pid in family(process.process.pid):
        os.kill(pid, signal.SIGKILL)
    process.process.wait()
    process.client.close()
    process.start()
    assert process.names() == made
    for name in made:
        process.client.wait("disk", name, timeout_s=LIMIT_S)
    with pytest.raises(HansaError):
        process.client.create("disk", min(made), DISK)
