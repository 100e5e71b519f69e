"""Object lock: what may not be deleted, until when, and who may change that. Pure; all moments are epoch seconds.

GOVERNANCE yields to whoever may bypass it and says so; COMPLIANCE yields to nobody, its date may only grow; a legal hold
stands by itself. A lock is worth no more than the clock, so `now` is always the moment that the index vouches for
(`ObjectIndex.floor`), not the machine's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hansa.gateways.s3.wire.dates import iso_date, read_iso_date
from hansa.gateways.s3.wire.documents import LockSetting
from hansa.gateways.s3.wire.errors import S3Error
from hansa.objectindex.records import Lock

DAY_S = 86_400
YEAR_DAYS = 365
DAYS_MAX = 36_500
YEARS_MAX = 100
GOVERNANCE, COMPLIANCE = "GOVERNANCE", "COMPLIANCE"
MODES = (GOVERNANCE, COMPLIANCE)
MODE, UNTIL, HOLD = "x-amz-object-lock-mode", "x-amz-object-lock-retain-until-date", "x-amz-object-lock-legal-hold"

_WORDS = {GOVERNANCE: "Soft", COMPLIANCE: "Immutable"}  # as the contract of buckets calls them


# -- a bucket's configuration ---------------------------------------------------------------------


def check_setting(setting: LockSetting) -> None:
    """Of a PutObjectLockConfiguration body. Raises MalformedXML, InvalidRetentionPeriod."""
    if not setting.enabled:
        raise S3Error.of(
            "MalformedXML", "ObjectLockEnabled: must be Enabled; object lock cannot be taken off a bucket."
        )
    for name, given, most in (("Days", setting.days, DAYS_MAX), ("Years", setting.years, YEARS_MAX)):
        if given is not None and not 1 <= given <= most:
            raise S3Error.of("InvalidRetentionPeriod", f"DefaultRetention.{name}: must be 1 to {most}.")


def check_lockable(*, versioned: bool) -> None:
    """Object lock is for buckets whose versioning is enabled. Raises InvalidBucketState."""
    if not versioned:
        raise S3Error.of("InvalidBucketState", "Object lock needs a bucket whose versioning is enabled.")


def setting_from(locking: bool, document: Mapping[str, Any] | None) -> LockSetting:
    """Of a bucket with this `defaultObjectLocking`."""
    if not document:
        return LockSetting(locking)
    mode = next(mode for mode, word in _WORDS.items() if word == document["mode"])
    return LockSetting(locking, mode, document.get("durationDays"), document.get("durationYears"))


def document_of(setting: LockSetting) -> dict[str, Any]:
    """As a merge patch: what the setting does not name is taken away."""
    return {"mode": _WORDS[setting.mode], "durationDays": setting.days, "durationYears": setting.years}


# -- a new version --------------------------------------------------------------------------------


def lock_of_new(headers: Mapping[str, str], setting: LockSetting, now: float) -> Lock:
    """The lock of a version about to be written: that of its headers (lower-case names), else the bucket's default.

    Raises InvalidRequest on a bucket without object lock, InvalidArgument for a header that breaks a rule.
    """
    mode, until, hold = (headers.get(name, "") for name in (MODE, UNTIL, HOLD))
    if not (mode or until or hold):
        return default_lock(setting, now)
    if not setting.enabled:
        raise no_configuration()
    if bool(mode) is not bool(until):
        raise S3Error.argument(MODE if until else UNTIL, "", f"{MODE} and {UNTIL} go together")
    if mode and mode not in MODES:
        raise S3Error.argument(MODE, mode, f"must be {GOVERNANCE} or {COMPLIANCE}")
    if hold and hold not in ("ON", "OFF"):
        raise S3Error.argument(HOLD, hold, "must be ON or OFF")
    lock = Lock(mode, _future(until, UNTIL, now)) if mode else default_lock(setting, now)
    return replace(lock, hold=hold == "ON" if hold else None)


def default_lock(setting: LockSetting, now: float) -> Lock:
    if not setting.enabled or not setting.mode:
        return Lock()
    days = setting.days if setting.days is not None else (setting.years or 0) * YEAR_DAYS
    return Lock(setting.mode, now + days * DAY_S)


# -- changing and deleting ------------------------------------------------------------------------


def retention(mode: str, until: str, now: float) -> Lock:
    """Of a PutObjectRetention body; both empty: no retention. Raises MalformedXML, InvalidArgument."""
    if not mode and not until:
        return Lock()
    if mode not in MODES or not until:
        raise S3Error.of(
            "MalformedXML", f"Retention: needs a Mode ({GOVERNANCE} or {COMPLIANCE}) and a RetainUntilDate."
        )
    return Lock(mode, _future(until, "RetainUntilDate", now))


def may_follow(old: Lock, new: Lock, now: float) -> bool:
    """Whether `new` protects what `old` does: as long, and in no weaker mode."""
    return not is_retained(old, now) or (new.mode in (old.mode, COMPLIANCE) and new.until >= old.until)


def with_retention(old: Lock, new: Lock, *, bypass: bool, now: float) -> Lock:
    """The lock after PutObjectRetention. `bypass`: the caller asked for it and may.

    Raises AccessDenied for what the old retention forbids while it lasts.
    """
    if is_retained(old, now):
        longer = new.mode == old.mode and new.until >= old.until
        if old.mode == COMPLIANCE and not longer:
            raise _denied(f"retained in COMPLIANCE mode until {iso_date(old.until)}: only a later date is allowed")
        if is_weaker(old, new, now) and not bypass:
            raise _denied(
                f"retained in GOVERNANCE mode until {iso_date(old.until)}: this takes a bypass and its permission"
            )
    return replace(new, hold=old.hold)


def check_removal(lock: Lock, *, bypass: bool, now: float) -> None:
    """May a version be deleted for good, or overwritten? Raises AccessDenied. A delete marker may always be laid."""
    if lock.hold:
        raise _denied("under a legal hold")
    if is_retained(lock, now) and not (lock.mode == GOVERNANCE and bypass):
        raise _denied(f"retained in {lock.mode} mode until {iso_date(lock.until)}")


def is_retained(lock: Lock, now: float) -> bool:
    return bool(lock.mode) and lock.until > now


def takes_bypass(lock: Lock, now: float) -> bool:
    """Is it nothing but a bypass that lets a removal through? Such are audited."""
    return lock.mode == GOVERNANCE and is_retained(lock, now) and not lock.hold


def is_weaker(old: Lock, new: Lock, now: float) -> bool:
    """Does only a bypass let `new` be in the place of `old`, which lasts? It ends earlier, or is of another mode."""
    longer = new.mode == old.mode and new.until >= old.until
    return old.mode == GOVERNANCE and is_retained(old, now) and not longer


# -- answers --------------------------------------------------------------------------------------


def headers_of(lock: Lock) -> dict[str, str]:
    """What GET and HEAD tell of a lock, past ones included, as S3 does."""
    found = {MODE: lock.mode, UNTIL: iso_date(lock.until)} if lock.mode else {}
    return found if lock.hold is None else found | {HOLD: "ON" if lock.hold else "OFF"}


def retention_of(lock: Lock) -> Lock:
    """Of GetObjectRetention. Raises NoSuchObjectLockConfiguration where there is none."""
    if not lock.mode:
        raise S3Error.of("NoSuchObjectLockConfiguration")
    return lock


def hold_of(lock: Lock) -> bool:
    """Of GetObjectLegalHold: whether it is on. Raises NoSuchObjectLockConfiguration where none was ever set."""
    if lock.hold is None:
        raise S3Error.of("NoSuchObjectLockConfiguration")
    return lock.hold


def no_configuration() -> S3Error:
    return S3Error.of("InvalidRequest", "The bucket has no object lock configuration.")


def _future(text: str, name: str, now: float) -> float:
    until = read_iso_date(text)
    if until is None:
        raise S3Error.argument(name, text, "must be a date of ISO 8601")
    if until <= now:
        raise S3Error.argument(name, text, "must lie in the future")
    return until


def _denied(why: str) -> S3Error:
    return S3Error.of("AccessDenied", f"The version is {why}.")
