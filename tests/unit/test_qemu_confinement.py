"""How a QEMU is held: the words that take its rights away, and the bounds of its control group."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from hansa.engines.qemu import cgroups
from hansa.engines.qemu.confinement import (
    USER_FIRST,
    USERS,
    Confinement,
    Rights,
    _maps,
    choose_user,
    living_users,
    words,
)

ROOT = Confinement(Rights(users=True, networks=True, bounds=True), user=2_100_000_007)
PLAIN = Confinement(Rights())
MIB = 1 << 20


def test_under_root_a_guest_is_a_user_of_its_own_with_nothing() -> None:
    said = words(ROOT)
    assert said[:2] == ["unshare", "--net"]
    assert said[2] == "setpriv" and said[said.index("--reuid") :][:4] == [
        "--reuid",
        "2100000007",
        "--regid",
        "2100000007",
    ]
    assert {"--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"} <= set(said)


def test_a_device_that_is_not_for_all_is_opened_by_its_group() -> None:
    said = words(replace(ROOT, group=104))
    assert said[said.index("--groups") + 1] == "104" and "--clear-groups" not in said


def test_a_network_is_entered_by_its_descriptor_and_its_user_namespace_before() -> None:
    assert words(replace(ROOT, namespace=9))[:2] == ["nsenter", "--net=/proc/self/fd/9"]
    assert words(replace(PLAIN, namespace=9, holder=77)) == [
        *("nsenter", "-t", "77", "-U", "--preserve-credentials", "--net=/proc/self/fd/9"),
        *("setpriv", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"),
    ]


def test_a_plain_user_gives_up_what_it_can() -> None:
    assert words(PLAIN) == ["setpriv", "--no-new-privs", "--inh-caps=-all"]


def test_root_of_a_container_takes_what_it_may() -> None:
    less = Confinement(Rights(users=True), user=2_100_000_007)
    assert words(less)[0] == "setpriv" and "--reuid" in words(less) and "--bounding-set=-all" not in words(less)
    assert _maps("         0          0 4294967295\n")
    assert not _maps("0 1000 1\n1 100000 65536\n")


def test_users_are_far_from_anyones_and_never_given_twice() -> None:
    taken: set[int] = set()
    for number in range(200):
        user = choose_user(f"c.{number % 3}", taken)
        assert USER_FIRST <= user < USER_FIRST + USERS and user not in taken
        taken.add(user)
    assert choose_user("c.1", ()) == choose_user("c.1", ()) != choose_user("c.2", ())
    assert os.geteuid() in living_users()


def test_bounds_are_the_guests_and_what_an_emulator_needs() -> None:
    bounds = cgroups.bounds(2, 128 * MIB, 32)
    assert bounds == cgroups.Bounds(memory_bytes=(160 + 232) * MIB, cores_milli=2500)
    second, first = cgroups.second_version(bounds, "254:0"), cgroups.first_version(bounds, "254:0")
    assert second["cpu"] == {"cpu.max": "250000 100000"}
    assert first["cpu"] == {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "250000"}
    assert second["memory"]["memory.max"] == first["memory"]["memory.limit_in_bytes"] == str(392 * MIB)
    assert second["pids"] == first["pids"] == {"pids.max": "256"}
    assert second["io"]["io.max"].startswith("254:0 rbps=")
    assert first["io"]["blkio.throttle.write_bps_device"].startswith("254:0 ")


def test_the_share_of_all_guests_stands_at_the_group_above_all(tmp_path: Path) -> None:
    assert cgroups.share(100, second=True) == ("cpu.weight", "100")
    assert cgroups.share(100, second=False) == ("cpu.shares", "1024")  # both are what the kernel begins with
    assert cgroups.share(50, second=False) == ("cpu.shares", "512")
    assert cgroups.share(1, second=False) == ("cpu.shares", "10") and cgroups.share(10_000, second=False)[1] == "102400"
    groups = cgroups.Groups("c", tmp_path, weight=50)
    first, second, other = tmp_path / "1", tmp_path / "2", tmp_path / "m"
    for base in (first, second, other):
        base.mkdir()
    groups._known = (
        cgroups._Tree(first, ("cpu",)), cgroups._Tree(second, ("cpu",), second=True), cgroups._Tree(other, ("memory",)),
    )  # fmt: skip
    groups.make("u", cgroups.bounds(1, MIB, 0))
    assert (first / "hansa/cpu.shares").read_text() == "512" and (second / "hansa/cpu.weight").read_text() == "50"
    assert [p.name for p in (other / "hansa").iterdir()] == ["c"]
    assert (
        not (first / "hansa/c/cpu.shares").exists() and (first / "hansa/c/u/cpu.cfs_quota_us").read_text() == "150000"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="groups are made by root")
@pytest.mark.parametrize("weight", [50, 100])  # in the end what it was: guests of others may be below it
def test_the_kernel_takes_the_share(tmp_path: Path, weight: int) -> None:
    cloud = f"t{os.getpid()}"
    groups = cgroups.Groups(cloud, tmp_path, weight=weight)
    if "cpu" not in groups.limits:
        pytest.skip("this host bounds no processors")
    groups.make("u", cgroups.bounds(1, MIB, 0))
    try:
        tree = next(tree for tree in groups._trees() if "cpu" in tree.controllers)
        name, text = cgroups.share(weight, second=tree.second)
        assert (tree.base / "hansa" / name).read_text().strip() == text
    finally:
        assert groups.remove("u")


def test_mounts_of_both_versions_are_found() -> None:
    table = """\
30 23 0:26 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw,nsdelegate
31 23 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:10 - cgroup cgroup rw,cpu,cpuacct
32 23 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 23 0:29 / /proc rw - proc proc rw
"""
    found = cgroups.mounts(table)
    assert found["unified"] == Path("/sys/fs/cgroup/unified")
    assert found["cpu"] == found["cpuacct"] == Path("/sys/fs/cgroup/cpu,cpuacct")
    assert found["memory"] == Path("/sys/fs/cgroup/memory") and "proc" not in found


def test_in_the_second_version_controllers_are_handed_down_to_each_group(tmp_path: Path) -> None:
    tree = cgroups._Tree(tmp_path, ("memory",), second=True)
    made = tree.group("cloud", "uid")
    assert made == tmp_path / "hansa/cloud/uid"
    for above in (tmp_path, tmp_path / "hansa", tmp_path / "hansa/cloud"):
        assert (above / "cgroup.subtree_control").read_text() == "+memory"
    assert not (made / "cgroup.subtree_control").exists()


@pytest.mark.parametrize(
    ("table", "group"),
    [
        ("0::/\n", ""),
        ("9:name=systemd:/\n0::/user.slice/app.scope\n", "user.slice/app.scope"),
        ("0::/user.slice/app.scope/hansa-control\n", "user.slice/app.scope"),
        ("4:memory:/x\n", ""),
    ],
)
def test_a_cloud_finds_its_own_group_again(table: str, group: str) -> None:
    assert cgroups.own_group(table) == group


def test_a_delegated_group_is_cleared_before_it_has_subgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(cgroups, "own_group", lambda _: "mine")
    mine = tmp_path / "mine"
    assert cgroups._own_group(tmp_path) is None
    mine.mkdir()
    (mine / "cgroup.procs").write_text("41\n")
    assert cgroups._own_group(tmp_path) == mine
    assert (mine / "hansa-control" / "cgroup.procs").read_text() == "41"


def test_a_host_without_control_groups_bounds_nothing_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroups, "mounts", lambda _: {"memory": tmp_path / "nowhere"})
    groups = cgroups.Groups("c", tmp_path)
    assert groups.limits == ()
    groups.make("u", cgroups.bounds(1, MIB, 0))
    groups.take_in("u", 1)
    assert groups.remove("u") and groups.uids() == set()
