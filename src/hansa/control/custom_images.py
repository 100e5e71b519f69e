"""Images that tenants bring in a bucket: registered once the object is there and its account may read it.

Nothing of the image itself is looked at here: that is the sandbox's, when a disk is made of it. What a disk is made of
is one version of one object, settled in the commit that takes the disk's room, so that it stays the same whatever
becomes of the image, the account or the key meanwhile.
"""

from __future__ import annotations

from typing import Any

from hansa.control.outcome import FAILED_AGAIN_S, Outcome, Trouble, conditions
from hansa.control.world import World
from hansa.engines.ports import ImageFormat, Upload
from hansa.kinds.compute import CustomDiskImage
from hansa.kinds.registry import full_ref
from hansa.kinds.resource import AnyResource, Status
from hansa.kinds.storage import Bucket, BucketServiceAccount
from hansa.objectindex.records import Version
from hansa.units import DISK_BYTES_MAX, human_size

LOOK_AGAIN_S = 5.0


class CustomDiskImages:
    kind = CustomDiskImage

    async def reconcile(self, it: AnyResource, world: World) -> Outcome:
        assert isinstance(it, CustomDiskImage)
        if it.deleting:
            return Outcome(gone=True)
        found, now = await upload_of(it, world), world.clock.now()
        if isinstance(found, Trouble):
            said = conditions(it, now, False, found.reason, found.message)
            return Outcome(Status(conditions=said), again_in_s=found.again_in_s)
        return Outcome(
            Status(conditions=conditions(it, now, True, "Available", "registered; a disk made of it checks it"))
        )


async def upload_of(it: CustomDiskImage, world: World) -> Upload | Trouble:
    """The version of the object that it names now, as its account may read it; or why there is none."""
    source, scope = it.spec.source, it.key.scope
    bucket = await world.follow(Bucket, full_ref(source.bucket_ref, ("Bucket",), scope))
    account = await world.follow(
        BucketServiceAccount, full_ref(source.service_account_ref, ("BucketServiceAccount",), scope)
    )
    if bucket is None or bucket.deleting:
        return Trouble("ReferenceInvalid", f"{source.bucket_ref} is not there any more", FAILED_AGAIN_S)
    if account is None or account.deleting:
        return Trouble("ReferenceInvalid", f"{source.service_account_ref} is not there any more", FAILED_AGAIN_S)
    if bucket.name not in account.spec.buckets:
        message = f"{account.name} may not read bucket {bucket.name}: add it to its spec.buckets"
        return Trouble("ReferenceInvalid", message, FAILED_AGAIN_S)
    version = await world.buckets.get(bucket.uid, source.path, source.version or "")
    if version is None or version.marker:
        which = f"version {source.version} of " if source.version else ""
        return Trouble("WaitingForReference", f"there is no {which}object {source.path} in {bucket.name}", LOOK_AGAIN_S)
    return _readable(it, bucket, version)


def _readable(it: CustomDiskImage, bucket: Bucket, version: Version) -> Upload | Trouble:
    encryption = version.facts.encryption
    if encryption is not None and encryption.mode == "SSE-C":
        return Trouble(
            "ReferenceInvalid", "the object is encrypted with a key that only its writer has", FAILED_AGAIN_S
        )
    if not 0 < version.size <= DISK_BYTES_MAX:
        message = f"the object has {human_size(version.size)}; an image has something, and at most {human_size(DISK_BYTES_MAX)}"
        return Trouble("ReferenceInvalid", message, FAILED_AGAIN_S)
    return Upload(
        bucket.key.project or "", bucket.key.region or "", bucket.uid, version.key, version.id,
        ImageFormat(it.spec.source.ending), version.size,
    )  # fmt: skip


def upload_words(upload: Upload) -> dict[str, Any]:
    """As a disk's status remembers it."""
    return {"project": upload.project, "region": upload.region, "bucket": upload.bucket, "key": upload.key,
            "version": upload.version, "format": str(upload.format), "size_bytes": upload.size_bytes}  # fmt: skip


def upload_in(words: dict[str, Any]) -> Upload:
    return Upload(**{**words, "format": ImageFormat(words["format"])})
