"""Objects written whole, and deleted: one, or many in one request."""

from __future__ import annotations

import asyncio

from hansa.errors import HansaError
from hansa.gateways.s3.answers import Answer, empty
from hansa.gateways.s3.answers import xml as xml_answer
from hansa.gateways.s3.calls.bypassing import Leaving, Passing, may_remove
from hansa.gateways.s3.calls.intake import read_document, take
from hansa.gateways.s3.calls.lookup import is_version_id, version_id
from hansa.gateways.s3.calls.permission import allow
from hansa.gateways.s3.calls.writing import drafted, new_version_id, publish_whole, replicated, written_headers
from hansa.gateways.s3.gateway import Call
from hansa.gateways.s3.refusals import translated
from hansa.gateways.s3.rules import locks
from hansa.gateways.s3.wire import documents
from hansa.gateways.s3.wire.conditions import DeleteConditions, WriteConditions
from hansa.gateways.s3.wire.documents import Deleted, Doomed
from hansa.gateways.s3.wire.errors import S3Error
from hansa.objectindex.records import Facts, NewVersion, Removed, Version, Versioning

OFFSET = "x-amz-write-offset-bytes"
DELETIONS_AT_ONCE = 64  # of one request: so many share a flush of the index


async def put_object(call: Call) -> Answer:
    allow(call)
    if OFFSET in call.request.headers:
        raise S3Error.of("NotImplemented", f"{OFFSET}: nothing is appended to an object here; it is written whole.")
    conditions = WriteConditions.read(call.request.headers)
    draft = await drafted(call)
    version = await publish_whole(call, draft, await take(call, draft.sealing), conditions)
    return empty(200, written_headers(call, version))


# -- deletion -----------------------------------------------------------------------------------


async def delete_object(call: Call) -> Answer:
    id = version_id(call)
    conditions = DeleteConditions.read(call.request.headers)
    passing = await may_remove(call, [Leaving(call.key, id, conditions.check_version)] if id else ())
    removed = await _delete(call, call.key, id, conditions, passing)
    return empty(204, _told(call, id, removed))


def _told(call: Call, id: str, removed: Removed) -> dict[str, str]:
    marker = removed.marker or removed.version
    found = {"x-amz-version-id": id} if id else {}
    if removed.marker is not None and call.bucket.versioning is not Versioning.NEVER:
        found = {"x-amz-version-id": removed.marker.id}
    if marker is not None and marker.marker:
        found["x-amz-delete-marker"] = "true"
    return found


async def _delete(call: Call, key: str, id: str, conditions: DeleteConditions, passing: Passing) -> Removed:
    """One object, or one version of it. Raises AccessDenied for what is locked or not theirs, PreconditionFailed."""
    action = "s3:DeleteObjectVersion" if id else "s3:DeleteObject"
    gateway, bucket = call.gateway, call.bucket
    version = None
    if call.known.access.policy is not None:  # its conditions may look at the tags of what is there
        version = await gateway.index.get(bucket.uid, key, id)
    allow(call, version=version, action=action, key=key)
    if id:
        return await _remove(call, key, id, conditions, bypass=(key, id) in passing)
    marker = NewVersion(bucket.uid, key, new_version_id(), gateway.clock.now(), marker=True, facts=_owned(call))
    marker, events = replicated(call, marker)
    return await gateway.index.lay_marker(
        marker, bucket.versioning, project=bucket.project, check=conditions.check_version, events=events
    )


def _owned(call: Call) -> Facts:
    owner = call.known.access.acl.owner
    return Facts(owner=owner.id, owner_name=owner.name)


async def _remove(call: Call, key: str, id: str, conditions: DeleteConditions, *, bypass: bool) -> Removed:
    gateway, bucket = call.gateway, call.bucket
    now = await gateway.index.floor(call.now) if bucket.locking else call.now

    def check(version: Version | None) -> None:
        conditions.check_version(version)
        if version is not None:
            locks.check_removal(version.facts.lock, bypass=bypass, now=now)

    return await gateway.index.remove(bucket.uid, key, id, project=bucket.project, check=check)


async def delete_objects(call: Call) -> Answer:
    """Each for itself: what may not be deleted is told of, and hinders none of the others. But where the audit takes no
    record of retentions that are passed by, nothing is deleted."""
    deletion = documents.read_deletion(await read_document(call, proven=True, most=documents.DELETE_BYTES_MAX))
    call.decided = True  # one by one, below
    passing = await may_remove(call, [_leaving(doomed) for doomed in deletion.objects if doomed.version_id])
    gate = asyncio.Semaphore(DELETIONS_AT_ONCE)
    outcomes = await asyncio.gather(*(_one_of_many(call, doomed, gate, passing) for doomed in deletion.objects))
    deleted = [outcome for outcome in outcomes if isinstance(outcome, Deleted)]
    refused = [
        (doomed, outcome)
        for doomed, outcome in zip(deletion.objects, outcomes, strict=True)
        if isinstance(outcome, S3Error)
    ]
    return xml_answer(documents.write_deletion(() if deletion.quiet else deleted, refused))


def _leaving(doomed: Doomed) -> Leaving:
    def check(version: Version | None) -> None:
        DeleteConditions.of(doomed).check_version(version)

    return Leaving(doomed.key, doomed.version_id, check)


async def _one_of_many(
    call: Call, doomed: Doomed, gate: asyncio.Semaphore, passing: Passing
) -> Deleted | S3Error:  # fmt: skip
    if doomed.version_id and not is_version_id(doomed.version_id):
        return S3Error.of("NoSuchVersion")
    async with gate:
        try:
            removed = await _delete(call, doomed.key, doomed.version_id, DeleteConditions.of(doomed), passing)
        except S3Error as error:
            return error
        except HansaError as error:
            return translated(error)
    marker = removed.marker or removed.version
    laid = marker.id if marker is not None and marker.marker else ""
    return Deleted(doomed.key, doomed.version_id, laid)
