"""What all tests share: one event loop library, and that nothing of ours is left on the host after them."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator

import pytest

from .leftovers import OURS, leftovers
from .postgres import any_left, drop_all, remove_server

GONE_WITHIN_S = 60.0  # daemons and holders end by themselves, a while after the last that used them


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left() -> Iterator[None]:
    os.environ[OURS] = str(os.getpid())
    before = leftovers()
    yield
    end = time.monotonic() + GONE_WITHIN_S
    while over := leftovers() - before:
        assert time.monotonic() < end, "left behind by the tests: " + ", ".join(sorted(over))
        time.sleep(0.2)


@pytest.fixture(scope="session", autouse=True)
def no_server_is_left() -> Iterator[None]:
    yield
    remove_server()


@pytest.fixture(autouse=True)
def no_schema_is_left() -> Iterator[None]:
    yield
    if any_left():
        asyncio.run(drop_all())
