"""What a reconciler may touch: it reads the store, knows the time, and calls engines. It never writes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from hansa.clock import Clock, Ids
from hansa.config import Settings
from hansa.control.outcome import Outcome
from hansa.engines.ports import ComputeEngine, NetworkEngine, VolumeEngine
from hansa.errors import NotFound
from hansa.kinds.registry import key_of, read
from hansa.kinds.resource import AnyResource, Key, Resource
from hansa.kinds.storage import Bucket
from hansa.objectindex.port import Check
from hansa.objectindex.records import Held, Listing, Removed, UploadListing, Version
from hansa.sealing import Sealer
from hansa.store.port import Birth, Query, Store

R = TypeVar("R", bound=AnyResource)


class Engines(Protocol):
    """The engines of the fleet, by host and by zone id (`se-sto-a`). None: there is none (any more)."""

    def compute(self, host: str) -> ComputeEngine | None: ...

    def volumes(self, zone: str) -> VolumeEngine | None: ...

    def network(self, host: str) -> NetworkEngine | None: ...


class Contents(Protocol):
    """What the control plane asks of the object index (`objectindex.port`), by the uid of the bucket."""

    async def close_bucket(self, bucket: str) -> bool: ...

    async def reopen_bucket(self, bucket: str) -> None: ...

    async def get(self, bucket: str, key: str, id: str = "") -> Version | None: ...

    async def held(self, bucket: str) -> Held: ...

    async def held_by(self, project: str) -> Held: ...

    async def list_versions(
        self, bucket: str, *, after: str = "", after_id: str = "", limit: int = 1000
    ) -> Listing: ...

    async def remove(self, bucket: str, key: str, id: str, *, project: str, check: Check | None = None) -> Removed: ...

    async def uploads(self, bucket: str, *, limit: int = 1000) -> UploadListing: ...

    async def abort(self, bucket: str, upload: str, *, project: str) -> bool: ...

    async def floor(self, now: float) -> float: ...


def any_bucket(bucket: Bucket, before: Bucket | None) -> None:
    """No rules but those on the fields: where nobody serves S3."""


@dataclass(frozen=True, slots=True)
class World:
    store: Store  # for reading only: what is to be written is returned
    engines: Engines
    clock: Clock
    ids: Ids
    settings: Settings
    buckets: Contents
    sealer: Sealer
    judge_bucket: Callable[[Bucket, Bucket | None], None] = any_bucket  # raises for documents that S3 would refuse

    async def get(self, kind: type[R], key: Key) -> R | None:
        """The object, also while it is going; None when it is not there."""
        try:
            return kind(await self.store.get(key))
        except NotFound:
            return None

    async def follow(self, kind: type[R], ref: str) -> R | None:
        """What a full reference names, None when it is not there or of another kind."""
        key = key_of(ref)
        return await self.get(kind, key) if key is not None and key.kind == kind.kind else None

    async def pointing(self, kind: type[R], target: Key) -> list[R]:
        """Objects of one kind that point at `target`, each once, in order of creation."""
        sources = {p.source for p in await self.store.pointers_to(target) if p.source.kind == kind.kind}
        found = [o for o in [await self.get(kind, key) for key in sorted(sources)] if o is not None]
        return sorted(found, key=lambda o: (o.stored.created_at, o.uid))

    async def all(self, kind: type[R], scope: str = "", *, below: bool = False) -> list[R]:
        page = await self.store.list(Query(kind.kind, scope, below=below))
        return [kind(stored) for stored in page.items]

    async def below(self, scope: str) -> list[AnyResource]:
        """Everything of every kind in a scope and under it."""
        return [read(stored) for stored in (await self.store.list(Query(None, scope, below=True))).items]


class Reconciler(Protocol):
    """One function a kind. Told which object, never what happened; may be run again at any point."""

    kind: type[Resource]  # type: ignore[type-arg]

    async def reconcile(self, it: AnyResource, world: World) -> Outcome:
        """At most one bounded step. Raises Retry (try later), Refused (wait for another spec)."""
        ...


Born = Callable[[AnyResource, World], Awaitable[Birth]]
Reconcilers = Mapping[str, Reconciler]
Births = Mapping[str, Born]
