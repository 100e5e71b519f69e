"""`hansa host`: what this machine can do as a host, and the hosts of the fleet."""

from __future__ import annotations

import json
from typing import Any

import click

from hansa.cli.options import client_of, placed


@click.group("host")
def host_command() -> None:
    """Look at this machine as a host, and at the hosts of the fleet."""


@host_command.command("probe")
def probe_command() -> None:
    """Can this machine run guests, and with which accelerator? Boots a kernel under KVM to know."""
    import asyncio

    from hansa.engines.qemu import probe, program
    from hansa.engines.qemu.images import ImageStore

    qemu = asyncio.run(program.Finder().find())
    if qemu is None:
        raise click.ClickException(program.INSTALL)
    found = probe.probe(ImageStore(), qemu.version)
    click.echo(json.dumps({"accelerator": found.name, "reason": found.reason, "qemu": qemu.version}, indent=2))


@host_command.command("ls")
@placed
def ls_command(**place: Any) -> None:
    """The hosts of the fleet; simulated ones say so."""
    from hansa.cli import show
    from hansa.sdk import names

    click.echo(show.listing(names.named("host"), client_of(**place).list("host")))
