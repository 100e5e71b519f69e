"""From POST to Ready and to the guest's SSH server, against QEMU started by hand with the same options."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.api import _hansa
from hansa.sdk.client import Client

TIMES = 5
MARK = "-----END SSH HOST KEY KEYS-----"


def run() -> Iterator[dict[str, Any]]:
    ready, ours, hand = [], [], []
    with tempfile.TemporaryDirectory() as name:
        server, client = _hansa(Path(name))
        data = Path(name) / "data"
        try:
            for turn in range(TIMES):
                a, b = _by_cloud(client, data, turn)
                ready.append(a)
                ours.append(b)
                hand.append(_by_hand(client, data, turn))
        finally:
            client.close()
            server.terminate()
            server.wait()
    middle = statistics.median(ours), statistics.median(hand)
    yield {"what": "POST to Ready", "s": round(statistics.median(ready), 2), "of": TIMES}
    yield {"what": "POST to the guest's SSH server", "s": round(middle[0], 2), "by_hand_s": round(middle[1], 2),
           "ratio": round(middle[0] / middle[1], 2), "aim": 1.15, "of": TIMES}  # fmt: skip


def _by_cloud(client: Client, data: Path, turn: int) -> tuple[float, float]:
    name = f"b{turn}"
    client.create("disk", name, {"diskSize": {"amount": 1, "unit": "GB"}, "placement": {"zone": "a"},
                                 "source": {"diskImageRef": "/compute/global/diskImages/evroc/tiny.1"}})  # fmt: skip
    client.wait("disk", name)
    began = time.monotonic()
    made = client.create("vm", name, {"computeProfileRef": "t1.nano", "disks": [{"diskRef": name, "bootFrom": True}],
                                      "placement": {"zone": "a"}})  # fmt: skip
    client.wait("vm", name)
    ready = time.monotonic() - began
    _until(data / "machines" / made["metadata"]["uid"] / "console.log")
    return ready, time.monotonic() - began


def _by_hand(client: Client, data: Path, turn: int) -> float:
    """The same command line on the same disk, once the cloud has let go of it."""
    uid = client.get("vm", f"b{turn}")["metadata"]["uid"]
    pid = next(int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and uid in _line(p))
    words = (Path("/proc") / str(pid) / "cmdline").read_bytes().decode().split("\0")[:-1]
    client.stop(f"b{turn}")
    client.wait("vm", f"b{turn}", until="stopped")
    with tempfile.TemporaryDirectory() as name:
        run = str(Path(name))
        old = next(w for w in words if w.startswith("unix:")).removeprefix("unix:").split(",")[0].rsplit("/", 1)[0]
        log = Path(name) / "console.log"
        machine = str(data / "machines" / uid)
        words = [w.replace(old, run).replace(f"{machine}/console.log", str(log)) for w in words if w != "-S"]
        began = time.monotonic()
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            _until(log)
            return time.monotonic() - began
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
            client.delete("vm", f"b{turn}")
            client.wait("vm", f"b{turn}", until="deleted")


def _line(entry: Path) -> str:
    try:
        return (
            (entry / "cmdline").read_bytes().decode(errors="replace") if "qemu" in (entry / "comm").read_text() else ""
        )
    except OSError:
        return ""


def _until(log: Path, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not log.exists() or MARK not in log.read_text(errors="replace"):
        if time.monotonic() > end:
            raise TimeoutError(f"no SSH server: {log}")
        time.sleep(0.02)
