"""Answers before they are sent: a status, headers, and bytes or a stream of bytes.

Headers are pairs of bytes, as ASGI takes them. A stream's first piece is fetched before the head is sent, so that what
goes wrong at the beginning is still an error with a status, and head and first bytes leave together.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

Headers = list[tuple[bytes, bytes]]
XML = (b"content-type", b"application/xml")
_NO_NAME = re.compile(rb"[^!#$%&'*+.^_`|~0-9a-z-]")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


@dataclass(slots=True)
class Answer:
    """`body` bytes are sent whole; where there is a stream they are its first. With those it must have as many bytes as
    `length` says; None: it is sent in chunks. `close`: the connection ends with it.
    """

    status: int = 200
    headers: Headers = field(default_factory=list)
    body: bytes | memoryview = b""
    stream: AsyncIterator[bytes | memoryview] | None = None
    length: int | None = None
    close: bool = False

    def add(self, name: str, value: str) -> Answer:
        self.headers.append((name_bytes(name), header_bytes(value)))
        return self

    def extend(self, headers: Mapping[str, str] | Iterable[tuple[str, str]]) -> Answer:
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        self.headers += [(name_bytes(name), header_bytes(value)) for name, value in pairs]
        return self


@lru_cache(maxsize=4096)
def name_bytes(name: str) -> bytes:
    """In lower case; what no name may have (metadata of a form is named by its client) becomes an underscore."""
    return _NO_NAME.sub(b"_", name.lower().encode())


def header_bytes(value: str) -> bytes:
    """Latin-1, else UTF-8; what no header may carry (line breaks out of a query, say) becomes a blank."""
    if value.isascii() and value.isprintable():
        return value.encode()
    try:
        raw = value.encode("latin-1")
    except UnicodeEncodeError:
        raw = value.encode()
    return _CONTROL.sub(b" ", raw) if _CONTROL.search(raw) else raw


def xml(body: bytes, status: int = 200) -> Answer:
    return Answer(status, [XML], body)


def empty(status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    answer = Answer(status)
    return answer.extend(headers) if headers else answer
