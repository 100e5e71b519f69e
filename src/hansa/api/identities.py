"""What `iam/v1beta1` offers beyond objects of a kind: roles, checks, assigning and revoking, oneself; and the audit.

Whatever writes goes the way of all writes (`resources`), so that permission, grant rule and record are asked for
once. People and their passwords stand in `api.users`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from hansa.api.admission import Gate
from hansa.api.audit import Audit
from hansa.api.caller import caller_of, principal
from hansa.api.query import Query
from hansa.api.resources import Asking, Resources
from hansa.api.users import Users
from hansa.errors import AlreadyExists, Conflict, Invalid, MethodNotAllowed, NotFound
from hansa.kinds.bindings import ROLE, RoleBinding, grants_scope, id_for
from hansa.kinds.registry import key_of
from hansa.kinds.resource import Document, Key
from hansa.policy.access import CATALOGUES, ROLES, held, meaning, permissions_of
from hansa.policy.access import permission as permission_of
from hansa.policy.decide import decide
from hansa.policy.verdict import Act, Caller, Rules, Subject

CHECKS_MAX = 256
TEXT_LENGTH_MAX = 512
TRIES = 5

Answer = tuple[int, Document]
Body = Callable[[], Awaitable[Document]]


@dataclass(frozen=True, slots=True)
class Identities:
    resources: Resources
    users: Users
    audit: Audit

    @property
    def _gate(self) -> Gate:
        return self.resources.gate

    async def answer(self, method: str, parts: list[str], asking: Asking, query: Query, body: Body) -> Answer | None:
        """The answer to a path of ours, None for one that names objects of a kind."""
        rest = parts[2:]
        match rest:
            case ["roles"]:
                _only(method, "GET")
                return 200, {"items": [_role(name) for name in ROLES]}
            case ["me"]:
                _only(method, "GET")
                return 200, await self._me(asking.caller)
            case ["me", "roleBindings"]:
                _only(method, "GET")
                return 200, await self._my_bindings(asking)
            case ["testPermissions"]:
                _only(method, "POST")
                return 200, await self._tested(asking.caller, await body())
            case ["checkAccess"]:
                _only(method, "POST")
                return 200, await self._check_access(asking, await body())
            case ["projects" | "organizations" as what, name, "roleBindings", "assign" | "revoke" as verb]:
                _only(method, "POST")
                scope = f"{what}/{name}"
                act = self._assign if verb == "assign" else self._revoke
                return 200, await act(asking, scope, await body())
            case ["me", "password"] | ["organizations", _, "users", *_]:
                return await self.users.answer(method, rest, asking, body)
            case ["projects" | "organizations" as what, name, "records"] if parts[0] == "audit":
                _only(method, "GET")
                return 200, await self.audit.read(asking.caller, f"{what}/{name}", query)
        return None

    # -- oneself ----------------------------------------------------------------------------

    async def _me(self, caller: Caller) -> Document:
        grants = [
            {"scope": f"/iam/{g.scope}", "role": f"{ROLE}{g.role}"} | ({"resources": list(g.resources)} if g.resources else {})
            for g in held(caller)
        ]  # fmt: skip
        return {"principal": caller.ref, "grants": grants}

    async def _my_bindings(self, asking: Asking) -> Document:
        store, items = self.resources.store, []
        who = await principal(store, asking.caller.ref)
        for claim in await store.claims(grants_scope(who.uid)):
            stored = await store.find(claim.owner)
            if stored is not None and stored.key.kind == RoleBinding.kind:
                items.append(await self.resources.show(asking, RoleBinding, stored))
        return {"items": items}

    # -- checks -----------------------------------------------------------------------------

    async def _tested(self, caller: Caller, body: Document) -> Document:
        return {"results": [await self._checked(caller, check) for check in _checks(body)]}

    async def _check_access(self, asking: Asking, body: Document) -> Document:
        """What somebody else may. Raises Forbidden unless the caller may read the bindings there."""
        checks = _checks(body)
        for _, resource in checks:
            if not (place := _place_of(resource)).scope:
                continue
            await self._gate.allow_named(
                asking.caller, Act.READ, RoleBinding.kind, place.scope, f"/iam/{place.scope}/roleBindings/"
            )
        text = _text(body, "principal")
        try:
            who = await caller_of(self.resources.store, await principal(self.resources.store, text))
        except NotFound:
            who = Caller(text)  # who is not there may do nothing
        return {"results": [await self._checked(who, check) for check in checks]}

    async def _checked(self, caller: Caller, check: tuple[str, str]) -> Document:
        """An unknown permission is held by nobody: clients of another cloud may ask for one."""
        permission, resource = check
        known, place = meaning(permission), _place_of(resource)
        allowed = not place.scope and permission == permission_of(place.kind, Act.READ)
        if known is not None and place.scope:
            kind, act = known
            project, organization = place.project or "", place.organization or ""
            if project:
                organization = await self._gate.organization_of(project)
            subject = Subject(kind, resource.rpartition("/")[2], project, organization, ref=resource)
            allowed = decide(caller, act, subject, Rules()).allowed
        return {"permission": permission, "resource": resource, "allowed": allowed}

    # -- assigning and revoking -------------------------------------------------------------

    async def _assign(self, asking: Asking, scope: str, body: Document) -> Document:
        """Adds a role, or resources of it, to a principal's binding; makes the binding when there is none."""
        key, role, resources = _asked(scope, body)
        for _ in range(TRIES):
            try:
                stored = await self.resources.store.get(key)
            except NotFound:
                entry = {"name": role} | ({"resources": resources} if resources else {})
                spec = {"principal": body["principal"], "roles": [entry]}
                try:
                    return await self.resources.create(asking, RoleBinding, scope, {"spec": spec})
                except AlreadyExists:
                    continue
            roles = _with(stored.spec.get("roles", []), role, resources)
            change = {"metadata": {"resourceVersion": str(stored.revision)}, "spec": {"roles": roles}}
            try:
                return await self.resources.patch(asking, RoleBinding, key, change, verb="assign")
            except Conflict:
                continue
        raise Conflict(f"{key} is being changed or deleted by others: try again")

    async def _revoke(self, asking: Asking, scope: str, body: Document) -> Document:
        """Takes a role away. With the last one the binding goes."""
        key, role, _ = _asked(scope, body)
        await self._gate.allow(asking.caller, Act.UPDATE, RoleBinding, key)
        for _ in range(TRIES):
            stored = await self.resources.stored(key)
            roles = [r for r in stored.spec.get("roles", []) if r.get("name") != role]
            if len(roles) == len(stored.spec.get("roles", [])):
                raise NotFound(f"{key} has no role {role}")
            if not roles:
                await self.resources.delete(asking, RoleBinding, key)
                shown = await self.resources.show(asking, RoleBinding, stored)
                return {**shown, "spec": {**shown["spec"], "roles": []}}
            change = {"metadata": {"resourceVersion": str(stored.revision)}, "spec": {"roles": roles}}
            try:
                return await self.resources.patch(asking, RoleBinding, key, change, verb="revoke")
            except Conflict:
                continue
        raise Conflict(f"{key} is being changed by others all the time: try again")


# -- pure ---------------------------------------------------------------------------------------


def _role(name: str) -> Document:
    role = ROLES[name]
    return {
        "id": f"{ROLE}{name}",
        "description": role.description,
        "permissions": sorted(permissions_of(name)),
        "scope": role.scope.removesuffix("s"),
    }


def _only(method: str, wanted: str) -> None:
    if method != wanted:
        raise MethodNotAllowed(f"{method} is not offered here, {wanted} is")


def _text(body: Document, name: str) -> str:
    text = body.get(name)
    if not isinstance(text, str) or not 0 < len(text) <= TEXT_LENGTH_MAX:
        raise Invalid.field(name, f"must be text of 1 to {TEXT_LENGTH_MAX} characters")
    return text


def _checks(body: Document) -> list[tuple[str, str]]:
    checks = body.get("checks")
    if not isinstance(checks, list) or not 0 < len(checks) <= CHECKS_MAX:
        raise Invalid.field("checks", f"must be a list of 1 to {CHECKS_MAX} checks")
    found = []
    for number, check in enumerate(checks):
        if not isinstance(check, dict):
            raise Invalid.field(f"checks[{number}]", 'must be as {"permission": …, "resource": …}')
        try:
            found.append((_text(check, "permission"), _text(check, "resource")))
        except Invalid as error:
            raise Invalid.field(f"checks[{number}].{error.fields[0].path}", error.fields[0].message) from error
        _place_of(found[-1][1])
    return found


def _place_of(resource: str) -> Key:
    """The project or organisation that a reference lies in, or the kind of a catalogue's. Raises Invalid."""
    parts = resource.split("/")
    if len(parts) >= 4 and parts[0] == "" and parts[2] in ("projects", "organizations") and parts[3]:
        return Key("", "/".join(parts[2:4]), "")
    if (key := key_of(resource)) is not None and key.kind in CATALOGUES:
        return Key(key.kind, "", key.name)
    raise Invalid.field(
        "resource", 'must be a reference into a project or organisation, as in "/iam/projects/demo", or to a catalogue'
    )


def _asked(scope: str, body: Document) -> tuple[Key, str, list[str] | None]:
    """The binding, the role and the resources that an assign or revoke speaks of. Raises Invalid."""
    who, role = _text(body, "principal"), _text(body, "role")
    resources: Any = body.get("resources") or None
    if resources is not None and not (isinstance(resources, list) and all(isinstance(r, str) for r in resources)):
        raise Invalid.field("resources", "must be a list of patterns")
    try:
        key = Key(RoleBinding.kind, scope, id_for(who))
    except ValueError as error:
        raise Invalid.field("principal", str(error)) from error
    return key, role if role.startswith("/") else f"{ROLE}{role}", resources


def _with(roles: list[Document], role: str, resources: list[str] | None) -> list[Document]:
    """A binding's roles with one more; of a role that is there already the resources add up."""
    old = next((r for r in roles if r.get("name") == role), None)
    others = [r for r in roles if r.get("name") != role]
    if old is None:
        return [*others, {"name": role} | ({"resources": resources} if resources else {})]
    if not old.get("resources") or not resources:
        return [*others, {"name": role}]
    return [*others, {"name": role, "resources": list(dict.fromkeys([*old["resources"], *resources]))}]
