"""How things look: tables, documents, durations. Plain text; colour only on a terminal."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from hansa.sdk.names import Known, short_ref
from hansa.units import human_size

Document = dict[str, Any]
GREEN, YELLOW, RED = "32", "33", "31"


def coloured(text: str, colour: str) -> str:
    """The text in a colour where a person looks on."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"\x1b[{colour}m{text}\x1b[0m"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, two blanks apart."""
    lines = [list(headings), *(list(r) for r in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headings))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def listing(known: Known, items: Sequence[Document], now: datetime | None = None) -> str:
    """One kind's objects as a table: name, readiness, the kind's own columns, age."""
    moment = now or datetime.now(UTC)
    headings = ["NAME", "READY", "REASON", *(heading for heading, _ in known.columns), "AGE"]
    rows = []
    for item in items:
        ready = ready_of(item)
        cells = [column(at(item, path), path) for _, path in known.columns]
        rows.append([item["metadata"]["id"], ready.get("status", "-"), reason_of(item), *cells, age(item, moment)])
    return table(headings, rows)


def ready_of(item: Document) -> Document:
    found = (c for c in (item.get("status") or {}).get("conditions") or () if c["type"] == "Ready")
    return next(found, {})


def reason_of(item: Document) -> str:
    """The reason of `Ready`; a simulated object says so in every table."""
    reason = str(ready_of(item).get("reason", "-"))
    simulated = (item.get("status") or {}).get("simulated") is True
    return f"{reason} (simulated)" if simulated and reason != "Simulated" else reason


def at(document: Any, path: str) -> Any:
    """What stands at `a.b.0.c`, None when nothing does."""
    for name in path.split("."):
        if isinstance(document, dict):
            document = document.get(name)
        elif isinstance(document, list) and name.isdigit() and int(name) < len(document):
            document = document[int(name)]
        else:
            return None
    return document


def column(value: Any, path: str) -> str:
    """As `cell`; an amount of bytes is shown in the unit that people use."""
    return human_size(value) if path.endswith("Bytes") and isinstance(value, int) else cell(value)


def cell(value: Any) -> str:
    """One value in a table: sizes as `100 GB`, references short, lists by their members or their count."""
    if value is None or value in ("", [], {}):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        if "amount" in value and "unit" in value:
            return f"{value['amount']} {value['unit']}"
        if "model" in value:
            return f"{value.get('quantity', 1)} x {value['model']}"
        return f"{len(value)} fields"
    if isinstance(value, list):
        return ",".join(cell(v) for v in value) if all(isinstance(v, str) for v in value) else str(len(value))
    text = str(value)
    return short_ref(text).split("/", 1)[-1] if text.startswith("/") else text


def age(item: Document, now: datetime) -> str:
    made = datetime.fromisoformat(item["metadata"]["creationTimestamp"])
    return span((now - made).total_seconds())


def span(seconds: float) -> str:
    """`42s`, `7m`, `3h`, `12d`."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length:
            return f"{int(seconds // length)}{unit}"
    return f"{max(0, int(seconds))}s"


def document(value: Any, form: str) -> str:
    """As JSON or YAML."""
    if form == "json":
        return json.dumps(value, indent=2, ensure_ascii=False)
    import yaml

    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True)).rstrip()


def described(item: Document, events: Sequence[Document]) -> str:
    """Everything about one object, for people."""
    meta, status = item["metadata"], dict(item.get("status") or {})
    found = status.pop("conditions", [])
    lines = [f"{item['kind']} {meta['id']}"]
    lines += [
        f"  {name:<18} {meta[name]}"
        for name in ("project", "region", "uid", "creationTimestamp", "generation")
        if name in meta
    ]
    if meta.get("userLabels"):
        lines.append("  labels             " + ", ".join(f"{k}={v}" for k, v in meta["userLabels"].items()))
    for title, part in (("spec", item.get("spec") or {}), ("status", status)):
        lines += ["", f"{title}:", *("  " + line for line in document(part, "yaml").splitlines())]
    lines += ["", "conditions:"]
    lines += [f"  {c['type']:<16} {c['status']:<7} {c['reason']:<20} {c.get('message', '')}".rstrip() for c in found]
    if events:
        lines += ["", "events:"]
        lines += ["  " + line for line in event_table(events).splitlines()]
    return "\n".join(lines)


def event_table(events: Sequence[Document]) -> str:
    rows = [
        [e["at"], e["act"], short_ref(e["ref"]), e["reason"] or "-", short_ref(e["by"]) or "-", e["message"] or ""]
        for e in events
    ]
    return table(["AT", "ACT", "OBJECT", "REASON", "BY", "MESSAGE"], rows)


def changes(old: Any, new: Any, path: str = "") -> list[str]:
    """Lines `path: old -> new` for what a merge patch of `new` would change in `old`."""
    if isinstance(new, dict):
        before = old if isinstance(old, dict) else {}
        return [
            line
            for name, value in new.items()
            for line in changes(before.get(name), value, f"{path}.{name}".lstrip("."))
        ]
    if old == new:
        return []
    return [f"{path}: {json.dumps(old, ensure_ascii=False)} -> {json.dumps(new, ensure_ascii=False)}"]
