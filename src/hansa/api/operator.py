"""Around the API, for operators: the id of each request, its line in the log and in the numbers, `/health`, `/metrics`.

A request keeps the id that a client gave it, if that is short and plain, and is answered with it. The id goes on into
the change that the request makes, and from there into what the loop does about it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import orjson
import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hansa.clock import Ids
from hansa.errors import HansaError
from hansa.kinds.resource import Document
from hansa.metrics import CONTENT_TYPE, Metrics

log = structlog.get_logger("hansa.api")
REQUEST_ID = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
CHECK_S = 3.0
PROXIED = frozenset({b"forwarded", b"x-forwarded-for", b"x-real-ip"})
NO_STORE = (b"cache-control", b"no-store")
READING = frozenset({"GET", "HEAD", "OPTIONS"})
METHODS = frozenset({"GET", "POST", "PATCH", "DELETE", "PUT", "HEAD", "OPTIONS"})

Check = Callable[[], Awaitable[str]]  # what is wrong, empty: nothing


@dataclass(frozen=True, slots=True)
class Operator:
    """An application around `api`. `readers`: who may read the numbers: loopback, everywhere, off."""

    api: ASGIApp
    ids: Ids
    metrics: Metrics
    readers: str = "loopback"
    checks: dict[str, Check] = field(default_factory=dict)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.api(scope, receive, send)
            return
        scope["request"] = _given(scope) or self.ids.token()[:16]
        structlog.contextvars.bind_contextvars(request=scope["request"])  # each request is a task of its own
        if scope["type"] == "websocket":
            await self.api(scope, receive, send)
        else:
            await self._http(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        started, status = time.perf_counter(), 0

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if not await self._own(scope, told):
                await self.api(scope, receive, told)
        finally:
            self._count(scope, status, time.perf_counter() - started)

    def _count(self, scope: Scope, status: int, took_s: float) -> None:
        method = scope["method"] if scope["method"] in METHODS else "other"
        route = scope.get("route", "none")
        self.metrics.requests.add(route, method, str(status or 499))  # 499: the client went before the answer
        self.metrics.request_s.observe(took_s, route, method)
        if status == 401:
            self.metrics.unauthenticated.add()
        asks = method in READING or status == 401 or route == "/realms"  # what anybody may do as often as they like
        if not asks or status >= 500:
            log.info("request", method=method, path=scope["path"], status=status or 499, ms=round(took_s * 1000, 2))

    # -- what is answered here --------------------------------------------------------------

    async def _own(self, scope: Scope, send: Send) -> bool:
        path = scope["path"].rstrip("/")
        if scope["method"] not in ("GET", "HEAD"):
            return False
        if path in ("/health/live", "/healthz"):
            scope["route"] = "/health/live"
            await _answer(scope, send, 200, {"status": "live"})
        elif path in ("/health/ready", "/readyz"):
            scope["route"] = "/health/ready"
            state = await self.state()
            await _answer(scope, send, 200 if state["ready"] else 503, state)
        elif path == "/metrics" and self._may_read(scope):
            scope["route"] = "/metrics"
            await _send(scope, send, 200, (await self.metrics.text()).encode(), CONTENT_TYPE)
        else:
            return False
        return True

    async def state(self) -> Document:
        """Whether this process can do its work, and what is wrong if not. Each check has three seconds."""
        said = dict(zip(self.checks, await asyncio.gather(*map(_checked, self.checks.values())), strict=True))
        wrong = {name: text for name, text in said.items() if text}
        ready: Document = {"ready": not wrong, "checks": {n: text or "ok" for n, text in said.items()}}
        return {**ready, "why": "; ".join(f"{n}: {text}" for n, text in wrong.items())} if wrong else ready

    def _may_read(self, scope: Scope) -> bool:
        """From this machine only, unless the setting says otherwise; what a proxy passes on is not from here."""
        if self.readers != "loopback":
            return self.readers == "everywhere"
        client = scope.get("client")
        if client is None or any(name in PROXIED for name, _ in scope["headers"]):
            return False
        try:
            address = ipaddress.ip_address(client[0])
        except ValueError:
            return False
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return (mapped or address).is_loopback


async def nothing_else(scope: Scope, receive: Receive, send: Send) -> None:
    """In the place of the API, for a process that has none: of the control loop, of S3."""
    if scope["type"] == "http":
        said = "this process has no API: it answers /health and /metrics here; the API is elsewhere"
        await _answer(scope, send, 404, {"reason": "NotFound", "debug": said, "request": scope["request"]})
    elif scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})


def _given(scope: Scope) -> str:
    """The id that the client gave the request, if it is one."""
    found = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    return found.decode() if REQUEST_ID.fullmatch(found) else ""


async def _checked(check: Check) -> str:
    try:
        async with asyncio.timeout(CHECK_S):
            return await check()
    except TimeoutError:
        return f"no answer within {CHECK_S:.0f} s"
    except HansaError as error:
        return error.message


async def _answer(scope: Scope, send: Send, status: int, document: Document) -> None:
    await _send(scope, send, status, orjson.dumps(document), b"application/json")


async def _send(scope: Scope, send: Send, status: int, body: bytes, type: bytes) -> None:
    headers = [(b"content-type", type), (b"content-length", str(len(body)).encode()), NO_STORE,
               (b"x-request-id", scope["request"].encode())]  # fmt: skip
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
