"""What `why` makes of a history, and which line helps. Pure."""

from __future__ import annotations

from typing import Any

from hansa.api.why import ATTEMPTS_SHOWN, NO_TAKER, attempts_in, helps_of
from hansa.kinds.resource import Key, Stored
from hansa.store.port import Change, Due

KEY = Key("Disk", "projects/p/regions/r", "d")


def change(revision: int, reason: str, message: str = "", uid: str = "u", act: str = "status") -> Change:
    ready = {"type": "Ready", "status": "False", "reason": reason, "message": message,
             "lastTransitionTime": "2026-11-26T00:00:00Z"}  # fmt: skip
    stored = Stored(KEY, uid, 0.0, status={"conditions": [ready]})
    return Change(revision, float(revision), KEY, uid, act, "/hansa/loop", "q", stored)


def test_attempts_say_each_thing_once() -> None:
    history = [change(1, "Creating"), change(2, "EngineNotAnswering", "no"), change(3, "EngineNotAnswering", "no"),
               change(4, "Creating", uid="other"), change(5, "Creating", act="update")]  # fmt: skip
    found = attempts_in(history, "u")
    assert [(a["reason"], a["times"]) for a in found] == [("Creating", 1), ("EngineNotAnswering", 2)]
    assert found[1]["at"] < found[1]["last"]
    many: list[Any] = [change(n, "Creating", str(n)) for n in range(50)]
    assert [a["message"] for a in attempts_in(many, "u")] == [str(n) for n in range(50 - ATTEMPTS_SHOWN, 50)]


def test_what_helps_is_said_once_and_trouble_with_the_loop_first() -> None:
    causes = [{"helps": "a"}, {"helps": ""}, {"helps": "b"}, {"helps": "a"}]
    assert helps_of(causes, None, 0.0) == ["a", "b"]
    assert helps_of(causes, Due(0.0, 0.0, 0), 100.0)[0] == NO_TAKER
    assert helps_of([], Due(0.0, 150.0, 0), 100.0) == []  # somebody has it in hand
    assert helps_of([], Due(90.0, 0.0, 0), 100.0) == [] == helps_of([], Due(None, 0.0, 0), 100.0)
