"""The one place that builds and connects things: a cloud over a data folder."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import structlog

from hansa.api.actions import Actions
from hansa.api.admission import Gate
from hansa.api.app import Api
from hansa.api.caller import Callers, issuer_of
from hansa.api.console import Consoles
from hansa.api.keys import SigningKeys, write_private
from hansa.api.resources import Resources
from hansa.api.tokens import TokenService
from hansa.bootstrap import Credentials, ensure_cloud, read_environment, write_environment
from hansa.clock import Clock, Ids, SystemClock, SystemIds
from hansa.config import Settings, run_folder
from hansa.control.accounts import revoke
from hansa.control.loop import Loop
from hansa.control.projects import project_born
from hansa.control.reconcilers import admissions, reconcilers
from hansa.control.world import World
from hansa.data.catalogue import images, profiles
from hansa.engines.network.driver import LocalNetworks
from hansa.engines.ports import ComputeEngine, NetworkEngine, VolumeEngine
from hansa.engines.qemu.disks import QemuVolumes
from hansa.engines.qemu.driver import QemuCompute
from hansa.engines.qemu.images import ImageStore
from hansa.engines.qemu.site import Site
from hansa.engines.simulated import Faults, SimulatedCompute, SimulatedNetwork, SimulatedVolumes
from hansa.errors import HansaError, NotFound, Retry
from hansa.fleetfile import FleetFile, FleetHost, read_fleet
from hansa.kinds import catalogue
from hansa.kinds.resource import AnyResource, Document, Key
from hansa.sealing import Sealer
from hansa.store.open import open_store
from hansa.store.port import Birth, Create, Query, SetStatus, Store, Update, Wake, Write

assert catalogue.MODULES  # the registry is whole

log = structlog.get_logger("hansa")
WATCH_S = 5.0
SWEEP_S = 600.0
EXIT_AGAIN_S = 5.0


class AlreadyRunning(HansaError):
    """Another `hansa up` holds this data folder."""


@dataclass(slots=True)
class FleetEngines:
    """Engines by host and by zone, as the fleet file says."""

    by_host: dict[str, ComputeEngine] = field(default_factory=dict)
    by_zone: dict[str, VolumeEngine] = field(default_factory=dict)
    networks: dict[str, NetworkEngine] = field(default_factory=dict)

    def compute(self, host: str) -> ComputeEngine | None:
        return self.by_host.get(host)

    def volumes(self, zone: str) -> VolumeEngine | None:
        return self.by_zone.get(zone)

    def network(self, host: str) -> NetworkEngine | None:
        return self.networks.get(host)


@dataclass(slots=True)
class Cloud:
    """Everything that runs: the API over the store, the loop over the engines."""

    store: Store
    loop: Loop
    api: Api
    credentials: Credentials
    world: World
    close_engines: Callable[[], None] = lambda: None

    async def serve_loop(self) -> None:
        """The loop and its housekeeping, until `stop`."""
        sweeping = asyncio.create_task(self._sweep())
        try:
            await self.loop.run()
        finally:
            sweeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sweeping

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                await self.store.sweep()
            except Retry as retry:
                log.warning("sweep", message=retry.message, detail=retry.detail)

    async def close(self) -> None:
        self.close_engines()
        await self.store.close()


# -- the data folder ----------------------------------------------------------------------------


def lock_folder(data: Path) -> int:
    """Takes the folder for this process; the lock ends with it. Raises AlreadyRunning."""
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(data / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = (data / "pid").read_text().strip() if (data / "pid").exists() else "unknown"
        os.close(handle)
        raise AlreadyRunning(f"a cloud is running on {data} already (process {holder}); stop it first") from None
    write_private(data / "pid", f"{os.getpid()}\n")
    return handle


def cloud_identity(data: Path) -> str:
    """The id of this folder, made once: it marks every process and socket of this cloud."""
    file = data / "cloud-id"
    if not file.exists():
        write_private(file, os.urandom(4).hex())
    return file.read_text().strip()


# -- engines ------------------------------------------------------------------------------------


def build_engines(
    fleet: FleetFile, settings: Settings, clock: Clock, identity: str, on_exit: Callable[[str], None]
) -> tuple[FleetEngines, Callable[[], None]]:
    engines = FleetEngines()
    closers: list[Callable[[], None]] = []
    for region in fleet.regions:
        for host in region.hosts:
            zone = f"{region.id}-{host.zone}"
            if host.real:
                compute, volumes, network = _real(host, settings, identity, on_exit)
                engines.by_host[host.id], engines.by_zone[zone] = compute, volumes
                engines.networks[host.id] = network
                closers.append(compute.close)
            else:
                engines.by_host[host.id] = simulated_host(host, clock)
                engines.networks[host.id] = SimulatedNetwork()
                engines.by_zone.setdefault(zone, SimulatedVolumes())

    def close() -> None:
        for each in closers:
            each()
        with contextlib.suppress(OSError):  # machines go on: their sockets are in there
            run_folder(identity).rmdir()

    return engines, close


def simulated_host(host: FleetHost, clock: Clock, faults: Faults | None = None) -> SimulatedCompute:
    return SimulatedCompute(
        host.id, clock, vcpus=host.vcpus, memory_bytes=host.memory_gb * 10**9, gpu_model=host.gpu_model, gpus=host.gpus,
        faults=faults,
    )  # fmt: skip


def _real(
    host: FleetHost, settings: Settings, identity: str, on_exit: Callable[[str], None]
) -> tuple[QemuCompute, QemuVolumes, LocalNetworks]:
    """The engines of this machine: guests as QEMU processes, networks as its kernel or a switch of ours makes them."""
    if settings.accelerator:
        os.environ["HANSA_ACCELERATOR"] = settings.accelerator
    store = ImageStore(settings.image_cache)
    run = run_folder(identity)
    run.mkdir(mode=0o711, parents=True, exist_ok=True)
    site = Site(settings.data.absolute(), run, cloud_id=identity)
    allowed = [word.strip() for word in settings.uplink_allowed.split(",") if word.strip()]
    network = LocalNetworks(
        run / "n", cloud_id=identity, mode=settings.network, uplink=settings.uplink, allowed=allowed
    )
    compute = QemuCompute(site, images=store, host_name=host.id, network=network, on_exit=on_exit)
    return compute, QemuVolumes(site, store), network


# -- what every cloud knows from the start ------------------------------------------------------


async def write_places(store: Store, ids: Ids, fleet: FleetFile, *, stand_ins: bool) -> None:
    """Regions, zones, hosts and catalogues as objects, made to match the file. Idempotent."""
    wanted: dict[Key, tuple[Document, Document]] = {}
    for region in fleet.regions:
        wanted[Key("Region", "", region.id)] = ({"name": region.name, "country": region.country}, {})
        for zone in region.zones:
            wanted[Key("Zone", "", f"{region.id}-{zone.letter}")] = (
                {"region": region.id, "letter": zone.letter, "site": zone.site, "country": region.country,
                 "source": zone.source}, {},
            )  # fmt: skip
        for host in region.hosts:
            room = {
                "vCPUs": host.vcpus,
                "memoryBytes": host.memory_gb * 10**9,
                "gpuModel": host.gpu_model,
                "gpus": host.gpus,
            }
            wanted[Key("Host", "", host.id)] = (
                {"region": region.id, "zone": host.zone, "simulated": not host.real, "capacity": room}, {},
            )  # fmt: skip
    for name, spec in profiles().items():
        wanted[Key("ComputeProfile", "global", name)] = (spec, {})
    for name, (spec, family) in images(stand_ins=stand_ins).items():
        wanted[Key("DiskImage", "global", name)] = (spec, {"family": family})
    await _match(store, ids, wanted)


async def _match(store: Store, ids: Ids, wanted: dict[Key, tuple[Document, Document]]) -> None:
    writes: list[Write] = []
    for key, (spec, status) in wanted.items():
        looked_after = key.kind == "Host"
        try:
            stored = await store.get(key)
        except NotFound:
            writes.append(
                Create(key, ids.uid(), spec, status=status, observed=0 if looked_after else 1, due=looked_after)
            )
            continue
        if stored.spec != spec:
            writes.append(Update(key, stored.user_revision, spec=spec, observed=None if looked_after else 1))
        if looked_after:
            writes.append(Wake(key))
        elif stored.status != status:
            generation = stored.generation + (stored.spec != spec)
            writes.append(SetStatus(key, generation, status, None))
    if writes:
        await store.commit(*writes, by="/hansa/start")


async def wake_machines(store: Store) -> None:
    """After a start every network that was made is looked at once, then every machine: adopted, or begun again."""
    networks = [
        s.key for s in (await store.list(Query("VirtualPrivateCloud", "", below=True))).items if s.status.get("hosts")
    ]
    machines = [s.key for s in (await store.list(Query("VirtualMachine", "", below=True))).items]
    keys = [*networks, *machines]
    for start in range(0, len(keys), 500):
        await store.commit(*(Wake(key) for key in keys[start : start + 500]), by="/hansa/start")


# -- the whole ----------------------------------------------------------------------------------


async def build_cloud(settings: Settings, base_url: str) -> Cloud:
    """A cloud over `settings.data`, ready to serve. The folder must be locked by the caller."""
    clock: Clock = SystemClock()
    ids = SystemIds()
    data = settings.data
    store = await open_store(settings.store_at, clock=clock, ids=ids)
    clock = store.clock
    fleet = read_fleet(settings.fleet)
    identity = cloud_identity(data)
    loop = asyncio.get_running_loop()
    waiting: set[asyncio.Task[None]] = set()

    def on_exit(uid: str) -> None:
        task = loop.create_task(_wake_uid(store, uid))
        waiting.add(task)
        task.add_done_callback(waiting.discard)

    engines, close = build_engines(fleet, settings, clock, identity, on_exit)
    cloud = await assemble(store, engines, settings, clock, ids, base_url, fleet, data, kept=read_environment(data))
    cloud.close_engines = close
    write_environment(data, base_url, cloud.credentials)
    return cloud


async def _wake_uid(store: Store, uid: str) -> None:
    """A guest ended by itself. While the database is away it is said again."""
    while True:
        try:
            stored = await store.find(uid)
            if stored is not None:
                await store.commit(Wake(stored.key), by="/hansa/engine")
            return
        except Retry as retry:
            log.warning("exit", uid=uid, message=retry.message, detail=retry.detail)
        await asyncio.sleep(EXIT_AGAIN_S)


async def assemble(
    store: Store, engines: FleetEngines, settings: Settings, clock: Clock, ids: Ids, base_url: str, fleet: FleetFile,
    data: Path, *, kept: dict[str, str],
) -> Cloud:  # fmt: skip
    """Store and engines into a cloud: the same for `hansa up` and for tests."""
    sealer = Sealer.load(data / "keys" / "sealing.key")
    keys = SigningKeys.in_folder(data / "keys")
    world = World(store, engines, clock, ids, settings)
    await write_places(store, ids, fleet, stand_ins=settings.stand_ins)

    async def unseal(uid: str, name: str) -> bytes | None:
        sealed = await store.secret(uid, name)
        return None if sealed is None else sealer.open(sealed, f"{uid}/{name}")

    loop = Loop(world, reconcilers(unseal), settings.loop_tasks)
    store.on_commit(loop.wake)
    credentials = await ensure_cloud(
        store, clock, ids, project=settings.project, region=settings.region,
        project_born=partial(_born_in, world), kept=kept,
    )  # fmt: skip
    await wake_machines(store)
    gate = Gate(store)
    resources = Resources(store, admissions(world), gate, sealer, clock, ids)
    actions = Actions(resources, store, gate, clock, partial(_log, world), _revoke, loop.last_error)
    consoles = Consoles(resources, keys, base_url, partial(_engine_of, world))
    issuer = issuer_of(base_url)
    api = Api(
        resources, actions, consoles, TokenService(store, clock, ids, keys, settings, issuer=issuer),
        Callers(store, clock, keys, issuer), ids, base_url, _changes(store), partial(_ready, store),
    )  # fmt: skip
    return Cloud(store, loop, api, credentials, world)


async def _born_in(world: World, it: AnyResource) -> Birth:
    return await project_born(it, world)


def _engine_of(world: World, it: AnyResource) -> ComputeEngine | None:
    return world.engines.compute(it.status.host or "")


async def _log(world: World, it: AnyResource, count: int) -> bytes:
    engine = _engine_of(world, it)
    return b"" if engine is None else await engine.log(it.uid, count)


async def _revoke(it: AnyResource, reason: str, now: float) -> list[Write]:
    return await revoke(it, reason, now)


async def _ready(store: Store) -> Document:
    try:
        return {"ready": True, "revision": await store.revision()}
    except HansaError as error:
        return {"ready": False, "why": error.message}


def _changes(store: Store) -> Callable[[int], Awaitable[None]]:
    """Waits until something is committed, or a few seconds."""
    pulse = asyncio.Event()

    def told(_revision: int) -> None:
        pulse.set()

    store.on_commit(told)

    async def changed(_after: int) -> None:
        pulse.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WATCH_S):
                await pulse.wait()

    return changed
