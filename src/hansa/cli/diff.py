"""`hansa diff`: what `hansa apply` would change, and whether anything."""

from __future__ import annotations

import sys
from typing import Any

import click

from hansa.cli.options import client_of, placed
from hansa.errors import HansaError

DIFFERENT = 1
WRONG = 2


@click.command("diff")
@click.option("-f", "--file", "files", multiple=True, required=True, help="A file, a folder, or - for standard input.")
@placed
def diff_command(files: tuple[str, ...], **place: Any) -> None:
    """What `hansa apply` of the same files would change. Nothing is written.

    \b
      hansa diff -f web.yaml

    Exit status 0: nothing would change; 1: something would; above: it cannot be told.
    """
    from hansa.cli.apply import planned

    try:
        plans = planned(client_of(**place), files)
    except HansaError as error:
        from hansa.cli.main import exit_code, show_error

        show_error(error)
        sys.exit(max(WRONG, exit_code(error)))  # 1 says that something differs
    new = [plan for plan in plans if plan.lines is None]
    changed = [plan for plan in plans if plan.lines]
    for plan in plans:
        if plan.lines is None:
            lines = leaves(plan.body["spec"], "spec")
            click.echo("\n".join([f"+ {plan.target}", *(f"    {line}" for line in lines)]))
        elif plan.lines:
            click.echo("\n".join([f"~ {plan.target}", *(f"    {line}" for line in plan.lines)]))
    same = len(plans) - len(new) - len(changed)
    click.echo(f"{len(new)} to create, {len(changed)} to change, {same} as they are")
    if new or changed:
        sys.exit(DIFFERENT)


def leaves(value: Any, path: str) -> list[str]:
    """`path: value` of each field of a document. Pure."""
    import json

    if isinstance(value, dict) and value:
        return [line for name, inner in value.items() for line in leaves(inner, f"{path}.{name}")]
    return [f"{path}: {json.dumps(value, ensure_ascii=False)}"]
