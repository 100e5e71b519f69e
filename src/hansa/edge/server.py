"""uvicorn behind our door: it parses and calls the application, we accept and limit."""

from __future__ import annotations

import contextlib
import logging
import resource
import socket
import ssl
from typing import Any

import uvicorn

from hansa.api.carry import FRAME_BYTES_MAX
from hansa.edge.door import Door
from hansa.edge.guest import IDLE_S, Guest, Limits
from hansa.edge.http import GuardedHttp, GuardedWebSocket

# uvicorn 0.54 takes a WebSocket that was refused with an answer for one that was left without; and anybody may send
# what is no HTTP as often as they like
QUIET = frozenset({"ASGI callable returned without completing handshake.", "Invalid HTTP request received."})


class Server(uvicorn.Server):
    """Signals are ours to handle, and so is the door."""

    def __init__(self, config: uvicorn.Config, limits: Limits, *contexts: ssl.SSLContext | None) -> None:
        """`contexts`: one for each listener that it will be given; None: without TLS."""
        super().__init__(config)
        self._limits, self._contexts = limits, contexts or (None,)
        self._http: type[GuardedHttp] = config.http  # type: ignore[assignment]
        self.doors: list[Door] = []

    def capture_signals(self) -> Any:
        return contextlib.nullcontext()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.lifespan.startup()
        for listener, context in zip(sockets or [], self._contexts, strict=True):
            listener.setblocking(False)
            door = Door(listener, self._protocol, self._limits, context)
            door.open()
            self.doors.append(door)
        self.servers = self.doors  # type: ignore[assignment]
        self.started = True

    def _protocol(self, guest: Guest, door: Door) -> GuardedHttp:
        return self._http(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state, guest=guest, door=door
        )


def make_server(
    app: Any, limits: Limits | None = None, *contexts: ssl.SSLContext | None, http: type[GuardedHttp] = GuardedHttp,
    end_s: int = 5,
) -> Server:  # fmt: skip
    """A server for our application, not yet serving: `serve([listener, …])`, then `should_exit = True`.

    `contexts`: the TLS of each listener, None for none. `end_s`: how long requests may go on once it is told to end.

    At "info" it would log the URLs of WebSockets, tickets and all.
    """
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    config = uvicorn.Config(
        app, http=http, loop="none", lifespan="off", access_log=False, log_config=None, log_level="warning",
        timeout_keep_alive=int(IDLE_S), timeout_graceful_shutdown=end_s, server_header=False, date_header=True,
        proxy_headers=False,  # whoever connects is who asks: nobody is believed to speak for another address
        ws=GuardedWebSocket, ws_max_size=FRAME_BYTES_MAX, ws_ping_interval=20, ws_ping_timeout=20,
        ws_per_message_deflate=False,
    )  # fmt: skip
    return Server(config, limits or Limits(), *contexts)


def allow_descriptors(wanted: int) -> None:
    """Raises this process's limit of open files towards what the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _is_news(record: logging.LogRecord) -> bool:
    return record.msg not in QUIET


__all__ = ["Server", "allow_descriptors", "make_server"]
