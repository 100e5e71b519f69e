"""The bytes of one cloud in the S3 of another: our gateway holds the suite that all stores of bytes are held to."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hansa.engines.blobs.objectstore import ObjectStoreBlobs, open_object_store
from hansa.errors import Invalid
from hansa.gateways.s3.sealing.content import Content, whole
from hansa.objectindex.open import open_index

from ..contract.test_blobs import (
    test_a_reader_that_is_given_up_leaves_nothing_behind,
    test_a_store_belongs_to_who_claimed_it_first,
    test_a_writer_takes_nothing_after_its_end,
    test_all_are_told_in_order,
    test_before_its_end_a_blob_is_nowhere,
    test_less_may_come_than_was_announced,
    test_many_write_at_the_same_time,
    test_only_ids_of_ours_are_names,
    test_what_is_deleted_is_gone_and_may_be_deleted_again,
    test_what_was_put_comes_back,
)
from ..contract.test_s3_content import PLACE, Keys, put, version
from .running import Running

pytestmark = pytest.mark.anyio
SUITE = (
    test_what_was_put_comes_back, test_before_its_end_a_blob_is_nowhere, test_a_writer_takes_nothing_after_its_end,
    test_less_may_come_than_was_announced, test_what_is_deleted_is_gone_and_may_be_deleted_again,
    test_all_are_told_in_order, test_many_write_at_the_same_time, test_only_ids_of_ours_are_names,
    test_a_reader_that_is_given_up_leaves_nothing_behind, test_a_store_belongs_to_who_claimed_it_first,
)  # fmt: skip


@pytest.fixture
async def blobs(closed: Running, bucket: str) -> AsyncIterator[ObjectStoreBlobs]:
    url, secret = f"{closed.url}/{bucket}/blobs", closed.main.secret.decode()
    engine = await open_object_store(url, region="se-sto", access_key=closed.main.access_key, secret_key=secret)
    yield engine
    await engine.close()


async def test_an_object_is_sealed_twice_and_comes_out(blobs: ObjectStoreBlobs, tmp_path: Path) -> None:
    index = await open_index(tmp_path / "index.db")
    content = Content(index, blobs, Keys())
    data = os.urandom(12_000_000)
    piece = await put(content, data)
    assert await whole(content, PLACE, version(piece)) == data
    parts = [bytes(part) async for part in content.read(PLACE, version(piece), 5_000_000, 1000)]
    assert b"".join(parts) == data[5_000_000:5_001_000]
    await content.close()
    await index.close()


async def test_what_is_given_up_leaves_no_upload_behind(blobs: ObjectStoreBlobs, s3: object, bucket: str) -> None:
    writer = await blobs.writer("ab" * 16)
    for _ in range(4):
        await writer.write(b"x" * 4_000_000)
    await writer.discard()
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=bucket)  # type: ignore[attr-defined]
    assert [blob async for blob in blobs.all()] == []


async def test_a_wrong_secret_is_told_at_once(closed: Running, bucket: str) -> None:
    with pytest.raises(Invalid, match="s3_store_secret_key"):
        await open_object_store(f"{closed.url}/{bucket}", region="se-sto", access_key="AKMAIN", secret_key="wrong")
