"""`hansa explain`: the kinds, their fields and rules, and what is not built yet."""

from __future__ import annotations

import click

from hansa.sdk import names


@click.command("explain")
@click.argument("kind", required=False)
def explain_command(kind: str | None) -> None:
    """The kinds, their fields and rules, and what is not built yet.

    \b
      hansa explain            every kind
      hansa explain vm         the fields of one
    """
    from hansa.cli.show import table
    from hansa.sdk.table import UNBUILT

    if kind is None:
        rows = [[k.kind, ",".join(k.short) or "-", f"{k.service}/{k.version}", k.about] for k in names.kinds()]
        click.echo(table(["KIND", "SHORT", "API", "WHAT"], rows))
        click.echo("\nnot built yet:")
        click.echo(table(["  COLLECTION", "WHY"], [[f"  {c}", why] for c, why in UNBUILT]))
        return
    known = names.named(kind)
    from hansa.api.documents import explain
    from hansa.kinds.registry import kind_named

    told = explain(kind_named(known.kind))
    click.echo(f"{told['kind']}  ({told['service']}/{told['version']}, {told['collection']})\n{told['description']}\n")
    rows = [[f["path"], f["type"], "required" if f["required"] else "-", f["rule"] or "-"] for f in told["fields"]]
    click.echo(table(["FIELD", "TYPE", "NEEDED", "RULE"], rows))
    click.echo("\nrules: fixed never changes; stopped changes only while stopped; grows never shrinks; "
               "echoed is written back with its default; secret is kept sealed")  # fmt: skip
