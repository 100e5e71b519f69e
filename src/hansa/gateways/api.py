"""A lean client of the cloud's own API, for gateways: JSON over a few kept connections, every call with a deadline.

The SDK's client is for people's programs and brings a library with it that takes more memory than a whole idle gateway
has. A call goes to the address where the API listens; TLS is held against the name in its URL.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httptools
import orjson

from hansa.errors import Retry

CONNECT_S = 3.0
IDLE_MAX = 8  # connections that wait for the next call
IDLE_S = 30.0  # less than the API keeps one
ANSWER_BYTES_MAX = 8 << 20
HEAD_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class ApiPlace:
    """`url` is what clients are told and tokens are issued by; `at` (`http://ADDR:PORT`, or https) where it is reached,
    empty: there. Between the two may stand what speaks TLS to the world and none to us.

    `authority`: a file with the authority of its certificate; None: those of this machine.
    """

    url: str
    at: str = ""
    authority: Path | None = None

    @property
    def address(self) -> tuple[str, int]:
        place = urlsplit(self.at or self.url)
        return place.hostname or "127.0.0.1", place.port or (443 if self.secure else 80)

    @property
    def secure(self) -> bool:
        return (self.at or self.url).startswith("https:")


@dataclass(frozen=True, slots=True)
class Answered:
    status: int
    document: Mapping[str, Any]

    @property
    def reason(self) -> str:
        return str(self.document.get("reason", ""))

    @property
    def message(self) -> str:
        """What the API said, for the user."""
        return str(self.document.get("debug", "") or self.document.get("message", ""))


class Unreached(Retry):
    """The API was not there, or had closed a kept connection meanwhile."""


@dataclass(slots=True)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    place: ApiPlace
    idle_since: float = 0.0


@dataclass(slots=True)
class _Reading:
    """What the parser tells of one answer."""

    pieces: list[bytes] = field(default_factory=list)
    size: int = 0
    whole: bool = False

    def on_body(self, body: bytes) -> None:
        self.size += len(body)
        self.pieces.append(body)

    def on_message_complete(self) -> None:
        self.whole = True


class ApiClient:
    """`place` is looked up at each call: an API that starts again may listen elsewhere."""

    def __init__(self, place: Callable[[], ApiPlace]) -> None:
        self.place = place
        self._idle: deque[_Connection] = deque()
        self._contexts: dict[Path | None, ssl.SSLContext] = {}

    async def ask(
        self, method: str, path: str, token: str, body: Mapping[str, Any] | None = None, *, timeout_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> Answered:  # fmt: skip
        """A call may reach the API twice. Raises Unreached, and Retry when no whole answer came: nobody knows then what
        became of the call."""
        place = self.place()
        request = _request(place, method, path, token, body, headers or {})
        try:
            async with asyncio.timeout(timeout_s):
                return await self._sent(place, request)
        except TimeoutError as error:
            raise Retry(f"the API did not answer within {timeout_s:g} s") from error

    async def _sent(self, place: ApiPlace, request: bytes) -> Answered:
        """A kept connection may have been closed by the other side just now: then once more on a new one."""
        while (kept := self._kept(place)) is not None:
            try:
                return await self._exchange(kept, request)
            except Unreached:
                continue
        return await self._exchange(await self._connect(place), request)

    async def _exchange(self, connection: _Connection, request: bytes) -> Answered:
        reading = _Reading()
        parser = httptools.HttpResponseParser(reading)
        try:
            connection.writer.write(request)
            await connection.writer.drain()
            while not reading.whole:
                data = await connection.reader.read(HEAD_BYTES)
                if not data:
                    raise ConnectionResetError("closed by the API")
                parser.feed_data(data)
                if reading.size > ANSWER_BYTES_MAX:
                    raise Retry("the API answered more than anybody asked for")
        except (OSError, httptools.HttpParserError) as error:
            connection.writer.close()
            nothing_came = not reading.pieces and isinstance(error, ConnectionError) and connection.idle_since > 0
            failed = Unreached if nothing_came else Retry
            raise failed("the connection to the API broke", detail=str(error)) from error
        except BaseException:
            connection.writer.close()
            raise
        answered = Answered(parser.get_status_code(), _document(b"".join(reading.pieces)))
        if parser.should_keep_alive():
            self._keep(connection)
        else:
            connection.writer.close()
        return answered

    async def _connect(self, place: ApiPlace) -> _Connection:
        secure, (host, port) = place.secure, place.address
        try:
            async with asyncio.timeout(CONNECT_S):
                reader, writer = await asyncio.open_connection(
                    host, port, ssl=self._context(place.authority) if secure else None,
                    server_hostname=urlsplit(place.url).hostname if secure else None,
                )  # fmt: skip
        except (OSError, TimeoutError) as error:
            raise Unreached(f"the API at {place.url} cannot be reached", detail=str(error)) from error
        return _Connection(reader, writer, place)

    def _context(self, authority: Path | None) -> ssl.SSLContext:
        if authority not in self._contexts:
            self._contexts[authority] = ssl.create_default_context(cafile=authority)
        return self._contexts[authority]

    def _kept(self, place: ApiPlace) -> _Connection | None:
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()
            fresh = now - connection.idle_since < IDLE_S and connection.place == place
            if fresh and not connection.reader.at_eof() and not connection.writer.is_closing():
                return connection
            connection.writer.close()
        return None

    def _keep(self, connection: _Connection) -> None:
        connection.idle_since = asyncio.get_running_loop().time()
        self._idle.append(connection)
        if len(self._idle) > IDLE_MAX:
            self._idle.popleft().writer.close()

    def close(self) -> None:
        for connection in self._idle:
            connection.writer.close()
        self._idle.clear()


def _request(
    place: ApiPlace, method: str, path: str, token: str, body: Mapping[str, Any] | None, headers: Mapping[str, str]
) -> bytes:
    parts = urlsplit(place.url)
    base = "" if place.at else parts.path.rstrip("/")  # which is for what stands before the API
    payload = orjson.dumps(body) if body is not None else b""
    lines = [
        f"{method} {base}{path} HTTP/1.1", f"host: {parts.netloc}", f"authorization: Bearer {token}",
        "accept: application/json", f"content-length: {len(payload)}",
        *(["content-type: application/json"] if payload else []), *(f"{n}: {v}" for n, v in headers.items()),
    ]  # fmt: skip
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + payload


def _document(body: bytes) -> Mapping[str, Any]:
    """Raises Retry for what is no JSON object: something stands between us and the API."""
    try:
        found = orjson.loads(body) if body else {}
    except orjson.JSONDecodeError as error:
        raise Retry("what answered is not the API", detail=repr(body[:80])) from error
    return found if isinstance(found, dict) else {}
