"""What all tests share: one event loop library, and that nothing of ours is left on the host after them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from .leftovers import leftovers, mark
from .postgres import any_left, drop_all, remove_server

GONE_WITHIN_S = 60.0  # daemons and holders end by themselves, a while after the last that used them

# No stopwatch in a test: a busy machine is no fault of the code.
settings.register_profile("ours", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ours")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Of this run, or of this worker: others on the host are none of its business."""
    word, folder = mark(), tmp_path_factory.getbasetemp()
    before = leftovers(word, folder)
    yield
    end = time.monotonic() + GONE_WITHIN_S
    while over := leftovers(word, folder) - before:
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
