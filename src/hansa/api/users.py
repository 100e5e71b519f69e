"""People: made, disabled and given passwords by owners of their organisation; and by themselves, their own.

`/iam/v1beta1/organizations/{o}/users`, ours. A password is argon2id's hash, sealed, apart from the user's object;
it stands in no answer, change, log or record. Whoever sets somebody else's password could act as them, so they
must hold whatever that person holds.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from hansa.api.audit import done
from hansa.api.caller import caller_of, refresh_key
from hansa.api.grants import check_holds
from hansa.api.passwords import Passwords, check
from hansa.api.resources import Asking, Resources
from hansa.api.tokens import revoked
from hansa.api.view import view
from hansa.errors import AlreadyExists, Forbidden, Full, Invalid, MethodNotAllowed, NotFound
from hansa.kinds.iam import Organization, RefreshToken, User, email_scope, people_scope
from hansa.kinds.resource import Document, Key
from hansa.policy.access import held
from hansa.policy.verdict import Act
from hansa.store.port import Append, Claim, Create, Query, Reserve, Store, Update, Write

EMAIL = re.compile(r"[^\s@/]{1,64}@[^\s@/]{1,190}")
NAME_LENGTH_MAX = 200

Body = Callable[[], Awaitable[Document]]


@dataclass(frozen=True, slots=True)
class Users:
    resources: Resources
    passwords: Passwords

    @property
    def _store(self) -> Store:
        return self.resources.store

    async def answer(self, method: str, rest: list[str], asking: Asking, body: Body) -> tuple[int, Document]:
        """The segments after `iam/v1beta1`."""
        match method, rest:
            case "POST", ["me", "password"]:
                return 200, await self._own_password(asking, await body())
            case "GET", ["organizations", organization, "users"]:
                return 200, await self._list(asking, organization)
            case "POST", ["organizations", organization, "users"]:
                return 201, await self._add(asking, organization, await body())
            case "GET", ["organizations", organization, "users", name]:
                return 200, _shown(await self._get(asking, Act.READ, organization, name))
            case "PATCH", ["organizations", organization, "users", name]:
                return 200, await self._change(asking, organization, name, await body())
            case "POST", ["organizations", organization, "users", name, "password"]:
                return 200, await self._password(asking, organization, name, await body())
        if len(rest) > 4 and rest[4:] != ["password"]:
            raise NotFound(f"there is nothing at /iam/v1beta1/{'/'.join(rest)}")
        raise MethodNotAllowed(f"{method} is not offered on /iam/v1beta1/{'/'.join(rest)}")

    # -- reading ----------------------------------------------------------------------------

    async def _allow(self, asking: Asking, act: Act, organization: str, name: str = "") -> None:
        ref = f"/iam/users/{name}"
        await self.resources.gate.allow_named(asking.caller, act, User.kind, f"organizations/{organization}", ref)

    async def _list(self, asking: Asking, organization: str) -> Document:
        await self._allow(asking, Act.READ, organization)
        found = [await self._store.find(h.owner) for h in await self._store.claims(people_scope(organization))]
        people = sorted((User(s) for s in found if s is not None), key=lambda u: (u.stored.created_at, u.uid))
        return {"items": [_shown(user) for user in people]}

    async def _get(self, asking: Asking, act: Act, organization: str, name: str) -> User:
        await self._allow(asking, act, organization, name)
        try:
            user = User(await self._store.get(Key(User.kind, "", name)))
        except NotFound:
            user = None
        if user is None or organization not in (user.spec.organization, *user.spec.organizations):
            raise NotFound(f"there is no user {name} in this organisation")
        return user

    # -- writing ----------------------------------------------------------------------------

    async def _add(self, asking: Asking, organization: str, body: Document) -> Document:
        await self._allow(asking, Act.CREATE, organization)
        spec = _spec(body)
        email = spec.get("email")
        if not isinstance(email, str) or EMAIL.fullmatch(email) is None:
            raise Invalid.field("spec.email", "must be an address as in ada@example.com: people log in by it")
        name = _name(spec.get("name", email))
        uid = self.resources.ids.uid()
        key = Key(User.kind, "", uid)
        whole = {"name": name, "email": email, "organization": organization, "organizations": [], "enabled": True}
        claims = (Claim(email_scope(email), "address"), Claim(people_scope(organization), uid))
        home = Key(Organization.kind, "", organization)
        writes: list[Write] = [
            Create(key, uid, whole, parents=(home,), observed=1, due=False),
            Reserve(uid, claims),
            self._record(asking, "create", organization, uid),
        ]
        if "password" in body:
            writes.append(await self.passwords.setting(uid, check(body["password"], "password", email, name)))
        try:
            await self._commit(asking, *writes)
        except Full as error:
            raise AlreadyExists(f"AlreadyExists: somebody has the address {email} already") from error
        return _shown(User(await self._store.get(key)))

    async def _change(self, asking: Asking, organization: str, name: str, body: Document) -> Document:
        """Name and `enabled`; everything else of a user is fixed."""
        user = await self._get(asking, Act.UPDATE, organization, name)
        given = _spec(body)
        spec = dict(user.stored.spec)
        if "name" in given:
            spec["name"] = _name(given["name"])
        if "enabled" in given:
            if not isinstance(given["enabled"], bool):
                raise Invalid.field("spec.enabled", "must be true or false")
            if user.ref == asking.caller.ref and not given["enabled"]:
                raise Invalid.field("spec.enabled", "nobody disables themselves: another owner does")
            spec["enabled"] = given["enabled"]
        if spec == user.stored.spec:
            return _shown(user)
        verb = "update" if spec["enabled"] == user.spec.enabled else ("enable" if spec["enabled"] else "disable")
        update = Update(user.key, user.stored.user_revision, spec, observed=user.generation + 1)
        await self._commit(asking, update, self._record(asking, verb, organization, user.uid))
        return _shown(User(await self._store.get(user.key)))

    async def _password(self, asking: Asking, organization: str, name: str, body: Document) -> Document:
        user = await self._get(asking, Act.UPDATE, organization, name)
        if user.ref == asking.caller.ref:
            return await self._own_password(asking, body)
        await check_holds(self.resources.gate, asking.caller, held(await caller_of(self._store, user)))
        return await self._set(asking, user, organization, body)

    async def _own_password(self, asking: Asking, body: Document) -> Document:
        """One's own, with the present one as proof: a token that was left lying about does not do."""
        try:
            user = User(await self._store.get(Key(User.kind, "", asking.caller.ref.removeprefix("/iam/users/"))))
        except NotFound:
            raise Forbidden("only people have passwords") from None
        current = body.get("current", "")
        if not isinstance(current, str) or not await self.passwords.right(user, current, asking.address):
            raise Forbidden("current: is not your present password")
        return await self._set(asking, user, user.spec.organization or (*user.spec.organizations, "")[0], body)

    async def _set(self, asking: Asking, user: User, organization: str, body: Document) -> Document:
        """A new password ends every login that was made with the old one."""
        password = check(body.get("password"), "password", user.spec.email, user.spec.name)
        page = await self._store.list(Query(RefreshToken.kind, refresh_key(user.name, "").scope))
        logins = [t for t in map(RefreshToken, page.items) if t.spec.rotates and not t.spec.revoked]
        record = self._record(asking, "password", organization, user.uid)
        setting = await self.passwords.setting(user.uid, password)
        await self._commit(asking, setting, record, *(revoked(token) for token in logins))
        return _shown(user)

    def _record(self, asking: Asking, verb: str, organization: str, uid: str) -> Append:
        id, ref = self.resources.ids.uid(), f"/iam/users/{uid}"
        return done(id, asking.caller, asking.request, verb, User.kind, ref, organization=organization, uid=uid)

    async def _commit(self, asking: Asking, *writes: Write) -> None:
        await self._store.commit(*writes, by=asking.caller.ref, request=asking.request)


def _shown(user: User) -> Document:
    return view(User, user.stored)


def _spec(body: Document) -> Document:
    spec = body.get("spec", {})
    if not isinstance(spec, dict):
        raise Invalid.field("spec", "must be an object")
    return spec


def _name(name: object) -> str:
    if not isinstance(name, str) or not 0 < len(name) <= NAME_LENGTH_MAX:
        raise Invalid.field("spec.name", f"must be text of 1 to {NAME_LENGTH_MAX} characters")
    return name
