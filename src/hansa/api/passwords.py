"""Passwords of people: argon2id, few at a time, and five failures a minute for an account and for an address.

Every attempt costs one verification, whether the user is there, has a password, is disabled or not, and gets the
same answer; so neither words nor time tell who exists. An attempt takes its place under both limits before it is
looked at, in the store, so that neither many at once nor many processes get more; success gives it back.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from hansa.api.caller import user_fault
from hansa.clock import Clock, Ids
from hansa.errors import Exhausted, Full, Invalid, Retry
from hansa.kinds.iam import User, email_scope
from hansa.sealing import Sealer
from hansa.store.port import Claim, Release, Reserve, SetSecret, Store, Write

T = TypeVar("T")
FAILURES_MAX = 5  # for one account, and from one address
WINDOW_S = 60.0
LENGTH_MIN = 12
LENGTH_MAX = 1024
SECRET = "password"  # noqa: S105 - the name of a secret, not one
THREADS = 2  # verifications at the same time: each takes 64 MiB
WAITING_MAX = 16


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """Somebody with the right password. `also` belongs into the commit that lets them in."""

    user: User
    also: tuple[Write, ...]


class Passwords:
    """One for the process. `hasher`: its parameters are those of new hashes; older ones are made anew at login."""

    def __init__(
        self, store: Store, sealer: Sealer, clock: Clock, ids: Ids, hasher: PasswordHasher | None = None
    ) -> None:
        self._store, self._sealer, self._clock, self._ids = store, sealer, clock, ids
        self._hasher = hasher or PasswordHasher(time_cost=3, memory_cost=65_536, parallelism=1)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="hansa-argon2")
        self._waiting = 0
        self._nobody = _hash_of_nobody(self._hasher)
        self.verifications = 0  # begun since the start

    # -- logging in -------------------------------------------------------------------------

    async def login(self, name: str, password: str, address: str) -> LoggedIn | None:
        """The user of a name and a password, None when anything is wrong. Raises Exhausted, Retry."""
        attempt = await self._attempt(name, address)
        user = await self._user(name)
        kept = await self._kept(user) if user is not None else None
        right = await self.matches(kept, password)
        if user is None or not right or user_fault(user) is not None:
            return None
        also: list[Write] = [Release(attempt)]
        if kept is not None and self._hasher.check_needs_rehash(kept):
            also.append(await self.setting(user.uid, password))
        return LoggedIn(user, tuple(also))

    async def _attempt(self, name: str, address: str) -> str:
        until, owner = self._clock.now() + WINDOW_S, self._ids.uid()
        account = sha256(name.strip().casefold().encode(errors="surrogatepass")).hexdigest()
        claims = tuple(
            Claim(f"login/{scope}", "failures", 1, FAILURES_MAX, until)
            for scope in (f"account/{account}", f"address/{_network(address)}")
        )
        try:
            await self._store.commit(Reserve(owner, claims), by="/hansa/login")
        except Full as error:
            text = f"{FAILURES_MAX} wrong passwords within a minute, for this account or from this address: wait"
            raise Exhausted(text, after_s=WINDOW_S) from error
        return owner

    async def _user(self, name: str) -> User | None:
        held = await self._store.claims(email_scope(name))
        stored = await self._store.find(held[0].owner) if held else None
        return User(stored) if stored is not None and stored.key.kind == User.kind else None

    async def _kept(self, user: User) -> str | None:
        sealed = await self._store.secret(user.uid, SECRET)
        return None if sealed is None else self._sealer.open(sealed, f"{user.uid}/{SECRET}").decode()

    # -- argon2 -----------------------------------------------------------------------------

    async def right(self, user: User, password: str, address: str) -> bool:
        """Is this the user's present password (or have they none)? Counts as an attempt. Raises Exhausted."""
        kept = await self._kept(user)
        attempt = await self._attempt(user.spec.email or user.name, address)
        if kept is not None and not await self.matches(kept, password):
            return False
        await self._store.commit(Release(attempt), by="/hansa/login")
        return True

    async def matches(self, kept: str | None, password: str) -> bool:
        """One verification, against a hash of nobody where there is none."""
        return await self._in_turn(self._verify, kept or self._nobody, password) and kept is not None

    async def setting(self, uid: str, password: str) -> SetSecret:
        """The write that sets a password. `check` it first."""
        made = await self._in_turn(self._hasher.hash, password)
        return SetSecret(uid, SECRET, self._sealer.seal(made.encode(), f"{uid}/{SECRET}"))

    def _verify(self, kept: str, password: str) -> bool:
        try:
            return self._hasher.verify(kept, password)
        except (VerificationError, InvalidHashError):
            return False

    async def _in_turn(self, call: Callable[..., T], *words: str) -> T:
        """In a thread, so many at a time. Raises Retry when too many wait already."""
        if self._waiting >= WAITING_MAX:
            raise Retry("too many passwords are being verified at this moment", after_s=2.0)
        self._waiting += 1
        self.verifications += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, call, *words)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


def check(password: object, path: str, *names: str) -> str:
    """A password that may be set. Raises Invalid; the message never repeats it."""
    if not isinstance(password, str) or not LENGTH_MIN <= len(password) <= LENGTH_MAX:
        raise Invalid.field(path, f"must be text of {LENGTH_MIN} to {LENGTH_MAX} characters")
    if len(set(password)) < 4 or password.casefold() in {name.casefold() for name in names}:
        raise Invalid.field(path, "is one that others guess: a name, or few different characters")
    return password


def _network(address: str) -> str:
    """What counts as one address: an IPv4 address, a /64 of IPv6."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return "unknown"
    return str(found) if found.version == 4 else str(ipaddress.ip_network((int(found), 64), strict=False))


def _hash_of_nobody(hasher: PasswordHasher) -> str:
    """A hash that costs what any other costs and that no password has: its end is random."""
    salt, end = (base64.b64encode(os.urandom(n)).decode().rstrip("=") for n in (hasher.salt_len, hasher.hash_len))
    return f"$argon2id$v=19$m={hasher.memory_cost},t={hasher.time_cost},p={hasher.parallelism}${salt}${end}"
