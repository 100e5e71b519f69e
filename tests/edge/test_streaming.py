"""Bodies on the ports of S3: of any length as long as they move, cut when they stand still, refused in S3's words."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from hansa.edge import guest, streaming
from hansa.edge.guest import MESSAGE_BYTES_MAX, Limits
from hansa.edge.server import Server, make_server
from hansa.edge.streaming import StreamingHttp
from hansa.edge.taking import HELD_MAX

pytestmark = pytest.mark.anyio


@dataclass
class Place:
    server: Server
    port: int
    held: asyncio.Event

    async def send(self, *pieces: bytes, pause_s: float = 0.0) -> bytes:
        """All that comes back until the end of the connection."""
        async with asyncio.timeout(30):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            answering = asyncio.create_task(reader.read())
            with contextlib.suppress(ConnectionError):
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(pause_s)
                    if answering.done():
                        break
            answer = b""
            with contextlib.suppress(ConnectionError):
                answer = await answering
            writer.close()
            return answer


@pytest.fixture
async def place(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    """It counts a body. `/held` reads nothing until it is let go."""
    monkeypatch.setattr(streaming, "MOVE_S", 1.0)
    monkeypatch.setattr("hansa.edge.http.HEAD_S", 1.0)
    held = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/held":
            await held.wait()
        count, more = 0, True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return
            count, more = count + len(message["body"]), message.get("more_body", False)
        body = b"%d bytes" % count
        headers = [(b"content-length", b"%d" % len(body)), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    server = make_server(app, Limits(50, 20), None, http=StreamingHttp)
    serving = asyncio.create_task(server.serve([listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    yield Place(server, listener.getsockname()[1], held)
    held.set()
    server.should_exit = True
    async with asyncio.timeout(20):
        await serving


@dataclass
class Taken:
    """An application that keeps what it is sent. `gone`: clients that left before it had all of it."""

    server: Server
    port: int
    bodies: list[bytes] = field(default_factory=list)
    may_ask: asyncio.Event = field(default_factory=asyncio.Event)
    gone: int = 0

    async def send(self, *pieces: bytes) -> bytes:
        """All that the application was sent, over one connection: it stays open until the last answer."""
        before = b"".join(pieces).count(b" HTTP/1.1\r\n")
        self.bodies.clear()
        async with asyncio.timeout(30):
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            while len(self.bodies) < before:
                await asyncio.sleep(0.005)
            writer.close()
        return self.bodies[-1]


@pytest.fixture
async def taken() -> AsyncIterator[Taken]:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await found.may_ask.wait()
        pieces, more = [], True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                found.gone += 1
                return
            pieces.append(message["body"])
            more = message.get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})
        found.bodies.append(b"".join(pieces))

    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    server = make_server(app, Limits(50, 20), None, http=StreamingHttp)
    found = Taken(server, listener.getsockname()[1])
    found.may_ask.set()
    serving = asyncio.create_task(server.serve([listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    yield found
    server.should_exit = True
    async with asyncio.timeout(20):
        await serving


def put(path: str, length: int) -> bytes:
    return b"PUT %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (path.encode(), length)


async def test_a_body_may_be_longer_than_anything_of_the_api(place: Place) -> None:
    size = MESSAGE_BYTES_MAX + (8 << 20)
    pieces = [b"x" * (1 << 20)] * (size >> 20)
    assert (await place.send(put("/big", size), *pieces)).endswith(b"%d bytes" % size)


async def test_a_slow_body_that_moves_is_taken(place: Place) -> None:
    pieces = [b"y" * streaming.MOVE_BYTES] * 6
    answer = await place.send(put("/slow", 6 * streaming.MOVE_BYTES), *pieces, pause_s=0.5)  # three deadlines long
    assert answer.endswith(b"%d bytes" % (6 * streaming.MOVE_BYTES))


@pytest.mark.parametrize("pieces", [[], [b"z"] * 12], ids=["silent", "byte by byte"])
async def test_one_that_stands_still_is_ended_in_the_words_of_s3(place: Place, pieces: list[bytes]) -> None:
    answer = await place.send(put("/still", 100_000), *pieces, pause_s=0.4)
    assert answer.startswith(b"HTTP/1.1 400") and b"<Code>RequestTimeout</Code>" in answer
    assert b"application/xml" in answer


async def test_while_we_do_not_read_the_client_is_not_late(place: Place) -> None:
    size = 2 << 20
    sending = asyncio.create_task(place.send(put("/held", size), b"w" * size))
    await asyncio.sleep(2.5)  # more than two deadlines
    assert not sending.done()
    place.held.set()
    assert (await sending).endswith(b"%d bytes" % size)


async def test_heads_that_are_none_are_refused_in_the_words_of_s3(place: Place) -> None:
    assert b"<Code>BadRequest</Code>" in await place.send(b"\x00\x01nonsense\r\n\r\n")
    large = b"GET / HTTP/1.1\r\nhost: x\r\nx-a: " + b"a" * (guest.HEAD_BYTES_MAX + 10) + b"\r\n\r\n"
    assert b"<Code>RequestHeaderSectionTooLarge</Code>" in await place.send(large)
    late = await place.send(b"GET / HTTP/1.1\r\nhost: x\r\n")
    assert b"<Code>RequestTimeout</Code>" in late


async def test_whoever_moved_least_lately_makes_room(place: Place) -> None:
    """Twenty places of one address, all of them in the middle of a body: the one that stands still leaves."""
    async with contextlib.AsyncExitStack() as stack:
        writers = []
        for _ in range(20):
            _, writer = await asyncio.open_connection("127.0.0.1", place.port)
            stack.callback(writer.close)
            writer.write(put("/busy", 1 << 20))
            writers.append(writer)
        await asyncio.sleep(0.2)
        for writer in writers[1:]:
            writer.write(b"m" * streaming.MOVE_BYTES)
        await asyncio.sleep(0.2)
        assert (await place.send(put("/new", 3), b"new")).endswith(b"3 bytes")
        assert place.server.doors[0].tally.shown_out == 1


async def answered(app: Any, request: bytes) -> tuple[bytes, int]:
    """What a connection gets, and how many calls of the transport it took."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = make_server(app, Limits(), http=StreamingHttp)
    task = asyncio.create_task(server.serve([listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.getsockname()[1])
        writer.write(request)
        packets = []
        while packet := await reader.read(1 << 16):
            packets.append(packet)
        writer.close()
        server.should_exit = True
        await task
    return b"".join(packets), len(packets)


def answering(*messages: dict[str, Any]) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    return app


def head(status: int, **headers: str) -> dict[str, Any]:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http.response.start", "status": status, "headers": raw}


def body(data: bytes = b"", *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


ASK = b"%s / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


async def test_head_and_first_bytes_leave_together() -> None:
    said, packets = await answered(answering(head(200, content_length="4"), body(b"data")), ASK % b"GET")
    assert said.startswith(b"HTTP/1.1 200 OK\r\n") and said.endswith(b"connection: close\r\n\r\ndata") and packets == 1


async def test_an_answer_without_a_length_is_sent_in_chunks() -> None:
    said, _ = await answered(answering(head(200), body(b"one", more=True), body(more=True), body(b"two")), ASK % b"GET")
    assert b"transfer-encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n" in said


async def test_an_answer_of_a_head_alone_has_no_body() -> None:
    for method, status in ((b"HEAD", 200), (b"GET", 304), (b"DELETE", 204)):
        said, _ = await answered(answering(head(status, content_length="4"), body()), ASK % method)
        assert said.endswith(b"\r\n\r\n") and b"content-length: 4" in said and b"chunked" not in said


@pytest.mark.parametrize("given", [b"short", b"much too long"])
async def test_an_answer_of_another_length_than_it_said_is_cut_off(given: bytes) -> None:
    said, _ = await answered(answering(head(200, content_length="8"), body(given)), ASK % b"GET")
    assert given not in said


async def test_a_connection_goes_on_until_one_side_closes_it() -> None:
    both = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n" + ASK % b"GET"
    said, _ = await answered(answering(head(200, content_length="1"), body(b"a")), both)
    assert said.count(b"HTTP/1.1 200 OK") == 2 and said.count(b"connection: close") == 1
    said, _ = await answered(answering(head(200, content_length="1", connection="close"), body(b"a")), both)
    assert said.count(b"HTTP/1.1 200 OK") == 1


async def test_a_body_comes_whole_in_pieces_of_any_size(taken: Taken) -> None:
    data = os.urandom(3 << 20)
    for size in (1, 1000, 70_000, 3 << 20):
        some = data[: size * 50]
        pieces = [some[at : at + size] for at in range(0, len(some), size)]
        assert await taken.send(put("/", len(some)), *pieces) == some
    chunks = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (data[:5], data[5:200_000], data[200_000:])]
    head = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    assert await taken.send(head, *chunks, b"0\r\n\r\n") == data


async def test_two_bodies_that_are_sent_at_once_are_not_mixed(taken: Taken) -> None:
    one, two = os.urandom(700_000), os.urandom(900_000)
    await taken.send(put("/", len(one)) + one + put("/", len(two)) + two)
    assert taken.bodies == [one, two]


async def test_who_waits_to_be_told_to_go_on_is_told(taken: Taken) -> None:
    head = b"PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\nexpect: 100-continue\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", taken.port)
    writer.write(head)
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"abc")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    writer.close()
    assert taken.bodies == [b"abc"]


async def test_little_is_held_for_who_does_not_ask_and_nothing_for_who_has_left(taken: Taken) -> None:
    taken.may_ask.clear()
    _, writer = await asyncio.open_connection("127.0.0.1", taken.port)
    writer.write(put("/", 64 << 20) + bytes(64 << 20))
    await asyncio.sleep(0.5)
    (connection,) = taken.server.server_state.connections
    assert isinstance(connection, StreamingHttp) and connection._taking is not None
    assert HELD_MAX < connection._taking._held <= HELD_MAX + (256 << 10) and connection.flow.read_paused
    writer.transport.abort()
    taken.may_ask.set()
    async with asyncio.timeout(5):
        while not taken.gone:
            await asyncio.sleep(0.01)
    assert connection._taking._held == 0 and not taken.bodies
