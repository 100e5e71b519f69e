"""The configurations of a bucket as S3 writes them, in and out, as plain data. Lifecycle and replication: `bucketrules`.

Each has a dataclass, `read_…(body)` and `write_…(…)`, and what was read is written back the same. Numbers, names and
combinations that the protocol forbids are for those who act on them; here it is held that nothing unknown was said.
"""

from __future__ import annotations

from dataclasses import dataclass

from hansa.gateways.s3.wire import xml
from hansa.gateways.s3.wire.errors import S3Error

CORS_RULES_MAX = 100
CORS_WORDS_MAX = 100  # of each list of a rule
GRANTS_MAX = 100


# -- CORS ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CorsRule:
    origins: tuple[str, ...]
    methods: tuple[str, ...]
    headers: tuple[str, ...] = ()
    exposed: tuple[str, ...] = ()
    max_age_s: int | None = None
    id: str = ""


def read_cors(body: bytes) -> tuple[CorsRule, ...]:
    root = xml.read(body, "CORSConfiguration").only("CORSRule")
    rules = tuple(_cors_rule(node) for node in root.all("CORSRule", at_most=CORS_RULES_MAX))
    if not rules:
        raise xml.malformed("CORSConfiguration/CORSRule", "is missing")
    return rules


def _cors_rule(node: xml.Node) -> CorsRule:
    node.only("ID", "AllowedOrigin", "AllowedMethod", "AllowedHeader", "ExposeHeader", "MaxAgeSeconds")
    origins, methods = _words(node, "AllowedOrigin"), _words(node, "AllowedMethod")
    if not origins or not methods:
        raise xml.malformed(node.path, "needs an AllowedOrigin and an AllowedMethod")
    return CorsRule(
        origins=origins,
        methods=methods,
        headers=_words(node, "AllowedHeader"),
        exposed=_words(node, "ExposeHeader"),
        max_age_s=node.whole("MaxAgeSeconds"),
        id=node.value("ID"),
    )


def _words(node: xml.Node, name: str) -> tuple[str, ...]:
    return tuple(found.word for found in node.all(name, at_most=CORS_WORDS_MAX))


def write_cors(rules: tuple[CorsRule, ...]) -> bytes:
    return xml.document("CORSConfiguration", *map(_write_cors_rule, rules))


def _write_cors_rule(rule: CorsRule) -> bytes:
    return xml.element(
        "CORSRule",
        xml.maybe("ID", rule.id),
        xml.joined(xml.element("AllowedHeader", word) for word in rule.headers),
        xml.joined(xml.element("AllowedMethod", word) for word in rule.methods),
        xml.joined(xml.element("AllowedOrigin", word) for word in rule.origins),
        xml.joined(xml.element("ExposeHeader", word) for word in rule.exposed),
        xml.maybe("MaxAgeSeconds", rule.max_age_s),
    )


# -- who may look -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PublicAccessBlock:
    """`block_acls` and `block_policy` refuse what would open the bucket; `ignore_acls` and `restrict_buckets` take away
    the effect of what is there."""

    block_acls: bool = False
    ignore_acls: bool = False
    block_policy: bool = False
    restrict_buckets: bool = False


_SWITCHES = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")


def read_public_access_block(body: bytes) -> PublicAccessBlock:
    """A switch that is not named is off, as in S3."""
    root = xml.read(body, "PublicAccessBlockConfiguration").only(*_SWITCHES)
    return PublicAccessBlock(*(root.flag(name) for name in _SWITCHES))


def write_public_access_block(block: PublicAccessBlock) -> bytes:
    values = (block.block_acls, block.ignore_acls, block.block_policy, block.restrict_buckets)
    return xml.document("PublicAccessBlockConfiguration", *map(xml.flag, _SWITCHES, values))


def read_ownership(body: bytes) -> str:
    """BucketOwnerEnforced, BucketOwnerPreferred or ObjectWriter."""
    root = xml.read(body, "OwnershipControls").only("Rule")
    rule = root.one("Rule").only("ObjectOwnership")
    return rule.choice("ObjectOwnership", "BucketOwnerEnforced", "BucketOwnerPreferred", "ObjectWriter")


def write_ownership(ownership: str) -> bytes:
    return xml.document("OwnershipControls", xml.element("Rule", xml.element("ObjectOwnership", ownership)))


def write_policy_status(public: bool) -> bytes:
    return xml.document("PolicyStatus", xml.element("IsPublic", "true" if public else "false"))


# -- encryption ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EncryptionRule:
    """`algorithm` as sent: AES256, aws:kms or another word that somebody has to refuse."""

    algorithm: str
    key: str = ""
    bucket_key: bool = False


def read_encryption(body: bytes) -> EncryptionRule:
    root = xml.read(body, "ServerSideEncryptionConfiguration").only("Rule")
    rule = root.one("Rule").only("ApplyServerSideEncryptionByDefault", "BucketKeyEnabled")
    default = rule.one("ApplyServerSideEncryptionByDefault").only("SSEAlgorithm", "KMSMasterKeyID")
    algorithm = default.one("SSEAlgorithm").word
    return EncryptionRule(algorithm, default.value("KMSMasterKeyID").strip(), rule.flag("BucketKeyEnabled"))


def write_encryption(rule: EncryptionRule) -> bytes:
    default = xml.element(
        "ApplyServerSideEncryptionByDefault",
        xml.element("SSEAlgorithm", rule.algorithm),
        xml.maybe("KMSMasterKeyID", rule.key),
    )
    inner = xml.element("Rule", default, xml.flag("BucketKeyEnabled", rule.bucket_key))
    return xml.document("ServerSideEncryptionConfiguration", inner)


# -- access control lists -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Grantee:
    """`kind` is CanonicalUser (`id`), Group (`id` is the URI) or AmazonCustomerByEmail (`id` is the address)."""

    kind: str
    id: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Grant:
    grantee: Grantee
    permission: str


@dataclass(frozen=True, slots=True)
class AccessControl:
    """`owner` is a canonical user id."""

    owner: str
    owner_name: str = ""
    grants: tuple[Grant, ...] = ()


_KINDS = {"CanonicalUser": "ID", "Group": "URI", "AmazonCustomerByEmail": "EmailAddress"}
_PERMISSIONS = ("FULL_CONTROL", "READ", "WRITE", "READ_ACP", "WRITE_ACP")


def read_access_control(body: bytes) -> AccessControl:
    """Raises MalformedACLError where other documents are MalformedXML, MissingRequestBodyError."""
    try:
        return _access_control(body)
    except S3Error as error:
        if error.code == "MalformedXML":
            raise S3Error.of("MalformedACLError", error.message) from error
        raise


def _access_control(body: bytes) -> AccessControl:
    root = xml.read(body, "AccessControlPolicy").only("Owner", "AccessControlList")
    owner = root.one("Owner").only("ID", "DisplayName")
    listed = root.one("AccessControlList").only("Grant")
    grants = tuple(_grant(node) for node in listed.all("Grant", at_most=GRANTS_MAX))
    return AccessControl(owner.one("ID").word, owner.value("DisplayName"), grants)


def _grant(node: xml.Node) -> Grant:
    found = node.only("Grantee", "Permission").one("Grantee")
    found.only("ID", "URI", "EmailAddress", "DisplayName")
    if found.type not in _KINDS:
        raise xml.malformed(found.path, f"needs an xsi:type of {', '.join(_KINDS)}")
    grantee = Grantee(found.type, found.one(_KINDS[found.type]).word, found.value("DisplayName"))
    return Grant(grantee, node.choice("Permission", *_PERMISSIONS))


def write_access_control(control: AccessControl) -> bytes:
    return xml.document(
        "AccessControlPolicy",
        write_owner("Owner", control.owner, control.owner_name),
        xml.element("AccessControlList", b"", *map(_write_grant, control.grants)),
    )


def write_owner(name: str, id: str, display_name: str = "") -> bytes:
    return xml.element(name, xml.element("ID", id), xml.maybe("DisplayName", display_name))


def _write_grant(grant: Grant) -> bytes:
    grantee = grant.grantee
    return b"".join(
        (
            b'<Grant><Grantee xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="',
            grantee.kind.encode(),
            b'">',
            xml.element(_KINDS[grantee.kind], grantee.id),
            xml.maybe("DisplayName", grantee.name),
            b"</Grantee>",
            xml.element("Permission", grant.permission),
            b"</Grant>",
        )
    )
