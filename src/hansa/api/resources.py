"""List, get, create, patch, delete: written once for all kinds.

Each call: who (done before), may they, is it well-formed, commit. What one kind adds stands in its
`Admission`; nothing here knows any kind but the project.
"""

from __future__ import annotations

import builtins
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from hansa.api import quotas
from hansa.api.admission import Gate, asked, envelope, keep_secrets, links, refuse_unknown, relinked
from hansa.api.audit import write_record
from hansa.api.grants import check_grants, check_import, first_owner
from hansa.api.patch import check_labels, check_rules, merge, prune, read_spec
from hansa.api.query import as_whole, check_limit, is_digits
from hansa.api.selector import parse as parse_selector
from hansa.api.view import at, view
from hansa.clock import Clock, Ids
from hansa.errors import AlreadyExists, Conflict, Full, HansaError, InUse, Invalid, NotFound, Retry
from hansa.kinds.iam import Organization, Project
from hansa.kinds.resource import AnyResource, Document, Key, Stored
from hansa.policy.decide import decide
from hansa.policy.quota import is_quota, spent
from hansa.policy.verdict import Act, Caller, Rules, Subject
from hansa.sealing import Sealer
from hansa.store.port import (
    NAMES,
    Admission,
    Append,
    Birth,
    Claim,
    Create,
    Delete,
    Query,
    Reserve,
    SetSecret,
    Store,
    Update,
    Write,
)

IDEMPOTENCY_S = 86_400.0
PATCH_TRIES = 8
NOTHING = Admission()
Besides = Callable[["Asking", Stored, Document], Awaitable[Document]]


@dataclass(slots=True)
class Notes:
    """What a request came to, for its answer: which object it was about, and the verdict that let it through."""

    key: Key | None = None
    decision: str = ""


@dataclass(frozen=True, slots=True)
class Asking:
    """Who asks, in which request, with which switches."""

    caller: Caller
    request: str
    dry_run: bool = False
    strict: bool = False
    idempotency: str = ""
    address: str = ""  # of the other end of the connection
    again: Callable[[], Awaitable[Caller]] | None = None  # who asks, as they now stand: for what goes on for long
    notes: Notes = field(default_factory=Notes)


@dataclass(frozen=True, slots=True)
class Resources:
    store: Store
    admissions: Mapping[str, Admission]
    gate: Gate
    sealer: Sealer
    clock: Clock
    ids: Ids
    storage: quotas.InBuckets
    quota_defaults: Mapping[str, int] = field(default_factory=dict)
    besides: Mapping[str, Besides] = field(default_factory=dict)  # what reading one object adds to its view, by kind

    # -- reading ----------------------------------------------------------------------------

    async def get(self, asking: Asking, kind: type[AnyResource], key: Key) -> Document:
        await self.gate.allow(asking.caller, Act.READ, kind, key)
        stored = await self.stored(key)
        shown, more = await self.show(asking, kind, stored), self.besides.get(kind.kind)
        return shown if more is None else await more(asking, stored, shown)

    async def singleton(self, asking: Asking, kind: type[AnyResource], scope: str) -> Document:
        """What stands alone in its place, under the name of its collection."""
        await self.gate.allow(asking.caller, Act.READ, kind, Key(kind.kind, scope, ""))
        return view(kind, await quotas.singleton(self.store, self.storage, kind, scope, self.quota_defaults))

    async def stored(self, key: Key) -> Stored:
        try:
            return await self.store.get(key)
        except NotFound:
            raise NotFound(f"there is no {key}") from None

    async def list(
        self, asking: Asking, kind: type[AnyResource], scope: str, *, selector: str, limit: int | None, after: str
    ) -> Document:
        matches = parse_selector(selector) if selector else None
        whole = kind not in (Project, Organization) and await self.gate.allow_list(asking.caller, kind, scope)
        if limit is not None:
            check_limit(limit)
        if after and not is_digits(after):
            raise Invalid.field("continue", "must be one that a list gave out")
        page = await self.store.list(Query(kind.kind, scope, limit=limit, after=after))
        rows = [s for s in page.items if matches is None or matches({**s.labels, **s.system_labels})]
        if not whole:
            rows = [s for s in rows if await self._visible(asking.caller, kind, s)]
        items = [await self.show(asking, kind, s) for s in rows]
        return {"items": items} | ({"continue": page.next} if limit is not None and page.next else {})

    async def _visible(self, caller: Caller, kind: type[AnyResource], stored: Stored) -> bool:
        if kind is Project:  # its organisation is in hand: no look-up for each project of the cloud
            name, organization = stored.key.name, str(stored.spec.get("organization", ""))
            return decide(caller, Act.READ, Subject(kind.kind, name, name, organization), Rules()).allowed
        return await self.gate.may(caller, Act.READ, kind, stored.key)

    async def show(self, asking: Asking, kind: type[AnyResource], stored: Stored) -> Document:
        """As this caller sees it: secret fields in clear for whoever may update the object, `***` for others."""
        if kind is Organization:
            stored = await quotas.with_usage(self.store, stored)
        has = any(at(stored.spec, path) is not None for path in kind.secrets if path not in kind.unseen)
        if not has or not await self.gate.may(asking.caller, Act.UPDATE, kind, stored.key):
            return view(kind, stored)
        return view(kind, stored, secrets=await self._opened(kind, stored))

    async def _opened(self, kind: type[AnyResource], stored: Stored) -> dict[tuple[str, ...], str]:
        opened: dict[tuple[str, ...], str] = {}
        for path in kind.secrets:
            name = ".".join(path)
            if path not in kind.unseen and (sealed := await self.store.secret(stored.uid, name)) is not None:
                opened[path] = self.sealer.open(sealed, f"{stored.uid}/{name}").decode()
        return opened

    # -- creating ---------------------------------------------------------------------------

    async def create(self, asking: Asking, kind: type[AnyResource], scope: str, body: Document) -> Document:
        want = asked(kind, scope, body, strict=asking.strict)
        key = asking.notes.key = Key(kind.kind, scope, want.name)
        verdict, subject = await self.gate.allow_create(
            asking.caller, kind, key, organization=str(want.spec.get("organization", ""))
        )
        to = links(kind, key, want.typed)
        uid, now = self.ids.uid(), self.clock.now()
        fresh = Stored(key, uid, now, labels=want.labels, spec=want.spec)
        if asking.idempotency and (first := await self._earlier(asking, kind, body)) is not None:
            return first
        it = kind(fresh)
        await check_grants(self.gate, asking.caller, it)
        await check_import(self.gate, asking.caller, it)
        if kind is Project:
            await quotas.check_may_set(self.gate, asking.caller, kind, None, fresh, self.quota_defaults)
        admission = self.admissions.get(kind.kind, NOTHING)
        birth = await admission.born(it) if admission.born else Birth()
        create = Create(
            key, uid, want.spec, status=birth.status, labels=want.labels, system_labels=birth.system_labels,
            links=to, parents=_parents(key), observed=birth.observed, due=birth.due,
        )  # fmt: skip
        if asking.dry_run:
            await self._refuse_existing(key)
            await quotas.refuse_spent(self.store, birth.also)
            return await self._rehearsed(admission, kind, replace(fresh, status=birth.status), verdict.rule)
        sealed = [
            SetSecret(uid, ".".join(p), self.sealer.seal(v.encode(), f"{uid}/{'.'.join(p)}"))
            for p, v in want.secrets.items()
        ]
        writes: builtins.list[Write] = [
            *self._once(asking, uid, body, now), create, *sealed, *birth.also,
            *(await first_owner(self.store, self.ids, asking.caller, it, now) if kind is Project else ()),
            self.record(asking, "create", subject, uid, verdict.rule),
        ]  # fmt: skip
        try:
            await self.store.commit(*writes, by=asking.caller.ref, request=asking.request)
        except Full as full:
            if full.scope.startswith("idempotency/") and (first := await self._earlier(asking, kind, body)) is not None:
                asking.notes.decision = ""
                return first
            raise _as_conflict(full) from full
        shown = await self.show(asking, kind, await self.store.get(key))
        return {**shown, "status": {**shown["status"], **birth.shown}} if birth.shown else shown

    def record(self, asking: Asking, verb: str, subject: Subject, uid: str, rule: str) -> Append:
        """What the audit keeps of a write, the verdict that let it through included: for the commit of the write."""
        id = asking.notes.decision = self.ids.uid()
        return write_record(id, subject, asking.caller, asking.request, verb, uid=uid, rule=rule)

    async def _refuse_existing(self, key: Key) -> None:
        try:
            await self.store.get(key)
        except NotFound:
            return
        raise AlreadyExists(f"AlreadyExists: {key} is there already")

    async def _rehearsed(self, admission: Admission, kind: type[AnyResource], stored: Stored, rule: str) -> Document:
        placement = await admission.preview(kind(stored)) if admission.preview else None
        return {"dryRun": True, "object": view(kind, stored), "verdict": {"allowed": True, "rule": rule},
                "placement": placement}  # fmt: skip

    def _once(self, asking: Asking, uid: str, body: Document, now: float) -> builtins.list[Write]:
        if not asking.idempotency:
            return []
        claim = Claim(self._idempotency_scope(asking), "first", until=now + IDEMPOTENCY_S, note=_body_digest(body))
        return [Reserve(uid, (claim,))]

    def _idempotency_scope(self, asking: Asking) -> str:
        name = hashlib.sha256(f"{asking.caller.ref}\0{asking.idempotency}".encode()).hexdigest()
        return f"idempotency/{name}"

    async def _earlier(self, asking: Asking, kind: type[AnyResource], body: Document) -> Document | None:
        """The object that the first request with this key made; Conflict when that was another request."""
        held = await self.store.claims(self._idempotency_scope(asking))
        if not held:
            return None
        if held[0].claim.note != _body_digest(body):
            raise Conflict("this Idempotency-Key was used with another body within the last day")
        stored = await self.store.find(held[0].owner)
        return await self.show(asking, kind, stored) if stored is not None and stored.key.kind == kind.kind else None

    # -- changing ---------------------------------------------------------------------------

    async def patch(
        self, asking: Asking, kind: type[AnyResource], key: Key, body: Document, *, verb: str = "update"
    ) -> Document:
        """`verb`: what the audit is to call it."""
        metadata = envelope(kind, key.scope, body)
        if metadata.get("id") not in (None, key.name):
            raise Invalid.field("metadata.id", f'must be "{key.name}" as in the path, given {metadata["id"]!r}')
        subject = await self.gate.allow(asking.caller, Act.UPDATE, kind, key)
        since = _revision(metadata.get("resourceVersion"))
        for _ in range(PATCH_TRIES):
            stored = await self.stored(key)
            if since is not None and since < stored.user_revision:
                raise Conflict(f"{key} was changed by a user since resourceVersion {since}: read it again")
            try:
                return await self._patched(asking, kind, stored, metadata, body, verb, subject)
            except Conflict as conflict:
                if since is not None or type(conflict) is not Conflict or stored.deleted_at is not None:
                    raise
        raise Conflict(f"{key} is being changed by others all the time: try again")

    async def _patched(
        self,
        asking: Asking,
        kind: type[AnyResource],
        stored: Stored,
        metadata: Document,
        body: Document,
        verb: str,
        subject: Subject,
    ) -> Document:
        labels = check_labels(metadata["userLabels"]) if "userLabels" in metadata else stored.labels
        spec, typed = self._merged(kind, stored, body.get("spec"), strict=asking.strict)
        if spec == stored.spec and labels == stored.labels:
            return await self._answer(asking, kind, stored)
        if stored.deleted_at is not None:
            raise Conflict(f"{stored.key} is being deleted")
        fresh = replace(stored, spec=spec, labels=labels, generation=stored.generation + (spec != stored.spec))
        if spec != stored.spec:
            await check_grants(self.gate, asking.caller, kind(fresh), kind(stored))
        if kind in (Organization, Project):
            await quotas.check_may_set(self.gate, asking.caller, kind, stored, fresh, self.quota_defaults)
        also: tuple[Write, ...] = ()
        to = relinked(kind, stored.key, kind(stored).spec, typed) if spec != stored.spec else ()
        admission = self.admissions.get(kind.kind, NOTHING)
        if spec != stored.spec and admission.amend is not None:
            also = await admission.amend(kind(stored), kind(fresh))
        if asking.dry_run:
            await quotas.refuse_spent(self.store, also)
            return {"dryRun": True, "object": await self.show(asking, kind, fresh), "placement": None}
        update = Update(
            stored.key,
            stored.user_revision,
            spec=spec if spec != stored.spec else None,
            labels=labels if labels != stored.labels else None,
            links=to,
            observed=fresh.generation if admission.still else None,
        )
        record = self.record(asking, verb, subject, stored.uid, self.rule(asking, Act.UPDATE, subject))
        try:
            await self.store.commit(update, *also, record, by=asking.caller.ref, request=asking.request)
        except Full as full:
            raise _as_conflict(full) from full
        return await self.show(asking, kind, await self.store.get(stored.key))

    async def _answer(self, asking: Asking, kind: type[AnyResource], stored: Stored) -> Document:
        shown = await self.show(asking, kind, stored)
        return {"dryRun": True, "object": shown, "placement": None} if asking.dry_run else shown

    def _merged(self, kind: type[AnyResource], stored: Stored, patch: Any, *, strict: bool) -> tuple[Document, Any]:
        """The new document, checked against the rules on its fields, and its typed reading."""
        old = kind(stored).spec
        if patch is None:
            return stored.spec, old
        if not isinstance(patch, dict):
            raise Invalid.field("spec", "must be an object")
        if strict:
            refuse_unknown(kind, patch)
        spec = kind.complete(prune(kind.spec_type, merge(stored.spec, patch)))
        spec = keep_secrets(kind, stored.spec, spec)
        if spec == stored.spec:
            return stored.spec, old
        typed = read_spec(kind, spec)
        check_rules(kind, stored, old, typed)
        return spec, typed

    # -- deleting ---------------------------------------------------------------------------

    async def delete(self, asking: Asking, kind: type[AnyResource], key: Key) -> None:
        subject = await self.gate.allow(asking.caller, Act.DELETE, kind, key)
        stored = await self.stored(key)
        admission = self.admissions.get(kind.kind, NOTHING)
        if admission.guard is not None and stored.deleted_at is None:
            await admission.guard(kind(stored))
        if asking.dry_run:
            return
        record = self.record(asking, "delete", subject, stored.uid, self.rule(asking, Act.DELETE, subject))
        if admission.close is not None and stored.deleted_at is None:
            await admission.close(kind(stored))
        try:
            await self.store.commit(Delete(key, uid=stored.uid), record, by=asking.caller.ref, request=asking.request)
        except HansaError as error:  # of a Retry nobody knows what came: it stays closed until that is seen
            if admission.reopen is not None and stored.deleted_at is None and not isinstance(error, Retry):
                await admission.reopen(kind(stored))
            raise

    def rule(self, asking: Asking, act: Act, subject: Subject) -> str:
        return decide(asking.caller, act, subject, Rules()).rule


def _parents(key: Key) -> tuple[Key, ...]:
    """What must be there for the object to stand in: its project, its region, its account."""
    parents: builtins.list[Key] = []
    if key.project is not None:
        parents.append(Key("Project", "", key.project))
    if key.organization is not None:
        parents.append(Key("Organization", "", key.organization))
    if (account := key.part("serviceAccounts")) is not None:
        parents.append(Key("ServiceAccount", f"projects/{key.project}", account))
    return tuple(parents)


def _as_conflict(full: Full) -> Exception:
    """A single key that somebody else holds is a conflict; an amount above its ceiling stays what it is."""
    if full.short is not None and is_quota(full):
        return spent(full.scope, full.key, full.short)
    if full.scope.startswith(NAMES):
        return AlreadyExists(f"AlreadyExists: the name {full.scope.rpartition('/')[2]} is taken, by whomever")
    return InUse(full.message) if full.owner else full


def _body_digest(body: Document) -> str:
    return hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _revision(text: Any) -> int | None:
    return None if text in (None, "") else as_whole(text, "metadata.resourceVersion")
