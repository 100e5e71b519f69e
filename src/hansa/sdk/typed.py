"""From the documents of the wire to the typed objects of `hansa.kinds`. Imports them: only on demand."""

from __future__ import annotations

from typing import Any

from hansa.dates import parse_rfc3339
from hansa.kinds.resource import AnyResource, Document, Key, Stored


def stored(kind: type[AnyResource], scope: str, document: Document) -> Stored:
    """The row that a document speaks of, as far as a client may know it."""
    metadata = document["metadata"]
    generation = int(metadata.get("generation", 1))
    ready: dict[str, Any] = next(
        (c for c in document.get("status", {}).get("conditions", ()) if c["type"] == "Ready"), {}
    )
    version = str(metadata.get("resourceVersion", ""))
    return Stored(
        key=Key(kind.kind, scope, metadata["id"]),
        uid=metadata["uid"],
        created_at=parse_rfc3339(metadata["creationTimestamp"]),
        generation=generation,
        revision=int(version) if version.isascii() and version.isdigit() else 0,
        observed=int(ready.get("observedGeneration", generation)),
        deleted_at=parse_rfc3339(ready["lastTransitionTime"]) if ready.get("reason") == "Deleting" else None,
        labels=dict(metadata.get("userLabels") or {}),
        system_labels=dict(metadata.get("systemLabels") or {}),
        spec=document.get("spec") or {},
        status=document.get("status") or {},
    )
