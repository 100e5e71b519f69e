"""An index and its store belong together, and no other index ever gets at that store."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from hansa import storing
from hansa.clock import SystemIds
from hansa.config import Settings
from hansa.engines.blobs.files import FileBlobs
from hansa.engines.blobs.memory import MemoryBlobs
from hansa.errors import Invalid
from hansa.objectindex.open import open_index

pytestmark = pytest.mark.anyio
IDS = SystemIds()


async def put(blobs: MemoryBlobs) -> None:
    writer = await blobs.writer("ab" * 16)
    await writer.write(b"x")
    await writer.finish()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storing, "CLAIM_S", 0.5)


async def test_a_store_elsewhere_needs_a_package_and_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storing, "find_spec", lambda name: None)
    with pytest.raises(Invalid, match="obstore"):
        await storing.open_blobs(Settings(s3_store="https://127.0.0.1:1/bucket"))


async def test_an_index_finds_its_own_store_again_and_again() -> None:
    index, blobs = await open_index(":memory:"), MemoryBlobs()
    await storing.claim(index, blobs, IDS)
    await put(blobs)
    owner = await index.note(storing.OWNER)
    await storing.claim(index, blobs, IDS)
    assert await index.note(storing.OWNER) == await blobs.claim("another") == owner != ""
    await index.close()


async def test_another_index_is_refused_with_or_without_a_store_of_its_own() -> None:
    one, two, new = [await open_index(":memory:") for _ in range(3)]
    first, second = MemoryBlobs(), MemoryBlobs()
    await storing.claim(one, first, IDS)
    await storing.claim(two, second, IDS)
    await put(first)
    for index in (two, new):
        with pytest.raises(Invalid, match="another cloud"):
            await storing.claim(index, first, IDS)
    await storing.claim(one, first, IDS)
    for index in (one, two, new):
        await index.close()


async def test_a_claim_that_was_cut_off_is_finished_while_nothing_is_stored() -> None:
    index, blobs = await open_index(":memory:"), MemoryBlobs()
    await blobs.claim("somebody who died")
    await storing.claim(index, blobs, IDS)
    assert await index.note(storing.OWNER) == "somebody who died"
    await put(blobs)
    await storing.claim(index, blobs, IDS)
    await index.close()


async def test_processes_that_begin_together_agree(tmp_path: Path) -> None:
    indexes = [await open_index(tmp_path / "index.db") for _ in range(4)]
    stores = [FileBlobs(tmp_path / "blobs", reserve=0) for _ in range(4)]
    await asyncio.gather(*[storing.claim(i, s, IDS) for i, s in zip(indexes, stores, strict=True)])
    owners = {await index.note(storing.OWNER) for index in indexes} | {await store.claim("x") for store in stores}
    assert len(owners) == 1
    for opened in (*indexes, *stores):
        await opened.close()
