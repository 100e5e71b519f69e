"""The first start of a cloud and each later one: idempotent, safe to die in, and its files fit its store."""

import base64
import json
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlencode

import pytest
import yaml
from joserfc import jwt
from joserfc.jwk import RSAKey

from hansa.api.caller import Callers, issuer_of
from hansa.api.keys import SigningKeys
from hansa.api.tokens import ASSERTION_TYPE, TokenService, revoked
from hansa.bootstrap import Credentials, ensure_cloud, ensure_organization, write_environment
from hansa.clock import SeededIds
from hansa.config import Settings
from hansa.control.accounts import revoke
from hansa.control.outcome import born_ready
from hansa.control.s3keys import revoke_key, s3_key_born
from hansa.control.world import World
from hansa.datafolder import read_environment
from hansa.errors import Conflict
from hansa.kinds.iam import RefreshToken, ServiceAccount, ServiceAccountCredential
from hansa.kinds.resource import AnyResource, Key
from hansa.kinds.storage import S3Key
from hansa.objectindex.nothing import NothingStored
from hansa.policy.verdict import Caller
from hansa.sealing import Sealer
from hansa.store.port import Birth, Create, Delete, Forget, Query
from hansa.store.store import SqlStore

from ..clocks import Hands
from ..postgres import a_store, all_that_is_kept

pytestmark = pytest.mark.anyio

BASE = "http://127.0.0.1:8080"
DAY = 86_400
SEALER = Sealer(b"0" * 32)


class Killed(BaseException):
    """The process dies here."""


class Mortal:
    """A store that dies before or after its n-th commit."""

    def __init__(self, store: SqlStore, at: int, after: bool) -> None:
        self._store, self._at, self._after, self.commits = store, at, after, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit(self, *writes: Any, **more: Any) -> int:
        self.commits += 1
        if self.commits == self._at and not self._after:
            raise Killed
        revision = await self._store.commit(*writes, **more)
        if self.commits == self._at:
            raise Killed
        return revision


@dataclass
class House:
    """One DIR."""

    folder: Path
    store: Any
    clock: Hands
    ids: SeededIds

    async def born(self, it: AnyResource) -> Birth:
        network = Key("VirtualPrivateCloud", f"projects/{it.name}/regions/se-sto", "default")
        also = (Create(network, self.ids.uid(), {}, parents=(it.key,)),)
        return Birth(born_ready(self.clock.now()), observed=1, due=False, also=also)

    async def key_born(self, it: AnyResource) -> Birth:
        settings, nobody = Settings(_env_file=None), cast(Any, None)
        return await s3_key_born(it, World(self.store, nobody, self.clock, self.ids, settings, NothingStored(), SEALER))

    async def unseal(self, uid: str, name: str) -> bytes | None:
        sealed = await self.store.secret(uid, name)
        return None if sealed is None else SEALER.open(sealed, f"{uid}/{name}")

    async def s3_keys(self) -> list[S3Key]:
        items = (await self.store.list(Query("S3Key", below=True))).items
        return [S3Key(s) for s in items if s.deleted_at is None]

    async def start(self, project: str = "demo", store: Any = None) -> Credentials:
        it = await ensure_cloud(
            store or self.store, self.clock, self.ids,
            project=project, region="se-sto", project_born=self.born, kept=read_environment(self.folder),
            s3_key_born=self.key_born, unseal=self.unseal,
        )  # fmt: skip
        write_environment(self.folder, BASE, it)
        return it

    def env(self) -> dict[str, str]:
        return read_environment(self.folder)

    async def count(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for stored in (await self.store.list(Query(below=True))).items:
            found[stored.key.kind] = found.get(stored.key.kind, 0) + 1
        return found

    async def credentials(self) -> list[ServiceAccountCredential]:
        items = (await self.store.list(Query("ServiceAccountCredential", below=True))).items
        return [ServiceAccountCredential(s) for s in items]

    async def by_account(self, env: dict[str, str]) -> Caller:
        """As the Go SDK does it."""
        secret = json.loads(base64.b64decode(env["EVROC_SERVICE_ACCOUNT_SECRET"], validate=True))
        client = f"{env['EVROC_SERVICE_ACCOUNT_ID']}_{env['EVROC_PROJECT']}"
        now = int(self.clock.now())
        claims = {"iss": client, "sub": client, "aud": env["EVROC_TOKEN_URL"], "iat": now, "nbf": now}
        claims |= {"exp": now + 300, "jti": self.ids.token()}
        header = {"alg": "RS256", "kid": secret["kid"], "typ": "JWT"}
        text = jwt.encode(header, claims, RSAKey.import_key(secret), algorithms=["RS256"])
        return await self._caller(
            {
                "grant_type": "client_credentials",
                "client_assertion_type": ASSERTION_TYPE,
                "client_assertion": text,
                "client_id": client,
            }
        )

    async def by_refresh(self, text: str) -> Caller:
        return await self._caller({"grant_type": "refresh_token", "refresh_token": text, "client_id": "evroc-cli"})

    async def _caller(self, form: dict[str, str]) -> Caller:
        keys, issuer = SigningKeys.in_folder(self.folder / "keys"), issuer_of(BASE)
        tokens = TokenService(self.store, self.clock, self.ids, keys, Settings(_env_file=None), issuer=issuer)
        tail = "protocol/openid-connect/token"
        status, answer = await tokens.handle("POST", tail, {}, urlencode(form).encode(), BASE)
        if status != 200:
            raise PermissionError(answer["error_description"])
        callers = Callers(self.store, self.clock, keys, issuer)
        return await callers.of(f"Bearer {answer['access_token']}")


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    clock, ids = Hands(), SeededIds(3)
    store = await a_store(tmp_path / "store", clock=clock, ids=ids, inline=True, follow=False)
    yield House(tmp_path, store, clock, ids)
    await store.close()


async def test_after_the_first_start_both_ways_lead_to_an_owner(house: House) -> None:
    it = await house.start()
    env = house.env()
    assert await house.by_account(env) == Caller(
        "/iam/projects/demo/serviceAccounts/hansa", frozenset({it.organization}), frozenset({"demo"})
    )
    assert await house.by_refresh(env["EVROC_REFRESH_TOKEN"]) == Caller(
        f"/iam/users/{it.user}", frozenset({it.organization})
    )
    assert await house.count() == {
        "Organization": 1, "User": 1, "Project": 1, "ServiceAccount": 1, "ServiceAccountCredential": 1,
        "RefreshToken": 1, "VirtualPrivateCloud": 1, "S3Key": 1,
    }  # fmt: skip


async def test_a_second_start_keeps_everything(house: House) -> None:
    first = await house.start()
    before = (house.folder / "hansa.env").read_text()
    house.clock.at += 3 * DAY
    assert await house.start() == first
    assert (house.folder / "hansa.env").read_text() == before
    assert (await house.count())["ServiceAccountCredential"] == 1


async def test_each_start_gives_the_refresh_token_thirty_days_again(house: House) -> None:
    for _ in range(4):
        it = await house.start()
        house.clock.at += 20 * DAY
    await house.by_refresh(it.refresh_token)
    house.clock.at += 10 * DAY
    with pytest.raises(PermissionError, match="expired"):
        await house.by_refresh(it.refresh_token)
    again = await house.start()
    assert again.refresh_token != it.refresh_token
    await house.by_refresh(again.refresh_token)


async def test_the_credential_is_renewed_in_its_last_month_and_the_old_one_still_counts(house: House) -> None:
    await house.start()
    old = house.env()
    house.clock.at += 334 * DAY
    await house.start()
    assert house.env()["EVROC_SERVICE_ACCOUNT_SECRET"] == old["EVROC_SERVICE_ACCOUNT_SECRET"]
    house.clock.at += 2 * DAY
    await house.start()
    assert house.env()["EVROC_SERVICE_ACCOUNT_SECRET"] != old["EVROC_SERVICE_ACCOUNT_SECRET"]
    await house.by_account(house.env())
    await house.by_account(old)
    house.clock.at += 320 * DAY
    await house.start()
    await house.start()
    assert len(await house.credentials()) == 1 + 1  # the first one expired and was dropped
    with pytest.raises(PermissionError):
        await house.by_account(old)


async def test_lost_files_end_what_stood_in_them(house: House) -> None:
    first = await house.start()
    old = house.env()
    (house.folder / "hansa.env").unlink()
    second = await house.start()
    assert (first.organization, first.user, first.service_account) == (
        second.organization, second.user, second.service_account
    )  # fmt: skip
    await house.by_account(house.env())
    await house.by_refresh(house.env()["HANSA_REFRESH_TOKEN"])
    with pytest.raises(PermissionError, match="revoked"):
        await house.by_account(old)
    with pytest.raises(PermissionError, match="unknown"):
        await house.by_refresh(old["HANSA_REFRESH_TOKEN"])


async def test_the_key_of_s3_is_kept_while_it_counts(house: House) -> None:
    it = await house.start()
    env = house.env()
    assert (env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"]) == (it.s3_access_key, it.s3_secret_key)
    assert env["AWS_DEFAULT_REGION"] == "se-sto"
    (key,) = await house.s3_keys()
    assert key.spec.service_account_ref == "/iam/projects/demo/serviceAccounts/hansa"
    assert await house.unseal(key.uid, key.status.pairs[0].sealed) == it.s3_secret_key.encode()
    assert (await house.start()).s3_secret_key == it.s3_secret_key
    for spoil in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"):
        text = (house.folder / "hansa.env").read_text()
        (house.folder / "hansa.env").write_text(text.replace(f"{spoil}='", f"{spoil}='x"))
        again = await house.start()
        assert again.s3_access_key != it.s3_access_key
        assert [k.status.access_key for k in await house.s3_keys()] == [again.s3_access_key], "the one before has ended"
        it = again
    await house.store.commit(*await revoke_key((await house.s3_keys())[0], "leaked", house.clock.now()))
    assert (await house.start()).s3_access_key != it.s3_access_key


@pytest.mark.parametrize("text", ["", "export X='", "\udcff", "export EVROC_SERVICE_ACCOUNT_SECRET='bnVsbA=='\n", "[]"])
async def test_a_spoilt_file_is_written_anew(house: House, text: str) -> None:
    await house.start()
    (house.folder / "hansa.env").write_bytes(text.encode(errors="surrogateescape"))
    await house.start()
    await house.by_account(house.env())


async def test_a_public_half_in_the_file_is_no_secret(house: House) -> None:
    it = await house.start()
    public = (await house.credentials())[0].status.public_jwk
    text = base64.b64encode(json.dumps(public).encode()).decode()
    write_environment(
        house.folder, BASE, Credentials(**{**{f: getattr(it, f) for f in it.__slots__}, "service_account_secret": text})
    )
    await house.start()
    assert house.env()["EVROC_SERVICE_ACCOUNT_SECRET"] != text
    await house.by_account(house.env())


async def test_what_an_operator_revoked_does_not_come_back(house: House) -> None:
    it = await house.start()
    old = house.env()
    token = RefreshToken(await house.store.get(Key("RefreshToken", f"users/{it.user}", "env")))
    writes = await revoke((await house.credentials())[0], "lost laptop", house.clock.now())
    await house.store.commit(revoked(token), *writes)
    await house.start()
    with pytest.raises(PermissionError, match="revoked"):
        await house.by_account(old)
    with pytest.raises(PermissionError, match="unknown"):
        await house.by_refresh(old["HANSA_REFRESH_TOKEN"])
    await house.by_account(house.env())
    await house.by_refresh(house.env()["HANSA_REFRESH_TOKEN"])


async def test_a_deleted_account_is_made_again(house: House) -> None:
    it = await house.start()
    await house.store.commit(Delete(Key("ServiceAccount", "projects/demo", "hansa")))
    going = await house.start()
    assert going.service_account.startswith("hansa-")
    assert (await house.by_account(house.env())).owns == {it.organization}
    await house.store.commit(Forget(Key("ServiceAccount", "projects/demo", "hansa"), None))
    assert (await house.start()).service_account == going.service_account


async def test_somebody_elses_account_of_our_name_is_given_nothing(house: House) -> None:
    await house.start()
    ours = Key("ServiceAccount", "projects/demo", "hansa")
    await house.store.commit(Forget(ours, None))
    await house.store.commit(Create(ours, house.ids.uid(), {"enabled": True}))
    assert (await house.start()).service_account.startswith("hansa-")
    assert len((await house.store.list(Query("ServiceAccount", "projects/demo"))).items) == 2


async def test_a_project_that_is_going_gets_no_account(house: House) -> None:
    await house.start()
    await house.store.commit(Delete(Key("Project", "", "demo")))
    it = await house.start()
    assert it.service_account == it.service_account_secret == ""
    assert "EVROC_SERVICE_ACCOUNT_ID" not in house.env()
    await house.by_refresh(house.env()["HANSA_REFRESH_TOKEN"])


async def test_another_project_gets_its_own_account_in_the_same_organisation(house: House) -> None:
    first = await house.start()
    second = await house.start("other")
    assert second.organization == first.organization
    assert (await house.by_account(house.env())).member_of == {"other"}
    await house.start("demo")
    assert (await house.by_account(house.env())).owns == {first.organization}
    assert len((await house.store.list(Query("ServiceAccount", below=True))).items) == 2


async def test_the_project_of_another_organisation_is_refused(house: House) -> None:
    organization, _, _ = await ensure_organization(house.store, house.clock, house.ids, "stranger")
    await house.store.commit(Create(Key("Project", "", "demo"), house.ids.uid(), {"organization": organization}))
    with pytest.raises(Conflict, match="HANSA_PROJECT"):
        await house.start()


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", range(1, 8))
async def test_a_start_may_die_at_any_commit(house: House, at: int, after: bool) -> None:
    store = Mortal(house.store, at, after)
    try:
        await house.start(store=store)
    except Killed:
        pass
    else:
        assert store.commits < at
    it = await house.start()
    count = await house.count()
    assert count.pop("ServiceAccountCredential") <= 2 and count.pop("S3Key") <= 2
    assert len(await house.s3_keys()) == 1
    assert set(count.values()) == {1}
    assert len([c for c in await house.credentials() if c.status.revoked_at is None]) == 1
    assert (await house.by_account(house.env())).owns == {it.organization}
    await house.by_refresh(it.refresh_token)
    assert len(await house.store.claims("cloud", below=True)) == 1


async def test_a_stranger_owns_another_organisation(house: House) -> None:
    it = await house.start()
    organization, user, token = await ensure_organization(house.store, house.clock, house.ids, "stranger")
    assert organization != it.organization
    assert await house.by_refresh(token) == Caller(f"/iam/users/{user}", frozenset({organization}))
    again = await ensure_organization(house.store, house.clock, house.ids, "stranger")
    assert again[:2] == (organization, user) and again[2] != token
    assert (await ensure_organization(house.store, house.clock, house.ids, "third"))[0] != organization
    assert (await house.start()).organization == it.organization


# -- the files ----------------------------------------------------------------------------------

FORBIDDEN = {"EVROC_CLIENT_ID", "EVROC_TOKEN", "EVROC_USERNAME", "EVROC_PASSWORD"}


async def test_the_environment_is_what_a_shell_reads(house: House) -> None:
    it = await house.start()
    file = house.folder / "hansa.env"
    assert file.stat().st_mode & 0o777 == 0o600
    shell = ["env", "-i", "/bin/sh", "-c", f". {file}; env"]
    lines = subprocess.run(shell, capture_output=True, text=True, check=True).stdout.splitlines()
    seen = dict(line.split("=", 1) for line in lines)
    assert {k: v for k, v in seen.items() if k.startswith(("HANSA_", "EVROC_", "AWS_"))} == house.env()
    assert seen["HANSA_API_URL"] == seen["EVROC_API_URL"] == BASE
    assert seen["EVROC_TOKEN_URL"] == f"{BASE}/realms/evroc-customer/protocol/openid-connect/token"
    assert seen["EVROC_PROJECT"] == seen["HANSA_PROJECT"] == "demo"
    assert seen["EVROC_REGION"] == seen["HANSA_REGION"] == "se-sto"
    assert seen["EVROC_ORGANIZATION"] == seen["HANSA_ORGANIZATION"] == it.organization
    assert seen["EVROC_SERVICE_ACCOUNT_ID"] == "hansa"
    assert seen["EVROC_REFRESH_TOKEN"] == seen["HANSA_REFRESH_TOKEN"] == it.refresh_token
    assert seen["EVROC_CONFIG_FILE"] == str(house.folder / "evroc.yaml")
    assert not FORBIDDEN & set(seen)


async def test_the_sdk_file_holds_the_service_account_alone(house: House) -> None:
    it = await house.start()
    file = house.folder / "evroc.yaml"
    assert file.stat().st_mode & 0o777 == 0o600
    assert yaml.safe_load(file.read_text()) == {
        "auth": {
            "token_url": house.env()["EVROC_TOKEN_URL"],
            "service_account_id": "hansa",
            "service_account_secret": it.service_account_secret,
        },
        "api": {"base_url": BASE},
        "context": {"project": "demo", "region": "se-sto", "organization": it.organization},
    }


def test_a_folder_with_a_quote_is_quoted(tmp_path: Path) -> None:
    folder = tmp_path / "it's $HOME `x`"
    folder.mkdir()
    write_environment(folder, BASE, Credentials("o", "u", "demo", "se-sto"))
    wanted = str(folder / "evroc.yaml")
    assert read_environment(folder)["EVROC_CONFIG_FILE"] == wanted
    script = '. "$0"/hansa.env; printf %s "$EVROC_CONFIG_FILE"'
    assert subprocess.run(["/bin/sh", "-c", script, str(folder)], capture_output=True, text=True).stdout == wanted


async def test_no_secret_is_shown_or_stored(house: House) -> None:
    it = await house.start()
    private = json.loads(base64.b64decode(it.service_account_secret))
    assert it.refresh_token not in repr(it) and it.service_account_secret not in repr(it)
    assert it.s3_secret_key and it.s3_secret_key not in repr(it)
    await house.store.close()
    kept = await all_that_is_kept(house.folder / "store")
    for secret in (private["d"], private["p"], it.refresh_token.rpartition(".")[2], it.s3_secret_key):
        assert secret.encode() not in kept


async def test_the_account_says_its_client_id(house: House) -> None:
    await house.start()
    account = ServiceAccount(await house.store.get(Key("ServiceAccount", "projects/demo", "hansa")))
    assert account.status.oauth_client_id == "hansa_demo" and account.ready
