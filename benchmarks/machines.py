"""Many machines, disks that come and go, memory: the cloud beside QEMU by hand and bare QMP."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.api import _hansa
from benchmarks.byhand import ByHand, by_hand, until_up
from hansa.sdk.client import Client

MANY, TIMES = 12, 9


def run() -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as name:
        server, client = _hansa(Path(name))
        data = Path(name) / "data"
        try:
            yield from _many(client, data, Path(name))
            yield from _attach(client, data)
        finally:
            for machine in client.list("vm"):
                client.delete("vm", machine["metadata"]["id"])
            for machine in client.list("vm"):
                client.wait("vm", machine["metadata"]["id"], until="deleted")
            client.close()
            server.terminate()
            server.wait()


def _many(client: Client, data: Path, folder: Path) -> Iterator[dict[str, Any]]:
    names = [f"m{turn}" for turn in range(MANY)]
    for name in names:
        client.create("disk", name, {"diskSize": {"amount": 1, "unit": "GB"}, "placement": {"zone": "a"},
                                     "source": {"diskImageRef": "/compute/global/diskImages/evroc/tiny.1"}})  # fmt: skip
    for name in names:
        client.wait("disk", name)
    began = time.monotonic()
    uids = [
        client.create(
            "vm",
            name,
            {
                "computeProfileRef": "t1.nano",
                "disks": [{"diskRef": name, "bootFrom": True}],
                "placement": {"zone": "a"},
            },
        )["metadata"]["uid"]  # fmt: skip
        for name in names
    ]
    for name in names:
        client.wait("vm", name, timeout_s=300)
    ready = time.monotonic() - began
    for uid in uids:
        until_up(data / "machines" / uid / "console.log", 300)
    ours = time.monotonic() - began
    memory = [_pss(pid) for pid in _guests(uids)]
    yield {
        "what": f"memory of a t1.nano guest (PSS), median of {MANY}",
        "MiB": round(statistics.median(memory)),
        "guest_MiB": 122,
    }
    disks = [client.get("disk", name)["metadata"]["uid"] for name in names]
    for name in names:
        client.stop(name)
    for name in names:
        client.wait("vm", name, until="stopped", timeout_s=300)
    began, hands = time.monotonic(), []
    with contextlib.ExitStack() as stack:
        for uid, disk in zip(uids, disks, strict=True):
            at = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hb-")))
            guest = ByHand(at, data / "disks" / f"{disk}.qcow2", data / "machines" / uid / "seed.img")
            stack.callback(guest.end)
            hands.append(guest)
        for guest in hands:
            until_up(guest.log, 300)
        hand = time.monotonic() - began
    yield {"what": f"{MANY} machines, POST to the last SSH server", "s": round(ours, 1), "to_Ready_s": round(ready, 1),
           "a_minute": round(60 * MANY / ours), "by_hand_s": round(hand, 1), "ratio": round(ours / hand, 2)}  # fmt: skip


def _attach(client: Client, data: Path) -> Iterator[dict[str, Any]]:
    client.start("m0")
    client.wait("vm", "m0")
    client.create("disk", "hot", {"diskSize": {"amount": 100, "unit": "MB"}, "placement": {"zone": "a"}})
    client.wait("disk", "hot")
    machine = client.get("vm", "m0")["metadata"]["uid"]
    until_up(data / "machines" / machine / "console.log")
    time.sleep(2)
    ours: list[tuple[float, float]] = []
    for _ in range(TIMES):
        began = time.monotonic()
        client.create("hotswap", "hot", {"virtualMachineRef": "m0", "diskRef": "hot"})
        client.wait("hotswap", "hot")
        attached = time.monotonic()
        client.delete("hotswap", "hot")
        client.wait("hotswap", "hot", until="deleted")
        ours.append((attached - began, time.monotonic() - attached))
    client.stop("m0")
    client.wait("vm", "m0", until="stopped", timeout_s=120)
    disk, hot = (client.get("disk", name)["metadata"]["uid"] for name in ("m0", "hot"))
    bare = _bare(
        data / "disks" / f"{disk}.qcow2", data / "machines" / machine / "seed.img", data / "disks" / f"{hot}.qcow2"
    )
    for index, what in enumerate(("attach", "detach")):
        middle = statistics.median(t[index] for t in ours), statistics.median(t[index] for t in bare)
        yield {"what": f"{what} a disk, POST to Ready / DELETE to 404", "ms": round(1000 * middle[0]),
               "bare_qmp_ms": round(1000 * middle[1], 1), "of": TIMES}  # fmt: skip


def _bare(disk: Path, seed: Path, hot: Path) -> list[tuple[float, float]]:
    found = []
    with by_hand(disk, seed) as guest:
        guest.answers()
        until_up(guest.log)
        time.sleep(2)
        for _ in range(TIMES):
            began = time.monotonic()
            block = {
                "driver": "qcow2",
                "node-name": "h",
                "file": {"driver": "file", "filename": str(hot)},
                "backing": None,
            }
            guest.ask("blockdev-add", **block)
            guest.ask("device_add", driver="scsi-hd", drive="h", id="dh", serial="bench", bus="scsi0.0")
            attached = time.monotonic()
            guest.ask("device_del", id="dh")
            while any(b.get("qdev") == "dh" for b in guest.ask("query-block")):
                time.sleep(0.001)
            guest.ask("blockdev-del", **{"node-name": "h"})
            found.append((attached - began, time.monotonic() - attached))
    return found


def _guests(uids: list[str]) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if "qemu-system" in words[0] and set(words) & set(uids):
                    found.append(int(entry.name))
    return found


def _pss(pid: int) -> float:
    """Proportional set size, MiB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("Pss:"))) / 1024
