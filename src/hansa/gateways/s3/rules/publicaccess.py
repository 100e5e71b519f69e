"""The four switches that keep a bucket from the public, whatever its ACLs and its policy say. Pure.

A bucket whose spec says nothing has all four on, or none when it was born in a cloud with `HANSA_S3_ACL=open`: a default
is computed, never written. One that is there but empty says that a client deleted the configuration: the bucket has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hansa.gateways.s3.rules.acl import Acl
from hansa.gateways.s3.rules.bucketpolicy import BucketPolicy
from hansa.gateways.s3.wire.configurations import PublicAccessBlock
from hansa.gateways.s3.wire.errors import S3Error

CLOSED = PublicAccessBlock(True, True, True, True)
OPEN = PublicAccessBlock()

_FIELDS = {
    "blockPublicAcls": "block_acls",
    "ignorePublicAcls": "ignore_acls",
    "blockPublicPolicy": "block_policy",
    "restrictPublicBuckets": "restrict_buckets",
}


def check_acl(block: PublicAccessBlock, acl: Acl) -> None:
    """May an ACL be laid on the bucket or on an object in it? Raises AccessDenied."""
    if block.block_acls and acl.is_public:
        raise S3Error.of("AccessDenied", "The bucket's public access block (BlockPublicAcls) refuses a public ACL.")


def check_policy(block: PublicAccessBlock, policy: BucketPolicy) -> None:
    """May the bucket have this policy? Raises AccessDenied."""
    if block.block_policy and policy.is_public:
        raise S3Error.of(
            "AccessDenied", "The bucket's public access block (BlockPublicPolicy) refuses a public policy."
        )


def block_from(document: Mapping[str, Any] | None, default: PublicAccessBlock) -> PublicAccessBlock:
    """What holds for a bucket with this `publicAccessBlock`; a switch that is not named is off, as in S3."""
    if document is None:
        return default
    return PublicAccessBlock(**{field: bool(document.get(name)) for name, field in _FIELDS.items()})


def is_configured(document: Mapping[str, Any] | None, default: PublicAccessBlock) -> bool:
    """Whether GetPublicAccessBlock has something to show: defaults that are on are shown like ones that were set."""
    return default != OPEN if document is None else any(value is not None for value in document.values())


def document_of(block: PublicAccessBlock) -> dict[str, bool]:
    return {name: getattr(block, field) for name, field in _FIELDS.items()}


def removal() -> dict[str, None]:
    """The merge patch that deletes a configuration: there, but empty."""
    return dict.fromkeys(_FIELDS)
