"""Replication: which objects of a bucket are copied to which other bucket, and whether they may go there. Pure.

Both buckets belong to one project; they may lie in different regions, and then every copy crosses a border: what the
project's written rules allow is asked when the rules are set and again for each copy. A replica is never replicated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from hansa.gateways.s3.ports import BucketView
from hansa.gateways.s3.rules import locks
from hansa.gateways.s3.rules.bucketpolicy import BUCKET_ARN
from hansa.gateways.s3.rules.lifecycle import passes
from hansa.gateways.s3.rules.ruleids import check_unique, identified
from hansa.gateways.s3.wire.bucketrules import Filter, Replication, ReplicationRule
from hansa.gateways.s3.wire.errors import S3Error
from hansa.objectindex.records import Facts, Lock, Version, Versioning
from hansa.policy.access import OBJECTS
from hansa.policy.decide import decide
from hansa.policy.verdict import PROGRAM, Act, Rules, Subject, Verdict

RULES_MAX = 1000
_ARN = re.compile(r"arn:aws:s3:[a-z0-9-]*::[a-z0-9.-]{3,63}", re.ASCII)
PENDING, COMPLETED, FAILED, REPLICA = "PENDING", "COMPLETED", "FAILED", "REPLICA"
STATUS_HEADER = "x-amz-replication-status"
EVENT = "replicate"  # what the outbox calls it

Find = Callable[[str, str], BucketView | None]  # a bucket's name, a region or "" -> the bucket, None for none


# -- at the door ----------------------------------------------------------------------------------


def checked(replication: Replication, source: BucketView, find: Find, rules: Rules) -> Replication:
    """The configuration of `source`, each rule with an id. `rules`: the written rules of its project.

    Raises InvalidRequest, InvalidArgument, NotImplemented; AccessDenied for a bucket that bytes may not go to.
    """
    if source.versioning is not Versioning.ENABLED:
        raise S3Error.of("InvalidRequest", "Replication needs a bucket whose versioning is enabled.")
    if not 1 <= len(replication.rules) <= RULES_MAX:
        raise S3Error.of("MalformedXML", f"ReplicationConfiguration: takes 1 to {RULES_MAX} rules.")
    found = identified(replication.rules)
    check_unique("Priority", [str(rule.priority) for rule in found if rule.priority is not None])
    for rule in found:
        _check(rule, source, find, rules)
    return replace(replication, rules=found)


def _check(rule: ReplicationRule, source: BucketView, find: Find, rules: Rules) -> None:
    if rule.priority is not None and rule.priority < 0:
        raise S3Error.argument("Priority", str(rule.priority), "must be 0 or more")
    if rule.storage_class not in ("", "STANDARD"):
        raise S3Error.of("InvalidStorageClass", f"Rule {rule.id}: there is one storage class here, STANDARD.")
    for name, status in (
        ("ExistingObjectReplication", rule.existing_objects),
        ("ReplicaModifications", rule.replica_changes),
    ):
        if status == "Enabled":
            raise S3Error.of("NotImplemented", f"Rule {rule.id}: {name} is not supported here.")
    if rule.delete_markers == "Enabled" and rule.filter is not None and rule.filter.tags:
        raise S3Error.of("InvalidRequest", f"Rule {rule.id}: DeleteMarkerReplication cannot go with tags.")
    _check_target(rule, source, find, rules)


def _check_target(rule: ReplicationRule, source: BucketView, find: Find, rules: Rules) -> None:
    if not _ARN.fullmatch(rule.bucket):
        raise S3Error.argument("Destination.Bucket", rule.bucket, f"must be an ARN such as {BUCKET_ARN}my-bucket")
    name, region = target_of(rule)
    target = find(name, region)
    if target is None or target.project != source.project or region not in ("", target.region):
        where = f" in {region}" if region else ""
        raise S3Error.of("InvalidRequest", f"Rule {rule.id}: this project has no bucket {name}{where}.")
    if target.uid == source.uid:
        raise S3Error.of("InvalidRequest", f"Rule {rule.id}: a bucket cannot be replicated to itself.")
    if target.versioning is not Versioning.ENABLED:
        raise S3Error.of("InvalidRequest", f"Rule {rule.id}: versioning of {target.name} is not enabled.")
    if source.locking and not target.locking:
        raise S3Error.of(
            "InvalidRequest", f"Rule {rule.id}: {target.name} has no object lock, which {source.name} has."
        )
    if rule.account and rule.account != target.project:
        raise S3Error.of("InvalidRequest", f"Rule {rule.id}: {target.name} does not belong to {rule.account[:64]}.")
    key = (target.spec.get("encryption") or {}).get("key") or ""
    if rule.key and rule.key != key:
        raise S3Error.of(
            "InvalidRequest", f"Rule {rule.id}: replicas lie under the default key of {target.name}; set it there."
        )
    verdict = allowed(target, rules)
    if not verdict.allowed:
        raise S3Error("AccessDenied", f"Rule {rule.id}: {verdict.why}.", detail=verdict.rule)


def allowed(target: BucketView, rules: Rules) -> Verdict:
    """May bytes of its project lie in the target's territory? Asked at configuration and at each copy."""
    ref = f"/storage/projects/{target.project}/regions/{target.region}/objects/{target.name}"
    subject = Subject(OBJECTS, target.name, target.project, target.organization, target.territory, ref)
    return decide(PROGRAM, Act.CREATE, subject, rules)


# -- which objects --------------------------------------------------------------------------------


def takers(rules: Iterable[ReplicationRule], version: Version) -> tuple[ReplicationRule, ...]:
    """The rules that take a version, one for each target: that of the highest priority, the first among equals."""
    found: dict[str, ReplicationRule] = {}
    for rule in rules:
        if takes(rule, version):
            best = found.get(rule.bucket)
            if best is None or (rule.priority or 0) > (best.priority or 0):
                found[rule.bucket] = rule
    return tuple(found.values())


def takes(rule: ReplicationRule, version: Version) -> bool:
    """Not replicas, nor what only its owner's key opens; markers where the rule says so."""
    facts = version.facts
    if rule.status != "Enabled" or facts.replication == REPLICA:
        return False
    if facts.encryption is not None and facts.encryption.mode == "SSE-C":
        return False
    if facts.encryption is not None and facts.encryption.mode == "aws:kms" and rule.encrypted_objects != "Enabled":
        return False
    if version.marker and rule.delete_markers != "Enabled":
        return False
    if not version.key.startswith(rule.prefix or ""):
        return False
    return rule.filter is None or passes(rule.filter, version)


def status_of_new(rules: Iterable[ReplicationRule], version: Version) -> str:
    """What a version about to be written is to say of its replication; empty: nothing."""
    return PENDING if takers(rules, version) else ""


def changed(rules: Iterable[ReplicationRule], version: Version) -> Facts:
    """The facts of a version whose tags, lock or grants have just become these: it has to be told of again where a rule
    took it when it was written. What lay there before the rule, or was not taken, stays as it is."""
    facts = version.facts
    return replace(facts, replication=PENDING) if facts.replication and takers(rules, version) else facts


def events_of(version: Version) -> tuple[str, ...]:
    """What the outbox is told of a version that was changed."""
    return (EVENT,) if version.facts.replication == PENDING else ()


def followed(replica: Facts, source: Facts, *, locking: bool, now: float) -> Facts:
    """The facts of a replica after a change of its source, grants apart (see `replicating`). A retention that it
    has is never made weaker; `locking`: its bucket has locks."""
    lock = lock_followed(replica.lock, source.lock, now) if locking else replica.lock
    return replace(replica, tags=source.tags, lock=lock)


def lock_followed(replica: Lock, source: Lock, now: float) -> Lock:
    """The retention of the source, unless the replica's protects more and lasts; the legal hold in any case."""
    return replace(source if locks.may_follow(replica, source, now) else replica, hold=source.hold)


def is_same(one: Facts, other: Facts) -> bool:
    """Do both say the same of all that may be changed later?"""
    return (one.tags, one.lock, one.acl) == (other.tags, other.lock, other.acl)


def headers_of(version: Version) -> dict[str, str]:
    return {STATUS_HEADER: version.facts.replication} if version.facts.replication else {}


def target_of(rule: ReplicationRule) -> tuple[str, str]:
    """Name and region of the target; an ARN may leave the region out."""
    _, _, _, region, _, name = rule.bucket.split(":", 5)
    return name, region


def _arn(name: str, region: str) -> str:
    return f"arn:aws:s3:{region}::{name}"


# -- in the spec ----------------------------------------------------------------------------------


def document_of(replication: Replication) -> dict[str, Any]:
    """As `replication` of a bucket."""
    found: dict[str, Any] = {"rules": [_document(rule) for rule in replication.rules]}
    return found | ({"role": replication.role} if replication.role else {})


def replication_from(document: Mapping[str, Any] | None) -> Replication | None:
    if not document:
        return None
    return Replication(document.get("role") or "", tuple(_rule(rule) for rule in document["rules"]))


def _document(rule: ReplicationRule) -> dict[str, Any]:
    wanted = rule.filter or Filter(rule.prefix)
    name, region = target_of(rule)
    target = {"bucket": name, "region": region, "storageClass": rule.storage_class}
    found: dict[str, Any] = {
        "id": rule.id,
        "disabled": True if rule.status == "Disabled" else None,
        "priority": rule.priority,
        "filter": {"prefix": wanted.prefix, "tag": [{"key": k, "value": v} for k, v in wanted.tags]},
        "destination": {name: value for name, value in target.items() if value},
        "deleteMarkers": {"Enabled": True, "Disabled": False}.get(rule.delete_markers),
        "asGiven": _as_given(rule, wanted),
    }
    found["filter"] = {name: value for name, value in found["filter"].items() if value not in (None, [])}
    return {name: value for name, value in found.items() if value is not None}


def _as_given(rule: ReplicationRule, wanted: Filter) -> dict[str, Any]:
    form = (
        "and" if wanted.joined else "filter" if rule.filter is not None else "prefix" if rule.prefix is not None else ""
    )
    found = {
        "form": form, "account": rule.account, "key": rule.key, "existing": rule.existing_objects,
        "encrypted": rule.encrypted_objects, "changes": rule.replica_changes,
    }  # fmt: skip
    return {name: value for name, value in found.items() if value}


def _rule(document: Mapping[str, Any]) -> ReplicationRule:
    given, as_given = document.get("filter") or {}, document.get("asGiven") or {}
    tags = tuple((tag["key"], tag.get("value", "")) for tag in given.get("tag") or ())
    prefix, form = given.get("prefix"), as_given.get("form", "")
    is_old = form in ("", "prefix") and not tags and "asGiven" in document
    joined = form == "and" or len(tags) + (prefix is not None) > 1
    deletes = document.get("deleteMarkers")
    destination = document["destination"]
    return ReplicationRule(
        status="Disabled" if document.get("disabled") else "Enabled",
        bucket=_arn(destination["bucket"], destination.get("region") or ""),
        id=document["id"],
        priority=document.get("priority"),
        filter=None if is_old else Filter(prefix, tags, joined=joined),
        prefix=prefix if is_old else None,
        storage_class=destination.get("storageClass") or "",
        account=as_given.get("account", ""),
        key=as_given.get("key", ""),
        delete_markers="" if deletes is None else "Enabled" if deletes else "Disabled",
        existing_objects=as_given.get("existing", ""),
        encrypted_objects=as_given.get("encrypted", "") or ("" if "asGiven" in document else "Enabled"),
        replica_changes=as_given.get("changes", ""),
    )
