"""Every error of ours, one tree.

HansaError                      http   who acts             the loop
├── Invalid        field, why   400    the user             -
│   └── Unprocessable           422    the user             -
├── Unauthenticated             401    the user             -
├── Forbidden                   403    the user, an owner   -
├── NotFound       key          404    the user             drop the row
│   └── Hidden                  404    the user, an owner   -
├── Conflict                    409    the client: reread   again now
│   ├── AlreadyExists           409    the user             -
│   └── InUse                   409    the user             -
├── Full           claim        403    the user, an owner   place again
├── Exhausted                   429    wait                 again after
├── Refused        reason       422    change the spec      wait for a new generation
├── Unbuilt                     501    nobody yet           -
├── Retry          after_s      503    nobody               back off
└── Bug                         500    us                   back off, count

A driver turns its library's exceptions into `Retry` or `Refused` at the border, cause chained.
`message` is for the user, `detail` for the operator's log. Nobody reads an exception's text.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldError:
    """One wrong field: its path in the document and the rule it breaks."""

    path: str
    message: str


@dataclass(frozen=True, slots=True)
class Shortfall:
    """Why an amount does not fit: the limit, what is in use, what was asked on top."""

    limit: int
    used: int
    asked: int


class HansaError(Exception):
    """The root. `status` is the HTTP status, `reason` the stable code of the error body.

    `details` are more members of the error body, for programs: the figures of a spent quota, the decision's id.
    """

    status = 500
    reason = "Internal"

    def __init__(self, message: str, *, detail: str = "", fields: tuple[FieldError, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.fields = fields
        self.details: dict[str, object] = {}


class Invalid(HansaError):
    """A field breaks a rule: `Invalid.field("spec.diskSize", "may not shrink …")`."""

    status = 400
    reason = "FieldValueInvalid"

    @classmethod
    def field(cls, path: str, message: str) -> Invalid:
        return cls(f"{path}: {message}", fields=(FieldError(path, message),))


class Unprocessable(Invalid):
    status = 422


class ImmutableField(Unprocessable):
    reason = "ImmutableField"


class Unauthenticated(HansaError):
    status = 401
    reason = "Unauthorized"


class Forbidden(HansaError):
    status = 403
    reason = "Forbidden"


class NotFound(HansaError):
    status = 404
    reason = "NotFound"


class Hidden(NotFound):
    """It may be there or not: who asks has no role there, and is told what they would be told of nothing."""


class MethodNotAllowed(HansaError):
    status = 405
    reason = "MethodNotAllowed"


class Conflict(HansaError):
    status = 409
    reason = "Conflict"


class AlreadyExists(Conflict):
    reason = "AlreadyExists"


class InUse(Conflict):
    reason = "InUse"


class TooLarge(HansaError):
    status = 413
    reason = "TooLarge"


class Gone(HansaError):
    """A watch asks for changes that are no longer kept."""

    status = 410
    reason = "Gone"


class Full(HansaError):
    """A claim does not fit under its ceiling, or its single key is taken. `scope` and `key` name it."""

    status = 403
    reason = "QuotaExceeded"

    def __init__(
        self, scope: str, key: str, message: str = "", *, owner: str = "", short: Shortfall | None = None
    ) -> None:
        super().__init__(message or f"{scope} {key} is taken")
        self.scope = scope
        self.key = key
        self.owner = owner  # uid of who holds a single key, empty for an amount
        self.short = short  # of a counted claim


class Exhausted(HansaError):
    status = 429
    reason = "TooManyRequests"

    def __init__(self, message: str, *, after_s: float = 1.0) -> None:
        super().__init__(message)
        self.after_s = after_s


class Refused(HansaError):
    """The world says no to this spec and will go on saying no. `why` is a reason of `kinds.reasons`."""

    status = 422
    reason = "Refused"

    def __init__(self, why: str, message: str, *, detail: str = "") -> None:
        super().__init__(message, detail=detail)
        self.why = why


class Unbuilt(HansaError):
    status = 501
    reason = "NotImplemented"


class Retry(HansaError):
    """Not now. The loop backs off; an HTTP client sees 503."""

    status = 503
    reason = "Unavailable"

    def __init__(self, message: str, *, after_s: float | None = None, detail: str = "") -> None:
        super().__init__(message, detail=detail)
        self.after_s = after_s


class Bug(HansaError):
    """What cannot be. Ours to mend."""
