"""How many requests a project may ask for: each has its own measure, and who asks on is not forgotten."""

from __future__ import annotations

import pytest

from hansa.gateways.s3 import pace
from hansa.gateways.s3.pace import Pace
from hansa.gateways.s3.ports import Rate
from hansa.gateways.s3.wire.errors import S3Error


def of(project: str, per_s: int = 2) -> Rate:
    return Rate("project", project, per_s)


def refused(it: Pace, at: float, *rates: Rate, crowd: bool = False) -> str:
    """The seconds after which to come again; empty: it was served."""
    try:
        it.take(rates, at, crowd=crowd)
    except S3Error as error:
        assert (error.code, error.status) == ("SlowDown", 503)
        return str(error.headers["retry-after"])
    return ""


def test_a_second_brings_what_a_second_may_use() -> None:
    it = Pace()
    assert [refused(it, 0.0, of("a")) for _ in range(3)] == ["", "", "1"]
    assert not refused(it, 0.0, of("b")), "another project has its own"
    assert not refused(it, 0.0, of("a"), crowd=True), "and so has the crowd at its door"
    assert not refused(it, 0.5, of("a")) and refused(it, 0.5, of("a"))
    assert [refused(it, 100.0, of("a")) for _ in range(3)] == ["", "", "1"], "nothing is saved up"


def test_what_an_organisation_may_ask_is_shared_by_its_projects_and_a_refusal_costs_nothing() -> None:
    it, home = Pace(), Rate("organization", "acme", 3)
    assert [refused(it, 0.0, of("a"), home) for _ in range(3)] == ["", "", "1"], "the project's own is met first"
    assert not refused(it, 0.0, of("b"), home), "the third request of the organisation: the refused one did not count"
    with pytest.raises(S3Error, match="projects of the organisation may ask 3 times a second together"):
        it.take([of("b"), home], 0.0)
    assert not refused(it, 0.0, of("b")), "nor did that one count for the project"


def test_processes_side_by_side_give_no_more_than_one() -> None:
    for per_s in (1, 2, 10):
        every = [Pace(4) for _ in range(4)]
        for it in every:
            while not refused(it, 0.0, of("a", per_s)):
                pass
        served = sum(not refused(it, n / 8, of("a", per_s)) for n in range(1, 801) for it in every for _ in range(10))
        assert per_s * 100 - 4 <= served <= per_s * 100


def test_who_may_ask_seldom_is_told_when() -> None:
    it = Pace(10)
    assert [refused(it, 0.0, of("a", 1)), refused(it, 0.0, of("a", 1)), refused(it, 7.0, of("a", 1))] == ["", "10", "3"]
    assert refused(it, 0.0, of("shut", 0)) == "60"


def test_a_crowd_does_not_make_it_forget_who_asks_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "HOLDERS_MAX", 2)
    it = Pace()
    for project in ("busy", "other", "busy", "third"):
        assert not refused(it, 0.0, of(project))
    assert refused(it, 0.0, of("busy")) and not refused(it, 0.0, of("other"))
