"""What the data planes of this cloud tell the API: usage, in windows of a minute, and whose retention was passed by.

Who tells it proves to be a process of this cloud: by a token that it signed with the keys in `DIR/keys`, for this
audience and no other. What is told twice is recorded once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypeVar

from pydantic import Field, StringConstraints, ValidationError

from hansa.api.audit import done
from hansa.api.keys import SigningKeys
from hansa.clock import Clock
from hansa.dates import rfc3339
from hansa.errors import FieldError, Invalid, NotFound, Unauthenticated
from hansa.kinds.iam import Project
from hansa.kinds.meters import S3_COUNTED
from hansa.kinds.registry import kind_named
from hansa.kinds.resource import Document, Key, Wire, ref_of
from hansa.kinds.storage import Bucket
from hansa.ledger.usage import COUNTED, Whose, counted_body, stream_of
from hansa.policy.verdict import Act, Caller
from hansa.store.port import Append, Store, Wake, Write

AUDIENCE = "hansa-internal"
MOMENT_MAX = 253_402_300_799.0  # the last second that a date can say
ROWS_MAX = 500
BYPASSES_MAX = 100
BY = "/hansa/gateway"
_METERS = frozenset(meter.name for meter in S3_COUNTED)
_Name = Annotated[str, StringConstraints(min_length=1, max_length=100)]
_Ref = Annotated[str, StringConstraints(min_length=1, max_length=512)]


class CountedRow(Wire):
    """What was asked of one object. `held`: what it holds may have changed as well."""

    kind: _Name
    name: _Name
    uid: _Name
    project: _Name
    project_uid: _Name
    organization: _Name
    region: _Name
    counts: dict[_Name, Annotated[int, Field(ge=0, le=2**62)]] = Field(max_length=16)
    held: bool = False


class Window(Wire):
    """From `start` to `end`, epoch seconds. The id is unique for gateway and window."""

    id: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,100}$")]
    start: int = Field(ge=0)
    end: int = Field(ge=0)
    rows: list[CountedRow] = Field(max_length=ROWS_MAX)


class Bypass(Wire):
    """Somebody is let pass by a retention in GOVERNANCE mode. `until`: the end that it had, epoch seconds; `becomes`: what
    is left of it, in words. `rule`: what lets them."""

    id: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,100}$")]
    who: _Ref
    via: Annotated[str, StringConstraints(max_length=512)]
    rule: _Ref
    operation: _Name
    request: _Name
    project: _Name
    region: _Name
    bucket: _Name
    uid: _Name
    key: Annotated[str, StringConstraints(min_length=1, max_length=1024)]
    version: _Name
    until: float = Field(ge=0, le=MOMENT_MAX)
    becomes: _Name


class Bypasses(Wire):
    """Those of one request, or a part of them: recorded together."""

    bypasses: list[Bypass] = Field(min_length=1, max_length=BYPASSES_MAX)


@dataclass(frozen=True, slots=True)
class Gateways:
    store: Store
    clock: Clock
    keys: SigningKeys
    issuer: str

    async def take(
        self, authorization: str | None, body: Callable[[], Awaitable[Mapping[str, Any]]], request: str
    ) -> Document:
        """Records a window. `body` is read once it is clear who speaks. Raises Unauthenticated, Invalid, Retry."""
        self._prove(authorization)
        window = _window(await body())
        await self.store.commit(*_records(window), *_wakes(window.rows), by=BY, request=request)
        return {"window": window.id, "rows": len(window.rows)}

    async def note_bypasses(
        self, authorization: str | None, body: Callable[[], Awaitable[Mapping[str, Any]]], request: str
    ) -> Document:
        """Into the audit of whom the bucket belongs to, before it is done: all or none. Raises Unauthenticated, Invalid,
        NotFound for a project that is not there, Retry."""
        self._prove(authorization)
        told = _read(Bypasses, await body()).bypasses
        if len({(it.who, it.request, it.project) for it in told}) > 1:
            raise Invalid.field("bypasses", "must be of one request")
        project = Project(await self.store.get(Key(Project.kind, "", told[0].project)))
        records = [_bypass_record(it, project.spec.organization) for it in told]
        await self.store.commit(*records, by=told[0].who, request=told[0].request)
        return {"records": [it.id for it in told]}

    def _prove(self, authorization: str | None) -> None:
        """A token of a tenant has another audience and is worth nothing here."""
        scheme, _, token = (authorization or "").partition(" ")
        claims = self.keys.verified(token.strip()) if scheme.lower() == "bearer" else None
        if claims is None or claims.get("iss") != self.issuer or claims.get("aud") != AUDIENCE:
            raise Unauthenticated("this is for the gateways of this cloud")
        expires_at = claims.get("exp")
        if isinstance(expires_at, bool) or not isinstance(expires_at, int | float) or expires_at <= self.clock.now():
            raise Unauthenticated("the token has expired")


def gateway_claims(issuer: str, gateway: str, now: float, *, life_s: float = 60.0) -> dict[str, Any]:
    """What a gateway signs to be heard here."""
    return {"iss": issuer, "aud": AUDIENCE, "sub": f"gateway/{gateway}", "iat": int(now), "exp": int(now + life_s)}


Told = TypeVar("Told", Window, Bypasses)


def _read(form: type[Told], document: Mapping[str, Any]) -> Told:
    try:
        return form.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"])
        raise Invalid(f"{path}: {first['msg']}", fields=(FieldError(path, first["msg"]),)) from error


def _window(document: Mapping[str, Any]) -> Window:
    window = _read(Window, document)
    if window.end < window.start:
        raise Invalid.field("end", "must not be before start")
    for row in window.rows:
        if unknown := sorted(row.counts.keys() - _METERS):
            raise Invalid.field("rows.counts", f"knows no meter {unknown[0]!r}")
    return window


def _key(row: CountedRow) -> Key:
    """Raises NotFound for a kind that this program does not know."""
    try:
        kind_named(row.kind)
    except KeyError as error:
        raise NotFound(f"there is no kind {row.kind}") from error
    return Key(row.kind, f"projects/{row.project}/regions/{row.region}", row.name)


def _records(window: Window) -> list[Write]:
    """One a row: by the project's uid, so that what is counted for a project that is gone meanwhile has its place."""
    found: list[Write] = []
    for row in window.rows:
        counts = {meter: count for meter, count in row.counts.items() if count}
        if not counts:
            continue
        whose = Whose(
            uid=row.uid, ref=ref_of(kind_named(row.kind), _key(row)), kind=row.kind, project=row.project,
            project_uid=row.project_uid, organization=row.organization, region=row.region,
        )  # fmt: skip
        id = f"{window.id}/{row.uid}"
        body = counted_body(whose, id, window.start, window.end, counts)
        found.append(Append(stream_of(COUNTED, row.project_uid), id, row.uid, body))
    return found


def _bypass_record(it: Bypass, organization: str) -> Append:
    """About the bucket, and which version in it. The outcome is no `done`: it is written before the deed."""
    ref = ref_of(Bucket, Key(Bucket.kind, f"projects/{it.project}/regions/{it.region}", it.bucket))
    record = done(
        it.id, Caller(it.who, via=it.via), it.request, Act.BYPASS.value, Bucket.kind, ref, organization=organization,
        project=it.project, uid=it.uid, rule=it.rule,
    )  # fmt: skip
    version = {
        "key": it.key, "version": it.version, "until": rfc3339(it.until), "becomes": it.becomes, "operation": it.operation,
    }  # fmt: skip
    return replace(record, body={**record.body, "outcome": "allowed", "object": version})


def _wakes(rows: Sequence[CountedRow]) -> list[Write]:
    """What holds other amounts than before is looked at, so that its intervals follow."""
    return [Wake(_key(row)) for row in rows if row.held]
