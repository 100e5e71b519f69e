"""XML in and out: what a stranger sends is read with limits, what we answer is put together as bytes.

Reading: no document type (so no entities), UTF-8 only, a limit on bytes, depth and elements. Namespaces are dropped: clients
send S3's own, an older one, or none. Writing: `element` nests bytes; only text is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from xml.etree import ElementTree

from hansa.gateways.s3.wire import dates
from hansa.gateways.s3.wire.errors import S3Error

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
BODY_BYTES_MAX = 1 << 20
DEPTH_MAX = 16
ELEMENTS_MAX = 100_000
VALUE_LENGTH_MAX = 1024
DECLARATION = b'<?xml version="1.0" encoding="UTF-8"?>\n'
_TYPE = "{http://www.w3.org/2001/XMLSchema-instance}type"
_SPECIAL = re.compile("[&<>\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff]")
_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


class Node:
    """One element that was read. Its readers raise MalformedXML, naming where (`Rule/Expiration/Days`) and the rule."""

    __slots__ = ("_element", "path")

    def __init__(self, element: ElementTree.Element, path: str) -> None:
        self._element = element
        self.path = path

    @property
    def name(self) -> str:
        return self._element.tag

    @property
    def text(self) -> str:
        """As sent, blanks and all: a key may begin with one."""
        return self._element.text or ""

    @property
    def word(self) -> str:
        return self.text.strip()

    @property
    def type(self) -> str:
        """The attribute xsi:type, without a prefix."""
        return self._element.get(_TYPE, "").rpartition(":")[2]

    def __bool__(self) -> bool:
        return True

    def __len__(self) -> int:
        return len(self._element)

    def only(self, *names: str) -> Node:
        """Raises for a child of another name: a rule that we do not know must not be passed over in silence."""
        for child in self._element:
            if child.tag not in names:
                raise malformed(f"{self.path}/{child.tag[:64]}", "is not known here")
        return self

    def fields(self) -> dict[str, str]:
        """The children's texts by name, for long lists of flat things. Raises for a name that comes twice."""
        found = {child.tag: child.text or "" for child in self._element}
        if len(found) != len(self._element):
            raise malformed(self.path, "may hold each element only once")
        return found

    def all(self, name: str, *, at_most: int = ELEMENTS_MAX) -> list[Node]:
        found = [Node(child, f"{self.path}/{name}") for child in self._element if child.tag == name]
        if len(found) > at_most:
            raise malformed(f"{self.path}/{name}", f"may come {at_most} times, not {len(found)}")
        return found

    def maybe(self, name: str) -> Node | None:
        found = self.all(name, at_most=1)
        return found[0] if found else None

    def one(self, name: str) -> Node:
        found = self.maybe(name)
        if found is None:
            raise malformed(f"{self.path}/{name}", "is missing")
        return found

    def value(self, name: str, default: str = "", *, at_most: int = VALUE_LENGTH_MAX) -> str:
        """The text of a child as sent; `default` where there is none."""
        found = self.maybe(name)
        if found is None:
            return default
        if len(found.text) > at_most:
            raise malformed(found.path, f"may have {at_most} characters")
        return found.text

    def choice(self, name: str, *allowed: str, default: str | None = None) -> str:
        found = self.maybe(name)
        if found is None and default is not None:
            return default
        word = self.one(name).word
        if word not in allowed:
            raise malformed(f"{self.path}/{name}", f"must be one of {', '.join(allowed)}")
        return word

    def whole(self, name: str) -> int | None:
        """A whole number, possibly negative: what is allowed is for the caller to say. None where there is none."""
        found = self.maybe(name)
        if found is None:
            return None
        if not re.fullmatch(r"-?[0-9]{1,18}", found.word):
            raise malformed(found.path, "must be a whole number")
        return int(found.word)

    def flag(self, name: str, default: bool = False) -> bool:
        found = self.maybe(name)
        if found is None:
            return default
        word = found.word.lower()
        if word not in ("true", "false"):
            raise malformed(found.path, "must be true or false")
        return word == "true"

    def moment(self, name: str) -> float | None:
        """Epoch seconds."""
        found = self.maybe(name)
        if found is None:
            return None
        at = dates.read_iso_date(found.word)
        if at is None:
            raise malformed(found.path, "must be a date in the form 2026-11-26T00:00:00Z")
        return at


def malformed(path: str, rule: str) -> S3Error:
    return S3Error.of("MalformedXML", f"{path}: {rule}.")


def read(body: bytes, *roots: str, bytes_max: int = BODY_BYTES_MAX) -> Node:
    """The root element, which must have one of the names. Raises MalformedXML, MissingRequestBodyError."""
    if len(body) > bytes_max:
        raise S3Error.of("MaxMessageLengthExceeded", f"The body may have {bytes_max} bytes.")
    if not body.strip():
        raise S3Error.of("MissingRequestBodyError")
    if b"\0" in body:  # UTF-16, which the parser would find out by itself
        raise S3Error.of("MalformedXML", "The body is not in UTF-8.")
    if b"<!DOCTYPE" in body:  # with it go entities; no other encoding than UTF-8 is read, so this finds each one
        raise S3Error.of("MalformedXML", "A document type is not allowed.")
    if body.count(b"<") > 2 * ELEMENTS_MAX + 2:  # before the tree is built, which takes forty times the bytes
        raise _too_many()
    parser = ElementTree.XMLParser(encoding="utf-8")  # noqa: S314 - no document type, limits on all else
    try:
        parser.feed(body.decode())
        root = parser.close()
    except (ElementTree.ParseError, ValueError) as error:
        raise S3Error.of("MalformedXML", "The body is no well-formed XML.") from error
    _bare(root)
    if root.tag not in roots:
        raise malformed(root.tag[:64], f"the root must be {' or '.join(roots)}")
    return Node(root, root.tag)


def _bare(root: ElementTree.Element) -> None:
    """Takes the namespaces out of the names. Raises for a tree that is too deep or too large."""
    level, count = [root], 0
    for _ in range(DEPTH_MAX):
        count += len(level)
        if count > ELEMENTS_MAX:
            raise _too_many()
        below: list[ElementTree.Element] = []
        for found in level:
            if found.tag[0] == "{":
                found.tag = found.tag.rpartition("}")[2]
            below.extend(found)
        level = below
        if not level:
            return
    raise S3Error.of("MalformedXML", f"The body may be {DEPTH_MAX} elements deep.")


def _too_many() -> S3Error:
    return S3Error.of("MalformedXML", f"The body may have {ELEMENTS_MAX} elements.")


# -- writing ------------------------------------------------------------------------------------


def element(name: str, *content: str | bytes | int | None) -> bytes:
    """`<name>…</name>`. Bytes are XML already, text and numbers are written out, None is nothing."""
    if not content:
        return f"<{name}/>".encode()
    return b"".join((f"<{name}>".encode(), *map(_content, content), f"</{name}>".encode()))


def maybe(name: str, value: str | int | None) -> bytes:
    """The element, or nothing where the value is None or an empty text."""
    return b"" if value is None or value == "" else element(name, value)


def flag(name: str, value: bool) -> bytes:
    return element(name, "true" if value else "false")


def moment(name: str, at: float) -> bytes:
    return element(name, dates.iso_date(at))


def joined(parts: Iterable[bytes]) -> bytes:
    return b"".join(parts)


def document(name: str, *content: str | bytes | int | None, namespace: bool = True) -> bytes:
    """A whole body. Everything but an error carries S3's namespace."""
    opening = f'<{name} xmlns="{NAMESPACE}">' if namespace else f"<{name}>"
    return b"".join((DECLARATION, opening.encode(), *map(_content, content), f"</{name}>".encode()))


def error_document(error: S3Error, *, resource: str = "", request_id: str = "", host_id: str = "") -> bytes:
    """The body of a refusal; `error.extras` stand between the message and the resource."""
    told: Mapping[str, str] = {"Resource": resource} | error.extras | {"RequestId": request_id, "HostId": host_id}
    fields = (maybe(name, value) for name, value in told.items())
    return document("Error", element("Code", error.code), element("Message", error.message), *fields, namespace=False)


def escape(text: str) -> bytes:
    """Text for an element. Characters that XML 1.0 cannot carry become references to their number, as in S3: whoever
    has such keys asks for `encoding-type=url`."""
    return escaped(text).encode(errors="replace")


def escaped(text: str) -> str:
    """The same before it is encoded."""
    return text if _SPECIAL.search(text) is None else _SPECIAL.sub(_reference, text)


def carries(text: str) -> bool:
    """Whether XML 1.0 can carry every character as it is."""
    return all(found in _ESCAPES for found in _SPECIAL.findall(text))


def _reference(found: re.Match[str]) -> str:
    return _ESCAPES.get(found[0]) or f"&#{ord(found[0])};"


def _content(part: str | bytes | int | None) -> bytes:
    if isinstance(part, bytes):
        return part
    if part is None:
        return b""
    return escape(part) if isinstance(part, str) else str(part).encode()
