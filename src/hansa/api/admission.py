"""From a user's body to writes: form, rules, references, policy. Reads the store, writes nothing.

The order is the order in which a user wants to hear of mistakes: the envelope, the fields, who they are
to this project, what they point at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from hansa.api.patch import check_labels, prune, read_spec, unknown_fields, without_nulls
from hansa.api.view import HIDDEN, at, put
from hansa.errors import FieldError, Forbidden, Hidden, ImmutableField, Invalid, NotFound, Unbuilt
from hansa.kinds.fleet import Region
from hansa.kinds.iam import Organization, Project
from hansa.kinds.registry import all_unbuilt, full_ref, is_built, key_of
from hansa.kinds.resource import AnyResource, Document, Key, Spec, ref_of
from hansa.kinds.rules import FoundRef, references
from hansa.kinds.sovereignty import SovereigntyPolicy
from hansa.policy.decide import decide, decide_some
from hansa.policy.verdict import Act, Caller, Rules, Subject, TerritoryRule, Verdict
from hansa.store.port import LinkTo, Query, Store

OWNERS = "cloud/owners"  # scope of the claims that say whose cloud this is; strangers stand beside it
OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Asked:
    """A body that has the right form: the name, the whole new spec document and labels."""

    name: str
    spec: Document
    labels: dict[str, str]
    secrets: dict[tuple[str, ...], str]
    typed: Spec


def envelope(kind: type[AnyResource], scope: str, body: Mapping[str, object]) -> Document:
    """Checks apiVersion, kind and the place in metadata; gives back metadata."""
    version = body.get("apiVersion")
    if version is not None and version != f"{kind.service}/{kind.version}":
        raise Invalid.field("apiVersion", f'must be "{kind.service}/{kind.version}" as in the path, given {version!r}')
    if body.get("kind") is not None and body["kind"] != kind.kind:
        raise Invalid.field("kind", f'must be "{kind.kind}" on this path, given {body["kind"]!r}')
    metadata = body.get("metadata")
    if metadata is None:
        return {}
    if not isinstance(metadata, dict):
        raise Invalid.field("metadata", "must be an object")
    place = Key(kind.kind, scope, "")
    for name, wanted in (("project", place.project), ("region", place.region)):
        if metadata.get(name) not in (None, wanted, "") and wanted is not None:
            raise Invalid.field(f"metadata.{name}", f'must be "{wanted}" as in the path, given {metadata[name]!r}')
    return metadata


def asked(kind: type[AnyResource], scope: str, body: Mapping[str, object], *, strict: bool) -> Asked:
    """A POST's body. Raises Invalid with the path, the rule and the value."""
    metadata = envelope(kind, scope, body)
    prescribes = kind.id_of({}) is not None
    name = "" if prescribes else check_name(kind, metadata.get("id"))
    document = body.get("spec") if body.get("spec") is not None else {}
    if not isinstance(document, dict):
        raise Invalid.field("spec", "must be an object")
    if strict:
        refuse_unknown(kind, document)
    spec = kind.complete(prune(kind.spec_type, without_nulls(document)))
    typed = read_spec(kind, spec)
    if prescribes:
        name = _prescribed(str(kind.id_of(spec)), metadata.get("id"))
    sealed, secrets = split_secrets(kind, spec)
    return Asked(name, sealed, check_labels(metadata.get("userLabels")), secrets, typed)


def refuse_unknown(kind: type[AnyResource], document: Document) -> None:
    if unknown := tuple(unknown_fields(kind.spec_type, document)):
        fields = tuple(FieldError(path, f"{kind.kind} has no such field") for path in unknown)
        raise Invalid("; ".join(f"{f.path}: {f.message}" for f in fields[:5]), fields=fields)


def _prescribed(name: str, given: object) -> str:
    """The id of an object whose spec leaves no choice of one."""
    if given not in (None, "", name):
        raise Invalid.field("metadata.id", f'must be "{name}", as the spec prescribes (given: {str(given)[:80]!r})')
    return name


def check_name(kind: type[AnyResource], name: object) -> str:
    if not isinstance(name, str) or not name:
        raise Invalid.field("metadata.id", "is required: the name of the object, chosen by you")
    if fault := kind.name_fault(name):
        raise Invalid.field("metadata.id", f"{fault} (given: {name[:80]!r})")
    return name


# -- secrets ------------------------------------------------------------------------------------


def digest(value: str) -> str:
    return "sha256:" + hashlib.sha256(value.encode()).hexdigest()


def split_secrets(kind: type[AnyResource], spec: Document) -> tuple[Document, dict[tuple[str, ...], str]]:
    """The document with digests in the place of its secrets, and the secrets by path."""
    secrets: dict[tuple[str, ...], str] = {}
    for path in kind.secrets:
        value = at(spec, path)
        if isinstance(value, str):
            secrets[path] = value
            spec = put(spec, path, digest(value))
    return spec, secrets


def keep_secrets(kind: type[AnyResource], old: Document, new: Document) -> Document:
    """A patched document with the old digests, where the same value (or its stand-in) came back."""
    for path in kind.secrets:
        before, after = at(old, path), at(new, path)
        if after == before:
            continue
        name = "spec." + ".".join(path)
        if after is None or before is None or (after != HIDDEN and digest(str(after)) != before):
            raise ImmutableField(f"{name}: may not change after creation", fields=(FieldError(name, "is fixed"),))
        new = put(new, path, before)
    return new


# -- references ---------------------------------------------------------------------------------


def links(kind: type[AnyResource], key: Key, typed: Spec) -> tuple[LinkTo, ...]:
    """The references of a spec as links. Raises Invalid by a reference's text alone, before any look-up."""
    return tuple(link for found in references(typed) if (link := _link(key, found)) is not None)


def relinked(kind: type[AnyResource], key: Key, old: Spec, new: Spec) -> tuple[LinkTo, ...]:
    """The links of a changed spec. What the old spec named as well is not asked for again: it may be gone since,
    as the snapshot that a disk was made from."""
    named = {link.target for link in links(kind, key, old)}
    return tuple(replace(link, free=link.free or link.target in named) for link in links(kind, key, new))


def _link(key: Key, found: FoundRef) -> LinkTo | None:
    text = full_ref(found.text, found.to.kinds, key.scope) if _known(found) else found.text
    check_same_place(key, found.path, text)
    target = key_of(text)
    if target is None:
        _refuse_unbuilt(found, text)
        wanted = " or ".join(found.to.kinds)
        raise Invalid.field(found.path, f"is no reference to a {wanted} (given: {found.text[:200]!r})")
    if target.kind not in found.to.kinds:
        wanted = " or ".join(found.to.kinds)
        raise Invalid.field(found.path, f"must name a {wanted}, and {text} is a {target.kind}")
    return LinkTo(target, found.path, holds=found.to.holds, free=found.to.free)


def _known(found: FoundRef) -> bool:
    return is_built(found.to.kinds[0])


def check_same_place(key: Key, path: str, text: str) -> None:
    """A reference points into the object's own project and region, or at a catalogue."""
    parts = text.split("/")
    for segment, own in (("projects", key.project), ("regions", key.region)):
        if segment in parts[2:-1] and own is not None:
            named = parts[parts.index(segment, 2) + 1]
            if named != own:
                raise Invalid.field(path, f"points into another {segment[:-1]}: {named!r}; only {own!r} may be named")


def _refuse_unbuilt(found: FoundRef, text: str) -> None:
    for missing in all_unbuilt():
        if f"/{missing.collection}/" in text and text.startswith(f"/{missing.service}/"):
            raise Unbuilt(f"{found.path}: {missing.collection}: {missing.reason}")


# -- policy -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Gate:
    """Asks `policy.decide` for one request; what the decision needs is read from the store."""

    store: Store

    async def subject(self, kind: type[AnyResource], key: Key) -> Subject:
        project, organization = key.project or "", key.organization or ""
        if kind is Project:
            project = key.name
        if kind is Organization:
            organization = key.name
        if project:
            organization = await self.organization_of(project)
        return Subject(kind.kind, key.name, project, organization, ref=ref_of(kind, key))

    async def organization_of(self, project: str) -> str:
        try:
            stored = await self.store.get(Key("Project", "", project))
        except NotFound:
            return ""
        return str(stored.spec.get("organization", ""))

    async def allow(self, caller: Caller, act: Act, kind: type[AnyResource], key: Key) -> Subject:
        """Raises Forbidden, or NotFound where even existence is hidden behind it."""
        subject = await self.subject(kind, key)
        verdict = decide(caller, act, subject, Rules())
        operators = kind is Organization and act in (Act.READ, Act.UPDATE)  # of all: they set its quotas
        if not (operators and not verdict.allowed and await self.operates(caller)):
            self.refuse(verdict, subject)
        return subject

    async def allow_named(self, caller: Caller, act: Act, kind: str, scope: str, ref: str) -> Subject:
        """As `allow`, for what has permissions and is no kind with routes of its own (users, audit)."""
        place = Key(kind, scope, "")
        organization = await self.organization_of(place.project) if place.project else place.organization or ""
        subject = Subject(kind, ref.rpartition("/")[2], place.project or "", organization, ref=ref)
        self.refuse(decide(caller, act, subject, Rules()), subject)
        return subject

    async def may(self, caller: Caller, act: Act, kind: type[AnyResource], key: Key) -> bool:
        """As `allow`, asked without a refusal."""
        return decide(caller, act, await self.subject(kind, key), Rules()).allowed

    async def allow_list(self, caller: Caller, kind: type[AnyResource], scope: str) -> bool:
        """May a collection be read: True as a whole, False when each object must be asked for.

        Raises Forbidden where no object of it could be read.
        """
        subject = await self.subject(kind, Key(kind.kind, scope, ""))
        verdict = decide(caller, Act.READ, subject, Rules())
        if not verdict.allowed and not decide_some(caller, subject):
            self.refuse(verdict, subject)
        return verdict.allowed

    async def operates(self, caller: Caller) -> bool:
        """Does the caller own the organisation that this cloud was started for?"""
        held = [h.owner for h in await self.store.claims(OWNERS) if h.claim.key == OPERATOR]
        user = await self.store.find(held[0]) if held else None
        homes = user.spec.get("organizations", []) if user is not None else []
        return any([await self.may(caller, Act.UPDATE, Organization, Key("Organization", "", o)) for o in homes])

    async def allow_create(
        self, caller: Caller, kind: type[AnyResource], key: Key, organization: str = ""
    ) -> tuple[Verdict, Subject]:
        """Admission of a new object: roles, then the territory of its region. Raises as `allow`."""
        subject = await self.subject(kind, key)
        if kind is Project:
            subject = replace(subject, organization=organization, project="")  # asked of who is to own it
        rules = Rules()
        if key.region is not None:
            subject = replace(subject, territory=await self._territory(key.region))
            rules = await self.rules(subject)
        verdict = decide(caller, Act.CREATE, subject, rules)
        self.refuse(verdict, subject)
        return verdict, replace(subject, project=key.name) if kind is Project else subject

    async def rules(self, subject: Subject) -> Rules:
        """The written rules of a project and of the organisation that owns it."""
        found: list[TerritoryRule] = []
        for scope in (f"projects/{subject.project}", f"organizations/{subject.organization}"):
            for stored in (await self.store.list(Query("SovereigntyPolicy", scope))).items:
                policy = SovereigntyPolicy(stored)
                if not policy.deleting:
                    found.append(TerritoryRule(policy.ref, frozenset(policy.spec.territories)))
        return Rules(tuple(found))

    async def _territory(self, region: str) -> str:
        try:
            return Region(await self.store.get(Key("Region", "", region))).spec.country
        except NotFound:
            raise NotFound(f"there is no region {region}; `hansa get regions` lists them") from None

    def refuse(self, verdict: Verdict, subject: Subject) -> None:
        if verdict.allowed:
            return
        if not verdict.visible and subject.kind == "Project" and not subject.project:
            raise Forbidden(f"you have no role on organization {subject.organization}")
        if not verdict.visible and subject.kind in ("Project", "Organization"):
            raise Hidden(f"there is no {subject.kind.lower()} {subject.name}")
        if not verdict.visible:
            raise Forbidden(f"you have no role on {f'project {subject.project}' if subject.project else 'this'}")
        raise Forbidden(f"{verdict.why} (rule {verdict.rule})")
