"""Replication at work: what stands in the outbox is copied to where the bucket's rules say, then crossed out.

A version and its place in the outbox were written in one commit, so nothing is forgotten; so are a change of its tags,
lock or grants and its place. A copy keeps the version's id, ETag, parts, metadata, tags and lock, and the grants where
both buckets have one owner; its bytes are opened and sealed anew, under the target's own key. The outbox does not say what
happened: a copy that is not there is made, one that is there becomes as its source now is, so that a round done twice
does no harm. What went wrong is tried again, ever less often, for a day; then, or when it can never succeed, the version
says FAILED. Versions of one key are copied in the order in which they were written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import structlog

from hansa.errors import Exhausted, Full, HansaError, Retry
from hansa.gateways.s3.calls.grants import object_acl
from hansa.gateways.s3.duties.chores import Pace
from hansa.gateways.s3.gateway import Gateway
from hansa.gateways.s3.ports import BucketView
from hansa.gateways.s3.rules import encryptionrules, publicaccess, replication
from hansa.gateways.s3.rules.acl import Ownership
from hansa.gateways.s3.wire.bucketrules import ReplicationRule
from hansa.gateways.s3.wire.errors import S3Error
from hansa.objectindex.records import AclGrant, Encryption, Event, Facts, NewVersion, Piece, Version, Versioning

PAGE = 200
AT_ONCE = 4  # keys copied at the same time
GIVE_UP_S = 86_400.0
FIRST_RETRY_S, LAST_RETRY_S = 5.0, 1800.0
WAITING_MAX = 10_000  # events whose next try is remembered; others are tried in each round

log = structlog.get_logger("hansa.s3.replication")
Grants = tuple[AclGrant, ...]
_NO_GRANTS: Grants = ()


@dataclass(slots=True)
class Replicating:
    """One round is `work`: everything in the outbox whose time it is."""

    gateway: Gateway
    pace: Pace = field(default_factory=Pace)
    touched: Callable[[str], None] = lambda uid: None
    give_up_s: float = GIVE_UP_S
    _waiting: dict[int, tuple[float, float]] = field(default_factory=dict)  # event -> not before, the pause after

    async def work(self) -> None:
        after, held = 0, set[tuple[str, str]]()
        seen: set[int] = set()
        while events := await self.gateway.index.events(replication.EVENT, after=after, limit=PAGE):
            after = events[-1].number
            seen |= {event.number for event in events}
            await self._page(events, held)
            await self.pace.spend(len(events))
        self._waiting = {number: pause for number, pause in self._waiting.items() if number in seen}

    async def _page(self, events: Sequence[Event], held: set[tuple[str, str]]) -> None:
        """By key, since the versions of one are copied one after the other. `held`: keys of which one has to wait."""
        keys: dict[tuple[str, str], list[Event]] = {}
        for event in events:
            keys.setdefault((event.bucket, event.key), []).append(event)
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(key: tuple[str, str], mine: Sequence[Event]) -> None:
            async with gate:
                for event in mine:
                    if key in held or not await self._try(event):
                        held.add(key)
                        return

        outcomes = await asyncio.gather(*(one(key, mine) for key, mine in keys.items()), return_exceptions=True)
        for error in outcomes:
            if error is not None:
                raise error

    async def _try(self, event: Event) -> bool:
        """True: it is off the outbox, copied or given up."""
        now = self.gateway.clock.now()
        if now < self._waiting.get(event.number, (0.0, 0.0))[0]:
            return False
        seen: Facts | None = None
        try:
            seen = await self._replicate(event)
            status = replication.COMPLETED
        except HansaError as error:
            if _may_yet_succeed(error) and now - event.at < self.give_up_s:
                self._put_off(event, now)
                log.warning("replication waits", bucket=event.bucket, version=event.id, reason=error.message)
                return False
            log.warning(
                "replication failed", bucket=event.bucket, version=event.id, reason=error.message, detail=error.detail
            )
            status = replication.FAILED
        await self._say(event, status, seen)
        await self.gateway.index.done([event.number])
        self._waiting.pop(event.number, None)
        return True

    def _put_off(self, event: Event, now: float) -> None:
        pause = min(LAST_RETRY_S, 2 * self._waiting.get(event.number, (0.0, FIRST_RETRY_S / 2))[1])
        if len(self._waiting) < WAITING_MAX or event.number in self._waiting:
            self._waiting[event.number] = (now + pause, pause)

    async def _say(self, event: Event, status: str, seen: Facts | None) -> None:
        """Of a version that became another one while it was copied (`seen`: as it was then), the next entry tells."""

        def change(version: Version) -> Facts:
            facts = version.facts
            as_seen = seen is None or replication.is_same(facts, seen)
            return replace(facts, replication=status) if as_seen else facts

        await self.gateway.index.amend(event.bucket, event.key, event.id, change)

    # -- one version ------------------------------------------------------------------------

    async def _replicate(self, event: Event) -> Facts | None:
        """The facts that its copies have been given; None when there is no version, or no bucket, any more.

        Raises what the store, the index and the keepers of keys raise; S3Error where no rule takes it any more.
        """
        gateway = self.gateway
        source = gateway.directory.bucket_by_uid(event.bucket)
        version = await gateway.index.get(event.bucket, event.key, event.id)
        if source is None or version is None:
            return None
        found = gateway.buckets.of(source).replication
        rules = replication.takers(found.rules, version) if found is not None else ()
        if not rules:
            raise S3Error.of("InvalidRequest", f"No rule of {source.name} takes the version any more.")
        for rule in rules:
            await self._copy(source, version, self._target(source, rule))
        return version.facts

    def _target(self, source: BucketView, rule: ReplicationRule) -> BucketView:
        """Looked at anew for each copy. Raises S3Error where nothing may be copied to."""
        directory = self.gateway.directory
        name, region = replication.target_of(rule)
        target = directory.bucket(name, region)
        if target is None or target.project != source.project or region not in ("", target.region):
            raise S3Error.of("NoSuchBucket", BucketName=name)
        if target.versioning is not Versioning.ENABLED:
            raise S3Error.of("InvalidBucketState", f"Versioning of {name} is not enabled.")
        verdict = replication.allowed(target, directory.rules_of(target.project))
        if not verdict.allowed:
            raise S3Error("AccessDenied", f"Objects of {source.name} may not be copied to {name}: {verdict.why}.")
        return target

    async def _copy(self, source: BucketView, version: Version, target: BucketView) -> None:
        index, grants = self.gateway.index, self._grants(source, version, target)
        if await index.get(target.uid, version.key, version.id) is not None:
            await self._follow(version, target, grants)
            return
        facts = replace(
            version.facts, replication=replication.REPLICA, owner=target.owner, owner_name=target.owner_name,
            acl=grants, encryption=self._sealing(target),
        )  # fmt: skip
        new = NewVersion(
            target.uid, version.key, version.id, version.modified, version.size, version.etag, facts, version.marker
        )  # fmt: skip
        if version.marker:
            await index.lay_marker(new, target.versioning, project=target.project)
            self.touched(target.uid)
            return
        pieces = await self._poured(source, version, target, facts.encryption)
        try:
            limits = self.gateway.directory.project_limits(target.project).held
            full = replace(new, facts=replace(facts, pieces=tuple(pieces)))
            await index.publish(full, target.versioning, project=target.project, limits=limits)
            self.touched(target.uid)
        except HansaError:
            await self.gateway.content.drop(pieces)
            raise

    async def _follow(self, version: Version, target: BucketView, grants: Grants) -> None:
        """A copy that is there already becomes what its source now is. One that is no replica is another's, and stays."""
        now = await self.gateway.index.floor(self.gateway.clock.now())

        def change(there: Version) -> Facts:
            facts = there.facts
            if facts.replication != replication.REPLICA or there.marker:
                return facts
            found = replication.followed(facts, version.facts, locking=target.locking, now=now)
            return replace(found, acl=grants)

        await self.gateway.index.amend(target.uid, version.key, version.id, change)

    def _grants(self, source: BucketView, version: Version, target: BucketView) -> Grants:
        """Those of the version where ACLs count in both buckets and its owner is the target's as well.

        Raises AccessDenied for public ones that the target's public access block refuses."""
        known = self.gateway.buckets
        home, there = known.of(source).access, known.of(target).access
        if Ownership.ENFORCED in (home.ownership, there.ownership) or version.facts.owner != target.owner:
            return _NO_GRANTS
        publicaccess.check_acl(there.block, object_acl(home, version))
        return version.facts.acl

    def _sealing(self, target: BucketView) -> Encryption | None:
        rule = self.gateway.buckets.of(target).encryption
        return encryptionrules.wanted({}, rule, secure=True).record(b"")

    async def _poured(
        self, source: BucketView, version: Version, target: BucketView, encryption: Encryption | None
    ) -> list[Piece]:  # fmt: skip
        """The bytes, part by part, sealed for their new place. Nothing of them is left when it fails."""
        pieces: list[Piece] = []
        at = 0
        try:
            for piece in version.facts.pieces:
                poured = await self._pour(source, version, target, encryption, piece, at)
                pieces.append(replace(poured, etag=piece.etag, checksum=piece.checksum))
                at += piece.size
        except BaseException:
            await self.gateway.content.drop(pieces)
            raise
        return pieces

    async def _pour(
        self, source: BucketView, version: Version, target: BucketView, encryption: Encryption | None, piece: Piece,
        at: int,
    ) -> Piece:  # fmt: skip
        content, known = self.gateway.content, self.gateway.buckets
        writer = content.writer(
            known.of(target).place, encryption=encryption, size=piece.size, number=piece.number
        )  # fmt: skip
        try:
            async for data in content.read(known.of(source).place, version, at, piece.size):
                await writer.feed(data)
            return await writer.finish()
        except BaseException:
            await writer.discard()
            raise


def _may_yet_succeed(error: HansaError) -> bool:
    """Room may be made, a database come back, a key be enabled again."""
    by_key = isinstance(error, S3Error) and error.code.startswith("KMS.")
    return by_key or isinstance(error, Retry | Full | Exhausted) or error.status == 503
