"""Buckets, who may use them with which keys, and the keys under which bytes lie.

The contract's section 3.5; S3 keys and encryption keys are ours. A bucket's spec is the one truth about it: what a
client sets through S3 is a user's write to the same spec. What is in a bucket stands in the object index.

Where secrets lie (all sealed, with the context `f"{uid}/{name}"`, by the uid of the object that owns them):

    S3Key, BucketServiceAccount   each access key pair under its `Pair.sealed`, the secret access key as ASCII
    EncryptionKey                 each generation of its material under `material_name`, 32 bytes
    Project                       `MATERIAL`, 32 bytes: the key of everything for which no other was named
"""

from __future__ import annotations

import ipaddress
import json
import re
from hashlib import sha256
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from hansa.dates import parse_rfc3339
from hansa.errors import Invalid
from hansa.kinds.bindings import BoundRole
from hansa.kinds.bucketrules import Acl, Cors, LifecyclePolicy, Replication, Tag, each_once
from hansa.kinds.compute import REGIONAL
from hansa.kinds.iam import PROJECT
from hansa.kinds.meters import BUCKET, NOTHING, Measure, MeteredStatus
from hansa.kinds.resource import Resource, Spec, Status, Wire
from hansa.kinds.rules import echoed, fixed, hidden, refers, secret

MATERIAL = "material"  # the name of the sealed key of a project, and of an encryption key's first generation
GENERATIONS_MAX = 100  # of the material of one encryption key
POLICY_BYTES_MAX = 20 << 10
BUCKETS_PER_ACCOUNT_MAX = 100
BUCKET_TAGS_MAX = 50
_BUCKET = re.compile(r"[a-z0-9](?:[a-z0-9.-]{1,61})[a-z0-9]", re.ASCII)
_ACCESS_KEY = re.compile(r"[A-Za-z0-9_-]{3,128}", re.ASCII)
_USER_ID = re.compile(r"[A-Za-z0-9_$.@:-]{1,128}", re.ASCII)


# -- names ----------------------------------------------------------------------------------------


def bucket_name_fault(name: str) -> str:
    """Which rule of S3 a name breaks, empty for a good one. Pure."""
    if _BUCKET.fullmatch(name) is None:
        return "must be 3 to 63 of a-z, 0-9, . and -, first and last a letter or digit"
    if ".." in name or ".-" in name or "-." in name:
        return "may not hold a dot beside another dot or a -"
    if name.startswith(("xn--", "sthree-", "amzn-s3-demo-")):
        return "begins with what S3 keeps for itself"
    if name.endswith(("-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3")):
        return "ends with what S3 keeps for itself"
    try:
        ipaddress.IPv4Address(name)
    except ValueError:
        return ""
    return "may not be an address"


def canonical_id(ref: str) -> str:
    """What S3 calls an account by: 64 hex digits that follow from its reference."""
    return sha256(ref.encode()).hexdigest()


# -- buckets --------------------------------------------------------------------------------------


class ObjectLocking(Wire):
    """How long a new object is locked when its writer says nothing. `Soft` is S3's GOVERNANCE, `Immutable` COMPLIANCE."""

    mode: Literal["Soft", "Immutable"]
    duration_days: int | None = Field(None, ge=1, le=36_500)
    duration_years: int | None = Field(None, ge=1, le=100)  # ours: as S3's clients say it

    @model_validator(mode="after")
    def _one(self) -> ObjectLocking:
        if (self.duration_days is None) == (self.duration_years is None):
            raise ValueError("needs either durationDays or durationYears")
        return self


class PublicAccessBlock(Wire):
    """S3's four switches. One that is there but empty says that the bucket has none, whatever new ones have."""

    block_public_acls: bool = False
    ignore_public_acls: bool = False
    block_public_policy: bool = False
    restrict_public_buckets: bool = False


class DefaultEncryption(Wire):
    """Under which key new objects lie when their writer says nothing: `key` names an EncryptionKey of the project."""

    algorithm: Literal["AES256", "aws:kms"]
    key: str | None = Field(None, min_length=1, max_length=2048)
    bucket_key_enabled: bool | None = None  # S3's switch for fewer calls to its key service; told back as given

    @model_validator(mode="after")
    def _fitting(self) -> DefaultEncryption:
        if self.key is not None and self.algorithm != "aws:kms":
            raise ValueError("key goes with algorithm aws:kms only")
        return self


RetentionMode = Literal["Disabled", "Suspended", "Versioned", "Locking"]
Ownership = Literal["BucketOwnerEnforced", "BucketOwnerPreferred", "ObjectWriter"]


class BucketSpec(Spec):
    object_retention_mode: RetentionMode = echoed("Disabled")  # once not Disabled never again; Locking for ever
    default_object_locking: ObjectLocking | None = None
    lifecycle_policy: LifecyclePolicy | None = None
    # ours: what S3's clients set, in S3's own shape
    policy: dict[str, Any] | str | None = None  # the document, or its text: then it comes back letter for letter
    public_access_block: PublicAccessBlock | None = None
    object_ownership: Ownership | None = None
    acl: Acl | None = None
    cors: Cors | None = None
    encryption: DefaultEncryption | None = None
    tags: list[Tag] | None = Field(None, max_length=BUCKET_TAGS_MAX)
    replication: Replication | None = None

    @field_validator("policy")
    @classmethod
    def _policy(cls, given: dict[str, Any] | str | None) -> dict[str, Any] | str | None:
        if given is not None and len(policy_bytes(given)) > POLICY_BYTES_MAX:
            raise ValueError(f"is longer than {POLICY_BYTES_MAX >> 10} KiB")
        return given

    @field_validator("tags")
    @classmethod
    def _tags(cls, tags: list[Tag] | None) -> list[Tag] | None:
        each_once("key", [tag.key for tag in tags or ()])
        return tags

    @model_validator(mode="after")
    def _fitting(self) -> BucketSpec:
        if self.default_object_locking is not None and self.object_retention_mode != "Locking":
            raise ValueError("defaultObjectLocking goes with objectRetentionMode Locking only")
        if self.replication is not None and self.object_retention_mode not in ("Versioned", "Locking"):
            raise ValueError("replication needs objectRetentionMode Versioned or Locking")
        return self


class BucketContents(Wire):
    """What a bucket holds: of all its versions, and of the parts of uploads in the making."""

    bytes: int = 0
    objects: int = 0  # that a plain listing shows
    versions: int = 0
    upload_bytes: int = 0
    uploads: int = 0


class BucketStatus(MeteredStatus):
    last_error: str | None = None
    access: Literal["closed", "open"] = "closed"  # which defaults of ownership and public access it was born with
    contents: BucketContents | None = None  # as of the answer; what is stored may be a minute old


class Bucket(
    Resource[BucketSpec, BucketStatus],
    service="storage", version="v1", collection="buckets", scope=REGIONAL,
    columns=(("RETENTION", "spec.objectRetentionMode"), ("OBJECTS", "status.contents.objects"),
             ("BYTES", "status.contents.bytes"), ("ENCRYPTION", "spec.encryption.key")),
    meters=(BUCKET,),
):  # fmt: skip
    """Holds objects in one region. Its id is its name in S3, where all tenants of the region share the names."""

    @classmethod
    def measure(cls, status: BucketStatus) -> Measure:
        """All of its bytes: of every version, and of uploads in the making."""
        held = status.contents
        return Measure({BUCKET: held.bytes + held.upload_bytes}) if held is not None else NOTHING

    @classmethod
    def name_fault(cls, name: str) -> str:
        return bucket_name_fault(name)


def policy_bytes(policy: dict[str, Any] | str) -> bytes:
    """A bucket policy as the text that S3's clients see."""
    return (policy if isinstance(policy, str) else json.dumps(policy, ensure_ascii=False)).encode()


def closed_to_acls(bucket: Bucket) -> bool:
    """Is the owner of the bucket the owner of all that is in it, so that no ACL counts?"""
    ownership = bucket.spec.object_ownership or ("ObjectWriter" if bucket.status.access == "open" else None)
    return ownership in (None, "BucketOwnerEnforced")


# -- access keys ----------------------------------------------------------------------------------


class Pair(Wire):
    """One access key that counts. Its secret lies sealed under `sealed`, a name among the secrets of the object."""

    access_key: str
    sealed: str
    until: float | None = None  # epoch seconds: it was replaced, and counts until then


def sealed_name(access_key: str) -> str:
    return f"secret/{access_key}"


class KeyedStatus(Status):
    pairs: tuple[Pair, ...] = hidden(())  # newest last

    def pair(self, access_key: str) -> Pair | None:
        return next((p for p in self.pairs if p.access_key == access_key), None)


class BucketServiceAccountSpec(Spec):
    buckets: list[Annotated[str, refers("Bucket", holds=False)]] = Field(max_length=BUCKETS_PER_ACCOUNT_MAX)

    @field_validator("buckets")
    @classmethod
    def _bare(cls, names: list[str]) -> list[str]:
        for name in names:
            if fault := bucket_name_fault(name):
                raise ValueError(f"must be bare ids of buckets: {name[:80]!r} {fault}")
        each_once("bucket", names)
        return names


class BucketServiceAccountStatus(KeyedStatus):
    s3_credentials_secret_name: str | None = Field(None, alias="s3CredentialsSecretName")


class BucketServiceAccount(
    Resource[BucketServiceAccountSpec, BucketServiceAccountStatus],
    service="storage", version="v1", collection="bucketServiceAccounts", scope=REGIONAL, short=("bsa",),
    columns=(("BUCKETS", "spec.buckets"), ("SECRET", "status.s3CredentialsSecretName")), actions=("rotate",),
):  # fmt: skip
    """A program that reads and writes what is in the named buckets, by S3 and with nothing else.

    Its access key is read as the BucketServiceAccountSecret that its status names.
    """


class S3Credentials(Wire):
    access_key: str = Field(alias="accessKeyID")
    secret_access_key: str


class BucketServiceAccountSecretSpec(Spec):
    account: Annotated[str, refers("BucketServiceAccount", holds=False)] = fixed()


class BucketServiceAccountSecret(
    Resource[BucketServiceAccountSecretSpec, Status],
    service="storage", version="v1", collection="bucketServiceAccountSecrets", scope=REGIONAL, verbs="G",
):  # fmt: skip
    """The access key of a bucket service account. Has `data` (`accessKeyID`, `secretAccessKey`), no spec or status.

    Whoever may update the account reads the secret, others `***`. It comes and goes with the account.
    """

    data_type = S3Credentials


class ImportedPair(Wire):
    """A pair that was made elsewhere, as the operator brings it. `userId`: what S3 calls its owner by."""

    access_key: str = Field(alias="accessKeyID")
    secret_access_key: Annotated[str, StringConstraints(min_length=8, max_length=256)] = secret(..., shown=False)
    user_id: str
    display_name: str = Field("", max_length=200)

    @field_validator("access_key")
    @classmethod
    def _key(cls, text: str) -> str:
        if _ACCESS_KEY.fullmatch(text) is None:
            raise ValueError("must be 3 to 128 letters, digits, _ and -")
        return text

    @field_validator("user_id")
    @classmethod
    def _id(cls, text: str) -> str:
        if _USER_ID.fullmatch(text) is None:
            raise ValueError("must be 1 to 128 letters, digits and _ $ . @ : -")
        return text


class S3KeySpec(Spec):
    service_account_ref: Annotated[str, refers("ServiceAccount", holds=False)] = fixed()
    description: str | None = Field(None, max_length=1000)
    expires_at: str | None = fixed(None)
    roles: list[BoundRole] | None = fixed(None, min_length=1, max_length=16)  # no more than these; none: no limit
    imported: ImportedPair | None = fixed(None)  # operators only

    @field_validator("service_account_ref")
    @classmethod
    def _whole(cls, text: str) -> str:
        if not text.startswith("/iam/projects/"):
            raise ValueError('must be a whole reference, as in "/iam/projects/demo/serviceAccounts/backup"')
        return text

    @field_validator("expires_at")
    @classmethod
    def _date(cls, text: str | None) -> str | None:
        if text is not None:
            parse_rfc3339(text)
        return text


class S3KeyStatus(KeyedStatus):
    access_key: str | None = Field(None, alias="accessKeyID")  # the newest
    secret_access_key: str | None = None  # only in the answer that makes it, never stored
    revoked_at: str | None = None


class S3Key(
    Resource[S3KeySpec, S3KeyStatus],
    service="storage", version="v1", collection="s3Keys", scope=PROJECT,
    columns=(("ACCOUNT", "spec.serviceAccountRef"), ("ACCESS KEY", "status.accessKeyID"),
             ("EXPIRES", "spec.expiresAt"), ("REVOKED", "status.revokedAt"), ("DESCRIPTION", "spec.description")),
    actions=("rotate", "revoke"),
):  # fmt: skip
    """A key with which a service account uses S3 in its whole project, as far as its roles go. Shown once."""

    @property
    def user_id(self) -> str:
        """What S3's clients see as the id of who holds it."""
        return self.spec.imported.user_id if self.spec.imported else canonical_id(self.spec.service_account_ref)

    @property
    def display_name(self) -> str:
        named = self.spec.imported.display_name if self.spec.imported else ""
        return named or self.spec.service_account_ref.rpartition("/")[2]


def pair_fault(it: S3Key | BucketServiceAccount, access_key: str, now: float) -> str:
    """Why a key does not count now, empty when it does. Its account is not looked at. Pure."""
    pair = it.status.pair(access_key)
    if it.deleting or pair is None:
        return "the key is gone"
    if isinstance(it, S3Key) and it.status.revoked_at is not None:
        return f"the key was revoked at {it.status.revoked_at}"
    if isinstance(it, S3Key) and it.spec.expires_at is not None and now >= parse_rfc3339(it.spec.expires_at):
        return f"the key expired at {it.spec.expires_at}"
    if pair.until is not None and now >= pair.until:
        return "the key was replaced"
    return ""


# -- encryption keys ------------------------------------------------------------------------------


class EncryptionKeySpec(Spec):
    description: str | None = Field(None, max_length=1000)
    enabled: bool = echoed(True)


class EncryptionKeyStatus(Status):
    generation: int = Field(1, ge=1)  # of the material that new objects lie under
    rotated_at: str | None = None


class EncryptionKey(
    Resource[EncryptionKeySpec, EncryptionKeyStatus],
    service="storage", version="v1", collection="encryptionKeys", scope=PROJECT,
    columns=(("ENABLED", "spec.enabled"), ("GENERATION", "status.generation"), ("ROTATED", "status.rotatedAt"),
             ("DESCRIPTION", "spec.description")),
    actions=("rotate",),
):  # fmt: skip
    """A named key under which a bucket, or one object, may lie (SSE-KMS). Its bytes never leave the cloud.

    Rotated, new objects lie under new material, and what lies under older material stays readable. Disabled, nothing
    under it is read or written; deleted, nothing under it can ever be read again.
    """


def material_name(generation: int) -> str:
    """Under which the material of a generation lies sealed."""
    return generation_name(MATERIAL, generation)


def generation_name(name: str, generation: int) -> str:
    """What the data key of an object calls the key that wraps it; no name of a resource has an @."""
    return name if generation == 1 else f"{name}@{generation}"


def named_generation(text: str) -> tuple[str, int]:
    """The name of an encryption key and the generation, of what `generation_name` made. Raises Invalid."""
    name, at, generation = text.partition("@")
    if not at:
        return name, 1
    if not (generation.isascii() and generation.isdigit() and len(generation) <= 3 and int(generation) > 1):
        raise Invalid(f"{text[:80]!r} names no generation of a key")
    return name, int(generation)
