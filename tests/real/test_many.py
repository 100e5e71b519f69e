"""Many small machines on one host: started, stopped and removed without a failure, and everything else goes on."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from hansa.sdk.client import Client

from .cloud import RealCloud, disk, machine
from .tenant import ALL_OUT, group, rule, settle, until

MANY = 100 if os.environ.get("HANSA_LONG") else 10
ROOM = {"HANSA_CPU_OVERCOMMIT": "64", "HANSA_MEMORY_OVERCOMMIT": "2"}


@contextmanager
def watched(cloud: RealCloud, what: str) -> Iterator[None]:
    """Somebody else asks the API all the while; every question is answered, and how fast is printed."""
    taken: list[float] = []
    errors: list[Exception] = []
    over = threading.Event()

    def ask() -> None:
        client = Client.from_environment(cloud.data)
        while not over.is_set():
            began = time.monotonic()
            try:
                client.list("vpc")
            except Exception as error:  # noqa: BLE001 - told to the test below
                errors.append(error)
            taken.append(time.monotonic() - began)
            time.sleep(0.05)
        client.close()

    thread = threading.Thread(target=ask)
    thread.start()
    began = time.monotonic()
    try:
        yield
    finally:
        over.set()
        thread.join()
    spans = statistics.quantiles(taken, n=100)
    print(
        f"\n{MANY} machines {what} in {time.monotonic() - began:.0f} s; meanwhile {len(taken)} other questions took "
        f"p50 {spans[49] * 1000:.0f} ms, p99 {spans[98] * 1000:.0f} ms, at most {max(taken) * 1000:.0f} ms"
    )
    assert not errors, errors


def test_many_machines_start_stop_and_go(cloud: RealCloud) -> None:
    client = cloud.start(**ROOM)
    group(client, "web", ALL_OUT, rule("Ingress", "TCP", 80))
    names = [f"m{number}" for number in range(MANY)]
    with watched(cloud, "started"):
        for name in names:
            client.create("disk", name, disk(name))
        for name in names:
            spec = machine(name)
            spec["networking"] = {"securityGroupSettings": {"securityGroupMemberRefs": ["web"]}}
            client.create("vm", name, spec)
        for name in names:
            client.wait("vm", name, timeout_s=900)
    assert len(cloud.guests()) == MANY
    with watched(cloud, "booted"):
        for name in names:
            until(lambda name=name: "] ready" in client.logs(name), 900)
    print(f"{MANY} guests hold {_memory_of(cloud) / MANY / 2**20:.0f} MiB each")
    group(client, "web", ALL_OUT)
    settle(cloud, client)
    with watched(cloud, "stopped"):
        for name in names:
            client.request("POST", client.path("VirtualMachine", name) + "/stop")
        for name in names:
            client.wait("vm", name, until="stopped", timeout_s=900)
    settle(cloud, client)
    assert cloud.guests() == {}
    with watched(cloud, "removed"):
        for kind in ("vm", "disk"):
            for name in names:
                client.delete(kind, name)
            for name in names:
                client.wait(kind, name, until="deleted", timeout_s=300)
    settle(cloud, client)


def _memory_of(cloud: RealCloud) -> int:
    """Bytes of all guests' QEMU together: shared pages counted once."""
    kib = 0
    for pid in cloud.guests():
        with open(f"/proc/{pid}/smaps_rollup") as file:
            kib += sum(int(line.split()[1]) for line in file if line.startswith("Pss:"))
    return kib * 1024
