"""What the control store says about S3, at hand: buckets, keys and who holds them, limits, the keys under which bytes lie.

Plain tables, filled whole at the start and then change by change (`following`); every answer comes from memory. A bucket
takes a kilobyte or two, a key about as much: so much is bounded by what the cloud holds. Views that are asked for often
are kept beside, a bounded number of them. What is secret lies sealed and is opened when it is first asked for, for a
minute at a time.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from hansa.clock import Clock
from hansa.dates import parse_rfc3339
from hansa.errors import Bug, Retry
from hansa.gateways.s3.ports import BucketView, ProjectLimits, Rate, S3Identity
from hansa.gateways.s3.wire.errors import S3Error
from hansa.kinds.iam import Organization, Project
from hansa.kinds.quotas import OBJECT_STORAGE, OBJECTS, REQUESTS
from hansa.kinds.resource import Stored
from hansa.kinds.storage import (
    MATERIAL,
    Bucket,
    BucketServiceAccount,
    S3Key,
    canonical_id,
    generation_name,
    pair_fault,
)
from hansa.objectindex.records import Limits, Together, Versioning
from hansa.policy.quota import effective
from hansa.policy.verdict import Caller, Rules, TerritoryRule

VIEWS_MAX = 10_000
OPENED_S = 60.0  # for how long what was opened is kept
_STATES = {"Disabled": Versioning.NEVER, "Suspended": Versioning.SUSPENDED}

Open = Callable[[bytes, str], bytes]  # a sealed value and its context -> the value


@dataclass(frozen=True, slots=True)
class Holder:
    """An S3Key or a bucket service account as it now is. `fault`: why its account may not act, empty when it may.

    `sealed`: the secret of each of its access keys, by access key.
    """

    it: S3Key | BucketServiceAccount
    caller: Caller
    fault: str = ""
    sealed: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Material:
    """The sealed key of a project, or one generation of an EncryptionKey's. `uid`: whose secret it is, `secret`: under
    which name; `newest`: the generation of the key that new objects lie under."""

    uid: str
    sealed: bytes | None
    enabled: bool = True
    secret: str = MATERIAL
    newest: int = 1


class Directory:
    """`Directory` of the ports. One for the process; `following` alone writes to its tables."""

    def __init__(self, clock: Clock, open: Open, *, region: str, quotas: Mapping[str, int]) -> None:
        """`quotas`: limits of organisations that have none of their own, by quantity."""
        self.region = region
        self._clock, self._open, self._quotas = clock, open, quotas
        self.territories: dict[str, str] = {}
        self.projects: dict[str, Project] = {}
        self._of: dict[str, set[str]] = {}  # organisation -> names of its projects
        self._limits: dict[str, ProjectLimits] = {}  # by project, worked out when they are first asked for
        self._shared: dict[str, ProjectLimits] = {}  # by organisation
        self.organizations: dict[str, Organization] = {}
        self.materials: dict[tuple[str, str], Material] = {}  # by project and name of a generation; its own has none
        self.holders: dict[str, Holder] = {}  # by uid
        self.policies: dict[str, dict[str, TerritoryRule]] = {}  # scope -> uid -> rule
        self._buckets: dict[str, Stored] = {}  # by uid
        self._named: dict[str, dict[str, str]] = {}  # name -> region -> uid
        self._in: dict[str, set[str]] = {}  # project -> uids
        self._accounts: dict[str, str] = {}  # access key -> uid of its holder
        self._users: dict[str, str] = {}  # canonical user id -> uid of a holder of that id
        self._views: OrderedDict[str, BucketView] = OrderedDict()
        self._identities: OrderedDict[str, tuple[float, S3Identity]] = OrderedDict()
        self._opened: dict[tuple[str, str], tuple[float, bytes]] = {}
        self.stale: set[str] = set()  # uids whose secrets must be read again
        self.catch_up: Callable[[], Awaitable[None]] = _nobody  # set by who follows the store

    def clear(self) -> None:
        """Before everything is read again."""
        for table in (
            self.territories, self.policies, self.projects, self.organizations, self.materials, self.holders,
            self._buckets, self._named, self._in, self._accounts, self._users, self._views, self._identities,
            self._opened, self._of, self._limits, self._shared,
        ):  # fmt: skip
            table.clear()
        self.stale.clear()

    def put_project(self, it: Project) -> None:
        """Views of what is in it say which organisation it is of."""
        self.drop_project(it.name)
        self.projects[it.name] = it
        self._of.setdefault(it.spec.organization, set()).add(it.name)
        for uid in self._in.get(it.name, ()):
            self._views.pop(uid, None)
        self._identities.clear()

    def drop_project(self, name: str) -> None:
        gone = self.projects.pop(name, None)
        if gone is not None:
            self._of[gone.spec.organization].discard(name)
        self._forget_limits()

    def put_organization(self, it: Organization) -> None:
        self.organizations[it.name] = it
        self._forget_limits()

    def drop_organization(self, name: str) -> None:
        self.organizations.pop(name, None)
        self._forget_limits()

    def _forget_limits(self) -> None:
        self._limits.clear()
        self._shared.clear()

    # -- buckets ----------------------------------------------------------------------------

    def regions(self) -> frozenset[str]:
        return frozenset(self.territories)

    def bucket(self, name: str, region: str = "") -> BucketView | None:
        there = self._named.get(name)
        if not there:
            return None
        view = self.named(name, region) or self.named(name, self.region) or self.named(name, next(iter(there)))
        return None if view is None or view.going else view

    def named(self, name: str, region: str) -> BucketView | None:
        """Who has the name in that very region, a bucket that is going included."""
        uid = self._named.get(name, {}).get(region)
        return self.bucket_by_uid(uid) if uid is not None else None

    def bucket_by_uid(self, uid: str) -> BucketView | None:
        view = self._views.get(uid)
        if view is None and (stored := self._buckets.get(uid)) is not None:
            view = self._views[uid] = self._viewed(stored)
            if len(self._views) > VIEWS_MAX:
                self._views.popitem(last=False)
        return view

    def buckets_of(self, project: str) -> Sequence[BucketView]:
        found = [view for uid in self._in.get(project, ()) if (view := self.bucket_by_uid(uid)) and not view.going]
        return sorted(found, key=lambda view: (view.name, view.region))

    def all_buckets(self) -> list[BucketView]:
        """Of every project: for duties that look at all of them."""
        found = [self.bucket_by_uid(uid) for uid in self._buckets]
        return [view for view in found if view is not None and not view.going]

    def _viewed(self, stored: Stored) -> BucketView:
        bucket = Bucket(stored)
        project, region = stored.key.project or "", stored.key.region or ""
        home = self.projects.get(project)
        mode = bucket.spec.object_retention_mode
        owner = bucket.spec.acl.owner if bucket.spec.acl is not None else None
        return BucketView(
            uid=stored.uid,
            name=stored.key.name,
            project=project,
            organization=home.spec.organization if home is not None else "",
            region=region,
            territory=self.territories.get(region, ""),
            revision=stored.revision,
            created=stored.created_at,
            owner=owner.id if owner is not None else canonical_id(f"/iam/projects/{project}"),
            owner_name=owner.display_name if owner is not None else project,
            spec=stored.spec,
            versioning=_STATES.get(mode, Versioning.ENABLED),
            locking=mode == "Locking",
            going=stored.deleted_at is not None,
            open=bucket.status.access == "open",
        )

    def put_bucket(self, stored: Stored) -> None:
        project, region = stored.key.project or "", stored.key.region or ""
        self._buckets[stored.uid] = stored
        self._named.setdefault(stored.key.name, {})[region] = stored.uid
        self._in.setdefault(project, set()).add(stored.uid)
        self._views.pop(stored.uid, None)
        self._identities.clear()  # a bucket of that name may be one that keys are bound to

    def drop_bucket(self, uid: str) -> None:
        stored = self._buckets.pop(uid, None)
        if stored is None:
            return
        self._views.pop(uid, None)
        there = self._named.get(stored.key.name, {})
        if there.get(stored.key.region or "") == uid:
            del there[stored.key.region or ""]
        if not there:
            self._named.pop(stored.key.name, None)
        self._in.get(stored.key.project or "", set()).discard(uid)

    # -- keys -------------------------------------------------------------------------------

    def key(self, access_key: str) -> S3Identity | None:
        now = self._clock.now()
        known = self._identities.get(access_key)
        if known is not None and now < known[0]:
            return known[1]
        uid = self._accounts.get(access_key)
        holder = self.holders.get(uid) if uid is not None else None
        if holder is None or (sealed := holder.sealed.get(access_key)) is None:
            return None
        pair = holder.it.status.pair(access_key)
        secret = self._opened_secret(holder.it.uid, pair.sealed if pair is not None else "", sealed)
        identity = self._identified(holder, access_key, secret, now)
        ends = [end for end in _ends(holder.it, access_key) if end > now]
        self._identities[access_key] = (min([now + OPENED_S, *ends]), identity)
        if len(self._identities) > VIEWS_MAX:
            self._identities.popitem(last=False)
        return identity

    def _identified(self, holder: Holder, access_key: str, secret: bytes, now: float) -> S3Identity:
        it = holder.it
        project = it.key.project or ""
        home = self.projects.get(project)
        return S3Identity(
            access_key=access_key,
            secret=secret,
            caller=holder.caller,
            project=project,
            organization=home.spec.organization if home is not None else "",
            user_id=user_id_of(it),
            display_name=it.display_name if isinstance(it, S3Key) else it.name,
            ref=it.ref,
            buckets=self._bound(it) if isinstance(it, BucketServiceAccount) else None,
            disabled=pair_fault(it, access_key, now) or holder.fault,
            imported=isinstance(it, S3Key) and it.spec.imported is not None,
        )

    def _bound(self, it: BucketServiceAccount) -> frozenset[str]:
        """Buckets of its own project and region only, whoever else has one of that name."""
        found = (self._named.get(name, {}).get(it.key.region or "") for name in it.spec.buckets)
        mine = self._in.get(it.key.project or "", set())
        return frozenset(uid for uid in found if uid is not None and uid in mine)

    def holder_of(self, access_key: str) -> str:
        """The uid of the S3Key or bucket service account that has it; empty when it is gone."""
        return self._accounts.get(access_key, "")

    def user(self, user_id: str) -> str | None:
        holder = self.holders.get(self._users.get(user_id, ""))
        if holder is None:
            return None
        return holder.it.display_name if isinstance(holder.it, S3Key) else holder.it.name

    def user_of_email(self, email: str) -> str | None:
        """Nobody here is known by an address: programs hold keys, and have none."""
        return None

    def put_holder(self, holder: Holder) -> None:
        self.drop_holder(holder.it.uid)
        uid = holder.it.uid
        self.holders[uid] = holder
        for pair in holder.it.status.pairs:
            self._accounts[pair.access_key] = uid
        self._users[user_id_of(holder.it)] = uid

    def drop_holder(self, uid: str) -> None:
        holder = self.holders.pop(uid, None)
        if holder is None:
            return
        for pair in holder.it.status.pairs:
            if self._accounts.get(pair.access_key) == uid:
                del self._accounts[pair.access_key]
            self._identities.pop(pair.access_key, None)
        if self._users.get(user_id_of(holder.it)) == uid:
            del self._users[user_id_of(holder.it)]

    # -- rules, limits and keys of bytes ----------------------------------------------------

    def rules_of(self, project: str) -> Rules:
        home = self.projects.get(project)
        scopes = (f"projects/{project}", f"organizations/{home.spec.organization}" if home is not None else "")
        return Rules(tuple(rule for scope in scopes for rule in self.policies.get(scope, {}).values()))

    def project_limits(self, project: str) -> ProjectLimits:
        """The project's own limits, and those that its organisation sets to all of its projects together."""
        it, known = self.projects.get(project), self._limits.get(project)
        if it is None:
            return ProjectLimits()
        if known is None:
            known = self._limits[project] = self._worked_out(it)
        return known

    def _worked_out(self, it: Project) -> ProjectLimits:
        own, shared = effective(it.spec.quotas, {}), self._shared_in(it.spec.organization)
        rates = (Rate("project", it.name, own[REQUESTS]),) if REQUESTS in own else ()
        held = Limits(own.get(OBJECT_STORAGE), own.get(OBJECTS), shared.held.together)
        return ProjectLimits(held, rates + shared.rates)

    def _shared_in(self, organization: str) -> ProjectLimits:
        """What all of its projects share. One that was made just now counts as soon as it is known here."""
        known = self._shared.get(organization)
        if known is None:
            home = self.organizations.get(organization)
            limits = effective(home.spec.quotas if home is not None else None, self._quotas)
            projects = tuple(sorted(self._of.get(organization, ())))
            together = Together(organization, projects, limits.get(OBJECT_STORAGE), limits.get(OBJECTS))
            limited = together.bytes is not None or together.versions is not None
            rates = (Rate("organization", organization, limits[REQUESTS]),) if REQUESTS in limits else ()
            known = ProjectLimits(Limits(together=together if limited else None), rates)
            self._shared[organization] = known
        return known

    def put_key(self, project: str, name: str, generations: Sequence[Material]) -> None:
        """All generations of an encryption key, the first one first: in the place of those that were known."""
        self.drop_key(project, name)
        for number, material in enumerate(generations, 1):
            self.materials[project, generation_name(name, number)] = material

    def drop_key(self, project: str, name: str) -> None:
        known = self.materials.get((project, name))
        for number in range(1, 1 + (known.newest if known is not None else 0)):
            gone = self.materials.pop((project, generation_name(name, number)), None)
            if gone is not None:
                self.forget_secret(gone.uid, gone.secret)

    def newest(self, project: str, name: str) -> str:
        """The generation of a key that new objects lie under; the name as it is where there is no such key."""
        material = self.materials.get((project, name))
        return name if material is None else generation_name(name, material.newest)

    def key_material(self, project: str, name: str) -> bytes:
        material = self.materials.get((project, name))
        if material is None and name:
            if (project, name.partition("@")[0]) in self.materials:
                raise Retry(f"generation {name[:256]} of a key is not known here yet", after_s=0.2)
            raise S3Error.of("KMS.NotFoundException", KeyId=name[:256])
        if material is None or material.sealed is None:
            raise Retry(f"the key of project {project} is not known here yet", after_s=0.2)
        if not material.enabled:
            raise S3Error.of("KMS.DisabledException", KeyId=name[:256])
        return self._opened_secret(material.uid, material.secret, material.sealed)

    def _opened_secret(self, uid: str, name: str, sealed: bytes) -> bytes:
        now = time.monotonic()
        known = self._opened.get((uid, name))
        if known is not None and now < known[0]:
            return known[1]
        try:
            value = self._open(sealed, f"{uid}/{name}")
        except Bug as error:  # sealed under another key since it was read
            self.stale.add(uid)
            raise Retry("a sealed value must be read again", detail=error.detail) from error
        self._opened[uid, name] = (now + OPENED_S, value)
        return value

    def close_opened(self) -> None:
        """What was opened a while ago is forgotten."""
        now = time.monotonic()
        for at in [at for at, (until, _) in self._opened.items() if now >= until]:
            del self._opened[at]

    def forget_secret(self, uid: str, name: str) -> None:
        self._opened.pop((uid, name), None)

    async def caught_up(self) -> None:
        await self.catch_up()


async def _nobody() -> None:
    raise Bug("nobody follows the store")


def user_id_of(it: S3Key | BucketServiceAccount) -> str:
    """What S3's clients see as the id of who holds a key."""
    return it.user_id if isinstance(it, S3Key) else canonical_id(it.ref)


def _ends(it: S3Key | BucketServiceAccount, access_key: str) -> list[float]:
    """When a key stops to count, as far as that is known."""
    pair = it.status.pair(access_key)
    expires_at = it.spec.expires_at if isinstance(it, S3Key) else None
    ends = [pair.until if pair is not None else None, parse_rfc3339(expires_at) if expires_at is not None else None]
    return [end for end in ends if end is not None]
