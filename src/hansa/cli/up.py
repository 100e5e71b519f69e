"""`hansa up`: a whole cloud in the foreground, as a supervisor above the processes that do the work.

One serves the API and runs the control loop; those beside it serve S3. Guests go on when they stop.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from hansa.cli.serve import SUPERVISED, served
from hansa.errors import HansaError

PORT = 8080
FOLDER = "hansa-data"
PROCESSES_MAX = 64


@click.command("up")
@served
def up_command(**given: Any) -> None:
    """Start a whole cloud on this machine, in the foreground.

    \b
      hansa up                            state in ./hansa-data, API on 127.0.0.1, port 8080
      hansa up --data /srv/cloud --port 0 --s3-port 8333
      hansa up --listen 0.0.0.0:8443      for other machines, with TLS by an authority made in DIR

    Prints `ready` when it serves; `source DIR/hansa.env` then says to all clients where it is and who you
    are. Ctrl-C stops it; machines go on running and are found again at the next start.
    """
    from hansa.datafolder import lock_folder
    from hansa.edge.place import bind, place_of, url_of
    from hansa.edge.s3 import listeners
    from hansa.supervisor import Child, Supervisor

    data = given["data"] or Path(os.environ.get("HANSA_DATA") or FOLDER)
    processes = _number("HANSA_S3_PROCESSES", 1, PROCESSES_MAX) or 1
    plain, secure = _given(given, "s3_port"), _given(given, "s3_tls_port")
    try:
        place = place_of(given["listen"] or os.environ.get("HANSA_LISTEN", ""), _port(given["port"]))
        lock = lock_folder(data)
        api = bind(place)
        s3 = listeners(data, place, plain, secure)
    except HansaError as error:
        raise click.ClickException(error.message) from error
    secure_api = place.secure or given["tls_cert"] is not None or bool(os.environ.get("HANSA_TLS_CERT"))
    environment = {
        "HANSA_API_AT": url_of(replace(place, host=place.own, port=api.getsockname()[1], secure=secure_api)),
        "HANSA_S3_PORT": str(s3[0].getsockname()[1]), "HANSA_S3_TLS_PORT": str(s3[1].getsockname()[1]),
    }  # fmt: skip
    if given["database"]:
        environment["HANSA_DATABASE"] = given["database"]  # not in the list of processes
    if sys.stderr.isatty():
        environment["HANSA_LOG_FORM"] = "console"
    words = _words({**given, "data": data, "database": None, "s3_port": None, "s3_tls_port": None})

    def child(name: str, role: str, sockets: list[int]) -> Child:
        command = [sys.executable, "-m", "hansa", "serve", "--role", role, *words]
        supervised = " ".join(map(str, (os.getpid(), lock, *sockets)))
        return Child(name, command, (lock, *sockets), {**environment, SUPERVISED: supervised}, tells=role == "all")

    s3_sockets = [each.fileno() for each in s3]
    gateways = [child(f"s3-{n}" if n else "s3", "s3", s3_sockets) for n in range(processes)]
    sys.exit(Supervisor([child("cloud", "all", [api.fileno()]), *gateways]).run())


def _port(given: int | None) -> int:
    if given is not None:
        return given
    named = _number("HANSA_PORT", 0, 65535)
    return PORT if named is None else named


def _given(given: dict[str, Any], name: str) -> int | None:
    """An option, else its variable: None where neither says anything."""
    option: int | None = given[name]
    return option if option is not None else _number(f"HANSA_{name.upper()}", 0, 65535)


def _number(name: str, least: int, most: int) -> int | None:
    text = os.environ.get(name, "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
        raise click.ClickException(f"{name}: {text!r} is no number from {least} to {most}")
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
