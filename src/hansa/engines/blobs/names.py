"""Ids of blobs: 32 hex digits that we make. Nothing that a user says ever becomes a path or a key in a store."""

from __future__ import annotations

import re

from hansa.errors import Bug

_ID = re.compile(r"[0-9a-f]{32}")


def is_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


def checked(id: str) -> str:
    """Raises Bug: whoever makes ids made another thing."""
    if not is_id(id):
        raise Bug("this is no blob's id", detail=id[:64])
    return id
