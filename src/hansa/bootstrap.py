"""The first minute of a cloud, and of each later start: who owns it, and how they get in.

Every step looks first and then creates in one commit, so that a start may die at any line and the next one
goes on from there. What is secret (the private key of the service account, the refresh token, the secret of its key
of S3) stands in `hansa.env` and `evroc.yaml` alone, readable by their owner; the store holds a public key, a digest and
a sealed secret. When the files are lost or do not fit the store, new ones are made and the old ones are worth nothing.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from hansa.api.admission import OPERATOR, OWNERS
from hansa.api.caller import credential_fault, credential_key, issuer_of, refresh_fault, refresh_key
from hansa.api.keys import write_private
from hansa.api.tokens import REFRESH_S, changed, digest_of, new_refresh_token, refresh_text
from hansa.clock import Clock, Ids
from hansa.control.accounts import credential_birth, revoke, service_account_birth
from hansa.datafolder import ENVIRONMENT
from hansa.dates import parse_rfc3339, rfc3339
from hansa.errors import Conflict, NotFound
from hansa.kinds.iam import (
    Organization,
    Project,
    RefreshToken,
    ServiceAccount,
    ServiceAccountCredential,
    User,
    people_scope,
)
from hansa.kinds.resource import AnyResource, Key, Stored, ref_of
from hansa.kinds.storage import S3Key, pair_fault
from hansa.policy.verdict import PROGRAM
from hansa.store.port import Birth, Claim, Create, Delete, Forget, LinkTo, Query, Reserve, SetStatus, Store, Write

SDK_FILE = "evroc.yaml"
ACCOUNT = "hansa"
TOKEN = "env"  # noqa: S105 - the name of a token, not one
LIFE_S = 365 * 86_400.0
RENEW_S = 30 * 86_400.0
_MARK = "hansa/env"  # system label of the credentials made here

Born = Callable[[AnyResource], Awaitable[Birth]]
Unseal = Callable[[str, str], Awaitable[bytes | None]]  # a secret of a uid, by its name


@dataclass(frozen=True, slots=True)
class Credentials:
    """What lets an operator in. The account's fields are empty while the project is being deleted."""

    organization: str
    user: str
    project: str
    region: str
    service_account: str = ""
    service_account_secret: str = field(default="", repr=False)
    refresh_token: str = field(default="", repr=False)
    s3_access_key: str = ""
    s3_secret_key: str = field(default="", repr=False)


async def ensure_cloud(
    store: Store,
    clock: Clock,
    ids: Ids,
    *,
    project: str,
    region: str,
    project_born: Born,
    s3_key_born: Born,
    unseal: Unseal,
    kept: Mapping[str, str],
) -> Credentials:
    """Owner, organisation, project, service account, its key of S3 and tokens, all there after it returns.

    `kept` is `datafolder.read_environment` of the last start. Raises Conflict when the project is another's.
    """
    start = _Start(store, clock, ids)
    made = await start.cloud(project, region, project_born, kept)
    if not made.service_account:
        return made
    account = Key(ServiceAccount.kind, f"projects/{project}", made.service_account)
    pair = await start.s3_key(account, s3_key_born, unseal, kept)
    return replace(made, s3_access_key=pair[0], s3_secret_key=pair[1])


async def ensure_organization(store: Store, clock: Clock, ids: Ids, name: str) -> tuple[str, str, str]:
    """A stranger: another organisation with its owner. Gives their ids and a new refresh token.

    The same name gives the same organisation, and ends the token that was given out before.
    """
    start = _Start(store, clock, ids)
    user = await start.owner(f"organization/{name}", name)
    return user.spec.organizations[0], user.name, await start.refresh_token(user, "")


@dataclass(frozen=True, slots=True)
class _Start:
    store: Store
    clock: Clock
    ids: Ids

    async def cloud(self, project: str, region: str, born: Born, kept: Mapping[str, str]) -> Credentials:
        user = await self.owner(OPERATOR, "hansa")
        organization = user.spec.organizations[0]
        token = await self.refresh_token(user, kept.get("HANSA_REFRESH_TOKEN", ""))
        if (await self._project(project, organization, born)).deleting:
            return Credentials(organization, user.name, project, region, refresh_token=token)
        account = await self._account(project, organization)
        secret = await self._secret(account, kept.get("EVROC_SERVICE_ACCOUNT_SECRET", ""))
        return Credentials(organization, user.name, project, region, account.name, secret, token)

    async def owner(self, mark: str, name: str) -> User:
        """The user who holds a mark, made with their organisation in one commit when nobody does."""
        held = [h.owner for h in await self.store.claims(OWNERS) if h.claim.key == mark]
        stored = await self.store.find(held[0]) if held else None
        if stored is not None:
            return User(stored)
        organization, uid = Key(Organization.kind, "", self.ids.uid()), self.ids.uid()
        user = Key(User.kind, "", uid)
        spec = {"name": f"owner of {name}", "organizations": [organization.name], "enabled": True}
        await self._commit(
            Create(organization, organization.name, {"name": name}, observed=1, due=False),
            Create(user, uid, spec, observed=1, due=False),
            Reserve(uid, (Claim(OWNERS, mark), Claim(people_scope(organization.name), uid))),
        )
        return User(await self.store.get(user))

    # -- the refresh token --------------------------------------------------------------------------

    async def refresh_token(self, user: User, kept: str) -> str:
        """The token named `env`: the one that is kept, good for 30 days again, or a new one in its place."""
        now = self.clock.now()
        old = await self._get(refresh_key(user.name, TOKEN))
        if old is None:
            fresh = new_refresh_token(user.key, self.ids, now, name=TOKEN, rotates=False)
            await self._commit(fresh.create)
            return fresh.text
        token = RefreshToken(old)
        good = refresh_fault(token, now) is None and hmac.compare_digest(token.spec.digest, digest_of(kept))
        text = kept if good else refresh_text(user.name, TOKEN)
        until = now + REFRESH_S
        await self._commit(changed(token, digest=digest_of(text), expiresAt=until, revoked=False))
        return text

    # -- the project and its account ----------------------------------------------------------------

    async def _project(self, name: str, organization: str, born: Born) -> Project:
        key = Key(Project.kind, "", name)
        if (stored := await self._get(key)) is None:
            uid, spec = self.ids.uid(), {"organization": organization, "name": name}
            birth = await born(Project(Stored(key, uid, self.clock.now(), spec=spec)))
            parents = (Key(Organization.kind, "", organization),)
            create = Create(
                key, uid, spec, status=birth.status, parents=parents, observed=birth.observed, due=birth.due
            )
            await self._commit(create, *birth.also)
            stored = await self.store.get(key)
        project = Project(stored)
        if project.spec.organization != organization:
            text = f"project {name} belongs to another organisation of this cloud; choose a name with HANSA_PROJECT"
            raise Conflict(text)
        return project

    async def _account(self, project: str, organization: str) -> ServiceAccount:
        """The account in this project that owns the organisation. One of its name that somebody else made
        gets nothing from us: ours then has a name of its own."""
        home = Organization(await self.store.get(Key(Organization.kind, "", organization)))
        found = [o for uid in home.status.owners if (o := await self.store.find(uid)) is not None]
        living = [o for o in found if o.key.kind == ServiceAccount.kind and o.deleted_at is None]
        for stored in living:
            if stored.key.project == project:
                return ServiceAccount(stored)
        key = Key(ServiceAccount.kind, f"projects/{project}", ACCOUNT)
        if await self._get(key) is not None:
            key = Key(key.kind, key.scope, f"{ACCOUNT}-{self.ids.token()[:8]}")
        uid, spec = self.ids.uid(), {"description": "made by hansa up, owns the organisation", "enabled": True}
        birth = service_account_birth(ServiceAccount(Stored(key, uid, self.clock.now(), spec=spec)), self.clock.now())
        owners = [*(o.uid for o in living), uid]
        await self._commit(
            Create(key, uid, spec, birth.status, parents=(Key(Project.kind, "", project),), observed=1, due=False),
            SetStatus(home.key, home.generation, {**home.stored.status, "owners": owners}, lease=None),
        )
        return ServiceAccount(await self.store.get(key))

    async def _secret(self, account: ServiceAccount, kept: str) -> str:
        """The private key: the one that is kept while it is good for 30 days yet, or that of a new credential.

        A new one ends the others made here, unless it only renews the one that is kept: then that one is
        left to the programs which read it yesterday, until it expires.
        """
        now = self.clock.now()
        scope = credential_key(account.key, "").scope
        listed = (await self.store.list(Query(ServiceAccountCredential.kind, scope))).items
        ours = [ServiceAccountCredential(s) for s in listed if s.system_labels.get(_MARK) and s.deleted_at is None]
        kept_one = next((c for c in ours if credential_fault(c, now) is None and _fits(c, kept)), None)
        if kept_one is not None and parse_rfc3339(kept_one.spec.expires_at) - now > RENEW_S:
            return kept
        writes: list[Write] = []
        for old in ours:
            if not now < parse_rfc3339(old.spec.expires_at):
                writes.append(Forget(old.key, None))
            elif old is not kept_one:
                writes += await revoke(old, "replaced at a start of the cloud", now)
        return await self._new_credential(account, writes, now)

    async def _new_credential(self, account: ServiceAccount, ends: list[Write], now: float) -> str:
        key = credential_key(account.key, f"{TOKEN}-{self.ids.token()[:12]}")
        fqid = ref_of(ServiceAccount, account.key)
        spec = {
            "accountRef": {"fqid": fqid},
            "type": "rs256-jwt",
            "expiresAt": rfc3339(now + LIFE_S),
            "description": f"of {ENVIRONMENT} and {SDK_FILE}",
        }
        uid = self.ids.uid()
        birth = await credential_birth(ServiceAccountCredential(Stored(key, uid, now, spec=spec)), now)
        create = Create(
            key, uid, spec, birth.status, system_labels={_MARK: "1"}, parents=(account.key,), observed=1, due=False,
            links=(LinkTo(account.key, "spec.accountRef.fqid", holds=False, free=False),),
        )  # fmt: skip
        await self._commit(create, *ends)
        return str(birth.shown["privateKeyJwk"])

    # -- its key of S3 ------------------------------------------------------------------------------

    async def s3_key(self, account: Key, born: Born, unseal: Unseal, kept: Mapping[str, str]) -> tuple[str, str]:
        """Access key and secret: those that are kept while they count, else those of a new key, which ends the others
        made here."""
        now, kept_pair = self.clock.now(), (kept.get("AWS_ACCESS_KEY_ID", ""), kept.get("AWS_SECRET_ACCESS_KEY", ""))
        listed = (await self.store.list(Query(S3Key.kind, account.scope))).items
        ours = [S3Key(s) for s in listed if s.system_labels.get(_MARK) and s.deleted_at is None]
        for key in (k for k in ours if k.spec.service_account_ref == ref_of(ServiceAccount, account)):
            pair = key.status.pair(kept_pair[0])
            if pair is not None and not pair_fault(key, pair.access_key, now):
                secret = await unseal(key.uid, pair.sealed) or b""
                if secret and hmac.compare_digest(secret, kept_pair[1].encode()):
                    return kept_pair
        return await self._new_s3_key(account, born, ours)

    async def _new_s3_key(self, account: Key, born: Born, old: Sequence[S3Key]) -> tuple[str, str]:
        key, uid = Key(S3Key.kind, account.scope, f"{TOKEN}-{self.ids.token()[:12]}"), self.ids.uid()
        spec = {"serviceAccountRef": ref_of(ServiceAccount, account), "description": f"of {ENVIRONMENT}"}
        birth = await born(S3Key(Stored(key, uid, self.clock.now(), spec=spec)))
        create = Create(
            key, uid, spec, birth.status, system_labels={_MARK: "1"}, observed=1, due=False,
            parents=(Key(Project.kind, "", account.project or ""),),
            links=(LinkTo(account, "spec.serviceAccountRef", holds=False, free=False),),
        )  # fmt: skip
        await self._commit(create, *birth.also, *(Delete(each.key, uid=each.uid) for each in old))
        return str(birth.status["accessKeyID"]), str(birth.shown["secretAccessKey"])

    async def _get(self, key: Key) -> Stored | None:
        try:
            return await self.store.get(key)
        except NotFound:
            return None

    async def _commit(self, *writes: Write) -> None:
        await self.store.commit(*writes, by=PROGRAM.ref)


def _fits(credential: ServiceAccountCredential, secret: str) -> bool:
    """Is this the private half of that credential?"""
    try:
        private = json.loads(base64.b64decode(secret, validate=True))
    except (ValueError, binascii.Error):
        return False
    public = credential.status.public_jwk or {}
    return isinstance(private, dict) and "d" in private and all(private.get(n) == public.get(n) for n in ("kid", "n"))


# -- the files ----------------------------------------------------------------------------------


def write_environment(
    data_dir: Path, base_url: str, credentials: Credentials, trust: Mapping[str, str] | None = None
) -> None:
    """`DIR/evroc.yaml` and `DIR/hansa.env`, mode 0600, each put in place at once. `trust`: variables with which
    clients know the certificate."""
    folder = data_dir.absolute()
    token_url = f"{issuer_of(base_url)}/protocol/openid-connect/token"
    write_private(folder / SDK_FILE, yaml.safe_dump(_sdk_file(base_url, token_url, credentials), sort_keys=False))
    write_private(folder / ENVIRONMENT, _environment(folder, base_url, token_url, credentials, trust or {}))


def _sdk_file(base_url: str, token_url: str, it: Credentials) -> dict[str, Any]:
    """The Go SDK's own form, with the service account alone: Terraform takes one way of proof only."""
    auth = {"token_url": token_url}
    if it.service_account:
        auth |= {"service_account_id": it.service_account, "service_account_secret": it.service_account_secret}
    place = {"project": it.project, "region": it.region, "organization": it.organization}
    return {"auth": auth, "api": {"base_url": base_url}, "context": place}


def _environment(folder: Path, base_url: str, token_url: str, it: Credentials, trust: Mapping[str, str]) -> str:
    """`EVROC_CLIENT_ID`, `_TOKEN`, `_USERNAME` and `_PASSWORD` are never set: contract, section 2.4."""
    shared = {
        "API_URL": base_url,
        "TOKEN_URL": token_url,
        "PROJECT": it.project,
        "REGION": it.region,
        "ORGANIZATION": it.organization,
        "REFRESH_TOKEN": it.refresh_token,
    }
    values = {f"HANSA_{name}": value for name, value in shared.items()}
    values |= {f"EVROC_{name}": value for name, value in shared.items()}
    if it.service_account:
        values["EVROC_SERVICE_ACCOUNT_ID"] = it.service_account
        values["EVROC_SERVICE_ACCOUNT_SECRET"] = it.service_account_secret
    values["EVROC_CONFIG_FILE"] = str(folder / SDK_FILE)
    if it.s3_access_key:
        values["AWS_ACCESS_KEY_ID"] = it.s3_access_key
        values["AWS_SECRET_ACCESS_KEY"] = it.s3_secret_key
        values["AWS_DEFAULT_REGION"] = it.region
    values |= trust
    head = "# Written by `hansa up` at each start. Holds secrets: keep it to yourself.\n"
    return head + "".join(f"export {name}={_quoted(value)}\n" for name, value in values.items())


def _quoted(value: str) -> str:
    """For any POSIX shell: nothing inside single quotes is read but the quote itself."""
    return "'" + value.replace("'", "'\\''") + "'"
