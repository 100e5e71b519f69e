"""How many requests a project may ask for: each has its own measure, and who asks on is not forgotten."""

from __future__ import annotations

import pytest

from hansa.gateways.s3 import pace
from hansa.gateways.s3.pace import Pace
from hansa.gateways.s3.wire.errors import S3Error


def refused(it: Pace, project: str, at: float) -> bool:
    try:
        it.take(project, 2, at)
    except S3Error as error:
        assert error.code == "SlowDown" and error.headers == {"retry-after": "1"}
        return True
    return False


def test_a_second_brings_what_a_second_may_use() -> None:
    it = Pace()
    assert [refused(it, "a", 0.0) for _ in range(3)] == [False, False, True]
    assert not refused(it, "b", 0.0), "another project has its own"
    assert not refused(it, "a", 0.5) and refused(it, "a", 0.5)
    assert [refused(it, "a", 100.0) for _ in range(3)] == [False, False, True], "nothing is saved up"


def test_a_crowd_does_not_make_it_forget_who_asks_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "PROJECTS_MAX", 2)
    it = Pace()
    for project in ("busy", "other", "busy", "third"):
        assert not refused(it, project, 0.0)
    assert refused(it, "busy", 0.0) and not refused(it, "other", 0.0)
