"""`hansa image`: build and list the images of this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from hansa.engines.qemu.images import Image, ImageStore
    from hansa.engines.qemu.recipe import Report


@click.group("image")
def image_command() -> None:
    """Build and list images of this machine. They are shared by every cloud on it."""


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
    """The images of this machine: which are built, which are being built, and what they are made of."""
    from hansa.cli.show import table
    from hansa.engines.qemu.images import FAMILIES, ImageStore

    store = ImageStore()
    latest = {family: store.find(family) for family in FAMILIES}
    rows = [_row(image, "ready") if image else _missing(store, family) for family, image in latest.items()]
    known = {image.digest for image in latest.values() if image}
    rows += [_row(image, "superseded") for image in store.held() if image.digest not in known]
    click.echo(table(["FAMILY", "OS", "STATE", "SIZE", "BUILT", "MADE OF"], rows))


def _teller() -> Report:
    """Prints each new thing that is done, and every tenth percent of it."""
    last: tuple[str, int] = ("", 0)

    def told(share: float, doing: str) -> None:
        nonlocal last
        if (doing, int(share * 10)) != last:
            last = (doing, int(share * 10))
            click.echo(f"{share:4.0%} {doing}")

    return told


def _row(image: Image, state: str) -> list[str]:
    from hansa.dates import rfc3339
    from hansa.units import human_size

    kernels = [text.partition("=")[2] for text in image.packages if text.startswith("linux-image-")]
    made_of = ", ".join([f"{len(image.packages)} Debian packages", *(f"kernel {version}" for version in kernels[:1])])
    size, built = human_size(image.stored_bytes), rfc3339(image.built_at)
    return [image.family, f"{image.os_image} {image.os_version}", state, size, built, made_of]


def _missing(store: ImageStore, family: str) -> list[str]:
    from hansa.engines.qemu.images import RECIPES

    building, last = store.building(family), store.progress(family)
    if building:
        state, why = f"building {building.progress:.0%}", building.message
    elif last.get("state") == "failed":
        state, why = "failed", last.get("message", "")
    else:
        state, why = "not built", f"`hansa image build {family}`"
    return [family, f"{RECIPES[family].os_image} {RECIPES[family].os_version}", state, "-", "-", why]
