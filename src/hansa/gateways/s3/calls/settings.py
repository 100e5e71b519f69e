"""The settings of a bucket, one subresource each: read from its spec, written back to it by the control plane.

The spec is the one truth, so a write here is a merge patch of one or two of its fields, decided and audited like any
other, and shows in `hansa get`. What S3 knows and we do not offer can be read (it is not configured) and not be written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hansa.gateways.s3.answers import Answer, empty
from hansa.gateways.s3.answers import xml as xml_answer
from hansa.gateways.s3.calls.grants import body_acl, people, write_acl
from hansa.gateways.s3.calls.intake import read_document
from hansa.gateways.s3.calls.known import default_block, policy_text
from hansa.gateways.s3.calls.permission import allow
from hansa.gateways.s3.gateway import Call, Serve
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
from hansa.gateways.s3.rules.tagging import bucket_tags
from hansa.gateways.s3.wire import bucketrules, configurations, documents, xml
from hansa.gateways.s3.wire.errors import S3Error
from hansa.objectindex.records import Versioning

_JSON = (b"content-type", b"application/json")


async def _patched(call: Call, merge: Mapping[str, Any], status: int = 200) -> Answer:
    call.view = await call.gateway.upstream.patch_bucket(call.who, call.bucket, merge, lent=call.lent)
    return empty(status)


def _taking_away(merge: Mapping[str, Any]) -> Serve:
    async def delete(call: Call) -> Answer:
        allow(call)
        return await _patched(call, merge, 204)

    return delete


# -- versioning and locks -----------------------------------------------------------------------

_STATES = {Versioning.NEVER: "", Versioning.ENABLED: "Enabled", Versioning.SUSPENDED: "Suspended"}


async def get_versioning(call: Call) -> Answer:
    allow(call)
    return xml_answer(documents.write_versioning(_STATES[call.bucket.versioning]))


async def put_versioning(call: Call) -> Answer:
    allow(call)
    asked = documents.read_versioning(await read_document(call))
    if asked.mfa_delete == "Enabled":
        raise S3Error.of("NotImplemented", "Deletion with a second factor is not supported here.")
    if not asked.status:
        raise S3Error.of("IllegalVersioningConfigurationException", "Status: must be Enabled or Suspended.")
    if call.bucket.locking:
        if asked.status == "Suspended":
            raise S3Error.of("InvalidBucketState", "Versioning cannot be suspended on a bucket with object lock.")
        return empty()
    return await _patched(call, {"objectRetentionMode": "Versioned" if asked.status == "Enabled" else "Suspended"})


async def get_object_lock(call: Call) -> Answer:
    allow(call)
    if not call.bucket.locking:
        raise S3Error.of("ObjectLockConfigurationNotFoundError", BucketName=call.bucket.name)
    return xml_answer(documents.write_lock_setting(call.known.locking))


async def put_object_lock(call: Call) -> Answer:
    allow(call)
    asked = documents.read_lock_setting(await read_document(call, proven=True))
    locks.check_setting(asked)
    locks.check_lockable(versioned=call.bucket.versioning is Versioning.ENABLED)
    written = locks.document_of(asked) if asked.mode else None
    return await _patched(call, {"objectRetentionMode": "Locking", "defaultObjectLocking": written})


# -- lifecycle, replication ---------------------------------------------------------------------


async def get_lifecycle(call: Call) -> Answer:
    allow(call)
    if not call.known.lifecycle:
        raise S3Error.of("NoSuchLifecycleConfiguration", BucketName=call.bucket.name)
    return xml_answer(bucketrules.write_lifecycle(call.known.lifecycle))


async def put_lifecycle(call: Call) -> Answer:
    allow(call)
    rules = bucketrules.read_lifecycle(await read_document(call))
    return await _patched(call, {"lifecyclePolicy": lifecyclespec.policy_of(lifecyclespec.checked(rules))})


delete_lifecycle = _taking_away({"lifecyclePolicy": None})


async def get_replication(call: Call) -> Answer:
    allow(call)
    found = call.known.replication
    if found is None:
        raise S3Error.of("ReplicationConfigurationNotFoundError", BucketName=call.bucket.name)
    return xml_answer(bucketrules.write_replication(found))


async def put_replication(call: Call) -> Answer:
    allow(call)
    asked = bucketrules.read_replication(await read_document(call))
    directory, bucket = call.gateway.directory, call.bucket
    await directory.caught_up()  # a bucket to copy to that was made elsewhere just now counts
    found = replication.checked(asked, bucket, directory.bucket, directory.rules_of(bucket.project))
    return await _patched(call, {"replication": replication.document_of(found)})


delete_replication = _taking_away({"replication": None})


# -- policy and the public ----------------------------------------------------------------------


async def get_policy(call: Call) -> Answer:
    allow(call)
    text = policy_text(call.bucket.spec)
    if not text:
        raise S3Error.of("NoSuchBucketPolicy", BucketName=call.bucket.name)
    return Answer(200, [_JSON], text)


async def put_policy(call: Call) -> Answer:
    allow(call)
    body = await read_document(call)
    policy = bucketpolicy.read_policy(body, call.bucket.name)
    publicaccess.check_policy(call.known.access.block, policy)
    return await _patched(call, {"policy": body.decode()}, 204)


delete_policy = _taking_away({"policy": None})


async def get_policy_status(call: Call) -> Answer:
    """Whether policy or grants let everybody in."""
    allow(call)
    access = call.known.access
    by_policy = access.policy is not None and access.policy.is_public and not access.block.restrict_buckets
    by_grants = access.acl.is_public and not access.block.ignore_acls
    return xml_answer(configurations.write_policy_status(by_policy or by_grants))


async def get_public_access_block(call: Call) -> Answer:
    allow(call)
    if not publicaccess.is_configured(call.bucket.spec.get("publicAccessBlock"), default_block(call.bucket)):
        raise S3Error.of("NoSuchPublicAccessBlockConfiguration", BucketName=call.bucket.name)
    return xml_answer(configurations.write_public_access_block(call.known.access.block))


async def put_public_access_block(call: Call) -> Answer:
    allow(call)
    block = configurations.read_public_access_block(await read_document(call))
    return await _patched(call, {"publicAccessBlock": publicaccess.document_of(block)})


delete_public_access_block = _taking_away({"publicAccessBlock": publicaccess.removal()})


# -- ownership and grants -----------------------------------------------------------------------


async def get_ownership(call: Call) -> Answer:
    allow(call)
    named = call.bucket.spec.get("objectOwnership")
    if not named and call.bucket.open:
        raise S3Error.of("OwnershipControlsNotFoundError", BucketName=call.bucket.name)
    return xml_answer(configurations.write_ownership(call.known.access.ownership.value))


async def put_ownership(call: Call) -> Answer:
    allow(call)
    asked = acl.ownership_named(configurations.read_ownership(await read_document(call)))
    acl.check_ownership_change(asked, call.known.access.acl)
    return await _patched(call, {"objectOwnership": asked.value})


delete_ownership = _taking_away({"objectOwnership": None})


async def get_acl(call: Call) -> Answer:
    allow(call)
    return xml_answer(write_acl(call.known.access.acl))


async def put_acl(call: Call) -> Answer:
    allow(call)
    headers, body = call.request.headers, await read_document(call)
    access = call.known.access
    if access.ownership is acl.Ownership.ENFORCED:
        acl.check_allowed(acl.Ownership.ENFORCED, headers)
        if body:
            raise S3Error.of("AccessControlListNotSupported")
        return empty()
    acl.check_said_once(headers, body=bool(body))
    if not body:
        new = acl.acl_of_new(headers, access.acl.owner, people(call.gateway))
    else:
        new = body_acl(call, access.acl, body)
    publicaccess.check_acl(access.block, new)
    return await _patched(call, {"acl": acl.document_of(new)})


# -- CORS, encryption, tags ---------------------------------------------------------------------


async def get_cors(call: Call) -> Answer:
    allow(call)
    rules = call.known.cors
    if not rules:
        raise S3Error.of("NoSuchCORSConfiguration", BucketName=call.bucket.name)
    return xml_answer(configurations.write_cors(rules))


async def put_cors(call: Call) -> Answer:
    allow(call)
    rules = configurations.read_cors(await read_document(call))
    cors.check_rules(rules)
    return await _patched(call, {"cors": cors.document_of(rules)})


delete_cors = _taking_away({"cors": None})


async def get_encryption(call: Call) -> Answer:
    allow(call)
    rule = call.known.encryption
    if rule is None:
        raise S3Error.of("ServerSideEncryptionConfigurationNotFoundError", BucketName=call.bucket.name)
    return xml_answer(configurations.write_encryption(rule))


async def put_encryption(call: Call) -> Answer:
    allow(call)
    rule = configurations.read_encryption(await read_document(call))
    encryptionrules.check_default(rule)
    return await _patched(call, {"encryption": {"key": None, **encryptionrules.document_of(rule)}})


delete_encryption = _taking_away({"encryption": None})


async def get_tagging(call: Call) -> Answer:
    allow(call)
    tags = call.bucket.spec.get("tags")
    if not tags:
        raise S3Error.of("NoSuchTagSet", BucketName=call.bucket.name)
    return xml_answer(documents.write_tagging(tuple((tag["key"], tag.get("value", "")) for tag in tags)))


async def put_tagging(call: Call) -> Answer:
    allow(call)
    tags = bucket_tags(documents.read_tagging(await read_document(call)))
    written = [{"key": key, "value": value} for key, value in tags] or None
    return await _patched(call, {"tags": written}, 204)


delete_tagging = _taking_away({"tags": None})


# -- what is not offered: its read side ---------------------------------------------------------


async def nothing_configured(call: Call) -> Answer:
    """An empty body element, or the error that says that there is none: what a new bucket answers everywhere."""
    allow(call)
    name = call.operation.name
    if name == "GetBucketRequestPayment":
        return xml_answer(xml.document("RequestPaymentConfiguration", xml.element("Payer", "BucketOwner")))
    if name in _EMPTY:
        return xml_answer(xml.document(_EMPTY[name]))
    if name in _LISTS:
        return xml_answer(xml.document(_LISTS[name], xml.flag("IsTruncated", False)))
    code = "NoSuchWebsiteConfiguration" if name == "GetBucketWebsite" else "NoSuchConfiguration"
    raise S3Error.of(code, BucketName=call.bucket.name)


_EMPTY = {
    "GetBucketNotificationConfiguration": "NotificationConfiguration",
    "GetBucketLogging": "BucketLoggingStatus",
    "GetBucketAccelerateConfiguration": "AccelerateConfiguration",
}
_LISTS = {
    "ListBucketInventoryConfigurations": "ListInventoryConfigurationsResult",
    "ListBucketAnalyticsConfigurations": "ListBucketAnalyticsConfigurationsResult",
    "ListBucketMetricsConfigurations": "ListMetricsConfigurationsResult",
    "ListBucketIntelligentTieringConfigurations": "ListIntelligentTieringConfigurationsOutput",
}


async def put_notification(call: Call) -> Answer:
    """Taking all of it away is what clients do to be sure that there is none; more than that is not offered."""
    allow(call)
    root = xml.read(await read_document(call), "NotificationConfiguration")
    if len(root):
        raise S3Error.of("NotImplemented", "Notifications are not supported here.")
    return empty()
