"""Lifecycle: what S3 takes, how it is kept, and whose time has come."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hansa.gateways.s3.rules.lifecycle import (
    DAY_S,
    Deed,
    Due,
    Place,
    Standing,
    abort_headers,
    closing,
    due,
    expiration_header,
    prefixes,
    ranked,
    upload_due,
)
from hansa.gateways.s3.rules.lifecyclespec import checked, policy_of, rules_from
from hansa.gateways.s3.wire.bucketrules import Filter, LifecycleRule, Transition, read_lifecycle, write_lifecycle
from hansa.gateways.s3.wire.errors import S3Error
from hansa.kinds.bucketrules import LifecyclePolicy
from hansa.objectindex.records import Facts, Upload, Version

NOON = 1_767_268_800.0  # 2026-01-01T12:00:00Z
MIDNIGHT = NOON + DAY_S / 2


def rule(id: str = "r", prefix: str | None = "", *, status: str = "Enabled", **more: Any) -> LifecycleRule:
    return LifecycleRule(status=status, id=id, prefix=None if "filter" in more else prefix, **more)


def version(key: str = "k", *, at: float = NOON, order: int = 1, latest: bool = True, **more: Any) -> Version:
    tags, marker, size = more.get("tags", ()), more.get("marker", False), more.get("size", 10)
    return Version("b", key, f"v{order}", order, latest, marker, size, "e", at, Facts(tags=tags))


def now_due(it: LifecycleRule, standing: Standing, now: float, day_s: float = DAY_S) -> Due | None:
    return due([it], standing, now, day_s)


# -- time -----------------------------------------------------------------------------------------


def test_days_are_up_at_the_midnight_after() -> None:
    it, standing = rule(expire_days=1), Standing(version())
    assert now_due(it, standing, MIDNIGHT + DAY_S - 1) is None
    assert now_due(it, standing, MIDNIGHT + DAY_S) == Due(Deed.EXPIRE, MIDNIGHT + DAY_S, "r")


def test_shorter_days_count_to_the_second() -> None:
    it, standing = rule(expire_days=3), Standing(version())
    assert now_due(it, standing, NOON + 29.9, 10.0) is None
    assert now_due(it, standing, NOON + 30, 10.0) == Due(Deed.EXPIRE, NOON + 30, "r")


def test_a_date_is_a_date_however_long_days_are() -> None:
    it = rule(expire_date=MIDNIGHT)
    assert now_due(it, Standing(version()), MIDNIGHT - 1, 1.0) is None
    assert now_due(it, Standing(version(at=0.0)), MIDNIGHT, 1.0) is not None


def test_an_endless_number_of_days_is_never_up_and_can_still_be_told() -> None:
    it = rule(expire_days=2**31 - 1)
    assert now_due(it, Standing(version()), NOON * 10) is None
    assert "9999" in expiration_header([it], version())["x-amz-expiration"]


def test_a_disabled_rule_does_nothing() -> None:
    assert now_due(rule(status="Disabled", expire_days=1), Standing(version(at=0.0)), NOON) is None


def test_the_rule_whose_time_comes_first_counts() -> None:
    rules = [rule("later", expire_days=9), rule("sooner", expire_days=2), rule("other", "x/", expire_days=1)]
    found = due(rules, Standing(version()), NOON * 2)
    assert found is not None and found.rule == "sooner"


# -- versions, markers, uploads -------------------------------------------------------------------


def test_old_versions_go_days_after_something_newer_came() -> None:
    it = rule(noncurrent_days=2)
    standing = Standing(version(at=0.0, latest=False), since=NOON)
    assert now_due(it, standing, NOON + DAY_S) is None
    assert now_due(it, standing, MIDNIGHT + 2 * DAY_S) == Due(Deed.REMOVE, MIDNIGHT + 2 * DAY_S, "r")
    assert now_due(it, Standing(version(at=0.0)), NOON) is None


def test_the_newest_of_the_old_versions_stay() -> None:
    it = rule(noncurrent_days=1, newer_noncurrent=2)
    for newer, gone in ((0, False), (1, False), (2, True), (3, True)):
        assert (now_due(it, Standing(version(), since=0.0, newer=newer), NOON) is not None) is gone


def test_a_marker_goes_when_nothing_is_left_under_it() -> None:
    alone, above = (Standing(version(marker=True), alone=alone) for alone in (True, False))
    assert now_due(rule(expire_marker=True), alone, NOON) == Due(Deed.REMOVE, NOON, "r")
    assert now_due(rule(expire_marker=True), above, NOON * 2) is None
    assert now_due(rule(expire_days=5), alone, NOON + DAY_S) is None
    assert now_due(rule(expire_days=5), alone, NOON + 7 * DAY_S) is not None
    assert now_due(rule(expire_days=5), above, NOON + 7 * DAY_S) is None
    assert now_due(rule(expire_marker=True, filter=Filter(tags=(("a", "b"),))), alone, NOON) is None


def test_an_unfinished_upload_is_aborted_by_its_prefix() -> None:
    it, upload = rule("r", "a/", abort_days=1), Upload("b", "a/k", "u", NOON)
    assert upload_due([it], upload, MIDNIGHT + DAY_S) == "r"
    assert upload_due([it], upload, MIDNIGHT) == ""
    assert upload_due([it], replace(upload, key="b/k"), NOON * 2) == ""
    assert upload_due([rule(abort_days=1, filter=Filter(tags=(("a", "b"),)))], upload, NOON * 2) == ""
    assert abort_headers([it], upload)["x-amz-abort-rule-id"] == "r"
    assert abort_headers([it], upload)["x-amz-abort-date"] == "Sat, 03 Jan 2026 00:00:00 GMT"
    assert abort_headers([], upload) == {}


@pytest.mark.parametrize(
    ("wanted", "fitting"),
    [
        (Filter("k"), True), (Filter("x"), False), (Filter(tags=(("a", "1"),)), True),
        (Filter(tags=(("a", "1"), ("b", "2"))), False), (Filter(larger_than=9), True), (Filter(larger_than=10), False),
        (Filter(smaller_than=11), True), (Filter(smaller_than=10), False), (Filter(), True),
        (Filter("k", (("a", "1"),), 1, 100, joined=True), True),
    ],
)  # fmt: skip
def test_a_filter_holds_in_all_its_parts(wanted: Filter, fitting: bool) -> None:
    it = Standing(version(tags=(("a", "1"), ("c", "3"))))
    assert (now_due(rule(filter=wanted, expire_days=1), it, NOON * 2) is not None) is fitting


def test_the_fewest_prefixes_hold_all_that_rules_are_for() -> None:
    assert prefixes([rule(prefix="a/b"), rule(prefix="a"), rule(prefix="c/"), rule(prefix="d", status="Disabled")]) == (
        "a",
        "c/",
    )
    assert prefixes([rule(prefix="a"), rule(filter=Filter())]) == ("",)


def test_readers_are_told_the_day_and_the_rule() -> None:
    header = expiration_header([rule("my rule", expire_days=1)], version())
    assert header == {"x-amz-expiration": 'expiry-date="Sat, 03 Jan 2026 00:00:00 GMT", rule-id="my%20rule"'}
    assert expiration_header([rule(expire_days=1, prefix="x")], version()) == {}
    assert expiration_header([rule(noncurrent_days=1)], version()) == {}


# -- ranks ----------------------------------------------------------------------------------------


def stack(key: str, count: int) -> list[Version]:
    """Newest first."""
    return [version(key, at=float(n), order=n, latest=n == count) for n in range(count, 0, -1)]


@given(st.lists(st.integers(1, 5), max_size=6), st.integers(1, 7))
def test_ranks_do_not_depend_on_how_a_listing_is_cut(counts: list[int], size: int) -> None:
    versions = [v for n, count in enumerate(counts) for v in stack(f"k{n}", count)]
    found, place = [], Place()
    for start in range(0, len(versions), size):
        some, place = ranked(versions[start : start + size], place)
        found += some
    found += closing(place)
    assert [f.version for f in found] == versions
    for it in found:
        total = counts[int(it.version.key[1:])]
        assert it.alone is (total == 1)
        assert (it.since is None) is it.version.latest
        if it.since is not None:
            assert it.since == it.version.modified + 1
            assert it.newer == total - it.version.order - 1


# -- at the door ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "code"),
    [
        ([rule("a" * 256, expire_days=1)], "InvalidArgument"),
        ([rule("a", expire_days=1), rule("a", expire_days=2)], "InvalidArgument"),
        ([rule(expire_days=0)], "InvalidArgument"), ([rule(expire_days=-1)], "InvalidArgument"),
        ([rule(expire_days=2**31)], "InvalidArgument"), ([rule(noncurrent_days=0)], "InvalidArgument"),
        ([rule(abort_days=0)], "InvalidArgument"), ([rule(expire_date=NOON)], "InvalidArgument"),
        ([rule(noncurrent_days=1, newer_noncurrent=0)], "InvalidArgument"),
        ([rule(noncurrent_days=1, newer_noncurrent=101)], "InvalidArgument"),
        ([rule(transitions=(Transition("GLACIER", days=1),))], "NotImplemented"),
        ([rule(transitions=(Transition("GLACIER", date=NOON),))], "InvalidArgument"),
        ([rule(transitions=(Transition("GLACIER", date=MIDNIGHT),))], "NotImplemented"),
        ([rule(filter=Filter(tags=(("a", "b"),)), abort_days=1)], "InvalidRequest"),
        ([rule(filter=Filter(larger_than=1), expire_marker=True)], "InvalidRequest"),
        ([rule(filter=Filter(larger_than=5, smaller_than=5), expire_days=1)], "InvalidRequest"),
        ([rule(filter=Filter(larger_than=-1), expire_days=1)], "InvalidRequest"),
        ([rule(filter=Filter(tags=(("a", "b"), ("a", "c"))), expire_days=1)], "InvalidTag"),
        ([rule(prefix="é" * 513, expire_days=1)], "InvalidRequest"),
        ([rule(str(n), expire_days=1) for n in range(1001)], "InvalidRequest"),
    ],
)  # fmt: skip
def test_rules_that_s3_does_not_take_are_refused(rules: list[LifecycleRule], code: str) -> None:
    with pytest.raises(S3Error) as refused:
        checked(rules)
    assert refused.value.code == code


def test_a_rule_without_a_name_gets_one_that_stays() -> None:
    given = [rule("", "a", expire_days=1), rule("", "a", expire_days=1), rule("mine", expire_days=1)]
    first, second, mine = checked(given)
    assert mine.id == "mine" and first.id != second.id and all(r.id for r in (first, second))
    assert checked(given) == checked(given)


# -- in the spec ----------------------------------------------------------------------------------

_TAGS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xy")), unique_by=lambda t: t[0], max_size=3)
_DAYS = st.none() | st.integers(1, 400)
_ONE = st.one_of(
    st.builds(Filter),
    st.builds(Filter, prefix=st.text("aé/ &<", max_size=4)),
    st.builds(lambda tag: Filter(tags=(tag,)), st.tuples(st.just("a"), st.text("xy", max_size=3))),
    st.builds(Filter, larger_than=st.integers(0, 9)),
    st.builds(
        lambda prefix, tags, low: Filter(prefix, tuple(tags), low, joined=True),
        st.none() | st.text("ab/", max_size=4),
        _TAGS,
        st.none() | st.integers(0, 9),
    ),
)


@st.composite
def _rules(draw: st.DrawFn) -> LifecycleRule:
    old, marker = draw(st.booleans()), draw(st.none() | st.booleans())
    kind = draw(st.sampled_from(("days", "date", "marker", "none")))
    noncurrent = draw(_DAYS)
    it = LifecycleRule(
        status=draw(st.sampled_from(("Enabled", "Disabled"))),
        id=draw(st.text("abcdef", min_size=1, max_size=6)),
        filter=None if old else draw(_ONE),
        prefix=draw(st.text("ab/", max_size=4)) if old else None,
        expire_days=draw(st.integers(1, 400)) if kind == "days" else None,
        expire_date=draw(st.integers(0, 40_000)) * DAY_S if kind == "date" else None,
        expire_marker=bool(marker) if kind == "marker" else None,
        noncurrent_days=noncurrent,
        newer_noncurrent=draw(st.none() | st.integers(1, 100)) if noncurrent else None,
        abort_days=draw(_DAYS),
    )
    return it if kind != "none" or noncurrent or it.abort_days else replace(it, expire_days=1)


@given(st.lists(_rules(), min_size=1, max_size=5, unique_by=lambda r: r.id))
def test_what_a_client_wrote_comes_back_through_the_contract(rules: list[LifecycleRule]) -> None:
    policy = policy_of(rules)
    assert rules_from(policy) == tuple(rules)
    assert rules_from(LifecyclePolicy.model_validate(policy).wire()) == tuple(rules)
    assert read_lifecycle(write_lifecycle(rules_from(policy))) == tuple(rules)


def test_the_contracts_own_words_are_read() -> None:
    document = {
        "rules": [
            {"id": "a", "expireCurrentVersion": {"date": "2027-01-01", "expireOrphanedDeletionMarkers": True}},
            {"id": "b", "disabled": True, "expireNonCurrentVersion": {"maxNumVersions": 3}, "filter": {"prefix": "x/"}},
            {"id": "c", "abortIncompleteMultipart": {"days": 2},
             "filter": {"prefix": "x/", "sizeGreaterThan": 5, "tag": [{"key": "k", "value": "v"}]}},
        ]
    }  # fmt: skip
    first, second, third = rules_from(document)
    assert (first.expire_date, first.expire_marker, first.filter) == (1_798_761_600.0, True, Filter())
    assert (second.status, second.noncurrent_days, second.newer_noncurrent) == ("Disabled", 1, 3)
    assert third.filter == Filter("x/", (("k", "v"),), 5, joined=True)
    assert rules_from(None) == rules_from({}) == ()


def test_conditions_beside_each_other_all_hold() -> None:
    def filtered(inside: str) -> Filter | None:
        rule = f"<Rule><Status>Enabled</Status><Filter>{inside}</Filter><Expiration><Days>1</Days></Expiration></Rule>"
        return read_lifecycle(f"<LifecycleConfiguration>{rule}</LifecycleConfiguration>".encode())[0].filter

    tag, other = "<Tag><Key>a</Key><Value>1</Value></Tag>", "<Tag><Key>b</Key><Value>2</Value></Tag>"
    assert filtered(f"<Prefix>x/</Prefix>{tag}") == Filter("x/", (("a", "1"),), joined=True)
    both = f"<Prefix>x/</Prefix>{tag}<And><Prefix>x</Prefix>{other}</And>"
    assert filtered(both) == Filter("x/", (("a", "1"), ("b", "2")), joined=True)
    assert filtered("<Prefix>x/</Prefix>") == Filter("x/")
    with pytest.raises(S3Error, match="nothing begins with both"):
        filtered(f"<Prefix>y</Prefix><And><Prefix>x</Prefix>{other}</And>")
