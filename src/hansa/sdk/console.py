"""A machine's serial console for programs: bytes out, bytes in, over one WebSocket.

    with client.console("web-1") as console:
        console.write(b"uname -a\n")
        print(console.read(timeout_s=5))

The library is imported with this module, so only when a console is opened. One thread may read while
another writes.
"""

from __future__ import annotations

import json
from types import TracebackType
from typing import Any
from urllib.parse import urlencode

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from hansa.errors import HansaError
from hansa.sdk.errors import Ended, TimedOut, Unreachable, of_answer
from hansa.sdk.transport import trusting

PATH = "/console/v1"
OPEN_S = 30.0
CLOSE_S = 2.0
FRAME_BYTES = 16 << 10  # of what is written; the server takes four times as much
AS_IT_SHOULD = frozenset({1000, 1001})  # closed by us, or because the machine stopped
LOST = frozenset({1006, 1012})  # without a word, or because the cloud restarts


class Console:
    """An open console. `before` is the end of the log, `ended` why it closed, empty while it is open."""

    def __init__(self, connection: ClientConnection, before: bytes) -> None:
        self._connection = connection
        self.before = before
        self.ended = ""

    @classmethod
    def open(cls, url: str, ticket: str, *, ca_file: str = "") -> Console:
        """Opens the console that a ticket is for. `url` is the cloud's, `ca_file` the authority to trust for https.
        Raises what the cloud refuses with."""
        place = "ws" + url.removeprefix("http")
        trust = trusting(ca_file) if url.startswith("https:") else None
        try:
            connection = connect(
                f"{place}{PATH}?{urlencode({'ticket': ticket})}", compression=None, proxy=None, legacy=True, ssl=trust,
                open_timeout=OPEN_S, close_timeout=CLOSE_S,
            )  # fmt: skip
        except InvalidStatus as error:
            answer = error.response
            raise of_answer(answer.status_code, _document(answer.body), f"console at {url}") from error
        except (OSError, InvalidHandshake) as error:
            raise Unreachable(f"no console answers at {url} ({error})") from error
        console = cls(connection, b"")
        try:
            console.before = console.read(timeout_s=OPEN_S)
        except HansaError:
            console.close()
            raise
        return console

    def read(self, timeout_s: float | None = None) -> bytes:
        """What the guest wrote since; empty once it is closed as it should be (`ended`).

        Raises TimedOut when nothing came in so many seconds, Ended when the cloud closed it before its time,
        Unreachable when the connection broke.
        """
        try:
            return self._connection.recv(timeout_s, decode=False)
        except TimeoutError as error:
            raise TimedOut(f"the guest wrote nothing for {timeout_s:g} s") from error
        except ConnectionClosed as closed:
            self._judge(closed)
            return b""

    def write(self, data: bytes) -> None:
        """Types it. Raises Ended once the console is closed, Unreachable when the connection broke."""
        try:
            for start in range(0, len(data), FRAME_BYTES):
                self._connection.send(data[start : start + FRAME_BYTES])
        except ConnectionClosed as closed:
            self._judge(closed)
            raise Ended("ConsoleClosed", f"the console is closed: {self.ended}") from closed

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Console:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _judge(self, closed: ConnectionClosed) -> None:
        """Notes why it closed. Raises unless it should have."""
        frame = closed.rcvd or closed.sent
        code, reason = (frame.code, frame.reason) if frame else (1006, "")
        self.ended = reason or "closed"
        if code in LOST:
            raise Unreachable("the connection to the console broke; open it again") from closed
        if code not in AS_IT_SHOULD:
            raise Ended("ConsoleClosed", f"the cloud closed the console: {self.ended}") from closed


def _document(body: bytes | bytearray | None) -> Any:
    try:
        return json.loads(body or b"")
    except ValueError:
        return None
