"""Patterns in which `*` stands for any run of characters and `?` for exactly one.

Tenants write them and strangers make them run, so there is no backtracking: a pattern is cut at its stars, the first
piece must open the text, the last must close it, and each one between is taken where it is first found. That is never
worse than the length of the text times the length of the pattern, and all of it runs in C.

`${aws:userid}` and the like stand for a value of the request; the value counts letter for letter, its stars included.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

Finder = Callable[[str, int], tuple[int, int]]  # from where in a text -> begin and end of the piece, (-1, -1) for none

_TOKENS = re.compile(r"\$\{[^{}]*\}|[*?]", re.ASCII)
_ESCAPES = {"${*}": "*", "${?}": "?", "${$}": "$"}
_NOWHERE = (-1, -1)


@dataclass(frozen=True)
class Glob:
    """`variables`: read `${…}` as a value of the request."""

    text: str
    variables: bool = False
    folded: bool = False  # upper and lower case are one

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The variables in it, in lower case."""
        if not self.variables:
            return ()
        found = (token for token in _TOKENS.findall(self.text) if token.startswith("${") and token not in _ESCAPES)
        return tuple(token[2:-1].lower() for token in found)

    @property
    def is_costly(self) -> bool:
        """Is an expression compiled of it for each request, as long as what the request says?"""
        return bool(self.names) and "?" in self._raw

    def matches(self, text: str, values: Mapping[str, str] | None = None) -> bool:
        """`values`: of the variables, by name in lower case. With one of them missing nothing matches."""
        if self.names:
            if values is None or any(name not in values for name in self.names):
                return False
            return _Pieces(self._tokens(values), self.folded).match(text)
        return self._pieces.match(text)

    def reaches(self, start: str) -> bool:
        """Could it match a text that begins with `start`? A variable may stand for anything."""
        alive, tokens = {0}, ["*" if token.startswith("${") else token for token in self._raw]
        for letter in start:
            alive = {after for at in _closed(alive, tokens) for after in _step(at, tokens, letter)}
        return bool(alive)

    @cached_property
    def _pieces(self) -> _Pieces:
        return _Pieces(self._tokens({}), self.folded)

    @cached_property
    def _raw(self) -> list[str]:
        """One character, `*`, `?` or a variable at a time; what is escaped comes as `\\` and the character."""
        found: list[str] = []
        last = 0
        for token in _TOKENS.finditer(self.text):
            if token[0].startswith("${") and not self.variables:
                continue
            found += self.text[last : token.start()]
            found.append("\\" + _ESCAPES[token[0]] if token[0] in _ESCAPES else token[0])
            last = token.end()
        return found + list(self.text[last:])

    def _tokens(self, values: Mapping[str, str]) -> list[str]:
        """The same with values in the place of variables, each in one piece behind a `\\`."""
        found = []
        for token in self._raw:
            if not token.startswith("${"):
                found.append(token)
            elif value := values[token[2:-1].lower()]:
                found.append("\\" + value)
        return found


class _Pieces:
    """A pattern cut at its stars, ready to run."""

    __slots__ = ("_folded", "_parts")

    def __init__(self, tokens: list[str], folded: bool) -> None:
        self._folded = folded
        parts: list[list[str]] = [[]]
        for token in tokens:
            if token == "*":
                parts.append([])
            else:
                parts[-1].append(token)
        self._parts = [_piece(part, folded) for part in parts]

    def match(self, text: str) -> bool:
        text = text.casefold() if self._folded else text
        first, *rest = self._parts
        begin, at = first.find(text, 0)
        if begin != 0:
            return False
        if not rest:
            return at == len(text)
        for piece in rest[:-1]:
            begin, at = piece.find(text, at)
            if begin < 0:
                return False
        last = rest[-1]
        begin, _ = last.find(text, max(at, len(text) - last.length))
        return begin == len(text) - last.length and begin >= at


class _Piece:
    """A run without a star: of fixed length, found by its letters or, with `?` in it, by a plain expression."""

    __slots__ = ("find", "length")

    def __init__(self, letters: str, expression: re.Pattern[str] | None, length: int) -> None:
        self.length = length
        self.find: Finder = _by_letters(letters) if expression is None else _by_expression(expression)


def _piece(tokens: list[str], folded: bool) -> _Piece:
    plain = [token if len(token) == 1 else token[1:] for token in tokens]
    letters = [text.casefold() for text in plain] if folded else plain
    if "?" not in tokens:
        joined = "".join(letters)
        return _Piece(joined, None, len(joined))
    wanted = (re.escape(letter) if token != "?" else "." for token, letter in zip(tokens, letters, strict=True))
    return _Piece("", re.compile("".join(wanted), re.DOTALL), sum(map(len, letters)))


def _by_letters(letters: str) -> Finder:
    def find(text: str, start: int) -> tuple[int, int]:
        at = text.find(letters, start)
        return (at, at + len(letters)) if at >= 0 else _NOWHERE

    return find


def _by_expression(expression: re.Pattern[str]) -> Finder:
    def find(text: str, start: int) -> tuple[int, int]:
        found = expression.search(text, start)
        return found.span() if found else _NOWHERE

    return find


def _closed(alive: set[int], tokens: list[str]) -> set[int]:
    """Where one can stand, stars that stand for nothing passed over."""
    closed, waiting = set(alive), list(alive)
    while waiting:
        at = waiting.pop()
        if at < len(tokens) and tokens[at] == "*" and at + 1 not in closed:
            closed.add(at + 1)
            waiting.append(at + 1)
    return closed


def _step(at: int, tokens: list[str], letter: str) -> tuple[int, ...]:
    if at >= len(tokens):
        return ()
    token = tokens[at]
    if token == "*":
        return (at,)
    return (at + 1,) if token == "?" or token[-1] == letter else ()
