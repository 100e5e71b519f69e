"""The scrub finds what a disk did to stored bytes, tells it once, and never makes it worse."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from hansa.clock import SystemClock
from hansa.engines.blobs.files import FileBlobs, path_of
from hansa.gateways.s3.duties.chores import Pace
from hansa.gateways.s3.duties.scrub import Report, Scrub
from hansa.gateways.s3.sealing.content import Content, whole
from hansa.gateways.s3.sealing.segments import WHOLE, Damaged, Place
from hansa.gateways.s3.wire.errors import S3Error
from hansa.objectindex.open import open_index
from hansa.objectindex.port import ObjectIndex
from hansa.objectindex.records import Facts, NewVersion, Part, Upload, Version, Versioning

pytestmark = pytest.mark.anyio
PLACE = Place("project", "region", "b")


class Keys:
    disabled = False

    def key_material(self, project: str, name: str) -> bytes:
        if self.disabled:
            raise S3Error("KMS.DisabledException")
        return hashlib.sha256(project.encode()).digest()


@dataclass
class Stored:
    """Objects under test, and the scrub over them."""

    index: ObjectIndex
    blobs: FileBlobs
    content: Content
    keys: Keys

    def scrub(self, **more: object) -> Scrub:
        fast = Pace(per_s=1e15)
        places = {"b": PLACE}
        return Scrub(
            self.index, self.blobs, self.content.keyring, places.get, SystemClock(), more.pop("pace", fast)  # type: ignore[arg-type]
        )  # fmt: skip

    async def put(self, key: str, size: int, *, customer_key: bytes | None = None) -> Version:
        writer = self.content.writer(PLACE, size=size, customer_key=customer_key)
        await writer.feed(os.urandom(size))
        piece = await writer.finish()
        new = NewVersion("b", key, f"v{key}", 1.0, size, "", Facts(pieces=(piece,)))
        return (await self.index.publish(new, Versioning.ENABLED, project="project")).version

    def file(self, version: Version) -> Path:
        return self.blobs.root / path_of(version.facts.pieces[0].blob)

    def damage(self, version: Version, at: int) -> None:
        file = self.file(version)
        data = bytearray(file.read_bytes())
        data[at] ^= 1
        file.write_bytes(data)


@pytest.fixture
async def stored(tmp_path: Path) -> AsyncIterator[Stored]:
    index, blobs, keys = await open_index(tmp_path / "index.db"), FileBlobs(tmp_path / "blobs", reserve=0), Keys()
    content = Content(index, blobs, keys)
    yield Stored(index, blobs, content, keys)
    await content.close()
    await blobs.close()
    await index.close()


def told(report: Report) -> set[tuple[str, str]]:
    return {(finding.what, finding.key) for finding in report.findings}


async def test_what_is_well_is_found_well(stored: Stored) -> None:
    sizes = [0, 10, 20_000, 300_000, 2_500_000]
    versions = [await stored.put(f"k{n}", size) for n, size in enumerate(sizes)]
    report = await stored.scrub().round()
    assert report.findings == [] and (report.versions, report.pieces, report.unopened) == (5, 5, 0)
    assert report.bytes == sum(p.stored for v in versions for p in v.facts.pieces) and report.orphans == 0
    assert report.ended and await stored.scrub().last() == report


@pytest.mark.parametrize("at", [3, 100, 8 + WHOLE + 5, -1])
async def test_damage_is_told_and_the_bytes_are_left_alone(stored: Stored, at: int) -> None:
    version = await stored.put("bad", 700_000)
    await stored.put("good", 700_000)
    stored.damage(version, at)
    report = await stored.scrub().round()
    assert told(report) == {("damaged", "bad")} and report.found == 1
    assert (report.findings[0].bucket, report.findings[0].id) == ("b", "vbad")
    assert stored.file(version).stat().st_size == version.facts.pieces[0].stored
    if at == -1:
        parts = [p async for p in stored.content.read(PLACE, version, 0, 500_000)]
        assert sum(len(p) for p in parts) == 500_000, "the segments that are well still open"
    if at > 3:
        with pytest.raises(Damaged):
            await whole(stored.content, PLACE, version)


async def test_damage_is_found_without_any_key(stored: Stored) -> None:
    theirs = await stored.put("customers", 50_000, customer_key=b"c" * 32)
    ours = await stored.put("ours", 50_000)
    stored.keys.disabled = True
    report = await stored.scrub().round()
    assert report.findings == [] and report.unopened == 2
    for version in (theirs, ours):
        stored.damage(version, 1000)
    assert told(await stored.scrub().round()) == {("damaged", "customers"), ("damaged", "ours")}


async def test_a_blob_that_was_swapped_for_another_is_damaged(stored: Stored) -> None:
    one, two = await stored.put("one", 50_000), await stored.put("two", 50_000)
    data = stored.file(one).read_bytes()
    stored.file(one).write_bytes(stored.file(two).read_bytes())
    stored.file(two).write_bytes(data)
    assert told(await stored.scrub().round()) == {("damaged", "one"), ("damaged", "two")}


async def test_inline_bytes_are_looked_at_too(stored: Stored, tmp_path: Path) -> None:
    version = await stored.put("small", 100)
    stored.index._driver._writer.execute("update s3_inline set body = zeroblob(length(body))")  # type: ignore[attr-defined]
    assert told(await stored.scrub().round()) == {("damaged", "small")}
    assert version.facts.pieces[0].inline


async def test_missing_blobs_are_told_of_objects_and_of_parts(stored: Stored) -> None:
    version = await stored.put("lost", 50_000)
    writer = stored.content.writer(PLACE)
    await writer.feed(b"x" * 50_000)
    piece = await writer.finish()
    await stored.index.begin(Upload("b", "k", "u", 1.0), project="project")
    await stored.index.put_part("b", Part("u", piece, 1.0), project="project")
    assert (await stored.scrub().round()).findings == []
    for blob in (version.facts.pieces[0].blob, piece.blob):
        await stored.blobs.delete(blob)
    report = await stored.scrub().round()
    assert {finding.blob for finding in report.findings} == {version.facts.pieces[0].blob, piece.blob}
    assert told(report) == {("missing", "lost"), ("missing", "")} and report.found == len(report.findings) == 2


async def test_a_short_file_and_a_long_one_are_damaged(stored: Stored) -> None:
    short, long = await stored.put("short", 50_000), await stored.put("long", 50_000)
    os.truncate(stored.file(short), 100)
    with stored.file(long).open("ab") as file:
        file.write(b"more")
    assert told(await stored.scrub().round()) == {("damaged", "short"), ("damaged", "long")}


async def test_orphans_are_counted_and_left_alone(stored: Stored) -> None:
    await stored.put("k", 50_000)
    writer = stored.content.writer(PLACE)
    await writer.feed(b"x" * 50_000)
    orphan = await writer.finish()
    writer = stored.content.writer(PLACE)
    await writer.feed(b"x" * 50_000)
    await stored.content.drop([await writer.finish()])
    report = await stored.scrub().round()
    assert (report.orphans, report.findings) == (1, []) and await stored.blobs.size(orphan.blob) is not None


async def test_what_is_deleted_while_it_is_looked_at_is_no_finding(stored: Stored) -> None:
    version = await stored.put("k", 50_000)
    scrub = stored.scrub()
    page = await stored.index.walk()
    await stored.index.remove("b", "k", version.id, project="project")
    await stored.blobs.delete(version.facts.pieces[0].blob)
    report = Report(1.0)
    for old in page:
        await scrub._look(report, old)
    assert report.findings == [] and report.versions == 1


async def test_a_round_goes_on_where_it_was_cut_off(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hansa.gateways.s3.duties.scrub.PAGE", 2)
    versions = [await stored.put(f"k{n}", 20_000) for n in range(7)]
    stored.damage(versions[0], 50)
    looked = 0

    async def cut(seconds: float) -> None:
        nonlocal looked
        looked += 1
        if looked > 12:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await stored.scrub(pace=Pace(1.0, cut)).round()
    half = await stored.scrub().last()
    assert half is not None and not half.ended and 0 < half.versions < 7
    report = await stored.scrub().round()
    assert (report.versions, report.started) == (7, half.started) and told(report) == {("damaged", "k0")}
    assert (await stored.scrub().round()).started > report.started


async def test_the_rate_is_bounded(stored: Stored) -> None:
    slept = 0.0

    async def count(seconds: float) -> None:
        nonlocal slept
        slept += seconds

    version = await stored.put("k", 3_000_000)
    await stored.scrub(pace=Pace(1_000_000, count)).round()
    assert slept >= 3.0 and version.size == 3_000_000


async def test_a_bucket_that_is_gone_is_compared_by_its_checksums(stored: Stored) -> None:
    piece = (await stored.put("k", 50_000)).facts.pieces[0]
    new = NewVersion("gone", "k", "v", 1.0, 50_000, "", Facts(pieces=(replace(piece),)))
    await stored.index.publish(new, Versioning.ENABLED, project="project")
    report = await stored.scrub().round()
    assert report.findings == [] and report.unopened == 1
