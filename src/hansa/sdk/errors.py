"""What the SDK raises: the tree of `hansa.errors`, and four that only a client can meet.

An answer of the server becomes the class of its status (and of its reason, where the tree knows it), with
the server's own reason, the wrong fields, the request id in `detail`, and where help stands as a note.
"""

from __future__ import annotations

from typing import Any

from hansa import errors
from hansa.errors import FieldError, HansaError, Retry

_BY_REASON: dict[str, type[HansaError]] = {
    kind.reason: kind for kind in (errors.AlreadyExists, errors.InUse, errors.ImmutableField)
}
_BY_STATUS: dict[int, type[HansaError]] = {
    kind.status: kind
    for kind in (
        errors.Invalid,
        errors.Unauthenticated,
        errors.Forbidden,
        errors.NotFound,
        errors.MethodNotAllowed,
        errors.Conflict,
        errors.Gone,
        errors.TooLarge,
        errors.Unprocessable,
        errors.Exhausted,
        errors.Unbuilt,
        errors.Retry,
    )
}


class Unclear(HansaError):
    """It is not said which cloud, kind or object is meant."""

    status = 400
    reason = "Unclear"


class Unreachable(Retry):
    """No answer came: nothing listens, or the connection broke more often than is tried again."""

    reason = "Unreachable"


class TimedOut(HansaError):
    """The time given for a wait is over. `message` holds what was seen last."""

    status = 504
    reason = "TimedOut"


class Ended(HansaError):
    """A wait that cannot come true: the object is in a terminal state. `why` is its reason."""

    reason = "Ended"

    def __init__(self, why: str, message: str) -> None:
        super().__init__(message)
        self.why = why


def of_answer(status: int, body: Any, what: str) -> HansaError:
    """The error that an answer stands for. `what` is the request, for answers that are not of our form."""
    document = body if isinstance(body, dict) else {}
    reason = str(document.get("reason") or "")
    kind = _BY_REASON.get(reason) or _BY_STATUS.get(status) or HansaError
    message = str(document.get("debug") or reason or f"{what}: the server answered {status}")
    fields = tuple(
        FieldError(str(f.get("path", "")), str(f.get("message", "")))
        for f in document.get("fields") or ()
        if isinstance(f, dict)
    )
    error = kind(message)
    error.status, error.reason, error.fields = status, reason or kind.reason, fields
    error.detail = f"request {document['request']}" if document.get("request") else ""
    if document.get("help"):
        error.add_note(str(document["help"]))
    details = document.get("details")
    error.details = details if isinstance(details, dict) else {}
    if error.details.get("decision"):
        error.add_note(f"hansa why decision/{error.details['decision']}")
    return error
