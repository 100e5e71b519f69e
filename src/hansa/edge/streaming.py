"""The protocol of a connection whose bodies are streams: of any size, for as long as they move.

What differs from the API's: a body has no limit of its own (whoever serves the request knows one) and no time in all,
but must move while it is waited for; refusals speak S3's XML; and a head leaves together with the first bytes behind it.
"""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import Sequence
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from hansa.edge.guest import HEAD_BYTES_MAX, HEADERS_MAX, PIPELINE_MAX
from hansa.edge.http import GuardedHttp
from hansa.edge.taking import Taking

# A body that is waited for must move by so many bytes in so many seconds; who reads it gives up after 30 s without any.
MOVE_S = 40.0
MOVE_BYTES = 4 << 10
JOINED_MAX = 64 << 10  # bytes of an answer that are cheaper to copy than to send in two parts
_SAID = {
    400: (400, "BadRequest", "This is no HTTP/1.1 request."),
    408: (400, "RequestTimeout", "The request did not arrive in time."),
    413: (400, "EntityTooLarge", "The request is larger than anything that is taken."),
    429: (503, "SlowDown", f"More than {PIPELINE_MAX} requests were sent before their answers were read."),
    431: (
        400, "RequestHeaderSectionTooLarge", f"The head has more than {HEAD_BYTES_MAX} bytes or {HEADERS_MAX} fields.",
    ),
}  # fmt: skip


WITH_BODY = frozenset({"PUT", "POST"})  # where another method has one, uvicorn takes it
_TLS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2.value, "TLSv1.3": ssl.TLSVersion.TLSv1_3.value}


class StreamingHttp(GuardedHttp):
    """One connection. `_moved`: bytes of the body since its deadline was last put off; `_taking`: who takes that body; `_tls`:
    the version that it speaks, by its number on the wire, as ASGI's extension for TLS has it."""

    message_bytes_max = math.inf
    _moved = 0
    _taking: Taking | None = None
    _tls: int | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        spoken = transport.get_extra_info("ssl_object")
        self._tls = _TLS.get(spoken.version()) if spoken is not None else None

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._taking is not None:
            self._taking.drop()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._taking = None
        if self._tls is not None:
            self.scope["extensions"] = {"tls": {"tls_version": self._tls}}

    def on_headers_complete(self) -> None:
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is before:
            return
        self.cycle.__class__ = _Answering  # uvicorn has made it, and its task has not begun
        if self.scope["method"] in WITH_BODY:
            self._taking = Taking(self.cycle)
            self.cycle.receive = self._taking.receive  # type: ignore[method-assign]

    def on_body(self, body: bytes) -> None:
        self._moved += len(body)
        if self._taking is not None:
            self._taking.add(body)
        else:
            super().on_body(body)
        if self._moved >= MOVE_BYTES and not self._whole:
            self._put_off()

    def _judge(self) -> None:
        super()._judge()
        if not self._whole and not self._in_head and not self.transport.is_closing():
            self._put_off()

    def _put_off(self) -> None:
        self._moved = 0
        self._guest.deadline = self.loop.time() + MOVE_S
        self._guest.waits_since = self.loop.time()  # whoever moved least lately is shown out first to make room

    def _late(self) -> None:
        """While we ourselves do not read, it is not the client who is late."""
        in_body = not self._whole and not self._in_head and not self.transport.is_closing()
        if in_body and self.flow.read_paused:
            self._put_off()
        else:
            super()._late()

    def _words(self, status: int) -> tuple[int, bytes, bytes]:
        code, name, said = _SAID[status]
        body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{name}</Code><Message>{said}</Message></Error>'
        return code, b"application/xml", body.encode()


class _Answering(RequestResponseCycle):
    """One request's answer, as uvicorn sends it but for two things. Its head waits for what follows, which comes without
    delay: one call of the system and one packet for both, where each would wake the client. And its headers are sent as they
    are: those of the gateway were made of what a header may hold (`answers`), and to look at each letter again costs more
    than all the rest of sending a small object.
    """

    _head = b""

    async def send(self, message: Any) -> None:
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if not self.response_started:
            assert message["type"] == "http.response.start"
            self.response_started, self.waiting_for_100_continue = True, False
            self._head = self._begun(message["status"], message["headers"])
        elif self.response_complete:
            raise RuntimeError("an answer goes on after its end")
        else:
            self._go_on(message.get("body", b""), message.get("more_body", False))

    def _begun(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
        length, closes = None, False
        lines = [STATUS_LINE[status]]
        for name, value in (*self.default_headers, *headers):
            lines += (name, b": ", value, b"\r\n")
            if name == b"content-length":
                length = int(value)
            elif name == b"connection":
                closes = value.lower() == b"close"
        self.keep_alive = self.keep_alive and not closes
        if not (self.keep_alive or closes):
            lines.append(b"connection: close\r\n")
        has_body = self.scope["method"] != "HEAD" and status not in (204, 304)
        self.chunked_encoding = has_body and length is None
        self.expected_content_length = (length or 0) if has_body else 0
        lines.append(b"transfer-encoding: chunked\r\n\r\n" if self.chunked_encoding else b"\r\n")
        return b"".join(lines)

    def _go_on(self, body: bytes | memoryview, more: bool) -> None:
        if self.scope["method"] == "HEAD":
            body = b""
        head, self._head = self._head, b""
        parts: list[bytes | memoryview] = [head] if head else []
        if not self.chunked_encoding:
            self.expected_content_length -= len(body)
            if self.expected_content_length < 0 or (self.expected_content_length and not more):
                raise RuntimeError("an answer has another length than it said")
            parts += [body] if body else []
        else:
            parts += [b"%x\r\n" % len(body), body, b"\r\n"] if body else []
            parts += [] if more else [b"0\r\n\r\n"]
        if len(body) <= JOINED_MAX:
            self.transport.write(b"".join(parts))
        else:
            self.transport.writelines(parts)
        if not more:
            self._ended()

    def _ended(self) -> None:
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()
