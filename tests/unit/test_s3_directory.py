"""What the gateway's directory makes of the resources that it follows."""

from __future__ import annotations

import pytest

from hansa.clock import SystemClock
from hansa.gateways.s3.directory import Directory
from hansa.gateways.s3.ports import ProjectLimits, Rate
from hansa.kinds.iam import Organization, Project
from hansa.kinds.resource import Document, Key, Stored
from hansa.objectindex.records import Limits, Together

QUOTAS = {"objectStorage.totalSize": 10**12, "objectStorage.requestsPerSecond": 70}


@pytest.fixture
def directory() -> Directory:
    return Directory(SystemClock(), lambda sealed, context: sealed, region="se-sto", quotas=QUOTAS)


def stored(kind: str, scope: str, name: str, spec: Document, status: Document | None = None) -> Stored:
    return Stored(Key(kind, scope, name), f"uid-{name}", 0.0, spec=spec, status=status or {})


def together(size: int | None, count: int | None = None, *, projects: tuple[str, ...] = ("shop",)) -> Together:
    return Together("acme", projects, size, count)


def organization(quotas: Document) -> Organization:
    return Organization(stored("Organization", "", "acme", {"name": "acme", "quotas": {"objectStorage": quotas}}))


def project(name: str, quotas: Document, *, of: str = "acme") -> Project:
    return Project(stored("Project", "", name, {"organization": of, "quotas": {"objectStorage": quotas}}))


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
        ({}, {}, Limits(together=together(10**12))),
        ({"totalSize": "5 GB", "objects": 7}, {}, Limits(5 * 10**9, 7, together(10**12))),
        ({"totalSize": "5 TB"}, {"totalSize": "2 TB", "objects": 9}, Limits(5 * 10**12, None, together(2 * 10**12, 9))),
        ({"objects": 7}, {"totalSize": "unlimited", "objects": 5}, Limits(None, 7, together(None, 5))),
        ({"objects": 7}, {"totalSize": "unlimited"}, Limits(None, 7)),
    ],
)
def test_limits_are_the_project_s_own_and_what_its_organisation_gives_all_of_them(
    directory: Directory, of_project: Document, of_organization: Document, limits: Limits
) -> None:
    directory.put_organization(organization(of_organization))
    directory.put_project(project("shop", of_project))
    assert directory.project_limits("shop").held == limits
    assert directory.project_limits("nowhere").held == Limits()


def test_limits_follow_the_projects_and_quotas_of_an_organisation(directory: Directory) -> None:
    directory.put_organization(organization({"requestsPerSecond": 50}))
    directory.put_project(project("shop", {}))
    assert directory.project_limits("shop").rates == (Rate("organization", "acme", 50),)
    directory.put_project(project("films", {"requestsPerSecond": 0}))
    both = together(10**12, projects=("films", "shop"))
    assert directory.project_limits("films").held.together == directory.project_limits("shop").held.together == both
    assert directory.project_limits("films").rates == (Rate("project", "films", 0), Rate("organization", "acme", 50))
    directory.put_project(project("films", {}, of="other"))
    assert directory.project_limits("shop").held.together == together(10**12)
    assert directory.project_limits("films").rates == (Rate("organization", "other", 70),), "as the setting says"
    directory.drop_project("films")
    directory.drop_organization("acme")
    assert directory.project_limits("films") == ProjectLimits()
    assert directory.project_limits("shop").rates == (Rate("organization", "acme", 70),)
