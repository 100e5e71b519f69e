"""Usage of a project, read: its intervals in the order in which they opened, open ones too. Nothing is rated.

A page may hold fewer intervals than asked for, or none, and still have a `continue`: filters are applied to what
was read.
"""

from __future__ import annotations

from dataclasses import dataclass

from hansa.api.admission import Gate
from hansa.api.query import Query, check_limit, flag, whole_or
from hansa.clock import Clock
from hansa.dates import parse_rfc3339, rfc3339
from hansa.errors import Invalid
from hansa.kinds.iam import Project
from hansa.kinds.resource import Document, Key
from hansa.ledger.usage import CLOSED, OPENED, consumed, overlap_s, stream_of
from hansa.policy.verdict import Act, Caller
from hansa.store.port import Pair, Store

FILTERS = ("kind", "meter", "region", "zone")
FAR = 253_402_300_799  # the last second of the year 9999


@dataclass(frozen=True, slots=True)
class Usage:
    store: Store
    gate: Gate
    clock: Clock

    async def read(self, caller: Caller, project: str, query: Query) -> Document:
        """A page of intervals. Raises Forbidden, NotFound, Invalid."""
        key = Key("Project", "", project)
        await self.gate.allow(caller, Act.READ, Project, key)
        limit = whole_or(query, "limit", 100)
        check_limit(limit)
        since, until = _moment(query, "since", 0), _moment(query, "until", FAR)
        uid = (await self.store.get(key)).uid
        page = await self.store.pairs(
            stream_of(OPENED, uid), stream_of(CLOSED, uid), about=query.get("uid", ""), alone=flag(query, "open"),
            since=float(since), after=_after(query), limit=limit,
        )  # fmt: skip
        items = [shown for pair in page if (shown := _shown(pair, since, until, int(self.clock.now()), query))]
        last = page[-1].first if len(page) == limit else None
        return {"items": items} | ({"continue": f"{last.at!r}_{last.id}"} if last is not None else {})


def _shown(pair: Pair, since: int, until: int, now: int, query: Query) -> Document | None:
    """An interval as owners see it, None where a filter leaves it out. Pure."""
    body, end = pair.first.body, (pair.second or {}).get("end")
    if any(name in query and body.get(name) != query[name] for name in FILTERS):
        return None
    start, to = int(body["start"]), now if end is None else int(end)
    if start >= until or (end is not None and to <= since and since > 0):
        return None
    seconds = overlap_s(start, to, since, min(until, max(to, start)))
    return {
        **body, "start": rfc3339(start), **({"end": rfc3339(to)} if end is not None else {}), "open": end is None,
        "seconds": seconds, "consumed": consumed(int(body["quantity"]), 0, seconds),
    }  # fmt: skip


def _moment(query: Query, name: str, default: int) -> int:
    if not (text := query.get(name, "")):
        return default
    try:
        return max(0, int(parse_rfc3339(text)))
    except ValueError:
        raise Invalid.field(name, f"must be a date as in 2026-11-26T12:00:00Z (given: {text[:40]!r})") from None


def _after(query: Query) -> tuple[float, str]:
    if not (token := query.get("continue", "")):
        return 0.0, ""
    at, _, id = token.partition("_")
    try:
        return float(at), id
    except ValueError:
        raise Invalid.field("continue", "must be one that a list gave out") from None
