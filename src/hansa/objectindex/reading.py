"""One version, as it is asked for most often: its row, and the bytes that lie inline.

Bytes of a single piece come along with the row. What is asked for again is kept as it was read, and counts for as long as
the row still says the same, letter for letter: an object of thousands of parts has facts of megabytes, and its clients ask
for range after range of it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import orjson

from hansa.errors import Retry
from hansa.objectindex import documents
from hansa.objectindex import statements as sql
from hansa.objectindex.order import Row
from hansa.objectindex.records import Facts, Version

KEPT: Final = 4096
KEPT_BYTES: Final = 32 << 20  # of facts as they are written down, and of bytes inline
LOOKS: Final = 3  # at an object that is written while it is read

_NOTHING: Final = (None, None, 0)

Ask = Callable[..., Awaitable[Sequence[Row]]]


class Reader:
    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._kept: OrderedDict[int, tuple[Row, Version, int]] = OrderedDict()  # by order: row, what it says, bytes
        self._kept_bytes = 0

    async def version(self, statement: str, **key: Any) -> Version | None:
        """`statement` answers with a row and its body. Raises Retry."""
        for _ in range(LOOKS):
            rows = await self._ask(statement, **key)
            if not rows:
                return None
            row, body = rows[0][:-1], rows[0][-1]
            kept = self._kept.get(row[1])
            if kept is not None and kept[0] == row:
                return kept[1]
            facts = await self._facts(row, body)
            if facts is not None:
                return self._keep(row, version_with(row, facts))
        raise Retry("the object changes faster than it can be read")

    def _keep(self, row: Row, version: Version) -> Version:
        """In the place of what was kept of that version before, and of what was kept first once it is too much."""
        size = len(row[9]) + sum([len(piece.inline) for piece in version.facts.pieces])
        self._kept_bytes += size - self._kept.pop(row[1], _NOTHING)[2]
        self._kept[row[1]] = (row, version, size)
        while len(self._kept) > KEPT or (self._kept_bytes > KEPT_BYTES and len(self._kept) > 1):
            self._kept_bytes -= self._kept.popitem(last=False)[1][2]
        return version

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


def bare(row: Row) -> Version:
    """Without the bytes that lie inline."""
    return version_of(row, orjson.loads(row[9]))


def version_of(row: Row, document: Mapping[str, Any]) -> Version:
    return version_with(row, documents.facts_of(document))


def version_with(row: Row, facts: Facts) -> Version:
    key, order, size, etag, modified, id, _, latest, marker, _, bucket = row
    return Version(bucket, key.decode(), id, order, latest == 1, marker == 1, size, etag, modified, facts)
