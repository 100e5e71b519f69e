"""Decisions: every verdict on a write, and every placement, by its id.

A verdict is the record of the audit that has a `rule`: the one that allowed a write is appended in the commit of that
write, and its id goes out in a header; the id of one that refused stands in the error. `hansa.api.audit` writes them,
here they are read. A store that was begun earlier has verdicts in a stream of their own besides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hansa.api.admission import Gate
from hansa.api.audit import STREAM as AUDIT
from hansa.dates import rfc3339
from hansa.errors import NotFound
from hansa.kinds.iam import Organization
from hansa.kinds.registry import key_of, kind_named
from hansa.kinds.resource import Document, Key
from hansa.policy.quota import helps
from hansa.policy.verdict import Act, Caller
from hansa.store.port import Entry, Store

PLACEMENTS, VERDICTS = "decisions", "verdicts"  # VERDICTS: nothing is appended to it any more
ID_LENGTH_MAX = 64
OUTCOMES = {"done": "allowed", "allowed": "allowed", "refused": "refused"}


@dataclass(frozen=True, slots=True)
class Decisions:
    store: Store
    gate: Gate

    async def find(self, caller: Caller, id: str) -> Document:
        """One decision with its reasons. NotFound for one that is not there or not the caller's to read."""
        for stream in (AUDIT, PLACEMENTS, VERDICTS) if len(id) <= ID_LENGTH_MAX else ():
            entry = await self.store.record(stream, id)
            body = _body(entry) if entry is not None else None
            if entry is not None and body is not None and await self._may_read(caller, body):
                return _shown(entry, body)
        raise NotFound(f"there is no decision {id[:ID_LENGTH_MAX]!r}")

    async def _may_read(self, caller: Caller, body: Document) -> bool:
        """Who asked for it, and who may read what it is about."""
        if body.get("by") == caller.ref:
            return True
        key = key_of(str(body.get("ref") or ""))
        if key is None:
            return False
        if key.organization is not None:
            return await self.gate.may(caller, Act.READ, Organization, Key("Organization", "", key.organization))
        return await self.gate.may(caller, Act.READ, kind_named(key.kind), key)


def _body(entry: Entry) -> Document | None:
    """A record as a decision, None when it is none."""
    it = dict(entry.body)
    if entry.stream == PLACEMENTS:  # what it was asked for stands there under the older name
        return {"ref": it.pop("request", ""), **it}
    if entry.stream == VERDICTS:
        return it
    if "rule" not in it:
        return None
    reasons = [it["why"]] if "why" in it else []
    shown = {
        "verdict": OUTCOMES[it["outcome"]], "act": it["verb"], "ref": it["ref"], "by": it["who"], "rule": it["rule"],
        "reasons": reasons, "request": it["request"],
    }  # fmt: skip
    return shown | ({"quota": it["quota"]} if "quota" in it else {})


def _shown(entry: Entry, body: Document) -> Document:
    at = rfc3339(math.floor(entry.at * 1000) / 1000)
    type = "placement" if entry.stream == PLACEMENTS else "verdict"
    help = {"help": helps(str(quota["of"]))} if (quota := body.get("quota")) else {}
    return {"id": entry.id, "at": at, "type": type, **body, **help}
