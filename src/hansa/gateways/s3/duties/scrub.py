"""Looks over what is stored: is every blob there, and are its bytes those that were sealed?

A round compares the lists of index and store, then reads every version's bytes again, at a bounded rate: their CRC-32C
needs no key, the segments' tags are tried where the key is at hand. What is found damaged or missing is told, and kept
in the index's notes, where the next round begins with it; nothing is ever deleted here, for a damaged copy may be the
only one, and most of its segments may still open. (Blobs that nobody published are counted; `reaping` clears them.)

A round goes on where the one before stopped, in whatever process.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import orjson
import structlog
from awscrt import checksums

from hansa.clock import Clock
from hansa.engines.blobs.port import BlobEngine, StoredBlob
from hansa.errors import NotFound, Retry
from hansa.gateways.s3.duties.chores import Pace
from hansa.gateways.s3.sealing import segments
from hansa.gateways.s3.sealing.keys import Keyring
from hansa.gateways.s3.sealing.segments import HEADER, WHOLE, Cipher, Damaged, Place, SealedKey
from hansa.gateways.s3.wire.errors import S3Error
from hansa.objectindex.port import ObjectIndex
from hansa.objectindex.records import Piece, Version

PAGE: Final = 200
KNOWN_PAGE: Final = 500
LOT_SEGMENTS: Final = 4
BYTES_PER_S: Final = 32 << 20
SMALL: Final = 4096  # what looking at one version costs, in bytes read
FINDINGS_MAX: Final = 1000
NOTE: Final = "scrub"

log = structlog.get_logger("hansa.s3.scrub")


@dataclass(frozen=True, slots=True)
class Finding:
    """`what` is missing or damaged. Bucket (its uid), key and version are empty for a part of an upload."""

    what: str
    blob: str
    bucket: str = ""
    key: str = ""
    id: str = ""
    detail: str = ""


@dataclass(slots=True)
class Report:
    """Of one round, finished when `ended` is set. `unopened`: pieces whose key was not at hand, so that their bytes were
    compared with their checksum alone. Epoch seconds; bytes as stored."""

    started: float
    ended: float = 0.0
    versions: int = 0
    pieces: int = 0
    bytes: int = 0
    unopened: int = 0
    orphans: int = 0
    findings: list[Finding] = field(default_factory=list)
    found: int = 0  # also those that are too many to list

    def add(self, finding: Finding) -> None:
        for at, known in enumerate(self.findings):
            if known.blob == finding.blob and known.key in ("", finding.key):
                if not known.key and finding.key:  # now it is known whose it is
                    log.error("stored bytes are not well", **asdict(finding))
                    self.findings[at] = finding
                return
        self.found += 1
        log.error("stored bytes are not well", **asdict(finding))
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(finding)


@dataclass(slots=True)
class Scrub:
    """`place_of` says where a bucket (its uid) belongs; None when it is gone. `pace` counts bytes."""

    index: ObjectIndex
    blobs: BlobEngine
    keyring: Keyring
    place_of: Callable[[str], Place | None]
    clock: Clock
    pace: Pace = field(default_factory=lambda: Pace(per_s=BYTES_PER_S))

    async def work(self) -> None:
        """A round as a duty (see `chores`)."""
        await self.round()

    async def round(self) -> Report:
        """Goes on with a round that was cut off, or begins one. Raises Retry when index or store do not answer."""
        report, after = await self._resumed()
        if after is None:
            await self._compare(report)
            after = ("", "", 0)
        while page := await self.index.walk(after=after, limit=PAGE):
            for version in page:
                await self._look(report, version)
            after = (page[-1].bucket, page[-1].key, page[-1].order)
            await self._note(report, after)
        report.ended = self.clock.now()
        await self._note(report, None)
        log.info(
            "scrub ended", versions=report.versions, bytes=report.bytes, found=report.found, orphans=report.orphans
        )
        return report

    async def last(self) -> Report | None:
        """The report of the last round, or of the one under way."""
        return _read(await self.index.note(NOTE))[0]

    async def _resumed(self) -> tuple[Report, tuple[str, str, int] | None]:
        report, after = _read(await self.index.note(NOTE))
        if report is None or report.ended:
            return Report(self.clock.now()), None
        return report, after

    async def _note(self, report: Report, after: tuple[str, str, int] | None) -> None:
        await self.index.note(NOTE, orjson.dumps({"report": report, "after": after}).decode())

    # -- the lists --------------------------------------------------------------------------

    async def _compare(self, report: Report) -> None:
        """Both lists are in order, so one walk over the two tells what only one of them has."""
        strangers: list[str] = []
        async with aclosing(self.blobs.all()) as stored, aclosing(_in_use(self.index)) as used:
            there: StoredBlob | None = await anext(stored, None)
            async for id in used:
                while there is not None and there.id < id:
                    strangers.append(there.id)
                    there = await anext(stored, None)
                    strangers = await self._count_orphans(report, strangers, KNOWN_PAGE)
                if there is not None and there.id == id:
                    there = await anext(stored, None)
                else:
                    await self._miss(report, id)
            while there is not None:
                strangers.append(there.id)
                there = await anext(stored, None)
                strangers = await self._count_orphans(report, strangers, KNOWN_PAGE)
        await self._count_orphans(report, strangers, 1)

    async def _count_orphans(self, report: Report, strangers: list[str], at_least: int) -> list[str]:
        """Garbage that waits to be deleted is known; what nobody knows is an orphan, or about to be published."""
        if len(strangers) < at_least:
            return strangers
        report.orphans += len(strangers) - len(await self.index.known(strangers))
        await self.pace.spend(len(strangers) * SMALL)
        return []

    async def _miss(self, report: Report, id: str) -> None:
        """It may have come since the store was listed, or gone since the index was."""
        if await self.blobs.size(id) is None and id in await self.index.blobs(after=_before(id), limit=1):
            report.add(Finding("missing", id))

    # -- the bytes --------------------------------------------------------------------------

    async def _look(self, report: Report, version: Version) -> None:
        report.versions += 1
        await self.pace.spend(SMALL)
        pieces = version.facts.pieces
        if any(not piece.blob for piece in pieces):
            now = await self.index.get(version.bucket, version.key, version.id)
            if now is None or now.order != version.order:
                return
            pieces = now.facts.pieces
        for piece in pieces:
            await self._look_at(report, version, piece)

    async def _look_at(self, report: Report, version: Version, piece: Piece) -> None:
        report.pieces += 1
        try:
            await self._check(report, version, piece)
        except (Damaged, NotFound) as error:
            if await self._is_current(version):
                what = "damaged" if isinstance(error, Damaged) else "missing"
                report.add(Finding(what, piece.blob, version.bucket, version.key, version.id, error.detail))

    async def _is_current(self, version: Version) -> bool:
        """Was it not deleted or replaced meanwhile?"""
        now = await self.index.get(version.bucket, version.key, version.id)
        return now is not None and now.order == version.order

    async def _check(self, report: Report, version: Version, piece: Piece) -> None:
        cipher = self._cipher(version, piece)
        if cipher is None:
            report.unopened += 1
        crc = at = 0
        async with aclosing(self._stored(piece)) as lots:
            async for lot in lots:
                await self.pace.spend(len(lot))
                crc = await asyncio.to_thread(_checked, lot, crc, cipher, piece.size, at)
                at += len(lot)
                report.bytes += len(lot)
        if at != piece.stored or at != segments.stored_size(piece.size):
            raise Damaged("stored bytes are damaged", detail=f"{piece.stored} bytes are due, {at} are there")
        if crc != SealedKey.read(piece.sealed_key).crc:
            raise Damaged("stored bytes are damaged", detail="their checksum is another")

    def _cipher(self, version: Version, piece: Piece) -> Cipher | None:
        """None when the key is a customer's, disabled or gone, or the bucket is."""
        place = self.place_of(version.bucket)
        if place is None or SealedKey.read(piece.sealed_key).customers:
            return None
        try:
            return self.keyring.cipher(place, piece.sealed_key)
        except (S3Error, Retry):
            return None

    async def _stored(self, piece: Piece) -> AsyncGenerator[bytes, None]:
        """The header, then lots of whole segments."""
        if not piece.blob:
            yield piece.inline[: len(HEADER)]
            yield piece.inline[len(HEADER) :]
            return
        for start, length in ((0, len(HEADER)), (len(HEADER), None)):
            async with aclosing(self.blobs.read(piece.blob, start, length, piece=LOT_SEGMENTS * WHOLE)) as parts:
                async for part in parts:
                    yield part


def _checked(lot: bytes, crc: int, cipher: Cipher | None, size: int, at: int) -> int:
    """The CRC so far. Raises Damaged when the header is another, or a tag does not fit."""
    if at == 0:
        if lot != HEADER:
            raise Damaged("stored bytes are damaged", detail="the header is another")
    elif cipher is not None:
        first, last = (at - len(HEADER)) // WHOLE, segments.segments_of(size) - 1
        for n in range(-(-len(lot) // WHOLE)):
            cipher.open(first + n, lot[n * WHOLE : (n + 1) * WHOLE], last=first + n == last)
    return int(checksums.crc32c(lot, crc))


async def _in_use(index: ObjectIndex) -> AsyncGenerator[str, None]:
    after = ""
    while page := await index.blobs(after=after, limit=KNOWN_PAGE):
        for id in page:
            yield id
        after = page[-1]


def _before(id: str) -> str:
    """What sorts right before it: nothing of ours lies between."""
    return f"{int(id, 16) - 1:032x}" if int(id, 16) else ""


def _read(note: str) -> tuple[Report | None, tuple[str, str, int] | None]:
    if not note:
        return None, None
    document: dict[str, Any] = orjson.loads(note)
    words = document["report"]
    findings = [Finding(**finding) for finding in words.pop("findings")]
    bucket_key_order = document["after"]
    return Report(**words, findings=findings), tuple(bucket_key_order) if bucket_key_order else None
