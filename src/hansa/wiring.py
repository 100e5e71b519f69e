"""The one place that builds and connects things: a cloud over a data folder."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import structlog
from starlette.types import ASGIApp

from hansa.api.actions import Actions
from hansa.api.admission import Gate
from hansa.api.app import Api
from hansa.api.audit import Audit
from hansa.api.caller import Callers, issuer_of
from hansa.api.console import Consoles
from hansa.api.gateways import Gateways
from hansa.api.identities import Identities
from hansa.api.keys import SigningKeys, write_private
from hansa.api.passwords import Passwords
from hansa.api.resources import Resources
from hansa.api.storage import Storage
from hansa.api.tokens import TokenService
from hansa.api.users import Users
from hansa.bootstrap import Credentials, ensure_cloud, write_environment
from hansa.clock import Clock, Ids, SystemClock, SystemIds
from hansa.config import Settings, run_folder
from hansa.control.accounts import revoke as revoke_credential
from hansa.control.buckets import encryption_key_rotated
from hansa.control.loop import Loop
from hansa.control.projects import project_born
from hansa.control.quotas import count_everything
from hansa.control.reconcilers import admissions, reconcilers
from hansa.control.s3keys import revoke_key, rotated, s3_key_born
from hansa.control.world import Contents, World
from hansa.datafolder import read_environment, starting
from hansa.engines.counted import CountedEngines, Engines
from hansa.engines.network.driver import LocalNetworks
from hansa.engines.ports import ComputeEngine, NetworkEngine, ObjectSource, VolumeEngine
from hansa.engines.qemu.disks import QemuVolumes
from hansa.engines.qemu.driver import QemuCompute
from hansa.engines.qemu.image_uses import enter
from hansa.engines.qemu.images import ImageStore
from hansa.engines.qemu.site import Site
from hansa.engines.shared import SharedEngines
from hansa.engines.simulated import Faults, SimulatedCompute, SimulatedNetwork, SimulatedVolumes
from hansa.errors import Conflict, HansaError, Invalid, Retry
from hansa.fleetfile import FleetFile, FleetHost, read_fleet
from hansa.fleetsums import made_hosts
from hansa.hands import Hands
from hansa.hosting import Hosting, socket_of
from hansa.kinds import catalogue
from hansa.kinds.resource import AnyResource, Document
from hansa.kinds.storage import MATERIAL, Bucket, EncryptionKey, S3Key
from hansa.metrics import Metrics
from hansa.observe import observe_loop, observe_store, operator_of
from hansa.places import complete_networks, write_places
from hansa.samefleet import SameFleet, digest_of, named_here
from hansa.sealing import Sealer
from hansa.store.open import is_postgres, open_store
from hansa.store.port import Birth, Claim, Query, Release, Reserve, Store, Wake, Write
from hansa.storing import open_index
from hansa.uploads import StoredUploads

assert catalogue.MODULES  # the registry is whole

log = structlog.get_logger("hansa")
WATCH_S = 5.0
SWEEP_S = 600.0
EXIT_AGAIN_S = 5.0


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
    app: ASGIApp
    metrics: Metrics
    hosting: Hosting | None = None  # None: the engines are in this process
    hands: Hands | None = None  # None: no other process has any
    same_fleet: SameFleet | None = None  # None: no other process is on this store
    close_engines: Callable[[], None] = lambda: None
    close_index: Callable[[], Awaitable[None]] | None = None
    close_objects: Callable[[], Awaitable[None]] | None = None
    close_passwords: Callable[[], None] = lambda: None

    async def serve_loop(self) -> None:
        """The loop and its housekeeping, until `stop`. Ends with an error when the hosts cannot be driven."""
        beside = {asyncio.create_task(self._sweep())}
        if self.hosting is not None:
            beside.add(asyncio.create_task(self.hosting.keep()))
        if self.hands is not None:
            beside.add(asyncio.create_task(self.hands.watch()))
        looping = asyncio.create_task(self.loop.run())
        try:
            ended, _ = await asyncio.wait({looping, *beside}, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
        finally:
            await self.loop.stop()
            for task in beside:
                task.cancel()
            await asyncio.gather(looping, *beside, return_exceptions=True)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                await self.store.sweep()
            except Retry as retry:
                log.warning("sweep", message=retry.message, detail=retry.detail)

    async def close(self) -> None:
        if self.hosting is not None:
            await self.hosting.close()
        if self.same_fleet is not None:
            with contextlib.suppress(Retry):  # it runs out
                await self.same_fleet.leave()
        if self.hands is not None:
            self.hands.leave()
        self.close_engines()
        self.close_passwords()
        await self.api.audit.flush()
        for close in (self.close_objects, self.close_index):
            if close is not None:
                await close()
        await self.store.close()


# -- the data folder ----------------------------------------------------------------------------


def sealer_of(settings: Settings, data: Path) -> Sealer:
    """The sealing keys that the settings name, else those of the data folder."""
    given = settings.seal_key.get_secret_value()
    return Sealer.load(data / "keys" / "sealing.key", key_file=settings.seal_key_file, given=given)


def cloud_identity(data: Path) -> str:
    """The id of this folder, made once: it marks every process and socket of this cloud."""
    file = data / "cloud-id"
    if not file.exists():
        write_private(file, os.urandom(4).hex())
    return file.read_text().strip()


# -- engines ------------------------------------------------------------------------------------


def build_engines(
    fleet: FleetFile,
    settings: Settings,
    clock: Clock,
    identity: str,
    on_exit: Callable[[str], None],
    objects: ObjectSource,
) -> tuple[FleetEngines, Callable[[], None]]:
    engines = FleetEngines()
    closers: list[Callable[[], None]] = []
    for made in made_hosts(fleet.regions, fleet.shapes):
        host = made.host
        if host.real:
            compute, volumes, network = _real(host, settings, identity, on_exit, objects)
            engines.by_host[host.id], engines.by_zone[made.zone] = compute, volumes
            engines.networks[host.id] = network
            closers.append(compute.close)
        else:
            engines.by_host[host.id] = simulated_host(host, clock)
            engines.networks[host.id] = SimulatedNetwork()
            engines.by_zone.setdefault(made.zone, SimulatedVolumes())

    def close() -> None:
        for each in closers:
            each()
        with contextlib.suppress(OSError):  # machines go on: their sockets are in there
            run_folder(identity).rmdir()

    return engines, close


def places_of(fleet: FleetFile) -> tuple[frozenset[str], frozenset[str]]:
    """Hosts and zones that have engines, as `build_engines` makes them."""
    made = list(made_hosts(fleet.regions, fleet.shapes))
    return frozenset(each.host.id for each in made), frozenset(each.zone for each in made)


def simulated_host(host: FleetHost, clock: Clock, faults: Faults | None = None) -> SimulatedCompute:
    return SimulatedCompute(
        host.id, clock, vcpus=host.vcpus, memory_bytes=host.memory_gb * 10**9, gpu_model=host.gpu_model, gpus=host.gpus,
        faults=faults,
    )  # fmt: skip


def _real(
    host: FleetHost, settings: Settings, identity: str, on_exit: Callable[[str], None], objects: ObjectSource
) -> tuple[QemuCompute, QemuVolumes, LocalNetworks]:
    """The engines of this machine: guests as QEMU processes, networks as its kernel or a switch of ours makes them."""
    if settings.accelerator:
        os.environ["HANSA_ACCELERATOR"] = settings.accelerator
    store = ImageStore(settings.image_cache)
    try:
        enter(store, identity, settings.data.absolute())
    except OSError as error:  # a cache that is only read: whoever cleans it up asks its owner
        log.warning("images", message="this cloud cannot be named in the image cache", detail=str(error))
    run = run_folder(identity)
    run.mkdir(mode=0o711, parents=True, exist_ok=True)
    site = Site(settings.data.absolute(), run, cloud_id=identity, guests_weight=settings.guests_weight)
    allowed = [word.strip() for word in settings.uplink_allowed.split(",") if word.strip()]
    network = LocalNetworks(
        run / "n", cloud_id=identity, mode=settings.network, uplink=settings.uplink, allowed=allowed
    )
    compute = QemuCompute(site, images=store, host_name=host.id, network=network, on_exit=on_exit)
    return compute, QemuVolumes(site, store, objects), network


# -- the start ----------------------------------------------------------------------------------


async def wake_machines(store: Store) -> None:
    """After a start every network that was made is looked at once, then every machine: adopted, or begun again."""
    networks = [
        s.key for s in (await store.list(Query("VirtualPrivateCloud", "", below=True))).items if s.status.get("hosts")
    ]
    machines = [s.key for s in (await store.list(Query("VirtualMachine", "", below=True))).items]
    keys = [*networks, *machines]
    for start in range(0, len(keys), 500):
        await store.commit(*(Wake(key) for key in keys[start : start + 500]), by="/hansa/start")


async def wake_keyless(store: Store) -> None:
    """Projects of before there were buckets are given the key of their objects."""
    for project in (await store.list(Query("Project", ""))).items:
        if await store.secret(project.uid, MATERIAL) is None:
            await store.commit(Wake(project.key), by="/hansa/start")


# -- the whole ----------------------------------------------------------------------------------


async def build_cloud(settings: Settings, base_url: str, trust: Mapping[str, str] | None = None) -> Cloud:
    """A cloud over `settings.data`, ready to serve. The folder must be locked by the caller. `trust`: variables with
    which clients know its certificate."""
    clock: Clock = SystemClock()
    ids = SystemIds()
    data = settings.data
    metrics = Metrics()
    fleet = read_fleet(settings.fleet)
    known = [region.id for region in fleet.regions]
    if settings.region not in known:
        raise Invalid.field(
            "HANSA_REGION", f"the fleet has no region {settings.region}; it has {', '.join(known[:20])}"
        )
    store = await open_store(settings.store_at, clock=clock, ids=ids)
    clock = store.clock
    observe_store(metrics, store)
    identity = cloud_identity(data)
    loop = asyncio.get_running_loop()
    waiting: set[asyncio.Task[None]] = set()

    def on_exit(uid: str) -> None:
        task = loop.create_task(_wake_uid(store, uid))
        waiting.add(task)
        task.add_done_callback(waiting.discard)

    objects = StoredUploads(settings, store, clock, partial(sealer_of, settings, data))
    hosting: Hosting | None = None
    hands: Hands | None = None
    same_fleet: SameFleet | None = None
    engines: Engines
    close: Callable[[], None] = _nothing
    if settings.role == "all" and not is_postgres(settings.store_at):
        await store.release("")  # whoever had the folder before is gone: the lock says so
        engines, close = build_engines(fleet, settings, clock, identity, on_exit, objects)
    else:
        hosts, zones = places_of(fleet)
        others = SharedEngines(socket_of(identity), hosts.__contains__, zones.__contains__)
        build = partial(build_engines, fleet, settings, clock, identity, on_exit, objects)
        engines = hosting = Hosting(data, others, build, partial(wake_machines, store))
        if settings.role != "api":
            await own_hosts(store, identity, data, take=settings.take_hosts)
        hands = Hands.enter(data, store, ids.token()[:16])
        await hands.look()
        digest = digest_of(fleet, stand_ins=settings.stand_ins)
        same_fleet = SameFleet(store, clock, hands.name, digest, named_here(data, settings.fleet))
    async with starting(data):
        if same_fleet is not None:
            await same_fleet.enter()
        index = await open_index(settings, clock)
        cloud = await assemble(
            store, CountedEngines(engines, metrics.engine_s.observe), settings, clock, ids, base_url, fleet, data,
            kept=read_environment(data), contents=index, metrics=metrics,
        )  # fmt: skip
        if settings.role != "control":
            write_environment(data, base_url, cloud.credentials, trust or {})
    cloud.close_engines, cloud.hosting, cloud.hands, cloud.same_fleet = close, hosting, hands, same_fleet
    cloud.close_index, cloud.close_objects = index.close, objects.close
    return cloud


def _nothing() -> None:
    """The engines of this process are closed by its `Hosting`."""


async def own_hosts(store: Store, identity: str, data: Path, *, take: bool) -> None:
    """Hosts belong to one data folder: what runs on them is known there alone. Raises Conflict when that is another's."""
    claim = Claim("engines", "hosts", note=f"{socket.gethostname()}:{data.absolute()}")
    held = next((h for h in await store.claims("engines") if h.owner != identity), None)
    if held is not None and take:
        await store.commit(Release(held.owner, ("engines",)), by="/hansa/start")
    elif held is not None:
        text = f"the hosts of this cloud are driven from {held.claim.note}: start control processes there"
        raise Conflict(f"{text}; only once that folder is gone for good, take its hosts over with --take-hosts")
    await store.commit(Reserve(identity, (claim,)), by="/hansa/start")


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
    store: Store, engines: Engines, settings: Settings, clock: Clock, ids: Ids, base_url: str, fleet: FleetFile,
    data: Path, *, kept: dict[str, str], contents: Contents, metrics: Metrics | None = None,
) -> Cloud:  # fmt: skip
    """Store and engines into a cloud: the same for `hansa up` and for tests. `contents`: what is in buckets."""
    sealer = sealer_of(settings, data)
    keys = SigningKeys.in_folder(data / "keys", sealer)
    world = World(store, engines, clock, ids, settings, contents, sealer, _judge_bucket)
    await write_places(store, ids, fleet, stand_ins=settings.stand_ins, clock=clock)
    await complete_networks(world)

    async def unseal(uid: str, name: str) -> bytes | None:
        sealed = await store.secret(uid, name)
        return None if sealed is None else sealer.open(sealed, f"{uid}/{name}")

    loop = Loop(world, reconcilers(unseal), settings.loop_tasks)
    store.on_commit(loop.wake)
    credentials = await ensure_cloud(
        store, clock, ids, project=settings.project, region=settings.region,
        project_born=partial(_born_in, world), s3_key_born=partial(_key_born_in, world), unseal=unseal, kept=kept,
    )  # fmt: skip
    await count_everything(world, partial(store.commit, by="/hansa/start"))
    await wake_keyless(store)
    if settings.role == "all":
        await wake_machines(store)
    gate = Gate(store)
    storage = Storage(store, gate, sealer, contents)
    resources = Resources(
        store, admissions(world), gate, sealer, clock, ids, storage, settings.quota_limits, storage.besides()
    )
    actions = Actions(
        resources, store, gate, clock, partial(_log, world), _revoke, partial(_rotated, world), loop.last_error
    )
    consoles = Consoles(resources, keys, base_url, partial(_engine_of, world))
    issuer = issuer_of(base_url)
    audit = Audit(store, gate, clock, ids, credentials.organization)
    passwords = Passwords(store, sealer, clock, ids)
    identities = Identities(resources, Users(resources, passwords), audit)
    tokens = TokenService(store, clock, ids, keys, settings, issuer=issuer, passwords=passwords)
    api = Api(
        resources, actions, consoles, identities, audit, tokens,
        Callers(store, clock, keys, issuer), ids, base_url, _changes(store), partial(_ready, store),
        Gateways(store, clock, keys, issuer),
    )  # fmt: skip
    metrics = metrics or Metrics()
    observe_loop(metrics, loop)
    app = operator_of(api, ids, settings, metrics, store, None if settings.role == "api" else loop)
    return Cloud(store, loop, api, credentials, world, app, metrics, close_passwords=passwords.close)


def _judge_bucket(bucket: Bucket, before: Bucket | None) -> None:
    """The rules of S3 for documents in a bucket's spec; loaded with the first bucket."""
    from hansa.gateways.s3.rules.judging import judge

    judge(bucket, before)


async def _born_in(world: World, it: AnyResource) -> Birth:
    return await project_born(it, world)


async def _key_born_in(world: World, it: AnyResource) -> Birth:
    return await s3_key_born(it, world)


def _engine_of(world: World, it: AnyResource) -> ComputeEngine | None:
    return world.engines.compute(it.status.host or "")


async def _log(world: World, it: AnyResource, count: int) -> bytes:
    engine = _engine_of(world, it)
    return b"" if engine is None else await engine.log(it.uid, count)


async def _revoke(it: AnyResource, reason: str, now: float) -> list[Write]:
    end = revoke_key if isinstance(it, S3Key) else revoke_credential
    return await end(it, reason, now)


def _rotated(world: World, it: AnyResource, grace_s: float) -> tuple[tuple[Write, ...], Document]:
    if isinstance(it, EncryptionKey):
        return encryption_key_rotated(it, world), {}
    return rotated(it, grace_s, world)


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
