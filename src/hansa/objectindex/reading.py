"""One version, as it is asked for most often: its row, and the bytes that lie inline.

Bytes of a single piece come along with the row. What is asked for again is kept as it was read, and counts for as long as
the row still says the same, letter for letter: an object of thousands of parts has facts of megabytes, and its clients ask
for range after range of it. And while nobody writes to its key, the row is not asked for either.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson

from hansa.errors import Retry
from hansa.objectindex import documents
from hansa.objectindex import statements as sql
from hansa.objectindex.order import Row, encoded
from hansa.objectindex.records import Facts, Version
from hansa.store.locks import number

KEPT: Final = 4096
KEPT_BYTES: Final = 32 << 20  # of facts as they are written down, and of bytes inline
LOOKS: Final = 3  # at an object that is written while it is read

Ask = Callable[..., Awaitable[Sequence[Row]]]


Name = tuple[str, str, str]  # bucket, key, id of a version; no id: the latest


@dataclass(slots=True)
class _Kept:
    """A row as it was read last and what it says. `key`: the name that its key is written under; `as_of`: the stamp that
    it was read under; `size`: bytes that it takes."""

    key: int
    row: Row
    version: Version
    as_of: int | None
    size: int


class Reader:
    def __init__(self, ask: Ask, stamp: Callable[[int], int | None]) -> None:
        """`stamp`: see `Driver.stamp`."""
        self._ask, self._stamp = ask, stamp
        self._kept: OrderedDict[Name, _Kept] = OrderedDict()
        self._bytes = 0

    def at_hand(self, bucket: str, key: str, id: str) -> Version | None:
        """What `version` would find, where that is known without asking; None: ask."""
        kept = self._kept.get((bucket, key, id))
        if kept is None or kept.as_of is None or kept.as_of != self._stamp(kept.key):
            return None
        return kept.version

    async def version(self, bucket: str, key: str, id: str) -> Version | None:
        """With the bytes that lie inline. Raises Retry."""
        name, place = (bucket, key, id), {"bucket": bucket, "key": encoded(key)}
        kept = self._kept.get(name)
        written = kept.key if kept is not None else key_name(bucket, key)
        for _ in range(LOOKS):
            as_of = self._stamp(written)
            rows = await (self._ask(sql.READ_BY_ID, **place, id=id) if id else self._ask(sql.READ_LATEST, **place))
            if not rows:
                self._forget(name)
                return None
            row, body = rows[0][:-1], rows[0][-1]
            if kept is not None and kept.row == row:
                return self._keep(name, replace(kept, as_of=as_of))
            facts = await self._facts(row, body)
            if facts is not None:
                size = len(row[9]) + (len(body) if body is not None else 0)
                return self._keep(name, _Kept(written, row, version_with(row, facts), as_of, size))
        raise Retry("the object changes faster than it can be read")

    def _keep(self, name: Name, kept: _Kept) -> Version:
        """And forgets what was read longest ago, when there is too much."""
        self._forget(name)
        self._kept[name] = kept
        self._bytes += kept.size
        while len(self._kept) > KEPT or (self._bytes > KEPT_BYTES and len(self._kept) > 1):
            self._forget(next(iter(self._kept)))
        return kept.version

    def _forget(self, name: Name) -> None:
        kept = self._kept.pop(name, None)
        self._bytes -= kept.size if kept is not None else 0

    async def _facts(self, row: Row, body: bytes | None) -> Facts | None:
        """None: inline bytes that the row speaks of are no longer there, as it was replaced meanwhile."""
        document = orjson.loads(row[9])
        pieces = document.get("p", ())
        bodies: dict[int, bytes] = {}
        if len(pieces) == 1 and body is not None:
            bodies[documents.ref_of(pieces[0])] = body
        elif len(pieces) > 1:
            for ref in [ref for piece in pieces if (ref := documents.ref_of(piece))]:
                found = await self._ask(sql.INLINE, ref=ref)
                if not found:
                    return None
                bodies[ref] = found[0][0]
        return documents.facts_of(document, bodies)


def key_name(bucket: str, key: str) -> int:
    """The name that a key is written under, by one at a time."""
    return number("s3 key", bucket, key)


def bare(row: Row) -> Version:
    """Without the bytes that lie inline."""
    return version_of(row, orjson.loads(row[9]))


def version_of(row: Row, document: Mapping[str, Any]) -> Version:
    return version_with(row, documents.facts_of(document))


def version_with(row: Row, facts: Facts) -> Version:
    key, order, size, etag, modified, id, _, latest, marker, _, bucket = row
    return Version(bucket, key.decode(), id, order, latest == 1, marker == 1, size, etag, modified, facts)
