"""The seed volume: the same words give the same bytes, another program reads them, user data stay as they are."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from hansa.engines.ports import Machine, Nic, Seed
from hansa.engines.qemu import seed
from hansa.errors import Refused

NIC = Nic("52:54:00:00:00:01", "10.0.0.5", "10.0.0.0/24", "10.0.0.1", "fd00::5", "fd00::/64", "fd00::1")
MACHINE = Machine("u-1", "web", 1, True, 1, 1 << 28, (), NIC, Seed("web", ('ssh-ed25519 AAAA "quoted" me',)), "tiny")
CLOUD_CONFIG = b"#cloud-config\nusers:\n  - default\n  - name: other\n"

needs_mtools = pytest.mark.skipif(shutil.which("mtype") is None, reason="mtools is not installed")


def with_data(user_data: bytes) -> Machine:
    return replace(MACHINE, seed=replace(MACHINE.seed, user_data=user_data))


def test_the_files_are_yaml_that_says_who_and_where() -> None:
    files = seed.files(MACHINE)
    meta = yaml.safe_load(files["meta-data"])
    assert meta == {"instance-id": "u-1", "local-hostname": "web", "public-keys": list(MACHINE.seed.authorized_keys)}
    card = yaml.safe_load(files["network-config"])["ethernets"]["first"]
    assert card["addresses"] == ["fd00::5/64"]
    assert card["gateway6"] == "fd00::1"
    assert card["dhcp4"] is True


def test_a_volume_is_one_mebibyte_and_the_same_twice() -> None:
    assert len(seed.volume(MACHINE)) == 1 << 20
    assert seed.volume(MACHINE) == seed.volume(MACHINE)


@needs_mtools
@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 65536])
def test_another_program_reads_the_user_data_byte_for_byte(tmp_path: Path, size: int) -> None:
    data = bytes(index * 7 % 256 for index in range(size))
    image = tmp_path / "seed.img"
    image.write_bytes(seed.volume(with_data(data)))
    for name, content in seed.files(with_data(data)).items():
        read = subprocess.run(["mtype", "-i", image, f"::{name}"], check=True, capture_output=True).stdout
        assert read == content
    listing = subprocess.run(["mlabel", "-s", "-i", image, "::"], check=True, capture_output=True, text=True).stdout
    assert "cidata" in listing


@pytest.mark.parametrize(
    ("user_data", "apply"),
    [
        (b"", True),
        (CLOUD_CONFIG, True),
        (b"#cloud-config\nusers:\n- default\n", True),
        (b"#cloud-config\nusers:\n  - name: other\n    shell: /bin/sh\n  - default\n", True),
        (b"#cloud-config\nusers:\n  - name: default-ish\n", False),
        (b"#cloud-config\nruncmd:\n  - default\n", False),
        (b"#!/bin/sh\necho hello\n", False),
    ],
)
def test_keys_reach_a_guest_with_user_data_only_when_these_ask_for_them(user_data: bytes, apply: bool) -> None:
    assert seed.keys_apply(user_data) is apply
    assert (b"public-keys" in seed.files(with_data(user_data))["meta-data"]) is apply


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(Refused):
        seed.volume(with_data(bytes(1 << 20)))
