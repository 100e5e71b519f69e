"""The words of a decision: who asks, to do what, with which thing, under which rules, and the answer.

Plain data, shared by the three gates (admission, placement, gateways). Nothing here looks anything up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Act(StrEnum):
    READ = "read"
    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"
    PLACE = "place"  # put something into a territory
    SSH = "ssh"  # be told where a machine's port 22 is, read what it printed
    BYPASS = "bypass"  # delete or shorten what is kept in GOVERNANCE mode
    CONSOLE = "console"  # type at a machine's serial console: whoever may, has the machine


@dataclass(frozen=True, slots=True)
class Grant:
    """One role on one scope, `projects/<id>` or `organizations/<id>`.

    `resources`: patterns of references in which `*` stands for one segment; none: everything in the scope.
    """

    scope: str
    role: str
    resources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who proved who they are. `ref` is `/iam/users/…` or `/iam/projects/…/serviceAccounts/…`.

    `owns`: ids of organisations that are theirs by birth (`organizationOwner`). `member_of`: ids of projects
    in which they are at home (`projectContributor`). `grants`: what role bindings give besides. `within`: they act
    with a key that reaches no further than these grants do (None: no such bound); `via` is the reference of that key.
    """

    ref: str
    owns: frozenset[str] = frozenset()
    member_of: frozenset[str] = frozenset()
    grants: tuple[Grant, ...] = ()
    within: tuple[Grant, ...] | None = None
    via: str = ""


PROGRAM = Caller("/hansa")  # the cloud itself: asks only at placement, holds no role


@dataclass(frozen=True, slots=True)
class Subject:
    """What is acted upon. Empty strings: does not apply.

    `organization` is the owner of `project`. `territory` is the country code of the place. `ref` is the
    reference of the object, with an empty last segment for a collection.
    """

    kind: str
    name: str = ""
    project: str = ""
    organization: str = ""
    territory: str = ""
    ref: str = ""


@dataclass(frozen=True, slots=True)
class TerritoryRule:
    """One SovereigntyPolicy: `name` is its reference."""

    name: str
    territories: frozenset[str]


@dataclass(frozen=True, slots=True)
class Rules:
    """The written rules that hold for the subject."""

    territories: tuple[TerritoryRule, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """Allowed or not, by which rule, and for which reasons in words that a user can act on.

    `visible` False: the caller may not even know that the subject exists.
    """

    allowed: bool
    rule: str
    reasons: tuple[str, ...] = ()
    visible: bool = True
    details: dict[str, str] = field(default_factory=dict)

    @property
    def why(self) -> str:
        return "; ".join(self.reasons)
