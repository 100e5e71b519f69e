"""Paths and queries between bytes on the wire and text: decoded exactly once, encoded the one way that S3 signs.

A key is any text: `a//b`, `../x` and a trailing slash are keys like others, so nothing is ever normalised. `+` is a
plus in a path and a blank in a query.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from hansa.gateways.s3.wire.errors import S3Error

QUERY_FIELDS_MAX = 128
_PLAIN = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
_PLAIN_PATH = _PLAIN + b"/"
_RESERVED = re.compile(rb"[^A-Za-z0-9\-._~]")
_RESERVED_PATH = re.compile(rb"[^A-Za-z0-9\-._~/]")
_BYTES = tuple(b"%%%02X" % value for value in range(256))
_HEX = "0123456789ABCDEFabcdef"
_UNESCAPED = {(high + low).encode(): bytes((int(high + low, 16),)) for high in _HEX for low in _HEX}
_OF_QUERY = _PLAIN + b"=&%"
_DUE = frozenset(
    b"%02X" % value for value in range(256) if value not in _PLAIN
)  # escapes that a signature is made over

Query = tuple[tuple[str, str], ...]  # in the order sent; a name without a value has an empty one


def decode(raw: bytes, *, blank_plus: bool = False) -> str:
    """The text behind percent-escapes. Raises InvalidURI for a broken escape or what is no UTF-8."""
    if blank_plus:
        raw = raw.replace(b"+", b" ")
    if b"%" in raw:
        raw = _unescaped(raw)
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise S3Error.of("InvalidURI", "The address is no UTF-8 once its escapes are undone.") from error


def encode(text: str) -> bytes:
    """Every byte but letters, digits and `-._~` as `%XX`: one field of a query."""
    raw = text.encode()
    return _RESERVED.sub(_escaped, raw) if raw.translate(None, _PLAIN) else raw


def encode_path(text: str) -> bytes:
    """The same for a path, whose slashes stay."""
    raw = text.encode()
    return _RESERVED_PATH.sub(_escaped, raw) if raw.translate(None, _PLAIN_PATH) else raw


def read_query(raw: bytes) -> Query:
    """Fields of a query string, decoded. Raises InvalidURI, also for more than QUERY_FIELDS_MAX fields."""
    if not raw:
        return ()
    if raw.count(b"&") >= QUERY_FIELDS_MAX:
        raise S3Error.of("InvalidURI", f"The query has more than {QUERY_FIELDS_MAX} fields.")
    if b"+" in raw or not raw.isascii():
        return tuple([_field(field) for field in raw.split(b"&") if field])
    pairs = [field.partition("=") for field in raw.decode().split("&") if field]
    if b"%" not in raw:  # as it is written is what it says
        return tuple([(name, value) for name, _, value in pairs])
    return tuple([(_text(name), _text(value)) for name, _, value in pairs])


def write_query(query: Iterable[tuple[str, str]]) -> bytes:
    """Fields sorted by encoded name, then value, each `name=value`: the canonical form, valid on the wire too."""
    return b"&".join([name + b"=" + value for name, value in sorted([(encode(n), encode(v)) for n, v in query])])


def canonical_query(raw: bytes, without: bytes | None = None) -> bytes:
    """What `write_query` makes of a query string's fields but those called `without`, a plain word.

    Most strings are in the very form already, each byte escaped that has to be and no other: then only the order is ours.
    Raises as `read_query`.
    """
    fields = [field.partition(b"=") for field in raw.split(b"&") if field]
    if not _is_encoded(raw) or b"=" in b"".join([value for _, _, value in fields]):
        plain = None if without is None else without.decode()
        return write_query([pair for pair in read_query(raw) if pair[0] != plain])
    fields.sort()
    return b"&".join([name + b"=" + value for name, _, value in fields if name != without])


def _is_encoded(raw: bytes) -> bool:
    if raw.translate(None, _OF_QUERY):
        return False
    return b"%" not in raw or _DUE.issuperset([part[:2] for part in raw.split(b"%")[1:]])


def single(query: Query) -> dict[str, str]:
    """Value by name. Raises InvalidArgument for a name that comes twice: two readers could take two values."""
    values = dict(query)
    if len(values) != len(query):
        names = [name for name, _ in query]
        twice = next(name for name in names if names.count(name) > 1)
        raise S3Error.argument(twice[:64], "", "the parameter may be given only once")
    return values


def _field(raw: bytes) -> tuple[str, str]:
    name, _, value = raw.partition(b"=")
    return decode(name, blank_plus=True), decode(value, blank_plus=True)


def _text(written: str) -> str:
    return decode(written.encode()) if "%" in written else written


def _unescaped(raw: bytes) -> bytes:
    first, *others = raw.split(b"%")
    try:
        return first + b"".join([_UNESCAPED[other[:2]] + other[2:] for other in others])
    except KeyError as error:
        raise S3Error.of("InvalidURI", "A % in the address must be followed by two hexadecimal digits.") from error


def _escaped(found: re.Match[bytes]) -> bytes:
    return _BYTES[found[0][0]]
