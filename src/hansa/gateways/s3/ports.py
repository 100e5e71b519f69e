"""What the gateway asks of the control plane: who signed, which bucket is meant, and writes to buckets in the caller's name.

`Directory` answers from memory, at once, what the control store says; `Upstream` carries a user's write to the API, where
it is decided, audited and merged like any other, and comes back when the directory knows the outcome. What is audited and
happens in the gateway alone is told to the API the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from hansa.objectindex.records import Limits, Versioning
from hansa.policy.verdict import Caller, Rules


@dataclass(frozen=True, slots=True)
class BucketView:
    """One bucket as the control store has it. A new view is made for each new revision, so views may be cached by it.

    `spec` is the resource's spec as the API shows it (JSON, empty fields left out): `objectRetentionMode`,
    `defaultObjectLocking`, `lifecyclePolicy`, `policy`, `publicAccessBlock`, `objectOwnership`, `acl`, `cors`,
    `encryption`, `tags`, `replication`. `created` is epoch seconds. `owner` is the canonical user id of who made it.
    `going`: it is being deleted and is no bucket any more to S3's clients. `open`: it was born to take ACLs, and not
    kept from the public (`status.access`), where the spec does not say otherwise.
    """

    uid: str
    name: str
    project: str
    organization: str
    region: str
    territory: str
    revision: int
    created: float
    owner: str
    owner_name: str
    spec: Mapping[str, Any]
    versioning: Versioning = Versioning.NEVER
    locking: bool = False  # object lock was enabled when it was made, or since
    going: bool = False
    open: bool = False


@dataclass(frozen=True, slots=True)
class S3Identity:
    """Somebody who holds a key. `buckets`: uids that the key is bound to; None: every bucket its roles reach.

    `user_id` and `display_name` are what owners and grantees are called on the wire; `ref` is the key's own reference
    (`via`), `caller.ref` the account's. `disabled` says why the key does not count now: revoked, expired, its account
    disabled; empty otherwise. `imported`: a user of another cloud, at home only in the buckets that are theirs by name.
    """

    access_key: str
    secret: bytes = field(repr=False)
    caller: Caller
    project: str
    organization: str
    user_id: str
    display_name: str
    ref: str = ""
    buckets: frozenset[str] | None = None
    disabled: str = ""
    imported: bool = False


@dataclass(frozen=True, slots=True)
class Rate:
    """How many requests a second all gateways together take for a project, or for all projects of an organisation."""

    kind: str  # project, organization
    name: str
    per_s: int


@dataclass(frozen=True, slots=True)
class ProjectLimits:
    """What a project may hold and ask for: its own limits and those of its organisation, which all of it shares."""

    held: Limits = Limits()
    rates: tuple[Rate, ...] = ()


@dataclass(frozen=True, slots=True)
class Bypass:
    """A retention in GOVERNANCE mode that somebody is let pass by. `id`: of its record; `until`: epoch seconds, the end that
    it had; `becomes`: what is left of it, in words."""

    id: str
    caller: Caller
    rule: str
    operation: str
    request: str
    bucket: BucketView
    key: str
    version: str
    until: float
    becomes: str


class Directory(Protocol):
    """Answers from memory; none of its methods but `caught_up` waits."""

    region: str  # the default region, meant where a client names none

    def regions(self) -> frozenset[str]: ...

    def bucket(self, name: str, region: str = "") -> BucketView | None:
        """The bucket of that name: in `region` (the one that the client signed for) when there is one there, else in
        the default region, else wherever it is. One that is going is not there."""
        ...

    def bucket_by_uid(self, uid: str) -> BucketView | None: ...

    def buckets_of(self, project: str) -> Sequence[BucketView]:
        """Those of a project, by name; what is going is left out."""
        ...

    def key(self, access_key: str) -> S3Identity | None:
        """Also a key that is disabled, which its view says."""
        ...

    def user(self, user_id: str) -> str | None:
        """The display name of a canonical user id, None for one that nobody has: grants name only people there are."""
        ...

    def user_of_email(self, email: str) -> str | None:
        """The canonical user id of who has this address."""
        ...

    def rules_of(self, project: str) -> Rules:
        """The written rules that hold for what lies in a project: the territories that it allows."""
        ...

    def project_limits(self, project: str) -> ProjectLimits: ...

    def key_material(self, project: str, name: str) -> bytes:
        """32 bytes of the project's default key (empty name) or of a named one. Raises S3Error (KMS.…) or Retry."""
        ...

    async def caught_up(self) -> None:
        """Returns when everything that was committed before the call is known here. Raises Retry in time.

        Asked before somebody is told that there is no such key or bucket: another process may have made it just now.
        """
        ...


class Upstream(Protocol):
    """Writes to bucket resources, in the caller's name, by the native API. Returns when the directory knows the outcome.

    Errors are S3Error: AccessDenied, BucketAlreadyExists, BucketAlreadyOwnedByYou, BucketNotEmpty, NoSuchBucket,
    InvalidArgument for a spec that breaks a rule, TooManyBuckets, OperationAborted, ServiceUnavailable.
    """

    async def create_bucket(
        self, identity: S3Identity, name: str, region: str, spec: Mapping[str, Any]
    ) -> BucketView: ...

    async def delete_bucket(self, identity: S3Identity, bucket: BucketView, *, lent: bool = False) -> None: ...

    async def patch_bucket(
        self, identity: S3Identity, bucket: BucketView, merge: Mapping[str, Any], *, lent: bool = False
    ) -> BucketView:
        """A merge patch of the spec (RFC 7396): None takes a field away. `lent`: not a role of theirs but the bucket's own
        policy or ACL lets them; the caller of this has seen to that."""
        ...

    async def record_bypasses(self, bypasses: Sequence[Bypass]) -> None:
        """Those of one request. All of them stand in the audit when this returns. Raises ServiceUnavailable."""
        ...


class Meter(Protocol):
    """Counts what a request took, for usage and metrics. Called once for each request, and never waits."""

    def count(
        self, operation: str, status: int, *, bucket: BucketView | None, seconds: float, received: int, sent: int
    ) -> None: ...
