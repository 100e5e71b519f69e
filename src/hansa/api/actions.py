"""What can be asked of one object besides reading and writing it: start, stop, logs, events, why."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import orjson

from hansa.api.admission import Gate
from hansa.api.console import STREAM
from hansa.api.grants import check_key
from hansa.api.query import check_limit
from hansa.api.resources import Asking, Resources
from hansa.api.selector import parse as parse_selector
from hansa.api.why import attempts_in, causes_of, helps_of
from hansa.clock import Clock
from hansa.dates import rfc3339
from hansa.errors import Conflict, Forbidden, Invalid, NotFound, Unauthenticated
from hansa.kinds.iam import Project
from hansa.kinds.reasons import REASONS
from hansa.kinds.registry import kind_named, read
from hansa.kinds.resource import AnyResource, Document, Key, Stored, ref_of
from hansa.kinds.storage import EncryptionKey, S3Key
from hansa.policy.decide import decide
from hansa.policy.verdict import Act, Rules, Subject
from hansa.store.port import Change, Entry, Store, Write
from hansa.units import CONSOLE_BYTES_MAX

Logs = Callable[[AnyResource, int], Awaitable[bytes]]
Revoke = Callable[[AnyResource, str, float], Awaitable[list[Write]]]
Rotate = Callable[[AnyResource, float], tuple[tuple[Write, ...], Document]]  # the writes, and what is shown once
LINKS_SHOWN = 32
GRACE_S, GRACE_MAX_S = 86_400.0, 30 * 86_400.0  # for which a replaced access key still counts
OPENINGS_SEEN = 500  # of consoles, the newest of the whole cloud, among the events of a project
RUNS_ON = ("simulated", "accelerator", "isolation", "network", "engine", "ssh")


@dataclass(frozen=True, slots=True)
class Actions:
    resources: Resources
    store: Store
    gate: Gate
    clock: Clock
    logs: Logs
    revoke_writes: Revoke
    rotate_writes: Rotate
    last_error: Callable[[Key], str]

    async def switch(self, asking: Asking, kind: type[AnyResource], key: Key, running: bool) -> None:
        """Start and stop are a change of the spec: there is no second way."""
        verb = "start" if running else "stop"
        await self.resources.patch(asking, kind, key, {"spec": {"running": running}}, verb=verb)

    async def revoke(self, asking: Asking, kind: type[AnyResource], key: Key, body: Document) -> Document:
        subject = await self.gate.allow(asking.caller, Act.UPDATE, kind, key)
        reason = body.get("reason", "")
        if not isinstance(reason, str) or len(reason) > 1000:
            raise Invalid.field("reason", "must be text of at most 1000 characters")
        stored = await self.resources.stored(key)
        writes = await self.revoke_writes(kind(stored), reason, self.clock.now())
        if writes:
            rule = self.resources.rule(asking, Act.UPDATE, subject)
            record = self.resources.record(asking, "revoke", subject, stored.uid, rule)
            await self.store.commit(*writes, record, by=asking.caller.ref, request=asking.request)
        return await self.resources.show(asking, kind, await self.store.get(key))

    async def rotate(self, asking: Asking, kind: type[AnyResource], key: Key, body: Document) -> Document:
        """A new access key; the one before it counts for `graceSeconds` more. The answer shows it once. Of an encryption
        key new material, which is never shown; what lies under older material stays readable, so there is no grace."""
        subject = await self.gate.allow(asking.caller, Act.UPDATE, kind, key)
        grace_s = body.get("graceSeconds", GRACE_S)
        if isinstance(grace_s, bool) or not isinstance(grace_s, int | float) or not 0 <= grace_s <= GRACE_MAX_S:
            raise Invalid.field("graceSeconds", f"must be a number from 0 to {GRACE_MAX_S:.0f}")
        if kind is EncryptionKey and "graceSeconds" in body:
            raise Invalid.field("graceSeconds", "does not go with an encryption key: its older material stays")
        it = kind(await self.resources.stored(key))
        if it.deleting:
            raise Conflict(f"{key} is being deleted")
        if isinstance(it, S3Key):
            await check_key(self.gate, asking.caller, it)
        writes, shown = self.rotate_writes(it, float(grace_s))
        rule = self.resources.rule(asking, Act.UPDATE, subject)
        record = self.resources.record(asking, "rotate", subject, it.uid, rule)
        await self.store.commit(*writes, record, by=asking.caller.ref, request=asking.request)
        document = await self.resources.show(asking, kind, await self.store.get(key))
        return {**document, "status": {**document["status"], **shown}}

    async def log(self, asking: Asking, kind: type[AnyResource], key: Key, count: int) -> bytes:
        """The last `count` bytes of what the machine wrote to its console, over all its starts."""
        await self.gate.allow(asking.caller, Act.SSH, kind, key)
        if not 0 < count <= CONSOLE_BYTES_MAX:
            raise Invalid.field("bytes", f"must be from 1 to {CONSOLE_BYTES_MAX}")
        return await self.logs(kind(await self.resources.stored(key)), count)

    # -- events -----------------------------------------------------------------------------

    async def events_of(self, asking: Asking, kind: type[AnyResource], key: Key, limit: int) -> Document:
        await self.gate.allow(asking.caller, Act.READ, kind, key)
        check_limit(limit)
        stored = await self.resources.stored(key)
        found = [_event(c) for c in await self._recent(key.scope) if c.uid == stored.uid]
        found += [_opening(e) for e in await self.store.records(STREAM, about=stored.uid, limit=limit)]
        return {"items": _in_order(found)[-limit:]}

    async def events_in(self, asking: Asking, project: str, after: int | None, limit: int) -> Document:
        """The latest events of a project, or its changes after a revision; and the revision to go on from.

        An opened console changes no object and has no revision of its own: it is among the latest events only.
        Of kinds that the caller may not read there are no events.
        """
        await self._allow_project(asking, project)
        check_limit(limit)
        scope, organization = f"projects/{project}", await self.gate.organization_of(project)
        revision = await self.store.revision()  # before the changes: who goes on from it misses none

        def seen(event: Document) -> bool:
            subject = Subject(event["kind"], event["id"], project, organization, ref=event["ref"])
            return decide(asking.caller, Act.READ, subject, Rules()).allowed

        if after is None:
            changes, full = await self._recent(scope), False
            found = [_event(c) for c in changes if _is_public(c.key)]
            openings = await self.store.records(STREAM, limit=OPENINGS_SEEN)
            found += [_opening(e) for e in openings if f"/{scope}/" in e.body["ref"]]
            found = _in_order([e for e in found if seen(e)])[-limit:]
        else:
            changes = await self.store.changes(after, scope=scope, limit=limit)
            full = len(changes) == limit  # there may be more, all after the last of them
            found = [e for e in (_event(c) for c in changes if _is_public(c.key)) if seen(e)]
        last = changes[-1].revision if changes else revision
        return {"items": found, "revision": last if full else max(last, revision)}

    async def _allow_project(self, asking: Asking, project: str) -> None:
        """Raises Forbidden for strangers, whether there is such a project or not."""
        if not await self.gate.may(asking.caller, Act.READ, Project, Key(Project.kind, "", project)):
            raise Forbidden(f"you have no role on project {project}")

    async def _recent(self, scope: str, span: int = 5000) -> list[Change]:
        """The changes of a scope within the last `span` revisions of the store."""
        newest = await self.store.revision()
        oldest = max(await self.store.oldest_change() - 1, newest - span, 0)
        return await self.store.changes(oldest, scope=scope, limit=span)

    # -- watching ---------------------------------------------------------------------------

    async def watch(
        self, asking: Asking, kind: type[AnyResource], scope: str, after: int | None, selector: str, changed: Any
    ) -> AsyncIterator[bytes]:
        """Lines of JSON: what is there (when `after` is None), then every change, until the client goes."""
        await self.gate.allow_list(asking.caller, kind, scope)
        matches = parse_selector(selector) if selector else (lambda _labels: True)
        return self._watched(asking, kind, scope, after, matches, changed)

    async def _watched(
        self, asking: Asking, kind: type[AnyResource], scope: str, after: int | None, matches: Any, changed: Any
    ) -> AsyncIterator[bytes]:
        at = await self.store.revision() if after is None else after
        if after is None:
            listed = await self.resources.list(asking, kind, scope, selector="", limit=None, after="")
            for item in listed["items"]:
                if matches({**item["metadata"].get("userLabels", {}), **item["metadata"].get("systemLabels", {})}):
                    yield _line("ADDED", item, at)
        while (now := await self._still(asking, kind, scope)) is not None:
            for change in await self.store.changes(at, scope=scope, limit=500):
                at = max(at, change.revision)
                if change.key.kind == kind.kind and change.key.scope == scope:
                    line = await self._change_line(now, kind, change, matches)
                    if line:
                        yield line
            at = max(at, await self._quiet(changed, at))

    async def _still(self, asking: Asking, kind: type[AnyResource], scope: str) -> Asking | None:
        """As who asks now stands; None once they may not read here any more, which ends the watch."""
        if asking.again is None:
            return asking
        try:
            caller = await asking.again()
            await self.gate.allow_list(caller, kind, scope)
        except (Unauthenticated, Forbidden, NotFound):
            return None
        return replace(asking, caller=caller)

    async def _quiet(self, changed: Any, at: int) -> int:
        await changed(at)
        return at

    async def _change_line(self, asking: Asking, kind: type[AnyResource], change: Change, matches: Any) -> bytes:
        if not await self.gate.may(asking.caller, Act.READ, kind, change.key):
            return b""
        if change.stored is None:
            gone = {"metadata": {"id": change.key.name, "uid": change.uid}}
            return _line("DELETED", gone, change.revision)
        if not matches({**change.stored.labels, **change.stored.system_labels}):
            return b""
        shown = await self.resources.show(asking, kind, change.stored)
        return _line("ADDED" if change.act == "create" else "MODIFIED", shown, change.revision)

    # -- why --------------------------------------------------------------------------------

    async def why(self, asking: Asking, kind: type[AnyResource], key: Key) -> Document:
        """Everything that explains the state of one object, on one screen."""
        await self.gate.allow(asking.caller, Act.READ, kind, key)
        stored = await self.resources.stored(key)
        shown = await self.resources.show(asking, kind, stored)
        conditions: list[Document] = shown["status"].get("conditions", [])
        ready = next((c for c in conditions if c["type"] == "Ready"), None)
        due, now = await self.store.due(key), self.clock.now()
        reason = REASONS.get(ready["reason"]) if ready else None
        causes = await causes_of(self.store, read(stored), partial(self._may_know, asking))
        return {
            "object": ref_of(kind, key),
            "ready": ready,
            "summary": _summary(stored, ready),
            "conditions": conditions,
            "decision": await self._decision(stored),
            "pointsAt": [
                await self._pointed(p.target, p.path)
                for p in (await self.store.pointers_from(key))[:LINKS_SHOWN]
                if await self._may_know(asking, p.target)
            ],
            "pointedAtBy": [
                await self._pointed(p.source, p.path)
                for p in (await self.store.pointers_to(key))[:LINKS_SHOWN]
                if await self._may_know(asking, p.source)
            ],
            "causes": causes,
            "attempts": {
                "failures": due.failures if due else 0,
                "lastError": await self.store.trouble() or self.last_error(key),
                "recent": attempts_in(await self._recent(key.scope), stored.uid),
            },
            "helps": helps_of(causes, due, now),
            "due": {
                "at": rfc3339(due.due_at) if due and due.due_at is not None else None,
                "in": round(due.due_at - now, 1) if due and due.due_at is not None else None,
                "heldFor": round(due.leased_until - now, 1) if due and due.leased_until > now else None,
            },
            "runsOn": {k: shown["status"][k] for k in RUNS_ON if k in shown["status"]},
            "help": reason.help if reason else "",
        }

    async def _may_know(self, asking: Asking, key: Key) -> bool:
        return await self.gate.may(asking.caller, Act.READ, kind_named(key.kind), key)

    async def _decision(self, stored: Stored) -> Document | None:
        entries = await self.store.records("decisions", about=stored.uid, limit=1)
        return {"id": entries[0].id, "at": rfc3339(entries[0].at), **entries[0].body} if entries else None

    async def _pointed(self, key: Key, path: str) -> Document:
        kind = kind_named(key.kind)
        line: Document = {"ref": ref_of(kind, key), "path": path, "ready": None, "reason": "NotThere"}
        try:
            it = read(await self.store.get(key))
        except NotFound:
            return line
        ready = it.status.condition("Ready")
        if ready is None:
            return {**line, "reason": ""}
        return {
            **line,
            "ready": it.ready,
            "message": "" if it.ready else ready.message,
            "reason": ready.reason if it.stored.observed == it.generation else "Updating",
        }


def _summary(stored: Stored, ready: Document | None) -> str:
    if ready is None:
        return f"{stored.key} has no condition yet"
    word = "is Ready" if ready["status"] == "True" else "is not Ready"
    message = f": {ready['message']}" if ready["message"] else ""
    return f"{stored.key.kind} {stored.key.name} {word}, {ready['reason']}{message}"


def _is_public(key: Key) -> bool:
    return kind_named(key.kind).public


def _event(change: Change) -> Document:
    status: Mapping[str, Any] = change.stored.status if change.stored else {}
    ready: Document = next((c for c in status.get("conditions", []) if c.get("type") == "Ready"), {})
    return {
        "revision": change.revision,
        "at": rfc3339(change.at),
        "act": change.act,
        "by": change.by,
        "request": change.request,
        "kind": change.key.kind,
        "id": change.key.name,
        "ref": ref_of(kind_named(change.key.kind), change.key),
        "reason": ready.get("reason", ""),
        "message": ready.get("message", ""),
    }


def _opening(entry: Entry) -> Document:
    """An opened console as an event; its revision is that of the store at the time."""
    return {**entry.body, "at": rfc3339(entry.at), "act": "console", "reason": "", "message": "opened the console"}


def _in_order(events: list[Document]) -> list[Document]:
    """Oldest first; of one revision the change comes before what followed it."""
    return sorted(events, key=lambda event: (event["revision"], event["act"] == "console", event["at"]))


def _line(type: str, shown: Document, revision: int) -> bytes:
    return orjson.dumps({"type": type, "object": shown, "revision": revision}) + b"\n"
