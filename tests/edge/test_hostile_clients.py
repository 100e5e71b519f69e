"""The promise: a slow or hostile client slows nobody else. Raw sockets against the real server, a good client beside.

Deadlines are shortened where they are read; what is asserted is what happens, never how long it took.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvloop

from hansa.clock import SystemClock
from hansa.edge import authority, door, http
from hansa.edge.guest import HEAD_BYTES_MAX, HEADERS_MAX, MESSAGE_BYTES_MAX, PIPELINE_MAX, Limits
from hansa.edge.server import Server, allow_descriptors, make_server
from hansa.edge.tls import Certificates

pytestmark = pytest.mark.anyio
SOON_S = 0.3
GOOD = b"GET /good HTTP/1.1\r\nhost: a\r\n\r\n"


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    if request.param == "uvloop":
        return "asyncio", {"loop_factory": uvloop.new_event_loop}
    return "asyncio"


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Reads bodies as the API does, up to a limit; `/large` answers with more than fits into buffers."""
    total, refused = 0, False
    while scope["method"] == "POST":
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        total += len(message["body"])
        refused = total > 1 << 20
        if refused or not message["more_body"]:
            break
    if scope["path"] == "/slow":
        await asyncio.sleep(0.2)
    body = b"x" * (64 << 20) if scope["path"] == "/large" else json.dumps({"path": scope["path"]}).encode()
    status = 413 if refused else 200
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@dataclass
class Place:
    server: Server
    port: int
    trust: ssl.SSLContext | None
    open: list[socket.socket] = field(default_factory=list)

    @property
    def door(self) -> door.Door:
        return self.server.doors[0]

    async def hostile(self, first: bytes = b"", source: str = "127.0.0.2") -> socket.socket:
        """A raw connection of a stranger; what it says is said before this returns."""
        loop = asyncio.get_running_loop()
        made = socket.socket()
        made.setblocking(False)
        made.bind((source, 0))
        await loop.sock_connect(made, ("127.0.0.1", self.port))
        self.open.append(made)
        if first:
            await loop.sock_sendall(made, first)
        return made

    async def hostile_tls(self, first: bytes) -> asyncio.StreamReader:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=self.trust, local_addr=("127.0.0.2", 0)
        )
        writer.write(first)
        self.open.append(writer)  # type: ignore[arg-type]
        return reader

    async def good(self, source: str = "127.0.0.1") -> None:
        """A client that behaves, on a new connection, is answered."""
        async with asyncio.timeout(20):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", self.port, ssl=self.trust, local_addr=(source, 0)
            )
            writer.write(GOOD)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            assert json.loads(await reader.readexactly(17)) == {"path": "/good"}
            writer.close()
            with contextlib.suppress(OSError, ssl.SSLError):
                await writer.wait_closed()


async def rest(made: socket.socket) -> bytes:
    """All that comes until the server ends the connection."""
    loop, found = asyncio.get_running_loop(), b""
    async with asyncio.timeout(20):
        with contextlib.suppress(ConnectionError):
            while piece := await loop.sock_recv(made, 1 << 20):
                found += piece
    return found


@contextlib.asynccontextmanager
async def place(limits: Limits, context: ssl.SSLContext | None, trust: ssl.SSLContext | None) -> AsyncIterator[Place]:
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    server = make_server(app, limits, context)
    serving = asyncio.create_task(server.serve([listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    made = Place(server, listener.getsockname()[1], trust)
    yield made
    for each in made.open:
        each.close()
    server.should_exit = True
    async with asyncio.timeout(20):
        await serving


@pytest.fixture
async def plain() -> AsyncIterator[Place]:
    async with place(Limits(100, 40), None, None) as made:
        yield made


@pytest.fixture
async def secure(tmp_path: Path) -> AsyncIterator[Place]:
    certificates = Certificates.of_authority(tmp_path, lambda: ("127.0.0.1",), SystemClock())
    trust = ssl.create_default_context(cafile=tmp_path / authority.PUBLIC)
    async with place(Limits(100, 40), certificates.context, trust) as made:
        yield made


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Deadlines of a moment, so that a test need not wait for a minute."""
    for name in ("HEAD_S", "BODY_S", "IDLE_S", "STALL_S", "CLOSE_S"):
        monkeypatch.setattr(http, name, SOON_S)
    monkeypatch.setattr(door, "HANDSHAKE_S", SOON_S)
    monkeypatch.setattr(door, "LOOK_S", 0.05)
    yield


# -- slow ---------------------------------------------------------------------------------------


async def test_a_head_that_drips_is_ended(plain: Place, hasty: None) -> None:
    loris = await plain.hostile(b"GET / HTTP/1.1\r\nhost: a\r\n")
    answered = asyncio.create_task(rest(loris))
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):
        for number in range(1000):
            if answered.done():
                break
            await loop.sock_sendall(loris, b"x-%d: y\r\n" % number if number < 50 else b"")
            await asyncio.sleep(0.02)
    assert (await answered).startswith(b"HTTP/1.1 408")
    await plain.good()


async def test_a_body_that_drips_is_ended(plain: Place, hasty: None) -> None:
    slow = await plain.hostile(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\nx")
    await plain.good()
    assert (await rest(slow)).startswith(b"HTTP/1.1 408")


async def test_who_says_nothing_is_ended(plain: Place, hasty: None) -> None:
    silent = await plain.hostile()
    used = await plain.hostile(GOOD)
    assert await rest(silent) == b""
    assert (await rest(used)).count(b"HTTP/1.1 200") == 1
    assert plain.door.tally.late >= 2


async def test_empty_lines_do_not_keep_a_connection(plain: Place, hasty: None) -> None:
    idle = await plain.hostile(GOOD)
    ended = asyncio.create_task(rest(idle))
    with contextlib.suppress(OSError):
        while not ended.done():
            await asyncio.get_running_loop().sock_sendall(idle, b"\r\n")
            await asyncio.sleep(0.02)
    assert (await ended).count(b"HTTP/1.1 200") == 1


async def test_a_reader_that_does_not_read_is_ended(plain: Place, hasty: None) -> None:
    await plain.hostile(b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n")
    await plain.good()
    async with asyncio.timeout(20):
        while plain.door.inside:
            await asyncio.sleep(0.02)


async def test_a_slow_answer_is_waited_for(plain: Place, hasty: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HEAD_S", 0.05)
    monkeypatch.setattr(http, "BODY_S", 0.05)
    asked = await plain.hostile(b"GET /slow HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    assert (await rest(asked)).startswith(b"HTTP/1.1 200")


async def test_a_handshake_that_stops_is_ended(secure: Place, hasty: None) -> None:
    hung = await secure.hostile(b"\x16\x03\x01")
    silent = await secure.hostile()
    assert await rest(hung) == b"" and await rest(silent) == b""
    async with asyncio.timeout(20):
        while secure.door.inside:
            await asyncio.sleep(0.02)
    await secure.good()


# -- large --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"y" * (6 * HEAD_BYTES_MAX),  # uvloop reads 256 KiB at a time
        b"GET / HTTP/1.1\r\nhost: a\r\n" + b"x: y\r\n" * (HEADERS_MAX + 1) + b"\r\n",
        b"GET /" + b"y" * (HEAD_BYTES_MAX + 1),
        b"GET / HTTP/1.1\r\nhost: a\r\n" + b"x: " + b"y" * (HEAD_BYTES_MAX + 1) + b"\r\n\r\n",
    ],
    ids=["one field", "many fields", "url", "whole"],
)
async def test_a_huge_head_is_refused(plain: Place, head: bytes) -> None:
    huge = await plain.hostile()
    answered = asyncio.create_task(rest(huge))
    with contextlib.suppress(OSError):
        await asyncio.get_running_loop().sock_sendall(huge, head)
    answer = await answered
    assert (
        answer.startswith(b"HTTP/1.1 431") and json.loads(answer.partition(b"\r\n\r\n")[2])["reason"] == "HeadTooLarge"
    )
    await plain.good()


async def test_an_endless_body_is_cut_off(plain: Place) -> None:
    endless = await plain.hostile(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
    loop, sent = asyncio.get_running_loop(), 0
    piece = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    with contextlib.suppress(OSError):
        while sent < 10 * MESSAGE_BYTES_MAX:
            await loop.sock_sendall(endless, piece)
            sent += len(piece)
    assert sent < 2 * MESSAGE_BYTES_MAX
    await plain.good()


async def test_a_large_body_learns_why_and_the_connection_goes_on(plain: Place) -> None:
    body = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2097152\r\n\r\n" + b"x" * 2097152
    large = await plain.hostile(body + b"GET /good HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    answers = await rest(large)
    assert answers.startswith(b"HTTP/1.1 413") and b'{"path": "/good"}' in answers


async def test_endless_trailers_are_cut_off(plain: Place) -> None:
    trailing = await plain.hostile(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: ")
    sent = 0
    with contextlib.suppress(OSError):
        while sent < 10 * MESSAGE_BYTES_MAX:
            await asyncio.get_running_loop().sock_sendall(trailing, b"y" * 65536)
            sent += 65536
    assert sent < 2 * MESSAGE_BYTES_MAX
    await plain.good()


async def test_what_is_no_http_is_answered_once(plain: Place) -> None:
    odd = await plain.hostile(b"\x00\x01\x02 nonsense\r\n\r\n" * 100)
    assert (await rest(odd)).count(b"HTTP/1.1 400") == 1


# -- many ---------------------------------------------------------------------------------------


async def test_pipelined_requests_are_answered_in_order_up_to_a_limit(plain: Place) -> None:
    some = await plain.hostile(b"".join(b"GET /%d HTTP/1.1\r\nhost: a\r\n\r\n" % n for n in range(8)))
    loop, found = asyncio.get_running_loop(), b""
    async with asyncio.timeout(20):
        while found.count(b"}") < 8:
            found += await loop.sock_recv(some, 65536)
    assert [found.index(b'"/%d"' % n) for n in range(8)] == sorted(found.index(b'"/%d"' % n) for n in range(8))
    many = await plain.hostile(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n" * (PIPELINE_MAX * 100))
    assert (await rest(many)).count(b"HTTP/1.1 200") <= PIPELINE_MAX + 1
    await plain.good()


async def test_idle_connections_make_room(plain: Place, secure: Place) -> None:
    for where in (plain, secure):
        for number in range(200):
            await where.hostile(source=f"127.0.0.{2 + number % 4}")
            assert where.door.inside <= 100
        await where.good()
        assert where.door.tally.shown_out >= 90 and where.door.tally.refused == 0


async def test_one_address_has_no_more_than_its_share(plain: Place) -> None:
    async with asyncio.timeout(20):
        mine, writer = await asyncio.open_connection("127.0.0.1", plain.port)
        writer.write(GOOD)
        await mine.readuntil(b"}")
        for _ in range(200):
            await plain.hostile()
        while plain.door.tally.accepted < 201:
            await asyncio.sleep(0.01)
        assert plain.door.inside <= 41
        writer.write(GOOD)  # the connection that was there before the flood is there yet
        assert b"200 OK" in await mine.readuntil(b"}")
        writer.close()


async def test_two_thousand_idle_connections(plain: Place) -> None:
    allow_descriptors(8192)
    for number in range(2000):
        await plain.hostile(source=f"127.0.1.{1 + number % 200}")
        if number % 100 == 0:
            await plain.good()
    await plain.good(source="127.0.1.1")  # also for the address of one who floods
    assert plain.door.inside <= 100


async def test_nobody_who_is_being_answered_is_shown_out(plain: Place) -> None:
    asking = [await plain.hostile(b"GET /slow HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n") for _ in range(30)]
    for _ in range(100):
        await plain.hostile()
    answers = await asyncio.gather(*(rest(each) for each in asking))
    assert all(a.startswith(b"HTTP/1.1 200") for a in answers)


async def test_plain_http_is_told_to_use_tls(secure: Place) -> None:
    asked = await secure.hostile(GOOD)
    answer = await rest(asked)
    assert answer.startswith(b"HTTP/1.1 400") and b"https://" in answer
    reader = await secure.hostile_tls(b"\x00\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 400")
    await secure.good()
