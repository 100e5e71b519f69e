"""One version, as it is asked for most often: its row, and the bytes that lie inline.

Bytes of a single piece come along with the row. An object of thousands of parts has facts of megabytes, and its clients
ask for range after range of it: those facts are read once and kept while the row still says the same.
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

LARGE: Final = 16 * 1024  # characters of facts that are kept
KEPT: Final = 64
LOOKS: Final = 3  # at an object that is written while it is read

Ask = Callable[..., Awaitable[Sequence[Row]]]


class Reader:
    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._large: OrderedDict[int, tuple[str, Facts]] = OrderedDict()

    async def version(self, statement: str, **key: Any) -> Version | None:
        """`statement` answers with a row and its body. Raises Retry."""
        for _ in range(LOOKS):
            rows = await self._ask(statement, **key)
            if not rows:
                return None
            *row, body = rows[0]
            facts = self._known(row) or await self._facts(row, body)
            if facts is not None:
                return version_with(row, facts)
        raise Retry("the object changes faster than it can be read")

    def _known(self, row: Row) -> Facts | None:
        kept = self._large.get(row[1])
        return kept[1] if kept is not None and kept[0] == row[9] else None

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
        facts = documents.facts_of(document, bodies)
        if len(row[9]) > LARGE:
            self._large[row[1]] = (row[9], facts)
            if len(self._large) > KEPT:
                self._large.popitem(last=False)
        return facts


def bare(row: Row) -> Version:
    """Without the bytes that lie inline."""
    return version_of(row, orjson.loads(row[9]))


def version_of(row: Row, document: Mapping[str, Any]) -> Version:
    return version_with(row, documents.facts_of(document))


def version_with(row: Row, facts: Facts) -> Version:
    key, order, size, etag, modified, id, _, latest, marker, _, bucket = row
    return Version(bucket, key.decode(), id, order, latest == 1, marker == 1, size, etag, modified, facts)
