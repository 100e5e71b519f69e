"""What is attached to one version of an object and may be changed without writing it anew: tags, locks, grants.

Each change is one amendment of the index: the version is looked at and the permission asked for before, and what it
must not break (a lock) is looked at again inside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hansa.gateways.s3.answers import Answer, empty
from hansa.gateways.s3.answers import xml as xml_answer
from hansa.gateways.s3.calls.bypassing import may_weaken
from hansa.gateways.s3.calls.grants import body_acl, object_acl, people, write_acl
from hansa.gateways.s3.calls.heads import version_header
from hansa.gateways.s3.calls.intake import read_document
from hansa.gateways.s3.calls.lookup import absent, present, seen, version_id
from hansa.gateways.s3.calls.permission import allow
from hansa.gateways.s3.gateway import Call
from hansa.gateways.s3.rules import acl, locks, publicaccess, replication
from hansa.gateways.s3.rules.tagging import object_tags
from hansa.gateways.s3.wire import documents
from hansa.gateways.s3.wire.dates import iso_date
from hansa.gateways.s3.wire.errors import S3Error
from hansa.objectindex.records import Facts, Lock, Version


async def amended(call: Call, change: Callable[[Version], Facts]) -> Version:
    """The version with its new facts. Raises NoSuchKey when it went meanwhile, and what `change` raises: it is asked of
    an object only, never of a marker that was laid meanwhile. Where a rule of replication took the version, the change
    stands in the outbox in the same commit."""
    id, known = version_id(call), call.known.replication
    rules = known.rules if known is not None else ()

    def changed(found: Version) -> Facts:
        facts = change(present(call, found, id))
        return replication.changed(rules, replace(found, facts=facts)) if facts != found.facts else facts

    version = await call.gateway.index.amend(call.bucket.uid, call.key, id, changed, replication.events_of)
    if version is None:
        raise absent(call, id)
    return version


def _about(call: Call, version: Version, status: int = 200) -> Answer:
    return empty(status, version_header(version, call.bucket.versioning))


# -- tags ---------------------------------------------------------------------------------------


async def get_tagging(call: Call) -> Answer:
    version = await seen(call)
    answer = xml_answer(documents.write_tagging(version.facts.tags))
    return answer.extend(version_header(version, call.bucket.versioning))


async def put_tagging(call: Call) -> Answer:
    version = await _named(call)
    try:
        tags = object_tags(documents.read_tagging(await read_document(call)))
    except S3Error:
        allow(call, version=version)  # what is wrong with tags is nothing to who may set none
        raise
    allow(call, version=version, tags=tags)
    present(call, version, version_id(call))
    return _about(call, await amended(call, lambda found: replace(found.facts, tags=tags)))


async def delete_tagging(call: Call) -> Answer:
    await seen(call)
    return _about(call, await amended(call, lambda found: replace(found.facts, tags=())), 204)


async def _named(call: Call) -> Version | None:
    return await call.gateway.index.get(call.bucket.uid, call.key, version_id(call))


# -- locks --------------------------------------------------------------------------------------


async def get_retention(call: Call) -> Answer:
    version = await _lockable(call)
    lock = locks.retention_of(version.facts.lock)
    return xml_answer(documents.write_retention(documents.Retention(lock.mode, lock.until)))


async def put_retention(call: Call) -> Answer:
    seen_now = await _lockable(call)
    asked = documents.read_retention(await read_document(call, proven=True))
    now = await call.gateway.index.floor(call.now)
    new = locks.retention(asked.mode, iso_date(asked.until), now) if asked.mode else Lock()
    passes = await may_weaken(call, seen_now, new, now)

    def change(version: Version) -> Facts:
        bypass = passes and version.id == seen_now.id
        return replace(version.facts, lock=locks.with_retention(version.facts.lock, new, bypass=bypass, now=now))

    return _about(call, await amended(call, change))


async def get_legal_hold(call: Call) -> Answer:
    version = await _lockable(call)
    return xml_answer(documents.write_legal_hold(locks.hold_of(version.facts.lock)))


async def put_legal_hold(call: Call) -> Answer:
    await _lockable(call)
    on = documents.read_legal_hold(await read_document(call, proven=True))

    def held(version: Version) -> Facts:
        return replace(version.facts, lock=replace(version.facts.lock, hold=on))

    return _about(call, await amended(call, held))


async def _lockable(call: Call) -> Version:
    version = await seen(call)
    if not call.bucket.locking:
        raise locks.no_configuration()
    return version


# -- grants -------------------------------------------------------------------------------------


async def get_acl(call: Call) -> Answer:
    version = await seen(call)
    answer = xml_answer(write_acl(object_acl(call.known.access, version)))
    return answer.extend(version_header(version, call.bucket.versioning))


async def put_acl(call: Call) -> Answer:
    version = await seen(call)
    headers = call.request.headers
    body = await read_document(call)
    known = call.known
    if known.access.ownership is acl.Ownership.ENFORCED:
        acl.check_allowed(acl.Ownership.ENFORCED, headers)
        if body:
            raise S3Error.of("AccessControlListNotSupported")
        return _about(call, version)
    old = object_acl(known.access, version)
    acl.check_said_once(headers, body=bool(body))
    if not body:
        owner = acl.Person(call.bucket.owner, call.bucket.owner_name)
        new = acl.acl_of_new(headers, old.owner, people(call.gateway), bucket_owner=owner)
    else:
        new = body_acl(call, old, body)
    publicaccess.check_acl(known.access.block, new)
    return _about(call, await amended(call, lambda found: replace(found.facts, acl=new.grants)))
