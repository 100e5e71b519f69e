"""Options that most verbs share, and the client that they lead to."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from hansa.config import Settings
    from hansa.sdk.client import Client, Seen

F = TypeVar("F", bound=Callable[..., Any])
_SHARED = (
    click.option(
        "--data", type=click.Path(file_okay=False, path_type=Path), help="Data folder of the cloud that is meant."
    ),
    click.option("--project", help="Project instead of the default one."),
    click.option("--region", help="Region instead of the default one."),
    click.option("--organization", help="Organisation instead of the default one."),
)


def placed(command: F) -> F:
    """Adds --data, --project, --region, --organization."""
    for option in reversed(_SHARED):
        command = option(command)
    return command


def client_of(data: Path | None, project: str | None, region: str | None, organization: str | None) -> Client:
    from hansa.sdk.client import Client

    return Client.from_environment(data).at(project=project, region=region, organization=organization)


def settings_of(**given: Any) -> Settings:
    """Settings of the environment, but for what is given and not None. Raises ClickException for a value that is none."""
    from pydantic import ValidationError

    from hansa.config import Settings

    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(("HANSA", *(str(part).upper() for part in first["loc"])))
        raise click.ClickException(f"{name}: {first['msg'].lower()}") from error


class Progress:
    """One line that says what is waited for: rewritten on a terminal, a new line for each change elsewhere."""

    def __init__(self, what: str) -> None:
        self._what, self._last, self._live = what, "", sys.stderr.isatty()

    def told(self, seen: Seen) -> None:
        text = f"{self._what}: {seen.state}" + (f": {seen.message}" if seen.message else "")
        if text == self._last:
            return
        self._last = text
        if self._live:
            click.echo(f"\r\x1b[K{text[:110]}", nl=False, err=True)
        else:
            click.echo(text, err=True)

    def end(self) -> None:
        if self._live and self._last:
            click.echo("\r\x1b[K", nl=False, err=True)
