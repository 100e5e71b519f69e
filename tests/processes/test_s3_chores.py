"""What gateways do when nobody asks, in a cloud as `hansa up` runs it: two processes of S3, days of half a second."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from hansa.sdk.client import Client
from hansa.sdk.s3 import S3, Endpoint

from .test_supervisor import lives, until
from .test_up import Up, children

PATIENCE_S = 90  # a lease of a killed process lasts a minute


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    made = Up(tmp_path)
    made.settings = {"HANSA_S3_LIFECYCLE_DAY_S": "0.5", "HANSA_S3_PROCESSES": "2"}
    yield made
    for process in made.processes:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


def test_objects_expire_and_are_replicated_whichever_process_lives(up: Up) -> None:
    process = up.ready()
    client, s3 = Client.from_environment(up.data), S3(Endpoint.from_environment(up.data))
    try:
        client.create("bucket", "copies", {"objectRetentionMode": "Versioned"})
        rules = [{"id": "all", "destination": {"bucket": "copies"}}]
        client.create("bucket", "kept", {"objectRetentionMode": "Versioned", "replication": {"rules": rules}})
        gone = {"rules": [{"id": "soon", "expireCurrentVersion": {"days": 1}, "filter": {"prefix": "tmp/"}}]}
        client.create("bucket", "passing", {"lifecyclePolicy": gone})
        s3.put("kept", "a", b"x" * 100_000)
        assert s3.head("kept", "a")["x-amz-replication-status"] in ("PENDING", "COMPLETED")
        for n in range(20):
            s3.put("passing", f"tmp/{n}", b"x")
        s3.put("passing", "stays", b"x")
        for gateway in children(process.pid)[1:2]:
            os.kill(gateway, signal.SIGKILL)
            until(lambda gone=gateway: not lives(gone))
        until(lambda: [seen.key for seen in s3.objects("passing")] == ["stays"], PATIENCE_S)
        until(lambda: s3.head("kept", "a")["x-amz-replication-status"] == "COMPLETED", PATIENCE_S)
        assert s3.get("copies", "a") == b"x" * 100_000
        assert s3.head("copies", "a")["x-amz-replication-status"] == "REPLICA"
        assert s3.head("copies", "a")["etag"] == s3.head("kept", "a")["etag"]
    finally:
        client.close()
        s3.close()
