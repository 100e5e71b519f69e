"""`hansa host probe` on this very host: what it says is what a machine then gets."""

from __future__ import annotations

import json
import subprocess
import sys

from .cloud import RealCloud, disk, machine


def test_the_probe_says_which_accelerator_and_why_and_machines_get_it(cloud: RealCloud) -> None:
    probe = subprocess.run(
        [sys.executable, "-m", "hansa", "host", "probe"], capture_output=True, text=True, timeout=60, check=True
    )
    found = json.loads(probe.stdout)
    assert found["accelerator"] in ("tcg", "kvm") and found["networkReady"]
    assert found["accelerator"] == "kvm" or "kvm" in found["reason"].lower(), "why not KVM"
    client = cloud.start()
    client.create("disk", "boot", disk("boot"))
    client.create("vm", "web", machine("boot"))
    status = client.wait("vm", "web", timeout_s=60)["status"]
    assert status["accelerator"] == found["accelerator"]
    assert status["isolation"] == {"tcg": "none", "kvm": "hardware"}[found["accelerator"]]
    (pid,) = cloud.guests()
    with open(f"/proc/{pid}/cmdline") as file:
        words = file.read().split("\0")
    assert words[words.index("-accel") + 1].split(",")[0] == found["accelerator"]
    assert cloud.network() == found["network"]
