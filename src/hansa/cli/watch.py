"""`hansa get --watch`: the table as it is, then a line whenever something in it changes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import click

from hansa.cli import show
from hansa.errors import Gone
from hansa.sdk.names import Known, Target

Document = dict[str, Any]
Change = tuple[str, Document]  # ADDED, MODIFIED or DELETED; the object as it then was


def watch_objects(client: Any, asked: Sequence[Target], output: str, selector: str) -> None:
    """For ever. Of one kind: all of it, some by name, or by labels."""
    if len({target.known.kind for target in asked}) != 1:
        raise click.UsageError(
            "--watch is for objects of one kind: hansa get vm --watch, or hansa get vm web-1 web-2 --watch"
        )
    if output == "yaml":
        raise click.UsageError("--watch goes with -o table, json (a line each) or name")
    known = asked[0].known
    names = frozenset(target.name for target in asked if target.name is not None)
    growing = Growing(known)
    for type, item in changes(client, known, selector):
        if names and item["metadata"]["id"] not in names:
            continue
        if output == "json":
            click.echo(json.dumps({"type": type, "object": item}, ensure_ascii=False))
        elif output == "name":
            click.echo(f"{known.called}/{item['metadata']['id']}" + (" deleted" if type == "DELETED" else ""))
        else:
            for line in growing.lines(type, item, datetime.now(UTC)):
                click.echo(line)


def changes(client: Any, known: Known, selector: str) -> Iterator[Change]:
    """What is there, then every change of it, also over a pause so long that the changes in it are no longer kept."""
    there: dict[str, Document] = {}
    while True:
        try:
            for event in client.watch(known.kind, after=None, selector=selector):
                name = event.object["metadata"]["id"]
                if event.type == "DELETED":
                    yield event.type, there.pop(name, event.object)
                else:
                    there[name] = event.object
                    yield event.type, event.object
        except Gone:
            now = {item["metadata"]["id"] for item in client.list(known.kind, selector=selector)}
            for name in [name for name in there if name not in now]:
                yield "DELETED", there.pop(name)


@dataclass(slots=True)
class Growing:
    """A table whose lines come one by one; a line that would say what the last one of its object said is left out."""

    known: Known
    _widths: list[int] = field(default_factory=list)
    _said: dict[str, list[str]] = field(default_factory=dict)

    def lines(self, type: str, item: Document, now: datetime) -> Iterator[str]:
        headings = ["NAME", "READY", "REASON", *(heading for heading, _ in self.known.columns), "AGE"]
        row = self._row(type, item, now)
        name, told = row[0], row[:-1]
        if self._said.get(name) == told:
            return
        if not self._widths:
            self._widths = [max(len(heading), 6) for heading in headings]
            self._widths[0], self._widths[2] = max(len(name), 16), 22
            self._widths = [max(w, len(cell)) for w, cell in zip(self._widths, row, strict=True)]
            yield self._line(headings)
        if type == "DELETED":
            self._said.pop(name, None)
        else:
            self._said[name] = told
        yield self._line(row)

    def _row(self, type: str, item: Document, now: datetime) -> list[str]:
        gone = type == "DELETED"
        ready = "-" if gone else str(show.ready_of(item).get("status", "-"))
        cells = [show.column(show.at(item, path), path) for _, path in self.known.columns]
        age = show.age(item, now) if "creationTimestamp" in item["metadata"] else "-"
        return [item["metadata"]["id"], ready, "deleted" if gone else show.reason_of(item), *cells, age]

    def _line(self, cells: Sequence[str]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(cells, self._widths, strict=True)).rstrip()
