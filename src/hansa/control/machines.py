"""Virtual machines: placing, applying, reporting, going. Each pass takes one step of these.

What a machine holds (room on a host, an address, its place in a group) is claimed in the same commit as
the decision, and goes with its row.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace

from hansa.control.hosts import CPU, GPU, MEMORY, capacity_scope, fleet_view, group_scope
from hansa.control.networks import address_scope, usable_v4
from hansa.control.outcome import Outcome, conditions
from hansa.control.world import World
from hansa.engines.ports import Machine, MachineReport, MachineState, Nic, PluggedDisk, Seed
from hansa.errors import Full, Refused, Retry
from hansa.kinds.compute import (
    AttachedDisk,
    ComputeProfile,
    Disk,
    MachineAddresses,
    MachineZone,
    PlacementGroup,
    SshEndpoint,
    VirtualMachine,
    VirtualMachineSpec,
    VirtualMachineStatus,
    user_data_bytes,
)
from hansa.kinds.fleet import Host
from hansa.kinds.networking import PublicIP, Subnet
from hansa.kinds.reasons import is_terminal
from hansa.kinds.registry import full_ref
from hansa.kinds.resource import AnyResource, Document, Key
from hansa.placement.place import Decision, place
from hansa.placement.request import Request
from hansa.policy.decide import decide
from hansa.policy.verdict import PROGRAM, Act, Rules, Subject, TerritoryRule
from hansa.store.port import Append, Claim, Reserve, Write

READY_WITHIN_S = 300.0
POLL_S = 0.5
RESTART_FIRST_S = 2.0
RESTART_MAX_S = 300.0
SECRET = "osSettings.cloudInitUserData"  # noqa: S105 - the name of a field

Unseal = Callable[[str, str], Awaitable[bytes | None]]


@dataclass(frozen=True, slots=True)
class Parts:
    """What a machine points at, read: its profile, disks in order, subnet, group."""

    profile: ComputeProfile
    disks: tuple[Disk, ...]
    subnet: Subnet
    group: PlacementGroup | None


@dataclass(frozen=True, slots=True)
class Machines:
    unseal: Unseal
    kind = VirtualMachine

    async def reconcile(self, it: AnyResource, world: World) -> Outcome:
        assert isinstance(it, VirtualMachine)
        if it.deleting:
            return await self._remove(it, world)
        parts, waiting = await self._parts(it, world)
        if parts is None:
            return waiting
        if it.status.host is None:
            return await self._place(it, parts, world) if it.spec.running else self._at_rest(it, parts, world)
        return await self._apply(it, parts, world)

    # -- what it points at ------------------------------------------------------------------

    async def _parts(self, it: VirtualMachine, world: World) -> tuple[Parts | None, Outcome]:
        parts = await read_parts(it, world)
        if parts is None:
            return None, self._wait(it, world, "WaitingForReference", "something that it points at is not there")
        if trouble := misfit(it, parts.disks, parts.subnet, parts.group):
            raise Refused("ReferenceInvalid", trouble)
        if late := next((d for d in parts.disks if not d.ready), None):
            ready = late.status.condition("Ready")
            message = f"disk {late.name} is not ready: {ready.reason if ready else 'Creating'}"
            if ready and ready.message:
                message += f" ({ready.message})"
            if ready and is_terminal(ready.reason):
                return None, self._failed(it, world, message)
            return None, self._wait(it, world, "WaitingForReference", message)
        return parts, Outcome()

    def _wait(self, it: VirtualMachine, world: World, reason: str, message: str) -> Outcome:
        said = conditions(it, world.clock.now(), False, reason, message)
        return Outcome(it.status.model_copy(update={"conditions": said}), again_in_s=5.0, expect_s=READY_WITHIN_S)

    def _failed(self, it: VirtualMachine, world: World, message: str) -> Outcome:
        """What it points at can never be; it is looked at again when that changes."""
        said = conditions(it, world.clock.now(), False, "ProvisioningFailed", message)
        more = {"conditions": said, "virtual_machine_status": "ProvisioningFailed", "placement": _zone(it)}
        return Outcome(it.status.model_copy(update=more), again_in_s=30.0)

    def _at_rest(self, it: VirtualMachine, parts: Parts, world: World) -> Outcome:
        """Never started, and not wanted to run: stopped, which is what the spec wants."""
        status = it.status.model_copy(update={
            "virtual_machine_status": "Stopped",
            "conditions": conditions(it, world.clock.now(), True, "Stopped"),
            "placement": _zone(it),
            "attached_disks": _attached(it, ()),
        })  # fmt: skip
        return Outcome(status)

    # -- placing ----------------------------------------------------------------------------

    async def _place(self, it: VirtualMachine, parts: Parts, world: World) -> Outcome:
        decision = await decide_place(it, parts, world)
        identity = world.ids.uid()
        body = {"request": it.ref, **shown(decision)}
        record: tuple[Write, ...] = (Append("decisions", identity, it.uid, body),)
        if not decision.host:
            reason, message = refusal(decision)
            if (
                it.status.decision
                and it.status.condition("Ready")
                and it.status.virtual_machine_status == "ProvisioningFailed"
            ):
                record, identity = (), it.status.decision  # said already: a repeated refusal is no new decision
            status = it.status.model_copy(update={
                "virtual_machine_status": "ProvisioningFailed", "decision": identity, "placement": _zone(it),
                "conditions": conditions(it, world.clock.now(), False, reason, message),
            })  # fmt: skip
            return Outcome(status, again_in_s=10.0 if decision.may_change else None, also=record)
        index = await free_address(parts.subnet, it.uid, world)
        claims = await claims_for(it, parts, decision.host, index, world)
        said = conditions(it, world.clock.now(), False, "Provisioning", f"on {decision.host}")
        status = it.status.model_copy(update={
            "host": decision.host, "decision": identity, "placement": _zone(it), "conditions": said,
            "virtual_machine_status": "Starting" if it.status.started_for else "Creating",
            "mac": mac_of(it.uid),
        })  # fmt: skip
        return Outcome(status, again_in_s=0.0, also=(Reserve(it.uid, claims), *record))

    # -- applying ---------------------------------------------------------------------------

    async def _apply(self, it: VirtualMachine, parts: Parts, world: World) -> Outcome:
        host = it.status.host or ""
        engine = world.engines.compute(host)
        if engine is None:
            return self._wait(it, world, "HostGone", f"host {host} is not in the fleet any more")
        left_s = (it.status.not_before or 0.0) - world.clock.now()
        if it.spec.running and left_s > 0:
            return Outcome(again_in_s=left_s)
        resized = await self._resized(it, parts, world)
        addresses = await self._addresses(it, parts, world)
        user_data = await self._user_data(it)
        wanted = machine_of(it, parts, addresses, user_data)
        seen = await engine.observe(it.uid)
        if seen.state is MachineState.DIED and it.spec.running and it.status.not_before is None:
            return self._died(it, world, seen)
        report = await engine.apply(wanted)
        report_of_host = await world.get(Host, Key("Host", "", host))
        outcome = await self._seen(it, parts, report, addresses, report_of_host, world)
        return replace(outcome, also=(*resized, *outcome.also))

    async def _resized(self, it: VirtualMachine, parts: Parts, world: World) -> tuple[Write, ...]:
        """A profile that changed while it was stopped changes what is claimed of the host."""
        host = await world.get(Host, Key("Host", "", it.status.host or ""))
        if host is None:
            return ()
        held = {h.claim.key: h.claim.amount for h in await world.store.claims_of(it.uid)
                if h.claim.scope == capacity_scope(host.name)}  # fmt: skip
        wanted = room_claims(parts.profile, host)
        return () if held == {c.key: c.amount for c in wanted} else (Reserve(it.uid, wanted),)

    async def _user_data(self, it: VirtualMachine) -> bytes:
        if it.spec.os_settings.cloud_init_user_data is None:
            return b""
        text = await self.unseal(it.uid, SECRET)
        if text is None:
            raise Retry("the sealed user data is not there yet", after_s=1.0)
        return user_data_bytes(text.decode())

    def _died(self, it: VirtualMachine, world: World, report: MachineReport) -> Outcome:
        """Nobody asked it to end: start it again, later each time."""
        wait_s = min(RESTART_MAX_S, RESTART_FIRST_S * 2 ** min(it.status.failures, 8))
        now = world.clock.now()
        message = f"{report.message or 'its process ended'}; it is started again in {wait_s:.0f} s"
        said = conditions(it, now, False, "GuestDied", message)
        status = it.status.model_copy(update={
            "conditions": said, "virtual_machine_status": "Starting", "failures": it.status.failures + 1,
            "not_before": now + wait_s,
        })  # fmt: skip
        return Outcome(status, again_in_s=wait_s)

    # -- addresses --------------------------------------------------------------------------

    async def _addresses(self, it: VirtualMachine, parts: Parts, world: World) -> MachineAddresses:
        held = [h for h in await world.store.claims_of(it.uid) if h.claim.scope == address_scope(parts.subnet.uid)]
        if not held:
            raise Retry("its address is not claimed", after_s=0.5)
        index, stack = int(held[0].claim.key), it.spec.networking.stack_type or parts.subnet.spec.stack_type
        public = None
        if it.spec.networking.public_ip_ref:
            ref = full_ref(it.spec.networking.public_ip_ref, ("PublicIP",), it.key.scope)
            ip = await world.follow(PublicIP, ref)
            public = ip.status.public_ipv4_address if ip else None
        v4 = parts.subnet.spec.ipv4_cidr_block if stack != "ipv6-only" else None
        v6 = parts.subnet.status.assigned_ipv6_gua_block if stack != "ipv4-only" else None
        groups = tuple(full_ref(r, ("SecurityGroup",), it.key.scope) for r in it.spec.networking.security_group_refs)
        return MachineAddresses.model_validate({
            "privateIPv4Address": str(ipaddress.IPv4Network(v4)[index]) if v4 else None,
            "publicIPv4Address": public,
            "ipv6Address": str(ipaddress.IPv6Network(v6)[index]) if v6 else None,
            "stackType": stack,
            "securityGroupActiveMembershipRefs": groups,
            "securityGroupPendingMembershipRefs": (),
            "securityGroupFailedMembershipRefs": (),
        })  # fmt: skip

    # -- reporting --------------------------------------------------------------------------

    async def _seen(
        self,
        it: VirtualMachine,
        parts: Parts,
        report: MachineReport,
        addresses: MachineAddresses,
        host: Host | None,
        world: World,
    ) -> Outcome:
        state, ready, reason, message = judge(it, report, simulated=host is not None and host.status.simulated)
        if ready and it.spec.networking.public_ip_ref and addresses.public_ipv4_address is None:
            ready, reason, message = False, "WaitingForReference", "its public address is not assigned yet"
        now, running = world.clock.now(), report.state is MachineState.RUNNING
        filtered = (
            "NetworkFiltered",
            False,
            "NotFiltered",
            "security groups are stored; nothing passes between machines yet",
        )
        steady = ready and (report.started_at == 0 or now - report.started_at > RESTART_MAX_S)
        status = VirtualMachineStatus(
            conditions=conditions(it, now, ready, reason, message, filtered),
            virtual_machine_status=state,
            attached_disks=_attached(it, report.devices),
            networking=addresses,
            placement=_zone(it),
            simulated=True if host and host.status.simulated else None,
            accelerator=host.status.accelerator if host else None,
            isolation=host.status.isolation if host else None,
            ssh=SshEndpoint(host="127.0.0.1", port=report.ssh_port) if running and report.ssh_port else None,
            host=it.status.host,
            decision=it.status.decision,
            started_for=it.generation if running else it.status.started_for,
            failures=0 if steady else it.status.failures,
            mac=it.status.mac,
        )
        if state == "Stopped" and not it.spec.running:
            return Outcome(status)
        transitional = report.state in (MachineState.STARTING, MachineState.STOPPING)
        transitional = transitional or (report.state is MachineState.ABSENT and it.spec.running)
        return Outcome(
            status, again_in_s=POLL_S if transitional or not ready and running else None, expect_s=READY_WITHIN_S
        )

    # -- going ------------------------------------------------------------------------------

    async def _remove(self, it: VirtualMachine, world: World) -> Outcome:
        if it.status.host is not None:
            engine = world.engines.compute(it.status.host)
            if engine is not None and not await engine.remove(it.uid):
                raise Retry("its process is still there", after_s=0.5)
        return Outcome(gone=True)


# -- pure ---------------------------------------------------------------------------------------


def judge(it: VirtualMachine, report: MachineReport, *, simulated: bool) -> tuple[str, bool, str, str]:
    """State for clients, Ready or not, reason, message: the observed against the wished."""
    match report.state:
        case MachineState.RUNNING if it.spec.running:
            return (
                "Running",
                True,
                "Simulated" if simulated else "Available",
                "no real machine stands behind it" if simulated else "",
            )
        case MachineState.POWERED_OFF if it.spec.running:
            message = f"the guest switched itself off; `hansa start {it.name}` starts it again"
            return "Stopped", False, "GuestPoweredOff", message
        case MachineState.ABSENT | MachineState.POWERED_OFF | MachineState.DIED if not it.spec.running:
            return "Stopped", True, "Stopped", ""
        case MachineState.RUNNING | MachineState.STOPPING:
            return "Stopping", False, "Stopping", report.message
        case MachineState.STARTING:
            return "Starting" if it.status.started_for else "Creating", False, "Starting", report.message
        case _:
            return "Starting" if it.status.started_for else "Creating", False, "Starting", report.message


def misfit(it: VirtualMachine, disks: tuple[Disk, ...], subnet: Subnet, group: PlacementGroup | None) -> str:
    """What of the references stands in another zone, or is used by another machine; empty: all fits."""
    zone = it.spec.placement.zone
    for disk in disks:
        at = disk.status.placement.zone if disk.status.placement else disk.spec.placement.zone
        if at and at != zone:
            return f"disk {disk.name} is in zone {at}, the machine in zone {zone}"
    if subnet.spec.placement.zone != zone:
        return f"subnet {subnet.name} is in zone {subnet.spec.placement.zone}, the machine in zone {zone}"
    if group is not None and group.spec.placement.zone != zone:
        return f"placement group {group.name} is in zone {group.spec.placement.zone}, the machine in zone {zone}"
    stack = it.spec.networking.stack_type
    if stack is not None and stack != "ipv6-only" and subnet.spec.stack_type == "ipv6-only":
        return f"stackType {stack} does not go with the ipv6-only subnet {subnet.name}"
    return ""


def machine_of(it: VirtualMachine, parts: Parts, addresses: MachineAddresses, user_data: bytes) -> Machine:
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
    )  # fmt: skip


def mac_of(uid: str) -> str:
    """A locally administered address from the machine's uid."""
    digits = uid.replace("-", "")[:10]
    return "02:" + ":".join(digits[i : i + 2] for i in range(0, 10, 2))


def subnet_ref(key: Key, spec: VirtualMachineSpec) -> str:
    """The subnet as asked, else the project's default one of the zone."""
    name = spec.networking.subnet_ref or f"default-{key.region}-{spec.placement.zone}"
    return full_ref(name, ("Subnet",), key.scope)


def _zone(it: VirtualMachine) -> MachineZone:
    group = it.spec.placement.placement_group_ref
    ref = full_ref(group, ("PlacementGroup",), it.key.scope) if group else None
    return MachineZone(zone=it.spec.placement.zone, placement_group_ref=ref)


def _attached(it: VirtualMachine, devices: tuple[str, ...]) -> tuple[AttachedDisk, ...]:
    names = devices or tuple(f"/dev/vd{chr(ord('a') + i)}" for i in range(len(it.spec.disks)))
    return tuple(AttachedDisk(disk_ref=full_ref(d.disk_ref, ("Disk",), it.key.scope), device=name)
                 for d, name in zip(it.spec.disks, names, strict=False))  # fmt: skip


def room_claims(profile: ComputeProfile, host: Host) -> tuple[Claim, ...]:
    """What a machine of this profile takes of a host, under what the host may promise."""
    room, scope = host.status.capacity, capacity_scope(host.name)
    claims = [
        Claim(scope, CPU, profile.spec.vcpus, ceiling=room.vcpus),
        Claim(scope, MEMORY, profile.spec.memory.size_bytes, ceiling=room.memory_bytes),
    ]
    if profile.spec.gpus:
        claims.append(Claim(scope, GPU, profile.spec.gpus.quantity, ceiling=room.gpus))
    return tuple(claims)


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


# -- reading ------------------------------------------------------------------------------------


async def read_parts(it: VirtualMachine, world: World) -> Parts | None:
    """What it points at; None when something of it is not there."""
    scope, group_ref = it.key.scope, it.spec.placement.placement_group_ref
    profile = await world.follow(ComputeProfile, full_ref(it.spec.compute_profile_ref, ("ComputeProfile",), scope))
    subnet = await world.follow(Subnet, subnet_ref(it.key, it.spec))
    found = [await world.follow(Disk, full_ref(d.disk_ref, ("Disk",), scope)) for d in it.spec.disks]
    disks = tuple(d for d in found if d is not None)
    group = await world.follow(PlacementGroup, full_ref(group_ref, ("PlacementGroup",), scope)) if group_ref else None
    if profile is None or subnet is None or len(disks) != len(found) or (group_ref and group is None):
        return None
    return Parts(profile, disks, subnet, group)


async def decide_place(it: VirtualMachine, parts: Parts, world: World) -> Decision:
    """Policy once a territory, then placement; the same in a dry run."""
    region, profile = it.key.region or "", parts.profile.spec
    fleet = await fleet_view(world, region)
    forbidden = await forbidden_territories(it.key, {h.territory for h in fleet.hosts}, world)
    request = Request(
        it.uid, region, it.spec.placement.zone, profile.vcpus, profile.memory.size_bytes,
        profile.gpus.model if profile.gpus else "", profile.gpus.quantity if profile.gpus else 0,
        parts.group.uid if parts.group else "", forbidden,
    )  # fmt: skip
    return place(request, fleet)


async def forbidden_territories(key: Key, territories: set[str], world: World) -> tuple[tuple[str, str], ...]:
    from hansa.kinds.iam import Project
    from hansa.kinds.sovereignty import SovereigntyPolicy

    project = await world.get(Project, Key("Project", "", key.project or ""))
    organization = project.spec.organization if project else ""
    rules: list[TerritoryRule] = []
    for scope in (f"projects/{key.project}", f"organizations/{organization}"):
        rules += [TerritoryRule(p.ref, frozenset(p.spec.territories)) for p in await world.all(SovereigntyPolicy, scope)
                  if not p.deleting]  # fmt: skip
    found = []
    for territory in sorted(territories):
        subject = Subject("VirtualMachine", key.name, key.project or "", organization, territory)
        verdict = decide(PROGRAM, Act.PLACE, subject, Rules(tuple(rules)))
        if not verdict.allowed:
            found.append((territory, verdict.why))
    return tuple(found)


async def free_address(subnet: Subnet, uid: str, world: World) -> int:
    """The index of the first address that nobody holds (or of the one that this machine holds)."""
    held = await world.store.claims(address_scope(subnet.uid))
    if mine := next((h for h in held if h.owner == uid), None):
        return int(mine.claim.key)
    taken = {int(h.claim.key) for h in held}
    if subnet.spec.ipv4_cidr_block:
        network = ipaddress.IPv4Network(subnet.spec.ipv4_cidr_block)
        base = int(network.network_address)
        candidates: Iterable[int] = (a - base for a in usable_v4(network))
    else:
        candidates = range(4, 65_536)
    for index in candidates:
        if index not in taken:
            return index
    raise Refused("AddressesExceeded", f"subnet {subnet.name} has no free address")


async def claims_for(it: VirtualMachine, parts: Parts, host: str, index: int, world: World) -> tuple[Claim, ...]:
    row = await world.get(Host, Key("Host", "", host))
    if row is None:
        raise Full(capacity_scope(host), CPU, f"host {host} is not in the fleet any more")
    claims = [*room_claims(parts.profile, row), Claim(address_scope(parts.subnet.uid), str(index))]
    if parts.group is not None:
        claims.append(Claim(group_scope(parts.group.uid), host))
    return tuple(claims)
