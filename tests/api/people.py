"""People and service accounts of a test, with the roles it gives them."""

from __future__ import annotations

from typing import Any

from hansa.api.tokens import new_refresh_token
from hansa.clock import SystemClock, SystemIds
from hansa.kinds.iam import people_scope
from hansa.kinds.resource import Key
from hansa.policy.access import ROLES
from hansa.store.port import Claim, Create, Reserve

from .conftest import Talk, token_for

IAM = "/iam/v1beta1"


async def somebody(cloud: Any, talk: Talk, name: str = "somebody") -> tuple[str, Talk]:
    """A person of no role at all: their id, and their conversation."""
    ids, organization = SystemIds(), cloud.credentials.organization
    uid = ids.uid()
    key = Key("User", "", uid)
    spec = {"name": name, "email": "", "organization": organization, "organizations": [], "enabled": True}
    fresh = new_refresh_token(key, ids, SystemClock().now())
    await cloud.store.commit(
        Create(key, uid, spec, observed=1, due=False),
        Reserve(uid, (Claim(people_scope(organization), uid),)),
        fresh.create,
    )
    return uid, Talk(talk.http, await token_for(talk.http, fresh.text), project=talk.project, region=talk.region)


async def with_roles(cloud: Any, talk: Talk, *roles: str, resources: list[str] | None = None) -> tuple[str, Talk]:
    """A person whom the owner gives these roles, on the project or on its organisation."""
    uid, theirs = await somebody(cloud, talk, "+".join(roles))
    for role in roles:
        await assign(cloud, talk, f"/iam/users/{uid}", role, resources)
    return uid, theirs


def place_of(cloud: Any, talk: Talk, role: str) -> str:
    on = (
        f"projects/{talk.project}"
        if ROLES[role].scope == "projects"
        else f"organizations/{cloud.credentials.organization}"
    )
    return f"{IAM}/{on}/roleBindings"


async def assign(
    cloud: Any, talk: Talk, principal: str, role: str, resources: list[str] | None = None
) -> dict[str, Any]:
    body = {"principal": principal, "role": f"/iam/roles/{role}", **({"resources": resources} if resources else {})}
    answer = await talk.call("POST", f"{place_of(cloud, talk, role)}/assign", body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found
