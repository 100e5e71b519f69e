"""`hansa up`: the whole cloud in one process, in the foreground. Guests go on when it stops."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from hansa.cli.serve import logging_on, path, serve


@click.command("up")
@click.option("--data", type=path(folder=True), help="Folder of all state. [default: hansa-data]")
@click.option("--database", help="postgresql://… or a file, instead of DIR/hansa.db; HANSA_DATABASE hides a password.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port of the API; 0 takes a free one. [default: 8080]")
@click.option("--listen", metavar="ADDR[:PORT]", help="Address of the API; TLS unless loopback. [default: 127.0.0.1]")
@click.option("--url", help="URL that clients are given, when it is another than the place it listens on.")
@click.option("--tls-cert", type=path(folder=False), help="Certificate chain (PEM) instead of one of DIR/ca.pem.")
@click.option("--tls-key", type=path(folder=False), help="Its private key (PEM).")
@click.option("--tls-ca", type=path(folder=False), help="Its authority (PEM), when clients do not know it.")
@click.option("--fleet", type=path(folder=False), help="Fleet file instead of the shipped one.")
def up_command(**given: Any) -> None:
    """Start a whole cloud on this machine, in the foreground.

    \b
      hansa up                            state in ./hansa-data, API on 127.0.0.1, port 8080
      hansa up --data /srv/cloud --port 0
      hansa up --listen 0.0.0.0:8443      for other machines, with TLS by an authority made in DIR

    Prints `ready` when it serves; `source DIR/hansa.env` then says to all clients where it is and who you
    are. Ctrl-C stops it; machines go on running and are found again at the next start.
    """
    from hansa.config import Settings

    _run(Settings(**{k: v for k, v in given.items() if v is not None}))


def _run(settings: Any) -> None:
    import uvloop

    from hansa.datafolder import lock_folder
    from hansa.edge.place import bind, place_of
    from hansa.errors import HansaError

    try:
        lock_folder(settings.data)
        listener = bind(place_of(settings.listen, settings.port))
    except HansaError as error:
        raise click.ClickException(error.message) from error
    logging_on()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings, listener))
