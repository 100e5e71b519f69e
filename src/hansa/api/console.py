"""The serial console of a machine over a WebSocket: the ticket that opens it, and who may.

A ticket is the caller's access token once more, narrowed: signed by the same keys, for one machine, one use
and 30 seconds, traded by a POST that asks the policy. Nothing of it is kept until it is used; then its `jti`
is claimed in the store, in the same commit that records who opened the console, so that any process of the
API may serve any ticket and none serves one twice.

It travels in the query of the WebSocket's URL. A browser can set no header there but the list of
subprotocols, and that one names protocols: a server has to answer it with one of them, and many tools cannot
set it, while a URL is all that any of them needs. A query may end in the log of a proxy: that is why a ticket
is spent by the handshake and dead after half a minute. Our own server logs no query, the store keeps a digest.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any
from urllib.parse import SplitResult, urlencode, urlsplit

import orjson
import structlog
from starlette.types import Receive, Scope, Send

from hansa.api.assertions import SKEW_S
from hansa.api.audit import write_record
from hansa.api.caller import issuer_of, standing
from hansa.api.carry import CUT_OFF, STOPPED, Ending, carry, finish, short
from hansa.api.keys import SigningKeys
from hansa.api.problem import problem, retry_after
from hansa.api.query import query_of
from hansa.api.resources import Asking, Resources
from hansa.engines.ports import ComputeEngine, Console, MachineReport, MachineState
from hansa.errors import Conflict, Forbidden, Full, HansaError, InUse, NotFound, Retry, Unauthenticated
from hansa.kinds.registry import read
from hansa.kinds.resource import AnyResource, Document, Key
from hansa.policy.verdict import Act, Caller
from hansa.store.port import Append, Claim, Reserve

PATH = "/console/v1"
AUDIENCE = "hansa-console"
STREAM = "consoles"  # of records: who opened the console of which machine, and when
TICKET_S = 30
TAIL_BYTES = 4096  # of the log, shown first, so that a prompt is seen
OPEN_MAX = 8  # consoles of one machine, in one process
CHECK_S = 10.0  # how often an open console is looked at: may they still, does it still run
BASIS = ("sub", "account", "via", "proof")  # claims that a ticket takes over from the access token
JUDGE_TRIES = 10
JUDGE_PAUSE_S = 0.2
LIVE = frozenset({MachineState.STARTING, MachineState.RUNNING, MachineState.PAUSED, MachineState.STOPPING})
LOOPBACK = ("127.0.0.1", "localhost")
DEFAULT_PORTS = {"http": 80, "https": 443}

log = structlog.get_logger("hansa.api")


@dataclass(frozen=True, slots=True)
class Seat:
    """An admitted caller at an open console. `first`: the end of the log; `started_at`: of the machine."""

    it: AnyResource
    caller: Caller
    console: Console
    first: bytes
    started_at: float


@dataclass(slots=True)
class Consoles:
    """Tickets, and the WebSockets that they open. `engine_of`: the engine that runs a machine, if any does."""

    resources: Resources
    keys: SigningKeys
    base_url: str
    engine_of: Callable[[AnyResource], ComputeEngine | None]
    check_s: float = CHECK_S
    _open: Counter[str] = field(default_factory=Counter)  # by uid of the machine

    # -- tickets ----------------------------------------------------------------------------

    async def ticket(self, asking: Asking, kind: type[AnyResource], key: Key, access: Mapping[str, Any]) -> Document:
        """A ticket for one machine's console. `access`: the claims of the access token that asks.

        Raises Forbidden, NotFound; Conflict when the machine does not run; InUse when too many look on.
        """
        await self.resources.gate.allow(asking.caller, Act.CONSOLE, kind, key)
        it = kind(await self.resources.stored(key))
        await self._running(it)
        self._refuse_crowd(it)
        now = int(self.resources.clock.now())
        life_s = min(TICKET_S, int(access["exp"]) - now)
        claims = {
            **{name: access[name] for name in BASIS},
            "iss": issuer_of(self.base_url),
            "aud": AUDIENCE,
            "iat": now,
            "exp": now + life_s,
            "jti": self.resources.ids.token(),
            "machine": it.uid,
        }
        text = self.keys.sign(claims)
        place = urlsplit(self.base_url)
        url = f"{'wss' if place.scheme == 'https' else 'ws'}://{place.netloc}{place.path.rstrip('/')}{PATH}"
        return {"ticket": text, "expiresIn": life_s, "url": f"{url}?{urlencode({'ticket': text})}"}

    async def _running(self, it: AnyResource) -> tuple[ComputeEngine, float]:
        """The engine that runs it, and since when. Raises Conflict saying what to do when none does, Retry."""
        if it.deleting:
            raise Conflict(f"{it.key} is being deleted: its console is closed")
        engine = self.engine_of(it)
        report = await engine.observe(it.uid) if engine is not None else MachineReport(it.uid, MachineState.ABSENT)
        if engine is None or report.state not in LIVE:
            raise Conflict(f"{it.key} does not run, so it has no console now: {_what_to_do(it, report.state)}")
        return engine, report.started_at

    def _refuse_crowd(self, it: AnyResource) -> None:
        if self._open[it.uid] >= OPEN_MAX:
            raise InUse(f"InUse: {OPEN_MAX} consoles of {it.key} are open already: close one first")

    # -- the WebSocket ----------------------------------------------------------------------

    async def serve(self, scope: Scope, receive: Receive, send: Send, request: str) -> None:
        """One WebSocket, from the handshake to its end. A refusal is an HTTP answer before it is accepted."""
        await receive()  # websocket.connect
        async with contextlib.AsyncExitStack() as stack:
            try:
                claims = self._presented(scope)
                seat = await self._seated(claims, request, stack)
            except HansaError as error:
                log.info("console refused", request=request, reason=error.reason, message=error.message)
                await deny(scope, send, error, request)
                return
            log.info("console opened", request=request, machine=seat.it.ref, by=seat.caller.ref)

            async def check() -> Ending | None:
                return await self._check(seat, claims)

            ending = await carry(seat.console, seat.first, receive, send, check, self.check_s)
            ending = await self._judged(seat, ending)
        log.info("console closed", request=request, machine=seat.it.ref, code=ending.code, reason=ending.reason)
        await finish(send, ending)

    def _presented(self, scope: Scope) -> Mapping[str, Any]:
        """The claims of the ticket that a handshake brings. Raises NotFound, Forbidden, Invalid."""
        if scope["path"] != PATH:
            raise NotFound(f"there is no WebSocket at {scope['path']}; consoles are at {PATH}")
        check_origin(dict(scope["headers"]).get(b"origin"), self.base_url)
        text = query_of(scope.get("query_string", b"")).get("ticket", "")
        if not text:
            raise Forbidden(f"a console needs a ticket, as in {PATH}?ticket=…; POST …/console on the machine gives one")
        claims = self.keys.verified(text)
        if claims is None or (claims.get("aud"), claims.get("iss")) != (AUDIENCE, issuer_of(self.base_url)):
            raise Forbidden("this is no ticket of this cloud; POST …/console on the machine gives one")
        if not self.resources.clock.now() < float(claims["exp"]):
            raise Forbidden(f"this ticket has expired: it is good for {TICKET_S} s; ask for another")
        return claims

    async def _seated(self, claims: Mapping[str, Any], request: str, stack: contextlib.AsyncExitStack) -> Seat:
        """Everything that must hold, then the ticket is spent and the console opened; `stack` gives back."""
        stored = await self.resources.store.find(str(claims["machine"]))
        if stored is None:
            raise NotFound("the machine of this ticket is gone")
        it = read(stored)
        caller = await self._caller(it, claims)
        engine, started_at = await self._running(it)
        self._refuse_crowd(it)
        self._open[it.uid] += 1
        stack.callback(self._leave, it.uid)
        await self._spend(it, caller, claims, request)
        console = await engine.console(it.uid)  # before the log: what comes between is shown twice, not never
        stack.push_async_callback(console.close)
        first = whole_lines(await engine.log(it.uid, TAIL_BYTES), TAIL_BYTES)
        return Seat(it, caller, console, first, started_at)

    async def _caller(self, it: AnyResource, claims: Mapping[str, Any]) -> Caller:
        """Who stands behind a ticket, if they still may. Raises Forbidden, NotFound."""
        store, now = self.resources.store, self.resources.clock.now()
        try:
            caller = await standing(store, claims, now)
        except Unauthenticated as error:
            raise Forbidden(error.message) from error
        await self.resources.gate.allow(caller, Act.CONSOLE, type(it), it.key)
        return caller

    async def _spend(self, it: AnyResource, caller: Caller, claims: Mapping[str, Any], request: str) -> None:
        """Claims the ticket for good and records the opening, in one commit. Raises Forbidden when it was used."""
        store = self.resources.store
        used = sha256(str(claims["jti"]).encode()).hexdigest()
        claim = Claim("console-tickets", used, until=float(claims["exp"]) + SKEW_S)
        body = {"revision": await store.revision(), "by": caller.ref, "request": request,
                "kind": it.kind, "id": it.name, "ref": it.ref}  # fmt: skip
        subject = await self.resources.gate.subject(type(it), it.key)
        record = write_record(self.resources.ids.uid(), subject, caller, request, "console", uid=it.uid)
        writes = (Reserve(self.resources.ids.uid(), (claim,)), Append(STREAM, used, it.uid, body), record)
        try:
            await store.commit(*writes, by=caller.ref, request=request)
        except Full as error:
            raise Forbidden("this ticket was used before: each opens one console; ask for another") from error

    async def _check(self, seat: Seat, claims: Mapping[str, Any]) -> Ending | None:
        """Why an open console may not go on, None when it may, or when nobody can say now.

        A guest that switched itself off may leave its line open.
        """
        try:
            await self._caller(seat.it, claims)
            return None if await self._goes_on(seat) else STOPPED
        except (Forbidden, NotFound) as error:
            return Ending(1008, error.message)
        except Retry:
            return None

    async def _judged(self, seat: Seat, ending: Ending) -> Ending:
        """A console that ended has no machine any more, or its host fell behind: the machine itself tells.

        A process closes its line a moment before it is gone, so it is asked more than once.
        """
        try:
            for _ in range(JUDGE_TRIES):
                if ending != STOPPED or not await self._goes_on(seat):
                    return ending
                await asyncio.sleep(JUDGE_PAUSE_S)
        except Retry:
            return ending
        return CUT_OFF

    async def _goes_on(self, seat: Seat) -> bool:
        """Whether the machine still runs as it did when its console was opened. Raises Retry."""
        try:
            _, started_at = await self._running(seat.it)
        except Conflict:
            return False
        return started_at == seat.started_at

    def _leave(self, uid: str) -> None:
        self._open[uid] -= 1
        if not self._open[uid]:
            del self._open[uid]


async def deny(scope: Scope, send: Send, error: HansaError, request: str) -> None:
    """Refuses a handshake: as an HTTP answer with the body of all errors, where the server can send one."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008, "reason": short(error.message)})
        return
    headers = [(b"content-type", b"application/json"), (b"x-request-id", request.encode())]
    if (wait := retry_after(error)) is not None:
        headers.append((b"retry-after", wait.encode()))
    with contextlib.suppress(OSError):  # who asked may be gone
        await send({"type": "websocket.http.response.start", "status": error.status, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": orjson.dumps(problem(error, request))})


# -- pure ---------------------------------------------------------------------------------------


def check_origin(origin: bytes | None, base_url: str) -> None:
    """A browser says which page opens a WebSocket, and pages of others may not. Raises Forbidden.

    Compared with the address that this cloud was started for, never with the request's own `Host`: a name
    that somebody points at this machine would agree with itself.
    """
    if origin is None:
        return
    own = urlsplit(base_url)
    hosts = LOOPBACK if own.hostname in LOOPBACK else (own.hostname,)
    try:
        asked = urlsplit(origin.decode("latin-1"))
        known = asked.scheme == own.scheme and asked.hostname in hosts and _port(asked) == _port(own)
    except ValueError:
        known = False
    if not known:
        raise Forbidden(f"pages of {origin.decode('latin-1')[:200]!r} may not open consoles of this cloud")


def _port(url: SplitResult) -> int | None:
    return url.port if url.port is not None else DEFAULT_PORTS.get(url.scheme)


def whole_lines(tail: bytes, limit_bytes: int) -> bytes:
    """The end of a log without the line that the limit cut in two."""
    if len(tail) < limit_bytes or b"\n" not in tail:
        return tail
    return tail[tail.index(b"\n") + 1 :]


def _what_to_do(it: AnyResource, state: MachineState) -> str:
    if not it.spec.running:
        return f"it is stopped; start it first (`hansa start {it.name}`)"
    if state is MachineState.POWERED_OFF:
        return f"the guest switched itself off; start it again (`hansa start {it.name}`)"
    if state in (MachineState.DIED, MachineState.LOST):
        return "its process ended and is started again by itself; try again in a moment"
    return f"it is not started yet; wait for it (`hansa wait vm/{it.name}`), or ask `hansa why vm/{it.name}`"
