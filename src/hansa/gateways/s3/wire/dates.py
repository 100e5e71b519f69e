"""Moments in the three spellings that S3 uses: HTTP dates in headers, ISO dates in bodies, basic ISO in signatures.

Moments are epoch seconds; HTTP dates know whole seconds only. Readers return None for what is no date, and for one that
no writer could spell again (of year 10000, by its zone): what that means (a condition is passed over, a field is refused)
is for the caller to say.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import lru_cache

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BASIC = re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2})T([0-9]{2})([0-9]{2})([0-9]{2})Z")
_ISO = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}(:[0-9]{2}([.][0-9]{1,9})?)?(Z|[+-][0-9]{2}:?[0-9]{2})?)?"
)
_HTTP_LENGTH_MAX = 64
_BASIC_LENGTH = 16
_FIRST, _PAST = -62_135_596_800.0, 253_402_300_800.0  # the beginning of year 1, the end of year 9999


def http_date(at: float) -> str:
    """`Thu, 26 Nov 2026 21:00:00 GMT`; fractions of a second are cut off."""
    return _http_date(int(at))


def read_http_date(text: str) -> float | None:
    """Any of the forms that HTTP allows; a moment without a zone is UTC."""
    if len(text) > _HTTP_LENGTH_MAX:
        return None
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return _spelled(moment)


def iso_date(at: float) -> str:
    """`2026-11-26T21:00:00.000Z`, milliseconds cut off as in every body of ours."""
    second, rest = divmod(round(at * 1e6), 1_000_000)
    return f"{_iso_second(second)}.{rest // 1000:03d}Z"


def read_iso_date(text: str) -> float | None:
    """A date, or a date and time, with or without fraction and zone (none: UTC)."""
    if not _ISO.fullmatch(text):
        return None
    try:
        return _spelled(datetime.fromisoformat(text))
    except (ValueError, OverflowError):
        return None


def basic_date(at: float) -> str:
    """`20261126T210000Z`, as signatures carry it."""
    return _moment(int(at)).strftime("%Y%m%dT%H%M%SZ")


def read_basic_date(text: str) -> float | None:
    """Of such a length only is anything remembered: strangers send these."""
    return _basic_date(text) if len(text) == _BASIC_LENGTH else None


@lru_cache(maxsize=1024)
def _basic_date(text: str) -> float | None:
    found = _BASIC.fullmatch(text)
    if found is None:
        return None
    year, month, day, hour, minute, second = map(int, found.groups())
    try:
        return _seconds(datetime(year, month, day, hour, minute, second, tzinfo=UTC))
    except ValueError:
        return None


def midnight_after(at: float) -> float:
    """The first midnight (UTC) at or after a moment."""
    day = _moment(at).date()
    start = _midnight(day)
    return start if start == at else _midnight(day + timedelta(days=1))


def _midnight(day: date) -> float:
    return _seconds(datetime(day.year, day.month, day.day, tzinfo=UTC))


def _moment(at: float) -> datetime:
    return _EPOCH + timedelta(seconds=at)


def _spelled(moment: datetime) -> float | None:
    """A moment that was read; None where its zone, or rounding, takes it out of the years that can be written."""
    at = _seconds(moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))
    return at if _FIRST <= at < _PAST else None


def _seconds(moment: datetime) -> float:
    """Exact to the microsecond, for years that a timestamp of the system may not reach."""
    return (moment - _EPOCH) / timedelta(seconds=1)


@lru_cache(maxsize=1024)
def _http_date(at: int) -> str:
    moment = _moment(at)
    return (
        f"{_DAYS[moment.weekday()]}, {moment.day:02d} {_MONTHS[moment.month - 1]} {moment.year:04d} "
        f"{moment.hour:02d}:{moment.minute:02d}:{moment.second:02d} GMT"
    )


@lru_cache(maxsize=4096)
def _iso_second(at: int) -> str:
    return _moment(at).isoformat()[:19]
