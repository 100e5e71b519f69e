"""Kinds by the names that people give them, and the paths and references of their objects.

It reads the generated `sdk.table`, never the kinds themselves: those cost a fifth of a second to import.
All pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from urllib.parse import quote

from hansa.errors import Unbuilt
from hansa.sdk.errors import Unclear

_PLACE = re.compile(r"{(\w+)}")


@dataclass(frozen=True, slots=True)
class Known:
    """One kind, as far as a client must know it before it reads an object."""

    kind: str
    service: str
    version: str
    collection: str
    scopes: tuple[str, ...]
    verbs: str  # of C, G, L, P, D; S: one object that stands under the name of its collection
    short: tuple[str, ...]
    columns: tuple[tuple[str, str], ...]
    actions: tuple[str, ...]
    about: str

    @property
    def called(self) -> str:
        """What people call one of it: the first short name, else the kind."""
        return self.short[0] if self.short else self.kind[0].lower() + self.kind[1:]

    @property
    def names(self) -> tuple[str, ...]:
        plural = self.collection.split("/")[0]
        return tuple(dict.fromkeys(_plain(n) for n in (self.kind, plural, *self.short)))

    @property
    def regional(self) -> bool:
        return "{region}" in self.scopes[0]

    def scope_in(self, context: Mapping[str, str]) -> str:
        """The first of its scopes that `context` (project, region, …) fills. Raises Unclear."""
        for scope in self.scopes:
            if all(context.get(name) for name in _PLACE.findall(scope)):
                return _PLACE.sub(lambda m: quote(context[m[1]], safe=""), scope)
        missing = next(name for name in _PLACE.findall(self.scopes[0]) if not context.get(name))
        raise Unclear(f"{self.called} stands in a {missing}: say which ({_HOW.get(missing, f'the {missing}')})")

    def path(self, scope: str, name: str | None = None) -> str:
        """Where the collection is, or one object of it."""
        parts = [self.service, self.version, scope, self.collection, quote(name, safe="") if name is not None else ""]
        return "/" + "/".join(p for p in parts if p)

    def ref(self, scope: str, name: str) -> str:
        return "/" + "/".join(p for p in (self.service, scope, self.collection, name) if p)


_HOW = {
    "project": "--project, or HANSA_PROJECT in the environment",
    "region": "--region, or HANSA_REGION in the environment",
    "organization": "--organization, or HANSA_ORGANIZATION in the environment",
    "serviceAccount": "ACCOUNT/NAME, or --of ACCOUNT",
}


def kinds() -> tuple[Known, ...]:
    """Every kind that has routes."""
    from hansa.sdk.table import KINDS

    return KINDS


@cache
def _by_name() -> dict[str, Known]:
    return {name: known for known in kinds() for name in known.names}


def find(name: str) -> Known | None:
    """The kind of this name (kind, collection or short name; case, `-` and `_` do not count), if any."""
    return _by_name().get(_plain(name))


def named(name: str) -> Known:
    """As `find`. Raises Unbuilt for a kind that is not built yet, Unclear with the nearest name otherwise."""
    if (known := find(name)) is not None:
        return known
    from hansa.sdk.table import UNBUILT

    for collection, reason in UNBUILT:
        if _plain(name) in (_plain(collection), _plain(collection).removesuffix("s")):
            raise Unbuilt(f"{collection}: {reason}")
    import difflib

    near = difflib.get_close_matches(_plain(name), _by_name(), 1)
    meant = f"Did you mean {near[0]}?" if near else "`hansa explain` lists the kinds."
    raise Unclear(f"there is no kind {name!r}. {meant}")


@dataclass(frozen=True, slots=True)
class Target:
    """A kind, and one object of it by name or, with `scope` given, by its full reference.

    `name` None: all of them.
    """

    known: Known
    name: str | None = None
    scope: str | None = None

    def __str__(self) -> str:
        return f"{self.known.called}/{self.name}" if self.name is not None else self.known.called


def of_ref(ref: str) -> Target:
    """The object that a full reference names. Raises Unclear for one to no kind that is known."""
    service, _, rest = ref.strip("/").partition("/")
    for known in kinds():
        if known.service != service or f"/{known.collection}/" not in f"/{rest}":
            continue
        for scope in known.scopes:
            pattern = re.compile(
                "/".join(filter(None, (_PLACE.sub("[^/]+", scope), re.escape(known.collection), "([^/]+)")))
            )
            if (match := pattern.fullmatch(rest)) is not None:
                return Target(known, match[1], rest.removesuffix(f"{known.collection}/{match[1]}").strip("/"))
    raise Unclear(f"{ref} names no object of a known kind")


def targets(words: Iterable[str], default: str | None = None) -> Iterator[Target]:
    """What `vm`, `vm web-1 web-2`, `vm,disk`, `vm/web-1 disk/data` or full references name.

    `default`: the kind of names that stand alone. A name `ACCOUNT/NAME` is one of a nested kind.
    """
    rest = list(words)
    if not rest:
        return
    first = rest[0]
    if default is not None and "/" not in first and (len(rest) == 1 or find(first) is None):
        yield from (Target(named(default), word) for word in rest)
    elif "/" in first:
        yield from (_single(word) for word in rest)
    else:
        of = dict.fromkeys(named(name) for name in first.split(",") if name)  # each kind once
        names: list[str | None] = [*rest[1:]] or [None]
        yield from (Target(known, name) for known in of for name in names)


def _single(word: str) -> Target:
    if word.startswith("/"):
        return of_ref(word)
    kind, slash, name = word.partition("/")
    if not slash or not name:
        raise Unclear(f"{word!r}: write KIND/NAME, as in vm/web-1; or KIND NAME…")
    return Target(named(kind), name)


def short_ref(ref: str) -> str:
    """A reference as people write it: `vm/web-1`; the text itself when it is none."""
    try:
        return str(of_ref(ref))
    except Unclear:
        return ref


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")
