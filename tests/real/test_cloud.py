"""`hansa up` with real guests: life of a machine, adoption, kills of either side, a login."""

from __future__ import annotations

import os
import random
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hansa.config import run_folder
from hansa.errors import HansaError, InUse, NotFound
from hansa.sdk.client import Client

from .cloud import RealCloud, disk, machine
from .tenant import booted, settle, until

LONG = bool(os.environ.get("HANSA_LONG"))
KILLS = 50  # `test_private_network.py` has the kills of the short tier, with rules and attachments in flight


def gone(client: Client, kind: str, name: str) -> bool:
    try:
        client.get(kind, name)
    except NotFound:
        return True
    return False


def test_the_data_folder_holds_what_clients_need(cloud: RealCloud) -> None:
    client = cloud.start()
    for name in ("hansa.env", "evroc.yaml"):
        assert stat.S_IMODE((cloud.data / name).stat().st_mode) == 0o600
    text = (cloud.data / "hansa.env").read_text()
    for never in ("EVROC_CLIENT_ID", "EVROC_TOKEN=", "EVROC_USERNAME", "EVROC_PASSWORD"):
        assert never not in text
    assert client.get("vpc", "default-se-sto")["status"]["assignedIPv4CidrBlocks"] == ["10.0.0.0/16"]
    second = subprocess.run(
        [sys.executable, "-m", "hansa", "up", "--data", str(cloud.data), "--port", "0"],
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert second.returncode != 0 and "running" in second.stderr
    assert cloud.stop() == 0


def test_a_machine_boots_is_logged_into_stopped_started_and_deleted(cloud: RealCloud, tmp_path: Path) -> None:
    client = cloud.start()
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    client.create("disk", "boot", disk("boot"))
    client.create("vm", "web", machine("boot", key.with_suffix(".pub").read_text()))
    made = client.wait("vm", "web")
    assert made["status"]["virtualMachineStatus"] == "Running"
    assert made["status"]["networking"]["privateIPv4Address"].startswith("10.0.0.")
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def ssh(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "hansa", "ssh", "web", "--data", str(cloud.data), "-i", str(key), "--", *command],
            capture_output=True, text=True, timeout=120, check=False, env=environment,
        )  # fmt: skip

    first = ssh("hostname; id -un; ip -4 addr")
    assert first.returncode == 0, first.stderr
    assert "web" in first.stdout and "evroc-user" in first.stdout
    assert made["status"]["networking"]["privateIPv4Address"] in first.stdout
    assert ssh("exit 7").returncode == 7
    client.stop("web")
    assert client.wait("vm", "web", until="stopped")["status"]["virtualMachineStatus"] == "Stopped"
    assert cloud.guests() == {}
    client.start("web")
    again = client.wait("vm", "web")
    assert again["status"]["networking"] == made["status"]["networking"]
    why = client.why("vm", "web")
    assert why["decision"]["chosen"] == [{"host": "se-sto-a-1"}]
    with pytest.raises(InUse):
        client.delete("disk", "boot")
    client.delete("vm", "web")
    client.wait("vm", "web", until="deleted")
    client.delete("disk", "boot")
    client.wait("disk", "boot", until="deleted", timeout_s=5)
    cloud.audit()


def test_guests_go_on_when_the_cloud_stops_and_are_adopted(cloud: RealCloud) -> None:
    client = cloud.start()
    client.create("disk", "boot", disk("boot"))
    client.create("vm", "web", machine("boot"))
    client.wait("vm", "web")
    before = cloud.guests()
    for number in (signal.SIGINT, signal.SIGTERM):  # Ctrl-C, and as services are stopped
        assert cloud.stop(number) == 0
        assert cloud.guests() == before
        client = cloud.start()
        client.wait("vm", "web")
        assert cloud.guests() == before
    client.delete("vm", "web")
    client.wait("vm", "web", until="deleted")
    assert cloud.guests() == {}


@pytest.mark.skipif(not LONG, reason="of the long tier")
def test_kills_of_the_control_process_leave_nothing_over_and_nothing_short(cloud: RealCloud) -> None:
    chance = random.Random(7)
    for turn in range(KILLS):
        client = cloud.start()
        try:
            client.create("disk", f"d{turn}", disk("d"))
            client.create("vm", f"m{turn}", machine(f"d{turn}"))
            if turn:
                client.delete("vm", f"m{turn - 1}")
        except HansaError as error:  # the kill of the last turn may have come first
            assert error.status in (404, 409), error
        time.sleep(chance.random() * 1.5)
        cloud.kill()
    client = cloud.start()
    last = f"m{KILLS - 1}"
    client.wait("vm", last, timeout_s=90)
    for turn in range(KILLS - 1):
        until(lambda turn=turn: gone(client, "vm", f"m{turn}"), 90)
    for turn in range(KILLS):
        client.wait("disk", f"d{turn}", timeout_s=90)
    cloud.audit()
    for turn in range(KILLS):
        if turn == KILLS - 1:
            client.delete("vm", last)
            client.wait("vm", last, until="deleted")
        client.delete("disk", f"d{turn}")
        client.wait("disk", f"d{turn}", until="deleted")
    cloud.audit()


def test_a_killed_guest_is_started_again(cloud: RealCloud) -> None:
    client = cloud.start()
    client.create("disk", "boot", disk("boot"))
    client.create("vm", "web", machine("boot"))
    client.wait("vm", "web")
    for _ in range(5 if LONG else 1):
        (pid,) = cloud.guests()
        before = ready(client)["lastTransitionTime"]
        time.sleep(1.0)  # the clock of a condition goes by seconds
        os.kill(pid, signal.SIGKILL)
        until(lambda before=before: ready(client)["lastTransitionTime"] > before, 10)
        until(lambda pid=pid: pid not in cloud.guests() and len(cloud.guests()) == 1, 120)
        client.wait("vm", "web", timeout_s=60)
    cloud.audit()
    client.delete("vm", "web")
    client.wait("vm", "web", until="deleted")
    assert not list((cloud.data / "machines").iterdir())
    assert {f.name for f in run_folder(cloud.identity).iterdir() if f.is_dir()} <= {"n"}, "the network's is left"
    settle(cloud, client)


def ready(client: Client) -> dict[str, str]:
    """The condition of the machine `web`."""
    return next(c for c in client.get("vm", "web")["status"]["conditions"] if c["type"] == "Ready")


def test_a_frozen_guest_delays_nobody_else(cloud: RealCloud) -> None:
    client = cloud.start()
    for name in ("one", "two"):
        client.create("disk", name, disk(name))
        client.create("vm", name, machine(name))
    client.wait("vm", "one")
    client.wait("vm", "two")
    frozen = client.get("vm", "one")["metadata"]["uid"]
    pid = next(p for p, uid in cloud.guests().items() if uid == frozen)
    os.kill(pid, signal.SIGSTOP)
    try:
        client.stop("one")
        client.create("disk", "three", disk("three"))
        client.wait("disk", "three", timeout_s=10)
        client.delete("vm", "two")
        client.wait("vm", "two", until="deleted", timeout_s=20)
        assert client.get("vm", "one")["status"]["virtualMachineStatus"] != "Stopped"
    finally:
        os.kill(pid, signal.SIGCONT)
    client.delete("vm", "one")
    client.wait("vm", "one", until="deleted", timeout_s=60)
    cloud.audit()


def test_the_simulated_zone_says_so_and_the_real_zone_never_falls_back(cloud: RealCloud) -> None:
    client = cloud.start()
    spec = {**disk("x"), "placement": {"zone": "b"}}
    client.create("disk", "x", spec)
    client.create("vm", "x", {**machine("x"), "placement": {"zone": "b"}})
    made = client.wait("vm", "x")
    assert made["status"]["simulated"] is True
    assert next(c for c in made["status"]["conditions"] if c["type"] == "Ready")["reason"] == "Simulated"
    assert cloud.guests() == {}
    table = subprocess.run(
        [sys.executable, "-m", "hansa", "get", "vm,disk", "--data", str(cloud.data)],
        capture_output=True, text=True, timeout=30, check=True,
    ).stdout  # fmt: skip
    assert "Simulated" in table and "(simulated)" in table


def test_a_guest_that_switches_itself_off_stays_off_until_it_is_started(cloud: RealCloud, tmp_path: Path) -> None:
    client = cloud.start()
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    client.create("disk", "boot", disk("boot"))
    client.create("vm", "web", machine("boot", key.with_suffix(".pub").read_text()))
    client.wait("vm", "web")
    hansa = [sys.executable, "-m", "hansa"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    subprocess.run(
        [*hansa, "ssh", "web", "--data", str(cloud.data), "-i", str(key), "--", "sudo poweroff"],
        capture_output=True, timeout=120, check=False, env=environment,
    )  # fmt: skip

    def reason() -> str:
        return ready(client)["reason"]

    until(lambda: reason() == "GuestPoweredOff", 60)
    assert client.get("vm", "web")["status"]["virtualMachineStatus"] == "Stopped"
    assert cloud.stop() == 0
    client = cloud.start()
    time.sleep(2)
    assert reason() == "GuestPoweredOff" and cloud.guests() == {}
    subprocess.run([*hansa, "start", "web", "--data", str(cloud.data)], check=True, capture_output=True, timeout=60)
    client.wait("vm", "web")
    assert len(cloud.guests()) == 1
    (shell,) = booted(client, "web")
    shell.run("(sleep 4; poweroff) > /dev/null 2>&1 &")
    assert cloud.stop() == 0  # it goes while nobody looks
    until(lambda: b"reboot: Power down" in (machine_log(cloud)).read_bytes()[-2000:], 60)
    client = cloud.start()
    until(lambda: reason() == "GuestPoweredOff", 30)
    assert client.get("vm", "web")["status"]["virtualMachineStatus"] == "Stopped"


def machine_log(cloud: RealCloud) -> Path:
    """The console's log of the only machine."""
    (folder,) = (cloud.data / "machines").iterdir()
    return folder / "console.log"


def test_without_qemu_a_machine_says_what_to_install_and_never_falls_back(cloud: RealCloud, tmp_path: Path) -> None:
    bare = tmp_path / "bin"
    bare.mkdir()
    for folder in ("/usr/bin", "/usr/sbin"):
        for program in Path(folder).iterdir():
            if not program.name.startswith("qemu") and not (bare / program.name).exists():
                (bare / program.name).symlink_to(program)
    client = cloud.start(PATH=str(bare))
    client.create("disk", "d", disk("d"))
    client.create("vm", "v", machine("d"))
    with pytest.raises(HansaError) as raised:
        client.wait("vm", "v", timeout_s=30)
    assert "ProvisioningFailed" in raised.value.message and "qemu" in raised.value.message
    assert client.get("vm", "v")["status"]["virtualMachineStatus"] == "ProvisioningFailed"
