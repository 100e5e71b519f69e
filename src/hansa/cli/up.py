"""`hansa up`: the whole cloud in one process, in the foreground. Guests go on when it stops."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import click

from hansa.errors import HansaError


@click.command("up")
@click.option(
    "--data", type=click.Path(file_okay=False, path_type=Path), help="Folder of all state. [default: hansa-data]"
)
@click.option("--database", help="postgresql://… or a file, instead of DIR/hansa.db; HANSA_DATABASE hides a password.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port on 127.0.0.1; 0 takes a free one. [default: 8080]")
@click.option(
    "--fleet",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Fleet file instead of the shipped one.",
)
def up_command(data: Path | None, database: str | None, port: int | None, fleet: Path | None) -> None:
    """Start a whole cloud on this machine, in the foreground.

    \b
      hansa up                            state in ./hansa-data, API on port 8080
      hansa up --data /srv/cloud --port 0

    Prints `ready` when it serves; `source DIR/hansa.env` then says to all clients where it is and who you
    are. Ctrl-C stops it; machines go on running and are found again at the next start.
    """
    from hansa.config import Settings

    given: dict[str, Any] = {"data": data, "database": database, "port": port, "fleet": fleet}
    settings = Settings(**{k: v for k, v in given.items() if v is not None})
    _run(settings)


def _run(settings: Any) -> None:
    import uvloop

    from hansa.wiring import AlreadyRunning, lock_folder

    try:
        lock_folder(settings.data)
    except AlreadyRunning as error:
        raise click.ClickException(error.message) from error
    _logging()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings))


def _logging() -> None:
    """To standard error: for people on a terminal, as JSON elsewhere. Standard output says only `ready`."""
    import logging

    import structlog

    renderer: Any = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


async def _serve(settings: Any) -> None:
    import gc

    from hansa.wiring import build_cloud

    listener = _listen(settings.port)
    base_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        cloud = await build_cloud(settings, base_url)
    except HansaError as error:
        listener.close()
        raise click.ClickException(error.message) from error
    server = _make_server(server_config(cloud.api))
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    serving = asyncio.create_task(server.serve([listener]))
    looping = asyncio.create_task(cloud.serve_loop())
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    gc.collect()
    gc.freeze()
    click.echo(f"ready {base_url}  (source {settings.data.absolute() / 'hansa.env'})")
    sys.stdout.flush()
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, looping, stopping}, return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    await cloud.loop.stop()
    await asyncio.wait({serving, looping}, timeout=40)
    stopping.cancel()
    await cloud.close()
    for task in (serving, looping):
        if task.done() and not task.cancelled() and (broken := task.exception()) is not None:
            raise broken
    click.echo("stopped; machines go on running")


def server_config(app: Any) -> Any:
    """How the HTTP server is set up. At "info" it would log the URLs of WebSockets, tickets and all."""
    import logging

    import uvicorn

    from hansa.api.carry import FRAME_BYTES_MAX

    logging.getLogger("uvicorn.error").addFilter(_is_no_false_alarm)
    return uvicorn.Config(
        app, http="httptools", loop="none", lifespan="off", access_log=False, log_config=None, log_level="warning",
        timeout_keep_alive=120, timeout_graceful_shutdown=5, limit_concurrency=1000, h11_max_incomplete_event_size=65536,
        server_header=False, date_header=True, backlog=512, ws="websockets-sansio", ws_max_size=FRAME_BYTES_MAX,
        ws_ping_interval=20, ws_ping_timeout=20, ws_per_message_deflate=False,
    )  # fmt: skip


def _is_no_false_alarm(record: Any) -> bool:
    """uvicorn 0.54 takes a WebSocket that was refused with an answer for one that was left without."""
    return bool(record.msg != "ASGI callable returned without completing handshake.")


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        raise click.ClickException(
            f"port {port} on 127.0.0.1 cannot be used: {error.strerror}; give another --port"
        ) from error
    return listener


def _make_server(config: Any) -> Any:
    import contextlib

    import uvicorn

    class Server(uvicorn.Server):
        """Signals are ours to handle."""

        def capture_signals(self) -> Any:
            return contextlib.nullcontext()

    return Server(config)
