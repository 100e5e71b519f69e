"""From an access token to a `Caller`: proof once, standing looked up again once a second.

The signature of a token is verified when it is first seen. Whether its account is still enabled, whether what
it was traded for (a credential, a refresh token) still counts, and which roles are bound to it, is read from the
store at most once a second for each token, so that disabling, revoking and deleting take effect within a second.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from hansa.api.keys import SigningKeys
from hansa.clock import Clock
from hansa.dates import parse_rfc3339
from hansa.errors import NotFound, Unauthenticated
from hansa.kinds.bindings import PermissionSet, RoleBinding, grants_scope
from hansa.kinds.iam import Organization, Project, RefreshToken, ServiceAccount, ServiceAccountCredential, User
from hansa.kinds.registry import key_of, read
from hansa.kinds.resource import AnyResource, Key
from hansa.kinds.storage import Bucket, BucketServiceAccount, S3Key, pair_fault
from hansa.policy.access import MEMBER, PROJECT_OWNER
from hansa.policy.keys import as_bucket_account, with_bucket, with_key
from hansa.policy.verdict import Caller, Grant
from hansa.store.port import Store

REALM = "evroc-customer"
AUDIENCE = "hansa-api"
STANDING_S = 1.0  # for how long an answer of the store is believed
MAX_REMEMBERED = 4096  # tokens
PROOF_LENGTH = 16  # characters of a refresh token's digest that an access token carries


def issuer_of(base_url: str) -> str:
    """The issuer of a cloud that answers at `base_url`."""
    return f"{base_url.rstrip('/')}/realms/{REALM}"


@dataclass(slots=True)
class _Seen:
    claims: Mapping[str, Any]
    expires_at: float
    caller: Caller
    checked_at: float


class Callers:
    """Who calls. One for the process."""

    def __init__(self, store: Store, clock: Clock, keys: SigningKeys, issuer: str) -> None:
        self._store = store
        self._clock = clock
        self._keys = keys
        self._issuer = issuer
        self._seen: OrderedDict[bytes, _Seen] = OrderedDict()

    async def of(self, authorization: str | None) -> Caller:
        """The caller behind an `Authorization` header. Raises Unauthenticated saying what is wrong."""
        now = self._clock.now()
        text = authorization or ""
        mark = sha256(text.encode(errors="surrogateescape")).digest()
        seen = self._seen.get(mark)
        if seen is not None and now < seen.expires_at and 0 <= now - seen.checked_at < STANDING_S:
            self._seen.move_to_end(mark)
            return seen.caller
        self._seen.pop(mark, None)
        claims = seen.claims if seen is not None else self.claims(text)
        expires_at = float(claims["exp"])
        if not now < expires_at:
            raise Unauthenticated(f"the access token has expired; ask for another at {self._token_url}")
        caller = await standing(self._store, claims, now)
        self._seen[mark] = _Seen(claims, expires_at, caller, now)
        while len(self._seen) > MAX_REMEMBERED:
            self._seen.popitem(last=False)
        return caller

    @property
    def _token_url(self) -> str:
        return f"{self._issuer}/protocol/openid-connect/token"

    def claims(self, authorization: str | None) -> Mapping[str, Any]:
        """What a header's token says, its signature proven; `standing` tells whether it still counts."""
        scheme, _, token = (authorization or "").partition(" ")
        if not authorization:
            raise Unauthenticated(f"send `Authorization: Bearer <access token>`; one is had at {self._token_url}")
        if scheme.lower() != "bearer" or not token.strip():
            raise Unauthenticated("the Authorization header must read `Bearer <access token>`")
        claims = self._keys.verified(token.strip())
        if claims is None:
            raise Unauthenticated("the access token was not signed by this cloud")
        if claims.get("iss") != self._issuer:
            raise Unauthenticated(f"the access token is of another issuer than {self._issuer}")
        if claims.get("aud") != AUDIENCE:
            raise Unauthenticated(f'the access token is for another audience than "{AUDIENCE}"')
        expires_at = claims.get("exp")
        if isinstance(expires_at, bool) or not isinstance(expires_at, (int, float)):
            raise Unauthenticated("the access token has no date of expiry")
        return claims


async def standing(store: Store, claims: Mapping[str, Any], now: float) -> Caller:
    """The caller that verified claims speak of, as the store knows it now. Raises Unauthenticated."""
    key, via = key_of(str(claims.get("account", ""))), key_of(str(claims.get("via", "")))
    try:
        if key is not None and via is not None and via.kind in (S3Key.kind, BucketServiceAccount.kind):
            return await _key_standing(store, key, via, claims, now)
        if key is not None and key.kind == User.kind:
            return await _user_standing(store, key, claims, now)
        if key is not None and key.kind == ServiceAccount.kind:
            return await _service_account_standing(store, key, claims, now)
    except NotFound as error:
        raise Unauthenticated("the account or the key behind this access token is gone") from error
    raise Unauthenticated("the access token names no account")


async def _user_standing(store: Store, key: Key, claims: Mapping[str, Any], now: float) -> Caller:
    user = User(await store.get(key))
    token = RefreshToken(await store.get(refresh_key(key.name, str(claims.get("via", "")))))
    proof = str(claims.get("proof", ""))
    if user.uid != claims.get("sub") or len(proof) != PROOF_LENGTH or not token.spec.digest.startswith(proof):
        raise Unauthenticated("the account or the refresh token behind this access token was replaced")
    if (fault := user_fault(user) or refresh_fault(token, now)) is not None:
        raise Unauthenticated(fault)
    return await caller_of(store, user)


async def _service_account_standing(store: Store, key: Key, claims: Mapping[str, Any], now: float) -> Caller:
    account = ServiceAccount(await store.get(key))
    credential = ServiceAccountCredential(await store.get(credential_key(key, str(claims.get("via", "")))))
    if account.uid != claims.get("sub") or credential.uid != claims.get("proof"):
        raise Unauthenticated("the account or the credential behind this access token was replaced")
    if (fault := account_fault(account) or credential_fault(credential, now)) is not None:
        raise Unauthenticated(fault)
    return await caller_of(store, account)


async def _key_standing(store: Store, account: Key, via: Key, claims: Mapping[str, Any], now: float) -> Caller:
    """Who acts with an access key of S3, in a token that the gateway asked for. `proof` is the key's uid."""
    stored = await store.get(via)
    it = S3Key(stored) if via.kind == S3Key.kind else BucketServiceAccount(stored)
    who = key_of(it.spec.service_account_ref) if isinstance(it, S3Key) else it.key
    if who != account or it.uid != claims.get("proof"):
        raise Unauthenticated("the account or the key behind this access token was replaced")
    caller, fault = await key_holder(store, it)
    if fault := fault or pair_fault(it, str(claims.get("accessKey", "")), now):
        raise Unauthenticated(fault)
    lent = str(claims.get("lent", ""))  # the gateway, who alone signs such tokens, read the bucket's policy and ACL
    bucket = key_of(lent)
    if bucket is None or bucket.kind != Bucket.kind or bucket.project is None or "*" in lent:
        return caller
    return with_bucket(caller, lent, bucket.project)


async def key_holder(store: Store, it: S3Key | BucketServiceAccount) -> tuple[Caller, str]:
    """Who acts with a key of S3, and why they may not act now (empty: they may). The key itself is not looked at.

    Raises NotFound where the account is gone.
    """
    if isinstance(it, BucketServiceAccount):
        return as_bucket_account(it), ""
    account = await principal(store, it.spec.service_account_ref)
    if not isinstance(account, ServiceAccount):
        raise NotFound(f"there is no service account {it.spec.service_account_ref}")
    return with_key(await caller_of(store, account), it), account_fault(account) or ""


async def caller_of(store: Store, it: User | ServiceAccount) -> Caller:
    """What somebody holds, by birth and by bindings, as the store knows it now.

    A service account is at home in its project until a binding names it for the first time (from then on
    bindings alone count, also when none is left), and owns its organisation when listed as an owner.
    """
    bound, grants = await grants_of(store, it.uid)
    if isinstance(it, User):
        return Caller(it.ref, owns=frozenset(it.spec.organizations), grants=grants)
    project = Project(await store.get(Key(Project.kind, "", it.key.project or "")))
    organization = Organization(await store.get(Key(Organization.kind, "", project.spec.organization)))
    owns = frozenset({organization.name}) if it.uid in organization.status.owners else frozenset()
    home = frozenset() if bound else frozenset({project.name})
    return Caller(it.ref, owns=owns, member_of=home, grants=grants)


async def principal(store: Store, ref: str) -> User | ServiceAccount:
    """The person or service account that a reference names. Raises NotFound."""
    key = key_of(ref)
    if key is not None and key.kind == User.kind:
        return User(await store.get(key))
    if key is not None and key.kind == ServiceAccount.kind:
        return ServiceAccount(await store.get(key))
    raise NotFound(f"there is no {ref}")


async def grants_of(store: Store, uid: str) -> tuple[bool, tuple[Grant, ...]]:
    """The grants of role bindings and permission sets to a uid; and whether a binding ever named it."""
    bound, grants = False, []
    for held in await store.claims(grants_scope(uid)):
        if held.owner == uid:
            bound = True
            continue
        stored = await store.find(held.owner)
        if stored is not None and stored.deleted_at is None:
            grants += granted(read(stored))
    return bound, tuple(grants)


def granted(it: AnyResource) -> list[Grant]:
    """What a role binding or a permission set gives to its principal. Pure."""
    if isinstance(it, RoleBinding):
        return [Grant(it.key.scope, bound.role, tuple(bound.resources or ())) for bound in it.spec.roles]
    if isinstance(it, PermissionSet):
        return [Grant(it.key.scope, PROJECT_OWNER if it.spec.admin else MEMBER)]
    return []


def refresh_key(user: str, name: str) -> Key:
    return Key(RefreshToken.kind, f"users/{user}", name)


def credential_key(account: Key, name: str) -> Key:
    return Key(ServiceAccountCredential.kind, f"{account.scope}/{ServiceAccount.collection}/{account.name}", name)


def user_fault(user: User) -> str | None:
    """Why a user may not act now, None when they may. Pure, as are the three below."""
    if user.deleting:
        return "this account is being deleted"
    return None if user.spec.enabled else "this account is disabled"


def account_fault(account: ServiceAccount) -> str | None:
    if account.deleting:
        return f"service account {account.name} is being deleted"
    return None if account.spec.enabled else f"service account {account.name} is disabled (spec.enabled)"


def credential_fault(credential: ServiceAccountCredential, now: float) -> str | None:
    if credential.deleting:
        return f"credential {credential.name} is being deleted"
    if credential.status.revoked_at is not None:
        return f"credential {credential.name} was revoked at {credential.status.revoked_at}"
    if not now < parse_rfc3339(credential.spec.expires_at):
        return f"credential {credential.name} expired at {credential.spec.expires_at}"
    return None


def refresh_fault(token: RefreshToken, now: float) -> str | None:
    if token.deleting or token.spec.revoked:
        return "this refresh token was revoked"
    return None if now < token.spec.expires_at else "this refresh token has expired"
