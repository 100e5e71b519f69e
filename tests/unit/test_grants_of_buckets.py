"""Who may open a bucket to others: who holds what is in it, and whom the bucket itself lets."""

from __future__ import annotations

from typing import Any, cast

import pytest

from hansa.api.grants import check_grants
from hansa.errors import Forbidden
from hansa.kinds.resource import Document, Key, Stored
from hansa.kinds.storage import Bucket
from hansa.policy.access import LENT_BUCKET
from hansa.policy.verdict import Caller, Grant, Subject, Verdict

pytestmark = pytest.mark.anyio
REF = "/storage/projects/shop/regions/se-sto/buckets/films"
STRANGER = "/iam/projects/other/serviceAccounts/somebody"


class Gate:
    """As much of the API's gate as is asked."""

    async def organization_of(self, project: str) -> str:
        return "acme"

    def refuse(self, verdict: Verdict, subject: Subject) -> None:
        if not verdict.allowed:
            raise Forbidden("; ".join(verdict.reasons))


def bucket(**spec: Any) -> Bucket:
    document: Document = spec
    return Bucket(Stored(Key("Bucket", "projects/shop/regions/se-sto", "films"), "uid", 0.0, spec=document))


def held(role: str, *resources: str) -> Caller:
    return Caller(STRANGER, grants=(Grant("projects/shop", role, resources),))


OTHERS = {"owner": {"id": "owner"}, "grants": [{"grantee": "somebody", "permission": "READ"}]}
OWN = {"owner": {"id": "owner"}, "grants": [{"grantee": "owner", "permission": "FULL_CONTROL"}]}


@pytest.mark.parametrize("caller", [held("storageOperator"), held("projectOwner"), held(LENT_BUCKET, REF)])
async def test_these_may_open_it(caller: Caller) -> None:
    await check_grants(cast(Any, Gate()), caller, bucket(acl=OTHERS), bucket())


@pytest.mark.parametrize(
    "caller",
    [
        held("cicdInfrastructureManager"), held("storageObjectViewer"), held(LENT_BUCKET, REF + "-more"),
        held(LENT_BUCKET), Caller(STRANGER),
    ],
)  # fmt: skip
async def test_these_may_not(caller: Caller) -> None:
    with pytest.raises(Forbidden):
        await check_grants(cast(Any, Gate()), caller, bucket(acl=OTHERS), bucket())


async def test_what_opens_nothing_is_not_asked_about() -> None:
    builder = held("cicdInfrastructureManager")
    same = bucket(acl=OTHERS, publicAccessBlock={}, tags=[{"key": "a", "value": "b"}])
    await check_grants(cast(Any, Gate()), builder, same, bucket(acl=OTHERS, publicAccessBlock={}))
    await check_grants(cast(Any, Gate()), builder, bucket(acl=OWN), None)
