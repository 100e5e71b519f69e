"""`hansa migrate`, `backup`, `restore`: what is done to a database as a whole, by whoever has its address."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hansa.cli.options import settings_of

if TYPE_CHECKING:
    from hansa.config import Settings
    from hansa.sealing import Sealer
    from hansa.store.holding import Holding

F = TypeVar("F", bound=Callable[..., Any])


def _stored(command: F) -> F:
    """Adds --data and --database."""
    data = click.option(
        "--data", type=click.Path(file_okay=False, path_type=Path), help="Data folder. [default: hansa-data]"
    )
    database = click.option("--database", help="postgresql://… or a file, instead of DIR/hansa.db (HANSA_DATABASE).")
    return data(database(command))


@click.command("migrate")
@click.option("--dry-run", is_flag=True, help="Only say what would be applied.")
@_stored
def migrate_command(dry_run: bool, data: Path | None, database: str | None) -> None:
    """Bring the schema of the database up to date.

    \b
      hansa migrate --dry-run            what would be applied
      hansa migrate                      applies it, all or nothing

    `hansa up` does the same when it starts. A database of a newer hansa is left alone.
    """
    from hansa.store.open import is_postgres, migrate_database

    settings = settings_of(data=data, database=database)
    if not dry_run and not is_postgres(settings.store_at):
        _alone(settings)
    found, applied = asyncio.run(migrate_database(settings.store_at, dry_run=dry_run))
    click.echo(f"the database has schema {found}")
    for migration in applied:
        click.echo(f"{'would apply' if dry_run else 'applied'} {migration}")
    if not applied:
        click.echo("nothing to apply")


@click.command("backup")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--objects", is_flag=True, help="The index of what lies in buckets, instead of the store.")
@_stored
def backup_command(file: Path, objects: bool, data: Path | None, database: str | None) -> None:
    """Write the store into FILE, as it is at one moment, while the cloud runs.

    Secrets stay sealed in it. The keys (DIR/keys) are not in it, nor disks, images and what lies in buckets:
    keep DIR/keys somewhere else, or the secrets of this backup open nowhere.

    \b
      hansa backup cloud.backup                the store
      hansa backup objects.backup --objects    which objects there are; small ones whole
    """
    from hansa.objectindex.holding import OBJECTS
    from hansa.store import tables
    from hansa.store.backup import write_backup
    from hansa.store.holding import STORE

    settings = settings_of(data=data, database=database)
    of = OBJECTS if objects else STORE
    counter = Counter("writing")

    async def work() -> Any:
        async with tables.source(_place(settings, of), of) as source:
            return await write_backup(source, file, at=time.time(), program=_version(), told=counter.told, of=of)

    summary = asyncio.run(work())
    counter.end()
    click.echo(f"wrote {file}: {_rows(summary)}, schema {summary.schema}, {file.stat().st_size} bytes")
    click.echo(f"the keys are not in it: keep {settings.data / 'keys'} apart from it")
    if objects:
        click.echo("the bytes of larger objects are not in it: see `Back up and restore a cloud`")
    else:
        click.echo("what lies in buckets is not in it: `hansa backup --objects` writes their index")


@click.command("restore")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--replace", is_flag=True, help="Throw away what the target holds.")
@click.option("--dry-run", is_flag=True, help="Only verify FILE, and that its secrets open here.")
@click.option("--without-keys", is_flag=True, help="Go on although secrets do not open with the keys that are here.")
@_stored
def restore_command(
    file: Path, replace: bool, dry_run: bool, without_keys: bool, data: Path | None, database: str | None
) -> None:
    """Put the backup FILE in place, of the store or of the index of objects. No cloud may run on the target.

    FILE is verified from end to end before anything is changed; then all of it is in place, or nothing.

    \b
      cp -a /safe/keys hansa-data/keys         the keys first
      hansa restore cloud.backup --dry-run
      hansa restore cloud.backup               into DIR/hansa.db
      hansa restore objects.backup             into DIR/s3/index.db
      hansa restore cloud.backup --database postgresql://hansa@db/hansa
    """
    from hansa.errors import HansaError
    from hansa.objectindex.holding import OBJECTS
    from hansa.store import tables
    from hansa.store.backup import holding_of, verify
    from hansa.store.holding import STORE

    settings = settings_of(data=data, database=database)
    of = holding_of(file, (STORE, OBJECTS))
    sealer = _sealer(settings)
    sealed, closed = 0, 0

    def each(table: str, row: dict[str, Any]) -> None:
        nonlocal sealed, closed
        if table == "secrets":
            sealed += 1
            closed += not _opens(sealer, row["sealed"], f"{row['uid']}/{row['name']}")

    counter = Counter("verifying")
    summary = verify(file, counter.told, each, of=of)
    counter.end()
    made = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(summary.made_at))
    click.echo(
        f"{file} is {of.what}, whole: {_rows(summary)}, schema {summary.schema}, made {made} from {summary.database}"
    )
    if closed and not without_keys:
        keys = settings.data / "keys"
        raise HansaError(
            f"{closed} of {sealed} secrets do not open with the keys in {keys}: put the keys of that cloud there first, "
            "or give --without-keys and lose these secrets"
        )
    if dry_run:
        return
    _alone(settings)
    counter = Counter("restoring")

    async def work() -> None:
        async with tables.target(_place(settings, of), of) as target:
            await tables.load(file, target, replace=replace, told=counter.told)

    asyncio.run(work())
    counter.end()
    click.echo("restored; start the cloud with `hansa up`")


def _place(settings: Settings, of: Holding) -> str:
    """The database of a holding; the folder of a file is there afterwards."""
    from hansa.objectindex.holding import OBJECTS
    from hansa.store.open import is_postgres
    from hansa.storing import index_at

    place = index_at(settings) if of is OBJECTS else settings.store_at
    if of is OBJECTS and not is_postgres(place):
        Path(place).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return place


class Counter:
    """Rows so far, on standard error: in place on a terminal, a line every few seconds elsewhere."""

    EVERY_S = 5.0

    def __init__(self, what: str) -> None:
        self._what, self._live, self._last = what, sys.stderr.isatty(), time.monotonic()

    def told(self, table: str, rows: int) -> None:
        if time.monotonic() - self._last < (0.1 if self._live else self.EVERY_S):
            return
        self._last = time.monotonic()
        text = f"{self._what} {table}: {rows} rows"
        click.echo(f"\r\x1b[K{text}" if self._live else text, nl=not self._live, err=True)

    def end(self) -> None:
        if self._live:
            click.echo("\r\x1b[K", nl=False, err=True)


def _alone(settings: Settings) -> None:
    """No cloud runs on this folder until this process ends. Raises AlreadyRunning."""
    from hansa.datafolder import lock_folder

    lock_folder(settings.data)


def _sealer(settings: Settings) -> Sealer | None:
    """Of the keys that are there; none is made."""
    from hansa.sealing import Sealer

    path, given = settings.data / "keys" / "sealing.key", settings.seal_key.get_secret_value()
    if not (given or settings.seal_key_file or path.exists()):
        return None
    return Sealer.load(path, key_file=settings.seal_key_file, given=given)


def _opens(sealer: Sealer | None, sealed: bytes, context: str) -> bool:
    from hansa.errors import Bug

    if sealer is None:
        return False
    try:
        sealer.open(sealed, context)
    except Bug:
        return False
    return True


def _rows(summary: Any) -> str:
    return ", ".join(f"{count} {table}" for table, count in summary.rows.items() if count)


def _version() -> str:
    from importlib.metadata import version

    return version("hansa")
