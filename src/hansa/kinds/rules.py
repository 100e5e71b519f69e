"""Rules that sit on a field of a kind, and how to read them back.

A rule says when a field may change (`fixed`, `stopped`, `grows`), whether its default is written into the
user's document (`echoed`), whether it is sealed (`secret`) or for operators only (`hidden`). `RefTo` marks
a string as a reference. The rules are data on the pydantic field; `api.patch` and `api.view` act on them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any, cast, get_args

from pydantic import BaseModel, Field
from pydantic.fields import FieldInfo


class Rule(StrEnum):
    FIXED = "fixed"  # never changes after creation: 422
    STOPPED = "stopped"  # changes only while the machine is stopped: 422
    GROWS = "grows"  # never smaller: 422
    ECHOED = "echoed"  # its default is written into the stored document
    SECRET = "secret"  # kept sealed, a digest in the document
    HIDDEN = "hidden"  # not shown to tenants


RULE = "x-hansa-rule"
UNSEEN = "x-hansa-unseen"


@dataclass(frozen=True, slots=True)
class RefTo:
    """Marks a string field as a reference.

    `holds`: the target may not be deleted while this object is there. `free`: the target may be created
    later. `kinds`: what it may point at.
    """

    kinds: tuple[str, ...]
    holds: bool = True
    free: bool = False


def refers(*kinds: str, holds: bool = True, free: bool = False) -> RefTo:
    return RefTo(kinds, holds, free)


def _ruled(rule: Rule, default: Any, more: dict[str, Any]) -> Any:
    return Field(default, json_schema_extra={RULE: rule.value}, **more)


def fixed(default: Any = ..., **more: Any) -> Any:
    """May never change: 422 `ImmutableField`."""
    return _ruled(Rule.FIXED, default, more)


def stopped(default: Any = ..., **more: Any) -> Any:
    """May change only while the object is stopped: 422."""
    return _ruled(Rule.STOPPED, default, more)


def grows(default: Any = ..., **more: Any) -> Any:
    """May grow, never shrink. The field's type has `size_bytes`."""
    return _ruled(Rule.GROWS, default, more)


def echoed(default: Any, **more: Any) -> Any:
    """A default that clients expect to find in the spec they read back."""
    return _ruled(Rule.ECHOED, default, more)


def secret(default: Any = None, *, shown: bool = True, **more: Any) -> Any:
    """Kept sealed apart from the object; never changes after creation. Not `shown`: nobody ever reads it back."""
    return Field(default, json_schema_extra={RULE: Rule.SECRET.value, UNSEEN: not shown}, **more)


def hidden(default: Any = None, **more: Any) -> Any:
    """For operators: stripped from what tenants see."""
    return _ruled(Rule.HIDDEN, default, more)


def rule_of(info: FieldInfo) -> Rule | None:
    extra = info.json_schema_extra
    return Rule(cast(str, extra[RULE])) if isinstance(extra, dict) and RULE in extra else None


def _unseen(info: FieldInfo) -> bool:
    extra = info.json_schema_extra
    return isinstance(extra, dict) and bool(extra.get(UNSEEN))


@dataclass(frozen=True, slots=True)
class FieldRule:
    """One ruled field of a type: its wire path (`("networking", "stackType")`) and its rule."""

    path: tuple[str, ...]
    rule: Rule
    default: Any
    unseen: bool = False  # a secret that is never shown again


@cache
def ruled_fields(model: type[BaseModel]) -> tuple[FieldRule, ...]:
    """Every field with a rule, nested models included (lists are left whole). A default is not to be changed."""
    return tuple(_walk(model, ()))


def _walk(model: type[BaseModel], at: tuple[str, ...]) -> Iterator[FieldRule]:
    for name, info in model.model_fields.items():
        path = (*at, info.alias or name)
        if (rule := rule_of(info)) is not None:
            yield FieldRule(path, rule, info.get_default(call_default_factory=True), _unseen(info))
        if (inner := model_in(info.annotation)) is not None:
            yield from _walk(inner, path)


def model_in(annotation: Any) -> type[BaseModel] | None:
    """The model that an annotation holds directly: `M` or `M | None`."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


@dataclass(frozen=True, slots=True)
class FoundRef:
    """A reference found in a document: where, to what it may point, and its text as sent."""

    path: str
    to: RefTo
    text: str


def references(value: Any, at: str = "spec") -> Iterator[FoundRef]:
    """All references in a typed spec, by walking its fields."""
    if isinstance(value, BaseModel):
        for name, wire, mark in _marks(type(value)):
            inner = getattr(value, name)
            path = f"{at}.{wire}"
            if mark is not None:
                yield from _marked(inner, mark, path)
            else:
                yield from references(inner, path)
    elif isinstance(value, (list, tuple)):
        for i, inner in enumerate(value):
            yield from references(inner, f"{at}[{i}]")


@cache
def _marks(model: type[BaseModel]) -> tuple[tuple[str, str, RefTo | None], ...]:
    """Its fields: name, name on the wire, and to what the field refers if it does."""
    return tuple(
        (name, info.alias or name,
         next((m for m in info.metadata if isinstance(m, RefTo)), None) or _mark_in(info.annotation))
        for name, info in model.model_fields.items()
    )  # fmt: skip


def _mark_in(annotation: Any) -> RefTo | None:
    """A RefTo inside `list[Annotated[str, RefTo]]` or `Annotated[...] | None`."""
    for part in get_args(annotation):
        if isinstance(part, RefTo):
            return part
        if (found := _mark_in(part)) is not None:
            return found
    return None


def _marked(value: Any, mark: RefTo, path: str) -> Iterator[FoundRef]:
    if isinstance(value, str):
        yield FoundRef(path, mark, value)
    elif isinstance(value, (list, tuple)):
        for i, text in enumerate(value):
            yield FoundRef(f"{path}[{i}]", mark, text)
