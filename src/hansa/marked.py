"""YAML read with the place of every value, so that a mistake can be told by line and column. Pure.

Plain scalars follow the core schema of YAML 1.2: `NO` is text and not a truth value, `010` is ten, a date is
text. A number with a point is a Decimal, never a float. Anchors, aliases and tags are refused: each line of a
file is what it says, and nothing in it can multiply. A name that stands twice in one mapping is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import yaml

from hansa.errors import FieldError, Invalid

BYTES_MAX = 4 << 20
DEPTH_MAX = 16
VALUES_MAX = 200_000
MISTAKES_MAX = 100
SHOWN_MAX = 20
DIGITS_MAX = 30

Path = tuple[str | int, ...]

_INT = re.compile(r"[-+]?[0-9]+")
_DECIMAL = re.compile(r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]{1,2})?|[-+]?[0-9]+[eE][-+]?[0-9]{1,2}")
_WORDS = {"": None, "~": None, "null": None, "Null": None, "NULL": None, "true": True, "True": True, "TRUE": True,
          "false": False, "False": False, "FALSE": False}  # fmt: skip
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Line and column, both counted from 1."""

    line: int = 1
    column: int = 1


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake in a file: the field by its path, the rule that it breaks, where it stands."""

    path: str
    message: str
    place: Place = Place()

    def wire(self) -> dict[str, Any]:
        return {"line": self.place.line, "column": self.place.column, "field": self.path, "message": self.message}


class InvalidFile(Invalid):
    """A file with mistakes in it, all of them (up to a limit) with their places."""

    def __init__(self, name: str, mistakes: Iterable[Mistake]) -> None:
        found = sorted(mistakes, key=lambda m: (m.place, m.path))
        self.name, self.count, self.mistakes = name, len(found), tuple(found[:MISTAKES_MAX])
        shown = [f"{name}:{m.place.line}:{m.place.column}: {m.path}: {m.message}" for m in found[:SHOWN_MAX]]
        if len(found) > len(shown):
            shown.append(f"and {len(found) - len(shown)} more")
        fields = tuple(FieldError(m.path, m.message) for m in found[:SHOWN_MAX])
        super().__init__("\n  ".join([f"{name} is not a good file", *shown]), fields=fields)


@dataclass(slots=True)
class Marked:
    """What stands in a file, and where. A member of a mapping stands where its name does."""

    value: Any = None
    places: dict[Path, Place] = field(default_factory=dict)

    def place(self, path: Path) -> Place:
        """Where a value stands; of one that is missing, where it should."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, Place())


def dotted(path: Path) -> str:
    """`regions[0].zones[1].letter`; a name with other signs in it in quotes: `shapes["a.b"]`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif re.fullmatch(r"[A-Za-z_][\w-]*", part):
            text += f".{part[:60]}"
        else:
            text += f'["{part[:60]}"]'
    return text.removeprefix(".") or "file"


def read_marked(raw: bytes, name: str) -> Marked:
    """The document of a file. Raises InvalidFile."""
    if len(raw) > BYTES_MAX:
        raise InvalidFile(name, [Mistake("file", f"has {len(raw)} bytes; at most {BYTES_MAX} are read")])
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        at = Place(raw.count(b"\n", 0, error.start) + 1, error.start - raw.rfind(b"\n", 0, error.start))
        raise InvalidFile(name, [Mistake("file", "is no UTF-8 text", at)]) from error
    reader = _Reader(name)
    try:
        reader.events = yaml.parse(text, Loader=_LOADER)
        return reader.document()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        at = _at(mark) if mark is not None else _sign(text, getattr(error, "position", 0))
        said = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be read"
        raise InvalidFile(name, [Mistake("file", f"is no YAML: {said}", at)]) from error


def _sign(text: str, position: int) -> Place:
    return Place(text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position))


def _at(mark: Any) -> Place:
    return Place(mark.line + 1, mark.column + 1)


class _Reader:
    """Builds the document from the parser's events, which come flat: the depth is ours to bound."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.events: Iterator[Any] = iter(())
        self.marked = Marked()
        self.twice: list[Mistake] = []
        self.values = 0

    def document(self) -> Marked:
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                break
        else:
            raise InvalidFile(self.name, [Mistake("file", "is empty")])
        self.marked.value = self._value(next(self.events), ())
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                raise self._refused((), "holds a second document", event)
        if self.twice:
            raise InvalidFile(self.name, self.twice)
        return self.marked

    def _refused(self, path: Path, message: str, event: Any) -> InvalidFile:
        return InvalidFile(self.name, [Mistake(dotted(path), message, _at(event.start_mark))])

    def _value(self, event: Any, path: Path) -> Any:
        self.values += 1
        self.marked.places.setdefault(path, _at(event.start_mark))
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise self._refused(path, "anchors and aliases are not read: write it out, or name a shape", event)
        if event.tag is not None:
            raise self._refused(path, "tags are not read", event)
        if len(path) > DEPTH_MAX:
            raise self._refused(path, f"is nested deeper than {DEPTH_MAX} levels", event)
        if self.values > VALUES_MAX:
            raise self._refused(path, f"the file holds more than {VALUES_MAX} values: count alike ones", event)
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(path)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(path)
        return self._scalar(event, path)

    def _mapping(self, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for event in self.events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            if not isinstance(event, yaml.ScalarEvent) or event.anchor is not None or event.tag is not None:
                raise self._refused(path, "a name must be plain text", event)
            inner = (*path, event.value)
            if event.value in found:
                first = self.marked.place(inner).line
                self.twice.append(Mistake(dotted(inner), f"stands twice, first on line {first}", _at(event.start_mark)))
            self.marked.places.setdefault(inner, _at(event.start_mark))
            found[event.value] = self._value(next(self.events), inner)
        return found

    def _sequence(self, path: Path) -> list[Any]:
        found: list[Any] = []
        for event in self.events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            found.append(self._value(event, (*path, len(found))))
        return found

    def _scalar(self, event: Any, path: Path) -> Any:
        text: str = event.value
        if not event.implicit[0]:  # in quotes, or a block
            return text
        if text in _WORDS:
            return _WORDS[text]
        number = int if _INT.fullmatch(text) else Decimal if _DECIMAL.fullmatch(text) else None
        if number is None:
            return text
        if len(text) > DIGITS_MAX:
            raise self._refused(path, f"is a number of more than {DIGITS_MAX} digits", event)
        return number(text)
