"""Who: organisations, projects, service accounts, their credentials; and the people behind refresh tokens.

The contract's section 3.6 as far as machines need it. `User` and `RefreshToken` have no routes: they are
the store's memory of who may trade which token.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from hansa.dates import parse_rfc3339
from hansa.kinds.quotas import Quotas
from hansa.kinds.resource import Resource, Spec, Status, Wire
from hansa.kinds.rules import echoed, fixed, hidden, refers

PROJECT = "projects/{project}"


class OrganizationSpec(Spec):
    name: str = Field("", max_length=200)
    quotas: Quotas | None = None


class OrganizationStatus(Status):
    quota_usage: dict[str, Any] | None = None
    owners: tuple[str, ...] = hidden(())  # uids of service accounts: a name can be taken again, a uid cannot


class Organization(
    Resource[OrganizationSpec, OrganizationStatus],
    service="iam", version="v1beta1", collection="organizations", scope="", verbs="GLP", short=("org",),
    columns=(("NAME", "spec.name"),),
):  # fmt: skip
    """Owns projects. Its id is a UUID."""


class ProjectSpec(Spec):
    organization: str = fixed()
    name: str = Field("", max_length=200)
    quotas: Quotas | None = None  # the organisation's limits hold as well


class Project(
    Resource[ProjectSpec, Status],
    service="iam", version="v1beta1", collection="projects", scope="",
    columns=(("NAME", "spec.name"), ("ORGANIZATION", "spec.organization")),
):  # fmt: skip
    """Holds everything else; a stranger to all other projects."""


class ServiceAccountSpec(Spec):
    description: str | None = Field(None, max_length=1000)
    enabled: bool = echoed(True)


class ServiceAccountStatus(Status):
    oauth_client_id: str | None = None
    last_revocation_time: str | None = None


class ServiceAccount(
    Resource[ServiceAccountSpec, ServiceAccountStatus],
    service="iam", version="v1beta1", collection="serviceAccounts", scope=PROJECT, short=("sa",),
    columns=(("ENABLED", "spec.enabled"), ("CLIENT ID", "status.oauthClientId"), ("DESCRIPTION", "spec.description")),
):  # fmt: skip
    """A program's identity in a project."""


class AccountRef(Wire):
    fqid: Annotated[str, refers("ServiceAccount", holds=False)]


class Rs256Jwt(Wire):
    access_token_lifetime: int | None = Field(None, ge=60, le=3600)  # seconds


class RevocationRequest(Wire):
    requested: bool = False
    reason: str = Field("", max_length=1000)


class ServiceAccountCredentialSpec(Spec):
    account_ref: AccountRef = fixed()
    type: Literal["rs256-jwt"] = fixed()
    expires_at: str = fixed()
    description: str | None = fixed(None)
    rs256_jwt: Rs256Jwt | None = fixed(None, alias="rs256Jwt")
    revocation_request: RevocationRequest | None = None

    @field_validator("expires_at")
    @classmethod
    def _date(cls, text: str) -> str:
        parse_rfc3339(text)
        return text


class ServiceAccountCredentialStatus(Status):
    private_key_jwk: str | None = None  # only in the answer to the POST, never stored
    revoked_at: str | None = None
    public_jwk: dict[str, Any] | None = hidden()


class ServiceAccountCredential(
    Resource[ServiceAccountCredentialSpec, ServiceAccountCredentialStatus],
    service="iam", version="v1beta1", collection="serviceAccountCredentials",
    scope="projects/{project}/serviceAccounts/{serviceAccount}", verbs="CGLD", short=("credential",),
    columns=(("EXPIRES", "spec.expiresAt"), ("REVOKED", "status.revokedAt"), ("DESCRIPTION", "spec.description")),
    actions=("revoke",),
):  # fmt: skip
    """A key pair with which a service account asks for tokens. The private half is shown once."""


class UserSpec(Spec):
    name: str
    organizations: list[str] = []  # that this person owns
    enabled: bool = True
    email: str = ""  # what a person with a password logs in by
    organization: str = ""  # whose people this person is one of: its owners look after the account


class User(
    Resource[UserSpec, Status],
    service="iam", version="v1beta1", collection="users", scope="", verbs="", public=False,
):  # fmt: skip
    """A person, or the operator's account of `hansa.env`. Its id is a UUID."""


class RefreshTokenSpec(Spec):
    digest: str  # SHA-256 of the token, hex
    client: str
    rotates: bool = True
    expires_at: float
    replaced_at: float | None = None
    family: str = ""
    revoked: bool = False


class RefreshToken(
    Resource[RefreshTokenSpec, Status],
    service="iam", version="v1beta1", collection="refreshTokens", scope="users/{user}", verbs="", public=False,
):  # fmt: skip
    """What a refresh token is checked against; the token itself is never stored."""


def email_scope(email: str) -> str:
    """The scope of the one claim that says whose an address is; upper and lower case are one."""
    return f"users/email/{email.strip().casefold()}"


def people_scope(organization: str) -> str:
    """The scope of claims under which an organisation's people are found, each by uid."""
    return f"users/of/{organization}"
