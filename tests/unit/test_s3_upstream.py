"""What the API answers a gateway, as S3's clients are told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

import pytest

from hansa.api.gateways import BYPASSES_MAX
from hansa.clock import SeededIds
from hansa.errors import Retry
from hansa.gateways.api import Answered, ApiPlace
from hansa.gateways.s3 import upstream
from hansa.gateways.s3.ports import BucketView, Bypass
from hansa.gateways.s3.upstream import Upstream, refused
from hansa.gateways.s3.wire.errors import S3Error
from hansa.policy.verdict import Caller
from hansa.units import BODY_BYTES_MAX


@pytest.mark.parametrize(
    ("status", "document", "code"),
    [
        (401, {"reason": "Unauthorized"}, "AccessDenied"),
        (403, {"reason": "Forbidden", "debug": "no role"}, "AccessDenied"),
        (403, {"reason": "QuotaExceeded"}, "TooManyBuckets"),
        (404, {"reason": "NotFound"}, "NoSuchBucket"),
        (409, {"reason": "InUse"}, "BucketNotEmpty"),
        (409, {"reason": "Conflict"}, "OperationAborted"),
        (400, {"fields": [{"path": "metadata.id", "message": "x"}]}, "InvalidBucketName"),
        (422, {"fields": [{"path": "spec.objectRetentionMode", "message": "x"}]}, "InvalidBucketState"),
        (400, {"fields": [{"path": "spec.cors", "message": "x"}]}, "InvalidArgument"),
        (500, {}, "InternalError"),
    ],
)  # fmt: skip
def test_refusals_have_codes_of_s3(status: int, document: dict[str, Any], code: str) -> None:
    assert refused(Answered(status, document), "films").code == code


class Api:
    """Answers in turn; None: nobody is there."""

    def __init__(self, *answers: int | None) -> None:
        self.answers, self.told = list(answers), []

    async def ask(
        self, method: str, path: str, token: str, body: Mapping[str, Any], *, timeout_s: float, headers: Mapping[str, str]
    ) -> Answered:  # fmt: skip
        self.told.append((method, path, token, [(it["id"], it["who"], it["key"]) for it in body["bypasses"]]))
        status = self.answers.pop(0)
        if status is None:
            raise Retry("nobody is there")
        return Answered(status, {})


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("answers", "recorded"), [((None, 503, 200), True), ((None, None, None), False), ((401,), False), ((404,), False)]
)
async def test_a_bypass_is_told_until_the_audit_has_it_or_refused(
    monkeypatch: pytest.MonkeyPatch, answers: tuple[int | None, ...], recorded: bool
) -> None:
    monkeypatch.setattr(upstream, "AGAIN_S", (0.0, 0.0))
    api = Api(*answers)
    it = Upstream(cast(Any, api), cast(Any, None), lambda identity, lent: "theirs", lambda: "own", SeededIds(1))
    view = BucketView("u", "films", "demo", "o", "se-sto", "SE", 1, 0.0, "owner", "Owner", {})
    bypass = Bypass("b-1", Caller("/iam/users/u"), "acl", "DeleteObject", "r", view, "k", "v", 5.0, "deleted")
    if recorded:
        await it.record_bypasses([bypass])
    else:
        with pytest.raises(S3Error) as refused:
            await it.record_bypasses([bypass])
        assert refused.value.code == "ServiceUnavailable"
    told = ("POST", "/internal/v1/bypasses", "own", [("b-1", "/iam/users/u", "k")])
    assert api.told == [told] * len(answers), "the same record each time"


@pytest.mark.anyio
async def test_many_bypasses_are_told_in_bodies_that_the_api_takes() -> None:
    api = Api(200, 200, 200)
    it = Upstream(cast(Any, api), cast(Any, None), lambda identity, lent: "theirs", lambda: "own", SeededIds(1))
    view = BucketView("u", "films", "demo", "o", "se-sto", "SE", 1, 0.0, "owner", "Owner", {})
    key = "\0" * 1024  # the longest that JSON makes of one
    many = [
        Bypass(f"b-{n}", Caller("/iam/users/u"), "acl", "DeleteObjects", "r", view, key, "v" * 100, 5.0, "deleted")
        for n in range(250)
    ]
    await it.record_bypasses(many)
    assert [id for told in api.told for id, _, _ in told[3]] == [one.id for one in many]
    assert upstream.BYPASSES_AT_ONCE == BYPASSES_MAX
    assert len(json.dumps([upstream._bypass(one) for one in many[:BYPASSES_MAX]])) < BODY_BYTES_MAX * 0.75


def test_where_an_api_is() -> None:
    assert ApiPlace("https://cloud.example.org/base").address == ("cloud.example.org", 443)
    assert ApiPlace("http://127.0.0.1:8080").address == ("127.0.0.1", 8080)
    assert ApiPlace("https://cloud.example.org", at="https://127.0.0.1:8443").address == ("127.0.0.1", 8443)
    assert ApiPlace("http://x", at="http://[::1]:8080").address == ("::1", 8080)
    assert not ApiPlace("https://cloud.example.org", at="http://127.0.0.1:8080").secure
