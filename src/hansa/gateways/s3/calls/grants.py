"""ACLs between the wire, a bucket's spec and an object's facts: what holds for this bucket in this cloud.

The rules themselves are `acl`'s; here they meet the bucket's ownership setting and its public access block.
"""

from __future__ import annotations

from collections.abc import Mapping

from hansa.gateways.s3.gateway import Call, Gateway
from hansa.gateways.s3.rules import acl, publicaccess
from hansa.gateways.s3.rules.access import BucketRules, is_home
from hansa.gateways.s3.rules.acl import Acl, Grantee, Ownership, People, Person
from hansa.gateways.s3.wire import configurations
from hansa.objectindex.records import AclGrant, Version


def people(gateway: Gateway) -> People:
    directory = gateway.directory

    def at(email: str) -> Person | None:
        id = directory.user_of_email(email)
        return Person(id, directory.user(id) or "") if id else None

    return People(named=directory.user, at=at)


def object_acl(rules: BucketRules, version: Version) -> Acl:
    """What is shown of an object and judged by. Where ACLs do not count, the bucket's owner has it all; elsewhere an
    object without grants is its owner's."""
    bucket_owner, facts = rules.acl.owner, version.facts
    if rules.ownership is Ownership.ENFORCED:
        return acl.private(bucket_owner)
    owner = Person(facts.owner, facts.owner_name) if facts.owner else bucket_owner
    return Acl(owner, facts.acl) if facts.acl else acl.private(owner)


def new_object_acl(call: Call, headers: Mapping[str, str]) -> tuple[Person, tuple[AclGrant, ...]]:
    """Owner and grants of an object about to be written, by headers of the request. Raises as `acl` does, AccessDenied."""
    access = call.known.access
    ownership, owner = access.ownership, access.acl.owner
    if acl.carries_acl(headers):
        acl.check_allowed(ownership, headers, unset="objectOwnership" not in call.bucket.spec)
    if ownership is Ownership.ENFORCED:
        return owner, ()
    identity = call.identity
    if identity is None:  # nobody can be asked later: it is the bucket's owner's
        writer, at_home = owner, True
    else:
        writer, at_home = Person(identity.user_id, identity.display_name), is_home(identity, call.bucket)
    word = headers.get(acl.CANNED_HEADER, "")
    whose = acl.owner_of_new(ownership, owner, writer, word, at_home=at_home)
    if not acl.carries_acl(headers):
        return whose, ()
    found = acl.acl_of_new(headers, whose, people(call.gateway), bucket_owner=owner)
    publicaccess.check_acl(access.block, found)
    return whose, found.grants


def body_acl(call: Call, old: Acl, body: bytes) -> Acl:
    """The ACL that an AccessControlPolicy asks for."""
    asked = configurations.read_access_control(body)
    return acl.acl_of_body(
        old, asked.owner, [(_named(grant.grantee), grant.permission) for grant in asked.grants], people(call.gateway)
    )


def _named(grantee: configurations.Grantee) -> Grantee:
    match grantee.kind:
        case "Group":
            return Grantee(uri=grantee.id)
        case "AmazonCustomerByEmail":
            return Grantee(email=grantee.id)
        case _:
            return Grantee(id=grantee.id)


def write_acl(found: Acl) -> bytes:
    grants = tuple(
        configurations.Grant(
            configurations.Grantee(
                "Group" if grant.grantee in acl.GROUPS else "CanonicalUser", grant.grantee, grant.name
            ),
            grant.permission,
        )
        for grant in sorted(found.grants, key=lambda grant: grant.grantee not in acl.GROUPS)
    )
    return configurations.write_access_control(configurations.AccessControl(found.owner.id, found.owner.name, grants))
