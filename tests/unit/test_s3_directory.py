"""What the gateway's directory makes of the resources that it follows."""

from __future__ import annotations

import pytest

from hansa.clock import SystemClock
from hansa.gateways.s3.directory import Directory
from hansa.kinds.iam import Organization, Project
from hansa.kinds.resource import Document, Key, Stored
from hansa.objectindex.records import Limits

QUOTAS = {"objectStorage.totalSize": 10**12}


@pytest.fixture
def directory() -> Directory:
    return Directory(SystemClock(), lambda sealed, context: sealed, region="se-sto", quotas=QUOTAS)


def stored(kind: str, scope: str, name: str, spec: Document, status: Document | None = None) -> Stored:
    return Stored(Key(kind, scope, name), f"uid-{name}", 0.0, spec=spec, status=status or {})


@pytest.mark.parametrize(
    ("status", "is_open"), [({"access": "open"}, True), ({"access": "closed"}, False), ({}, False)]
)
def test_a_bucket_that_was_born_open_is_seen_so(directory: Directory, status: Document, is_open: bool) -> None:
    directory.put_bucket(stored("Bucket", "projects/shop/regions/se-sto", "films", {}, status))
    view = directory.bucket("films")
    assert view is not None and view.open is is_open


@pytest.mark.parametrize(
    ("of_project", "of_organization", "limits"),
    [
        ({}, {}, Limits(bytes=10**12)),
        ({"totalSize": "5 GB", "objects": 7}, {}, Limits(bytes=5 * 10**9, versions=7)),
        ({"totalSize": "5 TB"}, {"totalSize": "2 TB", "objects": 9}, Limits(bytes=2 * 10**12, versions=9)),
        ({"objects": 7}, {"totalSize": "unlimited", "objects": 5}, Limits(versions=5)),
    ],
)
def test_the_lower_limit_of_project_and_organisation_holds(
    directory: Directory, of_project: Document, of_organization: Document, limits: Limits
) -> None:
    home = {"name": "acme", "quotas": {"objectStorage": of_organization}}
    directory.organizations["acme"] = Organization(stored("Organization", "", "acme", home))
    shop = {"organization": "acme", "quotas": {"objectStorage": of_project}}
    directory.put_project(Project(stored("Project", "", "shop", shop)))
    assert directory.project_limits("shop").held == limits
