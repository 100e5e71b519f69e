"""Passwords: the direct grant, its limits on a clock that moves when told, one cost and one answer for all failures."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import pytest
from argon2 import PasswordHasher

from hansa.api import passwords as module
from hansa.api.caller import Callers, issuer_of
from hansa.api.keys import SigningKeys
from hansa.api.passwords import FAILURES_MAX, WAITING_MAX, WINDOW_S, Passwords, check
from hansa.api.tokens import GRACE_S, TokenService
from hansa.clock import SeededIds
from hansa.config import Settings
from hansa.errors import Invalid, Retry, Unauthenticated
from hansa.kinds.iam import email_scope
from hansa.kinds.resource import Key
from hansa.sealing import Sealer
from hansa.store.port import Claim, Create, Reserve, SetSecret, Update
from hansa.store.sqlite import open_sqlite
from hansa.store.store import SqlStore

from ..clocks import Hands

pytestmark = pytest.mark.anyio
ISSUER = issuer_of("http://127.0.0.1:8080")
TOKEN = "protocol/openid-connect/token"
RIGHT = "correct horse battery"
CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


@dataclass
class Door:
    store: SqlStore
    clock: Hands
    ids: SeededIds
    passwords: Passwords
    tokens: TokenService
    callers: Callers
    uids: dict[str, str] = field(default_factory=dict)

    async def person(self, email: str, password: str | None = RIGHT) -> str:
        uid = self.ids.uid()
        spec = {"name": email, "email": email, "organization": "acme", "organizations": [], "enabled": True}
        await self.store.commit(
            Create(Key("User", "", uid), uid, spec, observed=1, due=False),
            Reserve(uid, (Claim(email_scope(email), "address"),)),
            *([await self.passwords.setting(uid, password)] if password is not None else []),
        )
        self.uids[email] = uid
        return uid

    async def post(self, address: str = "192.0.2.1", **form: str) -> tuple[int, dict[str, Any]]:
        body = urlencode({"client_id": "evroc-cli", **form}).encode()
        return await self.tokens.handle("POST", TOKEN, {}, body, "http://elsewhere", address)

    async def login(self, name: str, password: str = RIGHT, address: str = "192.0.2.1") -> tuple[int, dict[str, Any]]:
        return await self.post(address, grant_type="password", username=name, password=password, scope="openid")


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    clock, ids = Hands(), SeededIds(7)
    store = await open_sqlite(":memory:", clock=clock, ids=ids, inline=True)
    keys, settings = SigningKeys.fresh(), Settings(_env_file=None)  # type: ignore[call-arg]
    passwords = Passwords(store, Sealer(b"k" * 32), clock, ids, CHEAP)
    tokens = TokenService(store, clock, ids, keys, settings, issuer=ISSUER, passwords=passwords)
    it = Door(store, clock, ids, passwords, tokens, Callers(store, clock, keys, ISSUER))
    await it.person("ada@example.com")
    await it.person("bob@example.com")
    yield it
    passwords.close()
    await store.close()


async def test_a_right_password_gives_tokens_that_work(door: Door) -> None:
    status, said = await door.login("Ada@Example.com")
    assert status == 200 and said["token_type"] == "Bearer" and said["expires_in"] > 0
    assert said["access_token"].count(".") == 2
    caller = await door.callers.of(f"Bearer {said['access_token']}")
    assert caller.ref == f"/iam/users/{door.uids['ada@example.com']}"
    assert caller.owns == frozenset() and caller.grants == ()
    records = await door.store.records("audit")
    assert [(r.body["verb"], r.body["who"], r.about) for r in records] == [("login", caller.ref, "acme")]


@pytest.mark.parametrize("flaw", ["wrong", "unknown", "disabled", "without"])
async def test_every_failure_has_one_answer_and_costs_one_verification(flaw: str, door: Door) -> None:
    name = "ada@example.com"
    if flaw == "unknown":
        name = "nobody@example.com"
    if flaw == "without":
        await door.person("new@example.com", None)
        name = "new@example.com"
    if flaw == "disabled":
        stored = await door.store.get(Key("User", "", door.uids[name]))
        await door.store.commit(Update(stored.key, stored.user_revision, {**stored.spec, "enabled": False}))
    before = door.passwords.verifications
    answer = await door.login(name, RIGHT if flaw != "wrong" else "wrong horse battery")
    assert door.passwords.verifications == before + 1
    assert answer == (400, {"error": "invalid_grant", "error_description": "user name or password is wrong"})


async def test_the_hash_of_nobody_costs_what_any_hash_costs(door: Door) -> None:
    nobody, real = door.passwords._nobody, CHEAP.hash("x")
    assert nobody.split("$")[:4] == real.split("$")[:4] and len(nobody) == len(real)
    assert not await door.passwords.matches(None, RIGHT)


async def test_five_failures_a_minute_for_an_account_from_wherever(door: Door) -> None:
    for number in range(FAILURES_MAX):
        assert (await door.login("ada@example.com", "wrong", f"192.0.2.{number}"))[0] == 400
    before = door.passwords.verifications
    status, said = await door.login("ADA@example.com", RIGHT, "192.0.2.99")
    assert status == 429 and said["error"] == "slow_down"
    assert door.passwords.verifications == before, "refused before any work is done"
    assert (await door.login("bob@example.com", RIGHT, "192.0.2.99"))[0] == 200
    door.clock.at += WINDOW_S - 1
    assert (await door.login("ada@example.com"))[0] == 429
    door.clock.at += 2
    assert (await door.login("ada@example.com"))[0] == 200


async def test_an_unknown_account_is_limited_as_a_known_one(door: Door) -> None:
    answers = {}
    for name in ("ada@example.com", "nobody@example.com"):
        answers[name] = [await door.login(name, "wrong", f"198.51.100.{n}") for n in range(FAILURES_MAX + 1)]
    assert answers["ada@example.com"] == answers["nobody@example.com"]


@pytest.mark.parametrize(
    ("addresses", "limited"),
    [(["192.0.2.1"], True), ([f"2001:db8::{n}" for n in range(1, 9)], True), ([f"2001:db8:0:{n}::1" for n in range(8)], False)],
)  # fmt: skip
async def test_five_failures_a_minute_from_an_address(addresses: list[str], limited: bool, door: Door) -> None:
    """A /64 of IPv6 counts as one: whoever has one address there has them all."""
    for number in range(FAILURES_MAX):
        assert (await door.login(f"n{number}@example.com", "wrong", addresses[number % len(addresses)]))[0] == 400
    status, _ = await door.login("ada@example.com", RIGHT, addresses[-1])
    assert status == (429 if limited else 200)


async def test_success_is_no_failure(door: Door) -> None:
    for _ in range(FAILURES_MAX * 3):
        assert (await door.login("ada@example.com"))[0] == 200


async def test_many_at_once_get_no_more_tries(door: Door) -> None:
    answers = await asyncio.gather(*(door.login("ada@example.com", f"guess number {n}") for n in range(12)))
    assert sorted(status for status, _ in answers) == [400] * FAILURES_MAX + [429] * (12 - FAILURES_MAX)


async def test_only_so_many_verifications_wait(door: Door) -> None:
    door.passwords._waiting = WAITING_MAX
    with pytest.raises(Retry, match="too many passwords"):
        await door.login("ada@example.com")
    door.passwords._waiting = 0
    assert (await door.login("ada@example.com"))[0] == 200


@pytest.mark.parametrize("form", [{"username": "ada@example.com"}, {"password": "x"}, {}, {"username": "a" * 300, "password": "x"}, {"username": "a", "password": "x" * 2000}])  # fmt: skip
async def test_a_form_without_its_fields_is_refused(form: dict[str, str], door: Door) -> None:
    status, said = await door.post(grant_type="password", **form)
    assert status == 400 and said["error"] == "invalid_request"


async def test_a_client_that_is_none_gets_nothing(door: Door) -> None:
    status, said = await door.post(grant_type="password", username="ada@example.com", password=RIGHT, client_id="mine")
    assert status == 401 and said["error"] == "invalid_client"
    assert door.passwords.verifications == 2  # the two hashes of the people


async def test_a_login_rotates_and_an_old_token_used_late_ends_the_family(door: Door) -> None:
    _, first = await door.login("ada@example.com")
    _, other = await door.login("ada@example.com")
    _, second = await door.post(grant_type="refresh_token", refresh_token=first["refresh_token"])
    assert second["refresh_token"] != first["refresh_token"]
    door.clock.at += GRACE_S + 1
    status, said = await door.post(grant_type="refresh_token", refresh_token=first["refresh_token"])
    assert status == 400 and said["error"] == "invalid_grant"
    for dead in (first, second):
        with pytest.raises(Unauthenticated):
            await door.callers.of(f"Bearer {dead['access_token']}")
    assert (await door.post(grant_type="refresh_token", refresh_token=second["refresh_token"]))[0] == 400
    assert (await door.post(grant_type="refresh_token", refresh_token=other["refresh_token"]))[0] == 200


async def test_a_hash_of_weaker_parameters_is_made_anew(door: Door) -> None:
    uid = door.uids["ada@example.com"]
    weak = PasswordHasher(time_cost=1, memory_cost=16, parallelism=1).hash(RIGHT)
    await door.store.commit(SetSecret(uid, "password", Sealer(b"k" * 32).seal(weak.encode(), f"{uid}/password")))
    assert (await door.login("ada@example.com"))[0] == 200
    kept = await door.store.secret(uid, "password")
    assert kept is not None and b"m=8" in Sealer(b"k" * 32).open(kept, f"{uid}/password")
    assert (await door.login("ada@example.com"))[0] == 200


async def test_what_is_stored_tells_no_password_and_no_guess(door: Door) -> None:
    await door.login("ada@example.com", "a wrong guess that is long")
    await door.login("ada@example.com")
    dump = "\n".join(door.store._driver._writer.iterdump())  # type: ignore[attr-defined]
    assert "ada@example.com" in dump, "the search finds what is there"
    for word in (RIGHT, "a wrong guess that is long", "argon2id"):
        assert word not in dump


@pytest.mark.parametrize(
    "password", ["short", "", None, 12345678901234, "a" * 2000, "aaaaaaaaaaaaaa", "ada@example.com"]
)
def test_a_password_that_others_guess_is_refused_without_being_repeated(password: Any) -> None:
    with pytest.raises(Invalid) as refused:
        check(password, "password", "Ada@Example.com")
    assert not password or str(password) not in json.dumps(refused.value.message)
    assert check(RIGHT, "password", "ada@example.com") == RIGHT


def test_the_parameters_are_those_of_rfc_9106() -> None:
    """Its second recommendation has 64 MiB and three passes; one lane, since threads are counted here."""
    made = Passwords(None, None, Hands(), SeededIds(1))  # type: ignore[arg-type]
    assert made._nobody.startswith("$argon2id$v=19$m=65536,t=3,p=1$")
    assert module.THREADS <= 4
    made.close()
