"""What a gateway is made of, and one request on its way through it.

`Gateway` holds the parts that every request shares; `Call` is one request with all that has been found out about it.
An operation is a function from a `Call` to an `Answer`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from hansa.clock import Clock, Ids
from hansa.gateways.s3.answers import Answer
from hansa.gateways.s3.calls.known import Known, KnownBuckets
from hansa.gateways.s3.identify import Identifier, Signed
from hansa.gateways.s3.ports import BucketView, Directory, Meter, S3Identity, Upstream
from hansa.gateways.s3.request import STALL_S, Request
from hansa.gateways.s3.sealing.content import Content
from hansa.gateways.s3.wire.errors import S3Error
from hansa.gateways.s3.wire.operations import Operation
from hansa.objectindex.port import ObjectIndex
from hansa.objectindex.records import Limits


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """`domains`: hosts under which a bucket may be the first label. `acl_open`: new buckets take ACLs, and are not kept
    from the public. `part_bytes_min`: of a part that is not the last. `processes`: how many gateways serve side by side.
    """

    domains: tuple[str, ...] = ("s3.localhost",)
    acl_open: bool = False
    part_bytes_min: int = 5 << 20
    processes: int = 1
    stall_s: float = STALL_S


@dataclass(frozen=True, slots=True)
class Gateway:
    """The parts of one process."""

    directory: Directory
    upstream: Upstream
    index: ObjectIndex
    content: Content
    clock: Clock
    ids: Ids
    settings: GatewaySettings = field(default_factory=GatewaySettings)
    meter: Meter | None = None
    buckets: KnownBuckets = field(default_factory=KnownBuckets)
    identifier: Identifier = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "identifier", Identifier(self.directory))


@dataclass(slots=True)
class Call:
    """One request under way. `signed` None: nobody signed it. `decided`: somebody said that it may be done; `lent`: by
    the bucket's own policy or ACL, not by a role."""

    gateway: Gateway
    request: Request
    operation: Operation
    now: float
    signed: Signed | None = None
    view: BucketView | None = None
    decided: bool = False
    lent: bool = False
    _known: Known | None = None

    @property
    def identity(self) -> S3Identity | None:
        return self.signed.identity if self.signed else None

    @property
    def who(self) -> S3Identity:
        """Who signed. Raises AccessDenied for an operation that nobody may ask for anonymously."""
        if self.signed is None:
            raise S3Error.of("AccessDenied", "This operation takes a signed request.")
        return self.signed.identity

    @property
    def bucket(self) -> BucketView:
        if self.view is None:
            raise S3Error.of("NoSuchBucket", BucketName=self.request.bucket)
        return self.view

    @property
    def known(self) -> Known:
        """What the bucket's spec says, read."""
        known = self._known
        if known is None or known.access.bucket is not self.view:
            known = self._known = self.gateway.buckets.of(self.bucket)
        return known

    @property
    def limits(self) -> Limits:
        """What the bucket's project may hold, and what it may together with others."""
        return self.gateway.directory.project_limits(self.bucket.project).held

    @property
    def key(self) -> str:
        return self.request.key

    def field(self, name: str) -> str | None:
        """A field of the query; None: not there."""
        return self.request.fields.get(name)


Serve = Callable[[Call], Awaitable[Answer]]
