"""`hansa explain`: the kinds, their fields and rules, and what is not built yet."""

from __future__ import annotations

from collections.abc import Iterator

import click

from hansa.sdk import names

_VERBS = {"L": "get", "G": "describe", "CP": "apply", "D": "delete"}  # the letters of a kind that each needs one of


@click.command("explain")
@click.argument("kind", required=False)
def explain_command(kind: str | None) -> None:
    """The kinds, their fields and rules, and what is not built yet.

    \b
      hansa explain            every kind
      hansa explain vm         one of them: what can be asked of it, its fields
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
    from hansa.api.explain import explain
    from hansa.kinds.registry import kind_named

    told = explain(kind_named(known.kind))
    click.echo(f"{told['kind']}  ({told['service']}/{told['version']}, {told['collection']})\n{told['description']}\n")
    click.echo("\n".join(_asked(known)) + "\n")
    rows = [[f["path"], f["type"], "required" if f["required"] else "-", f["rule"] or "-"] for f in told["fields"]]
    click.echo(table(["FIELD", "TYPE", "NEEDED", "RULE"], rows))
    click.echo("\nrules: fixed never changes; stopped changes only while stopped; grows never shrinks; "
               "echoed is written back with its default; secret is kept sealed")  # fmt: skip


def _asked(known: names.Known) -> Iterator[str]:
    """What can be asked of one: the verbs of all kinds, and its own actions as a command or as a request."""
    from hansa.cli.main import VERBS

    yield f"called  {', '.join(known.short) or known.called}"
    yield "verbs   " + ", ".join(word for letters, word in _VERBS.items() if set(letters) & set(known.verbs))
    for action in known.actions:
        if action in VERBS:
            yield f"        hansa {action + ' NAME':<13} {VERBS[action][1]}"
        else:
            yield f"        POST {known.path(known.scopes[0])}/{{{known.called}}}/{action}"
