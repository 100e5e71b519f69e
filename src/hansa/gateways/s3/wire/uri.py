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
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})?")
_RESERVED = re.compile(rb"[^A-Za-z0-9\-._~]")
_RESERVED_PATH = re.compile(rb"[^A-Za-z0-9\-._~/]")
_BYTES = tuple(b"%%%02X" % value for value in range(256))

Query = tuple[tuple[str, str], ...]  # in the order sent; a name without a value has an empty one


def decode(raw: bytes, *, blank_plus: bool = False) -> str:
    """The text behind percent-escapes. Raises InvalidURI for a broken escape or what is no UTF-8."""
    if blank_plus:
        raw = raw.replace(b"+", b" ")
    if b"%" in raw:
        raw = _ESCAPE.sub(_unescaped, raw)
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
    fields = raw.split(b"&", QUERY_FIELDS_MAX)
    if len(fields) > QUERY_FIELDS_MAX:
        raise S3Error.of("InvalidURI", f"The query has more than {QUERY_FIELDS_MAX} fields.")
    return tuple(_field(field) for field in fields if field)


def write_query(query: Iterable[tuple[str, str]]) -> bytes:
    """Fields sorted by encoded name, then value, each `name=value`: the canonical form, valid on the wire too."""
    return b"&".join(sorted_fields(query))


def sorted_fields(query: Iterable[tuple[str, str]]) -> list[bytes]:
    return [name + b"=" + value for name, value in sorted((encode(name), encode(value)) for name, value in query)]


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
    if raw.isascii() and b"%" not in raw and b"+" not in raw:  # as it is written is what it says: most fields
        return name.decode(), value.decode()
    return decode(name, blank_plus=True), decode(value, blank_plus=True)


def _unescaped(found: re.Match[bytes]) -> bytes:
    digits = found[1]
    if digits is None:
        raise S3Error.of("InvalidURI", "A % in the address must be followed by two hexadecimal digits.")
    return bytes((int(digits, 16),))


def _escaped(found: re.Match[bytes]) -> bytes:
    return _BYTES[found[0][0]]
