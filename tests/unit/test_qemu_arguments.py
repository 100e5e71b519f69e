"""The command line of a guest: whose it is, what it may, and that no text of a tenant is in it."""

import json
from dataclasses import replace

import pytest

from hansa.engines.ports import Machine, Nic, PluggedDisk, Seed
from hansa.engines.qemu.arguments import DirectBoot, Launch, command, devices, netdev, node_of

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
    ssh_port=40022,
    run_folder="/run/hansa/a,b",
    seed="/data/seed.img",
    console="/data/con,sole",
    disks=("/data/one.qcow2", "/data/two,.qcow2"),
)


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


def test_no_text_of_a_tenant_is_on_the_command_line() -> None:
    text = " ".join(command(MACHINE, LAUNCH))
    for secret in ("secret-comment", "hidden", "my, machine", "169.254"):
        assert secret not in text


def test_disks_keep_their_order_and_only_the_boot_disk_boots() -> None:
    words = command(MACHINE, LAUNCH)
    blocks = [json.loads(text) for text in after(words, "-blockdev")]
    assert [block["file"]["filename"] for block in blocks] == ["/data/one.qcow2", "/data/two,.qcow2", "/data/seed.img"]
    assert [block["driver"] for block in blocks] == ["qcow2", "qcow2", "raw"]
    disks = [word for word in after(words, "-device") if word.startswith("virtio-blk")]
    assert ["bootindex=1" in word for word in disks] == [False, True, False]
    assert all("werror=stop" in word for word in disks[:2])
    assert devices(MACHINE) == ("/dev/vda", "/dev/vdb")


def test_commas_in_paths_are_doubled() -> None:
    words = command(MACHINE, LAUNCH)
    chardev = after(words, "-chardev")[0]
    assert "path=/run/hansa/a,,b/con" in chardev
    assert "logfile=/data/con,,sole" in chardev
    assert after(words, "-qmp") == ["unix:/run/hansa/a,,b/qmp,server=on,wait=off"]
    assert after(words, "-pidfile") == ["/run/hansa/a,b/pid"]


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


def test_a_small_image_starts_without_firmware_and_with_a_small_cache() -> None:
    words = command(MACHINE, replace(LAUNCH, direct=DirectBoot("/i/vmlinuz", "/i/initrd", "quiet")))
    assert (after(words, "-kernel"), after(words, "-append")) == (["/i/vmlinuz"], ["quiet"])
    assert after(words, "-accel") == ["tcg,thread=multi,tb-size=64"]
    assert "-kernel" not in command(MACHINE, LAUNCH)
    assert after(command(MACHINE, LAUNCH), "-accel") == ["tcg,thread=multi,tb-size=256"]


def test_no_more_than_64_processors_are_given() -> None:
    assert after(command(replace(MACHINE, vcpus=96), LAUNCH), "-smp") == ["64"]


def test_a_node_name_fits_qemus_31_letters() -> None:
    assert len(node_of(DISK)) <= 31
    assert node_of(DISK) != node_of(DATA)


def test_the_network_is_closed_but_for_the_forwarded_port() -> None:
    text = netdev(NIC, 40022)
    assert "restrict=on" in text
    assert "net=10.0.0.0/24,host=10.0.0.1,dhcpstart=10.0.0.5,dns=10.0.0.254" in text
    assert "hostfwd=tcp:127.0.0.1:40022-10.0.0.5:22" in text
    assert text.endswith("ipv6=off")


@pytest.mark.parametrize(
    ("address", "network", "gateway", "name_server"),
    [
        ("10.0.0.14", "10.0.0.8/29", "10.0.0.9", "10.0.0.13"),
        ("10.0.0.10", "10.0.0.8/29", "10.0.0.14", "10.0.0.13"),
        ("10.0.0.2", "10.0.0.0/30", "10.0.0.1", "10.0.0.0"),
        ("10.0.1.2", "10.0.0.0/16", "10.0.0.1", "10.0.255.254"),
    ],
)
def test_the_name_server_collides_with_nobody(address: str, network: str, gateway: str, name_server: str) -> None:
    nic = replace(NIC, ipv4=address, ipv4_network=network, ipv4_gateway=gateway)
    assert f"dns={name_server}," in netdev(nic, 1)


def test_both_families_are_served_and_ipv6_alone_keeps_a_way_for_ssh() -> None:
    both = replace(NIC, ipv6="fd00::5", ipv6_network="fd00::/64", ipv6_gateway="fd00::1")
    assert "ipv6=on,ipv6-prefix=fd00::,ipv6-prefixlen=64,ipv6-host=fd00::1" in netdev(both, 1)
    alone = replace(both, ipv4=None, ipv4_network=None, ipv4_gateway=None)
    assert "hostfwd=tcp:127.0.0.1:1-100.127.255.2:22" in netdev(alone, 1)
