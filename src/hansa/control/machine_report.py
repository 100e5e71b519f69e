"""What a machine is told to be and what is said of it: from readings and reports to data. Pure."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

from hansa.control.attachments import misplaced
from hansa.control.machine_parts import Parts
from hansa.control.outcome import Outcome, Trouble, waiting_for
from hansa.engines.ports import HotDisk, Machine, MachineReport, MachineState, Nic, PluggedDisk, Seed
from hansa.kinds.compute import AttachedDisk, MachineAddresses, MachineZone, Shape, VirtualMachine
from hansa.kinds.registry import full_ref
from hansa.kinds.resource import Document
from hansa.placement.place import Decision

POLL_S = 0.5
PAUSED_AGAIN_S = 5.0
_ON = frozenset({MachineState.RUNNING, MachineState.STOPPING})


# -- before the engine is asked -----------------------------------------------------------------


def hindrance(it: VirtualMachine, parts: Parts) -> Trouble | None:
    """Why it cannot go on with what it points at, or not yet. A machine that has a host goes on with disks
    that are made, whatever is done to them at the moment."""
    if trouble := misfit(it, parts):
        return Trouble("ReferenceInvalid", trouble)
    placed = it.status.host is not None
    late = next((d for d in parts.disks if not (d.ready or (placed and d.status.made))), None)
    return waiting_for(late) if late is not None else None


def misfit(it: VirtualMachine, parts: Parts) -> str:
    """What of the references stands in another zone, or does not go with the stack; empty: all fits."""
    zone, subnet, group = it.spec.placement.zone, parts.subnet, parts.group
    for disk in parts.disks:
        if trouble := misplaced(it, disk):
            return trouble
    if subnet.spec.placement.zone != zone:
        return f"subnet {subnet.name} is in zone {subnet.spec.placement.zone}, the machine in zone {zone}"
    if group is not None and group.spec.placement.zone != zone:
        return f"placement group {group.name} is in zone {group.spec.placement.zone}, the machine in zone {zone}"
    stack = it.spec.networking.stack_type
    if stack is not None and stack != "ipv6-only" and subnet.spec.stack_type == "ipv6-only":
        return f"stackType {stack} does not go with the ipv6-only subnet {subnet.name}"
    return ""


def machine_of(
    it: VirtualMachine, parts: Parts, addresses: MachineAddresses, user_data: bytes, hot_disks: tuple[HotDisk, ...]
) -> Machine:
    v4, v6 = parts.subnet.spec.ipv4_cidr_block, parts.subnet.status.assigned_ipv6_gua_block
    boot = next(d for d, use in zip(parts.disks, it.spec.disks, strict=True) if use.boot_from)
    nic = Nic(
        mac=mac_of(it.uid),
        ipv4=addresses.private_ipv4_address,
        ipv4_network=v4 if addresses.private_ipv4_address else None,
        ipv4_gateway=str(ipaddress.IPv4Network(v4)[1]) if v4 and addresses.private_ipv4_address else None,
        ipv6=addresses.ipv6_address,
        ipv6_network=v6 if addresses.ipv6_address else None,
        ipv6_gateway=str(ipaddress.IPv6Network(v6)[1]) if v6 and addresses.ipv6_address else None,
    )
    profile = parts.profile.spec
    return Machine(
        uid=it.uid, name=it.name, generation=it.generation, running=it.spec.running, vcpus=profile.vcpus,
        memory_bytes=profile.memory.size_bytes,
        disks=tuple(PluggedDisk(d.uid, bool(u.boot_from)) for d, u in zip(parts.disks, it.spec.disks, strict=True)),
        nic=nic, seed=Seed(it.name, it.spec.os_settings.keys, user_data), image=boot.status.family or None,
        network=parts.vpc.uid, hot_disks=hot_disks,
    )  # fmt: skip


def mac_of(uid: str) -> str:
    """A locally administered address from the machine's uid."""
    digits = uid.replace("-", "")[:10]
    return "02:" + ":".join(digits[i : i + 2] for i in range(0, 10, 2))


# -- after it answered --------------------------------------------------------------------------


def judge(it: VirtualMachine, report: MachineReport, *, simulated: bool) -> tuple[str, bool, str, str]:
    """State for clients, Ready or not, reason, message: the observed against the wished."""
    starting = "Starting" if it.status.started_for else "Creating"
    match report.state:
        case MachineState.RUNNING if it.spec.running:
            if simulated:
                return "Running", True, "Simulated", "no real machine stands behind it"
            return "Running", True, "Available", ""
        case MachineState.PAUSED if it.spec.running:
            return "Running", False, "HostDiskFull", report.message
        case MachineState.POWERED_OFF if it.spec.running:
            message = f"the guest switched itself off; `hansa start {it.name}` starts it again"
            return "Stopped", False, "GuestPoweredOff", message
        case MachineState.ABSENT | MachineState.POWERED_OFF | MachineState.DIED | MachineState.LOST if (
            not it.spec.running
        ):
            return "Stopped", True, "Stopped", ""
        case MachineState.RUNNING | MachineState.PAUSED | MachineState.STOPPING:
            return "Stopping", False, "Stopping", report.message
        case _:
            return starting, False, "Starting", report.message


def look_again_s(it: VirtualMachine, report: MachineReport, *, ready: bool) -> float | None:
    """When the engine is asked again: not where only a wish or an event can change what it says."""
    if ready or (report.state is MachineState.POWERED_OFF and it.spec.running):
        return None
    return PAUSED_AGAIN_S if report.state is MachineState.PAUSED and it.spec.running else POLL_S


def powered(outcome: Outcome, seen: MachineReport | None) -> Outcome:
    """Whether its guest runs, as the engine said last, whatever else came of the pass, or until when it was seen to. One
    that its host holds back does not."""
    if outcome.status is None:
        return outcome
    on = seen is not None and seen.state in _ON
    since = seen.started_at if seen is not None and on else None
    until = seen.ended_at or None if seen is not None and seen.state is MachineState.LOST else None
    return replace(outcome, status=outcome.status.model_copy(update={"on_since": since, "off_at": until}))


def shaped(outcome: Outcome, it: VirtualMachine, parts: Parts) -> Outcome:
    """What it is started with; a guest that runs keeps what it was started with."""
    if outcome.status is None or it.status.on_since is not None:
        return outcome
    profile = parts.profile.spec
    shape = Shape(
        profile=parts.profile.name, vcpus=profile.vcpus, memory_bytes=profile.memory.size_bytes,
        gpus=profile.gpus.quantity if profile.gpus else 0,
    )  # fmt: skip
    return replace(outcome, status=outcome.status.model_copy(update={"shape": shape}))


def zone_of(it: VirtualMachine) -> MachineZone:
    group = it.spec.placement.placement_group_ref
    ref = full_ref(group, ("PlacementGroup",), it.key.scope) if group else None
    return MachineZone(zone=it.spec.placement.zone, placement_group_ref=ref)


def attached(it: VirtualMachine, devices: tuple[str, ...] = ()) -> tuple[AttachedDisk, ...]:
    """Its permanent disks with their devices; by their order where the guest has none yet."""
    names = devices or tuple(f"/dev/vd{chr(ord('a') + i)}" for i in range(len(it.spec.disks)))
    return tuple(AttachedDisk(disk_ref=full_ref(d.disk_ref, ("Disk",), it.key.scope), device=name)
                 for d, name in zip(it.spec.disks, names, strict=False))  # fmt: skip


# -- decisions ----------------------------------------------------------------------------------


def shown(decision: Decision) -> Document:
    """A decision as it is recorded and shown by `why`."""
    return {
        "chosen": [{"host": decision.host}] if decision.host else [],
        "ranked": [{"host": r.host, "cost": r.cost, "terms": dict(r.terms)} for r in decision.ranked],
        "refused": [{"reason": r.reason, "hosts": r.hosts, "message": r.message, "waitingMayHelp": r.may_change}
                    for r in decision.refused],
    }  # fmt: skip


def refusal(decision: Decision) -> tuple[str, str]:
    """The reason and message of a machine that nothing takes."""
    last = decision.decisive
    if last is None:
        return "ProvisioningFailed", "the region has no host"
    reason = {"OtherZone": "ZoneInvalid", "PolicyDenied": "PolicyDenied", "GroupMemberThere": "PlacementGroupExceeded"}
    return reason.get(last.reason, "ProvisioningFailed"), f"no host takes it: {last.message}"
