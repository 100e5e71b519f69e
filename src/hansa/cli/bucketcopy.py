"""What `hansa bucket cp` and `sync` copy, and how they show it: a plan first, then the work with a bar for all bytes.

A key may be any text, and a bucket may be a stranger's: one that would lead out of the target folder is left, and said.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import click

from hansa.cli.bucketwords import Address, address_of, is_address
from hansa.errors import HansaError, Invalid, NotFound
from hansa.sdk.s3 import DELETED_AT_ONCE, S3, Seen
from hansa.sdk.s3files import WHOLE_MAX, Transfers, seconds_of

Place = Path | Address


@dataclass(frozen=True, slots=True)
class Copy:
    """One file or object, and where it goes."""

    source: Place
    target: Place
    size: int

    def __str__(self) -> str:
        return f"{self.source} to {self.target}"


@dataclass(frozen=True, slots=True)
class Plan:
    """What makes the target like the source: `gone` are things that the source has not."""

    copies: list[Copy]
    gone: list[Place]


@dataclass(frozen=True, slots=True)
class Had:
    """A file or an object as far as a comparison goes. `modified` in epoch seconds."""

    size: int
    modified: float


# -- what to copy -----------------------------------------------------------------------------------


def copies(s3: S3, source: str, target: str, *, recursive: bool) -> Iterator[Copy]:
    """Of `cp`. Raises UsageError for words that say nothing to do, NotFound for a source that is not there."""
    if is_address(source):
        yield from _from_bucket(s3, address_of(source), target, recursive=recursive)
    elif not is_address(target):
        raise click.UsageError("one of the two is s3://BUCKET/…: files are copied with cp")
    else:
        yield from _from_files(Path(source), address_of(target), recursive=recursive)


def _from_files(source: Path, target: Address, *, recursive: bool) -> Iterator[Copy]:
    if not source.exists():
        raise NotFound(f"there is no file {source}")
    if not source.is_dir():
        key = target.key + source.name if target.key == "" or target.key.endswith("/") else target.key
        yield Copy(source, Address(target.bucket, key), source.stat().st_size)
        return
    if not recursive:
        raise click.UsageError(f"{source} is a folder: --recursive copies what is in it")
    below = _folder(target)
    for name, had in files_in(source).items():
        yield Copy(source / name, Address(target.bucket, below + name), had.size)


def _from_bucket(s3: S3, source: Address, target: str, *, recursive: bool) -> Iterator[Copy]:
    if not recursive:
        if not source.key:
            raise click.UsageError(f"{source} is a whole bucket: --recursive copies what is in it")
        size = int(s3.head(source.bucket, source.key).get("content-length", "0"))
        yield Copy(source, _one(target, source.key.rstrip("/").rpartition("/")[2]), size)
        return
    for name, seen in objects_below(s3, source).items():
        place = _below(target, name)
        if place is not None:
            yield Copy(Address(source.bucket, seen.key), place, seen.size)


def _one(target: str, name: str) -> Place:
    """Where one object goes: under its own name where the target is a folder."""
    if is_address(target):
        at = address_of(target)
        return Address(at.bucket, at.key + name if not at.key or at.key.endswith("/") else at.key)
    path = Path(target)
    return path / name if path.is_dir() or target.endswith("/") else path


def _below(target: str, name: str) -> Place | None:
    """The place of a name below a target; None, and a word about it, for one that is no name of a file there."""
    if is_address(target):
        at = address_of(target)
        return Address(at.bucket, _folder(at) + name)
    if is_file_name(name):
        return Path(target) / name
    click.echo(f"left: {name!r} is no name of a file below {target}", err=True)
    return None


def is_file_name(name: str) -> bool:
    """Does a key, taken as a path, stay in the folder that it is put into? Pure."""
    parts = name.split("/")
    return "\0" not in name and all(part not in ("", ".", "..") and len(part.encode()) <= 255 for part in parts)


def _folder(at: Address) -> str:
    return at.key if not at.key or at.key.endswith("/") else f"{at.key}/"


# -- what is there ----------------------------------------------------------------------------------


def files_in(folder: Path) -> dict[str, Had]:
    """Files below a folder by their names with slashes. Links to folders are not followed."""
    found: dict[str, Had] = {}
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            file = Path(root) / name
            try:
                seen = file.stat()
            except FileNotFoundError:  # a link to nothing, or gone meanwhile
                continue
            if stat.S_ISREG(seen.st_mode) and not name.endswith((".hansa-part", ".hansa-parts")):
                found[file.relative_to(folder).as_posix()] = Had(seen.st_size, seen.st_mtime)
    return found


def objects_below(s3: S3, at: Address) -> dict[str, Seen]:
    """Objects below an address by what their keys are from there on; marks of folders are left out."""
    prefix = _folder(at)
    every = s3.objects(at.bucket, prefix)
    return {each.key[len(prefix) :]: each for each in every if not each.key.endswith("/")}


def synchronised(s3: S3, source: str, target: str, *, size_only: bool) -> Plan:
    """Of `sync`. Raises UsageError, NotFound."""
    if is_address(source) == is_address(target):
        raise click.UsageError("one of the two is s3://BUCKET/…, the other a folder of this machine")
    up = is_address(target)
    folder, at = Path(source if up else target), address_of(target if up else source)
    if up and not folder.is_dir():
        raise NotFound(f"there is no folder {folder}")
    here = files_in(folder) if folder.is_dir() else {}
    there = objects_below(s3, at)
    far = {name: Had(seen.size, seconds_of(seen.modified)) for name, seen in there.items()}
    if up:
        made = [
            Copy(folder / n, Address(at.bucket, _folder(at) + n), here[n].size) for n in missing(here, far, size_only)
        ]
        return Plan(made, [Address(at.bucket, there[name].key) for name in sorted(far.keys() - here.keys())])
    copied = []
    for name in missing(far, here, size_only):
        if (place := _below(target, name)) is not None:
            copied.append(Copy(Address(at.bucket, there[name].key), place, far[name].size))
    return Plan(copied, [folder / name for name in sorted(here.keys() - far.keys())])


def missing(source: Mapping[str, Had], target: Mapping[str, Had], size_only: bool) -> list[str]:
    """Names that the target lacks, or has in another size, or older by more than a clock's second. Pure."""
    return [
        name
        for name, had in sorted(source.items())
        if (other := target.get(name)) is None
        or other.size != had.size
        or (not size_only and had.modified > other.modified + 1.0)
    ]


# -- the work ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Told:
    """A line for each copy; on a terminal a bar for all of them."""

    quiet: bool
    bar: Any = None
    task: Any = None
    failed: list[str] = field(default_factory=list)

    def moved(self, count: int) -> None:
        if self.bar is not None:
            self.bar.advance(self.task, count)

    def done(self, copy: Copy) -> None:
        if self.bar is None and not self.quiet:
            click.echo(f"copied {copy}")

    def wrong(self, copy: Copy, error: Exception) -> None:
        said = error.message if isinstance(error, HansaError) else str(error)
        self.failed.append(str(copy))
        click.echo(f"error: {copy}: {said}", err=True)


def run_copies(s3: S3, every: list[Copy], *, jobs: int, quiet: bool) -> None:
    """All of them, whatever happens to one. Raises HansaError saying how many failed."""
    told = _Told(quiet)
    with _bar(told, every), Transfers(s3, jobs, told.moved) as transfers:
        small: list[tuple[Copy, Future[None]]] = []
        for copy in every:
            work = partial(_copy, s3, transfers, copy)
            if copy.size <= WHOLE_MAX:
                small.append((copy, transfers.later(work)))
            else:  # its parts are the jobs of the pool
                _finish(copy, work, told)
        for copy, future in small:
            _finish(copy, future.result, told)
    if told.failed:
        raise HansaError(f"{len(told.failed)} of {len(every)} copies failed; start it again to go on where it was")


def _finish(copy: Copy, work: Callable[[], None], told: _Told) -> None:
    try:
        work()
    except (HansaError, OSError) as error:
        told.wrong(copy, error)
    else:
        told.done(copy)


def _copy(s3: S3, transfers: Transfers, copy: Copy) -> None:
    match copy.source, copy.target:
        case Path() as source, Address() as target:
            transfers.upload(source, target.bucket, target.key)
        case Address() as source, Path() as target:
            transfers.download(source.bucket, source.key, target)
        case Address() as source, Address() as target:
            if copy.size > 5 << 30:
                raise Invalid(f"{source} has more than 5 GiB, which S3 does not copy in one go: down, then up again")
            s3.copy((source.bucket, source.key), target.bucket, target.key)
            transfers.moved(copy.size)
        case _:
            raise Invalid(f"{copy}: neither is in a bucket")


def _bar(told: _Told, every: list[Copy]) -> Any:
    from contextlib import nullcontext

    if told.quiet or not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    told.bar = Progress(*columns, console=Console(stderr=True))
    told.task = told.bar.add_task(f"{len(every)} files", total=sum(copy.size for copy in every))
    return told.bar


def run_deletions(s3: S3, gone: Iterable[Place], *, quiet: bool = False) -> None:
    """Files, or objects of one bucket, as they come. Raises HansaError saying how much stays."""
    stay, rest = 0, iter(gone)
    while some := list(islice(rest, DELETED_AT_ONCE)):
        kept = _deleted(s3, some)
        for place in some:
            if place in kept:
                click.echo(f"error: {place}: {kept[place]}", err=True)
            elif not quiet:
                click.echo(f"deleted {place}")
        stay += len(kept)
    if stay:
        raise HansaError(f"{stay} could not be deleted")


def _deleted(s3: S3, some: list[Place]) -> dict[Place, str]:
    """Why those that stay do."""
    kept: dict[Place, str] = {}
    objects = [place for place in some if isinstance(place, Address)]
    if objects:
        bucket = objects[0].bucket
        kept |= {Address(bucket, key): why for key, why in s3.delete_many(bucket, [each.key for each in objects])}
    for place in some:
        if isinstance(place, Path):
            try:
                place.unlink(missing_ok=True)
            except OSError as error:
                kept[place] = error.strerror or str(error)
    return kept
