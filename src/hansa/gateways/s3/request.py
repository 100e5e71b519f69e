"""One request as it came: address, fields and headers read once, the body still on the wire.

Escapes of the address are undone exactly once, here. Nothing is judged: a request that can be read at all becomes a
`Request`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hansa.gateways.s3.stalls import Stalls
from hansa.gateways.s3.wire.errors import S3Error
from hansa.gateways.s3.wire.uri import Query, decode, read_query, single

KEY_BYTES_MAX = 1024
HEADERS_MAX = 100
HEAD_BYTES_MAX = 16 << 10
STALL_S = 30.0  # without one byte of a body
DRAIN_BYTES = 1 << 20  # of a body that nobody wants, read so that the connection can go on
DRAIN_S = 2.0
TLS_VERSIONS = {0x0303: "1.2", 0x0304: "1.3"}  # by their numbers on the wire
LOOPBACK = frozenset({"127.0.0.1", "::1", ""})

Receive = Callable[[], Awaitable[Any]]


class ClientGone(Exception):  # noqa: N818 - no error of ours: the client has left, and nobody is there to be told
    """The client closed the connection before its request was whole."""


class Body:
    """A request's body, read once. `received` counts the bytes that came, `ended` says that they were all."""

    __slots__ = ("_receive", "_stalls", "ended", "length", "received", "stall_s", "touched")

    def __init__(self, receive: Receive, length: int | None, *, empty: bool, stall_s: float = STALL_S) -> None:
        self._receive = receive
        self.length, self.ended, self.touched = length, empty, False
        self.received, self.stall_s, self._stalls = 0, stall_s, Stalls(stall_s)

    async def next(self) -> bytes:
        """The next bytes; empty once the body has ended. Raises RequestTimeout when none come, ClientGone."""
        while not self.ended:
            self.touched = True
            try:
                message = await self._stalls.within(self._receive())
            except TimeoutError as error:
                raise S3Error.of("RequestTimeout", f"No byte of the body came for {self.stall_s:g} s.") from error
            if message["type"] != "http.request":
                raise ClientGone
            self.ended = not message.get("more_body", False)
            if self.ended:
                self._stalls.end()
            data: bytes = message.get("body", b"")
            if data:
                self.received += len(data)
                return data
        return b""

    async def spent(self, *, waits: bool) -> bool:
        """Reads away a short rest, so that the connection may carry another request. False: close it.

        `waits`: the client sends its body only when told to go on, which nobody did.
        """
        if self.ended:
            return True
        if (waits and not self.touched) or (self.length or 0) - self.received > DRAIN_BYTES:
            return False
        before = self.received
        try:
            async with asyncio.timeout(DRAIN_S):
                while self.received - before <= DRAIN_BYTES and await self.next():
                    pass
        except (TimeoutError, S3Error, ClientGone):
            return False
        return self.ended


@dataclass(slots=True)
class Request:
    """`path` is decoded, bucket and all. `query` is in the order sent, `fields` the same by name; `headers` have
    lower-case names and Latin-1 text, `raw_headers` and `raw_query` are those of the wire. `client` is an address."""

    id: str
    method: str
    path: str
    query: Query
    fields: Mapping[str, str]
    headers: Mapping[str, str]
    bucket: str
    key: str
    host: str
    client: str
    tls: bool
    body: Body
    raw_headers: Sequence[tuple[bytes, bytes]] = ()
    raw_query: bytes = b""
    tls_version: str = ""  # as in 1.3; empty where this process has not ended the TLS itself

    @property
    def secure(self) -> bool:
        """Whether nobody else can have read it: it came over TLS, or from this machine."""
        return self.tls or self.client in LOOPBACK

    @property
    def expects(self) -> bool:
        """Whether the client waits for a word before it sends its body."""
        return self.headers.get("expect", "").lower() == "100-continue"

    @property
    def copies(self) -> bool:
        return "x-amz-copy-source" in self.headers

    def header(self, name: str) -> str:
        return self.headers.get(name, "")

    def flag(self, name: str) -> bool:
        return self.headers.get(name, "").lower() == "true"


def read_request(
    scope: Mapping[str, Any], receive: Receive, id: str, domains: Sequence[str], stall_s: float = STALL_S
) -> Request:
    """The request of an ASGI scope. `domains`: hosts under which the first label may name the bucket.

    Raises BadRequest, InvalidURI, InvalidArgument, RequestHeaderSectionTooLarge, KeyTooLongError.
    """
    headers = _headers(scope["headers"])
    host = _host(headers, scope["http_version"])
    path = decode(scope["raw_path"])
    bucket, key = _address(path, _virtual(host, domains))
    query = read_query(scope["query_string"])
    client = scope.get("client")
    return Request(
        id=id,
        method=scope["method"],
        path=path,
        query=query,
        fields=single(query) if query else {},
        headers=headers,
        bucket=bucket,
        key=key,
        host=host,
        client=client[0] if client else "",
        tls=scope.get("scheme") == "https",
        body=_body(headers, receive, stall_s),
        raw_headers=scope["headers"],
        raw_query=scope["query_string"],
        tls_version=_tls_version(scope),
    )


def _tls_version(scope: Mapping[str, Any]) -> str:
    extensions = scope.get("extensions")
    return TLS_VERSIONS.get(extensions["tls"]["tls_version"], "") if extensions and "tls" in extensions else ""


def _headers(raw: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    """Names of ASGI are lower-case already. One that comes twice is joined by a comma, as HTTP has it."""
    found: dict[str, str] = {}
    size = 0
    for name, value in raw:
        size += len(name) + len(value)
        word, text = name.decode("latin-1"), value.decode("latin-1")
        found[word] = f"{found[word]},{text}" if word in found else text
    if len(raw) > HEADERS_MAX or size > HEAD_BYTES_MAX:
        raise S3Error.of(
            "RequestHeaderSectionTooLarge", f"A head may have {HEADERS_MAX} fields and {HEAD_BYTES_MAX} bytes."
        )
    return found


def _host(headers: Mapping[str, str], version: str) -> str:
    """Whom the request means (RFC 9112, section 3.2): one that comes twice was joined, and no name has a comma."""
    host = headers.get("host", "")
    if "," in host or ("host" not in headers and version != "1.0"):
        raise S3Error.of("BadRequest", "Host: is due once.")
    return host


def _virtual(host: str, domains: Sequence[str]) -> str:
    """The bucket that the host's name carries, if it carries one."""
    name = host.partition(":")[0] if not host.startswith("[") else ""
    name = name.lower()
    for domain in domains:
        if name.endswith(domain) and len(name) > len(domain) + 1 and name[-len(domain) - 1] == ".":
            return name[: -len(domain) - 1]
    return ""


def _address(path: str, virtual: str) -> tuple[str, str]:
    """Bucket and key. In path style the first segment is the bucket; the rest, slashes and all, is the key."""
    if not path.startswith("/"):
        raise S3Error.of("InvalidURI", "A path begins with a slash.")
    if virtual:
        bucket, key = virtual, path[1:]
    else:
        bucket, _, key = path[1:].partition("/")
    if len(key) * 3 > KEY_BYTES_MAX and len(key.encode()) > KEY_BYTES_MAX:
        raise S3Error.of("KeyTooLongError", MaxSizeAllowed=KEY_BYTES_MAX, Size=len(key.encode()))
    return bucket, key


def _body(headers: Mapping[str, str], receive: Receive, stall_s: float) -> Body:
    announced = headers.get("content-length")
    if announced is None:
        return Body(receive, None, empty="transfer-encoding" not in headers, stall_s=stall_s)
    if not announced.isascii() or not announced.isdigit():
        raise S3Error.argument("Content-Length", announced, "must be a number of bytes")
    length = int(announced)
    return Body(receive, length, empty=length == 0, stall_s=stall_s)
