"""`hansa serve`: one process of a cloud. `hansa up`, which must be light, takes its options from here."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from hansa.errors import HansaError

F = TypeVar("F", bound=Callable[..., Any])
SUPERVISED = "HANSA_SUPERVISED"  # set by the supervisor: its process id, the descriptors of socket and lock


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
    from hansa.datafolder import lock_folder, share_folder
    from hansa.store.open import is_postgres
    from hansa.supervisor import follow_parent

    parent, descriptor = _supervised()
    if parent:
        follow_parent(parent)
    try:
        settings = Settings(**{k: v for k, v in given.items() if v is not None})
        alone = not is_postgres(settings.store_at)
        if alone and settings.role != "all":
            text = f"--role {settings.role} needs --database postgresql://…; on SQLite one process does both: hansa up"
            raise click.ClickException(text)
        if not parent:
            (lock_folder if alone else share_folder)(settings.data)
        listener = socket.socket(fileno=descriptor) if descriptor >= 0 else _listener(settings, given)
    except ValidationError as error:
        raise click.ClickException(_said(error)) from error
    except HansaError as error:
        raise click.ClickException(error.message) from error
    from hansa.cli.process import logging_on, run

    logging_on()
    run(settings, listener)


def _supervised() -> tuple[int, int]:
    """(the supervisor's process id, the socket's descriptor); 0 and -1 without a supervisor."""
    words = os.environ.pop(SUPERVISED, "").split()
    if len(words) != 3:
        return 0, -1
    for descriptor in words[1:]:  # what this process starts and leaves behind must not hold the lock or the port
        os.set_inheritable(int(descriptor), False)
    return int(words[0]), int(words[1])


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
