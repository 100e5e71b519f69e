"""What every kind has in common: the key, the stored row, the typed reading of it.

A kind is one class with two models, what is wanted (`Spec`) and what was last seen (`Status`). The stored
spec is the user's own document, letter for letter; the models are a reading of it. No I/O here.
"""

from __future__ import annotations

import re
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, get_args

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from hansa.kinds.rules import Rule, ruled_fields
from hansa.units import NAME_LENGTH_MAX

if TYPE_CHECKING:
    from hansa.kinds.meters import Measure, Meter

Document = dict[str, Any]
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")


class Wire(BaseModel):
    """A value as it travels: camel case outside, snake case inside, unknown fields ignored."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True, validate_default=True
    )

    def wire(self) -> Document:
        """As JSON-ready data, absent values left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class Spec(Wire):
    """What is wanted."""


class Condition(Wire):
    """One statement about an object. `status` is "True", "False" or "Unknown"."""

    type: str
    status: str
    reason: str
    message: str = ""
    last_transition_time: str
    observed_generation: int | None = None


class Status(Wire):
    """What was last seen."""

    conditions: tuple[Condition, ...] = ()

    def condition(self, type: str) -> Condition | None:
        return next((c for c in self.conditions if c.type == type), None)

    @property
    def is_ready(self) -> bool:
        ready = self.condition("Ready")
        return ready is not None and ready.status == "True"


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """Names one object. `scope` is the path between version and collection: `projects/p/regions/r`."""

    kind: str
    scope: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" + (f" in {self.scope}" if self.scope else "")

    def part(self, segment: str) -> str | None:
        """A named part of the scope: `key.part("projects")` is the project, None when it has none."""
        parts = self.scope.split("/")
        return next((b for a, b in zip(parts[::2], parts[1::2], strict=False) if a == segment), None)

    @property
    def project(self) -> str | None:
        return self.part("projects")

    @property
    def region(self) -> str | None:
        return self.part("regions")

    @property
    def organization(self) -> str | None:
        return self.part("organizations")


@dataclass(frozen=True, slots=True)
class Stored:
    """One row of `objects`, as the store hands it out. Times are epoch seconds.

    `revision` rises with every write, `user_revision` is the revision of the last write by a user
    (spec or labels), `observed` the generation that the status speaks of.
    """

    key: Key
    uid: str
    created_at: float
    generation: int = 1
    revision: int = 0
    user_revision: int = 0
    observed: int = 0
    deleted_at: float | None = None
    labels: dict[str, str] = field(default_factory=dict)
    system_labels: dict[str, str] = field(default_factory=dict)
    spec: Document = field(default_factory=dict)
    status: Document = field(default_factory=dict)

    def with_status(self, status: Document) -> Stored:
        return replace(self, status=status)


S = TypeVar("S", bound=Spec)
T = TypeVar("T", bound=Status)


class Resource(Generic[S, T]):
    """One object of a kind, read through its types. Subclasses declare the kind."""

    kind: ClassVar[str]
    service: ClassVar[str]
    version: ClassVar[str]
    collection: ClassVar[str]
    scope: ClassVar[str]  # "", "global", "projects/{project}", "projects/{project}/regions/{region}", …
    scopes: ClassVar[tuple[str, ...]]  # every scope in which it may stand, `scope` first
    verbs: ClassVar[str] = "CGLPD"  # S: one object that stands under the name of its collection
    short: ClassVar[tuple[str, ...]] = ()  # names the command line also takes
    columns: ClassVar[tuple[tuple[str, str], ...]] = ()  # heading, path
    actions: ClassVar[tuple[str, ...]] = ()
    public: ClassVar[bool] = True  # has routes
    meters: ClassVar[tuple[Meter, ...]] = ()  # what of it is measured while it is there
    data_type: ClassVar[type[Wire] | None] = None  # what reading one shows as `data`, in the place of spec and status
    spec_type: ClassVar[type[Spec]]
    status_type: ClassVar[type[Status]]
    hidden: ClassVar[frozenset[str]] = frozenset()
    secrets: ClassVar[tuple[tuple[str, ...], ...]] = ()
    unseen: ClassVar[frozenset[tuple[str, ...]]] = frozenset()  # secrets that are never shown again

    def __init_subclass__(
        cls,
        *,
        service: str,
        version: str,
        collection: str,
        scope: str,
        also: tuple[str, ...] = (),
        verbs: str = "CGLPD",
        short: tuple[str, ...] = (),
        columns: tuple[tuple[str, str], ...] = (),
        actions: tuple[str, ...] = (),
        public: bool = True,
        meters: tuple[Meter, ...] = (),
    ) -> None:
        cls.kind = cls.__name__
        cls.service, cls.version, cls.collection, cls.scope = service, version, collection, scope
        cls.scopes = (scope, *also)
        cls.verbs, cls.short, cls.columns, cls.actions, cls.public = verbs, short, columns, actions, public
        cls.meters = meters
        base = next(b for b in cls.__orig_bases__ if getattr(b, "__origin__", None) is Resource)  # type: ignore[attr-defined]
        cls.spec_type, cls.status_type = get_args(base)
        rules = [*ruled_fields(cls.spec_type)]
        cls.secrets = tuple(r.path for r in rules if r.rule is Rule.SECRET)
        cls.unseen = frozenset(r.path for r in rules if r.unseen)
        cls.hidden = frozenset(r.path[0] for r in ruled_fields(cls.status_type) if r.rule is Rule.HIDDEN)
        from hansa.kinds.registry import register

        register(cls)

    def __init__(self, stored: Stored) -> None:
        self.stored = stored

    def __repr__(self) -> str:
        return f"<{self.stored.key} generation {self.stored.generation}>"

    @property
    def key(self) -> Key:
        return self.stored.key

    @property
    def name(self) -> str:
        return self.stored.key.name

    @property
    def uid(self) -> str:
        return self.stored.uid

    @property
    def generation(self) -> int:
        return self.stored.generation

    @property
    def deleting(self) -> bool:
        return self.stored.deleted_at is not None

    @property
    def ref(self) -> str:
        return ref_of(type(self), self.stored.key)

    @cached_property
    def spec(self) -> S:
        return self.spec_type.model_validate(self.stored.spec)  # type: ignore[return-value]

    @cached_property
    def status(self) -> T:
        return self.status_type.model_validate(self.stored.status)  # type: ignore[return-value]

    @property
    def ready(self) -> bool:
        """Ready, for the spec as it is now, and not on its way out."""
        return self.stored.observed == self.generation and not self.deleting and self.status.is_ready

    @classmethod
    def complete(cls, document: Document) -> Document:
        """The user's document with the defaults that clients expect to read back. Pure."""
        for ruled in ruled_fields(cls.spec_type):
            if ruled.rule is Rule.ECHOED and len(ruled.path) == 1 and document.get(ruled.path[0]) is None:
                document = {**document, ruled.path[0]: deepcopy(ruled.default)}
        return document

    @classmethod
    def id_of(cls, spec: Document) -> str | None:
        """The id that a spec prescribes (empty: a spec with no good form); None when its user chooses one. Pure."""
        return None

    @classmethod
    def name_fault(cls, name: str) -> str:
        """Which rule an id that its user chose breaks, empty for a good one. Pure."""
        if len(name) <= NAME_LENGTH_MAX and _NAME.fullmatch(name) is not None:
            return ""
        return "must be lower-case letters, digits and -, first and last a letter or digit, at most 63 characters"

    @classmethod
    def stopped(cls, stored: Stored) -> bool:
        """May fields marked `stopped` change now? Pure."""
        return True

    @classmethod
    def measure(cls, status: Any) -> Measure:
        """What an object with this status draws of its meters now. Pure."""
        from hansa.kinds.meters import NOTHING

        return NOTHING

    @classmethod
    def say(cls, stored: Stored, status: Document) -> Document:
        """A kind's own say in its view: corrects a status that the spec has overtaken. Pure."""
        return status


AnyResource = Resource[Any, Any]


def ref_of(kind: type[AnyResource], key: Key) -> str:
    """The reference of an object: its path without the version."""
    scope = f"/{key.scope}" if key.scope else ""
    return f"/{kind.service}{scope}/{kind.collection}/{key.name}"
