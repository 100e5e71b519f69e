"""Tags of objects and buckets: how many, how long, made of what, in a header or in a body. Pure.

Tags are kept sorted by key: they are a map, and two ways to write the same one should look the same.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

from hansa.gateways.s3.wire.errors import S3Error
from hansa.gateways.s3.wire.uri import decode

OBJECT_TAGS_MAX = 10
BUCKET_TAGS_MAX = 50
KEY_MAX = 128  # characters
VALUE_MAX = 256
HEADER_MAX = 8192
_SIGNS = frozenset("+-=._:/@ ")

Tags = tuple[tuple[str, str], ...]


def object_tags(given: Iterable[tuple[str, str]]) -> Tags:
    """Tags of an object, from a body. Raises InvalidTag."""
    return _checked(given, OBJECT_TAGS_MAX)


def bucket_tags(given: Iterable[tuple[str, str]]) -> Tags:
    return _checked(given, BUCKET_TAGS_MAX)


def tags_in_header(text: str) -> Tags:
    """Tags of an object, from `x-amz-tagging: a=b&c=d`. Raises InvalidTag, InvalidArgument for what cannot be read."""
    if len(text) > HEADER_MAX:
        raise S3Error.argument("x-amz-tagging", "", f"takes at most {HEADER_MAX} characters")
    pairs = (field.partition("=") for field in text.split("&") if field)
    try:
        return object_tags([(_decoded(key), _decoded(value)) for key, _, value in pairs])
    except UnicodeEncodeError as error:
        raise S3Error.argument("x-amz-tagging", "", "must be encoded as a query of a URL is") from error


def _decoded(text: str) -> str:
    try:
        return decode(text.encode("ascii"), blank_plus=True)
    except S3Error as error:
        raise S3Error.argument("x-amz-tagging", text, "must be encoded as a query of a URL is") from error


def _checked(given: Iterable[tuple[str, str]], most: int) -> Tags:
    tags = tuple(sorted(given))
    if len(tags) > most:
        raise S3Error.of("InvalidTag", f"Tags: at most {most} are allowed, {len(tags)} were sent.")
    for key, value in tags:
        _check(key, value)
    _once(tags)
    return tags


def _check(key: str, value: str) -> None:
    if not 1 <= len(key) <= KEY_MAX:
        raise S3Error.of("InvalidTag", f"Tag.Key: takes 1 to {KEY_MAX} characters.", TagKey=key[:KEY_MAX])
    if len(value) > VALUE_MAX:
        raise S3Error.of("InvalidTag", f"Tag.Value: takes at most {VALUE_MAX} characters.", TagKey=key)
    if key.lower().startswith("aws:"):
        raise S3Error.of("InvalidTag", "Tag.Key: names that begin with aws: are reserved.", TagKey=key)
    for name, text in (("Key", key), ("Value", value)):
        if not all(_is_allowed(letter) for letter in text):
            rule = "takes letters, numbers, blanks and + - = . _ : / @"
            raise S3Error.of("InvalidTag", f"Tag.{name}: {rule}.", TagKey=key)


def _is_allowed(letter: str) -> bool:
    return letter in _SIGNS or unicodedata.category(letter)[0] in "LNZM" and letter not in "\u2028\u2029"


def _once(tags: Sequence[tuple[str, str]]) -> None:
    for (key, _), (next_key, _) in zip(tags, tags[1:], strict=False):
        if key == next_key:
            raise S3Error.of("InvalidTag", "Tag.Key: each key may be given only once.", TagKey=key)
