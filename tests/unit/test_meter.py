"""Usage of a gateway: counted, put into windows, told until it is taken, lost never but with the process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hansa.errors import Retry
from hansa.gateways.api import Answered
from hansa.gateways.meter import ROWS_MAX, Counted, Meter

pytestmark = pytest.mark.anyio


class Api:
    """Keeps what it is told; `says` gives each answer."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.says: Callable[[dict[str, Any]], Answered] = lambda window: Answered(200, {})

    async def ask(self, method: str, path: str, token: str, body: dict[str, Any], *, timeout_s: float) -> Answered:
        assert (method, path, token) == ("POST", "/internal/v1/usage", "t")
        answered = self.says(body)
        self.told.append(body)
        return answered


class Clock:
    at = 1000.0

    def now(self) -> float:
        return self.at


def whose(number: int = 0) -> Counted:
    return Counted("Bucket", f"b{number}", f"u{number}", "demo", "p", "o", "se-sto")


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def meter(api: Api, tmp_path: Path) -> Meter:
    return Meter("g1", tmp_path / "usage", api, Clock(), lambda: "t")  # type: ignore[arg-type]


def away(window: dict[str, Any]) -> Answered:
    raise Retry("nobody is there")


async def test_counts_of_a_minute_are_one_row_a_bucket(meter: Meter, api: Api) -> None:
    for _ in range(3):
        meter.add(whose(), False, s3_read_requests=1, s3_sent_bytes=10, s3_received_bytes=0)
    meter.add(whose(1), True)
    meter.close_window()
    await meter.tell()
    [window] = api.told
    assert (window["id"], window["start"], window["end"]) == ("g1-1", 1000, 1000)
    assert [(row["uid"], row["counts"], row["held"]) for row in window["rows"]] == [
        ("u0", {"s3_read_requests": 3, "s3_sent_bytes": 30}, False), ("u1", {}, True),
    ]  # fmt: skip
    meter.close_window()
    assert meter.waiting() == []  # nothing was asked since: there is no window


async def test_what_cannot_be_told_waits_and_keeps_its_id(meter: Meter, api: Api, tmp_path: Path) -> None:
    api.says = away
    meter.add(whose(), False, s3_read_requests=1)
    meter.close_window()
    await meter.tell()
    meter.add(whose(), False, s3_read_requests=5)
    meter.close_window()
    assert len(meter.waiting()) == 2
    again = Meter("g2", tmp_path / "usage", api, Clock(), lambda: "t")  # type: ignore[arg-type] # started again
    api.says = lambda window: Answered(200, {})
    await again.tell()
    assert [window["id"] for window in api.told] == ["g1-1", "g1-2"] and again.waiting() == []


@pytest.mark.parametrize("status", [401, 500, 503])
async def test_an_api_that_is_in_trouble_is_asked_again(meter: Meter, api: Api, status: int) -> None:
    api.says = lambda window: Answered(status, {})
    meter.add(whose(), False, s3_read_requests=1)
    meter.close_window()
    await meter.tell()
    assert len(meter.waiting()) == 1


async def test_what_is_refused_for_good_is_put_aside_and_kept(meter: Meter, api: Api, tmp_path: Path) -> None:
    api.says = lambda window: Answered(400, {"debug": "no"})
    meter.add(whose(), False, s3_read_requests=1)
    meter.close_window()
    (tmp_path / "usage/000-x.json").write_text("{")
    await meter.tell()
    assert meter.waiting() == [] and len(list((tmp_path / "usage").glob("*.refused"))) == 2


async def test_what_another_process_put_aside_meanwhile_hinders_nothing(meter: Meter, api: Api, tmp_path: Path) -> None:
    def aside(window: dict[str, Any]) -> Answered:
        for file in (tmp_path / "usage").glob("*-g1-1.json"):
            file.rename(file.with_suffix(".refused"))
        return Answered(400, {"debug": "no"})

    meter.add(whose(), False, s3_read_requests=1)
    meter.close_window()
    api.says = aside
    await meter.tell()
    assert meter.waiting() == [] and len(list((tmp_path / "usage").glob("*.refused"))) == 1


async def test_many_buckets_are_told_in_parts(meter: Meter, api: Api) -> None:
    for number in range(ROWS_MAX + 1):
        meter.add(whose(number), False, s3_read_requests=1)
    meter.close_window()
    await meter.tell()
    assert [len(window["rows"]) for window in api.told] == [ROWS_MAX, 1]
    assert len({window["id"] for window in api.told}) == 2
