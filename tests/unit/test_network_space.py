"""Programs that networks are made with, run on the server's own event loop."""

from __future__ import annotations

import asyncio

import pytest
import uvloop

from hansa.engines.network import space
from hansa.errors import Retry


def test_a_program_that_ends_before_it_reads_is_no_trouble() -> None:
    async def many() -> list[str]:
        given = "x" * 200_000  # more than a pipe holds
        return [await space.run(None, "true", given=given if turn % 2 else "") for turn in range(60)]

    assert set(uvloop.run(many())) == {""}


def test_what_is_given_is_read_and_a_failure_says_why() -> None:
    assert asyncio.run(space.run(None, "cat", given="rules")) == "rules"
    with pytest.raises(Retry, match="sh failed: no rule"):
        asyncio.run(space.run(None, "sh", "-c", "echo no rule >&2; exit 1"))
