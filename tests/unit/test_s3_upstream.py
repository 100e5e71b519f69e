"""What the API answers a gateway, as S3's clients are told."""

from __future__ import annotations

from typing import Any

import pytest

from hansa.gateways.api import Answered, ApiPlace
from hansa.gateways.s3.upstream import refused


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


def test_where_an_api_is() -> None:
    assert ApiPlace("https://cloud.example.org/base").address == ("cloud.example.org", 443)
    assert ApiPlace("http://127.0.0.1:8080").address == ("127.0.0.1", 8080)
    assert ApiPlace("https://cloud.example.org", at="https://127.0.0.1:8443").address == ("127.0.0.1", 8443)
    assert ApiPlace("http://x", at="http://[::1]:8080").address == ("::1", 8080)
    assert not ApiPlace("https://cloud.example.org", at="http://127.0.0.1:8080").secure
