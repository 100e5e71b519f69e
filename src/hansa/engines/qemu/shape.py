"""Flat dataclasses as documents: pure. What another version wrote in another shape is nothing known, never a crash."""

from __future__ import annotations

from dataclasses import fields, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    T = TypeVar("T", bound=DataclassInstance)
else:
    T = TypeVar("T")


def shaped(document: dict[str, Any] | None, example: T) -> T | None:
    """`example` with the values of `document`. None when there is none, or a value has another type.

    Words that `example` does not know are passed over, and it keeps what the document does not say.
    """
    if document is None:
        return None
    words = {}
    for field in fields(example):
        if field.name in document:
            word = _read(document[field.name], getattr(example, field.name))
            if word is None:
                return None
            words[field.name] = word
    return replace(example, **words)


def _read(value: object, like: object) -> object | None:
    """`value` as the type of `like`, None when it is no such thing."""
    if isinstance(like, tuple):
        named = isinstance(value, list | tuple) and all(isinstance(word, str) for word in value)
        return tuple(value) if named and isinstance(value, list | tuple) else None
    if isinstance(like, StrEnum):
        return next((member for member in type(like) if member == value), None)
    if isinstance(like, float) and type(value) is int:
        return float(value)
    return value if type(value) is type(like) else None
