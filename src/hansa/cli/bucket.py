"""`hansa bucket`: objects by S3, with the key of `hansa.env` or one's own. A client like any other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hansa.cli.bucketwords import Address, AddressWord, address_of
from hansa.errors import Invalid

if TYPE_CHECKING:
    from hansa.sdk.s3 import S3

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

_DATA = click.option(
    "--data", type=click.Path(file_okay=False, path_type=Path), help="Data folder of the cloud that is meant."
)
_JOBS = click.option("-j", "--jobs", type=click.IntRange(1, 64), default=8, show_default=True, help="At the same time.")


@click.group("bucket")
def bucket_command() -> None:
    """Objects in buckets, by S3: list, copy, keep folders alike, hand out addresses.

    \b
      hansa bucket mb s3://films
      hansa bucket cp film.mp4 s3://films/
      hansa bucket sync photos/ s3://photos/2026/ --delete
      hansa bucket presign s3://films/film.mp4 --expires 7d

    With AWS_ENDPOINT_URL_S3, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (`source DIR/hansa.env`), or --data DIR. What
    a bucket is set to (versions, locks, lifecycle) is `hansa get bucket`, `hansa apply`.
    """


def s3_of(data: Path | None) -> S3:
    from hansa.sdk.s3 import S3, Endpoint

    return S3(Endpoint.from_environment(data))


@bucket_command.command("mb")
@click.argument("address", type=AddressWord(buckets=True))
@click.option("--region", default="", help="Region instead of the key's.")
@_DATA
def mb_command(address: str, region: str, data: Path | None) -> None:
    """Make a bucket."""
    bucket = _bucket_of(address)
    s3_of(data).make_bucket(bucket, region)
    click.echo(f"s3://{bucket} is made")


@bucket_command.command("rb")
@click.argument("address", type=AddressWord(buckets=True))
@_DATA
def rb_command(address: str, data: Path | None) -> None:
    """Remove a bucket that holds nothing."""
    bucket = _bucket_of(address)
    s3_of(data).remove_bucket(bucket)
    click.echo(f"s3://{bucket} is gone")


@bucket_command.command("ls")
@click.argument("address", default="", type=AddressWord())
@click.option("-r", "--recursive", is_flag=True, help="Everything below, not one level.")
@click.option("--human", is_flag=True, help="Sizes as people read them.")
@_DATA
def ls_command(address: str, recursive: bool, human: bool, data: Path | None) -> None:
    """List buckets, or what is in one: s3://BUCKET[/PREFIX]."""
    s3 = s3_of(data)
    if not address.removeprefix("s3://"):
        for name, made in s3.buckets():
            click.echo(f"{_when(made)}  s3://{name}")
        return
    at = address_of(address)
    for size, modified, key in _listed(s3, at, recursive):
        click.echo(f"{_when(modified) if modified else '':19}  {_size(size, human) if modified else '-':>14}  {key}")


def _listed(s3: S3, at: Address, recursive: bool) -> Iterator[tuple[int, str, str]]:
    """(size, modified, key); a common prefix has no date."""
    after = ""
    while True:
        page = s3.page(at.bucket, at.key, "" if recursive else "/", after)
        lines = [(each.size, each.modified, each.key) for each in page.objects]
        lines += [(0, "", prefix) for prefix in page.prefixes]
        yield from sorted(lines, key=lambda line: line[2].encode())
        if not (after := page.next):
            return


@bucket_command.command("du")
@click.argument("address", type=AddressWord())
@click.option("--depth", type=click.IntRange(0, 20), default=0, show_default=True, help="Levels to add up apart.")
@click.option("--bytes", "exact", is_flag=True, help="Numbers of bytes.")
@_DATA
def du_command(address: str, depth: int, exact: bool, data: Path | None) -> None:
    """How much is in a bucket, or below a prefix. Only the current version of each object counts."""
    at = address_of(address)
    sums: dict[str, list[int]] = {}
    for each in s3_of(data).objects(at.bucket, at.key):
        levels = each.key.split("/")[:-1][:depth]
        for count in range(len(levels) + 1):
            total = sums.setdefault("/".join(levels[:count]), [0, 0])
            total[0] += each.size
            total[1] += 1
    for folder, (size, count) in sorted(sums.items()):
        where = f"s3://{at.bucket}/{folder}" if folder else str(at)
        click.echo(f"{_size(size, not exact):>14}  {count:>10} objects  {where}")
    if not sums:
        click.echo(f"{_size(0, not exact):>14}  {0:>10} objects  {at}")


@bucket_command.command("presign")
@click.argument("address", type=AddressWord())
@click.option("--expires", default="1h", show_default=True, metavar="TIME", help="As in 90s, 15m, 12h, 7d.")
@click.option("--method", type=click.Choice(["GET", "PUT", "HEAD", "DELETE"]), default="GET", show_default=True)
@_DATA
def presign_command(address: str, expires: str, method: str, data: Path | None) -> None:
    """An address with which anybody may do this to one object until it expires."""
    at = _object_of(address)
    click.echo(s3_of(data).presign(method, at.bucket, at.key, _seconds(expires)))


@bucket_command.command("rm")
@click.argument("address", type=AddressWord())
@click.option("-r", "--recursive", is_flag=True, help="Everything below the address.")
@click.option("--dry-run", is_flag=True, help="Say what would go.")
@_DATA
def rm_command(address: str, recursive: bool, dry_run: bool, data: Path | None) -> None:
    """Delete an object, or all below an address. Where a bucket keeps versions, they stay."""
    from hansa.cli.bucketcopy import run_deletions

    s3 = s3_of(data)
    at = address_of(address) if recursive else _object_of(address)
    every = (Address(at.bucket, each.key) for each in s3.objects(at.bucket, at.key)) if recursive else iter([at])
    if not dry_run:
        run_deletions(s3, every)
        return
    for each in every:
        click.echo(f"would delete {each}")


@bucket_command.command("cp")
@click.argument("source", type=AddressWord(files=True))
@click.argument("target", type=AddressWord(files=True))
@click.option("-r", "--recursive", is_flag=True, help="A folder, or everything below an address.")
@click.option("-q", "--quiet", is_flag=True, help="Say only what goes wrong.")
@_JOBS
@_DATA
def cp_command(source: str, target: str, recursive: bool, quiet: bool, jobs: int, data: Path | None) -> None:
    """Copy a file or a folder up, down, or between buckets; at least one of the two is s3://BUCKET/….

    What is large goes in parts, several at a time. One that breaks off goes on where it was when it is started again.
    """
    from hansa.cli.bucketcopy import copies, run_copies

    s3 = s3_of(data)
    run_copies(s3, list(copies(s3, source, target, recursive=recursive)), jobs=jobs, quiet=quiet)


@bucket_command.command("sync")
@click.argument("source", type=AddressWord(files=True))
@click.argument("target", type=AddressWord(files=True))
@click.option("--delete", "deletes", is_flag=True, help="Delete in the target what the source has not.")
@click.option("--size-only", is_flag=True, help="Files of the same size are alike, whatever their dates.")
@click.option("--dry-run", is_flag=True, help="Say what would be done.")
@click.option("-q", "--quiet", is_flag=True, help="Say only what goes wrong.")
@_JOBS
@_DATA
def sync_command(
    source: str, target: str, deletes: bool, size_only: bool, dry_run: bool, quiet: bool, jobs: int, data: Path | None
) -> None:
    """Make a bucket's folder like one of this machine, or the other way round.

    Copied is what is missing, has another size, or is older in the target than in the source.
    """
    from hansa.cli.bucketcopy import run_copies, run_deletions, synchronised

    s3 = s3_of(data)
    plan = synchronised(s3, source, target, size_only=size_only)
    gone = plan.gone if deletes else []
    if dry_run:
        for copy in plan.copies:
            click.echo(f"would copy {copy}")
        for each in gone:
            click.echo(f"would delete {each}")
        return
    run_copies(s3, plan.copies, jobs=jobs, quiet=quiet)
    run_deletions(s3, gone, quiet=quiet)


# -- words ------------------------------------------------------------------------------------------


def _bucket_of(address: str) -> str:
    at = address_of(address)
    if at.key:
        raise click.UsageError(f"{address} names an object, and a bucket is meant: s3://{at.bucket}")
    return at.bucket


def _object_of(address: str) -> Address:
    at = address_of(address)
    if not at.key:
        raise click.UsageError(f"{address} names a bucket, and an object is meant: s3://{at.bucket}/KEY")
    return at


def _seconds(text: str) -> int:
    number, unit = (text[:-1], text[-1:]) if text[-1:] in UNITS else (text, "s")
    if not (number.isascii() and number.isdigit()):
        raise Invalid.field("--expires", f"{text!r} is no time: a number with s, m, h or d, as in 12h")
    return int(number) * UNITS[unit]


def _size(size: int, human: bool) -> str:
    from hansa.units import human_size

    return human_size(size) if human and size else str(size)


def _when(modified: str) -> str:
    return modified[:19].replace("T", " ")
