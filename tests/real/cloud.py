"""A cloud of our own in a folder: started, killed and audited by the tests."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from hansa.config import run_folder
from hansa.engines.network import space
from hansa.sdk.client import Client

from .audit import audit, remove_groups


class RealCloud:
    """`hansa up` as a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        self.client: Client | None = None

    def start(self, **environment: str) -> Client:
        out = self.folder / "out"
        with out.open("wb") as file, (self.folder / "err").open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hansa", "up", "--data", str(self.data), "--port", "0"],
                stdin=subprocess.DEVNULL, stdout=file, stderr=errors,
                env={"HANSA_UPLINK": "none", **os.environ, **environment},  # what a guest says stays here
            )  # fmt: skip
        end = time.monotonic() + 30
        while b"ready" not in out.read_bytes():
            assert self.process.poll() is None, (self.folder / "err").read_text()
            assert time.monotonic() < end, "not ready in time"
            time.sleep(0.05)
        self.close()
        self.client = Client.from_environment(self.data)
        return self.client

    def close(self) -> None:
        if self.client is not None:
            self.client.close()

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(60)

    @property
    def identity(self) -> str:
        return (self.data / "cloud-id").read_text().strip()

    def guests(self) -> dict[int, str]:
        """QEMU processes of this cloud: pid -> uid of the machine."""
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                line = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if (match := re.search(rf"guest={self.identity}\.([0-9a-f-]{{36}})", line)) and "qemu-system" in line:
                found[int(entry.name)] = match[1]
        return found

    def rows(self, query: str) -> list[Any]:
        with contextlib.closing(sqlite3.connect(f"file:{self.data}/hansa.db?mode=ro", uri=True)) as connection:
            return connection.execute(query).fetchall()

    def network(self) -> str:
        """How this host makes networks, as the API says it once that was proved."""
        assert self.client is not None
        end = time.monotonic() + 30
        while True:
            (real,) = (h["status"] for h in self.client.list("host") if not h["spec"]["simulated"])
            if real.get("network"):
                return str(real["network"])
            assert time.monotonic() < end, f"the host says nothing of networks: {real}"
            time.sleep(0.1)

    def audit(self) -> None:
        """Processes, files, control groups, networks and claims against the store: nothing over, nothing short."""
        audit(self)

    def end(self) -> None:
        """Stop it, and take down whatever a test left."""
        if self.process is not None and self.process.poll() is None:
            self.stop()
        self.close()
        if not (self.data / "cloud-id").exists():
            return
        self.end_guests()
        remove_groups(self.identity)
        until = time.monotonic() + 10
        while marks := space.marked(f"{self.identity}/"):
            assert time.monotonic() < until, f"these do not end: {marks}"
            for mark, pid in marks.items():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM if mark.endswith("/daemon") else signal.SIGKILL)
            time.sleep(0.05)
        shutil.rmtree(run_folder(self.identity), ignore_errors=True)

    def end_guests(self) -> None:
        for pid in self.guests():
            os.kill(pid, signal.SIGKILL)


def disk(name: str) -> dict[str, Any]:
    return {"diskSize": {"amount": 1, "unit": "GB"}, "placement": {"zone": "a"},
            "source": {"type": "image", "diskImageRef": "/compute/global/diskImages/evroc/tiny.1"}}  # fmt: skip


def machine(disk_name: str, key: str = "") -> dict[str, Any]:
    spec: dict[str, Any] = {"computeProfileRef": "t1.nano", "disks": [{"diskRef": disk_name, "bootFrom": True}],
                            "placement": {"zone": "a"}}  # fmt: skip
    if key:
        spec["osSettings"] = {"ssh": {"authorizedKeys": [{"value": key}]}}
    return spec
