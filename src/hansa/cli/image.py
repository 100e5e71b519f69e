"""`hansa image`: build and list the images of this machine."""

from __future__ import annotations

import click


@click.group("image")
def image_command() -> None:
    """Build and list images of this machine. They are shared by every cloud on it."""


@image_command.command("build")
@click.argument("family", default="tiny")
def build(family: str) -> None:
    """Build an image from Debian packages, once per machine (a few seconds for `tiny`)."""
    from hansa.engines.qemu.images import FAMILIES, ImageStore

    if family not in FAMILIES:
        raise click.UsageError(f"there is no image {family!r}: {', '.join(FAMILIES)}")
    last = ""

    def told(share: float, doing: str) -> None:
        nonlocal last
        if doing != last:
            last = doing
            click.echo(f"{share:4.0%} {doing}")

    image = ImageStore().build(family, told)
    click.echo(f"{family} is at {image.folder}")


@image_command.command("ls")
def ls() -> None:
    """The images that are built."""
    from hansa.cli.show import table
    from hansa.engines.qemu.images import FAMILIES, ImageStore

    rows = []
    for family in FAMILIES:
        image = ImageStore().find(family)
        rows.append([family, str(image.folder) if image else "not built: `hansa image build`"])
    click.echo(table(["FAMILY", "WHERE"], rows))
