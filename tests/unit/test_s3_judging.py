"""What S3 refuses of a bucket is refused by the API too, with the part of the spec that is meant."""

from __future__ import annotations

from typing import Any

import pytest

from hansa.errors import Invalid
from hansa.gateways.s3.rules.judging import judge
from hansa.kinds.resource import Key, Stored
from hansa.kinds.storage import Bucket

ALLOW = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::films/*"}
MINE = {"AWS": "arn:aws:iam:::user/somebody"}


def bucket(access: str = "closed", **spec: Any) -> Bucket:
    key = Key(Bucket.kind, "projects/demo/regions/se-sto", "films")
    return Bucket(Stored(key, "u", 0.0, spec=spec, status={"access": access}))


def policy(*statements: dict[str, Any]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": list(statements)}


def test_what_s3_takes_is_taken() -> None:
    judge(bucket())
    judge(
        bucket(
            policy=policy(
                {**ALLOW, "Principal": {"AWS": "*"}, "Condition": {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}}
            )
        )
    )
    judge(bucket("open", policy=policy({**ALLOW, "Principal": "*"})))
    judge(bucket(publicAccessBlock={}, policy=policy({**ALLOW, "Principal": "*"})))
    judge(bucket(cors={"rules": [{"allowedMethods": ["GET"], "allowedOrigins": ["*"]}]}))


@pytest.mark.parametrize(
    ("spec", "part"),
    [
        ({"policy": {"Statement": "all"}}, "policy"),
        ({"policy": "{"}, "policy"),
        ({"policy": policy({**ALLOW, "Principal": "*", "Condition": {"NoSuch": {"a": "b"}}})}, "policy"),
        ({"policy": policy({**ALLOW, "Principal": "*", "Resource": "arn:aws:s3:::another/*"})}, "policy"),
        ({"policy": policy({**ALLOW, "Principal": "*"})}, "policy"),  # to everybody, and the block stands
        ({"cors": {"rules": [{"allowedMethods": ["GET"], "allowedOrigins": ["a\n"]}]}}, "cors"),
    ],
)  # fmt: skip
def test_what_s3_refuses_is_refused_by_name(spec: dict[str, Any], part: str) -> None:
    with pytest.raises(Invalid) as refused:
        judge(bucket(**spec))
    assert refused.value.fields[0].path == f"spec.{part}"
