"""One cloud whose bytes lie in the S3 of another, both as `hansa up` runs them: what is acknowledged is there, whatever dies."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from hashlib import sha256
from pathlib import Path

import pytest

from hansa.clock import SystemClock
from hansa.datafolder import read_environment
from hansa.engines.blobs.objectstore import ObjectStoreBlobs, open_object_store
from hansa.errors import HansaError, NotFound, Retry
from hansa.gateways.s3.duties.reaping import ORPHAN_S, Reaping
from hansa.objectindex.open import open_index
from hansa.sdk.client import Client
from hansa.sdk.s3 import S3, Endpoint
from hansa.sdk.s3files import Transfers

from ..programs import no_cloud
from .test_supervisor import until
from .test_up import Up, children

LOAD_S, KILLS = 6.0, 3
LOAD_MAX = 300  # puts of a thread
AWAY_S = 60.0  # within which a store that is away is told
LONG = 100_000  # bytes that do not lie in the index


class Pair:
    """`back` keeps the bytes of `front` in its bucket `theirs`."""

    def __init__(self, folder: Path) -> None:
        for name in ("back", "front"):
            (folder / name).mkdir()
        self.back, self.front = Up(folder / "back"), Up(folder / "front")
        self.back.ready()
        with S3Open(self.back.data) as s3:
            s3.make_bucket("theirs")
        said = read_environment(self.back.data)
        self.url, self.region = said["AWS_ENDPOINT_URL_S3"] + "/theirs", said["AWS_DEFAULT_REGION"]
        self.access_key, self.secret_key = said["AWS_ACCESS_KEY_ID"], said["AWS_SECRET_ACCESS_KEY"]
        self.front.settings = {
            "HANSA_S3_STORE": self.url, "HANSA_S3_STORE_REGION": self.region,
            "HANSA_S3_STORE_ACCESS_KEY": self.access_key, "HANSA_S3_STORE_SECRET_KEY": self.secret_key,
        }  # fmt: skip

    async def blobs(self) -> ObjectStoreBlobs:
        return await open_object_store(
            self.url, region=self.region, access_key=self.access_key, secret_key=self.secret_key
        )

    def gateway(self) -> int:
        """The process of `front` that serves S3, once there is one."""
        until(lambda: len(children(self.front.processes[-1].pid)) == 2, 60)
        return children(self.front.processes[-1].pid)[1]

    def scrub(self) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "hansa", "s3", "scrub", "--data", str(self.front.data)]
        return subprocess.run(
            words, env=no_cloud(**self.front.settings), capture_output=True, text=True, timeout=120, check=False
        )

    def end(self) -> None:
        for up in (self.front, self.back):
            for process in up.processes:
                if process.poll() is None:
                    process.terminate()
                    process.wait(60)


class S3Open:
    """A client that is closed at the end of a block."""

    def __init__(self, data: Path) -> None:
        self.s3 = S3(Endpoint.from_environment(data))

    def __enter__(self) -> S3:
        return self.s3

    def __exit__(self, *_raised: object) -> None:
        self.s3.close()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    yield made
    made.end()


def told(work: Callable[[], object]) -> HansaError | None:
    try:
        work()
    except HansaError as error:
        return error
    return None


def test_objects_come_and_go_and_a_look_over_all_of_them_is_well(pair: Pair, tmp_path: Path) -> None:
    pair.front.ready()
    large, small = os.urandom(20 << 20), os.urandom(LONG)
    with S3Open(pair.front.data) as s3, S3Open(pair.back.data) as theirs:
        s3.make_bucket("films")
        s3.put("films", "small", small)
        s3.put("films", "tiny", b"x")
        (tmp_path / "large").write_bytes(large)
        with Transfers(s3) as transfers:
            transfers.upload(tmp_path / "large", "films", "large")
        assert "-" in s3.head("films", "large")["etag"], "it came in parts"
        assert s3.get("films", "large") == large and s3.get("films", "small") == small
        assert s3.get("films", "large", start=(5 << 20) - 7, size=20) == large[(5 << 20) - 7 : (5 << 20) + 13]
        kept = {seen.key: seen.size for seen in theirs.objects("theirs")}
        assert len(kept) > 1 + 1 + 1 and "owner" in kept, "the tiny one lies in the index"
        assert all(small[:64] not in theirs.get("theirs", key) for key in kept), "what lies there is sealed"
        said = pair.scrub()
        assert said.returncode == 0 and "0 blobs that nothing points at" in said.stdout, said.stderr + said.stdout
        gone = next(key for key, size in kept.items() if LONG < size < 2 * LONG)
        theirs.delete("theirs", gone)
        said = pair.scrub()
        assert said.returncode == 1 and "'small'" in said.stdout
        for key in ("small", "tiny", "large"):
            s3.delete("films", key)
        assert isinstance(told(lambda: s3.get("films", "large")), NotFound)
        s3.remove_bucket("films")


def test_a_wrong_setting_is_named_at_the_start(pair: Pair) -> None:
    right = dict(pair.front.settings)
    for setting, value, said in (
        ("HANSA_S3_STORE_SECRET_KEY", "wrong", "s3_store_secret_key"),
        ("HANSA_S3_STORE_ACCESS_KEY", "AKNOBODY", "s3_store_access_key"),
        ("HANSA_S3_STORE", pair.url + "-not", "s3_store: there is no bucket theirs-not"),
    ):
        pair.front.settings = right | {setting: value}
        process = pair.front.start("--port", "0")
        assert process.wait(60) != 0
        errors = pair.front.said("err").decode()
        assert said in errors and pair.secret_key not in errors and "Traceback" not in errors, errors


def test_a_store_that_is_away_is_told_and_serves_again_when_it_is_back(pair: Pair) -> None:
    pair.front.ready()
    body = os.urandom(LONG)
    with S3Open(pair.front.data) as s3:
        s3.make_bucket("films")
        s3.put("films", "k", body)
        pair.back.processes[-1].send_signal(signal.SIGTERM)
        pair.back.processes[-1].wait(60)
        began = time.monotonic()
        for work in (lambda: s3.put("films", "new", body), lambda: s3.get("films", "k")):
            assert isinstance(told(work), Retry), "503, and to be tried again"
        assert time.monotonic() - began < AWAY_S
        s3.put("films", "tiny", b"x")
        assert s3.get("films", "tiny") == b"x", "what lies in the index needs no store"
        assert isinstance(told(lambda: s3.head("films", "new")), NotFound), "what was not acknowledged is not there"
        pair.back.ready()
        until(lambda: told(lambda: s3.put("films", "new", body)) is None, 60)
        assert s3.get("films", "new") == s3.get("films", "k") == body


class Load:
    """Puts of several sizes from several threads until it is told to end. `acknowledged`: the digest of what must be
    there."""

    def __init__(self, data: Path) -> None:
        self.data, self.acknowledged, self.failed = data, dict[str, bytes](), 0
        self._ended = threading.Event()

    def run(self, number: int) -> None:
        with S3Open(self.data) as s3:
            count = 0
            while not self._ended.is_set() and count < LOAD_MAX:
                count += 1
                key, body = f"{number}/{count}", os.urandom((LONG, 1000, 7_000_000)[count % 3])
                if told(lambda key=key, body=body: s3.put("films", key, body)) is None:  # type: ignore[misc]
                    self.acknowledged[key] = sha256(body).digest()
                else:
                    self.failed += 1

    def end(self) -> None:
        self._ended.set()

    def look(self, s3: S3) -> None:
        assert len(self.acknowledged) > 10
        for key, digest in self.acknowledged.items():
            assert sha256(s3.get("films", key)).digest() == digest, key


async def orphans_of(pair: Pair, blobs: ObjectStoreBlobs) -> set[str]:
    index = await open_index(pair.front.data / "s3" / "index.db")
    async with aclosing(blobs.all()) as stored:
        there = [blob.id async for blob in stored]
    known = await index.known(there)
    await index.close()
    return set(there) - known


@pytest.fixture
async def blobs(pair: Pair) -> AsyncIterator[ObjectStoreBlobs]:
    opened = await pair.blobs()
    yield opened
    await opened.close()


class Later:
    """A clock that is ahead."""

    def now(self) -> float:
        return SystemClock().now() + ORPHAN_S + 1


@pytest.mark.anyio
async def test_a_gateway_that_is_killed_under_load_loses_nothing_and_its_orphans_go(
    pair: Pair, blobs: ObjectStoreBlobs
) -> None:
    await asyncio.to_thread(pair.front.ready)
    load = Load(pair.front.data)
    with S3Open(pair.front.data) as s3:
        s3.make_bucket("films")
        with ThreadPoolExecutor(4) as threads:
            running = [threads.submit(load.run, number) for number in range(4)]
            try:
                for _ in range(KILLS):
                    await asyncio.sleep(LOAD_S / KILLS)
                    gateway = await asyncio.to_thread(pair.gateway)
                    os.kill(gateway, signal.SIGKILL)
                    await asyncio.to_thread(until, lambda gone=gateway: pair.gateway() != gone, 60)
                await asyncio.sleep(1)
            finally:
                load.end()
            await asyncio.to_thread(lambda: [each.result(120) for each in running])
        await asyncio.to_thread(load.look, s3)
    await blobs.store.put_async("ff" * 16, b"of a gateway that died before it said so")
    left = await orphans_of(pair, blobs)
    assert "ff" * 16 in left
    index = await open_index(pair.front.data / "s3" / "index.db")
    reaping = Reaping(index, blobs, Later())
    await reaping.find_orphans()
    await reaping.work()
    await index.close()
    assert await orphans_of(pair, blobs) == set()
    with S3Open(pair.front.data) as s3:
        await asyncio.to_thread(load.look, s3)
    said = await asyncio.to_thread(pair.scrub)
    assert said.returncode == 0 and "0 blobs that nothing points at" in said.stdout, said.stdout


def test_uploads_that_a_killed_gateway_left_are_ended_by_a_rule_of_the_bucket(tmp_path: Path) -> None:
    """As docs/reference/s3.md says. The days of the store below are a few seconds."""
    (tmp_path / "back").mkdir()
    back = Up(tmp_path / "back")
    back.settings = {"HANSA_S3_LIFECYCLE_DAY_S": "2"}
    try:
        back.ready()
        client = Client.from_environment(back.data)
        rule = {"id": "unfinished", "abortIncompleteMultipart": {"days": 1}}
        client.create("bucket", "theirs", {"lifecyclePolicy": {"rules": [rule]}})
        with S3Open(back.data) as s3:
            upload = s3.begin("theirs", "ab" * 16, {})
            s3.put_part("theirs", "ab" * 16, upload, 1, b"x" * (5 << 20), {})
            until(lambda: isinstance(told(lambda: s3.parts("theirs", "ab" * 16, upload)), NotFound), 60)
            assert list(s3.objects("theirs")) == []
        client.close()
    finally:
        back.processes[-1].terminate()
        back.processes[-1].wait(60)
