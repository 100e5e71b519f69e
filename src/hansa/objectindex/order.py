"""Keys in their order, and pages of them: bytes of UTF-8, compared byte by byte. Pure but for the fetching.

A page is filled from batches of rows in key order. What a common prefix hides is not walked over: the next batch begins
behind all that it could hide. Batches grow while every row of them counts, and shrink when most of one was hidden.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

Row = Sequence[Any]  # its first column is the key
BATCH_MAX: Final = 1001
BATCH_FIRST: Final = 64  # where a delimiter may hide most of it
END: Final = b"\xff"  # no key begins with it: UTF-8 has no such byte

# (first key that may come, row to go on behind or None, how many) -> rows in order
Fetch = Callable[[bytes, Row | None, int], Awaitable[Sequence[Row]]]


def encoded(key: str) -> bytes:
    return key.encode()


def successor(prefix: bytes) -> bytes:
    """The least bytes behind everything that begins with `prefix`."""
    return prefix[:-1] + bytes((prefix[-1] + 1,)) if prefix else END


def next_key(key: bytes) -> bytes:
    """The least bytes behind `key` alone."""
    return key + b"\0"


def common_prefix(key: bytes, prefix: bytes, delimiter: bytes) -> bytes:
    """What `key` is rolled up into: all up to the first delimiter behind the prefix; empty when there is none."""
    if not delimiter:
        return b""
    at = key.find(delimiter, len(prefix))
    return key[: at + len(delimiter)] if at >= 0 else b""


def first_key(after: bytes, prefix: bytes, delimiter: bytes) -> bytes:
    """Where a listing begins that is to come after `after`: behind all that it hides when it is a common prefix."""
    if after < prefix:
        return prefix
    hides = after.startswith(prefix) and common_prefix(after, prefix, delimiter) == after != b""
    return successor(after) if hides else next_key(after) if after else prefix


@dataclass(slots=True)
class Found:
    """One page: rows that are shown, prefixes that stand for others, the last of both, and whether more follows."""

    rows: list[Row] = field(default_factory=list)
    prefixes: list[str] = field(default_factory=list)
    last: bytes = b""
    last_row: Row | None = None  # None when the last entry is a prefix
    truncated: bool = False

    def __len__(self) -> int:
        return len(self.rows) + len(self.prefixes)


async def page(
    fetch: Fetch, low: bytes, behind: Row | None, *, prefix: bytes, delimiter: bytes, limit: int, batch_min: int
) -> Found:
    """At most `limit` entries from `low` on, or behind the row `behind`."""
    found = Found()
    if limit > 0 and not delimiter:
        return _all_shown(await fetch(low, behind, limit + 1), limit)
    count = max(batch_min, min(limit + 1, BATCH_FIRST))
    while limit > 0:
        batch = await fetch(low, behind, count)
        hidden = _take(found, batch, prefix, delimiter, limit)
        if found.truncated or len(batch) < count:
            break
        if hidden:
            low, behind, count = hidden, None, max(batch_min, count // 2)
        else:
            behind, count = batch[-1], max(batch_min, min(count * 2, limit + 1 - len(found), BATCH_MAX))
    return found


def _all_shown(rows: Sequence[Row], limit: int) -> Found:
    """A page on which every row is an entry."""
    last = rows[:limit][-1] if rows else None
    return Found(list(rows[:limit]), [], b"" if last is None else last[0], last, len(rows) > limit)


def rolled(rows: Sequence[Row], limit: int) -> Found:
    """A page of entries that a database rolled up: those without an order (the second column) are common prefixes."""
    found = Found(truncated=len(rows) > limit)
    for row in rows[:limit]:
        found.last, found.last_row = row[0], row if row[1] is not None else None
        if row[1] is None:
            found.prefixes.append(row[0].decode())
        else:
            found.rows.append(row)
    return found


def _take(found: Found, batch: Sequence[Row], prefix: bytes, delimiter: bytes, limit: int) -> bytes:
    """Puts a batch on the page. The end of what the last common prefix hides, when the batch ends inside of that."""
    hidden = b""
    for row in batch:
        key = row[0]
        if key < hidden:
            continue
        if len(found) == limit:
            found.truncated = True
            return b""
        rolled = common_prefix(key, prefix, delimiter)
        if rolled:
            found.prefixes.append(rolled.decode())
            found.last, found.last_row, hidden = rolled, None, successor(rolled)
        else:
            found.rows.append(row)
            found.last, found.last_row, hidden = key, row, b""
    return hidden
