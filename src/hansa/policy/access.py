"""Roles as a table: which role holds which permission, and what a caller holds where. Pure.

A permission is `service.resource.action`. What there is to be permitted follows from the registry of kinds;
a role names it by patterns, so that a new kind of a service joins the roles of that service, and no others.
What everybody may read (catalogues) is no permission and stands in no role.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache

from hansa.kinds import catalogue
from hansa.kinds.registry import all_kinds
from hansa.policy.verdict import Act, Caller, Grant, Subject

assert catalogue.MODULES  # the registry is whole

CATALOGUES = frozenset({"ComputeProfile", "DiskImage", "Region", "Zone", "Hall", "Rack", "Host", "PriceList"})
AUDIT = "AuditRecord"  # what `audit/v1` shows: no kind, yet something to be permitted
OBJECTS = "StoredObject"  # what is in buckets, reached by S3 alone
PROJECT, ORGANIZATION = "projects", "organizations"
OWNER, MEMBER = "organizationOwner", "projectContributor"  # of an organisation by birth, of a project at home
PROJECT_OWNER = "projectOwner"

_ACTIONS = {"console": Act.CONSOLE, "logs": Act.SSH, "start": Act.UPDATE, "stop": Act.UPDATE, "revoke": Act.UPDATE,
            "rotate": Act.UPDATE}  # fmt: skip
_VERBS = {"G": Act.READ, "L": Act.READ, "C": Act.CREATE, "P": Act.UPDATE, "D": Act.DELETE, "S": Act.READ}
_BESIDES = {
    "User": ("iam", "users", (Act.READ, Act.CREATE, Act.UPDATE)),
    AUDIT: ("audit", "records", (Act.READ,)),
    OBJECTS: ("storage", "objects", (Act.READ, Act.CREATE, Act.UPDATE, Act.DELETE, Act.BYPASS)),
}


@dataclass(frozen=True, slots=True)
class Role:
    """`holds` and `but`: patterns of permissions, `*` for any one word. `scope`: what it may be bound to."""

    name: str
    scope: str
    description: str
    holds: tuple[str, ...]
    but: tuple[str, ...] = ()


_SEEN = ("iam.projects.read",)
_OF_THE_ORGANIZATION = ("iam.organizations.*", "iam.users.*", "iam.projects.create")
_KEYS = ("iam.*.create", "iam.*.update", "iam.*.delete", "sovereignty.*.create", "sovereignty.*.update",
         "sovereignty.*.delete", "storage.s3Keys.create", "storage.s3Keys.update", "storage.s3Keys.delete")  # fmt: skip
_DATA = ("storage.objects.*",)  # what tenants keep: not read by those who only look after things
_DISKS = ("compute.disks.*", "compute.snapshots.*", "compute.hotswapDiskAttachments.*", "compute.virtualMachines.read")
_BUILDERS = tuple(
    f"{service}.*.{act}"
    for service in ("compute", "networking", "loadbalancer", "storage")
    for act in ("read", "create", "update", "delete")
)

_TABLE = (
    Role("projectOwner", PROJECT, "Everything in the project, who may do what in it included.",
         ("*.*.*",), _OF_THE_ORGANIZATION),
    Role("projectContributor", PROJECT, "Makes and changes what a project runs, and reads the rest of it.",
         ("*.*.*",), (*_OF_THE_ORGANIZATION, *_KEYS, "compute.virtualMachines.console", "audit.*.*")),
    Role("projectAccessAdministrator", PROJECT, "Binds roles that they hold themselves, and takes any away.",
         (*_SEEN, "iam.roleBindings.*", "iam.permissionSets.*", "iam.serviceAccounts.read")),
    Role("computeViewer", PROJECT, "Reads machines, disks and snapshots.", (*_SEEN, "compute.*.read")),
    Role("computeOperator", PROJECT, "Runs machines, disks and snapshots, and logs in; no serial console.",
         (*_SEEN, "compute.*.*"), ("compute.virtualMachines.console",)),
    Role("networkingViewer", PROJECT, "Reads networks, security groups and addresses.", (*_SEEN, "networking.*.read")),
    Role("networkingOperator", PROJECT, "Makes and changes networks, security groups and addresses.",
         (*_SEEN, "networking.*.*")),
    Role("networkingUser", PROJECT, "Reads networks and takes public addresses.",
         (*_SEEN, "networking.*.read", "networking.publicIPs.*")),
    Role("loadBalancerViewer", PROJECT, "Reads load balancers and their parts.", (*_SEEN, "loadbalancer.*.read")),
    Role("loadBalancerOperator", PROJECT, "Makes and changes load balancers; takes public addresses.",
         (*_SEEN, "loadbalancer.*.*", "networking.publicIPs.*", "networking.*.read", "compute.virtualMachines.read")),
    Role("storageOperator", PROJECT, "Makes and changes buckets and file stores, and all that is in them.",
         (*_SEEN, "storage.*.*"), _KEYS),
    Role("storageObjectViewer", PROJECT, "Reads buckets and what is in them.",
         (*_SEEN, "storage.buckets.read", "storage.objects.read")),
    Role("storageObjectCreator", PROJECT, "Puts objects into buckets, also in the place of others; reads and deletes none.",
         (*_SEEN, "storage.buckets.read", "storage.objects.create")),
    Role("storageObjectOperator", PROJECT, "Reads, puts, changes and deletes what is in buckets, but for what is locked.",
         (*_SEEN, "storage.buckets.read", "storage.objects.*"), ("storage.objects.bypass",)),
    Role("thinkViewer", PROJECT, "Reads models and their instances.", (*_SEEN, "think.*.read")),
    Role("thinkOperator", PROJECT, "Runs models.", (*_SEEN, "think.*.*")),
    Role("quotaViewer", PROJECT, "Reads quotas and what is used of them.", (*_SEEN, "quotas.*.read")),
    Role("cicdInfrastructureManager", PROJECT, "Makes, changes and removes infrastructure; logs in to none.",
         (*_SEEN, *_BUILDERS, "quotas.*.read"),
         (*_KEYS, *_DATA, "storage.bucketServiceAccounts.create", "storage.bucketServiceAccounts.update")),
    Role("securityIncidentResponder", PROJECT,
         "Reads everything and the audit, stops machines, closes networks, ends keys and bindings.",
         ("*.*.read", "compute.virtualMachines.update", "networking.securityGroups.update",
          "iam.serviceAccounts.update", "iam.serviceAccountCredentials.update", "iam.serviceAccountCredentials.delete",
          "iam.roleBindings.delete", "iam.permissionSets.delete", "storage.s3Keys.update", "storage.s3Keys.delete",
          "storage.bucketServiceAccounts.delete"), (*_OF_THE_ORGANIZATION, *_DATA)),
    Role("kubernetesCCMAgent", PROJECT, "What a cluster's cloud controller needs: load balancers and addresses.",
         (*_SEEN, "loadbalancer.*.*", "networking.publicIPs.*", "networking.*.read", "compute.virtualMachines.read")),
    Role("kubernetesCSIAgent", PROJECT, "What a cluster's storage driver needs: disks and their attachments.",
         (*_SEEN, *_DISKS)),
    Role("organizationOwner", ORGANIZATION, "Everything in the organisation and in all of its projects.", ("*.*.*",)),
    Role("organizationViewer", ORGANIZATION, "Reads the organisation and all of its projects, the audit and what is in buckets excepted.",
         ("*.*.read",), ("audit.*.*", *_DATA)),
    Role("organizationAccessAdministrator", ORGANIZATION,
         "Binds roles that they hold themselves, and takes any away, here and in every project.",
         (*_SEEN, "iam.organizations.read", "iam.roleBindings.*", "iam.permissionSets.*", "iam.serviceAccounts.read",
          "iam.users.read")),
    Role("organizationProjectCreator", ORGANIZATION, "Makes projects, and owns those that they made.",
         ("iam.organizations.read", "iam.projects.create")),
)  # fmt: skip
ROLES = {role.name: role for role in _TABLE}
BUCKET_ACCOUNT = "bucketServiceAccount"  # what such an account is in its buckets: a role that nobody binds
_INNER = Role(BUCKET_ACCOUNT, PROJECT, "Reads and writes what is in the buckets that it names.",
              ("storage.buckets.read", "storage.objects.*"), ("storage.objects.bypass",))  # fmt: skip
LENT_BUCKET = "lentBucket"  # what a bucket's own policy or ACL lends to others: a role that nobody binds
_LENT = Role(LENT_BUCKET, PROJECT, "Changes the settings of one bucket, for as long as one request takes.",
             ("storage.buckets.read", "storage.buckets.update", "storage.buckets.delete"))  # fmt: skip
_BY_NAME = {**ROLES, BUCKET_ACCOUNT: _INNER, LENT_BUCKET: _LENT}


# -- permissions --------------------------------------------------------------------------------


@cache
def _places() -> dict[str, tuple[str, str]]:
    """Service and resource of everything that is permitted, by kind."""
    found = {kind.kind: (kind.service, kind.collection.split("/")[0]) for kind in all_kinds() if kind.public}
    return {**found, **{kind: (service, resource) for kind, (service, resource, _) in _BESIDES.items()}}


@cache
def _meanings() -> dict[str, tuple[str, Act]]:
    """Every permission there is, with the kind and the act that it stands for."""
    found: dict[str, tuple[str, Act]] = {}
    for kind in all_kinds():
        if kind.public and kind.kind not in CATALOGUES:
            acts = {_VERBS[verb] for verb in kind.verbs} | {_ACTIONS[a] for a in kind.actions if a in _ACTIONS}
            found |= {permission(kind.kind, act): (kind.kind, act) for act in acts}
    for name, (_, _, besides) in _BESIDES.items():
        found |= {permission(name, act): (name, act) for act in besides}
    return dict(sorted(found.items()))


@cache
def permission(kind: str, act: Act) -> str:
    """`compute.disks.create`; empty for something that nobody is ever permitted."""
    place = _places().get(kind)
    return f"{place[0]}.{place[1]}.{act.value}" if place is not None else ""


def meaning(text: str) -> tuple[str, Act] | None:
    """The kind and the act of a permission; None for a text that is none."""
    return _meanings().get(text)


@cache
def permissions_of(role: str) -> frozenset[str]:
    """Everything that a role holds; nothing for a name that is no role."""
    it = _BY_NAME.get(role)
    if it is None:
        return frozenset()
    return frozenset(p for p in _meanings() if _any(it.holds, p) and not _any(it.but, p))


def _any(patterns: Iterable[str], text: str) -> bool:
    return any(_fits(pattern, text, ".") for pattern in patterns)


def _fits(pattern: str, text: str, between: str) -> bool:
    """`*` stands for exactly one segment, whatever it is."""
    wanted, given = pattern.split(between), text.split(between)
    return len(wanted) == len(given) and all(w in ("*", g) for w, g in zip(wanted, given, strict=True))


# -- what a caller holds ------------------------------------------------------------------------


def held(caller: Caller) -> Iterator[Grant]:
    """By birth, at home, and by bindings. A role on a scope that is none of its own counts for nothing."""
    yield from (Grant(f"{ORGANIZATION}/{name}", OWNER) for name in caller.owns)
    yield from (Grant(f"{PROJECT}/{name}", MEMBER) for name in caller.member_of)
    yield from (grant for grant in caller.grants if _fitting(grant))


def on(caller: Caller, subject: Subject) -> list[Grant]:
    """The grants whose scope the subject lies in."""
    project, organization = f"{PROJECT}/{subject.project}", f"{ORGANIZATION}/{subject.organization}"
    found = []
    if subject.organization and subject.organization in caller.owns:
        found.append(_grant(organization, OWNER))
    if subject.project and subject.project in caller.member_of:
        found.append(_grant(project, MEMBER))
    if caller.grants:
        here = (project if subject.project else None, organization if subject.organization else None)
        found += [grant for grant in caller.grants if grant.scope in here and _fitting(grant)]
    return found


@lru_cache(maxsize=4096)
def _grant(scope: str, role: str) -> Grant:
    return Grant(scope, role)


def _fitting(grant: Grant) -> bool:
    role = _BY_NAME.get(grant.role)
    return role is not None and grant.scope.partition("/")[0] == role.scope


def reaches(grant: Grant, subject: Subject, needed: str, *, partly: bool = False) -> bool:
    """Does a grant on the subject's scope hold `needed` for this subject?

    `partly`: for a collection, it is enough that some object of it could be meant.
    """
    if needed not in permissions_of(grant.role):
        return False
    if not grant.resources or (subject.kind == "Project" and needed in _SEEN):
        return True
    return any(_named(pattern, subject.ref, partly) for pattern in grant.resources)


def within_bounds(caller: Caller, subject: Subject, needed: str, *, partly: bool = False) -> bool:
    """Does the key that they act with, if any, reach as far as this?"""
    if caller.within is None:
        return True
    here = [grant for grant in caller.within if grant.scope == f"{PROJECT}/{subject.project}"]
    return any(reaches(grant, subject, needed, partly=partly) for grant in here)


def _named(pattern: str, ref: str, partly: bool) -> bool:
    if partly and ref.endswith("/"):
        return _fits(pattern.rpartition("/")[0], ref.rpartition("/")[0], "/")
    return _fits(pattern, ref, "/")


# -- the grant rule -----------------------------------------------------------------------------


def not_held(caller: Caller, given: Grant, organization: str) -> tuple[str, ...]:
    """The permissions of `given` that the caller does not hold there: nobody grants those.

    `organization`: that of the scope. Permissions on a part of a scope are held by those who hold them on
    the whole of it, or on a part that contains it.
    """
    what, _, name = given.scope.partition("/")
    place = Subject("", project=name if what == PROJECT else "", organization=organization)
    mine = on(caller, place)
    return tuple(
        p
        for p in sorted(permissions_of(given.role))
        if not any(p in permissions_of(g.role) and _contains(g.resources, given.resources) for g in mine)
    )


def _contains(wide: tuple[str, ...], narrow: tuple[str, ...]) -> bool:
    return not wide or (bool(narrow) and all(any(_fits(w, n, "/") for w in wide) for n in narrow))
