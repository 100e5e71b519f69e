"""The documents inside a bucket's spec: lifecycle, CORS, grants, replication, tags.

Lifecycle is the contract's own form (section 3.5.1), the others are S3's words in camel case. Plain rules on values
stand here; what one rule means for a request stands with the gateway.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from hansa.kinds.resource import Wire

RULES_MAX = 1000
CORS_RULES_MAX = 100
GRANTS_MAX = 100
DAYS_MAX = 2**31 - 1
SIZE_MAX = 5 * 2**40  # of an object


def each_once(what: str, values: Iterable[str]) -> None:
    """Raises ValueError naming a value that stands there twice."""
    twice = next((value for value, count in Counter(values).items() if count > 1), None)
    if twice is not None:
        raise ValueError(f"names the {what} {twice[:80]!r} twice")


class Tag(Wire):
    key: str = Field(min_length=1, max_length=128)
    value: str = Field("", max_length=256)


# -- lifecycle ------------------------------------------------------------------------------------


class ExpireCurrent(Wire):
    """`date` is a day in UTC: `2027-01-01`, or its midnight in RFC 3339."""

    days: int | None = Field(None, ge=1, le=DAYS_MAX)
    date: str | None = None
    expire_orphaned_deletion_markers: bool | None = None

    @field_validator("date")
    @classmethod
    def _day(cls, text: str | None) -> str | None:
        if text is None:
            return None
        day = datetime.fromisoformat(text)
        if (day.hour, day.minute, day.second, day.microsecond) != (0, 0, 0, 0) or day.utcoffset():
            raise ValueError("must be a day, or midnight in UTC")
        return text

    @model_validator(mode="after")
    def _something(self) -> ExpireCurrent:
        if self.days is not None and self.date is not None:
            raise ValueError("give either days or date, not both")
        if self.days is None and self.date is None and self.expire_orphaned_deletion_markers is None:
            raise ValueError("needs days, date or expireOrphanedDeletionMarkers")
        return self


class ExpireNonCurrent(Wire):
    """`maxNumVersions`: the newest so many stay. `days`: so long after something newer came."""

    days: int | None = Field(None, ge=1, le=DAYS_MAX)
    max_num_versions: int | None = Field(None, ge=1, le=DAYS_MAX)
    keep_newest: int | None = Field(None, ge=1, le=100)  # ours, beside days: S3's NewerNoncurrentVersions

    @model_validator(mode="after")
    def _one(self) -> ExpireNonCurrent:
        if (self.days is None) == (self.max_num_versions is None):
            raise ValueError("needs exactly one of days and maxNumVersions")
        if self.keep_newest is not None and self.days is None:
            raise ValueError("keepNewest goes with days only")
        return self


class AbortIncomplete(Wire):
    days: int = Field(ge=1, le=DAYS_MAX)


class LifecycleFilter(Wire):
    prefix: str | None = Field(None, max_length=1024)
    size_greater_than: int | None = Field(None, ge=0, le=SIZE_MAX)
    size_less_than: int | None = Field(None, ge=1, le=SIZE_MAX)
    tag: list[Tag] | None = Field(None, max_length=10)

    @field_validator("tag")
    @classmethod
    def _tags(cls, tags: list[Tag] | None) -> list[Tag] | None:
        each_once("key", [tag.key for tag in tags or ()])
        return tags

    @model_validator(mode="after")
    def _sizes(self) -> LifecycleFilter:
        low, high = self.size_greater_than, self.size_less_than
        if low is not None and high is not None and low >= high:
            raise ValueError("sizeGreaterThan must be less than sizeLessThan")
        return self


class LifecycleRule(Wire):
    id: str = Field(min_length=1, max_length=255)
    disabled: bool | None = None
    expire_current_version: ExpireCurrent | None = None
    expire_non_current_version: ExpireNonCurrent | None = None
    abort_incomplete_multipart: AbortIncomplete | None = None
    filter: LifecycleFilter | None = None
    as_given: dict[str, Any] | None = None  # ours: what makes S3's XML come back as it was; means nothing else

    @model_validator(mode="after")
    def _does_something(self) -> LifecycleRule:
        if not (self.expire_current_version or self.expire_non_current_version or self.abort_incomplete_multipart):
            raise ValueError(
                "needs expireCurrentVersion, expireNonCurrentVersion or abortIncompleteMultipart: it does nothing"
            )
        return self


class LifecyclePolicy(Wire):
    rules: list[LifecycleRule] = Field([], max_length=RULES_MAX)

    @field_validator("rules")
    @classmethod
    def _ids(cls, rules: list[LifecycleRule]) -> list[LifecycleRule]:
        each_once("id", [rule.id for rule in rules])
        return rules


# -- CORS -----------------------------------------------------------------------------------------


class CorsRule(Wire):
    id: str | None = Field(None, max_length=255)
    allowed_methods: list[Literal["GET", "PUT", "HEAD", "POST", "DELETE"]] = Field(min_length=1, max_length=5)
    allowed_origins: list[str] = Field(min_length=1, max_length=100)
    allowed_headers: list[str] | None = Field(None, max_length=100)
    expose_headers: list[str] | None = Field(None, max_length=100)
    max_age_seconds: int | None = Field(None, ge=0, le=DAYS_MAX)

    @field_validator("allowed_origins", "allowed_headers")
    @classmethod
    def _one_star(cls, values: list[str] | None) -> list[str] | None:
        for value in values or ():
            if not 0 < len(value) <= 1024 or value.count("*") > 1:
                raise ValueError(f"may hold one * each, in at most 1024 characters (given: {value[:80]!r})")
        return values

    @field_validator("expose_headers")
    @classmethod
    def _no_star(cls, values: list[str] | None) -> list[str] | None:
        for value in values or ():
            if not 0 < len(value) <= 1024 or "*" in value:
                raise ValueError(f"must be names of headers, without a * (given: {value[:80]!r})")
        return values


class Cors(Wire):
    rules: list[CorsRule] = Field(min_length=1, max_length=CORS_RULES_MAX)


# -- grants ---------------------------------------------------------------------------------------


class Grant(Wire):
    """`grantee`: a canonical id, or the URI of a group."""

    grantee: str = Field(min_length=1, max_length=512)
    permission: Literal["READ", "WRITE", "READ_ACP", "WRITE_ACP", "FULL_CONTROL"]
    name: str = Field("", max_length=200)


class Owner(Wire):
    id: str = Field(min_length=1, max_length=512)
    display_name: str = Field("", max_length=200)


class Acl(Wire):
    """Who owns the bucket in the eyes of S3, and whom it lets in besides."""

    owner: Owner | None = None
    grants: list[Grant] = Field([], max_length=GRANTS_MAX)


# -- replication ----------------------------------------------------------------------------------


class ReplicationFilter(Wire):
    prefix: str | None = Field(None, max_length=1024)
    tag: list[Tag] | None = Field(None, max_length=10)


class ReplicationDestination(Wire):
    """`bucket` is a bare id in the same project, of any region."""

    bucket: str = Field(min_length=3, max_length=63)
    region: str | None = Field(None, max_length=63)  # none: the source's own, else the only one that has it
    storage_class: str | None = Field(None, max_length=64)


class ReplicationRule(Wire):
    id: str = Field(min_length=1, max_length=255)
    disabled: bool | None = None
    priority: int | None = Field(None, ge=0, le=DAYS_MAX)
    filter: ReplicationFilter | None = None
    destination: ReplicationDestination
    delete_markers: bool | None = None
    as_given: dict[str, Any] | None = None  # ours: what makes S3's XML come back as it was; means nothing else


class Replication(Wire):
    role: str | None = Field(None, max_length=2048)  # told back as given: who may copy is decided by our own roles
    rules: list[ReplicationRule] = Field(min_length=1, max_length=RULES_MAX)

    @field_validator("rules")
    @classmethod
    def _ids(cls, rules: list[ReplicationRule]) -> list[ReplicationRule]:
        each_once("id", [rule.id for rule in rules])
        return rules
