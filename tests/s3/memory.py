"""A control plane in memory: the directory and the upstream of gateways under test, without an API behind them."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

from hansa.clock import Clock, SystemClock
from hansa.errors import NotFound
from hansa.gateways.s3.ports import BucketView, Bypass, ProjectLimits, S3Identity
from hansa.gateways.s3.rules.access import is_home
from hansa.gateways.s3.wire.errors import S3Error
from hansa.objectindex.port import ObjectIndex
from hansa.objectindex.records import Limits, Versioning
from hansa.policy.decide import decide
from hansa.policy.verdict import Act, Caller, Rules, Subject

ORGANIZATION = "org"
STATES = {"Disabled": Versioning.NEVER, "Suspended": Versioning.SUSPENDED}


class MemoryDirectory:
    """Every user has a project of their own and is at home in it."""

    region = "se-sto"

    def __init__(self) -> None:
        self.buckets: dict[str, BucketView] = {}
        self.keys: dict[str, S3Identity] = {}
        self.limits: dict[str, ProjectLimits] = {}
        self.materials: dict[tuple[str, str], bytes] = {}
        self.emails: dict[str, str] = {}

    def add_user(
        self, access_key: str, secret: str, project: str, *, user_id: str = "", name: str = "", role: str = "",
        email: str = "", buckets: frozenset[str] | None = None, imported: bool = False,
    ) -> S3Identity:  # fmt: skip
        ref = f"/iam/projects/{project}/serviceAccounts/{access_key.lower()}"
        identity = S3Identity(
            access_key=access_key,
            secret=secret.encode(),
            caller=Caller(ref, member_of=frozenset({project})),
            project=project,
            organization=ORGANIZATION,
            user_id=user_id or sha256(ref.encode()).hexdigest(),
            display_name=name or access_key.lower(),
            ref=f"/storage/projects/{project}/s3Keys/{access_key.lower()}",
            buckets=buckets,
            imported=imported,
        )
        self.keys[access_key] = identity
        if email:
            self.emails[email] = identity.user_id
        return identity

    def add_key(self, project: str, name: str) -> None:
        self.materials[project, name] = secrets.token_bytes(32)

    def regions(self) -> frozenset[str]:
        return frozenset({"se-sto", "de-fra"})

    def bucket(self, name: str, region: str = "") -> BucketView | None:
        return self.buckets.get(name)

    def bucket_by_uid(self, uid: str) -> BucketView | None:
        return next((view for view in self.buckets.values() if view.uid == uid), None)

    def buckets_of(self, project: str) -> Sequence[BucketView]:
        return [self.buckets[name] for name in sorted(self.buckets) if self.buckets[name].project == project]

    def key(self, access_key: str) -> S3Identity | None:
        return self.keys.get(access_key)

    def user(self, user_id: str) -> str | None:
        return next((who.display_name for who in self.keys.values() if who.user_id == user_id), None)

    def user_of_email(self, email: str) -> str | None:
        return self.emails.get(email)

    def rules_of(self, project: str) -> Rules:
        return Rules()

    def project_limits(self, project: str) -> ProjectLimits:
        return self.limits.get(project, ProjectLimits(Limits()))

    def key_material(self, project: str, name: str) -> bytes:
        if name:
            try:
                return self.materials[project, name]
            except KeyError:
                raise S3Error.of("KMS.NotFoundException", KeyId=name) from None
        if (project, "") not in self.materials:
            self.materials[project, ""] = secrets.token_bytes(32)
        return self.materials[project, ""]

    async def caught_up(self) -> None:
        return None


class MemoryUpstream:
    """Bucket resources without rules of their own but the ones that S3 clients see."""

    def __init__(
        self, directory: MemoryDirectory, index: ObjectIndex, clock: Clock | None = None, *, open: bool = False
    ) -> None:
        self._directory, self._index, self._clock = directory, index, clock or SystemClock()
        self._open = open
        self.bypasses: list[Bypass] = []
        self.commits = 0  # of bypasses
        self.audits = True  # False: the audit takes nothing

    async def create_bucket(self, identity: S3Identity, name: str, region: str, spec: Mapping[str, Any]) -> BucketView:
        there = self._directory.buckets.get(name)
        if there is not None:
            code = "BucketAlreadyOwnedByYou" if is_home(identity, there) else "BucketAlreadyExists"
            raise S3Error.of(code, BucketName=name)
        if identity.buckets is not None:
            raise S3Error.of("AccessDenied")
        view = BucketView(
            uid=secrets.token_hex(8), name=name, project=identity.project, organization=identity.organization,
            region=region, territory="SE", revision=1, created=self._clock.now(), owner=identity.user_id,
            owner_name=identity.display_name, spec={}, open=self._open,
        )  # fmt: skip
        return self._keep(view, spec)

    async def delete_bucket(self, identity: S3Identity, bucket: BucketView, *, lent: bool = False) -> None:
        _check(identity, bucket, lent)
        try:
            closed = await self._index.close_bucket(bucket.uid)
        except NotFound:
            closed = True
        if not closed:
            raise S3Error.of("BucketNotEmpty", BucketName=bucket.name)
        if self._directory.buckets.pop(bucket.name, None) is None:
            raise S3Error.of("NoSuchBucket", BucketName=bucket.name)

    async def patch_bucket(
        self, identity: S3Identity, bucket: BucketView, merge: Mapping[str, Any], *, lent: bool = False
    ) -> BucketView:
        _check(identity, bucket, lent)
        there = self._directory.buckets.get(bucket.name)
        if there is None:
            raise S3Error.of("NoSuchBucket", BucketName=bucket.name)
        return self._keep(there, merged(there.spec, merge))

    async def record_bypasses(self, bypasses: Sequence[Bypass]) -> None:
        if not self.audits:
            raise S3Error.of("ServiceUnavailable")
        self.bypasses += bypasses
        self.commits += 1

    def _keep(self, view: BucketView, spec: Mapping[str, Any]) -> BucketView:
        mode = spec.get("objectRetentionMode", "Disabled")
        view = replace(
            view,
            revision=view.revision + 1,
            spec=spec,
            versioning=STATES.get(mode, Versioning.ENABLED),
            locking=mode == "Locking",
        )
        self._directory.buckets[view.name] = view
        return view


def _check(identity: S3Identity, bucket: BucketView, lent: bool) -> None:
    """The API asks for a role, unless the bucket was lent."""
    ref = f"/storage/projects/{bucket.project}/regions/{bucket.region}/buckets/{bucket.name}"
    subject = Subject("Bucket", bucket.name, project=bucket.project, organization=bucket.organization, ref=ref)
    if not lent and not decide(identity.caller, Act.UPDATE, subject, Rules()).allowed:
        raise S3Error.of("AccessDenied")


def merged(target: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, Mapping):
        return patch
    found = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            found.pop(name, None)
        else:
            found[name] = merged(found.get(name), value)
    return found
