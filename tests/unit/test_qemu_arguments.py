"""The command line of a guest: whose it is, what it may, and that neither a tenant's text nor a path of ours is in it."""

import json
from dataclasses import replace
from typing import Any

import pytest

from hansa.engines.ports import Link, Machine, Nic, PluggedDisk, Seed
from hansa.engines.qemu import blocks
from hansa.engines.qemu.arguments import DirectBoot, Launch, Opened, cache_mib, command, devices, worker
from hansa.engines.qemu.blocks import node_of

UID = "0f0e0d0c-1111-4222-8333-444444444444"
DISK = "aaaaaaaa-1111-4222-8333-bbbbbbbbbbbb"
DATA = "cccccccc-1111-4222-8333-dddddddddddd"
NIC = Nic("52:54:00:00:00:01", "10.0.0.5", "10.0.0.0/24", "10.0.0.1", None, None, None)
MACHINE = Machine(
    uid=UID,
    name="my, machine",
    generation=1,
    running=True,
    vcpus=2,
    memory_bytes=4 * 10**9,
    disks=(PluggedDisk(DATA), PluggedDisk(DISK, boot=True)),
    nic=NIC,
    seed=Seed("host", ("ssh-ed25519 AAAA secret-comment",), b"password: hidden"),
    image="tiny",
)
LAUNCH = Launch(
    cloud="c0ffee",
    binary="/usr/bin/qemu-system-x86_64",
    machine_type="pc-q35-7.2",
    accelerator="tcg",
    monitor=10,
    line=11,
    log=12,
    seed=13,
    disks=(Opened(14), Opened(15, below=16)),
    link=Link(tap=17),
)
DIRECT = DirectBoot(18, 19, "quiet")


def after(words: list[str], option: str) -> list[str]:
    return [value for name, value in zip(words, words[1:], strict=False) if name == option]


def test_the_command_line_proves_whose_process_it_is() -> None:
    words = command(MACHINE, LAUNCH)
    assert after(words, "-uuid") == [UID]
    assert after(words, "-name") == [f"guest=c0ffee.{UID},debug-threads=on"]


def test_a_guest_starts_paused_and_a_power_off_is_kept() -> None:
    words = command(MACHINE, LAUNCH)
    assert {"-S", "-no-shutdown", "-nodefaults", "-no-user-config"} <= set(words)
    assert after(words, "-sandbox")[0].startswith("on,")


def test_neither_a_tenants_text_nor_a_path_of_ours_is_on_the_command_line() -> None:
    words = command(MACHINE, replace(LAUNCH, direct=DIRECT))[1:]
    text = " ".join(words)
    for secret in ("secret-comment", "hidden", "my, machine", "169.254", "10.0.0.5"):
        assert secret not in text
    paths = [part for word in words for part in word.replace('"', ",").replace("=", ",").split(",") if part[:1] == "/"]
    assert all(path.startswith(("/dev/fdset/", "/proc/self/fd/", "/dev/urandom")) for path in paths), paths


def test_every_set_that_is_named_was_handed_over() -> None:
    words = command(MACHINE, LAUNCH)
    sets = {word.rpartition("set=")[2] for word in after(words, "-add-fd")}
    assert sets == {"12", "13", "14", "15", "16"}
    named = {part.partition('"')[0].partition(",")[0] for part in " ".join(words).split("/dev/fdset/")[1:]}
    assert named == sets


def blockdevs(words: list[str]) -> list[dict[str, Any]]:
    return [json.loads(text) for text in after(words, "-blockdev")]


def test_disks_keep_their_order_and_only_the_boot_disk_boots() -> None:
    words = command(MACHINE, LAUNCH)
    assert [node["node-name"] for node in blockdevs(words)] == [node_of(DATA), node_of(DISK), "seed"]
    assert [node["driver"] for node in blockdevs(words)] == ["qcow2", "qcow2", "raw"]
    disks = [word for word in after(words, "-device") if word.startswith("virtio-blk")]
    assert ["bootindex=1" in word for word in disks] == [False, True, False]
    assert all("werror=stop" in word for word in disks[:2])
    assert devices(MACHINE) == ("/dev/vda", "/dev/vdb")


def test_what_lies_below_a_disk_is_always_said() -> None:
    data, boot, _ = blockdevs(command(MACHINE, LAUNCH))
    assert data["backing"] is None
    assert boot["backing"]["file"] == {"driver": "file", "filename": "/dev/fdset/16", "read-only": True}
    assert boot["backing"]["backing"] is None and boot["backing"]["read-only"]
    source = blocks.source("source", 5, -1)
    assert source["backing"] is None and source["read-only"] and source["file"]["read-only"]


def test_what_a_guest_asks_of_the_hosts_disk_is_bounded_between_the_format_and_the_file() -> None:
    words = command(MACHINE, LAUNCH)
    groups = {one["id"]: one["limits"] for one in map(json.loads, after(words, "-object")[1:3])}
    assert set(groups) == {blocks.GUEST, blocks.COPY}
    assert 0 < groups[blocks.GUEST]["bps-write"] < groups[blocks.GUEST]["bps-write-max"]
    assert all(node["file"]["throttle-group"] == blocks.GUEST for node in blockdevs(words)[:2])


def test_a_worker_has_no_machine_and_no_disk_of_its_own() -> None:
    words = worker(DISK, "c0ffee-disks", "/usr/bin/qemu-system-x86_64", 10)
    assert after(words, "-machine") == ["none"] and "-S" in words and "-blockdev" not in words
    assert after(words, "-name") == [f"guest=c0ffee-disks.{DISK},debug-threads=on"]
    assert after(words, "-sandbox")[0].startswith("on,")


@pytest.mark.parametrize(
    ("link", "netdev"),
    [
        (Link(tap=17), {"type": "tap", "id": "n0", "fd": "17"}),
        (
            Link(local="/run/a,b", remote="/run/c"),
            {
                "type": "dgram",
                "id": "n0",
                "local": {"type": "unix", "path": "/run/a,b"},
                "remote": {"type": "unix", "path": "/run/c"},
            },
        ),
    ],
)
def test_the_card_is_plugged_into_what_is_handed_over(link: Link, netdev: dict[str, Any]) -> None:
    words = command(MACHINE, replace(LAUNCH, link=link))
    assert [json.loads(text) for text in after(words, "-netdev")] == [netdev]
    assert f"virtio-net-pci,netdev=n0,mac={NIC.mac},romfile=" in words


def test_without_a_link_there_is_no_card() -> None:
    words = command(MACHINE, replace(LAUNCH, link=Link()))
    assert "-netdev" not in words and not [word for word in words if word.startswith("virtio-net")]


def test_memory_is_whole_mebibytes_that_nobody_else_sees() -> None:
    words = command(MACHINE, LAUNCH)
    backend = json.loads(after(words, "-object")[0])
    assert backend["size"] == 3815 << 20
    assert backend["merge"] is False
    assert after(words, "-m") == ["3815M"]


@pytest.mark.parametrize(("accelerator", "cpu"), [("kvm", "host"), ("tcg", "max")])
def test_the_processor_follows_the_accelerator(accelerator: str, cpu: str) -> None:
    words = command(MACHINE, replace(LAUNCH, accelerator=accelerator))
    assert after(words, "-cpu") == [cpu]
    assert after(words, "-accel")[0].startswith(accelerator)
    assert after(words, "-machine") == ["pc-q35-7.2,memory-backend=ram0"]


def test_a_kernel_that_is_given_starts_without_firmware() -> None:
    words = command(MACHINE, replace(LAUNCH, direct=DIRECT))
    assert (after(words, "-kernel"), after(words, "-initrd")) == (["/proc/self/fd/18"], ["/proc/self/fd/19"])
    assert after(words, "-append") == ["quiet"]
    assert "-kernel" not in command(MACHINE, LAUNCH)


@pytest.mark.parametrize(
    ("memory_mib", "direct", "accelerator", "cache"),
    [(128, True, "tcg", 32), (192, False, "tcg", 32), (256, True, "tcg", 64), (1024, False, "tcg", 256), (128, True, "kvm", 0)],
)  # fmt: skip
def test_the_translation_cache_follows_the_size_of_the_guest(
    memory_mib: int, direct: bool, accelerator: str, cache: int
) -> None:
    machine = replace(MACHINE, memory_bytes=memory_mib << 20)
    assert cache_mib(machine, accelerator, direct=direct) == cache
    words = command(machine, replace(LAUNCH, accelerator=accelerator, direct=DIRECT if direct else None))
    assert after(words, "-accel") == ([f"tcg,thread=multi,tb-size={cache}"] if cache else ["kvm"])


def test_no_more_than_64_processors_are_given() -> None:
    assert after(command(replace(MACHINE, vcpus=96), LAUNCH), "-smp") == ["64"]


def test_a_node_name_fits_qemus_31_letters() -> None:
    assert len(node_of(DISK)) <= 31
    assert node_of(DISK) != node_of(DATA) != blocks.target_of(DATA)
    assert blocks.disks_of(["scsi0", blocks.device_of(DISK)]) == (DISK,)
