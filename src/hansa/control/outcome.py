"""What a reconciler may answer, and how a condition is written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hansa.dates import rfc3339
from hansa.kinds.reasons import REASONS, is_terminal
from hansa.kinds.resource import AnyResource, Condition, Document, Status
from hansa.store.port import Write

WAIT_S = 5.0
FAILED_AGAIN_S = 30.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer of one pass.

    `status` None: nothing to say. `again_in_s` None: at rest until something changes. `also` is committed
    together with the status. `wake` True: others read something of this status that changed (a changed
    `Ready` wakes them anyway). `expect_s`: it should be Ready so many seconds after its last change; later
    the condition's message says so. `gone`: cleaned up, the object may be forgotten.
    """

    status: Status | None = None
    again_in_s: float | None = None
    also: tuple[Write, ...] = ()
    wake: bool = False
    expect_s: float | None = None
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why something cannot go on. Looked at again after `again_in_s`; None: when what it points at changes."""

    reason: str
    message: str
    again_in_s: float | None = None


def waiting_for(it: AnyResource) -> Trouble:
    """What is said of an object that needs `it` and finds it not Ready: the end, where that can never be. Of what
    waits itself only that: a message names one link of a chain."""
    ready = it.status.condition("Ready")
    reason, message = ("Creating", "") if ready is None else (ready.reason, ready.message)
    if it.deleting:
        reason, message = "Deleting", ""
    elif ready is not None and ready.status == "True":
        reason, message = "Updating", ""
    if reason == "WaitingForReference":
        message = ""
    said = f"{it.kind.lower()} {it.name} is not ready: {reason}" + (f" ({message})" if message else "")
    if is_terminal(reason):
        return Trouble("ProvisioningFailed", said, FAILED_AGAIN_S)
    return Trouble("WaitingForReference", said, WAIT_S)


def condition(
    type: str, status: bool, reason: str, message: str = "", *, before: Iterable[Condition], generation: int, now: float
) -> Condition:
    """A condition whose transition time moves only when its status does."""
    assert reason in REASONS, f"{reason} is not in kinds.reasons"
    old = next((c for c in before if c.type == type), None)
    word = "True" if status else "False"
    since = old.last_transition_time if old is not None and old.status == word else rfc3339(now)
    return Condition(
        type=type,
        status=word,
        reason=reason,
        message=message,
        last_transition_time=since,
        observed_generation=generation,
    )


def conditions(
    it: AnyResource, now: float, ready: bool, reason: str, message: str = "", *others: tuple[str, bool, str, str]
) -> tuple[Condition, ...]:
    """`Ready` and any others of an object, as its status wants them."""
    wanted = (("Ready", ready, reason, message), *others)
    before = it.status.conditions
    return tuple(condition(t, s, r, m, before=before, generation=it.generation, now=now) for t, s, r, m in wanted)


def born_ready(now: float, **status: object) -> Document:
    """The status document of something that is Ready from its first moment."""
    ready = Condition(
        type="Ready", status="True", reason="Available", last_transition_time=rfc3339(now), observed_generation=1
    )
    return {"conditions": [ready.wire()], **status}


def born_waiting(now: float, reason: str = "Creating", message: str = "", **status: object) -> Document:
    """The status document of something that has work ahead."""
    ready = Condition(
        type="Ready",
        status="False",
        reason=reason,
        message=message,
        last_transition_time=rfc3339(now),
        observed_generation=1,
    )
    return {"conditions": [ready.wire()], **status}
