"""What a process of a cloud opens, what it serves, how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from typing import Any

import click

from hansa.errors import HansaError

END_S = 40.0


def run(settings: Any, listener: socket.socket | None) -> None:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings, listener))


def run_s3(settings: Any, plain: socket.socket, secure: socket.socket) -> None:
    """The same for a process that serves S3. Raises ClickException when it cannot begin."""
    import uvloop

    from hansa.wiring_s3 import serve_s3

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(serve_s3(settings, plain, secure))
        except HansaError as error:
            raise click.ClickException(error.message) from error


async def serve(settings: Any, listener: socket.socket | None) -> None:
    """Serves until it is told to end. Raises ClickException when it cannot begin. Without a listener nobody can ask."""
    import gc

    from hansa.clock import SystemClock
    from hansa.edge.front import front_of
    from hansa.edge.guest import Limits
    from hansa.edge.s3 import variables
    from hansa.edge.server import allow_descriptors, make_server
    from hansa.observe import observe_server
    from hansa.wiring import build_cloud

    try:
        front = front_of(settings, listener, SystemClock()) if listener is not None else None
        url = front.url if front is not None else settings.url or "http://127.0.0.1"
        known = front.known_to(settings) if front is not None else settings
        said = {**front.trust, **variables(settings, front.place)} if front is not None else None
        cloud = await build_cloud(known, url, said)
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
    if cloud.same_fleet is not None:
        beside.add(asyncio.create_task(cloud.same_fleet.keep()))
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
    await asyncio.wait(beside, timeout=END_S)
    await cloud.close()
    for task in (*working, *beside):
        if task.done() and not task.cancelled() and (broken := task.exception()) is not None:
            raise broken
    click.echo("stopped; machines go on running")


def _say_ready(settings: Any, url: str) -> None:
    what = url if settings.role != "control" else f"control, process {os.getpid()}"
    click.echo(f"ready {what}  (source {settings.data.absolute() / 'hansa.env'})")
    sys.stdout.flush()


def _as_json(line: dict[str, Any], **_more: Any) -> str:
    """A line of the log. What JSON has no word for stands there as Python writes it."""
    import orjson

    return orjson.dumps(line, default=repr, option=orjson.OPT_NON_STR_KEYS).decode()


def logging_on() -> None:
    """To standard error: for people on a terminal, as JSON elsewhere. Standard output says only `ready`."""
    import logging

    import structlog

    person = sys.stderr.isatty() or os.environ.get("HANSA_LOG_FORM") == "console"
    colours = person and not os.environ.get("NO_COLOR")
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=colours)
        if person
        else structlog.processors.JSONRenderer(serializer=_as_json)
    )
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
        cache_logger_on_first_use=True,
    )

    class Through(logging.Handler):
        """What libraries log is told the same way."""

        def emit(self, record: logging.LogRecord) -> None:
            structlog.get_logger(record.name).log(
                record.levelno, "library", name=record.name, message=record.getMessage(), exc_info=record.exc_info
            )

    logging.basicConfig(handlers=[Through()], level=logging.WARNING, force=True)
