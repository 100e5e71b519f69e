"""Lifecycle rules at the door and in a bucket's spec: what S3 takes, and the way to the contract's words and back. Pure.

The contract's `lifecyclePolicy` is the one truth; what its words do not tell apart (an old `Prefix` and a `Filter`, one
condition in an `And`) goes into `asGiven`, so that a client reads what it wrote. A `maxNumVersions` of the contract is,
to S3, one day and that many newer versions kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from hansa.gateways.s3.rules.lifecycle import looks_inside
from hansa.gateways.s3.rules.ruleids import identified
from hansa.gateways.s3.rules.tagging import object_tags
from hansa.gateways.s3.wire.bucketrules import Filter, LifecycleRule
from hansa.gateways.s3.wire.dates import read_iso_date
from hansa.gateways.s3.wire.errors import S3Error

RULES_MAX = 1000
NEWER_MAX = 100
DAYS_MAX = 2**31 - 1
PREFIX_BYTES_MAX = 1024
DAY_S = 86_400
MAX_NUM_DAYS = 1  # after how many days what `maxNumVersions` leaves over goes


# -- at the door ----------------------------------------------------------------------------------


def checked(rules: Sequence[LifecycleRule]) -> tuple[LifecycleRule, ...]:
    """The rules of a PutBucketLifecycleConfiguration, each with an id. Raises InvalidArgument, InvalidRequest,
    NotImplemented for a move to another storage class."""
    if len(rules) > RULES_MAX:
        raise S3Error.of("InvalidRequest", f"LifecycleConfiguration: takes at most {RULES_MAX} rules.")
    found = identified(rules)
    for rule in found:
        _check(rule)
    return found


def _check(rule: LifecycleRule) -> None:
    for move in rule.transitions:
        if move.date is not None and move.date % DAY_S:
            raise S3Error.argument("Transition.Date", str(move.date), "must be midnight UTC")
    if rule.transitions:
        raise S3Error.of("NotImplemented", f"Rule {rule.id}: there is one storage class here, so nothing can move.")
    for name, days in (
        ("Expiration.Days", rule.expire_days),
        ("NoncurrentVersionExpiration.NoncurrentDays", rule.noncurrent_days),
        ("AbortIncompleteMultipartUpload.DaysAfterInitiation", rule.abort_days),
    ):
        if days is not None and not 1 <= days <= DAYS_MAX:
            raise S3Error.argument(name, str(days), f"must be 1 to {DAYS_MAX}")
    if rule.expire_date is not None and rule.expire_date % DAY_S:
        raise S3Error.argument("Expiration.Date", str(rule.expire_date), "must be midnight UTC")
    if rule.newer_noncurrent is not None and not 1 <= rule.newer_noncurrent <= NEWER_MAX:
        name = "NoncurrentVersionExpiration.NewerNoncurrentVersions"
        raise S3Error.argument(name, str(rule.newer_noncurrent), f"must be 1 to {NEWER_MAX}")
    _check_filter(rule, rule.filter or Filter(rule.prefix))


def _check_filter(rule: LifecycleRule, wanted: Filter) -> None:
    if len((wanted.prefix or "").encode()) > PREFIX_BYTES_MAX:
        raise S3Error.of("InvalidRequest", f"Rule {rule.id}: Prefix takes at most {PREFIX_BYTES_MAX} bytes.")
    object_tags(wanted.tags)
    low, high = wanted.larger_than, wanted.smaller_than
    if (low or 0) < 0 or (high is not None and high <= (low or 0)):
        raise S3Error.of("InvalidRequest", f"Rule {rule.id}: ObjectSizeGreaterThan must be below ObjectSizeLessThan.")
    if looks_inside(wanted) and (rule.abort_days is not None or rule.expire_marker):
        what = "AbortIncompleteMultipartUpload" if rule.abort_days is not None else "ExpiredObjectDeleteMarker"
        raise S3Error.of(
            "InvalidRequest", f"Rule {rule.id}: {what} goes with a prefix only; uploads and markers have no tags."
        )


# -- in the spec ----------------------------------------------------------------------------------


def policy_of(rules: Sequence[LifecycleRule]) -> dict[str, Any]:
    """As `lifecyclePolicy` of a bucket."""
    return {"rules": [_document(rule) for rule in rules]}


def rules_from(policy: Mapping[str, Any] | None) -> tuple[LifecycleRule, ...]:
    """The rules of a bucket with this `lifecyclePolicy`."""
    return tuple(_rule(document) for document in (policy or {}).get("rules") or ())


def _document(rule: LifecycleRule) -> dict[str, Any]:
    found: dict[str, Any] = {"id": rule.id}
    if rule.status == "Disabled":
        found["disabled"] = True
    current = _given(
        days=rule.expire_days,
        date=None if rule.expire_date is None else datetime.fromtimestamp(rule.expire_date, UTC).date().isoformat(),
        expireOrphanedDeletionMarkers=rule.expire_marker,
    )
    noncurrent = _given(days=rule.noncurrent_days, keepNewest=rule.newer_noncurrent)
    parts = {
        "expireCurrentVersion": current,
        "expireNonCurrentVersion": noncurrent,
        "abortIncompleteMultipart": _given(days=rule.abort_days),
    }
    found |= {name: part for name, part in parts.items() if part}
    wanted = rule.filter or Filter(rule.prefix)
    found["filter"] = _given(
        prefix=wanted.prefix,
        sizeGreaterThan=wanted.larger_than,
        sizeLessThan=wanted.smaller_than,
        tag=[{"key": key, "value": value} for key, value in wanted.tags] or None,
    )
    form = "prefix" if rule.filter is None else "and" if wanted.joined else "filter"
    return found | {"asGiven": {"form": form}}


def _given(**members: Any) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}


def _rule(document: Mapping[str, Any]) -> LifecycleRule:
    current = document.get("expireCurrentVersion") or {}
    noncurrent = document.get("expireNonCurrentVersion") or {}
    most = noncurrent.get("maxNumVersions")
    wanted, is_old = _filter(document)
    date = current.get("date")
    return LifecycleRule(
        status="Disabled" if document.get("disabled") else "Enabled",
        id=document["id"],
        filter=None if is_old else wanted,
        prefix=(wanted.prefix or "") if is_old else None,
        expire_days=current.get("days"),
        expire_date=None if date is None else read_iso_date(date),
        expire_marker=current.get("expireOrphanedDeletionMarkers"),
        noncurrent_days=MAX_NUM_DAYS if most is not None else noncurrent.get("days"),
        newer_noncurrent=most if most is not None else noncurrent.get("keepNewest"),
        abort_days=(document.get("abortIncompleteMultipart") or {}).get("days"),
    )


def _filter(document: Mapping[str, Any]) -> tuple[Filter, bool]:
    """And whether it came as a bare `Prefix`, from before there were filters."""
    given = document.get("filter") or {}
    tags = tuple((tag["key"], tag.get("value", "")) for tag in given.get("tag") or ())
    low, high, prefix = given.get("sizeGreaterThan"), given.get("sizeLessThan"), given.get("prefix")
    conditions = len(tags) + sum(part is not None for part in (low, high, prefix))
    form = (document.get("asGiven") or {}).get("form", "")
    is_old = form == "prefix" and conditions == (prefix is not None)
    return Filter(prefix, tags, low, high, joined=form == "and" or conditions > 1), is_old
