"""The grant rule: nobody gives what they do not hold.

It is asked wherever somebody would come to hold more: a role binding, a permission set, a key for a service
account, a password for a person. What the giver holds is read afresh, never remembered from a second ago.
Taking away is no giving: it takes the permission alone.
"""

from __future__ import annotations

from collections.abc import Iterable

from hansa.api.admission import Gate
from hansa.api.caller import caller_of, granted, principal
from hansa.clock import Ids
from hansa.dates import rfc3339
from hansa.errors import Forbidden, Invalid, NotFound
from hansa.kinds.bindings import ROLE, BoundRole, PermissionSet, RoleBinding, grants_scope, id_for
from hansa.kinds.compute import CustomDiskImage
from hansa.kinds.iam import Project, ServiceAccount, ServiceAccountCredential
from hansa.kinds.registry import full_ref
from hansa.kinds.resource import AnyResource, Condition, Key
from hansa.kinds.storage import Bucket, BucketServiceAccount, S3Key, closed_to_acls
from hansa.policy.access import LENT_BUCKET, OBJECTS, ORGANIZATION, PROJECT_OWNER, ROLES, held, not_held
from hansa.policy.decide import decide
from hansa.policy.keys import as_bucket_account, objects_in, reach
from hansa.policy.verdict import Act, Caller, Grant, Rules, Subject
from hansa.store.port import Claim, Create, LinkTo, Reserve, Store, Write

SHOWN = 3  # permissions that a refusal names


async def check_grants(gate: Gate, caller: Caller, it: AnyResource, before: AnyResource | None = None) -> None:
    """Raises Forbidden when writing `it` (in the place of `before`) gives what the caller does not hold.

    Raises Invalid for a role that is none, or of another scope.
    """
    if isinstance(it, RoleBinding):
        _check_named(it.spec.roles, it.key.scope)
    if isinstance(it, (RoleBinding, PermissionSet)):
        old = granted(before) if before is not None else []
        await check_holds(gate, caller, [grant for grant in granted(it) if grant not in old])
    if isinstance(it, ServiceAccountCredential):
        account = Key(ServiceAccount.kind, f"projects/{it.key.project}", it.key.part("serviceAccounts") or "")
        try:
            who = await caller_of(gate.store, ServiceAccount(await gate.store.get(account)))
        except NotFound:
            return  # the store refuses a key without an account
        await check_holds(gate, caller, held(who))
    if isinstance(it, S3Key) and before is None:
        await check_key(gate, caller, it)
    if isinstance(it, BucketServiceAccount):
        await check_holds(gate, caller, as_bucket_account(it).grants)
    if isinstance(it, CustomDiskImage) and before is None:
        await check_reads(gate, caller, it)
    if isinstance(it, Bucket) and _opening(it) != _opening(before) and not _is_lent(caller, it):
        await check_opens(gate, caller, it)


async def check_key(gate: Gate, caller: Caller, it: S3Key) -> None:
    """Who makes or turns a key holds as much as it reaches. Raises Forbidden, Invalid for a role that is none."""
    _check_named(it.spec.roles or (), it.key.scope)
    await check_holds(gate, caller, reach(it))


async def check_reads(gate: Gate, caller: Caller, it: CustomDiskImage) -> None:
    """A disk shows what is in its image: who makes one may read the bucket. Raises Forbidden."""
    bucket = full_ref(it.spec.source.bucket_ref, (Bucket.kind,), it.key.scope)
    subject = await _contents(gate, it.key.project or "", bucket)
    gate.refuse(decide(caller, Act.READ, subject, Rules()), subject)


async def check_opens(gate: Gate, caller: Caller, it: Bucket) -> None:
    """A bucket's policy and grants let others at what is in it: they are set by who may do all of that. Raises Forbidden."""
    subject = await _contents(gate, it.key.project or "", it.ref)
    for act in (Act.READ, Act.CREATE, Act.UPDATE, Act.DELETE):
        gate.refuse(decide(caller, act, subject, Rules()), subject)


async def _contents(gate: Gate, project: str, bucket: str) -> Subject:
    ref = objects_in(bucket)
    return Subject(OBJECTS, ref.rpartition("/")[2], project, await gate.organization_of(project), ref=ref)


def _is_lent(caller: Caller, it: Bucket) -> bool:
    """Whoever the bucket's own policy or ACL lets change these may: its owner gave that."""
    return any(grant.role == LENT_BUCKET and it.ref in grant.resources for grant in caller.grants)


def _opening(it: AnyResource | None) -> tuple[object, ...]:
    """What of a bucket says who gets at what is in it besides its project's roles. None: a bucket that is not there yet."""
    if not isinstance(it, Bucket):
        return None, None, False, ()
    spec, acl = it.spec, it.spec.acl
    owner = acl.owner.id if acl is not None and acl.owner is not None else ""
    others = tuple((g.grantee, g.permission) for g in (acl.grants if acl is not None else ()) if g.grantee != owner)
    return spec.policy, spec.public_access_block, not closed_to_acls(it), (owner, others) if others else ()


async def check_import(gate: Gate, caller: Caller, it: AnyResource) -> None:
    """A pair from elsewhere carries a name by which others grant rights: the operator alone vouches for it."""
    if isinstance(it, S3Key) and it.spec.imported is not None and not await gate.operates(caller):
        raise Forbidden("only the operator of this cloud may import key pairs")


async def check_holds(gate: Gate, caller: Caller, given: Iterable[Grant]) -> None:
    """Raises Forbidden naming what of these the caller does not hold, and for one who acts with a key of S3."""
    wanted = list(given)
    if not wanted:
        return
    if caller.within is not None:
        raise Forbidden(f"{caller.via} is a key of S3, and gives nothing to anybody")
    try:
        now = await caller_of(gate.store, await principal(gate.store, caller.ref))
    except NotFound as error:
        raise Forbidden(f"{caller.ref} is not there any more, and gives nothing") from error
    for grant in wanted:
        what, _, name = grant.scope.partition("/")
        organization = name if what == ORGANIZATION else await gate.organization_of(name)
        if missing := not_held(now, grant, organization):
            more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
            where = f"on {grant.scope}" + (f" for {', '.join(grant.resources)}" if grant.resources else "")
            raise Forbidden(
                f"{grant.role} {where} holds {', '.join(missing[:SHOWN])}{more}, which you do not hold there: "
                "nobody gives what they do not hold (rule grants)"
            )


def _check_named(roles: Iterable[BoundRole], scope: str) -> None:
    what, _, _ = scope.partition("/")
    for number, bound in enumerate(roles):
        path = f"spec.roles[{number}].name"
        role = ROLES.get(bound.role)
        if role is None:
            raise Invalid.field(path, f"there is no role {bound.role[:64]!r}; GET /iam/v1beta1/roles lists them")
        if role.scope != what:
            raise Invalid.field(path, f"{role.name} is a role of {role.scope}, and this is on {scope}")
        for pattern in bound.resources or ():
            if "/".join(pattern.split("/")[2:4]) != scope:
                raise Invalid.field(f"spec.roles[{number}].resources", f"{pattern} lies outside {scope}")


async def first_owner(store: Store, ids: Ids, caller: Caller, project: AnyResource, now: float) -> tuple[Write, ...]:
    """The binding that makes the maker of a new project its owner, unless they own the organisation anyway."""
    place = Subject(Project.kind, project.name, project.name, project.spec.organization)
    if decide(caller, Act.DELETE, place, Rules()).allowed:
        return ()
    who = await principal(store, caller.ref)
    key, uid = Key(RoleBinding.kind, f"projects/{project.name}", id_for(who.ref)), ids.uid()
    spec = {"principal": who.ref, "roles": [{"name": f"{ROLE}{PROJECT_OWNER}"}]}
    scope = grants_scope(who.uid)
    link = LinkTo(who.key, "spec.principal", holds=False, free=False)
    ready = Condition(
        type="Ready", status="True", reason="Available", last_transition_time=rfc3339(now), observed_generation=1
    )
    writes: list[Write] = [
        Create(
            key, uid, spec, {"conditions": [ready.wire()]}, parents=(project.key,), links=(link,), observed=1, due=False
        ),
        Reserve(uid, (Claim(scope, uid),)),
    ]
    if isinstance(who, ServiceAccount):
        writes.append(Reserve(who.uid, (Claim(scope, "bound"),)))
    return tuple(writes)
