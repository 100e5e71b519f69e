"""What stands behind the `?` of a URL, read: names once, numbers whole, switches true or false. Pure.

A number is ASCII digits, at most 18 of them: what `str.isdigit` takes beyond (`²`, `٣`) is no number to
`int`, or another one than it seems, and more digits do not fit into a column of the store.
"""

from __future__ import annotations

from urllib.parse import parse_qsl

from hansa.errors import Invalid
from hansa.units import LIST_LIMIT_MAX

Query = dict[str, str]
FIELDS_MAX = 32
DIGITS_MAX = 18
SHOWN = 40  # characters of a wrong value that an error repeats


def query_of(raw: bytes) -> Query:
    """The fields of a query string; of those that stand there twice, the last. Raises Invalid."""
    if not raw:
        return {}
    try:
        return dict(parse_qsl(raw.decode(), keep_blank_values=True, max_num_fields=FIELDS_MAX))
    except ValueError as error:
        raise Invalid(f"the query string cannot be read: {error}") from error


def flag(query: Query, name: str) -> bool:
    value = query.get(name)
    if value is None or value == "false":
        return False
    if value in ("true", "", "All"):
        return True
    raise Invalid.field(name, f"must be true or false (given: {value[:SHOWN]!r})")


def whole(query: Query, name: str) -> int | None:
    """A field as a whole number, None when it is not there. Raises Invalid."""
    text = query.get(name)
    return None if text is None else as_whole(text, name)


def whole_or(query: Query, name: str, default: int) -> int:
    """A field as a whole number, `default` when it is not there. Raises Invalid."""
    return default if (found := whole(query, name)) is None else found


def as_whole(text: object, path: str) -> int:
    """The number that a text writes in at most 18 digits. Raises Invalid naming `path`."""
    if not isinstance(text, str) or not is_digits(text):
        shown = repr(text)
        raise Invalid.field(path, f"must be a whole number of at most {DIGITS_MAX} digits (given: {shown[:SHOWN]})")
    return int(text)


def check_limit(limit: int) -> None:
    """Raises Invalid for a page that is empty or larger than we give out."""
    if not 0 < limit <= LIST_LIMIT_MAX:
        raise Invalid.field("limit", f"must be from 1 to {LIST_LIMIT_MAX}")


def is_digits(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= DIGITS_MAX
