"""The token service: refresh tokens and signed assertions in, short-lived access tokens out.

Keycloak's paths, as the published clients know them (contract, section 2). Nothing secret is kept: a refresh
token is stored as its digest, a service account's key as its public half, a password as its sealed hash
(`api.passwords`). A login in the browser follows in a later issue; its grant is refused with a hint meanwhile.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qsl, unquote_plus, urlsplit

from hansa.api.assertions import SKEW_S, Assertion, claimed, verify
from hansa.api.audit import done
from hansa.api.caller import (
    AUDIENCE,
    PROOF_LENGTH,
    account_fault,
    credential_fault,
    credential_key,
    issuer_of,
    refresh_fault,
    refresh_key,
    user_fault,
)
from hansa.api.keys import ALGORITHM, SigningKeys
from hansa.api.passwords import LENGTH_MAX as PASSWORD_LENGTH_MAX
from hansa.api.passwords import Passwords
from hansa.clock import Clock, Ids
from hansa.config import Settings
from hansa.dates import parse_rfc3339
from hansa.errors import Conflict, Exhausted, Full, HansaError, NotFound, Retry, Unauthenticated
from hansa.kinds.iam import RefreshToken, ServiceAccount, ServiceAccountCredential, User
from hansa.kinds.resource import AnyResource, Key
from hansa.policy.verdict import Caller
from hansa.store.port import Claim, Create, Forget, Query, Reserve, Store, Update, Write

PUBLIC_CLIENTS = frozenset({"evroc-cli", "csi-driver", "hansa-cli"})
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
SCOPES = "openid offline_access"
LONGEST_ACCESS_S = 3600
ASSERTED_ACCESS_S = 300  # for a service account whose credential names no other life
REFRESH_S = 30 * 86_400.0
GRACE_S = 600.0  # for how long a rotated refresh token still counts
MAX_REFRESH_TOKENS = 200  # of one user; beyond it those replaced longest ago go
NAME_LENGTH_MAX = 254  # of a user
_MAX_FIELDS = 32
_ATTEMPTS = 5

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_CLIENT_ID = re.compile(rf"(?P<account>{_LABEL})_(?P<project>{_LABEL})")
_REFRESH = re.compile(r"(?P<user>[0-9a-f-]{36})\.(?P<name>[a-z0-9-]{1,63})\.[A-Za-z0-9_-]{43}")

Answer = tuple[int, dict[str, Any]]


class Declined(HansaError):
    """An OAuth 2 error (RFC 6749, 5.2): `code` travels as `error`, the message as `error_description`."""

    status = 400
    reason = "Declined"

    def __init__(self, code: str, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


def _no_client(message: str) -> Declined:
    return Declined("invalid_client", message, status=401)


def _no_grant(message: str) -> Declined:
    return Declined("invalid_grant", message)


@dataclass(frozen=True, slots=True)
class _Basis:
    """What an access token is traded for: `name` and `proof` let `caller` ask whether it still counts."""

    name: str
    proof: str
    life_s: float


class TokenService:
    """`issuer` is `issuer_of(this cloud's own base URL)`: fixed, never taken from a request."""

    def __init__(
        self, store: Store, clock: Clock, ids: Ids, keys: SigningKeys, settings: Settings, *, issuer: str,
        passwords: Passwords | None = None,
    ) -> None:  # fmt: skip
        """`passwords` None: nobody logs in by one."""
        self._store = store
        self._clock = clock
        self._ids = ids
        self._keys = keys
        self._settings = settings
        self._issuer = issuer
        self._passwords = passwords
        self._audiences = accepted_audiences(issuer, settings.audiences)

    async def handle(
        self, method: str, tail: str, headers: Mapping[str, str], body: bytes, base_url: str, address: str = ""
    ) -> Answer:
        """One request to `/realms/evroc-customer/<tail>`. Header names are lower case.

        `base_url` only tells a client where the documents are; no decision rests on it, since it may come
        from the request. `address`: of who asks, for the limit on wrong passwords. Raises Retry when the store does not answer, nothing else.
        """
        routes = {
            "protocol/openid-connect/token": "POST",
            "protocol/openid-connect/certs": "GET",
            ".well-known/openid-configuration": "GET",
        }
        wanted = routes.get(tail.strip("/"))
        if wanted is None:
            return 404, _error("not_found", f"the token service has {', '.join(sorted(routes))}")
        if method != wanted and not (method == "HEAD" and wanted == "GET"):
            return 405, _error("invalid_request", f"use {wanted}")
        if wanted == "POST":
            return await self._token(headers, body, address)
        return 200, self._keys.jwks() if tail.strip("/").endswith("certs") else self._discovery(base_url)

    def _discovery(self, base_url: str) -> dict[str, Any]:
        seen = issuer_of(base_url) + "/protocol/openid-connect"
        return {
            "issuer": self._issuer,
            "token_endpoint": f"{seen}/token",
            "authorization_endpoint": f"{seen}/auth",
            "jwks_uri": f"{seen}/certs",
            "grant_types_supported": [
                "refresh_token",
                "client_credentials",
                *(["password"] if self._passwords is not None else []),
            ],
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [ALGORITHM],
            "scopes_supported": SCOPES.split(),
            "token_endpoint_auth_methods_supported": ["none", "client_secret_basic", "private_key_jwt"],
            "token_endpoint_auth_signing_alg_values_supported": ["RS256"],
            "code_challenge_methods_supported": ["S256"],
        }

    async def _token(self, headers: Mapping[str, str], body: bytes, address: str) -> Answer:
        try:
            form = _form(headers, body)
            return 200, await self._traded(form, _client(headers, form), address)
        except Declined as declined:
            return declined.status, _error(declined.code, declined.message)
        except Unauthenticated as error:
            return 401, _error("invalid_client", error.message)
        except Exhausted as error:
            return error.status, _error("slow_down", error.message)

    async def _traded(self, form: Mapping[str, str], client: str, address: str) -> dict[str, Any]:
        match form.get("grant_type", ""):
            case "refresh_token":
                return await self._by_refresh(form, client)
            case "client_credentials":
                return await self._by_assertion(form, client)
            case "":
                raise Declined("invalid_request", "grant_type is missing")
            case "password" if self._passwords is not None:
                return await self._by_password(self._passwords, form, client, address)
            case "password":
                hint = "passwords are not taken here: use the refresh token or the service account of hansa.env"
                raise Declined("unsupported_grant_type", hint)
            case "authorization_code":
                hint = "login in a browser is not built yet: use the refresh token or service account of hansa.env"
                raise Declined("unsupported_grant_type", hint)
            case other:
                hint = f'grant_type "{other[:64]}" is unknown: use refresh_token or client_credentials'
                raise Declined("unsupported_grant_type", hint)

    # -- service accounts ---------------------------------------------------------------------------

    async def _by_assertion(self, form: Mapping[str, str], client: str) -> dict[str, Any]:
        """Section 2.3 of the contract. The `jti` is taken, on the disk, before the answer is given."""
        text = form.get("client_assertion", "")
        if form.get("client_assertion_type") != ASSERTION_TYPE or not text:
            raise _no_client(f"client_credentials needs client_assertion and client_assertion_type={ASSERTION_TYPE}")
        said = claimed(text)
        if client and client != said.client_id:
            raise _no_client(f'client_id is "{client[:128]}", the assertion is of another client')
        now = self._clock.now()
        account, credential = await self._named(said.client_id, said.kid)
        keys = _keys_of(credential)
        assertion = verify(text, keys, said.client_id, now=now, audiences=self._audiences)
        if account is None or credential is None:  # cannot be: without them there was no key
            raise _no_client("unknown client")
        if (fault := account_fault(account) or credential_fault(credential, now)) is not None:
            raise _no_client(fault)
        await self._use_once(assertion, credential)
        return self._asserted_access(account, credential, assertion.client_id, now)

    async def _named(self, client_id: str, kid: str) -> tuple[ServiceAccount | None, ServiceAccountCredential | None]:
        """The account of a client id, and the one among its credentials that `kid` (`<credential>.…`) names."""
        match = _CLIENT_ID.fullmatch(client_id)
        if match is None:
            return None, None
        key = Key(ServiceAccount.kind, f"projects/{match['project']}", match["account"])
        try:
            account = ServiceAccount(await self._store.get(key))
            credential = await self._store.get(credential_key(key, kid.partition(".")[0]))
        except NotFound:
            return None, None
        return account, ServiceAccountCredential(credential)

    async def _use_once(self, assertion: Assertion, credential: ServiceAccountCredential) -> None:
        """A replayed `jti` finds its claim held. The owner differs each time: holders may claim again."""
        used = sha256(assertion.jti.encode(errors="surrogatepass")).hexdigest()
        claim = Claim(f"jti/{credential.uid}", used, until=assertion.expires_at + SKEW_S + 1)
        try:
            await self._store.commit(Reserve(self._ids.uid(), (claim,)), by=credential.ref)
        except Full as error:
            raise _no_client('this "jti" was used before; make a new assertion for each request') from error

    def _asserted_access(
        self, account: ServiceAccount, credential: ServiceAccountCredential, client: str, now: float
    ) -> dict[str, Any]:
        rs256 = credential.spec.rs256_jwt
        life_s = (rs256.access_token_lifetime if rs256 is not None else None) or ASSERTED_ACCESS_S
        left_s = parse_rfc3339(credential.spec.expires_at) - now
        return self._access(account, client, _Basis(credential.name, credential.uid, min(life_s, left_s)), now)

    # -- users --------------------------------------------------------------------------------------

    async def _by_refresh(self, form: Mapping[str, str], client: str) -> dict[str, Any]:
        _check_public(client)
        text = form.get("refresh_token", "")
        if not text:
            raise Declined("invalid_request", "refresh_token is missing")
        for _ in range(_ATTEMPTS):
            try:
                return await self._refreshed(text, client)
            except (Conflict, NotFound):  # somebody traded the same token at this moment: look again
                continue
        raise Retry("this refresh token is being traded by many at once")

    async def _by_password(
        self, passwords: Passwords, form: Mapping[str, str], client: str, address: str
    ) -> dict[str, Any]:
        """The direct grant of section 2.2. One answer for all that is wrong; the login begins a family of tokens."""
        _check_public(client)
        name, password = form.get("username", ""), form.get("password", "")
        if not name or not password or len(name) > NAME_LENGTH_MAX or len(password) > PASSWORD_LENGTH_MAX:
            raise Declined("invalid_request", "username and password are needed, of a bearable length")
        found = await passwords.login(name, password, address)
        if found is None:
            raise _no_grant("user name or password is wrong")
        user, now = found.user, self._clock.now()
        fresh = new_refresh_token(user.key, self._ids, now, client=client)
        home = user.spec.organization or (*user.spec.organizations, "")[0]
        record = done(
            self._ids.uid(), Caller(user.ref), "", "login", user.kind, user.ref, organization=home, uid=user.uid
        )
        spent = (Forget(key, None) for key in await self._spent(user, now))
        try:
            await self._store.commit(fresh.create, record, *found.also, *spent, by=user.ref)
        except (Conflict, NotFound) as error:  # the account went meanwhile, or another login swept the same tokens
            raise Retry("this account is changing at this moment", after_s=1.0) from error
        token = RefreshToken(await self._store.get(fresh.create.key))
        basis = _Basis(token.name, token.spec.digest[:PROOF_LENGTH], self._settings.access_token_s)
        return {**self._access(user, client, basis, now), "refresh_token": fresh.text}

    async def _refreshed(self, text: str, client: str) -> dict[str, Any]:
        now = self._clock.now()
        user, token = await self._presented(text)
        if token.spec.client not in ("", client):
            raise _no_grant("this refresh token was given to another client")
        if (fault := user_fault(user) or refresh_fault(token, now)) is not None:
            raise _no_grant(fault)
        replaced_at = token.spec.replaced_at
        if replaced_at is not None and not now < replaced_at + GRACE_S:
            await self._revoke_family(token)
            raise _no_grant("this refresh token was replaced and then used again: the login is revoked")
        if token.spec.rotates:
            text, token = await self._rotated(user, token, now)
        life_s = min(self._settings.access_token_s, token.spec.expires_at - now)
        basis = _Basis(token.name, token.spec.digest[:PROOF_LENGTH], life_s)
        return {**self._access(user, client, basis, now), "refresh_token": text}

    async def _presented(self, text: str) -> tuple[User, RefreshToken]:
        """The user and the stored half of a refresh token. One answer for all that is wrong."""
        match = _REFRESH.fullmatch(text)
        if match is not None:
            try:
                token = RefreshToken(await self._store.get(refresh_key(match["user"], match["name"])))
                if hmac.compare_digest(token.spec.digest, digest_of(text)):
                    return User(await self._store.get(Key(User.kind, "", match["user"]))), token
            except NotFound:
                pass
        raise _no_grant("this refresh token is unknown here: source DIR/hansa.env again, or log in again")

    async def _rotated(self, user: User, old: RefreshToken, now: float) -> tuple[str, RefreshToken]:
        """A new token of the same family; the old one counts for a while yet. Raises Conflict."""
        fresh = new_refresh_token(user.key, self._ids, now, client=old.spec.client, family=old.spec.family or old.name)
        writes: list[Write] = [fresh.create]
        if old.spec.replaced_at is None:
            writes.append(changed(old, replacedAt=now, family=old.spec.family or old.name))
        writes += [Forget(key, None) for key in await self._spent(user, now)]
        await self._store.commit(*writes, by=user.ref)
        return fresh.text, RefreshToken(await self._store.get(fresh.create.key))

    async def _spent(self, user: User, now: float) -> list[Key]:
        """Refresh tokens that nobody can use any more, and the oldest replaced ones when there are too many."""
        tokens = await self._tokens_of(user)
        expired = [t.key for t in tokens if t.spec.expires_at <= now and t.spec.rotates]
        replaced = sorted((t.spec.replaced_at, t.key) for t in tokens if t.spec.replaced_at is not None)
        surplus = max(0, len(tokens) - len(expired) - MAX_REFRESH_TOKENS)
        return list({*expired, *(key for _, key in replaced[:surplus])})

    async def _revoke_family(self, token: RefreshToken) -> None:
        user = User(await self._store.get(Key(User.kind, "", token.key.part("users") or "")))
        family = token.spec.family or token.name
        kin = [t for t in await self._tokens_of(user) if (t.spec.family or t.name) == family and not t.spec.revoked]
        await self._store.commit(*[revoked(t) for t in kin], by=user.ref)

    async def _tokens_of(self, user: User) -> list[RefreshToken]:
        page = await self._store.list(Query(RefreshToken.kind, f"users/{user.name}"))
        return [RefreshToken(stored) for stored in page.items]

    # -- both ---------------------------------------------------------------------------------------

    def _access(self, account: AnyResource, client: str, basis: _Basis, now: float) -> dict[str, Any]:
        """The answer with an access token, never valid for longer than an hour."""
        life = max(1, int(min(basis.life_s, LONGEST_ACCESS_S)))
        claims = {
            "iss": self._issuer,
            "aud": AUDIENCE,
            "sub": account.uid,
            "iat": int(now),
            "exp": int(now) + life,
            "jti": self._ids.token(),
            "client_id": client,
            "account": account.ref,
            "via": basis.name,
            "proof": basis.proof,
        }
        return {"access_token": self._keys.sign(claims), "token_type": "Bearer", "expires_in": life, "scope": SCOPES}


@dataclass(frozen=True, slots=True)
class FreshToken:
    """A refresh token that is about to exist: its text, for its owner, and what the store is to keep."""

    text: str
    create: Create

    def __repr__(self) -> str:
        return f"<refresh token {self.create.key.name}>"


def new_refresh_token(
    user: Key,
    ids: Ids,
    now: float,
    *,
    name: str = "",
    client: str = "",
    rotates: bool = True,
    family: str = "",
    life_s: float = REFRESH_S,
) -> FreshToken:
    """`client` empty: any public client may trade it. The text names user and token, so that no look-up scans."""
    name = name or ids.token()
    text = refresh_text(user.name, name)
    spec = {
        "digest": digest_of(text),
        "client": client,
        "rotates": rotates,
        "expiresAt": now + life_s,
        "family": family,
        "revoked": False,
    }
    key = refresh_key(user.name, name)
    return FreshToken(text, Create(key, ids.uid(), spec, parents=(user,), observed=1, due=False))


def refresh_text(user: str, name: str) -> str:
    """The text of a new refresh token: 256 random bits behind the names that find it."""
    return f"{user}.{name}.{secrets.token_urlsafe(32)}"


def digest_of(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def changed(token: RefreshToken, **fields: Any) -> Update:
    """A write of some fields of a refresh token's spec; refused when another write came between."""
    stored = token.stored
    return Update(stored.key, stored.user_revision, {**stored.spec, **fields}, observed=stored.generation + 1)


def revoked(token: RefreshToken) -> Update:
    """Ends a refresh token, and within a second every access token that was traded for it."""
    return changed(token, revoked=True)


def accepted_audiences(issuer: str, more: str) -> frozenset[str]:
    """What an assertion's `aud` may be: our token URL, its two loopback spellings, and what settings add."""
    path = "/protocol/openid-connect/token"
    found = {issuer + path, *(text.strip() for text in more.split(",") if text.strip())}
    place = urlsplit(issuer)
    if place.hostname in ("127.0.0.1", "localhost"):
        port = f":{place.port}" if place.port is not None else ""
        found |= {f"{place.scheme}://{host}{port}{place.path}{path}" for host in ("127.0.0.1", "localhost")}
    return frozenset(found)


def _check_public(client: str) -> None:
    """Raises Declined unless it is a public client that we know."""
    known = ", ".join(sorted(PUBLIC_CLIENTS))
    if not client:
        raise _no_client(f"client_id is missing: one of {known}")
    if client not in PUBLIC_CLIENTS:
        raise _no_client(f'unknown client "{client[:128]}": one of {known}')


def _keys_of(credential: ServiceAccountCredential | None) -> dict[str, dict[str, Any]]:
    public = credential.status.public_jwk if credential is not None else None
    return {str(public["kid"]): public} if public else {}


def _form(headers: Mapping[str, str], body: bytes) -> dict[str, str]:
    """The fields of a request, none of them twice."""
    kind = headers.get("content-type", "application/x-www-form-urlencoded").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise Declined("invalid_request", "the token endpoint takes application/x-www-form-urlencoded")
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS)
    except ValueError as error:
        raise Declined("invalid_request", "the body is no form, or has too many fields") from error
    form = dict(pairs)
    if len(form) != len(pairs):
        raise Declined("invalid_request", "a field stands in the form twice")
    return form


def _client(headers: Mapping[str, str], form: Mapping[str, str]) -> str:
    """The client id: HTTP Basic with an empty secret, or the form. Empty when neither names one."""
    named = form.get("client_id", "")
    if form.get("client_secret"):
        raise _no_client("clients here are public and have no secret")
    scheme, _, encoded = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return named
    try:
        user, colon, secret = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (ValueError, binascii.Error) as error:
        raise _no_client("the Authorization header is no HTTP Basic") from error
    if not colon or secret:
        raise _no_client("clients here are public: HTTP Basic with the client id and an empty secret")
    client = unquote_plus(user)
    if named and named != client:
        raise _no_client("the Authorization header and the form name two clients")
    return client


def _error(code: str, message: str) -> dict[str, Any]:
    return {"error": code, "error_description": message}
