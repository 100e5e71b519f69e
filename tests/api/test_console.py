"""The live console: one ticket, one WebSocket, owners only, and nobody holds up anybody else."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey
from structlog.testing import capture_logs

from hansa.api.carry import BACKLOG_BYTES_MAX, FRAME_BYTES_MAX, Backlog, Ending, carry, finish, short
from hansa.api.console import OPEN_MAX, TAIL_BYTES, check_origin, whole_lines
from hansa.api.documents import openapi_document
from hansa.api.explain import explain_document
from hansa.api.keys import SigningKeys
from hansa.api.tokens import ASSERTION_TYPE
from hansa.bootstrap import ensure_organization
from hansa.clock import SystemClock, SystemIds
from hansa.dates import rfc3339
from hansa.engines.ports import MachineState
from hansa.engines.simulated import SimulatedCompute
from hansa.errors import Forbidden, Retry
from hansa.kinds.resource import Key
from hansa.store.port import Update
from hansa.wiring import Cloud

from ..postgres import all_that_is_kept
from .conftest import BASE, Talk, token_for

pytestmark = pytest.mark.anyio
TOKEN_URL = f"{BASE}/realms/evroc-customer/protocol/openid-connect/token"
DISK = {"diskSize": {"amount": 1, "unit": "GB"}, "placement": {"zone": "a"}}
DENIAL = {"websocket.http.response": {}}


# -- a WebSocket without a network --------------------------------------------------------------


class Socket:
    """One WebSocket of the application: what the server would hand over, and what it would send."""

    def __init__(self, cloud: Cloud, url: str, *, origin: str = "", extensions: Any = DENIAL) -> None:
        self.takes = asyncio.Event()  # cleared: the other side takes nothing more
        self.takes.set()
        parts = urlsplit(url)
        headers = [(b"host", b"127.0.0.1:8080"), *([(b"origin", origin.encode())] if origin else [])]
        scope = {"type": "websocket", "path": parts.path, "query_string": parts.query.encode(), "headers": headers,
                 "extensions": extensions}  # fmt: skip
        self.sent: asyncio.Queue[Any] = asyncio.Queue()
        self._received: asyncio.Queue[Any] = asyncio.Queue()
        self._received.put_nowait({"type": "websocket.connect"})
        self.task = asyncio.create_task(cloud.api(scope, self._received.get, self._send))

    async def _send(self, message: Any) -> None:
        await self.takes.wait()
        self.sent.put_nowait(message)

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(10):
            message: dict[str, Any] = await self.sent.get()
            return message

    async def accepted(self) -> bytes:
        """The first frame of an accepted one: the end of the log."""
        message = await self.next()
        assert message["type"] == "websocket.accept", message
        return bytes((await self.next())["bytes"])

    async def refused(self) -> tuple[int, dict[str, Any]]:
        start, body = await self.next(), await self.next()
        await self.task
        assert start["type"] == "websocket.http.response.start" and body["type"] == "websocket.http.response.body"
        return start["status"], json.loads(body["body"])

    async def until(self, wanted: bytes) -> bytes:
        seen = b""
        while wanted not in seen:
            message = await self.next()
            assert message["type"] == "websocket.send", f"{message} after {seen[-200:]!r}"
            seen += message["bytes"]
        return seen

    async def closed(self) -> tuple[int, str]:
        """The closing frame, past what was still on its way."""
        while (message := await self.next())["type"] == "websocket.send":
            pass
        await self.task
        return message["code"], message["reason"]

    def type(self, data: bytes) -> None:
        self._received.put_nowait({"type": "websocket.receive", "bytes": data, "text": None})

    def say(self, text: str) -> None:
        self._received.put_nowait({"type": "websocket.receive", "bytes": None, "text": text})

    async def leave(self) -> None:
        self._received.put_nowait({"type": "websocket.disconnect", "code": 1000})
        async with asyncio.timeout(10):
            await self.task


async def make_machine(talk: Talk, name: str = "vm") -> str:
    await talk.make(talk.at("disks"), f"{name}-d", DISK)
    spec = {
        "computeProfileRef": "c1a.s",
        "disks": [{"diskRef": f"{name}-d", "bootFrom": True}],
        "placement": {"zone": "a"},
    }
    await talk.make(talk.at("virtualMachines"), name, spec)
    await talk.until(talk.at(f"virtualMachines/{name}"))
    return talk.at(f"virtualMachines/{name}")


@pytest.fixture
async def machine(talk: Talk) -> str:
    return await make_machine(talk)


@dataclass
class House:
    """A machine, and consoles of it that are opened and left."""

    cloud: Cloud
    talk: Talk
    path: str
    opened: list[Socket] = field(default_factory=list)

    async def ticket(self) -> dict[str, Any]:
        answer = await self.talk.call("POST", f"{self.path}/console")
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made

    def socket(self, url: str, **more: Any) -> Socket:
        self.opened.append(Socket(self.cloud, url, **more))
        return self.opened[-1]

    async def open(self, **more: Any) -> Socket:
        socket = self.socket((await self.ticket())["url"], **more)
        await socket.accepted()
        return socket

    async def uid(self) -> str:
        return str((await self.talk.read(self.path))["metadata"]["uid"])

    @property
    def engine(self) -> SimulatedCompute:
        engine = self.cloud.world.engines.compute("a-1")
        assert isinstance(engine, SimulatedCompute)
        return engine


@pytest.fixture
async def house(cloud: Cloud, talk: Talk, machine: str) -> AsyncIterator[House]:
    made = House(cloud, talk, machine)
    yield made
    for socket in made.opened:
        if not socket.task.done():
            await socket.leave()
    assert not cloud.api.consoles._open, "a console was not given back"


# -- tickets ------------------------------------------------------------------------------------


async def test_a_ticket_opens_the_console_both_ways(house: House) -> None:
    answer = await house.talk.call("POST", f"{house.path}/console")
    ticket = answer.json()
    assert answer.status_code == 201 and answer.headers["cache-control"] == "no-store"
    assert ticket["expiresIn"] == 30 and set(ticket) == {"ticket", "expiresIn", "url"}
    assert ticket["url"] == f"ws://127.0.0.1:8080/console/v1?ticket={ticket['ticket']}"
    socket = house.socket(ticket["url"])
    assert b"simulated: vm started" in await socket.accepted()
    socket.type(b"uname -a\n")
    assert b"uname -a\n" in await socket.until(b"uname -a\n")
    await socket.leave()
    assert b"uname -a" in (await house.talk.call("GET", f"{house.path}/logs")).content


async def test_all_who_look_on_see_the_same(house: House) -> None:
    one, two = await house.open(), await house.open()
    one.type(b"from one;")
    two.type(b"from two;")
    for socket in (one, two):
        seen = await socket.until(b"from two;")
        assert b"from one;from two;" in seen


async def test_a_ticket_opens_one_console_only(house: House) -> None:
    ticket = await house.ticket()
    first = house.socket(ticket["url"])
    await first.accepted()
    status, body = await house.socket(ticket["url"]).refused()
    assert status == 403 and body["reason"] == "Forbidden" and "used before" in body["debug"]
    await first.leave()
    assert (await house.socket(ticket["url"]).refused())[0] == 403


async def test_of_many_at_once_with_one_ticket_only_one_gets_in(house: House) -> None:
    ticket = await house.ticket()
    sockets = [house.socket(ticket["url"]) for _ in range(6)]
    answers = [(await socket.next())["type"] for socket in sockets]
    assert sorted(answers) == ["websocket.accept", *["websocket.http.response.start"] * 5]


async def test_a_refused_handshake_leaves_the_ticket_good(house: House) -> None:
    ticket = await house.ticket()
    assert (await house.socket(ticket["url"], origin="https://elsewhere.example").refused())[0] == 403
    await house.socket(ticket["url"]).accepted()


async def test_what_is_no_ticket_is_refused_before_the_handshake(house: House) -> None:
    ticket = (await house.ticket())["ticket"]
    keys = house.cloud.api.consoles.keys
    claims = keys.verified(ticket)
    assert claims is not None

    def signed(by: SigningKeys = keys, **other: Any) -> str:
        return by.sign({**claims, **other})

    now = SystemClock().now()
    for text, word in (
        ("", "needs a ticket"), ("x", "no ticket"), (ticket[:-4] + "AAAA", "no ticket"), (house.talk.token, "no ticket"),
        (signed(SigningKeys.fresh()), "no ticket"), (signed(aud="hansa-api"), "no ticket"), (signed(iss="http://other"), "no ticket"),
        (signed(exp=now - 1), "expired"), (signed(account="/iam/users/nobody"), "gone"), (signed(sub="another"), "replaced"),
        (signed(proof="0" * 16), "replaced"),
    ):  # fmt: skip
        status, body = await house.socket(f"ws://127.0.0.1:8080/console/v1?ticket={text}").refused()
        assert status == 403 and word in body["debug"], (text[:20], body)
    status, body = await house.socket(f"ws://h/console/v1?ticket={signed(machine='another')}").refused()
    assert status == 404 and "gone" in body["debug"]
    await house.socket(f"ws://h/console/v1?ticket={signed(jti='fresh')}").accepted()  # the rest of it was right


async def test_a_ticket_is_no_access_token(house: House) -> None:
    ticket = (await house.ticket())["ticket"]
    answer = await house.talk.call("GET", house.path, headers={"Authorization": f"Bearer {ticket}"})
    assert answer.status_code == 401 and "audience" in answer.json()["debug"]


async def test_a_ticket_lives_no_longer_than_the_token_that_asks(house: House) -> None:
    keys, clock = house.cloud.api.consoles.keys, SystemClock()
    claims = keys.verified(house.talk.token)
    assert claims is not None
    short_lived = Talk(house.talk.http, keys.sign({**claims, "exp": int(clock.now()) + 10}))
    ticket = (await short_lived.call("POST", f"{house.path}/console")).json()
    assert 8 <= ticket["expiresIn"] <= 10


async def test_nothing_of_a_ticket_is_kept_or_logged(house: House, tmp_path: Path) -> None:
    with capture_logs() as logs:
        ticket = (await house.ticket())["ticket"]
        socket = house.socket(f"ws://h/console/v1?ticket={ticket}")
        await socket.accepted()
        assert (await house.socket(f"ws://h/console/v1?ticket={ticket}").refused())[0] == 403
        await socket.leave()
    claims = house.cloud.api.consoles.keys.verified(ticket)
    assert claims is not None
    secrets = [ticket, ticket.split(".")[2], claims["jti"]]
    assert "console opened" in str(logs) and not [s for s in secrets if s in str(logs)]
    held = await house.cloud.store.claims("console-tickets")
    assert len(held) == 1 and held[0].claim.until is not None
    kept = await all_that_is_kept(tmp_path / "hansa.db")
    assert not [s for s in secrets if s.encode() in kept]


# -- who may ------------------------------------------------------------------------------------


async def member(cloud: Cloud, talk: Talk) -> Talk:
    """A service account of the project, which owns nothing."""
    scope = "/iam/v1beta1/projects/demo/serviceAccounts"
    account = await talk.make(scope, "helper", {"enabled": True})
    spec = {"accountRef": {"fqid": "/iam/projects/demo/serviceAccounts/helper"}, "type": "rs256-jwt", "expiresAt": rfc3339(SystemClock().now() + 3600),
            "rs256Jwt": {}}  # fmt: skip
    made = await talk.make(f"{scope}/helper/serviceAccountCredentials", "one", spec)
    secret = json.loads(base64.b64decode(made["status"]["privateKeyJwk"]))
    client, now = account["status"]["oauthClientId"], SystemClock().now()
    claims = {"iss": client, "sub": client, "aud": TOKEN_URL, "jti": "1", "iat": int(now), "exp": int(now) + 60}
    text = jwt.encode({"alg": "RS256", "kid": secret["kid"]}, claims, RSAKey.import_key(secret))
    form = {"grant_type": "client_credentials", "client_assertion_type": ASSERTION_TYPE, "client_assertion": text}
    answer = await talk.http.post(urlsplit(TOKEN_URL).path, data=form)
    assert answer.status_code == 200, answer.text
    return Talk(talk.http, str(answer.json()["access_token"]))


async def test_members_read_the_log_and_may_not_type(house: House) -> None:
    helper = await member(house.cloud, house.talk)
    assert (await helper.call("GET", f"{house.path}/logs")).status_code == 200
    answer = await helper.call("POST", f"{house.path}/console")
    assert answer.status_code == 403
    assert "takes the permission compute.virtualMachines.console" in answer.json()["debug"]
    assert "helper is projectContributor here" in answer.json()["debug"]


async def test_strangers_learn_nothing(house: House) -> None:
    organization, _, refresh = await ensure_organization(house.cloud.store, SystemClock(), SystemIds(), "stranger")
    stranger = Talk(house.talk.http, await token_for(house.talk.http, refresh))
    there = await stranger.call("POST", f"{house.path}/console")
    missing = await stranger.call("POST", house.talk.at("virtualMachines/nothing/console"))
    assert there.status_code == missing.status_code == 403 and organization
    assert there.json()["debug"] == missing.json()["debug"]


async def test_only_machines_have_a_console(talk: Talk) -> None:
    await talk.make(talk.at("disks"), "d", DISK)
    assert (await talk.call("POST", talk.at("disks/d/console"))).status_code == 404
    assert (await talk.call("POST", talk.at("virtualMachines/none/console"))).status_code == 404
    assert (await talk.call("GET", talk.at("virtualMachines/none/console"))).status_code == 405
    assert (await talk.http.post(talk.at("virtualMachines/none/console"))).status_code == 401


async def disable(cloud: Cloud) -> None:
    stored = await cloud.store.get(Key("User", "", cloud.credentials.user))
    await cloud.store.commit(Update(stored.key, stored.user_revision, {**stored.spec, "enabled": False}))


async def test_an_owner_who_is_disabled_loses_an_open_console(house: House) -> None:
    house.cloud.api.consoles.check_s = 0.02
    socket, ticket = await house.open(), await house.ticket()
    await asyncio.sleep(0.1)
    socket.type(b"still here;")
    await socket.until(b"still here;")
    await disable(house.cloud)
    assert await socket.closed() == (1008, "this account is disabled")
    status, body = await house.socket(ticket["url"]).refused()
    assert status == 403 and body["debug"] == "this account is disabled"


@pytest.mark.parametrize(
    ("origin", "base", "good"),
    [("http://127.0.0.1:8080", BASE, True), ("http://localhost:8080", BASE, True), ("http://127.0.0.1:8081", BASE, False),
     ("https://127.0.0.1:8080", BASE, False), ("http://127.0.0.1", BASE, False), ("http://evil.example:8080", BASE, False),
     ("http://127.0.0.1.evil.example:8080", BASE, False), ("null", BASE, False), ("", BASE, False), ("file://", BASE, False),
     ("http://[", BASE, False), ("http://127.0.0.1:99999", BASE, False), ("http://127.0.0.1:x", BASE, False), ("\xff", BASE, False),
     ("https://cloud.example", "https://cloud.example", True), ("https://cloud.example", "https://cloud.example:443/", True),
     ("http://cloud.example", "https://cloud.example", False), ("https://localhost", "https://cloud.example", False)],
)  # fmt: skip
def test_pages_of_others_may_not_open_consoles(origin: str, base: str, good: bool) -> None:
    check_origin(None, base)
    if good:
        check_origin(origin.encode("latin-1"), base)
    else:
        with pytest.raises(Forbidden, match="may not open consoles"):
            check_origin(origin.encode("latin-1"), base)


async def test_a_page_of_this_cloud_may(house: House) -> None:
    await house.socket((await house.ticket())["url"], origin="http://localhost:8080").accepted()


# -- machines that do not run -------------------------------------------------------------------


async def test_a_stopped_machine_says_what_to_do(house: House) -> None:
    socket, ticket = await house.open(), await house.ticket()
    await house.talk.call("POST", f"{house.path}/stop")
    assert await socket.closed() == (1001, "the machine stopped")
    await house.talk.until(house.path)
    answer = await house.talk.call("POST", f"{house.path}/console")
    assert answer.status_code == 409 and answer.json()["reason"] == "Conflict"
    assert "it is stopped; start it first (`hansa start vm`)" in answer.json()["debug"]
    assert (await house.socket(ticket["url"]).refused())[0] == 409
    assert (await house.talk.call("GET", f"{house.path}/logs")).status_code == 200
    await house.talk.call("POST", f"{house.path}/start")
    await house.talk.until(house.path)
    assert b"started" in await house.socket(ticket["url"]).accepted()  # it was never used


async def test_a_guest_that_switched_itself_off_says_what_to_do(house: House) -> None:
    socket = await house.open()
    socket.type(b"bye;")
    house.engine.power_off(await house.uid())
    assert await socket.closed() == (1001, "the machine stopped")
    answer = await house.talk.call("POST", f"{house.path}/console")
    assert answer.status_code == 409 and "switched itself off; start it again" in answer.json()["debug"]


async def test_a_machine_that_was_never_started_says_what_to_do(house: House) -> None:
    await house.talk.make(house.talk.at("disks"), "d2", DISK)
    spec = {"computeProfileRef": "c1a.s", "disks": [{"diskRef": "d2", "bootFrom": True}], "placement": {"zone": "a"}}
    path = house.talk.at("virtualMachines/idle")
    await house.talk.make(house.talk.at("virtualMachines"), "idle", {**spec, "running": False})
    answer = await house.talk.call("POST", f"{path}/console")
    assert answer.status_code == 409 and "hansa start idle" in answer.json()["debug"]


async def test_the_last_words_of_a_guest_are_heard(house: House) -> None:
    socket = await house.open()
    console = await house.engine.console(await house.uid())
    await console.write(b"last words;")
    house.engine.power_off(await house.uid())
    await socket.until(b"last words;")
    assert await socket.closed() == (1001, "the machine stopped")


async def test_a_guest_that_is_off_ends_its_console_though_the_line_stays_open(house: House) -> None:
    house.cloud.api.consoles.check_s = 0.02
    socket = await house.open()
    await asyncio.sleep(0.1)
    assert not socket.task.done()
    house.engine._guests[await house.uid()].state = MachineState.POWERED_OFF
    assert await socket.closed() == (1001, "the machine stopped")


async def test_a_console_that_its_host_let_go_of_is_not_called_a_stopped_machine(house: House) -> None:
    socket = await house.open()
    for console in house.engine._guests[await house.uid()].consoles.copy():
        await console.close()
    code, reason = await socket.closed()
    assert code == 1013 and "the machine goes on; open it again" in reason
    await house.open()


# -- limits -------------------------------------------------------------------------------------


async def test_so_many_consoles_of_a_machine_and_no_more(house: House) -> None:
    spare = await house.ticket()
    sockets = [await house.open() for _ in range(OPEN_MAX)]
    answer = await house.talk.call("POST", f"{house.path}/console")
    assert answer.status_code == 409 and answer.json()["reason"] == "InUse" and "close one" in answer.json()["debug"]
    status, body = await house.socket(spare["url"]).refused()
    assert status == 409 and body["reason"] == "InUse"
    other = await make_machine(house.talk, "other")
    assert (await house.talk.call("POST", f"{other}/console")).status_code == 201
    await sockets[0].leave()
    await house.socket(spare["url"]).accepted()


async def test_frames_are_binary_and_bounded(house: House) -> None:
    socket = await house.open()
    socket.say("text")
    assert await socket.closed() == (1003, "a console takes binary frames only")
    socket = await house.open()
    socket.type(b"")
    socket.type(b"x" * FRAME_BYTES_MAX)
    await socket.until(b"x" * 100)
    socket.type(b"x" * (FRAME_BYTES_MAX + 1))
    assert (await socket.closed())[0] == 1009


async def test_one_who_does_not_read_is_dropped_and_holds_up_nobody(house: House) -> None:
    slow, other = await house.open(), await house.open()
    slow.takes.clear()
    sent = 0
    async with asyncio.timeout(10):
        while house.cloud.api.consoles._open[await house.uid()] == 2:
            other.type(b"y" * FRAME_BYTES_MAX)
            sent += FRAME_BYTES_MAX
            await other.until(b"y" * FRAME_BYTES_MAX)
    assert sent > BACKLOG_BYTES_MAX and not other.task.done()
    slow.takes.set()
    code, reason = await slow.closed()
    assert code == 1013 and "too slowly" in reason


async def test_a_server_without_denial_responses_closes_with_a_reason(house: House) -> None:
    socket = house.socket("ws://h/console/v1?ticket=x", extensions={})
    code, reason = await socket.closed()
    assert code == 1008 and "no ticket" in reason and len(reason.encode()) <= 123


async def test_there_is_no_other_websocket(house: House) -> None:
    for path in ("/", "/console/v2", house.path, f"{house.path}/console"):
        status, body = await house.socket(f"ws://h{path}?ticket=x").refused()
        assert status == 404 and "/console/v1" in body["debug"]


# -- what is left of it -------------------------------------------------------------------------


async def test_opening_a_console_is_an_event_of_the_machine(house: House) -> None:
    await (await house.open()).leave()
    await (await house.open()).leave()
    for path in (f"{house.path}/events", "/events/v1/projects/demo"):
        items = (await house.talk.read(path))["items"]
        opened = [event for event in items if event["act"] == "console"]
        assert len(opened) == 2 and items[-1] == opened[-1]
        assert set(opened[0]) == set(items[0])
        assert (
            opened[0]["ref"] == "/compute/projects/demo/regions/se-sto/virtualMachines/vm" and opened[0]["id"] == "vm"
        )
        assert opened[0]["by"] == f"/iam/users/{house.cloud.credentials.user}" and opened[0]["request"]
        assert [event["revision"] for event in items] == sorted(event["revision"] for event in items)
    assert len((await house.talk.call("GET", f"{house.path}/events", params={"limit": "1"})).json()["items"]) == 1
    other = await make_machine(house.talk, "other")
    assert "console" not in [event["act"] for event in (await house.talk.read(f"{other}/events"))["items"]]


def test_the_documents_of_the_api_tell_of_it() -> None:
    document = openapi_document()
    path = "/compute/v1beta2/projects/{project}/regions/{region}/virtualMachines/{id}/console"
    assert (
        "201" in document["paths"][path]["post"]["responses"]
        and "101" in document["paths"]["/console/v1"]["get"]["responses"]
    )
    told = next(kind for kind in explain_document()["items"] if kind["kind"] == "VirtualMachine")
    assert "console" in told["actions"]


# -- carrying -----------------------------------------------------------------------------------


class Guest:
    """A console that writes what it is told to, and takes what it is told to."""

    def __init__(self, *words: bytes, takes: bool = True) -> None:
        self.words, self.takes, self.typed = list(words), takes, b""
        self.closed = False

    async def read(self) -> bytes:
        return self.words.pop(0) if self.words else b""

    async def write(self, data: bytes) -> None:
        if not self.takes:
            raise Retry("gone")
        self.typed += data

    async def close(self) -> None:
        self.closed = True


async def allowed() -> None: ...


async def never(*_message: Any) -> Any:
    await asyncio.Event().wait()


async def test_what_a_guest_wrote_before_it_ended_goes_out_first() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    ending = await carry(Guest(b"a", b"b" * FRAME_BYTES_MAX, b"c"), b"first", never, send, allowed, 60.0)
    assert ending == Ending(1001, "the machine stopped")
    frames = [message["bytes"] for message in sent[1:]]
    assert frames[0] == b"first" and b"".join(frames[1:]) == b"a" + b"b" * FRAME_BYTES_MAX + b"c"
    assert max(map(len, frames)) <= FRAME_BYTES_MAX


async def test_a_guest_that_takes_nothing_is_not_called_a_stopped_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hansa.api.carry.DRAIN_S", 0.05)

    class Deaf(Guest):
        async def read(self) -> bytes:
            await never()
            return b""

    async def typing() -> Any:
        return {"type": "websocket.receive", "bytes": b"x"}

    async def send(_message: Any) -> None: ...

    assert await carry(Deaf(takes=False), b"", typing, send, allowed, 60.0) == Ending(1013, "gone")


async def test_a_reader_who_is_gone_ends_it_quietly() -> None:
    async def broken(_message: Any) -> None:
        raise OSError("the connection is lost")

    class Silent(Guest):
        async def read(self) -> bytes:
            await never()
            return b""

    ending = await carry(Silent(), b"", never, broken, allowed, 60.0)
    assert ending == Ending(0)
    await finish(broken, Ending(1001, "x"))  # nobody to tell it to


async def test_a_bug_of_an_engine_is_not_swallowed() -> None:
    class Broken(Guest):
        async def read(self) -> bytes:
            raise ZeroDivisionError

    async def send(_message: Any) -> None: ...

    with pytest.raises(ZeroDivisionError):
        await carry(Broken(), b"", never, send, allowed, 60.0)


async def test_a_backlog_gives_back_in_order_and_has_an_end() -> None:
    backlog = Backlog(limit_bytes=10)
    assert backlog.put(b"01234") and backlog.put(b"56789") and not backlog.put(b"x")
    assert await backlog.take(4) == b"0123" and backlog.put(b"abcd") and await backlog.take(99) == b"456789abcd"
    waiting = asyncio.create_task(backlog.take())
    await asyncio.sleep(0)
    assert not waiting.done() and backlog.put(b"late")
    assert await waiting == b"late"
    backlog.put(b"rest")
    backlog.end()
    assert (await backlog.take(), await backlog.take(), await backlog.take()) == (b"rest", b"", b"")


def test_a_line_that_the_limit_cut_is_left_out() -> None:
    assert whole_lines(b"a\nb", TAIL_BYTES) == b"a\nb"
    assert whole_lines(b"cut\nwhole\n$ ", 12) == b"whole\n$ "
    assert whole_lines(b"one long line", 13) == b"one long line" and whole_lines(b"", 5) == b""


def test_a_reason_fits_into_a_closing_frame() -> None:
    assert short("x" * 500) == "x" * 123 and len(short("é" * 100).encode()) <= 123 and short("short") == "short"
