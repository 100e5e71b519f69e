"""Usage of a project, read: its intervals in the order in which they opened, open ones too. Nothing is rated.

Behind them comes what was counted in windows: requests of S3 and bytes that it received and sent. A page may hold fewer
intervals than asked for, or none, and still have a `continue`: filters are applied to what was read.
"""

from __future__ import annotations

from dataclasses import dataclass

from hansa.api.admission import Gate
from hansa.api.query import Query, check_limit, flag, whole_or
from hansa.clock import Clock
from hansa.dates import parse_rfc3339, rfc3339
from hansa.errors import Invalid
from hansa.kinds.iam import Project
from hansa.kinds.meters import S3_COUNTED
from hansa.kinds.resource import Document, Key
from hansa.ledger.usage import CLOSED, COUNTED, OPENED, consumed, counted_items, overlap_s, stream_of, units_of
from hansa.policy.verdict import Act, Caller
from hansa.store.port import Pair, Store

FILTERS = ("kind", "meter", "region", "zone")
_COUNTING = "c"  # begins a `continue` that goes on with what was counted
_UNITS = units_of(S3_COUNTED)
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
        counting, after = _after(query)
        asked = _Asked(since, until, int(self.clock.now()), query)
        if not counting:
            page = await self.store.pairs(
                stream_of(OPENED, uid), stream_of(CLOSED, uid), about=query.get("uid", ""), alone=flag(query, "open"),
                since=float(since), after=after, limit=limit,
            )  # fmt: skip
            items = [shown for pair in page if (shown := _shown(pair, asked))]
            if len(page) == limit or flag(query, "open"):
                return _page(items, page, limit, "")
            any_counted = await self.store.pairs(stream_of(COUNTED, uid), "", after=(float(since), ""), limit=1)
            return {"items": items} | ({"continue": _COUNTING} if any_counted else {})
        page = await self.store.pairs(  # a window is recorded after it began
            stream_of(COUNTED, uid), "", about=query.get("uid", ""), after=max(after, (float(since), "")), limit=limit
        )
        return _page([item for pair in page for item in _counted(pair.first.body, asked)], page, limit, _COUNTING)


@dataclass(frozen=True, slots=True)
class _Asked:
    """Epoch seconds; [since, until) is what is looked at."""

    since: int
    until: int
    now: int
    query: Query

    def wants(self, body: Document) -> bool:
        return all(body.get(name) == self.query[name] for name in FILTERS if name in self.query)


def _page(items: list[Document], page: list[Pair], limit: int, mark: str) -> Document:
    last = page[-1].first if len(page) == limit else None
    return {"items": items} | ({"continue": f"{mark}{last.at!r}_{last.id}"} if last is not None else {})


def _counted(body: Document, asked: _Asked) -> list[Document]:
    """A window belongs whole to the time in which it began. Pure."""
    if not asked.since <= int(body["start"]) < asked.until:
        return []
    dates = {"start": rfc3339(int(body["start"])), "end": rfc3339(int(body["end"]))}
    seconds = int(body["end"]) - int(body["start"])
    return [
        {**item, **dates, "open": False, "seconds": seconds, "consumed": item["quantity"]}
        for item in counted_items(body, _UNITS)
        if asked.wants(item)
    ]


def _shown(pair: Pair, asked: _Asked) -> Document | None:
    """An interval as owners see it, None where a filter leaves it out. Pure."""
    body, end = pair.first.body, (pair.second or {}).get("end")
    since, until = asked.since, asked.until
    if not asked.wants(body):
        return None
    start, to = int(body["start"]), asked.now if end is None else int(end)
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


def _after(query: Query) -> tuple[bool, tuple[float, str]]:
    """Whether the intervals are through, and what was read last."""
    token = query.get("continue", "")
    counting, token = token.startswith(_COUNTING), token.removeprefix(_COUNTING)
    if not token:
        return counting, (0.0, "")
    at, _, id = token.partition("_")
    try:
        return counting, (float(at), id)
    except ValueError:
        raise Invalid.field("continue", "must be one that a list gave out") from None
