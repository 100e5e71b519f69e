"""Object lock: nothing that is retained goes, and nobody shortens what only may grow."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hansa.gateways.s3.rules import locks
from hansa.gateways.s3.rules.locks import HOLD, MODE, UNTIL, check_removal, lock_of_new, retention, with_retention
from hansa.gateways.s3.wire.documents import LockSetting
from hansa.gateways.s3.wire.errors import S3Error
from hansa.kinds import storage
from hansa.objectindex.records import Lock

NOW = 1_800_000_000.0
DAY = 86_400.0
PLAIN, LOCKING = LockSetting(False), LockSetting(True)
LATER, EARLIER = "2029-01-01T00:00:00Z", "2020-01-01T00:00:00Z"
LATER_AT = 1_861_920_000.0


def refused(code: str) -> Any:
    return pytest.raises(S3Error, check=lambda error: error.code == code)


# -- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "code"),
    [
        (LockSetting(False), "MalformedXML"), (LockSetting(True, "GOVERNANCE", days=0), "InvalidRetentionPeriod"),
        (LockSetting(True, "GOVERNANCE", years=-1), "InvalidRetentionPeriod"),
        (LockSetting(True, "COMPLIANCE", days=36_501), "InvalidRetentionPeriod"),
        (LockSetting(True, "COMPLIANCE", years=101), "InvalidRetentionPeriod"),
    ],
)  # fmt: skip
def test_settings_that_s3_does_not_take(setting: LockSetting, code: str) -> None:
    with refused(code):
        locks.check_setting(setting)


def test_locks_are_for_versioned_buckets() -> None:
    locks.check_lockable(versioned=True)
    with refused("InvalidBucketState"):
        locks.check_lockable(versioned=False)


def test_a_setting_comes_back_from_the_spec() -> None:
    for setting in (LockSetting(True, "GOVERNANCE", days=3), LockSetting(True, "COMPLIANCE", years=1)):
        locks.check_setting(setting)
        merged = {name: value for name, value in locks.document_of(setting).items() if value is not None}
        assert locks.setting_from(True, merged) == setting
        assert locks.setting_from(True, storage.ObjectLocking.model_validate(merged).wire()) == setting
    assert locks.setting_from(True, None) == LOCKING
    assert locks.setting_from(True, {"mode": "Soft", "durationDays": 5}) == LockSetting(True, "GOVERNANCE", days=5)


# -- new versions ---------------------------------------------------------------------------------


def test_a_new_version_gets_the_default_unless_its_writer_says_more() -> None:
    default = LockSetting(True, "GOVERNANCE", days=2)
    assert lock_of_new({}, PLAIN, NOW) == lock_of_new({}, LOCKING, NOW) == Lock()
    assert lock_of_new({}, default, NOW) == Lock("GOVERNANCE", NOW + 2 * DAY)
    assert lock_of_new({}, LockSetting(True, "COMPLIANCE", years=1), NOW) == Lock("COMPLIANCE", NOW + 365 * DAY)
    assert lock_of_new({MODE: "COMPLIANCE", UNTIL: LATER}, default, NOW) == Lock("COMPLIANCE", LATER_AT)
    assert lock_of_new({HOLD: "ON"}, default, NOW) == Lock("GOVERNANCE", NOW + 2 * DAY, True)
    assert lock_of_new({HOLD: "OFF"}, LOCKING, NOW) == Lock(hold=False)


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({MODE: "GOVERNANCE"}, "InvalidArgument"), ({UNTIL: LATER}, "InvalidArgument"),
        ({MODE: "governance", UNTIL: LATER}, "InvalidArgument"), ({MODE: "GOVERNANCE", UNTIL: EARLIER}, "InvalidArgument"),
        ({MODE: "GOVERNANCE", UNTIL: "soon"}, "InvalidArgument"), ({HOLD: "on"}, "InvalidArgument"),
    ],
)  # fmt: skip
def test_headers_that_break_a_rule_are_refused(headers: dict[str, str], code: str) -> None:
    with refused(code):
        lock_of_new(headers, LOCKING, NOW)
    with refused("InvalidRequest"):
        lock_of_new(headers, PLAIN, NOW)


@pytest.mark.parametrize(
    ("mode", "until", "code"),
    [
        ("governance", LATER, "MalformedXML"), ("GOVERNANCE", "", "MalformedXML"), ("", LATER, "MalformedXML"),
        ("GOVERNANCE", EARLIER, "InvalidArgument"), ("GOVERNANCE", "soon", "InvalidArgument"),
    ],
)  # fmt: skip
def test_retentions_that_s3_does_not_take(mode: str, until: str, code: str) -> None:
    with refused(code):
        retention(mode, until, NOW)
    assert retention("", "", NOW) == Lock()


# -- changes --------------------------------------------------------------------------------------

G, C = "GOVERNANCE", "COMPLIANCE"


@pytest.mark.parametrize(
    ("old", "new", "plain", "bypassing"),
    [
        (Lock(G, NOW + 5), Lock(G, NOW + 9), True, True), (Lock(G, NOW + 5), Lock(G, NOW + 5), True, True),
        (Lock(G, NOW + 5), Lock(G, NOW + 2), False, True), (Lock(G, NOW + 5), Lock(C, NOW + 5), False, True),
        (Lock(G, NOW + 5), Lock(), False, True), (Lock(C, NOW + 5), Lock(C, NOW + 9), True, True),
        (Lock(C, NOW + 5), Lock(C, NOW + 2), False, False), (Lock(C, NOW + 5), Lock(G, NOW + 9), False, False),
        (Lock(C, NOW + 5), Lock(), False, False), (Lock(C, NOW - 5), Lock(G, NOW + 9), True, True),
        (Lock(), Lock(C, NOW + 9), True, True),
    ],
)  # fmt: skip
def test_who_may_change_a_retention(old: Lock, new: Lock, plain: bool, bypassing: bool) -> None:
    for bypass, may in ((False, plain), (True, bypassing)):
        if may:
            assert with_retention(old, new, bypass=bypass, now=NOW) == new
        else:
            with refused("AccessDenied"):
                with_retention(old, new, bypass=bypass, now=NOW)


def test_a_legal_hold_stands_by_itself() -> None:
    assert with_retention(Lock(hold=True), Lock(G, NOW + 9), bypass=False, now=NOW) == Lock(G, NOW + 9, True)
    for bypass in (False, True):
        with refused("AccessDenied"):
            check_removal(Lock(hold=True), bypass=bypass, now=NOW)


def test_what_is_retained_is_not_removed() -> None:
    for lock in (Lock(), Lock(G, NOW), Lock(C, NOW - 1)):
        check_removal(lock, bypass=False, now=NOW)
    for lock in (Lock(G, NOW + 1), Lock(C, NOW + 1)):
        with refused("AccessDenied"):
            check_removal(lock, bypass=False, now=NOW)
    check_removal(Lock(G, NOW + 1), bypass=True, now=NOW)
    with refused("AccessDenied"):
        check_removal(Lock(C, NOW + 1), bypass=True, now=NOW)


def test_a_bypass_that_matters_is_known_as_one() -> None:
    assert locks.takes_bypass(Lock(G, NOW + 1), NOW)
    assert not locks.takes_bypass(Lock(G, NOW - 1), NOW)
    assert not locks.takes_bypass(Lock(C, NOW + 1), NOW)
    assert not locks.takes_bypass(Lock(G, NOW + 1, hold=True), NOW), "nothing lets it go"
    assert locks.is_weaker(Lock(G, NOW + 9), Lock(G, NOW + 8), NOW) and locks.is_weaker(Lock(G, NOW + 9), Lock(), NOW)
    assert locks.is_weaker(Lock(G, NOW + 9), Lock(C, NOW + 10), NOW)
    assert not locks.is_weaker(Lock(G, NOW + 9), Lock(G, NOW + 9), NOW)
    assert not locks.is_weaker(Lock(G, NOW - 1), Lock(), NOW) and not locks.is_weaker(Lock(C, NOW + 9), Lock(), NOW)


_LOCKS = st.builds(Lock, st.sampled_from([G, C]), st.floats(NOW + 1, NOW + 1e6), st.booleans())


@given(_LOCKS, st.lists(st.tuples(st.just(Lock()) | _LOCKS, st.booleans()), max_size=8))
def test_compliance_only_ever_grows(first: Lock, changes: list[tuple[Lock, bool]]) -> None:
    lock = first
    for new, bypass in changes:
        try:
            after = with_retention(lock, new, bypass=bypass, now=NOW)
        except S3Error as error:
            assert error.code == "AccessDenied"
            continue
        assert after.hold == lock.hold
        if lock.mode == C:
            assert after.mode == C and after.until >= lock.until
        lock = after


# -- answers --------------------------------------------------------------------------------------


def test_readers_are_told_of_locks() -> None:
    assert locks.headers_of(Lock()) == {}
    shown = locks.headers_of(Lock(G, LATER_AT, True))
    assert shown == {MODE: G, UNTIL: "2029-01-01T00:00:00.000Z", HOLD: "ON"}
    assert locks.headers_of(Lock(hold=False)) == {HOLD: "OFF"}
    assert locks.retention_of(Lock(G, LATER_AT)) == Lock(G, LATER_AT)
    assert locks.hold_of(Lock(hold=True)) and not locks.hold_of(Lock(hold=False))
    for never in (lambda: locks.retention_of(Lock(hold=True)), lambda: locks.hold_of(Lock(G, LATER_AT))):
        with refused("NoSuchObjectLockConfiguration"):
            never()
