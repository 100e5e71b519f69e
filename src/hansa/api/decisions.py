"""Decisions: every verdict on a write, and every placement, by its id.

The verdict that allowed a write is appended in the commit of that write. One that refused is appended by itself, and
its id stands in the error; the same refusal within a minute is the same decision. Somebody who is refused many
different things in a minute gets no more ids, and the answer then names none: no id is given out that leads nowhere.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from dataclasses import dataclass, field

import structlog

from hansa.api.admission import Gate
from hansa.clock import Clock, Ids
from hansa.dates import rfc3339
from hansa.errors import Forbidden, Full, HansaError, NotFound, Retry
from hansa.kinds.iam import Organization
from hansa.kinds.registry import key_of, kind_named
from hansa.kinds.resource import AnyResource, Document, Key, ref_of
from hansa.policy.quota import helps
from hansa.policy.verdict import Act, Caller
from hansa.store.port import Append, Entry, Store

log = structlog.get_logger("hansa.decisions")
PLACEMENTS, VERDICTS = "decisions", "verdicts"  # two streams, one name for people
SAME_S = 60.0
REFUSALS_MAX = 30  # different ones of one caller within SAME_S
REMEMBERED = 1024  # callers
ID_LENGTH_MAX = 64


def allowed(
    id: str, caller: Caller, act: str, kind: type[AnyResource], key: Key, *, uid: str, rule: str, request: str
) -> Append:
    """The record of a verdict that let a write through, for the write's own commit."""
    return Append(VERDICTS, id, uid, {
        "verdict": "allowed", "act": act, "ref": ref_of(kind, key), "by": caller.ref, "rule": rule, "reasons": [],
        "request": request,
    })  # fmt: skip


@dataclass(slots=True)
class Decisions:
    store: Store
    gate: Gate
    clock: Clock
    ids: Ids
    _refused: OrderedDict[str, deque[tuple[float, str, str]]] = field(default_factory=OrderedDict)

    async def refused(
        self, caller: Caller, act: str, kind: type[AnyResource], key: Key, request: str, error: HansaError
    ) -> None:
        """Keeps why a write was refused, and names the decision in the error. Other errors are no verdicts."""
        if not isinstance(error, Forbidden | Full | NotFound) or (
            isinstance(error, NotFound) and not await self._hidden(caller, act, kind, key)
        ):
            return
        ref = ref_of(kind, key)
        id, known = self._id(caller.ref, f"{act} {ref} {error.reason} {error.message}")
        if not id:
            return
        body: Document = {
            "verdict": "refused", "act": act, "ref": ref, "by": caller.ref, "rule": error.reason,
            "reasons": [error.message], "request": request,
        }  # fmt: skip
        if isinstance(error, Full) and error.details:
            body["quota"] = dict(error.details)
        if not known:
            try:
                await self.store.commit(Append(VERDICTS, id, "", body), by=caller.ref, request=request)
            except Retry as retry:  # the refusal stands; it just has no record
                self._forget(caller.ref, id)
                log.warning("a refusal has no record", request=request, detail=retry.detail)
                return
        error.details["decision"] = id

    async def _hidden(self, caller: Caller, act: str, kind: type[AnyResource], key: Key) -> bool:
        """Was it "not found" because the caller has no role there?"""
        return not await self.gate.may(caller, Act.CREATE if act == "create" else Act.READ, kind, key)

    def _id(self, who: str, what: str) -> tuple[str, bool]:
        """The id of a refusal and whether it is kept already; empty: this caller had too many."""
        now, mine = self.clock.now(), self._refused.setdefault(who, deque())
        self._refused.move_to_end(who)
        while len(self._refused) > REMEMBERED:
            self._refused.popitem(last=False)
        while mine and not 0 <= now - mine[0][0] < SAME_S:
            mine.popleft()
        found = next((id for _, said, id in mine if said == what), None)
        if found is not None or len(mine) >= REFUSALS_MAX:
            return found or "", True
        mine.append((now, what, self.ids.uid()))
        return mine[-1][2], False

    def _forget(self, who: str, id: str) -> None:
        self._refused[who] = deque(entry for entry in self._refused.get(who, ()) if entry[2] != id)

    # -- reading ----------------------------------------------------------------------------

    async def find(self, caller: Caller, id: str) -> Document:
        """One decision with its reasons. NotFound for one that is not there or not the caller's to read."""
        for stream in (PLACEMENTS, VERDICTS) if len(id) <= ID_LENGTH_MAX else ():
            entry = await self.store.record(stream, id)
            if entry is not None and await self._may_read(caller, entry):
                return _shown(entry)
        raise NotFound(f"there is no decision {id[:ID_LENGTH_MAX]!r}")

    async def _may_read(self, caller: Caller, entry: Entry) -> bool:
        """Who asked for it, and who may read what it is about."""
        if entry.body.get("by") == caller.ref:
            return True
        key = key_of(str(entry.body.get("ref") or entry.body.get("request") or ""))
        if key is None:
            return False
        if key.organization is not None:
            return await self.gate.may(caller, Act.READ, Organization, Key("Organization", "", key.organization))
        return await self.gate.may(caller, Act.READ, kind_named(key.kind), key)


def _shown(entry: Entry) -> Document:
    body = dict(entry.body)
    if entry.stream == PLACEMENTS:  # what it was asked for stands there under the older name
        body = {"ref": body.pop("request", ""), **body}
    shown: Document = {"id": entry.id, "at": rfc3339(math.floor(entry.at * 1000) / 1000), "type": "placement"}
    if entry.stream == VERDICTS:
        shown["type"] = "verdict"
        if quota := body.get("quota"):
            body["help"] = helps(str(quota["of"]))
    return {**shown, **body}
