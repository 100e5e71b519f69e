"""Virtual machines: placing, applying, reporting, going. Each pass takes one step of these.

What a machine holds (room on a host, an address, its place in a group) is claimed in the same commit as
the decision, and goes with its row. What it points at is read by `machine_parts`, what is made of the
engine's answer stands in `machine_report`, disks that come and go in `machine_hot`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from hansa.control.machine_hot import Hot, hot_disks, hot_of, with_hot
from hansa.control.machine_network import Plugged, filtered, plugged, ssh_of, waking, with_memberships
from hansa.control.machine_parts import (
    Parts,
    addresses_of,
    claims_for,
    decide_place,
    free_address,
    read_parts,
    resized,
)
from hansa.control.machine_report import (
    attached,
    hindrance,
    judge,
    look_again_s,
    mac_of,
    machine_of,
    powered,
    refusal,
    shaped,
    shown,
    zone_of,
)
from hansa.control.outcome import Outcome, Trouble, conditions
from hansa.control.world import World
from hansa.engines.ports import ComputeEngine, MachineReport, MachineState
from hansa.errors import Refused, Retry
from hansa.kinds.compute import MachineAddresses, VirtualMachine, VirtualMachineStatus, user_data_bytes
from hansa.kinds.fleet import Host
from hansa.kinds.resource import AnyResource, Key
from hansa.store.port import Append, Delete, Reserve, Wake, Write

READY_WITHIN_S = 300.0
LEAVING_AGAIN_S = 0.5
PLACE_AGAIN_S = 10.0
WAIT_S = 5.0
RESTART_FIRST_S = 2.0
RESTART_MAX_S = 300.0
LOST = "it went with its host and is started again"
UNPLUGGED = Trouble("Provisioning", "its network is being made on the host")
SECRET = "osSettings.cloudInitUserData"  # noqa: S105 - the name of a field

Unseal = Callable[[str, str], Awaitable[bytes | None]]
_TO_START = frozenset({MachineState.ABSENT, MachineState.DIED, MachineState.LOST})
Step = tuple[Outcome, MachineReport]  # what a pass answers, and the last that the engine said in it


@dataclass(frozen=True, slots=True)
class Machines:
    unseal: Unseal
    kind = VirtualMachine

    async def reconcile(self, it: AnyResource, world: World) -> Outcome:
        assert isinstance(it, VirtualMachine)
        hot = await hot_of(it, world)
        if it.deleting:
            return await self._remove(it, hot, world)
        engine = world.engines.compute(it.status.host) if it.status.host is not None else None
        if it.status.host is not None and engine is None:
            gone = f"host {it.status.host} is not in the fleet any more"
            return powered(self._unready(it, Trouble("HostGone", gone, WAIT_S), world), None)
        seen = await engine.observe(it.uid) if engine is not None else MachineReport(it.uid, MachineState.ABSENT)
        if seen.state is MachineState.LOST and it.status.on_since is not None:
            return powered(self._lost(it, seen, world), seen)
        try:
            outcome, seen = await self._step(it, hot, engine, seen, world)
        except Refused as refused:
            outcome = self._unready(it, Trouble(refused.why, refused.message), world)
        return powered(with_hot(it, hot, seen, outcome, world.clock.now()), seen)

    async def _step(
        self, it: VirtualMachine, hot: Sequence[Hot], engine: ComputeEngine | None, seen: MachineReport, world: World
    ) -> Step:
        parts = await read_parts(it, world)
        if parts is None:
            missing = Trouble("WaitingForReference", "something that it points at is not there", WAIT_S)
            return self._unready(it, missing, world), seen
        if trouble := hindrance(it, parts):
            return self._unready(it, trouble, world), seen
        if engine is None:
            return await self._place(it, parts, world) if it.spec.running else self._at_rest(it, world), seen
        return await self._apply(it, parts, hot, engine, seen, world)

    def _unready(self, it: VirtualMachine, trouble: Trouble, world: World) -> Outcome:
        more: dict[str, object] = {
            "conditions": conditions(it, world.clock.now(), False, trouble.reason, trouble.message)
        }
        if trouble.reason == "ProvisioningFailed":
            more |= {"virtual_machine_status": "ProvisioningFailed", "placement": zone_of(it)}
        return Outcome(it.status.model_copy(update=more), again_in_s=trouble.again_in_s, expect_s=READY_WITHIN_S)

    def _at_rest(self, it: VirtualMachine, world: World) -> Outcome:
        """Never started, and not wanted to run: stopped, which is what the spec wants."""
        status = it.status.model_copy(update={
            "virtual_machine_status": "Stopped",
            "conditions": conditions(it, world.clock.now(), True, "Stopped"),
            "placement": zone_of(it),
            "attached_disks": attached(it),
        })  # fmt: skip
        return Outcome(status)

    def _lost(self, it: VirtualMachine, seen: MachineReport, world: World) -> Outcome:
        """First it is told, and metered, that it ran no longer; what is wanted now is for the next pass."""
        state, ready, reason, message = judge(it, replace(seen, message=LOST), simulated=False)
        said = conditions(it, world.clock.now(), ready, reason, message)
        status = it.status.model_copy(update={"conditions": said, "virtual_machine_status": state})
        return Outcome(status, again_in_s=0.0, expect_s=READY_WITHIN_S)

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
                "virtual_machine_status": "ProvisioningFailed", "decision": identity, "placement": zone_of(it),
                "conditions": conditions(it, world.clock.now(), False, reason, message),
            })  # fmt: skip
            return Outcome(status, again_in_s=PLACE_AGAIN_S if decision.may_change else None, also=record)
        index = await free_address(parts.subnet, it.uid, world)
        claims = await claims_for(it, parts, decision.host, index, world)
        said = conditions(it, world.clock.now(), False, "Provisioning", f"on {decision.host}")
        status = it.status.model_copy(update={
            "host": decision.host, "decision": identity, "placement": zone_of(it), "conditions": said,
            "virtual_machine_status": "Starting" if it.status.started_for else "Creating",
            "mac": mac_of(it.uid), "vpc": parts.vpc.uid,
        })  # fmt: skip
        return Outcome(status, again_in_s=0.0, also=(Reserve(it.uid, claims), Wake(parts.vpc.key), *record))

    # -- applying ---------------------------------------------------------------------------

    async def _apply(
        self, it: VirtualMachine, parts: Parts, hot: Sequence[Hot], engine: ComputeEngine, seen: MachineReport,
        world: World,
    ) -> Step:  # fmt: skip
        left_s = (it.status.not_before or 0.0) - world.clock.now()
        if it.spec.running and left_s > 0:
            return Outcome(it.status, again_in_s=left_s), seen
        if seen.state is MachineState.DIED and it.spec.running and it.status.not_before is None:
            return self._died(it, world, seen), seen
        network = await plugged(it, parts, world)
        if it.spec.running and not network.follows(it) and seen.state in _TO_START:  # never with the groups of before
            return waking(self._unready(it, UNPLUGGED, world), network), seen
        host = await world.get(Host, Key("Host", "", it.status.host or ""))
        also = await resized(it, parts, host, world)
        addresses = with_memberships(await addresses_of(it, parts, world), it, network)
        wanted = machine_of(it, parts, addresses, await self._user_data(it), hot_disks(it, hot))
        report = await engine.apply(wanted)
        if seen.state is MachineState.LOST and report.state is not MachineState.RUNNING:
            report = replace(report, message=LOST)
        outcome = shaped(replace(self._seen(it, report, addresses, network, host, world), also=also), it, parts)
        return outcome if network.follows(it) else waking(outcome, network), report

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

    # -- reporting --------------------------------------------------------------------------

    def _seen(
        self, it: VirtualMachine, report: MachineReport, addresses: MachineAddresses, network: Plugged,
        host: Host | None, world: World,
    ) -> Outcome:  # fmt: skip
        state, ready, reason, message = judge(it, report, simulated=host is not None and host.status.simulated)
        if ready and it.spec.networking.public_ip_ref and addresses.public_ipv4_address is None:
            ready, reason, message = False, "WaitingForReference", "its public address is not assigned yet"
        if ready and network.report is not None and report.state is MachineState.RUNNING and not network.follows(it):
            ready, reason, message = False, "Updating", "its network is being changed"
        now, running = world.clock.now(), report.state is MachineState.RUNNING
        steady = ready and (report.started_at == 0 or now - report.started_at > RESTART_MAX_S)
        status = VirtualMachineStatus(
            conditions=conditions(it, now, ready, reason, message, filtered(it, network)),
            virtual_machine_status=state,
            attached_disks=attached(it, report.devices),
            networking=addresses,
            placement=zone_of(it),
            simulated=True if host and host.status.simulated else None,
            accelerator=host.status.accelerator if host else None,
            isolation=host.status.isolation if host else None,
            ssh=ssh_of(it, network) if running else None,
            host=it.status.host,
            decision=it.status.decision,
            started_for=it.generation if running else it.status.started_for,
            failures=0 if steady else it.status.failures,
            mac=it.status.mac,
            vpc=network.vpc_uid,
            shape=it.status.shape,
        )
        return Outcome(status, again_in_s=look_again_s(it, report, ready=ready), expect_s=READY_WITHIN_S)

    # -- going ------------------------------------------------------------------------------

    async def _remove(self, it: VirtualMachine, hot: Sequence[Hot], world: World) -> Outcome:
        """Its process first, then its attachments with their claims, then itself."""
        if it.status.host is not None:
            engine = world.engines.compute(it.status.host)
            if engine is not None and not await engine.remove(it.uid):
                raise Retry("its process is still there", after_s=0.5)
        if not hot:
            return Outcome(gone=True, also=await self._leave(it, world))
        said = conditions(it, world.clock.now(), False, "Deleting", "its attachments are being removed")
        released = tuple(h.attachment.uid for h in hot)
        status = it.status.model_copy(update={
            "conditions": said, "hotswap_disk_attachments": (), "released": released, "on_since": None,
        })  # fmt: skip
        also = tuple(Delete(h.attachment.key, uid=h.attachment.uid) for h in hot if not h.attachment.deleting)
        return Outcome(status, again_in_s=LEAVING_AGAIN_S, also=also, wake=released != it.status.released)

    async def _leave(self, it: VirtualMachine, world: World) -> tuple[Write, ...]:
        """Its network is told when its row is gone."""
        vpc = await world.store.find(it.status.vpc) if it.status.vpc else None
        return (Wake(vpc.key),) if vpc is not None else ()
