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
SUPERVISED = "HANSA_SUPERVISED"  # set by the supervisor: its process id, the descriptors of lock and sockets


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
    click.option("--s3-port", type=click.IntRange(0, 65535), help="Port of S3 on loopback. [default: one kept in DIR]"),
    click.option(
        "--s3-tls-port", type=click.IntRange(0, 65535), help="Port of S3 with TLS. [default: one kept in DIR]"
    ),
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
@click.option("--role", type=click.Choice(["all", "api", "control", "s3"]), default="all", show_default=True)
@served
def serve_command(**given: Any) -> None:
    """Run one process of a cloud: its API, its control loop, both, or its S3.

    \b
      hansa serve --role api --database postgresql://hansa@db/hansa --port 8080
      hansa serve --role control --database postgresql://hansa@db/hansa
      hansa serve --role s3 --database postgresql://hansa@db/hansa --s3-port 8333 --s3-tls-port 8334

    Any number of each share a PostgreSQL and, on one machine, a data folder; several APIs may share a port, and so may
    several of S3. None leads: end any, the others go on. A control process answers /health and /metrics where --port
    or --listen says. On SQLite: `hansa up`.
    """
    from hansa.cli.options import settings_of
    from hansa.datafolder import lock_folder, share_folder
    from hansa.store.open import is_postgres
    from hansa.supervisor import follow_parent

    parent, descriptors = _supervised()
    if parent:
        follow_parent(parent)
    try:
        settings = settings_of(**given)
        alone = not is_postgres(settings.store_at)
        if alone and settings.role != "all" and not parent:
            text = f"--role {settings.role} needs --database postgresql://…; on SQLite `hansa up` starts what there is"
            raise click.ClickException(text)
        if not parent:
            (lock_folder if alone else share_folder)(settings.data)
        listeners = [socket.socket(fileno=each) for each in descriptors] or _listeners(settings, given)
    except HansaError as error:
        raise click.ClickException(error.message) from error
    from hansa.cli.process import logging_on, run, run_s3

    logging_on()
    if settings.role == "s3":
        run_s3(settings, *listeners)
    else:
        run(settings, listeners[0] if listeners else None)


def _supervised() -> tuple[int, list[int]]:
    """The supervisor's process id, and the descriptors of the sockets; 0 and nothing without a supervisor."""
    words = [int(word) for word in os.environ.pop(SUPERVISED, "").split()]
    if len(words) < 3:
        return 0, []
    parent, lock, *sockets = words
    for descriptor in (lock, *sockets):  # what this process starts and leaves behind must not hold the lock or a port
        os.set_inheritable(descriptor, False)
    return parent, sockets


def _listeners(settings: Any, given: dict[str, Any]) -> list[socket.socket]:
    from hansa.edge.place import bind, place_of

    place = place_of(settings.listen, settings.port)
    if settings.role == "s3":
        from hansa.edge.s3 import listeners

        return list(listeners(settings.data, place, settings.s3_port, settings.s3_tls_port, shared=True))
    asked = given["port"] is not None or given["listen"] is not None
    if settings.role == "control" and not asked:
        return []
    return [bind(place, shared=settings.role == "api" and settings.port != 0)]
