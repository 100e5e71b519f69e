"""Lifecycle at work: the rules of every bucket that has some, on every version and upload that they could be for.

A round walks the index bucket by bucket and prefix by prefix, a page at a time, and notes where it is. What a rule takes
is deleted as a client would delete it, in one step that looks again at the version and its lock: what was overwritten or
locked meanwhile stays. A lifecycle never bypasses a lock.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

import structlog

from hansa.errors import Conflict, HansaError, NotFound, Retry
from hansa.gateways.s3.calls.writing import new_version_id
from hansa.gateways.s3.duties.chores import Pace
from hansa.gateways.s3.gateway import Gateway
from hansa.gateways.s3.ports import BucketView
from hansa.gateways.s3.rules.lifecycle import (
    DAY_S,
    Deed,
    Due,
    Place,
    Standing,
    closing,
    due,
    is_enabled,
    prefixes,
    ranked,
    upload_due,
)
from hansa.gateways.s3.rules.locks import check_removal
from hansa.gateways.s3.wire.bucketrules import LifecycleRule
from hansa.gateways.s3.wire.errors import S3Error
from hansa.objectindex.port import Check
from hansa.objectindex.records import Facts, NewVersion, Upload, Version

PAGE = 500
NEWEST = 1 << 62  # above every order: a walk that begins there sees all versions of its key
AT = "chores/lifecycle/at"  # the bucket and the key that a round has come to

log = structlog.get_logger("hansa.s3.lifecycle")


class Changed(Conflict):
    """The version is another one by now, and so no concern of the rule."""


@dataclass(slots=True)
class Expiring:
    """One round is `work`. `buckets`: all that there are. `touched`: told of each bucket that holds less than before."""

    gateway: Gateway
    buckets: Callable[[], Iterable[BucketView]]
    day_s: float = DAY_S
    pace: Pace = field(default_factory=Pace)
    touched: Callable[[str], None] = lambda uid: None

    async def work(self) -> None:
        """A bucket in which something is wrong does not keep the others waiting. Raises Retry at once, other errors at
        the end."""
        wrong: HansaError | None = None
        bucket_at, key_at = _place(await self.gateway.index.note(AT))
        for bucket in sorted(self.buckets(), key=lambda it: it.uid):
            if bucket.uid < bucket_at:
                continue
            try:
                await self._round(bucket, key_at if bucket.uid == bucket_at else "")
            except Retry:
                raise
            except HansaError as error:
                wrong = error
        await self.gateway.index.note(AT, "")
        if wrong is not None:
            raise wrong

    async def _round(self, bucket: BucketView, key_at: str) -> None:
        rules = [rule for rule in self.gateway.buckets.of(bucket).lifecycle if is_enabled(rule)]
        done = await self._bucket(bucket, rules, key_at) if rules else 0
        if done:
            self.touched(bucket.uid)
            log.info("lifecycle", bucket=bucket.name, project=bucket.project, done=done)

    async def _bucket(self, bucket: BucketView, rules: Sequence[LifecycleRule], key_at: str) -> int:
        done = 0
        for prefix in prefixes(rules):
            async for page in self._standings(bucket, prefix, key_at):
                for standing in page:
                    done += await self._judge(bucket, rules, standing)
                await self.pace.spend(len(page))
            async for uploads in self._uploads(bucket, prefix, rules):
                done += await self._abort(bucket, rules, uploads)
                await self.pace.spend(len(uploads))
        return done

    # -- versions ---------------------------------------------------------------------------

    async def _standings(self, bucket: BucketView, prefix: str, key_at: str) -> AsyncIterator[list[Standing]]:
        """All versions under a prefix, from a key on."""
        index, place = self.gateway.index, Place()
        start = max(prefix, key_at)
        after = (bucket.uid, start, NEWEST) if start else (bucket.uid, "", 0)
        while True:
            page = await index.walk(after=after, limit=PAGE)
            here = [v for v in page if v.bucket == bucket.uid and v.key.startswith(prefix)]
            found, place = ranked(here, place)
            if len(here) < PAGE:
                yield found + closing(place)
                return
            yield found
            last = here[-1]
            after = (last.bucket, last.key, last.order)
            await index.note(AT, f"{bucket.uid} {quote(last.key)}")

    async def _judge(self, bucket: BucketView, rules: Sequence[LifecycleRule], it: Standing) -> int:
        """How many deeds were done: one or none."""
        found = due(rules, it, self.gateway.clock.now(), self.day_s)
        if found is None:
            return 0
        try:
            await self._do(bucket, it.version, found)
        except (Changed, NotFound):  # overwritten meanwhile, or the bucket is closed
            return 0
        except S3Error as error:
            log.info("lifecycle kept", bucket=bucket.name, version=it.version.id, rule=found.rule, reason=error.message)
            return 0
        return 1

    async def _do(self, bucket: BucketView, version: Version, found: Due) -> None:
        index, now = self.gateway.index, self.gateway.clock.now()
        if found.deed is Deed.EXPIRE:
            owner = Facts(owner=bucket.owner, owner_name=bucket.owner_name)
            marker = NewVersion(bucket.uid, version.key, new_version_id(), now, facts=owner, marker=True)
            await index.lay_marker(marker, bucket.versioning, project=bucket.project, check=_unchanged(version))
            return
        trusted = await index.floor(now) if bucket.locking else now
        check = _removable(version, trusted)
        await index.remove(bucket.uid, version.key, version.id, project=bucket.project, check=check)

    # -- uploads ----------------------------------------------------------------------------

    async def _uploads(
        self, bucket: BucketView, prefix: str, rules: Sequence[LifecycleRule]
    ) -> AsyncIterator[Sequence[Upload]]:  # fmt: skip
        if all(rule.abort_days is None for rule in rules):
            return
        key = id = ""
        while True:
            page = await self.gateway.index.uploads(
                bucket.uid, prefix=prefix, after_key=key, after_id=id, limit=PAGE
            )  # fmt: skip
            yield page.uploads
            if not page.truncated:
                return
            key, id = page.next_key, page.next_id

    async def _abort(self, bucket: BucketView, rules: Sequence[LifecycleRule], uploads: Sequence[Upload]) -> int:
        now, done = self.gateway.clock.now(), 0
        for upload in uploads:
            if upload_due(rules, upload, now, self.day_s):
                done += await self.gateway.index.abort(bucket.uid, upload.id, project=bucket.project)
        return done


def _place(noted: str) -> tuple[str, str]:
    """The key is quoted: not every key is a text that a database takes."""
    bucket, _, key = noted.partition(" ")
    return bucket, unquote(key)


def _unchanged(version: Version) -> Check:
    def check(current: Version | None) -> None:
        if current is None or (current.order, current.latest) != (version.order, version.latest):
            raise Changed("the version changed before its time came")

    return check


def _removable(version: Version, now: float) -> Check:
    unchanged = _unchanged(version)

    def check(there: Version | None) -> None:
        unchanged(there)
        assert there is not None
        check_removal(there.facts.lock, bypass=False, now=now)

    return check
