"""Where ACLs are open: canned words, grants, owners, forms; between two tenants and with everybody."""

from __future__ import annotations

import json
import secrets
from typing import Any

import pytest
from botocore.exceptions import ClientError

from hansa.gateways.s3.calls import attached
from hansa.gateways.s3.gateway import Call
from hansa.objectindex.records import NewVersion

from .running import Running
from .test_objects import code

EVERYBODY = "http://acs.amazonaws.com/groups/global/AllUsers"


@pytest.fixture
def shared(main: Any) -> str:
    name = f"s-{secrets.token_hex(6)}"
    main.create_bucket(Bucket=name, ACL="public-read-write")
    return name


def denied(call: Any) -> None:
    with pytest.raises(ClientError) as caught:
        call()
    assert code(caught) == (403, "AccessDenied")


def test_a_canned_word_lets_everybody_read(opened: Running, main: Any, alt: Any) -> None:
    name = f"s-{secrets.token_hex(6)}"
    main.create_bucket(Bucket=name)
    main.put_object(Bucket=name, Key="open", Body=b"o", ACL="public-read")
    main.put_object(Bucket=name, Key="own", Body=b"p")
    for client in (alt, opened.stranger()):
        assert client.get_object(Bucket=name, Key="open")["Body"].read() == b"o"
        denied(lambda client=client: client.get_object(Bucket=name, Key="own"))
        denied(lambda client=client: client.list_objects_v2(Bucket=name))
    main.put_bucket_acl(Bucket=name, ACL="public-read")
    assert len(opened.stranger().list_objects_v2(Bucket=name)["Contents"]) == 2
    main.put_object_acl(Bucket=name, Key="open", ACL="private")
    denied(lambda: alt.get_object(Bucket=name, Key="open"))


def test_who_writes_into_a_shared_bucket_owns_it(opened: Running, main: Any, alt: Any, shared: str) -> None:
    alt.put_object(Bucket=shared, Key="theirs", Body=b"a")
    owner = alt.get_object_acl(Bucket=shared, Key="theirs")["Owner"]
    assert owner["ID"] == opened.alt.user_id
    denied(lambda: main.get_object(Bucket=shared, Key="theirs"))
    alt.put_object(Bucket=shared, Key="given", Body=b"b", ACL="bucket-owner-full-control")
    assert main.get_object(Bucket=shared, Key="given")["Body"].read() == b"b"
    main.delete_object(Bucket=shared, Key="theirs")
    listed = main.list_objects_v2(Bucket=shared, FetchOwner=True)["Contents"]
    assert [(one["Key"], one["Owner"]["ID"]) for one in listed] == [("given", opened.alt.user_id)]


def test_a_grant_to_one(opened: Running, main: Any, alt: Any) -> None:
    name = f"s-{secrets.token_hex(6)}"
    main.create_bucket(Bucket=name)
    main.put_object(Bucket=name, Key="k", Body=b"x", GrantRead=f"id={opened.alt.user_id}")
    assert alt.get_object(Bucket=name, Key="k")["Body"].read() == b"x"
    denied(lambda: alt.get_object_acl(Bucket=name, Key="k"))
    said = main.get_object_acl(Bucket=name, Key="k")
    said["Grants"].append(
        {"Grantee": {"Type": "CanonicalUser", "ID": opened.alt.user_id}, "Permission": "READ_ACP"}
    )  # fmt: skip
    main.put_object_acl(Bucket=name, Key="k", AccessControlPolicy={"Owner": said["Owner"], "Grants": said["Grants"]})
    assert len(alt.get_object_acl(Bucket=name, Key="k")["Grants"]) == len(said["Grants"])
    with pytest.raises(ClientError) as caught:
        main.put_bucket_acl(Bucket=name, GrantRead="id=nobody")
    assert code(caught) == (400, "InvalidArgument")
    said["Grants"][-1]["Permission"] = "EVERYTHING"
    with pytest.raises(ClientError) as caught:
        main.put_object_acl(
            Bucket=name, Key="k", AccessControlPolicy={"Owner": said["Owner"], "Grants": said["Grants"]}
        )
    assert code(caught) == (400, "MalformedACLError")


def test_an_acl_is_said_once_or_not_changed(opened: Running, main: Any) -> None:
    name = f"s-{secrets.token_hex(6)}"
    main.create_bucket(Bucket=name, ACL="public-read")
    main.put_object(Bucket=name, Key="k", Body=b"x", ACL="public-read")
    said = main.get_bucket_acl(Bucket=name)
    policy = {"Owner": said["Owner"], "Grants": said["Grants"]}
    for put, get, where in (
        (main.put_bucket_acl, main.get_bucket_acl, {"Bucket": name}),
        (main.put_object_acl, main.get_object_acl, {"Bucket": name, "Key": "k"}),
    ):
        with pytest.raises(ClientError) as caught:
            put(**where)
        assert code(caught) == (400, "MissingSecurityHeader")
        with pytest.raises(ClientError) as caught:
            put(**where, ACL="private", AccessControlPolicy=policy)
        assert code(caught) == (400, "UnexpectedContent")
        assert len(get(**where)["Grants"]) == 2


def test_no_grants_are_laid_on_a_marker_that_came_meanwhile(
    opened: Running, main: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"s-{secrets.token_hex(6)}"
    main.create_bucket(Bucket=name)
    main.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    main.put_object(Bucket=name, Key="k", Body=b"x")

    async def deleted_meanwhile(call: Call) -> bytes:
        marker = NewVersion(call.bucket.uid, "k", "the-marker", call.now, marker=True)
        await call.gateway.index.lay_marker(marker, call.bucket.versioning, project=call.bucket.project)
        return b""

    monkeypatch.setattr(attached, "read_document", deleted_meanwhile)
    with pytest.raises(ClientError) as caught:
        main.put_object_acl(Bucket=name, Key="k", ACL="public-read")
    assert code(caught) == (404, "NoSuchKey")


def test_enforced_ownership_ends_all_grants(opened: Running, main: Any, alt: Any, shared: str) -> None:
    main.put_object(Bucket=shared, Key="k", Body=b"x", ACL="public-read")
    rules = {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
    with pytest.raises(ClientError) as caught:
        main.put_bucket_ownership_controls(Bucket=shared, OwnershipControls=rules)
    assert code(caught)[0] == 400
    main.put_bucket_acl(Bucket=shared, ACL="private")
    main.put_bucket_ownership_controls(Bucket=shared, OwnershipControls=rules)
    denied(lambda: alt.get_object(Bucket=shared, Key="k"))


def test_a_public_access_block_takes_the_effect_of_grants(opened: Running, main: Any, shared: str) -> None:
    main.put_object(Bucket=shared, Key="k", Body=b"x", ACL="public-read")
    stranger = opened.stranger()
    assert stranger.get_object(Bucket=shared, Key="k")["Body"].read() == b"x"
    block = {
        "BlockPublicAcls": True,
        "IgnorePublicAcls": True,
        "BlockPublicPolicy": False,
        "RestrictPublicBuckets": False,
    }
    main.put_public_access_block(Bucket=shared, PublicAccessBlockConfiguration=block)
    assert main.get_public_access_block(Bucket=shared)["PublicAccessBlockConfiguration"] == block
    denied(lambda: stranger.get_object(Bucket=shared, Key="k"))
    denied(lambda: main.put_object(Bucket=shared, Key="l", ACL="public-read"))


def test_a_form_signed_by_a_key(opened: Running, main: Any, shared: str) -> None:
    made = main.generate_presigned_post(
        shared, "up/${filename}", Fields={"success_action_status": "201", "x-amz-meta-a": "ü"},
        Conditions=[{"success_action_status": "201"}, {"x-amz-meta-a": "ü"}, ["content-length-range", 2, 10]],
    )  # fmt: skip
    status, body = post(made["url"], made["fields"], b"hello")
    assert status == 201 and b"<Key>up/name.txt</Key><ETag>" in body
    got = main.get_object(Bucket=shared, Key="up/name.txt")
    assert got["Body"].read() == b"hello"
    for content, wanted in ((b"x", b"EntityTooSmall"), (b"x" * 11, b"EntityTooLarge")):
        status, body = post(made["url"], made["fields"], content)
        assert status == 400 and wanted in body
    status, body = post(made["url"], {**made["fields"], "x-amz-meta-b": "more"}, b"hello")
    assert status == 403 and b"AccessDenied" in body
    status, body = post(made["url"], {**made["fields"], "x-amz-signature": "0" * 64}, b"hello")
    assert status == 403 and b"SignatureDoesNotMatch" in body


def test_a_form_of_nobody_takes_an_open_bucket(opened: Running, main: Any, shared: str) -> None:
    url = f"{opened.url}/{shared}"
    assert post(url, {"key": "k"}, b"x")[0] == 204
    assert main.get_object(Bucket=shared, Key="k")["Body"].read() == b"x"
    closed_one = f"s-{secrets.token_hex(6)}"
    main.create_bucket(Bucket=closed_one)
    assert post(f"{opened.url}/{closed_one}", {"key": "k"}, b"x")[0] == 403


def post(url: str, fields: dict[str, str], content: bytes) -> tuple[int, bytes]:
    """A browser's form, its file last."""
    import urllib.error
    import urllib.request

    mark = secrets.token_hex(8)
    parts = [
        f'--{mark}\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    head = f'--{mark}\r\ncontent-disposition: form-data; name="file"; filename="dir/name.txt"\r\n\r\n'.encode()
    body = b"".join((*parts, head, content, f"\r\n--{mark}--\r\n".encode()))
    request = urllib.request.Request(
        url, data=body, method="POST", headers={"content-type": f"multipart/form-data; boundary={mark}"}
    )
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_a_policy_lends_the_settings_of_a_bucket(opened: Running, main: Any, alt: Any) -> None:
    name = f"s-{secrets.token_hex(6)}"
    main.create_bucket(Bucket=name)
    tags = {"TagSet": [{"Key": "a", "Value": "1"}]}
    denied(lambda: alt.put_bucket_tagging(Bucket=name, Tagging=tags))
    statement = {
        "Effect": "Allow", "Principal": {"CanonicalUser": opened.alt.user_id}, "Action": "s3:PutBucketTagging",
        "Resource": f"arn:aws:s3:::{name}",
    }  # fmt: skip
    main.put_bucket_policy(Bucket=name, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
    alt.put_bucket_tagging(Bucket=name, Tagging=tags)
    assert main.get_bucket_tagging(Bucket=name)["TagSet"] == tags["TagSet"]
    denied(lambda: alt.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"}))


def test_a_grant_of_write_acp_lends_the_acl(opened: Running, main: Any, alt: Any) -> None:
    name = f"s-{secrets.token_hex(6)}"
    main.create_bucket(Bucket=name, GrantWriteACP=f"id={opened.alt.user_id}")
    alt.put_bucket_acl(Bucket=name, ACL="public-read")
    assert EVERYBODY in [grant["Grantee"].get("URI") for grant in main.get_bucket_acl(Bucket=name)["Grants"]]
    denied(lambda: alt.put_bucket_tagging(Bucket=name, Tagging={"TagSet": []}))
