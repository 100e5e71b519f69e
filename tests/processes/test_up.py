"""`hansa up` as a process: it comes up, dies, comes again, and says what is wrong. All hosts are simulated."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from hansa.datafolder import read_environment
from hansa.sdk.client import Client

from ..api.conftest import FLEET
from ..programs import no_cloud
from .test_supervisor import lives, until

MEMORY_BYTES_MAX = 120 << 20  # of the supervisor and the process with API and loop
GATEWAY_BYTES_MAX = 90 << 20


class Up:
    """`hansa up` over one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, folder / "data"
        self.fleet = folder / "fleet.yaml"
        self.fleet.write_text(FLEET.model_dump_json(by_alias=True, exclude_defaults=True))
        self.processes: list[subprocess.Popen[bytes]] = []
        self.settings: dict[str, str] = {}

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        number = len(self.processes)
        with (self.folder / f"out{number}").open("wb") as out, (self.folder / f"err{number}").open("wb") as errors:
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "hansa", "up", "--data", str(self.data), "--fleet", str(self.fleet), *words],
                    stdin=subprocess.DEVNULL, stdout=out, stderr=errors, env=no_cloud(**self.settings),
                )
            )  # fmt: skip
        return self.processes[-1]

    def ready(self, *words: str) -> subprocess.Popen[bytes]:
        process = self.start(*(words or ("--port", "0")))
        until(lambda: b"ready" in self.said("out") or process.poll() is not None, 60)
        assert process.poll() is None, self.said("err").decode()
        return process

    def said(self, which: str) -> bytes:
        return (self.folder / f"{which}{len(self.processes) - 1}").read_bytes()


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def resident(pid: int) -> int:
    line = next(x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    made = Up(tmp_path)
    yield made
    for process in made.processes:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


def test_it_serves_and_ends_when_told(up: Up) -> None:
    process = up.ready()
    cloud, gateway = children(process.pid)
    assert resident(process.pid) + resident(cloud) < MEMORY_BYTES_MAX and resident(gateway) < GATEWAY_BYTES_MAX
    client = Client.from_environment(up.data)
    assert [v["metadata"]["id"] for v in client.list("vpc")] == ["default-se-sto"]
    client.close()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert up.said("out").endswith(b"stopped; machines go on running\n")


def test_its_process_comes_again_on_the_same_port_and_nobody_is_refused(up: Up) -> None:
    process = up.ready()
    client = Client.from_environment(up.data)
    client.list("vm")
    before = children(process.pid)
    os.kill(before[0], signal.SIGKILL)
    until(lambda: not lives(before[0]))
    assert client.list("vm") == []  # it waits in the socket that the supervisor holds
    client.close()
    assert process.poll() is None and len(children(process.pid)) == 2 and children(process.pid) != before


def test_a_killed_one_leaves_nothing_that_is_in_the_way(up: Up) -> None:
    process = up.ready()
    below = children(process.pid)
    process.kill()
    process.wait()
    again = up.ready()
    assert not any(lives(pid) for pid in below) and again.poll() is None
    client = Client.from_environment(up.data)
    assert len(client.list("vpc")) == 1
    client.close()


def test_what_it_leaves_behind_holds_neither_lock_nor_port(up: Up) -> None:
    """Guests and network daemons outlive the process that starts them: it must pass nothing on by accident."""
    process = up.ready()
    passed_on = []
    for child in children(process.pid):
        for entry in Path(f"/proc/{child}/fdinfo").iterdir():
            flags = next(x for x in entry.read_text().splitlines() if x.startswith("flags"))
            if int(entry.name) > 2 and not int(flags.split()[1], 8) & os.O_CLOEXEC:
                passed_on.append((child, entry.name, os.readlink(f"/proc/{child}/fd/{entry.name}")))
    assert passed_on == []


def test_one_folder_has_one_cloud(up: Up) -> None:
    process = up.ready()
    second = up.start("--port", "0")
    assert second.wait(60) == 1
    assert f"(process {process.pid})" in up.said("err").decode()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--listen", "http://0.0.0.0"), "plain HTTP is spoken on loopback only"),
        (("--listen", "nowhere"), "is no address"),
        (("--port", "0", "--tls-cert", "/etc/hostname"), "tls_key: goes with the other one"),
        (("--port", "0", "--tls-cert", "/etc/hostname", "--tls-key", "/etc/hostname"), "cannot be used"),
        (("--port", "0", "--url", "ftp://x"), "url: is https://HOST"),
    ],
)
def test_what_is_wrong_is_said_once_and_ends_it(up: Up, words: tuple[str, ...], said: str) -> None:
    assert up.start(*words).wait(60) == 1
    assert up.said("err").decode().count(said) == 1 and b"Traceback" not in up.said("err")


def test_from_afar_it_speaks_tls_by_its_own_authority(up: Up) -> None:
    up.ready("--listen", "https://127.0.0.1:0")
    given = read_environment(up.data)
    assert given["HANSA_API_URL"].startswith("https://127.0.0.1:")
    client = Client.from_environment(up.data)
    assert client.list("vm") == []
    client.close()
    plain = given["HANSA_API_URL"].replace("https:", "http:")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(plain + "/health/live", timeout=10)
    assert refused.value.code == 400 and b"https://" in refused.value.read()
