"""Buckets and encryption keys: how they are born, what may change, and how a bucket goes with nothing in it.

A bucket is Ready from its first moment: it is a row here, and what is in it stands in the object index. Before its
deletion is marked it is closed there, which succeeds only while it holds nothing; from then on it takes nothing. One
that goes with its project is emptied first, as far as locks allow.
"""

from __future__ import annotations

import secrets

from hansa.control.draining import Draining
from hansa.control.machine_parts import forbidden_territories
from hansa.control.outcome import Outcome, born_ready, conditions
from hansa.control.world import World
from hansa.dates import rfc3339
from hansa.errors import AlreadyExists, Bug, Conflict, FieldError, ImmutableField, InUse, Invalid
from hansa.kinds.bucketrules import ReplicationRule
from hansa.kinds.fleet import Region
from hansa.kinds.iam import Project
from hansa.kinds.resource import AnyResource, Key
from hansa.kinds.storage import GENERATIONS_MAX, MATERIAL, Bucket, BucketSpec, EncryptionKey, material_name
from hansa.objectindex.contents import contents_of
from hansa.objectindex.records import Held
from hansa.store.port import NAMES, Birth, Claim, Reserve, SetSecret, SetStatus, Wake, Write
from hansa.units import human_size

KEY_BYTES = 32
DRAIN_AGAIN_S = 0.2
LOCKED_AGAIN_S = 600.0
REPLICATED = ("Versioned", "Locking")


# -- births ---------------------------------------------------------------------------------------


async def bucket_born(it: AnyResource, world: World) -> Birth:
    """Raises Invalid for a region that has no store here, AlreadyExists for a name that anybody in the region has."""
    bucket, scope = _bucket(it), name_scope(it.key)
    _check_place(bucket.key.region or "", world)
    if await world.store.claims(scope):
        raise AlreadyExists(
            f"AlreadyExists: the name {it.name} is taken; buckets of all tenants share the names of a region"
        )
    await _check(_as_born(bucket, world), None, world)
    writes: list[Write] = [Reserve(it.uid, (Claim(scope, "bucket"),))]
    home = await world.get(Project, Key(Project.kind, "", it.key.project or ""))
    if home is not None and await world.store.secret(home.uid, MATERIAL) is None:
        writes.append(Wake(home.key))  # a project of before there were buckets: it is given its key
    status = born_ready(world.clock.now(), access=world.settings.s3_acl)
    return Birth(status, observed=1, also=tuple(writes), due=False)


def _check_place(region: str, world: World) -> None:
    """What is in a bucket lies in its region and nowhere else, so there must be a store that lies there."""
    if not world.settings.s3_stores_in(region):
        stored = ", ".join(world.settings.s3_stored_regions)
        rule = f"there is no store for objects in {region}; there is one in {stored}"
        raise Invalid.field("metadata.region", rule)


def _as_born(bucket: Bucket, world: World) -> Bucket:
    """With the defaults that it is born with."""
    return Bucket(bucket.stored.with_status({"access": world.settings.s3_acl}))


async def encryption_key_born(it: AnyResource, world: World) -> Birth:
    return Birth(born_ready(world.clock.now()), observed=1, also=(fresh_material(it.uid, world),), due=False)


def fresh_material(uid: str, world: World) -> SetSecret:
    """A new key for the bytes of objects, sealed; it belongs to a project or an EncryptionKey."""
    return _material(uid, MATERIAL, world)


def _material(uid: str, name: str, world: World) -> SetSecret:
    return SetSecret(uid, name, world.sealer.seal(secrets.token_bytes(KEY_BYTES), f"{uid}/{name}"))


def encryption_key_rotated(it: EncryptionKey, world: World) -> tuple[Write, ...]:
    """A new generation of its material. The ones before stay: objects lie under them. Raises Conflict."""
    generation = it.status.generation + 1
    if not it.spec.enabled:
        raise Conflict(f"{it.name} is disabled: enable it first")
    if generation > GENERATIONS_MAX:
        raise Conflict(f"{it.name} has {GENERATIONS_MAX} generations, the most there are: make a new key")
    changed = {"generation": generation, "rotatedAt": rfc3339(world.clock.now())}
    revision = it.stored.revision
    written = SetStatus(
        it.key, it.generation, {**it.stored.status, **changed}, lease=None, wake=True, revision=revision
    )  # fmt: skip
    return written, _material(it.uid, material_name(generation), world)


def name_scope(key: Key) -> str:
    """The scope of the one claim that says whose a bucket's name is."""
    return f"{NAMES}buckets/{key.region}/{key.name}"


# -- changes --------------------------------------------------------------------------------------


async def bucket_amended(old: AnyResource, new: AnyResource, world: World) -> tuple[Write, ...]:
    before, after = _bucket(old), _bucket(new)
    _check_mode(before.spec, after.spec)
    await _check(after, before, world)
    return ()


def _check_mode(old: BucketSpec, new: BucketSpec) -> None:
    """What was versioned once holds versions for ever; what locks once may hold locks."""
    was, becomes = old.object_retention_mode, new.object_retention_mode
    if was in (becomes, "Disabled") or (was != "Locking" and becomes != "Disabled"):
        return
    rule = "may not change any more once it is Locking" if was == "Locking" else "may not be Disabled again"
    path = "spec.objectRetentionMode"
    raise ImmutableField(f"{path}: {rule} (is {was}, given {becomes})", fields=(FieldError(path, rule),))


async def _check(bucket: Bucket, before: Bucket | None, world: World) -> None:
    """Rules that need more than the fields. Raises Invalid, Forbidden."""
    world.judge_bucket(bucket, before)
    for number, rule in enumerate(bucket.spec.replication.rules if bucket.spec.replication else ()):
        await _check_replication(bucket, rule, f"spec.replication.rules[{number}].destination", world)


async def _check_replication(bucket: Bucket, rule: ReplicationRule, path: str, world: World) -> None:
    """The destination is there, keeps versions, and lies where the project's bytes may lie."""
    target = await destination_of(bucket, rule, world)
    if target is None:
        where = f" in {rule.destination.region}" if rule.destination.region else ""
        raise Invalid.field(
            f"{path}.bucket", f"there is no other bucket {rule.destination.bucket} of this project{where}"
        )
    if target.spec.object_retention_mode not in REPLICATED:
        raise Invalid.field(f"{path}.bucket", f"{target.name} keeps no versions: set its objectRetentionMode first")
    region = await world.get(Region, Key(Region.kind, "", target.key.region or ""))
    territory = region.spec.country if region is not None else ""
    for _, why in await forbidden_territories(bucket.key, {territory}, world):
        raise Invalid.field(f"{path}.bucket", why)


async def destination_of(bucket: Bucket, rule: ReplicationRule, world: World) -> Bucket | None:
    """The bucket of the same project that a rule names: in the region it names, in the source's, or in the only other."""
    named, own = rule.destination, f"{bucket.key.project}"
    found = [
        b
        for b in await world.all(Bucket, f"projects/{own}", below=True)
        if b.name == named.bucket and b.uid != bucket.uid and not b.deleting
        and named.region in (None, b.key.region)
    ]  # fmt: skip
    home = [b for b in found if b.key.region == bucket.key.region]
    if home or len(found) == 1:
        return (home or found)[0]
    return None


# -- ends -----------------------------------------------------------------------------------------


async def bucket_guard(it: AnyResource, world: World) -> None:
    """Raises InUse for a bucket that holds anything."""
    held = await world.buckets.held(it.uid)
    if held.versions or held.uploads:
        raise _not_empty(it, held)


async def bucket_closed(it: AnyResource, world: World) -> None:
    """Takes it out of use in the object index. Raises InUse when something came into it meanwhile."""
    if not await world.buckets.close_bucket(it.uid):
        raise _not_empty(it, await world.buckets.held(it.uid))


async def bucket_reopened(it: AnyResource, world: World) -> None:
    await world.buckets.reopen_bucket(it.uid)


async def project_guard(it: AnyResource, world: World) -> None:
    """A project's buckets are emptied by who owns what is in them, not in passing."""
    for bucket in await _buckets_of(it, world):
        await bucket_guard(bucket, world)


async def project_closed(it: AnyResource, world: World) -> None:
    """Closes all of its buckets, or none."""
    closed: list[Bucket] = []
    for bucket in await _buckets_of(it, world):
        if not await world.buckets.close_bucket(bucket.uid):
            for each in closed:
                await world.buckets.reopen_bucket(each.uid)
            raise _not_empty(bucket, await world.buckets.held(bucket.uid))
        closed.append(bucket)


async def project_reopened(it: AnyResource, world: World) -> None:
    for bucket in await _buckets_of(it, world):
        await world.buckets.reopen_bucket(bucket.uid)


async def _buckets_of(project: AnyResource, world: World) -> list[Bucket]:
    return [b for b in await world.all(Bucket, f"projects/{project.name}", below=True) if not b.deleting]


def _not_empty(it: AnyResource, held: Held) -> InUse:
    what = f"{held.versions} versions ({human_size(held.bytes)}) and {held.uploads} unfinished uploads"
    return InUse(f"BucketNotEmpty: bucket {it.name} holds {what}: remove them first")


# -- reconcilers ----------------------------------------------------------------------------------


class Buckets:
    """A living bucket is looked at when it holds other amounts than before, so that they are metered; one that goes is
    closed and, where it was told to go with all, emptied."""

    kind = Bucket

    def __init__(self) -> None:
        self._draining = Draining()

    async def reconcile(self, it: AnyResource, world: World) -> Outcome:
        if not it.deleting:
            contents = contents_of(await world.buckets.held(it.uid))
            return Outcome(it.status.model_copy(update={"contents": contents}))
        if await world.buckets.close_bucket(it.uid):
            return Outcome(gone=True)
        now = await world.buckets.floor(world.clock.now())
        drained = await self._draining.drain(world.buckets, it.uid, it.key.project or "", now)
        held = await world.buckets.held(it.uid)
        message = f"{held.versions} versions and {held.uploads} uploads in it are being removed"
        if drained.locked:
            message += f"; {drained.locked} are locked and stay until their time is over"
        said = conditions(it, world.clock.now(), False, "WaitingForContents", message)
        again_in_s = LOCKED_AGAIN_S if drained.over and drained.locked else DRAIN_AGAIN_S
        return Outcome(it.status.model_copy(update={"conditions": said}), again_in_s=again_in_s)


class EncryptionKeys:
    """What lies under a key that goes is unreadable from then on: that is what its deletion is for."""

    kind = EncryptionKey

    async def reconcile(self, it: AnyResource, world: World) -> Outcome:
        return Outcome(gone=it.deleting)


def _bucket(it: AnyResource) -> Bucket:
    if not isinstance(it, Bucket):
        raise Bug(f"{it.key} is no bucket")
    return it
