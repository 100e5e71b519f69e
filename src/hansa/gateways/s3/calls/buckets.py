"""Buckets themselves: made, removed, looked at, listed. Writes go to the control plane in the caller's name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hansa.gateways.s3.answers import Answer, empty
from hansa.gateways.s3.answers import xml as xml_answer
from hansa.gateways.s3.calls.grants import people
from hansa.gateways.s3.calls.intake import read_document
from hansa.gateways.s3.calls.listing import read_token, write_owner, write_token
from hansa.gateways.s3.calls.permission import allow, leave_to_api, may_see
from hansa.gateways.s3.gateway import Call, Gateway
from hansa.gateways.s3.ports import S3Identity
from hansa.gateways.s3.rules import acl
from hansa.gateways.s3.rules.tagging import bucket_tags
from hansa.gateways.s3.wire import documents, xml
from hansa.gateways.s3.wire.errors import S3Error
from hansa.kinds.storage import bucket_name_fault

LOCK_HEADER = "x-amz-bucket-object-lock-enabled"
OWNERSHIP_HEADER = "x-amz-object-ownership"
ANYWHERE = frozenset({"", "us-east-1"})  # what clients say that were told of no region
BUCKETS_MAX = 10_000  # of one page


async def create_bucket(call: Call) -> Answer:
    identity, name = call.who, call.request.bucket
    leave_to_api(call)
    fault = bucket_name_fault(name)
    if fault:
        raise S3Error.of("InvalidBucketName", f"The bucket's name {fault}.", BucketName=name[:256])
    asked = documents.read_new_bucket(await read_document(call))
    region = _region(call.gateway, asked.location)
    spec = _new_spec(call.gateway, call.request.headers, identity)
    if asked.tags:
        spec["tags"] = [{"key": key, "value": value} for key, value in bucket_tags(asked.tags)]
    if _is_again(call, spec, region):
        return empty(200, {"location": f"/{name}"})
    await call.gateway.upstream.create_bucket(identity, name, region, spec)
    return empty(200, {"location": f"/{name}"})


def _is_again(call: Call, spec: Mapping[str, Any], region: str) -> bool:
    """Whether the caller's own bucket is asked for as it is: that is no conflict where ACLs are open, as it is none in
    the oldest region of S3, whose clients expect so. Raises BucketAlreadyExists for one with other grants."""
    view = call.view
    if view is None or not view.open or view.region != region or view.owner != call.who.user_id:
        return False
    if (view.spec.get("acl") or {}) != spec.get("acl"):
        raise S3Error.of("BucketAlreadyExists", "You own this bucket already, with another ACL.", BucketName=view.name)
    return True


def _region(gateway: Gateway, location: str) -> str:
    if location in ANYWHERE:
        return gateway.directory.region
    if location not in gateway.directory.regions():
        raise S3Error.of("InvalidLocationConstraint", LocationConstraint=location[:64])
    return location


def _new_spec(gateway: Gateway, headers: Mapping[str, str], identity: S3Identity) -> dict[str, Any]:
    """What the headers ask for. Where ACLs may count, now or later, who made the bucket is written down as its owner:
    grants hang on that; elsewhere it is the project's."""
    spec: dict[str, Any] = {}
    if headers.get(LOCK_HEADER, "").lower() == "true":
        spec["objectRetentionMode"] = "Locking"
    ownership = acl.Ownership.WRITER if gateway.settings.acl_open else acl.Ownership.ENFORCED
    if named := headers.get(OWNERSHIP_HEADER):
        ownership = _ownership(named)
        spec["objectOwnership"] = ownership.value
    acl.check_allowed(ownership, headers, new_bucket=True)
    if ownership is not acl.Ownership.ENFORCED or gateway.settings.acl_open:
        owner = acl.Person(identity.user_id, identity.display_name)
        found = acl.acl_of_new(headers, owner, people(gateway))
        if found.is_public and not gateway.settings.acl_open:
            raise S3Error.of("AccessDenied", "New buckets refuse ACLs that grant to everybody.")
        spec["acl"] = acl.document_of(found)
    return spec


def _ownership(text: str) -> acl.Ownership:
    try:
        return acl.Ownership(text)
    except ValueError:
        raise S3Error.argument(OWNERSHIP_HEADER, text, f"must be one of {', '.join(acl.Ownership)}") from None


async def delete_bucket(call: Call) -> Answer:
    allow(call)
    await _abort_uploads(call)
    await call.gateway.upstream.delete_bucket(call.who, call.bucket, lent=call.lent)
    return empty(204)


async def _abort_uploads(call: Call) -> None:
    """Uploads that nobody completed are no objects: they go with a bucket that holds nothing else."""
    index, bucket = call.gateway.index, call.bucket
    while not (await index.held(bucket.uid)).versions:
        page = await index.uploads(bucket.uid, limit=100)
        if not page.uploads:
            return
        for upload in page.uploads:
            await index.abort(bucket.uid, upload.id, project=bucket.project)


async def head_bucket(call: Call) -> Answer:
    allow(call)
    told = {
        "x-amz-bucket-region": call.bucket.region,
        "x-amz-bucket-arn": f"arn:aws:s3:::{call.bucket.name}",
        "x-amz-access-point-alias": "false",
        "content-type": "application/xml",
    }
    return empty(200, told)


async def get_location(call: Call) -> Answer:
    allow(call)
    return xml_answer(documents.write_location(call.bucket.region))


def _buckets_limit(call: Call) -> int:
    """Unlike the pages of a bucket, these are refused where they cannot be had. Raises InvalidArgument."""
    text = call.field("max-buckets") or str(BUCKETS_MAX)
    if not re.fullmatch(r"[0-9]{1,5}", text, re.ASCII) or not 1 <= int(text) <= BUCKETS_MAX:
        raise S3Error.argument("max-buckets", text, f"must be a number from 1 to {BUCKETS_MAX}")
    return int(text)


async def list_buckets(call: Call) -> Answer:
    """Those of the caller's project that they may see, by name and region."""
    identity = call.who
    limit = _buckets_limit(call)
    prefix, region = call.field("prefix") or "", call.field("bucket-region") or ""
    token = call.field("continuation-token")
    after = tuple(read_token(token, identity.project).split("/")) if token else ()
    found = [
        bucket
        for bucket in may_see(call, call.gateway.directory.buckets_of(identity.project))
        if bucket.name.startswith(prefix) and (bucket.name, bucket.region) > after and region in ("", bucket.region)
    ]
    page, more = found[:limit], len(found) > limit
    following = write_token(f"{page[-1].name}/{page[-1].region}", identity.project) if more and page else ""
    return xml_answer(
        xml.document(
            "ListAllMyBucketsResult",
            write_owner(identity.user_id, identity.display_name),
            xml.element(
                "Buckets",
                b"",
                *(
                    xml.element(
                        "Bucket",
                        xml.element("Name", bucket.name),
                        xml.moment("CreationDate", bucket.created),
                        xml.element("BucketRegion", bucket.region),
                    )
                    for bucket in page
                ),
            ),
            xml.maybe("ContinuationToken", following),
            xml.maybe("Prefix", prefix),
        )
    )
