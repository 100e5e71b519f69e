"""The same calls as the command line's, for programs: small, typed and synchronous.

    client = Client.from_environment()
    client.create(Disk, "data", {"diskSize": {"amount": 10, "unit": "GB"}, "placement": {"zone": "a"}})
    disk = client.wait(Disk, "data")        # a hansa.kinds.compute.Disk
    for machine in client.list("vm"):       # plain documents, as they travel
        print(machine["metadata"]["id"])

A kind is given as its class, and then objects come back typed, or by any of its names, and then they come
back as the documents of the wire. Only the first imports the kinds. Not to be shared between threads.
"""

from __future__ import annotations

import builtins
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload
from urllib.parse import quote, urlencode

from hansa.errors import Gone, HansaError, NotFound, Unauthenticated
from hansa.kinds.reasons import is_terminal
from hansa.sdk import names
from hansa.sdk.credentials import Connection, Tokens
from hansa.sdk.errors import Ended, TimedOut, Unreachable, of_answer
from hansa.sdk.names import Known, Target
from hansa.sdk.transport import Answer, Transport
from hansa.sdk.watch import Event, events_of

if TYPE_CHECKING:
    from hansa.kinds.resource import Resource, Spec
    from hansa.sdk.console import Console

Document = dict[str, Any]
Documents = list[Document]  # `list` is a method below
R = TypeVar("R", bound="Resource[Any, Any]")

POLL_S_FIRST = 0.1
POLL_S_MAX = 1.0
WAIT_S = 300.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What a wait saw last: `state` and `message` for people. `done` or not; `ended`: it never will be."""

    state: str
    message: str = ""
    done: bool = False
    ended: bool = False


@dataclass(frozen=True)
class Client:
    """One cloud, as one caller, in one place (project, region). `at` gives the same in another place."""

    transport: Transport
    tokens: Tokens
    place: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_environment(cls, data: Path | str | None = None) -> Client:
        """From HANSA_* or EVROC_* variables, or `data`/hansa.env. Raises Unclear, saying how to get one."""
        return cls.connected(Connection.from_environment(data))

    @classmethod
    def connected(cls, to: Connection) -> Client:
        transport = Transport(to.url, ca_file=to.ca_file)
        place = {"project": to.project, "region": to.region, "organization": to.organization}
        return cls(transport, Tokens(to, transport), place)

    def at(self, **place: str | None) -> Client:
        """The same in another place: `at(region="eu-par")`, `at(serviceAccount="ci")`. None keeps what is."""
        return replace(self, place={**self.place, **{k: v for k, v in place.items() if v is not None}})

    def close(self) -> None:
        """Closes the connection; the next call opens another."""
        self.transport.close()

    # -- objects --------------------------------------------------------------------------------

    @overload
    def list(self, kind: type[R], *, selector: str = "") -> builtins.list[R]: ...
    @overload
    def list(self, kind: str, *, selector: str = "") -> Documents: ...
    def list(self, kind: type[R] | str, *, selector: str = "") -> builtins.list[R] | Documents:
        """All objects of a kind in this place, oldest first; `selector` as in `tier=web,env!=test`."""
        query = {"labelSelector": selector} if selector else {}
        known = _known(kind)
        answer = self.request("GET", self.path_of(Target(known)), query)
        items: Documents = [answer] if "S" in known.verbs else answer["items"]
        return items if isinstance(kind, str) else [self._typed(kind, item) for item in items]

    @overload
    def get(self, kind: type[R], name: str) -> R: ...
    @overload
    def get(self, kind: str, name: str) -> Document: ...
    def get(self, kind: type[R] | str, name: str) -> R | Document:
        """One object. Raises NotFound."""
        document = self.request("GET", self.path(kind, name))
        return document if isinstance(kind, str) else self._typed(kind, document, name)

    @overload
    def create(
        self, kind: type[R], name: str, spec: Spec | Document, *, labels: Mapping[str, str] | None = None
    ) -> R: ...
    @overload
    def create(
        self, kind: str, name: str, spec: Spec | Document, *, labels: Mapping[str, str] | None = None
    ) -> Document: ...
    def create(
        self, kind: type[R] | str, name: str, spec: Spec | Document, *, labels: Mapping[str, str] | None = None
    ) -> R | Document:
        """Asks for a new object; it comes back as accepted, not yet as ready. Raises AlreadyExists, Invalid."""
        known = _known(kind)
        wanted = spec if isinstance(spec, dict) else spec.wire()
        body = {"metadata": {"id": name, **({"userLabels": dict(labels)} if labels else {})}, "spec": wanted}
        made = self.post(known, body)
        return made if isinstance(kind, str) else self._typed(kind, made)

    @overload
    def patch(self, kind: type[R], name: str, change: Document) -> R: ...
    @overload
    def patch(self, kind: str, name: str, change: Document) -> Document: ...
    def patch(self, kind: type[R] | str, name: str, change: Document) -> R | Document:
        """A merge patch: `{"spec": {"running": False}}`. Absent keeps, None removes, lists are replaced."""
        document = self.request("PATCH", self.path(kind, name), body=change)
        return document if isinstance(kind, str) else self._typed(kind, document, name)

    def delete(self, kind: type[R] | str, name: str) -> None:
        """Asks for its removal; `wait(…, until="deleted")` tells when it is gone. Raises NotFound, InUse."""
        self.request("DELETE", self.path(kind, name))

    def start(self, name: str) -> None:
        """Starts a machine, also one that switched itself off."""
        self.request("POST", self.path("VirtualMachine", name) + "/start")

    def stop(self, name: str) -> None:
        """Asks a machine to power off."""
        self.request("POST", self.path("VirtualMachine", name) + "/stop")

    @overload
    def wait(
        self, kind: type[R], name: str, *, until: str = ..., timeout_s: float = ..., told: Callable[[Seen], None] = ...
    ) -> R: ...
    @overload
    def wait(
        self, kind: str, name: str, *, until: str = ..., timeout_s: float = ..., told: Callable[[Seen], None] = ...
    ) -> Document: ...
    def wait(
        self,
        kind: type[R] | str,
        name: str,
        *,
        until: str = "ready",
        timeout_s: float = WAIT_S,
        told: Callable[[Seen], None] = lambda seen: None,
    ) -> R | Document:
        """Waits until it is `ready`, `stopped`, `deleted`, or a condition of that name is True.

        `told` hears of every look. Returns the object as it then is (empty when deleted). Raises Ended when it
        cannot come true any more, TimedOut after `timeout_s` seconds. A cloud that restarts is waited for.
        """
        document = self.wait_for(self.path(kind, name), f"{_known(kind).called}/{name}", until, timeout_s, told)
        return document if isinstance(kind, str) or not document else self._typed(kind, document, name)

    # -- what happened, and why -----------------------------------------------------------------

    def why(self, kind: type[R] | str, name: str) -> Document:
        """Conditions, the placement's decision with its refusals, neighbours, attempts, what is due."""
        return cast(Document, self.request("GET", self.path(kind, name) + "/why"))

    def decision(self, id: str) -> Document:
        """A verdict on a write, or a placement, by its id. Raises NotFound."""
        return cast(Document, self.request("GET", f"/decisions/v1/{quote(id, safe='')}"))

    def logs(self, name: str, *, bytes_max: int = 65536) -> str:
        """The end of a machine's console log."""
        path = self.path("VirtualMachine", name) + f"/logs?bytes={bytes_max}"
        return self._answer("GET", path).body.decode(errors="replace")

    def console(self, name: str) -> Console:
        """A machine's serial console, open for reading and writing; whoever types there has the machine.

        Raises Conflict when it does not run, InUse when too many look on, Forbidden for all but owners.
        """
        from hansa.sdk.console import Console

        ticket = self.request("POST", self.path("VirtualMachine", name) + "/console")["ticket"]
        return Console.open(self.transport.url, ticket, ca_file=self.transport.ca_file)

    def events(
        self, kind: type[R] | str | None = None, name: str = "", *, after: int = 0, limit: int = 500
    ) -> Documents:
        """What happened in the project, or to one object, oldest first, after a revision."""
        if kind is not None:
            path = self.path(kind, name) + "/events"
        else:
            path = "/events/v1/projects/" + quote(self.place["project"], safe="")
        query = {"limit": str(limit), **({"after": str(after)} if after else {})}
        return cast(Documents, self.request("GET", path, query)["items"])

    def explain(self) -> Document:
        """The kinds of the server: `items`, and what is `notBuilt`."""
        return cast(Document, self.request("GET", "/explain/v1/kinds"))

    def watch(self, kind: type[R] | str, *, after: int | None = 0, selector: str = "") -> Iterator[Event]:
        """Changes of a kind's objects as they come, for ever; with `after` None first what is there.

        Raises Gone when `after` is too long ago.
        """
        known = _known(kind)
        return events_of(self, known.path(known.scope_in(self.place)), after, selector)

    # -- beneath --------------------------------------------------------------------------------

    def path(self, kind: type[R] | str, name: str) -> str:
        """Where an object is; a nested kind's name may be `PARENT/NAME`."""
        return self.path_of(Target(_known(kind), name))

    def path_of(self, target: Target) -> str:
        scope, name = self._locate(target)
        return target.known.path(scope, name)

    def post(self, known: Known, body: Document, query: Mapping[str, str] | None = None) -> Document:
        """Asks for a new object of a kind; envelope and scope are filled in."""
        whole = {"apiVersion": f"{known.service}/{known.version}", "kind": known.kind, **body}
        path = known.path(known.scope_in(self.place))
        return cast(Document, self.request("POST", path, query, whole))

    def request(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: Document | None = None
    ) -> Any:
        """One call; its JSON. Raises the error that the answer stands for."""
        return self._answer(method, path + ("?" + urlencode(query) if query else ""), body).document()

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens.access()}", "Accept": "application/json"}

    def wait_for(self, path: str, what: str, until: str, timeout_s: float, told: Callable[[Seen], None]) -> Document:
        """As `wait`, by path; `what` names it in messages."""
        end, pause_s = time.monotonic() + timeout_s, POLL_S_FIRST
        while True:
            document, seen = self._look(path, until)
            told(seen)
            if seen.done:
                return document
            if seen.ended:
                raise Ended(seen.state, f"{what}: {seen.state}: {seen.message}".removesuffix(": "))
            if time.monotonic() >= end:
                said = f"{seen.state}: {seen.message}".removesuffix(": ")
                raise TimedOut(f"{what} is not {until} after {timeout_s:.0f} s; last seen: {said}")
            time.sleep(min(pause_s, max(0.0, end - time.monotonic())))
            pause_s = min(pause_s * 1.3, POLL_S_MAX)

    def _locate(self, target: Target) -> tuple[str, str | None]:
        """Scope and bare name of a target."""
        if target.scope is not None:
            return target.scope, target.name
        parent, slash, name = (target.name or "").rpartition("/")
        place = {**self.place, "serviceAccount": parent} if slash else self.place
        return target.known.scope_in(place), name if slash else target.name

    def _typed(self, kind: type[R], document: Document, name: str | None = None) -> R:
        from hansa.sdk.typed import stored

        scope, _ = self._locate(Target(_known(kind), name))
        return kind(stored(kind, scope, document))

    def _look(self, path: str, until: str) -> tuple[Document, Seen]:
        try:
            document = cast(Document, self.request("GET", path))
        except NotFound:
            if until == "deleted":
                return {}, Seen("Deleted", done=True)
            raise
        except Unreachable as error:
            return {}, Seen("Unreachable", error.message)
        return document, judge(document, until)

    def _answer(self, method: str, path: str, body: Document | None = None) -> Answer:
        """One call; a refused token is renewed once. A POST carries a key, so that its repetition is safe."""
        headers = self.headers()
        content = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            content = json.dumps(body).encode()
        if method == "POST":
            headers["Idempotency-Key"] = os.urandom(16).hex()
        answer = self.transport.send(method, path, headers, content)
        if answer.status == Unauthenticated.status and self.tokens.forget():
            headers["Authorization"] = f"Bearer {self.tokens.access()}"
            answer = self.transport.send(method, path, headers, content)
        if not 200 <= answer.status < 300:
            raise of_answer(answer.status, answer.document(), f"{method} {path}")
        return answer


def condition(document: Document, type: str) -> Document:
    """A condition of an object by its type (any case), empty when it has none."""
    found = (c for c in (document.get("status") or {}).get("conditions") or () if c["type"].lower() == type.lower())
    return next(found, {})


def judge(document: Document, until: str) -> Seen:
    """How near an object is to being `ready`, `stopped`, `deleted`, or true in a condition. Pure."""
    ready = condition(document, "Ready")
    reason, message = str(ready.get("reason", "Pending")), str(ready.get("message", ""))
    machine = str((document.get("status") or {}).get("virtualMachineStatus", ""))
    if until == "deleted":
        return Seen(reason if reason == "Deleting" else "there", message)
    if until == "stopped":
        return Seen(machine or reason, message, done=machine == "Stopped", ended=_ended(ready))
    asked = ready if until == "ready" else condition(document, until)
    if asked.get("status") == "True":
        return Seen(str(asked["reason"]), str(asked.get("message", "")), done=True)
    if asked and asked is not ready:
        return Seen(str(asked["reason"]), str(asked.get("message", "")), ended=_ended(asked))
    if machine == "ProvisioningFailed":
        return Seen(reason, message, ended=True)
    return Seen(reason, message, ended=_ended(ready) or reason == "GuestPoweredOff")


def _ended(found: Document) -> bool:
    return found.get("status") == "False" and is_terminal(str(found.get("reason", "")))


def _known(kind: type[R] | str) -> Known:
    return names.named(kind if isinstance(kind, str) else kind.kind)


__all__ = ["Client", "Gone", "HansaError", "Seen", "condition", "judge"]
