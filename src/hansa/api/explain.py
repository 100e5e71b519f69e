"""What a kind is, for people: its fields, their types in words, their rules, what can be asked of it. Pure."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from hansa.kinds import catalogue
from hansa.kinds.registry import all_kinds, all_unbuilt
from hansa.kinds.resource import AnyResource, Document
from hansa.kinds.rules import RefTo, rule_of

assert catalogue.MODULES  # the registry is whole

_WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false", Any: "anything"}


def explain_document() -> Document:
    """Every kind with its fields and their rules, and what is not built yet."""
    return {
        "items": [explain(kind) for kind in all_kinds() if kind.public],
        "notBuilt": [
            {
                "service": u.service,
                "version": u.version,
                "collection": u.collection,
                "scope": u.scope,
                "reason": u.reason,
            }
            for u in all_unbuilt()
        ],
    }


def explain(kind: type[AnyResource]) -> Document:
    return {
        "kind": kind.kind,
        "service": kind.service,
        "version": kind.version,
        "collection": kind.collection,
        "scope": kind.scope,
        "verbs": kind.verbs,
        "actions": list(kind.actions),
        "meters": [{"name": m.name, "unit": m.unit} for m in kind.meters],
        "description": inspect.cleandoc(kind.__doc__ or ""),
        "columns": [list(c) for c in kind.columns],
        "fields": list(_fields(kind.spec_type, "spec")),
    }


def _fields(model: type[BaseModel], at: str) -> Iterator[Document]:
    for name, info in model.model_fields.items():
        path = f"{at}.{info.alias or name}"
        rule = rule_of(info)
        yield {
            "path": path,
            "type": _type_of(info),
            "required": info.is_required(),
            "rule": rule.value if rule else "",
            "description": info.description or "",
        }
        for inner, many in _models_in(info.annotation):
            yield from _fields(inner, path + ("[]" if many else ""))


def _type_of(info: FieldInfo) -> str:
    mark = next((m for m in info.metadata if isinstance(m, RefTo)), None)
    return _reference(mark) if mark is not None else _type(info.annotation)


def _type(annotation: Any) -> str:
    """A type in words: `text`, `list of references to SecurityGroup`, `Ingress or Egress`."""
    inner = get_args(annotation)
    origin = get_origin(annotation)
    if origin is Annotated:
        mark = next((m for m in inner[1:] if isinstance(m, RefTo)), None)
        return _reference(mark) if mark is not None else _type(inner[0])
    if origin in (Union, types.UnionType):
        return " or ".join(_type(a) for a in inner if a is not types.NoneType)
    if origin is Literal:
        return " or ".join(str(a) for a in inner)
    if origin in (list, tuple):
        return "list of " + re.sub(r"^(object|reference|text)", r"\1s", _type(inner[0]))
    if origin is dict:
        return "map"
    return "object" if _is_model(annotation) else _WORDS.get(annotation, getattr(annotation, "__name__", "anything"))


def _reference(mark: RefTo) -> str:
    return "reference to " + " or ".join(mark.kinds)


def _models_in(annotation: Any, many: bool = False) -> Sequence[tuple[type[BaseModel], bool]]:
    """The models that an annotation holds, directly or in a list."""
    if _is_model(annotation):
        return [(annotation, many)]
    many = many or get_origin(annotation) in (list, tuple)
    return [found for inner in get_args(annotation) for found in _models_in(inner, many)]


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
