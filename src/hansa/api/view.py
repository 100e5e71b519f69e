"""The stored object as a client sees it. Pure.

`Ready` is never stale: it reads False with `Updating` while the status lags behind the spec, and
`Deleting` once the deletion mark is set. No write is needed for either.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hansa.dates import rfc3339
from hansa.kinds.resource import AnyResource, Document, Stored

HIDDEN = "***"  # in the place of a secret that is not shown


def view(kind: type[AnyResource], stored: Stored, *, secrets: Mapping[tuple[str, ...], str] | None = None) -> Document:
    """The whole object. `secrets`: values by path for a caller who may read them; others see `HIDDEN`."""
    status = kind.say(stored, {k: v for k, v in stored.status.items() if k not in kind.hidden})
    return {
        "apiVersion": f"{kind.service}/{kind.version}",
        "kind": kind.kind,
        "metadata": _metadata(stored),
        "spec": _with_secrets(kind, stored.spec, secrets) if kind.secrets else stored.spec,
        "status": _never_stale(stored, status),
    }


def _metadata(stored: Stored) -> Document:
    key = stored.key
    shown: Document = {
        "id": key.name,
        "uid": stored.uid,
        "creationTimestamp": rfc3339(stored.created_at),
        "generation": stored.generation,
        "resourceVersion": str(stored.revision),
    }
    parts = key.scope.split("/") if key.scope else []
    for segment, name in zip(parts[::2], parts[1::2], strict=False):
        if segment in ("projects", "regions", "organizations"):
            shown[segment[:-1]] = name
    if stored.labels:
        shown["userLabels"] = stored.labels
    if stored.system_labels:
        shown["systemLabels"] = stored.system_labels
    if stored.deleted_at is not None:
        shown["deletionTimestamp"] = rfc3339(stored.deleted_at)
    return shown


def _never_stale(stored: Stored, status: Document) -> Document:
    going = stored.deleted_at is not None
    if not going and stored.observed == stored.generation:
        return status
    conditions: list[Document] = status.get("conditions", [])
    ready = next((c for c in conditions if c.get("type") == "Ready"), None)
    if going and ready is not None and ready.get("reason") in ("Deleting", "WaitingForContents", "DetachPending"):
        return status
    if not going and ready is not None and ready.get("status") == "False" and ready.get("reason") == "Creating":
        return status
    since = rfc3339(stored.deleted_at) if stored.deleted_at is not None else None
    shown = {
        "type": "Ready",
        "status": "False",
        "reason": "Deleting" if going else ("Creating" if stored.observed == 0 else "Updating"),
        "message": "" if going else f"generation {stored.generation} is not followed yet",
        "lastTransitionTime": since or (ready or {}).get("lastTransitionTime") or rfc3339(stored.created_at),
        "observedGeneration": stored.observed,
    }
    return {**status, "conditions": [shown, *(c for c in conditions if c.get("type") != "Ready")]}


def _with_secrets(kind: type[AnyResource], spec: Document, secrets: Mapping[tuple[str, ...], str] | None) -> Document:
    for path in kind.secrets:
        if at(spec, path) is not None:
            spec = put(spec, path, (secrets or {}).get(path, HIDDEN))
    return spec


def at(document: Any, path: tuple[str, ...]) -> Any:
    """What stands at a path, None when nothing does."""
    for name in path:
        if not isinstance(document, dict):
            return None
        document = document.get(name)
    return document


def put(document: Document, path: tuple[str, ...], value: Any) -> Document:
    """A copy of the document with another value at a path whose parents exist."""
    name, rest = path[0], path[1:]
    return {**document, name: put(document[name], rest, value) if rest else value}
