"""Access control lists: the old way to share buckets and objects, for clients that still speak it. Pure.

An ACL is an owner and a list of grants. It counts only where the bucket's ownership setting says so; as shipped
(`BucketOwnerEnforced`) every object is the bucket owner's and ACLs are read-only. Home callers act for the bucket's
owner: what they write is the owner's, whoever of them writes it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from hansa.gateways.s3.wire.errors import S3Error
from hansa.objectindex.records import AclGrant

GRANTS_MAX = 100
ALL_USERS = "http://acs.amazonaws.com/groups/global/AllUsers"
AUTHENTICATED = "http://acs.amazonaws.com/groups/global/AuthenticatedUsers"
LOG_DELIVERY = "http://acs.amazonaws.com/groups/s3/LogDelivery"
GROUPS = (ALL_USERS, AUTHENTICATED, LOG_DELIVERY)
CANNED_HEADER = "x-amz-acl"

FULL = "FULL_CONTROL"
PERMISSIONS = ("READ", "WRITE", "READ_ACP", "WRITE_ACP", FULL)
GRANT_HEADERS = {
    "x-amz-grant-read": "READ",
    "x-amz-grant-write": "WRITE",
    "x-amz-grant-read-acp": "READ_ACP",
    "x-amz-grant-write-acp": "WRITE_ACP",
    "x-amz-grant-full-control": FULL,
}
# What a word lays on besides the owner's full control. `bucket owner` stands for the one of the object's bucket.
_BUCKET_OWNER = "bucket owner"
_CANNED: dict[str, tuple[tuple[str, str], ...]] = {
    "private": (),
    "public-read": ((ALL_USERS, "READ"),),
    "public-read-write": ((ALL_USERS, "READ"), (ALL_USERS, "WRITE")),
    "authenticated-read": ((AUTHENTICATED, "READ"),),
    "aws-exec-read": (),
    "bucket-owner-read": ((_BUCKET_OWNER, "READ"),),
    "bucket-owner-full-control": ((_BUCKET_OWNER, FULL),),
    "log-delivery-write": ((LOG_DELIVERY, "WRITE"), (LOG_DELIVERY, "READ_ACP")),
}
# No two neighbours in it take the same letters: however hostile, a header is read in a time that grows with its length.
_GRANTEE = re.compile(r'\s*(id|uri|emailaddress)\s*=(?:\s*"([^"]+)"\s*|([^",]+))(?:,|$)', re.IGNORECASE)
_HEADER_MAX = 4096


class Ownership(StrEnum):
    """Whose an object is that somebody else put into the bucket."""

    ENFORCED = "BucketOwnerEnforced"
    PREFERRED = "BucketOwnerPreferred"
    WRITER = "ObjectWriter"


@dataclass(frozen=True, slots=True)
class Person:
    """A canonical user id and what its holder is called."""

    id: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Acl:
    owner: Person
    grants: tuple[AclGrant, ...] = ()

    def gives(self, permission: str, ids: frozenset[str], *, signed: bool, ignore_public: bool = False) -> bool:
        """`ids`: whose grants count for who asks; `signed`: they proved who they are. `ignore_public`: groups count for
        nothing."""
        groups = () if ignore_public else (ALL_USERS, AUTHENTICATED) if signed else (ALL_USERS,)
        return any(
            grant.permission in (permission, FULL) and (grant.grantee in ids or grant.grantee in groups)
            for grant in self.grants
        )

    @property
    def is_public(self) -> bool:
        return any(grant.grantee in (ALL_USERS, AUTHENTICATED) for grant in self.grants)

    @property
    def is_private(self) -> bool:
        """Nobody but the owner has anything: what BucketOwnerEnforced asks of a bucket."""
        return all(grant.grantee == self.owner.id for grant in self.grants)


@dataclass(frozen=True, slots=True)
class Grantee:
    """As a body or a header names one: exactly one of the three."""

    id: str = ""
    uri: str = ""
    email: str = ""


@dataclass(frozen=True, slots=True)
class People:
    """Who there is. `named`: display name of a canonical id; `at`: who has an address. None: nobody."""

    named: Callable[[str], str | None]
    at: Callable[[str], Person | None]


# -- ACLs of new things ---------------------------------------------------------------------------


def private(owner: Person) -> Acl:
    return Acl(owner, (AclGrant(owner.id, FULL, owner.name),))


def canned(word: str, owner: Person, bucket_owner: Person | None = None) -> Acl:
    """`bucket_owner`: of an object's bucket; None for a bucket's own ACL. Raises InvalidArgument."""
    if word not in _CANNED:
        raise S3Error.argument(CANNED_HEADER, word, f"must be one of {', '.join(_CANNED)}")
    found: list[AclGrant] = []
    for grantee, permission in _CANNED[word]:
        if grantee != _BUCKET_OWNER:
            found.append(AclGrant(grantee, permission))
        elif bucket_owner is not None and bucket_owner.id != owner.id:
            found.append(AclGrant(bucket_owner.id, permission, bucket_owner.name))
    own = AclGrant(owner.id, FULL, owner.name)
    groups_first = bool(found) and found[0].grantee in GROUPS
    return Acl(owner, (*found, own) if groups_first else (own, *found))


def acl_of_new(
    headers: Mapping[str, str], owner: Person, people: People, *, bucket_owner: Person | None = None
) -> Acl:  # fmt: skip
    """From the headers of a PUT (lower-case names): a canned word, grants, or neither: private.

    Raises InvalidRequest for both, InvalidArgument, UnresolvableGrantByEmailAddress.
    """
    word = headers.get(CANNED_HEADER, "")
    given = [name for name in GRANT_HEADERS if name in headers]
    if word and given:
        raise S3Error.of("InvalidRequest", f"{CANNED_HEADER} and {given[0]} cannot be sent together.")
    if not given:
        return canned(word or "private", owner, bucket_owner)
    grants = [
        _grant(grantee, GRANT_HEADERS[name], people) for name in given for grantee in grantees_in(name, headers[name])
    ]
    return Acl(owner, _limited(grants))


def grantees_in(name: str, text: str) -> list[Grantee]:
    """Of a header: `id="…", uri="…", emailAddress="…"`. Raises InvalidArgument."""
    found: list[Grantee] = []
    at = 0
    while at < min(len(text), _HEADER_MAX) and len(found) < GRANTS_MAX:
        match = _GRANTEE.match(text, at)
        value = "" if match is None else match[2] or match[3].strip()
        if match is None or not value:
            break
        kind = match[1].lower()
        found.append(Grantee(**{{"emailaddress": "email"}.get(kind, kind): value}))
        at = match.end()
    if at < len(text) or not found:
        raise S3Error.argument(name, text, 'must be a list of id="…", uri="…" or emailAddress="…"')
    return found


def acl_of_body(
    old: Acl, owner: str, grants: Sequence[tuple[Grantee, str]], people: People
) -> Acl:  # fmt: skip
    """From an AccessControlPolicy. `owner`: the id it names (empty: none); an owner never changes by an ACL.

    Raises AccessDenied for another owner, MalformedACLError, InvalidArgument, UnresolvableGrantByEmailAddress.
    """
    if owner and owner != old.owner.id:
        raise S3Error.of("AccessDenied", "AccessControlPolicy.Owner: an ACL cannot change the owner.")
    return Acl(old.owner, _limited([_grant(grantee, permission, people) for grantee, permission in grants]))


def _grant(grantee: Grantee, permission: str, people: People) -> AclGrant:
    if permission not in PERMISSIONS:
        raise S3Error.of("MalformedACLError", f"Permission: must be one of {', '.join(PERMISSIONS)}.")
    if sum(map(bool, (grantee.id, grantee.uri, grantee.email))) != 1:
        raise S3Error.of("MalformedACLError", "Grantee: takes exactly one of ID, URI and EmailAddress.")
    if grantee.uri:
        if grantee.uri not in GROUPS:
            raise S3Error.argument("uri", grantee.uri, "there is no such group")
        return AclGrant(grantee.uri, permission)
    if grantee.email:
        person = people.at(grantee.email)
        if person is None:
            raise S3Error.of("UnresolvableGrantByEmailAddress", EmailAddress=grantee.email[:256])
        return AclGrant(person.id, permission, person.name)
    name = people.named(grantee.id)
    if name is None:
        raise S3Error.argument("CanonicalUser/ID", grantee.id, "there is nobody with this id")
    return AclGrant(grantee.id, permission, name)


def _limited(grants: Sequence[AclGrant]) -> tuple[AclGrant, ...]:
    if len(grants) > GRANTS_MAX:
        raise S3Error.of("MalformedACLError", f"AccessControlList: takes at most {GRANTS_MAX} grants.")
    return tuple(sorted(grants, key=lambda grant: grant.grantee not in GROUPS))  # groups first, as elsewhere


# -- ownership ------------------------------------------------------------------------------------


def carries_acl(headers: Mapping[str, str]) -> bool:
    return CANNED_HEADER in headers or any(name in headers for name in GRANT_HEADERS)


def check_said_once(headers: Mapping[str, str], *, body: bool) -> None:
    """A new ACL stands in the headers or in the body. Raises UnexpectedContent for both, MissingSecurityHeader for neither:
    what says nothing must not take away what there is."""
    if not carries_acl(headers) and not body:
        raise S3Error.of("MissingSecurityHeader", f"{CANNED_HEADER}, grants or a body must say the ACL.")
    if carries_acl(headers) and body:
        raise S3Error.of("UnexpectedContent", "The ACL may stand in the headers or in the body, not in both.")


def check_allowed(
    ownership: Ownership, headers: Mapping[str, str], *, new_bucket: bool = False, unset: bool = False
) -> None:
    """May the headers of a write carry an ACL here? Raises AccessControlListNotSupported.

    What says nothing new may be said: full control for the bucket's owner, `private` of a new bucket, and `private`, which
    older clients add unasked, of what is in a bucket whose ownership nobody chose (`unset`).
    """
    if ownership is not Ownership.ENFORCED or not carries_acl(headers):
        return
    harmless = ("private",) if new_bucket else ("bucket-owner-full-control", "private" if unset else "")
    if headers.get(CANNED_HEADER) in harmless and not any(name in headers for name in GRANT_HEADERS):
        return
    if new_bucket:
        raise S3Error.of(
            "InvalidBucketAclWithObjectOwnership", f"A bucket with {ownership.value} takes no ACL but private."
        )
    raise S3Error.of("AccessControlListNotSupported")


def check_ownership_change(ownership: Ownership, acl: Acl) -> None:
    """Of PutBucketOwnershipControls: ACLs that share the bucket must go first."""
    if ownership is Ownership.ENFORCED and not acl.is_private:
        raise S3Error.of(
            "InvalidBucketAclWithObjectOwnership",
            f"{ownership.value}: the bucket's ACL grants something to others; set it to private first.",
        )


def owner_of_new(ownership: Ownership, bucket_owner: Person, writer: Person, word: str, *, at_home: bool) -> Person:
    """Whose a new object is. `word`: its canned ACL; `at_home`: the writer belongs to the bucket's project."""
    if at_home or ownership is Ownership.ENFORCED:
        return bucket_owner
    if ownership is Ownership.PREFERRED and word == "bucket-owner-full-control":
        return bucket_owner
    return writer


def ownership_named(text: str) -> Ownership:
    """Raises MalformedXML."""
    try:
        return Ownership(text)
    except ValueError as error:
        words = ", ".join(Ownership)
        raise S3Error.of("MalformedXML", f"ObjectOwnership: must be one of {words}.") from error


# -- as the bucket's spec keeps them --------------------------------------------------------------


def acl_from(document: Mapping[str, Any] | None, owner: Person) -> Acl:
    """Of a bucket with this `acl`; without one it is the owner's alone."""
    if document is None or "grants" not in document:
        return private(owner)
    grants = (AclGrant(g["grantee"], g["permission"], g.get("name") or "") for g in document["grants"])
    return Acl(owner, tuple(grants))


def document_of(acl: Acl) -> dict[str, Any]:
    return {
        "owner": {"id": acl.owner.id, "displayName": acl.owner.name},
        "grants": [{"grantee": g.grantee, "permission": g.permission, "name": g.name} for g in acl.grants],
    }
