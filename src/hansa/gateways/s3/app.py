"""The S3 gateway as an ASGI application: from bytes of a request to bytes of an answer, by one path for all operations.

    read    the address, the headers; which operation it is
    who     the signature, against the directory; or nobody
    where   the bucket's view
    pace    not more than the project may ask
    serve   the operation, which asks `permission` before it does anything
    send    head and first bytes together; errors in the protocol's words

No framework stands on this path: each layer of one costs as much as the whole signature.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from itertools import count
from os import urandom
from typing import Any

import structlog

from hansa.errors import Bug, HansaError, NotFound, Retry
from hansa.gateways.s3.answers import XML, Answer
from hansa.gateways.s3.calls.crossorigin import add_cors
from hansa.gateways.s3.calls.lookup import bucket_named, check_owner
from hansa.gateways.s3.calls.table import SERVE
from hansa.gateways.s3.gateway import Call, Gateway
from hansa.gateways.s3.pace import Pace
from hansa.gateways.s3.refusals import Refused, translated
from hansa.gateways.s3.reopening import reopened
from hansa.gateways.s3.request import ClientGone, Receive, Request, read_request
from hansa.gateways.s3.wire import xml
from hansa.gateways.s3.wire.errors import S3Error
from hansa.gateways.s3.wire.operations import route

log = structlog.get_logger("hansa.s3")
Send = Callable[[Any], Awaitable[None]]
HOST_ID = urandom(12).hex()
SAID = [(b"x-amz-id-2", HOST_ID.encode()), (b"server", b"hansa")]  # in every answer
LEFT = 499  # the client closed before it was answered; the figure is for meters only


class S3App:
    """One for the process."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._pace, self._refused = Pace(gateway.settings.processes), Refused()
        self._prefix, self._count = urandom(5).hex().upper(), count(1)

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        began = time.perf_counter()
        exchange = _Exchange(f"{self._prefix}{next(self._count):06X}")
        try:
            answer = await self._answer(scope, receive, exchange)
            await _send(answer, exchange, receive, send)
        except ClientGone:
            exchange.status = LEFT
        except HansaError as error:  # half-way: the client sees an answer that is too short, and the end of the line
            log.warning("an answer was cut off", request=exchange.id, error=error.message, detail=error.detail)
        self._note(exchange, time.perf_counter() - began)

    async def _answer(self, scope: Mapping[str, Any], receive: Receive, exchange: _Exchange) -> Answer:
        try:
            answer = await self._serve(scope, receive, exchange)
            await _begin(answer, exchange)
        except HansaError as error:
            answer = _refusal(await self._meant(error, exchange), exchange)
            self._refused.note(error, exchange.id, exchange.call, time.monotonic())
        except ClientGone:
            raise
        except Exception:
            log.exception("a request failed", request=exchange.id)
            answer = _refusal(S3Error.of("InternalError"), exchange)
        request, call = exchange.request, exchange.call
        if request is None:
            answer.close = True
            return answer
        if "origin" in request.headers:
            add_cors(answer, self._gateway, request, call.view if call else None)
        if not request.body.ended:
            answer.close = answer.close or not await request.body.spent(waits=request.expects)
        return answer

    async def _serve(self, scope: Mapping[str, Any], receive: Receive, exchange: _Exchange) -> Answer:
        gateway, now = self._gateway, self._gateway.clock.now()
        request = read_request(scope, receive, exchange.id, gateway.settings.domains, gateway.settings.stall_s)
        exchange.request = request
        operation = route(request.method, request.bucket, request.key, request.fields, copies=request.copies)
        call = Call(gateway, request, operation, now)
        exchange.call = call
        if operation.name not in UNSIGNED:
            call.signed = await gateway.identifier.of(request, now)
        if request.bucket:
            call.view = await bucket_named(call, request.bucket, waits=operation.name not in MAY_LACK)
            if call.view is not None:
                check_owner(call.view, request.headers.get("x-amz-expected-bucket-owner"))
        self._paced(call)
        if not operation.supported:
            raise S3Error.of("NotImplemented", f"{operation.name} is not supported here.")
        answer = await SERVE[operation.name](call)
        if not call.decided and answer.status < 300:
            raise Bug(f"{operation.name} was answered and nobody decided that it may be")
        return answer

    async def _meant(self, error: HansaError, exchange: _Exchange) -> HansaError:
        """The index may say that there is no bucket where there is one: then the client shall come again."""
        view = exchange.call.view if exchange.call is not None else None
        if not isinstance(error, NotFound) or view is None:
            return error
        try:
            again = await reopened(self._gateway, view)
        except HansaError as trouble:
            return trouble
        return Retry("the bucket was closed for a deletion that never came", after_s=1) if again else error

    def _paced(self, call: Call) -> None:
        """A signed request counts for who signed it. Anonymous ones count for the bucket's project, but apart from its
        own: the crowd at its door keeps nobody out who has a key."""
        project = call.signed.identity.project if call.signed else call.view.project if call.view else ""
        if project:
            rates = self._gateway.directory.project_limits(project).rates
            self._pace.take(rates, time.monotonic(), crowd=call.signed is None)

    def _note(self, exchange: _Exchange, seconds: float) -> None:
        meter, call, request = self._gateway.meter, exchange.call, exchange.request
        if meter is not None:
            meter.count(
                call.operation.name if call else "Unknown",
                exchange.status,
                bucket=call.view if call else None,
                seconds=seconds,
                received=request.body.received if request else 0,
                sent=exchange.sent,
            )


UNSIGNED = frozenset({"Preflight", "PostObject"})  # a form carries its signature in its fields
MAY_LACK = frozenset({"Preflight", "CreateBucket"})  # the bucket: nobody waits to hear of one


class _Exchange:
    """What is known of a request even when it fails half-way."""

    __slots__ = ("call", "id", "request", "sent", "status")

    def __init__(self, id: str) -> None:
        self.id = id
        self.request: Request | None = None
        self.call: Call | None = None
        self.status, self.sent = 500, 0

    @property
    def head(self) -> bool:
        """Is only the head of an answer asked for?"""
        return self.request is not None and self.request.method == "HEAD"


# -- refusals -----------------------------------------------------------------------------------


def _refusal(error: HansaError, exchange: _Exchange) -> Answer:
    refused = error if isinstance(error, S3Error) else translated(error)
    if refused.status >= 500 and not isinstance(error, S3Error):
        log.warning("a request could not be served", request=exchange.id, error=error.message, detail=error.detail)
    answer = Answer(refused.status)
    request = exchange.request
    if refused.status != 304 and not exchange.head:
        answer.headers.append(XML)
        path = request.path if request is not None else "/"
        answer.body = xml.error_document(refused, resource=path, request_id=exchange.id, host_id=HOST_ID)
    return answer.extend(refused.headers)


# -- sending ------------------------------------------------------------------------------------


async def _begin(answer: Answer, exchange: _Exchange) -> None:
    """The first bytes of a stream, while there still can be an error in their place. Raises what the store raises."""
    if answer.stream is not None and not exchange.head:
        answer.body = await anext(answer.stream, b"")


async def _send(answer: Answer, exchange: _Exchange, receive: Receive, send: Send) -> None:
    exchange.status = answer.status
    head, first = exchange.head, answer.body
    rest = None if head else answer.stream
    await send({"type": "http.response.start", "status": answer.status, "headers": _head(answer, exchange)})
    exchange.sent = len(first)
    if rest is None or exchange.sent == answer.length:
        await send({"type": "http.response.body", "body": b"" if head else first})
        await _close(answer.stream)
        return
    await send({"type": "http.response.body", "body": first, "more_body": True})
    await _stream(rest, exchange, receive, send)


async def _stream(rest: AsyncIterator[bytes | memoryview], exchange: _Exchange, receive: Receive, send: Send) -> None:
    """Ends early, without an end of the answer, when the client has left: nobody reads what it no longer wants."""
    left = asyncio.ensure_future(_left(receive))
    try:
        async for piece in rest:
            if left.done():
                raise ClientGone
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            exchange.sent += len(piece)
        await send({"type": "http.response.body", "body": b""})
    finally:
        left.cancel()
        await _close(rest)


async def _close(stream: AsyncIterator[bytes | memoryview] | None) -> None:
    close = getattr(stream, "aclose", None)
    if close is not None:
        await close()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _head(answer: Answer, exchange: _Exchange) -> list[tuple[bytes, bytes]]:
    headers = answer.headers
    headers.append((b"x-amz-request-id", exchange.id.encode()))
    headers += SAID
    if answer.length is not None:
        headers.append((b"content-length", b"%d" % answer.length))
    elif answer.stream is None and answer.status not in (204, 304):
        headers.append((b"content-length", b"%d" % len(answer.body)))
    if answer.close:
        headers.append((b"connection", b"close"))
    return headers
