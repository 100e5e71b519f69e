"""The one place that builds a process which serves S3, and runs it: a gateway over the index, the blobs and the directory.

It writes nothing of the control store: what the store says it follows, and what users change about buckets it asks the
API for. Around the gateway stand pages for operators, under a name that no bucket can have: `/-/metrics`, `/-/health/live`,
`/-/health/ready`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from starlette.types import ASGIApp

from hansa.api.caller import AUDIENCE, issuer_of, key_holder
from hansa.api.gateways import gateway_claims
from hansa.api.keys import SigningKeys
from hansa.api.operator import Check, Operator, nothing_else
from hansa.clock import Clock, Ids, SystemClock, SystemIds
from hansa.config import Settings
from hansa.datafolder import read_environment, starting
from hansa.edge import authority
from hansa.edge.guest import Limits
from hansa.edge.place import Place as Listening
from hansa.edge.place import place_of
from hansa.edge.s3 import S3Places, names_for, places_at, split
from hansa.edge.server import Server, allow_descriptors, make_server
from hansa.edge.streaming import StreamingHttp
from hansa.edge.tls import Certificates
from hansa.engines.blobs.port import BlobEngine
from hansa.errors import Invalid, Retry
from hansa.gateways.api import ApiClient, ApiPlace
from hansa.gateways.meter import Meter
from hansa.gateways.s3.app import S3App
from hansa.gateways.s3.directory import Directory
from hansa.gateways.s3.duties.chores import Chores, Duty, Pace
from hansa.gateways.s3.duties.duties import chores_of
from hansa.gateways.s3.duties.scrub import Report, Scrub
from hansa.gateways.s3.following import Follower
from hansa.gateways.s3.gateway import Gateway, GatewaySettings
from hansa.gateways.s3.ports import S3Identity
from hansa.gateways.s3.sealing.content import Content
from hansa.gateways.s3.sealing.segments import Place
from hansa.gateways.s3.upstream import Upstream
from hansa.gateways.s3.usage import Counting
from hansa.kinds import catalogue
from hansa.metrics import S3Metrics, Sample
from hansa.objectindex.port import ObjectIndex
from hansa.observe import observe_server
from hansa.sealing import Sealer
from hansa.store.open import open_reader
from hansa.store.port import Store
from hansa.storing import claim, open_blobs, open_index

assert catalogue.MODULES  # the registry is whole

log = structlog.get_logger("hansa.s3")
OWN = "/-"
TOKEN_S = 60.0  # of one that is signed for a call of the API
END_S = 20  # for requests under way, once it is told to end
SCRUB_S = 7 * 86_400.0  # from the end of one round over all stored bytes to the next
KEYS_S = 60.0  # for the API to make the keys of a new folder


@dataclass(slots=True)
class S3:
    """Everything of one process."""

    app: ASGIApp
    store: Store
    follower: Follower
    meter: Meter
    gateway: Gateway
    blobs: BlobEngine
    metrics: S3Metrics
    chores: Chores
    scrub: Scrub

    async def close(self) -> None:
        """What was counted is written down; what goes on elsewhere is left alone."""
        self.meter.close_window()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2.0):
                await self.meter.tell()
        await self.gateway.content.close()
        await self.blobs.close()
        await self.gateway.index.close()
        await self.store.close()


# -- parts ----------------------------------------------------------------------------------------


def api_place(settings: Settings) -> ApiPlace:
    """Where the API is: as `hansa.env` says, or the settings. Raises Retry while nobody has said it."""
    said = read_environment(settings.data)
    url = settings.url or said.get("HANSA_API_URL", "")
    if not url:
        raise Retry("no API has started on this folder yet, and HANSA_URL does not say where one is")
    trusted = said.get("HANSA_CA_FILE", "")
    return ApiPlace(url, settings.api_at, Path(trusted) if trusted else None)


def token_of(
    identity: S3Identity, holder: str, issuer: str, keys: SigningKeys, ids: Ids, now: float, lent: str = ""
) -> str:
    """Lets the API hear a call in the name of who holds a key; it looks again whether the key counts.

    `holder`: the uid of the key's object. `lent`: the bucket that its own policy or ACL lets them change.
    """
    return keys.sign({
        "iss": issuer, "aud": AUDIENCE, "sub": identity.access_key, "iat": int(now), "exp": int(now + TOKEN_S),
        "jti": ids.token(), "account": identity.caller.ref, "via": identity.ref, "proof": holder,
        "accessKey": identity.access_key, **({"lent": lent} if lent else {}),
    })  # fmt: skip


async def keys_of(settings: Settings) -> tuple[Sealer, SigningKeys]:
    """The keys of the folder; of a new one once the API has begun, which makes them."""
    for _ in range(int(KEYS_S * 10)):
        if settings.seal_key.get_secret_value() or settings.seal_key_file or (settings.data / "keys").is_dir():
            break
        await asyncio.sleep(0.1)
    async with starting(settings.data):
        given = settings.seal_key.get_secret_value()
        sealer = Sealer.load(settings.data / "keys" / "sealing.key", key_file=settings.seal_key_file, given=given)
        return sealer, SigningKeys.in_folder(settings.data / "keys", sealer)


async def build_s3(settings: Settings) -> S3:
    """The whole, its directory filled. Raises HansaError for what is wrong with settings, keys or databases."""
    ids, metrics = SystemIds(), S3Metrics()
    store = await open_reader(settings.store_at, clock=SystemClock(), ids=ids)
    clock = store.clock
    sealer, keys = await keys_of(settings)
    directory = Directory(clock, sealer.open, region=settings.region, quotas=settings.quota_limits)
    follower = Follower(store, directory, partial(key_holder, store))
    await follower.load()
    index = await open_index(settings, clock)
    blobs = await open_blobs(settings)
    await claim(index, blobs, ids)
    api = ApiClient(partial(api_place, settings))
    name = ids.token()[:12]

    def mint(identity: S3Identity, lent: str) -> str:
        holder = directory.holder_of(identity.access_key)
        return token_of(identity, holder, issuer_of(api.place().url), keys, ids, clock.now(), lent)

    def mint_own() -> str:
        return keys.sign(gateway_claims(issuer_of(api.place().url), name, clock.now()))

    meter = Meter(name, settings.data / "s3" / "usage", api, clock, mint_own)
    counting = Counting(meter, metrics, directory)
    gateway = Gateway(
        directory, Upstream(api, directory, mint, mint_own, ids), index,
        Content(index, blobs, directory, clock=clock, newest=directory.newest), clock, ids, gateway_settings(settings), counting,
    )  # fmt: skip
    scrub = Scrub(index, blobs, gateway.content.keyring, partial(place_of_bucket, directory), clock)
    chores = chores_of(
        gateway, blobs, directory.all_buckets, day_s=settings.s3_lifecycle_day_s, touched=counting.touched,
        more=(Duty("scrub", SCRUB_S, scrub.work),),
    )  # fmt: skip
    s3 = S3(S3App(gateway), store, follower, meter, gateway, blobs, metrics, chores, scrub)
    s3.app = _with_pages(s3, settings, ids)
    return s3


def place_of_bucket(directory: Directory, uid: str) -> Place | None:
    """Where the bytes of a bucket belong: what their keys are bound to. None for one that is gone."""
    view = directory.bucket_by_uid(uid)
    return Place(view.project, view.region, view.uid) if view is not None else None


def gateway_settings(settings: Settings) -> GatewaySettings:
    return GatewaySettings(
        domains=split(settings.s3_domains),
        acl_open=settings.s3_acl == "open",
        processes=settings.s3_processes,
    )


def _with_pages(s3: S3, settings: Settings, ids: Ids) -> ASGIApp:
    """The gateway, and under `/-/` what operators ask of every process."""
    checks: dict[str, Check] = {"directory": s3.follower.health, "index": partial(_index_answers, s3.gateway.index)}
    pages = Operator(nothing_else, ids, s3.metrics, settings.metrics, checks)
    served = s3.app

    async def app(scope: Any, receive: Any, send: Any) -> None:
        path = scope.get("path", "")
        if scope["type"] == "http" and path.startswith(OWN + "/"):
            await pages({**scope, "path": path[len(OWN) :]}, receive, send)
        else:
            await served(scope, receive, send)

    return app


async def _index_answers(index: ObjectIndex) -> str:
    await index.held_by("")
    return ""


def observe(s3: S3, server: Server) -> None:
    observe_server(s3.metrics, server)
    loop = asyncio.get_running_loop()
    s3.metrics.s3_behind.one(lambda: max(0.0, loop.time() - s3.follower.seen_at))
    s3.metrics.s3_untold.one(lambda: len(s3.meter.waiting()))

    async def room() -> list[Sample]:
        try:
            capacity = await s3.blobs.capacity()
        except Retry:
            return []
        pairs: Mapping[str, int | None] = {"total": capacity.total, "free": capacity.free}
        return [((name,), float(value)) for name, value in pairs.items() if value is not None]

    s3.metrics.s3_capacity.samples = room


async def scrub_once(settings: Settings, bytes_per_s: int) -> Report | None:
    """A round over all stored bytes, beside the processes that serve them. None: one of them is at it.

    Raises HansaError for what is wrong with settings, keys or databases."""
    s3 = await build_s3(settings)
    try:
        s3.scrub.pace = Pace(per_s=bytes_per_s)
        done = await s3.chores.at_once(Duty("scrub", SCRUB_S, s3.scrub.work))
        return await s3.scrub.last() if done else None
    finally:
        await s3.close()


# -- the process ----------------------------------------------------------------------------------


def certificates_of(settings: Settings, places: S3Places, clock: Clock) -> Certificates:
    """The operator's own, else of the folder's authority, for every name that a bucket may have. Raises Invalid."""
    if settings.tls_cert is not None and settings.tls_key is not None:
        return Certificates.of_files(settings.tls_cert, settings.tls_key)
    url = settings.s3_url or f"https://{places.secure.host}"
    names = partial(names_for, places.secure, url, settings.s3_domains)
    return Certificates.of_authority(settings.data, names, clock, authority.S3_LEAF)


def places_of_listeners(settings: Settings, plain: socket.socket, secure: socket.socket) -> S3Places:
    api: Listening = place_of(settings.listen, settings.port)
    places = places_at(api, plain.getsockname()[1], secure.getsockname()[1])
    if not places.plain.loopback:
        raise Invalid.field("s3_port", "is spoken on loopback only: elsewhere S3 takes TLS")
    return replace(places, secure=replace(places.secure, host=secure.getsockname()[0]))


async def serve_s3(settings: Settings, plain: socket.socket, secure: socket.socket) -> None:
    """Serves until it is told to end. Raises HansaError when it cannot begin."""
    places = places_of_listeners(settings, plain, secure)
    s3 = await build_s3(settings)
    certificates = certificates_of(settings, places, s3.gateway.clock)
    allow_descriptors(settings.s3_connections + 2048)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    limits = Limits(settings.s3_connections, max(1, settings.s3_connections // 2))
    server = make_server(s3.app, limits, None, certificates.context, http=StreamingHttp, end_s=END_S)
    observe(s3, server)
    serving = asyncio.create_task(server.serve([plain, secure]))
    beside = [
        asyncio.create_task(work)
        for work in (certificates.keep(), s3.follower.follow(), s3.meter.keep(), s3.chores.run())
    ]
    ending = asyncio.create_task(stop.wait())
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    gc.collect()
    gc.freeze()
    print(f"ready S3 at {places.plain} and with TLS at {places.secure}, process {os.getpid()}", flush=True)
    done, _ = await asyncio.wait({ending, serving, *beside}, return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    await asyncio.wait({serving}, timeout=END_S + 5)
    for task in (*beside, ending):
        task.cancel()
    await asyncio.gather(*beside, ending, return_exceptions=True)
    await s3.close()
    for task in done - {ending}:
        task.result()
