"""The four switches that keep a bucket from the public, whatever its ACLs and its policy say. Pure.

A bucket whose spec says nothing has all four on, or none in a cloud that was told `HANSA_S3_ACL=open`: the default is
computed, never written. A bucket whose configuration was deleted by an S3 client says so (`removed`), and has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class PublicAccessBlock:
    """`block_acls` and `block_policy` refuse what would make the bucket public; `ignore_acls` and `restrict_buckets`
    take away the effect of what is there."""

    block_acls: bool = False
    ignore_acls: bool = False
    block_policy: bool = False
    restrict_buckets: bool = False


CLOSED = PublicAccessBlock(True, True, True, True)
OPEN = PublicAccessBlock()

_FIELDS = {
    "blockPublicAcls": "block_acls",
    "ignorePublicAcls": "ignore_acls",
    "blockPublicPolicy": "block_policy",
    "restrictPublicBuckets": "restrict_buckets",
}


def block_from(document: Mapping[str, Any] | None, default: PublicAccessBlock) -> PublicAccessBlock:
    """What holds for a bucket with this `publicAccessBlock`; a switch that is not named is off, as in S3."""
    if document is None:
        return default
    return PublicAccessBlock(**{field: bool(document.get(name, False)) for name, field in _FIELDS.items()})


def is_configured(document: Mapping[str, Any] | None, default: PublicAccessBlock) -> bool:
    """Whether GetPublicAccessBlock has something to show: a default that is on is shown like one that was set."""
    return default != OPEN if document is None else not document.get("removed", False)


def document_of(block: PublicAccessBlock) -> dict[str, bool]:
    return {name: getattr(block, field) for name, field in _FIELDS.items()}


def removed() -> dict[str, bool]:
    """What the spec says once a client has deleted the configuration: open, and nothing to show."""
    return document_of(OPEN) | {"removed": True}
