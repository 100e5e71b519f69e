"""Writes to bucket resources, carried to the API in the name of who signed.

The API decides, audits and merges them like any other; each call here may be repeated. A bypass of a retention is told in
the gateway's own name, for the audit. What comes back is told once the
directory knows it, so that whoever made a bucket can use it and whoever deleted one can make it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from hansa.clock import Ids
from hansa.errors import Retry
from hansa.gateways.api import Answered, ApiClient
from hansa.gateways.s3.directory import Directory
from hansa.gateways.s3.ports import BucketView, Bypass, S3Identity
from hansa.gateways.s3.rules.access import is_home
from hansa.gateways.s3.wire.errors import S3Error

CALL_S = 10.0
WHOLE_S = 25.0  # repetitions included
GONE_S = 15.0  # for a deleted bucket to be forgotten
AGAIN_S = (0.05, 0.2, 0.5, 1.0, 2.0, 4.0)
LOOK_S = 0.02

BYPASSES = "/internal/v1/bypasses"
BYPASSES_AT_ONCE = 100  # with the longest of keys, less than the API takes in one body

Mint = Callable[[S3Identity, str], str]  # a short-lived access token of who holds a key, for a bucket that is lent
Token = Callable[[], str]  # a short-lived one, made anew


class Upstream:
    def __init__(self, api: ApiClient, directory: Directory, mint: Mint, mint_own: Token, ids: Ids) -> None:
        self._api, self._directory, self._ids = api, directory, ids
        self._mint, self._mint_own = mint, mint_own

    async def create_bucket(self, identity: S3Identity, name: str, region: str, spec: Mapping[str, Any]) -> BucketView:
        body = {"metadata": {"id": name}, "spec": spec}
        path = f"/storage/v1/projects/{identity.project}/regions/{quote(region, safe='')}/buckets"
        async with _within(WHOLE_S):
            answered = await self._ask(identity, "POST", path, body)
            if answered.status == 409 and await self._was_going(identity, name, region):
                answered = await self._ask(identity, "POST", path, body)
            if answered.status == 409:
                raise await self._taken(identity, name, region, answered)
            if answered.status not in (200, 201):
                raise refused(answered, name)
            uid = str(answered.document["metadata"]["uid"])
            return await self._known(uid, lambda view: True)

    async def delete_bucket(self, identity: S3Identity, bucket: BucketView, *, lent: bool = False) -> None:
        async with _within(WHOLE_S):
            answered = await self._ask(identity, "DELETE", _path(bucket), lent=_ref(bucket) if lent else "")
            if answered.status == 404:
                raise S3Error.of("NoSuchBucket", BucketName=bucket.name)
            if answered.status not in (200, 202, 204):
                raise refused(answered, bucket.name)
            await self._until_gone(bucket.uid)

    async def patch_bucket(
        self, identity: S3Identity, bucket: BucketView, merge: Mapping[str, Any], *, lent: bool = False
    ) -> BucketView:
        async with _within(WHOLE_S):
            answered = await self._ask(
                identity, "PATCH", _path(bucket), {"spec": merge}, lent=_ref(bucket) if lent else ""
            )
            if answered.status != 200:
                raise refused(answered, bucket.name)
            revision = int(answered.document["metadata"]["resourceVersion"])
            return await self._known(bucket.uid, lambda view: view.revision >= revision)

    async def record_bypasses(self, bypasses: Sequence[Bypass]) -> None:
        async with _within(WHOLE_S):
            for some in _batches(bypasses):
                told = {"bypasses": [_bypass(bypass) for bypass in some]}
                answered = await self._told("POST", BYPASSES, self._mint_own, told)
                if answered.status != 200:
                    raise S3Error.of("ServiceUnavailable", "The audit takes no record now, so nothing was changed.")

    # -- the call ---------------------------------------------------------------------------

    async def _ask(
        self, identity: S3Identity, method: str, path: str, body: Mapping[str, Any] | None = None, *, lent: str = ""
    ) -> Answered:
        """In the name of who signed."""
        return await self._told(method, path, lambda: self._mint(identity, lent), body)

    async def _told(
        self, method: str, path: str, token: Token, body: Mapping[str, Any] | None = None
    ) -> Answered:  # fmt: skip
        """The API's answer; one that says "later" is asked for again. Raises ServiceUnavailable."""
        headers = {"x-request-id": self._ids.token()[:16]}
        if method == "POST":
            headers["idempotency-key"] = self._ids.token()
        said = ""
        for pause_s in (*AGAIN_S, None):
            try:
                answered = await self._api.ask(method, path, token(), body, timeout_s=CALL_S, headers=headers)
                if answered.status not in (429, 503) and not (method == "PATCH" and answered.reason == "Conflict"):
                    return answered
                said = answered.message
            except Retry as retry:
                said = retry.message
            if pause_s is not None:
                await asyncio.sleep(pause_s)
        raise S3Error.of("ServiceUnavailable", f"The change could not be made now: {said}")

    # -- what became of it ------------------------------------------------------------------

    async def _known(self, uid: str, enough: Callable[[BucketView], bool]) -> BucketView:
        while True:
            await self._directory.caught_up()
            view = self._directory.bucket_by_uid(uid)
            if view is not None and enough(view):
                return view
            await asyncio.sleep(LOOK_S)

    async def _until_gone(self, uid: str) -> None:
        """Its name is free again. A store that is slow to let go does not make the deletion untrue."""
        try:
            async with asyncio.timeout(GONE_S):
                while True:
                    await self._directory.caught_up()
                    if self._directory.bucket_by_uid(uid) is None:
                        return
                    await asyncio.sleep(LOOK_S)
        except TimeoutError:
            return

    async def _was_going(self, identity: S3Identity, name: str, region: str) -> bool:
        """Was the name held by a bucket of the same project that is on its way out? Then it is free now."""
        await self._directory.caught_up()
        view = self._directory.named(name, region)
        if view is None or not view.going or view.project != identity.project:
            return view is None
        await self._until_gone(view.uid)
        return True

    async def _taken(self, identity: S3Identity, name: str, region: str, answered: Answered) -> S3Error:
        view = self._directory.named(name, region)
        if view is None and answered.reason != "AlreadyExists":
            return refused(answered, name)
        mine = view is not None and is_home(identity, view) and not view.going
        return S3Error.of("BucketAlreadyOwnedByYou" if mine else "BucketAlreadyExists", BucketName=name)


def _batches(bypasses: Sequence[Bypass]) -> list[Sequence[Bypass]]:
    return [bypasses[at : at + BYPASSES_AT_ONCE] for at in range(0, len(bypasses), BYPASSES_AT_ONCE)]


def _bypass(it: Bypass) -> dict[str, Any]:
    bucket = it.bucket
    return {
        "id": it.id, "who": it.caller.ref, "via": it.caller.via, "rule": it.rule, "operation": it.operation,
        "request": it.request, "project": bucket.project, "region": bucket.region, "bucket": bucket.name,
        "uid": bucket.uid, "key": it.key, "version": it.version, "until": it.until, "becomes": it.becomes,
    }  # fmt: skip


def _ref(bucket: BucketView) -> str:
    return f"/storage/projects/{bucket.project}/regions/{bucket.region}/buckets/{bucket.name}"


def _path(bucket: BucketView) -> str:
    return f"/storage/v1/projects/{bucket.project}/regions/{bucket.region}/buckets/{bucket.name}"


class _within:  # noqa: N801 - reads as the words it stands for
    """A deadline for a whole write, told as S3 tells it."""

    def __init__(self, seconds: float) -> None:
        self._timeout = asyncio.timeout(seconds)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, *raised: Any) -> None:
        try:
            await self._timeout.__aexit__(*raised)
        except TimeoutError as error:
            raise S3Error.of(
                "ServiceUnavailable", "The change was not known to be done in time; look again."
            ) from error


def refused(answered: Answered, bucket: str) -> S3Error:
    """An answer of the API that is no success, as S3 says it. Pure."""
    status, reason, said = answered.status, answered.reason, answered.message
    paths = [str(field.get("path", "")) for field in answered.document.get("fields") or ()]
    if status in (401, 403):
        if reason == "QuotaExceeded":
            return S3Error.of("TooManyBuckets", said)
        return S3Error.of("AccessDenied", said)
    if status == 404:
        return S3Error.of("NoSuchBucket", said, BucketName=bucket)
    if status == 409:
        if reason in ("InUse", "BucketNotEmpty"):
            return S3Error.of("BucketNotEmpty", BucketName=bucket)
        return S3Error.of("OperationAborted", said)
    if status in (400, 422):
        if "metadata.region" in paths:
            return S3Error.of("InvalidLocationConstraint", said)
        if "metadata.id" in paths:
            return S3Error.of("InvalidBucketName", said, BucketName=bucket)
        if any("objectRetentionMode" in path for path in paths):
            return S3Error.of("InvalidBucketState", said)
        return S3Error.of("InvalidArgument", said)
    return S3Error.of("InternalError", f"The API answered {status}.")
