"""Listings, states and counts of the object index, compared with a naive model over sequences of writes."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hansa.objectindex.open import open_index
from hansa.objectindex.port import ObjectIndex
from hansa.objectindex.records import Facts, NewVersion, Piece, Versioning

from ..postgres import server
from .objectmodel import Entry, Model

numbers = itertools.count(1)
# Few letters, so that keys share prefixes; of one to four bytes, so that order by code points would be another one.
KEYS = st.text(alphabet="ab/\u00e9\uffee\U0001f600\0+", min_size=1, max_size=5)
DELIMITERS = st.sampled_from(["", "/", "a", "//", "\U0001f600", "é/"])
WRITES = st.lists(
    st.tuples(st.sampled_from(["put", "put", "put", "delete", "remove"]), KEYS, st.integers(0, 3)),
    min_size=1, max_size=30,
)  # fmt: skip


class Both:
    """An index and the model of one bucket of it, written side by side."""

    def __init__(self, index: ObjectIndex) -> None:
        self.index, self.model, self.bucket = index, Model(), f"bucket {next(numbers)}"

    async def write(self, versioning: Versioning, what: str, key: str, choice: int) -> None:
        id, blob = f"v{next(numbers)}", f"{next(numbers):032x}"
        match what:
            case "put":
                facts = Facts(pieces=(Piece(choice, choice, blob),))
                new = NewVersion(self.bucket, key, id, 1.0, choice, "", facts)
                await self.index.publish(new, versioning, project=self.bucket)
                self.model.publish(key, Entry(id, False, choice, blob), versioning)
            case "delete":
                new = NewVersion(self.bucket, key, id, 1.0, marker=True)
                await self.index.lay_marker(new, versioning, project=self.bucket)
                self.model.delete(key, id, versioning)
            case _ if entries := self.model.keys.get(key):
                id = entries[choice % len(entries)].id
                await self.index.remove(self.bucket, key, id, project=self.bucket)
                self.model.remove(key, id)

    async def check_states(self) -> None:
        for key, entries in self.model.keys.items():
            latest = await self.index.get(self.bucket, key)
            assert latest is not None and latest.id == entries[-1].id
            for entry in entries:
                got = await self.index.get(self.bucket, key, entry.id)
                assert got is not None and (got.marker, got.size) == (entry.marker, entry.size)
                assert got.latest == (entry is entries[-1])
        assert await self.index.held(self.bucket) == self.model.held() == await self.index.held_by(self.bucket)
        assert self.model.garbage <= {one.blob for one in await self.index.garbage(before=1e12, limit=100_000)}

    async def check_listings(self, prefix: str, delimiter: str, limit: int) -> None:
        words: dict[str, Any] = {"prefix": prefix, "delimiter": delimiter, "limit": limit}
        assert await self.listed(words) == self.model.listed(prefix, delimiter)
        assert await self.versions(words) == self.model.versions(prefix, delimiter)

    async def listed(self, words: dict[str, Any], after: str = "") -> list[str]:
        """All pages, one after the other."""
        names: list[str] = []
        while True:
            page = await self.index.list(self.bucket, after=after, **words)
            names += sorted([v.key for v in page.versions] + list(page.prefixes), key=str.encode)
            assert len(page.versions) + len(page.prefixes) <= words["limit"]
            if not page.truncated:
                return names
            assert page.next == names[-1] and len(page.versions) + len(page.prefixes) == words["limit"]
            after = page.next

    async def versions(self, words: dict[str, Any]) -> list[tuple[str, str, bool]]:
        entries: list[tuple[str, str, bool]] = []
        key = id = ""
        while True:
            page = await self.index.list_versions(self.bucket, after=key, after_id=id, **words)
            found = [(v.key, v.id, v.latest) for v in page.versions] + [(p, "", False) for p in page.prefixes]
            entries += sorted(found, key=lambda entry: entry[0].encode())  # stable: newest first within a key
            if not page.truncated:
                return entries
            assert len(found) == words["limit"]
            key, id = page.next, page.next_id


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Runs a coroutine that is given an index: always the same loop and the same index."""
    with asyncio.Runner() as runner:
        postgres = request.param == "postgresql"
        place: str | Path = runner.run(server().empty()) if postgres else tmp_path_factory.mktemp("index") / "index.db"
        index = runner.run(open_index(place))
        yield lambda check: runner.run(check(index))
        runner.run(index.close())
        if postgres:
            runner.run(server().drop(str(place)))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    writes=WRITES,
    states=st.lists(st.sampled_from(list(Versioning)), min_size=1, max_size=3),
    prefix=st.one_of(st.just(""), KEYS),
    delimiter=DELIMITERS,
    limit=st.integers(1, 5),
)
def test_it_says_what_the_model_says(
    run: Any, writes: list[tuple[str, str, int]], states: list[Versioning], prefix: str, delimiter: str, limit: int
) -> None:
    async def check(index: ObjectIndex) -> None:
        both = Both(index)
        for n, (what, key, choice) in enumerate(writes):
            await both.write(_state(states, n, len(writes)), what, key, choice)
        await both.check_states()
        await both.check_listings(prefix, delimiter, limit)
        await both.check_listings("", delimiter, 1000)

    run(check)


def _state(states: list[Versioning], n: int, of: int) -> Versioning:
    """A bucket goes from one state to the next, and never back to never."""
    in_order = sorted(states, key=list(Versioning).index)
    return in_order[n * len(in_order) // of]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    keys=st.lists(KEYS, min_size=1, max_size=20), after=KEYS, prefix=st.one_of(st.just(""), KEYS), delimiter=DELIMITERS
)
def test_a_listing_may_begin_anywhere(run: Any, keys: list[str], after: str, prefix: str, delimiter: str) -> None:
    async def check(index: ObjectIndex) -> None:
        both = Both(index)
        for key in keys:
            await both.write(Versioning.NEVER, "put", key, 1)
        words: dict[str, Any] = {"prefix": prefix, "delimiter": delimiter, "limit": 3}
        assert await both.listed(words, after) == both.model.listed(prefix, delimiter, after)

    run(check)
