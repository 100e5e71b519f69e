"""What a request says to the conditions of a policy: `aws:…` and `s3:…` keys with their values. Pure.

Built once for a request and only where the bucket has a policy. Tags of an object that is there are added by whoever has
looked it up (`with_tags`). A key that the request does not carry is not in the context at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from hansa.gateways.s3.ports import BucketView, S3Identity
from hansa.gateways.s3.rules.policyconditions import Context
from hansa.gateways.s3.wire.dates import iso_date, read_iso_date

_HEADERS = (
    "x-amz-acl", "x-amz-content-sha256", "x-amz-copy-source", "x-amz-grant-full-control", "x-amz-grant-read",
    "x-amz-grant-read-acp", "x-amz-grant-write", "x-amz-grant-write-acp", "x-amz-metadata-directive",
    "x-amz-object-ownership", "x-amz-server-side-encryption", "x-amz-server-side-encryption-aws-kms-key-id",
    "x-amz-server-side-encryption-customer-algorithm", "x-amz-storage-class", "x-amz-website-redirect-location",
    "if-match", "if-none-match",
)  # fmt: skip
_QUERY = {"prefix": "s3:prefix", "delimiter": "s3:delimiter", "max-keys": "s3:max-keys", "versionId": "s3:versionid"}
_LOCK = {
    "x-amz-object-lock-mode": "s3:object-lock-mode",
    "x-amz-object-lock-retain-until-date": "s3:object-lock-retain-until-date",
    "x-amz-object-lock-legal-hold": "s3:object-lock-legal-hold",
}
_DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Sent:
    """A request as conditions see it. `headers`: by lower-case name; `query`: decoded.

    `address`: of the client; `tags`: those that the request would lay on an object. `signature_age_ms`: of its date.
    """

    headers: Mapping[str, str]
    query: Mapping[str, str] = field(default_factory=dict)
    now: float = 0.0
    address: str = ""
    secure: bool = False
    tls_version: str = ""  # as in 1.3
    presigned: bool = False
    signature_age_ms: int = 0
    tags: tuple[tuple[str, str], ...] = ()
    location: str = ""  # of a new bucket


def context_of(sent: Sent, identity: S3Identity | None, bucket: BucketView | None) -> dict[str, tuple[str, ...]]:
    found = {
        "aws:currenttime": iso_date(sent.now),
        "aws:epochtime": str(int(sent.now)),
        "aws:securetransport": "true" if sent.secure else "false",
        "aws:sourceip": sent.address,
        "s3:tlsversion": sent.tls_version,
        "aws:referer": sent.headers.get("referer", ""),
        "aws:useragent": sent.headers.get("user-agent", ""),
        "s3:locationconstraint": sent.location,
    }
    found |= {f"s3:{name}": sent.headers.get(name, "") for name in _HEADERS}
    found |= {key: sent.headers.get(name, "") for name, key in _LOCK.items()}
    found["s3:x-amz-copy-source"] = found["s3:x-amz-copy-source"].lstrip("/")
    found |= _lock_days(sent) | _of_bucket(bucket) | _of_identity(sent, identity)
    context = {key: (value,) for key, value in found.items() if value}
    context |= {key: (sent.query[name],) for name, key in _QUERY.items() if name in sent.query}
    return with_tags(context, "s3:requestobjecttag", sent.tags)


def with_tags(
    context: Context, key: str, tags: Iterable[tuple[str, str]]
) -> dict[str, tuple[str, ...]]:  # fmt: skip
    """`key`: `s3:requestobjecttag` or `s3:existingobjecttag`."""
    tags = tuple(tags)
    found = dict(context) | {f"{key}/{name}": (value,) for name, value in tags}
    if tags and key == "s3:requestobjecttag":
        found |= {name: tuple(tag for tag, _ in tags) for name in ("s3:requestobjecttagkeys", "aws:tagkeys")}
    return found


def variables_of(context: Context) -> dict[str, str]:
    """Values of `${…}`: every key that has one value."""
    return {key: values[0] for key, values in context.items() if len(values) == 1}


def arn_of(identity: S3Identity) -> str:
    """What a policy may call the account of a key by."""
    account = identity.caller.ref.rpartition("/")[2]
    return f"arn:aws:iam::{identity.project}:user/{account}"


def names_of(identity: S3Identity | None) -> frozenset[str]:
    """Every text by which a policy may name who signed. A project counts as the account of AWS, by ARN alone: a bare word
    is a user's id, and nobody should come to have another's by the name of a project."""
    if identity is None:
        return frozenset()
    project, user = identity.project, identity.user_id
    return frozenset(
        (user, identity.caller.ref, arn_of(identity), f"arn:aws:iam::{project}:user/{user}")
        + (f"arn:aws:iam:::user/{user}", f"arn:aws:iam::{project}:root")
    )


def _of_identity(sent: Sent, identity: S3Identity | None) -> dict[str, str]:
    if identity is None:
        return {"aws:principaltype": "Anonymous"}
    return {
        "aws:principaltype": "User",
        "aws:principalarn": arn_of(identity),
        "aws:principalaccount": identity.project,
        "aws:principalorgid": identity.organization,
        "aws:userid": identity.user_id,
        "aws:username": identity.caller.ref.rpartition("/")[2],
        "s3:authtype": "REST-QUERY-STRING" if sent.presigned else "REST-HEADER",
        "s3:signatureversion": "AWS4-HMAC-SHA256",
        "s3:signatureage": str(max(0, sent.signature_age_ms)),
    }


def _of_bucket(bucket: BucketView | None) -> dict[str, str]:
    if bucket is None:
        return {}
    return {
        "aws:requestedregion": bucket.region,
        "aws:resourceaccount": bucket.project,
        "aws:resourceorgid": bucket.organization,
        "s3:resourceaccount": bucket.project,
    }


def _lock_days(sent: Sent) -> dict[str, str]:
    until = read_iso_date(sent.headers.get("x-amz-object-lock-retain-until-date", ""))
    if until is None:
        return {}
    return {"s3:object-lock-remaining-retention-days": str(max(0, int((until - sent.now) // _DAY_S)))}
