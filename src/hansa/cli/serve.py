"""One process of a cloud: what it opens, what it serves, how it ends. `hansa up` starts one of these."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import click

from hansa.errors import HansaError

END_S = 40.0


async def serve(settings: Any, listener: socket.socket) -> None:
    """The whole cloud in this process, until it is told to end. Raises ClickException when it cannot begin."""
    import gc

    from hansa.clock import SystemClock
    from hansa.edge.front import front_of
    from hansa.edge.guest import Limits
    from hansa.edge.server import allow_descriptors, make_server
    from hansa.observe import observe_server
    from hansa.wiring import build_cloud

    try:
        front = front_of(settings, listener, SystemClock())
        cloud = await build_cloud(front.known_to(settings), front.url, front.trust)
    except HansaError as error:
        listener.close()
        raise click.ClickException(error.message) from error
    allow_descriptors(settings.connections + 1024)
    limits = Limits(settings.connections, settings.connections_each)
    server = make_server(cloud.app, limits, front.certificates.context if front.certificates else None)
    observe_server(cloud.metrics, server)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    serving = asyncio.create_task(server.serve([listener]))
    looping = asyncio.create_task(cloud.serve_loop())
    keeping = asyncio.create_task(front.certificates.keep() if front.certificates else stop.wait())
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    gc.collect()
    gc.freeze()
    click.echo(f"ready {front.url}  (source {settings.data.absolute() / 'hansa.env'})")
    sys.stdout.flush()
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, looping, stopping}, return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    await cloud.loop.stop()
    await asyncio.wait({serving, looping}, timeout=END_S)
    for task in (stopping, keeping):
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    await cloud.close()
    for task in (serving, looping):
        if task.done() and not task.cancelled() and (broken := task.exception()) is not None:
            raise broken
    click.echo("stopped; machines go on running")


def logging_on() -> None:
    """To standard error: for people on a terminal, as JSON elsewhere. Standard output says only `ready`."""
    import logging

    import structlog

    renderer: Any = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
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


def path(*, folder: bool) -> click.Path:
    return click.Path(exists=not folder, file_okay=not folder, dir_okay=folder, path_type=Path)
