"""The web edge: one ASGI application, one dispatch, one error body.

A request is read once, its caller is found once, then it is one of: token service, health, documents
about the API, events, or a resource (by `routes.resolve`). A WebSocket is a console. `except Exception`
stands here and in the loop only.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import orjson
import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from hansa.api.actions import Actions
from hansa.api.audit import REFUSED, Audit
from hansa.api.console import Consoles
from hansa.api.decisions import Decisions
from hansa.api.documents import openapi_document
from hansa.api.explain import explain_document
from hansa.api.gateways import Gateways
from hansa.api.identities import Identities
from hansa.api.patch import refuse_deep
from hansa.api.problem import problem, retry_after
from hansa.api.query import Query, flag, is_digits, query_of, whole, whole_or
from hansa.api.resources import Asking, Resources
from hansa.api.routes import Route, resolve
from hansa.api.usage import Usage
from hansa.clock import Ids
from hansa.errors import Bug, HansaError, Invalid, MethodNotAllowed, NotFound, TooLarge, Unauthenticated
from hansa.kinds.resource import Document
from hansa.policy.verdict import Caller
from hansa.units import BODY_BYTES_MAX

log = structlog.get_logger("hansa.api")
JSON = b"application/json"
VERBS = {"GET": "G", "POST": "C", "PATCH": "P", "DELETE": "D"}
REALM = "evroc-customer"
OWN_ROUTES = ("realms", "openapi.json", "explain", "events", "internal")
NO_STORE = (b"cache-control", b"no-store")


class TokenEndpoints(Protocol):
    async def handle(
        self, method: str, tail: str, headers: Any, body: bytes, base_url: str, address: str = ""
    ) -> tuple[int, dict[str, Any]]: ...


class CallerFinder(Protocol):
    async def of(self, authorization: str | None) -> Caller: ...

    def claims(self, authorization: str | None) -> Mapping[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes = b""
    type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(slots=True)
class Api:
    """The application. `changed(revision)` waits until the store is past a revision, or a few seconds."""

    resources: Resources
    actions: Actions
    consoles: Consoles
    identities: Identities
    audit: Audit
    tokens: TokenEndpoints
    callers: CallerFinder
    ids: Ids
    base_url: str
    changed: Callable[[int], Awaitable[None]]
    ready: Callable[[], Awaitable[Document]]
    gateways: Gateways | None = None  # None: nobody but people and programs is heard
    documents: dict[str, bytes] = field(default_factory=dict)
    usage: Usage = field(init=False)
    decisions: Decisions = field(init=False)

    def __post_init__(self) -> None:
        it = self.resources
        self.usage = Usage(it.store, it.gate, it.clock)
        self.decisions = Decisions(it.store, it.gate)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
            return
        if scope["type"] != "http":
            raise Bug(f"this server speaks HTTP and WebSocket, not {scope['type']}")
        started, request = time.perf_counter(), Request(scope, receive)
        number = scope.get("request") or self.ids.token()[:16]
        try:
            answer = await self._answer(request, number)
        except ClientDisconnect:
            return
        except HansaError as error:
            answer = _refusal(error, number)
        except Exception:
            log.exception("bug", request=number, method=scope["method"], path=scope["path"])
            answer = _refusal(Bug("something is broken here; the log has it under this request's id"), number)
        if isinstance(answer, StreamingResponse):
            answer.headers["x-request-id"] = number
            await answer(scope, receive, send)
            return
        took_ms = round((time.perf_counter() - started) * 1000, 2)
        log.debug(
            "request", request=number, method=scope["method"], path=scope["path"], status=answer.status, ms=took_ms
        )
        headers = [(b"content-type", answer.type), (b"content-length", str(len(answer.body)).encode()),
                   (b"x-request-id", number.encode()), *answer.headers]  # fmt: skip
        if answer.status == 204:
            headers = [h for h in headers if h[0] not in (b"content-type", b"content-length")]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = scope.get("request") or self.ids.token()[:16]
        try:
            await self.consoles.serve(scope, receive, send, request)
        except Exception:
            log.exception("bug", request=request, path=scope["path"])
            await send({"type": "websocket.close", "code": 1011, "reason": f"something is broken here ({request})"})

    async def _answer(self, request: Request, number: str) -> Answer | StreamingResponse:
        parts = [p for p in request.scope["path"].split("/") if p]
        if not parts:
            _only_read(request)
            return _json(200, {"name": "hansa", "openapi": "/openapi.json", "kinds": "/explain/v1/kinds"})
        request.scope["route"] = f"/{parts[0]}" if parts[0] in OWN_ROUTES else "none"
        if parts[:2] == ["internal", "v1"] and request.method == "POST" and self.gateways is not None:
            told = {"usage": self.gateways.take, "bypasses": self.gateways.note_bypasses}.get("/".join(parts[2:]))
            if told is not None:
                bearer = request.headers.get("authorization")
                return _json(200, await told(bearer, partial(_document_in, request), number))
        if parts[0] == "realms":
            return await self._token(request, parts)
        if len(parts) == 1 and (answer := await self._public(request, parts[0])) is not None:
            return answer
        bearer = request.headers.get("authorization")
        try:
            caller = await self.callers.of(bearer)
        except Unauthenticated:
            await self.audit.unauthenticated("token")
            raise
        query = query_of(request.scope.get("query_string", b""))
        asking = Asking(
            caller,
            number,
            dry_run=flag(query, "dryRun"),
            strict=flag(query, "strict"),
            idempotency=_idempotency(request),
            address=_address(request),
            again=partial(self.callers.of, bearer),
        )
        try:
            return await self._asked(request, parts, asking, query)
        except REFUSED as error:
            await self.audit.refused(caller, number, request.method, parts, asking.notes.key, error)
            raise

    async def _asked(
        self, request: Request, parts: list[str], asking: Asking, query: Query
    ) -> Answer | StreamingResponse:
        if parts[:2] == ["explain", "v1"] and parts[2:] == ["kinds"]:
            _only_read(request)
            return self._document("explain", explain_document)
        if parts[:3] == ["events", "v1", "projects"] and len(parts) == 4:
            _only_read(request)
            after, limit = whole(query, "after"), whole_or(query, "limit", 100)
            return _json(200, await self.actions.events_in(asking, parts[3], after, limit))
        if parts[:2] in (["iam", "v1beta1"], ["audit", "v1"]):
            answer = await self.identities.answer(request.method, parts, asking, query, partial(_document_in, request))
            if answer is not None:
                return _json(*answer)
        if parts[:3] == ["ledger", "v1", "projects"] and parts[4:] == ["usage"]:
            _only_read(request)
            return _json(200, await self.usage.read(asking.caller, parts[3], query))
        if parts[:2] == ["decisions", "v1"] and len(parts) == 3:
            _only_read(request)
            return _json(200, await self.decisions.find(asking.caller, parts[2]))
        route = resolve(parts)
        request.scope["route"] = route.template
        said = await self._resource(request, route, asking, query)
        return said if isinstance(said, StreamingResponse) else _decided(said, asking)

    # -- what needs no caller ---------------------------------------------------------------

    async def _token(self, request: Request, parts: list[str]) -> Answer:
        if len(parts) < 3 or parts[1] != REALM:
            raise NotFound(f"there is no realm at {request.scope['path']}; this one is /realms/{REALM}")
        body = await _body(request)
        status, document = await self.tokens.handle(
            request.method, "/".join(parts[2:]), request.headers, body, self.base_url, _address(request)
        )
        if status in (400, 401, 429) and request.method == "POST":
            await self.audit.unauthenticated(str(document.get("error", "")))
        wait = ((b"retry-after", b"60"),) if status == 429 else ()
        return Answer(status, orjson.dumps(document), headers=(NO_STORE, *wait))

    async def _public(self, request: Request, name: str) -> Answer | None:
        if name not in ("healthz", "readyz", "openapi.json"):
            return None
        _only_read(request)
        if name == "healthz":
            return _json(200, {"status": "live"})
        if name == "readyz":
            state = await self.ready()
            return _json(200 if state["ready"] else 503, state)
        return self._document("openapi", openapi_document)

    def _document(self, name: str, make: Callable[[], Document]) -> Answer:
        if name not in self.documents:
            self.documents[name] = orjson.dumps(make())
        return Answer(200, self.documents[name])

    # -- resources --------------------------------------------------------------------------

    async def _resource(
        self, request: Request, route: Route, asking: Asking, query: Query
    ) -> Answer | StreamingResponse:
        if route.verb:
            return await self._verb(request, route, asking, query)
        if route.name is None:
            return await self._collection(request, route, asking, query)
        return await self._object(request, route, asking)

    async def _collection(
        self, request: Request, route: Route, asking: Asking, query: Query
    ) -> Answer | StreamingResponse:
        if request.method == "GET" and "S" in route.kind.verbs:
            return _json(200, await self.resources.singleton(asking, route.kind, route.scope))
        selector = query.get("labelSelector", "")
        if request.method == "GET" and "L" in route.kind.verbs:
            if flag(query, "watch"):
                after = whole(query, "after")
                lines = await self.actions.watch(asking, route.kind, route.scope, after, selector, self.changed)
                return StreamingResponse(lines, media_type="application/x-ndjson")
            limit = whole(query, "limit")
            return _json(200, await self.resources.list(
                asking, route.kind, route.scope, selector=selector, limit=limit, after=query.get("continue", "")))  # fmt: skip
        if request.method == "POST" and "C" in route.kind.verbs:
            made = await self.resources.create(asking, route.kind, route.scope, await _document_in(request))
            return _json(200 if asking.dry_run else 201, made)
        raise _not_offered(request, route)

    async def _object(self, request: Request, route: Route, asking: Asking) -> Answer:
        kind, key = route.kind, route.key
        if VERBS.get(request.method, "?") not in kind.verbs or request.method == "POST":
            raise _not_offered(request, route)
        if request.method == "GET":
            return _json(200, await self.resources.get(asking, kind, key))
        if request.method == "PATCH":
            return _json(200, await self.resources.patch(asking, kind, key, await _document_in(request)))
        await self.resources.delete(asking, kind, key)
        return Answer(204)

    async def _verb(self, request: Request, route: Route, asking: Asking, query: Query) -> Answer:
        kind, key, verb = route.kind, route.key, route.verb
        if request.method == "GET" and verb == "why":
            return _json(200, await self.actions.why(asking, kind, key))
        if request.method == "GET" and verb == "events":
            return _json(200, await self.actions.events_of(asking, kind, key, whole_or(query, "limit", 50)))
        if verb not in kind.actions:
            raise NotFound(f"a {kind.kind} has no {verb}")
        if request.method == "GET" and verb == "logs":
            count = whole_or(query, "bytes", 65_536)
            return Answer(200, await self.actions.log(asking, kind, key, count), b"text/plain; charset=utf-8")
        if request.method == "POST" and verb in ("start", "stop"):
            await self.actions.switch(asking, kind, key, running=verb == "start")
            return _json(202, await self.resources.get(asking, kind, key))
        if request.method == "POST" and verb == "console":
            claims = self.callers.claims(request.headers.get("authorization"))
            ticket = await self.consoles.ticket(asking, kind, key, claims)
            return Answer(201, orjson.dumps(ticket), headers=(NO_STORE,))
        if request.method == "POST" and verb == "revoke":
            body = await _document_in(request, empty=True)
            return _json(200, await self.actions.revoke(asking, kind, key, body))
        if request.method == "POST" and verb == "rotate":
            turned = await self.actions.rotate(asking, kind, key, await _document_in(request, empty=True))
            return Answer(200, orjson.dumps(turned), headers=(NO_STORE,))
        raise _not_offered(request, route)


def _only_read(request: Request) -> None:
    if request.method not in ("GET", "HEAD"):
        raise MethodNotAllowed(f"{request.method} is not offered on {request.scope['path'][:200]}, GET is")


def _decided(answer: Answer, asking: Asking) -> Answer:
    """Names the verdict that let a write through."""
    id = asking.notes.decision
    return replace(answer, headers=(*answer.headers, (b"x-decision-id", id.encode()))) if id else answer


def _not_offered(request: Request, route: Route) -> MethodNotAllowed:
    return MethodNotAllowed(f"{request.method} is not offered on {request.scope['path']} ({route.kind.kind})")


def _json(status: int, document: Document) -> Answer:
    return Answer(status, orjson.dumps(document))


def _refusal(error: HansaError, number: str) -> Answer:
    if error.detail or error.status >= 500:
        log.warning("refused", request=number, reason=error.reason, message=error.message, detail=error.detail)
    wait = retry_after(error)
    headers: list[tuple[bytes, bytes]] = [(b"retry-after", wait.encode())] if wait else []
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return Answer(error.status, orjson.dumps(problem(error, number)), headers=tuple(headers))


def _address(request: Request) -> str:
    return request.client.host if request.client is not None else ""


def _idempotency(request: Request) -> str:
    key = request.headers.get("idempotency-key", "")
    if len(key) > 200:
        raise Invalid.field("Idempotency-Key", "is longer than 200 characters")
    return key if request.method == "POST" else ""


async def _body(request: Request) -> bytes:
    length = request.headers.get("content-length")
    if length is not None and is_digits(length) and int(length) > BODY_BYTES_MAX:
        raise TooLarge(f"the body has {length} bytes; at most {BODY_BYTES_MAX} are taken")
    pieces, total = [], 0
    async for piece in request.stream():
        total += len(piece)
        if total > BODY_BYTES_MAX:
            raise TooLarge(f"the body has more than {BODY_BYTES_MAX} bytes")
        pieces.append(piece)
    return b"".join(pieces)


async def _document_in(request: Request, *, empty: bool = False) -> Document:
    raw = await _body(request)
    if not raw.strip() and empty:
        return {}
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Invalid(f"the body is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise Invalid("the body must be a JSON object")
    refuse_deep(document)
    return document


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
