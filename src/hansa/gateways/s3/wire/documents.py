"""The bodies of single requests, as plain data: a deletion, a completed upload, versioning, tags, locks, a location.

Configurations of a bucket (CORS, lifecycle, replication and the like) are in `configurations`. Readers say what the document
says and hold its shape; what it means, and what more is allowed, is for whoever acts on it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from hansa.gateways.s3.wire import xml
from hansa.gateways.s3.wire.checksums import ALGORITHMS
from hansa.gateways.s3.wire.errors import S3Error

DELETE_OBJECTS_MAX = 1000
DELETE_BYTES_MAX = 4 << 20
PARTS_MAX = 10_000
COMPLETE_BYTES_MAX = 4 << 20
TAGS_MAX = 256  # of a document; how many a thing may bear is for the reader to say
CHECKSUMS = {algorithm: f"Checksum{algorithm}" for algorithm in ALGORITHMS}
_ALGORITHMS = {name: algorithm for algorithm, name in CHECKSUMS.items()}
_NUMBER = re.compile(r"[0-9]{1,6}")

Tags = tuple[tuple[str, str], ...]


# -- buckets ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NewBucket:
    """`location` is empty where none is named."""

    location: str = ""
    tags: Tags = ()


def read_new_bucket(body: bytes) -> NewBucket:
    """An empty body is a bucket at the default place."""
    if not body.strip():
        return NewBucket()
    root = xml.read(body, "CreateBucketConfiguration").only("LocationConstraint", "Tags")
    tags = root.maybe("Tags")
    return NewBucket(root.value("LocationConstraint").strip(), _tags(tags) if tags else ())


def write_location(region: str) -> bytes:
    return xml.document("LocationConstraint", region)


@dataclass(frozen=True, slots=True)
class VersioningSetting:
    """`status` is Enabled, Suspended or empty (never set); `mfa_delete` Enabled, Disabled or empty."""

    status: str = ""
    mfa_delete: str = ""


def read_versioning(body: bytes) -> VersioningSetting:
    root = xml.read(body, "VersioningConfiguration").only("Status", "MfaDelete", "MFADelete")
    mfa = root.choice("MfaDelete", "Enabled", "Disabled", default="")
    return VersioningSetting(
        root.choice("Status", "Enabled", "Suspended", default=""),
        mfa or root.choice("MFADelete", "Enabled", "Disabled", default=""),
    )


def write_versioning(status: str) -> bytes:
    return xml.document("VersioningConfiguration", xml.maybe("Status", status))


# -- deletion of many ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Doomed:
    """One object of a deletion. `version_id` and `etag` (without quotes) are empty where none is named."""

    key: str
    version_id: str = ""
    etag: str = ""
    size: int | None = None
    modified: str = ""


@dataclass(frozen=True, slots=True)
class Deletion:
    objects: tuple[Doomed, ...]
    quiet: bool = False


def read_deletion(body: bytes) -> Deletion:
    root = xml.read(body, "Delete", bytes_max=DELETE_BYTES_MAX).only("Object", "Quiet")
    objects = tuple(_doomed(node) for node in root.all("Object", at_most=DELETE_OBJECTS_MAX))
    if not objects:
        raise xml.malformed("Delete/Object", "is missing")
    return Deletion(objects, root.flag("Quiet"))


def _doomed(node: xml.Node) -> Doomed:
    node.only("Key", "VersionId", "ETag", "Size", "LastModifiedTime")
    fields = node.fields()
    if not fields.get("Key"):
        raise xml.malformed(f"{node.path}/Key", "is missing")
    return Doomed(
        key=fields["Key"],
        version_id=fields.get("VersionId", "").strip(),
        etag=bare_etag(fields.get("ETag", "")),
        size=node.whole("Size"),
        modified=fields.get("LastModifiedTime", "").strip(),
    )


@dataclass(frozen=True, slots=True)
class Deleted:
    """What became of one: `marker` is the id of the delete marker that was laid or taken away."""

    key: str
    version_id: str = ""
    marker: str = ""


def write_deletion(deleted: Iterable[Deleted], refused: Iterable[tuple[Doomed, S3Error]]) -> bytes:
    return xml.document("DeleteResult", *map(_deleted, deleted), *(_refused(*pair) for pair in refused))


def _deleted(one: Deleted) -> bytes:
    marker = xml.flag("DeleteMarker", True) + xml.element("DeleteMarkerVersionId", one.marker) if one.marker else b""
    return xml.element("Deleted", xml.element("Key", one.key), xml.maybe("VersionId", one.version_id), marker)


def _refused(one: Doomed, error: S3Error) -> bytes:
    return xml.element(
        "Error",
        xml.element("Key", one.key),
        xml.maybe("VersionId", one.version_id),
        xml.element("Code", error.code),
        xml.element("Message", error.message),
    )


# -- uploads ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CompletedPart:
    """`etag` without quotes; `checksums`: base64 by algorithm."""

    number: int
    etag: str
    checksums: Mapping[str, str] = field(default_factory=dict)


def read_completion(body: bytes) -> tuple[CompletedPart, ...]:
    """The parts in the order given; of a part that is listed twice in a row with two ETags, as clients do that sent it
    again, the second counts. Raises InvalidPartOrder, and MalformedXML for none at all."""
    if not body.strip():
        raise xml.malformed("CompleteMultipartUpload", "is missing")
    root = xml.read(body, "CompleteMultipartUpload", "CompleteMultipartUploadRequest", bytes_max=COMPLETE_BYTES_MAX)
    parts = tuple(_part(node) for node in root.all("Part", at_most=PARTS_MAX))
    if not parts:
        raise xml.malformed("CompleteMultipartUpload/Part", "is missing")
    for before, after in zip(parts, parts[1:], strict=False):
        if after.number < before.number or (after.number, after.etag) == (before.number, before.etag):
            raise S3Error.of("InvalidPartOrder")
    return tuple({part.number: part for part in parts}.values())


def _part(node: xml.Node) -> CompletedPart:
    """Elements that we do not know are passed over: clients add theirs, and none of them changes what is put together."""
    fields = node.fields()
    number = fields.get("PartNumber", "").strip()
    if not (_NUMBER.fullmatch(number) and 1 <= int(number) <= PARTS_MAX):
        raise S3Error.argument("PartNumber", number, f"must be 1 to {PARTS_MAX}")
    sums = {_ALGORITHMS[name]: value.strip() for name, value in fields.items() if name in _ALGORITHMS}
    return CompletedPart(int(number), bare_etag(fields.get("ETag", "")), sums)


def bare_etag(text: str) -> str:
    """An ETag without its quotes, which clients send or leave out."""
    return text.strip().strip('"')


# -- tags ---------------------------------------------------------------------------------------


def read_tagging(body: bytes) -> Tags:
    root = xml.read(body, "Tagging").only("TagSet")
    return _tags(root.one("TagSet"))


def write_tagging(tags: Tags) -> bytes:
    return xml.document("Tagging", write_tags("TagSet", tags))


def write_tags(name: str, tags: Tags) -> bytes:
    return xml.element(name, b"", *(write_tag(key, value) for key, value in tags))


def write_tag(key: str, value: str) -> bytes:
    return xml.element("Tag", xml.element("Key", key), xml.element("Value", value))


def read_tag(node: xml.Node) -> tuple[str, str]:
    node.only("Key", "Value")
    return node.one("Key").text, node.one("Value").text


def _tags(node: xml.Node) -> Tags:
    node.only("Tag")
    return tuple(read_tag(tag) for tag in node.all("Tag", at_most=TAGS_MAX))


# -- locks --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LockSetting:
    """A bucket's object lock. `mode` is GOVERNANCE, COMPLIANCE or empty (no default rule); days or years, one of them."""

    enabled: bool
    mode: str = ""
    days: int | None = None
    years: int | None = None


def read_lock_setting(body: bytes) -> LockSetting:
    root = xml.read(body, "ObjectLockConfiguration").only("ObjectLockEnabled", "Rule")
    enabled = root.choice("ObjectLockEnabled", "Enabled", default="") == "Enabled"
    rule = root.maybe("Rule")
    if rule is None:
        return LockSetting(enabled)
    default = rule.only("DefaultRetention").one("DefaultRetention").only("Mode", "Days", "Years")
    days, years = default.whole("Days"), default.whole("Years")
    if (days is None) == (years is None):
        raise xml.malformed(default.path, "needs Days or Years, one of them")
    return LockSetting(enabled, default.choice("Mode", "GOVERNANCE", "COMPLIANCE"), days, years)


def write_lock_setting(setting: LockSetting) -> bytes:
    enabled = xml.element("ObjectLockEnabled", "Enabled") if setting.enabled else b""
    if not setting.mode:
        return xml.document("ObjectLockConfiguration", enabled)
    length = xml.maybe("Days", setting.days) + xml.maybe("Years", setting.years)
    retention = xml.element("DefaultRetention", xml.element("Mode", setting.mode), length)
    return xml.document("ObjectLockConfiguration", enabled, xml.element("Rule", retention))


@dataclass(frozen=True, slots=True)
class Retention:
    """`mode` empty: an empty document, which takes a retention away where that is allowed. `until`: epoch seconds."""

    mode: str = ""
    until: float = 0.0


def read_retention(body: bytes) -> Retention:
    root = xml.read(body, "Retention").only("Mode", "RetainUntilDate")
    if not len(root):
        return Retention()
    until = root.moment("RetainUntilDate")
    if until is None:
        raise xml.malformed("Retention/RetainUntilDate", "is missing")
    return Retention(root.choice("Mode", "GOVERNANCE", "COMPLIANCE"), until)


def write_retention(retention: Retention) -> bytes:
    return xml.document(
        "Retention", xml.element("Mode", retention.mode), xml.moment("RetainUntilDate", retention.until)
    )


def read_legal_hold(body: bytes) -> bool:
    """Whether the hold is on."""
    return xml.read(body, "LegalHold").only("Status").choice("Status", "ON", "OFF") == "ON"


def write_legal_hold(on: bool) -> bytes:
    return xml.document("LegalHold", xml.element("Status", "ON" if on else "OFF"))
