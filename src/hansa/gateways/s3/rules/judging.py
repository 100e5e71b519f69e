"""What S3 would refuse of a bucket's spec, for writes that come by the API: the same rules as for those that come by S3.

Pure. What the fields' own rules say is not said again here.
"""

from __future__ import annotations

from collections.abc import Callable

from hansa.errors import Invalid
from hansa.gateways.s3.rules import bucketpolicy, cors, encryptionrules, publicaccess, tagging
from hansa.gateways.s3.rules.acl import Acl, Person
from hansa.gateways.s3.wire.configurations import PublicAccessBlock
from hansa.gateways.s3.wire.errors import S3Error
from hansa.kinds.storage import Bucket, policy_bytes
from hansa.objectindex.records import AclGrant


def judge(bucket: Bucket, before: Bucket | None = None) -> None:
    """Raises Invalid naming the part that breaks a rule. What is as it was is not judged again: with the block of public
    policies switched on, the next one is refused, and the one that is there lets in nobody from outside."""
    spec, old = bucket.stored.spec, before.stored.spec if before is not None else {}
    rules: tuple[tuple[str, Callable[[], object]], ...] = (
        ("policy", lambda: _policy(bucket)),
        ("cors", lambda: cors.check_rules(cors.rules_from(spec.get("cors")))),
        ("encryption", lambda: _encryption(bucket)),
        ("acl", lambda: _acl(bucket)),
        ("tags", lambda: tagging.bucket_tags((tag.key, tag.value) for tag in bucket.spec.tags or ())),
    )
    for part, check in rules:
        if spec.get(part) is None or spec[part] == old.get(part):
            continue
        try:
            check()
        except S3Error as error:
            raise Invalid.field(f"spec.{part}", error.message) from error


def _policy(bucket: Bucket) -> None:
    given = bucket.spec.policy
    if given is None:
        return
    policy = bucketpolicy.read_policy(policy_bytes(given), bucket.name)
    publicaccess.check_policy(_block(bucket), policy)


def _acl(bucket: Bucket) -> None:
    given = bucket.spec.acl
    grants = tuple(AclGrant(g.grantee, g.permission, g.name) for g in (given.grants if given is not None else ()))
    publicaccess.check_acl(_block(bucket), Acl(Person(""), grants))


def _block(bucket: Bucket) -> PublicAccessBlock:
    default = publicaccess.OPEN if bucket.status.access == "open" else publicaccess.CLOSED
    return publicaccess.block_from(bucket.stored.spec.get("publicAccessBlock"), default)


def _encryption(bucket: Bucket) -> None:
    rule = encryptionrules.default_from(bucket.stored.spec.get("encryption"))
    if rule is not None:
        encryptionrules.check_default(rule)
