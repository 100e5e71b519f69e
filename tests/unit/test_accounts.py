"""Births, ends and revocation of service accounts and credentials."""

import base64
import json
from pathlib import Path
from typing import Any, cast

import pytest
from joserfc.jwk import RSAKey

from hansa.clock import SeededIds
from hansa.config import Settings
from hansa.control.accounts import Credentials, ServiceAccounts, credential_born, revoke, service_account_born
from hansa.control.outcome import Outcome
from hansa.control.world import World
from hansa.dates import rfc3339
from hansa.errors import Invalid
from hansa.kinds.iam import ServiceAccount, ServiceAccountCredential
from hansa.kinds.resource import Key, Stored
from hansa.objectindex.nothing import NothingStored
from hansa.sealing import Sealer
from hansa.store.port import Create, Delete, Forget, SetStatus, Update
from hansa.store.sqlite import open_sqlite

pytestmark = pytest.mark.anyio

NOW = 1_800_000_000.0
ACCOUNT = Key("ServiceAccount", "projects/demo", "robot")
CREDENTIAL = Key("ServiceAccountCredential", "projects/demo/serviceAccounts/robot", "first")
SPEC = {
    "accountRef": {"fqid": "/iam/projects/demo/serviceAccounts/robot"},
    "type": "rs256-jwt",
    "expiresAt": rfc3339(NOW + 86_400),
}


class Still:
    def now(self) -> float:
        return NOW


@pytest.fixture
async def world(tmp_path: Path) -> Any:
    store = await open_sqlite(":memory:", clock=Still(), ids=SeededIds(1), inline=True)
    yield World(
        store, cast(Any, None), Still(), SeededIds(2), Settings(_env_file=None), NothingStored(), Sealer(b"0" * 32)
    )
    await store.close()


def credential(**spec: Any) -> ServiceAccountCredential:
    return ServiceAccountCredential(Stored(CREDENTIAL, "c", NOW, spec={**SPEC, **spec}))


async def test_an_account_is_ready_at_once_and_says_its_client_id(world: World) -> None:
    birth = await service_account_born(ServiceAccount(Stored(ACCOUNT, "a", NOW, spec={"enabled": True})), world)
    it = ServiceAccount(Stored(ACCOUNT, "a", NOW, observed=birth.observed, status=birth.status))
    assert it.ready and it.status.oauth_client_id == "robot_demo"


async def test_the_private_key_is_shown_and_only_the_public_half_is_kept(world: World) -> None:
    birth = await credential_born(credential(), world)
    private = json.loads(base64.b64decode(birth.shown["privateKeyJwk"], validate=True))
    public = birth.status["publicJwk"]
    assert set(public) == {"kty", "n", "e", "kid", "alg", "use"}
    assert (public["n"], public["kid"], private["alg"]) == (private["n"], private["kid"], "RS256")
    assert private["kid"].startswith("first.")
    assert RSAKey.import_key(private).is_private and RSAKey.import_key(private).raw_value.key_size == 2048
    assert private["d"] not in json.dumps(birth.status)
    assert ServiceAccountCredential(Stored(CREDENTIAL, "c", NOW, observed=1, status=birth.status)).ready
    again = await credential_born(credential(), world)
    assert again.status["publicJwk"]["n"] != public["n"]


@pytest.mark.parametrize(
    ("spec", "path", "word"),
    [
        ({"expiresAt": rfc3339(NOW)}, "spec.expiresAt", "future"),
        ({"expiresAt": rfc3339(NOW - 1)}, "spec.expiresAt", "future"),
        ({"expiresAt": rfc3339(NOW + 10.1 * 365.25 * 86_400)}, "spec.expiresAt", "10 years"),
        ({"accountRef": {"fqid": "/iam/projects/demo/serviceAccounts/other"}}, "spec.accountRef.fqid", "path"),
        ({"accountRef": {"fqid": "/iam/projects/strange/serviceAccounts/robot"}}, "spec.accountRef.fqid", "path"),
        ({"accountRef": {"fqid": "robot"}}, "spec.accountRef.fqid", "path"),
    ],
)
async def test_a_credential_that_breaks_a_rule_is_refused(world: World, spec: Any, path: str, word: str) -> None:
    with pytest.raises(Invalid, match=word) as caught:
        await credential_born(credential(**spec), world)
    assert caught.value.fields[0].path == path


async def test_a_credential_born_with_a_request_to_revoke_it_is_revoked(world: World) -> None:
    birth = await credential_born(credential(revocationRequest={"requested": True, "reason": "no use"}), world)
    assert birth.status["revokedAt"] == rfc3339(NOW) and "publicJwk" in birth.status
    assert "no use" in birth.status["conditions"][0]["message"]


async def test_to_revoke_twice_is_to_revoke_once(world: World) -> None:
    birth = await credential_born(credential(), world)
    await world.store.commit(Create(CREDENTIAL, "c", SPEC, birth.status, observed=1, due=False))
    writes = await revoke(ServiceAccountCredential(await world.store.get(CREDENTIAL)), "lost", NOW + 5)
    await world.store.commit(*writes)
    it = ServiceAccountCredential(await world.store.get(CREDENTIAL))
    assert it.status.revoked_at == rfc3339(NOW + 5) and it.status.public_jwk == birth.status["publicJwk"]
    assert await revoke(it, "again", NOW + 6) == []


async def test_a_pass_over_a_living_credential_says_nothing(world: World) -> None:
    """Else a pass that read it before a revocation would write the old status after it."""
    assert await Credentials().reconcile(credential(), world) == Outcome()


async def settle(world: World, it: Any, outcome: Outcome) -> None:
    """As the loop does it."""
    if outcome.gone:
        await world.store.commit(*outcome.also, Forget(it.key, None))
    elif outcome.status is not None:
        status = SetStatus(it.key, it.generation, outcome.status.wire(), None)
        await world.store.commit(*outcome.also, status)


async def test_an_account_takes_its_credentials_with_it(world: World) -> None:
    account, keys = ServiceAccounts(), Credentials()
    birth = await service_account_born(ServiceAccount(Stored(ACCOUNT, "a", NOW, spec={"enabled": True})), world)
    await world.store.commit(Create(ACCOUNT, "a", {"enabled": True}, birth.status, observed=1))
    names = ["first", "second"]
    for name in names:
        key = Key(CREDENTIAL.kind, CREDENTIAL.scope, name)
        await world.store.commit(Create(key, name, SPEC, {"conditions": []}, observed=1))
    await world.store.commit(Delete(ACCOUNT))

    it = ServiceAccount(await world.store.get(ACCOUNT))
    outcome = await account.reconcile(it, world)
    assert len(outcome.also) == 2 and not outcome.gone and outcome.again_in_s is not None
    await settle(world, it, outcome)
    assert ServiceAccount(await world.store.get(ACCOUNT)).status.oauth_client_id == "robot_demo"

    outcome = await account.reconcile(it, world)
    assert outcome.also == () and not outcome.gone
    for name in names:
        key = ServiceAccountCredential(await world.store.get(Key(CREDENTIAL.kind, CREDENTIAL.scope, name)))
        await settle(world, key, await keys.reconcile(key, world))
    outcome = await account.reconcile(it, world)
    assert outcome.gone
    await settle(world, it, outcome)
    assert await world.get(ServiceAccount, ACCOUNT) is None


async def test_a_disabled_account_stays_ready_and_says_so(world: World) -> None:
    birth = await service_account_born(ServiceAccount(Stored(ACCOUNT, "a", NOW)), world)
    await world.store.commit(Create(ACCOUNT, "a", {"enabled": True}, birth.status, observed=1))
    first = await world.store.get(ACCOUNT)
    await world.store.commit(Update(ACCOUNT, first.user_revision, {"enabled": False}))
    it = ServiceAccount(await world.store.get(ACCOUNT))
    assert not it.ready
    await settle(world, it, await ServiceAccounts().reconcile(it, world))
    it = ServiceAccount(await world.store.get(ACCOUNT))
    assert it.ready and it.status.oauth_client_id == "robot_demo"
    ready = it.status.condition("Ready")
    assert ready is not None and "disabled" in ready.message
