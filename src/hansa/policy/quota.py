"""Limits of organisations and projects: which hold, what is short of them, in words. Pure.

The amounts themselves are claims of the store, taken in the commit of what they are for; here is only arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping

from hansa.errors import Full, Shortfall
from hansa.kinds.quotas import COUNT_MAX, SIZES, Quotas
from hansa.units import human_size

PREFIX = "quotas/"
NONE: Mapping[str, int] = {}


def organization_scope(organization: str) -> str:
    """Where the claims of an organisation's quota are: keys are quantities."""
    return f"{PREFIX}organizations/{organization}"


def project_scope(project: str) -> str:
    return f"{PREFIX}projects/{project}"


def effective(own: Quotas | None, defaults: Mapping[str, int]) -> dict[str, int]:
    """The limits that hold, by quantity: those that were set, else the defaults. Absent: no limit."""
    if own is None:
        return dict(defaults)
    return {path: limit for path, limit in {**defaults, **own.limits()}.items() if path not in own.off()}


def raised(old: Mapping[str, int], new: Mapping[str, int]) -> list[str]:
    """The quantities of which `new` allows more than `old`, in order."""
    return sorted(path for path in old if path not in new or new[path] > old[path])


def short_of(
    asked: Mapping[str, int], used: Mapping[str, int], limits: Mapping[str, int], mine: Mapping[str, int] = NONE
) -> dict[str, Shortfall]:
    """What does not fit, by quantity. `used` counts in what one holds already (`mine`); taking less always fits."""
    found = {}
    for path, amount in sorted(asked.items()):
        more, held = amount - mine.get(path, 0), used.get(path, 0)
        if more > 0 and path in limits and held + more > limits[path]:
            found[path] = Shortfall(limits[path], held, more)
    return found


# -- in words -----------------------------------------------------------------------------------


def is_quota(full: Full) -> bool:
    return full.short is not None and full.scope.startswith(PREFIX)


def spent(scope: str, path: str, short: Shortfall) -> Full:
    """The refusal that a user reads, with its figures for programs."""
    whose = owner_of(scope)
    full = Full(scope, path, f"QuotaExceeded: {said(whose, path, short)}", short=short)
    full.details |= {
        "quota": path, "of": whose, "limit": short.limit, "used": short.used, "asked": short.asked,
        "unit": "bytes" if path in SIZES else "count",
    }  # fmt: skip
    return full


def said(whose: str, path: str, short: Shortfall) -> str:
    limit, used, asked = (amount_text(path, n) for n in (short.limit, short.used, short.asked))
    return f"{path} of {whose}: limit {limit}, used {used}, asked {asked}; {helps(whose)}"


def helps(whose: str) -> str:
    """What would help, and who can do it."""
    if whose.startswith("project "):
        return "delete what is not needed, or ask an owner of the organisation to raise it with `hansa quota set`"
    return "delete what is not needed in any of its projects, or ask the operator of this cloud to raise it"


def owner_of(scope: str) -> str:
    """`project demo`, `organization 0b6c…`, from the scope of a claim."""
    kind, _, name = scope.removeprefix(PREFIX).partition("/")
    return f"{kind.removesuffix('s')} {name}"


def amount_text(path: str, amount: int) -> str:
    if path in SIZES:
        return human_size(amount) if amount else "0 GB"
    return "no limit" if amount >= COUNT_MAX else str(amount)
