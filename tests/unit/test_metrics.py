"""Numbers in the text form of Prometheus."""

from __future__ import annotations

import pytest

from hansa.engines.counted import CountedEngines
from hansa.engines.simulated import SimulatedVolumes
from hansa.errors import Retry
from hansa.metrics import SECONDS, SERIES_MAX, Counter, Histogram, Metrics
from hansa.wiring import FleetEngines

pytestmark = pytest.mark.anyio


def test_a_histogram_counts_up_to_each_bound() -> None:
    times = Histogram("t", "T.", ("route",))
    for seconds in (0.0005, 0.001, 0.003, 100.0):
        times.observe(seconds, "/x")
    lines = list(times.lines())
    assert lines[:2] == ["# HELP t T.", "# TYPE t histogram"]
    assert 't_bucket{route="/x",le="0.001"} 2' in lines and 't_bucket{route="/x",le="0.005"} 3' in lines
    assert 't_bucket{route="/x",le="30"} 3' in lines and 't_bucket{route="/x",le="+Inf"} 4' in lines
    assert 't_count{route="/x"} 4' in lines and 't_sum{route="/x"} 100.0045' in lines
    assert len(lines) == 2 + len(SECONDS) + 1 + 2


def test_what_a_label_holds_is_escaped() -> None:
    count = Counter("c", "C.", ("a",))
    count.add('x"\\\n')
    assert list(count.lines())[2] == 'c{a="x\\"\\\\\\n"} 1'


def test_a_family_does_not_grow_without_end() -> None:
    count = Counter("c", "C.", ("a",))
    for number in range(SERIES_MAX + 50):
        count.add(str(number))
    count.add("0")
    assert len(count.values) == SERIES_MAX + 1
    assert count.values[("other",)] == 50 and count.values[("0",)] == 2


async def test_what_nobody_answers_is_left_out() -> None:
    text = await Metrics().text()
    assert "hansa_process_resident_bytes " in text and "hansa_work_keys" not in text


async def test_calls_of_engines_are_counted_by_what_came_of_them() -> None:
    metrics, volumes = Metrics(), SimulatedVolumes()
    behind = FleetEngines(by_zone={"z": volumes})
    engines = CountedEngines(behind, metrics.engine_s.observe)
    counted = engines.volumes("z")
    assert counted is not None and counted is engines.volumes("z") and engines.compute("none") is None
    assert await counted.held() == await volumes.held()

    async def broken(uid: str) -> bool:
        raise Retry("not now")

    volumes.remove = broken  # type: ignore[method-assign]
    with pytest.raises(Retry):
        await counted.remove("u")
    text = await metrics.text()
    assert 'hansa_engine_call_seconds_count{engine="volumes",call="held",outcome="ok"} 1' in text
    assert 'hansa_engine_call_seconds_count{engine="volumes",call="remove",outcome="Unavailable"} 1' in text
