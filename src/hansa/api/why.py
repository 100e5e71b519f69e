"""What stands between an object and Ready: where its chain of waiting ends, what was tried last, what would help.

Everything is read from the store, so that any process of the API can tell it, whichever process tried.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from hansa.dates import rfc3339
from hansa.errors import NotFound
from hansa.kinds.reasons import what_helps
from hansa.kinds.registry import kind_named, read
from hansa.kinds.resource import AnyResource, Condition, Document, Key, ref_of
from hansa.store.port import Change, Due, Store

DEPTH_MAX = 6
CAUSES_MAX = 8
LOOKED_AT_MAX = 64
ATTEMPTS_SHOWN = 6
LATE_S = 30.0  # work that has been due for so long, in nobody's hand, is in trouble itself
NO_TAKER = "It is due and no process takes it: is a control process running? `/health/ready` says."

MayKnow = Callable[[Key], Awaitable[bool]]


async def causes_of(store: Store, it: AnyResource, may_know: MayKnow) -> list[Document]:
    """The objects at the ends of its chains of waiting that are the reason, nearest first; itself when it waits for
    nobody. Empty when it is ready. Those that the caller may not know of are left out."""
    if it.ready:
        return []
    found: list[Document] = []
    seen, level = {it.key}, [it]
    for _ in range(DEPTH_MAX):
        below: list[AnyResource] = []
        for each in level:
            waits = await _waits_for(store, each, seen, may_know)
            below += waits
            if not waits and len(found) < CAUSES_MAX:
                found.append(_cause(each))
        if not below or len(seen) > LOOKED_AT_MAX:
            break
        level = below
    return found


async def _waits_for(store: Store, it: AnyResource, seen: set[Key], may_know: MayKnow) -> list[AnyResource]:
    """What `it` points at and is not ready; of something that goes, what still points at it."""
    if it.deleting:
        keys = [p.source for p in await store.pointers_to(it.key) if p.holds]
    else:
        keys = [p.target for p in await store.pointers_from(it.key)]
    waits = []
    for key in keys:
        if key in seen or len(seen) > LOOKED_AT_MAX or not await may_know(key):
            continue
        seen.add(key)
        try:
            other = read(await store.get(key))
        except NotFound:
            continue
        if it.deleting or (other.status.condition("Ready") is not None and not other.ready):
            waits.append(other)
    return waits


def _cause(it: AnyResource) -> Document:
    reason, message = _said(it)
    return {
        "ref": ref_of(kind_named(it.key.kind), it.key),
        "reason": reason,
        "message": message,
        "helps": what_helps(reason),
    }


def _said(it: AnyResource) -> tuple[str, str]:
    """Reason and message as a client sees them."""
    ready = it.status.condition("Ready")
    if it.deleting:
        return "Deleting", ready.message if ready is not None and ready.reason == "Deleting" else ""
    if ready is None:
        return "Pending", ""
    if it.stored.observed != it.generation:
        return "Updating", ""
    return ready.reason, ready.message


def attempts_in(changes: Sequence[Change], uid: str) -> list[Document]:
    """What passes over an object said of it, newest last, each saying once. Pure."""
    told: list[Document] = []
    for change in changes:
        if change.uid != uid or change.act != "status" or change.stored is None:
            continue
        ready = next((c for c in change.stored.status.get("conditions", ()) if c.get("type") == "Ready"), None)
        if ready is None:
            continue
        condition = Condition.model_validate(ready)
        said = {"reason": condition.reason, "message": condition.message, "request": change.request}
        if told and {k: told[-1][k] for k in said} == said:
            told[-1] |= {"last": rfc3339(change.at), "times": told[-1]["times"] + 1}
        else:
            told.append({"at": rfc3339(change.at), "last": rfc3339(change.at), "times": 1, **said})
    return told[-ATTEMPTS_SHOWN:]


def helps_of(causes: Sequence[Document], due: Due | None, now: float) -> list[str]:
    """Lines that say what to do, the most telling first. Pure."""
    lines = [c["helps"] for c in causes if c["helps"]]
    if due is not None and due.due_at is not None and due.leased_until <= now and now - due.due_at > LATE_S:
        lines.insert(0, NO_TAKER)
    return list(dict.fromkeys(lines))
