"""The seed volume: the same words give the same bytes, another program reads them, user data stay as they are."""

import re
import shutil
import subprocess
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from hansa.engines.ports import Machine, Nic, Seed
from hansa.engines.qemu import seed
from hansa.errors import Refused

NIC = Nic("52:54:00:00:00:01", "10.0.0.5", "10.0.0.0/24", "10.0.0.1", "fd00::5", "fd00::/64", "fd00::1")
MACHINE = Machine("u-1", "web", 1, True, 1, 1 << 28, (), NIC, Seed("web", ('ssh-ed25519 AAAA "quoted" me',)), "tiny")
CLOUD_CONFIG = b"#cloud-config\nusers:\n  - default\n  - name: other\n"

needs_mtools = pytest.mark.skipif(shutil.which("mtype") is None, reason="mtools is not installed")
needs_awk = pytest.mark.skipif(shutil.which("awk") is None, reason="awk is not installed")


def card_of(nic: Nic) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(seed.files(replace(MACHINE, nic=nic))["network-config"])
    return found["ethernets"]["first"]


def with_data(user_data: bytes) -> Machine:
    return replace(MACHINE, seed=replace(MACHINE.seed, user_data=user_data))


def test_the_files_are_yaml_that_says_who_and_where() -> None:
    meta = yaml.safe_load(seed.files(MACHINE)["meta-data"])
    assert meta == {"instance-id": "u-1", "local-hostname": "web", "public-keys": list(MACHINE.seed.authorized_keys)}
    card = card_of(NIC)
    assert card["match"] == {"macaddress": NIC.mac}
    assert card["dhcp4"] is True
    assert card["mtu"] == 1450


def test_an_ipv6_address_stands_alone_and_the_host_is_the_way_to_all_others() -> None:
    card = card_of(NIC)
    assert card["addresses"] == ["fd00::5/128"]
    assert card["gateway6"] == "fe80::1"
    assert card["accept-ra"] is False
    assert "addresses" not in card_of(replace(NIC, ipv6=None)) and "gateway6" not in card_of(replace(NIC, ipv6=None))


def test_without_ipv4_nobody_is_asked_and_names_are_the_gateways_business() -> None:
    card = card_of(replace(NIC, ipv4=None, ipv4_network=None, ipv4_gateway=None))
    assert card["dhcp4"] is False
    assert card["nameservers"] == {"addresses": ["fd00::1"]}
    assert "nameservers" not in card_of(NIC)


@needs_awk
def test_the_tiny_guest_reads_the_same_as_yaml_does(tmp_path: Path) -> None:
    """Its init takes scalars and lists line by line: the very functions, on every shape of card."""
    script = (files("hansa.engines.qemu") / "guest" / "tiny" / "init").read_text()
    functions = "\n".join(re.findall(r"^scalar\(\) .*\}$|^list\(\) \{\n(?:  .*\n)+\}$", script, re.MULTILINE))
    servers = re.search(r"\$\((sed -n [^\n]*nameservers[^\n]*)\); do", script)
    assert servers is not None
    for nic in (NIC, replace(NIC, ipv6=None), replace(NIC, ipv4=None)):
        config, card = tmp_path / "network-config", card_of(nic)
        config.write_bytes(seed.files(replace(MACHINE, nic=nic))["network-config"])
        asked = f"{functions}\nNET={config}\nfor k in mtu dhcp4 gateway6; do echo $k $(scalar $NET $k); done\n"
        asked += f"echo addresses $(list $NET addresses)\necho servers $({servers[1]})\n"
        said = subprocess.run(["sh", "-ec", asked], check=True, capture_output=True, text=True).stdout.splitlines()
        assert said == [
            "mtu 1450",
            f"dhcp4 {str(card['dhcp4']).lower()}",
            f"gateway6 {card.get('gateway6', '')}".strip(),
            f"addresses {' '.join(card.get('addresses', []))}".strip(),
            f"servers {' '.join(card.get('nameservers', {}).get('addresses', []))}".strip(),
        ]


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
        (b"#cloud-config\nusers: [default]\n", True),
        (b"#cloud-config\nusers: [{name: other}, default]\n", True),
        (b"#cloud-config\nusers: [defaults]\n", False),
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
