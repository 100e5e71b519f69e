"""Service accounts and their credentials: how they are born, how they go, how a credential is revoked.

Both are Ready at once. The private half of a credential's key is in the answer to its POST and nowhere else;
what stays is the public half, under a `kid` that begins with the credential's name, so that it is found
without a search.
"""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

from joserfc.jwk import RSAKey

from hansa.control.outcome import Outcome, born_ready, conditions
from hansa.control.world import World
from hansa.dates import parse_rfc3339, rfc3339
from hansa.errors import Bug, Invalid
from hansa.kinds.bindings import RoleBinding
from hansa.kinds.iam import ServiceAccount, ServiceAccountCredential
from hansa.kinds.resource import AnyResource, Document
from hansa.kinds.storage import S3Key
from hansa.store.port import Birth, Delete, SetStatus, Write

LONGEST_LIFE_S = 10 * 365.25 * 86_400
KEY_BITS = 2048
_AGAIN_S = 2.0


async def service_account_born(it: AnyResource, world: World) -> Birth:
    return service_account_birth(it, world.clock.now())


def service_account_birth(it: AnyResource, now: float) -> Birth:
    client_id = f"{it.name}_{it.key.project}"
    return Birth(status=born_ready(now, oauthClientId=client_id), observed=1, due=False)


async def credential_born(it: AnyResource, world: World) -> Birth:
    """Raises Invalid for a life that is none, and for another account than the path's."""
    return await credential_birth(it, world.clock.now())


async def credential_birth(it: AnyResource, now: float) -> Birth:
    credential = _credential(it)
    _check(credential, now)
    private = await asyncio.to_thread(_new_key, credential.name)
    public = {name: private[name] for name in ("kty", "n", "e", "kid", "alg", "use")}
    status = born_ready(now, publicJwk=public)
    request = credential.spec.revocation_request
    if request is not None and request.requested:
        status |= _revocation(credential, request.reason, now)
    shown = {"privateKeyJwk": base64.b64encode(json.dumps(private).encode()).decode()}
    return Birth(status=status, observed=1, shown=shown, due=False)


def _check(credential: ServiceAccountCredential, now: float) -> None:
    account = f"/{ServiceAccount.service}/{credential.key.scope}"
    if credential.spec.account_ref.fqid != account:
        raise Invalid.field("spec.accountRef.fqid", f"must be the account of the path, {account}")
    left_s = parse_rfc3339(credential.spec.expires_at) - now
    if not 0 < left_s <= LONGEST_LIFE_S:
        when = "must be in the future" if left_s <= 0 else "may be at most 10 years ahead"
        raise Invalid.field("spec.expiresAt", f"{when}: {credential.spec.expires_at}")


def _new_key(credential: str) -> dict[str, Any]:
    """A private JWK. Takes some 100 ms: in a thread."""
    key = RSAKey.generate_key(KEY_BITS)
    kid = f"{credential}.{key.thumbprint()[:16]}"
    return {**key.as_dict(private=True), "kid": kid, "alg": "RS256", "use": "sig"}


async def revoke(it: AnyResource, reason: str, now: float) -> list[Write]:
    """What makes a credential worthless, within a second for tokens that were had with it.

    Nothing for one that is revoked already. No reconciler writes the status of a living credential, so
    that none can undo this.
    """
    credential = _credential(it)
    if credential.status.revoked_at is not None:
        return []
    status = {**it.stored.status, **_revocation(credential, reason, now)}
    return [SetStatus(it.key, it.generation, status, lease=None, wake=True)]


def _revocation(credential: ServiceAccountCredential, reason: str, now: float) -> Document:
    message = f"revoked: {reason}" if reason else "revoked"
    said = conditions(credential, now, True, "Available", message)
    return {"conditions": [c.wire() for c in said], "revokedAt": rfc3339(now)}


def _credential(it: AnyResource) -> ServiceAccountCredential:
    if not isinstance(it, ServiceAccountCredential):
        raise Bug(f"{it.key} is no credential")
    return it


class ServiceAccounts:
    """An account takes its credentials, its S3 keys and the role bindings that name it with it."""

    kind = ServiceAccount

    async def reconcile(self, it: AnyResource, world: World) -> Outcome:
        now = world.clock.now()
        if it.deleting:
            return await self._remove(it, world, now)
        message = "" if it.spec.enabled else "disabled: it gets no tokens, and those that it has are refused"
        return Outcome(it.status.model_copy(update={"conditions": conditions(it, now, True, "Available", message)}))

    async def _remove(self, it: AnyResource, world: World, now: float) -> Outcome:
        scope = f"{it.key.scope}/{ServiceAccount.collection}/{it.name}"
        left: list[AnyResource] = [
            *await world.all(ServiceAccountCredential, scope),
            *await world.pointing(RoleBinding, it.key),
            *await world.pointing(S3Key, it.key),
        ]
        if not left:
            return Outcome(gone=True)
        message = f"{len(left)} credentials, S3 keys and role bindings are going first"
        said = conditions(it, now, False, "WaitingForContents", message)
        also = tuple(Delete(c.key, uid=c.uid) for c in left if not c.deleting)
        return Outcome(it.status.model_copy(update={"conditions": said}), again_in_s=_AGAIN_S, also=also)


class Credentials:
    """Nothing outside the store belongs to a credential; a living one's status is not touched (see `revoke`)."""

    kind = ServiceAccountCredential

    async def reconcile(self, it: AnyResource, world: World) -> Outcome:
        return Outcome(gone=it.deleting)
