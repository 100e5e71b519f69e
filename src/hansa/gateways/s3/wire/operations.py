"""Which operation a request asks for, and the permission it needs: a table, not a chain of ifs.

A request is sorted by method, by what its path names (service, bucket or object) and by its *subresource*: the one
query field that turns the address into another thing (`?tagging`, `?uploads`). What is not in the table is answered
NotImplemented, so that a configuration we do not know is never taken for an object and never overwrites one; a thing that
we know has a method too few: MethodNotAllowed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from hansa.gateways.s3.wire.errors import S3Error

Level = Literal["service", "bucket", "object"]
METHODS = ("GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS")


@dataclass(frozen=True, slots=True)
class Operation:
    """`action`: the permission (empty: none is asked). `supported`: False answers NotImplemented."""

    name: str
    action: str
    level: Level
    supported: bool = True
    version_action: str = ""  # the permission when a versionId is named, where it is another

    def action_for(self, query: Mapping[str, str]) -> str:
        return self.version_action if self.version_action and "versionId" in query else self.action


# Each line: method, subresource (empty: none), operation, permission without "s3:", permission of a named version.
_SERVICE = """
GET     -                   ListBuckets                         ListAllMyBuckets
OPTIONS -                   Preflight                           -
"""

_BUCKET = """
GET     -                   ListObjects                         ListBucket
GET     list-type           ListObjectsV2                       ListBucket
GET     versions            ListObjectVersions                  ListBucketVersions
GET     uploads             ListMultipartUploads                ListBucketMultipartUploads
GET     location            GetBucketLocation                   GetBucketLocation
GET     versioning          GetBucketVersioning                 GetBucketVersioning
GET     acl                 GetBucketAcl                        GetBucketAcl
GET     policy              GetBucketPolicy                     GetBucketPolicy
GET     policyStatus        GetBucketPolicyStatus               GetBucketPolicyStatus
GET     cors                GetBucketCors                       GetBucketCORS
GET     lifecycle           GetBucketLifecycleConfiguration     GetLifecycleConfiguration
GET     encryption          GetBucketEncryption                 GetEncryptionConfiguration
GET     tagging             GetBucketTagging                    GetBucketTagging
GET     object-lock         GetObjectLockConfiguration          GetBucketObjectLockConfiguration
GET     publicAccessBlock   GetPublicAccessBlock                GetBucketPublicAccessBlock
GET     ownershipControls   GetBucketOwnershipControls          GetBucketOwnershipControls
GET     replication         GetBucketReplication                GetReplicationConfiguration
GET     notification        GetBucketNotificationConfiguration  GetBucketNotification
GET     website             GetBucketWebsite                    GetBucketWebsite
GET     logging             GetBucketLogging                    GetBucketLogging
GET     accelerate          GetBucketAccelerateConfiguration    GetAccelerateConfiguration
GET     requestPayment      GetBucketRequestPayment             GetBucketRequestPayment
GET     inventory           ListBucketInventoryConfigurations   GetInventoryConfiguration
GET     analytics           ListBucketAnalyticsConfigurations   GetAnalyticsConfiguration
GET     metrics             ListBucketMetricsConfigurations     GetMetricsConfiguration
GET     intelligent-tiering ListBucketIntelligentTieringConfigurations GetIntelligentTieringConfiguration
GET     inventory+id        GetBucketInventoryConfiguration     GetInventoryConfiguration
GET     analytics+id        GetBucketAnalyticsConfiguration     GetAnalyticsConfiguration
GET     metrics+id          GetBucketMetricsConfiguration       GetMetricsConfiguration
GET     intelligent-tiering+id GetBucketIntelligentTieringConfiguration GetIntelligentTieringConfiguration
HEAD    -                   HeadBucket                          ListBucket
PUT     -                   CreateBucket                        CreateBucket
PUT     versioning          PutBucketVersioning                 PutBucketVersioning
PUT     acl                 PutBucketAcl                        PutBucketAcl
PUT     policy              PutBucketPolicy                     PutBucketPolicy
PUT     cors                PutBucketCors                       PutBucketCORS
PUT     lifecycle           PutBucketLifecycleConfiguration     PutLifecycleConfiguration
PUT     encryption          PutBucketEncryption                 PutEncryptionConfiguration
PUT     tagging             PutBucketTagging                    PutBucketTagging
PUT     object-lock         PutObjectLockConfiguration          PutBucketObjectLockConfiguration
PUT     publicAccessBlock   PutPublicAccessBlock                PutBucketPublicAccessBlock
PUT     ownershipControls   PutBucketOwnershipControls          PutBucketOwnershipControls
PUT     replication         PutBucketReplication                PutReplicationConfiguration
PUT     notification        PutBucketNotificationConfiguration  PutBucketNotification
DELETE  -                   DeleteBucket                        DeleteBucket
DELETE  policy              DeleteBucketPolicy                  DeleteBucketPolicy
DELETE  cors                DeleteBucketCors                    PutBucketCORS
DELETE  lifecycle           DeleteBucketLifecycle               PutLifecycleConfiguration
DELETE  encryption          DeleteBucketEncryption              PutEncryptionConfiguration
DELETE  tagging             DeleteBucketTagging                 PutBucketTagging
DELETE  publicAccessBlock   DeletePublicAccessBlock             PutBucketPublicAccessBlock
DELETE  ownershipControls   DeleteBucketOwnershipControls       PutBucketOwnershipControls
DELETE  replication         DeleteBucketReplication             PutReplicationConfiguration
POST    -                   PostObject                          PutObject
POST    delete              DeleteObjects                       DeleteObject
OPTIONS -                   Preflight                           -
"""

_OBJECT = """
GET     -                   GetObject                           GetObject              GetObjectVersion
GET     acl                 GetObjectAcl                        GetObjectAcl           GetObjectVersionAcl
GET     tagging             GetObjectTagging                    GetObjectTagging       GetObjectVersionTagging
GET     retention           GetObjectRetention                  GetObjectRetention
GET     legal-hold          GetObjectLegalHold                  GetObjectLegalHold
GET     attributes          GetObjectAttributes                 GetObjectAttributes    GetObjectVersionAttributes
GET     uploadId            ListParts                           ListMultipartUploadParts
HEAD    -                   HeadObject                          GetObject              GetObjectVersion
PUT     -                   PutObject                           PutObject
PUT     copy                CopyObject                          PutObject
PUT     uploadId            UploadPart                          PutObject
PUT     uploadId+copy       UploadPartCopy                      PutObject
PUT     acl                 PutObjectAcl                        PutObjectAcl           PutObjectVersionAcl
PUT     tagging             PutObjectTagging                    PutObjectTagging       PutObjectVersionTagging
PUT     retention           PutObjectRetention                  PutObjectRetention
PUT     legal-hold          PutObjectLegalHold                  PutObjectLegalHold
POST    uploads             CreateMultipartUpload               PutObject
POST    uploadId            CompleteMultipartUpload             PutObject
DELETE  -                   DeleteObject                        DeleteObject           DeleteObjectVersion
DELETE  tagging             DeleteObjectTagging                 DeleteObjectTagging    DeleteObjectVersionTagging
DELETE  uploadId            AbortMultipartUpload                AbortMultipartUpload
OPTIONS -                   Preflight                           -
"""

# Operations that we know by name and do not offer: the refusal can say which.
_REFUSED_BUCKET = """
PUT     website             PutBucketWebsite                    PutBucketWebsite
DELETE  website             DeleteBucketWebsite                 DeleteBucketWebsite
PUT     logging             PutBucketLogging                    PutBucketLogging
PUT     accelerate          PutBucketAccelerateConfiguration    PutAccelerateConfiguration
PUT     requestPayment      PutBucketRequestPayment             PutBucketRequestPayment
PUT     inventory           PutBucketInventoryConfiguration     PutInventoryConfiguration
DELETE  inventory           DeleteBucketInventoryConfiguration  PutInventoryConfiguration
PUT     analytics           PutBucketAnalyticsConfiguration     PutAnalyticsConfiguration
DELETE  analytics           DeleteBucketAnalyticsConfiguration  PutAnalyticsConfiguration
PUT     metrics             PutBucketMetricsConfiguration       PutMetricsConfiguration
DELETE  metrics             DeleteBucketMetricsConfiguration    PutMetricsConfiguration
PUT     intelligent-tiering PutBucketIntelligentTieringConfiguration PutIntelligentTieringConfiguration
DELETE  intelligent-tiering DeleteBucketIntelligentTieringConfiguration PutIntelligentTieringConfiguration
GET     session             CreateSession                       CreateSession
GET     metadataTable       GetBucketMetadataTableConfiguration GetBucketMetadataTableConfiguration
POST    metadataTable       CreateBucketMetadataTableConfiguration CreateBucketMetadataTableConfiguration
DELETE  metadataTable       DeleteBucketMetadataTableConfiguration DeleteBucketMetadataTableConfiguration
GET     metadataConfiguration GetBucketMetadataConfiguration    GetBucketMetadataTableConfiguration
POST    metadataConfiguration CreateBucketMetadataConfiguration CreateBucketMetadataTableConfiguration
DELETE  metadataConfiguration DeleteBucketMetadataConfiguration DeleteBucketMetadataTableConfiguration
GET     abac                GetBucketAbac                       GetBucketAbac
PUT     abac                PutBucketAbac                       PutBucketAbac
"""

_REFUSED_OBJECT = """
GET     torrent             GetObjectTorrent                    GetObjectTorrent
POST    restore             RestoreObject                       RestoreObject
POST    select              SelectObjectContent                 GetObject
PUT     renameObject        RenameObject                        PutObject
"""


def _rows(level: Level, text: str, supported: bool) -> dict[tuple[str, str, str], Operation]:
    found: dict[tuple[str, str, str], Operation] = {}
    for line in text.strip().splitlines():
        method, subresource, name, *actions = line.split()
        plain, version = (*actions, "")[:2]
        found[level, method, "" if subresource == "-" else subresource] = Operation(
            name=name,
            action="" if plain == "-" else f"s3:{plain}",
            level=level,
            supported=supported,
            version_action=f"s3:{version}" if version else "",
        )
    return found


TABLE: dict[tuple[str, str, str], Operation] = {
    **_rows("service", _SERVICE, True),
    **_rows("bucket", _BUCKET, True),
    **_rows("object", _OBJECT, True),
    **_rows("bucket", _REFUSED_BUCKET, False),
    **_rows("object", _REFUSED_OBJECT, False),
}
OPERATIONS: dict[str, Operation] = {operation.name: operation for operation in TABLE.values()}

_SUBRESOURCES: dict[str, frozenset[str]] = {
    level: frozenset(
        name for where, _, key in TABLE if where == level for name in key.split("+") if name not in ("", "copy", "id")
    )
    for level in ("service", "bucket", "object")
}

# Query fields that change how an operation answers, never which one it is.
_OLD_SIGNATURE = frozenset(("AWSAccessKeyId", "Signature", "Expires"))  # refused by its reader, in its own words
_PARAMETERS: dict[str, frozenset[str]] = {
    "service": frozenset(("prefix", "continuation-token", "max-buckets", "bucket-region")),
    "bucket": frozenset(
        ("prefix", "delimiter", "marker", "max-keys", "encoding-type", "start-after", "continuation-token")
        + ("fetch-owner", "key-marker", "version-id-marker", "upload-id-marker", "max-uploads", "id", "allow-unordered")
    ),
    "object": frozenset(
        ("versionId", "partNumber", "part-number-marker", "max-parts", "encoding-type", "select-type")
        + ("response-content-type", "response-content-disposition", "response-content-encoding")
        + ("response-content-language", "response-expires", "response-cache-control")
    ),
}


def route(method: str, bucket: str, key: str, query: Mapping[str, str], *, copies: bool = False) -> Operation:
    """The operation of a request; `copies`: it carries x-amz-copy-source.

    An operation that is not `supported` comes back too, so that the caller can first check who asks.
    Raises MethodNotAllowed, NotImplemented for a subresource that is not in the table, InvalidArgument for two,
    InvalidRequest for a listing of a bucket that is asked of an object.
    """
    if method not in METHODS:
        raise S3Error.of("MethodNotAllowed", Method=method[:16]).with_headers({"allow": ", ".join(METHODS)})
    level: Level = "object" if key else "bucket" if bucket else "service"
    if method == "OPTIONS":
        return TABLE[level, method, ""]
    selector = _subresource(method, level, query)
    if method == "PUT" and "partNumber" in query and selector != "uploadId":
        raise S3Error.argument("uploadId", "", "is due where a partNumber is given")
    if copies and method == "PUT" and level == "object" and selector in ("", "uploadId"):
        selector = "copy" if not selector else "uploadId+copy"
    elif method == "GET" and "id" in query and f"{selector}+id" in _WITH_ID:
        selector += "+id"
    operation = TABLE.get((level, method, selector))
    if operation is None:
        _check_listing(method, level, selector)
        raise _unknown(method, level, selector)
    return operation


_THINGS = {"service": "the service", "bucket": "a bucket", "object": "an object"}
_WITH_ID = frozenset(key for _, _, key in TABLE if key.endswith("+id"))


def _subresource(method: str, level: Level, query: Mapping[str, str]) -> str:
    known, parameters = _SUBRESOURCES[level], _PARAMETERS[level]
    found = ""
    for name, value in query.items():
        if name[:2] == "X-":  # of the signature, which the most fields of a signed address are
            continue
        if name in known:
            if found:
                raise S3Error.argument("ResourceType", name, f"{found} and {name} cannot be asked for together")
            found = name
        elif name not in parameters and name not in _OLD_SIGNATURE and not _harmless(method, level, name, value):
            _check_listing(method, level, name)
            raise _unknown(method, level, name)
    return _second_list(found, query)


def _second_list(found: str, query: Mapping[str, str]) -> str:
    """`list-type=2` is the second form of a listing; every other value is the first."""
    return "" if found == "list-type" and query["list-type"] != "2" else found


def _harmless(method: str, level: Level, name: str, value: str) -> bool:
    """Whether an unknown field may be passed over.

    Names with `x-` are the signature's, headers moved into the address, and marks of clients' own. A reader may append
    fields with a value (against caches). Without a value, or on a write, it could be a subresource of tomorrow; and what
    is one of a bucket is never an object's.
    """
    if name[:2] in ("x-", "X-"):
        return True
    return method in ("GET", "HEAD") and bool(value) and (level != "object" or name not in _OF_BUCKETS)


# What is offered for buckets alone. `list-type` is left out: it chooses between two forms of what has no subresource.
_OF_BUCKETS = (
    frozenset(key for (level, _, key), it in TABLE.items() if level == "bucket" and it.supported)
    - _SUBRESOURCES["object"]
    - {"", "list-type"}
)


def _check_listing(method: str, level: Level, name: str) -> None:
    """A client that lists uploads or versions means a bucket: one that names a key besides is told so."""
    if method == "GET" and level == "object" and name in ("uploads", "versions"):
        raise S3Error.of("InvalidRequest", f"?{name} lists what is in a bucket; leave the key out and give a prefix.")


def _unknown(method: str, level: Level, selector: str) -> S3Error:
    allowed = [word for word in METHODS if (served := TABLE.get((level, word, selector))) and served.supported]
    if allowed:
        return S3Error.of("MethodNotAllowed", Method=method, ResourceType=level.upper()).with_headers(
            {"allow": ", ".join(allowed)}
        )
    return S3Error.of(
        "NotImplemented",
        f"{method} of ?{selector[:64]} for {_THINGS[level]} is not supported here.",
        Resource=selector[:64],
    )
