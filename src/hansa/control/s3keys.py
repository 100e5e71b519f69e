"""The access keys of S3: of service accounts for a whole project, of bucket service accounts for some buckets.

A pair is an access key, which is no secret and unique in the cloud, and its secret, which is sealed when it is made.
Turning a key makes a second pair; the first counts for a while longer. No reconciler writes the status of a living key,
and every write of it names the revision that it read: what was revoked cannot come back.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

from hansa.control.outcome import Outcome, born_ready, conditions
from hansa.control.world import World
from hansa.dates import parse_rfc3339, rfc3339
from hansa.errors import AlreadyExists, Bug, Conflict, Invalid
from hansa.kinds.resource import AnyResource, Document, Key
from hansa.kinds.storage import BucketServiceAccount, BucketServiceAccountSecret, KeyedStatus, Pair, S3Key, sealed_name
from hansa.store.port import NAMES, Birth, Claim, Create, Forget, LinkTo, Reserve, SetSecret, SetStatus, Write

LONGEST_LIFE_S = 10 * 365.25 * 86_400
PAIRS_MAX = 4
IMPORTED = "imported.secretAccessKey"  # under which a pair from elsewhere is sealed
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"


@dataclass(frozen=True, slots=True)
class NewPair:
    access_key: str
    secret: str = field(repr=False)


def new_pair() -> NewPair:
    """Twenty characters and forty, as S3's clients expect them; 200 random bits in the secret."""
    name = "".join(secrets.choice(_LETTERS) for _ in range(18))
    return NewPair(f"HS{name}", secrets.token_urlsafe(30))


def access_key_scope(access_key: str) -> str:
    """The scope of the one claim that says whose an access key is."""
    return f"{NAMES}accessKeys/{access_key}"


def secret_key(account: Key) -> Key:
    """Where the secret of a bucket service account is read."""
    return Key(BucketServiceAccountSecret.kind, account.scope, f"{account.name}-s3")


# -- births ---------------------------------------------------------------------------------------


async def s3_key_born(it: AnyResource, world: World) -> Birth:
    """Raises Invalid for a life that is none, AlreadyExists for an imported access key that is here already."""
    key, now = _s3_key(it), world.clock.now()
    _check_life(key, now)
    if (imported := key.spec.imported) is not None:
        if await world.store.claims(access_key_scope(imported.access_key)):
            raise AlreadyExists(f"AlreadyExists: the access key {imported.access_key} is in this cloud already")
        return _born(it, Pair(access_key=imported.access_key, sealed=IMPORTED), now)
    pair = new_pair()
    writes = (_sealed(it.uid, pair, world),)
    shown = {"secretAccessKey": pair.secret}
    return _born(it, Pair(access_key=pair.access_key, sealed=sealed_name(pair.access_key)), now, writes, shown)


def _born(
    it: AnyResource, pair: Pair, now: float, writes: tuple[Write, ...] = (), shown: Document | None = None
) -> Birth:
    status = born_ready(now, accessKeyID=pair.access_key, pairs=[pair.wire()])
    return Birth(status, observed=1, also=(_claimed(it.uid, pair.access_key), *writes), shown=shown or {}, due=False)


async def bucket_account_born(it: AnyResource, world: World) -> Birth:
    """Ready at once, its secret beside it: an object of its own that clients read by name."""
    pair, now, secret = new_pair(), world.clock.now(), secret_key(it.key)
    link = LinkTo(it.key, "spec.account", holds=False, free=False)
    create = Create(
        secret, world.ids.uid(), {"account": it.name}, born_ready(now), links=(link,), observed=1, due=False
    )
    kept = Pair(access_key=pair.access_key, sealed=sealed_name(pair.access_key))
    status = born_ready(now, s3CredentialsSecretName=secret.name, pairs=[kept.wire()])
    also = (create, _claimed(it.uid, pair.access_key), _sealed(it.uid, pair, world))
    return Birth(status, observed=1, also=also, due=False)


def _claimed(uid: str, access_key: str) -> Reserve:
    return Reserve(uid, (Claim(access_key_scope(access_key), "pair"),))


def _sealed(uid: str, pair: NewPair, world: World) -> SetSecret:
    name = sealed_name(pair.access_key)
    return SetSecret(uid, name, world.sealer.seal(pair.secret.encode(), f"{uid}/{name}"))


def _check_life(key: S3Key, now: float) -> None:
    if key.spec.expires_at is None:
        return
    left_s = parse_rfc3339(key.spec.expires_at) - now
    if not 0 < left_s <= LONGEST_LIFE_S:
        when = "must be in the future" if left_s <= 0 else "may be at most 10 years ahead"
        raise Invalid.field("spec.expiresAt", f"{when}: {key.spec.expires_at}")


# -- turning and ending ---------------------------------------------------------------------------


def rotated(it: AnyResource, grace_s: float, world: World) -> tuple[tuple[Write, ...], Document]:
    """A new pair in the place of the newest, which counts for `grace_s` more: the writes, and what is shown once.

    Raises Conflict for a revoked key.
    """
    status, now = _keyed(it), world.clock.now()
    if isinstance(it, S3Key) and it.status.revoked_at is not None:
        raise Conflict(f"{it.name} was revoked at {it.status.revoked_at}: make a new key")
    pair = new_pair()
    kept, dropped = _after(status.pairs, now, grace_s)
    pairs = [*kept, Pair(access_key=pair.access_key, sealed=sealed_name(pair.access_key))]
    more = {"accessKeyID": pair.access_key} if isinstance(it, S3Key) else {}
    write = _written(it, {"pairs": [p.wire() for p in pairs], **more})
    ends = [_emptied(it.uid, p, world) for p in dropped if p.sealed != IMPORTED]
    shown = {"secretAccessKey": pair.secret} if isinstance(it, S3Key) else {}
    return (write, _claimed(it.uid, pair.access_key), _sealed(it.uid, pair, world), *ends), shown


def _after(pairs: Sequence[Pair], now: float, grace_s: float) -> tuple[list[Pair], list[Pair]]:
    """The pairs that go on beside a new one, and those whose secrets are not needed any more. Pure."""
    until = now + grace_s
    turned = [p.model_copy(update={"until": until if p.until is None else min(p.until, until)}) for p in pairs]
    alive = [p for p in turned if (p.until or 0.0) > now][-(PAIRS_MAX - 1) :]
    return alive, [p for p in turned if p not in alive]


def _emptied(uid: str, pair: Pair, world: World) -> SetSecret:
    return SetSecret(uid, pair.sealed, world.sealer.seal(b"", f"{uid}/{pair.sealed}"))


async def revoke_key(it: AnyResource, reason: str, now: float) -> list[Write]:
    """What ends a key and everything that is being done with it. Nothing for one that is revoked already."""
    key = _s3_key(it)
    if key.status.revoked_at is not None:
        return []
    said = conditions(key, now, True, "Available", f"revoked: {reason}" if reason else "revoked")
    return [_written(it, {"conditions": [c.wire() for c in said], "revokedAt": rfc3339(now)})]


def _written(it: AnyResource, changed: Document) -> SetStatus:
    status = {**it.stored.status, **changed}
    return SetStatus(it.key, it.generation, status, lease=None, wake=True, revision=it.stored.revision)


# -- reconcilers ----------------------------------------------------------------------------------


class S3Keys:
    """Nothing outside the store belongs to a key; a living one's status is not touched."""

    kind = S3Key

    async def reconcile(self, it: AnyResource, world: World) -> Outcome:
        return Outcome(gone=it.deleting)


class BucketServiceAccounts:
    """An account takes its secret with it. A living one's status is not touched."""

    kind = BucketServiceAccount

    async def reconcile(self, it: AnyResource, world: World) -> Outcome:
        if not it.deleting:
            return Outcome()
        secret = await world.get(BucketServiceAccountSecret, secret_key(it.key))
        return Outcome(gone=True, also=(Forget(secret.key, None),) if secret is not None else ())


class BucketServiceAccountSecrets:
    """Goes with its account, or with the project."""

    kind = BucketServiceAccountSecret

    async def reconcile(self, it: AnyResource, world: World) -> Outcome:
        return Outcome(gone=it.deleting)


def _keyed(it: AnyResource) -> KeyedStatus:
    if not isinstance(it, S3Key | BucketServiceAccount):
        raise Bug(f"{it.key} has no access keys")
    status: KeyedStatus = it.status
    return status


def _s3_key(it: AnyResource) -> S3Key:
    if not isinstance(it, S3Key):
        raise Bug(f"{it.key} is no S3 key")
    return it
