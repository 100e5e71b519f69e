"""`hansa serve`: one process of a cloud. What it opens, what it serves, how it ends. `hansa up` starts one of these."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from hansa.errors import HansaError

F = TypeVar("F", bound=Callable[..., Any])
END_S = 40.0
SUPERVISED = "HANSA_SUPERVISED"  # set by the supervisor: its process id, and the listening socket's descriptor


def path(*, folder: bool) -> click.Path:
    return click.Path(exists=not folder, file_okay=not folder, dir_okay=folder, path_type=Path)


_SHARED = (
    click.option("--data", type=path(folder=True), help="Folder of all state. [default: hansa-data]"),
    click.option("--database", help="postgresql://… instead of DIR/hansa.db; HANSA_DATABASE hides a password."),
    click.option("--port", type=click.IntRange(0, 65535), help="Port of the API; 0 takes a free one. [default: 8080]"),
    click.option("--listen", metavar="ADDR[:PORT]", help="Address; TLS unless loopback. [default: 127.0.0.1]"),
    click.option("--url", help="URL that clients are given, when it is another than the place it listens on."),
    click.option("--tls-cert", type=path(folder=False), help="Certificate chain (PEM) instead of one of DIR/ca.pem."),
    click.option("--tls-key", type=path(folder=False), help="Its private key (PEM)."),
    click.option("--tls-ca", type=path(folder=False), help="Its authority (PEM), when clients do not know it."),
    click.option("--fleet", type=path(folder=False), help="Fleet file instead of the shipped one."),
    click.option(
        "--take-hosts", is_flag=True, default=None, help="Drive hosts of a data folder that is gone for good."
    ),
)


def served(command: F) -> F:
    """Adds the options of whatever serves a cloud."""
    for option in reversed(_SHARED):
        command = option(command)
    return command


@click.command("serve")
@click.option("--role", type=click.Choice(["all", "api", "control"]), default="all", show_default=True)
@served
def serve_command(**given: Any) -> None:
    """Run one process of a cloud: its API, its control loop, or both.

    \b
      hansa serve --role api --database postgresql://hansa@db/hansa --port 8080
      hansa serve --role control --database postgresql://hansa@db/hansa

    Any number of each share a PostgreSQL and, on one machine, a data folder; several APIs may share a port. None
    leads: end any, the others go on. A control process answers /health and /metrics where --port or --listen says.
    On SQLite one process does both: `hansa up`.
    """
    from pydantic import ValidationError

    from hansa.config import Settings
    from hansa.datafolder import share_folder
    from hansa.store.open import is_postgres
    from hansa.supervisor import follow_parent

    parent, descriptor = _supervised()
    if parent:
        follow_parent(parent)
    try:
        settings = Settings(**{k: v for k, v in given.items() if v is not None})
        if settings.role != "all" and not is_postgres(settings.store_at):
            text = f"--role {settings.role} needs --database postgresql://…; on SQLite one process does both: hansa up"
            raise click.ClickException(text)
        if not parent:
            share_folder(settings.data)
        listener = socket.socket(fileno=descriptor) if descriptor >= 0 else _listener(settings, given)
    except ValidationError as error:
        raise click.ClickException(_said(error)) from error
    except HansaError as error:
        raise click.ClickException(error.message) from error
    _logging_on()
    _run(settings, listener)


def _supervised() -> tuple[int, int]:
    """(the supervisor's process id, the socket's descriptor); 0 and -1 without a supervisor."""
    words = os.environ.pop(SUPERVISED, "").split()
    return (int(words[0]), int(words[1])) if len(words) == 2 else (0, -1)


def _listener(settings: Any, given: dict[str, Any]) -> socket.socket | None:
    from hansa.edge.place import bind, place_of

    asked = given["port"] is not None or given["listen"] is not None
    if settings.role == "control" and not asked:
        return None
    return bind(place_of(settings.listen, settings.port), shared=settings.role == "api" and settings.port != 0)


def _said(error: Any) -> str:
    first = error.errors()[0]
    name = "_".join(("HANSA", *(str(part).upper() for part in first["loc"])))
    return f"{name}: {first['msg'].lower()}"


def _run(settings: Any, listener: socket.socket | None) -> None:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings, listener))


async def serve(settings: Any, listener: socket.socket | None) -> None:
    """Serves until it is told to end. Raises ClickException when it cannot begin. Without a listener nobody can ask."""
    import gc

    from hansa.clock import SystemClock
    from hansa.edge.front import front_of
    from hansa.edge.guest import Limits
    from hansa.edge.server import allow_descriptors, make_server
    from hansa.observe import observe_server
    from hansa.wiring import build_cloud

    try:
        front = front_of(settings, listener, SystemClock()) if listener is not None else None
        url = front.url if front is not None else settings.url or "http://127.0.0.1"
        known = front.known_to(settings) if front is not None else settings
        cloud = await build_cloud(known, url, front.trust if front is not None else None)
    except HansaError as error:
        raise click.ClickException(error.message) from error
    allow_descriptors(settings.connections + 1024)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    working: set[asyncio.Task[None]] = set()
    beside: set[asyncio.Task[Any]] = {asyncio.create_task(stop.wait())}
    server = None
    if listener is not None and front is not None:
        context = front.certificates.context if front.certificates else None
        server = make_server(cloud.app, Limits(settings.connections, settings.connections_each), context)
        observe_server(cloud.metrics, server)
        working.add(serving := asyncio.create_task(server.serve([listener])))
        if front.certificates is not None:
            beside.add(asyncio.create_task(front.certificates.keep()))
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
    if settings.role != "api":
        working.add(asyncio.create_task(cloud.serve_loop()))
    gc.collect()
    gc.freeze()
    _say_ready(settings, url)
    await asyncio.wait({*working, *beside}, return_when=asyncio.FIRST_COMPLETED)
    if server is not None:
        server.should_exit = True
    await cloud.loop.stop()
    await asyncio.wait(working, timeout=END_S)
    for task in beside:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    await cloud.close()
    for task in working:
        if task.done() and not task.cancelled() and (broken := task.exception()) is not None:
            raise broken
    click.echo("stopped; machines go on running")


def _say_ready(settings: Any, url: str) -> None:
    what = url if settings.role != "control" else f"control, process {os.getpid()}"
    click.echo(f"ready {what}  (source {settings.data.absolute() / 'hansa.env'})")
    sys.stdout.flush()


def _logging_on() -> None:
    """To standard error: for people on a terminal, as JSON elsewhere. Standard output says only `ready`."""
    import logging

    import structlog

    person = sys.stderr.isatty() or os.environ.get("HANSA_LOG_FORM") == "console"
    colours = person and not os.environ.get("NO_COLOR")
    renderer: Any = structlog.dev.ConsoleRenderer(colors=colours) if person else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )

    class Through(logging.Handler):
        """What libraries log is told the same way."""

        def emit(self, record: logging.LogRecord) -> None:
            structlog.get_logger(record.name).log(
                record.levelno, "library", name=record.name, message=record.getMessage(), exc_info=record.exc_info
            )

    logging.basicConfig(handlers=[Through()], level=logging.WARNING, force=True)
