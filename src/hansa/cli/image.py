"""`hansa image`: build, list and remove the images of this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hansa.errors import NotFound

if TYPE_CHECKING:
    from hansa.engines.qemu.image_uses import Uses
    from hansa.engines.qemu.images import Image, ImageStore
    from hansa.engines.qemu.recipe import Report


@click.group("image")
def image_command() -> None:
    """Build, list and remove images of this machine. They are shared by every cloud on it."""


@image_command.command("build")
@click.argument("family", default="tiny")
@click.option("--background", is_flag=True, help="Start the build in a process of its own and do not wait for it.")
def build(family: str, background: bool) -> None:
    """Build an image from Debian packages, once per machine: `tiny` (seconds) or `debian` (a minute or two).

    Nothing is done where the image of today's packages is there; a builder that runs already is waited for.
    """
    from hansa.engines.qemu.images import FAMILIES, Building, ImageStore, Unavailable

    if family not in FAMILIES:
        raise click.UsageError(f"there is no image {family!r}: {', '.join(FAMILIES)}")
    store = ImageStore()
    if not background:
        image = store.build(family, _teller())
        click.echo(f"{family} is at {image.folder}")
        return
    state = store.ensure(family)
    if isinstance(state, Unavailable):
        raise click.ClickException(state.message)
    if isinstance(state, Building):
        click.echo(f"the image {family} is being built in the background: `hansa image ls` tells how far it is")
    else:
        click.echo(f"{family} is at {state.folder}")


@image_command.command("ls")
def ls() -> None:
    """The images of this machine: which are built, which are being built, what they are made of, and how many disks lie
    upon each (`?`: some cloud's data folder cannot be asked)."""
    from hansa.cli.show import table
    from hansa.engines.qemu.image_uses import uses
    from hansa.engines.qemu.images import FAMILIES, ImageStore

    store = ImageStore()
    known = uses(store)
    latest = {family: store.find(family) for family in FAMILIES}
    rows = [_row(image, "ready", known) if image else _missing(store, family) for family, image in latest.items()]
    told = {image.digest for image in latest.values() if image}
    rows += [_row(image, "superseded", known) for image in store.held() if image.digest not in told]
    click.echo(table(["FAMILY", "OS", "STATE", "SIZE", "AGE", "DISKS", "IMAGE", "MADE OF"], rows))


@image_command.command("rm")
@click.argument("digests", metavar="[IMAGE]...", nargs=-1)
@click.option("--unused", is_flag=True, help="Every image that nothing lies upon.")
@click.option("--gone-folders", is_flag=True, help="Data folders that are not there any more are gone for good.")
def rm(digests: tuple[str, ...], unused: bool, gone_folders: bool) -> None:
    """Remove images that no disk of any cloud of this machine lies upon.

    \b
      hansa image rm 2500828169b3
      hansa image rm --unused

    IMAGE is what `hansa image ls` shows, or a beginning of it. What is in use, or may be, stays: a disk without its image
    is lost.
    """
    from hansa.engines.qemu.image_uses import forget_missing, remove, uses, why_kept
    from hansa.engines.qemu.images import ImageStore
    from hansa.errors import InUse
    from hansa.units import human_size

    if bool(digests) == unused:
        raise click.UsageError("name images, or say --unused")
    store = ImageStore()
    for folder in forget_missing(store) if gone_folders else ():
        click.echo(f"{folder}: gone for good")
    images = store.held() if unused else [_named(store.held(), digest) for digest in digests]
    known, stayed = uses(store), 0
    for image in images:
        if unused and why_kept(store, image, known, time.time()):
            stayed += 1
            continue
        try:
            click.echo(f"{image.digest} ({image.family}): removed, {human_size(remove(store, image))} are free")
        except BlockingIOError:
            raise InUse(f"an image of {image.family} is being built: try again when it is done") from None
        except OSError as error:
            raise click.ClickException(f"{image.folder} cannot be removed: {error.strerror or error}") from error
    if unused and stayed:
        click.echo(f"{stayed} stay: `hansa image ls` says what is in use" + _unasked(known.missing, known.closed))


def _named(images: Sequence[Image], digest: str) -> Image:
    found = [image for image in images if image.digest.startswith(digest)]
    if len(found) != 1:
        many = f"{len(found)} images begin with" if found else "there is no image"
        raise NotFound(f"{many} {digest!r}: `hansa image ls` shows them")
    return found[0]


def _unasked(missing: Sequence[Path], closed: Sequence[Path]) -> str:
    """Why images may have stayed that nobody is known to use."""
    told = [f"\n  {folder} cannot be read: ask as the user whose it is" for folder in closed]
    told += [f"\n  {folder} is not there to be asked; once it is gone for good: --gone-folders" for folder in missing]
    return "".join(told)


def _teller() -> Report:
    """Prints each new thing that is done, and every tenth percent of it."""
    last: tuple[str, int] = ("", 0)

    def told(share: float, doing: str) -> None:
        nonlocal last
        if (doing, int(share * 10)) != last:
            last = (doing, int(share * 10))
            click.echo(f"{share:4.0%} {doing}")

    return told


def _row(image: Image, state: str, known: Uses) -> list[str]:
    from hansa.cli.show import span
    from hansa.units import human_size

    kernels = [text.partition("=")[2] for text in image.packages if text.startswith("linux-image-")]
    made_of = ", ".join([f"{len(image.packages)} Debian packages", *(f"kernel {version}" for version in kernels[:1])])
    size, age = human_size(image.stored_bytes), span(time.time() - image.built_at)
    count = known.disks.get(image.digest, 0)
    disks = str(count) if count or not (known.missing or known.closed) else "?"
    return [image.family, f"{image.os_image} {image.os_version}", state, size, age, disks, image.digest[:12], made_of]


def _missing(store: ImageStore, family: str) -> list[str]:
    from hansa.engines.qemu.images import RECIPES

    building, last = store.building(family), store.progress(family)
    if building:
        state, why = f"building {building.progress:.0%}", building.message
    elif last.get("state") == "failed":
        state, why = "failed", last.get("message", "")
    else:
        state, why = "not built", f"`hansa image build {family}`"
    return [family, f"{RECIPES[family].os_image} {RECIPES[family].os_version}", state, "-", "-", "-", "-", why]
