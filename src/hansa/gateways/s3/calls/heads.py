"""The headers of objects: those that a writer sends and an index keeps, and those that a reader is answered.

Values are kept as they were given, byte for byte (Latin-1 text is bytes in disguise), since clients compare them.
"""

from __future__ import annotations

from collections.abc import Mapping

from hansa.gateways.s3.rules import locks
from hansa.gateways.s3.wire.dates import http_date
from hansa.gateways.s3.wire.errors import S3Error
from hansa.gateways.s3.wire.streaming import stored_encoding
from hansa.objectindex.records import Checksum, Version, Versioning

DEFAULT_TYPE = "binary/octet-stream"
METADATA_BYTES_MAX = 2048
META = "x-amz-meta-"
REDIRECT = "x-amz-website-redirect-location"
STANDARD = "STANDARD"
REDUCED = "REDUCED_REDUNDANCY"
KEPT = (
    "content-type", "content-encoding", "content-disposition", "content-language", "cache-control", "expires", REDIRECT,
)  # fmt: skip
OVERRIDES = {
    "response-content-type": "content-type",
    "response-content-language": "content-language",
    "response-expires": "expires",
    "response-cache-control": "cache-control",
    "response-content-disposition": "content-disposition",
    "response-content-encoding": "content-encoding",
}

Headers = dict[str, str]


def kept_headers(headers: Mapping[str, str]) -> Headers:
    """Those of a write that come back with each read. How the body was framed on the wire is none of them.

    Raises InvalidRedirectLocation.
    """
    found = {name: headers[name] for name in KEPT if headers.get(name)}
    if not found.get(REDIRECT, "/").startswith(("/", "http://", "https://")):
        raise S3Error.of("InvalidRedirectLocation")
    if "content-encoding" in found:
        encoding = stored_encoding(found.pop("content-encoding"))
        found |= {"content-encoding": encoding} if encoding else {}
    return found


def metadata(headers: Mapping[str, str]) -> Headers:
    """The `x-amz-meta-` fields without that prefix. Raises MetadataTooLarge."""
    found = {name[len(META) :]: value for name, value in headers.items() if name.startswith(META)}
    size = sum(len(name) + len(value) for name, value in found.items())
    if size > METADATA_BYTES_MAX:
        raise S3Error.of("MetadataTooLarge", MaxSizeAllowed=METADATA_BYTES_MAX, Size=size)
    return found


def storage_class(headers: Mapping[str, str]) -> str:
    """The class that an object is told to have; empty for the usual one.

    All lies the same way. REDUCED_REDUNDANCY, which promises less than that, is kept as a name; the others promise
    something else and would not be true. Raises InvalidStorageClass.
    """
    asked = headers.get("x-amz-storage-class", "")
    if asked not in ("", STANDARD, REDUCED):
        rule = f"Storage classes here are {STANDARD} and {REDUCED}."
        raise S3Error.of("InvalidStorageClass", rule, StorageClass=asked[:64])
    return asked if asked == REDUCED else ""


def overrides(fields: Mapping[str, str], *, signed: bool) -> Headers:
    """What a reader wants some headers of the answer to be. Raises InvalidRequest for an anonymous one."""
    if OVERRIDES.keys().isdisjoint(fields):
        return {}
    found = {OVERRIDES[name]: value for name, value in fields.items() if name in OVERRIDES}
    if found and not signed:
        raise S3Error.of("InvalidRequest", "Headers of an answer can be set by a signed request only.")
    return found


def object_headers(version: Version, versioning: Versioning) -> Headers:
    """What every answer about an object tells: its ETag, its dates, and what its writer said."""
    facts = version.facts
    found = {
        "etag": f'"{version.etag}"',
        "last-modified": http_date(version.modified),
        "accept-ranges": "bytes",
        "content-type": DEFAULT_TYPE,
        **facts.headers,
    }
    if facts.metadata:
        found.update((META + name, value) for name, value in facts.metadata.items())
    if versioning is not Versioning.NEVER:
        found["x-amz-version-id"] = version.id
    if facts.tags:
        found["x-amz-tagging-count"] = str(len(facts.tags))
    if facts.lock.mode or facts.lock.hold is not None:
        found.update(locks.headers_of(facts.lock))
    if facts.replication:
        found["x-amz-replication-status"] = facts.replication
    if facts.storage_class:
        found["x-amz-storage-class"] = facts.storage_class
    return found


def checksum_headers(found: Checksum | None) -> Headers:
    if found is None:
        return {}
    return {f"x-amz-checksum-{found.algorithm.lower()}": found.value, "x-amz-checksum-type": found.form}


def version_header(version: Version, versioning: Versioning) -> Headers:
    return {} if versioning is Versioning.NEVER else {"x-amz-version-id": version.id}
