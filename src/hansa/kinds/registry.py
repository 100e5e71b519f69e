"""The table of kinds, built as their classes are declared, and the way from a path or a reference to a kind.

`kinds.catalogue` imports every module that declares kinds; whoever needs the full table imports that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hansa.kinds.resource import Key, Resource

_KINDS: dict[str, type[Resource[Any, Any]]] = {}
_BY_PLACE: dict[tuple[str, str, str], type[Resource[Any, Any]]] = {}  # (service, scope shape, collection)


@dataclass(frozen=True, slots=True)
class Unbuilt:
    """A collection of the contract that is not built yet: it answers 501 with the reason."""

    service: str
    version: str
    scope: str
    collection: str
    reason: str


_UNBUILT: list[Unbuilt] = []


def register(kind: type[Resource[Any, Any]]) -> None:
    _KINDS[kind.kind] = kind
    for scope in kind.scopes:
        _BY_PLACE[(kind.service, shape(scope), kind.collection)] = kind


def unbuilt(service: str, version: str, scope: str, *collections: str, reason: str) -> None:
    _UNBUILT.extend(Unbuilt(service, version, scope, c, reason) for c in collections)


def shape(scope: str) -> str:
    """A scope without its names: `projects/{project}/regions/{region}` -> `projects/*/regions/*`."""
    parts = scope.split("/")
    return "/".join("*" if i % 2 else part for i, part in enumerate(parts))


def all_kinds() -> Iterator[type[Resource[Any, Any]]]:
    """By name, whatever the order in which they were declared."""
    yield from (kind for _, kind in sorted(_KINDS.items()))


def all_unbuilt() -> Iterator[Unbuilt]:
    yield from _UNBUILT


def is_built(name: str) -> bool:
    return name in _KINDS


def kind_named(name: str) -> type[Resource[Any, Any]]:
    """Raises KeyError for a kind that does not exist."""
    return _KINDS[name]


def kind_at(service: str, scope: str, collection: str) -> type[Resource[Any, Any]] | None:
    return _BY_PLACE.get((service, shape(scope), collection))


def read(stored: Any) -> Resource[Any, Any]:
    """A stored row as an object of its kind."""
    return _KINDS[stored.key.kind](stored)


_REF = re.compile(r"/(?P<service>[a-z]+)/(?P<rest>[^\s]+)")


def key_of(ref: str) -> Key | None:
    """The key that a full reference names, None when it is no reference to a known kind."""
    from hansa.kinds.resource import Key

    if (match := _REF.fullmatch(ref)) is None:
        return None
    service, parts = match["service"], match["rest"].split("/")
    if "" in parts:
        return None
    if parts[0] == "global":  # catalogues: ids may follow a collection of two segments
        for cut in (2, 3):
            if len(parts) == cut + 1:
                kind = kind_at(service, "global", "/".join(parts[1:cut]))
                if kind is not None:
                    return Key(kind.kind, "global", parts[-1])
        return None
    scope, collection, name = "/".join(parts[:-2]), parts[-2] if len(parts) > 1 else "", parts[-1]
    kind = kind_at(service, scope, collection)
    return Key(kind.kind, scope, name) if kind is not None else None


def full_ref(text: str, kinds: tuple[str, ...], scope: str) -> str:
    """A short name as the full reference it stands for in `scope`; a full one as it is."""
    if text.startswith("/"):
        return text
    from hansa.kinds.resource import Key, ref_of

    kind = _KINDS[kinds[0]]
    parts = scope.split("/")
    target = kind.scope
    if target.startswith("projects/") and parts[0] == "projects":
        wanted = target.count("/") + 1
        target = "/".join(parts[:wanted])
    return ref_of(kind, Key(kind.kind, target, text))
