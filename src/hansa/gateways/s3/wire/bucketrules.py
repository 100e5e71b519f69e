"""A bucket's lifecycle and replication rules as S3 writes them, in and out, as plain data.

Both pick objects by a filter. What was read is written back the same; a part of a rule that we do not know is refused,
because passed over it could delete, or copy, more than was asked.
"""

from __future__ import annotations

from dataclasses import dataclass

from hansa.gateways.s3.wire import xml
from hansa.gateways.s3.wire.documents import Tags, read_tag, write_tag
from hansa.gateways.s3.wire.errors import S3Error

LIFECYCLE_RULES_MAX = 1000
REPLICATION_RULES_MAX = 1000
FILTER_TAGS_MAX = 64
_CLASSES = ("STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER", "DEEP_ARCHIVE", "GLACIER_IR", "STANDARD")


# -- filters ------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Filter:
    """What a rule is for; everything named must hold. Sizes in bytes, both exclusive.

    `joined`: it came inside an And element, and goes out in one.
    """

    prefix: str | None = None
    tags: Tags = ()
    larger_than: int | None = None
    smaller_than: int | None = None
    joined: bool = False


def _filter(node: xml.Node) -> Filter:
    """Conditions beside each other, outside of an `And`, are no good form; clients send them, and mean that all hold."""
    names = ("Prefix", "Tag", "ObjectSizeGreaterThan", "ObjectSizeLessThan")
    node.only("And", *names)
    inner = node.maybe("And")
    if inner is None:
        return _conditions(node, joined=len(node) > 1)
    found, beside = _conditions(inner.only(*names), joined=True), _conditions(node, joined=True)
    if len(node) == 1:
        return found
    return Filter(
        prefix=_both(found.prefix, beside.prefix, node),
        tags=tuple(sorted({*found.tags, *beside.tags})),
        larger_than=max((n for n in (found.larger_than, beside.larger_than) if n is not None), default=None),
        smaller_than=min((n for n in (found.smaller_than, beside.smaller_than) if n is not None), default=None),
        joined=True,
    )


def _both(one: str | None, other: str | None, node: xml.Node) -> str | None:
    """The prefix of what has both."""
    longer, shorter = sorted((one or "", other or ""), key=len, reverse=True)
    if not longer.startswith(shorter):
        raise xml.malformed(f"{node.path}/Prefix", "nothing begins with both")
    return None if one is None and other is None else longer


def _conditions(node: xml.Node, *, joined: bool) -> Filter:
    prefix = node.maybe("Prefix")
    return Filter(
        prefix=None if prefix is None else prefix.text,
        tags=tuple(read_tag(tag) for tag in node.all("Tag", at_most=FILTER_TAGS_MAX)),
        larger_than=node.whole("ObjectSizeGreaterThan"),
        smaller_than=node.whole("ObjectSizeLessThan"),
        joined=joined,
    )


def _write_filter(found: Filter) -> bytes:
    inner = xml.joined(
        (
            b"" if found.prefix is None else xml.element("Prefix", found.prefix),
            xml.joined(write_tag(key, value) for key, value in found.tags),
            xml.maybe("ObjectSizeGreaterThan", found.larger_than),
            xml.maybe("ObjectSizeLessThan", found.smaller_than),
        )
    )
    return xml.element("Filter", xml.element("And", inner) if found.joined else inner)


# -- lifecycle ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Transition:
    """A move to another storage class. `days` or `date` (epoch seconds); `noncurrent`: of versions that are not current."""

    storage_class: str
    days: int | None = None
    date: float | None = None
    noncurrent: bool = False
    newer_kept: int | None = None


@dataclass(frozen=True, slots=True)
class LifecycleRule:
    """`filter` or the old `prefix`, one of them. `expire_date`: epoch seconds."""

    status: str
    id: str = ""
    filter: Filter | None = None
    prefix: str | None = None
    expire_days: int | None = None
    expire_date: float | None = None
    expire_marker: bool | None = None
    noncurrent_days: int | None = None
    newer_noncurrent: int | None = None
    abort_days: int | None = None
    transitions: tuple[Transition, ...] = ()


_ACTIONS = (
    "Expiration",
    "NoncurrentVersionExpiration",
    "AbortIncompleteMultipartUpload",
    "Transition",
    "NoncurrentVersionTransition",
)


def read_lifecycle(body: bytes) -> tuple[LifecycleRule, ...]:
    root = xml.read(body, "LifecycleConfiguration", "BucketLifecycleConfiguration").only("Rule")
    rules = tuple(_lifecycle_rule(node) for node in root.all("Rule", at_most=LIFECYCLE_RULES_MAX))
    if not rules:
        raise xml.malformed("LifecycleConfiguration/Rule", "is missing")
    return rules


def _lifecycle_rule(node: xml.Node) -> LifecycleRule:
    node.only("ID", "Status", "Filter", "Prefix", *_ACTIONS)
    found, prefix = node.maybe("Filter"), node.maybe("Prefix")
    if (found is None) == (prefix is None):
        raise xml.malformed(node.path, "needs a Filter or a Prefix, one of them")
    if not any(node.all(action) for action in _ACTIONS):
        raise S3Error.of("InvalidRequest", f"{node.path}: needs something to do.")
    expiration = node.maybe("Expiration")
    noncurrent, abort = node.maybe("NoncurrentVersionExpiration"), node.maybe("AbortIncompleteMultipartUpload")
    if expiration and (len(expiration.only("Days", "Date", "ExpiredObjectDeleteMarker")) != 1):
        raise xml.malformed(expiration.path, "needs Days, Date or ExpiredObjectDeleteMarker, one of them")
    return LifecycleRule(
        status=node.choice("Status", "Enabled", "Disabled"),
        id=node.value("ID"),
        filter=_filter(found) if found else None,
        prefix=prefix.text if prefix else None,
        expire_days=expiration.whole("Days") if expiration else None,
        expire_date=expiration.moment("Date") if expiration else None,
        expire_marker=_marker(expiration),
        noncurrent_days=_required(noncurrent.only("NoncurrentDays", "NewerNoncurrentVersions"), "NoncurrentDays")
        if noncurrent
        else None,
        newer_noncurrent=noncurrent.whole("NewerNoncurrentVersions") if noncurrent else None,
        abort_days=_required(abort.only("DaysAfterInitiation"), "DaysAfterInitiation") if abort else None,
        transitions=tuple(map(_transition, (*node.all("Transition"), *node.all("NoncurrentVersionTransition")))),
    )


def _marker(expiration: xml.Node | None) -> bool | None:
    if expiration is None or expiration.maybe("ExpiredObjectDeleteMarker") is None:
        return None
    return expiration.flag("ExpiredObjectDeleteMarker")


def _required(node: xml.Node, name: str) -> int:
    number = node.whole(name)
    if number is None:
        raise xml.malformed(f"{node.path}/{name}", "is missing")
    return number


def _transition(node: xml.Node) -> Transition:
    storage_class = node.choice("StorageClass", *_CLASSES)
    if node.name == "NoncurrentVersionTransition":
        node.only("NoncurrentDays", "NewerNoncurrentVersions", "StorageClass")
        days, newer = node.whole("NoncurrentDays"), node.whole("NewerNoncurrentVersions")
        return Transition(storage_class, days=days, noncurrent=True, newer_kept=newer)
    node.only("Days", "Date", "StorageClass")
    return Transition(storage_class, days=node.whole("Days"), date=node.moment("Date"))


def write_lifecycle(rules: tuple[LifecycleRule, ...]) -> bytes:
    return xml.document("LifecycleConfiguration", *map(_write_lifecycle_rule, rules))


def _write_lifecycle_rule(rule: LifecycleRule) -> bytes:
    expiration = xml.joined(
        (
            xml.maybe("Days", rule.expire_days),
            b"" if rule.expire_date is None else xml.moment("Date", rule.expire_date),
            b"" if rule.expire_marker is None else xml.flag("ExpiredObjectDeleteMarker", rule.expire_marker),
        )
    )
    noncurrent = xml.maybe("NoncurrentDays", rule.noncurrent_days) + xml.maybe(
        "NewerNoncurrentVersions", rule.newer_noncurrent
    )
    return xml.element(
        "Rule",
        xml.maybe("ID", rule.id),
        _write_filter(rule.filter) if rule.filter else b"",
        b"" if rule.prefix is None else xml.element("Prefix", rule.prefix),
        xml.element("Status", rule.status),
        xml.element("Expiration", expiration) if expiration else b"",
        xml.element("NoncurrentVersionExpiration", noncurrent) if noncurrent else b"",
        xml.joined(map(_write_transition, rule.transitions)),
        b""
        if rule.abort_days is None
        else xml.element("AbortIncompleteMultipartUpload", xml.element("DaysAfterInitiation", rule.abort_days)),
    )


def _write_transition(move: Transition) -> bytes:
    target = xml.element("StorageClass", move.storage_class)
    if move.noncurrent:
        newer = xml.maybe("NewerNoncurrentVersions", move.newer_kept)
        return xml.element("NoncurrentVersionTransition", xml.maybe("NoncurrentDays", move.days), newer, target)
    date = b"" if move.date is None else xml.moment("Date", move.date)
    return xml.element("Transition", xml.maybe("Days", move.days), date, target)


# -- replication --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReplicationRule:
    """`bucket` is the target's ARN, `key` the encryption key there. `filter` or the old `prefix`; both may be left out."""

    status: str
    bucket: str
    id: str = ""
    priority: int | None = None
    filter: Filter | None = None
    prefix: str | None = None
    storage_class: str = ""
    account: str = ""
    key: str = ""
    delete_markers: str = ""  # Enabled, Disabled or empty
    existing_objects: str = ""
    encrypted_objects: str = ""
    replica_changes: str = ""


@dataclass(frozen=True, slots=True)
class Replication:
    role: str
    rules: tuple[ReplicationRule, ...]


def read_replication(body: bytes) -> Replication:
    root = xml.read(body, "ReplicationConfiguration").only("Role", "Rule")
    rules = tuple(_replication_rule(node) for node in root.all("Rule", at_most=REPLICATION_RULES_MAX))
    if not rules:
        raise xml.malformed("ReplicationConfiguration/Rule", "is missing")
    return Replication(root.value("Role").strip(), rules)


def _replication_rule(node: xml.Node) -> ReplicationRule:
    node.only(
        "ID",
        "Priority",
        "Status",
        "Filter",
        "Prefix",
        "Destination",
        "DeleteMarkerReplication",
        "ExistingObjectReplication",
        "SourceSelectionCriteria",
    )
    found, prefix = node.maybe("Filter"), node.maybe("Prefix")
    if found and prefix:
        raise xml.malformed(node.path, "may have a Filter or a Prefix, not both")
    # Metrics, ReplicationTime and an owner's change are not offered: told so, rather than passed over.
    target = node.one("Destination").only("Bucket", "StorageClass", "Account", "EncryptionConfiguration")
    encryption = target.maybe("EncryptionConfiguration")
    criteria = node.maybe("SourceSelectionCriteria")
    if criteria:
        criteria.only("SseKmsEncryptedObjects", "ReplicaModifications")
    return ReplicationRule(
        status=node.choice("Status", "Enabled", "Disabled"),
        bucket=target.one("Bucket").word,
        id=node.value("ID"),
        priority=node.whole("Priority"),
        filter=_filter(found) if found else None,
        prefix=prefix.text if prefix else None,
        storage_class=target.value("StorageClass").strip(),
        account=target.value("Account").strip(),
        key=encryption.only("ReplicaKmsKeyID").one("ReplicaKmsKeyID").word if encryption else "",
        delete_markers=_switch(node, "DeleteMarkerReplication"),
        existing_objects=_switch(node, "ExistingObjectReplication"),
        encrypted_objects=_switch(criteria, "SseKmsEncryptedObjects"),
        replica_changes=_switch(criteria, "ReplicaModifications"),
    )


def _switch(node: xml.Node | None, name: str) -> str:
    found = node.maybe(name) if node else None
    return found.only("Status").choice("Status", "Enabled", "Disabled") if found else ""


def write_replication(replication: Replication) -> bytes:
    rules = map(_write_replication_rule, replication.rules)
    return xml.document("ReplicationConfiguration", xml.maybe("Role", replication.role), *rules)


def _write_replication_rule(rule: ReplicationRule) -> bytes:
    criteria = _write_switch("SseKmsEncryptedObjects", rule.encrypted_objects) + _write_switch(
        "ReplicaModifications", rule.replica_changes
    )
    return xml.element(
        "Rule",
        xml.maybe("ID", rule.id),
        xml.maybe("Priority", rule.priority),
        xml.element("Status", rule.status),
        _write_filter(rule.filter) if rule.filter else b"",
        b"" if rule.prefix is None else xml.element("Prefix", rule.prefix),
        xml.element(
            "Destination",
            xml.element("Bucket", rule.bucket),
            xml.maybe("Account", rule.account),
            xml.maybe("StorageClass", rule.storage_class),
            xml.element("EncryptionConfiguration", xml.element("ReplicaKmsKeyID", rule.key)) if rule.key else b"",
        ),
        _write_switch("DeleteMarkerReplication", rule.delete_markers),
        _write_switch("ExistingObjectReplication", rule.existing_objects),
        xml.element("SourceSelectionCriteria", criteria) if criteria else b"",
    )


def _write_switch(name: str, status: str) -> bytes:
    return xml.element(name, xml.element("Status", status)) if status else b""
