"""Moments as text: RFC 3339, as everything on the wire. Pure."""

from __future__ import annotations

from datetime import UTC, datetime


def rfc3339(at: float) -> str:
    """Epoch seconds as RFC 3339 in UTC with milliseconds: `2026-10-01T08:00:00.000Z`."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_rfc3339(text: str) -> float:
    """Epoch seconds. Raises ValueError for anything that is no date with a zone."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a date needs a time zone")
    return moment.timestamp()
