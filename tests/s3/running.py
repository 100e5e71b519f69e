"""A gateway in a thread of this process: the real application, index, engine and protocol; a control plane in memory."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import uvloop
from botocore import UNSIGNED
from botocore.client import Config

from hansa.clock import SystemClock, SystemIds
from hansa.edge.server import make_server
from hansa.edge.streaming import StreamingHttp
from hansa.engines.blobs.files import FileBlobs
from hansa.gateways.s3.app import S3App
from hansa.gateways.s3.gateway import Gateway, GatewaySettings
from hansa.gateways.s3.ports import S3Identity
from hansa.gateways.s3.sealing.content import Content
from hansa.objectindex.open import open_index

from .memory import MemoryDirectory, MemoryUpstream

READY_S = 20.0
DOMAIN = "s3.localhost"
PART = 64 << 10  # the smallest part here, so that tests need not send megabytes


class MovingClock:
    """The system's, moved on by a test."""

    def __init__(self) -> None:
        self._system, self.ahead = SystemClock(), 0.0

    def now(self) -> float:
        return self._system.now() + self.ahead


@dataclass
class Running:
    """`port` on loopback; `loop` is the gateway's own. `main`, `alt`: two strangers, each at home in a project."""

    port: int
    loop: asyncio.AbstractEventLoop
    gateway: Gateway
    directory: MemoryDirectory
    blobs: FileBlobs
    clock: MovingClock
    main: S3Identity
    alt: S3Identity

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(
        self, who: S3Identity | None = None, *, style: str = "path", host: str = "127.0.0.1", **more: Any
    ) -> Any:
        """boto3's, for `main` unless somebody else is named."""
        who = who or self.main
        return self._client(
            Config(s3={"addressing_style": style}, retries={"max_attempts": 1}, read_timeout=20, **more),
            host,
            aws_access_key_id=who.access_key,
            aws_secret_access_key=who.secret.decode(),
        )

    def stranger(self) -> Any:
        """Who signs nothing."""
        return self._client(Config(signature_version=UNSIGNED, s3={"addressing_style": "path"}), "127.0.0.1")

    def _client(self, config: Config, host: str, **keys: str) -> Any:
        return boto3.client(
            "s3", endpoint_url=f"http://{host}:{self.port}", region_name="se-sto", config=config, **keys
        )

    def ask(self, question: Callable[[], Any]) -> Any:
        """Runs a coroutine function in the gateway's loop."""
        return asyncio.run_coroutine_threadsafe(question(), self.loop).result(READY_S)

    @contextmanager
    def connection(self) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.port), timeout=READY_S) as it:
            yield it


@contextmanager
def running(folder: Path, *, settings: GatewaySettings) -> Iterator[Running]:
    ready, box = threading.Event(), {}

    async def serve() -> None:
        clock = MovingClock()
        stop = asyncio.Event()
        directory = MemoryDirectory()
        main = directory.add_user("AKMAIN", "main-secret-of-forty-characters-or-so", "main", name="Main")
        alt = directory.add_user("AKALT", "alt-secret-of-forty-characters-or-so", "alt", name="Alt")
        directory.add_key("main", "key-1")
        index = await open_index(folder / "index.db", clock=clock)
        blobs = FileBlobs(folder / "blobs")
        content = Content(index, blobs, directory, clock=clock)
        gateway = Gateway(
            directory=directory,
            upstream=MemoryUpstream(directory, index, clock, open=settings.acl_open),
            index=index,
            content=content,
            clock=clock,
            ids=SystemIds(),
            settings=settings,
        )
        listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        server = make_server(S3App(gateway), http=StreamingHttp, end_s=1)
        serving = asyncio.ensure_future(server.serve([listener]))
        port = listener.getsockname()[1]
        loop = asyncio.get_running_loop()
        box["it"] = Running(port, loop, gateway, directory, blobs, clock, main, alt)
        box["stop"] = lambda: loop.call_soon_threadsafe(stop.set)
        ready.set()
        await stop.wait()
        server.should_exit = True
        await serving
        await content.close()
        await blobs.close()
        await index.close()

    thread = threading.Thread(target=lambda: uvloop.run(serve()), daemon=True)
    thread.start()
    assert ready.wait(READY_S), "the gateway did not start"
    try:
        yield box["it"]
    finally:
        box["stop"]()
        thread.join(READY_S)
        assert not thread.is_alive(), "the gateway did not end"
