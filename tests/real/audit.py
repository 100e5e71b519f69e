"""Everything that a cloud holds on this host against its store: nothing over, nothing short.

Processes of guests, disks with their notes, machine folders, control groups, claims; and of its networks: the
namespaces, every link, every address of the filter, public addresses and their routes; in user space what the
switch says that it holds.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hansa.config import run_folder
from hansa.engines.network import space
from hansa.engines.network.driver import USERSPACE, LocalNetworks
from hansa.engines.network.naming import network_link, port_link

if TYPE_CHECKING:
    from .cloud import RealCloud

GROUPS = Path("/sys/fs/cgroup")


def audit(cloud: RealCloud) -> None:
    """Raises AssertionError naming what is over or short."""
    rows = cloud.rows("select kind, uid, spec, status, deleted_at from objects")
    objects: dict[str, dict[str, tuple[Any, Any]]] = {}
    for kind, uid, spec, status, _ in rows:
        objects.setdefault(kind, {})[uid] = json.loads(spec), json.loads(status)
    machines = objects.get("VirtualMachine", {})
    real = {uid: status for uid, (_, status) in machines.items() if not status.get("simulated")}
    _processes(cloud, real)
    _files(cloud, objects, set(machines))
    _claims(cloud, {uid for _, uid, *_ in rows})
    _groups(cloud, real)
    _networks(cloud, objects, real)


def _same(what: str, there: Iterable[str], wanted: Iterable[str]) -> None:
    there, wanted = set(there), set(wanted)
    assert there == wanted, f"{what}: over {sorted(there - wanted)}, short {sorted(wanted - there)}"


def _processes(cloud: RealCloud, machines: dict[str, Any]) -> None:
    guests = Counter(cloud.guests().values())
    assert not guests or max(guests.values()) == 1, f"a machine runs twice: {guests}"
    running = {uid for uid, status in machines.items() if status.get("virtualMachineStatus") == "Running"}
    _same("guests", guests, running)


def _files(cloud: RealCloud, objects: dict[str, Any], machines: set[str]) -> None:
    def inside(name: str) -> list[Path]:
        folder = cloud.data / name
        return list(folder.iterdir()) if folder.exists() else []

    volumes = [
        uid for kind in ("Disk", "Snapshot") for uid, (_, s) in objects.get(kind, {}).items() if not s.get("simulated")
    ]
    _same("disks", (f.name.split(".")[0] for f in inside("disks") if f.suffix == ".qcow2"), volumes)
    notes = {f.name.split(".")[0] for f in inside("disks")}
    assert notes <= set(volumes), f"notes of no disk: {notes - set(volumes)}"
    folders = {f.name for f in inside("machines")}
    assert folders <= machines, f"folders of no machine: {folders - machines}"


def _claims(cloud: RealCloud, alive: set[str]) -> None:
    """What belongs to an object goes with it; the program's own marks stay."""
    query = "select owner from claims where until is null and scope not like 'marks/%'"
    owners = {owner for (owner,) in cloud.rows(query)}
    assert owners <= alive, f"claims without an owner: {owners - alive}"


def remove_groups(identity: str, seconds: float = 5.0) -> None:
    """Control groups of guests that were killed and never removed."""
    end = time.monotonic() + seconds
    for top in (GROUPS, *GROUPS.glob("*")):
        folder = top / "hansa" / identity
        while folder.is_dir():
            try:
                for group in folder.glob("*/"):
                    group.rmdir()
                folder.rmdir()
            except OSError:  # its guest is still on its way down
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)


def _groups(cloud: RealCloud, machines: dict[str, Any]) -> None:
    """Control groups of this cloud, wherever the host has them."""
    found = {
        group.name
        for top in (GROUPS, *GROUPS.glob("*"))
        for group in (top / "hansa" / cloud.identity).glob("*")
        if group.is_dir()
    }
    assert found <= set(machines), f"control groups of no machine: {found - set(machines)}"


def _networks(cloud: RealCloud, objects: dict[str, Any], machines: dict[str, Any]) -> None:
    at_home = {uid: status["vpc"] for uid, status in machines.items() if status.get("host") and status.get("vpc")}
    if cloud.network() == USERSPACE:
        asyncio.run(_switched(cloud, machines, at_home))
        return
    marks = space.marked(f"{cloud.identity}/")
    made = {mark.rpartition("/")[2]: pid for mark, pid in marks.items() if "/network/" in mark}
    _same("networks", made, at_home.values())
    if not made:
        return
    uplink = marks[f"{cloud.identity}/uplink"]
    _same("uplinks", (link for link in _links(uplink) if link.startswith("v")), (network_link(uid) for uid in made))
    publics: dict[str, str] = {}
    for vpc, pid in made.items():
        members = [uid for uid, at in at_home.items() if at == vpc]
        _same(f"links of {vpc}", (n for n in _links(pid) if n.startswith("t")), map(port_link, members))
        wanted = {uid: machines[uid]["networking"] for uid in members if "networking" in machines[uid]}
        rules = _inside(pid, "nft", "list", "table", "inet", "hansa")
        known = re.findall(r'"t[0-9a-f]+" \. [0-9a-f:]{17} \. ([0-9a-f.:]+)', rules)
        addresses = [a for n in wanted.values() for a in (n.get("privateIPv4Address"), n.get("ipv6Address")) if a]
        assert len(wanted) < len(members) or sorted(known) == sorted(addresses), f"filter {known}, store {addresses}"
        publics |= {n["publicIPv4Address"]: vpc for n in wanted.values() if n.get("publicIPv4Address")}
    routes = {
        r["dst"]: r["dev"]
        for r in json.loads(_inside(uplink, "ip", "-j", "-4", "route"))
        if r.get("gateway") and r["dst"] != "default"
    }
    assert routes == {a: network_link(vpc) for a, vpc in publics.items()}, f"public routes {routes}, store {publics}"


async def _switched(cloud: RealCloud, machines: dict[str, Any], at_home: dict[str, str]) -> None:
    """Of the user-space switch: its networks, their ports, and the public addresses."""
    switch = LocalNetworks(run_folder(cloud.identity) / "n", cloud_id=cloud.identity, mode=USERSPACE)
    held = [each.uid for each in await switch.held()]
    _same("networks", held, at_home.values())
    gateways = {mark.rpartition("/")[2] for mark in space.marked(f"{cloud.identity}/gateway/")}
    assert gateways <= set(held), f"gateways of no network: {gateways - set(held)}"
    for vpc in held:
        report = await switch.observe(vpc)
        assert report is not None
        members = [uid for uid, at in at_home.items() if at == vpc]
        _same(f"ports of {vpc}", report.ports, members)
        assert not report.publics, f"it has no public addresses: {report.publics}"


def _links(pid: int) -> list[str]:
    return [link["ifname"] for link in json.loads(_inside(pid, "ip", "-j", "link")) if link]


def _inside(pid: int, *command: str) -> str:
    user = [] if os.geteuid() == 0 else ["-U", "--preserve-credentials"]
    words = ["nsenter", "-t", str(pid), *user, "-n", "--", *command]
    return subprocess.run(words, capture_output=True, text=True, check=True, env=space.environment()).stdout
