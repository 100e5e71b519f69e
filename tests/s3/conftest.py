"""Gateways under test: one as shipped, one that takes ACLs. Each test makes buckets of its own."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from hansa.gateways.s3.gateway import GatewaySettings

from .running import DOMAIN, PART, Running, running


@pytest.fixture(scope="session")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    settings = GatewaySettings(domains=(DOMAIN,), part_bytes_min=PART, stall_s=1.0)
    with running(tmp_path_factory.mktemp("closed"), settings=settings) as it:
        yield it


@pytest.fixture(scope="session")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    settings = GatewaySettings(domains=(DOMAIN,), acl_open=True, part_bytes_min=PART)
    with running(tmp_path_factory.mktemp("opened"), settings=settings) as it:
        yield it


@pytest.fixture
def main(opened: Running) -> Any:
    """A client where new buckets take ACLs; `alt` is one of another project."""
    return opened.client()


@pytest.fixture
def alt(opened: Running) -> Any:
    return opened.client(opened.alt)


@pytest.fixture
def s3(closed: Running) -> Any:
    return closed.client()


@pytest.fixture
def bucket(s3: Any) -> str:
    name = f"b-{secrets.token_hex(6)}"
    s3.create_bucket(Bucket=name)
    return name


@pytest.fixture
def versioned(s3: Any, bucket: str) -> str:
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    return bucket
