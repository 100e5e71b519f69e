"""Usage intervals: pure arithmetic of opening, closing and adding up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from hansa.kinds import catalogue
from hansa.kinds.meters import DISK, GPU, MEMORY, NOTHING, VCPU, Measure, MeteredStatus, Metering
from hansa.kinds.registry import all_kinds
from hansa.ledger.usage import Closed, Whose, closed_body, consumed, opened_body, overlap_s, turn, units_of

WHOSE = Whose("u", "/compute/x", "VirtualMachine", "p", "pu", "o", "r")


def counter() -> Callable[[], str]:
    numbers = iter(range(10**6))
    return lambda: f"i{next(numbers)}"


def test_an_interval_opens_stays_and_closes() -> None:
    new_id = counter()
    first = turn(None, Measure({VCPU: 2, MEMORY: 4000}, "a", "c1a.s", since=90.7), 100.9, new_id)
    assert [(i.meter, i.quantity, i.start) for i in first.opened] == [
        ("vcpu_seconds", 2, 90), ("memory_byte_seconds", 4000, 90)
    ]  # fmt: skip
    same = turn(first.metering, Measure({VCPU: 2, MEMORY: 4000}, "a", "c1a.s", since=90.7), 150.0, new_id)
    assert same.metering == first.metering and not same.opened and not same.closed
    last = turn(same.metering, NOTHING, 160.2, new_id)
    assert last.metering == Metering(until=160) and not last.opened
    assert [(c.end, c.consumed) for c in last.closed] == [(160, 140), (160, 280_000)]


def test_a_changed_quantity_closes_one_and_opens_the_next_at_the_same_second() -> None:
    new_id = counter()
    before = turn(None, Measure({DISK: 10}, "a"), 100.0, new_id).metering
    after = turn(before, Measure({DISK: 20}, "a"), 130.5, new_id)
    assert [(c.interval.quantity, c.end) for c in after.closed] == [(10, 130)]
    assert [(i.quantity, i.start) for i in after.opened] == [(20, 130)]
    moved = turn(after.metering, Measure({DISK: 20}, "b"), 140.0, new_id)
    assert [i.zone for i in moved.opened] == ["b"] and moved.closed[0].end == 140


def test_a_guest_that_went_with_its_host_ended_when_it_was_last_seen() -> None:
    new_id = counter()
    opened = turn(None, Measure({VCPU: 2}, "a", since=100.0), 100.0, new_id)
    for until, end in (
        (250.4, 250),
        (90.0, 100),
        (900.0, 400),
        (None, 400),
    ):  # never before its start, never in the future
        done = turn(opened.metering, Measure(until=until), 400.0, new_id)
        assert [c.end for c in done.closed] == [end] and done.metering.until == end
    done = turn(opened.metering, Measure(until=250.0), 400.0, new_id)
    again = turn(done.metering, Measure({VCPU: 2}, "a", since=405.0), 410.0, new_id)
    assert [i.start for i in again.opened] == [405]


def test_nothing_is_drawn_of_a_meter_at_zero() -> None:
    assert turn(None, Measure({VCPU: 1, GPU: 0}), 5.0, counter()).opened[0].meter == "vcpu_seconds"


def test_a_guest_that_was_held_back_is_not_charged_for_the_pause() -> None:
    """The engine says since when it was started, which is before it was held back."""
    new_id = counter()
    running = turn(None, Measure({VCPU: 1}, since=100.0), 101.0, new_id)
    paused = turn(running.metering, NOTHING, 200.0, new_id)
    resumed = turn(paused.metering, Measure({VCPU: 1}, since=100.0), 300.0, new_id)
    assert resumed.opened[0].start == 300


def test_a_restart_counts_from_the_moment_that_the_engine_names() -> None:
    new_id = counter()
    running = turn(None, Measure({VCPU: 1}, since=100.0), 101.0, new_id)
    died = turn(running.metering, NOTHING, 200.0, new_id)
    again = turn(died.metering, Measure({VCPU: 1}, since=205.0), 211.0, new_id)
    assert again.opened[0].start == 205
    future = turn(died.metering, Measure({VCPU: 1}, since=900.0), 211.0, new_id)
    assert future.opened[0].start == 211


@given(
    st.lists(
        st.tuples(
            st.floats(0, 10_000), st.integers(0, 3), st.integers(0, 2), st.sampled_from("ab"),
            st.one_of(st.none(), st.floats(0, 10_000)),
        ), max_size=30,
    )
)  # fmt: skip
def test_whatever_the_clock_does_intervals_of_a_meter_never_overlap(
    looks: list[tuple[float, int, int, str, float | None]],
) -> None:
    new_id, metering = counter(), None
    seen: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    opened, ended = set(), set()
    for now, vcpus, gpus, zone, since in [*looks, (0.0, 0, 0, "a", None)]:
        done = turn(metering, Measure({VCPU: vcpus, GPU: gpus}, zone, since=since), now, new_id)
        metering = done.metering
        for c in done.closed:
            assert c.end >= c.interval.start
            seen[c.interval.meter].append((c.interval.start, c.end))
            ended.add(c.interval.id)
        opened |= {i.id for i in done.opened}
        drawn = {m: q for m, q in (("vcpu_seconds", vcpus), ("gpu_seconds", gpus)) if q}
        assert {i.meter: i.quantity for i in metering.open} == drawn
        assert opened - ended == {i.id for i in metering.open}
    assert opened == ended and not metering.open
    for spans in seen.values():
        assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:], strict=False))


def test_what_an_interval_comes_to() -> None:
    assert consumed(4, 100, 160) == 240 and consumed(4, 160, 100) == 0
    assert overlap_s(100, 200, 150, 1000) == 50 and overlap_s(100, None, 0, 150) == 50
    assert overlap_s(100, 200, 200, 300) == 0 and overlap_s(100, 200, 120, 130) == 10


def test_a_record_stands_for_itself() -> None:
    interval = turn(None, Measure({VCPU: 4}, "a", "c1a.m"), 100.0, counter()).opened[0]
    units = units_of([VCPU])
    body = closed_body(Closed(interval, 160), WHOSE, units)
    assert body == {
        "id": "i0", "meter": "vcpu_seconds", "quantity": 4, "unit": "vCPU", "start": 100, "end": 160, "consumed": 240,
        "uid": "u", "ref": "/compute/x", "kind": "VirtualMachine", "project": "p", "organization": "o", "region": "r",
        "zone": "a", "sku": "c1a.m",
    }  # fmt: skip
    assert {**opened_body(interval, WHOSE, units), "end": 160, "consumed": 240} == body


def test_every_kind_with_meters_keeps_what_is_open_and_draws_only_of_them() -> None:
    assert catalogue.MODULES
    metered = [kind for kind in all_kinds() if kind.meters]
    assert {kind.kind for kind in metered} == {"VirtualMachine", "Disk", "Snapshot", "PublicIP", "Bucket"}
    drawing = {
        "VirtualMachine": {"shape": {"profile": "c1a.s", "vcpus": 2, "memoryBytes": 4, "gpus": 1}, "onSince": 9.0},
        "Disk": {"sizeBytes": 5, "diskSize": {"amount": 1, "unit": "GB"}},
        "Snapshot": {"creationTime": "now", "restoreSize": {"amount": 1, "unit": "GB"}},
        "PublicIP": {"publicIPv4Address": "203.0.113.1"},
        "Bucket": {"contents": {"bytes": 7, "uploadBytes": 1}},
    }
    for kind in metered:
        assert issubclass(kind.status_type, MeteredStatus) and "metering" in kind.hidden
        assert kind.measure(kind.status_type()) == NOTHING
        assert set(kind.measure(kind.status_type.model_validate(drawing[kind.kind])).levels) == set(kind.meters)
