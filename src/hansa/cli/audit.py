"""`hansa audit`: who did what, and who was refused, newest first."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import click

from hansa.cli.options import client_of, placed

SPANS = {"m": 60, "h": 3600, "d": 86_400}


@click.command("audit")
@click.option("--who", help="Only of this principal, as in /iam/users/…")
@click.option("--kind", help="Only about this kind, as in VirtualMachine.")
@click.option("--name", help="Only about objects of this name.")
@click.option("--verb", help="Only of this verb: create, update, delete, bypass, start, assign, login, …")
@click.option(
    "--outcome", type=click.Choice(["done", "allowed", "refused", "unauthenticated"]), help="Only with this outcome."
)
@click.option("--request", "request_id", help="Only of the request with this id.")
@click.option("--since", help="From this date on (RFC 3339), or so long ago: 30m, 12h, 7d.")
@click.option("--until", help="Before this date, or so long ago.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=100, show_default=True)
@click.option("--whole", is_flag=True, help="Of the whole organisation, not only of the project.")
@click.option("-o", "--output", type=click.Choice(["table", "json", "yaml"]), default="table", show_default=True)
@placed
def audit_command(
    who: str | None, kind: str | None, name: str | None, verb: str | None, outcome: str | None, request_id: str | None,
    since: str | None, until: str | None, limit: int, whole: bool, output: str, **place: Any,
) -> None:  # fmt: skip
    """Who did what, and who was refused.

    \b
      hansa audit --since 24h
      hansa audit --outcome refused --whole
      hansa audit --kind VirtualMachine --name web-1 -o json

    For owners of the project or organisation, and those with the role securityIncidentResponder.
    """
    from hansa.cli import show

    client = client_of(**place)
    of = ("organizations", client.place["organization"]) if whole else ("projects", client.place["project"])
    if not of[1]:
        raise click.UsageError(f"say which: --{of[0][:-1]}")
    asked = {"who": who, "kind": kind, "name": name, "verb": verb, "outcome": outcome, "request": request_id,
             "since": _date(since), "until": _date(until)}  # fmt: skip
    query = {k: v for k, v in asked.items() if v}
    items: list[dict[str, Any]] = []
    while len(items) < limit:
        path = f"/audit/v1/{of[0]}/{quote(of[1], safe='')}/records"
        page = client.request("GET", path, {**query, "limit": str(min(1000, limit - len(items)))})
        items += page["items"]
        if not page.get("continue"):
            break
        query["continue"] = page["continue"]
    if output != "table":
        click.echo(show.document({"items": items}, output))
        return
    rows = [_row(item) for item in items]
    click.echo(show.table(["AT", "WHO", "VERB", "WHAT", "OUTCOME", "REQUEST"], rows) if rows else "no records")


def _row(item: dict[str, Any]) -> list[str]:
    from hansa.sdk.names import short_ref

    what = short_ref(item["ref"]) if item.get("ref") else f"{item.get('count', '')} calls"
    outcome = item["outcome"] + (f" ({item['reason']})" if item.get("reason") else "")
    return [item["at"], item["who"] or "-", item["verb"], what, outcome, item.get("request") or "-"]


def _date(text: str | None) -> str:
    """`12h` as the date so long ago; a date as it is."""
    if text and text[-1] in SPANS and text[:-1].isdigit():
        return (datetime.now(UTC) - timedelta(seconds=int(text[:-1]) * SPANS[text[-1]])).isoformat()
    return text or ""
