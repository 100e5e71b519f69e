"""The Debian image is what it promises to be: it boots by its own loader, lets in who the seed names, and grows.

One guest for all tests, started twice with a command line of the file's own, so that only the image is on trial.
QEMU's user network is shut but for the forwarded port of SSH. The tests follow one another in the order of the file.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hansa.cli import ssh
from hansa.engines.ports import GUEST_MTU, Machine, Nic, Seed
from hansa.engines.qemu import seed
from hansa.engines.qemu.images import Image, ImageStore

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="QEMU is not installed: scripts/install"),
]

GIB, GB = 1 << 30, 10**9
BOOT_LIMIT_S, LOGIN_LIMIT_S, OFF_LIMIT_S = 240.0, 60.0, 60.0  # for a host that does other things too
NIC = Nic("52:54:00:12:34:56", "10.0.0.5", "10.0.0.0/24", "10.0.0.1", None, None, None)
SERIAL = "diskabcdef0123456789"
LINK = f"/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_{SERIAL}"


class Guest:
    """One machine from the image: its files, its process, and ways to speak to it."""

    def __init__(self, folder: Path, image: Image) -> None:
        self.folder = folder
        self.console = folder / "console"
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        key = folder / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        public = key.with_suffix(".pub").read_text().strip()
        self.machine = Machine(str(uuid.uuid4()), "web", 1, True, 2, GIB, (), NIC, Seed("web", (public,)), "debian")
        below = ["-F", "qcow2", "-b", image.disk]
        size = str(image.default_bytes)
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *below, folder / "disk.qcow2", size], check=True)

    def start(self) -> float:
        """Start it and wait for its host keys on the console. Returns the seconds that it took."""
        (self.folder / "seed.img").write_bytes(seed.volume(self.machine))
        self.console.write_bytes(b"")
        began = time.monotonic()
        with (self.folder / "errors").open("wb") as errors:
            self.process = subprocess.Popen(self._command(), stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
        until(lambda: ssh.READY_MARK in self.said() or self.ended(), BOOT_LIMIT_S, self.said)
        assert not self.ended(), (self.folder / "errors").read_text()
        known = "".join(f"web {key}\n" for key in ssh.host_keys(self.said()))
        (self.folder / "known_hosts").write_text(known)
        return time.monotonic() - began

    def login(self, command: str, *options: str, user: str = ssh.USER) -> subprocess.CompletedProcess[str]:
        """Run a command in the guest; the host key must be the one of the console."""
        words = ssh.arguments(self.port, str(self.folder / "key"), self.folder / "known_hosts", "web", [])
        words = [f"{user}@127.0.0.1" if word == f"{ssh.USER}@127.0.0.1" else word for word in words]
        words[1:1] = ["-F", "none", *options, "-o", "ConnectTimeout=30"]
        return subprocess.run([*words, command], capture_output=True, text=True, timeout=LOGIN_LIMIT_S, check=False)

    def ask(self, command: str) -> str:
        done = self.login(command)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout.strip()

    def monitor(self, command: str, **arguments: Any) -> Any:
        """One QMP command in a session of its own."""
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(10)
            line.connect(str(self.folder / "qmp"))
            with line.makefile("rw") as file:
                file.readline()  # the greeting
                _answer(file, "qmp_capabilities", {})
                return _answer(file, command, arguments)

    def said(self) -> str:
        return self.console.read_text(errors="replace")

    def ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def rss_bytes(self) -> int:
        assert self.process is not None
        status = (Path("/proc") / str(self.process.pid) / "status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) * 1024

    def power_button(self) -> float:
        """Press it and wait for the end. Returns the seconds that it took."""
        began = time.monotonic()
        self.monitor("system_powerdown")
        until(self.ended, OFF_LIMIT_S, self.said)
        return time.monotonic() - began

    def kill(self) -> None:
        if self.process is not None and not self.ended():
            self.process.kill()
            self.process.wait(10)

    def _command(self) -> list[str]:
        disk = {
            "driver": "qcow2",
            "node-name": "boot",
            "file": {"driver": "file", "filename": f"{self.folder}/disk.qcow2"},
        }
        told = {"driver": "file", "filename": f"{self.folder}/seed.img", "read-only": True}
        told = {"driver": "raw", "node-name": "seed", "read-only": True, "file": told}
        network = f"user,id=n0,restrict=on,net={NIC.ipv4_network},host={NIC.ipv4_gateway},dhcpstart={NIC.ipv4}"
        return [
            "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
            *("-machine", "q35", "-accel", "tcg,thread=multi,tb-size=256", "-cpu", "max", "-smp", "2", "-m", "1G"),
            *("-chardev", f"file,id=con,path={self.console}", "-serial", "chardev:con"),
            *("-qmp", f"unix:{self.folder}/qmp,server=on,wait=off", "-device", "virtio-scsi-pci,id=scsi0"),
            *("-blockdev", json.dumps(disk), "-device", "virtio-blk-pci,drive=boot,bootindex=1"),
            *("-blockdev", json.dumps(told), "-device", "virtio-blk-pci,drive=seed,serial=cidata"),
            *("-netdev", f"{network},hostfwd=tcp:127.0.0.1:{self.port}-{NIC.ipv4}:22"),
            *("-device", f"virtio-net-pci,netdev=n0,mac={NIC.mac},romfile="),
            *("-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0"),
        ]  # fmt: skip


def _answer(file: Any, command: str, arguments: dict[str, Any]) -> Any:
    file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
    file.flush()
    while True:  # events pass by; the socket has a limit
        said = json.loads(file.readline())
        assert "error" not in said, said
        if "return" in said:
            return said["return"]


def until(true: Callable[[], bool], limit_s: float, said: Callable[[], str]) -> None:
    end = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < end, f"not within {limit_s} s; the console said: {said()[-2000:]}"
        time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def tell(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Prints past the capture: how long things take is part of the result."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def told(text: str) -> None:
        with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
            print(f"\nDebian image: {text}", flush=True)

    return told


@pytest.fixture(scope="module")
def image(tell: Callable[[str], None]) -> Image:
    store, began = ImageStore(), time.monotonic()
    found = store.find("debian") or store.build("debian")
    tell(f"there after {time.monotonic() - began:.0f} s, {found.stored_bytes / 1e6:.0f} MB")
    return found


@pytest.fixture(scope="module")
def guest(image: Image, tmp_path_factory: pytest.TempPathFactory, tell: Callable[[str], None]) -> Iterator[Guest]:
    made = Guest(tmp_path_factory.mktemp("debian"), image)
    try:
        tell(f"first start to the host keys {made.start():.0f} s")
        yield made
    finally:
        made.kill()


def test_the_image_says_what_it_is(image: Image) -> None:
    assert (image.os_image, image.os_version, image.append) == ("debian", "12", "")
    assert image.size_bytes < 2 * GB < image.default_bytes == 10 * GB
    names = {package.partition("=")[0] for package in image.packages}
    assert {"cloud-init", "openssh-server", "systemd-resolved", "linux-image-cloud-amd64"} <= names
    assert image.disk.stat().st_mode & 0o222 == 0


def test_the_key_of_the_seed_opens_it_and_sudo_asks_nothing(guest: Guest) -> None:
    assert guest.ask("id -un; hostname; sudo -n id -u").split() == [ssh.USER, "web", "0"]


def test_the_console_showed_its_host_keys(guest: Guest) -> None:
    shown = ssh.host_keys(guest.said())
    assert {key.split()[0] for key in shown} == {"ssh-ed25519", "ecdsa-sha2-nistp256"}
    assert shown == guest.ask("cut -d ' ' -f 1,2 /etc/ssh/ssh_host_*_key.pub").splitlines()


def test_no_password_and_nobody_else_comes_in(guest: Guest) -> None:
    by_password = guest.login("id", "-o", "PubkeyAuthentication=no")
    assert by_password.returncode == 255
    assert "(publickey)" in by_password.stderr  # the only way that the guest offers
    for other in ("root", "debian"):
        assert "uid=" not in guest.login("id", user=other).stdout
    assert guest.ask(f"sudo passwd -S {ssh.USER} | cut -d ' ' -f 2; sudo passwd -S root | cut -d ' ' -f 2") == "L\nL"
    people = guest.ask(
        "awk -F: '$3 >= 1000 && $3 < 65534 {print $1}' /etc/passwd; awk -F: '$3 == 0 {print $1}' /etc/passwd"
    )
    assert people.split() == [ssh.USER, "root"]


def test_cloud_init_has_done_all_of_its_work(guest: Guest) -> None:
    assert guest.ask("cloud-init status --wait").endswith("status: done")
    result = json.loads(guest.ask("cat /run/cloud-init/result.json"))["v1"]
    assert result["errors"] == [] and result["datasource"].startswith("DataSourceNoCloud")
    assert guest.ask("systemctl --failed --no-legend; grep -c WARNING /var/log/cloud-init.log || true") == "0"


def test_the_file_system_has_grown_with_the_disk(guest: Guest) -> None:
    assert int(guest.ask("df --output=size -B1 / | tail -1")) > 9 * GB


def test_its_card_is_as_the_seed_says(guest: Guest) -> None:
    assert guest.ask("hostname -I; cat /sys/class/net/eth0/mtu").split() == ["10.0.0.5", str(GUEST_MTU)]
    assert guest.ask("readlink -f /etc/resolv.conf") == "/run/systemd/resolve/stub-resolv.conf"
    assert guest.ask("cat /proc/sys/net/ipv6/conf/eth0/accept_ra") == "0"
    assert "1 received" in guest.ask("ping -c 1 -W 5 10.0.0.1")


def test_a_disk_that_is_plugged_in_gets_its_name(guest: Guest) -> None:
    disk = guest.folder / "hot.raw"
    with disk.open("wb") as file:
        file.truncate(64 << 20)
    guest.monitor(
        "blockdev-add", **{"driver": "raw", "node-name": "hot", "file": {"driver": "file", "filename": str(disk)}}
    )
    guest.monitor("device_add", driver="scsi-hd", id="hot", drive="hot", serial=SERIAL, bus="scsi0.0")
    wait = "for n in $(seq 100); do {0} && exit 0; sleep 0.1; done; exit 1"
    guest.ask(wait.format(f"[ -b {LINK} ]"))
    guest.monitor("device_del", id="hot")
    guest.ask(wait.format(f"[ ! -e {LINK} ]"))


def test_its_memory_stays_within_bounds(guest: Guest, tell: Callable[[str], None]) -> None:
    tell(f"QEMU has {guest.rss_bytes() >> 20} MiB for a guest of 1024 MiB")
    assert guest.rss_bytes() < 1.7 * GIB


def test_the_power_button_ends_it_and_the_next_start_is_the_same_machine(
    guest: Guest, tell: Callable[[str], None]
) -> None:
    """The same, but for its card: that is as the seed says now."""
    keys = ssh.host_keys(guest.said())
    identity = "cat /etc/machine-id /var/lib/cloud/data/instance-id; stat -c %W /home/evroc-user"
    before = guest.ask(f"{identity}; echo kept > kept; sync")
    tell(f"power button to the end {guest.power_button():.0f} s")
    guest.machine = replace(guest.machine, nic=replace(NIC, ipv6="fd00::5", ipv6_network="fd00::/64"))
    tell(f"second start to the host keys {guest.start():.0f} s")
    assert ssh.host_keys(guest.said()) == keys
    assert guest.ask(identity) == before
    assert guest.machine.uid in before
    assert guest.ask("cat kept") == "kept"
    assert "fd00::5/128" in guest.ask("ip -6 -brief address show dev eth0 scope global")
    assert guest.ask("ip -6 route show default").startswith("default via fe80::1 dev eth0")
