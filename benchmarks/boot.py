"""From POST to Ready and to the guest's SSH server, against QEMU started by hand with the same disk."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.api import _hansa
from benchmarks.byhand import by_hand, until_up
from hansa.sdk.client import Client

TIMES = 5


def run() -> Iterator[dict[str, Any]]:
    ready, ours, hand = [], [], []
    with tempfile.TemporaryDirectory() as name:
        server, client = _hansa(Path(name))
        data = Path(name) / "data"
        try:
            _by_cloud(client, data, "warm")  # the first of a host makes its uplink
            for turn in range(TIMES):
                a, b = _by_cloud(client, data, f"b{turn}")
                ready.append(a)
                ours.append(b)
                hand.append(_by_hand(client, data, f"b{turn}"))
            client.delete("vm", "warm")
            client.wait("vm", "warm", until="deleted")
        finally:
            client.close()
            server.terminate()
            server.wait()
    middle = statistics.median(ours), statistics.median(hand)
    yield {"what": "POST to Ready", "s": round(statistics.median(ready), 2), "of": TIMES}
    yield {"what": "POST to the guest's SSH server", "s": round(middle[0], 2), "by_hand_s": round(middle[1], 2),
           "ratio": round(middle[0] / middle[1], 2), "aim": 1.15, "of": TIMES}  # fmt: skip


def _by_cloud(client: Client, data: Path, name: str) -> tuple[float, float]:
    client.create("disk", name, {"diskSize": {"amount": 1, "unit": "GB"}, "placement": {"zone": "a"},
                                 "source": {"diskImageRef": "/compute/global/diskImages/evroc/tiny.1"}})  # fmt: skip
    client.wait("disk", name)
    began = time.monotonic()
    made = client.create("vm", name, {"computeProfileRef": "t1.nano", "disks": [{"diskRef": name, "bootFrom": True}],
                                      "placement": {"zone": "a"}})  # fmt: skip
    client.wait("vm", name)
    ready = time.monotonic() - began
    until_up(data / "machines" / made["metadata"]["uid"] / "console.log")
    return ready, time.monotonic() - began


def _by_hand(client: Client, data: Path, name: str) -> float:
    """The same disk and seed, once the cloud has let go of them."""
    machine, disk = client.get("vm", name)["metadata"]["uid"], client.get("disk", name)["metadata"]["uid"]
    client.stop(name)
    client.wait("vm", name, until="stopped")
    began = time.monotonic()
    with by_hand(data / "disks" / f"{disk}.qcow2", data / "machines" / machine / "seed.img") as guest:
        until_up(guest.log)
        took = time.monotonic() - began
    client.delete("vm", name)
    client.wait("vm", name, until="deleted")
    return took
