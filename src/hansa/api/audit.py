"""The audit: who did what, and who was refused, kept for ever and read back with a filter.

A write's record is appended in the commit of the write. A refusal (403, and the 404 that hides) is appended by
itself, so many a minute of one caller and the rest as a number: a record costs a flush of the disk. Calls of
nobody in particular (401, wrong passwords) are only counted, once a minute. A record holds names, verbs and
outcomes, never a body: what is secret cannot stand in it.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass, field

import structlog

from hansa.api.admission import Gate
from hansa.api.query import Query, check_limit, whole_or
from hansa.api.routes import resolve
from hansa.clock import Clock, Ids
from hansa.dates import parse_rfc3339, rfc3339
from hansa.errors import Forbidden, Full, HansaError, Hidden, Invalid, NotFound, Retry, Unbuilt
from hansa.kinds.iam import Organization, Project
from hansa.kinds.resource import AnyResource, Document, Key, ref_of
from hansa.policy.access import AUDIT
from hansa.policy.verdict import Act, Caller
from hansa.store.port import Append, Entry, Store

log = structlog.get_logger("hansa.audit")
STREAM = "audit"
WINDOW_S = 60.0
REFUSALS_MAX = 30  # of one caller in a window that get a record each
CALLERS_MAX = 1024  # that are remembered
PAGE = 500
SCANNED_MAX = 5000  # records that one request looks through
WHY_LENGTH_MAX = 300
FILTERS = ("who", "kind", "verb", "outcome", "request", "name")
METHODS = {"GET": "read", "POST": "create", "PATCH": "update", "DELETE": "delete"}


def done(
    id: str, caller: Caller, request: str, verb: str, kind: str, ref: str, *, organization: str, project: str = "",
    uid: str = "",
) -> Append:  # fmt: skip
    """The record of a write, for its own commit. `organization`: whose audit it stands in."""
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
    return Append(STREAM, id, organization, body)


async def write_record(
    gate: Gate, ids: Ids, caller: Caller, request: str, verb: str, kind: type[AnyResource], key: Key, *, uid: str = "",
    organization: str = "",
) -> Append:  # fmt: skip
    """`done` for an object of a kind; its organisation is looked up where it is not given."""
    subject = await gate.subject(kind, key)
    return done(
        ids.uid(), caller, request, verb, kind.kind, ref_of(kind, key), uid=uid,
        organization=organization or subject.organization, project=subject.project,
    )  # fmt: skip


def _with(caller: Caller) -> Document:
    """The key of S3 that somebody acted with, where it was one."""
    return {"via": caller.via} if caller.via else {}


@dataclass(slots=True)
class _Window:
    began_at: float
    count: int = 0


@dataclass(slots=True)
class Audit:
    """`home`: the organisation of the operator; what belongs to nobody else stands in its audit."""

    store: Store
    gate: Gate
    clock: Clock
    ids: Ids
    home: str
    _refusals: OrderedDict[str, _Window] = field(default_factory=OrderedDict)
    _nobody: Counter[str] = field(default_factory=Counter)
    _since: float = 0.0

    # -- writing ----------------------------------------------------------------------------

    async def refused(self, caller: Caller, request: str, method: str, parts: list[str], error: HansaError) -> None:
        """Records a refusal, or counts it. Never raises for a store that does not answer: the refusal stands."""
        window = self._window(caller.ref)
        window.count += 1
        if window.count > REFUSALS_MAX:
            return
        verb, kind, ref, key = _named(method, parts)
        try:
            project, organization = await self._place(key, kind)
            body: Document = {
                "who": caller.ref,
                "verb": verb,
                "kind": kind,
                "name": ref.rpartition("/")[2],
                "ref": ref,
                "project": project,
                "organization": organization,
                "outcome": "refused",
                "status": error.status,
                "reason": error.reason,
                "why": error.message[:WHY_LENGTH_MAX],
                "request": request,
            } | _with(caller)
            await self.store.commit(Append(STREAM, self.ids.uid(), organization, body), by=caller.ref, request=request)
        except Retry as failed:
            log.warning("a refusal has no record", request=request, who=caller.ref, detail=failed.detail)

    def _window(self, who: str) -> _Window:
        """The caller's minute. What went unrecorded in the one before is counted."""
        now, window = self.clock.now(), self._refusals.get(who)
        if window is None or not 0 <= now - window.began_at < WINDOW_S:
            if window is not None and window.count > REFUSALS_MAX:
                self._since = self._since if self._nobody else window.began_at
                self._nobody[f"refused {who}"] += window.count - REFUSALS_MAX
            window = self._refusals[who] = _Window(now)
        self._refusals.move_to_end(who)
        while len(self._refusals) > CALLERS_MAX:
            self._refusals.popitem(last=False)
        return window

    async def _place(self, key: Key | None, kind: str) -> tuple[str, str]:
        project = (key.name if kind == Project.kind else key.project or "") if key is not None else ""
        organization = (key.name if kind == Organization.kind else key.organization or "") if key is not None else ""
        organization = await self.gate.organization_of(project) if project else organization
        return project, organization or self.home

    async def unauthenticated(self, what: str) -> None:
        """Counts a call of nobody; writes the count of the last minute when that is over."""
        now = self.clock.now()
        if self._nobody and not 0 <= now - self._since < WINDOW_S:
            await self.flush()
        if not self._nobody:
            self._since = now
        self._nobody[what] += 1

    async def flush(self) -> None:
        """Writes what was counted. Kept when the store does not answer."""
        counted, self._nobody = self._nobody, Counter()
        if not counted:
            return
        body: Document = {
            "who": "",
            "verb": "authenticate",
            "kind": "",
            "name": "",
            "ref": "",
            "organization": self.home,
            "outcome": "unauthenticated",
            "since": rfc3339(self._since),
            "counts": dict(counted),
            "count": counted.total(),
        }
        try:
            await self.store.commit(Append(STREAM, self.ids.uid(), self.home, body), by="/hansa/audit")
        except Retry as failed:
            self._nobody = counted + self._nobody
            log.warning("calls of nobody are counted, not written yet", detail=failed.detail)

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


def _named(method: str, parts: list[str]) -> tuple[str, str, str, Key | None]:
    """Verb, kind, reference and key of what a path names, as far as it names something."""
    try:
        route = resolve(parts)
    except (NotFound, Unbuilt):
        verb = parts[-1] if method == "POST" else METHODS.get(method, method.lower())
        path = "/".join(parts[:1] + parts[2:])
        return verb, "", f"/{path}"[:512], _scope_in(parts)
    verb = route.verb or METHODS.get(method, method.lower())
    return verb, route.kind.kind, ref_of(route.kind, route.key), route.key


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
