"""Role bindings and permission sets: they hold from the moment they are stored, and go without a trace.

Whom they name is written down as a claim under the principal's uid, in the commit that makes them, so that a
caller's roles are found without a search and never pass to somebody who takes the same name later.
"""

from __future__ import annotations

from hansa.control.outcome import Outcome, born_ready, conditions
from hansa.control.world import World
from hansa.errors import Bug, Invalid
from hansa.kinds.bindings import PermissionSet, RoleBinding, grants_scope
from hansa.kinds.iam import Project, ServiceAccount, User, email_scope
from hansa.kinds.registry import key_of
from hansa.kinds.resource import AnyResource, Key
from hansa.store.port import Birth, Claim, Reserve, Write

BINDINGS_MAX = 256  # of one principal, over all scopes


async def binding_born(it: AnyResource, world: World) -> Birth:
    """Raises Invalid for a principal that is not there, or of another organisation."""
    if not isinstance(it, RoleBinding):
        raise Bug(f"{it.key} is no role binding")
    principal = await _principal(it, world)
    return await _born(it, principal, world)


async def permission_set_born(it: AnyResource, world: World) -> Birth:
    """Raises Invalid unless somebody of the project's organisation has the address."""
    if not isinstance(it, PermissionSet):
        raise Bug(f"{it.key} is no permission set")
    organization = await _organization(it.key, world)
    held = await world.store.claims(email_scope(it.spec.subject.user.email))
    stored = await world.store.find(held[0].owner) if held else None
    if stored is None or organization not in (User(stored).spec.organization, *User(stored).spec.organizations):
        raise Invalid.field("spec.subject.user.email", "is nobody's of this organisation; bind a role to /iam/users/…")
    return await _born(it, User(stored), world)


async def _born(it: AnyResource, principal: User | ServiceAccount, world: World) -> Birth:
    scope = grants_scope(principal.uid)
    if len(await world.store.claims(scope)) > BINDINGS_MAX:
        raise Invalid(f"{principal.ref} has {BINDINGS_MAX} bindings already, and no more are taken")
    also: list[Write] = [Reserve(it.uid, (Claim(scope, it.uid),))]
    if isinstance(principal, ServiceAccount):
        also.append(Reserve(principal.uid, (Claim(scope, "bound"),)))
    more = {"principal": principal.ref} if isinstance(it, PermissionSet) else {}
    return Birth(born_ready(world.clock.now(), **more), observed=1, also=tuple(also), due=False)


async def _principal(it: RoleBinding, world: World) -> User | ServiceAccount:
    """The one that a binding names. Of another organisation's account no more is said than of a missing one."""
    key = key_of(it.spec.principal)
    found: User | ServiceAccount | None = None
    if key is not None and key.kind == User.kind:
        found = await world.get(User, key)
    elif key is not None and key.kind == ServiceAccount.kind:
        found = await world.get(ServiceAccount, key)
        if found is not None and await _organization(key, world) != await _organization(it.key, world):
            found = None
    if found is None:
        raise Invalid.field("spec.principal", f"there is no {it.spec.principal} here")
    return found


async def _organization(key: Key, world: World) -> str:
    if key.organization is not None:
        return key.organization
    project = await world.get(Project, Key(Project.kind, "", key.project or ""))
    return project.spec.organization if project is not None else ""


class RoleBindings:
    """Nothing outside the store belongs to a binding."""

    kind: type[AnyResource] = RoleBinding

    async def reconcile(self, it: AnyResource, world: World) -> Outcome:
        if it.deleting:
            return Outcome(gone=True)
        said = conditions(it, world.clock.now(), True, "Available")
        return Outcome(it.status.model_copy(update={"conditions": said}))


class PermissionSets(RoleBindings):
    """The same, for the binding of older clients."""

    kind = PermissionSet
