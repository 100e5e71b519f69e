"""`hansa login`: a person's way in, by name and password."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from hansa.errors import HansaError


@click.command("login")
@click.argument("url", required=False)
@click.option("--user", help="Name to log in by: the address. Asked for when it is not given.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input, one line.")
@click.option("--project", help="Project to use from then on; of one alone it is taken.")
@click.option("--region", help="Region to use from then on.")
@click.option("--out", is_flag=True, help="Log out: forget what is kept here.")
def login_command(
    url: str | None, user: str | None, password_stdin: bool, project: str | None, region: str | None, out: bool
) -> None:
    """Log in to a cloud by name and password.

    \b
      hansa login https://cloud.example.com --user ada@example.com
      hansa login --out

    A refresh token is kept in ~/.config/hansa/login.json, readable by you alone; the password is not. What the
    environment or a folder hansa-data says goes before it.
    """
    from hansa.sdk.login import keep, kept, log_in, login_file

    file = login_file()
    if out:
        file.unlink(missing_ok=True)
        click.echo("logged out here; other places where you logged in stay logged in")
        return
    url = url or kept(file).get("HANSA_API_URL") or os.environ.get("HANSA_API_URL")
    if not url:
        raise click.UsageError("say which cloud: hansa login URL")
    user = user or click.prompt("User", type=str)
    password = sys.stdin.readline().rstrip("\r\n") if password_stdin else click.prompt("Password", hide_input=True)
    values = log_in(url, user, password)
    keep(file, values)
    places = _places(file, project, region)
    keep(file, {**kept(file), **places})
    where = places.get("HANSA_PROJECT")
    click.echo(
        f"logged in to {url} as {user}" + (f", project {where}" if where else "; say --project with each command")
    )
    if os.environ.get("HANSA_API_URL") or (Path(os.environ.get("HANSA_DATA") or "hansa-data") / "hansa.env").is_file():
        click.echo("the environment or the folder hansa-data here goes before this login", err=True)


def _places(file: Path, project: str | None, region: str | None) -> dict[str, str]:
    """Project, its organisation, and region to use: those given, else the only or the first there is."""
    from dataclasses import replace

    from hansa.sdk.client import Client
    from hansa.sdk.credentials import Connection
    from hansa.sdk.login import kept

    client = Client.connected(replace(Connection.from_variables(kept(file)), login=file))
    client.tokens.forget()  # one of an earlier login
    try:
        projects = {p["metadata"]["id"]: p["spec"]["organization"] for p in client.list("project")}
        regions = [r["metadata"]["id"] for r in client.list("region")]
        organizations = [o["metadata"]["id"] for o in client.list("organization")]
    except HansaError as error:
        click.echo(f"what there is cannot be listed now: {error.message}", err=True)
        return {}
    chosen = project or (next(iter(projects)) if len(projects) == 1 else "")
    found = {
        "HANSA_PROJECT": chosen,
        "HANSA_ORGANIZATION": projects.get(chosen, "") or (organizations[0] if len(organizations) == 1 else ""),
        "HANSA_REGION": region or next(iter(regions), ""),
    }
    return {k: v for k, v in found.items() if v}
