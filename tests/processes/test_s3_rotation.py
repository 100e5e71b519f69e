"""New material for an encryption key, in a cloud as `hansa up` runs it: two processes of S3, of which one dies meanwhile."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from hansa.errors import Forbidden, HansaError
from hansa.sdk.client import Client
from hansa.sdk.s3 import S3, Endpoint

from .test_supervisor import lives, until
from .test_up import Up, children

ROUNDS = 4
CLIENTS = 6  # so many connections are spread over both processes
PART = 5 << 20


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    made = Up(tmp_path)
    made.settings = {"HANSA_S3_PROCESSES": "2"}
    yield made
    for process in made.processes:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


def test_what_lies_under_any_generation_is_read_by_any_process(up: Up) -> None:
    process = up.ready()
    client = Client.from_environment(up.data)
    s3 = [S3(Endpoint.from_environment(up.data)) for _ in range(CLIENTS)]
    rotate = f"{client.path('encryptionkey', 'vault')}/rotate"
    try:
        client.create("encryptionKey", "vault", {})
        client.create("bucket", "sealed", {"encryption": {"algorithm": "aws:kms", "key": "vault"}})
        upload, parts, bodies = s3[0].begin("sealed", "long", {}), [], dict[str, bytes]()
        for generation in range(1, ROUNDS + 1):
            for number, each in enumerate(s3):
                key = f"{generation}/{number}"
                bodies[key] = os.urandom(100_000 if number % 2 else 100)
                each.put("sealed", key, bodies[key])
            parts.append(s3[1].put_part("sealed", "long", upload, generation, bytes([generation]) * PART, {}))
            if generation == 2:
                gateway = children(process.pid)[1]
                os.kill(gateway, signal.SIGKILL)
                until(lambda gone=gateway: not lives(gone))
            assert client.request("POST", rotate, body={})["status"]["generation"] == generation + 1
        listed = "".join(f"<Part><PartNumber>{n}</PartNumber><ETag>{e}</ETag></Part>" for n, e in enumerate(parts, 1))
        whole = f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>".encode()
        s3[2].send("POST", "sealed", "long", query=[("uploadId", upload)], body=whole)
        bodies["long"] = b"".join(bytes([generation]) * PART for generation in range(1, ROUNDS + 1))
        for each in s3:
            for key, body in bodies.items():
                assert each.get("sealed", key) == body
        client.patch("encryptionKey", "vault", {"spec": {"enabled": False}})
        for key in ("1/0", f"{ROUNDS}/1"):
            until(lambda key=key: refused(s3[0], key))
    finally:
        client.close()
        for each in s3:
            each.close()


def refused(s3: S3, key: str) -> bool:
    try:
        s3.get("sealed", key)
    except HansaError as error:
        return "disabled" in error.message or isinstance(error, Forbidden)
    return False
