"""Clients of HTTP that cost little: requests made beforehand, sent over raw sockets, by processes of their own.

What is counted is the server's processor, from the first byte sent to the last one read; making and signing the requests
is not part of it. A client waits for its answer before it asks again.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from hansa.sdk.s3sign import Pair, path_of, presigned, signed

PROCESSES = 2
LIMIT_S = 300.0
HEAD_MAX = 16 << 10
ROOM = 1 << 20
GRAIN = 16 << 20  # of bodies that are longer: so much is made, and sent over and over


@dataclass(frozen=True, slots=True)
class Sent:
    """One request as it goes over the wire: `body`, `times` times. `size`: bytes that its answer must have."""

    head: bytes
    body: bytes = b""
    times: int = 1
    size: int = 0


@dataclass(frozen=True, slots=True)
class Load:
    """What one run came to. `done` requests moved `bytes` in all; the servers took `cpu_s` for them in `wall_s`."""

    done: int
    bytes: int
    cpu_s: float
    wall_s: float

    @property
    def per_cpu_s(self) -> float:
        return self.done / self.cpu_s

    @property
    def per_s(self) -> float:
        return self.done / self.wall_s

    @property
    def mb_per_cpu_s(self) -> float:
        return self.bytes / self.cpu_s / 1e6

    @property
    def mb_per_s(self) -> float:
        return self.bytes / self.wall_s / 1e6


# -- requests -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Body:
    """`size` bytes that nothing compresses, and what signs them."""

    grain: bytes
    times: int
    sha256: str

    @classmethod
    def of(cls, size: int) -> Body:
        grain = os.urandom(min(size, GRAIN))
        times, digest = size // len(grain), hashlib.sha256()
        for _ in range(times):
            digest.update(grain)
        return cls(grain, times, digest.hexdigest())

    @property
    def size(self) -> int:
        return len(self.grain) * self.times


@dataclass(frozen=True, slots=True)
class Signer:
    """Makes requests of S3 to one bucket of one server. `host`: `127.0.0.1:PORT`."""

    pair: Pair
    host: str
    bucket: str

    def get(self, key: str, size: int) -> Sent:
        """By an address that was signed beforehand."""
        path = path_of(self.bucket, key)
        return plain_get(f"{path}?{presigned(self.pair, 'GET', path, self.host, 3600, time.time())}", self.host, size)

    def put(self, key: str, body: Body) -> Sent:
        headers = {"host": self.host, "content-length": str(body.size)}
        return self._sent("PUT", path_of(self.bucket, key), "", headers, body.sha256, body)

    def page(self, after: str) -> Sent:
        """A thousand keys. Its answer may have any size."""
        query = f"list-type=2&max-keys=1000&start-after={after}"
        return self._sent("GET", path_of(self.bucket, ""), query, {"host": self.host}, "UNSIGNED-PAYLOAD", None)

    def _sent(
        self, method: str, path: str, query: str, headers: dict[str, str], payload: str, body: Body | None
    ) -> Sent:  # fmt: skip
        every = signed(self.pair, method, path, query, headers, payload, time.time())
        head = _head(method, f"{path}?{query}" if query else path, every)
        return Sent(head, body.grain, body.times) if body is not None else Sent(head, size=-1)


def plain_get(address: str, host: str, size: int) -> Sent:
    return Sent(_head("GET", address, {"host": host}), size=size)


def plain_put(address: str, host: str, body: Body) -> Sent:
    return Sent(_head("PUT", address, {"host": host, "content-length": str(body.size)}), body.grain, body.times)


def _head(method: str, address: str, headers: dict[str, str]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{method} {address} HTTP/1.1\r\n{lines}\r\n".encode()


# -- runs ---------------------------------------------------------------------------------------


def load(port: int, servers: Sequence[int], clients: int, requests: Callable[[int], Sequence[Sent]]) -> Load:
    """So many clients at once, `requests(client)` each. `servers`: the processes whose processor counts.

    Raises AssertionError when an answer is none of 200 with the size that it must have.
    """
    context = multiprocessing.get_context("fork")
    shares = [list(range(clients))[n::PROCESSES] for n in range(min(PROCESSES, clients))]
    pipes = [context.Pipe() for _ in shares]
    workers = [
        context.Process(target=_work, args=(theirs, port, share, requests), daemon=True)
        for (_, theirs), share in zip(pipes, shares, strict=True)
    ]
    for worker in workers:
        worker.start()
    ours = [mine for mine, _ in pipes]
    assert all(_said(pipe) == "ready" for pipe in ours)
    cpu, began = cpu_s(servers), time.perf_counter()
    for pipe in ours:
        pipe.send("go")
    told = [_said(pipe) for pipe in ours]
    wall = time.perf_counter() - began
    used = cpu_s(servers) - cpu
    for worker in workers:
        worker.join()
    assert not (wrong := [each for each in told if isinstance(each, str)]), wrong
    done = [each for each in told if isinstance(each, tuple)]
    return Load(sum(count for count, _ in done), sum(size for _, size in done), max(used, 0.01), wall)


def cpu_s(pids: Sequence[int]) -> float:
    """Processor seconds that they have taken, in user and system."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _said(pipe: Connection) -> object:
    assert pipe.poll(LIMIT_S), "the clients do not come to an end"
    return pipe.recv()


def _work(pipe: Connection, port: int, share: list[int], requests: Callable[[int], Sequence[Sent]]) -> None:
    """In a process of its own: a thread for each client."""
    todo = [(_connect(port), requests(client)) for client in share]
    outcomes: list[tuple[int, int] | str] = []
    threads = [threading.Thread(target=_client, args=(*each, outcomes)) for each in todo]
    pipe.send("ready")
    pipe.recv()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wrong = [each for each in outcomes if isinstance(each, str)]
    done = [each for each in outcomes if not isinstance(each, str)]
    pipe.send(wrong[0] if wrong else (sum(count for count, _ in done), sum(size for _, size in done)))


def _connect(port: int) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def _client(stream: socket.socket, requests: Sequence[Sent], outcomes: list[tuple[int, int] | str]) -> None:
    room, moved = bytearray(ROOM), 0
    try:
        with stream:
            for each in requests:
                moved += _once(stream, each, room)
    except (OSError, ValueError, AssertionError) as error:
        outcomes.append(f"{type(error).__name__}: {error}")
        return
    outcomes.append((len(requests), moved))


def _once(stream: socket.socket, sent: Sent, room: bytearray) -> int:
    """Bytes of the body that went, and of the one that came."""
    if len(sent.body) <= 64 << 10:
        stream.sendall(sent.head + sent.body)
    else:
        stream.sendall(sent.head)
        for _ in range(sent.times):
            stream.sendall(sent.body)
    size, came = _answer_head(stream, room)
    assert sent.size in (-1, size), f"{size} bytes came, {sent.size} were due"
    while came < size:
        got = stream.recv_into(room, min(ROOM, size - came))
        assert got, "the answer was cut off"
        came += got
    return size + len(sent.body) * sent.times


def _answer_head(stream: socket.socket, room: bytearray) -> tuple[int, int]:
    """How long the body is, and how many of its bytes came along."""
    came = 0
    while (end := room.find(b"\r\n\r\n", 0, came)) < 0:
        assert came < HEAD_MAX, "the answer has no end of its head"
        got = stream.recv_into(memoryview(room)[came:], HEAD_MAX)
        assert got, "the connection ended without an answer"
        came += got
    head = bytes(room[:end]).lower()
    assert head.startswith(b"http/1.1 200"), bytes(room[: min(came, 600)])
    size = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
    return size, came - end - 4
