"""HTTP as the SDK needs it: one connection kept open per server, limits on time, and retries that are safe.

Over `http.client` of the standard library: it costs a third of what an HTTP library costs to import, and the
command line must start at once. What is tried again, and how often, is section 1.12 of the contract. Only
this module opens connections, and `sdk.console` its WebSocket.
"""

from __future__ import annotations

import json
import random
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, RemoteDisconnected
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from hansa.sdk.errors import Unclear, Unreachable

TIMEOUT_S = 30.0
TRIES_MORE = 3
FIRST_PAUSE_S = 1.0
PAUSE_S_MAX = 30.0
ANSWER_BYTES_MAX = 256 << 20
_AGAIN = frozenset({429, 500, 502, 503, 504})


class Answer(NamedTuple):
    """What came back. Names of headers in lower case; `body` is whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def document(self) -> Any:
        """The body as JSON; its text when it is none; None when it is empty."""
        try:
            return json.loads(self.body) if self.body else None
        except ValueError:
            return self.body.decode(errors="replace")


class Transport:
    """Sends requests to the server at `url` (a path of the URL is put before every path). Not for threads.

    `ca_file`: the authority to trust for https, instead of the system's.
    """

    def __init__(self, url: str, *, timeout_s: float = TIMEOUT_S, ca_file: str = "") -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Unclear(f"{url!r} is no URL of a cloud: it begins with http:// or https://")
        self.url = url.rstrip("/")
        self._secure, self.ca_file = parts.scheme == "https", ca_file
        self._trust: ssl.SSLContext | None = None
        self._host, self._port, self._base = parts.hostname, parts.port, parts.path.rstrip("/")
        self._timeout_s = timeout_s
        self._connection: HTTPConnection | None = None
        self._answered = False  # this server has answered us before

    def send(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None, *,
        tries_more: int = TRIES_MORE,
    ) -> Answer:  # fmt: skip
        """One request, tried again where that is safe and may help. Raises Unreachable.

        A server that never answered and refuses the connection is not tried again: nothing runs there.
        """
        pause_s = FIRST_PAUSE_S
        for left in range(tries_more, -1, -1):
            try:
                answer = self._once(method, path, headers, body)
            except (OSError, HTTPException) as error:
                self.close()
                if isinstance(error, ssl.SSLCertVerificationError):
                    said = f"{error.verify_message}; HANSA_CA_FILE of hansa.env names the authority to trust"
                    raise Unreachable(f"{self.url} cannot be trusted: {said}") from error
                if left == 0 or (isinstance(error, ConnectionRefusedError) and not self._answered):
                    raise Unreachable(f"no cloud answers at {self.url} ({said_by(error)})") from error
                time.sleep(jittered(pause_s))
            else:
                self._answered = True
                if answer.status not in _AGAIN or left == 0:
                    return answer
                time.sleep(_retry_after_s(answer) or jittered(pause_s))
            pause_s = min(pause_s * 2, PAUSE_S_MAX)
        raise AssertionError("the last try returns or raises")

    @contextmanager
    def stream(self, path: str, headers: Mapping[str, str], *, silent_s: float = 60.0) -> Iterator[HTTPResponse]:
        """A GET whose body is read as it comes, on a connection of its own. Raises Unreachable."""
        connection = self._connect(silent_s)
        try:
            connection.request("GET", self._base + path, headers=dict(headers))
            yield connection.getresponse()
        except (OSError, HTTPException) as error:
            raise Unreachable(f"the stream from {self.url} broke ({said_by(error)})") from error
        finally:
            connection.close()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _once(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        """One request; a kept connection that the server has closed meanwhile is opened anew, once."""
        kept = self._connection is not None
        try:
            return self._exchange(method, path, headers, body)
        except (RemoteDisconnected, ConnectionResetError, BrokenPipeError):
            self.close()
            if not kept:
                raise
            return self._exchange(method, path, headers, body)

    def _exchange(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        if self._connection is None:
            self._connection = self._connect(self._timeout_s)
        self._connection.request(method, self._base + path, body, dict(headers))
        response = self._connection.getresponse()
        content = response.read(ANSWER_BYTES_MAX + 1)
        if len(content) > ANSWER_BYTES_MAX:
            raise HTTPException(f"the answer is larger than {ANSWER_BYTES_MAX} bytes")
        if response.will_close:
            self.close()
        return Answer(response.status, {k.lower(): v for k, v in response.headers.items()}, content)

    def _connect(self, timeout_s: float) -> HTTPConnection:
        if not self._secure:
            return HTTPConnection(self._host, self._port, timeout=timeout_s)
        if self._trust is None:
            self._trust = trusting(self.ca_file)
        return HTTPSConnection(self._host, self._port, timeout=timeout_s, context=self._trust)


def trusting(ca_file: str) -> ssl.SSLContext:
    """TLS that knows one authority, or the system's when none is named. Raises Unclear for a file that is none."""
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise Unclear(f"HANSA_CA_FILE names {ca_file}, which holds no certificate ({said_by(error)})") from error


def said_by(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


def jittered(pause_s: float) -> float:
    return pause_s * random.uniform(0.75, 1.25)  # noqa: S311 - no secret


def _retry_after_s(answer: Answer) -> float | None:
    """Seconds that the server asks us to wait, at most `PAUSE_S_MAX`; a date is not read."""
    text = answer.headers.get("retry-after", "")
    return min(float(text), PAUSE_S_MAX) if text.isascii() and text.isdigit() else None
