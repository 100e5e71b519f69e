"""From a path to what it names: kind, scope, object, verb. A table from the registry, no patterns. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from hansa.errors import NotFound, Unbuilt
from hansa.kinds.registry import all_kinds, all_unbuilt, shape
from hansa.kinds.resource import AnyResource, Key

ACTIONS = frozenset({"start", "stop", "revoke", "rotate", "why", "logs", "console", "events"})


@dataclass(frozen=True, slots=True)
class Route:
    """`name` None: the collection. `verb` empty: the object itself."""

    kind: type[AnyResource]
    scope: str
    name: str | None = None
    verb: str = ""

    @property
    def key(self) -> Key:
        return Key(self.kind.kind, self.scope, self.name or "")

    @property
    def template(self) -> str:
        """The path without the names in it: one for each kind and form, however many objects there are."""
        place = shape(self.scope)
        rest = () if self.name is None else ("{name}", *([self.verb] if self.verb else ()))
        return "/" + "/".join(
            p for p in (self.kind.service, self.kind.version, place, self.kind.collection, *rest) if p
        )


Table = dict[tuple[str, str, str, str], type[AnyResource]]  # service, version, scope shape, collection


@cache
def _table() -> Table:
    return {
        (k.service, k.version, shape(scope), k.collection): k for k in all_kinds() if k.public for scope in k.scopes
    }


@cache
def _missing() -> dict[tuple[str, str, str, str], str]:
    return {(u.service, u.version, shape(u.scope), u.collection): u.reason for u in all_unbuilt()}


def resolve(parts: list[str]) -> Route:
    """Segments of a path (no empty ones) as a route. Raises NotFound, Unbuilt."""
    if len(parts) >= 3:
        service, version, rest = parts[0], parts[1], parts[2:]
        for route in _candidates(service, version, rest):
            if route is not None:
                return route
    raise NotFound(f"there is no collection at /{'/'.join(parts)}; `hansa explain` lists what there is")


def _candidates(service: str, version: str, rest: list[str]) -> list[Route | None]:
    if rest[0] == "global":
        return [_find(service, version, rest, width, tail) for tail in (0, 1) for width in (1, 2)]
    return [_find(service, version, rest, 1, tail) for tail in (0, 1, 2)]


def _find(service: str, version: str, rest: list[str], width: int, tail: int) -> Route | None:
    """`rest` read as scope, a collection of `width` segments, then `tail` more (name, verb)."""
    cut = len(rest) - tail
    if cut < width or (tail == 2 and rest[-1] not in ACTIONS):
        return None
    scope, collection = rest[: cut - width], "/".join(rest[cut - width : cut])
    at = (service, version, shape("/".join(scope)), collection)
    if (kind := _table().get(at)) is not None:
        name = rest[cut] if tail else None
        return Route(kind, "/".join(scope), name, rest[-1] if tail == 2 else "")
    if (reason := _missing().get(at)) is not None:
        raise Unbuilt(f"{collection}: {reason}")
    return None
