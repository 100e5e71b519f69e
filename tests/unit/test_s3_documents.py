"""The bodies of S3: what was read is written the same, and what is not understood is refused by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hansa.gateways.s3.wire import bucketrules, configurations, documents, xml
from hansa.gateways.s3.wire.errors import S3Error
from hansa.gateways.s3.wire.xml import NAMESPACE

words = st.text("abc-/ <&>\"'é\U0001f600", min_size=1, max_size=12)
texts = words.map(str.strip).filter(bool)
few = st.integers(0, 10**6)
moments = st.integers(0, 4 * 10**9).map(float)
tags = st.lists(st.tuples(words, st.text("ab =+é", max_size=5)), max_size=4).map(tuple)
filters = st.builds(
    bucketrules.Filter,
    prefix=st.none() | words,
    tags=tags,
    larger_than=st.none() | few,
    smaller_than=st.none() | few,
    joined=st.just(True),
) | st.builds(bucketrules.Filter, prefix=st.none() | words | st.just(""))
switches = st.sampled_from(["", "Enabled", "Disabled"])
transitions = st.builds(
    bucketrules.Transition,
    storage_class=st.sampled_from(["GLACIER", "STANDARD_IA"]),
    days=few,
    noncurrent=st.just(False),
)
lifecycle_rules = st.one_of(
    st.builds(
        bucketrules.LifecycleRule,
        status=st.sampled_from(["Enabled", "Disabled"]),
        id=st.just("") | words,
        filter=filters,
        expire_days=few,
        noncurrent_days=few,
        newer_noncurrent=st.none() | few,
        abort_days=st.none() | few,
        transitions=st.lists(transitions, max_size=2).map(tuple),
    ),
    st.builds(bucketrules.LifecycleRule, status=st.just("Enabled"), prefix=words, expire_date=moments),
    st.builds(bucketrules.LifecycleRule, status=st.just("Enabled"), prefix=words, expire_marker=st.booleans()),
)
replication_rules = st.builds(
    bucketrules.ReplicationRule,
    status=st.sampled_from(["Enabled", "Disabled"]),
    bucket=texts,
    id=st.just("") | words,
    priority=st.none() | few,
    filter=st.none() | filters,
    storage_class=st.sampled_from(["", "STANDARD"]),
    account=st.just("") | texts,
    key=st.just("") | texts,
    delete_markers=switches,
    existing_objects=switches,
    encrypted_objects=switches,
    replica_changes=switches,
)
cors_rules = st.builds(
    configurations.CorsRule,
    origins=st.lists(texts, min_size=1, max_size=3).map(tuple),
    methods=st.lists(texts, min_size=1, max_size=3).map(tuple),
    headers=st.lists(texts, max_size=3).map(tuple),
    exposed=st.lists(texts, max_size=3).map(tuple),
    max_age_s=st.none() | few,
    id=st.just("") | words,
)
grants = st.builds(
    configurations.Grant,
    grantee=st.builds(
        configurations.Grantee, kind=st.sampled_from(["CanonicalUser", "Group", "AmazonCustomerByEmail"]), id=texts, name=st.just("") | words
    ),
    permission=st.sampled_from(["FULL_CONTROL", "READ", "WRITE", "READ_ACP", "WRITE_ACP"]),
)  # fmt: skip
locks = st.builds(documents.LockSetting, enabled=st.booleans()) | st.builds(
    documents.LockSetting, enabled=st.booleans(), mode=st.sampled_from(["GOVERNANCE", "COMPLIANCE"]), years=few
)


@given(st.data())
@pytest.mark.parametrize(
    ("values", "read", "write"),
    [
        (st.lists(lifecycle_rules, min_size=1, max_size=4).map(tuple), bucketrules.read_lifecycle, bucketrules.write_lifecycle),
        (
            st.builds(bucketrules.Replication, role=st.just("") | texts, rules=st.lists(replication_rules, min_size=1, max_size=3).map(tuple)),
            bucketrules.read_replication,
            bucketrules.write_replication,
        ),
        (st.lists(cors_rules, min_size=1, max_size=4).map(tuple), configurations.read_cors, configurations.write_cors),
        (
            st.builds(configurations.AccessControl, owner=texts, owner_name=st.just("") | words, grants=st.lists(grants, max_size=4).map(tuple)),
            configurations.read_access_control,
            configurations.write_access_control,
        ),
        (
            st.builds(configurations.PublicAccessBlock, *[st.booleans()] * 4),
            configurations.read_public_access_block,
            configurations.write_public_access_block,
        ),
        (
            st.builds(configurations.EncryptionRule, algorithm=st.just("aws:kms"), key=st.just("") | texts, bucket_key=st.booleans()),
            configurations.read_encryption,
            configurations.write_encryption,
        ),
        (
            st.sampled_from(["BucketOwnerEnforced", "BucketOwnerPreferred", "ObjectWriter"]),
            configurations.read_ownership,
            configurations.write_ownership,
        ),
        (tags, documents.read_tagging, documents.write_tagging),
        (locks, documents.read_lock_setting, documents.write_lock_setting),
        (
            st.builds(documents.Retention, mode=st.just("GOVERNANCE"), until=moments),
            documents.read_retention,
            documents.write_retention,
        ),
        (st.booleans(), documents.read_legal_hold, documents.write_legal_hold),
    ],
)  # fmt: skip
def test_what_is_written_is_read_the_same_with_and_without_namespace(
    values: st.SearchStrategy[object],
    read: Callable[[bytes], object],
    write: Callable[[object], bytes],
    data: st.DataObject,
) -> None:
    value = data.draw(values)
    body = write(value)
    assert NAMESPACE.encode() in body
    assert read(body) == value
    assert read(body.replace(f' xmlns="{NAMESPACE}"'.encode(), b"")) == value


READERS: list[Callable[[bytes], object]] = [
    documents.read_new_bucket,
    documents.read_versioning,
    documents.read_deletion,
    documents.read_completion,
    documents.read_tagging,
    documents.read_lock_setting,
    documents.read_retention,
    documents.read_legal_hold,
    configurations.read_cors,
    configurations.read_access_control,
    configurations.read_encryption,
    configurations.read_ownership,
    configurations.read_public_access_block,
    bucketrules.read_lifecycle,
    bucketrules.read_replication,
]
NAMES = [
    *("Delete", "Object", "Key", "Quiet", "VersionId", "Tagging", "TagSet", "Tag", "Value", "Rule", "Status", "Filter"),
    *("And", "Days", "Date", "Expiration", "LifecycleConfiguration", "CORSConfiguration", "CORSRule", "AllowedOrigin"),
    *(
        "AllowedMethod",
        "Part",
        "PartNumber",
        "CompleteMultipartUpload",
        "Retention",
        "Mode",
        "LegalHold",
        "Owner",
        "ID",
    ),
    *(
        "AccessControlPolicy",
        "AccessControlList",
        "Grant",
        "Grantee",
        "ReplicationConfiguration",
        "Destination",
        "Bucket",
    ),
    *("ObjectLockConfiguration", "DefaultRetention", "Transition", "StorageClass", "VersioningConfiguration"),
]
trees = st.recursive(
    st.text("ab <&é1-", max_size=6).map(xml.escape),
    lambda inner: st.tuples(st.sampled_from(NAMES), st.lists(inner, max_size=4)).map(
        lambda pair: xml.element(pair[0], *pair[1])
    ),
    max_leaves=20,
)


@given(
    st.one_of(
        st.binary(max_size=200), trees, st.tuples(st.sampled_from(NAMES), trees).map(lambda pair: xml.document(*pair))
    )
)
def test_no_body_raises_anything_but_a_refusal(body: bytes) -> None:
    for read in READERS:
        try:
            read(body)
        except S3Error as error:
            words = ("MalformedXML", "MissingRequestBodyError", "InvalidArgument", "InvalidPartOrder", "InvalidRequest")
            assert error.code in (*words, "MalformedACLError") and error.status == 400


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "utf-16-be", "cp037", "utf-7"])
def test_no_document_type_comes_in_by_any_encoding(encoding: str) -> None:
    text = f'<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE x [<!ENTITY a "b">]>'
    body = (text + "<Delete><Object><Key>&a;</Key></Object></Delete>").encode(encoding)
    with pytest.raises(S3Error) as caught:
        documents.read_deletion(body)
    assert caught.value.code == "MalformedXML"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<a>" * 20 + b"</a>" * 20, "16 elements deep"),
        (b"<Delete>" + b"<Quiet/>" * 100_001 + b"</Delete>", "100000 elements"),
        (b"<Delete>" + b"<a/>" * 300_000 + b"</Delete>", "100000 elements"),
        (b"<Delete>" + b"<Object><Key>a</Key></Object>" * 1001 + b"</Delete>", "1000 times"),
        (b"<Delete><Object><Key>a</Key><Kay/></Object></Delete>", "Delete/Object/Kay"),
        (b"<Delete><Object><VersionId>a</VersionId></Object></Delete>", "Delete/Object/Key"),
        (b"<Delete><Quiet>maybe</Quiet><Object><Key>a</Key></Object></Delete>", "Delete/Quiet"),
        (b"<Delete></Delete>", "Delete/Object"),
        (b"<Doom/>", "the root must be Delete"),
    ],
)
def test_a_bad_deletion_is_told_where_it_is_bad(body: bytes, message: str) -> None:
    with pytest.raises(S3Error, match=message) as caught:
        documents.read_deletion(body)
    assert caught.value.code == "MalformedXML" and caught.value.status == 400


def test_a_body_that_is_too_long_is_not_read() -> None:
    with pytest.raises(S3Error) as caught:
        documents.read_tagging(b"<Tagging>" + b" " * xml.BODY_BYTES_MAX + b"</Tagging>")
    assert caught.value.code == "MaxMessageLengthExceeded"


def test_keys_keep_their_blanks_and_etags_lose_their_quotes() -> None:
    body = b'<Delete><Object><Key> a\tb </Key><ETag>"e"</ETag></Object><Quiet>true</Quiet></Delete>'
    assert documents.read_deletion(body) == documents.Deletion((documents.Doomed(" a\tb ", etag="e"),), quiet=True)


def test_a_completion_keeps_checksums_and_passes_over_what_it_does_not_know() -> None:
    part = b"<Part><PartNumber>1</PartNumber><ETag>&quot;e&quot;</ETag><ChecksumCRC32>AA==</ChecksumCRC32><New/></Part>"
    found = documents.read_completion(b"<CompleteMultipartUpload>" + part + b"</CompleteMultipartUpload>")
    assert found == (documents.CompletedPart(1, "e", {"CRC32": "AA=="}),)


@pytest.mark.parametrize(
    ("numbers", "code"), [((2, 1), "InvalidPartOrder"), ((1, 3, 2), "InvalidPartOrder"), ((1, 1), "InvalidPartOrder"), ((0,), "InvalidArgument"), ((10_001,), "InvalidArgument"), ((), "MalformedXML")]
)  # fmt: skip
def test_parts_must_ascend_from_one_to_ten_thousand(numbers: tuple[int, ...], code: str) -> None:
    parts = xml.joined(xml.element("Part", xml.element("PartNumber", number)) for number in numbers)
    with pytest.raises(S3Error) as caught:
        documents.read_completion(xml.document("CompleteMultipartUpload", parts))
    assert caught.value.code == code


def test_of_a_part_that_is_listed_again_the_second_counts() -> None:
    parts = xml.joined(
        xml.element("Part", xml.element("PartNumber", 1), xml.element("ETag", etag)) for etag in ("old", "new")
    )
    assert [part.etag for part in documents.read_completion(xml.document("CompleteMultipartUpload", parts))] == ["new"]


def test_a_bucket_without_a_body_has_no_location() -> None:
    assert documents.read_new_bucket(b"") == documents.NewBucket()
    body = b"<CreateBucketConfiguration><LocationConstraint>se-sto</LocationConstraint></CreateBucketConfiguration>"
    assert documents.read_new_bucket(body).location == "se-sto"


def test_a_lifecycle_rule_we_do_not_know_in_full_is_refused() -> None:
    rule = "<Rule><Status>Enabled</Status><Filter>{}</Filter><Expiration><Days>1</Days></Expiration></Rule>"
    good = rule.format("<Prefix>a</Prefix>")
    assert bucketrules.read_lifecycle(f"<LifecycleConfiguration>{good}</LifecycleConfiguration>".encode())
    for inner in ("<Owner>a</Owner>", "<Prefix>a</Prefix><And><Prefix>b</Prefix></And>", "<And><Nor/></And>"):
        with pytest.raises(S3Error) as caught:
            bucketrules.read_lifecycle(
                f"<LifecycleConfiguration>{rule.format(inner)}</LifecycleConfiguration>".encode()
            )
        assert caught.value.code == "MalformedXML"


def test_an_error_carries_its_extras_and_no_namespace() -> None:
    body = xml.error_document(S3Error.of("NoSuchKey", Key="a<\x01>"), resource="/b/a", request_id="r1", host_id="h")
    assert body.startswith(b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>NoSuchKey</Code>')
    assert b"<Key>a&lt;&#1;&gt;</Key>" in body and b"xmlns" not in body and b"<RequestId>r1</RequestId>" in body


def test_a_deletion_is_answered_one_by_one() -> None:
    body = documents.write_deletion(
        [documents.Deleted("a"), documents.Deleted("b", marker="m1")],
        [(documents.Doomed("c", "v1"), S3Error.of("AccessDenied"))],
    )
    assert b"<Deleted><Key>a</Key></Deleted>" in body
    assert b"<DeleteMarker>true</DeleteMarker><DeleteMarkerVersionId>m1</DeleteMarkerVersionId>" in body
    assert b"<Error><Key>c</Key><VersionId>v1</VersionId><Code>AccessDenied</Code>" in body
