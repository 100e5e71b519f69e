"""Keeps the directory as the control store is: read whole at the start, then change by change, ten times a second.

A revision that is no longer kept (this process stood still for days) makes it read everything again. What a caller
holds follows from bindings, accounts, projects and organisations: when one of them changes, the keys it can concern are
looked at anew; when nobody can say which, all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

import structlog

from hansa.errors import Gone, NotFound, Retry
from hansa.gateways.s3.directory import Directory, Holder, Material
from hansa.kinds.bindings import RoleBinding
from hansa.kinds.fleet import Region
from hansa.kinds.iam import Organization, Project, ServiceAccount
from hansa.kinds.registry import key_of
from hansa.kinds.resource import Key, Stored
from hansa.kinds.sovereignty import SovereigntyPolicy
from hansa.kinds.storage import MATERIAL, Bucket, BucketServiceAccount, EncryptionKey, S3Key, material_name
from hansa.policy.verdict import Caller, TerritoryRule
from hansa.store.port import Change, Query, Store

log = structlog.get_logger("hansa.s3")
LOOK_S = 0.1  # between looks at the store
AGAIN_S = 1.0  # after one that it did not answer
PAGE = 500
CATCH_UP_S = 5.0
SILENT_S = 15.0
HOLDERS = frozenset({S3Key.kind, BucketServiceAccount.kind})
LOADED = (SovereigntyPolicy, Project, EncryptionKey, S3Key, BucketServiceAccount, Bucket)  # in this order
RIGHTS = frozenset({RoleBinding.kind, Organization.kind, ServiceAccount.kind, Project.kind})

Standing = Callable[[S3Key | BucketServiceAccount], Awaitable[tuple[Caller, str]]]


@dataclass(slots=True)
class Follower:
    """`standing`: what the holder of a key may do, and why its account may not act (empty: it may). Raises NotFound."""

    store: Store
    directory: Directory
    standing: Standing
    revision: int = 0
    seen_at: float = 0.0  # of the event loop's clock: when the store last answered
    trouble: str = "the control store has not been read yet"
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _begun: int = 0  # looks
    _last_good: int = 0

    def __post_init__(self) -> None:
        self.directory.catch_up = self.caught_up

    # -- the start --------------------------------------------------------------------------

    async def load(self) -> None:
        """Everything. Raises Retry. The revision counts once all is read: what breaks off half-way is begun again."""
        revision = await self.store.revision()
        it = self.directory
        it.clear()
        for stored in await self._all(Region.kind):
            it.territories[stored.key.name] = Region(stored).spec.country
        for stored in await self._all(Organization.kind):
            it.put_organization(Organization(stored))
        for kind in LOADED:
            for stored in await self._all(kind.kind):
                await self._put(stored)
        self.revision = revision
        self._answered()

    async def _all(self, kind: str) -> list[Stored]:
        return (await self.store.list(Query(kind, "", below=True))).items

    # -- following --------------------------------------------------------------------------

    async def follow(self) -> None:
        """For ever."""
        while True:
            try:
                await self.look()
                pause_s = LOOK_S
            except Retry as retry:
                self.trouble, pause_s = retry.message, AGAIN_S
                log.warning("directory", message=retry.message, detail=retry.detail)
            await asyncio.sleep(pause_s)

    async def caught_up(self) -> None:
        try:
            async with asyncio.timeout(CATCH_UP_S):
                await self.look()
        except TimeoutError as error:
            raise Retry("the control store does not answer") from error

    async def look(self) -> None:
        """Takes in what was committed since the last look; those who ask at the same time share one. Raises Retry."""
        before = self._begun
        async with self._turn:
            if self._last_good > before:  # one that began after this was asked for
                return
            self._begun = number = self._begun + 1
            try:
                while changes := await self.store.changes(self.revision, limit=PAGE):
                    await self._take(changes)
                    self.revision = changes[-1].revision
            except Gone:
                log.warning("directory", message="changes were missed: everything is read again")
                await self.load()
            for uid in list(self.directory.stale):
                await self._again(uid)
            self.directory.close_opened()
            self._answered()
            self._last_good = number

    def _answered(self) -> None:
        self.trouble, self.seen_at = "", asyncio.get_running_loop().time()

    async def _take(self, changes: Iterable[Change]) -> None:
        rights_of: set[str] | None = set()  # uids of holders whose rights may have changed; None: all
        for change in changes:
            if change.key.kind in RIGHTS and rights_of is not None:
                rights_of = self._concerned(change, rights_of)
            if change.stored is None:
                self._forget(change.key, change.uid)
            else:
                await self._put(change.stored)
        for uid in list(self.directory.holders) if rights_of is None else rights_of:
            await self._again(uid)

    def _concerned(self, change: Change, found: set[str]) -> set[str] | None:
        """Those before, and the holders whose rights a change may touch; None where that cannot be told."""
        match change.key.kind:
            case ServiceAccount.kind:
                return found | self._held_by(change.key)
            case RoleBinding.kind if change.stored is not None:
                principal = key_of(str(change.stored.spec.get("principal", "")))
                return found | (self._held_by(principal) if principal is not None else set())
            case Project.kind:
                return found | self._in_projects({change.key.name})
            case Organization.kind:
                projects = self.directory.projects.values()
                return found | self._in_projects({p.name for p in projects if p.spec.organization == change.key.name})
            case _:  # a binding that is gone does not say whose it was
                return None

    def _held_by(self, account: Key) -> set[str]:
        ref = f"/iam/{account.scope}/{ServiceAccount.collection}/{account.name}"
        holders = self.directory.holders.items()
        return {uid for uid, h in holders if isinstance(h.it, S3Key) and h.it.spec.service_account_ref == ref}

    def _in_projects(self, projects: set[str]) -> set[str]:
        return {uid for uid, holder in self.directory.holders.items() if holder.it.key.project in projects}

    # -- one object -------------------------------------------------------------------------

    async def _put(self, stored: Stored) -> None:
        it, kind = self.directory, stored.key.kind
        if kind == Bucket.kind:
            it.put_bucket(stored)
            await self._home_key(stored.key.project or "")
        elif kind in HOLDERS:
            await self._put_holder(S3Key(stored) if kind == S3Key.kind else BucketServiceAccount(stored))
        elif kind == EncryptionKey.kind:
            await self._put_key(EncryptionKey(stored))
        elif kind == Project.kind:
            it.put_project(Project(stored))
            await self._home_key(stored.key.name)
        elif kind == Organization.kind:
            it.put_organization(Organization(stored))
        elif kind == SovereigntyPolicy.kind:
            policy = SovereigntyPolicy(stored)
            rule = TerritoryRule(policy.ref, frozenset(policy.spec.territories))
            rules = it.policies.setdefault(stored.key.scope, {})
            if policy.deleting:
                rules.pop(stored.uid, None)
            else:
                rules[stored.uid] = rule
        elif kind == Region.kind:
            it.territories[stored.key.name] = Region(stored).spec.country

    async def _put_key(self, it: EncryptionKey) -> None:
        """With every generation of its material, since objects may lie under any."""
        found = []
        for number in range(1, it.status.generation + 1):
            secret = material_name(number)
            sealed = None if it.deleting else await self.store.secret(it.uid, secret)
            enabled = it.spec.enabled and not it.deleting
            found.append(Material(it.uid, sealed, enabled, secret, it.status.generation))
        self.directory.put_key(it.key.project or "", it.name, found)

    async def _home_key(self, project: str) -> None:
        """The project's own key, which is made with the project or its first bucket."""
        home, known = self.directory.projects.get(project), self.directory.materials.get((project, ""))
        if home is not None and (known is None or known.uid != home.uid or known.sealed is None):
            sealed = await self.store.secret(home.uid, MATERIAL)
            self.directory.materials[project, ""] = Material(home.uid, sealed)

    async def _put_holder(self, it: S3Key | BucketServiceAccount) -> None:
        sealed = {}
        for pair in it.status.pairs:
            if (value := await self.store.secret(it.uid, pair.sealed)) is not None:
                sealed[pair.access_key] = value
        try:
            caller, fault = await self.standing(it)
        except NotFound as error:
            caller, fault = Caller(it.ref), error.message
        for pair in it.status.pairs:
            self.directory.forget_secret(it.uid, pair.sealed)
        self.directory.put_holder(Holder(it, caller, fault, sealed))

    async def _again(self, uid: str) -> None:
        """A holder of keys, or a key of bytes, whose secrets or rights must be looked at anew."""
        self.directory.stale.discard(uid)
        stored = await self.store.find(uid)
        if stored is not None:
            if stored.key.kind == Project.kind:
                self.directory.materials.pop((stored.key.name, ""), None)
            await self._put(stored)

    def _forget(self, key: Key, uid: str) -> None:
        it = self.directory
        if key.kind == Bucket.kind:
            it.drop_bucket(uid)
        elif key.kind in HOLDERS:
            it.drop_holder(uid)
        elif key.kind == EncryptionKey.kind:
            it.drop_key(key.project or "", key.name)
        elif key.kind == Project.kind:
            it.drop_project(key.name)
            it.materials.pop((key.name, ""), None)
            it.forget_secret(uid, MATERIAL)
        elif key.kind == Organization.kind:
            it.drop_organization(key.name)
        elif key.kind == SovereigntyPolicy.kind:
            it.policies.get(key.scope, {}).pop(uid, None)

    # -- health -----------------------------------------------------------------------------

    async def health(self) -> str:
        """What is wrong, empty: nothing."""
        silent_s = asyncio.get_running_loop().time() - self.seen_at
        if self.trouble or silent_s > SILENT_S:
            return self.trouble or f"the control store has not been read for {silent_s:.0f} s"
        return ""
