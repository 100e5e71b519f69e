"""May this be done? One function for every request to S3, with one order of reasons. Pure.

    1  a key that is bound to some buckets reaches no other, whatever else says
    2  an explicit deny of the bucket's policy wins over everything that allows
    3  the roles of the caller on the bucket's project; not on what another tenant put there as its owner
    4  the bucket's policy, unless the public access block keeps a public one from strangers
    5  ACLs, where the bucket's ownership lets them count; public grants unless the block ignores them
    6  else no; and what may not be seen is denied in the same words as what is not there

And where bytes go must be a territory that the project's written rules allow, whoever brings them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

from hansa.gateways.s3.ports import BucketView, S3Identity
from hansa.gateways.s3.rules.acl import Acl, Ownership
from hansa.gateways.s3.rules.bucketpolicy import BUCKET_ARN, BucketPolicy, Opinion, Request
from hansa.gateways.s3.rules.policyconditions import Context
from hansa.gateways.s3.rules.requestcontext import names_of, variables_of
from hansa.gateways.s3.wire.configurations import PublicAccessBlock
from hansa.gateways.s3.wire.errors import S3Error
from hansa.policy.access import OBJECTS
from hansa.policy.decide import decide
from hansa.policy.verdict import PROGRAM, Act, Caller, Rules, Subject, Verdict

_RESCUE = frozenset({"s3:GetBucketPolicy", "s3:PutBucketPolicy", "s3:DeleteBucketPolicy"})
_RESCUERS = frozenset({"projectOwner", "organizationOwner"})
_DELETES = frozenset({"s3:DeleteObject", "s3:DeleteObjectVersion", "s3:AbortMultipartUpload"})

# What an action takes of the data's permissions; every other is about the bucket itself.
_ON_OBJECTS: dict[str, Act] = {
    **dict.fromkeys(
        ("ListBucket", "ListBucketVersions", "ListBucketMultipartUploads", "ListMultipartUploadParts", "GetObject",
         "GetObjectVersion", "GetObjectAcl", "GetObjectVersionAcl", "GetObjectAttributes", "GetObjectVersionAttributes",
         "GetObjectLegalHold", "GetObjectRetention", "GetObjectTagging", "GetObjectVersionTagging",
         "GetObjectVersionForReplication", "GetObjectTorrent", "GetObjectVersionTorrent"), Act.READ),
    **dict.fromkeys(("PutObject", "AbortMultipartUpload", "ReplicateObject"), Act.CREATE),
    **dict.fromkeys(
        ("PutObjectAcl", "PutObjectVersionAcl", "PutObjectLegalHold", "PutObjectRetention", "PutObjectTagging",
         "PutObjectVersionTagging", "DeleteObjectTagging", "DeleteObjectVersionTagging", "RestoreObject",
         "ReplicateTags"), Act.UPDATE),
    **dict.fromkeys(("DeleteObject", "DeleteObjectVersion", "ReplicateDelete"), Act.DELETE),
    "BypassGovernanceRetention": Act.BYPASS,
}  # fmt: skip

# Which permission of which ACL is enough for an action.
_BUCKET_ACL = {
    "s3:ListBucket": "READ", "s3:ListBucketVersions": "READ", "s3:ListBucketMultipartUploads": "READ",
    "s3:PutObject": "WRITE", "s3:DeleteObject": "WRITE", "s3:AbortMultipartUpload": "WRITE",
    "s3:GetBucketAcl": "READ_ACP", "s3:PutBucketAcl": "WRITE_ACP",
}  # fmt: skip
_OBJECT_ACL = {
    "s3:GetObject": "READ", "s3:GetObjectVersion": "READ", "s3:GetObjectAttributes": "READ",
    "s3:GetObjectVersionAttributes": "READ", "s3:GetObjectAcl": "READ_ACP", "s3:GetObjectVersionAcl": "READ_ACP",
    "s3:PutObjectAcl": "WRITE_ACP", "s3:PutObjectVersionAcl": "WRITE_ACP",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class BucketRules:
    """What a bucket says about access, read from its spec once for each revision."""

    bucket: BucketView
    ownership: Ownership
    block: PublicAccessBlock
    acl: Acl
    policy: BucketPolicy | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """One question. `action`: `s3:GetObject`; `key`: empty for the bucket itself; `object_acl`: of an object that is there.

    `territories`: the written rules of the bucket's project; looked at only where the action brings bytes.
    """

    action: str
    rules: BucketRules
    identity: S3Identity | None
    key: str = ""
    context: Context = field(default_factory=dict)
    object_acl: Acl | None = None
    territories: Rules = field(default_factory=Rules)


@dataclass(frozen=True, slots=True)
class Allowed:
    """`by`: a role, `policy STATEMENT` or `acl`, for the audit."""

    by: str


@dataclass(frozen=True, slots=True)
class Denied:
    """`reasons`: in words, for the log and for those who may see the bucket (`visible`)."""

    reasons: tuple[str, ...]
    visible: bool = False
    code: str = "AccessDenied"

    def error(self) -> S3Error:
        why = "; ".join(self.reasons)
        return S3Error(self.code, f"Access denied: {why}." if self.visible else "", detail=why)


Decision = Allowed | Denied


def decide_s3(ask: Ask) -> Decision:
    """The verdict. An absent bucket is not asked about: `NoSuchBucket` is everybody's to know, as S3 has it."""
    identity, bucket = ask.identity, ask.rules.bucket
    if identity is not None and identity.buckets is not None and bucket.uid not in identity.buckets:
        return Denied((f"this key is bound to other buckets than {bucket.name}",))
    by_role = _by_role(ask)
    opinion, statement = _by_policy(ask)
    if opinion is Opinion.EXPLICIT_DENY and not _rescues(ask, by_role):
        return Denied((f"statement {statement} of the bucket's policy denies {ask.action}",), by_role.visible)
    allowed = _allowed(ask, by_role, opinion, statement)
    if isinstance(allowed, Denied) or not brings_bytes(ask.action):
        return allowed
    where = _by_territory(ask)
    return allowed if where.allowed else Denied(where.reasons, by_role.visible)


# What a writer may lay on a new object, and the parts of the request that conditions of a policy look at for it.
_LAID = {
    "s3:PutObjectTagging": ("s3:requestobjecttag/", "s3:requestobjecttagkeys", "aws:tagkeys"),
    "s3:PutObjectAcl": ("s3:x-amz-acl", "s3:x-amz-grant-"),
}


def decide_laid(ask: Ask) -> Decision:
    """May who writes an object lay tags or grants on it (`ask.action`)? Who writes by a role or an ACL may. Whom the bucket's
    policy lets write needs its word for this as well, or that the statement which lets them looks at what they lay; and what
    it denies is denied to all.

    Source: AWS, "Required permissions for Amazon S3 API operations"; for the second, the examples of "Bucket policy examples
    using condition keys", which let writers pass by the grants that they send.
    """
    write = replace(ask, action="s3:PutObject")
    writing, by_role = decide_s3(write), _by_role(write)
    opinion, statement = _by_policy(ask)
    if opinion is Opinion.EXPLICIT_DENY:
        return Denied((f"statement {statement} of the bucket's policy denies {ask.action}",), by_role.visible)
    if isinstance(writing, Denied) or not writing.by.startswith("policy ") or opinion is Opinion.ALLOW:
        return writing
    policy = ask.rules.policy
    if _by_acl(write, by_role) or (policy is not None and policy.looks_at(_asked_of(write), _LAID[ask.action])):
        return writing
    return Denied((f"the bucket's policy lets them write, and nothing says {ask.action}",), by_role.visible)


# -- roles ----------------------------------------------------------------------------------------


@lru_cache(maxsize=512)
def need(action: str) -> tuple[str, Act]:
    """The kind and the act in the table of roles that stand for an action of S3."""
    name = action.removeprefix("s3:")
    if name in _ON_OBJECTS:
        return OBJECTS, _ON_OBJECTS[name]
    if name == "CreateBucket":
        return "Bucket", Act.CREATE
    if name == "DeleteBucket":
        return "Bucket", Act.DELETE
    return "Bucket", Act.READ if name.startswith(("Get", "List")) else Act.UPDATE


def brings_bytes(action: str) -> bool:
    """Does it put an object somewhere? Then it must be a territory that the written rules allow."""
    return need(action) == (OBJECTS, Act.CREATE)


def is_home(identity: S3Identity, bucket: BucketView) -> bool:
    """Is the bucket one of the caller's own project? Imported users bring their own borders: a bucket that is another's by
    name is no home to them, though it lies in the same project."""
    if identity.project != bucket.project:
        return False
    return not identity.imported or not (bucket.spec.get("acl") or {}).get("owner") or bucket.owner == identity.user_id


def _by_role(ask: Ask) -> Verdict:
    """Of the caller's roles alone. A bound key's list is its role on those buckets, for what is in them."""
    identity, bucket = ask.identity, ask.rules.bucket
    if identity is None:
        return Verdict(False, "anonymous", ("nobody signed the request",), visible=False)
    kind, act = need(ask.action)
    if identity.buckets is not None:
        return _by_binding(kind, act, ask.action)
    if identity.imported and not is_home(identity, bucket):
        return Verdict(False, "imported", (f"{bucket.name} belongs to another user",), visible=False)
    return _decided(identity.caller, act, kind, bucket.name, bucket.project, bucket.organization, bucket.region)


@lru_cache(maxsize=4096)
def _decided(
    caller: Caller, act: Act, kind: str, bucket: str, project: str, organization: str, region: str
) -> Verdict:  # fmt: skip
    """The verdict of `decide` on a bucket, which follows from these words alone: asked once of what is asked again and again."""
    return decide(caller, act, _subject(kind, bucket, project, organization, region), Rules())


def _by_binding(kind: str, act: Act, action: str) -> Verdict:
    if kind == OBJECTS and act is not Act.BYPASS:
        return Verdict(True, "bound key")
    if act is Act.READ:
        return Verdict(True, "bound key")
    return Verdict(False, "bound key", (f"a bucket's own account may not {action.removeprefix('s3:')}",))


def _subject(kind: str, bucket: str, project: str, organization: str, region: str, territory: str = "") -> Subject:
    collection = "objects" if kind == OBJECTS else "buckets"
    ref = f"/storage/projects/{project}/regions/{region}/{collection}/{bucket}"
    return Subject(kind, bucket, project=project, organization=organization, territory=territory, ref=ref)


def _rescues(ask: Ask, by_role: Verdict) -> bool:
    """An owner can always take back a policy that shuts everybody out."""
    return by_role.allowed and ask.action in _RESCUE and by_role.rule in _RESCUERS


def _by_territory(ask: Ask) -> Verdict:
    """Of what brings bytes."""
    it = ask.rules.bucket
    where = _subject(OBJECTS, it.name, it.project, it.organization, it.region, it.territory)
    return decide(PROGRAM, Act.CREATE, where, ask.territories)


# -- policy and ACLs ------------------------------------------------------------------------------


def _by_policy(ask: Ask) -> tuple[Opinion, str]:
    policy = ask.rules.policy
    return policy.opinion(_asked_of(ask)) if policy is not None else (Opinion.NO_OPINION, "")


def _asked_of(ask: Ask) -> Request:
    name = ask.rules.bucket.name
    resource = f"{BUCKET_ARN}{name}/{ask.key}" if ask.key else f"{BUCKET_ARN}{name}"
    variables: Mapping[str, str] = variables_of(ask.context)
    return Request(ask.action, resource, names_of(ask.identity), ask.context, variables)


def _allowed(ask: Ask, by_role: Verdict, opinion: Opinion, statement: str) -> Decision:
    """The first that says yes."""
    foreign = _is_foreign(ask)
    if by_role.allowed and not foreign:
        return Allowed(by_role.rule)
    if opinion is Opinion.ALLOW and not foreign and not _is_restricted(ask):
        return Allowed(f"policy {statement}")
    if _by_acl(ask, by_role):
        return Allowed("acl")
    reasons = ("the object belongs to another tenant, who shares it with nobody here",) if foreign else by_role.reasons
    return Denied(reasons, by_role.visible)


def _is_foreign(ask: Ask) -> bool:
    """Is the object somebody else's? Its owner decides then, but the bucket's owner can always delete it."""
    if ask.object_acl is None or ask.rules.ownership is Ownership.ENFORCED or ask.action in _DELETES:
        return False
    return ask.object_acl.owner.id != ask.rules.acl.owner.id


def _is_restricted(ask: Ask) -> bool:
    """RestrictPublicBuckets: with a public policy only the bucket's own project is let in by it."""
    policy, identity = ask.rules.policy, ask.identity
    if policy is None or not ask.rules.block.restrict_buckets or not policy.is_public:
        return False
    return identity is None or not is_home(identity, ask.rules.bucket)


def _by_acl(ask: Ask, by_role: Verdict) -> bool:
    rules = ask.rules
    if rules.ownership is Ownership.ENFORCED:
        return False
    ids, signed, ignore = _stands_for(ask, by_role), ask.identity is not None, rules.block.ignore_acls
    wanted = _BUCKET_ACL.get(ask.action)
    if wanted and rules.acl.gives(wanted, ids, signed=signed, ignore_public=ignore):
        return True
    it, wanted = ask.object_acl, _OBJECT_ACL.get(ask.action)
    if it is None:
        return False
    if it.owner.id in ids and need(ask.action) in ((OBJECTS, Act.READ), (OBJECTS, Act.UPDATE)):
        return True
    return bool(wanted) and it.gives(wanted or "", ids, signed=signed, ignore_public=ignore)


def _stands_for(ask: Ask, by_role: Verdict) -> frozenset[str]:
    """Whose grants count for the caller. At home that is the bucket's owner, as far as the caller's roles go, and nobody
    else: what a tenant's own roles refuse, no ACL gives back."""
    identity, bucket = ask.identity, ask.rules.bucket
    if identity is None:
        return frozenset()
    if not is_home(identity, bucket):
        return frozenset({identity.user_id})
    return frozenset({ask.rules.acl.owner.id}) if by_role.allowed else frozenset()
