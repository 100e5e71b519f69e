"""`hansa usage`: what a project used, added up or interval by interval."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import click

from hansa.cli.options import client_of, placed
from hansa.units import human_size

Document = dict[str, Any]
PAGE = 1000


@click.command("usage")
@click.option("--since", default="", metavar="DATE", help="From then on, as in 2026-11-01T00:00:00Z.")
@click.option("--until", default="", metavar="DATE", help="Up to then.")
@click.option("--meter", default="", help="One meter only, as in vcpu_seconds.")
@click.option("--uid", default="", help="One object only.")
@click.option("--open", "only_open", is_flag=True, help="Only what is going on.")
@click.option("--intervals", is_flag=True, help="Each interval instead of the sums.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@placed
def usage_command(
    since: str, until: str, meter: str, uid: str, only_open: bool, intervals: bool, output: str, **place: Any
) -> None:
    """What a project used: machines while they ran, disks, snapshots, addresses and objects while they were there, and
    what was asked of its buckets.

    \b
      hansa usage --since 2026-11-01T00:00:00Z
      hansa usage --open --intervals
    """
    from hansa.cli import show

    client = client_of(**place)
    query = {"since": since, "until": until, "meter": meter, "uid": uid, "open": "true" if only_open else ""}
    found = list(pages(client, {name: value for name, value in query.items() if value}))
    if output == "json":
        click.echo(show.document({"items": found if intervals else list(sums(found))}, "json"))
    elif not found:
        click.echo("nothing was used then")
    else:
        click.echo(interval_table(found) if intervals else sum_table(sums(found)))


def pages(client: Any, query: dict[str, str]) -> Iterator[Document]:
    """Every interval, page by page."""
    path, query = f"/ledger/v1/projects/{client.place['project']}/usage", {**query, "limit": str(PAGE)}
    while True:
        page = client.request("GET", path, query)
        yield from page["items"]
        if "continue" not in page:
            return
        query["continue"] = page["continue"]


# -- pure ---------------------------------------------------------------------------------------


def sums(found: Iterable[Document]) -> Iterator[Document]:
    """By meter, what a price is looked up by, and zone. Simulated things stand apart."""
    total: defaultdict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0, 0])
    for item in found:
        place = (item["meter"], item["unit"], item.get("sku", ""), _zone(item), bool(item.get("simulated")))
        total[place][0] += item["consumed"]
        total[place][1] += item["open"]
    for (meter, unit, sku, zone, simulated), (consumed, going_on) in sorted(total.items()):
        yield {"meter": meter, "unit": unit, "sku": sku, "zone": zone, "simulated": simulated, "consumed": consumed,
               "open": going_on}  # fmt: skip


def sum_table(lines: Iterable[Document]) -> str:
    from hansa.cli.show import table

    rows = [[s["meter"] + (" (simulated)" if s["simulated"] else ""), s["sku"] or "-", s["zone"] or "-",
             amount_text(s["consumed"], s["unit"], s["meter"]), str(s["open"] or "-")] for s in lines]  # fmt: skip
    return table(["METER", "SKU", "ZONE", "USED", "GOING ON"], rows)


def interval_table(found: Iterable[Document]) -> str:
    from hansa.cli.show import span, table
    from hansa.sdk.names import short_ref

    rows = [[i["start"], i.get("end", "-"), span(i["seconds"]), short_ref(i["ref"]), i["meter"],
             drawn_text(i["quantity"], i["unit"]), i.get("sku") or "-", _zone(i) or "-"] for i in found]  # fmt: skip
    return table(["START", "END", "LONG", "OBJECT", "METER", "DRAWS", "SKU", "ZONE"], rows)


def drawn_text(quantity: int, unit: str) -> str:
    return human_size(quantity) if unit == "byte" else f"{quantity} {unit}"


def amount_text(consumed: int, unit: str, meter: str) -> str:
    """Unit-seconds in hours, which people count in: `3.5 vCPU-hours`, `12 GB-hours`; what is counted as it is."""
    if not meter.endswith("_seconds"):
        return human_size(consumed) if unit == "byte" and consumed else f"{consumed:,} {unit}s"
    hours = consumed / 3600
    if unit == "byte":
        return f"{hours / 1e9:,.2f} GB-hours"
    return f"{hours:,.2f} {unit}-hours"


def _zone(item: Document) -> str:
    return "-".join(word for word in (item.get("region", ""), item.get("zone", "")) if word)
