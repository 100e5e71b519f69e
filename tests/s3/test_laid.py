"""Tags and grants that a writer lays on a new object: whom a policy lets write needs its word for them too."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from typing import Any

import pytest

from .running import Running
from .test_sharing import denied, post

Allow = Callable[..., None]
TAGS = [{"Key": "team", "Value": "red"}]


@pytest.fixture
def lent(main: Any) -> str:
    name = f"l-{secrets.token_hex(6)}"
    main.create_bucket(Bucket=name)
    return name


def statement(bucket: str, *actions: str, effect: str = "Allow", **more: Any) -> dict[str, Any]:
    resource = f"arn:aws:s3:::{bucket}/*"
    return {"Effect": effect, "Principal": "*", "Action": list(actions), "Resource": resource, **more}


def say(client: Any, bucket: str, *statements: dict[str, Any]) -> None:
    client.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": statements}))


def writes(who: Any, bucket: str, **laid: Any) -> list[Callable[[], Any]]:
    """Every way to write an object with what is laid on it."""
    source = {"Bucket": bucket, "Key": "source"}
    return [
        lambda: who.put_object(Bucket=bucket, Key="put", Body=b"x", **laid),
        lambda: who.create_multipart_upload(Bucket=bucket, Key="parts", **laid),
        lambda: who.copy_object(Bucket=bucket, Key="copy", CopySource=source, TaggingDirective="REPLACE", **laid),
    ]


def forms(opened: Running, bucket: str, **fields: str) -> int:
    made = opened.client(opened.alt).generate_presigned_post(
        bucket, "form", Fields=fields, Conditions=[{name: value} for name, value in fields.items()]
    )
    return post(made["url"], made["fields"], b"x")[0]


XML = "<Tagging><TagSet><Tag><Key>team</Key><Value>red</Value></Tag></TagSet></Tagging>"


@pytest.mark.parametrize(
    ("action", "laid", "field"),
    [
        ("s3:PutObjectTagging", {"Tagging": "team=red"}, {"tagging": XML}),
        ("s3:PutObjectAcl", {"ACL": "public-read"}, {"acl": "public-read"}),
        ("s3:PutObjectAcl", {"GrantRead": 'uri="http://acs.amazonaws.com/groups/global/AllUsers"'}, {"acl": "private"}),
    ],
)
def test_each_way_to_write_asks_for_what_is_laid(
    opened: Running, main: Any, alt: Any, lent: str, action: str, laid: dict[str, str], field: dict[str, str]
) -> None:
    main.put_object(Bucket=lent, Key="source", Body=b"s")
    say(main, lent, statement(lent, "s3:PutObject", "s3:GetObject"))
    for write in writes(alt, lent):
        write()
    assert forms(opened, lent) == 204
    for write in writes(alt, lent, **laid):
        denied(write)
    assert forms(opened, lent, **field) == 403
    for write in writes(main, lent, **laid):
        write()  # the bucket's owner needs no policy
    say(main, lent, statement(lent, "s3:PutObject", "s3:GetObject", action))
    for write in writes(alt, lent, **laid):
        write()
    assert forms(opened, lent, **field) == 204
    say(main, lent, statement(lent, "s3:PutObject", "s3:GetObject"), statement(lent, action, effect="Deny"))
    for who in (main, alt):
        for write in writes(who, lent, **laid):
            denied(write)
        for write in writes(who, lent):
            write()


def test_a_statement_that_looks_at_what_is_laid_lets_it_through(main: Any, alt: Any, lent: str) -> None:
    tagged = statement(lent, "s3:PutObject", Condition={"StringEquals": {"s3:RequestObjectTag/team": "red"}})
    say(main, lent, tagged)
    alt.put_object(Bucket=lent, Key="k", Body=b"x", Tagging="team=red")
    for tags in ({"Tagging": "team=blue"}, {}):
        denied(lambda tags=tags: alt.put_object(Bucket=lent, Key="k", Body=b"x", **tags))
    denied(lambda: alt.put_object(Bucket=lent, Key="k", Body=b"x", Tagging="team=red", ACL="public-read"))
    owner = main.get_bucket_acl(Bucket=lent)["Owner"]["ID"]
    granted = statement(
        lent, "s3:PutObject", Condition={"StringEquals": {"s3:x-amz-grant-full-control": f"id={owner}"}}
    )
    say(main, lent, granted)
    alt.put_object(Bucket=lent, Key="k", Body=b"x", GrantFullControl=f"id={owner}")
    denied(lambda: alt.put_object(Bucket=lent, Key="k", Body=b"x", GrantFullControl=f"id={owner}", Tagging="a=b"))


def test_a_copy_brings_tags_to_who_may_read_and_lay_them(main: Any, alt: Any, lent: str) -> None:
    source = f"l-{secrets.token_hex(6)}"
    main.create_bucket(Bucket=source)
    main.put_object(Bucket=source, Key="k", Body=b"x", Tagging="team=red")
    main.put_object(Bucket=source, Key="bare", Body=b"x")

    def copies(key: str, **more: Any) -> Callable[[], Any]:
        return lambda: alt.copy_object(Bucket=lent, Key=key, CopySource={"Bucket": source, "Key": key}, **more)

    for there, here, both in (
        ((), (), False), (("s3:GetObjectTagging",), (), False), ((), ("s3:PutObjectTagging",), False),
        (("s3:GetObjectTagging",), ("s3:PutObjectTagging",), True),
    ):  # fmt: skip
        say(main, source, statement(source, "s3:GetObject", *there))
        say(main, lent, statement(lent, "s3:PutObject", "s3:GetObjectTagging", *here))
        copies("bare")()
        copies("k", TaggingDirective="REPLACE")()
        if both:
            copies("k")()
            assert alt.get_object_tagging(Bucket=lent, Key="k")["TagSet"] == TAGS
        else:
            denied(copies("k"))
    main.copy_object(Bucket=lent, Key="own", CopySource={"Bucket": source, "Key": "k"})
    assert main.get_object_tagging(Bucket=lent, Key="own")["TagSet"] == TAGS


def test_who_writes_by_a_grant_lays_what_they_will(main: Any, alt: Any, lent: str) -> None:
    main.put_bucket_acl(Bucket=lent, ACL="public-read-write")
    say(main, lent, statement(lent, "s3:PutObject"))
    alt.put_object(Bucket=lent, Key="k", Body=b"x", Tagging="team=red", ACL="bucket-owner-full-control")
    assert alt.get_object_tagging(Bucket=lent, Key="k")["TagSet"] == TAGS


def test_where_acls_count_for_nothing_no_word_of_them_is_asked_for(closed: Running, bucket: str) -> None:
    main, alt = closed.client(), closed.client(closed.alt)
    named = {"Principal": {"CanonicalUser": closed.alt.user_id}}
    say(main, bucket, statement(bucket, "s3:PutObject", **named))
    alt.put_object(Bucket=bucket, Key="k", Body=b"x", ACL="bucket-owner-full-control")
    denied(lambda: alt.put_object(Bucket=bucket, Key="k", Body=b"x", Tagging="team=red"))


def test_a_lock_on_a_new_object_takes_its_own_words(closed: Running, s3: Any, bucket: str) -> None:
    name = f"{bucket}-locked"
    s3.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    alt, named = closed.client(closed.alt), {"Principal": {"CanonicalUser": closed.alt.user_id}}
    until = {"ObjectLockMode": "GOVERNANCE", "ObjectLockRetainUntilDate": "2100-01-01T00:00:00Z"}
    hold = {"ObjectLockLegalHoldStatus": "ON"}
    for action, laid, other in (
        ("s3:PutObjectRetention", until, hold), ("s3:PutObjectLegalHold", hold, until),
    ):  # fmt: skip
        say(s3, name, statement(name, "s3:PutObject", **named))
        for write in (alt.put_object, alt.create_multipart_upload):
            denied(lambda write=write, laid=laid: write(Bucket=name, Key="k", **laid))
        say(s3, name, statement(name, "s3:PutObject", action, **named))
        for write in (alt.put_object, alt.create_multipart_upload):
            write(Bucket=name, Key="k", **laid)
            denied(lambda write=write, other=other: write(Bucket=name, Key="k", **other))
