"""`hansa up`: a whole cloud in the foreground, as a supervisor above one process that does the work.

Guests go on when it stops. Gateways will be children of their own beside the first.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from hansa.cli.serve import SUPERVISED, served
from hansa.errors import HansaError

PORT = 8080
FOLDER = "hansa-data"


@click.command("up")
@served
def up_command(**given: Any) -> None:
    """Start a whole cloud on this machine, in the foreground.

    \b
      hansa up                            state in ./hansa-data, API on 127.0.0.1, port 8080
      hansa up --data /srv/cloud --port 0
      hansa up --listen 0.0.0.0:8443      for other machines, with TLS by an authority made in DIR

    Prints `ready` when it serves; `source DIR/hansa.env` then says to all clients where it is and who you
    are. Ctrl-C stops it; machines go on running and are found again at the next start.
    """
    from hansa.datafolder import lock_folder
    from hansa.edge.place import bind, place_of
    from hansa.supervisor import Child, Supervisor

    data = given["data"] or Path(os.environ.get("HANSA_DATA") or FOLDER)
    try:
        place = place_of(given["listen"] or os.environ.get("HANSA_LISTEN", ""), _port(given["port"]))
        lock = lock_folder(data)
        listener = bind(place)
    except HansaError as error:
        raise click.ClickException(error.message) from error
    environment = {SUPERVISED: f"{os.getpid()} {listener.fileno()} {lock}"}
    if given["database"]:
        environment["HANSA_DATABASE"] = given["database"]  # not in the list of processes
    if sys.stderr.isatty():
        environment["HANSA_LOG_FORM"] = "console"
    command = [sys.executable, "-m", "hansa", "serve", *_words({**given, "data": data, "database": None})]
    sys.exit(Supervisor([Child("cloud", command, (listener.fileno(), lock), environment)]).run())


def _port(given: int | None) -> int:
    text = os.environ.get("HANSA_PORT") or str(PORT)
    if given is not None:
        return given
    if not (text.isascii() and text.isdigit() and int(text) < 65536):
        raise click.ClickException(f"HANSA_PORT: {text!r} is no port")
    return int(text)


def _words(given: dict[str, Any]) -> list[str]:
    """Options as they were given."""
    words: list[str] = []
    for name, value in given.items():
        option = "--" + name.replace("_", "-")
        if value is True:
            words.append(option)
        elif value is not None:
            words += [option, str(value)]
    return words
