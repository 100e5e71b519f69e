"""What S3 would refuse of a bucket's spec, for writes that come by the API: the same rules as for those that come by S3.

Pure. What the fields' own rules say is not said again here.
"""

from __future__ import annotations

from collections.abc import Callable

from hansa.errors import Invalid
from hansa.gateways.s3 import bucketpolicy, cors, encryptionrules, publicaccess, tagging
from hansa.gateways.s3.errors import S3Error
from hansa.kinds.storage import Bucket, policy_bytes


def judge(bucket: Bucket) -> None:
    """Raises Invalid naming the part that breaks a rule."""
    spec = bucket.stored.spec
    rules: tuple[tuple[str, Callable[[], object]], ...] = (
        ("policy", lambda: _policy(bucket)),
        ("cors", lambda: cors.check_rules(cors.rules_from(spec.get("cors")))),
        ("encryption", lambda: _encryption(bucket)),
        ("tags", lambda: tagging.bucket_tags((tag.key, tag.value) for tag in bucket.spec.tags or ())),
    )
    for part, check in rules:
        if spec.get(part) is None:
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
    default = publicaccess.OPEN if bucket.status.access == "open" else publicaccess.CLOSED
    publicaccess.check_policy(publicaccess.block_from(bucket.stored.spec.get("publicAccessBlock"), default), policy)


def _encryption(bucket: Bucket) -> None:
    rule = encryptionrules.default_from(bucket.stored.spec.get("encryption"))
    if rule is not None:
        encryptionrules.check_default(rule)
