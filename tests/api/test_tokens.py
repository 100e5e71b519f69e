"""The token service and the callers it lets in, over a real store: each rule, and who breaks it."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from joserfc import jwt
from joserfc.jwk import OKPKey, RSAKey

from hansa.api.caller import MAX_REMEMBERED, Callers, issuer_of, refresh_key
from hansa.api.keys import SigningKeys, write_private
from hansa.api.tokens import (
    ASSERTION_TYPE,
    GRACE_S,
    MAX_REFRESH_TOKENS,
    REFRESH_S,
    TokenService,
    accepted_audiences,
    changed,
    digest_of,
    new_refresh_token,
    refresh_text,
    revoked,
)
from hansa.clock import SeededIds
from hansa.config import Settings
from hansa.control.accounts import credential_birth, revoke, service_account_birth
from hansa.dates import rfc3339
from hansa.errors import Bug, Unauthenticated
from hansa.kinds.iam import Organization, Project, RefreshToken, ServiceAccount, ServiceAccountCredential, User
from hansa.kinds.resource import Key, Stored
from hansa.policy.verdict import Caller
from hansa.store.port import Create, Delete, Forget, Query, SetStatus, Update
from hansa.store.store import SqlStore

from ..clocks import Hands
from ..postgres import a_store, all_that_is_kept

pytestmark = pytest.mark.anyio

BASE = "http://127.0.0.1:8080"
ISSUER = issuer_of(BASE)
TOKEN_URL = f"{ISSUER}/protocol/openid-connect/token"
TOKEN = "protocol/openid-connect/token"


@dataclass
class Town:
    """A store with two organisations, a project and a service account each, and the service in front of it."""

    store: SqlStore
    clock: Hands
    ids: SeededIds
    keys: SigningKeys
    settings: Settings
    tokens: TokenService
    callers: Callers
    secrets: dict[str, dict[str, Any]] = field(default_factory=dict)  # private JWKs by client id
    refreshes: dict[str, str] = field(default_factory=dict)

    async def settle(self, *writes: Any) -> None:
        await self.store.commit(*writes, by="/test")

    async def found(self, project: str, *, owns: bool = False) -> None:
        """An organisation named after its one project, its owner, and the account `robot` with a credential."""
        organization, user = Key("Organization", "", self.ids.uid()), Key("User", "", self.ids.uid())
        home = Key("Project", "", project)
        await self.settle(
            Create(organization, organization.name, {"name": project}, due=False),
            Create(user, user.name, {"name": project, "organizations": [organization.name]}, due=False),
            Create(home, self.ids.uid(), {"organization": organization.name, "name": project}, due=False),
        )
        fresh = new_refresh_token(user, self.ids, self.clock.now(), name="env", rotates=False)
        await self.settle(fresh.create)
        self.refreshes[project] = fresh.text
        uid = await self.account("robot", project)
        if owns:
            await self.settle(SetStatus(organization, 1, {"owners": [uid]}, None))
        await self.credential("robot", project, "first")

    async def account(self, name: str, project: str, *, enabled: bool = True) -> str:
        key = Key("ServiceAccount", f"projects/{project}", name)
        uid, spec = self.ids.uid(), {"enabled": enabled}
        birth = service_account_birth(ServiceAccount(Stored(key, uid, 0.0, spec=spec)), self.clock.now())
        await self.settle(Create(key, uid, spec, birth.status, observed=1, due=False))
        return uid

    async def credential(self, account: str, project: str, name: str, **more: Any) -> None:
        scope = f"projects/{project}/serviceAccounts/{account}"
        key, uid = Key("ServiceAccountCredential", scope, name), self.ids.uid()
        spec = {
            "accountRef": {"fqid": f"/iam/{scope}"},
            "type": "rs256-jwt",
            "expiresAt": rfc3339(self.clock.now() + 86_400),
            **more,
        }
        birth = await credential_birth(ServiceAccountCredential(Stored(key, uid, 0.0, spec=spec)), self.clock.now())
        await self.settle(Create(key, uid, spec, birth.status, observed=1, due=False))
        self.secrets[f"{account}_{project}"] = json.loads(base64.b64decode(birth.shown["privateKeyJwk"]))

    def assertion(self, client: str = "robot_demo", *, secret: str = "", kid: str = "", **claims: Any) -> str:
        private = self.secrets[secret or client]
        now = self.clock.now()
        body = {"iss": client, "sub": client, "aud": TOKEN_URL, "iat": now, "nbf": now, "exp": now + 300}
        body |= {"jti": self.ids.token(), **claims}
        header = {"alg": "RS256", "kid": kid or private["kid"]}
        return jwt.encode(header, body, RSAKey.import_key(private), algorithms=["RS256"])

    async def post(self, fields: dict[str, str], *, basic: str | None = None) -> tuple[int, dict[str, Any]]:
        headers = {"content-type": "application/x-www-form-urlencoded"}
        if basic is not None:
            headers["authorization"] = f"Basic {base64.b64encode(basic.encode()).decode()}"
        return await self.tokens.handle("POST", TOKEN, headers, urlencode(fields).encode(), BASE)

    async def present(self, text: str, **more: str) -> tuple[int, dict[str, Any]]:
        form = {"grant_type": "client_credentials", "client_assertion_type": ASSERTION_TYPE, "client_assertion": text}
        return await self.post({**form, **more})

    async def refresh(self, text: str, client: str = "evroc-cli") -> tuple[int, dict[str, Any]]:
        return await self.post({"grant_type": "refresh_token", "refresh_token": text, "client_id": client})

    async def bearer(self, *, account: bool = True, project: str = "demo") -> str:
        good = self.present(self.assertion(f"robot_{project}")) if account else self.refresh(self.refreshes[project])
        status, answer = await good
        assert status == 200, answer
        return f"Bearer {answer['access_token']}"

    async def get(self, kind: str, scope: str, name: str) -> Stored:
        return await self.store.get(Key(kind, scope, name))

    async def token(self, project: str = "demo", name: str = "env") -> RefreshToken:
        return RefreshToken(await self.store.get(refresh_key(self.refreshes[project].split(".")[0], name)))

    async def login(self, project: str = "demo") -> str:
        """A rotating refresh token, as a login in a browser will give."""
        user = Key("User", "", self.refreshes[project].split(".")[0])
        fresh = new_refresh_token(user, self.ids, self.clock.now(), client="evroc-cli")
        await self.settle(fresh.create)
        return fresh.text


new_key = RSAKey.generate_key


@cache
def made_key(number: int) -> RSAKey:
    return new_key(2048)


@pytest.fixture
async def town(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Town]:
    number = count()  # the same few keys for every test: making one takes a tenth of a second
    monkeypatch.setattr("hansa.control.accounts.RSAKey.generate_key", lambda bits: made_key(next(number)))
    clock, ids = Hands(), SeededIds(7)
    store = await a_store(tmp_path / "store", clock=clock, ids=ids, inline=True, follow=False)
    keys, settings = SigningKeys.fresh(), Settings(_env_file=None)
    tokens = TokenService(store, clock, ids, keys, settings, issuer=ISSUER)
    it = Town(store, clock, ids, keys, settings, tokens, Callers(store, clock, keys, ISSUER))
    await it.found("demo", owns=True)
    await it.found("strange")
    yield it
    await store.close()


def claims_of(token: str) -> dict[str, Any]:
    part = token.removeprefix("Bearer ").split(".")[1]
    return dict(json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))))


def is_refused(answer: tuple[int, dict[str, Any]], code: str, word: str, status: int = 401) -> None:
    assert answer[0] == status, answer
    assert answer[1]["error"] == code, answer
    assert word in answer[1]["error_description"], answer
    assert set(answer[1]) == {"error", "error_description"}


# -- assertions ---------------------------------------------------------------------------------


async def test_a_service_account_gets_an_access_token(town: Town) -> None:
    status, answer = await town.present(town.assertion(), client_id="robot_demo")
    assert status == 200
    assert answer["token_type"] == "Bearer"
    assert answer["expires_in"] == 300
    assert "refresh_token" not in answer
    claims = claims_of(answer["access_token"])
    assert claims["iss"] == ISSUER and claims["aud"] == "hansa-api" and claims["exp"] - claims["iat"] == 300
    assert {"sub", "jti"} <= set(claims)
    header = json.loads(base64.urlsafe_b64decode(answer["access_token"].split(".")[0] + "=="))
    assert header["alg"] == "EdDSA" and header["kid"] == town.keys.jwks()["keys"][0]["kid"]


async def test_the_life_of_its_token_is_the_credentials(town: Town) -> None:
    await town.credential("robot", "demo", "second", rs256Jwt={"accessTokenLifetime": 3600})
    assert (await town.present(town.assertion()))[1]["expires_in"] == 3600


async def test_no_token_outlives_its_credential(town: Town) -> None:
    soon = rfc3339(town.clock.now() + 100)
    await town.credential("robot", "demo", "second", rs256Jwt={"accessTokenLifetime": 3600}, expiresAt=soon)
    assert (await town.present(town.assertion()))[1]["expires_in"] == 100


async def test_a_jti_counts_once(town: Town) -> None:
    text = town.assertion()
    assert (await town.present(text))[0] == 200
    is_refused(await town.present(text), "invalid_client", "jti")
    is_refused(await town.present(town.assertion(jti=claims_of(text)["jti"])), "invalid_client", "jti")
    assert (await town.present(town.assertion("robot_strange", jti=claims_of(text)["jti"])))[0] == 200


@pytest.fixture
async def busy(town: Town, tmp_path: Path) -> AsyncIterator[Town]:
    """The same town behind a store whose commits wait for the disk, so that requests overtake one another."""
    store = await a_store(tmp_path / "store", clock=town.clock, ids=town.ids, follow=False)
    tokens = TokenService(store, town.clock, town.ids, town.keys, town.settings, issuer=ISSUER)
    yield replace(town, store=store, tokens=tokens)
    await store.close()


async def test_of_many_at_once_with_one_jti_only_one_gets_in(busy: Town) -> None:
    town = busy
    text = town.assertion()
    answers = await asyncio.gather(*[town.present(text) for _ in range(8)])
    assert sorted(status for status, _ in answers) == [200] + [401] * 7


async def test_a_jti_is_remembered_for_as_long_as_its_assertion_counts(town: Town) -> None:
    text = town.assertion()
    assert (await town.present(text))[0] == 200
    for _ in range(33):
        town.clock.at += 10
        await town.store.sweep()
        assert (await town.present(text))[0] == 401
    town.clock.at += 1
    await town.store.sweep()
    assert not await town.store.claims("jti", below=True)


async def test_a_jti_is_on_the_disk_before_the_answer(town: Town) -> None:
    text = town.assertion()
    await town.present(text)
    again = TokenService(town.store, town.clock, town.ids, town.keys, town.settings, issuer=ISSUER)
    is_refused(await replace(town, tokens=again).present(text), "invalid_client", "jti")


async def test_a_refused_assertion_uses_up_no_jti(town: Town) -> None:
    jti = "b" * 32
    await town.present(town.assertion(jti=jti, aud="http://other"))
    assert (await town.present(town.assertion(jti=jti)))[0] == 200


async def test_the_key_of_another_account_is_refused(town: Town) -> None:
    is_refused(await town.present(town.assertion(secret="robot_strange")), "invalid_client", "signature")
    own = town.secrets["robot_demo"]["kid"]
    is_refused(await town.present(town.assertion(secret="robot_strange", kid=own)), "invalid_client", "signature")
    await town.account("other", "demo")
    await town.credential("other", "demo", "first")
    is_refused(await town.present(town.assertion(secret="other_demo")), "invalid_client", "signature")


@pytest.mark.parametrize(
    ("claims", "word"),
    [
        ({"aud": [TOKEN_URL, "http://other"]}, "aud"),
        ({"aud": [TOKEN_URL]}, "aud"),
        ({"aud": "https://authn.iam.evroc.com/realms/evroc-customer/protocol/openid-connect/token"}, "aud"),
        ({"exp": 1_800_000_000 + 331}, "ahead"),
        ({"exp": 1_800_000_000 - 30}, "expired"),
        ({"nbf": 1_800_000_000 + 31}, "future"),
        ({"iat": 1_800_000_000 + 31}, "future"),
        ({"jti": ""}, "jti"),
        ({"iss": "robot_strange"}, "iss"),
    ],
)
async def test_a_wrong_claim_is_refused_by_name(town: Town, claims: dict[str, Any], word: str) -> None:
    is_refused(await town.present(town.assertion(**claims)), "invalid_client", word)


@pytest.mark.parametrize(
    "client", ["robot", "robot_", "_demo", "robot_demo_x", "Robot_demo", "../x_demo", "nobody_demo"]
)
async def test_a_client_id_that_is_none_is_refused(town: Town, client: str) -> None:
    is_refused(await town.present(town.assertion(client, secret="robot_demo")), "invalid_client", "")


@pytest.mark.parametrize("kid", ["first", "first.x", "second", "../first.x", "x" * 200, "."])
async def test_a_kid_that_names_no_key_is_refused(town: Town, kid: str) -> None:
    is_refused(await town.present(town.assertion(kid=kid)), "invalid_client", "no key")


async def test_unsigned_and_symmetric_assertions_are_refused(town: Town) -> None:
    def part(value: Any) -> str:
        text = value if isinstance(value, bytes) else json.dumps(value).encode()
        return base64.urlsafe_b64encode(text).rstrip(b"=").decode()

    kid, body = town.secrets["robot_demo"]["kid"], part(claims_of(town.assertion()))
    is_refused(await town.present(f"{part({'alg': 'none', 'kid': kid})}.{body}."), "invalid_client", "RS256")
    head = f"{part({'alg': 'HS256', 'kid': kid})}.{body}"
    stored = await town.get("ServiceAccountCredential", "projects/demo/serviceAccounts/robot", "first")
    for secret in (
        json.dumps(stored.status["publicJwk"]).encode(),
        RSAKey.import_key(town.secrets["robot_demo"]).as_pem(private=False),
    ):
        mac = hmac.new(secret, head.encode(), hashlib.sha256).digest()
        is_refused(await town.present(f"{head}.{part(mac)}"), "invalid_client", "RS256")


async def test_the_form_may_not_name_another_client(town: Town) -> None:
    is_refused(await town.present(town.assertion(), client_id="robot_strange"), "invalid_client", "another client")


async def test_a_grant_without_assertion_is_refused(town: Town) -> None:
    is_refused(await town.post({"grant_type": "client_credentials"}, basic="robot_demo:"), "invalid_client", "needs")
    form = {"grant_type": "client_credentials", "client_assertion": town.assertion(), "client_assertion_type": "x"}
    is_refused(await town.post(form), "invalid_client", "needs")


async def test_an_expired_credential_gets_no_token(town: Town) -> None:
    town.clock.at += 86_400
    is_refused(await town.present(town.assertion()), "invalid_client", "expired")


async def revoke_first(town: Town) -> None:
    stored = await town.get("ServiceAccountCredential", "projects/demo/serviceAccounts/robot", "first")
    await town.settle(*await revoke(ServiceAccountCredential(stored), "lost", town.clock.now()))


async def disable_robot(town: Town) -> None:
    stored = await town.get("ServiceAccount", "projects/demo", "robot")
    await town.settle(Update(stored.key, stored.user_revision, {**stored.spec, "enabled": False}))


async def delete_robot(town: Town) -> None:
    await town.settle(Delete(Key("ServiceAccount", "projects/demo", "robot")))


async def delete_first(town: Town) -> None:
    await town.settle(Delete(Key("ServiceAccountCredential", "projects/demo/serviceAccounts/robot", "first")))


async def forget_first(town: Town) -> None:
    await town.settle(Forget(Key("ServiceAccountCredential", "projects/demo/serviceAccounts/robot", "first"), None))


async def forget_robot(town: Town) -> None:
    await town.settle(Forget(Key("ServiceAccount", "projects/demo", "robot"), None))


async def replace_first(town: Town) -> None:
    """The same name with another key."""
    old = town.secrets["robot_demo"]
    await forget_first(town)
    await town.credential("robot", "demo", "first")
    town.secrets["robot_demo"] = old


async def replace_robot(town: Town) -> None:
    """The same name, made by somebody else."""
    await forget_robot(town)
    await town.account("robot", "demo")


ENDINGS = [revoke_first, disable_robot, delete_robot, delete_first, forget_first, forget_robot, replace_first]


@pytest.mark.parametrize("end", ENDINGS)
async def test_an_account_that_is_ended_gets_no_token(town: Town, end: Any) -> None:
    await end(town)
    is_refused(await town.present(town.assertion()), "invalid_client", "")


@pytest.mark.parametrize("end", [*ENDINGS, replace_robot])
async def test_an_account_that_is_ended_loses_its_tokens_within_a_second(town: Town, end: Any) -> None:
    bearer = await town.bearer()
    assert (await town.callers.of(bearer)).member_of == {"demo"}
    await end(town)
    town.clock.at += 1.0
    with pytest.raises(Unauthenticated):
        await town.callers.of(bearer)
    with pytest.raises(Unauthenticated):
        await Callers(town.store, town.clock, town.keys, ISSUER).of(bearer)


async def test_an_account_enabled_again_is_let_in_again(town: Town) -> None:
    bearer = await town.bearer()
    await disable_robot(town)
    with pytest.raises(Unauthenticated, match="disabled"):
        await town.callers.of(bearer)
    stored = await town.get("ServiceAccount", "projects/demo", "robot")
    await town.settle(Update(stored.key, stored.user_revision, {**stored.spec, "enabled": True}))
    assert (await town.callers.of(bearer)).ref == "/iam/projects/demo/serviceAccounts/robot"


# -- refresh tokens -----------------------------------------------------------------------------


async def test_the_token_of_the_environment_does_not_rotate(town: Town) -> None:
    for client in ("evroc-cli", "csi-driver", "hansa-cli"):
        status, answer = await town.refresh(town.refreshes["demo"], client)
        assert status == 200
        assert answer["refresh_token"] == town.refreshes["demo"]
        assert answer["expires_in"] == town.settings.access_token_s == 900
        assert answer["token_type"] == "Bearer"
    assert len((await town.store.list(Query("RefreshToken", below=True))).items) == 2


async def test_the_client_id_may_come_by_basic_or_form(town: Town) -> None:
    form = {"grant_type": "refresh_token", "refresh_token": town.refreshes["demo"]}
    assert (await town.post(form, basic="evroc-cli:"))[0] == 200
    assert (await town.post({**form, "client_id": "evroc-cli"}, basic="evroc-cli:"))[0] == 200
    assert (await town.post({**form, "client_id": "evroc-cli", "client_secret": ""}))[0] == 200
    is_refused(await town.post(form), "invalid_client", "client_id is missing")
    is_refused(await town.post(form, basic="evroc-cli:secret"), "invalid_client", "public")
    is_refused(await town.post(form, basic="evroc-cli"), "invalid_client", "public")
    is_refused(await town.post({**form, "client_id": "csi-driver"}, basic="evroc-cli:"), "invalid_client", "two")
    is_refused(await town.post({**form, "client_id": "evroc-cli", "client_secret": "x"}), "invalid_client", "public")
    is_refused(await town.post({**form, "client_id": "someone"}), "invalid_client", "unknown client")
    is_refused(await town.post({**form, "client_id": "robot_demo"}), "invalid_client", "unknown client")


async def test_a_refresh_token_that_is_none_is_refused(town: Town) -> None:
    user, name, rest = town.refreshes["demo"].split(".")
    stranger = town.refreshes["strange"].split(".")
    bearer = (await town.bearer()).removeprefix("Bearer ")
    wrong = ["x", f"{user}.{name}", f"{user}.{name}.{rest[:-1]}", f"{user}.{name}.{'A' * 43}", f"{user}.other.{rest}"]
    wrong += [
        f"{stranger[0]}.{name}.{rest}",
        f"{user}.{name}.{stranger[2]}",
        bearer,
        "\x00",
        "é.é.é",
        f"{user}.{name}.{rest}\n",
    ]
    for text in wrong:
        is_refused(await town.refresh(text), "invalid_grant", "unknown", 400)
    is_refused(await town.refresh(""), "invalid_request", "missing", 400)


async def test_a_refresh_token_is_kept_as_its_digest_only(town: Town, tmp_path: Path) -> None:
    text = await town.login()
    await town.refresh(text)
    await town.store.close()
    kept = await all_that_is_kept(tmp_path / "store")
    assert digest_of(text).encode() in kept
    for secret in (text, *town.refreshes.values(), *(jwk["d"] for jwk in town.secrets.values())):
        assert secret.rpartition(".")[2].encode() not in kept


async def test_an_expired_refresh_token_is_refused(town: Town) -> None:
    town.clock.at += REFRESH_S
    is_refused(await town.refresh(town.refreshes["demo"]), "invalid_grant", "expired", 400)


async def test_no_access_token_outlives_its_refresh_token(town: Town) -> None:
    town.clock.at += REFRESH_S - 60
    assert (await town.refresh(town.refreshes["demo"]))[1]["expires_in"] == 60


async def test_a_rotating_token_is_replaced_and_counts_ten_minutes_more(town: Town) -> None:
    first = await town.login()
    status, answer = await town.refresh(first)
    assert status == 200 and answer["refresh_token"] != first
    town.clock.at += GRACE_S - 1
    status, again = await town.refresh(first)
    assert status == 200 and again["refresh_token"] not in (first, answer["refresh_token"])
    assert (await town.refresh(answer["refresh_token"]))[0] == 200


async def test_a_replaced_token_used_late_revokes_its_family(town: Town) -> None:
    first, other = await town.login(), await town.login()
    second = (await town.refresh(first))[1]["refresh_token"]
    answer = (await town.refresh(second))[1]
    third, bearer = answer["refresh_token"], f"Bearer {answer['access_token']}"
    await town.callers.of(bearer)
    town.clock.at += GRACE_S
    is_refused(await town.refresh(first), "invalid_grant", "used again", 400)
    for text in (first, second, third):
        is_refused(await town.refresh(text), "invalid_grant", "revoked", 400)
    with pytest.raises(Unauthenticated, match="revoked"):
        await town.callers.of(bearer)
    assert (await town.refresh(other))[0] == 200
    assert (await town.refresh(town.refreshes["demo"]))[0] == 200


async def test_a_login_is_bound_to_its_client(town: Town) -> None:
    is_refused(await town.refresh(await town.login(), "csi-driver"), "invalid_grant", "another client", 400)


async def test_one_token_traded_by_many_at_once_stays_one_family(busy: Town) -> None:
    town = busy
    first = await town.login()
    answers = await asyncio.gather(*[town.refresh(first) for _ in range(5)])
    assert [status for status, _ in answers] == [200] * 5
    assert len({answer["refresh_token"] for _, answer in answers}) == 5
    town.clock.at += GRACE_S
    await town.refresh(first)
    for _, answer in answers:
        is_refused(await town.refresh(answer["refresh_token"]), "invalid_grant", "revoked", 400)


async def test_spent_refresh_tokens_are_dropped(town: Town) -> None:
    text = await town.login()
    user = text.split(".")[0]
    for _ in range(4):
        text = (await town.refresh(text))[1]["refresh_token"]
    town.clock.at += REFRESH_S / 2
    text = (await town.refresh(text))[1]["refresh_token"]
    town.clock.at += REFRESH_S / 2
    text = (await town.refresh(text))[1]["refresh_token"]
    assert len((await town.store.list(Query("RefreshToken", f"users/{user}"))).items) <= 4


async def test_refresh_tokens_do_not_grow_without_end(town: Town) -> None:
    text = await town.login()
    for _ in range(MAX_REFRESH_TOKENS + 20):
        text = (await town.refresh(text))[1]["refresh_token"]
    kept = (await town.store.list(Query("RefreshToken", f"users/{text.split('.')[0]}"))).items
    assert len(kept) <= MAX_REFRESH_TOKENS + 1
    assert "env" in {s.key.name for s in kept}


async def revoke_env(town: Town) -> None:
    await town.settle(revoked(await town.token()))


async def disable_user(town: Town) -> None:
    stored = await town.get("User", "", town.refreshes["demo"].split(".")[0])
    await town.settle(Update(stored.key, stored.user_revision, {**stored.spec, "enabled": False}))


async def delete_user(town: Town) -> None:
    await town.settle(Delete(Key("User", "", town.refreshes["demo"].split(".")[0])))


async def forget_env(town: Town) -> None:
    await town.settle(Forget((await town.token()).key, None))


async def renew_env(town: Town) -> None:
    """Another token under the same name."""
    token = await town.token()
    await town.settle(changed(token, digest=digest_of(refresh_text(token.key.scope.split("/")[1], "env"))))


@pytest.mark.parametrize("end", [revoke_env, disable_user, delete_user, forget_env, renew_env])
async def test_a_user_who_is_ended_is_refused_within_a_second(town: Town, end: Any) -> None:
    bearer = await town.bearer(account=False)
    await town.callers.of(bearer)
    await end(town)
    town.clock.at += 1.0
    with pytest.raises(Unauthenticated):
        await town.callers.of(bearer)
    is_refused(await town.refresh(town.refreshes["demo"]), "invalid_grant", "", 400)


# -- callers ------------------------------------------------------------------------------------


async def test_a_user_owns_their_organisations(town: Town) -> None:
    caller = await town.callers.of(await town.bearer(account=False))
    stored = await town.get("Project", "", "demo")
    assert caller == Caller(
        f"/iam/users/{town.refreshes['demo'].split('.')[0]}", frozenset({stored.spec["organization"]})
    )


async def test_a_service_account_is_a_member_of_its_project_alone(town: Town) -> None:
    caller = await town.callers.of(await town.bearer(project="strange"))
    assert caller == Caller("/iam/projects/strange/serviceAccounts/robot", member_of=frozenset({"strange"}))


async def test_a_service_account_that_is_listed_owns_its_organisation(town: Town) -> None:
    stored = await town.get("Project", "", "demo")
    caller = await town.callers.of(await town.bearer())
    assert caller.owns == {stored.spec["organization"]} and caller.member_of == {"demo"}


async def test_an_account_of_the_same_name_inherits_no_ownership(town: Town) -> None:
    await forget_first(town)
    await replace_robot(town)
    await town.credential("robot", "demo", "first")
    caller = await town.callers.of(await town.bearer())
    assert caller.owns == frozenset() and caller.member_of == {"demo"}


async def test_a_list_of_another_organisation_gives_nothing(town: Town) -> None:
    """The stranger's organisation lists our account: it stays a stranger there."""
    ours = await town.get("ServiceAccount", "projects/demo", "robot")
    other = (await town.get("Project", "", "strange")).spec["organization"]
    await town.settle(SetStatus(Key("Organization", "", other), 1, {"owners": [ours.uid]}, None))
    assert other not in (await town.callers.of(await town.bearer())).owns


async def test_an_expired_access_token_is_refused(town: Town) -> None:
    bearer = await town.bearer()
    await town.callers.of(bearer)
    town.clock.at += 299.5
    await town.callers.of(bearer)
    town.clock.at += 0.5
    for callers in (town.callers, Callers(town.store, town.clock, town.keys, ISSUER)):
        with pytest.raises(Unauthenticated, match="expired"):
            await callers.of(bearer)


@pytest.mark.parametrize(
    ("claims", "word"),
    [
        ({"iss": issuer_of("http://127.0.0.1:9")}, "issuer"),
        ({"iss": None}, "issuer"),
        ({"aud": "account"}, "audience"),
        ({"aud": ["hansa-api"]}, "audience"),
        ({"exp": 1}, "expired"),
        ({"exp": None}, "date"),
        ({"exp": True}, "date"),
        ({"exp": "9999999999"}, "date"),
        ({"exp": float("nan")}, "expired"),
        ({"account": "/iam/projects/demo"}, "no account"),
        ({"account": "nonsense"}, "no account"),
        ({"account": "/iam/projects/strange/serviceAccounts/robot"}, "replaced"),
        ({"account": "/iam/users/nobody"}, "gone"),
        ({"sub": "x"}, "replaced"),
        ({"via": "other"}, "gone"),
        ({"proof": "x"}, "replaced"),
    ],
)
async def test_an_access_token_with_a_wrong_claim_is_refused(town: Town, claims: dict[str, Any], word: str) -> None:
    good = claims_of(await town.bearer())
    assert (await town.callers.of(f"Bearer {town.keys.sign(good)}")).member_of == {"demo"}
    with pytest.raises(Unauthenticated, match=word):
        await town.callers.of(f"Bearer {town.keys.sign({**good, **claims})}")


async def test_a_user_of_the_same_name_inherits_no_token(town: Town) -> None:
    good = claims_of(await town.bearer(account=False))
    with pytest.raises(Unauthenticated, match="replaced"):
        await town.callers.of(f"Bearer {town.keys.sign({**good, 'sub': 'another'})}")


@pytest.mark.parametrize("proof", ["", None, "a"])
async def test_a_short_proof_proves_nothing(town: Town, proof: Any) -> None:
    good = claims_of(await town.bearer(account=False))
    assert (await town.callers.of(f"Bearer {town.keys.sign(good)}")).owns
    short = {**good, "proof": good["proof"][:1] if proof == "a" else proof}
    with pytest.raises(Unauthenticated, match="replaced"):
        await town.callers.of(f"Bearer {town.keys.sign(short)}")


async def test_an_access_token_of_another_key_is_refused(town: Town) -> None:
    good = claims_of(await town.bearer())
    with pytest.raises(Unauthenticated, match="not signed"):
        await town.callers.of(f"Bearer {SigningKeys.fresh().sign(good)}")
    kid = town.keys.jwks()["keys"][0]["kid"]
    other = OKPKey.generate_key("Ed25519")
    forged = jwt.encode({"alg": "Ed25519", "kid": kid}, good, other, algorithms=["Ed25519"])
    with pytest.raises(Unauthenticated, match="not signed"):
        await town.callers.of(f"Bearer {forged}")


async def test_a_tampered_access_token_is_refused(town: Town) -> None:
    head, body, signature = (await town.bearer()).removeprefix("Bearer ").split(".")
    claims = base64.urlsafe_b64encode(json.dumps({**claims_of(f".{body}."), "exp": 9e9}).encode()).rstrip(b"=").decode()
    none = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode()
    public = json.dumps(town.keys.jwks()["keys"][0]).encode()
    symmetric = base64.urlsafe_b64encode(b'{"alg":"HS256"}').rstrip(b"=").decode()
    mac = base64.urlsafe_b64encode(hmac.new(public, f"{symmetric}.{claims}".encode(), hashlib.sha256).digest()).decode()
    for text in (f"{head}.{claims}.{signature}", f"{none}.{claims}.", f"{none}.{claims}.{signature}", f"{head}.{body}.",
                 f"{symmetric}.{claims}.{mac.rstrip('=')}", f"{head}.{body}.{signature[:-4]}AAAA"):  # fmt: skip
        with pytest.raises(Unauthenticated, match="not signed"):
            await town.callers.of(f"Bearer {text}")


@pytest.mark.parametrize(
    ("header", "word"),
    [
        (None, "send"),
        ("", "send"),
        ("Bearer", "must read"),
        ("Bearer ", "must read"),
        ("Basic ZXZyb2MtY2xpOg==", "must read"),
        ("Bearer opaque", "not signed"),
        ("Bearer a.b.c", "not signed"),
        ("Bearer \udcff", "not signed"),
        ("Bearer " + "x" * 100_000, "not signed"),
    ],
)
async def test_a_header_that_proves_nothing_is_refused(town: Town, header: str | None, word: str) -> None:
    with pytest.raises(Unauthenticated, match=word):
        await town.callers.of(header)


async def test_a_refresh_token_or_an_assertion_is_no_access_token(town: Town) -> None:
    for text in (town.refreshes["demo"], town.assertion()):
        with pytest.raises(Unauthenticated, match="not signed"):
            await town.callers.of(f"Bearer {text}")


async def test_the_scheme_is_read_in_any_case(town: Town) -> None:
    assert await town.callers.of((await town.bearer()).replace("Bearer", "bearer"))


async def test_within_a_second_nothing_is_asked_of_the_store(town: Town) -> None:
    bearer = await town.bearer()
    first = await town.callers.of(bearer)
    await town.store.close()
    town.clock.at += 0.999
    assert await town.callers.of(bearer) is first


async def test_a_remembered_call_costs_a_few_microseconds(town: Town) -> None:
    bearer = await town.bearer()
    await town.callers.of(bearer)
    started = time.perf_counter()
    for _ in range(2000):
        await town.callers.of(bearer)
    assert (time.perf_counter() - started) / 2000 < 100e-6  # measured: 2 µs; the rest is for busy machines


async def test_a_clock_that_goes_back_believes_nothing_old(town: Town) -> None:
    bearer = await town.bearer()
    await town.callers.of(bearer)
    await disable_robot(town)
    town.clock.at -= 100
    with pytest.raises(Unauthenticated, match="disabled"):
        await town.callers.of(bearer)


@pytest.mark.parametrize("shift_s", [-3600.0, 3600.0])
async def test_no_token_lives_longer_than_its_life_and_the_shift_of_the_clock(town: Town, shift_s: float) -> None:
    """Lives are dates: an hour taken from the clock is an hour given to what was made before; none is given twice."""
    life_s = 300.0
    bearer, lived_s = await town.bearer(), 0.0
    town.clock.at += shift_s
    while lived_s <= life_s + 3600.0:
        try:
            await town.callers.of(bearer)
        except Unauthenticated:
            break
        lived_s += 10.0
        town.clock.at += 10.0
    assert lived_s == max(0.0, life_s - shift_s)
    assert claims_of(fresh := await town.bearer())["exp"] - town.clock.at == life_s  # what is made now has its own life
    town.clock.at += life_s
    with pytest.raises(Unauthenticated, match="expired"):
        await town.callers.of(fresh)


async def test_an_assertion_is_not_used_again_after_the_clock_went_back(town: Town) -> None:
    text = town.assertion()
    assert (await town.present(text))[0] == 200
    town.clock.at -= 3600
    is_refused(await town.present(text), "invalid_client", "ahead")  # it is of the future now
    early = town.assertion(nbf=town.clock.at, iat=town.clock.at, exp=town.clock.at + 300, jti="again")
    assert (await town.present(early))[0] == 200
    for _ in range(37):  # until the hour is over that comes a second time, and longer
        town.clock.at += 100
        assert (await town.present(text))[0] == 401 and (await town.present(early))[0] == 401
    status, answer = await town.present(town.assertion())
    assert status == 200 and answer["expires_in"] == 300


async def test_what_a_credential_has_left_bounds_a_token_whatever_the_clock_does(town: Town) -> None:
    end = town.clock.now() + 4000
    await town.credential("robot", "demo", "second", rs256Jwt={"accessTokenLifetime": 3600}, expiresAt=rfc3339(end))
    for shift_s, left_s in ((0.0, 3600), (3600.0, 400), (-3600.0, 3600), (3999.0, 1)):
        town.clock.at += shift_s
        status, answer = await town.present(town.assertion())
        assert (status, answer["expires_in"]) == (200, left_s) and claims_of(answer["access_token"])["exp"] <= end
    town.clock.at += 1
    is_refused(await town.present(town.assertion()), "invalid_client", "expired")


async def test_what_is_remembered_is_bounded(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hansa.api.caller.MAX_REMEMBERED", 3)
    good = claims_of(await town.bearer())
    for number in range(10):
        await town.callers.of(f"Bearer {town.keys.sign({**good, 'jti': str(number)})}")
    assert len(town.callers._seen) == 3
    assert MAX_REMEMBERED > 1000


# -- the endpoints ------------------------------------------------------------------------------


async def test_discovery_leads_to_keys_that_verify_a_token(town: Town) -> None:
    status, found = await town.tokens.handle("GET", ".well-known/openid-configuration", {}, b"", BASE)
    assert status == 200
    assert found["issuer"] == ISSUER
    assert found["token_endpoint"] == TOKEN_URL
    assert found["jwks_uri"] == f"{ISSUER}/protocol/openid-connect/certs"
    status, keys = await town.tokens.handle("GET", found["jwks_uri"].removeprefix(ISSUER + "/"), {}, b"", BASE)
    assert status == 200
    assert all("d" not in key and key["kty"] == "OKP" and key["kid"] for key in keys["keys"])
    token = (await town.bearer()).removeprefix("Bearer ")
    head, body, signature = token.split(".")
    public = OKPKey.import_key({k: v for k, v in keys["keys"][0].items() if k != "alg"})
    sign = base64.urlsafe_b64decode(signature + "==")
    public.public_key.verify(sign, f"{head}.{body}".encode())  # type: ignore[attr-defined]


@pytest.mark.parametrize("grant", ["password", "authorization_code", "implicit", "x" * 500])
async def test_other_grants_are_refused_with_a_hint(town: Town, grant: str) -> None:
    answer = await town.post({"grant_type": grant, "client_id": "evroc-cli", "username": "u", "password": "p"})
    is_refused(answer, "unsupported_grant_type", "refresh", 400)
    assert len(answer[1]["error_description"]) < 300


async def test_requests_that_are_no_form_are_refused(town: Town) -> None:
    async def send(body: bytes, kind: str = "application/x-www-form-urlencoded") -> tuple[int, dict[str, Any]]:
        return await town.tokens.handle("POST", TOKEN, {"content-type": kind}, body, BASE)

    is_refused(await send(b""), "invalid_request", "grant_type", 400)
    is_refused(await send(b"{}", "application/json"), "invalid_request", "form", 400)
    is_refused(await send(b"\xff=1"), "invalid_request", "no form", 400)
    is_refused(await send(b"a=%ff"), "invalid_request", "no form", 400)
    is_refused(await send(b"grant_type=refresh_token&grant_type=password"), "invalid_request", "twice", 400)
    is_refused(await send(b"&".join(b"a%d=1" % n for n in range(40))), "invalid_request", "too many", 400)
    headers = {"authorization": "Basic !!!"}
    is_refused(await town.tokens.handle("POST", TOKEN, headers, b"", BASE), "invalid_client", "Basic")


async def test_other_paths_and_methods_are_refused(town: Town) -> None:
    for method, tail, status in (
        ("GET", TOKEN, 405),
        ("POST", "protocol/openid-connect/certs", 405),
        ("GET", "protocol/openid-connect/auth", 404),
        ("GET", "", 404),
        ("GET", "../../x", 404),
    ):
        assert (await town.tokens.handle(method, tail, {}, b"", BASE))[0] == status


async def test_the_host_that_a_client_names_is_no_audience(town: Town) -> None:
    """Else an assertion meant for another server could be played back here."""
    other = "http://evil.example"
    form = urlencode(
        {
            "grant_type": "client_credentials",
            "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": town.assertion(aud=f"{issuer_of(other)}/protocol/openid-connect/token"),
        }
    )
    is_refused(await town.tokens.handle("POST", TOKEN, {}, form.encode(), other), "invalid_client", "aud")


async def test_both_names_of_loopback_are_audiences_of_our_port_alone(town: Town) -> None:
    near = TOKEN_URL.replace("127.0.0.1", "localhost")
    assert (await town.present(town.assertion(aud=near)))[0] == 200
    for url in (TOKEN_URL.replace("8080", "8081"), near.replace("http:", "https:"), TOKEN_URL + "/"):
        is_refused(await town.present(town.assertion(aud=url)), "invalid_client", "aud")


def test_settings_add_audiences() -> None:
    assert accepted_audiences("https://iam.example/realms/evroc-customer", " https://a/x , ,https://b/y") == {
        "https://iam.example/realms/evroc-customer/protocol/openid-connect/token",
        "https://a/x",
        "https://b/y",
    }


# -- the cloud's own keys -----------------------------------------------------------------------


def test_signing_keys_are_made_once_and_for_the_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    first, second = SigningKeys.in_folder(folder), SigningKeys.in_folder(folder)
    assert first.jwks() == second.jwks()
    assert second.verified(first.sign({"a": 1})) == {"a": 1}
    assert [oct(f.stat().st_mode & 0o777) for f in folder.iterdir()] == ["0o600"]
    assert oct(folder.stat().st_mode & 0o777) == "0o700"


def test_the_newest_key_signs_and_the_older_ones_verify(tmp_path: Path) -> None:
    old = SigningKeys.in_folder(tmp_path)
    write_private(tmp_path / "signing-2.jwk", json.dumps(OKPKey.generate_key("Ed25519").as_dict(private=True)))
    both = SigningKeys.in_folder(tmp_path)
    assert len(both.jwks()["keys"]) == 2
    assert both.verified(old.sign({"a": 1})) == {"a": 1}
    assert old.verified(both.sign({"a": 1})) is None


def test_a_file_that_is_no_key_is_said_so(tmp_path: Path) -> None:
    write_private(tmp_path / "signing-1.jwk", "nonsense")
    with pytest.raises(Bug, match="no signing key"):
        SigningKeys.in_folder(tmp_path)


def test_a_private_file_is_replaced_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("old")
    (tmp_path / "f").chmod(0o644)
    write_private(tmp_path / "f", "new")
    assert (tmp_path / "f").read_text() == "new"
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o600
    assert [f.name for f in tmp_path.iterdir()] == ["f"]


def test_no_kind_here_shows_what_is_hidden() -> None:
    assert Organization.hidden == {"owners"}
    assert ServiceAccountCredential.hidden == {"publicJwk"}
    assert not User.public and not RefreshToken.public and Project.public
