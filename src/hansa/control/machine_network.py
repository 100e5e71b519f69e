"""What a machine's network says of it on its host: whether it is plugged in, and which groups are enforced.

The VPC's reconciler makes the network; here it is only asked, and woken where it lags behind the machine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hansa.control.machine_parts import Parts
from hansa.control.outcome import Outcome
from hansa.control.world import World
from hansa.engines.ports import NetworkReport
from hansa.kinds.compute import MachineAddresses, SshEndpoint, VirtualMachine
from hansa.kinds.networking import SecurityGroup
from hansa.kinds.registry import full_ref
from hansa.kinds.resource import Key
from hansa.store.port import Wake

LAGS_AGAIN_S = 2.0  # the VPC wakes the machine when it has followed; this is for a wake that was lost
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Plugged:
    """One machine in its network as its host reports it, None: there is no network of it there.

    `groups`: those that the machine names, of its own network. `strangers`: references to groups of another.
    """

    vpc: Key
    vpc_uid: str
    report: NetworkReport | None
    groups: tuple[SecurityGroup, ...]
    strangers: tuple[str, ...]
    simulated: bool

    def has(self, it: VirtualMachine) -> bool:
        return self.report is not None and it.uid in self.report.ports

    def follows(self, it: VirtualMachine) -> bool:
        """Is it plugged in as its spec wants it now, with every group enforced in some generation?"""
        if self.report is None or self.report.ports.get(it.uid, 0) < it.generation:
            return False
        return all(group.uid in self.report.groups for group in self.groups)


async def plugged(it: VirtualMachine, parts: Parts, world: World) -> Plugged:
    """Raises Retry when the host's engine does not answer."""
    engine = world.engines.network(it.status.host or "")
    report = await engine.observe(parts.vpc.uid) if engine is not None else None
    own, strangers = [], []
    for ref in group_refs(it):
        group = await world.follow(SecurityGroup, ref)
        if group is not None and vpc_ref_of(group) == parts.vpc.ref:
            own.append(group)
        else:
            strangers.append(ref)
    simulated = bool(getattr(engine, "simulated", False))
    return Plugged(parts.vpc.key, parts.vpc.uid, report, tuple(own), tuple(strangers), simulated)


# -- pure ---------------------------------------------------------------------------------------


def group_refs(it: VirtualMachine) -> tuple[str, ...]:
    """The security groups that a machine names, in full, each once."""
    refs = it.spec.networking.security_group_refs
    return tuple(dict.fromkeys(full_ref(ref, ("SecurityGroup",), it.key.scope) for ref in refs))


def vpc_ref_of(group: SecurityGroup) -> str:
    return full_ref(group.spec.vpc_ref, ("VirtualPrivateCloud",), group.key.scope)


def with_memberships(addresses: MachineAddresses, it: VirtualMachine, network: Plugged) -> MachineAddresses:
    """The addresses with the groups that are enforced, those that are not yet, and those that cannot be."""
    active = network.follows(it)
    refs = tuple(group.ref for group in network.groups)
    return addresses.model_copy(update={
        "security_group_active_membership_refs": refs if active else (),
        "security_group_pending_membership_refs": () if active else refs,
        "security_group_failed_membership_refs": network.strangers,
    })  # fmt: skip


def filtered(it: VirtualMachine, network: Plugged) -> tuple[str, bool, str, str]:
    """The machine's condition of its own: are its groups enforced?"""
    if network.simulated:
        return "NetworkFiltered", False, "NotFiltered", "simulated: nothing passes, and nothing is filtered"
    if not network.has(it):
        return "NetworkFiltered", False, "NotFiltered", "it is not plugged into its network"
    if network.strangers:
        names = ", ".join(ref.rsplit("/", 1)[-1] for ref in network.strangers)
        return "NetworkFiltered", True, "Filtered", f"of another VPC, and without effect: {names}"
    open_to = "" if network.groups else "no security group: nothing passes but DHCP and DNS"
    return "NetworkFiltered", True, "Filtered", open_to


def ssh_of(it: VirtualMachine, network: Plugged) -> SshEndpoint | None:
    port = network.report.forwards.get(it.uid) if network.report is not None else None
    return SshEndpoint(host=LOOPBACK, port=port) if port else None


def waking(outcome: Outcome, network: Plugged) -> Outcome:
    """The outcome of a pass whose network lags behind: its VPC is due, and so is the machine before long."""
    again_s = min(LAGS_AGAIN_S, outcome.again_in_s if outcome.again_in_s is not None else LAGS_AGAIN_S)
    return replace(outcome, also=(*outcome.also, Wake(network.vpc)), again_in_s=again_s)
