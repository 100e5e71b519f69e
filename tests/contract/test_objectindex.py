"""What every object index promises, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from hansa.errors import Conflict, Full, Invalid, NotFound
from hansa.objectindex.open import open_index
from hansa.objectindex.port import ObjectIndex
from hansa.objectindex.records import (
    NULL,
    AclGrant,
    Checksum,
    Encryption,
    Facts,
    Held,
    Limits,
    Lock,
    NewVersion,
    Part,
    Piece,
    Together,
    Upload,
    Version,
    Versioning,
)
from hansa.objectindex.steady import STEP_S

from ..postgres import a_database

pytestmark = pytest.mark.anyio
NEVER, ENABLED, SUSPENDED = Versioning.NEVER, Versioning.ENABLED, Versioning.SUSPENDED


class Hand:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.at = 1_800_000_000.0

    def now(self) -> float:
        return self.at


@pytest.fixture
def clock() -> Hand:
    return Hand()


@pytest.fixture(params=["sqlite", "postgresql"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    async with a_database(request.param, tmp_path / "index.db") as place:
        yield place


@pytest.fixture
async def index(database: str, clock: Hand) -> AsyncIterator[ObjectIndex]:
    opened = await open_index(database, clock=clock)
    yield opened
    await opened.close()


numbers = itertools.count(1)


def blob() -> str:
    return f"{next(numbers):032x}"


def stored(size: int = 100, *, number: int = 1, id: str | None = None) -> Piece:
    return Piece(size, size + 24, id or blob(), b"", f"key {next(numbers)}", number, f"etag {number}", "sum")


def small(body: bytes, *, number: int = 1) -> Piece:
    return Piece(len(body), len(body), "", body, f"key {next(numbers)}", number)


def new(key: str, *pieces: Piece, id: str = "", bucket: str = "b", facts: Facts | None = None) -> NewVersion:
    facts = replace(facts or Facts(), pieces=pieces)
    return NewVersion(bucket, key, id or f"v{next(numbers)}", 5.0, sum(p.size for p in pieces), "tag", facts)


def marker(key: str, id: str = "") -> NewVersion:
    return NewVersion("b", key, id or f"v{next(numbers)}", 6.0, marker=True)


async def garbage(index: ObjectIndex) -> set[str]:
    return {one.blob for one in await index.garbage(before=1e12)}


FACTS = Facts(
    headers={"content-type": "text/plain", "cache-control": "no-store"},
    metadata={"colour": "blå", "empty": ""},
    checksum=Checksum("CRC32C", "AAAAAA==", "COMPOSITE"),
    encryption=Encryption("aws:kms", "main", "e30=", "", ""),
    lock=Lock("GOVERNANCE", 1.5e9, True),
    tags=(("a", "1"), ("a b", "ö")),
    owner="o" * 64,
    owner_name="Someone",
    acl=(AclGrant("g", "READ"), AclGrant("h", "WRITE", "name")),
    multipart=3,
    replication="PENDING",
    storage_class="STANDARD",
)

# -- objects ------------------------------------------------------------------------------------


async def test_everything_that_was_said_of_an_object_comes_back(index: ObjectIndex) -> None:
    pieces = (stored(70_000), small(b"sealed", number=2))
    written = await index.publish(new("ключ/ \0/../x", *pieces, facts=FACTS), NEVER, project="p")
    got = await index.get("b", "ключ/ \0/../x")
    assert got == written.version and written.replaced is None
    assert got.facts == replace(FACTS, pieces=pieces) and (got.id, got.latest, got.marker) == (NULL, True, False)
    assert (got.size, got.etag, got.modified) == (70_006, "tag", 5.0)
    assert await index.get("b", "ключ/ \0/../x", NULL) == got
    assert await index.get("b", "ключ") is None and await index.get("c", "ключ/ \0/../x") is None
    assert await index.get("b", "ключ/ \0/../x", "v\0") is None


async def test_a_null_version_replaces_its_like_and_its_blobs_become_garbage(index: ObjectIndex, clock: Hand) -> None:
    first, second = stored(10), stored(20)
    await index.publish(new("k", first), NEVER, project="p")
    assert await garbage(index) == set() and await index.known([first.blob]) == {first.blob}
    written = await index.publish(new("k", second), NEVER, project="p")
    assert written.replaced is not None and written.replaced.facts.pieces == (first,)
    (one,) = await index.garbage(before=clock.at + 1)
    assert (one.blob, one.since) == (first.blob, clock.at) and await index.garbage(before=clock.at) == []
    assert await index.known([first.blob, second.blob, "f" * 32]) == {first.blob, second.blob}
    assert await index.blobs() == [second.blob]
    await index.reaped([first.blob, second.blob])
    assert await index.known([first.blob, second.blob]) == {second.blob}, "what is in use is not forgotten"
    assert await index.held("b") == Held(20, 1, 1) == await index.held_by("p")


async def test_versions_pile_up_and_each_can_be_had(index: ObjectIndex) -> None:
    one = (await index.publish(new("k", stored(1)), NEVER, project="p")).version
    two = (await index.publish(new("k", stored(2)), ENABLED, project="p")).version
    three = await index.publish(new("k", stored(3)), ENABLED, project="p")
    assert three.replaced is not None and three.replaced.id == two.id
    assert one.order < two.order < three.version.order
    assert [v and (v.size, v.latest) for v in [await index.get("b", "k", x.id) for x in (one, two)]] == [
        (1, False), (2, False),
    ]  # fmt: skip
    four = await index.publish(new("k", stored(4)), SUSPENDED, project="p")
    assert four.version.id == NULL and four.replaced is not None and four.replaced.id == NULL
    assert await garbage(index) == {one.facts.pieces[0].blob}
    assert [v.size for v in (await index.list_versions("b")).versions] == [4, 3, 2]
    assert await index.held("b") == Held(9, 3, 1)


async def test_a_marker_hides_a_key_and_its_removal_brings_it_back(index: ObjectIndex) -> None:
    there = (await index.publish(new("k", stored(1)), ENABLED, project="p")).version
    laid = await index.lay_marker(marker("k"), ENABLED, project="p")
    assert laid.marker is not None and laid.version is None and laid.marker.marker
    latest = await index.get("b", "k")
    assert latest is not None and latest.marker and (await index.list("b")).versions == ()
    assert await index.held("b") == Held(1, 2, 0)
    gone = await index.remove("b", "k", laid.marker.id, project="p")
    assert gone.version is not None and gone.version.marker and gone.marker is None
    assert await index.get("b", "k") == there and await index.held("b") == Held(1, 1, 1)
    await index.remove("b", "k", there.id, project="p")
    assert await index.get("b", "k") is None and await index.held("b") == Held()


async def test_a_marker_of_a_suspended_bucket_replaces_the_null_version(index: ObjectIndex) -> None:
    piece = stored(5)
    await index.publish(new("k", piece), NEVER, project="p")
    await index.publish(new("k", stored(6), id="v"), ENABLED, project="p")
    laid = await index.lay_marker(marker("k"), SUSPENDED, project="p")
    assert laid.marker is not None and laid.marker.id == NULL
    assert laid.version is not None and laid.version.size == 5 and await garbage(index) == {piece.blob}
    again = await index.lay_marker(marker("k"), SUSPENDED, project="p")
    assert again.version is not None and again.version.marker
    assert [(v.id, v.marker) for v in (await index.list_versions("b")).versions] == [(NULL, True), ("v", False)]


async def test_deleting_without_versions_is_for_good(index: ObjectIndex) -> None:
    assert await index.lay_marker(marker("k"), NEVER, project="p") == await index.remove("b", "k", "x", project="p")
    await index.publish(new("k", stored(5)), NEVER, project="p")
    gone = await index.lay_marker(marker("k"), NEVER, project="p")
    assert gone.marker is None and gone.version is not None and gone.version.size == 5
    assert await index.get("b", "k") is None and len(await garbage(index)) == 1


async def test_a_caller_behind_the_times_removes_no_version_for_good(index: ObjectIndex) -> None:
    await index.publish(new("k", stored(5), id="v"), ENABLED, project="p")
    assert (await index.lay_marker(marker("k"), NEVER, project="p")).marker is not None
    assert await index.get("b", "k", "v") is not None


async def test_a_check_sees_what_is_current_and_its_refusal_keeps_nothing(index: ObjectIndex) -> None:
    seen: list[Version | None] = []

    def check(current: Version | None) -> None:
        seen.append(current)
        raise Invalid("no")

    with pytest.raises(Invalid):
        await index.publish(new("k", stored(1)), NEVER, project="p", check=check, events=("replicate",))
    assert seen == [None] and await index.get("b", "k") is None and await index.held("b") == Held()
    there = (await index.publish(new("k", stored(1)), NEVER, project="p")).version
    for call in (
        index.publish(new("k", stored(1)), NEVER, project="p", check=check),
        index.lay_marker(marker("k"), NEVER, project="p", check=check),
        index.remove("b", "k", NULL, project="p", check=check),
    ):
        with pytest.raises(Invalid):
            await call
        assert seen[-1] is not None and (seen[-1].etag, seen[-1].id) == (there.etag, NULL)
    assert await index.get("b", "k") == there and await garbage(index) == set()
    assert await index.events("replicate") == []


async def test_one_fault_does_not_take_its_neighbours_along(index: ObjectIndex) -> None:
    def wrong(current: Version | None) -> None:
        raise KeyError("ours")

    def writes() -> list[asyncio.Task[object]]:
        every = [(f"k{n}", wrong if n % 3 == 0 else None) for n in range(12)]
        return [
            asyncio.create_task(index.publish(new(key, stored(1)), NEVER, project="p", check=check))
            for key, check in every
        ]

    results = await asyncio.gather(*writes(), return_exceptions=True)
    assert [isinstance(result, KeyError) for result in results] == [n % 3 == 0 for n in range(12)]
    assert len((await index.list("b")).versions) == 8 and await index.held("b") == Held(8, 8, 8)


@pytest.mark.parametrize("id", ["v\0", "\ud800", "é", "'; drop table s3_versions --"])
async def test_nothing_has_an_id_that_we_never_give(index: ObjectIndex, id: str) -> None:
    await index.publish(new("k", stored(1)), NEVER, project="p")
    assert await index.get("b", "k", id) is None and await index.upload("b", id) is None
    assert (await index.remove("b", "k", id, project="p")).version is None
    assert await index.amend("b", "k", id, lambda v: v.facts) is None
    assert not await index.put_part("b", Part(id, stored(1), 1.0), project="p")
    assert await index.complete(id, new("k"), NEVER, project="p") is None
    assert not await index.abort("b", id, project="p") and await index.completed("b", id) is None
    assert await index.parts(id) == []
    assert len((await index.list_versions("b", after="a", after_id=id)).versions) == 1
    assert (await index.uploads("b", after_key="a", after_id=id)).uploads == ()
    assert await index.held("b") == Held(1, 1, 1)


async def test_facts_are_amended_and_bytes_stay(index: ObjectIndex) -> None:
    body = small(b"sealed")
    await index.publish(new("k", body, facts=FACTS), ENABLED, project="p")
    await index.publish(new("k", stored(1), id="second"), ENABLED, project="p")
    amended = await index.amend("b", "k", "second", lambda v: replace(v.facts, tags=(("x", "y"),)))
    assert amended is not None and amended.facts.tags == (("x", "y"),)
    latest = await index.amend("b", "k", "", lambda v: replace(v.facts, owner="new"))
    assert latest is not None and (latest.id, latest.facts.tags, latest.facts.owner) == ("second", (("x", "y"),), "new")
    assert (await index.list("b")).versions[0].facts.owner == "new"
    (first,) = [v for v in (await index.list_versions("b")).versions if not v.latest]
    rewrapped = replace(body, sealed_key="another", inline=b"")
    await index.amend("b", "k", first.id, lambda v: replace(v.facts, pieces=(rewrapped,)))
    got = await index.get("b", "k", first.id)
    assert got is not None and got.facts.pieces == (replace(body, sealed_key="another"),)
    assert await index.amend("b", "absent", "", lambda v: v.facts) is None
    assert await index.amend("b", "k", "absent", lambda v: v.facts) is None


async def test_a_change_is_told_in_its_own_commit_or_not_at_all(index: ObjectIndex) -> None:
    await index.publish(new("k", stored(1), id="v"), ENABLED, project="p")

    def tells(version: Version) -> tuple[str, ...]:
        return ("replicate",) if version.facts.tags else ()

    await index.amend("b", "k", "v", lambda v: replace(v.facts, owner="new"), tells)
    assert await index.events("replicate") == []
    await index.amend("b", "k", "", lambda v: replace(v.facts, tags=(("x", "y"),)), tells)
    assert [(e.key, e.id) for e in await index.events("replicate")] == [("k", "v")]

    def refused(version: Version) -> Facts:
        raise Conflict("not now")

    with pytest.raises(Conflict):
        await index.amend("b", "k", "v", refused, tells)
    assert len(await index.events("replicate")) == 1


async def test_an_object_of_many_parts_is_what_its_row_says_now(index: ObjectIndex) -> None:
    pieces = tuple([stored(10, number=n) for n in range(1, 400)] + [small(b"the last one", number=400)])
    await index.publish(new("k", *pieces, id="v"), ENABLED, project="p")
    for tags in ((("a", "1"),), (("a", "2"),)):
        await index.amend("b", "k", "v", lambda v, tags=tags: replace(v.facts, tags=tags))
        for _ in range(2):
            got = await index.get("b", "k")
            assert got is not None and got.facts.pieces == pieces and got.facts.tags == tags
    await index.publish(new("k", stored(1)), ENABLED, project="p")
    old = await index.get("b", "k", "v")
    assert old is not None and not old.latest and old.facts.pieces == pieces
    await index.remove("b", "k", "v", project="p")
    assert await index.get("b", "k", "v") is None


# -- two writers --------------------------------------------------------------------------------


def absent(current: Version | None) -> None:
    if current is not None:
        raise Conflict("it is there")


async def test_of_many_writers_of_one_key_one_finds_it_absent(database: str, clock: Hand) -> None:
    every = [await open_index(database, clock=clock) for _ in range(3)]
    try:
        for key in ("a", "b", "c"):
            writes = [i.publish(new(key, stored(1)), NEVER, project="p", check=absent) for i in every for _ in range(4)]
            results = await asyncio.gather(*writes, return_exceptions=True)
            assert sum(isinstance(result, Conflict) for result in results) == 11
        assert await every[0].held("b") == Held(3, 3, 3)
    finally:
        for index in every:
            await index.close()


async def test_a_lock_laid_meanwhile_is_seen_by_the_one_who_removes(database: str, clock: Hand) -> None:
    one, two = [await open_index(database, clock=clock) for _ in range(2)]

    def unlocked(current: Version | None) -> None:
        if current is not None and current.facts.lock.hold:
            raise Conflict("held")

    try:
        for n in range(20):
            await one.publish(new(f"k{n}", stored(1), id="v"), ENABLED, project="p")
            locked, removed = await asyncio.gather(
                one.amend("b", f"k{n}", "v", lambda v: replace(v.facts, lock=Lock(hold=True))),
                two.remove("b", f"k{n}", "v", project="p", check=unlocked),
                return_exceptions=True,
            )
            there = await two.get("b", f"k{n}", "v")
            assert (locked is not None) == isinstance(removed, Conflict) == (there is not None)
    finally:
        await one.close()
        await two.close()


async def test_counts_are_exact_whoever_writes(database: str, clock: Hand) -> None:
    every = [await open_index(database, clock=clock) for _ in range(3)]
    chance = random.Random(1)

    async def write(n: int) -> None:
        index, key = every[n % 3], f"k{chance.randrange(12)}"
        match chance.randrange(4):
            case 0:
                await index.lay_marker(marker(key), ENABLED, project="p")
            case 1 if (there := await index.get("b", key)) is not None:
                await index.remove("b", key, there.id, project="p")
            case 2:
                await index.publish(new(key, stored(7)), SUSPENDED, project="p")
            case _:
                await index.publish(new(key, stored(3)), ENABLED, project="p")

    try:
        for _ in range(6):
            await asyncio.gather(*[write(n) for n in range(30)])
            versions = (await every[0].list_versions("b", limit=10_000)).versions
            current = sum(v.latest and not v.marker for v in versions)
            recount = Held(sum(v.size for v in versions), len(versions), current)
            assert await every[1].held("b") == recount == await every[2].held_by("p")
            assert sum(v.latest for v in versions) == len({v.key for v in versions}), "one latest a key"
            blobs = {p.blob for v in await every[0].walk(limit=10_000) for p in v.facts.pieces}
            assert set(await every[0].blobs(limit=10_000)) == blobs
    finally:
        for index in every:
            await index.close()


async def test_a_limit_holds_whoever_writes(database: str, clock: Hand) -> None:
    every = [await open_index(database, clock=clock) for _ in range(3)]
    limits = Limits(bytes=1000, versions=50)
    try:
        writes = [every[n % 3].publish(new(f"k{n}", stored(37)), NEVER, project="p", limits=limits) for n in range(60)]
        results = await asyncio.gather(*writes, return_exceptions=True)
        refusals = [result for result in results if isinstance(result, BaseException)]
        assert all(isinstance(result, Full) for result in refusals), refusals
        assert await every[0].held_by("p") == Held(27 * 37, 27, 27) and len(refusals) == 60 - 27
        with pytest.raises(Full):
            await every[0].put_part("b", Part("u", stored(2), 1.0), project="p", limits=limits) or await _part_full(
                every[0], limits
            )
    finally:
        for index in every:
            await index.close()


@pytest.mark.parametrize("own", [None, 2000])
async def test_a_limit_that_projects_share_holds_for_all_of_them_together(
    database: str, clock: Hand, own: int | None
) -> None:
    """Exactly so many of the writers get through, whichever of the projects and processes they are of."""
    every = [await open_index(database, clock=clock) for _ in range(3)]
    projects = ("p", "q", "r")
    limits = Limits(bytes=own, together=Together("acme", projects, bytes=1000, versions=40))
    try:
        await every[0].publish(new("old", stored(100), bucket="b-q"), NEVER, project="q")  # before there was a limit
        await every[0].publish(new("else", stored(900), bucket="b-x"), NEVER, project="x")  # of another organisation
        writes = [
            every[n % 3].publish(
                new(f"k{n}", stored(37), bucket=f"b-{projects[n // 3 % 3]}"), NEVER, project=projects[n // 3 % 3],
                limits=limits,
            )
            for n in range(60)
        ]  # fmt: skip
        results = await asyncio.gather(*writes, return_exceptions=True)
        refusals = [result for result in results if isinstance(result, BaseException)]
        assert all(isinstance(result, Full) and result.scope == "acme" for result in refusals), refusals
        held = [await every[1].held_by(project) for project in projects]
        assert sum(one.bytes for one in held) == 100 + 24 * 37 and len(refusals) == 60 - 24
        await every[0].begin(Upload("b-p", "k", "u", 1.0), project="p")
        with pytest.raises(Full):
            await every[0].put_part("b-p", Part("u", stored(13), 1.0), project="p", limits=limits)
        assert await every[0].put_part("b-p", Part("u", stored(12), 1.0), project="p", limits=limits)
        done = new("k", stored(12), bucket="b-p")
        with pytest.raises(Conflict):  # not Full: what its parts take already is not asked for again
            await every[0].complete("u", done, NEVER, project="p", limits=limits)
    finally:
        for index in every:
            await index.close()


async def test_a_shared_count_of_objects_holds_too_and_what_makes_less_is_allowed(index: ObjectIndex) -> None:
    limits = Limits(together=Together("acme", ("p", "q"), versions=3, bytes=100))
    for n, project in enumerate(("p", "q", "p")):
        await index.publish(new(f"k{n}", stored(30)), NEVER, project=project, limits=limits)
    with pytest.raises(Full) as raised:
        await index.publish(new("k3", stored(0)), NEVER, project="q", limits=limits)
    assert (raised.value.scope, raised.value.key) == ("acme", "versions")
    with pytest.raises(Full) as raised:
        await index.publish(new("k0", stored(41)), NEVER, project="p", limits=limits)
    assert (raised.value.scope, raised.value.key) == ("acme", "bytes")
    await index.publish(new("k0", stored(40)), NEVER, project="p", limits=limits)
    tight = Limits(together=Together("acme", ("p", "q"), bytes=10))
    await index.publish(new("k0", stored(39)), NEVER, project="p", limits=tight)
    assert await index.held_by("p") == Held(69, 2, 2) and await index.held_by("q") == Held(30, 1, 1)


async def _part_full(index: ObjectIndex, limits: Limits) -> None:
    await index.begin(Upload("b", "k", "u", 1.0), project="p")
    await index.put_part("b", Part("u", stored(2), 1.0), project="p", limits=limits)


async def test_a_full_project_may_still_make_less(index: ObjectIndex) -> None:
    await index.publish(new("k", stored(100)), NEVER, project="p")
    tight = Limits(bytes=50, versions=1)
    with pytest.raises(Full) as raised:
        await index.publish(new("k", stored(101)), NEVER, project="p", limits=tight)
    assert (raised.value.scope, raised.value.key) == ("p", "bytes")
    with pytest.raises(Full) as raised:
        await index.publish(new("j", stored(0)), NEVER, project="p", limits=tight)
    assert raised.value.key == "versions"
    await index.publish(new("k", stored(60)), NEVER, project="p", limits=tight)
    assert await index.held_by("p") == Held(60, 1, 1)


async def test_small_writes_of_a_roomy_project_pass_side_by_side(index: ObjectIndex) -> None:
    roomy = Limits(bytes=1 << 50, versions=1 << 40)
    await asyncio.gather(
        *[index.publish(new(f"k{n}", stored(n)), NEVER, project="p", limits=roomy) for n in range(40)]
    )  # fmt: skip
    assert await index.held_by("p") == Held(780, 40, 40)


# -- multipart ----------------------------------------------------------------------------------


async def test_parts_become_an_object_and_what_was_not_used_garbage(index: ObjectIndex, clock: Hand) -> None:
    upload = Upload("b", "big", "u1", 3.0, FACTS)
    await index.begin(upload, project="p")
    assert await index.upload("b", "u1") == upload and await index.upload("c", "u1") is None
    parts = [stored(10, number=1), stored(20, number=2), small(b"last", number=3), stored(5, number=9)]
    for piece in parts:
        assert await index.put_part("b", Part("u1", piece, 4.0), project="p")
    again = stored(11, number=1)
    assert await index.put_part("b", Part("u1", again, 4.5), project="p")
    assert await garbage(index) == {parts[0].blob}
    assert await index.held("b") == Held(0, 0, 0, 40, 1) == await index.held_by("p")
    listed = await index.parts("u1", limit=3)
    assert [(p.piece.number, p.piece.size, p.modified) for p in listed] == [(1, 11, 4.5), (2, 20, 4.0), (3, 4, 4.0)]
    assert [p.piece for p in await index.parts("u1", after=3)] == [parts[3]]
    assert listed[0].piece == again and listed[2].piece == replace(parts[2], inline=b"")
    done = new("big", *[p.piece for p in listed], facts=FACTS)
    written = await index.complete("u1", done, NEVER, project="p", events=("replicate",))
    assert written is not None and written.version.size == 35
    got = await index.get("b", "big")
    assert got is not None and got.facts.pieces == (again, parts[1], parts[2])
    assert await garbage(index) == {parts[0].blob, parts[3].blob}
    assert await index.held("b") == Held(35, 1, 1) and await index.upload("b", "u1") is None
    assert await index.parts("u1") == [] and [e.key for e in await index.events("replicate")] == ["big"]
    assert await index.completed("b", "u1") == got and await index.completed("b", "u2") is None
    clock.at += 3601
    assert await index.completed("b", "u1") is None
    assert await index.complete("u1", done, NEVER, project="p") is None
    assert not await index.put_part("b", Part("u1", stored(1), 1.0), project="p")


async def test_a_part_replaced_while_completing_is_a_conflict(index: ObjectIndex) -> None:
    await index.begin(Upload("b", "k", "u1", 3.0), project="p")
    old = stored(10, number=1)
    await index.put_part("b", Part("u1", old, 4.0), project="p")
    await index.put_part("b", Part("u1", stored(10, number=1), 4.0), project="p")
    for pieces in ((old,), (stored(1, number=2),)):
        with pytest.raises(Conflict):
            await index.complete("u1", new("k", *pieces), NEVER, project="p")
    assert await index.get("b", "k") is None and len(await index.parts("u1")) == 1


async def test_an_abort_leaves_nothing(index: ObjectIndex) -> None:
    await index.begin(Upload("b", "k", "u1", 3.0), project="p")
    pieces = [stored(10, number=1), small(b"x", number=2)]
    for piece in pieces:
        await index.put_part("b", Part("u1", piece, 4.0), project="p")
    assert not await index.abort("other", "u1", project="p")
    assert await index.abort("b", "u1", project="p") and not await index.abort("b", "u1", project="p")
    assert await garbage(index) == {pieces[0].blob} and await index.held("b") == Held()
    assert await index.close_bucket("b")


async def test_one_of_completing_and_aborting_wins(database: str, clock: Hand) -> None:
    one, two = [await open_index(database, clock=clock) for _ in range(2)]
    try:
        for n in range(10):
            await one.begin(Upload("b", f"k{n}", f"u{n}", 3.0), project="p")
            piece = stored(10, number=1)
            await one.put_part("b", Part(f"u{n}", piece, 4.0), project="p")
            written, aborted = await asyncio.gather(
                one.complete(f"u{n}", new(f"k{n}", piece), NEVER, project="p"), two.abort("b", f"u{n}", project="p")
            )
            assert (written is None) == aborted == (piece.blob in await garbage(one))
            assert (await two.get("b", f"k{n}") is None) == aborted
    finally:
        await one.close()
        await two.close()


async def test_uploads_are_listed_by_key_and_start(index: ObjectIndex) -> None:
    begun = [
        ("b/2", "x", 9.0),
        ("b/1", "z", 2.0),
        ("b/1", "y", 1.0),
        ("a", "w", 5.0),
        ("b/1", "v", 2.0),
        ("c", "u", 1.0),
    ]
    for key, id, at in begun:
        await index.begin(Upload("b", key, id, at), project="p")
    assert [u.id for u in (await index.uploads("b")).uploads] == ["w", "y", "v", "z", "x", "u"]
    ids: list[str] = []
    key = id = ""
    while True:
        page = await index.uploads("b", after_key=key, after_id=id, limit=1)
        ids += [u.id for u in page.uploads]
        key, id = page.next_key, page.next_id
        if not page.truncated:
            break
    assert ids == ["w", "y", "v", "z", "x", "u"]
    rolled = await index.uploads("b", delimiter="/")
    assert ([u.key for u in rolled.uploads], rolled.prefixes) == (["a", "c"], ("b/",))
    assert [u.id for u in (await index.uploads("b", after_key="b/1")).uploads] == ["x", "u"]
    assert [u.id for u in (await index.uploads("b", prefix="b/", after_key="a")).uploads] == ["y", "v", "z", "x"]
    assert (await index.held("b")).uploads == 6


# -- buckets, garbage, duties -------------------------------------------------------------------


async def test_a_bucket_closes_when_it_is_empty_and_takes_nothing_then(index: ObjectIndex, clock: Hand) -> None:
    await index.publish(new("k", stored(1), id="v"), ENABLED, project="p")
    assert not await index.close_bucket("b") and await index.closed_at("b") is None
    await index.remove("b", "k", "v", project="p")
    await index.begin(Upload("b", "k", "u", 1.0), project="p")
    assert not await index.close_bucket("b")
    await index.abort("b", "u", project="p")
    assert await index.close_bucket("b") and await index.close_bucket("b") and await index.closed_at("b") == clock.at
    for write in (
        index.publish(new("k", stored(1)), NEVER, project="p"),
        index.lay_marker(marker("k"), ENABLED, project="p"),
        index.begin(Upload("b", "k", "u", 1.0), project="p"),
    ):
        with pytest.raises(NotFound):
            await write
    await index.publish(new("k", stored(1), bucket="c"), NEVER, project="p")
    await index.reopen_bucket("b")
    await index.publish(new("k", stored(1)), NEVER, project="p")
    assert await index.closed_at("b") is None and await index.held_by("p") == Held(2, 2, 2)


async def test_a_bucket_that_closes_loses_no_write(database: str, clock: Hand) -> None:
    one, two = [await open_index(database, clock=clock) for _ in range(2)]
    try:
        for n in range(10):
            bucket = f"bucket{n}"
            written, closed = await asyncio.gather(
                one.publish(new("k", stored(1), bucket=bucket), NEVER, project="p"), two.close_bucket(bucket),
                return_exceptions=True,
            )  # fmt: skip
            assert closed is isinstance(written, NotFound)
            assert (await two.get(bucket, "k") is None) == closed
    finally:
        await one.close()
        await two.close()


async def test_blobs_that_were_given_up_are_garbage_unless_they_were_published(index: ObjectIndex) -> None:
    lost, used, late = stored(1), stored(1), stored(1)
    await index.publish(new("k", used), NEVER, project="p")
    await index.discard([lost.blob, used.blob, late.blob])
    assert await garbage(index) == {lost.blob, late.blob}
    await index.publish(new("l", late), NEVER, project="p")
    assert await garbage(index) == {lost.blob}


async def test_events_stay_until_they_are_done(index: ObjectIndex) -> None:
    for n in range(3):
        await index.publish(new(f"k{n}", stored(1), id=f"v{n}"), ENABLED, project="p", events=("replicate",))
    await index.lay_marker(marker("k0", "m"), ENABLED, project="p", events=("replicate", "other"))
    events = await index.events("replicate")
    assert [(e.bucket, e.key, e.id, e.what) for e in events] == [
        ("b", "k0", "v0", "replicate"), ("b", "k1", "v1", "replicate"), ("b", "k2", "v2", "replicate"),
        ("b", "k0", "m", "replicate"),
    ]  # fmt: skip
    assert [e.key for e in await index.events("replicate", after=events[1].number, limit=1)] == ["k2"]
    await index.done([e.number for e in events[:3]])
    assert [e.id for e in await index.events("replicate")] == ["m"] and len(await index.events("other")) == 1


async def test_a_duty_is_in_one_hand(index: ObjectIndex, clock: Hand) -> None:
    assert await index.lease("scrub", "one", 10) and not await index.lease("scrub", "two", 10)
    assert await index.lease("other", "two", 10)
    clock.at += 9
    assert await index.lease("scrub", "one", 10), "the holder goes on"
    clock.at += 9
    assert not await index.lease("scrub", "two", 10)
    clock.at += 2
    assert await index.lease("scrub", "two", 10) and not await index.lease("scrub", "one", 10)


async def test_notes_and_the_clocks_floor_outlive_the_process(database: str, clock: Hand) -> None:
    index = await open_index(database, clock=clock)
    assert await index.note("walk") == "" and await index.note("walk", "a") == "a"
    await index.note("walk", "b")
    assert await index.floor(100.0) == 100.0 and await index.floor(99.0) == 100.0
    await index.close()
    index = await open_index(database, clock=clock)
    try:
        assert await index.note("walk") == "b" and await index.floor(50.0) == 100.0
        assert await index.floor(1.8e9 + 0.123456) == 1.8e9 + 0.123456
    finally:
        await index.close()


async def test_no_jump_of_the_clock_ends_locks(database: str, clock: Hand) -> None:
    seconds, day_s = 5.0, 86_400.0
    index = await open_index(database, clock=clock, passed=lambda: seconds)
    try:
        began = clock.at
        assert await index.floor(began + STEP_S) == began + STEP_S, "a clock that was put right"
        seconds += day_s
        assert await index.floor(began + 400 * day_s) == began + day_s, "a jump: what passed counts"
        seconds += day_s
        assert await index.floor(began + 402 * day_s) == began + 2 * day_s, "time goes on meanwhile"
        assert await index.floor(began + 2 * day_s + 1) == began + 2 * day_s + 1, "and the jump left nothing behind"
        assert await index.floor(began) == began + 2 * day_s + 1
    finally:
        await index.close()


async def test_a_walk_meets_every_version(index: ObjectIndex) -> None:
    for bucket in ("b", "c"):
        for key in ("x", "y", "ö"):
            for id in ("1", "2", "3"):
                await index.publish(new(key, stored(1), id=id, bucket=bucket, facts=FACTS), ENABLED, project="p")
    for limit in (1, 2, 4, 100):
        met: list[Version] = []
        after = ("", "", 0)
        while page := await index.walk(after=after, limit=limit):
            met += page
            after = (page[-1].bucket, page[-1].key, page[-1].order)
        assert [(v.bucket, v.key, v.id) for v in met] == [
            (bucket, key, id) for bucket in ("b", "c") for key in ("x", "y", "ö") for id in ("3", "2", "1")
        ]
        assert all(v.facts.tags == FACTS.tags and v.facts.pieces[0].blob for v in met)


# -- listings -----------------------------------------------------------------------------------


async def test_a_common_prefix_is_behind_all_that_it_hides(index: ObjectIndex) -> None:
    for key in ("a", "a/1", "a/2", "a0", "b/1", "b/2/3", "c"):
        await index.publish(new(key, stored(1)), NEVER, project="p")
    first = await index.list("b", delimiter="/", limit=2)
    assert ([v.key for v in first.versions], first.prefixes, first.next, first.truncated) == (
        ["a"],
        ("a/",),
        "a/",
        True,
    )
    second = await index.list("b", delimiter="/", after=first.next, limit=2)
    assert ([v.key for v in second.versions], second.prefixes) == (["a0"], ("b/",))
    last = await index.list("b", delimiter="/", after=second.next, limit=2)
    assert ([v.key for v in last.versions], last.prefixes, last.truncated) == (["c"], (), False)
    inside = await index.list("b", delimiter="/", after="a/1")
    assert inside.prefixes == ("a/", "b/"), "behind a key, its prefix still stands for the others"
    assert (await index.list("b", limit=0)).truncated is False and (await index.list("none")).versions == ()


async def test_a_page_of_versions_goes_on_though_its_last_one_is_gone(index: ObjectIndex) -> None:
    for key in ("a", "b"):
        for id in ("1", "2", "3"):
            await index.publish(new(key, stored(1), id=id), ENABLED, project="p")
    met: list[tuple[str, str]] = []
    key = id = ""
    while True:
        page = await index.list_versions("b", after=key, after_id=id, limit=2)
        for v in page.versions:
            met.append((v.key, v.id))
            await index.remove("b", v.key, v.id, project="p")
        key, id = page.next, page.next_id
        if not page.truncated:
            break
    assert met == [(k, v) for k in ("a", "b") for v in ("3", "2", "1")] and await index.held("b") == Held()


async def test_many_hidden_keys_cost_no_walk(index: ObjectIndex) -> None:
    """Three folders of 500 keys each are listed in a few dozen rows."""
    keys = [f"{folder}/{n:04}" for folder in "xyz" for n in range(500)]
    for some in range(0, len(keys), 500):
        await asyncio.gather(
            *[index.publish(new(key, stored(1)), NEVER, project="p") for key in keys[some : some + 500]]
        )  # fmt: skip
    read = index._driver.read  # type: ignore[attr-defined]
    rows = 0

    async def counted(*words: object, **more: object) -> object:
        nonlocal rows
        found = await read(*words, **more)
        rows += len(found)
        return found

    index._driver.read = counted  # type: ignore[attr-defined]
    listing = await index.list("b", delimiter="/")
    assert listing.prefixes == ("x/", "y/", "z/") and not listing.truncated and rows < 250
