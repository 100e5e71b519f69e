"""What a bucket's spec says to a gateway, read once for each revision of the bucket and kept.

A spec is plain JSON that the control plane has checked; reading its policy, its rules and its grants costs more than a
small request may, so each view of a bucket is read when it is first met.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hansa.gateways.s3.ports import BucketView
from hansa.gateways.s3.rules import (
    acl,
    bucketpolicy,
    cors,
    encryptionrules,
    lifecyclespec,
    locks,
    publicaccess,
    replication,
)
from hansa.gateways.s3.rules.access import BucketRules
from hansa.gateways.s3.rules.acl import Ownership, Person
from hansa.gateways.s3.sealing.segments import Place
from hansa.gateways.s3.wire.bucketrules import LifecycleRule, Replication
from hansa.gateways.s3.wire.configurations import CorsRule, EncryptionRule, PublicAccessBlock
from hansa.gateways.s3.wire.documents import LockSetting
from hansa.kinds.storage import policy_bytes

BUCKETS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Known:
    place: Place
    access: BucketRules
    cors: tuple[CorsRule, ...]
    encryption: EncryptionRule | None
    locking: LockSetting
    lifecycle: tuple[LifecycleRule, ...]
    replication: Replication | None


class KnownBuckets:
    """One for the process; bounded."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[int, Known]] = OrderedDict()

    def of(self, view: BucketView) -> Known:
        kept = self._known.get(view.uid)
        if kept is not None and kept[0] == view.revision:
            return kept[1]
        known = read_known(view)
        self._known[view.uid] = (view.revision, known)
        if len(self._known) > BUCKETS_MAX:
            self._known.popitem(last=False)
        return known


def read_known(view: BucketView) -> Known:
    spec = view.spec
    owner = Person(view.owner, view.owner_name)
    ownership = _ownership(view)
    text = policy_text(spec)
    return Known(
        place=Place(view.project, view.region, view.uid),
        access=BucketRules(
            bucket=view,
            ownership=ownership,
            block=publicaccess.block_from(spec.get("publicAccessBlock"), default_block(view)),
            acl=acl.private(owner) if ownership is Ownership.ENFORCED else acl.acl_from(spec.get("acl"), owner),
            policy=bucketpolicy.kept_policy(text, view.name) if text else None,
        ),
        cors=cors.rules_from(spec.get("cors")),
        encryption=encryptionrules.default_from(spec.get("encryption")),
        locking=locks.setting_from(view.locking, spec.get("defaultObjectLocking")),
        lifecycle=lifecyclespec.rules_from(spec.get("lifecyclePolicy")),
        replication=replication.replication_from(spec.get("replication")),
    )


def default_block(view: BucketView) -> PublicAccessBlock:
    return publicaccess.OPEN if view.open else publicaccess.CLOSED


def policy_text(spec: Mapping[str, Any]) -> bytes:
    """The policy as it was given; empty where there is none."""
    found = spec.get("policy")
    return policy_bytes(found) if found else b""


def _ownership(view: BucketView) -> Ownership:
    named = view.spec.get("objectOwnership")
    if named:
        return Ownership(named)
    return Ownership.WRITER if view.open else Ownership.ENFORCED
