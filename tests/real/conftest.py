"""A cloud of its own for each test that asks for one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .cloud import RealCloud


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[RealCloud]:
    made = RealCloud(tmp_path)
    yield made
    made.end()
