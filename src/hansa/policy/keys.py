"""Who acts with an S3 key, and how far the key reaches: the same wherever it is used, by S3 or by the API. Pure."""

from __future__ import annotations

from dataclasses import replace

from hansa.kinds.resource import Key, ref_of
from hansa.kinds.storage import Bucket, BucketServiceAccount, S3Key
from hansa.policy.access import BUCKET_ACCOUNT, LENT_BUCKET, PROJECT
from hansa.policy.verdict import Caller, Grant

WIDEST = "storageOperator"  # what a key is good for when it names no roles: never more than storage, in its project


def with_key(account: Caller, key: S3Key) -> Caller:
    """A service account that acts with its key: what it holds, as far as the key reaches."""
    return replace(account, within=reach(key), via=key.ref)


def reach(key: S3Key) -> tuple[Grant, ...]:
    scope = f"{PROJECT}/{key.key.project}"
    named = [Grant(scope, bound.role, tuple(bound.resources or ())) for bound in key.spec.roles or ()]
    return tuple(named) or (Grant(scope, WIDEST),)


def with_bucket(caller: Caller, bucket: str, project: str) -> Caller:
    """Who was let by the policy or the ACL of a bucket (a reference) to change what their own roles do not reach."""
    lent = Grant(f"{PROJECT}/{project}", LENT_BUCKET, (bucket,))
    within = None if caller.within is None else (*caller.within, lent)
    return replace(caller, grants=(*caller.grants, lent), within=within)


def objects_in(bucket: str) -> str:
    """The reference under which roles speak of what is in a bucket."""
    before, _, name = bucket.rpartition("/buckets/")
    return f"{before}/objects/{name}"


def as_bucket_account(it: BucketServiceAccount) -> Caller:
    """A bucket service account: it holds what is in its buckets, and nothing else anywhere."""
    buckets = (ref_of(Bucket, Key(Bucket.kind, it.key.scope, name)) for name in it.spec.buckets)
    refs = tuple(ref for bucket in buckets for ref in (bucket, objects_in(bucket)))
    grants = (Grant(f"{PROJECT}/{it.key.project}", BUCKET_ACCOUNT, refs),) if refs else ()
    return Caller(it.ref, grants=grants, within=grants, via=it.ref)
