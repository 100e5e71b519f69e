"""The audit: who did what, by which rule, and who was refused; kept for ever and read back with a filter.

A write has one record, appended in the commit of the write. A refusal (403, and the 404 that hides) is appended by
itself when it is new: the same one within a minute is the same record, a caller gets so many different ones a minute,
and the rest is a number, since each costs a flush of the disk. Calls of nobody in particular (401, wrong passwords)
are only counted. A record holds names, verbs and outcomes, never a body: what is secret cannot stand in it.

A record with a `rule` is the verdict on a write as well, found by its id: see `hansa.api.decisions`.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field

import structlog

from hansa.api.admission import Gate
from hansa.api.query import Query, check_limit, whole_or
from hansa.api.routes import resolve
from hansa.clock import Clock, Ids
from hansa.dates import parse_rfc3339, rfc3339
from hansa.errors import Forbidden, Full, HansaError, Hidden, Invalid, NotFound, Retry, Unbuilt
from hansa.kinds.iam import Organization, Project
from hansa.kinds.resource import Document, Key, ref_of
from hansa.policy.access import AUDIT
from hansa.policy.verdict import Act, Caller, Subject
from hansa.store.port import Append, Entry, Store

log = structlog.get_logger("hansa.audit")
STREAM = "audit"
WINDOW_S = 60.0
REFUSALS_MAX = 30  # different ones of one caller in a window that get a record
CALLERS_MAX = 1024  # that are remembered, and that are counted one by one
PAGE = 500
SCANNED_MAX = 5000  # records that one request looks through
WHY_LENGTH_MAX = 1000
FILTERS = ("who", "kind", "verb", "outcome", "request", "name")
METHODS = {"GET": "read", "POST": "create", "PATCH": "update", "DELETE": "delete"}


def done(
    id: str, caller: Caller, request: str, verb: str, kind: str, ref: str, *, organization: str, project: str = "",
    uid: str = "", rule: str = "",
) -> Append:  # fmt: skip
    """The record of a write, for its own commit. `organization`: whose audit it stands in. `rule`: what let it
    through, where that was a verdict on an object."""
    body = {
        "who": caller.ref,
        "verb": verb,
        "kind": kind,
        "name": ref.rpartition("/")[2],
        "ref": ref,
        "uid": uid,
        "project": project,
        "organization": organization,
        "outcome": "done",
        "request": request,
    } | _with(caller)
    if rule:
        body["rule"] = rule
    return Append(STREAM, id, organization, body)


def write_record(
    id: str, subject: Subject, caller: Caller, request: str, verb: str, *, uid: str = "", rule: str = ""
) -> Append:
    """`done` for what a gate was asked about."""
    return done(
        id, caller, request, verb, subject.kind, subject.ref, uid=uid, rule=rule, organization=subject.organization,
        project=subject.project,
    )  # fmt: skip


def _with(caller: Caller) -> Document:
    """The key of S3 that somebody acted with, where it was one."""
    return {"via": caller.via} if caller.via else {}


@dataclass(slots=True)
class _Refusal:
    """One that has its record, or is about to, for as long as it is the same."""

    at: float
    what: str
    id: str
    organization: str = ""  # whose audit it stands in, once that is known
    written: bool = False  # the store has it: its id leads somewhere


@dataclass(frozen=True, slots=True)
class _Aim:
    """What a refused call was about, as far as its path names something."""

    verb: str
    kind: str
    ref: str
    key: Key | None
    decided: bool  # it would have written an object: its record is a verdict


@dataclass(slots=True)
class Audit:
    """`home`: the organisation of the operator; what belongs to nobody else stands in its audit."""

    store: Store
    gate: Gate
    clock: Clock
    ids: Ids
    home: str
    _refusals: OrderedDict[str, deque[_Refusal]] = field(default_factory=OrderedDict)
    _counted: dict[str, Counter[str]] = field(default_factory=dict)  # by whose audit they stand in
    _since: float = 0.0

    # -- writing ----------------------------------------------------------------------------

    async def refused(
        self, caller: Caller, request: str, method: str, parts: list[str], key: Key | None, error: HansaError
    ) -> None:
        """Records a refusal, or counts it, and names its record in the error of a write. Never raises for a store
        that does not answer: the refusal stands. `key`: the object, where the path alone does not name it."""
        aim = _aim(method, parts, key)
        what = f"{aim.verb} {aim.ref} {error.reason} {error.message}"
        mine = self._recent(caller.ref)
        kept = next((one for one in mine if one.what == what), None)
        if kept is not None or len(mine) >= REFUSALS_MAX:
            await self._count(kept.organization if kept else self.home, f"refused {caller.ref}")
        else:
            kept = await self._recorded(caller, request, aim, what, error)
        if kept is not None and kept.written and aim.decided:
            error.details["decision"] = kept.id

    def _recent(self, who: str) -> deque[_Refusal]:
        """The caller's refusals of the last minute that have a record."""
        now, mine = self.clock.now(), self._refusals.setdefault(who, deque())
        self._refusals.move_to_end(who)
        while len(self._refusals) > CALLERS_MAX:
            self._refusals.popitem(last=False)
        while mine and not 0 <= now - mine[0].at < WINDOW_S:
            mine.popleft()
        return mine

    async def _recorded(self, caller: Caller, request: str, aim: _Aim, what: str, error: HansaError) -> _Refusal | None:
        """None when the store does not take it."""
        mine, fresh = self._refusals[caller.ref], _Refusal(self.clock.now(), what, self.ids.uid())
        mine.append(fresh)  # before anything is waited for: of many at once one writes
        try:
            body = await self._body(caller, request, aim, error)
            fresh.organization = body["organization"]
            append = Append(STREAM, fresh.id, fresh.organization, body)
            await self.store.commit(append, by=caller.ref, request=request)
        except Retry as failed:
            if fresh in mine:  # its minute may be over, the store took so long
                mine.remove(fresh)
            log.warning("a refusal has no record", request=request, who=caller.ref, detail=failed.detail)
            return None
        fresh.written = True
        return fresh

    async def _body(self, caller: Caller, request: str, aim: _Aim, error: HansaError) -> Document:
        project, organization = await self._place(aim.key, aim.kind)
        body: Document = {
            "who": caller.ref,
            "verb": aim.verb,
            "kind": aim.kind,
            "name": aim.ref.rpartition("/")[2],
            "ref": aim.ref,
            "project": project,
            "organization": organization,
            "outcome": "refused",
            "status": error.status,
            "reason": error.reason,
            "why": error.message[:WHY_LENGTH_MAX],
            "request": request,
        } | _with(caller)
        if aim.decided:
            body["rule"] = error.reason
        if isinstance(error, Full) and error.details:
            body["quota"] = dict(error.details)
        return body

    async def _place(self, key: Key | None, kind: str) -> tuple[str, str]:
        project = (key.name if kind == Project.kind else key.project or "") if key is not None else ""
        organization = (key.name if kind == Organization.kind else key.organization or "") if key is not None else ""
        organization = await self.gate.organization_of(project) if project else organization
        return project, organization or self.home

    async def unauthenticated(self, what: str) -> None:
        """Counts a call of nobody."""
        await self._count(self.home, what)

    async def _count(self, organization: str, what: str) -> None:
        """One more; writes the counts of the last minute when that is over."""
        now = self.clock.now()
        if self._counted and not 0 <= now - self._since < WINDOW_S:
            await self.flush()
        if not self._counted:
            self._since = now
        counter = self._counted.setdefault(organization or self.home, Counter())
        counter[what if what in counter or len(counter) < CALLERS_MAX else "others"] += 1

    async def flush(self) -> None:
        """Writes what was counted. Kept when the store does not answer."""
        counted, self._counted = self._counted, {}
        if not counted:
            return
        appends = [
            Append(STREAM, self.ids.uid(), organization, self._sum(organization, counter))
            for organization, counter in counted.items()
        ]
        try:
            await self.store.commit(*appends, by="/hansa/audit")
        except Retry as failed:
            for organization, counter in self._counted.items():
                counted.setdefault(organization, Counter()).update(counter)
            self._counted = counted
            log.warning("calls are counted, not written yet", detail=failed.detail)

    def _sum(self, organization: str, counter: Counter[str]) -> Document:
        return {
            "who": "",
            "verb": "authenticate",
            "kind": "",
            "name": "",
            "ref": "",
            "organization": organization,
            "outcome": "unauthenticated",
            "since": rfc3339(self._since),
            "counts": dict(counter),
            "count": counter.total(),
        }

    # -- reading ----------------------------------------------------------------------------

    async def read(self, caller: Caller, scope: str, query: Query) -> Document:
        """A page of records of a project or an organisation, newest first. Raises Forbidden, NotFound, Invalid.

        Looks through so many records at most: a page may hold fewer than asked, and `continue` goes on.
        """
        subject = await self.gate.allow_named(caller, Act.READ, AUDIT, scope, f"/audit/{scope}/records/")
        limit = whole_or(query, "limit", 100)
        check_limit(limit)
        wanted = {name: query[name] for name in FILTERS if name in query}
        if subject.project:
            wanted["project"] = subject.project
        since, before, below = _span(query, self.clock.now())
        await self.flush()
        items: list[Document] = []
        for _ in range(SCANNED_MAX // PAGE):
            page = await self.store.span(
                STREAM, about=subject.organization, since=since, before=before, below=below, limit=PAGE
            )
            for entry in page:
                before, below = entry.at, entry.id
                if all(str(entry.body.get(name, "")) == value for name, value in wanted.items()):
                    items.append(_shown(entry))
                if len(items) == limit:
                    return {"items": items, "continue": _cursor(entry)}
            if len(page) < PAGE:
                return {"items": items}
        return {"items": items, "continue": f"{before!r}_{below}"}


def _aim(method: str, parts: list[str], key: Key | None) -> _Aim:
    try:
        route = resolve(parts)
    except (NotFound, Unbuilt):
        verb = parts[-1] if method == "POST" else METHODS.get(method, method.lower())
        path = "/".join(parts[:1] + parts[2:])
        return _Aim(verb, "", f"/{path}"[:512], _scope_in(parts), decided=False)
    verb, key = route.verb or METHODS.get(method, method.lower()), key or route.key
    return _Aim(verb, route.kind.kind, ref_of(route.kind, key), key, decided=method != "GET")


def _scope_in(parts: list[str]) -> Key | None:
    at = next((i for i, part in enumerate(parts) if part in ("projects", "organizations")), None)
    return Key("", "/".join(parts[at : at + 2]), "") if at is not None and len(parts) > at + 1 else None


def _span(query: Query, now: float) -> tuple[float, float, str]:
    since = _date(query, "since", 0.0)
    if token := query.get("continue", ""):
        at, _, id = token.partition("_")
        try:
            return since, float(at), id
        except ValueError:
            raise Invalid.field("continue", "must be one that a list gave out") from None
    return since, _date(query, "until", now + 1.0), ""


def _date(query: Query, name: str, default: float) -> float:
    if not (text := query.get(name, "")):
        return default
    try:
        return parse_rfc3339(text)
    except ValueError:
        raise Invalid.field(name, f"must be a date as in 2026-11-26T12:00:00Z (given: {text[:40]!r})") from None


def _cursor(entry: Entry) -> str:
    return f"{entry.at!r}_{entry.id}"


def _shown(entry: Entry) -> Document:
    return {"id": entry.id, "at": rfc3339(entry.at), **entry.body}


REFUSED = (Forbidden, Hidden, Full)  # what a refused call raises: by role, by a rule, by a quota
