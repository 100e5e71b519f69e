"""What the rest of the program may ask of the store.

Seven tables (objects, changes, work, links, claims, records, secrets), one way to write: `commit`, all or
none. Locks that never meet: a user's write is guarded by `user_revision`, a controller's by its lease and
by the generation that it read.
"""

from __future__ import annotations

import builtins
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from hansa.kinds.resource import AnyResource, Document, Key, Stored


@dataclass(frozen=True, slots=True)
class LinkTo:
    """One reference in a spec. A missing or dying target of a link that is not `free` refuses the write
    (`Invalid` naming `path`); a target that is held cannot be deleted (`InUse`)."""

    target: Key
    path: str
    holds: bool
    free: bool


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim on something scarce.

    With `ceiling` None it is a single key (an address, a name, a jti): one owner at a time. With a ceiling
    it is an amount of (scope, key): the sum over all owners never passes it.
    `until` (epoch seconds): after it the claim counts no more and is swept; None: as long as its owner.

    `counted`: an amount whose sum the store keeps beside its limit, for what many thousands may hold (a quota).
    The limit is the one that `SetCeilings` last set, read in the commit itself; `ceiling` holds where none was
    set. Taking less is never refused, an amount of 0 holds nothing, and there is no `until`.
    """

    scope: str
    key: str
    amount: int = 1
    ceiling: int | None = None
    until: float | None = None
    note: str = ""
    counted: bool = False


UNLIMITED = 2**62  # as a ceiling
NAMES = "names/"  # begins the scopes of names that strangers share: who holds one is not told


# -- writes -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Create:
    """Raises AlreadyExists when the key is there (also while it is going), Invalid for a missing target.

    `parents`: keys that must exist and must not be going, else NotFound (the project of what is in it).
    `due` False: nothing to reconcile, no row in `work`.
    """

    key: Key
    uid: str
    spec: Document
    status: Document = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    system_labels: Mapping[str, str] = field(default_factory=dict)
    links: Sequence[LinkTo] = ()
    parents: Sequence[Key] = ()
    observed: int = 0
    due: bool = True


@dataclass(frozen=True, slots=True)
class Update:
    """A user's write of spec, labels or both. None: leave as it is.

    Refused with Conflict when the object's `user_revision` is not the one given, with NotFound when it is
    gone and with Conflict when it is going. A changed spec raises the generation and makes the object due;
    new links are checked as in `Create`. Whoever points at the object, and what it points at, is woken.
    """

    key: Key
    user_revision: int
    spec: Document | None = None
    labels: Mapping[str, str] | None = None
    links: Sequence[LinkTo] = ()
    observed: int | None = None  # the new generation needs no work: the status already speaks of it


@dataclass(frozen=True, slots=True)
class SetStatus:
    """A controller's write, guarded by its lease and the generation that it read: Conflict otherwise.

    `wake` True: `Ready` or what others read of it changed, so those linked in either direction are woken.
    Without a lease (`lease` None) the write is the program's own (at start): only the generation guards. With
    `revision` given, Conflict also when the object was written in any way since that revision of it.
    """

    key: Key
    generation: int
    status: Document
    lease: Lease | None
    wake: bool = False
    system_labels: Mapping[str, str] | None = None
    revision: int | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """Sets the deletion mark and makes it due, first of all. Nothing happens when it is already going.

    Raises NotFound; raises InUse when a link with `holds` points at it, unless the pointing object is
    going too or `force`. With `uid` given, another object of the same name is left alone (NotFound).
    """

    key: Key
    force: bool = False
    uid: str | None = None


@dataclass(frozen=True, slots=True)
class Forget:
    """The object is cleaned up: its row, links, claims, secrets and work row go; a change is written.
    Guarded by the lease: Conflict otherwise. Those linked in either direction are woken."""

    key: Key
    lease: Lease | None


@dataclass(frozen=True, slots=True)
class Reserve:
    """Takes all claims for `owner` (a uid) or none: raises Full naming the first that does not fit.

    A claim that the owner already holds is left as it is (its amount replaced when it differs)."""

    owner: str
    claims: Sequence[Claim]


@dataclass(frozen=True, slots=True)
class Release:
    """Gives back the owner's claims whose scope begins with one of `scopes`, or all of them (empty)."""

    owner: str
    scopes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class SetCeilings:
    """The limits of a scope's counted claims, in the place of all that were set before. One below what is held
    refuses only who takes more. An empty mapping drops the scope once nothing of it is held."""

    scope: str
    ceilings: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Append:
    """One record of a stream, kept for ever: decisions, usage. `id` is unique; a second one with the same
    id is dropped silently, so that a repeated pass appends once."""

    stream: str
    id: str
    about: str  # uid of what it speaks of
    body: Document


@dataclass(frozen=True, slots=True)
class SetSecret:
    """A sealed value that belongs to an object (by uid) under a name. Goes with `Forget`.

    With `old` given, only in the place of that very value; nothing happens when another one stands there.
    """

    uid: str
    name: str
    sealed: bytes
    old: bytes | None = None


@dataclass(frozen=True, slots=True)
class Wake:
    """Makes an object due `in_s` seconds from now at the latest. Unknown keys are ignored."""

    key: Key
    in_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Settle:
    """Gives a leased key back: due in `due_in_s`, at rest with None; at once if it was woken meanwhile.

    `failed` counts a failure up, otherwise the count returns to 0. A lost lease makes it do nothing."""

    lease: Lease
    due_in_s: float | None
    failed: bool = False


Write = (
    Create | Update | SetStatus | Delete | Forget | Reserve | Release | SetCeilings | Append | SetSecret | Wake | Settle
)


# -- reads --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Lease:
    """One key in one hand until `until` (epoch seconds)."""

    key: Key
    token: str
    until: float
    failures: int = 0


@dataclass(frozen=True, slots=True)
class Query:
    """Which objects. `scope` is exact; with `below` True every scope that begins with it counts.

    Sorted by creation (then revision order of creation, which is unique). `after` is a `Page.next`.
    """

    kind: str | None = None
    scope: str = ""
    below: bool = False
    limit: int | None = None
    after: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    items: list[Stored]
    next: str = ""  # empty: that was all


@dataclass(frozen=True, slots=True)
class Change:
    """One row of `changes`. `act` is create, update, status, delete or forget."""

    revision: int
    at: float
    key: Key
    uid: str
    act: str
    by: str
    request: str
    stored: Stored | None  # as it then was; None for a forgotten object


@dataclass(frozen=True, slots=True)
class Held:
    """One claim as it is held."""

    owner: str
    claim: Claim


@dataclass(frozen=True, slots=True)
class Pointer:
    """Who points where."""

    source: Key
    source_uid: str
    target: Key
    path: str
    holds: bool


@dataclass(frozen=True, slots=True)
class Due:
    """The row of `work` of one key, for `hansa why`."""

    due_at: float | None
    leased_until: float
    failures: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """The work of the whole cloud: how many keys are due and free, how many of the due are in a hand, and how long
    the oldest free one has been due."""

    due: int
    leased: int
    behind_s: float


@dataclass(frozen=True, slots=True)
class Entry:
    """One record of a stream."""

    stream: str
    id: str
    about: str
    at: float
    body: Document


@dataclass(frozen=True, slots=True)
class Count:
    """The sum of one counted claim, and its own limit (None: none was set)."""

    key: str
    held: int
    ceiling: int | None


@dataclass(frozen=True, slots=True)
class Pair:
    """A record, and the one of the same id in a second stream, None while there is none."""

    first: Entry
    second: Document | None


class Store(Protocol):
    """The port. Every method may raise Retry when the database does not answer."""

    async def get(self, key: Key) -> Stored:
        """Raises NotFound."""
        ...

    async def find(self, uid: str) -> Stored | None: ...

    async def list(self, query: Query) -> Page: ...

    async def changes(self, after: int, *, scope: str = "", limit: int = 500) -> builtins.list[Change]:
        """Changes with a revision above `after`, oldest first, of every scope that begins with `scope`.
        Raises Gone when some of them are no longer kept."""
        ...

    async def asked(self, key: Key) -> tuple[Stored, str]:
        """As `get`, and the id of the request of the user's last write; empty for one that nobody asked for, or that
        is no longer kept."""
        ...

    async def pointers_to(self, key: Key) -> builtins.list[Pointer]: ...

    async def pointers_from(self, key: Key) -> builtins.list[Pointer]: ...

    async def claims(self, scope: str, *, below: bool = False) -> builtins.list[Held]:
        """What is claimed in one scope (live claims only); `below`: every scope that begins with it."""
        ...

    async def claims_of(self, owner: str) -> builtins.list[Held]: ...

    async def counts(self, scope: str) -> builtins.list[Count]:
        """What is held of a scope's counted claims, by key."""
        ...

    async def records(self, stream: str, *, about: str | None = None, limit: int = 50) -> builtins.list[Entry]:
        """Newest first."""
        ...

    async def span(
        self, stream: str, *, about: str = "", since: float = 0.0, before: float, below: str = "", limit: int = 500
    ) -> builtins.list[Entry]:
        """Newest first, from `since` on, before `before` (or at it, with an id less than `below`)."""
        ...

    async def record(self, stream: str, id: str) -> Entry | None: ...

    async def pairs(
        self, first: str, second: str, *, about: str = "", alone: bool = False, since: float = 0.0,
        after: tuple[float, str] = (0.0, ""), limit: int = 100,
    ) -> builtins.list[Pair]:  # fmt: skip
        """Records of `first`, oldest first, each with its counterpart in `second`. `alone`: only those that have
        none yet; `since`: no pair whose second was appended before. `after`: `at` and `id` of the last one read."""
        ...

    async def secret(self, uid: str, name: str) -> bytes | None: ...

    async def secrets(self, *, after: tuple[str, str] = ("", ""), limit: int = 500) -> builtins.list[SetSecret]:
        """Every sealed value, by uid and name."""
        ...

    async def due(self, key: Key) -> Due | None: ...

    async def revision(self) -> int: ...

    async def oldest_change(self) -> int:
        """The lowest revision still kept in `changes`; 0 when nothing was ever dropped or written."""
        ...

    async def commit(self, *writes: Write, by: str = "", request: str = "") -> int:
        """All or none; the new revision. `by` is who writes, `request` the id that runs through the logs."""
        ...

    async def claim(self, limit: int, lease_s: float) -> Sequence[Lease]:
        """Up to `limit` due and free keys, deletions first, then the longest due."""
        ...

    async def release(self, hand: str) -> int:
        """Gives back every key that is leased by a hand (a beginning of tokens; empty: by any) that is gone for ever.
        How many there were."""
        ...

    async def backlog(self) -> Backlog: ...

    async def next_due(self) -> float | None:
        """Epoch seconds at which the next free key falls due, None when nothing is."""
        ...

    async def sweep(self, *, changes_kept: int = 100_000, changes_kept_s: float = 7 * 86_400.0) -> None:
        """Drops expired claims, and changes that are both old and beyond the count kept."""
        ...

    @property
    def alone(self) -> bool:
        """One process writes, by its own clock."""
        ...

    async def trouble(self) -> str:
        """Why nothing can be written, "" when nothing is known to be wrong. Asks again when something was."""
        ...

    async def rebase(self, back_s: float) -> None:
        """The store's clock was set back by so much: what is due, and what is leased, moves with it."""
        ...

    def on_commit(self, call: Callable[[int], None]) -> None:
        """`call(revision)` after each commit of this process, in the event loop: a hint to look."""
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Birth:
    """What a new object begins with, decided at admission and committed with its `Create`.

    `observed` 1: the status already speaks of the first spec. `shown` is merged into the status of the
    answer to the POST and stored nowhere (a private key).
    """

    status: Document = field(default_factory=dict)
    observed: int = 0
    also: tuple[Write, ...] = ()
    shown: Document = field(default_factory=dict)
    system_labels: Mapping[str, str] = field(default_factory=dict)
    due: bool = True


@dataclass(frozen=True, slots=True)
class Admission:
    """What one kind has to say when a user writes it, beyond the rules on its fields.

    `born`: what a new object begins with. `amend`: what is committed together with a changed spec, given
    the old and the new reading. `guard`: raises when the object may not be deleted. `preview`: what a dry
    run shows besides the object (a placement). `close`: takes the object out of use where the store does not reach,
    right before the deletion mark is committed; `reopen` undoes that when the commit fails. Each may raise any error
    that a user can read. `still`: a changed spec needs no work.
    """

    born: Callable[[AnyResource], Awaitable[Birth]] | None = None
    amend: Callable[[AnyResource, AnyResource], Awaitable[tuple[Write, ...]]] | None = None
    guard: Callable[[AnyResource], Awaitable[None]] | None = None
    preview: Callable[[AnyResource], Awaitable[Document]] | None = None
    close: Callable[[AnyResource], Awaitable[None]] | None = None
    reopen: Callable[[AnyResource], Awaitable[None]] | None = None
    still: bool = False
