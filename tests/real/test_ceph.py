"""Blobs in a real S3 store of another make: Ceph's gateway, held to the suite of all stores, and killed at its work."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import boto3
import pytest
from botocore.config import Config

from hansa.engines.blobs.objectstore import ObjectStoreBlobs, open_object_store
from hansa.errors import Invalid, Retry
from hansa.gateways.s3.sealing.content import Content, whole
from hansa.objectindex.open import open_index
from tests.ceph import ACCESS_KEY, BUCKET, SECRET_KEY, Ceph
from tests.contract.test_blobs import (
    read,
    stored,
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
from tests.contract.test_s3_content import PLACE, Keys, put, version

pytestmark = [pytest.mark.real, pytest.mark.anyio]
SUITE = (
    test_what_was_put_comes_back, test_before_its_end_a_blob_is_nowhere, test_a_writer_takes_nothing_after_its_end,
    test_less_may_come_than_was_announced, test_what_is_deleted_is_gone_and_may_be_deleted_again,
    test_all_are_told_in_order, test_many_write_at_the_same_time, test_only_ids_of_ours_are_names,
    test_a_reader_that_is_given_up_leaves_nothing_behind, test_a_store_belongs_to_who_claimed_it_first,
)  # fmt: skip


@pytest.fixture(scope="module")
def ceph() -> Iterator[Ceph]:
    served = Ceph()
    client = boto3.client(
        "s3", endpoint_url=served.url, aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY,
        region_name="us-east-1", config=Config(request_checksum_calculation="when_required", retries={"total_max_attempts": 8}),
    )  # fmt: skip
    client.create_bucket(Bucket=BUCKET)
    client.close()
    yield served
    served.remove()


@pytest.fixture
async def blobs(ceph: Ceph) -> AsyncIterator[ObjectStoreBlobs]:
    """A prefix of its own for each test."""
    url = f"{ceph.url}/{BUCKET}/{uuid.uuid4().hex}"
    engine = await open_object_store(url, region="us-east-1", access_key=ACCESS_KEY, secret_key=SECRET_KEY)
    yield engine
    await engine.close()


async def test_objects_lie_sealed_in_another_store(blobs: ObjectStoreBlobs, tmp_path: Path) -> None:
    index = await open_index(tmp_path / "index.db")
    content = Content(index, blobs, Keys())
    data = os.urandom(12_000_000)
    piece = await put(content, data)
    assert await whole(content, PLACE, version(piece)) == data and await blobs.size(piece.blob) == piece.stored
    parts = [bytes(part) async for part in content.read(PLACE, version(piece), 5_000_000, 1000)]
    assert b"".join(parts) == data[5_000_000:5_001_000]
    await content.close()
    await index.close()


async def test_a_gateway_that_dies_costs_a_try_and_never_a_byte(blobs: ObjectStoreBlobs, ceph: Ceph) -> None:
    """What was acknowledged is there, whole; what was not may be asked for again under another id."""
    bodies = {f"{n:032x}": os.urandom(6_000_000 if n % 4 == 0 else 50_000) for n in range(1, 25)}

    async def kill() -> None:
        for _ in range(2):
            await asyncio.sleep(0.5)
            ceph.gateway.send_signal(signal.SIGKILL)

    async def attempt(id: str) -> bool:
        try:
            await stored(blobs, bodies[id], id)
        except Retry:
            return False
        return True

    killing = asyncio.create_task(kill())
    kept = [id for id in bodies if await attempt(id)]
    await killing
    for id in kept:
        assert await read(blobs, id) == bodies[id]
    there = {blob.id: blob.size async for blob in blobs.all()}
    assert set(kept) <= set(there) and all(there[id] == len(bodies[id]) for id in there)
    assert len(kept) > len(bodies) // 2


async def test_a_store_that_does_not_let_us_in_is_told_at_once(ceph: Ceph) -> None:
    for bucket, secret in ((BUCKET, "wrong"), ("no-such-bucket", SECRET_KEY)):
        with pytest.raises(Invalid, match="s3_store"):
            await open_object_store(
                f"{ceph.url}/{bucket}", region="us-east-1", access_key=ACCESS_KEY, secret_key=secret
            )
