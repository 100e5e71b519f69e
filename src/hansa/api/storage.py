"""What the API adds to what is stored: what buckets, projects and organisations hold, the access key of an account."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from hansa.api.admission import Gate
from hansa.api.resources import Asking, Besides
from hansa.api.view import HIDDEN
from hansa.errors import NotFound
from hansa.kinds.iam import Organization, Project
from hansa.kinds.quotas import OBJECT_STORAGE, OBJECTS, usage_document
from hansa.kinds.resource import Document, Key, Stored
from hansa.kinds.storage import (
    Bucket,
    BucketServiceAccount,
    BucketServiceAccountSecret,
    S3Credentials,
)
from hansa.objectindex.contents import contents_of
from hansa.objectindex.records import Held
from hansa.policy.verdict import Act
from hansa.sealing import Sealer
from hansa.store.port import Query, Store


class Contents(Protocol):
    async def held(self, bucket: str) -> Held: ...

    async def held_by(self, project: str) -> Held: ...


@dataclass(frozen=True, slots=True)
class Storage:
    store: Store
    gate: Gate
    sealer: Sealer
    contents: Contents

    def besides(self) -> Mapping[str, Besides]:
        """What the reading of one object adds, by kind."""
        return {
            Bucket.kind: self.with_contents,
            BucketServiceAccountSecret.kind: self.as_data,
            Organization.kind: self.with_storage,
        }

    async def used_in(self, project: str) -> dict[str, int]:
        """What a project holds in its buckets, by quantity of a quota."""
        held = await self.contents.held_by(project)
        return {OBJECT_STORAGE: held.bytes + held.upload_bytes, OBJECTS: held.versions}

    async def used_by(self, organization: str) -> dict[str, int]:
        """What all projects of an organisation hold in their buckets."""
        total: Counter[str] = Counter({OBJECT_STORAGE: 0, OBJECTS: 0})
        for stored in (await self.store.list(Query(Project.kind, ""))).items:
            if stored.spec.get("organization") == organization:
                total.update(await self.used_in(stored.key.name))
        return dict(total)

    async def with_storage(self, asking: Asking, stored: Stored, shown: Document) -> Document:
        usage = shown["status"]["quotaUsage"]
        storage = {**usage["objectStorage"], **usage_document(await self.used_by(stored.key.name))["objectStorage"]}
        storage["buckets"] = usage["objectStorage"]["buckets"]
        return {**shown, "status": {**shown["status"], "quotaUsage": {**usage, "objectStorage": storage}}}

    async def with_contents(self, asking: Asking, stored: Stored, shown: Document) -> Document:
        contents = contents_of(await self.contents.held(stored.uid))
        return {**shown, "status": {**shown["status"], "contents": contents.wire()}}

    async def as_data(self, asking: Asking, stored: Stored, shown: Document) -> Document:
        """`data` in the place of spec and status. The secret itself for those who may update the account."""
        account = await self._account(BucketServiceAccountSecret(stored))
        pair = account.status.pairs[-1]
        secret = HIDDEN
        if await self.gate.may(asking.caller, Act.UPDATE, BucketServiceAccount, account.key):
            sealed = await self.store.secret(account.uid, pair.sealed)
            if sealed is None:
                raise NotFound(f"the access key of {account.name} is not there any more")
            secret = self.sealer.open(sealed, f"{account.uid}/{pair.sealed}").decode()
        data = S3Credentials(access_key=pair.access_key, secret_access_key=secret)
        return {name: value for name, value in shown.items() if name not in ("spec", "status")} | {"data": data.wire()}

    async def _account(self, secret: BucketServiceAccountSecret) -> BucketServiceAccount:
        key = Key(BucketServiceAccount.kind, secret.key.scope, secret.spec.account)
        return BucketServiceAccount(await self.store.get(key))
