"""The duties of a gateway: each done by one process at a time, and each at its work, on a real index."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from hansa.clock import SeededIds
from hansa.engines.blobs.memory import MemoryBlobs
from hansa.engines.blobs.port import Capacity
from hansa.errors import Bug, Retry
from hansa.gateways.s3.duties import expiring, replicating
from hansa.gateways.s3.duties.chores import BACK_OFF_S, LEASE_S, Chores, Duty, Pace
from hansa.gateways.s3.duties.duties import chores_of, lifecycle_every
from hansa.gateways.s3.duties.expiring import Expiring
from hansa.gateways.s3.duties.reaping import GRACE_S, ORPHAN_S, PRESSED_S, Reaping
from hansa.gateways.s3.duties.replicating import FIRST_RETRY_S, GIVE_UP_S, Replicating
from hansa.gateways.s3.gateway import Gateway
from hansa.gateways.s3.ports import BucketView
from hansa.gateways.s3.rules import replication as rules_of_replication
from hansa.gateways.s3.rules.acl import ALL_USERS
from hansa.gateways.s3.sealing.content import Content, whole
from hansa.objectindex.open import open_index
from hansa.objectindex.port import ObjectIndex
from hansa.objectindex.records import AclGrant, Facts, Lock, NewVersion, Part, Piece, Upload, Version, Versioning
from hansa.policy.verdict import Rules, TerritoryRule

from ..contract.test_objectindex import Hand
from ..postgres import a_database
from .memory import MemoryDirectory, MemoryUpstream

pytestmark = pytest.mark.anyio
DAY = 10.0  # of the lifecycle here


class Places(MemoryDirectory):
    """With written rules."""

    written = Rules()

    def rules_of(self, project: str) -> Rules:
        return self.written


async def no_pause(seconds: float) -> None:
    await asyncio.sleep(0)


@dataclass
class World:
    clock: Hand
    index: ObjectIndex
    blobs: MemoryBlobs
    directory: Places
    gateway: Gateway

    def bucket(self, name: str, **more: Any) -> BucketView:
        """With versions, unless told otherwise."""
        given = {"territory": "SE", "owner": "owner", "spec": {}, "versioning": Versioning.ENABLED} | more
        view = BucketView(
            uid=f"u-{name}", name=name, project="shop", organization="acme", region="se-sto", revision=1, created=0.0,
            owner_name="Owner", **given,
        )  # fmt: skip
        self.directory.buckets[name] = view
        return view

    async def put(
        self,
        bucket: BucketView,
        key: str,
        body: bytes = b"body",
        *,
        id: str = "",
        events: tuple[str, ...] = (),
        **facts: Any,
    ) -> Version:
        place = self.gateway.buckets.of(bucket).place
        writer = self.gateway.content.writer(place)
        await writer.feed(body)
        piece = await writer.finish()
        new = NewVersion(
            bucket.uid,
            key,
            id or f"v{self.clock.at}",
            self.clock.at,
            len(body),
            "etag",
            Facts(pieces=(piece,), **facts),
        )
        return (await self.index.publish(new, bucket.versioning, project="shop", events=events)).version

    async def delete(self, bucket: BucketView, key: str) -> None:
        marker = NewVersion(bucket.uid, key, f"m{self.clock.at}", self.clock.at, marker=True)
        await self.index.lay_marker(marker, bucket.versioning, project="shop")

    async def versions(self, bucket: BucketView) -> list[tuple[str, str, bool]]:
        return [(v.key, v.id, v.marker) for v in (await self.index.list_versions(bucket.uid)).versions]

    async def keys(self, bucket: BucketView) -> list[str]:
        return [v.key for v in (await self.index.list(bucket.uid)).versions]

    def expiring(self, **more: Any) -> Expiring:
        return Expiring(self.gateway, lambda: list(self.directory.buckets.values()), DAY, Pace(sleep=no_pause), **more)

    def replicating(self, **more: Any) -> Replicating:
        return Replicating(self.gateway, Pace(sleep=no_pause), **more)

    def reaping(self) -> Reaping:
        return Reaping(self.index, self.blobs, self.clock, pace=Pace(sleep=no_pause))

    def chores(self, *duties: Duty, holder: str = "") -> Chores:
        return Chores(self.index, self.clock, SeededIds(1), duties, no_pause, holder)


@pytest.fixture(params=["sqlite", "postgresql"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    async with a_database(request.param, tmp_path / "index.db") as place:
        yield place


@pytest.fixture
async def world(database: str) -> AsyncIterator[World]:
    clock, directory = Hand(), Places()
    index, blobs = await open_index(database, clock=clock), MemoryBlobs(clock=clock)
    content = Content(index, blobs, directory, clock=clock)
    gateway = Gateway(directory, MemoryUpstream(directory, index), index, content, clock, SeededIds(1))
    yield World(clock, index, blobs, directory, gateway)
    await content.close()
    await index.close()


def rules(*given: dict[str, Any]) -> dict[str, Any]:
    return {"lifecyclePolicy": {"rules": [{"id": f"r{n}", **rule} for n, rule in enumerate(given)]}}


# -- leases and turns -----------------------------------------------------------------------------


def counted(rounds: list[str], name: str = "duty", every_s: float = 60.0) -> Duty:
    async def work() -> None:
        rounds.append(name)

    return Duty(name, every_s, work)


async def test_a_duty_comes_round_and_not_before(world: World) -> None:
    rounds: list[str] = []
    chores = world.chores(counted(rounds))
    assert await chores.look() == ["duty"]
    world.clock.at += 59
    assert await chores.look() == []
    world.clock.at += 1
    assert await chores.look() == ["duty"]
    assert len(rounds) == 2


async def test_several_gateways_do_no_more_than_one(world: World) -> None:
    rounds: list[str] = []
    several = [world.chores(counted(rounds), holder=f"process-{n}") for n in range(5)]
    await asyncio.gather(*(chores.look() for chores in several))
    assert rounds == ["duty"]
    world.clock.at += 60
    await asyncio.gather(*(chores.look() for chores in several))
    assert rounds == ["duty", "duty"]


async def test_the_duty_of_a_process_that_died_is_taken_up_when_its_lease_has_run_out(world: World) -> None:
    rounds: list[str] = []
    assert await world.index.lease("chores/duty", "dead", LEASE_S)
    chores = world.chores(counted(rounds))
    assert await chores.look() == []
    world.clock.at += LEASE_S + 1
    assert await chores.look() == ["duty"]


@pytest.mark.parametrize("error", [Retry("the database is away"), Bug("a slip"), KeyError("a bug")])
async def test_what_fails_is_tried_again_later_and_keeps_no_other_waiting(world: World, error: Exception) -> None:
    rounds: list[str] = []

    async def work() -> None:
        rounds.append("bad")
        raise error

    chores = world.chores(Duty("bad", 1.0, work), counted(rounds))
    assert await chores.look() == ["duty"]
    assert await chores.look() == []
    assert rounds == ["bad", "duty"]
    world.clock.at += BACK_OFF_S
    await chores.look()
    assert rounds == ["bad", "duty", "bad"]


async def test_a_round_ends_when_its_lease_is_lost(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []

    async def work() -> None:
        world.clock.at += LEASE_S + 1
        assert await world.index.lease("chores/long", "thief", LEASE_S)
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("ended")

    monkeypatch.setattr("hansa.gateways.s3.duties.chores.RENEW_S", 0.01)
    async with asyncio.timeout(10):
        assert await world.chores(Duty("long", 1.0, work)).look() == []
    assert ended == ["ended"]
    assert not await world.index.lease("chores/long", "other", LEASE_S)


async def test_who_is_stopped_ends_when_all_duties_have_ended(world: World) -> None:
    begun, ended = asyncio.Barrier(3), list[str]()

    def slow(name: str) -> Duty:
        async def work() -> None:
            await begun.wait()
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.1 if name == "slow" else 0.0)
                ended.append(name)

        return Duty(name, 1.0, work)

    running = asyncio.create_task(world.chores(slow("fast"), slow("slow")).run())
    async with asyncio.timeout(10):
        await begun.wait()
        running.cancel()
        await asyncio.wait((running,))
    assert running.cancelled() and sorted(ended) == ["fast", "slow"]
    for name in ended:
        assert await world.index.lease(f"chores/{name}", "another", LEASE_S), "leases are given back"


async def test_who_is_stopped_ends_even_where_the_index_is_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = asyncio.Event()

    async def work() -> None:
        begun.set()
        await asyncio.Event().wait()

    async def away(name: str, holder: str, seconds: float) -> bool:
        if not seconds:
            raise Retry("the database is away")
        return True

    monkeypatch.setattr(world.index, "lease", away)
    running = asyncio.create_task(world.chores(Duty("duty", 1.0, work)).run())
    async with asyncio.timeout(10):
        await begun.wait()
        running.cancel()
        await asyncio.wait((running,))
    assert running.cancelled()


async def test_a_running_gateway_does_all_its_duties(world: World) -> None:
    done = asyncio.Event()
    bucket = world.bucket("b", spec=rules({"expireCurrentVersion": {"days": 1}}), versioning=Versioning.NEVER)
    await world.put(bucket, "k")
    world.clock.at += DAY

    def touched(uid: str) -> None:
        assert uid == bucket.uid
        done.set()

    views = world.directory.buckets.values
    chores = chores_of(world.gateway, world.blobs, lambda: list(views()), day_s=DAY, touched=touched)
    running = asyncio.create_task(chores.run())
    try:
        async with asyncio.timeout(20):
            await done.wait()
    finally:
        running.cancel()
        await asyncio.wait((running,))
    assert await world.keys(bucket) == []
    assert {duty.name for duty in chores.duties} == {"lifecycle", "replication", "garbage", "orphans"}


def test_short_days_are_looked_at_often() -> None:
    assert lifecycle_every(86_400.0) == 3600.0
    assert lifecycle_every(10.0) == 2.5
    assert lifecycle_every(0.1) == 1.0


# -- lifecycle ------------------------------------------------------------------------------------


async def test_what_has_had_its_time_goes_and_all_else_stays(world: World) -> None:
    spec = rules({"expireCurrentVersion": {"days": 1}, "filter": {"prefix": "expire1/"}},
                 {"expireCurrentVersion": {"days": 5}, "filter": {"prefix": "expire5/"}})  # fmt: skip
    bucket = world.bucket("b", spec=spec, versioning=Versioning.NEVER)
    other = world.bucket("other", versioning=Versioning.NEVER)
    for key in ("expire1/a", "expire1/b", "expire5/a", "keep/a", "expire1"):
        await world.put(bucket, key)
    await world.put(other, "expire1/a")
    touched: list[str] = []
    for days, left in ((0.9, 5), (1, 3), (4.9, 3), (5, 2)):
        world.clock.at = 1_800_000_000.0 + days * DAY
        await world.expiring(touched=touched.append).work()
        assert len(await world.keys(bucket)) == left
    assert await world.keys(bucket) == ["expire1", "keep/a"]
    assert await world.keys(other) == ["expire1/a"]
    assert touched == [bucket.uid, bucket.uid]


async def test_tags_and_sizes_are_looked_at(world: World) -> None:
    spec = rules(
        {"expireCurrentVersion": {"days": 1}, "filter": {"tag": [{"key": "a", "value": "1"}], "sizeGreaterThan": 3}}
    )
    bucket = world.bucket("b", spec=spec, versioning=Versioning.NEVER)
    await world.put(bucket, "gone", tags=(("a", "1"), ("b", "2")))
    await world.put(bucket, "small", b"abc", tags=(("a", "1"),))
    await world.put(bucket, "other", tags=(("a", "2"),))
    world.clock.at += 2 * DAY
    await world.expiring().work()
    assert await world.keys(bucket) == ["other", "small"]


async def test_versions_markers_and_what_is_kept_of_them(world: World) -> None:
    spec = rules({"expireNonCurrentVersion": {"days": 1, "keepNewest": 1},
                  "expireCurrentVersion": {"expireOrphanedDeletionMarkers": True}})  # fmt: skip
    bucket = world.bucket("b", spec=spec)
    for n in range(4):
        world.clock.at += 1
        await world.put(bucket, "many", id=f"v{n}")
    await world.put(bucket, "deleted", id="d")
    world.clock.at += 1
    await world.delete(bucket, "deleted")
    world.clock.at += 1
    await world.delete(bucket, "bare")
    await world.expiring().work()
    assert [key for key, _, marker in await world.versions(bucket) if marker] == ["deleted"]
    world.clock.at += 2 * DAY
    await world.expiring().work()
    assert [id for key, id, _ in await world.versions(bucket) if key == "many"] == ["v3", "v2"]


async def test_expiry_lays_a_marker_where_there_are_versions_and_later_takes_it_away(world: World) -> None:
    spec = rules({"expireCurrentVersion": {"days": 1}, "expireNonCurrentVersion": {"days": 1}})
    bucket = world.bucket("b", spec=spec)
    await world.put(bucket, "k")
    world.clock.at += DAY
    await world.expiring().work()
    assert [marker for _, _, marker in await world.versions(bucket)] == [True, False]
    world.clock.at += DAY
    await world.expiring().work()
    assert [marker for _, _, marker in await world.versions(bucket)] == [True]
    await world.expiring().work()
    assert await world.versions(bucket) == []


async def test_a_lifecycle_never_bypasses_a_lock(world: World) -> None:
    bucket = world.bucket("b", spec=rules({"expireNonCurrentVersion": {"days": 1}}), locking=True)
    for n, lock in enumerate((Lock("GOVERNANCE", world.clock.at + 5 * DAY), Lock(hold=True), Lock())):
        await world.put(bucket, "k", id=f"v{n}", lock=lock)
        world.clock.at += 1
    await world.put(bucket, "k", id="latest")
    world.clock.at += 2 * DAY
    await world.expiring().work()
    assert [id for _, id, _ in await world.versions(bucket)] == ["latest", "v1", "v0"]
    world.clock.at += 5 * DAY
    await world.expiring().work()
    assert [id for _, id, _ in await world.versions(bucket)] == ["latest", "v1"]


async def test_unfinished_uploads_are_aborted(world: World) -> None:
    bucket = world.bucket("b", spec=rules({"abortIncompleteMultipart": {"days": 2}, "filter": {"prefix": "a/"}}))
    for key in ("a/1", "a/2", "b/1"):
        await world.index.begin(Upload(bucket.uid, key, f"u-{key}", world.clock.at), project="shop")
    part = Part("u-a/1", Piece(5, 5, blob="00" * 16), world.clock.at)
    assert await world.index.put_part(bucket.uid, part, project="shop")
    for days, left in ((1, 3), (2, 1)):
        world.clock.at = 1_800_000_000.0 + days * DAY
        await world.expiring().work()
        assert len((await world.index.uploads(bucket.uid)).uploads) == left
    assert [g.blob for g in await world.index.garbage(before=world.clock.at + 1)] == ["00" * 16]


async def test_what_was_overwritten_while_a_round_went_on_stays(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = world.bucket("b", spec=rules({"expireCurrentVersion": {"days": 1}}), versioning=Versioning.NEVER)
    await world.put(bucket, "k")
    world.clock.at += 2 * DAY
    walk = world.index.walk

    async def walk_and_lose(**more: Any) -> Any:
        page = await walk(**more)
        await world.put(bucket, "k", b"new")
        return page

    monkeypatch.setattr(world.index, "walk", walk_and_lose)
    await world.expiring().work()
    assert await world.keys(bucket) == ["k"]


async def test_a_round_that_was_cut_off_goes_on_where_it_was(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiring, "PAGE", 4)
    bucket = world.bucket("b", spec=rules({"expireNonCurrentVersion": {"days": 1, "keepNewest": 2}}))
    for n in range(6):
        for key in ("a", "b", "c"):
            await world.put(bucket, key, id=f"{key}{n}")
        world.clock.at += 1
    world.clock.at += 2 * DAY
    duty, pages = world.expiring(), 0

    async def cut(seconds: float) -> None:
        nonlocal pages
        pages += 1
        if pages == 3:
            raise Retry("the machine stops")

    duty.pace = Pace(sleep=cut)
    with pytest.raises(Retry):
        await duty.work()
    noted = await world.index.note(expiring.AT)
    assert noted.startswith(bucket.uid) and noted != f"{bucket.uid} "
    seen: list[str] = []
    walk = world.index.walk

    async def watched(*, after: Any, limit: int) -> Any:
        seen.append(after[1])
        return await walk(after=after, limit=limit)

    monkeypatch.setattr(world.index, "walk", watched)
    await world.expiring().work()
    assert seen[0] > "a"
    left = [id for _, id, _ in await world.versions(bucket)]
    assert left == ["a5", "a4", "a3", "b5", "b4", "b3", "c5", "c4", "c3"]
    assert await world.index.note(expiring.AT) == ""


async def test_no_key_is_such_that_a_round_cannot_note_where_it_is(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiring, "PAGE", 1)
    bucket = world.bucket("b", spec=rules({"expireCurrentVersion": {"days": 1}}), versioning=Versioning.NEVER)
    for key in ("a\0b", "a b%20", "ö\n", "z"):
        await world.put(bucket, key)
    noted, note = list[str](), world.index.note

    async def watched(name: str, value: str | None = None) -> str:
        noted.extend([] if value is None else [expiring._place(value)[1]])
        return await note(name, value)

    monkeypatch.setattr(world.index, "note", watched)
    world.clock.at += 2 * DAY
    await world.expiring().work()
    assert await world.keys(bucket) == [] and noted == ["a\0b", "a b%20", "z", "ö\n", ""]


async def test_a_bucket_in_which_something_is_wrong_keeps_no_other_waiting(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = rules({"expireCurrentVersion": {"days": 1}})
    for name in ("a", "b"):
        await world.put(world.bucket(name, spec=spec, versioning=Versioning.NEVER), "k")
    lay_marker = world.index.lay_marker

    async def bad(new: NewVersion, *rest: Any, **more: Any) -> Any:
        if new.bucket == "u-a":
            raise Bug("a bad row")
        return await lay_marker(new, *rest, **more)

    monkeypatch.setattr(world.index, "lay_marker", bad)
    world.clock.at += 2 * DAY
    with pytest.raises(Bug):
        await world.expiring().work()
    assert await world.keys(world.directory.buckets["a"]) == ["k"]
    assert await world.keys(world.directory.buckets["b"]) == []


# -- garbage --------------------------------------------------------------------------------------


async def test_garbage_goes_when_no_reader_can_be_at_it(world: World) -> None:
    bucket = world.bucket("b", versioning=Versioning.NEVER)
    await world.put(bucket, "k", b"x" * 100_000)
    await world.put(bucket, "k", b"y" * 100_000)
    assert len(world.blobs.blobs) == 2
    await world.reaping().work()
    assert len(world.blobs.blobs) == 2
    world.clock.at += GRACE_S + 1
    await world.reaping().work()
    assert len(world.blobs.blobs) == 1
    assert await world.index.garbage(before=world.clock.at) == []
    there = await world.index.get(bucket.uid, "k")
    assert there is not None
    place = world.gateway.buckets.of(bucket).place
    assert await whole(world.gateway.content, place, there) == b"y" * 100_000


async def test_garbage_goes_sooner_where_room_runs_out(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = world.bucket("b", versioning=Versioning.NEVER)
    await world.put(bucket, "k", b"x" * 100_000)
    await world.put(bucket, "k", b"y" * 100_000)
    free = 100

    async def capacity() -> Capacity:
        return Capacity(1000, free)

    monkeypatch.setattr(world.blobs, "capacity", capacity)
    world.clock.at += PRESSED_S + 1
    await world.reaping().work()
    assert len(world.blobs.blobs) == 2, "there is room yet"
    free = 40
    await world.reaping().work()
    assert len(world.blobs.blobs) == 1


async def test_a_blob_that_the_store_does_not_give_up_stays_garbage(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [f"{n:032x}" for n in range(40)]
    for id in ids:
        world.blobs.keep(id, b"bytes")
    await world.index.discard(ids)
    world.clock.at += GRACE_S + 1
    delete = world.blobs.delete

    async def stubborn(id: str) -> None:
        if id == ids[20]:
            raise Retry("the disk is away")
        await delete(id)

    monkeypatch.setattr(world.blobs, "delete", stubborn)
    with pytest.raises(Retry):
        await world.reaping().work()
    assert {g.blob for g in await world.index.garbage(before=world.clock.at)} == {ids[20], *ids[32:]}
    monkeypatch.undo()
    await world.reaping().work()
    assert not world.blobs.blobs


async def test_what_nobody_ever_published_becomes_garbage_and_nothing_else(world: World) -> None:
    bucket = world.bucket("b")
    await world.put(bucket, "k", b"x" * 100_000)
    world.blobs.keep("ab" * 16, b"left by a crash")
    await world.reaping().find_orphans()
    assert await world.index.garbage(before=world.clock.at + 1) == []
    world.clock.at += ORPHAN_S + 1
    await world.reaping().find_orphans()
    assert [g.blob for g in await world.index.garbage(before=world.clock.at + 1)] == ["ab" * 16]


# -- replication ----------------------------------------------------------------------------------

EVENT = ("replicate",)


def to(*targets: str, **more: Any) -> dict[str, Any]:
    return {"replication": {"rules": [{"id": t, "destination": {"bucket": t}, **more} for t in targets]}}


async def test_a_version_is_copied_with_all_that_it_is(world: World) -> None:
    source, target = world.bucket("source", spec=to("target")), world.bucket("target", owner="other-owner")
    body = bytes(range(256)) * 2000
    put = await world.put(
        source, "k", body, id="v1", events=EVENT, replication="PENDING", tags=(("a", "1"),), metadata={"m": "n"},
        lock=Lock("COMPLIANCE", world.clock.at + 99),
    )  # fmt: skip
    world.clock.at += 5
    touched: list[str] = []
    await world.replicating(touched=touched.append).work()
    copy = await world.index.get(target.uid, "k")
    assert copy is not None and touched == [target.uid]
    assert (copy.id, copy.etag, copy.size, copy.modified) == ("v1", put.etag, put.size, put.modified)
    assert copy.facts.replication == "REPLICA" and copy.facts.owner == "other-owner"
    assert (copy.facts.tags, copy.facts.metadata, copy.facts.lock) == (
        put.facts.tags,
        put.facts.metadata,
        put.facts.lock,
    )
    assert copy.facts.pieces[0].blob != put.facts.pieces[0].blob
    assert await whole(world.gateway.content, world.gateway.buckets.of(target).place, copy) == body
    there = await world.index.get(source.uid, "k")
    assert there is not None and there.facts.replication == "COMPLETED"
    assert await world.index.events("replicate") == []


async def test_parts_stay_parts(world: World) -> None:
    source, target = world.bucket("source", spec=to("target")), world.bucket("target")
    place = world.gateway.buckets.of(source).place
    pieces, bodies = [], [b"a" * 70_000, b"b" * 10, b"c" * 300_000]
    for number, body in enumerate(bodies, 1):
        writer = world.gateway.content.writer(place, number=number)
        await writer.feed(body)
        pieces.append(replace(await writer.finish(), etag=f"e{number}"))
    new = NewVersion(
        source.uid, "k", "v1", world.clock.at, sum(map(len, bodies)), "etag-3", Facts(pieces=tuple(pieces), multipart=3)
    )
    await world.index.publish(new, Versioning.ENABLED, project="shop", events=EVENT)
    await world.replicating().work()
    copy = await world.index.get(target.uid, "k")
    assert copy is not None and copy.etag == "etag-3" and copy.facts.multipart == 3
    assert [(p.number, p.etag, p.size) for p in copy.facts.pieces] == [(p.number, p.etag, p.size) for p in pieces]
    assert await whole(world.gateway.content, world.gateway.buckets.of(target).place, copy) == b"".join(bodies)


async def test_copies_are_made_once_in_order_and_never_of_replicas(world: World) -> None:
    source, target = world.bucket("source", spec=to("target")), world.bucket("target", spec=to("source"))
    for n in range(5):
        await world.put(source, "k", f"body {n}".encode(), id=f"v{n}", events=EVENT)
        world.clock.at += 1
    await world.replicating().work()
    await world.replicating().work()
    assert [id for _, id, _ in await world.versions(target)] == ["v4", "v3", "v2", "v1", "v0"]
    assert [id for _, id, _ in await world.versions(source)] == ["v4", "v3", "v2", "v1", "v0"]


async def test_markers_are_copied_where_the_rule_says_so(world: World) -> None:
    for name, more in (("without", {}), ("with", {"deleteMarkers": True})):
        source, target = world.bucket(f"source-{name}", spec=to(f"to-{name}", **more)), world.bucket(f"to-{name}")
        await world.put(source, "k", id="v1", events=EVENT)
        marker = NewVersion(source.uid, "k", "m1", world.clock.at, marker=True)
        await world.index.lay_marker(marker, Versioning.ENABLED, project="shop", events=EVENT)
        await world.replicating().work()
        ids = [id for _, id, _ in await world.versions(target)]
        assert ids == (["m1", "v1"] if more else ["v1"])


async def test_a_target_that_is_gone_or_forbidden_is_a_failure_for_good(world: World) -> None:
    source = world.bucket("source", spec=to("target"))
    await world.put(source, "gone", id="v1", events=EVENT)
    await world.replicating().work()
    world.bucket("target", territory="FI")
    world.directory.written = Rules((TerritoryRule("/policies/se", frozenset({"SE"})),))
    await world.put(source, "forbidden", id="v2", events=EVENT)
    await world.replicating().work()
    for key in ("gone", "forbidden"):
        there = await world.index.get(source.uid, key)
        assert there is not None and there.facts.replication == "FAILED"
    assert await world.index.events("replicate") == []
    assert await world.keys(world.directory.buckets["target"]) == []


async def test_what_may_yet_succeed_is_tried_ever_less_often_and_given_up_in_the_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = world.bucket("source", spec=to("target")), world.bucket("target")
    await world.put(source, "k", id="v1", events=EVENT)
    await world.put(source, "k", id="v2", events=EVENT)
    await world.put(source, "fine", id="v3", events=EVENT)
    tries, publish = 0, world.index.publish

    async def away(new: NewVersion, *rest: Any, **more: Any) -> Any:
        nonlocal tries
        if new.bucket == target.uid and new.id == "v1":
            tries += 1
            raise Retry("the store is away")
        return await publish(new, *rest, **more)

    monkeypatch.setattr(world.index, "publish", away)
    duty = world.replicating()
    await duty.work()
    await duty.work()
    assert tries == 1
    assert [key for key, _, _ in await world.versions(target)] == ["fine"]  # v2 waits for v1
    world.clock.at += FIRST_RETRY_S
    await duty.work()
    world.clock.at += FIRST_RETRY_S
    await duty.work()
    assert tries == 2
    world.clock.at += FIRST_RETRY_S
    await duty.work()
    assert tries == 3
    world.clock.at += GIVE_UP_S
    await duty.work()
    there = await world.index.get(source.uid, "k", "v1")
    assert there is not None and there.facts.replication == "FAILED"
    assert [id for _, id, _ in await world.versions(target)] == ["v3", "v2"]
    assert not duty._waiting


async def test_a_copy_that_fails_leaves_no_bytes_behind(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = world.bucket("source", spec=to("target")), world.bucket("target")
    await world.put(source, "k", b"x" * 100_000, id="v1", events=EVENT)
    publish = world.index.publish

    async def away(new: NewVersion, *rest: Any, **more: Any) -> Any:
        if new.bucket == target.uid:
            raise Retry("the store is away")
        return await publish(new, *rest, **more)

    monkeypatch.setattr(world.index, "publish", away)
    await world.replicating().work()
    monkeypatch.undo()
    garbage = {g.blob for g in await world.index.garbage(before=world.clock.at + 1)}
    assert len(world.blobs.blobs) == 2 and len(garbage) == 1


async def test_many_events_come_in_pages(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicating, "PAGE", 3)
    source, target = world.bucket("source", spec=to("target")), world.bucket("target")
    for n in range(10):
        await world.put(source, f"k{n}", id=f"v{n}", events=EVENT)
    await world.replicating().work()
    assert len(await world.keys(target)) == 10


async def test_a_version_that_went_meanwhile_is_crossed_out(world: World) -> None:
    source, _ = world.bucket("source", spec=to("target")), world.bucket("target")
    await world.put(source, "k", id="v1", events=EVENT)
    await world.index.remove(source.uid, "k", "v1", project="shop")
    await world.replicating().work()
    assert await world.index.events("replicate") == []
    assert await world.versions(world.directory.buckets["target"]) == []


CHANGED: dict[str, Any] = {"tags": (("a", "2"),), "lock": Lock("GOVERNANCE", 1_900_000_000.0, hold=True)}


async def change(world: World, bucket: BucketView, key: str, id: str, **facts: Any) -> None:
    """As a request changes what is attached to a version."""
    found = world.gateway.buckets.of(bucket).replication
    assert found is not None

    def changed(version: Version) -> Facts:
        return rules_of_replication.changed(
            found.rules, replace(version, facts=replace(version.facts, **facts))
        )  # fmt: skip

    await world.index.amend(bucket.uid, key, id, changed, rules_of_replication.events_of)


async def facts_of(world: World, bucket: BucketView, id: str = "v1") -> Facts:
    there = await world.index.get(bucket.uid, "k", id)
    assert there is not None
    return there.facts


async def test_later_changes_are_copied_without_the_bytes(world: World) -> None:
    source, target = world.bucket("source", spec=to("target"), locking=True), world.bucket("target", locking=True)
    await world.put(source, "k", b"x" * 100_000, id="v1", events=EVENT, replication="PENDING")
    await world.replicating().work()
    blobs = set(world.blobs.blobs)
    await change(world, source, "k", "v1", **CHANGED)
    assert (await facts_of(world, source)).replication == "PENDING"
    await world.replicating().work()
    copy = await facts_of(world, target)
    assert (copy.tags, copy.lock, copy.replication) == (CHANGED["tags"], CHANGED["lock"], "REPLICA")
    assert (await facts_of(world, source)).replication == "COMPLETED"
    assert set(world.blobs.blobs) == blobs and await world.versions(target) == [("k", "v1", False)]
    await change(world, source, "k", "v1", tags=(), lock=Lock("GOVERNANCE", 1_900_000_000.0))
    await world.replicating().work()
    copy = await facts_of(world, target)
    assert copy.tags == () and not copy.lock.hold


async def test_what_no_rule_took_when_it_was_written_stays_where_it_is(world: World) -> None:
    source, target = world.bucket("source", spec=to("target")), world.bucket("target")
    await world.put(source, "k", id="v1")
    await change(world, source, "k", "v1", tags=(("a", "2"),))
    assert await world.index.events("replicate") == []
    assert (await facts_of(world, source)).replication == ""
    assert await world.keys(target) == []


async def test_a_retention_of_a_copy_is_never_made_weaker(world: World) -> None:
    source, target = world.bucket("source", spec=to("target"), locking=True), world.bucket("target", locking=True)
    now = world.clock.at
    await world.put(
        source, "k", id="v1", events=EVENT, replication="PENDING", lock=Lock("GOVERNANCE", now + 50)
    )  # fmt: skip
    await world.replicating().work()
    for given, there in (
        (Lock(), Lock("GOVERNANCE", now + 50)), (Lock("GOVERNANCE", now + 20), Lock("GOVERNANCE", now + 50)),
        (Lock("GOVERNANCE", now + 60), Lock("GOVERNANCE", now + 60)),
        (Lock("COMPLIANCE", now + 60), Lock("COMPLIANCE", now + 60)),
        (Lock("GOVERNANCE", now + 99), Lock("COMPLIANCE", now + 60)),
    ):  # fmt: skip
        await change(world, source, "k", "v1", lock=given)
        await world.replicating().work()
        assert (await facts_of(world, target)).lock == there
    world.clock.at += 61
    await change(world, source, "k", "v1", lock=Lock())
    await world.replicating().work()
    assert (await facts_of(world, target)).lock == Lock()


@pytest.mark.parametrize(
    ("owner", "takes_acls", "copied"), [("owner", True, True), ("another", True, False), ("owner", False, False)]
)
async def test_grants_are_copied_where_the_owner_is_the_same(
    world: World, owner: str, takes_acls: bool, copied: bool
) -> None:
    source = world.bucket("source", spec=to("target"), open=True)
    target = world.bucket("target", open=takes_acls, owner=owner)
    grants = (AclGrant("friend", "READ"),)
    await world.put(source, "k", id="v1", events=EVENT, replication="PENDING", owner="owner", acl=grants)
    await world.replicating().work()
    assert (await facts_of(world, target)).acl == (grants if copied else ())
    await change(world, source, "k", "v1", acl=(AclGrant("friend", "FULL_CONTROL"),))
    await world.replicating().work()
    assert (await facts_of(world, target)).acl == ((AclGrant("friend", "FULL_CONTROL"),) if copied else ())


async def test_a_public_grant_does_not_pass_a_public_access_block(world: World) -> None:
    source = world.bucket("source", spec=to("target"), open=True)
    target = world.bucket("target", open=True, spec={"publicAccessBlock": {"blockPublicAcls": True}})
    await world.put(source, "k", id="v1", events=EVENT, replication="PENDING", owner="owner")
    await world.replicating().work()
    await change(world, source, "k", "v1", acl=(AclGrant(ALL_USERS, "READ"),))
    await world.replicating().work()
    assert (await facts_of(world, target)).acl == ()
    assert (await facts_of(world, source)).replication == "FAILED"


async def test_a_policy_that_came_later_stops_changes_too(world: World) -> None:
    source, target = world.bucket("source", spec=to("target")), world.bucket("target", territory="FI")
    await world.put(source, "k", id="v1", events=EVENT, replication="PENDING")
    await world.replicating().work()
    world.directory.written = Rules((TerritoryRule("/policies/se", frozenset({"SE"})),))
    await change(world, source, "k", "v1", tags=(("a", "2"),))
    await world.replicating().work()
    assert (await facts_of(world, target)).tags == ()
    assert (await facts_of(world, source)).replication == "FAILED"


async def test_a_change_while_its_version_is_copied_is_told_after_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = world.bucket("source", spec=to("target")), world.bucket("target")
    await world.put(source, "k", id="v1", events=EVENT, replication="PENDING")
    publish = world.index.publish

    async def meanwhile(new: NewVersion, *rest: Any, **more: Any) -> Any:
        await change(world, source, "k", "v1", tags=(("a", "2"),))
        return await publish(new, *rest, **more)

    monkeypatch.setattr(world.index, "publish", meanwhile)
    duty = world.replicating()
    [first] = await world.index.events("replicate")
    assert await duty._try(first)
    assert (await facts_of(world, source)).replication == "PENDING"
    assert (await facts_of(world, target)).tags == ()
    await duty.work()
    assert (await facts_of(world, source)).replication == "COMPLETED"
    assert (await facts_of(world, target)).tags == (("a", "2"),)


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", range(6))
async def test_whoever_dies_at_any_step_another_one_ends_the_work(
    world: World, monkeypatch: pytest.MonkeyPatch, step: int, after: bool
) -> None:
    """Of a copy and a change of it: `publish`, `amend`, `done`, and `amend`, `amend`, `done`."""
    source, target = world.bucket("source", spec=to("target")), world.bucket("target")
    await world.put(source, "k", b"x" * 100_000, id="v1", events=EVENT, replication="PENDING")
    writes = 0

    def dying(name: str) -> Any:
        real = getattr(world.index, name)

        async def call(*given: Any, **more: Any) -> Any:
            nonlocal writes
            writes += 1
            if writes == step + 1 and not after:
                raise Killed
            answer = await real(*given, **more)
            if writes == step + 1:
                raise Killed
            return answer

        return call

    duty = world.replicating()
    with monkeypatch.context() as patched:
        for name in ("publish", "amend", "done"):
            patched.setattr(world.index, name, dying(name))
        with pytest.raises(Killed):
            for change_tags in (False, True):
                if change_tags:
                    before, writes = writes, -99
                    await change(world, source, "k", "v1", tags=(("a", "2"),))
                    writes = before
                for event in await world.index.events("replicate"):
                    await duty._try(event)
    if step < 3:
        await change(world, source, "k", "v1", tags=(("a", "2"),))
    await world.replicating().work()
    assert await world.versions(target) == [("k", "v1", False)]
    assert (await facts_of(world, target)).tags == (("a", "2"),)
    assert (await facts_of(world, source)).replication == "COMPLETED"
    assert await world.index.events("replicate") == []
    held = await world.index.held(target.uid)
    assert (held.bytes, held.versions) == (100_000, 1)
