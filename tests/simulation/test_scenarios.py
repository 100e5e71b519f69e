"""What takes time, played in virtual time without faults: guests that hold a disk, hosts that run full or are
lost, and what happens at the same moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from hansa.control.loop import Loop
from hansa.control.networks import address_scope
from hansa.engines.ports import NetworkHost
from hansa.engines.simulated import SimulatedCompute, SimulatedVolumes
from hansa.kinds.compute import Disk, HotswapDiskAttachment, Snapshot, VirtualMachine
from hansa.kinds.resource import AnyResource, Condition, Key
from hansa.store.port import Claim, Delete, Reserve

from .clockwork import VirtualClock, run
from .test_convergence import ASKING, SCOPE, Simulation, _attachment, _disk, _machine, _restored

R = TypeVar("R", bound=AnyResource)


class Scene(Simulation):
    """A quiet world in zone a: machine m0 with disk d0, and disk e0 that nobody uses."""

    loop: Loop
    task: asyncio.Task[None]

    async def get(self, kind: type[R], name: str) -> R:
        return kind(await self.store.get(Key(kind.kind, SCOPE, name)))

    async def ready(self, kind: type[AnyResource], name: str) -> Condition:
        condition: Condition | None = (await self.get(kind, name)).status.condition("Ready")
        assert condition is not None
        return condition

    async def there(self, kind: type[AnyResource], name: str) -> bool:
        return name in [s.key.name for s in await self._all(kind.kind)]

    async def machine(self) -> VirtualMachine:
        return await self.get(VirtualMachine, "m0")

    async def attach(self) -> None:
        await self._create(HotswapDiskAttachment, _attachment("h0", "m0", "e0"))
        await asyncio.sleep(3)

    @property
    def host(self) -> SimulatedCompute:
        return self.hosts()[0]

    @property
    def volumes(self) -> SimulatedVolumes:
        return self.pools()[0]

    async def plugged(self) -> tuple[str, ...]:
        return (await self.host.observe((await self.machine()).uid)).hot_disks


@asynccontextmanager
async def scene(clock: VirtualClock) -> AsyncIterator[Scene]:
    it = Scene(7, clock)
    it.faults.before = it.faults.after = it.faults.delay_s = 0.0
    await it.start()
    it.loop, it.task = it.begin_loop()
    await it._create(Disk, _disk("d0", "a", 10))
    await it._create(VirtualMachine, _machine("m0", "d0", "a"))
    await it._create(Disk, _disk("e0", "a", 10))
    await asyncio.sleep(10)
    assert (await it.machine()).ready
    yield it
    assert it.loop.counts.bugs == 0
    await it.loop.stop()
    await it.task
    await it.store.close()


Play = Callable[[Scene], Coroutine[Any, Any, None]]


def played(play: Play) -> Callable[[], None]:
    """A test that plays in virtual time."""

    async def main(clock: VirtualClock) -> None:
        async with scene(clock) as it:
            await play(it)

    def test() -> None:
        run(main)

    test.__doc__ = play.__doc__
    return test


@played
async def test_a_disk_is_plugged_in_and_out_within_two_seconds(it: Scene) -> None:
    await it._create(HotswapDiskAttachment, _attachment("h0", "m0", "e0"))
    await asyncio.sleep(2)
    assert (await it.get(HotswapDiskAttachment, "h0")).ready and await it.plugged()
    await it._delete(HotswapDiskAttachment, "h0")
    await asyncio.sleep(2)
    assert not await it.there(HotswapDiskAttachment, "h0") and not await it.plugged()


@played
async def test_a_guest_that_does_not_let_go_is_named_after_half_a_minute(it: Scene) -> None:
    await it.attach()
    disk, asked = await it.get(Disk, "e0"), 0
    it.host.hold(disk.uid)
    apply = it.host.apply

    async def counted(wanted: Any) -> Any:
        nonlocal asked
        asked += 1
        return await apply(wanted)

    it.host.apply = counted  # type: ignore[method-assign]
    await it._delete(HotswapDiskAttachment, "h0")
    await asyncio.sleep(29)
    assert (await it.ready(HotswapDiskAttachment, "h0")).reason == "Deleting" and 20 <= asked <= 40
    await asyncio.sleep(3)
    pending = await it.ready(HotswapDiskAttachment, "h0")
    assert pending.reason == "DetachPending" and "unmount it there, or stop the machine" in pending.message
    listed = (await it.machine()).status.hotswap_disk_attachments[0]
    assert listed.attached and listed.message == "the guest does not let go of it yet"
    asked = 0
    await asyncio.sleep(100)
    assert 15 <= asked <= 25 and (await it.machine()).ready
    assert len(await it.store.claims(f"uses/{disk.uid}")) == 1
    it.host.let_go(disk.uid)
    await asyncio.sleep(6)
    assert not await it.there(HotswapDiskAttachment, "h0") and not await it.store.claims(f"uses/{disk.uid}")


@played
async def test_stopping_the_machine_takes_the_disk_from_a_guest_that_holds_it(it: Scene) -> None:
    await it.attach()
    it.host.hold((await it.get(Disk, "e0")).uid)
    await it._delete(HotswapDiskAttachment, "h0")
    await asyncio.sleep(40)
    await it._patch(VirtualMachine, "m0", {"running": False})
    await asyncio.sleep(3)
    assert not await it.there(HotswapDiskAttachment, "h0") and (await it.machine()).ready


@played
async def test_a_machine_that_its_full_host_holds_back_goes_on_by_itself(it: Scene) -> None:
    it.host.pause((await it.machine()).uid, "the disk of this host is full")
    await it._create(HotswapDiskAttachment, _attachment("h0", "m0", "e0"))
    await asyncio.sleep(12)
    held = await it.ready(VirtualMachine, "m0")
    assert (held.status, held.reason, held.message) == ("False", "HostDiskFull", "the disk of this host is full")
    assert (await it.machine()).status.virtual_machine_status == "Running"
    assert (await it.ready(HotswapDiskAttachment, "h0")).reason == "Provisioning"
    it.host.resume((await it.machine()).uid)
    await asyncio.sleep(6)
    assert (await it.machine()).ready and (await it.get(HotswapDiskAttachment, "h0")).ready


@pytest.mark.parametrize(("fate", "failures", "within_s"), [("lose", 0, 11), ("die", 1, 14)])
def test_a_machine_that_is_started_again_gets_its_disks_back(fate: str, failures: int, within_s: float) -> None:
    async def play(it: Scene) -> None:
        await it.attach()
        before = await it.machine()
        getattr(it.host, fate)(before.uid)
        assert not await it.plugged()
        await asyncio.sleep(within_s + 20)  # the host is swept twice a minute
        after = await it.machine()
        assert after.ready and after.status.failures == failures and after.status.not_before is None
        assert await it.plugged() == ((await it.get(Disk, "e0")).uid,)
        assert (await it.get(HotswapDiskAttachment, "h0")).ready
        assert after.generation == before.generation

    played(play)()


@played
async def test_a_disk_that_finds_no_room_to_grow_stays_where_it_is(it: Scene) -> None:
    await it.attach()
    it.volumes.full = "the host's disk is 90 % full"
    for name in ("e0", "d0"):
        await it._patch(Disk, name, {"diskSize": {"amount": 20, "unit": "GB"}})
    await asyncio.sleep(15)
    for name in ("e0", "d0"):
        said = await it.ready(Disk, name)
        assert (said.reason, said.message) == ("HostDiskFull", it.volumes.full)
        assert str((await it.get(Disk, name)).status.disk_size) == "10 GB"
    assert await it.plugged() and (await it.machine()).ready
    assert (await it.get(HotswapDiskAttachment, "h0")).ready
    await it._patch(VirtualMachine, "m0", {"running": False})
    await asyncio.sleep(3)
    assert (await it.machine()).status.virtual_machine_status == "Stopped"
    it.volumes.full = ""
    await asyncio.sleep(12)
    assert str((await it.get(Disk, "e0")).status.disk_size) == "20 GB" and (await it.get(Disk, "e0")).ready


@played
async def test_a_machine_that_switched_itself_off_gives_disks_back_at_once(it: Scene) -> None:
    await it.attach()
    it.host.power_off((await it.machine()).uid)
    await asyncio.sleep(35)
    assert (await it.ready(VirtualMachine, "m0")).reason == "GuestPoweredOff"
    assert "when m0 starts" in (await it.ready(HotswapDiskAttachment, "h0")).message
    await it._delete(HotswapDiskAttachment, "h0")
    await asyncio.sleep(1)
    assert not await it.there(HotswapDiskAttachment, "h0")


@played
async def test_a_machine_that_cannot_go_on_gives_disks_back(it: Scene) -> None:
    """Its spec names a disk of another zone, set while it was stopped: ReferenceInvalid, and no pass reaches
    the engine; an attachment goes all the same."""
    await it.attach()
    await it._create(Disk, _disk("x0", "b", 10))
    await it._patch(VirtualMachine, "m0", {"running": False})
    await asyncio.sleep(5)
    disks = [{"diskRef": "d0", "bootFrom": True}, {"diskRef": "x0"}]
    await it._patch(VirtualMachine, "m0", {"disks": disks, "running": True})
    await asyncio.sleep(5)
    assert (await it.ready(VirtualMachine, "m0")).reason == "ReferenceInvalid"
    await it._delete(HotswapDiskAttachment, "h0")
    await asyncio.sleep(2)
    assert not await it.there(HotswapDiskAttachment, "h0")


@played
async def test_a_machine_that_no_address_is_left_for_gives_disks_back(it: Scene) -> None:
    await it._create(Disk, _disk("d1", "a", 10))
    await it._create(VirtualMachine, _machine("m1", "d1", "a", running=False))
    await it._create(HotswapDiskAttachment, _attachment("h1", "m1", "e0"))
    await asyncio.sleep(5)
    subnet = await it.store.get(Key("Subnet", SCOPE, "default-se-sto-a"))
    taken = {h.claim.key for h in await it.store.claims(address_scope(subnet.uid))}
    free = (str(index) for index in range(4, 4095) if str(index) not in taken)
    await it.store.commit(Reserve("somebody", [Claim(address_scope(subnet.uid), index) for index in free]))
    await it._patch(VirtualMachine, "m1", {"running": True})
    await asyncio.sleep(5)
    assert (await it.ready(VirtualMachine, "m1")).reason == "AddressesExceeded"
    await it._delete(HotswapDiskAttachment, "h1")
    await asyncio.sleep(2)
    assert not await it.there(HotswapDiskAttachment, "h1")


@played
async def test_an_attachment_made_before_its_disk_is_plugged_in_once_that_is_there(it: Scene) -> None:
    it.volumes.full = "full"
    await it._create(Disk, _disk("late", "a", 10))
    await it._create(HotswapDiskAttachment, _attachment("h0", "m0", "late"))
    await asyncio.sleep(3)
    waiting = await it.ready(HotswapDiskAttachment, "h0")
    assert waiting.reason == "WaitingForReference" and "HostDiskFull" in waiting.message
    assert (await it.machine()).status.hotswap_disk_attachments[0].message == "disk late is not made yet"
    it.volumes.full = ""
    await asyncio.sleep(12)
    assert (await it.get(HotswapDiskAttachment, "h0")).ready and len(await it.plugged()) == 1


@played
async def test_without_its_host_nobody_can_say_that_a_disk_is_free(it: Scene) -> None:
    await it.attach()
    engine = it.engines.by_host.pop("a-1")
    await it._delete(HotswapDiskAttachment, "h0")
    await asyncio.sleep(60)
    assert (await it.ready(VirtualMachine, "m0")).reason == "HostGone"
    assert (await it.ready(HotswapDiskAttachment, "h0")).reason == "DetachPending"
    it.engines.by_host["a-1"] = engine
    await asyncio.sleep(10)
    assert not await it.there(HotswapDiskAttachment, "h0") and not await it.plugged()


# -- copies -------------------------------------------------------------------------------------


@played
async def test_a_disk_deleted_past_its_guard_waits_for_the_copy_that_has_begun(it: Scene) -> None:
    it.volumes.copy_steps, it.volumes.held_back = 1, True
    await it._create(Snapshot, {"metadata": {"id": "s0"}, "spec": {"diskRef": "e0"}})
    await asyncio.sleep(3)
    await it.store.commit(Delete(Key("Disk", SCOPE, "e0")))
    await asyncio.sleep(30)
    going = await it.ready(Disk, "e0")
    assert (going.reason, going.message) == ("Deleting", "snapshot s0 is being made from it")
    it.volumes.held_back = False
    await asyncio.sleep(5)
    assert (await it.get(Snapshot, "s0")).ready and not await it.there(Disk, "e0")


@played
async def test_a_snapshot_whose_disk_goes_before_it_begins_says_so(it: Scene) -> None:
    it.volumes.full = "full"
    await it._patch(Disk, "e0", {"diskSize": {"amount": 20, "unit": "GB"}})
    await it._create(Snapshot, {"metadata": {"id": "s0"}, "spec": {"diskRef": "e0"}})
    await asyncio.sleep(3)
    assert (await it.ready(Snapshot, "s0")).reason == "WaitingForReference"
    await it.store.commit(Delete(Key("Disk", SCOPE, "e0")))
    await asyncio.sleep(3)
    said = await it.ready(Snapshot, "s0")
    assert said.reason == "ReferenceInvalid" and "e0" in said.message and not await it.there(Disk, "e0")
    await it._delete(Snapshot, "s0")
    await asyncio.sleep(3)
    assert not await it.there(Snapshot, "s0")


@played
async def test_a_snapshot_says_how_large_the_disk_was_when_it_was_copied(it: Scene) -> None:
    """The disk grows after the snapshot was decided and before the copy begins: its room follows."""
    it.volumes.full = "full"
    await it._create(Snapshot, {"metadata": {"id": "s0"}, "spec": {"diskRef": "e0"}})
    await asyncio.sleep(3)
    snapshot, disk = await it.get(Snapshot, "s0"), await it.get(Disk, "e0")
    assert str(snapshot.status.restore_size) == "10 GB"
    it.volumes._disks[disk.uid].size_bytes = 25 * 10**9
    it.volumes.full = ""
    await asyncio.sleep(20)
    snapshot = await it.get(Snapshot, "s0")
    assert snapshot.ready and str(snapshot.status.restore_size) == "25 GB"
    held = await it.store.claims_of(snapshot.uid)
    assert [h.claim.amount for h in held if h.claim.scope.startswith("pools/")] == [25 * 10**9]
    assert [h.claim.amount for h in held if h.claim.key == "compute.blockStorage"] == [25 * 10**9] * 2


@played
async def test_a_disk_and_a_snapshot_that_name_one_another_do_not_wait_in_a_circle(it: Scene) -> None:
    """The disk names an earlier snapshot of that name, which went before there was room for the disk."""
    await it._create(Disk, _disk("big", "a", 70))
    await it._create(Snapshot, {"metadata": {"id": "s0"}, "spec": {"diskRef": "e0"}})
    await asyncio.sleep(10)
    await it._create(Disk, _restored("r0", "s0", "a"))
    await asyncio.sleep(3)
    assert "no room" in (await it.ready(Disk, "r0")).message
    await it._delete(Snapshot, "s0")
    await asyncio.sleep(3)
    await it._create(Snapshot, {"metadata": {"id": "s0"}, "spec": {"diskRef": "r0"}})
    await asyncio.sleep(60)
    disk, snapshot = await it.ready(Disk, "r0"), await it.ready(Snapshot, "s0")
    assert disk.reason == "ReferenceInvalid" and "s0 went" in disk.message
    assert snapshot.reason == "ProvisioningFailed" and disk.message in snapshot.message
    for kind, name in ((Snapshot, "s0"), (Disk, "r0")):
        await it._delete(kind, name)
        await asyncio.sleep(2)
        assert not await it.there(kind, name)


# -- room ---------------------------------------------------------------------------------------


@played
async def test_what_finds_no_room_is_looked_at_every_half_minute(it: Scene) -> None:
    await it._create(Disk, _disk("big", "a", 81))
    await asyncio.sleep(1)
    assert (await it.ready(Disk, "big")).reason == "ProvisioningFailed"
    passes = it.loop.counts.passes
    await asyncio.sleep(300)
    assert it.loop.counts.passes - passes < 60  # ten of the disk, the rest of three hosts
    await it._delete(Disk, "e0")
    await asyncio.sleep(31)
    assert (await it.get(Disk, "big")).ready


@played
async def test_the_slower_of_two_disks_that_race_for_room_is_told(it: Scene) -> None:
    for name in ("one", "two"):
        await it.resources.create(ASKING, Disk, SCOPE, _disk(name, "a", 60))
    await asyncio.sleep(5)
    states = sorted([(await it.get(Disk, name)).ready for name in ("one", "two")])
    assert states == [False, True] and it.loop.counts.passes < 200


# -- networks -----------------------------------------------------------------------------------


@played
async def test_a_host_that_does_not_filter_takes_no_machine(it: Scene) -> None:
    network = it.engines.networks["a-1"]
    said = NetworkHost("namespaces", healthy=False, message="namespaces: a closed port was reached")

    async def host() -> NetworkHost:
        return said

    network.host = host  # type: ignore[method-assign]
    await asyncio.sleep(60)
    assert (await it.machine()).ready, "what runs there goes on"
    await it._create(Disk, _disk("d1", "a", 10))
    await it._create(VirtualMachine, _machine("m1", "d1", "a"))
    await asyncio.sleep(5)
    ready = await it.ready(VirtualMachine, "m1")
    assert ready.reason == "ProvisioningFailed" and "a closed port was reached" in ready.message
    said = replace(said, healthy=True, message="")
    await asyncio.sleep(60)
    assert (await it.get(VirtualMachine, "m1")).ready
