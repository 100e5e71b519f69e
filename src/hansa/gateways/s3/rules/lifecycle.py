"""Lifecycle: when versions, delete markers and uploads have had their time. Pure; moments are epoch seconds.

Rules are those of `bucketrules`, as S3 writes them. A rule that is disabled does nothing; of several that fit, the one
whose time comes first counts. Days count from midnight (UTC) after the moment they are up, as in S3, unless the days of
this cloud were made shorter for tests: then they count to the second.

How rules are checked and kept in a bucket's spec is in `lifecyclespec`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from urllib.parse import quote

from hansa.gateways.s3.wire.bucketrules import Filter, LifecycleRule
from hansa.gateways.s3.wire.dates import http_date, midnight_after
from hansa.objectindex.records import Upload, Version

DAY_S = 86_400.0
END = 253_402_214_400.0  # the last midnight that dates can name: later is then


class Deed(Enum):
    """What is to be done: a DELETE without a version id, or this version (or marker) for good."""

    EXPIRE = "expire"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Standing:
    """A version among those of its key. `since`: when something newer came, None for the latest.

    `newer`: how many versions that are not current either are newer. `alone`: the key has no other version.
    """

    version: Version
    since: float | None = None
    newer: int = 0
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Due:
    """`at`: since when. `rule`: its id."""

    deed: Deed
    at: float
    rule: str


# -- whose time has come --------------------------------------------------------------------------


def due(rules: Iterable[LifecycleRule], it: Standing, now: float, day_s: float = DAY_S) -> Due | None:
    """What is to be done with a version now, if anything."""
    times = [found for rule in rules if is_enabled(rule) and (found := _when(rule, it, day_s)) and found.at <= now]
    return min(times, key=lambda found: found.at, default=None)


def upload_due(rules: Iterable[LifecycleRule], upload: Upload, now: float, day_s: float = DAY_S) -> str:
    """The id of a rule by which an unfinished upload is to be aborted now; empty: none."""
    return next((rule for at, rule in _aborts(rules, upload, day_s) if at <= now), "")


def _aborts(rules: Iterable[LifecycleRule], upload: Upload, day_s: float) -> list[tuple[float, str]]:
    """When which rule takes an upload, soonest first. One that looks at tags or sizes takes none."""
    return sorted(
        (_after(upload.started, rule.abort_days, day_s), rule.id)
        for rule in rules
        if is_enabled(rule) and rule.abort_days is not None
        if upload.key.startswith(prefix_of(rule)) and not (rule.filter is not None and looks_inside(rule.filter))
    )


def _when(rule: LifecycleRule, it: Standing, day_s: float) -> Due | None:
    version = it.version
    if not fits(rule, version):
        return None
    if it.since is not None:
        return _noncurrent(rule, it, it.since, day_s)
    if version.marker:
        return _marker(rule, it, day_s)
    at = _expiry(rule, version.modified, day_s)
    return None if at is None else Due(Deed.EXPIRE, at, rule.id)


def _noncurrent(rule: LifecycleRule, it: Standing, since: float, day_s: float) -> Due | None:
    if rule.noncurrent_days is None or it.newer < (rule.newer_noncurrent or 0):
        return None
    return Due(Deed.REMOVE, _after(since, rule.noncurrent_days, day_s), rule.id)


def _marker(rule: LifecycleRule, it: Standing, day_s: float) -> Due | None:
    """A marker under which nothing is left goes: at once where the rule says so, else when its own days are up."""
    if not it.alone:
        return None
    if rule.expire_marker:
        return Due(Deed.REMOVE, it.version.modified, rule.id)
    at = _expiry(rule, it.version.modified, day_s)
    return None if at is None else Due(Deed.REMOVE, at, rule.id)


def _expiry(rule: LifecycleRule, modified: float, day_s: float) -> float | None:
    if rule.expire_date is not None:
        return rule.expire_date
    return None if rule.expire_days is None else _after(modified, rule.expire_days, day_s)


def _after(moment: float, days: int, day_s: float) -> float:
    at = min(moment + days * day_s, END)
    return midnight_after(at) if day_s == DAY_S else at


# -- which rules are for which object -------------------------------------------------------------


def is_enabled(rule: LifecycleRule) -> bool:
    return rule.status == "Enabled"


def prefix_of(rule: LifecycleRule) -> str:
    return rule.prefix or (rule.filter.prefix if rule.filter is not None else None) or ""


def fits(rule: LifecycleRule, version: Version) -> bool:
    """A marker has neither tags nor a size, so a filter by those never fits one."""
    if not version.key.startswith(prefix_of(rule)):
        return False
    return rule.filter is None or passes(rule.filter, version)


def passes(wanted: Filter, version: Version) -> bool:
    if version.marker and looks_inside(wanted):
        return False
    return (
        version.key.startswith(wanted.prefix or "")
        and set(wanted.tags) <= set(version.facts.tags)
        and (wanted.larger_than is None or version.size > wanted.larger_than)
        and (wanted.smaller_than is None or version.size < wanted.smaller_than)
    )


def looks_inside(wanted: Filter) -> bool:
    """Does it ask for more than a prefix?"""
    return bool(wanted.tags) or wanted.larger_than is not None or wanted.smaller_than is not None


def prefixes(rules: Iterable[LifecycleRule]) -> tuple[str, ...]:
    """The fewest prefixes under which everything lies that an enabled rule could be for."""
    found: list[str] = []
    for prefix in sorted({prefix_of(rule) for rule in rules if is_enabled(rule)}):
        if not found or not prefix.startswith(found[-1]):
            found.append(prefix)
    return tuple(found)


# -- versions as a listing shows them -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """Where a walk stands between two pages: the last version, not yet judged, and its rank."""

    last: Standing | None = None


def ranked(page: Sequence[Version], place: Place) -> tuple[list[Standing], Place]:
    """Versions by key, newest first, with what is known of their neighbours. The last waits for the next page."""
    found: list[Standing] = []
    last = place.last
    for version in page:
        if last is not None:
            same = last.version.key == version.key
            found.append(last if same else _settled(last))
            last = _below(last, version) if same else Standing(version)
        else:
            last = Standing(version)
    return found, Place(last)


def closing(place: Place) -> list[Standing]:
    """What still waits when there is no further page."""
    return [] if place.last is None else [_settled(place.last)]


def _below(newer: Standing, version: Version) -> Standing:
    above = newer.newer + (newer.since is not None)
    return Standing(version, since=newer.version.modified, newer=above)


def _settled(last: Standing) -> Standing:
    """The lowest of its key: alone when it is the latest too."""
    return Standing(last.version, last.since, last.newer, alone=last.since is None)


# -- what readers are told ------------------------------------------------------------------------


def expiration_header(rules: Iterable[LifecycleRule], version: Version) -> dict[str, str]:
    """`x-amz-expiration` of a current version: when the first rule takes it, in days as calendars have them."""
    standing = Standing(version)
    times = [found for rule in rules if is_enabled(rule) and (found := _when(rule, standing, DAY_S))]
    first = min(times, key=lambda found: found.at, default=None)
    if first is None or version.marker:
        return {}
    return {"x-amz-expiration": f'expiry-date="{http_date(first.at)}", rule-id="{quote(first.rule, safe="")}"'}


def abort_headers(rules: Iterable[LifecycleRule], upload: Upload) -> dict[str, str]:
    """Of CreateMultipartUpload and ListParts: when an unfinished upload would be aborted, and by which rule."""
    for at, rule in _aborts(rules, upload, DAY_S)[:1]:
        return {"x-amz-abort-date": http_date(at), "x-amz-abort-rule-id": quote(rule, safe="")}
    return {}
