"""Who holds which role where: role bindings, and the permission sets of older clients.

The contract's sections 3.6.3 and 3.6.7. The roles themselves are a table of `policy.access`. One binding a
principal and scope: its id follows from the principal, so that two of them cannot say two things.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from hansa.kinds.iam import PROJECT
from hansa.kinds.resource import Document, Resource, Spec, Status, Wire
from hansa.kinds.rules import fixed, hidden, refers

ROLE = "/iam/roles/"
ROLES_MAX = 32
RESOURCES_MAX = 64
PATTERN_LENGTH_MAX = 512
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_USER = re.compile(rf"/iam/users/({_UUID})")
_ACCOUNT = re.compile(rf"/iam/projects/({_LABEL})/serviceAccounts/({_LABEL})")
_PATTERN = re.compile(
    r"/[a-z]+/(?:projects|organizations)/[a-z0-9][a-z0-9-]{0,62}(?:/(?:\*|[A-Za-z0-9][A-Za-z0-9.-]{0,253})){1,12}"
)


class BoundRole(Wire):
    name: str  # "/iam/roles/computeViewer"
    resources: list[str] | None = Field(None, min_length=1, max_length=RESOURCES_MAX)  # none: the whole scope

    @field_validator("name")
    @classmethod
    def _a_role(cls, text: str) -> str:
        if not text.startswith(ROLE) or "/" in text[len(ROLE) :]:
            raise ValueError(f'must name a role as in "{ROLE}computeViewer"')
        return text

    @field_validator("resources")
    @classmethod
    def _patterns(cls, given: list[str] | None) -> list[str] | None:
        for text in given or ():
            if len(text) > PATTERN_LENGTH_MAX or _PATTERN.fullmatch(text) is None:
                raise ValueError(
                    "must be references in which * may stand for any one segment but the service and the id of the "
                    'scope, as in "/compute/projects/demo/regions/*/disks/*"'
                )
        return given

    @property
    def role(self) -> str:
        return self.name[len(ROLE) :]


class RoleBindingSpec(Spec):
    principal: Annotated[str, refers("ServiceAccount", "User", holds=False)] = fixed()
    roles: list[BoundRole] = Field(min_length=1, max_length=ROLES_MAX)
    name: str | None = Field(None, max_length=200)

    @field_validator("principal")
    @classmethod
    def _a_principal(cls, text: str) -> str:
        id_for(text)
        return text

    @field_validator("roles")
    @classmethod
    def _each_once(cls, roles: list[BoundRole]) -> list[BoundRole]:
        if len({r.name for r in roles}) < len(roles):
            raise ValueError("names a role twice: list its resources in one place")
        return roles


class RoleBinding(
    Resource[RoleBindingSpec, Status],
    service="iam", version="v1beta1", collection="roleBindings", scope=PROJECT, also=("organizations/{organization}",),
    short=("rb", "binding"), columns=(("PRINCIPAL", "spec.principal"), ("NAME", "spec.name")),
):  # fmt: skip
    """The roles of one person or service account on one project or organisation."""

    @classmethod
    def id_of(cls, spec: Document) -> str:
        try:
            return id_for(str(spec.get("principal", "")))
        except ValueError:
            return ""  # the rule on the field says what is wrong


class PermittedUser(Wire):
    email: str = Field(max_length=254)


class PermissionSubject(Wire):
    type: Literal["user"] = "user"
    user: PermittedUser


class PermissionSetSpec(Spec):
    admin: bool = False
    subject: PermissionSubject = fixed()


class PermissionSetStatus(Status):
    principal: str = hidden("")


class PermissionSet(
    Resource[PermissionSetSpec, PermissionSetStatus],
    service="iam", version="v1beta1", collection="permissionSets", scope=PROJECT, short=("ps",),
    columns=(("ADMIN", "spec.admin"), ("USER", "spec.subject.user.email")),
):  # fmt: skip
    """A person in a project, as older clients say it: `projectOwner` with `admin`, else `projectContributor`."""


def id_for(principal: str) -> str:
    """The id of a principal's binding: `u-{uuid}` or `sa-{project}.{service account}`. Raises ValueError."""
    if (user := _USER.fullmatch(principal)) is not None:
        return f"u-{user[1]}"
    if (account := _ACCOUNT.fullmatch(principal)) is not None:
        return f"sa-{account[1]}.{account[2]}"
    raise ValueError('must be "/iam/users/{uuid}" or "/iam/projects/{project}/serviceAccounts/{id}"')


def grants_scope(uid: str) -> str:
    """The scope of claims under which a principal's bindings are found, each by its uid.

    The principal's own claim in it says that a binding once named them. By uid: a name can be taken again.
    """
    return f"grants/{uid}"
