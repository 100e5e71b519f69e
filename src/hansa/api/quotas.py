"""Quotas as clients see them: the contract's two singletons, what organisations show, who may set which limit.

Limits stand in the spec of the organisation and of the project; what is in use is what the store counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Protocol

from hansa.api.admission import Gate
from hansa.errors import Forbidden, NotFound
from hansa.kinds.iam import Organization, Project
from hansa.kinds.quotas import (
    OrgQuota,
    ProjectQuota,
    limits_document,
    project_limits_document,
    project_usage_document,
    usage_document,
)
from hansa.kinds.resource import AnyResource, Document, Key, Stored
from hansa.policy.quota import effective, organization_scope, project_scope, raised, short_of, spent
from hansa.policy.verdict import Act, Caller
from hansa.store.port import Claim, Reserve, Store, Write


class InBuckets(Protocol):
    """What is held in buckets, by quantity: the object index knows, not the store."""

    async def used_in(self, project: str) -> dict[str, int]: ...

    async def used_by(self, organization: str) -> dict[str, int]: ...


async def singleton(
    store: Store, storage: InBuckets, kind: type[AnyResource], scope: str, defaults: Mapping[str, int]
) -> Stored:
    """An `OrgQuota` or a `ProjectQuota` as if it were stored. Raises NotFound for a place that is not there."""
    place = Key(kind.kind, scope, "")
    await store.get(Key("Region", "", place.region or ""))
    if kind is OrgQuota:
        owner = Organization(await store.get(Key("Organization", "", place.organization or "")))
        spec: Document = {"quotas": limits_document(effective(owner.spec.quotas, defaults))}
        used = await used_in(store, organization_scope(owner.name)) | await storage.used_by(owner.name)
        return _shown(kind, scope, owner, spec, usage_document(used))
    if kind is ProjectQuota:
        project = Project(await store.get(Key("Project", "", place.project or "")))
        spec = project_limits_document(effective(project.spec.quotas, {}))
        used = await used_in(store, project_scope(project.name)) | await storage.used_in(project.name)
        return _shown(kind, scope, project, spec, project_usage_document(used))
    raise NotFound(f"{kind.kind} is no singleton")


def _shown(kind: type[AnyResource], scope: str, owner: AnyResource, spec: Document, usage: Document) -> Stored:
    key = Key(kind.kind, scope, owner.name)
    return replace(
        owner.stored,
        key=key,
        spec=spec,
        status={"quotaUsage": usage},
        labels={},
        deleted_at=None,
        observed=owner.generation,
    )


async def used_in(store: Store, scope: str) -> dict[str, int]:
    return {count.key: count.held for count in await store.counts(scope)}


async def usage_of(store: Store, organization: str) -> Document:
    return usage_document(await used_in(store, organization_scope(organization)))


async def with_usage(store: Store, stored: Stored) -> Stored:
    """An organisation with what it holds, which is in no status but in the store's sums."""
    return stored.with_status({**stored.status, "quotaUsage": await usage_of(store, stored.key.name)})


# -- setting them -------------------------------------------------------------------------------


async def check_may_set(
    gate: Gate, caller: Caller, kind: type[AnyResource], old: Stored | None, new: Stored, defaults: Mapping[str, int]
) -> None:
    """A project's limits are its organisation's to set. An organisation may lower its own; the operator may raise
    them. Raises Forbidden."""
    before, after = (kind(old).spec.quotas if old is not None else None), kind(new).spec.quotas
    if before == after:
        return
    if kind is Organization:
        more = raised(effective(before, defaults), effective(after, defaults))
        if more and not await gate.operates(caller):
            raise Forbidden(f"only the operator of this cloud may raise an organisation's {', '.join(more)}")
    else:
        organization = str(new.spec["organization"])
        if not await gate.may(caller, Act.UPDATE, Organization, Key("Organization", "", organization)):
            raise Forbidden("only an owner of the organisation may set the quotas of its projects")


async def refuse_spent(store: Store, writes: Iterable[Write]) -> None:
    """For a dry run: raises what the commit would raise for a spent quota."""
    for write in writes:
        if isinstance(write, Reserve):
            for scope, claims in _by_scope(write).items():
                mine = {h.claim.key: h.claim.amount for h in await store.claims_of(write.owner)
                        if h.claim.scope == scope}  # fmt: skip
                counts = await store.counts(scope)
                limits = {c.key: c.ceiling or 0 for c in claims} | {
                    c.key: c.ceiling for c in counts if c.ceiling is not None
                }
                asked = {c.key: c.amount for c in claims}
                for path, short in short_of(asked, {c.key: c.held for c in counts}, limits, mine).items():
                    raise spent(scope, path, short)


def _by_scope(write: Reserve) -> dict[str, list[Claim]]:
    found: dict[str, list[Claim]] = {}
    for claim in write.claims:
        if claim.counted:
            found.setdefault(claim.scope, []).append(claim)
    return dict(sorted(found.items()))
