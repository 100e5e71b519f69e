"""Each image of the catalogue through the whole cloud: what boots, who comes in, what its guest sees of its disks.

One cloud for all tests, with a machine of each image and a hot disk for each. The tests follow one another in the
order of the file.
"""

from __future__ import annotations

import ipaddress
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hansa.cli.ssh import host_keys
from hansa.sdk.client import Client
from hansa.units import MIB

from .cloud import RealCloud
from .guest import make_key
from .tenant import ALL_OUT, group, settle, until

LONG = bool(os.environ.get("HANSA_LONG"))
BOOT_LIMIT_S = 600.0  # for a host that does other things too
MARK = "planted-3f1c"  # of the tenant: it may stand in no command line and on no wire
USER_DATA = f"#cloud-config\nusers:\n  - default\nruncmd:\n  - echo {MARK} > /root/mark\n"
WITHIN_5_S = "for n in $(seq 50); do {} && exit 0; sleep 0.1; done; exit 1"
METADATA = ("169.254.169.254", "169.254.169.253", "100.100.100.200", "192.0.0.192", "fd00:ec2::254")


@dataclass(frozen=True)
class Kind:
    """An image with the profile that its machine has, and where its guest keeps what it is."""

    image: str
    profile: str
    instance_id: str

    @property
    def name(self) -> str:
        return "guest-" + self.image.partition(".")[0]


TINY = Kind("tiny.1", "t1.nano", "/var/lib/tiny/instance-id")
DEBIAN = Kind("debian.12-1", "c1a.s", "/var/lib/cloud/data/instance-id")
KINDS = pytest.mark.parametrize("kind", [TINY, DEBIAN], ids=lambda kind: kind.image)


@dataclass
class Here:
    cloud: RealCloud
    client: Client
    folder: Path
    key: Path

    def status(self, kind: Kind) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get("vm", kind.name)["status"]
        return found

    def login(self, kind: Kind, command: str, key: Path | None = None) -> subprocess.CompletedProcess[str]:
        """`hansa ssh`: it waits for the guest, and holds it to the host key of its console."""
        words = [
            sys.executable,
            "-m",
            "hansa",
            "ssh",
            kind.name,
            "--data",
            str(self.cloud.data),
            "-i",
            str(key or self.key),
        ]
        return subprocess.run(
            [*words, "--timeout", str(BOOT_LIMIT_S), "--", command], capture_output=True, text=True, check=False,
            timeout=BOOT_LIMIT_S + 60, env={**os.environ, "XDG_CACHE_HOME": str(self.folder / "cache")},
        )  # fmt: skip

    def ask(self, kind: Kind, command: str) -> str:
        done = self.login(kind, command)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout.strip()


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    folder = tmp_path_factory.mktemp("catalogue")
    made = Here(RealCloud(folder), None, folder, make_key(folder / "key"))  # type: ignore[arg-type]
    try:
        client = made.client = made.cloud.start()
        group(client, "out", ALL_OUT)
        for kind in (DEBIAN, TINY):
            _begin(client, kind, made.key.with_suffix(".pub").read_text().strip())
        for kind in (DEBIAN, TINY):
            client.wait("vm", kind.name, timeout_s=BOOT_LIMIT_S)
        yield made
    finally:
        made.cloud.end()


def _begin(client: Client, kind: Kind, key: str) -> None:
    source = {"type": "image", "diskImageRef": f"/compute/global/diskImages/evroc/{kind.image}"}
    client.create("disk", kind.name, {"placement": {"zone": "a"}, "source": source})
    client.create("vm", kind.name, {
        "computeProfileRef": kind.profile, "disks": [{"diskRef": kind.name, "bootFrom": True}], "placement": {"zone": "a"},
        "networking": {"securityGroupSettings": {"securityGroupMemberRefs": ["out"]}},
        "osSettings": {"ssh": {"authorizedKeys": [{"value": key}]}, "cloudInitUserData": USER_DATA}})  # fmt: skip


@KINDS
def test_the_catalogue_names_what_boots(here: Here, kind: Kind) -> None:
    spec = here.client.request("GET", f"/compute/v1beta2/global/diskImages/evroc/{kind.image}")["spec"]
    release = here.ask(kind, ". /etc/os-release; echo $ID $VERSION_ID")
    assert release.split() == [spec["osImage"], spec["osVersion"]]
    assert spec["defaultSize"]["unit"] == "GB"
    over = 512 * int(here.ask(kind, "cat /sys/block/vda/size")) - spec["defaultSize"]["amount"] * 10**9
    assert 0 <= over < MIB, "unasked, its disk has the size that the catalogue says"


@KINDS
def test_the_key_of_the_spec_opens_it_and_nothing_else_does(here: Here, kind: Kind) -> None:
    assert here.ask(kind, "id -un; sudo id -u").split() == ["evroc-user", "0"]
    other = here.folder / f"other-{kind.name}"
    refused = here.login(kind, "id", make_key(other))
    assert refused.returncode != 0 and "refuses the key" in refused.stderr and "uid=" not in refused.stdout
    port = here.status(kind)["ssh"]["port"]
    options = (
        "PubkeyAuthentication=no",
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
        "ConnectTimeout=30",
    )
    words = ["ssh", "-F", "none", "-p", str(port), *(word for option in options for word in ("-o", option))]
    for user in ("evroc-user", "root"):
        done = subprocess.run(
            [*words, "-o", "NumberOfPasswordPrompts=1", f"{user}@127.0.0.1", "id"], capture_output=True, text=True,
            stdin=subprocess.DEVNULL, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 255 and "(publickey)" in done.stderr, "the only way that is offered is a key"


@KINDS
def test_a_hot_disk_has_its_name_within_five_seconds_of_ready_and_grows_within_five(here: Here, kind: Kind) -> None:
    name, client = f"hot-{kind.name}", here.client
    client.create("disk", name, {"diskSize": {"amount": 64, "unit": "MB"}, "placement": {"zone": "a"}})
    client.create("hotswap", name, {"virtualMachineRef": kind.name, "diskRef": name})
    serial = client.wait("hotswap", name, timeout_s=60)["status"]["serial"]
    assert re.fullmatch("[a-z0-9]{1,20}", serial)
    link = f"/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_{serial}"
    here.ask(kind, WITHIN_5_S.format(f"test -b {link}"))
    assert 0 <= _size_of(here, kind, link) - 64 * 10**6 < MIB
    client.patch("disk", name, {"spec": {"diskSize": {"amount": 128, "unit": "MB"}}})
    client.wait("disk", name, timeout_s=60)
    here.ask(
        kind, f"d=$(basename $(readlink -f {link})); " + WITHIN_5_S.format("[ $(cat /sys/block/$d/size) -ge 250000 ]")
    )
    assert 0 <= _size_of(here, kind, link) - 128 * 10**6 < MIB
    client.delete("hotswap", name)
    client.wait("hotswap", name, until="deleted", timeout_s=60)
    here.ask(kind, WITHIN_5_S.format(f"! test -e {link}"))


def _size_of(here: Here, kind: Kind, link: str) -> int:
    return 512 * int(here.ask(kind, f"cat /sys/block/$(basename $(readlink -f {link}))/size"))


@KINDS
def test_no_address_answers_with_user_data(here: Here, kind: Kind) -> None:
    assert here.ask(kind, "sudo cat /root/mark") == MARK, "by its seed it has its user data"
    networking = here.client.get("vm", kind.name)["status"]["networking"]
    others = [v for k in (TINY, DEBIAN) for n, v in here.status(k)["networking"].items() if n in _ADDRESSES]
    subnet = here.client.get("subnet", "default-se-sto-a")
    gateway = str(ipaddress.IPv4Network(subnet["spec"]["ipv4CidrBlock"])[1])
    assert networking["privateIPv4Address"] in others and len(others) == 4
    lines = [_get(kind, address) for address in (*METADATA, gateway, "fe80::1%eth0", *others)]
    said = here.ask(kind, f"( {' '.join(lines)} wait ) 2>&1; echo asked")
    assert said.endswith("asked") and MARK not in said and "ssh-ed25519" not in said and "HTTP/" not in said, said


_ADDRESSES = ("privateIPv4Address", "ipv6Address")


def _get(kind: Kind, address: str) -> str:
    """A line of shell that asks for user data at port 80, as it is done with the means of the guest."""
    paths = "latest/user-data", "openstack/latest/user_data", "latest/meta-data/public-keys/0/openssh-key"
    asked = "".join(f"GET /{path} HTTP/1.1\\r\\nHost: metadata\\r\\n\\r\\n" for path in paths)
    if kind is TINY:
        return f"( printf '{asked}' | timeout 4 nc -w 3 {address} 80 ) &"
    return f"""timeout 4 bash -c 'exec 3<>/dev/tcp/{address}/80 && printf "{asked}" >&3 && cat <&3' &"""


def test_no_command_line_on_this_host_tells_of_a_tenant(here: Here) -> None:
    public = here.key.with_suffix(".pub").read_text().split()[1]
    environment = dict(line.removeprefix("export ").split("=", 1) for line in
                       (here.cloud.data / "hansa.env").read_text().splitlines() if "=" in line and line[0] != "#")  # fmt: skip
    secrets = {word.strip("'\"") for name, word in environment.items() if re.search("TOKEN$|SECRET$|PASSWORD$", name)}
    assert secrets and all(len(word) > 20 for word in secrets)
    never = {public, MARK, TINY.name, DEBIAN.name, *secrets, here.key.read_text().splitlines()[1]}
    seen = 0
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
        except OSError:
            continue
        if here.cloud.identity in words or str(here.cloud.data) in words:
            seen += 1
        told = [text for text in never if text in words]
        assert not told, f"{words[:200]!r} tells {told}"
    assert seen >= 4, "the cloud, its network daemon and two guests were looked at"


def test_a_debian_guest_stays_below_its_memory_and_a_half(here: Here) -> None:
    """One of 4 GiB that has just started: what is bounded is QEMU's own, which does not grow with the guest."""
    uid = here.client.get("vm", DEBIAN.name)["metadata"]["uid"]
    (pid,) = (pid for pid, machine in here.cloud.guests().items() if machine == uid)
    (kib,) = re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    print(f"\nQEMU of {DEBIAN.image} holds {int(kib) >> 10} MiB")
    assert int(kib) / 1024 < 1.7 * 1024


@KINDS
def test_stopped_and_started_it_is_the_same_machine(here: Here, kind: Kind) -> None:
    if kind is DEBIAN and not LONG:
        pytest.skip("of the long tier; `test_debian_image.py` starts one twice")
    identity = f"sudo cat {kind.instance_id}; cat /sys/class/net/eth0/address; ip -o addr show dev eth0 scope global"
    before, keys = here.ask(kind, identity), host_keys(here.client.logs(kind.name))
    assert here.client.get("vm", kind.name)["metadata"]["uid"] in before
    here.client.stop(kind.name)
    here.client.wait("vm", kind.name, until="stopped", timeout_s=150)
    here.client.start(kind.name)
    here.client.wait("vm", kind.name, timeout_s=60)
    until(lambda: here.client.logs(kind.name).count("-----END SSH HOST KEY KEYS-----") >= 2, BOOT_LIMIT_S)
    after = here.ask(kind, identity)
    assert _words(after) == _words(before) and host_keys(here.client.logs(kind.name)) == keys and keys


def _words(identity: str) -> list[str]:
    """Without what counts down: the rest of a lease."""
    return re.sub(r"(valid_lft|preferred_lft) \d+sec", "", identity).split()


def test_all_goes_as_it_came(here: Here) -> None:
    for kind in (TINY, DEBIAN):
        here.client.delete("vm", kind.name)
    for kind in (TINY, DEBIAN):
        here.client.wait("vm", kind.name, until="deleted", timeout_s=150)
        for disk in (kind.name, f"hot-{kind.name}"):
            here.client.delete("disk", disk)
            here.client.wait("disk", disk, until="deleted", timeout_s=30)
    assert here.cloud.guests() == {}
    settle(here.cloud, here.client)
