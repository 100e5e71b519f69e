"""`hansa seal`: the keys under which secrets are sealed at rest, looked at and changed. On the cloud's own machine."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hansa.errors import HansaError

if TYPE_CHECKING:
    from hansa.rotation import Sealed

DATA = click.option(
    "--data", type=click.Path(file_okay=False, path_type=Path), help="Folder of all state. [default: hansa-data]"
)


@click.group("seal")
def seal_command() -> None:
    """The keys that seal secrets at rest: look at them, change them.

    \b
      hansa seal status --data /srv/cloud
      hansa seal rotate --data /srv/cloud      a new key, and everything sealed under it

    The keys come from HANSA_SEAL_KEY, else the file of HANSA_SEAL_KEY_FILE, else DIR/keys/sealing.key.
    """


@seal_command.command("status")
@DATA
def status(data: Path | None) -> None:
    """How many values are sealed, and how many of them under an older key."""
    found = asyncio.run(_with_store(data, "status"))[0]
    click.echo(f"{found.values} values are sealed, {found.older} of them under an older key")
    if found.stuck:
        raise click.ClickException(f"{len(found.stuck)} open under none of the keys, {found.stuck[0]} for one")


@seal_command.command("rotate")
@DATA
def rotate(data: Path | None) -> None:
    """Add a key, seal everything under it, drop keys that nothing needs. May be cut off and run again.

    The cloud may go on running. With the keys in HANSA_SEAL_KEY, put the new one at the end yourself, start the
    cloud with it, and then run this: it seals everything anew.
    """
    done, added = asyncio.run(_with_store(data, "rotate"))
    if added is not None:
        click.echo("a new key seals from now on" if added else "the change of keys that was begun is finished")
    click.echo(f"{done.older} of {done.values} values were sealed anew")


async def _with_store(data: Path | None, verb: str) -> tuple[Sealed, bool | None]:
    from hansa.cli.options import settings_of
    from hansa.clock import SystemClock, SystemIds
    from hansa.rotation import reseal, seen
    from hansa.rotation import rotate as rotated
    from hansa.store.open import is_postgres, open_store
    from hansa.wiring import sealer_of

    settings = settings_of(data=data)
    folder = settings.data
    if not (is_postgres(settings.store_at) or (folder / "hansa.db").is_file()):
        raise click.ClickException(f"there is no cloud in {folder}")
    file = settings.seal_key_file or folder / "keys" / "sealing.key"
    store = await open_store(settings.store_at, clock=SystemClock(), ids=SystemIds())
    try:
        if verb == "status":
            return await seen(store, sealer_of(settings, folder)), None
        if settings.seal_key.get_secret_value():
            return await reseal(store, sealer_of(settings, folder)), None
        return await rotated(store, folder / "keys", file)
    except HansaError as error:
        raise click.ClickException(error.message) from error
    finally:
        await store.close()
