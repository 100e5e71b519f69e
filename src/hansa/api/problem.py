"""Errors on the wire: one body for every route. Clients read `reason` and `debug`, people the rest."""

from __future__ import annotations

from hansa.errors import Exhausted, HansaError, Retry
from hansa.kinds.resource import Document


def problem(error: HansaError, request: str) -> Document:
    body: Document = {"reason": error.reason, "debug": error.message}
    if error.fields:
        body["fields"] = [{"path": f.path, "message": f.message} for f in error.fields]
    if error.details:
        body["details"] = error.details
    body["help"] = f"/docs/reference/errors#{error.reason.lower()}"
    body["request"] = request
    return body


def retry_after(error: HansaError) -> str | None:
    """Whole seconds for `Retry-After`, None when waiting does not help."""
    if isinstance(error, Exhausted):
        return str(max(1, round(error.after_s)))
    if isinstance(error, Retry):
        return str(max(1, round(error.after_s or 1)))
    return None
