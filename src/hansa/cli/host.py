"""`hansa host`: what this machine can do as a host, and the hosts of the fleet."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import click

from hansa.cli.options import client_of, placed

if TYPE_CHECKING:
    from hansa.engines.ports import NetworkHost


@click.group("host")
def host_command() -> None:
    """Look at this machine as a host, and at the hosts of the fleet."""


@host_command.command("probe")
def probe_command() -> None:
    """Can this machine run guests, how fast, and how does it keep their networks apart?

    Boots a kernel under KVM, and sends packets at a closed port, to know.
    """
    import asyncio

    from hansa.engines.qemu import probe, program
    from hansa.engines.qemu.images import ImageStore

    qemu = asyncio.run(program.Finder().find())
    if qemu is None:
        raise click.ClickException(program.INSTALL)
    found = probe.probe(ImageStore(), qemu.version)
    network = asyncio.run(_network())
    click.echo(json.dumps({
        "accelerator": found.name, "reason": found.reason, "qemu": qemu.version,
        "network": network.mode, "networkReady": network.healthy, "networkReason": network.message,
        "uplink": network.uplink,
    }, indent=2))  # fmt: skip


async def _network() -> NetworkHost:
    from hansa.cli.options import settings_of
    from hansa.config import run_folder
    from hansa.engines.network.driver import LocalNetworks

    settings = settings_of()
    folder = run_folder(f"probe-{os.getpid()}")
    engine = LocalNetworks(folder, cloud_id=folder.name, mode=settings.network, uplink=settings.uplink)
    return await engine.host()


@host_command.command("ls")
@placed
def ls_command(**place: Any) -> None:
    """The hosts of the fleet; simulated ones say so."""
    from hansa.cli import show
    from hansa.sdk import names

    click.echo(show.listing(names.named("host"), client_of(**place).list("host")))
